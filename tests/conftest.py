"""Set up before BentoML is imported: each test process gets a BentoML home, a metrics directory and an MLflow store."""

import gc
import inspect
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract import DATASETS
from local_service import bypass_proxies

TESTS = Path(__file__).parent
HOME = tempfile.TemporaryDirectory(prefix="tests-")  # removed when the process ends
os.environ["BENTOML_HOME"] = str(Path(HOME.name) / "bentoml")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(Path(HOME.name) / "metrics")
os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{HOME.name}/mlflow.db"
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
os.environ["LEDGER"] = "off"  # Tests of the ledger switch it on.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
bypass_proxies(os.environ)
# A shell starts what runs in its background with SIGINT ignored, and all that the tests start would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# On a machine that does other work, an answer may take longer than the 5 seconds that httpx waits for it.
inspect.signature(httpx.get).parameters["timeout"].default.read = 60
# A client that threads share closes a connection that has been idle for 5 seconds, though another thread has just taken
# it (httpcore 1.0): never, in the tests.
inspect.signature(httpx.Client).parameters["limits"].default.keepalive_expiry = None
# Each client of httpx, and so each `httpx.get`, reads the certificates of the whole world, which takes 30 ms of a core.
# Tests that wait for a server ask many times a second: they share what was read. Contexts of a test's own stay its own.
TRUSTED = httpx.create_ssl_context()
for ask in (httpx.get, httpx.post, httpx.request, httpx.Client.__init__, httpx.AsyncClient.__init__):
    ask.__kwdefaults__ = {**(ask.__kwdefaults__ or {}), "verify": TRUSTED}
for directory in ("bentoml", "metrics"):
    (Path(HOME.name) / directory).mkdir()

# The tests start many processes. Where Python may not write compiled modules beside their sources, each of them would
# compile thousands anew, which takes more than half of its time: give them a place of our own.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(TESTS.parent / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

LONG = ("serving", "load_tests", "batch_predict", "training")
"""Folders whose files take longest: with several test processes they come first, so that all end at the same time."""
LONGEST = (
    "integration/test_own_table",
    "integration/test_pipeline",
    "integration/test_monitoring",
    "integration/test_load",
    "integration/test_tutorial",
    "integration/test_retraining",
    "integration/test_clones",
    "integration/test_story",
    "integration/test_parameters",
    "integration/test_deploy_local",
    "integration/test_image",
    "integration/test_demo",
    "integration/test_compose",
    "resilience/test_processes",
    "resilience/test_disks",
    "integration/test_ledger",
    "integration/test_batch_predict",
    "integration/test_reload",
    "integration/test_monitoring_files",
    "resilience/test_kills",
    "resilience/test_memory",
)
"""Of the integration tests, in the order in which they begin, so that none is left alone at the end."""


@pytest.fixture(scope="module")
def examples_only() -> Iterator[None]:
    """Housing and Iris are all the datasets that there are: what a test counts does not depend on other tables."""
    every = dict(DATASETS)
    for name in every.keys() - {"housing", "iris"}:
        del DATASETS[name]
    yield
    DATASETS.clear()
    DATASETS.update(every)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    # The environment of other people's clients (requirements/clients.txt) has no pytest-xdist.
    from tests.grouping import ByGroup

    return ByGroup(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_collection_finish() -> None:
    # Modules and thousands of collected tests stay: the garbage collector can skip them.
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> tuple[int, int]:
        path = item.path.relative_to(TESTS).with_suffix("").as_posix()
        if path in LONGEST:
            return 0, LONGEST.index(path)
        folder = path.partition("/")[0]
        return 1, LONG.index(folder) if folder in LONG else len(LONG)

    items.sort(key=rank)
