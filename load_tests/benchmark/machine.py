"""Where it is measured, and what with."""

import json
import os
import platform
import subprocess
from pathlib import Path

import psutil

from load_tests.benchmark.results import Machine

PROJECT = Path(__file__).parents[2]
SHOWN = ("bentoml", "fastapi", "litserve", "mlflow", "mlserver", "scikit-learn", "onnxruntime", "uvicorn", "grpcio")
"""Packages whose versions a reader wants to know."""


def machine() -> Machine:
    """This machine, before the benchmark loads it."""
    return Machine(
        cpu=_cpu(),
        cores=psutil.cpu_count() or 0,
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        load_average=os.getloadavg()[0],
    )


def versions(commands: Path) -> dict[str, str]:
    """The versions of the packages that matter in an environment, by its folder of commands."""
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
    )
    listed = subprocess.run([str(commands / "python"), "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 # our own command
    found = json.loads(listed.stdout)
    return {name: found[name] for name in SHOWN if name in found}


def revision() -> str:
    """The commit that is measured, with ``+dirty`` for a changed tree; ``unknown`` outside of git."""
    listed = subprocess.run(
        ["git", "describe", "--always", "--dirty=+dirty"],  # noqa: S607 # as found on PATH
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    return listed.stdout.strip() or "unknown"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
