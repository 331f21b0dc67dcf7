import pytest

from contract.errors import MonitoringError
from monitoring import terminal
from tests.monitoring.conftest import answering

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("PROMETHEUS_URL", raising=False)


def test_straight_from_the_service(
    service: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_URL", service)
    assert terminal.main(["--once", "--interval", "0.2"]) == 0
    shown = capsys.readouterr().out
    assert f"{service}/metrics" in shown
    assert "2 worker starts" in shown
    assert "only with PROMETHEUS_URL" in shown
    for row in (
        ["http", "/predict/iris"],
        ["iris", "v1", "logistic"],
        ["iris", "predictions"],
        ["petal_width", "out_of_range"],
    ):
        assert any(all(cell in line for cell in row) for line in shown.splitlines())


def test_from_prometheus_with_the_alerts_that_fire(
    prometheus: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROMETHEUS_URL", prometheus)
    monkeypatch.setenv("API_URL", NOBODY)
    assert terminal.main(["--once", "--interval", "0"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("NoTraffic: Silence.") == 1
    assert "2 worker starts" in shown


@pytest.mark.parametrize(
    ("variable", "hint"), [("API_URL", "make serve"), ("PROMETHEUS_URL", "correct PROMETHEUS_URL")]
)
def test_who_cannot_be_reached_is_named(
    variable: str, hint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, NOBODY)
    assert terminal.main(["--once", "--interval", "0"]) == 1
    told = capsys.readouterr().err
    assert NOBODY in told
    assert hint in told


def test_something_else_on_the_port_is_no_service() -> None:
    with (
        answering(lambda _path, _parameters: (200, "{not metrics")) as url,
        pytest.raises(MonitoringError, match="No metrics at"),
        terminal.looks({"API_URL": url}),
    ):
        pass


def test_the_view_goes_back_a_minute_at_most(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "WINDOW", 0.0)
    with terminal.looks({"API_URL": service}) as look:
        changes = [look().recent for _ in range(4)]
    assert [change.total("ml_predictions_total") for change in changes] == [10] * 4
