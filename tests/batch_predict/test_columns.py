"""Columns that are passed through: the values stay equal, or the column is refused by name before any row."""

import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_predict.run import Options
from batch_predict.source import Format
from tests.batch_predict import tiny_batches
from tests.batch_predict.tiny_batches import Predict
from tests.training.tiny_models import PLOTS
from training.errors import PipelineError

predict = tiny_batches.predict  # a fixture

MOMENT = dt.datetime(2020, 1, 2, 3, 4, 5)  # noqa: DTZ001 # the column says which zone
SETTINGS = Options(part_rows=2, processes=1)


def extension(kind: pa.DataType, storage: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, storage)


def moments(unit: str, zone: str | None = None) -> pa.Array:
    return pa.array([MOMENT, None], pa.timestamp(unit, zone))


IDENTIFIER = uuid.UUID(int=7).bytes
COLUMNS: list[tuple[pa.Array, list[str] | None]] = [
    (pa.nulls(2), ["", ""]),
    (pa.array([True, None]), ["true", ""]),
    *((pa.array([7, None], kind), ["7", ""]) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())),
    *((pa.array([7, None], kind), ["7", ""]) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())),
    (pa.array([2**63 - 1, -(2**63)]), ["9223372036854775807", "-9223372036854775808"]),
    (pa.array([2**64 - 1, None], pa.uint64()), ["18446744073709551615", ""]),
    (pa.array([0.5, None], pa.float16()), ["0.5", ""]),
    (pa.array([0.1, None], pa.float32()), ["0.1", ""]),
    (pa.array([0.1, 1e300]), ["0.1", "1e+300"]),
    (pa.array([dt.date(2020, 1, 2), None], pa.date32()), ["2020-01-02", ""]),
    (pa.array([dt.date(2020, 1, 2), None], pa.date64()), ["2020-01-02", ""]),
    (pa.array([dt.date(9999, 12, 31), dt.date(1, 1, 1)], pa.date32()), ["9999-12-31", "0001-01-01"]),
    (pa.array([15_000_000, None], pa.int32()).cast(pa.date32()), None),
    (pa.array([dt.time(1, 2, 3), None], pa.time32("ms")), ["01:02:03.000", ""]),
    (pa.array([dt.time(1, 2, 3), None], pa.time64("ns")), ["01:02:03.000000000", ""]),
    (moments("s"), ["2020-01-02 03:04:05.000", ""]),  # Parquet has no seconds
    (moments("ms", "UTC"), ["2020-01-02 03:04:05.000Z", ""]),
    (moments("us", "Europe/Berlin"), ["2020-01-02 04:04:05.000000+0100", ""]),
    (moments("ns"), ["2020-01-02 03:04:05.000000000", ""]),
    (pa.array([316516204800000000, None]).cast(pa.timestamp("us")), None),  # the year 12000
    (pa.array([7, None], pa.duration("us")), ["7", ""]),
    *(
        (pa.array([Decimal("1.20"), None], kind), ["1.20", ""])
        for kind in (pa.decimal32(5, 2), pa.decimal64(12, 2), pa.decimal128(30, 2), pa.decimal256(60, 2))
    ),
    *((pa.array(["a", None], kind), ["a", ""]) for kind in (pa.string(), pa.large_string(), pa.string_view())),
    (pa.array(["a", ""]), ["a", ""]),
    *(
        (pa.array([b"a", None], kind), None)
        for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1))
    ),
    (pa.array([[7], None]), None),
    (pa.array([[7], None], pa.large_list(pa.int64())), None),
    (pa.array([[7], None], pa.list_view(pa.int64())), None),
    (pa.array([[7], None], pa.large_list_view(pa.int64())), None),
    (pa.array([[7], [8]], pa.list_(pa.int64(), 1)), None),
    (pa.array([{"a": 7}, None]), None),
    (pa.array([[("a", 7)], None], pa.map_(pa.string(), pa.int64())), None),
    (pa.array(["a", None]).dictionary_encode(), ["a", ""]),
    (pa.array([7, None]).dictionary_encode(), ["7", ""]),
    (pa.array([b"a", None]).dictionary_encode(), None),
    (extension(pa.bool8(), pa.array([1, None], pa.int8())), None),
    (extension(pa.uuid(), pa.array([IDENTIFIER, None], pa.binary(16))), None),
    (extension(pa.json_(pa.string()), pa.array(["{}", None])), None),
    (extension(pa.opaque(pa.string(), "a", "b"), pa.array(["x", None])), None),
    (extension(pa.fixed_shape_tensor(pa.int64(), [1]), pa.array([[7], [8]], pa.list_(pa.int64(), 1))), None),
]
"""A column, and its cells in CSV; None if CSV has no form for it."""

REFUSED = [
    pa.array([{"a": "b"}, None], pa.struct([("a", pa.string_view())])),
    pa.array([["b"], None], pa.list_(pa.binary_view())),
    pa.array([[7], None], pa.list_(pa.int64(), 1)),  # Arrow cannot read what it wrote
]
"""Columns that a Parquet file can have and Arrow cannot pass through."""

NOT_IN_PARQUET = {"INTERVAL_MONTH_DAY_NANO", "SPARSE_UNION", "DENSE_UNION", "RUN_END_ENCODED"}
NOT_IN_PARQUET |= {"INTERVAL_MONTHS", "INTERVAL_DAY_TIME"}  # nor in pyarrow


def table(column: pa.Array) -> pa.Table:
    count = len(column)
    return pa.table({"extra": column, "size": [1.0] * count, "longitude": [1.0] * count, "latitude": [1.0] * count})


def text_of(path: Path) -> list[str]:
    """The first cells of the rows of a CSV file."""
    lines = path.read_text().splitlines()[1:]
    return [line.rpartition(",")[0].strip('"') for line in lines]


def test_every_arrow_type_is_here() -> None:
    known = {getattr(pa.lib, name): name.removeprefix("Type_") for name in dir(pa.lib) if name.startswith("Type_")}
    tried = {known.get(column.type.id, "EXTENSION") for column in (*(column for column, _ in COLUMNS), *REFUSED)}
    assert set(known.values()) - tried <= NOT_IN_PARQUET


@pytest.mark.parametrize(("column", "cells"), COLUMNS, ids=[str(column.type) for column, _ in COLUMNS])
def test_a_column_is_passed_through_or_refused_by_name(
    predict: Predict, tmp_path: Path, column: pa.Array, cells: list[str] | None
) -> None:
    pq.write_table(table(column), tmp_path / "in.parquet")
    expected = pq.read_table(tmp_path / "in.parquet")["extra"]

    predict(PLOTS, tmp_path / "in.parquet", tmp_path / "out.parquet", SETTINGS)

    written = pq.read_table(tmp_path / "out.parquet")["extra"]
    if pa.types.is_string_view(expected.type) or pa.types.is_binary_view(expected.type):
        assert written.to_pylist() == expected.to_pylist()
    else:
        assert written.equals(expected)
    if cells is None:
        with pytest.raises(PipelineError, match=r"column extra .*use --format parquet"):
            predict(PLOTS, tmp_path / "in.parquet", tmp_path / "out.csv", SETTINGS)
        assert not (tmp_path / "out.csv.parts").exists()
    else:
        predict(PLOTS, tmp_path / "in.parquet", tmp_path / "out.csv", SETTINGS)
        assert text_of(tmp_path / "out.csv") == cells


@pytest.mark.parametrize("column", REFUSED, ids=[str(column.type) for column in REFUSED])
@pytest.mark.parametrize("table_format", Format)
def test_a_column_that_cannot_be_passed_through_is_refused_by_name(
    predict: Predict, tmp_path: Path, column: pa.Array, table_format: Format
) -> None:
    pq.write_table(table(column), tmp_path / "in.parquet")
    with pytest.raises(PipelineError, match=r"the column extra|The column extra"):
        predict(PLOTS, tmp_path / "in.parquet", tmp_path / f"out.{table_format}", SETTINGS)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("column", "read"),
    [
        (pa.array([dt.datetime(9999, 12, 31), MOMENT, None], pa.timestamp("us")), pa.timestamp("us")),  # noqa: DTZ001
        (pa.array([dt.datetime(1, 1, 1), None], pa.timestamp("us")), pa.timestamp("us")),  # noqa: DTZ001
        (pa.array([1577934245123456789, -1, None], pa.int64()).cast(pa.timestamp("ns")), pa.timestamp("ns")),
        (pa.nulls(2, pa.timestamp("ns")), pa.timestamp("ns")),
    ],
)
def test_int96_timestamps_are_passed_through(
    predict: Predict, tmp_path: Path, column: pa.Array, read: pa.DataType
) -> None:
    pq.write_table(table(column), tmp_path / "in.parquet", use_deprecated_int96_timestamps=True, store_schema=False)
    predict(PLOTS, tmp_path / "in.parquet", tmp_path / "out.parquet", SETTINGS)
    written = pq.read_table(tmp_path / "out.parquet")["extra"]
    assert written.combine_chunks().equals(column.cast(read))
    predict(PLOTS, tmp_path / "in.parquet", tmp_path / "out.csv", SETTINGS)
    assert text_of(tmp_path / "out.csv") == [text or "" for text in column.cast(read).cast(pa.string()).to_pylist()]


def test_int96_timestamps_that_no_unit_holds_are_refused(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    far = pa.array([dt.datetime(9999, 1, 1)], pa.timestamp("us"))  # noqa: DTZ001
    fine = pa.array([1], pa.timestamp("ns"))
    for name, column in (("a", far), ("b", fine)):
        path = tmp_path / f"in/{name}.parquet"
        pq.write_table(table(column), path, use_deprecated_int96_timestamps=True, store_schema=False)
    with pytest.raises(PipelineError, match=r"a.parquet: the column extra has INT96 .* b.parquet|in/b.parquet"):
        predict(PLOTS, tmp_path / "in", tmp_path / "out", SETTINGS)
    nested = pa.array([[MOMENT]], pa.list_(pa.timestamp("us")))
    path = tmp_path / "nested.parquet"
    pq.write_table(table(nested), path, use_deprecated_int96_timestamps=True, store_schema=False)
    with pytest.raises(PipelineError, match=r"nested.parquet: the column extra has INT96 timestamps inside a nested"):
        predict(PLOTS, path, tmp_path / "out", SETTINGS)


TEXT = pa.array(["a"])
NUMBER = pa.array([7], pa.int64())


@pytest.mark.parametrize(
    ("one", "other", "kind", "values"),
    [
        (NUMBER, pa.array([0.5]), pa.float64(), [7.0, 0.5]),
        (pa.array([0.5]), NUMBER, pa.float64(), [0.5, 7.0]),
        (pa.array([7], pa.int8()), pa.array([2**63 - 1]), pa.int64(), [7, 2**63 - 1]),
        (pa.array([7], pa.uint8()), pa.array([-1], pa.int8()), pa.int16(), [7, -1]),
        (pa.array([0.5], pa.float32()), pa.array([0.1]), pa.float64(), [0.5, 0.1]),
        (TEXT, pa.array(["b"]).dictionary_encode(), pa.string(), ["a", "b"]),
        (TEXT.dictionary_encode(), pa.array(["b"], pa.large_string()), pa.large_string(), ["a", "b"]),
        (TEXT, pa.array(["b"], pa.string_view()), pa.large_string(), ["a", "b"]),
        (pa.nulls(1), TEXT, pa.string(), [None, "a"]),
        (TEXT.dictionary_encode(), pa.nulls(1), pa.string(), ["a", None]),
        (pa.nulls(1), pa.array([[1]]), pa.list_(pa.int64()), [None, [1]]),
    ],
    ids=str,
)
def test_files_whose_types_differ_are_joined(
    predict: Predict, tmp_path: Path, one: pa.Array, other: pa.Array, kind: pa.DataType, values: list[object]
) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(table(one), tmp_path / "in/a.parquet")
    pq.write_table(table(other), tmp_path / "in/b.parquet")
    predict(PLOTS, tmp_path / "in", tmp_path / "out.parquet", SETTINGS)
    written = pq.read_table(tmp_path / "out.parquet")["extra"]
    assert written.to_pylist() == values
    assert written.type == kind or pa.types.is_list(kind)


@pytest.mark.parametrize(
    ("one", "other", "sentence"),
    [
        (TEXT, NUMBER, r"The column extra is string in .*a.parquet and int64 in .*b.parquet"),
        (pa.array([b"a"]), TEXT, "The column extra is binary in"),
        (pa.array([True]), NUMBER, "The column extra is bool in"),
        (moments("us").slice(0, 1), moments("ns").slice(0, 1), "The column extra is timestamp"),
        (
            pa.array([2**53 + 1]),
            pa.array([0.5]),
            r"a.parquet: the column extra is int64, and with the other files double",
        ),
        (pa.array([2**64 - 1], pa.uint64()), pa.array([-1]), r"a.parquet: the column extra is uint64, and .* int64"),
    ],
    ids=str,
)
def test_files_that_cannot_be_joined_are_refused_by_column_and_file(
    predict: Predict, tmp_path: Path, one: pa.Array, other: pa.Array, sentence: str
) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(table(one), tmp_path / "in/a.parquet")
    pq.write_table(table(other), tmp_path / "in/b.parquet")
    with pytest.raises(PipelineError, match=sentence):
        predict(PLOTS, tmp_path / "in", tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_features_of_files_may_be_integers_in_one_and_numbers_in_another(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(table(TEXT), tmp_path / "in/a.parquet")
    pq.write_table(table(TEXT).set_column(1, "size", pa.array([3])), tmp_path / "in/b.parquet")
    predict(PLOTS, tmp_path / "in", tmp_path / "out.parquet", SETTINGS)
    assert pq.read_table(tmp_path / "out.parquet")["prediction"].to_pylist() == [2.0, 6.0]


@pytest.mark.parametrize("table_format", Format)
def test_the_names_of_hive_folders_are_columns(predict: Predict, tmp_path: Path, table_format: Format) -> None:
    for folder, rows in (
        ("region=CA/zip=02139", 3),
        ("region=a%2Fb/zip=1", 1),
        ("region=__HIVE_DEFAULT_PARTITION__/zip=", 1),
    ):
        tiny_batches.write(table(pa.array(["x"] * rows)), tmp_path / "in" / folder / f"0.{table_format}")
    predict(PLOTS, tmp_path / "in", tmp_path / "out.parquet", SETTINGS)
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.column_names == ["extra", "region", "zip", "prediction"]
    pairs = list(zip(written["region"].to_pylist(), written["zip"].to_pylist(), strict=True))
    assert pairs == [*[("CA", "02139")] * 3, (None, ""), ("a/b", "1")]


def test_a_hive_folder_may_name_a_feature(predict: Predict, tmp_path: Path) -> None:
    tiny_batches.write(table(TEXT).drop_columns("size"), tmp_path / "in/size=3.5/0.parquet")
    predict(PLOTS, tmp_path / "in", tmp_path / "out.parquet", SETTINGS)
    assert pq.read_table(tmp_path / "out.parquet")["prediction"].to_pylist() == [7.0]


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        (["region=CA", "."], "has a column region, .* has not"),
        (["region=CA", "state=NY"], "has a column region, .* has not"),
        (["extra=1"], "has a column extra, and a folder extra=1"),
        (["region=1/region=2"], "has a column region, and a folder region=2"),
    ],
)
def test_folders_that_do_not_fit_are_refused(
    predict: Predict, tmp_path: Path, folders: list[str], sentence: str
) -> None:
    for folder in folders:
        tiny_batches.write(table(TEXT), tmp_path / "in" / folder / "0.parquet")
    with pytest.raises(PipelineError, match=sentence):
        predict(PLOTS, tmp_path / "in", tmp_path / "out", SETTINGS)


def test_outputs_of_both_formats_may_be_in_one_folder(predict: Predict, tmp_path: Path) -> None:
    pq.write_table(table(pa.array([1, 2])).set_column(1, "size", pa.array([1.0, -1.0])), tmp_path / "in.parquet")
    for _ in range(2):
        for name in ("out.parquet", "out.csv"):
            assert predict(PLOTS, tmp_path / "in.parquet", tmp_path / name, SETTINGS).rejected == 1
    found = {path.name for path in tmp_path.iterdir()} - {"in.parquet"}
    assert found == {
        f"out{middle}.{last}" for middle in ("", ".rejected") for last in Format
    } | {f"out.{last}.manifest.json" for last in Format}  # fmt: skip
