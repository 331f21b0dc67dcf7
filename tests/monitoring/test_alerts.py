"""The alerts against the runbook and against their tests."""

import re
from typing import Any

import pytest
import yaml

from monitoring.panels import DASHBOARDS, load, panels
from monitoring.slo import OBJECTIVES, WINDOWS

MONITORING = DASHBOARDS.parents[1]
RUNBOOK = (MONITORING.parent / "docs" / "runbook.md").read_text()


def read(name: str) -> Any:
    return yaml.safe_load((MONITORING / name).read_text())


ALERTS: list[dict[str, Any]] = [rule for group in read("alerts.yml")["groups"] for rule in group["rules"]]
TESTS = [test for path in sorted((MONITORING / "tests").glob("*.yml")) for test in read(f"tests/{path.name}")["tests"]]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_wrong_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert alert["labels"]["concern"]
    assert alert["labels"]["component"] in {"service", "model", "monitoring"}
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["description"]
    assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    sections = dict(re.findall(r"^### (\w+)\n\n(\w+)\.", RUNBOOK, re.MULTILINE))
    assert sections == {alert["alert"]: alert["labels"]["severity"].capitalize() for alert in ALERTS}
    for link in re.findall(r"\]\(#(\w+)\)", RUNBOOK):
        assert link in {name.lower() for name in sections}


def test_the_runbook_names_panels_that_exist() -> None:
    titles = {
        load(path.stem)["title"]: {panel.title for panel in panels(path.stem)} for path in DASHBOARDS.glob("*.json")
    }
    titles["Models"].add("Version changes")  # a mark, not a panel
    named = re.findall(rf"\*({'|'.join(titles)}) → ([^*]+)\*", RUNBOOK.replace("\n  ", " "))
    assert len(named) > 10
    for dashboard, panel in named:
        assert panel in titles[dashboard]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_is_tested_firing_and_silent(alert: dict[str, Any]) -> None:
    checks = [
        check for test in TESTS for check in test.get("alert_rule_test", []) if check["alertname"] == alert["alert"]
    ]
    assert any(check.get("exp_alerts") for check in checks)
    quiet = [check for check in checks if not check.get("exp_alerts")]
    quiet += [
        check
        for test in TESTS
        for check in test.get("promql_expr_test", [])
        if "ALERTS{" in check["expr"] and alert["labels"]["concern"] in check["expr"] and not check.get("exp_samples")
    ]
    # Of the two models of its test, ModelStale names only the older one.
    assert quiet or alert["alert"] == "ModelStale"


def test_every_window_of_the_burn_rates_is_recorded() -> None:
    expressions = " ".join(alert["expr"] for alert in ALERTS)
    used = set(re.findall(r'slo="(\w+)",window="(\w+)"', expressions))
    assert used == {(objective.name, window) for objective in OBJECTIVES for window in WINDOWS[:-1]}


def test_both_configurations_of_prometheus_watch_the_same_jobs() -> None:
    compose, local = read("prometheus.yml"), read("prometheus-local.yml")
    assert [job["job_name"] for job in compose["scrape_configs"]] == [
        job["job_name"] for job in local["scrape_configs"]
    ]
    assert compose["rule_files"] == local["rule_files"]
    assert compose["global"] == local["global"]


def test_the_datasource_is_the_one_that_dashboards_name() -> None:
    (source,) = read("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    for path in DASHBOARDS.glob("*.json"):
        for raw in load(path.stem)["panels"]:
            assert raw["type"] == "row" or raw["datasource"]["uid"] == source["uid"]
    assert source["jsonData"]["timeInterval"] == read("prometheus.yml")["global"]["scrape_interval"]
