import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from load_tests.benchmark import writing
from load_tests.benchmark.__main__ import main
from load_tests.benchmark.load import Load
from load_tests.benchmark.results import Report
from load_tests.benchmark.servers import SERVERS
from load_tests.benchmark.tables import markdown, quietness, tables
from load_tests.benchmark.terminal import Terminal
from tests.load_tests.benchmark.reports import met_everywhere, report, sample

PNG = b"\x89PNG"


def test_all_reports_are_written(tmp_path: Path) -> None:
    written = writing.write(met_everywhere(), tmp_path)
    assert {path.name for path in written} == {f"benchmark.{kind}" for kind in ("html", "png", "md", "json")}
    assert (tmp_path / "benchmark.png").read_bytes().startswith(PNG)
    page = (tmp_path / "benchmark.html").read_text()
    for server in SERVERS:
        assert server.title in page
    assert page.count('class="met"') == 15
    assert "missed" not in page.partition("</style>")[2]
    assert Report.model_validate_json((tmp_path / "benchmark.json").read_bytes()) == met_everywhere()


def test_an_invalid_measure_is_told_and_not_drawn(tmp_path: Path) -> None:
    found = report([sample("ours", 3000), sample("bentoml", 9999, refused=12)])
    writing.write(found, tmp_path)
    page = (tmp_path / "benchmark.html").read_text()
    assert "invalid: 12 of 9999 answers were no success" in page
    assert "9,999" not in page


def test_an_invalid_measure_of_rows_has_its_reason() -> None:
    found = report([sample("ours", 90, connections=16, rows=1000, refused=40)])
    (rows,) = (table for table in tables(found) if table.title.startswith("Rows/s"))
    assert rows.rows[0][-1] == "invalid"
    assert "1,000 rows: 40 of 90 answers were no success" in rows.note


def test_a_report_of_nothing_can_be_drawn(tmp_path: Path) -> None:
    writing.write(report([]), tmp_path)
    assert (tmp_path / "benchmark.png").read_bytes().startswith(PNG)


def test_a_table_for_the_readme() -> None:
    speed, *_ = tables(report([sample("ours", 6000), sample("mlserver", 1500)]))
    lines = markdown(speed).partition("\n\n")[0].splitlines()
    assert lines[0].startswith("|  | requests/s |")
    assert "| MLServer · REST | 1,500 | ± 0% | 4.0 × |" in "\n".join(lines)
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


@pytest.mark.parametrize(("cores", "busy"), [(0.05, False), (0.9, True)])
def test_a_busy_machine_is_told(cores: float, busy: bool) -> None:
    text = quietness(report([sample("ours", others_cores=cores)]))
    assert f"{cores:.2f} of 2 cores" in text
    assert ("run it again" in text) is busy


def test_the_terminal_shows_every_line_and_target() -> None:
    output = io.StringIO()
    Terminal(Console(file=output, width=220)).report(met_everywhere())
    text = output.getvalue()
    for server in SERVERS:
        assert server.title in text
    assert text.count("│ met ") == 15


def test_an_earlier_run_is_rendered_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = tmp_path / "earlier.json"
    earlier.write_text(met_everywhere().model_dump_json())
    assert main(["--render", str(earlier), "--output", str(tmp_path / "new")]) == 0
    assert json.loads((tmp_path / "new" / "benchmark.json").read_text())["model"] == "housing:test"
    assert "benchmark.html" in capsys.readouterr().out


def test_figures_that_are_no_number_are_refused() -> None:
    with pytest.raises(ValueError, match="requests"):
        Load.model_validate({"requests": "many"})
