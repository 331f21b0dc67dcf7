"""A client of the part of Prometheus' HTTP API that we use: https://prometheus.io/docs/prometheus/latest/querying/api/."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from monitoring.errors import MonitoringError


@dataclass(frozen=True)
class Sample:
    """A value of one series."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Course:
    """A series over time: seconds since the epoch and values, each of shape ``[T]``."""

    labels: Mapping[str, str]
    times: NDArray[np.float64]
    values: NDArray[np.float64]


class Prometheus:
    """A client of one server. Each method raises MonitoringError if it cannot be reached or refuses the query."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._client = httpx.Client(base_url=self.url, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def instant(self, query: str, at: float | None = None) -> list[Sample]:
        """The result of a query, now or at a time in seconds since the epoch."""
        answer = self._get("query", {"query": query} | ({} if at is None else {"time": at}))
        if answer["resultType"] == "scalar":
            return [Sample({}, float(answer["result"][1]))]
        return [Sample(series["metric"], float(series["value"][1])) for series in answer["result"]]

    def range(self, query: str, start: float, end: float, step: float) -> list[Course]:
        """The series of a query from start to end, every ``step`` seconds, without those that have no value."""
        answer = self._get("query_range", {"query": query, "start": start, "end": end, "step": step})
        courses = []
        for series in answer["result"]:
            points = np.array(series["values"], dtype=np.float64)
            if not len(points):
                continue
            courses.append(Course(series["metric"], points[:, 0], points[:, 1]))
        return courses

    def alerts(self) -> list[dict[str, Any]]:
        """The pending and firing alerts: labels, annotations, state."""
        found: list[dict[str, Any]] = self._get("alerts", {})["alerts"]
        return found

    def _get(self, path: str, parameters: Mapping[str, str | float]) -> Any:
        try:
            response = self._client.get(f"/api/v1/{path}", params=dict(parameters))
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise MonitoringError(
                f"No Prometheus answers at {self.url} ({error}). Start it or correct PROMETHEUS_URL."
            ) from error
        if answer.get("status") != "success":
            raise MonitoringError(f"Prometheus refused {parameters.get('query', path)}: {answer.get('error')}")
        return answer["data"]
