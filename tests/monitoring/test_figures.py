"""The figures of the terminal view, from series that are known."""

import math

import pytest

from monitoring import figures
from monitoring.drift import stability_index
from monitoring.snapshot import Change, Snapshot, gather

HTTP = {"endpoint": "/predict/iris", "http_response_code": "200"}


def snapshot(at: float, *samples: tuple[str, dict[str, str], float]) -> Snapshot:
    return gather(at, samples)


def test_an_increase_is_kept_by_label_and_filtered() -> None:
    change = Change(
        snapshot(0, ("ml_x_total", {"a": "1", "b": "1"}, 5), ("ml_x_total", {"a": "2", "b": "1"}, 1)),
        snapshot(10, ("ml_x_total", {"a": "1", "b": "1"}, 8), ("ml_x_total", {"a": "2", "b": "1"}, 2)),
    )
    assert change.increase("ml_x_total", "a") == {("1",): 3, ("2",): 1}
    assert change.increase("ml_x_total", a="1") == {(): 3}
    assert change.increase("ml_x_total", a=("1", "2")) == {(): 4}
    assert change.rate("ml_x_total") == pytest.approx(0.4)


def test_a_counter_that_began_anew_counts_from_zero() -> None:
    change = Change(snapshot(0, ("ml_x_total", {}, 100)), snapshot(10, ("ml_x_total", {}, 7)))
    assert change.total("ml_x_total") == 7


def test_instances_are_added_up_but_not_what_each_says_of_its_model() -> None:
    both = snapshot(
        0,
        ("ml_predictions_total", {"model": "iris", "instance": "a"}, 3),
        ("ml_predictions_total", {"model": "iris", "instance": "b"}, 4),
        ("ml_class_reference_share", {"model": "iris", "label": "setosa", "instance": "a"}, 0.3),
        ("ml_class_reference_share", {"model": "iris", "label": "setosa", "instance": "b"}, 0.3),
        ("go_threads", {}, 9),
    )
    assert list(both["ml_predictions_total"].values()) == [7]
    assert list(both["ml_class_reference_share"].values()) == [0.3]
    assert not both["go_threads"]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0.5, 0.075),  # the 50th of 100 lies in the middle of the second bucket
        (0.25, 0.05),
        (0.99, 0.1),  # beyond the last bound nothing better is known
    ],
)
def test_a_quantile_is_interpolated_within_its_bucket(level: float, expected: float) -> None:
    buckets = [("0.05", 25.0), ("0.1", 75.0), ("+Inf", 100.0)]
    after = snapshot(1, *[("ml_s_bucket", {"le": bound}, count) for bound, count in buckets])
    assert Change(snapshot(0), after).quantile(level, "ml_s") == pytest.approx(expected)


def test_of_nothing_there_is_no_quantile_and_no_mean() -> None:
    change = Change(snapshot(0), snapshot(1))
    assert math.isnan(change.quantile(0.5, "ml_s"))
    assert math.isnan(change.mean("ml_s"))


def test_a_route_tells_refused_from_failed() -> None:
    counts = {"200": 70.0, "400": 20.0, "503": 10.0}
    after = snapshot(10, *[(figures.HTTP, HTTP | {"http_response_code": code}, n) for code, n in counts.items()])
    (route,) = figures.routes(Change(snapshot(0), after))
    assert (route.requests, route.refused, route.failed) == (10, 2, 1)


def test_calls_of_grpc_stand_beside_them() -> None:
    counts = {"OK": 70.0, "INVALID_ARGUMENT": 20.0, "UNAVAILABLE": 10.0}
    after = snapshot(
        10, *[(figures.GRPC, {"grpc_method": "ModelInfer", "grpc_code": code}, n) for code, n in counts.items()]
    )
    (route,) = figures.routes(Change(snapshot(0), after))
    assert (route.protocol, route.requests, route.refused, route.failed) == ("grpc", 10, 2, 1)


def test_the_stability_index_is_that_of_the_recording_rule() -> None:
    """The same rows as in ``monitoring/tests/models.yml``, where promtool gives 0.868."""
    assert stability_index({"0": 0.5, "1": 0.5}, {"0": 120, "1": 1080}) == pytest.approx(0.868, abs=0.0005)


def test_no_rows_are_no_drift_and_empty_buckets_are_finite() -> None:
    assert stability_index({"0": 0.1, "1": 0.9}, {}) == pytest.approx(0)
    assert stability_index({"0": 0, "1": 1}, {"0": 1000, "1": 0}) > 1


def test_drift_is_of_features_and_of_predictions() -> None:
    reference = [
        ("ml_feature_reference_share", {"model": "iris", "feature": "petal_width", "decile": d}, 0.5) for d in "01"
    ]
    reference += [("ml_class_reference_share", {"model": "iris", "label": c}, 0.5) for c in ("setosa", "virginica")]
    rows = [
        ("ml_feature_decile_total", {"model": "iris", "feature": "petal_width", "decile": "0"}, 600.0),
        ("ml_predicted_class_total", {"model": "iris", "label": "setosa"}, 300.0),
        ("ml_predicted_class_total", {"model": "iris", "label": "virginica"}, 300.0),
    ]
    first, second = figures.drift(Change(snapshot(0), snapshot(1, *reference, *rows)))
    assert (first.subject, first.rows) == ("petal_width", 600)
    assert first.index > 1
    assert (second.subject, second.rows) == ("predictions", 600)
    assert second.index == pytest.approx(0)
