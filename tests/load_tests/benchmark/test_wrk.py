from pathlib import Path

import numpy as np
import pytest

from load_tests.benchmark import grpc_load, payloads, wrk
from load_tests.benchmark.errors import BenchmarkError

PRINTED = """Running 2s test @ http://127.0.0.1:8000/predict/housing
  1 threads and 64 connections
Requests/sec:   1000.00

{"requests": 2000, "seconds": 2.000100, "p50_ms": 10.500, "p99_ms": 20.250, "max_ms": 31.000, "refused": %d, \
"connect_errors": 0, "read_errors": %d, "write_errors": 0, "timeouts": 0}
"""


def test_the_last_line_is_the_measure() -> None:
    load = wrk.parse(PRINTED % (0, 0))
    assert (load.requests, load.seconds) == (2000, 2.0001)
    assert (load.p50_ms, load.p99_ms, load.max_ms) == (10.5, 20.25, 31.0)
    assert load.problem == ""


@pytest.mark.parametrize(
    ("refused", "broken", "says"),
    [(3, 0, "3 of 2000 answers were no success"), (0, 2, "2 broken reads"), (3, 2, "3 of 2000")],
)
def test_a_refusal_or_a_broken_connection_is_a_problem(refused: int, broken: int, says: str) -> None:
    assert says in wrk.parse(PRINTED % (refused, broken)).problem


def test_no_answer_is_a_problem() -> None:
    assert "no answer" in wrk.parse((PRINTED % (0, 0)).replace('"requests": 2000', '"requests": 0')).problem


def test_other_output_is_told() -> None:
    with pytest.raises(BenchmarkError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused")


def test_a_missing_wrk_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchmarkError, match="apt-get install wrk"):
        wrk.find()


def test_bodies_with_line_breaks_are_read_back(tmp_path: Path) -> None:
    bodies = [b'{"a": 1}', b"\n1\n\x00\xff", b""]
    wrk.write_bodies(tmp_path / "bodies", bodies)
    assert grpc_load.read_bodies(tmp_path / "bodies") == bodies


def test_requests_go_through_the_whole_table() -> None:
    table = payloads.table()
    assert table.shape == (payloads.BODIES, 8)
    for size in (1, 10, 1000):
        batches = payloads.batches(table, size)
        assert {batch.shape for batch in batches} == {(size, 8)}
        assert len(batches) >= payloads.FEWEST_BODIES
        assert len(np.unique(np.concatenate(batches), axis=0)) == len(np.unique(table, axis=0))
