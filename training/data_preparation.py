"""Stage data_preparation: check raw CSV files against their checksums and the contract; write typed tables."""

import codecs
import csv
import logging
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from contract import DATASETS
from contract.buckets import has_deciles
from contract.dataset import Dataset, Task
from contract.errors import DataError
from contract.feature import Feature, Refusal
from contract.table import Table, check_table
from contract.violation import Violation
from training import console, params
from training.files import sha256, write_json, write_parquet
from training.params import TableParams

log = logging.getLogger(__name__)

RAW = Path("data/raw")
PREPARED = Path("data/prepared")
REPORT = Path("reports/data_quality.json")
CHECKSUMS = "SHA256SUMS"
REPORTED_VIOLATIONS = 100
"""Maximum violations listed per file; all are counted."""


@dataclass(frozen=True)
class Inspection:
    """The result of checking one raw file. If it cannot be used, ``table`` is None and ``error`` says why."""

    report: dict[str, Any]
    table: Table | None
    error: str | None


def verify_checksum(path: Path, checksums: Path) -> str:
    """Compare a file with its line in a checksum file, and return its sha256.

    A file without a line is accepted, with a warning in the log.

    Raises:
        DataError: if the sums differ (names both), or if the checksum file cannot be read.
    """
    found = sha256(path)
    expected = _read_checksums(checksums).get(path.name, set())
    if not expected:
        log.warning("%s has no line in %s: it is accepted without a check.", path, checksums)
    elif expected != {found}:
        raise DataError(
            f"{path}: its sha256 is {found}, {checksums} says {' and '.join(sorted(expected - {found}))}. If you "
            f"replaced the file on purpose, run {_rewrite(checksums)}."
        )
    return found


CHECKSUM_LINE = re.compile(
    r"\\?(?P<sum>[0-9a-f]{64}) [ *]?(?P<name>\S.*)|"  # sha256sum; a backslash marks an escaped name
    r"\\?SHA2?-?256 ?\((?P<tagged_name>.+)\) ?= ?(?P<tagged_sum>[0-9a-f]{64})",  # sha256sum --tag, BSD, OpenSSL
    re.IGNORECASE,
)


def _read_checksums(path: Path) -> dict[str, set[str]]:
    """The sums in a checksum file, by file name without folders."""
    if not path.exists():
        return {}
    try:
        content = path.read_bytes()
        # PowerShell's `>` writes UTF-16 with a byte order mark.
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error}); write it with {_rewrite(path)}.") from error
    sums: dict[str, set[str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = CHECKSUM_LINE.fullmatch(line.strip())
        if parts is None:
            raise DataError(
                f"{path}, line {number}: {line[:100]!r} is not a sha256 and a file name; write it with "
                f"{_rewrite(path)}."
            )
        name = PureWindowsPath(parts["name"] or parts["tagged_name"]).name  # takes both / and \\
        sums.setdefault(name, set()).add((parts["sum"] or parts["tagged_sum"]).lower())
    return sums


def _rewrite(checksums: Path) -> str:
    return f"`cd {checksums.parent} && sha256sum *.csv > {checksums.name}`"


def read_csv(path: Path) -> dict[str, list[str]]:
    """The cells of a CSV file as text, by column name; blanks stay blanks.

    Raises:
        DataError: if the file is missing, empty, not UTF-8, repeats a column, or has a line of another length; names
            the line.
    """
    try:
        # Spreadsheets write a byte order mark, which must not become part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if not any(header):
                raise DataError(f"{path}, line 1: the file has no header; it must name the columns.")
            repeated = [name for name, count in Counter(header).items() if count > 1]
            if repeated:
                raise DataError(f"{path}, line 1: the column {repeated[0]!r} is there more than once.")
            rows: list[list[str]] = []
            blank = None
            for cells in reader:
                if not cells:
                    blank = blank or reader.line_num
                    continue
                if blank:  # harmless at the end; here row numbers would no longer give the line
                    raise DataError(f"{path}, line {blank}: the line is blank; remove it.")
                if len(cells) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(cells)} cells, the header has {len(header)}."
                    )
                rows.append(cells)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: put the raw table there; data/README.md says what it holds.") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: the text is not UTF-8; save the file as UTF-8 CSV.") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}.") from error
    return {name: [row[index] for row in rows] for index, name in enumerate(header)}


def inspect(dataset: Dataset, path: Path, checksums: Path, table_params: TableParams) -> Inspection:
    """Check one raw file. Errors go into the result, so that every file is checked."""
    report: dict[str, Any] = {"file": path.as_posix(), "sha256": None, "rows": None}
    columns: dict[str, list[str]] = {}
    try:
        report["sha256"] = sha256(path) if path.is_file() else None
        if path.is_file():
            verify_checksum(path, checksums)
        columns = read_csv(path)
        report["rows"] = len(next(iter(columns.values())))
        table = check_table(
            dataset,
            columns,
            minimum_rows=table_params.minimum_rows,
            maximum_duplicates=table_params.maximum_duplicates,
        )
    except DataError as error:
        return Inspection(report | _verdict(dataset, columns, error.violations, str(error)), None, str(error))
    return Inspection(report | _verdict(dataset, columns, (), None), table, None)


def _verdict(
    dataset: Dataset, columns: Mapping[str, Sequence[str]], violations: Sequence[Violation], error: str | None
) -> dict[str, Any]:
    features = {feature.name: feature for feature in dataset.features}
    counts = Counter(violation.rule.value for violation in violations)
    return {
        "ok": error is None,
        "error": error,
        "violation_counts": dict(sorted(counts.items())),
        "violations": [
            # Line 1 of the file is the header, row 0 of the table is the line below it.
            asdict(violation) | {"line": None if violation.row is None else violation.row + 2}
            for violation in violations[:REPORTED_VIOLATIONS]
        ],
        "columns": {name: _statistics(cells, features.get(name)) for name, cells in columns.items()},
    }


def _statistics(cells: Sequence[str], feature: Feature | None) -> dict[str, Any]:
    """What a column holds: the range of numbers and times, the commonest of other values, how many are missing."""
    if feature is None or feature.plain:
        return _numbers_or_values(cells)
    counts, values = Counter(cells), {}
    for cell in counts:
        with suppress(Refusal):
            values[cell] = feature.read(cell)
    present = [value for value in values.values() if not isnan(value)]
    if feature.numeric:
        described = _numbers_or_values(cells)
    elif has_deciles(feature) and present:
        described = {"min": feature.decode(min(present)), "max": feature.decode(max(present))}
    else:
        described = _commonest(cells)
    missing = sum(counts[cell] for cell, value in values.items() if isnan(value))
    return described | ({"missing": missing} if feature.optional else {})


def _numbers_or_values(cells: Sequence[str]) -> dict[str, Any]:
    numbers: NDArray[np.float64] = pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").to_numpy(np.float64)
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return _commonest(cells)
    return {"min": float(finite.min()), "max": float(finite.max()), "mean": float(finite.mean())}


def _commonest(cells: Sequence[str]) -> dict[str, Any]:
    return {"values": dict(Counter(cells).most_common(20))}


def frame(dataset: Dataset, table: Table) -> pd.DataFrame:
    """A checked table: features in the contract's order, encoded, as float64, and NaN where a value is missing; then
    the target (a class index as int64).
    """
    result = pd.DataFrame(table.features, columns=list(dataset.feature_names))
    whole = dataset.task is Task.CLASSIFICATION
    result[dataset.target.name] = table.target.astype(np.int64 if whole else np.float64)
    return result


def prepare(tables: Mapping[str, TableParams], raw: Path, prepared: Path, report: Path) -> None:
    """Check every dataset's raw file, write the report, then the prepared tables.

    Args:
        tables: each dataset's requirements beyond its contract, by the dataset's name.
        raw: directory of ``<name>.csv`` and ``SHA256SUMS``.
        prepared: directory of the tables, one ``<name>.parquet`` a dataset.
        report: the data quality report; it is always written.

    Raises:
        DataError: if any file breaks its contract. No table of such a dataset is replaced.
    """
    inspections = {}
    for name, table_params in tables.items():
        with console.step(f"{name}: check {raw / name}.csv"):
            inspections[name] = inspect(DATASETS[name], raw / f"{name}.csv", raw / CHECKSUMS, table_params)
    write_json(report, {name: inspection.report for name, inspection in inspections.items()})
    for name, inspection in inspections.items():
        if inspection.table is not None:
            write_parquet(prepared / f"{name}.parquet", frame(DATASETS[name], inspection.table))
            log.info("%s: %d rows prepared.", name, len(inspection.table.target))
    errors = [inspection.error for inspection in inspections.values() if inspection.error is not None]
    if errors:
        # One sentence per file.
        sentences = " ".join(error if error.endswith(".") else f"{error}." for error in errors)
        raise DataError(f"{sentences} {report} lists what is wrong.")


def main() -> None:
    """Prepare every dataset of the contract."""
    loaded = params.load()
    prepare({name: loaded.table(name) for name in DATASETS}, RAW, PREPARED, REPORT)


if __name__ == "__main__":
    sys.exit(console.run(main))
