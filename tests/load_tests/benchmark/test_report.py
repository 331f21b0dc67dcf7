import json
import shutil
from pathlib import Path

import pytest

from load_tests.benchmark import batching_page, capacity, report
from load_tests.benchmark.__main__ import main
from load_tests.benchmark.plan import SERVERS
from load_tests.benchmark.result import Result, Sample
from tests.load_tests.benchmark.made_up import met_everywhere, result, sample

PUBLISHED = Result.model_validate_json(report.PUBLISHED.read_bytes())


@pytest.mark.parametrize(
    ("page", "name", "content", "command"),
    [
        (report.README, "benchmark", report.headline(PUBLISHED), "load_tests.benchmark --publish"),
        (report.PAGE, "benchmark", report.page(PUBLISHED), "load_tests.benchmark --publish"),
        (
            capacity.PAGE,
            "computed",
            capacity.text(capacity.costs(PUBLISHED), capacity.Assumptions()),
            "load_tests.benchmark --publish",
        ),
        (
            batching_page.PAGE,
            "measured",
            batching_page.text(batching_page.BatchingResult.model_validate_json(batching_page.MEASURED.read_bytes())),
            "load_tests.benchmark.batching --render",
        ),
    ],
    ids=["README", "benchmark", "capacity", "batching"],
)
def test_pages_show_the_published_results(page: Path, name: str, content: str, command: str) -> None:
    current = page.read_text()
    assert report.replace_section(current, name, content) == current, f"stale: run `python -m {command}`"


def test_a_new_result_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((report, "README"), (report, "PAGE"), (capacity, "PAGE"), (report, "PUBLISHED")):
        copy = tmp_path / getattr(module, name).name
        shutil.copy(getattr(module, name), copy)
        monkeypatch.setattr(module, name, copy)
    new = tmp_path / "new.json"
    new.write_text(result(sample("ours", 4000), sample("mlserver", 1000)).model_dump_json())
    assert main(["--publish", str(new)]) == 0
    assert "| MLServer · REST | 1,000 | ± 0% | 4.0 × | 1.000 |" in report.PAGE.read_text()
    assert "4,000 one-row requests a second on 2 cores: 4.0 times as many as MLServer" in report.README.read_text()
    assert "**1 row a request, /predict/housing: 0.25 CPU-ms" in capacity.PAGE.read_text()
    assert "samples" not in json.loads(report.PUBLISHED.read_text())


def test_what_is_no_result_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wrong.json").write_text('{"lines": 3}')
    assert main(["--publish", str(tmp_path / "wrong.json")]) == 1
    assert "lines" in capsys.readouterr().out


def test_a_page_without_the_section_is_refused() -> None:
    with pytest.raises(ValueError, match="computed: begin"):
        report.replace_section("# Capacity\n", "computed", "a table")


def test_the_report_has_every_server_and_target() -> None:
    text = report.markdown(met_everywhere())
    assert all(server.title in text for server in SERVERS)
    assert text.count("| met |") == 15
    assert "MISSED" not in text
    assert "| This service · /v2 binary | 1,000 | 10,000 | 100,000 |" in text


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (sample("bentoml", 9999, refused=12), "invalid: 12 of 9999 answers were no success"),
        (sample("ours", 90, connections=16, rows=1000, refused=40), "invalid: 40 of 90 answers were no success"),
        (sample("ours", 91, connections=1, refused=41), "invalid: 41 of 91 answers were no success"),
    ],
)
def test_an_invalid_measurement_is_told_with_its_reason(bad: Sample, reason: str) -> None:
    text = report.markdown(result(sample("ours", 3000), bad))
    assert reason in text
    assert "9,999" not in text


def test_a_result_of_nothing_has_a_report() -> None:
    assert "not measured" in report.markdown(result())


@pytest.mark.parametrize(("cores", "busy"), [(0.05, False), (0.9, True)])
def test_a_busy_machine_is_told(cores: float, busy: bool) -> None:
    text = report.markdown(result(sample("ours", others_cores=cores)))
    assert f"{cores:.2f} of 2 cores" in text
    assert ("run it again" in text) is busy
