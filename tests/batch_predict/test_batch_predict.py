"""Whole tables through tiny real models: what comes out, what is rejected, what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from batch_predict import cluster
from batch_predict.run import Options
from batch_predict.source import Format
from contract.dataset import Dataset
from local_service import PROJECT
from model.session import Artifact
from tests.batch_predict import tiny_batches
from tests.batch_predict.tiny_batches import Predict, read, write
from tests.training.tiny_models import PEBBLES, PLOTS
from training.errors import PipelineError

predict = tiny_batches.predict  # a fixture

BAD_CELLS = [
    ("nan", "size, row 3: the value is not a number (NaN)."),
    ("inf", "size, row 3: the value is infinite."),
    ("-inf", "size, row 3: the value is infinite."),
    ("100.5", "size, row 3: 100.5 is outside the plausible range 0 to 100 ha."),
    ("-1", "size, row 3: -1.0 is outside the plausible range 0 to 100 ha."),
    ("", "size, row 3: the value is missing."),
    ("many", "size, row 3: 'many' is not a number."),
    ("1_0", "size, row 3: '1_0' is not a number."),
    ("٣", "size, row 3: '٣' is not a number."),
    ("0x10", "size, row 3: '0x10' is not a number."),
    ("true", "size, row 3: 'true' is not a number."),
]


def plots(rows: int) -> pa.Table:
    draw = np.random.default_rng(rows)
    return pa.table(
        {
            "id": [f"plot {row}" for row in range(rows)],
            "size": draw.uniform(0, 100, rows),
            "longitude": draw.uniform(-180, 180, rows),
            "latitude": draw.uniform(-90, 90, rows),
        }
    )


def pebbles(rows: int) -> pa.Table:
    draw = np.random.default_rng(rows)
    return pa.table({"width": draw.uniform(0, 100, rows), "length": draw.uniform(0, 100, rows), "n": range(rows)})


def expected(dataset: Dataset, predict: Predict, table: pa.Table) -> np.ndarray:
    model = Artifact.read(predict.models / dataset.name)
    return model.outputs(np.column_stack([table[name].to_numpy() for name in dataset.feature_names]))


@pytest.mark.parametrize("into", Format)
@pytest.mark.parametrize("outof", Format)
@pytest.mark.parametrize("single_file", [True, False])
def test_predictions_are_the_models_to_the_bit(
    predict: Predict, tmp_path: Path, into: Format, outof: Format, single_file: bool
) -> None:
    table = plots(100)
    source = write(table, tmp_path / f"in.{outof}")
    target = tmp_path / (f"out.{into}" if single_file else "out")

    done = predict(PLOTS, source, target, Options(output_format=into, part_rows=30, processes=1))

    assert (done.rows, done.rejected, done.broken_rules) == (100, 0, {})
    written = read(target, into)
    assert written.column_names == ["id", "prediction"]
    assert written["id"].to_pylist() == table["id"].to_pylist()
    assert written["prediction"].to_numpy().tolist() == expected(PLOTS, predict, table)[:, 0].tolist()
    assert not list(tmp_path.rglob("*.partial"))
    assert len(list(tmp_path.rglob("part-*"))) == (0 if single_file else 4)


def test_classes_have_label_confidence_and_probabilities(predict: Predict, tmp_path: Path) -> None:
    table = pebbles(50)
    source = write(table, tmp_path / "in.parquet")
    predict(PEBBLES, source, tmp_path / "out.parquet", Options(processes=1))

    written = read(tmp_path / "out.parquet", Format.PARQUET)
    outputs = expected(PEBBLES, predict, table)
    names = [f"probability_{name}" for name in PEBBLES.target.classes]
    assert written.column_names == ["n", "prediction", "label", "confidence", *names]
    assert np.array_equal(np.column_stack([written[name] for name in names]), outputs)
    assert written["prediction"].to_pylist() == outputs.argmax(axis=1).tolist()
    assert written["label"].to_pylist() == [PEBBLES.target.classes[best] for best in outputs.argmax(axis=1)]
    assert written["confidence"].to_pylist() == outputs.max(axis=1).tolist()


@pytest.mark.parametrize("table_format", Format)
@pytest.mark.parametrize(("cell", "reason"), BAD_CELLS, ids=[repr(cell) for cell, _ in BAD_CELLS])
def test_a_bad_cell_is_rejected_with_its_reason(
    predict: Predict, tmp_path: Path, table_format: Format, cell: str, reason: str
) -> None:
    table = plots(6)
    texts = [repr(size) for size in table["size"].to_pylist()]
    texts[3] = cell
    broken = table.set_column(1, "size", pa.array(texts))
    source = write(broken, tmp_path / f"in.{table_format}")

    done = predict(PLOTS, source, tmp_path / f"out.{table_format}", Options(part_rows=2, processes=1))

    assert (done.rows, done.rejected) == (5, 1)
    assert read(tmp_path / f"out.{table_format}", table_format)["id"].to_pylist() == [
        "plot 0", "plot 1", "plot 2", "plot 4", "plot 5"
    ]  # fmt: skip
    (rejected,) = read(tmp_path / f"out.rejected.{table_format}", table_format).to_pylist()
    assert rejected["input_file"] == f"in.{table_format}"
    assert rejected["input_row"] == 3
    assert rejected["reasons"] == reason
    assert rejected["id"] == "plot 3"
    assert str(rejected["size"] or "") in {cell, "100.5", "True"}


@pytest.mark.parametrize("cell", ["+7", " 7 ", "7.", "7e0", "700e-2", "007"])
def test_a_number_may_be_written_in_many_ways(predict: Predict, tmp_path: Path, cell: str) -> None:
    texts = ["50.0", cell, "odd", "51.0"]
    source = write(plots(4).set_column(1, "size", pa.array(texts)), tmp_path / "in.csv")
    predict(PLOTS, source, tmp_path / "out.csv", Options(processes=1))
    assert read(tmp_path / "out.csv", Format.CSV)["prediction"].to_pylist() == [100.0, 14.0, 102.0]


def test_each_broken_feature_has_its_reason(predict: Predict, tmp_path: Path) -> None:
    table = plots(3).set_column(1, "size", pa.array([1.0, None, 3.0])).set_column(3, "latitude", pa.array([1, 95, 2]))
    done = predict(PLOTS, write(table, tmp_path / "in.parquet"), tmp_path / "out.parquet", Options(processes=1))
    (rejected,) = read(tmp_path / "out.rejected.parquet", Format.PARQUET).to_pylist()
    assert rejected["reasons"].count("row 1: ") == 2
    assert "size, row 1" in rejected["reasons"]
    assert "latitude, row 1: 95.0 is outside the plausible range -90 to 90" in rejected["reasons"]
    assert rejected["size"] is None
    assert done.broken_rules == {"latitude: range": 1, "size: nan": 1}


def test_a_folder_is_one_table_in_the_order_of_its_names(predict: Predict, tmp_path: Path) -> None:
    table = plots(50)
    write(table.slice(20, 30).select(["latitude", "size", "id", "longitude"]), tmp_path / "in/b/2.parquet")
    write(table.slice(0, 20), tmp_path / "in/a.parquet")
    write(pa.table({"x": [1]}), tmp_path / "in/_ignored/3.parquet")
    (tmp_path / "in/README.txt").write_text("no table")
    predict(PLOTS, tmp_path / "in", tmp_path / "out", Options(part_rows=15, processes=2, all_columns=True))
    written = pyarrow.dataset.dataset(tmp_path / "out").to_table()
    assert written.drop_columns("prediction").to_pylist() == table.to_pylist()
    assert written["prediction"].to_numpy().tolist() == expected(PLOTS, predict, table)[:, 0].tolist()


@pytest.mark.parametrize("kind", [pa.float32(), pa.int16(), pa.decimal128(22, 3), pa.string(), pa.large_string()])
def test_columns_of_every_type_of_number(predict: Predict, tmp_path: Path, kind: pa.DataType) -> None:
    sizes = pa.array([1, 2, 3]).cast(kind)
    for name, column in (("plain", sizes), ("dictionary", sizes.dictionary_encode())):
        if name == "dictionary" and not pa.types.is_string(kind):
            continue
        source = write(plots(3).set_column(1, "size", column), tmp_path / f"{name}.parquet")
        predict(PLOTS, source, tmp_path / f"{name}-out.parquet", Options(processes=1))
        assert read(tmp_path / f"{name}-out.parquet", Format.PARQUET)["prediction"].to_pylist() == [2, 4, 6]


def test_a_row_group_larger_than_a_part_is_read_in_pieces(predict: Predict, tmp_path: Path) -> None:
    table = plots(1000)
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=700)
    predict(PLOTS, tmp_path / "in.parquet", tmp_path / "out.parquet", Options(part_rows=64, processes=2))
    assert read(tmp_path / "out.parquet", Format.PARQUET)["id"].to_pylist() == table["id"].to_pylist()


def _without(name: str) -> Callable[[Path], Path]:
    return lambda folder: write(plots(3).drop_columns(name), folder / "in.parquet")


def _text(content: str, name: str = "in.csv") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return make


def _folder(*files: tuple[str, pa.Table]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "in").mkdir()
        for name, table in files:
            write(table, folder / "in" / name)
        return folder / "in"

    return make


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_without("size"), "the column size is missing. A row of plots has size, latitude, longitude"),
        (_text("id,size\n1,2\n"), "the column latitude is missing"),
        (_folder(("a.parquet", plots(2)), ("b.parquet", plots(2).drop_columns("size"))), r"b.parquet: the column size"),
        (_folder(("a.parquet", plots(2)), ("b.parquet", plots(2).drop_columns("id"))), r"has a column id, .*b.parquet"),
        (
            _folder(("a.parquet", plots(2)), ("b.parquet", plots(2).set_column(0, "id", pa.array([1, 2])))),
            "The column id is string in .*a.parquet and int64 in .*b.parquet",
        ),
        (_folder(("a.parquet", plots(2)), ("b.csv", plots(2))), "Parquet and CSV files"),
        (_folder(), "is no table"),
        (_text("", "in.txt"), "is no table"),
        (_text(""), "does not begin with a header"),
        (
            lambda folder: (folder / "in.csv").write_bytes(b"\xffsize\n") and folder / "in.csv",
            "the header is not UTF-8",
        ),
        (_text("no parquet", "in.parquet"), "cannot be read as Parquet"),
        (_text("size,size,latitude,longitude\n"), "has the column size twice"),
        (_text("prediction,size,latitude,longitude\n"), "has a column prediction, which the output adds"),
        (_text("reasons,size,latitude,longitude\n"), "has a column reasons"),
        (lambda folder: folder / "gone.csv", "does not exist"),
        (
            lambda folder: write(plots(2).set_column(1, "size", pa.array([True, False])), folder / "in.parquet"),
            "the column size is of type bool; it must be numbers",
        ),
    ],
)
def test_what_cannot_be_predicted_is_refused_before_a_row_is(
    predict: Predict, tmp_path: Path, make: Callable[[Path], Path], sentence: str
) -> None:
    with pytest.raises(PipelineError, match=sentence):
        predict(PLOTS, make(tmp_path), tmp_path / "out", Options(processes=1))
    assert not list((tmp_path / "out").glob("part-*"))


def test_lists_have_no_form_in_csv(predict: Predict, tmp_path: Path) -> None:
    source = write(plots(2).append_column("tags", pa.array([["a"], []])), tmp_path / "in.parquet")
    with pytest.raises(PipelineError, match=r"tags is of type list.*cannot be written as csv.*--format parquet"):
        predict(PLOTS, source, tmp_path / "out.csv", Options())
    predict(PLOTS, source, tmp_path / "out.parquet", Options(processes=1))
    assert read(tmp_path / "out.parquet", Format.PARQUET)["tags"].to_pylist() == [["a"], []]


@pytest.mark.parametrize("where", [".", "inside"])
def test_the_input_is_never_written_to(predict: Predict, tmp_path: Path, where: str) -> None:
    write(plots(2), tmp_path / "in/a.parquet")
    with pytest.raises(PipelineError, match="is the input, or inside it"):
        predict(PLOTS, tmp_path / "in", tmp_path / "in" / where, Options())


def test_without_ray_a_sentence_says_how_to_get_it(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    source = write(plots(2), tmp_path / "in.parquet")
    with pytest.raises(PipelineError, match="Ray is not installed: `make ray` adds it"):
        predict(PLOTS, source, tmp_path / "out", Options(ray="127.0.0.1:1"))
    assert cluster.__doc__


def test_processes_load_neither_mlflow_nor_scikit_learn_nor_ray() -> None:
    code = (
        "import sys, batch_predict.__main__, batch_predict.part_worker, "
        "batch_predict.processes, batch_predict.cluster; "
        "print(sorted({'mlflow', 'sklearn', 'ray', 'pandas'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_the_manifest_tells_where_predictions_come_from(predict: Predict, tmp_path: Path) -> None:
    source = write(plots(5), tmp_path / "in.parquet")
    predict(PLOTS, source, tmp_path / "out.parquet", Options(processes=1))
    manifest = json.loads((tmp_path / "out.parquet.manifest.json").read_text())
    assert manifest["run"]["model"] == "plots@1 of run run"
    assert "in.parquet" in manifest["run"]["input"][0]
    assert manifest["finished"]["rows"] == 5
