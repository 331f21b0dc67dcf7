"""The image in podman, as carefully as a cluster would run it, and HAProxy before two of them."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_service import PROJECT, free_port
from tests.waiting import answers, wait_until

VARIABLE = "CONTAINERS_CONF"
CONFIGURATION = Path(__file__).with_name("containers.conf")
BASE = "localhost/python-base:3.11"
MEMORY = 512 * 1024 * 1024
GRACE_SECONDS = 60
"""After it, podman kills, and the exit code is 137."""
HARDENED = (
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    f"--memory={MEMORY}",
    "--pull=never",
)


def podman(*arguments: str, check: bool = True) -> str:
    """What podman prints."""
    ended = subprocess.run(
        ["podman", *arguments],
        env={**os.environ, VARIABLE: str(CONFIGURATION)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0 or not check, f"podman {' '.join(arguments)}: {ended.stderr}"
    return ended.stdout.strip()


@dataclass(frozen=True)
class Container:
    """A container that runs the service on ports of this machine's loopback address."""

    name: str
    http_port: int
    grpc_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def http_address(self) -> str:
        return f"127.0.0.1:{self.http_port}"

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def python(self, code: str) -> str:
        """What a line of Python prints in the container, as its user."""
        return podman("exec", self.name, "python", "-c", code)

    def inspect(self) -> dict[str, Any]:
        (told,) = json.loads(podman("container", "inspect", self.name))
        return dict(told)

    def wait_until_ready(self) -> None:
        wait_until(lambda: is_ready(self.url), lambda: f"{self.name} is not ready: {self.logs()}")

    def stop(self) -> int:
        """Its exit code, after SIGTERM and the time that it takes."""
        podman("stop", f"--time={GRACE_SECONDS}", self.name)
        return int(self.inspect()["State"]["ExitCode"])

    def logs(self) -> str:
        return podman("logs", self.name, check=False)[-3000:]


@contextmanager
def running(image: str, **environment: str) -> Iterator[Container]:
    """A container of an image, hardened; it may not be ready yet."""
    ports = {"API_PORT": str(free_port()), "GRPC_PORT": str(free_port())}
    settings = {"API_HOST": "127.0.0.1", **ports, **environment}
    variables = [f"--env={name}={value}" for name, value in settings.items()]
    name = podman("run", "--detach", *HARDENED, *variables, image)
    try:
        yield Container(name, int(settings["API_PORT"]), int(settings["GRPC_PORT"]))
    finally:
        podman("rm", "--force", "--time=0", name, check=False)


def is_ready(url: str) -> bool:
    return answers(f"{url}/readyz")


@contextmanager
def load_balancer(blue: Container, green: tuple[str, str], log: Path) -> Iterator[tuple[str, str]]:
    """HAProxy with the committed configuration; its addresses for HTTP and gRPC.

    ``green`` has the addresses, for HTTP and gRPC, at which the second version will be.
    """
    http, grpc = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    addresses = {
        "HTTP_ADDRESS": http,
        "GRPC_ADDRESS": grpc,
        "BLUE_HTTP": blue.http_address,
        "BLUE_GRPC": blue.grpc_address,
        "GREEN_HTTP": green[0],
        "GREEN_GRPC": green[1],
    }
    command = ["haproxy", "-db", "-f", str(PROJECT / "deploy" / "haproxy.cfg")]
    with (
        log.open("wb") as sink,
        subprocess.Popen(command, env={**os.environ, **addresses}, stdout=sink, stderr=subprocess.STDOUT) as process,
    ):
        try:
            blue.wait_until_ready()
            wait_until(
                lambda: process.poll() is not None or is_ready(f"http://{http}"),
                lambda: f"HAProxy finds no server: {log.read_text()}",
            )
            assert process.poll() is None, log.read_text()
            yield http, grpc
        finally:
            process.terminate()
