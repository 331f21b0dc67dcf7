"""Results in the shape of real ones, of made-up samples."""

from datetime import date

from load_tests.benchmark.load import LoadResult
from load_tests.benchmark.plan import FULL, SERVERS
from load_tests.benchmark.result import Machine, Result, Run, Sample, summarise


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
    times = {"p50_ms": p99_ms / 2, "p99_ms": p99_ms, "max_ms": p99_ms * 2}
    return Sample(
        line=line,
        connections=connections,
        rows=rows,
        round=number,
        load=LoadResult(requests=requests, seconds=1.0, refused=refused, **times),
        cpu_seconds=cpu_seconds,
        others_cores=others_cores,
        memory_bytes=3 * worker_bytes,
        worker_bytes=worker_bytes,
        stall=stall,
    )


def result(*samples: Sample, ready: float | None = None, direct: float | None = None) -> Result:
    """The result of all servers with these samples."""
    run = Run(
        samples=list(samples),
        ready_seconds={server.key: [ready] for server in SERVERS} if ready else {},
        direct=[direct] if direct else [],
    )
    machine = Machine(cpu="a CPU", cores=2, python="3.11.7")
    facts = {"day": date(2026, 1, 1), "revision": "0000000", "model": "housing:test"}
    return summarise(run, FULL, SERVERS, machine=machine, **facts)  # type: ignore[arg-type]


def met_everywhere() -> Result:
    """Every line has its samples, and every target is met."""
    speeds = {"ours": 7000, "unmetered": 7000, "ours-v2": 9000, "ours-grpc": 5000}
    cpu = {"ours": 0.7, "unmetered": 0.68, "ours-grpc": 0.5, "empty": 1.8, "mlserver-grpc": 1.5}
    samples = []
    for server in SERVERS:
        for line in server.lines:
            speed = speeds.get(line.key, 1000)
            for step in (step for number in range(2) for step in FULL.steps(line, server, number)):
                count, cpu_seconds = speed if step.rows == 1 else 100, cpu.get(line.key, 1.0)
                samples.append(
                    sample(line.key, count, connections=step.connections, rows=step.rows, cpu_seconds=cpu_seconds)
                )
    samples += [sample("ours", stall=True, p99_ms=20), sample("mlserver", stall=True, p99_ms=75)]
    return result(*samples, ready=2.0, direct=150_000)
