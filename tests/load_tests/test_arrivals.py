import numpy as np
import pytest

from load_tests.arrivals import LATE_SECONDS, Arrivals, Process

COUNT = 50_000


def gaps(arrivals: Arrivals, users: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The times between the arrivals that so many users take in turn."""
    for _ in range(users):
        arrivals.join(100.0)
    return np.diff([arrivals.take(100.0) for _ in range(COUNT)])


@pytest.mark.parametrize(
    ("process", "given", "variation"),
    [
        (Process.CONSTANT, 3.0, 0.0),
        (Process.POISSON, 3.0, 1.0),
        (Process.GAMMA, 3.0, 3.0),
        (Process.GAMMA, 2.0, 2.0),
        (Process.GAMMA, 0.5, 0.5),
    ],
)
@pytest.mark.parametrize("users", [1, 20])
def test_all_users_together_have_the_rate_and_the_variation(
    process: Process, given: float, variation: float, users: int
) -> None:
    drawn = gaps(Arrivals(process, rate=10.0, variation=given, seed=1), users)
    assert drawn.mean() == pytest.approx(1 / (10 * users), rel=0.03)
    assert drawn.std() / drawn.mean() == pytest.approx(variation, rel=0.05, abs=1e-3)
    assert (drawn >= 0).all()


@pytest.mark.parametrize("process", [Process.POISSON, Process.GAMMA])
def test_one_seed_draws_the_same_arrivals(process: Process) -> None:
    one, same, other = (gaps(Arrivals(process, 10.0, seed=seed), 2) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_the_rate_follows_the_users() -> None:
    arrivals = Arrivals(Process.CONSTANT, rate=2.0)
    arrivals.join(0.0)
    assert [arrivals.take(0.0) for _ in range(2)] == [0.5, 1.0]
    arrivals.join(1.0)
    assert [arrivals.take(1.0) for _ in range(3)] == [1.5, 1.75, 2.0]
    arrivals.leave()
    assert [arrivals.take(2.0) for _ in range(2)] == [2.25, 2.75]


def test_the_process_starts_anew_when_nobody_was_there() -> None:
    arrivals = Arrivals(Process.CONSTANT, rate=2.0)
    arrivals.join(0.0)
    arrivals.leave()
    arrivals.join(60.0)
    assert arrivals.take(60.0) == 60.5


def test_what_finds_no_free_user_is_due_all_the_same() -> None:
    arrivals = Arrivals(Process.CONSTANT, rate=10.0)
    arrivals.join(0.0)
    arrivals.take(0.0)
    # Its answer took a second: the nine arrivals of that time are due in the past, and none is lost.
    assert [arrivals.take(1.1) for _ in range(10)] == pytest.approx([0.2 + number / 10 for number in range(10)])


def test_a_closed_loop_is_always_due() -> None:
    arrivals = Arrivals(Process.CLOSED, rate=1.0)
    arrivals.join(0.0)
    assert [arrivals.take(now) for now in (0.0, 0.1, 7.0)] == [0.0, 0.1, 7.0]


def test_lateness_counts_what_starts_too_late() -> None:
    lateness = Arrivals(Process.POISSON, 1.0).lateness
    for seconds in (0.0, LATE_SECONDS / 2, LATE_SECONDS * 2, 0.25):
        lateness.add(seconds)
    assert (lateness.arrivals, lateness.late, lateness.longest_seconds) == (4, 2, 0.25)
