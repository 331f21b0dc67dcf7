"""HTTP load, by wrk."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from load_tests.benchmark.errors import BenchmarkError
from load_tests.benchmark.load import Load

SCRIPT = Path(__file__).with_name("wrk.lua")
TIMEOUT_SECONDS = 20
"""An answer that takes longer counts as a time-out."""


def find() -> str:
    """The path of wrk.

    Raises:
        BenchmarkError: it is not installed; says how to install it.
    """
    found = shutil.which("wrk")
    if found is None:
        raise BenchmarkError(
            "The HTTP load generator wrk is not on PATH. Install it: `apt-get install wrk` (Debian, Ubuntu), "
            "`brew install wrk` (macOS)."
        )
    return found


def write_bodies(path: Path, bodies: Sequence[bytes]) -> None:
    """Write the file that ``wrk.lua`` reads."""
    path.write_bytes(b"".join(b"%d\n%s" % (len(body), body) for body in bodies))


def run(url: str, bodies: Path, headers: Mapping[str, str], *, connections: int, seconds: int) -> Load:
    """Load a URL with the bodies of a file in turn.

    Raises:
        BenchmarkError: wrk failed; has what it printed.
    """
    flat = [text for pair in headers.items() for text in pair]
    command = [find(), "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    command += ["--timeout", f"{TIMEOUT_SECONDS}s", "--script", str(SCRIPT), url, "--", str(bodies), *flat]
    ended = subprocess.run(  # noqa: S603 # our own command
        command,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise BenchmarkError(f"wrk ended with {ended.returncode}: {(ended.stderr or ended.stdout).strip()[-500:]}")
    return parse(ended.stdout)


def parse(output: str) -> Load:
    """What ``wrk.lua`` printed last.

    Raises:
        BenchmarkError: there is no such line.
    """
    lines = [line for line in output.splitlines() if line.startswith('{"requests"')]
    if not lines:
        raise BenchmarkError(f"wrk printed no measure: {output.strip()[-500:]}")
    return Load.model_validate(json.loads(lines[-1]))
