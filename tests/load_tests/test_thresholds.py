from pathlib import Path

import pytest

from load_tests.errors import LoadTestError
from load_tests.shapes import Shape
from load_tests.summary import Figures
from load_tests.thresholds import THRESHOLDS_FILE, Limits, Profile, Thresholds
from local_service import PROJECT

USERS = ("SingleRowUser", "GrpcUser")
LOAD = "load: {users: 4, rate: 40, arrivals: poisson, run_seconds: 30}"
FIGURES = Figures(
    requests=1000,
    failures=20,
    failure_rate=0.02,
    p50_ms=2.5,
    p95_ms=12,
    p99_ms=45,
    requests_per_second=41.2,
    late_share=0,
    longest_late_ms=0,
)


def written(path: Path, text: str) -> Path:
    file = path / "thresholds.yaml"
    file.write_text(text)
    return file


def test_a_profile_has_its_load_and_its_limits(tmp_path: Path) -> None:
    file = written(tmp_path, f"steady:\n  {LOAD}\n  limits:\n    GrpcUser: {{p99_ms: 30, failure_rate: 0}}\n")
    profile = Thresholds.read(file, USERS).profile(Shape.STEADY)
    assert (profile.load.users, profile.load.rate, profile.load.arrivals) == (4, 40, "poisson")
    assert profile.limits == {"GrpcUser": Limits(p99_ms=30, failure_rate=0)}


@pytest.mark.parametrize(
    ("limits", "breaches"),
    [
        ({"p99_ms": 30}, ["SingleRowUser p99 45 ms > 30 ms"]),
        ({"p95_ms": 11.5}, ["SingleRowUser p95 12 ms > 11.5 ms"]),
        ({"p50_ms": 2}, ["SingleRowUser p50 2.5 ms > 2 ms"]),
        ({"failure_rate": 0.01}, ["SingleRowUser failure rate 2 % > 1 %"]),
        ({"failure_rate": 0}, ["SingleRowUser failure rate 2 % > 0 %"]),
        ({"requests_per_second": 50}, ["SingleRowUser 41.2 requests/s < 50 requests/s"]),
        ({"p50_ms": 2, "p99_ms": 30}, ["SingleRowUser p50 2.5 ms > 2 ms", "SingleRowUser p99 45 ms > 30 ms"]),
        # At the limit it holds.
        ({"p50_ms": 2.5, "p95_ms": 12, "p99_ms": 45, "failure_rate": 0.02, "requests_per_second": 41.2}, []),
        ({}, []),
    ],
)
def test_a_breach_names_the_figure(limits: dict[str, float], breaches: list[str]) -> None:
    profile = Profile.model_validate(
        {
            "load": {"users": 4, "rate": 40, "arrivals": "poisson", "run_seconds": 30},
            "limits": {"SingleRowUser": limits},
        }
    )
    assert profile.breaches({"SingleRowUser": FIGURES}) == breaches


@pytest.mark.parametrize("figures", [{}, {"SingleRowUser": Figures.of_nothing()}])
def test_a_class_that_did_nothing_breaks_its_limits(figures: dict[str, Figures]) -> None:
    profile = Profile.model_validate(
        {
            "load": {"users": 4, "rate": 40, "arrivals": "poisson", "run_seconds": 30},
            "limits": {"SingleRowUser": {"p99_ms": 30}},
        }
    )
    assert profile.breaches(figures) == ["SingleRowUser made no requests"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            f"steady: {{{LOAD}, limits: {{SingleUser: {{p99_ms: 3}}}}}}",
            "SingleUser: unknown user class; there are Singl",
        ),
        (
            f"steady: {{{LOAD}, limits: {{GrpcUser: {{p98_ms: 3}}}}}}",
            "steady.limits.GrpcUser.p98_ms: unknown; .* p99_ms",
        ),
        (f"steady: {{{LOAD}, limits: {{GrpcUser: {{p99_ms: fast}}}}}}", "steady.limits.GrpcUser.p99_ms: .*number"),
        (
            f"steady: {{{LOAD}, limits: {{GrpcUser: {{p99_ms: -3}}}}}}",
            "steady.limits.GrpcUser.p99_ms: .*greater than 0",
        ),
        (f"steady: {{{LOAD}, limits: {{GrpcUser: {{failure_rate: 2}}}}}}", "failure_rate: .*less than or equal to 1"),
        (f"steady: {{{LOAD}, limits: 3}}", "steady.limits: "),
        (f"steady: {{{LOAD}, limit: {{}}, limits: {{}}}}", "steady.limit: unknown; there are load, limits"),
        (f"steady: {{{LOAD}}}", "steady.limits: Field required"),
        ("steady: {limits: {}}", "steady.load: Field required"),
        ("steady: {limits: {}, load: {users: 4, rate: 40, arrivals: weibull, run_seconds: 3}}", "steady.load.arrivals"),
        ("steady: {limits: {}, load: {user: 4}}", "steady.load.user: unknown|steady.load.users: Field required"),
        (f"stead: {{{LOAD}, limits: {{}}}}", "stead: .*'steady'"),
        ("", "the file: .*dictionary"),
        ("- 1", "the file: .*dictionary"),
        ("steady: [", "is not YAML"),
    ],
)
def test_a_bad_file_is_told_with_the_entry(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match=f"thresholds.yaml.*{sentence}") as told:
        Thresholds.read(written(tmp_path, text), USERS)
    assert "validation error" not in str(told.value)


def test_a_missing_file_or_profile_is_told(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match=r"thresholds\.yaml is missing"):
        Thresholds.read(tmp_path / "thresholds.yaml", USERS)
    thresholds = Thresholds.read(written(tmp_path, f"steady: {{{LOAD}, limits: {{}}}}"), USERS)
    with pytest.raises(LoadTestError, match="no profile of the shape soak; there are steady"):
        thresholds.profile(Shape.SOAK)


def test_our_own_limits_cover_every_shape_class_and_figure() -> None:
    classes = ("SingleRowUser", "BatchUser", "InferJsonUser", "InferBinaryUser", "GrpcUser")
    thresholds = Thresholds.read(PROJECT / THRESHOLDS_FILE, classes)
    assert set(thresholds.profiles) == set(Shape)
    for profile in thresholds.profiles.values():
        assert set(profile.limits) == set(classes)
        for limits in profile.limits.values():
            assert None not in limits.model_dump().values()
