import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from contract import DATASETS
from contract.errors import DataError
from contract.violation import Rule
from tests.training.conftest import raw_table
from training.data_preparation import prepare, read_csv, verify_checksum
from training.files import sha256
from training.params import TableParams

pytestmark = pytest.mark.usefixtures("examples_only")
LENIENT = {name: TableParams(minimum_rows=40, maximum_duplicates=0) for name in ("housing", "iris")}


class Workspace:
    """Raw files of 60 rows a dataset, their checksums, and the stage's outputs."""

    def __init__(self, root: Path) -> None:
        self.raw, self.prepared, self.report_file = root / "raw", root / "prepared", root / "reports/data_quality.json"
        self.raw.mkdir()
        for name in DATASETS:
            self.write(name, raw_table(name, 60).drop_duplicates())

    def write(self, name: str, content: "pd.DataFrame | str | bytes") -> None:
        text = content.to_csv(index=False) if isinstance(content, pd.DataFrame) else content
        (self.raw / f"{name}.csv").write_bytes(text.encode() if isinstance(text, str) else text)
        sums = [f"{sha256(path)}  {path.name}" for path in sorted(self.raw.glob("*.csv"))]
        (self.raw / "SHA256SUMS").write_text("\n".join(sums) + "\n")

    def prepare(self) -> None:
        prepare(LENIENT, self.raw, self.prepared, self.report_file)

    @property
    def report(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.report_file.read_text())
        return loaded


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_good_files_become_typed_tables(workspace: Workspace) -> None:
    workspace.prepare()
    for name, dataset in DATASETS.items():
        table = pd.read_parquet(workspace.prepared / f"{name}.parquet")
        assert list(table) == [*dataset.feature_names, dataset.target.name]
        kinds = {str(kind) for kind in table[list(dataset.feature_names)].dtypes}
        assert kinds == {"float64"}
        assert table[dataset.target.name].dtype == (np.int64 if dataset.target.classes else np.float64)
        assert workspace.report[name]["ok"] is True
        assert workspace.report[name]["rows"] == len(table)
        assert workspace.report[name]["sha256"] == sha256(workspace.raw / f"{name}.csv")
    raw = raw_table("housing", 60)
    assert workspace.report["housing"]["columns"]["MedInc"] == {
        "min": pytest.approx(raw["MedInc"].astype(float).min()),
        "max": pytest.approx(raw["MedInc"].astype(float).max()),
        "mean": pytest.approx(raw["MedInc"].astype(float).mean()),
    }
    assert sum(workspace.report["iris"]["columns"]["species"]["values"].values()) == workspace.report["iris"]["rows"]


def test_columns_may_be_in_any_order(workspace: Workspace) -> None:
    table = raw_table("housing", 60)
    workspace.write("housing", table[table.columns[::-1]])
    workspace.prepare()
    prepared = pd.read_parquet(workspace.prepared / "housing.parquet")
    assert prepared["MedInc"].tolist() == table["MedInc"].astype(float).tolist()


def edit(column: str, value: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table = table.reset_index(drop=True)
        table.loc[3, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("name", "change", "rule", "said"),
    [
        ("housing", edit("MedInc", ""), Rule.TYPE, "MedInc, row 3: the value is missing"),
        ("housing", edit("MedInc", "much"), Rule.TYPE, "MedInc, row 3: 'much' is not a number"),
        ("housing", edit("MedInc", "1_000"), Rule.TYPE, "MedInc, row 3: '1_000' is not a number"),
        ("housing", edit("AveRooms", "nan"), Rule.NAN, "AveRooms, row 3"),
        ("housing", edit("AveRooms", "-inf"), Rule.INFINITE, "AveRooms, row 3"),
        ("housing", edit("Latitude", "60.5"), Rule.RANGE, "Latitude, row 3: 60.5"),
        ("housing", edit("MedHouseVal", "-1"), Rule.RANGE, "MedHouseVal, row 3: -1.0"),
        ("iris", edit("species", "daisy"), Rule.CLASS, "species, row 3: 'daisy'"),
        ("housing", lambda table: table.drop(columns="HouseAge"), Rule.MISSING_COLUMN, "HouseAge"),
        ("housing", lambda table: table.assign(colour="red"), Rule.UNKNOWN_COLUMN, "colour"),
        ("housing", lambda table: pd.concat([table, table.iloc[[5]]]), Rule.DUPLICATE, "row 60"),
        ("housing", lambda table: table.head(30), Rule.TOO_FEW_ROWS, "30 rows"),
        ("housing", lambda table: table.head(0), Rule.TOO_FEW_ROWS, "0 rows"),
    ],
)
def test_broken_rule_is_named_and_reported(
    workspace: Workspace, name: str, change: Callable[[pd.DataFrame], pd.DataFrame], rule: Rule, said: str
) -> None:
    workspace.prepare()
    before = (workspace.prepared / f"{name}.parquet").read_bytes()
    workspace.write(name, change(raw_table(name, 60).drop_duplicates()))

    with pytest.raises(DataError) as refusal:
        workspace.prepare()

    assert said in str(refusal.value)
    assert str(workspace.report_file) in str(refusal.value)
    report = workspace.report[name]
    assert report["ok"] is False
    assert report["violation_counts"] == {rule.value: 1}
    (violation,) = report["violations"]
    assert violation["rule"] == rule
    assert violation["line"] == (None if violation["row"] is None else violation["row"] + 2)
    assert (workspace.prepared / f"{name}.parquet").read_bytes() == before


def test_every_dataset_is_checked_before_the_stage_fails(workspace: Workspace) -> None:
    workspace.write("housing", edit("MedInc", "much")(raw_table("housing", 60)))
    workspace.write("iris", edit("species", "daisy")(raw_table("iris", 60).drop_duplicates()))
    with pytest.raises(DataError, match=r"MedInc, row 3.*species, row 3"):
        workspace.prepare()
    assert {name: report["ok"] for name, report in workspace.report.items()} == {"housing": False, "iris": False}


def test_report_lists_a_hundred_violations_and_counts_all(workspace: Workspace) -> None:
    table = pd.concat([raw_table("housing", 150)]).assign(MedInc="?")
    workspace.write("housing", table)
    with pytest.raises(DataError, match=r"and \d+ more"):
        workspace.prepare()
    report = workspace.report["housing"]
    assert report["violation_counts"]["type"] == len(table)
    assert len(report["violations"]) == 100


def test_changed_file_is_refused_with_both_sums_and_the_way_out(workspace: Workspace) -> None:
    path = workspace.raw / "iris.csv"
    former = sha256(path)
    path.write_text(path.read_text() + "5.1,3.5,1.4,0.2,setosa\n")
    with pytest.raises(DataError) as refusal:
        workspace.prepare()
    for part in (former, sha256(path), "sha256sum *.csv > SHA256SUMS"):
        assert part in str(refusal.value)
    assert workspace.report["iris"]["sha256"] == sha256(path)
    assert not (workspace.prepared / "iris.parquet").exists()


@pytest.mark.parametrize("sums", [None, "", f"{'0' * 64}  other.csv\n", "# nothing yet\n\n"])
def test_file_without_a_checksum_is_taken_with_a_warning(
    workspace: Workspace, sums: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    checksums = workspace.raw / "SHA256SUMS"
    checksums.unlink()
    if sums is not None:
        checksums.write_text(sums)
    with caplog.at_level(logging.WARNING):
        assert verify_checksum(workspace.raw / "iris.csv", checksums) == sha256(workspace.raw / "iris.csv")
    assert "iris.csv has no line" in caplog.text


FORMS = [
    "{sum}  iris.csv\n",
    "{sum} *iris.csv\r\n",
    "{upper}  iris.csv",
    "{sum}  ./iris.csv\n",
    "{sum}  data/raw/iris.csv\n",
    "{sum} *.\\iris.csv\n",
    "SHA256 (iris.csv) = {sum}\n",
    "SHA256 (./iris.csv) = {sum}\n",
    "SHA256(iris.csv)= {sum}\n",
    "# made by hand\n\n{sum}  iris.csv\n",
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", FORMS)
def test_common_forms_of_checksum_files_are_read(workspace: Workspace, form: str, encoding: str) -> None:
    path, checksums = workspace.raw / "iris.csv", workspace.raw / "SHA256SUMS"
    true, wrong = sha256(path), "0" * 64
    checksums.write_text(form.format(sum=true, upper=true.upper()), encoding=encoding, newline="")
    assert verify_checksum(path, checksums) == true
    checksums.write_text(form.format(sum=wrong, upper=wrong), encoding=encoding, newline="")
    with pytest.raises(DataError, match=f"sha256 is {true}, .* says {wrong}"):
        verify_checksum(path, checksums)


def test_right_sum_beside_a_wrong_one_is_refused(workspace: Workspace) -> None:
    path, checksums = workspace.raw / "iris.csv", workspace.raw / "SHA256SUMS"
    checksums.write_text(f"{'0' * 64}  iris.csv\n{sha256(path)}  ./iris.csv\n")
    with pytest.raises(DataError, match=f"says {'0' * 64}\\."):
        verify_checksum(path, checksums)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe\x00", "cannot be read as text"),
        (b"\xe9 iris.csv", "cannot be read as text"),
        ("0000  iris.csv".encode("utf-16-le"), "line 1: .* is not a sha256"),
        (b"0000  iris.csv\n", "line 1: '0000  iris.csv' is not a sha256 and a file name"),
        (b"d41d8cd98f00b204e9800998ecf8427e  iris.csv\n", "line 1: .* is not a sha256"),
        (b"MD5 (iris.csv) = d41d8cd98f00b204e9800998ecf8427e\n", "line 1: .* is not a sha256"),
        (b"\n" + b"0" * 64 + b"\n", "line 2: .* is not a sha256"),
    ],
)
def test_unreadable_checksum_file_is_refused(workspace: Workspace, content: bytes, said: str) -> None:
    checksums = workspace.raw / "SHA256SUMS"
    checksums.write_bytes(content)
    with pytest.raises(DataError, match=rf"{said}.*sha256sum \*\.csv > SHA256SUMS"):
        verify_checksum(workspace.raw / "iris.csv", checksums)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1: the file has no header"),
        (b"a,b,a\n1,2,3\n", "line 1: the column 'a' is there more than once"),
        (b"a,b\n1,2\n1,2,3\n", "line 3: 3 cells, the header has 2"),
        (b"a,b\n1,2\n\n3,4\n", "line 3: the line is blank"),
        (b"a,b\n1,2\n3,\xff\n", "line 3: the text is not UTF-8"),
        (b'a,b\n1,"2\n', "line 2: unexpected end of data"),
    ],
)
def test_malformed_file_is_named_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as refusal:
        read_csv(path)
    assert f"{path}, {said}" in str(refusal.value)


def test_missing_file_is_named(workspace: Workspace) -> None:
    (workspace.raw / "housing.csv").unlink()
    with pytest.raises(DataError, match=r"housing\.csv is missing"):
        workspace.prepare()
    assert workspace.report["housing"]["sha256"] is None


def test_blanks_byte_order_mark_and_blank_end_are_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\r\n1,\r\n,NA\r\n\r\n")
    assert read_csv(path) == {"a": ["1", ""], "b": ["", "NA"]}
