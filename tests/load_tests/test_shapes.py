import pytest

from load_tests.shapes import Shape, users_at


@pytest.mark.parametrize(
    ("shape", "elapsed", "users"),
    [
        (Shape.STEADY, 0, 20),
        (Shape.STEADY, 99.9, 20),
        (Shape.RAMP, 0, 1),
        (Shape.RAMP, 20, 5),
        (Shape.RAMP, 40, 10),
        (Shape.RAMP, 80, 20),
        (Shape.RAMP, 95, 20),
        (Shape.SPIKE, 0, 5),
        (Shape.SPIKE, 39.9, 5),
        (Shape.SPIKE, 40, 20),
        (Shape.SPIKE, 59.9, 20),
        (Shape.SPIKE, 60, 5),
        (Shape.SOAK, 0, 1),
        (Shape.SOAK, 2.5, 10),
        (Shape.SOAK, 5, 20),
        (Shape.SOAK, 99, 20),
    ],
)
def test_users_over_time(shape: Shape, elapsed: float, users: int) -> None:
    assert users_at(shape, elapsed, duration=100, peak=20) == users


@pytest.mark.parametrize("shape", Shape)
def test_it_ends_and_there_is_always_somebody_before(shape: Shape) -> None:
    assert users_at(shape, 30, duration=30, peak=20) is None
    assert users_at(shape, 29.9, duration=30, peak=1) == 1
    assert users_at(shape, 0, duration=30, peak=1) == 1


@pytest.mark.parametrize("shape", Shape)
def test_never_more_than_the_peak_and_the_peak_is_reached(shape: Shape) -> None:
    counts = [users_at(shape, second, duration=60, peak=7) or 0 for second in range(60)]
    assert max(counts) == 7
