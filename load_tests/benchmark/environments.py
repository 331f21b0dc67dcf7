"""Each server's environment, made from its lock and kept until the lock changes."""

import hashlib
import subprocess
import sys
from pathlib import Path

from load_tests.benchmark.errors import BenchmarkError

PROJECT = Path(__file__).parents[2]
ENVIRONMENTS = PROJECT / ".venv" / "peers"


def fingerprint(lock: Path) -> str:
    """What an environment depends on: the lock and the interpreter."""
    return hashlib.sha256(sys.version.encode() + lock.read_bytes()).hexdigest()


def is_ready(name: str, lock: Path) -> bool:
    """Whether the environment exists and has what the lock says."""
    stamp = ENVIRONMENTS / name / ".lock"
    return stamp.exists() and stamp.read_text() == fingerprint(lock)


def prepare(name: str, lock: Path) -> Path:
    """Make the environment if there is none for this lock; its folder of commands.

    Raises:
        BenchmarkError: the installer failed; has the end of what it printed.
    """
    folder = ENVIRONMENTS / name
    if not is_ready(name, lock):
        _uv("venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
        _uv(
            "pip",
            "install",
            "--quiet",
            "--compile-bytecode",
            "--python",
            str(folder / "bin" / "python"),
            "--require-hashes",
            "-r",
            str(lock),
        )
        (folder / ".lock").write_text(fingerprint(lock))
    return folder / "bin"


def _uv(*arguments: str) -> None:
    uv = Path(sys.executable).with_name("uv")
    ended = subprocess.run([str(uv), *arguments], capture_output=True, text=True, check=False)  # noqa: S603 # our own command
    if ended.returncode:
        raise BenchmarkError(f"uv {arguments[0]} {arguments[-1]} failed: {ended.stderr.strip()[-1000:]}")
