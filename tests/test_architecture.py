"""The rules between the rooms, read from the code itself."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from local_service import PROJECT

ROOMS = (
    "contract",
    "model",
    "training",
    "batch_predict",
    "ledger",
    "loop",
    "serving",
    "monitoring",
    "load_tests",
    "deploy",
    "service",
    "local_service",
    "docs_reference",
)
MAY_IMPORT = {
    "contract": set(),
    # It starts the service as a command, and knows nothing of what is inside.
    "local_service": {"contract"},
    "model": {"contract"},
    "training": {"contract", "model", "local_service"},
    "batch_predict": {"contract", "model", "training"},
    "ledger": {"contract"},
    "loop": {"contract", "model", "ledger", "training"},
    "serving": {"contract", "model", "ledger"},
    "service": {"contract", "serving"},
    "monitoring": {"contract", "local_service"},
    "load_tests": {"contract", "model", "local_service"},
    "deploy": {"contract", "local_service"},
    # It describes all of them.
    "docs_reference": {"contract", "local_service", "loop", "load_tests", "serving", "training"},
}
EXCEPTIONS = {
    # It measures the runner itself: over HTTP on the same cores, the load generator would be measured with it.
    "load_tests/benchmark/batching.py": {"serving"},
    "load_tests/benchmark/guards.py": {"serving"},  # the same for the protocol class
    # It is the service, with something taken away.
    "load_tests/benchmark/peers/unmetered.py": {"serving", "service"},
    "load_tests/benchmark/peers/unguarded.py": {"service"},
}
SERVING_ONLY = {"serving", "service", "contract", "model", "ledger"}
"""What the image holds: nothing of the training dependencies may be imported there."""
TRAINING_LIBRARIES = {
    "sklearn",
    "scipy",
    "skl2onnx",
    "onnx",
    "skops",
    "mlflow",
    "dvc",
    "pandas",
    "pyarrow",
    "matplotlib",
    "lightgbm",
    "xgboost",
}

OPTIONAL = {
    # Imported when somebody exports to Parquet, with a sentence where it is not installed: in the image.
    "ledger/export.py": {"pyarrow"},
}


def modules() -> list[Path]:
    found = [path for room in ROOMS for path in sorted((PROJECT / room).rglob("*.py"))]
    return [*(PROJECT / f"{name}.py" for name in ("service", "local_service", "docs_reference")), *found]


def room_of(path: Path) -> str:
    return path.relative_to(PROJECT).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """The modules that a module imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


def imported(path: Path) -> set[str]:
    """Their top-level names."""
    return {name.partition(".")[0] for name in imported_modules(path)}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    room = room_of(path)
    ours = imported(path) & set(ROOMS) - {room}
    assert ours <= MAY_IMPORT[room] | EXCEPTIONS.get(str(path.relative_to(PROJECT)), set())
    if room in SERVING_ONLY:
        assert imported(path) & TRAINING_LIBRARIES <= OPTIONAL.get(str(path.relative_to(PROJECT)), set())
    if room == "contract":
        assert not imported(path) & {"bentoml", "mlflow", "os", "socket", "pathlib", "logging"}


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("mlflow", {"training/tracking.py"}),
        (
            "onnxruntime",
            {"model/session.py", "load_tests/benchmark/peers/onnx_model.py"},
        ),
    ],
)
def test_a_library_has_its_place(library: str, owners: set[str]) -> None:
    users = {str(path.relative_to(PROJECT)) for path in modules() if library in imported(path)}
    assert users == owners


PRIVATE = re.compile(r"(_bentoml_impl|_bentoml_sdk|bentoml\._internal)\b")


def test_only_the_host_names_bentomls_private_api() -> None:
    users = {
        str(path.relative_to(PROJECT))
        for path in modules()
        if any(PRIVATE.match(name) for name in imported_modules(path))
    }
    assert users == {"serving/host.py"}


def test_serving_loads_without_the_training_libraries() -> None:
    """Importing what the image holds must not pull a training library in by a detour either."""
    code = (
        "import sys, serving.host, serving.http.routes, serving.startup, serving.protocol.grpc; "
        f"print(sorted({TRAINING_LIBRARIES!r} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
