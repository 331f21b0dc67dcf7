"""Tables as people have them: separators, encodings, decimal commas, headers, and files that are none."""

import gzip
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

from training.errors import PipelineError
from training.new_dataset.table import RawTable, read

ROWS = [
    ("name", "size", "since"),
    ("Zoë", "1.5", "2024-05-31"),
    ("O'Hara, J.", "2", ""),
    ('"x"\ny', "NA", "2024-06-01"),
]
COLUMNS = {"name": ["Zoë", "O'Hara, J.", '"x"\ny'], "size": ["1.5", "2", ""], "since": ["2024-05-31", "", "2024-06-01"]}


def text_of(rows: Sequence[tuple[str, ...]], separator: str, end: str = "\n") -> str:
    def quoted(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"' if any(each in cell for each in '",;|\t\n') else cell

    return "".join(separator.join(map(quoted, row)) + end for row in rows)


def read_bytes(folder: Path, content: bytes, name: str = "table.csv") -> RawTable:
    (folder / name).write_bytes(content)
    return read(folder / name)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_separator_and_encoding(tmp_path: Path, separator: str, encoding: str, end: str) -> None:
    assert read_bytes(tmp_path, text_of(ROWS, separator, end).encode(encoding)).columns == COLUMNS


@pytest.mark.parametrize(
    ("separator", "encoding"), [(";", "utf-8-sig"), (";", "cp1252"), ("\t", "utf-16"), (",", "utf-8")]
)
def test_the_separator_may_have_a_line_of_its_own(tmp_path: Path, separator: str, encoding: str) -> None:
    content = f"sep={separator}\r\n{text_of(ROWS, separator, chr(13) + chr(10))}"
    assert read_bytes(tmp_path, content.encode(encoding)).columns == COLUMNS


def test_it_says_what_the_copy_has_otherwise(tmp_path: Path) -> None:
    notes = read_bytes(tmp_path, text_of(ROWS, ";").encode("cp1252")).notes
    assert [note for note in notes if "cp1252" in note]
    assert [note for note in notes if "semicolons" in note]
    assert not read_bytes(tmp_path, text_of(ROWS, ",").encode()).notes


def test_a_compressed_file(tmp_path: Path) -> None:
    assert read_bytes(tmp_path, gzip.compress(text_of(ROWS, ",").encode()), "table.csv.gz").columns == COLUMNS


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1,5", "2", "-0,25"], ["1.5", "2", "-0.25"]),
        (["1.234,5", "12", "NA"], ["1234.5", "12", ""]),
        (["1,5", "2", "about 3,5"], ["1,5", "2", "about 3,5"]),
    ],
)
def test_decimal_commas_become_points(tmp_path: Path, cells: list[str], expected: list[str]) -> None:
    rows = [("a", "b"), *((cell, "x") for cell in cells)]
    assert read_bytes(tmp_path, text_of(rows, ";").encode()).columns["a"] == expected


def test_row_names_without_a_header_are_a_column(tmp_path: Path) -> None:
    table = read_bytes(tmp_path, b'"size","kind"\n"1",5,"a"\n"2",6,"b"\n')
    assert table.columns == {"column 1": ["1", "2"], "size": ["5", "6"], "kind": ["a", "b"]}


def test_spaces_and_blank_lines_tell_nothing(tmp_path: Path) -> None:
    table = read_bytes(tmp_path, b"\n a , b\n 1 , x y \n\n 2 ,?\n\n")
    assert table.columns == {"a": ["1", "2"], "b": ["x y", ""]}
    assert table.marks["b"] == {"?": 1}


def test_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "number": [0.1, None, 1e-7],
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "flag": pd.array([True, False, None], dtype="boolean"),
            "text": pd.Categorical(["a", None, "b"]),
            "day": [date(2024, 5, 31), None, date(2024, 6, 1)],
            "moment": pd.Series([datetime(2024, 5, 31, 12, 30, tzinfo=UTC), None, None]),
            "money": [Decimal("1.20"), None, Decimal("0.10")],
            "many": [[1, 2], [3], []],
        }
    )
    frame.to_parquet(tmp_path / "table.parquet")
    table = read(tmp_path / "table.parquet")
    assert table.columns == {
        "number": ["0.1", "", "1e-07"],
        "whole": ["1", "", "3"],
        "flag": ["true", "false", ""],
        "text": ["a", "", "b"],
        "day": ["2024-05-31", "", "2024-06-01"],
        "moment": ["2024-05-31T12:30:00+00:00", "", ""],
        "money": ["1.20", "", "0.10"],
    }
    assert list(table.left_out) == ["many"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"a,b\n", "has no rows"),
        (b"a\n1\n2\n", "has one column"),
        (b"a,b\n1,2\n3\n", "row 2: 1 cells, the header has 2"),
        (b"a,a\n1,2\n", "the column 'a' is there more than once"),
        (b"a, a \n1,2\n", "the column 'a' is there more than once"),
        (b"1,2\n3,4\n", "there is no header"),
        (b'a,b\n1,"2\n', "line 2: unexpected end of data"),
        (b"PK\x03\x04rest", "is a workbook or an archive: save the sheet as CSV"),
        (b"PAR1rest", "is damaged"),
        (b"\x1f\x8brest", "cannot be read"),
        (b"a,b\n1,\x81\n", "is no text"),
        (",".join(f"c{number}" for number in range(501)).encode() + b"\n" + b",".join([b"1"] * 501), "501 columns"),
    ],
)
def test_what_is_no_table_is_refused_in_a_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(PipelineError, match=reason):
        read_bytes(tmp_path, content)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"nowhere\.csv: there is no such file"):
        read(tmp_path / "nowhere.csv")
