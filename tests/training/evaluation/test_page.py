from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from contract.dataset import Dataset, Target
from tests.training.tiny_models import PEBBLES, PLOTS, PlotRow, card
from training.evaluation import plots
from training.evaluation.gate import Decision
from training.evaluation.page import Evaluation, render
from training.evaluation.plots import Figure
from training.evaluation.scores import by_class
from training.evaluation.stability import Stability
from training.params import ChangeParams, StabilityParams
from training.tracking import RegisteredModel


class Page(HTMLParser):
    """What a page holds: its tags with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags for key, value in attributes.items() if key == name and value]

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.tags)


STABILITY = Stability(
    change=0.01,
    float32=0.0005,
    perturbed={"size": 0.25, "latitude": 0.0, "longitude": 0.0},
    params=StabilityParams(
        change=ChangeParams(regression=0.001, classification=0.001),
        perturbation=1e-6,
        float32_limit=0.001,
        perturbed_limit=0.002,
    ),
)


def version(number: str) -> RegisteredModel:
    return RegisteredModel(PLOTS.name, number, f"run-{number}", f"models:/plots/{number}")


def figure(directory: Path) -> Figure:
    return plots.importances(PLOTS, np.array([[3.0], [1.0], [2.0]]), directory, metric="rmse", rows=24)


def evaluation(directory: Path, dataset: Dataset = PLOTS, former: str | None = "1") -> Evaluation:
    scores = {"rmse": 1.0, "r2": 0.5, "within_20_percent": 0.25}
    return Evaluation(
        dataset=dataset,
        card=card(dataset),
        challenger=version("2"),
        scores=scores,
        stability=STABILITY,
        former=version(former) if former else None,
        former_scores={"rmse": 2.0, "r2": 0.5, "within_20_percent": 0.5} if former else None,
        champion=version("2"),
        champion_scores=scores,
        decision=Decision(promoted=True, reason="Version 2 becomes the champion."),
        test_rows=24,
        metric="rmse",
        baseline={"rmse": 4.0, "r2": 0.0, "within_20_percent": 0.125},
        figures=[figure(directory)],
    )


def test_page_needs_no_other_file(tmp_path: Path) -> None:
    html = render([evaluation(tmp_path)])
    page = Page(html)

    assert page.count("script") == page.count("link") == 0
    assert all(source.startswith("data:image/png;base64,") for source in page.attributes("src"))
    assert all(target.startswith("#") for target in page.attributes("href"))
    assert "@import" not in html
    assert "url(" not in html


def test_contents_lead_somewhere(tmp_path: Path) -> None:
    page = Page(render([evaluation(tmp_path)]))

    identifiers = page.attributes("id")
    assert len(set(identifiers)) == len(identifiers)
    assert {target.removeprefix("#") for target in page.attributes("href")} <= set(identifiers)
    assert set(page.attributes("aria-labelledby")) <= set(identifiers)


def test_page_has_every_figure_with_its_words(tmp_path: Path) -> None:
    shown = evaluation(tmp_path)
    page = Page(render([shown]))

    assert page.count("img") == page.count("figure") == 1
    assert page.attributes("alt") == [shown.figures[0].alt]
    for words in (shown.figures[0].title, shown.figures[0].shows, shown.figures[0].reading):
        assert words in page.text


def test_candidates_stand_in_order_of_the_gates_score(tmp_path: Path) -> None:
    compared = {"ridge": {"r2": (0.4, 0.1), "rmse": (1.5, 0.25)}, "linear": {"r2": (0.5, 0.1), "rmse": (1.25, 0.5)}}
    text = " ".join(Page(render([replace(evaluation(tmp_path), candidates=compared)])).text.split())

    assert "Candidate RMSE R² linear chosen 1.2500 ± 0.5000 0.5000 ± 0.1000 ridge 1.5000 ± 0.2500" in text
    assert "Candidates" not in Page(render([evaluation(tmp_path)])).text


def test_classes_have_precision_and_recall(tmp_path: Path) -> None:
    classes = by_class(PEBBLES, np.array([0.0, 0, 1]), np.eye(3)[[0, 1, 1]])
    text = " ".join(Page(render([replace(evaluation(tmp_path), classes=classes)])).text.split())

    assert "flint 2 1 100.0 % 50.0 % 66.7 % quartz 1 2 50.0 % 100.0 % 66.7 % slate 0 0 – – 0.0 %" in text


@pytest.mark.parametrize(("rmse", "naive"), [(3.9, False), (4.0, True), (4.1, True)])
def test_model_is_compared_with_a_naive_answer(tmp_path: Path, rmse: float, naive: bool) -> None:
    shown = replace(evaluation(tmp_path), scores={"rmse": rmse, "r2": 0.5, "within_20_percent": 0.25})
    assert "Naive: the mean" in Page(render([shown])).text
    assert shown.is_naive is naive


def test_page_is_accessible(tmp_path: Path) -> None:
    page = Page(render([evaluation(tmp_path)]))

    assert ("html", {"lang": "en"}) in page.tags
    assert page.count("h1") == 1
    assert page.count("title") == 1
    assert any(attributes.get("name") == "viewport" for _, attributes in page.tags)
    assert all(attributes.get("scope") in {"row", "col"} for tag, attributes in page.tags if tag == "th")


def test_scores_stand_beside_the_champions(tmp_path: Path) -> None:
    text = " ".join(Page(render([evaluation(tmp_path)])).text.split())

    assert "Version 2 becomes the champion." in text
    assert "Challenger, version 2 Champion, version 1" in text
    assert (
        "RMSE (kEUR) root mean squared error: large misses weigh most 1.0000 2.0000 better by 50.00 % 4.0000 0.75"
        in text
    )
    assert "R² share of the target's variance that the model explains 0.5000 0.5000 equal" in text
    assert "0.2500 0.5000 worse by 50.00 %" in text


@pytest.mark.parametrize("former", [None, "2"])
def test_without_another_champion_one_column_is_enough(tmp_path: Path, former: str | None) -> None:
    text = " ".join(Page(render([evaluation(tmp_path, former=former)])).text.split())

    assert "Version 2" in text
    assert "Challenger" not in text


def test_model_card_is_told(tmp_path: Path) -> None:
    text = " ".join(Page(render([evaluation(tmp_path)])).text.split())

    facts = ("linear", "alpha = 1.0", card(PLOTS).content_version, "c0ffee", "96 to train, 24 to test", "1e-09")
    for fact in facts:
        assert fact in text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>&amp;'
    hostile = evaluation(tmp_path, Dataset("plots", evil, PlotRow, Target(evil, evil, evil)))
    hostile = replace(
        hostile,
        card=card(hostile.dataset, algorithm=evil),
        decision=Decision(promoted=False, reason=evil),
        figures=[replace(hostile.figures[0], title=evil, alt=evil, shows=evil, reading=evil)],
    )

    page = Page(render([hostile]))

    assert page.count("script") == 0
    assert page.attributes("alt") == [evil]
    assert page.text.count(evil) >= 6


def test_equal_evaluations_give_equal_pages(tmp_path: Path) -> None:
    assert render([evaluation(tmp_path)]) == render([evaluation(tmp_path)])


def test_stability_of_each_feature_is_shown_with_its_limit(tmp_path: Path) -> None:
    text = " ".join(Page(render([evaluation(tmp_path)])).text.split())

    assert "changes by more than 0.01 (kEUR)" in text
    assert "all numbers rounded to float32 0.05 % 0.1 % within" in text
    assert "size 0.0001 % larger or smaller 25 % 0.2 % over the limit" in text
    assert "latitude 0.0001 % larger or smaller 0 % 0.2 % within" in text
