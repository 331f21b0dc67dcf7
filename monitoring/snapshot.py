"""The service's metrics at one moment, from Prometheus or straight from ``/metrics``, and changes between two."""

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from monitoring.errors import MonitoringError
from monitoring.prometheus import Prometheus
from monitoring.slo import JOB

Labels = frozenset[tuple[str, str]]
Series = Mapping[Labels, float]
PREFIXES = ("bentoml_service_request", "grpc_server", "ml_")
_ADDED_UP = ("_total", "_count", "_sum", "_bucket", "_in_progress")


@dataclass(frozen=True)
class Snapshot:
    """Values by name and labels of a series, over all instances; ``at`` is in seconds since the epoch."""

    at: float
    series: Mapping[str, Series]

    def __getitem__(self, name: str) -> Series:
        return self.series.get(name, {})


def gather(at: float, samples: Iterable[tuple[str, Mapping[str, str], float]]) -> Snapshot:
    """Merge the samples of several instances: sum of counters, maximum of other gauges."""
    found: dict[str, dict[Labels, float]] = defaultdict(dict)
    for name, labels, value in samples:
        if not name.startswith(PREFIXES):
            continue
        key = frozenset((label, text) for label, text in labels.items() if label not in {"__name__", "job", "instance"})
        before = found[name].get(key)
        if before is None:
            found[name][key] = value
        else:
            found[name][key] = before + value if name.endswith(_ADDED_UP) else max(before, value)
    return Snapshot(at, found)


def scrape(client: httpx.Client) -> Snapshot:
    """Scrape ``/metrics`` of one service.

    Raises:
        MonitoringError: it does not answer, or not with metrics.
    """
    try:
        response = client.get("/metrics")
        if response.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            raise MonitoringError(
                f"{client.base_url} asks for another key: set METRICS_KEY to one that opens /metrics."
            )
        response.raise_for_status()
        families = list(text_string_to_metric_families(response.text))
    except (httpx.HTTPError, ValueError) as error:
        raise MonitoringError(
            f"No metrics at {client.base_url} ({error}). Start the service with `make serve`, or correct API_URL."
        ) from error
    return gather(
        time.time(), ((sample.name, sample.labels, sample.value) for family in families for sample in family.samples)
    )


def ask(prometheus: Prometheus, at: float) -> Snapshot:
    """Query Prometheus for the service's metrics at a time, in seconds since the epoch.

    Raises:
        MonitoringError: Prometheus does not answer.
    """
    names = "|".join(f"{prefix}.*" for prefix in PREFIXES)
    samples = prometheus.instant(f'{{job="{JOB}",__name__=~"{names}"}}', at)
    return gather(at, ((sample.labels["__name__"], sample.labels, sample.value) for sample in samples))


@dataclass(frozen=True)
class Change:
    """The change between two snapshots."""

    before: Snapshot
    after: Snapshot

    @property
    def seconds(self) -> float:
        """Time between the snapshots; NaN if they are the same, so that rates are NaN."""
        return self.after.at - self.before.at if self.after.at > self.before.at else math.nan

    def increase(self, name: str, *by: str, **exactly: str | tuple[str, ...]) -> dict[tuple[str, ...], float]:
        """Increase of a counter, by label values.

        Args:
            name: of the series.
            by: labels to keep.
            exactly: the value, or the values, that a label must have.
        """
        grown: dict[tuple[str, ...], float] = defaultdict(float)
        before = self.before[name]
        for key, value in self.after[name].items():
            labels = dict(key)
            if all(labels.get(label) in ((v,) if isinstance(v, str) else v) for label, v in exactly.items()):
                earlier = before.get(key, 0.0)
                # A counter that shrank was reset.
                grown[tuple(labels.get(label, "") for label in by)] += value - earlier if value >= earlier else value
        return grown

    def total(self, name: str, **exactly: str | tuple[str, ...]) -> float:
        """Increase of a counter over all labels."""
        return sum(self.increase(name, **exactly).values())

    def rate(self, name: str, **exactly: str | tuple[str, ...]) -> float:
        """Increase of a counter per second; NaN if the snapshots are the same."""
        return self.total(name, **exactly) / self.seconds

    def mean(self, name: str, **exactly: str | tuple[str, ...]) -> float:
        """Mean of a histogram's observations; NaN without any."""
        count = self.total(f"{name}_count", **exactly)
        return self.total(f"{name}_sum", **exactly) / count if count else math.nan

    def quantile(self, level: float, name: str, **exactly: str | tuple[str, ...]) -> float:
        """Quantile of a histogram's observations, as PromQL's ``histogram_quantile``; NaN without any."""
        counts = {float(bound): n for (bound,), n in self.increase(f"{name}_bucket", "le", **exactly).items()}
        bounds = sorted(counts)
        if not bounds or not counts[bounds[-1]]:
            return math.nan
        rank = level * counts[bounds[-1]]
        lower, below = 0.0, 0.0
        for bound in bounds:
            if counts[bound] >= rank:
                if math.isinf(bound):
                    return lower
                inside = counts[bound] - below
                return lower + (bound - lower) * (rank - below) / inside if inside else bound
            lower, below = bound, counts[bound]
        return lower
