from collections.abc import Iterator

import grpc
import httpx
import pytest
from open_inference.grpc.service import GRPCInferenceServiceStub


@pytest.fixture(scope="session")
def channel(client: httpx.Client, grpc_port: int) -> Iterator[grpc.Channel]:
    """A channel to the service of ``client``."""
    del client  # it starts the service
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as opened:
        yield opened


@pytest.fixture(scope="session")
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)
