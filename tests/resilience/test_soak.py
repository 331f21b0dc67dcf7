"""The short form of the soak; ``python -m load_tests.soak`` takes 20 minutes."""

import asyncio
import logging
import math
from pathlib import Path

import pytest

from load_tests.soak import Callers
from tests.resilience.trees import LONG, parent_of
from tests.serving.running import PATIENT, running

pytestmark = [pytest.mark.integration, pytest.mark.weekly]
logger = logging.getLogger(__name__)

SECONDS = 60 if LONG else 15
SHARE = 0.7


def test_a_minute_of_traffic_leaves_memory_and_descriptors_as_they_were(pinned: Path, tmp_path: Path) -> None:
    with running(pinned, tmp_path / "log", WORKERS="2", LEDGER="on", **PATIENT) as service:
        url = service.client.base_url
        root = parent_of(url.port or 0)
        callers = Callers(service.url, f"127.0.0.1:{service.grpc_port}", root.pid)
        soaked = asyncio.run(callers.soak(SECONDS, SHARE))
        logger.info("%s", soaked.text())
        # How long answers take is told by the machine that the tests run on.
        assert soaked.faults(p99_limit=math.inf) == []
        assert soaked.latencies
        assert "Traceback" not in service.log.read_text()
