"""What holds for the pod of the loop's worker. A policy yields what breaks it, in a sentence."""

from collections.abc import Iterator

from loop.settings import LoopSettings
from tests.deploy.cluster_policies import WORKERS_PORTS
from tests.deploy.manifests import Manifests, Pod, cores, megabytes
from tests.deploy.pod_policies import (
    SECRET,
    TEMPORARY,
    image_has_a_version,
    no_variable_comes_from_other_services,
    pod_has_an_identity_without_rights,
    pod_is_restricted,
)

PROJECT = "/project"
GIVE_BACK_SECONDS = 45
"""Time in which the worker ends a pipeline and gives its job back."""
OTHER_SETTINGS = {"BENTOML_HOME", "HOME", "MLFLOW_TRACKING_URI"}


def one_worker_has_the_volume(pod: Pod, manifests: Manifests) -> Iterator[str]:
    deployment = manifests.named("Deployment", pod.name)
    assert deployment
    if deployment["spec"].get("replicas") != 1 or deployment["spec"]["strategy"]["type"] != "Recreate":
        yield "two pods would want one volume"
    claims = [
        one["persistentVolumeClaim"]["claimName"] for one in pod.spec["volumes"] if "persistentVolumeClaim" in one
    ]
    if [manifests.named("PersistentVolumeClaim", name) for name in claims].count(None) or not claims:
        yield "its project is on no volume of ours"


def worker_can_write_where_it_works(pod: Pod, _: Manifests) -> Iterator[str]:
    places = {mount["mountPath"] for mount in pod.container["volumeMounts"]}
    if not {PROJECT, TEMPORARY} <= places or pod.container["workingDir"] != PROJECT:
        yield f"{PROJECT} or {TEMPORARY} cannot be written"
    if pod.spec["securityContext"].get("fsGroup") != pod.spec["securityContext"]["runAsUser"]:
        yield "its volume belongs to somebody else"


def worker_may_be_restarted(pod: Pod, _: Manifests) -> Iterator[str]:
    probe = pod.container.get("livenessProbe", {})
    if probe.get("exec", {}).get("command", [])[-2:] != ["loop.worker", "--seen"]:
        yield "a worker that hangs is not noticed"
    elif probe["periodSeconds"] * probe["failureThreshold"] < 900:
        yield "it is restarted while it waits for a database"
    if pod.spec.get("terminationGracePeriodSeconds", 30) < GIVE_BACK_SECONDS:
        yield "it is killed before it has given its job back"


def worker_has_room_to_train(pod: Pod, _: Manifests) -> Iterator[str]:
    requests, limits = pod.container["resources"]["requests"], pod.container["resources"]["limits"]
    if requests["memory"] != limits["memory"] or megabytes(limits["memory"]) < 2000 or cores(limits["cpu"]) < 1:
        yield "training needs 2 GB and a core"
    scratch = sum(megabytes(one["emptyDir"]["sizeLimit"]) for one in pod.spec["volumes"] if "emptyDir" in one)
    if scratch > megabytes(limits["ephemeral-storage"]):
        yield "its volumes may grow beyond the limit of the disk"


def worker_reads_settings_that_are_there(pod: Pod, manifests: Manifests) -> Iterator[str]:
    settings = manifests.settings(pod)
    if unknown := settings.keys() - LoopSettings.model_fields.keys() - OTHER_SETTINGS:
        yield f"nobody reads {', '.join(sorted(unknown))}"
    if told := sorted(name for name in settings if SECRET.search(name)):
        yield f"{', '.join(told)} stands in the manifests"
    # Without the ledger there is nothing to do: the pod waits for its Secret.
    if [one.get("secretRef") for one in pod.container["envFrom"]] != [{"name": "ml-api-secrets"}]:
        yield "it does not read the service's DATABASE_URL"


def worker_reaches_what_it_needs(pod: Pod, manifests: Manifests) -> Iterator[str]:
    chosen = [
        one["spec"]
        for one in manifests.of("NetworkPolicy")
        if one["spec"]["podSelector"].get("matchLabels", {"": ""}).items() <= pod.labels.items()
    ]
    if any(one.get("ingress") for one in chosen):
        yield "somebody may call it"
    if {port["port"] for one in chosen for rule in one.get("egress", []) for port in rule["ports"]} != WORKERS_PORTS:
        yield "it does not reach ledger, registry and names, or more"


WORKER_POLICIES = (
    one_worker_has_the_volume,
    worker_can_write_where_it_works,
    worker_may_be_restarted,
    worker_has_room_to_train,
    worker_reads_settings_that_are_there,
    worker_reaches_what_it_needs,
)
SHARED_POLICIES = (
    image_has_a_version,
    no_variable_comes_from_other_services,
    pod_has_an_identity_without_rights,
    pod_is_restricted,
)
"""Of all pods; that they see what is broken is shown on those that serve."""
