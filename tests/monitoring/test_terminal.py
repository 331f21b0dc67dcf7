import json
import math
import time

import pytest

from monitoring import terminal
from monitoring.errors import MonitoringError
from monitoring.snapshot import Change, Snapshot
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
    quality = [line.split() for line in shown.partition("Live quality")[2].splitlines()[2:5]]
    assert quality == [
        ["iris", "v1", "1h", "12", "too", "few", "labelled", "rows"],
        ["iris", "v1", "24h", "400", "accuracy", "0.912", "(0.950)"],
        ["iris", "v1", "7d", "900", "accuracy", "0.912", "(0.950)"],
    ]


def test_from_prometheus_with_the_alerts_that_fire(
    prometheus: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROMETHEUS_URL", prometheus)
    monkeypatch.setenv("API_URL", NOBODY)
    assert terminal.main(["--once", "--interval", "0"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("NoTraffic: Silence.") == 1
    assert "2 worker starts" in shown


SERIES = [
    {"__name__": "ml_model_info", "model": "iris", "version": "v1"},
    {"__name__": "ml_predictions_total", "model": "iris", "version": "v1"},
    {"__name__": "bentoml_service_request_total", "endpoint": "/predict/iris", "http_response_code": "200"},
    {"__name__": "bentoml_service_request_duration_seconds_bucket", "endpoint": "/predict/iris", "le": "+Inf"},
    {"__name__": "ml_refused_rows_total", "model": "iris", "feature": "petal_width", "reason": "out_of_range"},
    {"__name__": "ml_class_reference_share", "model": "iris", "label": "setosa"},
    {"__name__": "ml_predicted_class_total", "model": "iris", "label": "setosa"},
    {"__name__": "ml_batch_rows_count", "model": "iris"},
    {"__name__": "ml_last_prediction_timestamp_seconds", "model": "iris"},
]


@pytest.mark.parametrize(
    ("scraped", "value"),
    [(0, "1"), (20, "1"), (1e9, "1"), (1e9, "NaN"), (0, "NaN"), (0, "+Inf"), (1e9, "+Inf"), (0, None)],
    ids=["one scrape", "20 s", "long", "long, NaN", "NaN", "Inf", "long, Inf", "nothing"],
)
def test_a_prometheus_that_knows_little_shows_what_it_knows(
    scraped: float, value: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``scraped``: seconds since its first scrape. Rates need two scrapes; a figure may be NaN."""
    started = time.time() - scraped

    def answer(path: str, parameters: dict[str, str]) -> tuple[int, str]:
        if path == "/api/v1/alerts":
            alert = {"labels": {"alertname": "Foreign"}, "annotations": {}, "state": "firing"}
            return 200, json.dumps({"status": "success", "data": {"alerts": [alert]}})
        known = SERIES if value and float(parameters["time"]) >= started else []
        result = [{"metric": labels, "value": [parameters["time"], value]} for labels in known]
        return 200, json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}})

    with answering(answer) as url:
        monkeypatch.setenv("PROMETHEUS_URL", url)
        assert terminal.main(["--once", "--interval", "0"]) == 0
    shown = capsys.readouterr().out
    assert "Foreign" in shown
    assert ("/predict/iris" in shown) == bool(value)
    assert ("waiting for a first scrape" in shown) == (value is None)
    assert ("waiting for a second scrape" in shown) == (scraped == 0 and value is not None)


def test_a_window_of_no_length_has_no_rates() -> None:
    now = Snapshot(10, {"ml_x_total": {frozenset(): 5.0}})
    change = Change(now, now)
    assert math.isnan(change.seconds)
    assert math.isnan(change.rate("ml_x_total"))
    assert change.total("ml_x_total") == 0


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
