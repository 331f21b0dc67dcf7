"""Segments: what is written is read, whatever happens to the file, the disk or the writer."""

import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.table import FloatMatrix
from ledger import spool
from ledger.record import ErrorCount, Record
from ledger.spool import SpoolWriter, encode_errors, is_finished, read_segment, segments
from local_service import PROJECT
from tests.ledger.records import NOW_US, a_record, encoded

LIMIT = 1024**3


def fields(record: Record) -> tuple[Any, ...]:
    """All of a record, its values as bytes."""
    return tuple(getattr(record, name) for name in Record.__slots__)


def of_values(rows: FloatMatrix | None, outputs: FloatMatrix) -> Record:
    record = a_record()
    identity = (record.id, record.request_id, record.time_us, record.model, record.version, record.protocol)
    return Record(*identity, record.milliseconds, rows, outputs)


def same(found: Sequence[Record], expected: Sequence[Record]) -> bool:
    return [fields(record) for record in found] == [fields(record) for record in expected]


def write(directory: Path, records: Sequence[Record]) -> Path:
    """The finished segment that holds these records."""
    writer = SpoolWriter(directory, LIMIT)
    writer.append([encoded(record) for record in records])
    writer.finish()
    return segments(directory)[-1]


def read_all(segment: Path, position: int = 0, *, finished: bool = True) -> tuple[list[Record], int]:
    """The records of a segment from a position on, and how many stretches were torn."""
    records: list[Record] = []
    torn = 0
    while (part := read_segment(segment, position, finished=finished)).position != position:
        records += part.records
        torn += part.torn
        position = part.position
    return records, torn


def test_what_is_written_is_read_with_its_bits(tmp_path: Path) -> None:
    extreme = np.array([[-0.0, 5e-324, np.inf, np.nan, 1 / 3, 1e308, -1.0, 2.0**53 + 2]])
    records = [
        a_record(),
        of_values(extreme, np.array([[-0.0]])),
        of_values(None, np.array([[1.5]])),
        a_record(rows=3, model="iris", protocol="v2", version="sha-0123456789ab"),
        a_record(request_id="r" * 128, protocol="grpc"),
        a_record(outputs=np.ones((4, 1), dtype=np.float32)),
        a_record(outputs=np.asfortranarray(np.arange(6.0).reshape(2, 3)), model="iris"),
    ]
    found, torn = read_all(write(tmp_path, records))
    assert same(found, records)
    assert torn == 0


def test_errors_are_kept_with_the_records(tmp_path: Path) -> None:
    counts = [ErrorCount(29_833_333, "iris", "http", 400, 7), ErrorCount(29_833_333, "", "grpc", 404, 3_000_000_000)]
    writer = SpoolWriter(tmp_path, LIMIT)
    writer.append([encode_errors(counts[0]), encoded(record := a_record()), encode_errors(counts[1])])
    part = read_segment(segments(tmp_path)[0], 0, finished=False)
    assert part.errors == counts
    assert same(part.records, [record])


def test_a_segment_is_read_while_it_grows(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, LIMIT)
    first, second = [a_record() for _ in range(3)], [a_record() for _ in range(2)]
    writer.append([encoded(record) for record in first])
    (segment,) = segments(tmp_path)
    part = read_segment(segment, 0, finished=False)
    assert same(part.records, first)
    assert read_segment(segment, part.position, finished=False).position == part.position
    writer.append([encoded(record) for record in second])
    assert same(read_segment(segment, part.position, finished=False).records, second)


def test_parts_are_bounded_but_a_record_is_never_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "PART_BYTES", 1000)
    records = [a_record(rows=number % 40 + 1) for number in range(100)]
    segment = write(tmp_path, records)
    assert len(read_segment(segment, 0, finished=True).records) < 10
    assert same(read_all(segment)[0], records)


def test_as_many_records_are_read_as_asked_for(tmp_path: Path) -> None:
    records = [a_record() for _ in range(5)]
    segment = write(tmp_path, records)
    part = read_segment(segment, 0, finished=True, most=2)
    assert same(part.records, records[:2])
    assert same(read_segment(segment, part.position, finished=True).records, records[2:])


@pytest.mark.parametrize("kept", [0, 1, 3, 8, 11, 12, 40, -5, -1])
def test_a_torn_record_at_the_end_is_skipped_and_counted(tmp_path: Path, kept: int) -> None:
    records = [a_record() for _ in range(4)]
    segment = write(tmp_path, records)
    last = len(encoded(records[-1]))
    os.truncate(segment, segment.stat().st_size - last + (kept if kept >= 0 else last + kept))
    found, torn = read_all(segment)
    assert same(found, records[:3])
    assert torn == (kept != 0)
    # Its writer may still complete it, as long as it lives.
    assert read_all(segment, finished=False)[1] == 0


@pytest.mark.parametrize("at", [0, 4, 9, 60, -1])
def test_a_damaged_record_in_the_middle_costs_itself_alone(tmp_path: Path, at: int) -> None:
    records = [a_record() for _ in range(5)]
    segment = write(tmp_path, records)
    start = 8 + len(encoded(records[0])) + len(encoded(records[1]))
    place = start + at if at >= 0 else start + len(encoded(records[2])) + at
    content = bytearray(segment.read_bytes())
    content[place] ^= 0xFF
    segment.write_bytes(content)
    found, torn = read_all(segment)
    assert same(found, [*records[:2], *records[3:]])
    assert torn == 1


@pytest.mark.parametrize("content", [b"", b"LEDG", b"LEDGER1\n", b"no segment at all", b"\xf1LR\x01" * 50])
def test_rubbish_is_read_to_its_end(tmp_path: Path, content: bytes) -> None:
    segment = tmp_path / "0-rubbish.spool"
    segment.write_bytes(content)
    found, torn = read_all(segment)
    assert found == []
    assert torn == (content not in {b"", b"LEDGER1\n"})


def test_names_differ_and_are_in_order_of_time(tmp_path: Path) -> None:
    before = time.time()
    names = [write(tmp_path, [a_record()]).name for _ in range(20)]
    assert names == sorted(set(names))
    assert all(before - 1 < spool.begun(Path(name)) <= time.time() for name in names)


def test_a_large_segment_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "SEGMENT_BYTES", 2000)
    writer = SpoolWriter(tmp_path, LIMIT)
    records = [a_record() for _ in range(40)]
    for record in records:
        writer.append([encoded(record)])
    found = segments(tmp_path)
    assert len(found) > 3
    assert all(segment.stat().st_size < 2500 for segment in found)
    assert same([record for segment in found for record in read_all(segment)[0]], records)


def test_an_old_segment_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SpoolWriter(tmp_path, LIMIT)
    writer.append([encoded(a_record())])
    writer.tend()
    assert not is_finished(segments(tmp_path)[0])
    monkeypatch.setattr(spool, "SEGMENT_SECONDS", 0.0)
    writer.tend()
    assert is_finished(segments(tmp_path)[0])
    writer.append([encoded(a_record())])
    assert len(segments(tmp_path)) == 2


def test_a_segment_is_finished_when_its_writer_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from ledger.spool import SpoolWriter, encode_errors; "
        "from ledger.record import ErrorCount; "
        "SpoolWriter(Path(sys.argv[1]), 2**30).append([encode_errors(ErrorCount(1, 'iris', 'http', 400, 1))]); "
        "print('written', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        (segment,) = segments(tmp_path)
        assert not is_finished(segment)
        writer.kill()
    assert is_finished(segment)
    assert len(read_segment(segment, 0, finished=True).errors) == 1


def test_above_its_limit_the_spool_drops_its_oldest_segments(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limit = 1024**2
    other = SpoolWriter(tmp_path, LIMIT)
    other.append([encoded(a_record())])
    (living,) = segments(tmp_path)
    writer = SpoolWriter(tmp_path, limit)
    records = [a_record(rows=50) for _ in range(1000)]
    for record in records:
        writer.append([encoded(record)])
    assert spool.size(tmp_path) <= limit
    assert writer.dropped > 10
    assert writer.unwritten == 0
    # One that is being written is not dropped: what comes next would go nowhere.
    kept = segments(tmp_path)
    assert kept[0] == living
    found = [record for segment in kept[1:] for record in read_all(segment)[0]]
    assert same(found, records[-len(found) :])
    assert len(found) > 150
    assert [record.message for record in caplog.records].count(
        "the spool is full: the oldest records are dropped. Is the database reachable?"
    ) == 1


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """A file may get no longer than this, as if the disk was full then."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_stops_recording_and_a_free_one_resumes_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(spool, "RETRY_SECONDS", 0.0)
    writer = SpoolWriter(tmp_path, LIMIT)
    records = [a_record() for _ in range(10)]
    writer.append([encoded(record) for record in records[:2]])
    with full_disk(room=segments(tmp_path)[0].stat().st_size + int(2.5 * len(encoded(records[0])))):
        # Two of these three are whole on the disk.
        writer.append([encoded(record) for record in records[2:5]])
    with full_disk(room=4):
        for record in records[5:8]:
            writer.append([encoded(record)])
    assert (writer.written, writer.unwritten) == (4, 4)
    writer.append([encoded(record) for record in records[8:]])
    assert (writer.written, writer.unwritten) == (6, 4)
    writer.finish()
    read = [read_all(segment) for segment in segments(tmp_path)]
    assert same([record for found, _ in read for record in found], [*records[:4], *records[8:]])
    assert sum(torn for _, torn in read) == 1
    assert [record.message for record in caplog.records] == [
        "the ledger does not record: its disk fails; predictions go on",
        "the ledger records again",
    ]
    assert not list(tmp_path.glob("*.new"))


def test_a_failed_disk_is_not_tried_at_each_record(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    writer = SpoolWriter(tmp_path / "file" / "spool", LIMIT)
    for _ in range(1000):
        writer.append([encoded(a_record(NOW_US))])
    assert writer.unwritten == 1000


def test_a_spool_that_was_removed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "SEGMENT_SECONDS", 0.0)
    directory = tmp_path / "spool"
    write(directory, [a_record()]).unlink()
    directory.rmdir()
    write(directory, [record := a_record()])
    assert same(read_all(segments(directory)[0])[0], [record])


def test_what_a_killed_writer_began_is_swept(tmp_path: Path) -> None:
    old, young = tmp_path / "1-old.new", tmp_path / "2-young.new"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    spool.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [young]


def test_a_place_that_cannot_be_written_to_is_told_at_once(tmp_path: Path) -> None:
    spool.prepare(tmp_path / "state" / "spool")
    assert segments(tmp_path / "state" / "spool") == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        spool.prepare(tmp_path / "file" / "spool")
