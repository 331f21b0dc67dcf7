"""The configuration of the monitoring, checked by the tools that read it."""

import subprocess
from pathlib import Path

import pytest
import yaml

from serving.http.retrain import ALERT
from tests.integration.local_monitoring import with_retraining

MONITORING = Path(__file__).parents[2] / "monitoring"
RULES = ["alerts.yml", *sorted(f"rules/{path.name}" for path in (MONITORING / "rules").glob("*.yml"))]
LONG = "slow_budgets.yml"
"""The tickets of slow burns: it evaluates the rules of ``budgets.yml`` over days: half a minute of a core."""
TESTS = [
    pytest.param(path.name, marks=pytest.mark.weekly if path.name == LONG else ())
    for path in sorted((MONITORING / "tests").glob("*.yml"))
]


def check(*command: str) -> str:
    ended = subprocess.run(command, cwd=MONITORING, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-local.yml"])
def test_prometheus_takes_its_configuration(name: str) -> None:
    assert f"{len(RULES)} rule files found" in check("promtool", "check", "config", name)


def test_the_rules_have_nothing_to_lint() -> None:
    check("promtool", "check", "rules", "--lint=all", "--lint-fatal", *RULES)


@pytest.mark.parametrize("name", TESTS)
def test_alerts_fire_when_they_should_and_only_then(name: str) -> None:
    check("promtool", "test", "rules", f"tests/{name}")


@pytest.mark.parametrize("name", ["alertmanager.yml", "alertmanager-local.yml"])
def test_alertmanager_takes_its_configuration(name: str) -> None:
    assert "2 receivers" in check("amtool", "check-config", name)


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["alertname=ReadinessLost", "severity=page"], "pages"),
        (["alertname=FeatureDrift", "severity=ticket"], "tickets"),
        (["alertname=Unknown"], "tickets"),
    ],
)
def test_alertmanager_routes_by_severity(labels: list[str], receiver: str) -> None:
    routed = check("amtool", "config", "routes", "test", "--config.file=alertmanager.yml", *labels)
    assert routed.split()[0] == receiver


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (["alertname=LiveQualityBelowTest", "model=iris", "severity=ticket"], "retraining,tickets"),
        (["alertname=DriftDetected", "model=iris", "feature=petal_width", "severity=ticket"], "retraining,tickets"),
        # Who sends what is refused is to be told; there is nothing to learn from it.
        (["alertname=DriftDetected", "model=iris", "feature=refused", "severity=ticket"], "tickets"),
        (["alertname=ReloadRefused", "model=iris", "severity=ticket"], "tickets"),
        (["alertname=ReadinessLost", "severity=page"], "pages"),
    ],
)
def test_the_way_to_a_retraining_works_when_it_is_switched_on(
    labels: list[str], receivers: str, tmp_path: Path
) -> None:
    path = tmp_path / "alertmanager.yml"
    path.write_text(with_retraining((MONITORING / "alertmanager.yml").read_text()))
    check("amtool", "check-config", str(path))
    (webhook,) = yaml.safe_load(path.read_text())["receivers"][-1]["webhook_configs"]
    assert webhook["url"].endswith(ALERT)
    assert webhook.keys() == {"url", "send_resolved", "http_config"}
    routed = check("amtool", "config", "routes", "test", f"--config.file={path}", *labels)
    assert routed.split()[0] == receivers
