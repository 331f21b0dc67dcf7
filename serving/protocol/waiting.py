"""Limits the calls that wait in gRPC's core until Python takes them, and counts those dropped there.

A refusal in Python costs half as much as an answer: at five times the capacity, no time would be left for answers. A
drop in the core costs a fiftieth. The client sees CANCELLED.
"""

import json
import math
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

import grpc
from grpc._cython import cygrpc

from serving.settings import Settings
from serving.telemetry import UNKNOWN, series

CALLS_PER_CPU_SECOND = 800
"""Calls of one row that a core answers in a second, cautiously: more waiting calls than that would come too late."""
LISTENERS = 8
"""Servers of grpc.aio in each worker. They share the port and the event loop.

A server accepts one call at a time, and waits for its thread before the next. One server reached 1.1 rows a batch and
2,000 calls/s; eight reach 4.4 rows and 4,300 calls/s at half the CPU time a call.
"""
SPARE_COUNTS = 2
"""Looks beyond the time that a call may wait: a busy event loop takes it late."""
FEWEST_CALLS = 4
"""Minimum calls that may wait at each listener, however slow the machine is."""
_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def cores_per_worker(settings: Settings) -> float:
    """The share of the CPU time that a worker has, as its container limits it; a worker uses one core at most."""
    cores = quota() or float(os.cpu_count() or 1)
    return min(cores / (settings.WORKERS or max(round(cores), 1)), 1.0)


def quota() -> float | None:
    """The cores that this container may use; None if it has no limit. https://docs.kernel.org/admin-guide/cgroup-v2.html"""
    for path in _QUOTAS:
        try:
            words = path.read_text().split()
            period = words[1] if len(words) > 1 else _PERIOD.read_text()
            return int(words[0]) / int(period) if words[0] not in {"max", "-1"} else None
        except (OSError, ValueError):
            continue
    return None


class Waiting:
    """The calls that wait at the listeners of one worker.

    Args:
        settings: the limits.
        started: how many calls have arrived by now.
    """

    def __init__(self, settings: Settings, started: Callable[[], int] | None = None) -> None:
        cores = cores_per_worker(settings)
        calls = CALLS_PER_CPU_SECOND * cores * settings.MAX_LATENCY_MS / 1000
        self.calls = max(int(calls / LISTENERS), FEWEST_CALLS)
        """How many may wait at each."""
        self._seconds = math.ceil(settings.MAX_LATENCY_MS / 1000)
        """Seconds after which the core drops a call that was not taken; it counts whole seconds."""
        self.taken = _Taken()
        self._started = started or _started
        self._history = deque[int](maxlen=self._seconds + SPARE_COUNTS)
        self._counted = 0
        self._dropped = series.SHED.labels(UNKNOWN)  # at 0, so that a rate sees the first

    @property
    def options(self) -> list[tuple[str, int]]:
        """The options of a listener."""
        return [
            # A client holds back the calls above this limit; here they would be dropped.
            ("grpc.max_concurrent_streams", self.calls),
            ("grpc.server.max_pending_requests", self.calls),
            ("grpc.server.max_pending_requests_hard_limit", self.calls),
            ("grpc.server_max_unrequested_time_in_server", self._seconds),
            # By default the core refuses a call (REFUSED_STREAM, UNAVAILABLE for the caller) while calls that it has
            # answered are not freed yet: 5 % of the calls of 60 callers that share a channel, though their client holds
            # back the calls above the limit.
            ("grpc.http.overload_protection", 0),
            ("grpc.enable_channelz", 1),
        ]

    def count(self) -> None:
        """Count the calls that the core has dropped; call it every second.

        Whatever had arrived at the first look of those that are remembered does not wait any more: it was taken or
        dropped. At most all that were taken since the start were among it, so that this never counts a call too many.
        What it has missed is counted once the load is over.
        """
        if len(self._history) == self._history.maxlen:
            dropped = self._history[0] - self.taken.calls
            if dropped > self._counted:
                self._dropped.inc(dropped - self._counted)
                self._counted = dropped
        self._history.append(self._started())


class _Taken(grpc.GenericRpcHandler):
    """Counts every call that Python takes; it comes before the handlers that answer."""

    def __init__(self) -> None:
        self.calls = 0

    def service(self, _: grpc.HandlerCallDetails) -> None:
        """Count a call."""
        self.calls += 1


def _started() -> int:
    """How many calls have arrived at the servers of this process. Only the core knows."""
    started, after, end = 0, 0, False
    while not end:
        page = json.loads(cygrpc.channelz_get_servers(after))
        servers = page.get("server", [])
        started += sum(int(server["data"].get("callsStarted", 0)) for server in servers)
        end = page.get("end", False) or not servers
        after = int(servers[-1]["ref"]["serverId"]) + 1 if servers else 0
    return started
