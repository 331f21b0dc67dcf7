"""The bill of this very environment, and of models in a store: the real inventory, the real validator."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from contract.datasets.iris import IRIS
from deploy import inventory, sbom
from deploy.errors import DeployError
from tests.serving import tiny_models

SITE_PACKAGES = Path(np.__file__).parents[1]
STATUS = (
    "Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:1.2.13\n\n"
    "Package: libc6\nArchitecture: amd64\nDescription: a library\n with: more\nVersion: 2.36-9+deb12u14\n\n"
)


@pytest.fixture
def told(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    folder = tmp_path / "models/iris/v7/mlflow_model/extra_files"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(tiny_models.artifact(IRIS)[1].model_dump_json())
    (folder.parents[1] / "model.yaml").write_text("metadata:\n  training_run:\n    run_id: 1f0c2a9b\n")
    return {
        "python": "3.11.2",
        "system": {"name": "debian", "version": "12"},
        "libraries": inventory.libraries(SITE_PACKAGES),
        "packages": inventory.packages(tmp_path),
        "models": inventory.models(tmp_path / "models"),
    }


def bill(told: dict[str, Any]) -> dict[str, Any]:
    text = make_outputter(
        sbom.bom("predictions", "1.2.3", told), OutputFormat.JSON, SchemaVersion.V1_6
    ).output_as_string()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    made: dict[str, Any] = json.loads(text)
    return made


def test_the_bill_has_libraries_packages_and_models(told: dict[str, Any]) -> None:
    made = bill(told)
    components = {one["bom-ref"]: one for one in made["components"]}
    assert made["metadata"]["component"]["name"] == "predictions"
    numpys = components[f"pkg:pypi/numpy@{version('numpy')}"]
    assert numpys["licenses"]
    assert "pkg:deb/debian/zlib1g@1:1.2.13?arch=amd64&distro=debian-12" in components
    model = components["model:iris@v7"]
    assert model["type"] == "machine-learning-model"
    assert {"name": "ml-prediction-bundle:run", "value": "1f0c2a9b"} in model["properties"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": tiny_models.artifact(IRIS)[1].onnx.sha256}]
    (depends,) = [one for one in made["dependencies"] if one["ref"] == "predictions@1.2.3"]
    assert set(depends["dependsOn"]) == components.keys()


def test_names_are_those_of_the_index(told: dict[str, Any]) -> None:
    names = [one["name"] for one in told["libraries"]]
    assert names == sorted(names)
    assert "typing-extensions" in names
    assert [one["name"] for one in told["packages"]] == ["libc6", "zlib1g"]


def test_an_image_without_packages_has_a_bill_too(told: dict[str, Any], tmp_path: Path) -> None:
    assert inventory.packages(tmp_path / "nowhere") == []
    assert bill({**told, "packages": [], "models": []})


def test_an_image_that_does_not_tell_is_an_error(tmp_path: Path) -> None:
    engine = tmp_path / "podman"
    engine.write_text("#!/bin/sh\necho no such image >&2; exit 125\n")
    engine.chmod(0o755)
    with pytest.raises(DeployError, match=r"run `make image` first. no such image"):
        sbom.inventory(str(engine), "nobody:latest")
