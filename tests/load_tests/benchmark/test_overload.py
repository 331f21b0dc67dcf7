"""The benchmark of overload: how its log is read, and a short run."""

from pathlib import Path

import pytest

from load_tests.benchmark import overload
from load_tests.errors import LoadTestError


def test_the_log_is_read_by_status_without_its_first_quarter(tmp_path: Path) -> None:
    log = tmp_path / "h2load.log"
    log.write_text("1000000\t200\t9000\n2000000\t200\t1000\n2500000\t429\t500\n3000000\t200\t3000\n4000000\t503\t7\n")
    found = overload.read(log, 4)
    assert found.rate(200) == pytest.approx(2 / 3)
    assert found.percentile(200, 100) == "3 ms"
    assert found.percentile(404, 50) == "—"
    assert found.others == "1 × 503"


def test_no_answer_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "h2load.log").touch()
    with pytest.raises(LoadTestError, match="no answer at all"):
        overload.read(tmp_path / "h2load.log", 4)


@pytest.mark.integration
@pytest.mark.weekly
@pytest.mark.usefixtures("deployed")
def test_a_short_run_has_a_figure_for_each_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "FACTORS", (3,))
    monkeypatch.setattr(overload, "BATCH_CALLERS", (4,))
    monkeypatch.setattr(overload, "CONNECTIONS", 256)
    said: list[str] = []
    overload.measure(1, 2, said.append)
    http, grpc, beside = said
    for table, lines in ((http, 3), (grpc, 2), (beside, 1)):
        figures = [line.split("|")[2].strip() for line in table.splitlines() if line.startswith("|")][2:]
        assert len(figures) == lines
        assert all(float(figure.replace(",", "")) > 0 for figure in figures), table
