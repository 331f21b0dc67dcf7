import re

import pytest

from load_tests.benchmark.plan import FULL, OURS, QUICK, QUICK_SERVERS, SERVERS, Server


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.key)
def test_every_environment_is_locked_with_hashes_and_no_addresses(server: Server) -> None:
    lock = server.lock.read_text()
    assert re.findall(r"^[a-z0-9][^\s]*==", lock, re.MULTILINE)
    assert "--hash=sha256:" in lock
    assert "://" not in lock


def test_keys_are_unique() -> None:
    assert len({server.key for server in SERVERS}) == len(SERVERS)
    lines = [line.key for server in SERVERS for line in server.lines]
    assert len(set(lines)) == len(lines)


def test_everybody_runs_the_same_onnxruntime() -> None:
    found = {
        match
        for server in SERVERS
        for match in re.findall(r"^onnxruntime==(\S+)", server.lock.read_text(), re.MULTILINE)
    }
    assert len(found) == 1


def test_the_whole_takes_less_than_fifteen_minutes() -> None:
    assert 5 * 60 < FULL.estimate(SERVERS) < 15 * 60


def test_the_quick_one_takes_less_than_two_minutes() -> None:
    assert QUICK.estimate([server for server in SERVERS if server.key in QUICK_SERVERS]) < 2 * 60


def test_requests_of_several_rows_go_their_own_way() -> None:
    line = OURS.lines[0]
    assert line.way(1)[0] == "/predict/housing"
    assert line.way(10)[0] == "/predict/housing/batch"
    binary = OURS.lines[-1]
    assert binary.way(1) == binary.way(10)


def test_no_measure_is_taken_twice_in_a_round() -> None:
    for server in SERVERS:
        for line in server.lines:
            steps = [(step.connections, step.rows) for step in FULL.steps(line, server, 0)]
            assert len(set(steps)) == len(steps)
            assert FULL.steps(line, server, FULL.side_rounds) == ([] if line.rows_only else [FULL.main])
