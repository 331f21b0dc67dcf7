"""A newcomer's machine: a fresh clone in a clean folder, empty homes, only the documentation's commands."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from local_service import PROJECT, free_port
from tests.integration.small_project import SmallProject
from tests.waiting import answers, wait_until

INHERITED = ("PATH", "LANG", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "PIP_CERT", "UV_CACHE_DIR", "PIP_FIND_LINKS")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)


@dataclass
class Newcomer:
    """Somebody with a clone and a shell."""

    clone: Path
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def variables(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        # The package cache stays warm: what is tested is the project, not the network.
        cache = os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
        return {**inherited, "HOME": str(self.home), "UV_CACHE_DIR": cache, **self.environment}

    def run(self, command: str, *, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """A command line, as typed in the clone with the virtual environment activated."""
        ended = subprocess.run(
            ["bash", "-c", f"[ ! -f .venv/bin/activate ] || source .venv/bin/activate; {command}"],
            cwd=self.clone,
            env=self.variables(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and ended.returncode:
            pytest.fail(f"{command}: exit {ended.returncode}\n{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}")
        return ended

    @contextmanager
    def serving(self, command: str = "make serve", *, within: float = 600) -> Iterator[str]:
        """The URL of a service that a command starts and serves until the block ends."""
        port = free_port()
        log = self.home / "serve.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                ["bash", "-c", f"[ ! -f .venv/bin/activate ] || source .venv/bin/activate; exec {command}"],
                cwd=self.clone,
                env={**self.variables(), "API_HOST": "127.0.0.1", "API_PORT": str(port), "GRPC_PORT": str(free_port())},
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until_ready(process, url, within, log)
            yield url
        finally:
            # Ctrl-C reaches the whole foreground group, as it does in a terminal.
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=60)


def wait_until_ready(process: subprocess.Popen[bytes], url: str, within: float, log: Path) -> None:
    def printed() -> str:
        return log.read_text()[-4000:]

    wait_until(
        lambda: process.poll() is not None or answers(f"{url}/readyz"), lambda: f"it is ready:\n{printed()}", within
    )
    assert process.poll() is None, f"it stopped:\n{printed()}"


def clone_here(root: Path) -> Newcomer:
    """A clone of the work tree as it is, and an empty home."""
    clone = root / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (PROJECT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, clone / name)
    (root / "home").mkdir()
    person = Newcomer(clone, root / "home")
    person.run(
        "git init -q && git add -A && git -c user.name=newcomer -c user.email=newcomer@example.org commit -qm clone"
    )
    return person


@contextmanager
def built_once(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, bool]]:
    """A folder that all test processes share, and whether it is still to be filled by the block.

    The first process that asks fills it, and the others wait until it has.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of which each process has a part
    root, done = folder / name, folder / f"{name}.done"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() and root.exists():
            pytest.fail(f"{root} could not be made in another test process")
        yield root, not done.exists()
        done.touch()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    """A clone in which the README's first command has answered once; each test process copies it."""
    with built_once("trained", tmp_path_factory) as (root, empty):
        if empty:
            with clone_here(root).serving("make serve", within=1200):
                pass
    return Newcomer(root / "clone", root / "home")


@pytest.fixture(scope="session")
def served_once(trained: Newcomer, tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    """A newcomer of this process's own, after the README's first command has answered once."""
    root = tmp_path_factory.mktemp("newcomer")
    own = Newcomer(root / "clone", root / "home")
    shutil.copytree(trained.home, own.home, symlinks=True)
    shutil.copytree(trained.clone, own.clone, symlinks=True, ignore=shutil.ignore_patterns(".venv"))
    link_environment(own.clone, trained.clone / ".venv")
    own.run("git status")  # git knows files by their place, too
    return own


def link_environment(clone: Path, environment: Path) -> None:
    """Give a clone the virtual environment of another one."""
    (clone / ".venv").symlink_to(environment)
    with (clone / ".git/info/exclude").open("a") as exclude:
        print(".venv", file=exclude)  # .gitignore names the folder, not a link to it


@pytest.fixture(scope="session")
def small_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallProject]:
    """The project with small models that are trained, for all test processes. Tests change copies of it."""
    with built_once("small", tmp_path_factory) as (root, empty):
        made = SmallProject.trained(root) if empty else SmallProject(root)
    yield made
    made.engine.dispose()


@pytest.fixture(scope="module")
def trained_small(small_project: SmallProject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """Somebody who has committed small models: for what does not depend on the models that are shipped."""
    root = tmp_path_factory.mktemp("small")
    with small_project.copied(root) as copy:
        link_environment(copy.folder, Path(sys.prefix))
        (root / "home").mkdir()
        person = Newcomer(copy.folder, root / "home", {"BENTOML_HOME": str(copy.store)})
        person.run("git -c user.name=somebody -c user.email=somebody@example.org commit -qam 'small models'")
        yield person
