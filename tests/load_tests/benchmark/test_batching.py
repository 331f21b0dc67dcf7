import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from contract.table import FloatMatrix
from load_tests.benchmark import batching, batching_page
from load_tests.benchmark.batching_page import ONNX, SLOW, BatchingResult, Curve, Point
from load_tests.benchmark.result import Machine
from serving.settings import Settings

PNG = b"\x89PNG"


def made_up(model: str, size: int, capacity: float, *, alone_ms: float = 1.0, p99_ms: float = 100.0) -> Curve:
    points = [
        Point(
            share=share,
            offered=share * capacity,
            accepted=min(share, 1.0) * capacity,
            refused=max(0.0, 1 - 1 / share),
            p50_ms=p99_ms / 2,
            p99_ms=p99_ms * share,
            delay_ms=0.1,
            mean_batch=float(size),
        )
        for share in (0.1, 1.0, 1.5)
    ]
    return Curve(model, 1, size, max_latency_ms=500, alone_ms=alone_ms, capacity=capacity, points=points)


def four(slow_gain: float = 10, slow_p99: float = 100, idle: float = 1.0) -> list[Curve]:
    return [
        made_up(ONNX, 512, 20_000, alone_ms=idle),
        made_up(ONNX, 1, 10_000),
        made_up(SLOW, 64, 50 * slow_gain, p99_ms=slow_p99),
        made_up(SLOW, 1, 50),
    ]


def test_all_can_hold() -> None:
    assert all(claim.holds for claim in batching_page.claims(four()))


@pytest.mark.parametrize(
    ("curves", "broken"),
    [
        (four(slow_gain=4), "slow model: capacity"),
        (four(slow_p99=400), "slow model, with the runner: p99 of accepted"),
        (four(idle=1.2), "ONNX model: idle"),
    ],
)
def test_what_does_not_hold_is_told(curves: list[Curve], broken: str) -> None:
    (claim,) = (claim for claim in batching_page.claims(curves) if not claim.holds)
    assert claim.subject.startswith(broken)


def test_the_page_keeps_what_is_outside_of_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "batching.md"
    page.write_text("before\n<!-- measured: begin -->\nfigures of an earlier run\n<!-- measured: end -->\nafter\n")
    result = BatchingResult(machine=Machine(cpu="a CPU", cores=2, python="3.11.7"), curves=four())
    written = batching_page.write(result, page)
    text = page.read_text()
    assert text.startswith("before\n<!-- measured: begin -->\nMeasured on 2 cores: a CPU;")
    assert text.endswith("<!-- measured: end -->\nafter\n")
    assert "earlier run" not in text
    assert "| slow model: capacity | at least 5 × | 10 × (500 against 50 requests/s) | yes |" in text
    assert written[0].read_bytes().startswith(PNG)


def test_an_idle_request_takes_as_long_as_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "IDLE_SECONDS", 0.1)

    def slow(rows: FloatMatrix) -> FloatMatrix:
        time.sleep(0.01)
        return rows[:, :1]

    found = asyncio.run(batching.idle("idle", slow, 1, (32, 1), Settings()))
    assert found.keys() == {32, 1}
    assert all(milliseconds >= 10 for milliseconds in found.values())


def test_a_curve_of_a_slow_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batching multiplies the capacity of a model whose calls take as long for many rows as for one."""

    def slow(rows: FloatMatrix) -> FloatMatrix:
        time.sleep(0.01)
        return rows[:, :1]

    monkeypatch.setattr(batching, "SETTLE_SECONDS", 0.2)

    async def both() -> tuple[Curve, Curve]:
        on = await batching.curve(
            "on",
            slow,
            request_rows=1,
            max_batch_size=32,
            settings=Settings(),
            seconds=0.5,
            alone_ms=10,
            say=str,
            shares=(0.1,),
        )
        off = await batching.curve(
            "off",
            slow,
            request_rows=1,
            max_batch_size=1,
            settings=Settings(),
            seconds=0.5,
            alone_ms=10,
            say=str,
            shares=(),
        )
        return on, off

    on, off = asyncio.run(both())
    assert off.capacity <= 100
    assert on.capacity > 5 * off.capacity
    (point,) = on.points
    assert 0 <= point.refused < 1
    assert point.p50_ms >= 10
    assert 1 <= point.mean_batch <= 32
    assert np.isfinite(point.p99_ms)
