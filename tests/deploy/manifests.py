"""What ``kubectl kustomize`` makes of our folders, and how a policy asks for it."""

import copy
import math
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from local_service import PROJECT

KUBERNETES = PROJECT / "deploy" / "kubernetes"
FOLDERS = ("overlays/development", "overlays/production", "overlays/canary", "overlays/loop", "kserve")
"""What somebody applies."""
Object = dict[str, Any]
NAME = "app.kubernetes.io/name"
WORKER = "ml-loop"
"""What the worker of the loop is called; all other pods serve."""


@cache
def kustomized(folder: str | Path) -> tuple[Object, ...]:
    """The objects of a folder (below ``KUBERNETES``, or absolute), as ``kubectl apply -k`` would send them."""
    # The one that is locked, not another on PATH.
    kubectl = Path(sysconfig.get_path("scripts")) / "kubectl"
    ended = subprocess.run([kubectl, "kustomize", KUBERNETES / folder], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    # A deprecated field, most often.
    assert not ended.stderr, ended.stderr
    return tuple(yaml.safe_load_all(ended.stdout))


@dataclass(frozen=True)
class Pod:
    """The pods that a Deployment or an InferenceService makes."""

    name: str
    labels: dict[str, str]
    spec: Object
    most_missing: int | str
    """Of a rolling update: ``maxUnavailable``."""

    @property
    def container(self) -> Object:
        (container,) = self.spec["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def workers(self) -> int:
        return math.ceil(cores(self.container["resources"]["limits"]["cpu"]))

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}


class Manifests:
    """The objects of one folder; a test may change them."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.objects: list[Object] = copy.deepcopy([*kustomized(folder)])

    def of(self, kind: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] == kind]

    def named(self, kind: str, name: str) -> Object | None:
        return next((one for one in self.of(kind) if one["metadata"]["name"] == name), None)

    def deployments(self) -> list[Object]:
        """Those that serve."""
        return [one for one in self.of("Deployment") if one["metadata"]["labels"][NAME] != WORKER]

    def workers(self) -> Iterator[Pod]:
        """The pods of the worker of the loop."""
        for one in self.of("Deployment"):
            template = one["spec"]["template"]
            if template["metadata"]["labels"][NAME] == WORKER:
                yield Pod(one["metadata"]["name"], template["metadata"]["labels"], template["spec"], 1)

    def pods(self) -> Iterator[Pod]:
        """The pods that serve."""
        for deployment in self.deployments():
            template = deployment["spec"]["template"]
            missing = deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"]
            yield Pod(deployment["metadata"]["name"], template["metadata"]["labels"], template["spec"], missing)
        for service in self.of("InferenceService"):
            predictor = service["spec"]["predictor"]
            yield Pod(service["metadata"]["name"], predictor["labels"], predictor, 0)

    def selected(self, selector: dict[str, str]) -> list[Pod]:
        return [pod for pod in self.pods() if selector.items() <= pod.labels.items()]

    def settings(self, pod: Pod) -> dict[str, str]:
        """The variables of its container that have a value here, the later of a name as Kubernetes takes it."""
        found: dict[str, str] = {}
        for source in pod.container.get("envFrom", ()):
            if "configMapRef" in source:
                config = self.named("ConfigMap", source["configMapRef"]["name"])
                assert config, f"{pod.name} reads a ConfigMap that is not there"
                found |= config["data"]
        return found | {one["name"]: one["value"] for one in pod.container["env"] if "value" in one}


def cores(quantity: str) -> float:
    """CPU of ``2`` or ``100m``."""
    return float(quantity.removesuffix("m")) / 1000 if quantity.endswith("m") else float(quantity)


def megabytes(quantity: str) -> float:
    """10⁶ bytes of ``512Mi`` or ``1Gi``."""
    for unit, size in (("Mi", 2**20), ("Gi", 2**30)):
        if quantity.endswith(unit):
            return float(quantity.removesuffix(unit)) * size / 1e6
    raise ValueError(f"{quantity}: write memory in Mi or Gi")
