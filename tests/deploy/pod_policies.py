"""What holds for every pod, wherever it is applied. A policy yields what breaks it, in a sentence."""

import re
from collections.abc import Iterator

from serving.settings import Settings
from tests.deploy.manifests import NAME, WORKER, Manifests, Pod, cores, megabytes

BENTOML_USER, WORKERS_USER = 1034, 1000
"""Who the images' files belong to: BentoML's user; the worker's own."""
WORKER_MEGABYTES = 200
"""Of a worker; the process that starts them is counted as one more."""
IMAGE_DRAIN_SECONDS = 5.0
"""How long the image answers on after SIGTERM, until it stops listening."""
SPARE_SECONDS = 5
"""To end in, after the last answer."""
OTHER_SETTINGS = {"BENTOML_DO_NOT_TRACK", "BENTOML_HOME", "HOME", "PROTOCOL", "DRAIN_SECONDS"}
"""Variables that others than our settings read: BentoML, Python's libraries, KServe; the image's entry."""
SECRET = re.compile(r"KEY|TOKEN|PASSWORD|SECRET|HEADERS|DATABASE_URL|CREDENTIAL")
TEMPORARY = "/tmp"  # noqa: S108 - the pod's own
VERSION = re.compile(r":v?\d+\.\d+\.\d+$|@sha256:[0-9a-f]{64}$")
RESTRICTED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"}
RESTRICTED_VOLUMES |= {"secret"}


def image_has_a_version(pod: Pod, manifests: Manifests) -> Iterator[str]:
    image = pod.container["image"]
    if manifests.folder.endswith("development"):
        # What was built here last, which no registry has.
        if not image.endswith(":latest") or pod.container.get("imagePullPolicy") != "IfNotPresent":
            yield f"{image} is not the one that was built here"
    elif not VERSION.search(image):
        yield f"{image} is neither a version nor a digest"


def probes_ask_what_they_should(pod: Pod, _: Manifests) -> Iterator[str]:
    asked = {
        "startupProbe": ("/readyz", "/v2/health/ready"),
        "readinessProbe": ("/readyz", "/v2/health/ready"),
        "livenessProbe": ("/livez", "/v2/health/live"),
    }
    for name, paths in asked.items():
        probe = pod.container.get(name)
        if probe is None:
            yield f"there is no {name}"
            continue
        if probe["httpGet"]["path"] not in paths:
            yield f"{name} asks {probe['httpGet']['path']}"
        if probe["httpGet"]["port"] not in {"http", 8000}:
            yield f"{name} asks port {probe['httpGet']['port']}"
        if probe["timeoutSeconds"] < 2:
            yield f"{name} has no patience with a busy worker"
    ready, alive = pod.container.get("readinessProbe"), pod.container.get("livenessProbe")
    if ready and alive and patience(alive) < 3 * patience(ready):
        yield "a pod is killed before it had time to recover without requests"


def patience(probe: dict[str, int]) -> int:
    """Seconds until a probe that fails has a consequence."""
    return probe["periodSeconds"] * probe["failureThreshold"]


def resources_fit_the_workers(pod: Pod, _: Manifests) -> Iterator[str]:
    requests, limits = (pod.container["resources"].get(name, {}) for name in ("requests", "limits"))
    if missing := [name for name in ("cpu", "memory", "ephemeral-storage") if not {name} <= requests.keys() & limits]:
        yield f"no request or no limit of {', '.join(missing)}"
        return
    if requests["memory"] != limits["memory"]:
        yield "memory that is not requested may be taken away"
    if cores(requests["cpu"]) > cores(limits["cpu"]):
        yield "more CPU is requested than allowed"
    needed = (pod.workers + 1) * WORKER_MEGABYTES
    if megabytes(limits["memory"]) < needed:
        yield f"{pod.workers} workers need {needed} MB, and the limit is {limits['memory']}"
    scratch = sum(megabytes(volume["emptyDir"]["sizeLimit"]) for volume in pod.spec["volumes"] if "emptyDir" in volume)
    if scratch > megabytes(limits["ephemeral-storage"]):
        yield "the volumes may grow beyond the limit of the disk, by which the pod would be evicted"


def workers_follow_the_limit(pod: Pod, _: Manifests) -> Iterator[str]:
    workers = [one for one in pod.container["env"] if one["name"] == "WORKERS"]
    source = {"containerName": pod.container["name"], "resource": "limits.cpu", "divisor": "1"}
    if [one.get("valueFrom") for one in workers] != [{"resourceFieldRef": source}]:
        yield "WORKERS is not taken from the limit of CPU"


def pod_is_restricted(pod: Pod, _: Manifests) -> Iterator[str]:
    """The pod security standard `restricted`, and a file system that cannot be written."""
    own, container = pod.spec["securityContext"], pod.container["securityContext"]
    user = WORKERS_USER if pod.labels[NAME] == WORKER else BENTOML_USER
    demands = {
        "it runs as root": own.get("runAsNonRoot") is True and own.get("runAsUser") == user,
        "no seccomp profile": own.get("seccompProfile") == {"type": "RuntimeDefault"},
        "its processes may gain privileges": container.get("allowPrivilegeEscalation") is False,
        "it has capabilities": container.get("capabilities") == {"drop": ["ALL"]},
        "its root file system can be written": container.get("readOnlyRootFilesystem") is True,
        "it is privileged": not container.get("privileged"),
        "it shares the host's namespaces": not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys(),
        "it takes a port of the host": not any("hostPort" in port for port in pod.container.get("ports", ())),
        "it mounts what a pod may not": all(
            (volume.keys() - {"name"}) <= RESTRICTED_VOLUMES for volume in pod.spec["volumes"]
        ),
    }
    yield from (sentence for sentence, holds in demands.items() if not holds)


def what_is_written_has_a_place(pod: Pod, manifests: Manifests) -> Iterator[str]:
    empty = {volume["name"] for volume in pod.spec["volumes"] if "emptyDir" in volume}
    places = [mount["mountPath"] for mount in pod.container["volumeMounts"] if mount["name"] in empty]
    if TEMPORARY not in places:
        yield f"{TEMPORARY} cannot be written"
    settings = manifests.settings(pod)
    for name in ("BENTOML_HOME", "HOME", "STATE_DIR"):
        path = settings.get(name, "")
        if not any(path == place or path.startswith(f"{place}/") for place in places):
            yield f"{name}={path} cannot be written"


def pod_has_an_identity_without_rights(pod: Pod, manifests: Manifests) -> Iterator[str]:
    account = manifests.named("ServiceAccount", pod.spec.get("serviceAccountName", "default"))
    if account is None:
        yield "its service account is not in the manifests, or the default one"
    elif account.get("automountServiceAccountToken") is not False:
        yield "its service account gives a token"
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "it mounts a token of the cluster's API"
    if roles := [one["kind"] for one in manifests.objects if one["kind"].endswith("Binding")]:
        yield f"somebody has rights by a {roles[0]}"


def no_variable_comes_from_other_services(pod: Pod, _: Manifests) -> Iterator[str]:
    if pod.spec.get("enableServiceLinks") is not False:
        yield "a Service called api would set API_PORT to an address"


def it_has_time_to_leave(pod: Pod, manifests: Manifests) -> Iterator[str]:
    """A rolling update loses no request: a new pod first, then time to be forgotten, then time to answer."""
    settings = manifests.settings(pod)
    pause = pod.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    if pause < 5:
        yield "SIGTERM comes before the proxies know that the pod leaves"
    drain = float(settings.get("DRAIN_SECONDS", IMAGE_DRAIN_SECONDS))
    needed = pause + drain + float(settings["TIMEOUT_SECONDS"]) + SPARE_SECONDS
    if pod.spec.get("terminationGracePeriodSeconds", 30) < needed:
        yield f"it is killed before {needed:g} s, when it may still answer"
    if pod.most_missing != 0:
        yield "an old pod leaves before a new one is ready"


def settings_are_ours(pod: Pod, manifests: Manifests) -> Iterator[str]:
    settings = manifests.settings(pod)
    if unknown := settings.keys() - Settings.model_fields.keys() - OTHER_SETTINGS:
        yield f"nobody reads {', '.join(sorted(unknown))}"
    parsed = Settings.from_environment(settings)
    if {parsed.API_PORT, parsed.GRPC_PORT} != set(pod.ports.values()):
        yield "the container's ports are not those that the settings say"


def secrets_are_references(pod: Pod, manifests: Manifests) -> Iterator[str]:
    if told := sorted(name for name in manifests.settings(pod) if SECRET.search(name)):
        yield f"{', '.join(told)} stands in the manifests"
    if manifests.of("Secret"):
        yield "a Secret is in the manifests"
    for source in pod.container["envFrom"]:
        if "secretRef" in source and source["secretRef"].get("optional") is not True:
            yield f"without the Secret {source['secretRef']['name']} nothing starts"


POD_POLICIES = (
    image_has_a_version,
    probes_ask_what_they_should,
    resources_fit_the_workers,
    workers_follow_the_limit,
    pod_is_restricted,
    what_is_written_has_a_place,
    pod_has_an_identity_without_rights,
    no_variable_comes_from_other_services,
    it_has_time_to_leave,
    settings_are_ours,
    secrets_are_references,
)
