"""The overlay of ``docs/access.md`` that mounts keys, rendered."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from local_service import PROJECT
from serving.settings import Settings
from tests.deploy.manifests import KUBERNETES, Object, kustomized
from tests.deploy.test_schemas import RELEASES, check

DOCUMENT = (PROJECT / "docs" / "access.md").read_text()


@pytest.fixture
def objects(tmp_path: Path) -> tuple[Object, ...]:
    (overlay,) = re.findall(r"```yaml\n# kustomization.yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    production = os.path.relpath(KUBERNETES / "overlays" / "production", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(overlay.replace("../production", production))
    return kustomized(tmp_path)


def only(objects: tuple[Object, ...], kind: str) -> Any:
    (one,) = (one for one in objects if one["kind"] == kind)
    return one


@pytest.mark.parametrize("release", RELEASES)
def test_it_is_what_the_release_knows(objects: tuple[Object, ...], release: str) -> None:
    for kind in ("Deployment", "ServiceMonitor"):
        check(only(objects, kind), release)


def test_each_kind_of_key_is_in_a_file_of_the_secret(objects: tuple[Object, ...]) -> None:
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    files = {one["name"]: Path(one["value"]) for one in container["env"] if one["name"].endswith("_KEYS_FILE")}
    # The public keys of models are no secret.
    wanted = {name for name in Settings.model_fields if name.endswith("_KEYS_FILE")} - {"MODEL_PUBLIC_KEYS_FILE"}
    assert files.keys() == wanted
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == "keys")
    # With subPath the kubelet would never update it.
    assert mount == {"name": "keys", "mountPath": "/etc/keys", "readOnly": True}
    (volume,) = (one for one in pod["volumes"] if one["name"] == "keys")
    made = re.search(r"create secret generic ([\w-]+) (--from-file.*)", DOCUMENT)
    assert made
    assert volume["secret"] == {"secretName": made[1]}
    assert {f"{mount['mountPath']}/{name}" for name in re.findall(r"--from-file=(\S+)", made[2])} == {
        str(file) for file in files.values()
    }


def test_prometheus_reads_its_key_from_a_secret(objects: tuple[Object, ...]) -> None:
    metrics, ready = only(objects, "ServiceMonitor")["spec"]["endpoints"]
    assert (metrics["path"], ready["path"]) == ("/metrics", "/readyz")
    name = metrics["authorization"]["credentials"]["name"]
    assert f"`{name}`" in DOCUMENT
    assert "authorization" not in ready
