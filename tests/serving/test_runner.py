import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest

from contract.errors import InferenceFailed, NotReady, Overloaded
from serving.runner import LOOP_SECONDS, BatchTimer, FloatMatrix, Model, Runner


class Recorder:
    """Sums each row, and keeps the sizes of the batches it was given."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.sizes: list[int] = []
        self.threads: set[int] = set()
        self._seconds = seconds

    def __call__(self, rows: FloatMatrix) -> FloatMatrix:
        self.sizes.append(len(rows))
        self.threads.add(threading.get_ident())
        time.sleep(self._seconds)
        sums: FloatMatrix = rows.sum(axis=1, keepdims=True)
        return sums


def runner_of(model: Model, *, max_batch_size: int = 64, max_latency_ms: float = 10_000) -> Runner:
    return Runner("test", model, max_batch_size=max_batch_size, max_latency_ms=max_latency_ms)


def slow(runner: Runner, seconds: float) -> Runner:
    """Let the runner know that its model is slow, so that it runs in the thread from the first batch on."""
    for rows in (1, 2, 1, 2):
        runner.timer.observe(rows, seconds)
    return runner


def rows_of(*numbers: float) -> FloatMatrix:
    return np.array([[number, 0.0] for number in numbers])


def in_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


def test_an_idle_runner_answers_one_row_at_once() -> None:
    async def test() -> None:
        model = Recorder()
        assert (await runner_of(model).run(rows_of(7.0))).tolist() == [[7.0]]
        assert model.sizes == [1]

    in_loop(test)


def test_rows_of_concurrent_requests_run_together_in_order() -> None:
    async def test() -> None:
        model = Recorder()
        runner = runner_of(model)
        answers = await asyncio.gather(*(runner.run(rows_of(i, i + 0.5)) for i in range(20)))
        assert [answer.ravel().tolist() for answer in answers] == [[i, i + 0.5] for i in range(20)]
        assert model.sizes == [40]

    in_loop(test)


def test_what_arrives_while_a_batch_runs_is_gathered_into_the_next() -> None:
    async def test() -> None:
        model = Recorder(seconds=0.05)
        runner = slow(runner_of(model), 0.05)
        first = asyncio.create_task(runner.run(rows_of(0)))
        while not model.sizes:
            await asyncio.sleep(0.001)
        rest = await asyncio.gather(*(runner.run(rows_of(i)) for i in range(1, 11)))
        assert (await first).tolist() == [[0.0]]
        assert [answer.item() for answer in rest] == list(range(1, 11))
        assert model.sizes == [1, 10]

    in_loop(test)


@pytest.mark.parametrize(("seconds", "in_a_thread"), [(LOOP_SECONDS * 10, True), (0.0, False)])
def test_only_long_batches_leave_the_event_loop(seconds: float, in_a_thread: bool) -> None:
    async def test() -> None:
        model = Recorder(seconds)
        runner = slow(runner_of(model), seconds)
        await runner.run(rows_of(1))
        assert (threading.get_ident() not in model.threads) is in_a_thread

    in_loop(test)


@pytest.mark.parametrize("count", [63, 64, 65, 128, 1000])
def test_a_large_request_is_split_and_put_together_again(count: int) -> None:
    async def test() -> None:
        model = Recorder()
        numbers = list(range(count))
        answer = await runner_of(model, max_batch_size=64).run(rows_of(*numbers))
        assert answer.ravel().tolist() == numbers
        assert max(model.sizes) <= 64
        assert sum(model.sizes) == count

    in_loop(test)


def test_a_small_request_does_not_wait_for_the_whole_of_a_large_one() -> None:
    async def test() -> None:
        model = Recorder()
        runner = runner_of(model, max_batch_size=10)
        large = asyncio.create_task(runner.run(rows_of(*range(1000))))
        await asyncio.sleep(0)
        assert (await runner.run(rows_of(5))).tolist() == [[5.0]]
        assert len(model.sizes) < 10
        assert len(await large) == 1000

    in_loop(test)


def test_thousands_of_callers_get_their_own_rows_though_some_cancel_and_some_fail() -> None:
    poison = -1.0

    def model(rows: FloatMatrix) -> FloatMatrix:
        if (rows[:, 0] == poison).any():
            raise ValueError("poison")
        time.sleep(random.Random(len(rows)).random() * 0.002)
        return rows[:, :1] * 2

    async def caller(runner: Runner, number: int, draw: random.Random) -> str:
        await asyncio.sleep(draw.random() * 0.5)
        bad = number % 97 == 0
        rows = rows_of(*(number + part / 100 for part in range(draw.randint(1, 90))))
        if bad:
            rows[-1, 0] = poison
        task = asyncio.create_task(runner.run(rows))
        if number % 10 == 3:
            await asyncio.sleep(draw.random() * 0.002)
            task.cancel()
        try:
            answer = await task
        except asyncio.CancelledError:
            return "cancelled"
        except InferenceFailed:
            return "failed"
        assert not bad
        assert answer.ravel().tolist() == (rows[:, 0] * 2).tolist()
        return "answered"

    async def test() -> None:
        runner = runner_of(model, max_batch_size=50, max_latency_ms=60_000)
        draw = random.Random(1)
        outcomes = await asyncio.gather(*(caller(runner, number, draw) for number in range(3000)))
        assert outcomes.count("answered") > 2000
        assert outcomes.count("failed") >= 3000 // 97
        assert outcomes.count("cancelled") > 0
        assert (await runner.run(rows_of(4))).tolist() == [[8.0]]
        assert runner.estimated_wait() == 0
        await runner.close()

    in_loop(test)


@pytest.mark.parametrize("seconds", [0.0, LOOP_SECONDS * 5])
def test_a_model_error_fails_its_batch_and_nothing_else(seconds: float) -> None:
    def model(rows: FloatMatrix) -> FloatMatrix:
        if (rows[:, 0] < 0).any():
            raise RuntimeError("negative")
        return rows[:, :1]

    async def test() -> None:
        runner = slow(runner_of(model, max_batch_size=2), seconds)
        results = await asyncio.gather(
            *(runner.run(rows_of(number)) for number in (-1, 1, 2, 3)), return_exceptions=True
        )
        assert [isinstance(result, InferenceFailed) for result in results] == [True, True, False, False]
        assert "negative" in str(results[0])
        assert (await runner.run(rows_of(9))).tolist() == [[9.0]]

    in_loop(test)


def test_a_failed_part_fails_the_whole_request_and_drops_the_rest_of_it() -> None:
    calls = []

    def model(rows: FloatMatrix) -> FloatMatrix:
        calls.append(len(rows))
        if len(calls) == 2:
            raise RuntimeError("second batch")
        return rows[:, :1]

    async def test() -> None:
        runner = runner_of(model, max_batch_size=10)
        with pytest.raises(InferenceFailed, match="second batch"):
            await runner.run(rows_of(*range(100)))
        assert calls == [10, 10]
        assert len(await runner.run(rows_of(1))) == 1

    in_loop(test)


def test_a_model_that_loses_rows_is_caught() -> None:
    async def test() -> None:
        with pytest.raises(InferenceFailed, match="answered 2 rows with 1"):
            await runner_of(lambda rows: rows[:1]).run(rows_of(1, 2))

    in_loop(test)


def test_beyond_the_longest_wait_requests_are_refused_at_once() -> None:
    async def test() -> None:
        model = Recorder(seconds=0.2)
        runner = slow(runner_of(model, max_batch_size=1, max_latency_ms=300), 0.2)
        accepted = [asyncio.create_task(runner.run(rows_of(number))) for number in range(2)]
        await asyncio.sleep(0)
        started = time.perf_counter()
        with pytest.raises(Overloaded, match=r"estimated wait is 4\d\d ms, over the limit of 300 ms") as refusal:
            await runner.run(rows_of(3))
        assert time.perf_counter() - started < 0.1
        assert refusal.value.retry_after == 1
        assert [(await task).item() for task in accepted] == [0, 1]
        assert (await runner.run(rows_of(4))).tolist() == [[4.0]]

    in_loop(test)


def test_the_running_batch_counts_towards_the_wait() -> None:
    async def test() -> None:
        model = Recorder(seconds=0.2)
        runner = slow(runner_of(model, max_latency_ms=100), 0.2)
        running = asyncio.create_task(runner.run(rows_of(1)))
        while not model.sizes:
            await asyncio.sleep(0.001)
        with pytest.raises(Overloaded):
            await runner.run(rows_of(2))
        await running

    in_loop(test)


def test_a_cancelled_request_leaves_the_queue() -> None:
    async def test() -> None:
        model = Recorder(seconds=0.05)
        runner = slow(runner_of(model), 0.05)
        first = asyncio.create_task(runner.run(rows_of(1)))
        while not model.sizes:
            await asyncio.sleep(0.001)
        waiting = asyncio.create_task(runner.run(rows_of(2, 3, 4)))
        await asyncio.sleep(0)
        waiting.cancel()
        await first
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await runner.run(rows_of(5))).tolist() == [[5.0]]
        assert model.sizes == [1, 1]

    in_loop(test)


def test_closing_finishes_what_was_taken_and_refuses_what_comes() -> None:
    async def test() -> None:
        model = Recorder(seconds=0.02)
        runner = slow(runner_of(model, max_batch_size=2), 0.02)
        taken = [asyncio.create_task(runner.run(rows_of(number))) for number in range(7)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(runner.close())
        await asyncio.sleep(0)
        with pytest.raises(NotReady):
            await runner.run(rows_of(1))
        await closing
        assert [task.result().item() for task in taken] == list(range(7))

    in_loop(test)


@pytest.mark.parametrize(("fixed", "per_row"), [(0.0, 1e-5), (1e-3, 1e-6), (0.02, 0.0)])
def test_the_timer_learns_the_line(fixed: float, per_row: float) -> None:
    timer = BatchTimer()
    for rows in (1, 5, 64, 512, 3, 200, 17):
        timer.observe(rows, fixed + per_row * rows)
    assert timer.predict(100) == pytest.approx(fixed + per_row * 100, rel=1e-3)


def test_the_timer_follows_a_model_that_becomes_slower() -> None:
    timer = BatchTimer()
    for _ in range(200):
        timer.observe(10, 0.001)
    for _ in range(200):
        timer.observe(10, 0.01)
    assert timer.predict(10) == pytest.approx(0.01, rel=0.05)


def test_the_timer_never_predicts_less_for_more_rows() -> None:
    timer = BatchTimer()
    for rows, seconds in [(1, 0.9), (100, 0.1), (1, 0.8), (100, 0.2)]:
        timer.observe(rows, seconds)
    assert 0 < timer.predict(1) <= timer.predict(100)


class Watcher:
    """Keeps what a runner tells it."""

    def __init__(self) -> None:
        self.batches: list[tuple[FloatMatrix, FloatMatrix, list[float], float]] = []
        self.sheds = 0

    def batch(self, rows: FloatMatrix, outputs: FloatMatrix, waits: Sequence[float], seconds: float) -> None:
        self.batches.append((rows, outputs, list(waits), seconds))

    def shed(self) -> None:
        self.sheds += 1


@pytest.mark.parametrize("threaded", [False, True])
def test_an_observer_is_told_of_each_batch(threaded: bool) -> None:
    async def test() -> None:
        model = Recorder(seconds=0.01)
        runner = runner_of(model, max_batch_size=4)
        if threaded:
            slow(runner, 2 * LOOP_SECONDS)
        runner.observer = watcher = Watcher()
        await asyncio.gather(*(runner.run(rows_of(*numbers)) for numbers in ([1.0], [2.0, 3.0], [4.0, 5.0, 6.0])))
        assert [len(rows) for rows, *_ in watcher.batches] == model.sizes == [4, 2]
        for rows, outputs, _, seconds in watcher.batches:
            assert outputs[:, 0].tolist() == rows[:, 0].tolist()
            assert seconds >= 0.01
        # Each request waited once, until its first row was taken; the last one's rest is no wait of its own.
        first, second = (waits for _, _, waits, _ in watcher.batches)
        assert len(first) == 3
        assert second == []
        assert all(0 <= wait < 5 for wait in first)

    in_loop(test)


def test_an_observer_is_told_of_what_is_shed() -> None:
    async def test() -> None:
        runner = slow(runner_of(Recorder(seconds=0.01), max_latency_ms=1), 1.0)
        runner.observer = watcher = Watcher()
        taken = asyncio.ensure_future(runner.run(rows_of(1.0)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await runner.run(rows_of(2.0))
        assert watcher.sheds == 1
        await taken
        assert watcher.sheds == 1

    in_loop(test)
