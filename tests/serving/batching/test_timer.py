import pytest

from serving.batching.timer import BatchTimer


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


def test_one_stall_teaches_the_timer_little() -> None:
    timer = BatchTimer()
    for rows in [1, 2, 4, 8] * 10:
        timer.observe(rows, 0.001)
    timer.observe(4, 3600.0)
    assert timer.predict(4) < 0.01


def test_the_timer_never_predicts_less_for_more_rows() -> None:
    timer = BatchTimer()
    for rows, seconds in [(1, 0.9), (100, 0.1), (1, 0.8), (100, 0.2)]:
        timer.observe(rows, seconds)
    assert 0 < timer.predict(1) <= timer.predict(100)
