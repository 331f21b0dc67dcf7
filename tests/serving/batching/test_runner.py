import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from contract.table import FloatMatrix
from serving.batching.runner import CAUTION, LOOP_SECONDS, Model, Runner
from serving.errors import DeadlineExceeded, InferenceFailed, NotReady, Overloaded


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


def runner_of(
    model: Model, *, max_batch_size: int = 64, max_latency_ms: float = 10_000, timeout_seconds: float = 60
) -> Runner:
    return Runner(
        "test",
        model,
        max_batch_size=max_batch_size,
        max_latency_ms=max_latency_ms,
        timeout_seconds=timeout_seconds,
    )


def slow(runner: Runner, seconds: float) -> Runner:
    """Let the runner know that its model is slow, so that it runs in the thread from the first batch on."""
    for rows in (1, 2, 1, 2):
        runner.timer.observe(rows, seconds)
    return runner


def rows_of(*numbers: float) -> FloatMatrix:
    return np.array([[number, 0.0] for number in numbers])


def in_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(120):  # for a test that hangs; a busy machine takes its time
            await test()

    asyncio.run(bounded())


def test_an_idle_runner_answers_one_row_at_once() -> None:
    async def test() -> None:
        model = Recorder()
        assert (await runner_of(model).run(rows_of(7.0))).outputs.tolist() == [[7.0]]
        assert model.sizes == [1]

    in_loop(test)


def test_rows_of_concurrent_requests_run_together_in_order() -> None:
    async def test() -> None:
        model = Recorder()
        runner = runner_of(model)
        answers = await asyncio.gather(*(runner.run(rows_of(i, i + 0.5)) for i in range(20)))
        assert [answer.outputs.ravel().tolist() for answer in answers] == [[i, i + 0.5] for i in range(20)]
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
        assert (await first).outputs.tolist() == [[0.0]]
        assert [answer.outputs.item() for answer in rest] == list(range(1, 11))
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
        assert answer.outputs.ravel().tolist() == numbers
        assert max(model.sizes) <= 64
        assert sum(model.sizes) == count

    in_loop(test)


def test_a_small_request_does_not_wait_for_the_whole_of_a_large_one() -> None:
    async def test() -> None:
        model = Recorder()
        runner = runner_of(model, max_batch_size=10)
        large = asyncio.create_task(runner.run(rows_of(*range(1000))))
        await asyncio.sleep(0)
        assert (await runner.run(rows_of(5))).outputs.tolist() == [[5.0]]
        assert len(model.sizes) < 10
        assert len((await large).outputs) == 1000

    in_loop(test)


def test_the_rest_of_a_request_that_met_a_full_batch_is_next() -> None:
    async def test() -> None:
        model = Recorder()
        runner = runner_of(model, max_batch_size=10)
        answered: list[int] = []

        async def caller(number: int) -> None:
            await runner.run(rows_of(*[number] * 7))
            answered.append(number)

        await asyncio.gather(*(caller(number) for number in range(20)))
        assert answered == list(range(20))
        assert model.sizes == [10] * 14

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
        assert answer.outputs.ravel().tolist() == (rows[:, 0] * 2).tolist()
        return "answered"

    async def test() -> None:
        runner = runner_of(model, max_batch_size=50, max_latency_ms=600_000)
        draw = random.Random(1)
        outcomes = await asyncio.gather(*(caller(runner, number, draw) for number in range(1000)))
        assert outcomes.count("answered") > 600
        assert outcomes.count("failed") >= 1000 // 97
        assert outcomes.count("cancelled") > 0
        assert (await runner.run(rows_of(4))).outputs.tolist() == [[8.0]]
        # Nothing is left in the sums of the queue: a request waits for its own batch alone.
        for rows in (1, 1000):
            own = runner.timer.gap + runner.timer.predict(min(rows, 50))
            assert runner.estimated_latency(rows, time.perf_counter()) == CAUTION * own
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
        assert (await runner.run(rows_of(9))).outputs.tolist() == [[9.0]]

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
        assert len((await runner.run(rows_of(1))).outputs) == 1

    in_loop(test)


def test_a_model_that_loses_rows_is_caught() -> None:
    async def test() -> None:
        with pytest.raises(InferenceFailed, match="answered 2 rows with 1"):
            await runner_of(lambda rows: rows[:1]).run(rows_of(1, 2))

    in_loop(test)


def test_beyond_the_longest_wait_requests_are_refused_at_once() -> None:
    async def test() -> None:
        model = Recorder(seconds=0.5)
        runner = slow(runner_of(model, max_batch_size=1, max_latency_ms=1100), 0.5)
        accepted = [asyncio.create_task(runner.run(rows_of(number))) for number in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"take 1\d\d\d ms, over the limit of 1100 ms") as refusal:
            await runner.run(rows_of(3))
        assert not any(task.done() for task in accepted)
        assert refusal.value.retry_after == 2
        assert [(await task).outputs.item() for task in accepted] == [0, 1]
        assert (await runner.run(rows_of(4))).outputs.tolist() == [[4.0]]

    in_loop(test)


def test_an_idle_runner_refuses_nobody() -> None:
    async def test() -> None:
        runner = slow(runner_of(Recorder(seconds=0.05), max_latency_ms=1), 0.05)
        assert (await runner.run(rows_of(1))).outputs.tolist() == [[1.0]]
        assert (await runner.run(rows_of(2))).outputs.tolist() == [[2.0]]
        # Neither for the time that the event loop took to come to it.
        late = asyncio.create_task(runner.run(rows_of(3)))
        asyncio.get_running_loop().call_soon(time.sleep, 0.05)
        assert (await late).outputs.tolist() == [[3.0]]

    in_loop(test)


def test_what_the_estimate_was_wrong_about_is_refused_before_it_is_run() -> None:
    async def test() -> None:
        model = Recorder(seconds=0.3)
        runner = slow(runner_of(model, max_batch_size=1, max_latency_ms=100), 0.01)
        tasks = [asyncio.create_task(runner.run(rows_of(number))) for number in range(3)]
        assert (await tasks[0]).outputs.tolist() == [[0.0]]
        for task in tasks[1:]:
            with pytest.raises(Overloaded, match=r"has waited \d+ ms, over the limit of 100 ms"):
                await task
        assert model.sizes == [1]
        assert (await runner.run(rows_of(4))).outputs.tolist() == [[4.0]]

    in_loop(test)


def test_a_busy_event_loop_counts_too() -> None:
    """Every turn of the loop takes 30 ms beside the model: ten batches of one row take 300 ms."""

    async def test() -> None:
        busy = True

        def occupy() -> None:
            time.sleep(0.03)
            if busy:
                asyncio.get_running_loop().call_soon(occupy)

        runner = runner_of(Recorder(), max_batch_size=1, max_latency_ms=200)
        occupy()
        for number in range(30):
            await runner.run(rows_of(number))
        tasks = [asyncio.create_task(runner.run(rows_of(number))) for number in range(10)]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        busy = False
        refused = [isinstance(outcome, Overloaded) for outcome in outcomes]
        assert refused[-1]
        assert 1 <= refused.count(False) <= 7

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
        assert (await runner.run(rows_of(5))).outputs.tolist() == [[5.0]]
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
        assert [task.result().outputs.item() for task in taken] == list(range(7))

    in_loop(test)


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_who_waits_too_long_is_given_up_and_who_comes_later_is_answered(seconds: float) -> None:
    """In the queue, in a thread's batch, and between the parts of a large request."""

    async def test() -> None:
        model = Recorder(seconds)
        runner = slow(runner_of(model, max_batch_size=1, timeout_seconds=0.6), seconds)
        runner.timer.observe(1, seconds)
        large = asyncio.create_task(runner.run(rows_of(*range(200_000 if not seconds else 10))))
        early = asyncio.create_task(runner.run(rows_of(7)))
        with pytest.raises(DeadlineExceeded, match=r"within 0\.6 seconds"):
            await large
        assert (await early).outputs.tolist() == [[7.0]]
        assert (await runner.run(rows_of(8))).outputs.tolist() == [[8.0]]
        assert sum(model.sizes) < 200_000
        await runner.close()

    in_loop(test)


def test_a_model_that_hangs_does_not_hold_its_callers() -> None:
    release = threading.Event()

    def model(rows: FloatMatrix) -> FloatMatrix:
        release.wait(30)
        return rows[:, :1]

    async def test() -> None:
        runner = slow(runner_of(model, timeout_seconds=0.1), LOOP_SECONDS * 10)
        first = asyncio.create_task(runner.run(rows_of(1)))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(runner.run(rows_of(2)))
        started = time.perf_counter()
        for caller in (first, second):
            with pytest.raises(DeadlineExceeded):
                await caller
        assert time.perf_counter() - started < 5
        release.set()
        await runner.close()

    in_loop(test)


def test_warming_up_has_no_limits_and_teaches_the_timer() -> None:
    model = Recorder(0.002)
    runner = runner_of(model, max_batch_size=16, max_latency_ms=0.001, timeout_seconds=0.001)
    runner.warm_up(rows_of(1, 2, 3))
    assert {1, 2, 4, 8, 16} == set(model.sizes)
    assert 0.002 <= runner.timer.predict(8) < 0.2


def test_a_model_that_exits_fails_its_callers() -> None:
    def model(_: FloatMatrix) -> FloatMatrix:
        raise SystemExit(3)

    async def test() -> None:
        runner = slow(runner_of(model), LOOP_SECONDS * 10)
        with pytest.raises(InferenceFailed, match=r"SystemExit\(3\)"):
            await runner.run(rows_of(1))

    in_loop(test)


def test_a_small_request_is_not_refused_for_the_rest_of_a_large_one() -> None:
    async def test() -> None:
        model = Recorder(seconds=0.02)
        runner = slow(runner_of(model, max_batch_size=10, max_latency_ms=100), 0.02)
        large = asyncio.create_task(runner.run(rows_of(*range(200))))
        while not model.sizes:
            await asyncio.sleep(0.001)
        with pytest.raises(Overloaded):
            await runner.run(rows_of(*range(11)))
        assert (await runner.run(rows_of(5))).outputs.tolist() == [[5.0]]
        assert len(model.sizes) < 10
        assert len((await large).outputs) == 200

    in_loop(test)


class Watcher:
    """Keeps what a runner tells it."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, float]] = []
        self.sheds = 0

    def batch(self, rows: int, seconds: float) -> None:
        self.batches.append((rows, seconds))

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
        assert [rows for rows, _ in watcher.batches] == model.sizes == [4, 2]
        assert all(seconds >= 0.01 for _, seconds in watcher.batches)

    in_loop(test)


@pytest.mark.parametrize("threaded", [False, True])
def test_a_call_is_told_its_times(threaded: bool) -> None:
    async def test() -> None:
        runner = runner_of(Recorder(seconds=0.02), max_batch_size=2)
        if threaded:
            slow(runner, 2 * LOOP_SECONDS)
        first, second, large = await asyncio.gather(
            *(runner.run(rows_of(*numbers)) for numbers in ([1.0], [2.0], [3.0, 4.0, 5.0, 6.0, 7.0]))
        )
        # The first two share a batch; the third waits for it, and then runs in three.
        assert first.inference_seconds == second.inference_seconds >= 0.02
        assert first.queue_seconds < 0.02 <= large.queue_seconds
        assert large.inference_seconds >= 0.06

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
