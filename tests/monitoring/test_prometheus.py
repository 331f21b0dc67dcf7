import json
from pathlib import Path

import pytest

from monitoring import pictures
from monitoring.dashboards import DASHBOARDS
from monitoring.errors import MonitoringError
from monitoring.prometheus import Prometheus
from tests.monitoring.conftest import answering


def test_vectors_scalars_and_courses(prometheus: str) -> None:
    with Prometheus(f"{prometheus}/") as client:
        (sample,) = client.instant("ml_worker_starts_total", at=1_800_000_000)
        assert (sample.labels["model"], sample.value) == ("iris", 2)
        assert client.instant("1")[0].value == 1
        (course,) = client.range("ml_worker_starts_total", 1_800_000_000, 1_800_000_240, 60)
        assert course.times.tolist() == [1_800_000_000 + 60 * step for step in range(5)]
        assert course.values.tolist() == [0, 0.1, 0.2, 0.3, 0.4]


def test_a_refused_query_is_named(prometheus: str) -> None:
    with Prometheus(prometheus) as client, pytest.raises(MonitoringError, match="refused refused: parse error"):
        client.instant("refused")


def test_what_is_no_prometheus_is_told() -> None:
    with (
        answering(lambda _path, _parameters: (200, "<html>")) as url,
        Prometheus(url) as client,
        pytest.raises(MonitoringError, match="No Prometheus answers"),
    ):
        client.instant("up")


def test_a_picture_for_each_dashboard(prometheus: str, tmp_path: Path) -> None:
    assert pictures.main([str(tmp_path), "--prometheus", prometheus, "--minutes", "4"]) == 0
    assert {path.stem for path in tmp_path.glob("*.png")} == DASHBOARDS.keys()


def test_a_picture_of_series_without_a_finite_value(tmp_path: Path) -> None:
    samples: tuple[list[str], ...] = ([], ["NaN"], ["+Inf"], ["1"])
    series = [{"metric": {"model": "iris"}, "values": [[1_800_000_000, one] for one in some]} for some in samples]
    body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": series}})
    with answering(lambda _path, _parameters: (200, body)) as url, Prometheus(url) as client:
        figure = pictures.draw(
            client, "models", start=1_800_000_000, end=1_800_000_060, interval="1m", model=".+", version=".+"
        )
    figure.savefig(tmp_path / "picture.png", dpi=20)


def test_without_prometheus_there_are_no_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pictures.main([str(tmp_path), "--prometheus", "http://127.0.0.1:9"]) == 1
    assert "No Prometheus answers" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.125, "percentunit", "12.5 %"),
        (0.0042, "s", "4.2 ms"),
        (7_776_000, "s", "90 d"),
        (0, "s", "0 s"),
        (12.34, "reqps", "12.3 req/s"),
        (17_500, "none", "17,500"),
        (5_598_185, "bytes", "5.34 MiB"),
        (512, "bytes", "512 B"),
        (float("nan"), "none", "–"),
    ],
)
def test_values_are_written_for_people(value: float, unit: str, text: str) -> None:
    assert pictures.human(value, unit) == text
