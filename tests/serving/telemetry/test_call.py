"""Calls that are noted at once and written a moment later."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values

from serving.telemetry import bulk
from serving.telemetry.call import CallCounter


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def endpoint(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> CallCounter:
    # Series of these names in another registry would share their values, in a process that has others' files.
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)
    total = Counter("calls", "Calls.", ["status"], registry=registry)
    seconds = Histogram("seconds", "Seconds.", ["status"], buckets=(0.1, 1), registry=registry)
    begun = Counter("begun", "Times that some had begun.", registry=registry)
    gauge = Gauge("in_progress", "Now.", registry=registry)
    return CallCounter(gauge, lambda status: (total.labels(status), seconds.labels(status)), on_begun=begun.inc)


def test_a_call_is_written_when_it_begins_and_when_it_ends(registry: CollectorRegistry, endpoint: CallCounter) -> None:
    value = registry.get_sample_value

    async def main() -> None:
        endpoint.begin()
        endpoint.begin()
        bulk.flush()
        assert (value("in_progress"), value("begun_total")) == (2, 1)
        endpoint.end(200, 0.1)
        endpoint.end(504, 2.0)
        assert (value("in_progress"), value("calls_total", {"status": "200"})) == (2, None)
        bulk.flush()
        assert (value("in_progress"), value("begun_total")) == (0, 1)

    asyncio.run(main())
    assert value("calls_total", {"status": "200"}) == value("calls_total", {"status": "504"}) == 1
    # A bucket holds its upper bound.
    assert value("seconds_bucket", {"status": "200", "le": "0.1"}) == 1
    assert value("seconds_bucket", {"status": "504", "le": "1.0"}) == 0
    assert value("seconds_sum", {"status": "504"}) == 2.0


def test_what_is_noted_is_written_without_being_asked_for(registry: CollectorRegistry, endpoint: CallCounter) -> None:
    async def main() -> None:
        for _ in range(2):  # the second time shows that the first flush has not switched it off
            endpoint.begin()
            endpoint.end(200, 0.01)
            written = registry.get_sample_value("begun_total") or 0
            async with asyncio.timeout(20):
                while registry.get_sample_value("begun_total") == written:
                    await asyncio.sleep(0.01)

    asyncio.run(main())
    assert registry.get_sample_value("calls_total", {"status": "200"}) == 2


def test_one_that_cannot_be_written_takes_nothing_from_the_others_and_counts_nothing_twice(
    registry: CollectorRegistry, endpoint: CallCounter, caplog: pytest.LogCaptureFixture
) -> None:
    total = Counter("half", "Calls.", ["status"], registry=registry)
    seconds = Histogram("half_seconds", "Seconds.", ["status"], registry=registry)

    def answered(status: int) -> tuple[Counter, Histogram]:
        if status == 500:
            raise OSError("no space left on device")
        return total.labels(status), seconds.labels(status)

    failing = CallCounter(Gauge("half_in_progress", "Now.", registry=registry), answered)

    async def main() -> None:
        for status in (200, 500):
            failing.begin()
            failing.end(status, 0.1)
        endpoint.begin()
        endpoint.end(200, 0.1)
        bulk.flush()
        failing.begin()
        failing.end(200, 0.1)
        bulk.flush()

    asyncio.run(main())
    assert registry.get_sample_value("calls_total", {"status": "200"}) == 1
    assert registry.get_sample_value("half_total", {"status": "200"}) == 2
    assert registry.get_sample_value("half_seconds_count", {"status": "200"}) == 2
    (record,) = caplog.records
    assert (record.levelname, vars(record)["metrics"]) == ("ERROR", "CallCounter")
    assert record.exc_info
