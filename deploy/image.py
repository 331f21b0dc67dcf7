"""``make image``: the newest Bento as an image, by whichever engine this machine has.

It calls ``bentoml containerize``, and prints the command. What it adds are the tags, the labels, the base and, where
the machine has its own, the certificates and the configuration of pip.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import bentoml

from deploy import engines
from deploy.errors import DeployError
from local_service import PROJECT

BENTO = "ml_prediction_bundle:latest"
SECRETS = {"ca-bundle": "SSL_CERT_FILE", "pip-config": "PIP_CONFIG_FILE"}
"""Secrets of the build, as ``Dockerfile.j2`` names them, and the variables that name their files."""


@dataclass(frozen=True)
class Build:
    """One image to build.

    Attributes:
        engine: docker, podman or buildah.
        bento: tag of the Bento.
        name: of the image, without a tag.
        version: its tag beside ``latest``, and its label.
        revision: the commit.
        models: tags of the Bento's models.
        base: image to build on; empty for the one of ``Dockerfile.j2``.
        secrets: files by the secret's name.
        options: more options of the engine's build, such as ``network=host``.
    """

    engine: str
    bento: str
    name: str
    version: str
    revision: str
    models: Sequence[str]
    base: str = ""
    secrets: Mapping[str, Path] = field(default_factory=dict)
    options: Sequence[str] = ()

    @property
    def tags(self) -> list[str]:
        """``name:version`` and ``name:latest``."""
        return [f"{self.name}:{self.version}", f"{self.name}:latest"]

    def command(self, identifier: Path) -> list[str]:
        """The call of ``bentoml containerize``, which writes the image's identifier to a file once it is built."""
        options = [
            f"build-arg=VERSION={self.version}",
            f"build-arg=REVISION={self.revision}",
            f"build-arg=MODELS={','.join(self.models)}",
            f"iidfile={identifier}",
        ]
        if self.base:
            options.append(f"build-arg=BASE_IMAGE={self.base}")
        options += [f"secret=id={name},src={path}" for name, path in self.secrets.items()]
        if self.engine != "docker":
            # Their own format has no place for the health check; layers are kept, so that a new model is a small build.
            options += ["format=docker", "layers"]
        return [
            *(sys.executable, "-m", "bentoml", "containerize", self.bento, "--backend", self.engine),
            *(word for tag in self.tags for word in ("--image-tag", tag)),
            *(word for option in (*options, *self.options) for word in ("--opt", option)),
        ]

    def run(self) -> str:
        """Build it; return its identifier.

        Raises:
            DeployError: the engine failed; what it said stands above.
        """
        # BentoML 1.4.40 copies the Bento into a temporary directory and then refuses the template in it, unless that
        # lies under the working directory: https://github.com/bentoml/BentoML/issues/5566.
        with tempfile.TemporaryDirectory(prefix="image-") as directory:
            identifier = Path(directory) / "identifier"
            command = self.command(identifier)
            print(shlex.join(command), flush=True)  # noqa: T201 - what a person would type
            environment = {**os.environ, "TMPDIR": directory}
            # The words are ours and an operator's.
            ended = subprocess.run(command, cwd=directory, env=environment, check=False)  # noqa: S603
            # It ends with 0 also after a build that failed.
            if ended.returncode or not identifier.exists():
                raise DeployError(f"{self.engine} did not build {self.tags[0]}: its own words are above.")
            return identifier.read_text().strip()


def version() -> str:
    """The project's version."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def revision() -> str:
    """The commit, with ``-dirty`` if the tree differs from it; ``unknown`` outside a repository."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],  # noqa: S607 - found on PATH
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def secrets(environment: Mapping[str, str]) -> dict[str, Path]:
    """The files that the build needs to reach the package index as this machine does."""
    files = {name: Path(environment[variable]) for name, variable in SECRETS.items() if environment.get(variable)}
    return {name: path.resolve() for name, path in files.items() if path.is_file()}


def models(bento: str) -> list[str]:
    """The tags of the models in a Bento.

    Raises:
        DeployError: there is no such Bento.
    """
    try:
        found = bentoml.get(bento)
    except bentoml.exceptions.NotFound as error:
        raise DeployError(f"There is no Bento {bento}. Run `make bento`.") from error
    return [str(model.tag) for model in found.info.all_models]


def main() -> None:
    """Build the image that the command line describes."""
    parser = argparse.ArgumentParser(prog="python -m deploy.image", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bento", default=BENTO, help="tag of the Bento (default: %(default)s)")
    parser.add_argument("--image", default="ml-prediction-bundle", help="name of the image (default: %(default)s)")
    parser.add_argument(
        "--tag", default=version(), help="its version beside latest (default: the project's, %(default)s)"
    )
    parser.add_argument("--base-image", default="", help="Debian with Python to build on (default: Dockerfile.j2's)")
    parser.add_argument(
        "--engine",
        default=os.environ.get(engines.VARIABLE, ""),
        help=f"one of {', '.join(engines.ENGINES)} (default: {engines.VARIABLE}, or the first that works)",
    )
    parser.add_argument("--opt", action="append", default=[], help="an option of the engine's build, as network=host")
    wanted = parser.parse_args()
    try:
        build = Build(
            engine=engines.found(wanted.engine),
            bento=wanted.bento,
            name=wanted.image,
            version=wanted.tag,
            revision=os.environ.get("REVISION") or revision(),
            models=models(wanted.bento),
            base=wanted.base_image,
            secrets=secrets(os.environ),
            options=wanted.opt,
        )
        print(f"{' '.join(build.tags)}: {build.run()}")  # noqa: T201 - what a person wants to know
    except DeployError as error:
        sys.exit(f"make image: {error}")


if __name__ == "__main__":
    main()
