import csv
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from model.session import Artifact
from tests.training.tiny_models import PEBBLES, PEBBLES_WEIGHTS, PLOTS, PLOTS_WEIGHTS, splits, write_model
from training.evaluation import classification_plots, plots, regression_plots
from training.evaluation.classification_plots import Answers
from training.evaluation.diagnostics import LearningCurve
from training.evaluation.plots import Figure
from training.evaluation.residual_map import residual_map

Draw = Callable[[Path], list[Figure]]
Drawn = dict[str, list[Figure]]
CURVE = LearningCurve(
    np.array([10, 20, 40]), np.array([[1.0, 1.2], [1.4, 1.5], [1.6, 1.6]]), np.array([[3.0, 3.3], [2.4, 2.5], [2, 2.1]])
)


def land(directory: Path) -> list[Figure]:
    rows = splits(PLOTS)
    test = rows.test
    predicted = Artifact.read(write_model(directory / "model", PLOTS, PLOTS_WEIGHTS)).predict(test.features)
    return [
        regression_plots.predicted_against_actual(PLOTS, test.target, predicted, directory, cutoff=90.0, points=10),
        regression_plots.residuals(PLOTS, test.target, predicted, directory, bins=12),
        regression_plots.calibration(PLOTS, test.target, predicted, directory, bins=4),
        residual_map(
            PLOTS,
            test.features[:, 1:],
            test.target - predicted,
            rows.all.features[:, 1:],
            {"Kassel": (51.3, 9.5), "Paris": (48.9, 2.4)},
            directory,
            cells=4,
            minimum_rows=1,
        ),
        plots.importances(PLOTS, np.array([[3.0, 3.5], [0.1, -0.1], [1, 1]]), directory, metric="rmse", rows=24),
        plots.learning_curve(PLOTS, CURVE, directory, metric="rmse"),
    ]


def pebbles(directory: Path) -> list[Figure]:
    rows = splits(PEBBLES)
    model = Artifact.read(write_model(directory / "model", PEBBLES, PEBBLES_WEIGHTS))
    panels = [
        Answers("test split", rows.test.target, model.predict(rows.test.features)),
        Answers("cross-validated", rows.all.target, model.predict(rows.all.features)),
    ]
    return [
        classification_plots.confusion(PEBBLES, panels, directory),
        classification_plots.reliability(PEBBLES, panels[-1], directory, bins=5),
        plots.importances(PEBBLES, np.array([[1.0, 2], [0, 0]]), directory, metric="log_loss", rows=24),
        plots.learning_curve(PEBBLES, CURVE, directory, metric="log_loss"),
    ]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """Every figure once, for the tests that only look."""
    return {"land": land(tmp_path_factory.mktemp("land")), "pebbles": pebbles(tmp_path_factory.mktemp("pebbles"))}


def table(figure: Figure) -> list[dict[str, str]]:
    with figure.data.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["land", "pebbles"])
def test_every_figure_is_an_image_its_numbers_and_its_words(drawn: Drawn, name: str) -> None:
    figures = drawn[name]

    assert len({figure.slug for figure in figures}) == len(figures)
    for figure in figures:
        pixels = imread(figure.image)
        assert pixels.shape[1] == plots.WIDTH * 150, figure.slug
        assert pixels[..., :3].std() > 0.03, f"{figure.slug} is blank"
        assert len(table(figure)) >= 2
        for words in (figure.title, figure.alt, figure.shows, figure.reading):
            assert len(words) > 5


@pytest.mark.parametrize("draw", [land, pebbles])
def test_equal_inputs_give_equal_bytes(draw: Draw, drawn: Drawn, tmp_path: Path) -> None:
    for one, other in zip(draw(tmp_path), drawn[draw.__name__], strict=True):
        assert one.image.read_bytes() == other.image.read_bytes(), one.slug
        assert one.data.read_bytes() == other.data.read_bytes(), one.slug


def test_style_stays_inside(tmp_path: Path) -> None:
    before = mpl.rcParams["font.size"]

    with plots.canvas(tmp_path / "figure.png", 2):
        assert mpl.rcParams["font.size"] != before

    assert mpl.rcParams["font.size"] == before


def test_a_figure_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), plots.canvas(tmp_path / "figure.png", 2):
        raise ZeroDivisionError

    assert list(tmp_path.iterdir()) == []


def test_scatter_keeps_no_more_rows_than_asked(drawn: Drawn) -> None:
    assert len(table(drawn["land"][0])) == 10


def test_cutoff_is_told_where_there_is_one(drawn: Drawn, tmp_path: Path) -> None:
    values = np.arange(10.0)

    without = regression_plots.predicted_against_actual(PLOTS, values, values, tmp_path, cutoff=None, points=10)

    assert "cut-off of 90" in drawn["land"][0].shows
    assert "cut-off" not in without.shows + without.reading


def test_residual_counts_add_up_to_the_test_rows(drawn: Drawn) -> None:
    assert sum(int(row["rows"]) for row in table(drawn["land"][1])) == 24


def test_residuals_of_a_model_without_error(tmp_path: Path) -> None:
    exact = np.arange(10.0)

    figure = regression_plots.residuals(PLOTS, exact, exact, tmp_path, bins=5)

    assert sum(int(row["rows"]) for row in table(figure)) == 10


def test_map_has_the_mean_residual_by_place(tmp_path: Path) -> None:
    position = np.array([[50.0, 6.0], [50.01, 6.01], [55.0, 15.0], [55.0, 15.0], [52.0, 9.0]])
    residual = np.array([1.0, 3.0, -2.0, -4.0, 9.0])

    figure = residual_map(PLOTS, position, residual, position, {}, tmp_path, cells=6, minimum_rows=2)

    rows = {round(float(row["latitude"])): row for row in table(figure)}
    assert {place: float(row["mean_residual"]) for place, row in rows.items()} == {50: 2.0, 55: -3.0}
    assert {row["rows"] for row in rows.values()} == {"2"}


def test_map_without_a_full_hexagon_is_drawn(tmp_path: Path) -> None:
    position = np.array([[50.0, 6.0], [55.0, 15.0]])

    figure = residual_map(PLOTS, position, np.ones(2), position, {}, tmp_path, cells=6, minimum_rows=2)

    assert figure.image.exists()
    assert table(figure) == []


def test_importances_are_sorted(drawn: Drawn) -> None:
    rows = table(drawn["land"][4])

    assert [row["feature"] for row in rows] == ["size", "longitude", "latitude"]
    assert float(rows[0]["importance"]) == 3.25


def test_confusion_has_a_row_for_each_answer(drawn: Drawn) -> None:
    rows = table(drawn["pebbles"][0])

    assert len(rows) == 120
    assert {row["actual"] for row in rows} == set(PEBBLES.target.classes)


def test_reliability_by_hand(tmp_path: Path) -> None:
    answers = Answers("test split", np.array([0.0, 1.0]), np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0]]))

    rows = table(classification_plots.reliability(PEBBLES, answers, tmp_path, bins=2))

    assert [float(row["observed"]) for row in rows] == [0.25, 0.5]
    assert [int(row["probabilities"]) for row in rows] == [4, 2]
    for row in rows:
        assert float(row["low"]) < float(row["observed"]) < float(row["high"])


@pytest.mark.parametrize(("names", "text"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")])
def test_lists_read_as_sentences(names: list[str], text: str) -> None:
    assert plots.listed(names) == text
