"""CSV files as people have them: each record behind the header is predicted or rejected, or the file is refused."""

import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batch_predict import csv_file, source
from batch_predict.parts import Reader, parts
from batch_predict.run import Options
from batch_predict.source import Format
from tests.batch_predict import tiny_batches
from tests.batch_predict.tiny_batches import Predict, read
from tests.training.tiny_models import PLOTS
from training.errors import PipelineError

predict = tiny_batches.predict  # a fixture

HEADER = b"id,size,longitude,latitude\n"
COLUMNS = 4
_CELL = rb'(?:"(?:[^"]|"")*"|(?!")[^,\r\n]*)'
_RECORD = re.compile(rb"%s(?:,%s)*(?:\r\n|\r|\n|\Z)" % (_CELL, _CELL))
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|\Z)")


def records(body: bytes) -> list[list[str] | None]:
    """The cells of each record, by RFC 4180 with any line end; None for a record that is no row of the table."""
    found: list[list[str] | None] = []
    position = 0
    while position < len(body):
        record = _RECORD.match(body, position)
        line = record or _LINE.match(body, position)
        assert line is not None
        position = line.end()
        if not line[0].strip(b"\r\n"):
            continue
        cells = re.findall(rb"(?:\A|,)(%s)" % _CELL, line[0].rstrip(b"\r\n")) if record else []
        try:
            texts = [cell.decode() for cell in cells]
        except UnicodeDecodeError:
            texts = []
        row = [text[1:-1].replace('""', '"') if text.startswith('"') else text for text in texts]
        found.append(row if len(row) == COLUMNS else None)
    return found


PIECES = [
    *(b"a,1,1,1\n", b'"b",1,1,1\r\n', b'"c\n""d""",2,2,2\r', b'"open,1,1,1\n', b"x", b"1", b",", b'"', b'""'),
    *(b"\n", b"\r", b"\r\n", b'5" pipe', b"\0", b"\xff", b"\xc3\xa9", b"\xef\xbb\xbf", b" ", b"\t", b"'", b"\\", b"#"),
    *(b"NA", b"\xe2\x80\xa8"),
]
BODIES = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join) | st.binary(max_size=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("csv")


@given(body=BODIES, part_rows=st.integers(1, 5))
@example(body=b'a,1,1,1\n"b,1,1,1\nc,1,1,1\n', part_rows=5)
@example(body=b'"b,1,1,1\nc,1,1,1\n"d",1,1,1\n', part_rows=1)
@example(body=b"a,1,1,1\rb,1,1,1\r", part_rows=1)
@example(body=b"a,1,1,1\n\xef\xbb\xbfb,1,1,1\n", part_rows=1)
@example(body=b"\xff,1\na,1,1,1\n", part_rows=5)
@settings(max_examples=300, deadline=None)
def test_every_record_is_read_or_malformed(folder: Path, body: bytes, part_rows: int) -> None:
    path = folder / "in.csv"
    path.write_bytes(HEADER + body)
    table = source.find(path, PLOTS)
    reader = Reader(table.layout)
    found: dict[int, list[str] | None] = {}
    for part in parts(table, part_rows):
        assert part.rows <= part_rows
        result = reader.read(part)
        rows = zip(*result.table.to_pydict().values(), strict=True)
        for number, row in zip(result.rows.tolist(), rows, strict=True):
            found[number] = list(row)
        for one in result.malformed:
            assert one.reason.startswith(f"row {one.row}: ")
            found[one.row] = None
    assert [found[number] for number in sorted(found)] == records(body)
    assert sorted(found) == list(range(len(found)))


@given(body=BODIES, part_rows=st.integers(1, 5))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_record_is_predicted_or_rejected(predict: Predict, folder: Path, body: bytes, part_rows: int) -> None:
    path = folder / "whole.csv"
    path.write_bytes(HEADER + body)
    target = folder / "out.parquet"
    done = predict(PLOTS, path, target, Options(part_rows=part_rows, processes=1, restart=True))
    assert done.rows + done.rejected == len(records(body))
    assert len(read(target, Format.PARQUET)) == done.rows
    if done.rejected:
        rejected = read(folder / "out.rejected.parquet", Format.PARQUET)
        assert len(set(rejected["input_row"].to_pylist())) == done.rejected
        assert all(rejected["reasons"].to_pylist())


CSV_RECORDS: dict[str, tuple[bytes, list[str], dict[int, str]]] = {
    "cells too few": (b"a,1,1,1\nb,1\nc,2,1,1\n", ["a", "c"], {1: "row 1: the record has 2 cells, the header 4."}),
    "cells too many": (b"a,1,1,1\nb,1,1,1,1\nc,2,1,1\n", ["a", "c"], {1: "has 5 cells, the header 4"}),
    "blank lines": (b"\na,1,1,1\n\r\n\nb,x,1,1\n\n", ["a"], {1: "'x' is not a number"}),
    "CRLF": (b"a,1,1,1\r\nb,1,1,1\r\n", ["a", "b"], {}),
    "CR": (b"a,1,1,1\rb,x,1,1\rc,1,1,1", ["a", "c"], {1: "'x'"}),
    "mixed line ends": (b"a,1,1,1\rb,1,1,1\r\nc,1,1,1\nd,1,1,1\r\r\ne,1,1,1", ["a", "b", "c", "d", "e"], {}),
    "no last line end": (b"a,1,1,1\nb,1,1,1", ["a", "b"], {}),
    "a line end in a cell": (b'"a\nb",1,1,1\n"c\r\n",x,1,1\nd,1,1,1\n', ["a\nb", "d"], {1: "'x'"}),
    "a comma and quotes in a cell": (b'"a,""b""",1,1,1\n', ['a,"b"'], {}),
    "a stray quote": (b'5" pipe,1,1,1\n6" pipe,x,1,1\n"c",1,1,1\n', ['5" pipe', "c"], {1: "'x'"}),
    "a CR in a cell": (b"a,1,1,1\nb\rb,1,1,1\n\"c\rc\",1,1,1\n", ["a", "b", "c\rc"], {1: "has 1 cells"}),
    "a quote never closed": (b'a,1,1,1\n"b,1,1,1\nc,1,1,1\nd,1,1,1\n', ["a", "c", "d"], {1: "cell is not closed"}),
    "and one that is": (b'"b,1,1,1\nc,1,1,1\n"d",1,1,1\n', ["c", "d"], {0: "cell is not closed"}),
    "text behind a quote": (b'"a"b,1,1,1\nc,1,1,1\n', ["c"], {0: "not followed by a comma"}),
    "NUL": (b"a\0,1,1,1\nb,1\0,1,1\n", ["a\0"], {1: "is not a number"}),
    "a byte order mark in a cell": (b"\xef\xbb\xbfa,1,1,1\n", ["\ufeffa"], {}),
    "not UTF-8": (b"a,1,1,1\n\xff,1,1,1\nc,x,1,1\n\xff\n", ["a"], {1: "text is not UTF-8", 2: "'x'", 3: "not UTF-8"}),
    "no rows": (b"", [], {}),
}  # fmt: skip


@pytest.mark.parametrize("part_rows", [1, 2, 100])
@pytest.mark.parametrize(("body", "good", "bad"), CSV_RECORDS.values(), ids=CSV_RECORDS)
def test_csv_as_people_have_it(
    predict: Predict, tmp_path: Path, part_rows: int, body: bytes, good: list[str], bad: dict[int, str]
) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b"\xef\xbb\xbf" + HEADER + body)
    done = predict(PLOTS, path, tmp_path / "out.parquet", Options(part_rows=part_rows, processes=1))
    assert read(tmp_path / "out.parquet", Format.PARQUET)["id"].to_pylist() == good
    assert done.rejected == len(bad)
    if bad:
        rejected = read(tmp_path / "out.rejected.parquet", Format.PARQUET).to_pylist()
        assert [row["input_row"] for row in rejected] == list(bad)
        for row, reason in zip(rejected, bad.values(), strict=True):
            assert reason in row["reasons"]
            # What was in it is kept: as columns, or as text where it has none.
            assert row["record"] or row["id"]


def test_bytes_that_are_no_text_are_shown(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(HEADER + b"caf\xe9,1,1,1\n")
    predict(PLOTS, tmp_path / "in.csv", tmp_path / "out.parquet", Options(processes=1))
    (rejected,) = read(tmp_path / "out.rejected.parquet", Format.PARQUET).to_pylist()
    assert rejected["record"] == r"caf\xe9,1,1,1"


@pytest.mark.parametrize(
    "header",
    [
        b'"id","size","longitude","latitude"\n',
        b"id,size,longitude,latitude\r",
        b"\r\n\nid,size,longitude,latitude\r\n",
        b'\xef\xbb\xbf"id",size,longitude,latitude\n',
    ],
)
def test_a_header_as_people_have_it(predict: Predict, tmp_path: Path, header: bytes) -> None:
    (tmp_path / "in.csv").write_bytes(header + b"a,1,1,1\n")
    predict(PLOTS, tmp_path / "in.csv", tmp_path / "out.parquet", Options(processes=1))
    assert read(tmp_path / "out.parquet", Format.PARQUET).to_pylist() == [{"id": "a", "prediction": 2.0}]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "does not begin with a header"),
        (b"\n\r\n", "does not begin with a header"),
        ("id,size,longitude,latitude\na,1,1,1\n".encode("utf-16"), "looks like UTF-16 or UTF-32. Save it as UTF-8"),
        ("id,size,longitude,latitude\na,1,1,1\n".encode("utf-16-le"), "looks like UTF-16"),
        ("id,size,longitude,latitude\na,1,1,1\n".encode("utf-32"), "looks like UTF-16 or UTF-32"),
        (b"\xffid,size,longitude,latitude\n", "the header is not UTF-8"),
        (b'id,"size,longitude,latitude\na,1,1,1\n', "a quote in the header is not closed"),
        (b"id,size,longitude,latitude\n" + b"x" * (17 << 20), "has a line of more than 16 MB"),
        (b"x" * (17 << 20), "has a line of more than 16 MB"),
    ],
    ids=range(9),
)
def test_what_is_no_csv_table_is_refused(predict: Predict, tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "in.csv").write_bytes(content)
    with pytest.raises(PipelineError, match=sentence):
        predict(PLOTS, tmp_path / "in.csv", tmp_path / "out", Options(processes=1))
    assert not list((tmp_path / "out").glob("part-*"))


@pytest.mark.parametrize("part_rows", [1, 2, 100])
def test_an_open_quote_ends_after_the_longest_record(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_rows: int
) -> None:
    """It does not reach the quote that would close it, so that memory stays bounded."""
    monkeypatch.setattr(csv_file, "LONGEST_RECORD_BYTES", 100)
    rows = [f"{row},1,1,1\n" for row in range(50)]
    (tmp_path / "in.csv").write_bytes(HEADER + f'"open,1,1,1\n{"".join(rows)}end"\n'.encode())
    done = predict(PLOTS, tmp_path / "in.csv", tmp_path / "out.parquet", Options(part_rows=part_rows, processes=1))
    assert (done.rows, done.rejected) == (50, 2)


def test_a_file_that_grows_during_a_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(HEADER + b"a,1,1,1\nb,1,1,1\n")
    table = source.find(path, PLOTS)
    (part,) = parts(table, 10)
    path.write_bytes(HEADER + b"a,1,1,1\n" + b"\n" * 8)
    with pytest.raises(pa.ArrowInvalid, match="has changed since this run began"):
        Reader(table.layout).read(part)
