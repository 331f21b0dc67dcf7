import re
import subprocess
import sys
from pathlib import Path

import bentoml
import pytest

from deploy import image
from deploy.errors import DeployError
from deploy.image import Build
from local_service import PROJECT


def built_by(engine: str, **others: object) -> str:
    build = Build(
        engine=engine,
        bento="ml_prediction_bundle:latest",
        name="predictions",
        version="1.2.3",
        revision="abc",
        models=["housing:v1", "iris:v2"],
        **others,  # type: ignore[arg-type]  # each case has its own
    )
    return " ".join(build.command(Path("/somewhere/identifier")))


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_the_command_has_tags_and_labels(engine: str) -> None:
    command = built_by(engine)
    assert f"containerize ml_prediction_bundle:latest --backend {engine} " in command
    assert "--image-tag predictions:1.2.3 --image-tag predictions:latest" in command
    for argument in ("VERSION=1.2.3", "REVISION=abc", "MODELS=housing:v1,iris:v2"):
        assert f"--opt build-arg={argument}" in command
    assert "BASE_IMAGE" not in command


def test_a_format_with_a_place_for_the_health_check() -> None:
    assert "format=docker" in built_by("podman")
    assert "format=docker" in built_by("buildah")
    assert "format=" not in built_by("docker")


def test_the_base_secrets_and_options_are_passed_on(tmp_path: Path) -> None:
    command = built_by("podman", base="mine:1", secrets={"ca-bundle": tmp_path / "ca.pem"}, options=["network=host"])
    assert "--opt build-arg=BASE_IMAGE=mine:1" in command
    assert f"--opt secret=id=ca-bundle,src={tmp_path}/ca.pem" in command
    assert command.endswith("--opt network=host")


def test_secrets_are_the_files_that_are_there(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("certificate")
    environment = {"SSL_CERT_FILE": str(bundle), "PIP_CONFIG_FILE": str(tmp_path / "none")}
    assert image.secrets(environment) == {"ca-bundle": bundle}
    assert image.secrets({"SSL_CERT_FILE": ""}) == {}


def test_the_names_of_the_secrets_are_those_of_the_template() -> None:
    template = (PROJECT / "deploy" / "Dockerfile.j2").read_text()
    assert set(re.findall(r"type=secret,id=([\w-]+)", template)) == image.SECRETS.keys()


def test_a_missing_bento_is_told() -> None:
    with pytest.raises(DeployError, match=r"no Bento nobody:latest. Run `make bento`"):
        image.models("nobody:latest")


def test_a_build_that_fails_is_told_though_bentoml_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BentoML prints the error of the engine and ends with 0."""
    (tmp_path / "buildah").write_text("#!/bin/sh\necho no space left >&2; exit 1\n")
    (tmp_path / "buildah").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    context = tmp_path / "context"
    context.mkdir()
    (context / "service.py").write_text("import bentoml\n\n@bentoml.service\nclass One:\n    pass\n")
    subprocess.run(
        [sys.executable, "-m", "bentoml", "build", "--version=1", "--name=one", "service:One"],
        cwd=context,
        check=True,
    )
    assert str(bentoml.get("one:1").tag) == "one:1"
    build = Build("buildah", "one:1", "predictions", "1", "abc", [])
    with pytest.raises(DeployError, match="buildah did not build predictions:1"):
        build.run()


def test_the_revision_is_a_commit() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", image.revision())


def test_the_image_gets_what_the_bento_includes() -> None:
    """The template copies from the Bento: what it names is there."""
    template = (PROJECT / "deploy" / "Dockerfile.j2").read_text()
    included = (PROJECT / "bentofile.yaml").read_text()
    for name in re.findall(r"^COPY src/(\S+)", template, re.MULTILINE):
        assert f"  - /{name}" in included
