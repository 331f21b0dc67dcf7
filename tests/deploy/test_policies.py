"""What we ask of everything that is applied, and that each of these policies sees when it is broken."""

import stat
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local_service import PROJECT
from model.signing import PRIVATE_KEY_VARIABLE
from tests.deploy import cluster_policies, pod_policies, worker_policies
from tests.deploy.cluster_policies import CLUSTER_POLICIES
from tests.deploy.manifests import FOLDERS, Manifests, Object, Pod
from tests.deploy.pod_policies import POD_POLICIES
from tests.deploy.worker_policies import SHARED_POLICIES, WORKER_POLICIES

PodPolicy = Callable[[Pod, Manifests], Iterator[str]]
ClusterPolicy = Callable[[Manifests], Iterator[str]]
PRODUCTION = "overlays/production"
LOOP = "overlays/loop"


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("policy", POD_POLICIES)
def test_every_pod_keeps_to(policy: PodPolicy, folder: str) -> None:
    manifests = Manifests(folder)
    pods = list(manifests.pods())
    assert pods
    assert [f"{pod.name}: {problem}" for pod in pods for problem in policy(pod, manifests)] == []


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("policy", CLUSTER_POLICIES)
def test_every_folder_keeps_to(policy: ClusterPolicy, folder: str) -> None:
    assert list(policy(Manifests(folder))) == []


@pytest.mark.parametrize("policy", [*SHARED_POLICIES, *WORKER_POLICIES])
def test_the_worker_of_the_loop_keeps_to(policy: PodPolicy) -> None:
    manifests = Manifests(LOOP)
    (pod,) = manifests.workers()
    assert list(policy(pod, manifests)) == []
    # What prepares it is confined as it is.
    (first,) = pod.spec["initContainers"]
    for name in ("image", "securityContext"):
        assert first[name] == pod.container[name]


def test_the_worker_is_added_to_an_unchanged_production() -> None:
    production, loop = Manifests(PRODUCTION), Manifests(LOOP)
    own = [one for one in loop.objects if one not in production.objects]
    assert len(own) == len(loop.objects) - len(production.objects)
    assert {one["metadata"]["labels"]["app.kubernetes.io/name"] for one in own} == {"ml-loop"}


def test_the_worker_signs_with_the_key_of_its_secret_if_there_is_one() -> None:
    (pod,) = Manifests(LOOP).workers()
    (variable,) = (one["valueFrom"]["secretKeyRef"] for one in pod.container["env"] if "valueFrom" in one)
    (mount,) = (one for one in pod.container["volumeMounts"] if one["name"] == "signing")
    (secret,) = (one["secret"] for one in pod.spec["volumes"] if one["name"] == "signing")
    assert secret["optional"] is variable["optional"] is mount["readOnly"] is True
    assert secret["defaultMode"] == stat.S_IRUSR | stat.S_IRGRP
    (item,) = secret["items"]
    # The command of the documentation makes what the pod reads.
    told = (PROJECT / "docs" / "signing.md").read_text()
    assert f"create secret generic {secret['secretName']} --from-file={item['key']} " in told
    assert f"--from-literal={PRIVATE_KEY_VARIABLE}={mount['mountPath']}/{item['path']}\n" in told
    assert variable == {"name": secret["secretName"], "key": PRIVATE_KEY_VARIABLE, "optional": True}


def put(path: str, value: Any) -> Callable[[Object], None]:
    """A change of an object: a value at a path of keys and indices, or nothing there with the value None."""
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))

    def change(one: Any) -> None:
        for parent in parents:
            one = one[parent]
        if value is None:
            del one[last]
        else:
            one[last] = value

    return change


POD = "spec.template.spec."
CONTAINER = f"{POD}containers.0."
BROKEN_PODS = [
    ("image_has_a_version", f"{CONTAINER}image", "ml-prediction-bundle:latest", "neither a version nor a digest"),
    ("image_has_a_version", f"{CONTAINER}image", "ml-prediction-bundle", "neither a version nor a digest"),
    ("probes_ask_what_they_should", f"{CONTAINER}startupProbe", None, "no startupProbe"),
    ("probes_ask_what_they_should", f"{CONTAINER}readinessProbe.httpGet.path", "/livez", "asks /livez"),
    ("probes_ask_what_they_should", f"{CONTAINER}livenessProbe.httpGet.port", "grpc", "asks port grpc"),
    ("probes_ask_what_they_should", f"{CONTAINER}livenessProbe.timeoutSeconds", 1, "no patience"),
    ("probes_ask_what_they_should", f"{CONTAINER}livenessProbe.failureThreshold", 1, "killed before"),
    ("resources_fit_the_workers", f"{CONTAINER}resources.limits.cpu", "8", "need 1800 MB"),
    ("resources_fit_the_workers", f"{CONTAINER}resources.requests.memory", "64Mi", "may be taken away"),
    ("resources_fit_the_workers", f"{CONTAINER}resources.requests.cpu", None, "no request or no limit of cpu"),
    ("resources_fit_the_workers", f"{CONTAINER}resources.requests.cpu", "2500m", "more CPU"),
    ("resources_fit_the_workers", f"{POD}volumes.0.emptyDir.sizeLimit", "2Gi", "beyond the limit"),
    ("workers_follow_the_limit", f"{CONTAINER}env.0", {"name": "WORKERS", "value": "4"}, "not taken from"),
    ("pod_is_restricted", f"{POD}securityContext.runAsNonRoot", False, "runs as root"),
    ("pod_is_restricted", f"{POD}securityContext.runAsUser", 0, "runs as root"),
    ("pod_is_restricted", f"{POD}securityContext.seccompProfile", None, "seccomp"),
    ("pod_is_restricted", f"{POD}hostNetwork", True, "host's namespaces"),
    ("pod_is_restricted", f"{CONTAINER}ports.0.hostPort", 80, "port of the host"),
    ("pod_is_restricted", f"{CONTAINER}securityContext.allowPrivilegeEscalation", True, "gain privileges"),
    ("pod_is_restricted", f"{CONTAINER}securityContext.capabilities", {"drop": ["NET_RAW"]}, "capabilities"),
    ("pod_is_restricted", f"{CONTAINER}securityContext.readOnlyRootFilesystem", None, "can be written"),
    ("pod_is_restricted", f"{CONTAINER}securityContext.privileged", True, "privileged"),
    ("pod_is_restricted", f"{POD}volumes.0", {"name": "tmp", "hostPath": {"path": "/"}}, "mounts what"),
    ("what_is_written_has_a_place", f"{CONTAINER}volumeMounts.0.mountPath", "/var/tmp", "/tmp cannot be written"),  # noqa: S108
    ("what_is_written_has_a_place", f"{CONTAINER}env.1.value", "/home/bentoml", "cannot be written"),
    ("what_is_written_has_a_place", f"{CONTAINER}env.3.value", "/var/lib/state", "STATE_DIR=/var/lib/state cannot"),
    ("pod_has_an_identity_without_rights", f"{POD}serviceAccountName", None, "the default one"),
    ("pod_has_an_identity_without_rights", f"{POD}automountServiceAccountToken", None, "mounts a token"),
    ("no_variable_comes_from_other_services", f"{POD}enableServiceLinks", None, "API_PORT"),
    ("it_has_time_to_leave", f"{CONTAINER}lifecycle", None, "SIGTERM comes before"),
    ("it_has_time_to_leave", f"{POD}terminationGracePeriodSeconds", None, "killed before 50 s"),
    ("it_has_time_to_leave", "spec.strategy.rollingUpdate.maxUnavailable", 1, "before a new one is ready"),
    ("settings_are_ours", f"{CONTAINER}env.1.name", "MAX_BATCHSIZE", "nobody reads MAX_BATCHSIZE"),
    ("settings_are_ours", f"{CONTAINER}ports.0.containerPort", 8080, "not those that the settings say"),
    ("secrets_are_references", f"{CONTAINER}env.1.name", "DATABASE_URL", "stands in the manifests"),
    ("secrets_are_references", f"{CONTAINER}env.1.name", "ADMIN_KEYS", "stands in the manifests"),
    ("secrets_are_references", f"{CONTAINER}envFrom.1.secretRef.optional", False, "nothing starts"),
]


@pytest.mark.parametrize(("name", "path", "value", "problem"), BROKEN_PODS)
def test_a_policy_sees_a_broken_pod(name: str, path: str, value: Any, problem: str) -> None:
    manifests = Manifests(PRODUCTION)
    put(path, value)(manifests.of("Deployment")[0])
    policy: PodPolicy = getattr(pod_policies, name)
    (pod,) = manifests.pods()
    assert any(problem in told for told in policy(pod, manifests))


BROKEN_WORKERS = [
    ("one_worker_has_the_volume", "spec.replicas", 2, "one volume"),
    ("one_worker_has_the_volume", f"{POD}volumes.0", {"name": "project", "emptyDir": {}}, "no volume"),
    ("worker_can_write_where_it_works", f"{CONTAINER}volumeMounts.1.mountPath", "/var/tmp", "cannot be written"),  # noqa: S108
    ("worker_can_write_where_it_works", f"{POD}securityContext.fsGroup", 1, "somebody else"),
    ("worker_may_be_restarted", f"{CONTAINER}livenessProbe", None, "hangs"),
    ("worker_may_be_restarted", f"{CONTAINER}livenessProbe.failureThreshold", 3, "waits for a database"),
    ("worker_may_be_restarted", f"{POD}terminationGracePeriodSeconds", None, "given its job back"),
    ("worker_has_room_to_train", f"{CONTAINER}resources.limits.memory", "512Mi", "2 GB"),
    ("worker_has_room_to_train", f"{POD}volumes.1.emptyDir.sizeLimit", "8Gi", "beyond"),
    ("worker_reads_settings_that_are_there", f"{CONTAINER}env.0.name", "LOOP_TIMES", "nobody reads LOOP_TIMES"),
    ("worker_reads_settings_that_are_there", f"{CONTAINER}env.0.name", "DATABASE_URL", "stands in the manifests"),
    ("worker_reads_settings_that_are_there", f"{CONTAINER}envFrom", [], "the service's DATABASE_URL"),
]


@pytest.mark.parametrize(("name", "path", "value", "problem"), BROKEN_WORKERS)
def test_a_policy_sees_a_broken_worker(name: str, path: str, value: Any, problem: str) -> None:
    manifests = Manifests(LOOP)
    deployment = manifests.named("Deployment", "ml-loop")
    assert deployment
    put(path, value)(deployment)
    policy: PodPolicy = getattr(worker_policies, name)
    (pod,) = manifests.workers()
    assert any(problem in told for told in policy(pod, manifests))


CANARY = "overlays/canary"
LABELS = {"app.kubernetes.io/name": "ml-api"}
BROKEN_FOLDERS = [
    ("everything_is_in_one_restricted_namespace", "Namespace", "metadata.labels", {}, "takes any pod"),
    ("everything_is_in_one_restricted_namespace", "Service", "metadata.namespace", "default", "another namespace"),
    ("selectors_choose_one_version", "Service", "spec.selector", LABELS, "pods of 2 Deployments"),
    ("selectors_choose_one_version", "Deployment", "spec.selector.matchLabels.track", "old", "pods of 0 Deployments"),
    ("selectors_choose_one_version", "PodDisruptionBudget", "spec.selector.matchLabels", LABELS, "of 2 Deployments"),
    ("services_reach_ports", "Service", "spec.ports.0.targetPort", "grpc", "another port"),
    ("services_reach_ports", "Service", "spec.ports.1.appProtocol", None, "HTTP/2"),
    ("grpc_clients_find_every_pod", "Deployment", "spec.template.metadata.labels.track", "other", "no headless"),
    (
        "several_pods_survive_a_drain",
        "PodDisruptionBudget",
        "spec.selector.matchLabels.track",
        "old",
        "has 0 disruption",
    ),
    ("several_pods_survive_a_drain", "PodDisruptionBudget", "spec.maxUnavailable", 0, "never lets a pod go"),
    ("autoscalers_have_a_target", "HorizontalPodAutoscaler", "spec.scaleTargetRef.name", "api", "not there"),
    ("autoscalers_have_a_target", "Deployment", "spec.replicas", 3, "every apply takes back"),
    ("autoscalers_have_a_target", "HorizontalPodAutoscaler", "spec.minReplicas", 1, "no room"),
    (
        "autoscalers_have_a_target",
        "HorizontalPodAutoscaler",
        "spec.behavior.scaleDown.stabilizationWindowSeconds",
        0,
        "the next minute needs",
    ),
    ("autoscalers_know_cpu_and_wait", "HorizontalPodAutoscaler", "spec.metrics.0", None, "does not follow the CPU"),
    (
        "autoscalers_know_cpu_and_wait",
        "HorizontalPodAutoscaler",
        "spec.metrics.1.pods.metric.name",
        "queue_wait",
        "the adapter's rules offer",
    ),
    ("pods_are_spread", "Deployment", "spec.template.spec.topologySpreadConstraints", [], "is spread over []"),
    (
        "pods_are_spread",
        "Deployment",
        "spec.template.spec.topologySpreadConstraints.0.labelSelector.matchLabels",
        LABELS,
        "not its own",
    ),
    (
        "pods_are_spread",
        "Deployment",
        "spec.template.spec.topologySpreadConstraints.0.whenUnsatisfiable",
        "ScheduleAnyway",
        "a zone that is lost",
    ),
    ("network_is_closed", "NetworkPolicy:default-deny", "spec.policyTypes", ["Ingress"], "nothing denies"),
    ("network_is_closed", "NetworkPolicy:ml-api-ingress", "spec.ingress.0.from", None, "everybody"),
    ("network_is_closed", "NetworkPolicy:ml-api-egress", "spec.egress.0.ports", None, "anywhere"),
    (
        "network_is_open_for_those_who_need_it",
        "NetworkPolicy:ml-api-ingress",
        "spec.podSelector.matchLabels",
        {"app": "ml-api"},
        "is reached by {}",
    ),
    ("network_is_open_for_those_who_need_it", "NetworkPolicy:ml-api-egress", "spec.egress.0", None, "reaches ports"),
    ("routes_lead_somewhere", "HTTPRoute", "spec.rules.0.backendRefs.1.name", "ml-api-v2", "not there"),
    ("routes_lead_somewhere", "GRPCRoute", "spec.rules.0.backendRefs.0.port", 8002, "not there"),
    ("routes_lead_somewhere", "HTTPRoute", "spec.rules.0.backendRefs.1.weight", 50, "no percentages"),
    ("routes_lead_somewhere", "GRPCRoute", "spec.hostnames", ["predictions.example.org"], "one host"),
    ("routes_show_what_is_for_users", "HTTPRoute", "spec.rules.0.matches.0.path.value", "/", "not for users"),
]


@pytest.mark.parametrize(("name", "which", "path", "value", "problem"), BROKEN_FOLDERS)
def test_a_policy_sees_a_broken_folder(name: str, which: str, path: str, value: Any, problem: str) -> None:
    manifests = Manifests(CANARY)
    kind, _, called = which.partition(":")
    one = manifests.named(kind, called) if called else manifests.of(kind)[0]
    assert one
    put(path, value)(one)
    policy: ClusterPolicy = getattr(cluster_policies, name)
    assert any(problem in told for told in policy(manifests))


def test_every_policy_is_shown_to_see() -> None:
    shown = {name for name, *_ in (*BROKEN_PODS, *BROKEN_FOLDERS, *BROKEN_WORKERS)} | {"worker_reaches_what_it_needs"}
    assert shown == {policy.__name__ for policy in (*POD_POLICIES, *CLUSTER_POLICIES, *WORKER_POLICIES)}


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("spec.egress", [], "does not reach"),
        ("spec.ingress", [{"from": [{"podSelector": {}}]}], "may call it"),
    ],
)
def test_a_policy_sees_a_worker_that_is_cut_off_or_open(path: str, value: Any, problem: str) -> None:
    manifests = Manifests(LOOP)
    network = manifests.named("NetworkPolicy", "ml-loop-egress")
    assert network
    put(path, value)(network)
    (pod,) = manifests.workers()
    assert any(problem in told for told in worker_policies.worker_reaches_what_it_needs(pod, manifests))
