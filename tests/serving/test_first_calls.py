"""The first calls that a worker gets: other workers are ready, so clients connect before it has told anybody."""

import os
import subprocess
import sys
from pathlib import Path

from local_service import PROJECT, free_port
from serving.protocol.waiting import LISTENERS
from serving.telemetry import directory

ASK_EACH_LISTENER = """
import asyncio
import grpc
from open_inference.grpc.service import GRPCInferenceServiceStub
from contract.datasets.iris import IRIS
from service import SETTINGS, PredictionService
from tests.serving.protocol.wire import message, rows_of, tensor

async def main():
    worker = PredictionService.inner()
    make = worker.grpc._listener

    def listener():
        made = make()
        start = made.start

        async def start_and_ask():
            await start()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{SETTINGS.GRPC_PORT}") as channel:
                asked = message("iris", tensor("x", rows_of(IRIS, 1)), raw=True)
                answer = await GRPCInferenceServiceStub(channel).ModelInfer(asked, timeout=30)
                print("answered", answer.model_name, flush=True)

        made.start = start_and_ask
        return made

    worker.grpc._listener = listener
    await worker.start()
    await worker.stop()

asyncio.run(main())
"""


def test_a_worker_answers_as_soon_as_it_listens(pinned: Path, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ASK_EACH_LISTENER],
        cwd=PROJECT,
        env={
            **os.environ,
            "MODELS_DIR": str(pinned),
            "GRPC_PORT": str(free_port()),
            "STATE_DIR": str(tmp_path / "state"),
            directory.VARIABLE: str(tmp_path / "metrics"),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("answered iris\n") == LISTENERS, ended.stdout
