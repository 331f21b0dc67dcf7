"""The load test, as the README has it, for some seconds on the models that a newcomer trained."""

import pytest
import yaml

from contract import DATASETS
from load_tests.summary import SUMMARY_FILE, Summary
from load_tests.thresholds import THRESHOLDS_FILE
from tests.integration.conftest import Newcomer
from tests.serving.running import PATIENT


def summary(newcomer: Newcomer) -> Summary:
    return Summary.model_validate_json((newcomer.clone / SUMMARY_FILE).read_bytes())


def test_the_thresholds_hold_and_the_report_is_written(served_once: Newcomer) -> None:
    # The times that are shipped, and the one above which the service sheds, are for a machine that does nothing else:
    # other tests run beside this one.
    thresholds = yaml.safe_load((served_once.clone / THRESHOLDS_FILE).read_text())
    for limits in thresholds["steady"]["limits"].values():
        limits.update({name: 10 * limit for name, limit in limits.items() if name.endswith("_ms")})
    (served_once.home / "busy.yaml").write_text(yaml.safe_dump(thresholds))
    load = f"--run-time 20s --thresholds {served_once.home}/busy.yaml"
    ran = served_once.run(f'MAX_LATENCY_MS={PATIENT["MAX_LATENCY_MS"]} make load LOAD="{load}"', check=False)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    told = summary(served_once)
    assert told.table() in ran.stdout
    assert (told.shape, told.errors, told.breaches) == ("steady", {}, [])
    assert 16 < told.seconds < 30
    assert set(told.users) == set(thresholds["steady"]["limits"])
    for figures in told.users.values():
        assert figures.failures == 0
        assert 0 < figures.p50_ms <= figures.p95_ms <= figures.p99_ms
    page = (served_once.clone / "reports/load_test.html").read_text()
    for name in told.users:
        assert all(f"{name} {dataset}" in page for dataset in DATASETS)


@pytest.mark.weekly
def test_a_lowered_threshold_fails_it_and_is_named(served_once: Newcomer) -> None:
    thresholds = yaml.safe_load((served_once.clone / THRESHOLDS_FILE).read_text())
    thresholds["steady"]["limits"]["SingleRowUser"]["p99_ms"] = 0.1
    (served_once.home / "lowered.yaml").write_text(yaml.safe_dump(thresholds))
    ran = served_once.run(f'make load LOAD="--run-time 5s --thresholds {served_once.home}/lowered.yaml"', check=False)
    assert ran.returncode
    told = f"SingleRowUser p99 {summary(served_once).users['SingleRowUser'].p99_ms:g} ms > 0.1 ms"
    assert told in ran.stdout
    assert told in (summary(served_once).breaches or [])
