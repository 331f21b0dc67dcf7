"""A server's ``/metrics`` page as numbers.

The worker that answers it has all workers write first what they have counted: a page that is fetched after an answer
includes that call. So a test fetches the page before and after, and compares.
"""

from dataclasses import dataclass
from typing import Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass
class Scrape:
    """Samples by name and labels, and the type of each family by its name on the page."""

    samples: dict[tuple[str, Labels], float]
    types: dict[str, str]

    def value(self, name: str, **labels: str) -> float:
        """The sum of all samples of a name that have these labels; 0 if there is none."""
        return sum(value for (_, _), value in self._matching(name, labels))

    def of(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The samples of a name that have these labels, by one more label."""
        return {dict(found)[label]: value for (_, found), value in self._matching(name, labels)}

    def series(self) -> set[tuple[str, Labels]]:
        """Everything that would be a row of its own in Prometheus; the buckets of a histogram count as one."""
        return {(name, frozenset(pair for pair in labels if pair[0] != "le")) for name, labels in self.samples}

    def since(self, before: Self) -> "Scrape":
        """By how much each sample has grown since an earlier page."""
        grown = {key: value - before.samples.get(key, 0.0) for key, value in self.samples.items()}
        return Scrape(grown, self.types)

    def _matching(self, name: str, labels: dict[str, str]) -> list[tuple[tuple[str, Labels], float]]:
        return [(key, value) for key, value in self.samples.items() if key[0] == name and labels.items() <= key[1]]


def scrape(client: httpx.Client) -> Scrape:
    """The page, now."""
    samples, types = {}, {}
    for family in text_string_to_metric_families(client.get("/metrics").raise_for_status().text):
        types[f"{family.name}_total" if family.type == "counter" else family.name] = family.type
        for sample in family.samples:
            samples[sample.name, frozenset(sample.labels.items())] = sample.value
    return Scrape(samples, types)
