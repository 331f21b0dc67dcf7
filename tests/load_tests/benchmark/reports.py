"""A report in the shape of a real one, with figures made up by the tests that use it."""

from collections.abc import Mapping
from datetime import UTC, datetime

from load_tests.benchmark.load import Load
from load_tests.benchmark.results import Direct, LineNote, Machine, Report, Sample, ServerNote, Start
from load_tests.benchmark.servers import SERVERS


def load(requests: int = 1000, seconds: float = 1.0, *, refused: int = 0, p99_ms: float = 10.0) -> Load:
    return Load(
        requests=requests, seconds=seconds, p50_ms=p99_ms / 2, p99_ms=p99_ms, max_ms=p99_ms * 2, refused=refused
    )


def sample(
    line: str,
    requests: int = 1000,
    *,
    connections: int = 64,
    rows: int = 1,
    number: int = 0,
    refused: int = 0,
    p99_ms: float = 10.0,
    cpu_seconds: float = 1.0,
    stall: bool = False,
    worker_bytes: int = 100_000_000,
    others_cores: float = 0.0,
) -> Sample:
    return Sample(
        line=line,
        connections=connections,
        rows=rows,
        round=number,
        load=load(requests, refused=refused, p99_ms=p99_ms),
        cpu_seconds=cpu_seconds,
        others_cores=others_cores,
        memory_bytes=3 * worker_bytes,
        worker_bytes=worker_bytes,
        stall=stall,
    )


def report(samples: list[Sample], *, ready: Mapping[str, float] | None = None, direct: float | None = None) -> Report:
    """Of all servers, with these samples."""
    return Report(
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        seconds=60,
        revision="0000000",
        model="housing:test",
        machine=Machine(cpu="a CPU", cores=2, memory_bytes=2**34, system="Linux", python="3.11.7", load_average=0.1),
        workers=2,
        connections=(1, 16, 64, 256),
        rows=(1, 10, 100, 1000),
        rows_connections=16,
        servers=[
            ServerNote(
                key=server.key,
                title=server.title,
                model=server.model,
                settings=server.settings,
                floor=server.floor,
                versions={"onnxruntime": "1.0"},
            )
            for server in SERVERS
        ],
        lines=[
            LineNote(key=line.key, server=server.key, title=line.title, protocol=line.protocol.name, grpc=line.grpc)
            for server in SERVERS
            for line in server.lines
        ],
        samples=samples,
        starts=[Start(server=server, round=0, seconds=seconds) for server, seconds in (ready or {}).items()],
        direct=[Direct(round=0, rows=1000, processes=2, rows_per_second=direct)] if direct else [],
        failures=[],
    )


def met_everywhere() -> Report:
    """Every line has its samples, and every target is met."""
    speeds = {
        "ours": 7000,
        "unmetered": 7000,
        "ours-v2": 9000,
        "ours-grpc": 5000,
        "empty": 12_000,
        "echo": 50_000,
        "grpc-echo": 8000,
    }
    cpu = {"ours": 0.7, "unmetered": 0.68, "ours-grpc": 0.5, "empty": 1.8, "mlserver-grpc": 1.5}
    samples = []
    for server in SERVERS:
        for line in server.lines:
            for number in range(3):
                speed = speeds.get(line.key, 1000) + number
                if not line.rows_only:
                    samples += [
                        sample(line.key, speed, connections=count, number=number, cpu_seconds=cpu.get(line.key, 1.0))
                        for count in (1, 16, 64, 256)
                    ]
                if not server.floor:
                    samples += [sample(line.key, 100, connections=16, rows=count) for count in (10, 100, 1000)]
    samples += [sample("ours", stall=True, p99_ms=20), sample("mlserver", stall=True, p99_ms=75)]
    return report(samples, ready={server.key: 2.0 for server in SERVERS}, direct=150_000)
