"""Open-loop load on a coroutine: requests arrive when they arrive, whether or not earlier ones were answered."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeVar

import numpy as np

Request = Callable[[int], Awaitable[object]]
"""Sends the n-th request; done when it is answered."""
BACK_OFF_SECONDS = 0.005
MOST_IN_A_TURN = 1024
"""Requests that are sent in one turn of the loop when they are due: libuv reads as many sockets in a turn."""
Refusal = TypeVar("Refusal", bound=Exception)


@dataclass
class Arrivals:
    """What became of the requests that arrived in ``seconds``.

    ``latencies`` are those of the accepted, in seconds, from the time at which each should have arrived: a loop that
    is too busy to send on time does not hide its delay. ``delays`` are that part of it, of all that arrived: from the
    time of arrival to the call of the coroutine, as a request waits in its socket for a busy server to read it.
    """

    seconds: float
    offered: int = 0
    refused: int = 0
    latencies: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    def latency_ms(self, share: float) -> float:
        """A quantile of the accepted requests' latencies, in milliseconds; NaN if none was accepted."""
        return float(np.quantile(self.latencies, share)) * 1000 if self.latencies else float("nan")

    def delay_ms(self, share: float) -> float:
        """A quantile of the delays, in milliseconds; NaN if nothing arrived."""
        return float(np.quantile(self.delays, share)) * 1000 if self.delays else float("nan")


def poisson(rate: float, seconds: float, seed: int = 0) -> Iterator[float]:
    """Times of arrival in seconds from the start: independent of each other, ``rate`` a second on average."""
    draw = random.Random(seed)  # noqa: S311 # a reproducible draw, no secret
    time = draw.expovariate(rate)
    while time < seconds:
        yield time
        time += draw.expovariate(rate)


async def offer(
    request: Request, refusal: type[Refusal], *, rate: float, seconds: float, settle: float = 0.0
) -> Arrivals:
    """Offer Poisson arrivals and wait for all answers.

    Args:
        request: sends one; may raise ``refusal`` to shed it.
        refusal: the error of a shed request; any other one is raised.
        rate: requests a second.
        seconds: that are measured.
        settle: seconds before, in which the same load is offered and not measured.
    """
    measured = Arrivals(seconds)
    waiting: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    started = perf_counter()

    async def send(number: int, due: float) -> None:
        counts = due >= settle
        measured.offered += counts
        if counts:
            measured.delays.append(perf_counter() - started - due)
        try:
            await request(number)
        except refusal:
            measured.refused += counts
        else:
            if counts:
                measured.latencies.append(perf_counter() - started - due)

    def finished(task: asyncio.Task[None]) -> None:
        waiting.discard(task)

    sent = 0
    for number, due in enumerate(poisson(rate, settle + seconds)):
        ahead = due - (perf_counter() - started)
        if ahead > 0 or sent == MOST_IN_A_TURN:
            await asyncio.sleep(max(ahead, 0))
            sent = 0
        sent += 1
        task = loop.create_task(send(number, due))
        waiting.add(task)
        task.add_done_callback(finished)
    while waiting:
        done, _ = await asyncio.wait(waiting)
        for task in done:
            task.result()
    return measured


async def saturate(request: Request, refusal: type[Refusal], *, callers: int, seconds: float) -> float:
    """Accepted requests a second of a closed loop: each caller sends its next when it has its answer.

    A caller that is shed waits a moment before it tries again.
    """
    started = perf_counter()
    until = started + seconds
    done = 0

    async def call(first: int) -> None:
        nonlocal done
        number = first
        while perf_counter() < until:
            try:
                await request(number)
            except refusal:
                await asyncio.sleep(BACK_OFF_SECONDS)
                continue
            number += callers
            done += 1

    await asyncio.gather(*(call(first) for first in range(callers)))
    return done / (perf_counter() - started)
