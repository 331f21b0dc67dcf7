import asyncio
from pathlib import Path

import numpy as np
import pytest

from load_tests.benchmark import load, payloads
from load_tests.benchmark.load import LoadResult
from load_tests.errors import LoadTestError

HALF = {"seconds": 2.0, "p50_ms": 10.5, "p99_ms": 20.25, "max_ms": 31.0}


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({"requests": 2000, "refused": 0}, ""),
        ({"requests": 2000, "refused": 3}, "3 of 2000 answers were no success"),
        ({"requests": 2000, "refused": 0, "read_errors": 2}, "2 broken reads"),
        ({"requests": 2000, "refused": 3, "timeouts": 2}, "3 of 2000 answers were no success; 2 time-outs"),
        ({"requests": 0, "refused": 0}, "1 no answer at all"),
    ],
)
def test_a_refusal_or_a_broken_connection_is_a_problem(counts: dict[str, int], says: str) -> None:
    assert LoadResult.model_validate({**HALF, **counts}).problem == says


def test_a_generator_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match=r"wrk failed .*unable to connect"):
        load.load_http("http://127.0.0.1:9/", tmp_path / "bodies", {}, connections=1, seconds=1)


class Started:
    """The end of a pipe, at which the start is given at once."""

    def send(self, _: object) -> None:
        """Take what the client says."""

    def recv(self) -> str:
        return "begin"


def test_a_grpc_server_that_is_not_there_ends_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "TIMEOUT_SECONDS", 0.1)
    with pytest.raises(TimeoutError):
        asyncio.run(load._callers("127.0.0.1:9", [b""], range(2), 1, 1, Started()))  # type: ignore[arg-type]


def test_a_missing_wrk_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadTestError, match="apt-get install wrk"):
        load.find("wrk")


def test_bodies_with_line_breaks_are_read_back(tmp_path: Path) -> None:
    bodies = [b'{"a": 1}', b"\n1\n\x00\xff", b""]
    load.write_bodies(tmp_path / "bodies", bodies)
    assert load.read_bodies(tmp_path / "bodies") == bodies


def test_requests_go_through_the_whole_table() -> None:
    table = payloads.table()
    assert table.shape == (payloads.BODIES, 8)
    for size in (1, 10, 1000):
        batches = payloads.batches(table, size)
        assert {batch.shape for batch in batches} == {(size, 8)}
        assert len(batches) >= payloads.FEWEST_BODIES
        assert len(np.unique(np.concatenate(batches), axis=0)) == len(np.unique(table, axis=0))
