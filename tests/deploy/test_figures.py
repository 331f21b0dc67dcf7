"""Figures that stand in several places are one."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from contract import DATASETS
from load_tests.benchmark.capacity import Assumptions
from local_service import PROJECT
from monitoring.slo import JOB
from serving.http import docs, feedback
from serving.http.openapi import GET_ROUTES
from serving.http.pages import FILES, STATIC
from serving.protocol.documents import PROTOCOL_ROUTES
from serving.settings import Settings
from tests.deploy.cluster_policies import INSIDE, covers
from tests.deploy.manifests import FOLDERS, KUBERNETES, Manifests, kustomized

PRODUCTION = Manifests("overlays/production")
CANARY = Manifests("overlays/canary")
DOCUMENT = (PROJECT / "docs" / "kubernetes.md").read_text()


def only(manifests: Manifests, kind: str) -> Any:
    (one,) = (found["spec"] for found in manifests.of(kind))
    return one


def test_production_is_what_the_capacity_counts_with() -> None:
    assumed = Assumptions()
    scaler = only(PRODUCTION, "HorizontalPodAutoscaler")
    (pod,) = PRODUCTION.pods()
    assert pod.workers == assumed.cores
    assert scaler["minReplicas"] == assumed.zones
    assert scaler["metrics"][0]["resource"]["target"]["averageUtilization"] == assumed.utilisation * 100
    page = (PROJECT / "docs" / "capacity.md").read_text()
    busy = scaler["maxReplicas"] * assumed.cores * assumed.utilisation
    assert f"autoscaler ends at {scaler['maxReplicas']} pods: {busy:g} busy cores" in page


@pytest.mark.parametrize("folder", ["overlays/production", "kserve"])
def test_the_image_is_that_of_this_version(folder: str) -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert [pod.container["image"] for pod in Manifests(folder).pods()] == [f"ml-prediction-bundle:{version}"]
    assert [pod.container["image"] for pod in Manifests("overlays/loop").workers()] == [
        f"ml-prediction-bundle-loop:{version}"
    ]


def test_a_canary_is_another_version_beside_an_unchanged_production() -> None:
    stable, canary = CANARY.pods()
    assert (stable.name, canary.name) == ("ml-api", "ml-api-canary")
    assert stable.container["image"] != canary.container["image"]
    assert canary.container["resources"] == stable.container["resources"]
    for one in PRODUCTION.objects:
        if not one["kind"].endswith("Route"):
            assert CANARY.named(one["kind"], one["metadata"]["name"]) == one


def test_a_canary_can_be_taken_away_by_its_label() -> None:
    assert "deployment,service,hpa,pdb,configmap -l track=canary" in DOCUMENT
    own = [one for one in CANARY.objects if not PRODUCTION.named(one["kind"], one["metadata"]["name"])]
    kinds = {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "ConfigMap"}
    assert {one["kind"] for one in own} == kinds
    tracks = [(one["metadata"]["name"], one["metadata"]["labels"].get("track")) for one in CANARY.objects]
    assert {name for name, track in tracks if track == "canary"} == {one["metadata"]["name"] for one in own}


@pytest.mark.parametrize("kind", ["HTTPRoute", "GRPCRoute"])
def test_a_canary_gets_a_small_share_of_each_protocol(kind: str) -> None:
    for rule in only(CANARY, kind)["rules"]:
        weights = {backend["name"]: backend["weight"] for backend in rule["backendRefs"]}
        assert weights == {"ml-api": 95, "ml-api-canary": 5}
    for rule in only(PRODUCTION, kind)["rules"]:
        assert [backend["name"] for backend in rule["backendRefs"]] == ["ml-api"]


def test_the_gateway_waits_longer_than_the_service() -> None:
    (pod,) = PRODUCTION.pods()
    timeout = Settings.from_environment(PRODUCTION.settings(pod)).TIMEOUT_SECONDS
    assert all(
        float(rule["timeouts"]["request"].rstrip("s")) > timeout for rule in only(PRODUCTION, "HTTPRoute")["rules"]
    )
    assert only(Manifests("kserve"), "InferenceService")["predictor"]["timeout"] > timeout


def test_the_gateway_leads_to_every_route_for_users() -> None:
    """And to no path that nobody serves."""
    matches = [match["path"] for rule in only(PRODUCTION, "HTTPRoute")["rules"] for match in rule["matches"]]
    predictions = {f"/predict/{name}{end}" for name in DATASETS for end in ("", "/batch")}
    pages = {"/", docs.PATH, *docs.DOCUMENT_PATHS, *(f"{STATIC}/{name}" for name in (*FILES, *docs.FILES))}
    users = {*predictions, *PROTOCOL_ROUTES, *GET_ROUTES, feedback.PATH, *pages} - set(INSIDE)
    led = {
        match["value"]: {
            path
            for path in users
            if match["value"] == path or (match["type"] == "PathPrefix" and covers(match["value"], path))
        }
        for match in matches
    }
    assert set().union(*led.values()) == users
    assert all(led.values())


@pytest.mark.parametrize("folder", FOLDERS)
def test_probes_ask_paths_that_are_served(folder: str) -> None:
    for pod in Manifests(folder).pods():
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert pod.container[name]["httpGet"]["path"] in {*GET_ROUTES, *PROTOCOL_ROUTES}


def test_kserve_has_the_pods_of_production() -> None:
    """But for its names, and its way to say which protocol it is."""
    (ours,), (theirs,) = PRODUCTION.pods(), Manifests("kserve").pods()
    for name in ("securityContext", "volumes", "serviceAccountName", "terminationGracePeriodSeconds"):
        assert theirs.spec[name] == ours.spec[name]
    for name in ("resources", "lifecycle", "securityContext", "volumeMounts"):
        assert theirs.container[name] == ours.container[name]
    settings = Manifests("kserve").settings(theirs)
    assert settings.pop("PROTOCOL") == "v2"
    assert settings == PRODUCTION.settings(ours)
    assert [*theirs.ports] == ["http1", "h2c"]
    assert [*theirs.ports.values()] == [*ours.ports.values()]


def test_only_production_is_the_job_of_the_rules() -> None:
    jobs = {
        folder: [
            relabeling["replacement"]
            for monitor in Manifests(folder).of("ServiceMonitor")
            for endpoint in monitor["spec"]["endpoints"]
            for relabeling in endpoint["relabelings"]
            if relabeling.get("targetLabel") == "job"
        ]
        for folder in FOLDERS
    }
    assert jobs["overlays/production"] == jobs["overlays/canary"] == [JOB, f"{JOB}-ready"]
    assert jobs["overlays/development"] == jobs["kserve"] == []


def test_the_jobs_are_those_of_prometheus_yml() -> None:
    configured = yaml.safe_load((PROJECT / "monitoring" / "prometheus.yml").read_text())["scrape_configs"]
    paths = {one["job_name"]: one.get("metrics_path", "/metrics") for one in configured}
    monitor = only(PRODUCTION, "ServiceMonitor")
    found = {endpoint["relabelings"][0]["replacement"]: endpoint["path"] for endpoint in monitor["endpoints"]}
    assert found.items() <= paths.items()
    services = [
        service["metadata"]["name"]
        for service in CANARY.of("Service")
        if monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    ]
    # Each version once.
    assert services == ["ml-api", "ml-api-canary"]


def test_the_page_names_what_is_there() -> None:
    for folder in re.findall(r"(?:kubectl (?:apply|delete|kustomize|diff)(?: -k)?) (deploy/[\w/]+)", DOCUMENT):
        assert (PROJECT / folder / "kustomization.yaml").exists(), folder
    for name in re.findall(r"(?:deployment|httproute|grpcroute|hpa|service)/([\w-]+)", DOCUMENT):
        assert name in {one["metadata"]["name"] for one in CANARY.objects}, name


def test_an_overlay_of_ones_own_is_as_the_page_has_it(tmp_path: Path) -> None:
    own, label = re.findall(r"```yaml\n# [^\n]*kustomization.yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    # kustomize takes no absolute path.
    production = os.path.relpath(KUBERNETES / "overlays" / "production", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(own.replace("../production", production) + label)
    objects = kustomized(tmp_path)
    assert all(one["metadata"]["labels"]["release"] == "kube-prometheus-stack" for one in objects)
    routes = [one["spec"] for one in objects if one["kind"].endswith("Route")]
    assert [route["parentRefs"] for route in routes] == [[{"name": "internal", "namespace": "ingress"}]] * 2
    assert sorted(route["hostnames"][0] for route in routes) == ["grpc.predict.mine.example", "predict.mine.example"]
    (deployment,) = (one for one in objects if one["kind"] == "Deployment")
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "registry.example.org/ml-prediction-bundle:0.1.0"


def test_the_queries_that_compare_a_canary_are_queries() -> None:
    (block,) = re.findall(r"```promql\n(.*?)```", DOCUMENT, re.DOTALL)
    queries = re.split(r"^# .*\n", block, flags=re.MULTILINE)[1:]
    assert len(queries) == 3
    for query in queries:
        promql_parser.parse(query)
        # By the label that the ServiceMonitor adds.
        assert "by (track" in query
    assert only(PRODUCTION, "ServiceMonitor")["podTargetLabels"] == ["track"]


def test_every_file_is_part_of_something_that_is_applied() -> None:
    listed = {KUBERNETES / "prometheus-adapter.yml"}
    waiting = [KUBERNETES / folder for folder in FOLDERS]
    while waiting:
        folder = waiting.pop()
        listed.add(folder / "kustomization.yaml")
        content = yaml.safe_load((folder / "kustomization.yaml").read_text())
        names = [*content.get("resources", []), *content.get("components", [])]
        names += [patch["path"] for patch in content.get("patches", []) if "path" in patch]
        for path in ((folder / name).resolve() for name in names):
            (waiting.append if path.is_dir() else listed.add)(path)
    assert listed == {path for path in KUBERNETES.rglob("*") if path.is_file()}
