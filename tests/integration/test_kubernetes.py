"""The monitoring of the cluster, checked by the tools of Prometheus."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import KUBERNETES, Manifests, Object

PRODUCTION = "overlays/production"
NAMES = ("ml_queue_wait_seconds_sum", "ml_queue_wait_seconds_count")


def promtool(*arguments: str, folder: Path) -> str:
    ended = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_prometheus_takes_the_rules_of_the_cluster(tmp_path: Path) -> None:
    (rule,) = Manifests(PRODUCTION).of("PrometheusRule")
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rule["spec"]))
    count = sum(len(group["rules"]) for group in rule["spec"]["groups"])
    told = promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yml", folder=tmp_path)
    assert f"{count} rules found" in told


@pytest.mark.parametrize(
    ("waits", "count", "expected"),
    [
        pytest.param("0+3x40", "0+60x40", 0.05, id="a wait of 50 ms"),
        pytest.param("7+0x40", "100+0x40", 0.0, id="no requests: no wait, and a value all the same"),
    ],
)
def test_the_autoscaler_gets_the_mean_wait_of_a_pod(tmp_path: Path, waits: str, count: str, expected: float) -> None:
    """The adapter's query, with the matchers that the adapter puts in for the pods of a Deployment."""
    (rule,) = yaml.safe_load((KUBERNETES / "prometheus-adapter.yml").read_text())["rules"]
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.LabelMatchers>>", 'namespace="ml-prediction",pod=~"ml-api-1|ml-api-2"')
    labels = 'namespace="ml-prediction",job="ml-api"'
    series = [
        {"series": f'{name}{{{labels},pod="ml-api-1",model="{model}"}}', "values": values}
        for name, values in zip(NAMES, (waits, count), strict=True)
        for model in ("housing", "iris")
    ]
    # Another pod waits long, and another namespace is none of ours.
    series += [
        {"series": f'{name}{{{labels},pod="ml-api-2",model="iris"}}', "values": values}
        for name, values in zip(NAMES, ("0+60x40", "0+60x40"), strict=True)
    ]
    series += [
        {"series": f'{name}{{namespace="other",job="ml-api",pod="ml-api-1"}}', "values": "0+60x40"} for name in NAMES
    ]
    samples = [{"labels": '{pod="ml-api-1"}', "value": expected}, {"labels": '{pod="ml-api-2"}', "value": 1.0}]
    test = {"interval": "15s", "input_series": series}
    test["promql_expr_test"] = [{"expr": query, "eval_time": "10m", "exp_samples": samples}]
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"tests": [test]}))
    promtool("test", "rules", "test.yml", folder=tmp_path)


def as_the_operator_does(monitor: Object, endpoint: Object, name: str) -> Object:
    """The scrape job that the Prometheus operator makes of an endpoint, as far as it sets labels.

    ``generateServiceMonitorConfig`` in its pkg/prometheus/promcfg.go; the discovery of the cluster is replaced by a
    target with the labels that it would find.
    """
    found = {
        "__meta_kubernetes_namespace": "ml-prediction",
        "__meta_kubernetes_service_name": "ml-api-canary",
        "__meta_kubernetes_pod_name": "ml-api-canary-5d4f-abcde",
        "__meta_kubernetes_pod_container_name": "ml-api",
        "__meta_kubernetes_pod_label_track": "canary",
        "__meta_kubernetes_endpoint_port_name": endpoint["port"],
    }
    fixed = [
        ("namespace", "__meta_kubernetes_namespace"),
        ("service", "__meta_kubernetes_service_name"),
        ("pod", "__meta_kubernetes_pod_name"),
        ("container", "__meta_kubernetes_pod_container_name"),
        ("job", "__meta_kubernetes_service_name"),
        *((label, f"__meta_kubernetes_pod_label_{label}") for label in monitor["spec"]["podTargetLabels"]),
    ]
    relabelings: list[Object] = [{"source_labels": [source], "target_label": label} for label, source in fixed]
    relabelings.append({"target_label": "endpoint", "replacement": endpoint["port"]})
    spelling = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    relabelings += [{spelling.get(key, key): value for key, value in one.items()} for one in endpoint["relabelings"]]
    return {
        "job_name": name,
        "metrics_path": endpoint["path"],
        "static_configs": [{"targets": ["10.0.0.7:8000"], "labels": found}],
        "relabel_configs": relabelings,
    }


def target_labels(endpoint: int, folder: Path) -> dict[str, Any]:
    (monitor,) = Manifests(PRODUCTION).of("ServiceMonitor")
    job = as_the_operator_does(monitor, monitor["spec"]["endpoints"][endpoint], "serviceMonitor/ml-prediction/ml-api")
    (folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [job]}))
    told = promtool("check", "service-discovery", "--timeout=1s", "prometheus.yml", job["job_name"], folder=folder)
    (target,) = json.loads(told)
    labels: dict[str, Any] = target["labels"]
    return labels


def test_targets_have_the_labels_that_the_rules_ask_for(tmp_path: Path) -> None:
    metrics, readiness = (target_labels(endpoint, tmp_path) for endpoint in (0, 1))
    assert (metrics["job"], metrics["__metrics_path__"]) == ("ml-api", "/metrics")
    assert (readiness["job"], readiness["__metrics_path__"]) == ("ml-api-ready", "/readyz")
    # MetricsMissing joins the two by it.
    assert metrics["instance"] == readiness["instance"] == "10.0.0.7:8000"
    # The adapter asks for these.
    assert (metrics["namespace"], metrics["pod"]) == ("ml-prediction", "ml-api-canary-5d4f-abcde")
    assert metrics["track"] == "canary"


def test_no_label_of_a_target_hides_one_of_a_series(tmp_path: Path) -> None:
    """Prometheus would rename the series' own to ``exported_endpoint``, and the rules would find nothing."""
    page = (KUBERNETES.parents[1] / "docs/reference/metrics.md").read_text()
    rows = [row.split("|") for row in page.splitlines() if row.startswith(("| `ml_", "| `bentoml_", "| `grpc_server"))]
    ours = {label.strip("` ") for row in rows for label in row[3].split(",")}
    assert {"model", "endpoint", "grpc_method", "http_response_code"} <= ours
    assert not ours & target_labels(0, tmp_path).keys()
