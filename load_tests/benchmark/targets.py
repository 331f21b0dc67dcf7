"""What this service must reach, held against a report."""

from collections.abc import Callable
from dataclasses import dataclass

from load_tests.benchmark.results import Figure, Report


@dataclass(frozen=True)
class Target:
    """One demand and what was measured; ``met`` is None where a figure is missing."""

    subject: str
    demand: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """Met, missed, or not measured."""
        return {True: "met", False: "missed", None: "not measured"}[self.met]


def evaluate(report: Report) -> list[Target]:
    """Every target, in the order of importance."""
    return [
        _ratio(report, "/predict/housing against MLServer REST", "ours", "mlserver", 3),
        _cpu_share(report, "/predict/housing against MLServer REST", "ours", "mlserver", 1 / 2),
        _ratio(report, "/v2 JSON against MLServer REST", "ours-v2", "mlserver", 4),
        _ratio(report, "gRPC against MLServer gRPC", "ours-grpc", "mlserver-grpc", 3),
        _cpu_share(report, "gRPC against MLServer gRPC", "ours-grpc", "mlserver-grpc", 1 / 3),
        _ratio(report, "/predict/housing against FastAPI with predict per request", "ours", "fastapi", 6),
        _ratio(report, "/predict/housing against BentoML's batchable=True", "ours", "bentoml", 6),
        _at_most("p99 at 64 connections", report.latency("ours", "p99_ms"), 30, "ms"),
        _stall(report),
        _rows(report),
        _at_most("/predict/housing, CPU a request", report.cpu_ms("ours"), 0.30, "ms", digits=3),
        _goal(report),
        _metrics(report),
        _at_most("memory a worker", _megabytes(report.worker_memory("ours")), 200, "MB"),
        _at_most("start to the first answer", report.ready_seconds("ours"), 6, "s", digits=1),
    ]


def _ratio(report: Report, subject: str, ours: str, peer: str, factor: float) -> Target:
    mine, other = report.requests_per_second(ours), report.requests_per_second(peer)
    return _compare(subject + ", requests/s", mine, other, factor, lambda ratio, limit: ratio >= limit, "at least")


def _cpu_share(report: Report, subject: str, ours: str, peer: str, share: float) -> Target:
    mine, other = report.cpu_ms(ours), report.cpu_ms(peer)
    return _compare(subject + ", CPU a request", mine, other, share, lambda ratio, limit: ratio <= limit, "at most")


def _compare(
    subject: str,
    mine: Figure | None,
    other: Figure | None,
    factor: float,
    holds: Callable[[float, float], bool],
    bound: str,
) -> Target:
    demand = f"{bound} {factor:.3g} ×"
    if mine is None or other is None or not other.median:
        return Target(subject, demand, "–", None)
    ratio = mine.median / other.median
    figures = f"{ratio:.2f} × ({_short(mine.median)} against {_short(other.median)})"
    return Target(subject, demand, figures, holds(ratio, factor))


def _at_most(subject: str, figure: Figure | None, limit: float, unit: str, digits: int = 0) -> Target:
    demand = f"at most {limit:g} {unit}"
    if figure is None:
        return Target(subject, demand, "–", None)
    return Target(subject, demand, f"{figure.median:.{digits}f} {unit}", figure.median <= limit)


def _stall(report: Report) -> Target:
    sample, peer = report.stall("ours"), report.stall("mlserver")
    measured = "–" if sample is None else f"{sample.load.max_ms:.0f} ms"
    if peer is not None:
        measured += f" (MLServer: {peer.load.max_ms:.0f} ms)"
    met = None if sample is None else sample.load.max_ms <= 100
    return Target("longest answer in a minute, 64 connections", "at most 100 ms", measured, met)


def _rows(report: Report) -> Target:
    mine, direct = report.rows_per_second("ours-binary", 1000), report.direct_rows_per_second()
    subject = "rows/s with 1,000-row binary requests, against onnxruntime called directly"
    return _compare(subject, mine, direct, 0.5, lambda ratio, limit: ratio >= limit, "at least")


def _goal(report: Report) -> Target:
    """Beyond the target: as little CPU as a handler that does nothing."""
    subject = "goal: /predict/housing, CPU a request, against FastAPI's empty handler"
    mine, empty = report.cpu_ms("ours"), report.cpu_ms("empty")
    return _compare(subject, mine, empty, 1.0, lambda ratio, limit: ratio <= limit, "at most")


def _metrics(report: Report) -> Target:
    """What the series of requests and models add to a request."""
    subject = "metrics: /predict/housing, CPU a request, on against off"
    on, off = report.cpu_ms("ours"), report.cpu_ms("unmetered")
    return _compare(subject, on, off, 1.05, lambda ratio, limit: ratio <= limit, "at most")


def _megabytes(size: int) -> Figure | None:
    return Figure.of([size / 1e6] if size else [])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
