"""The container engines that may be on a machine."""

import shutil
import subprocess
from collections.abc import Callable, Iterable

from deploy.errors import DeployError

ENGINES = ("docker", "podman", "buildah")
"""Those that ``bentoml containerize`` knows and that are asked for, in this order."""
RUNNERS = ("docker", "podman")
"""Those that can run an image too; podman shares its images with buildah."""

VARIABLE = "CONTAINER_ENGINE"
"""Of the environment: names the engine, where there are several."""

Answers = Callable[[str], bool]


def found(wanted: str | None = None, among: Iterable[str] = ENGINES, answers: Answers | None = None) -> str:
    """The first engine that answers, or the one that is wanted.

    Args:
        wanted: its name; None or empty for any.
        among: names, in the order of preference.
        answers: says whether an engine is there and works; by default it is asked.

    Raises:
        DeployError: none answers.
    """
    answers = answers or _answers
    names = [wanted] if wanted else list(among)
    for name in names:
        if answers(name):
            return name
    raise DeployError(
        f"No container engine answers ({', '.join(names)}). Install one of {', '.join(among)}; of docker, start the "
        "daemon (`docker info` says what is missing)."
    )


def _answers(name: str) -> bool:
    """Whether the engine is installed and works; docker's client alone, without its daemon, does not."""
    if shutil.which(name) is None:
        return False
    return subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0  # noqa: S603 - our engines
