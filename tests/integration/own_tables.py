"""Tables such as people bring, drawn anew: the columns, kinds and gaps of well-known ones, and one with everything."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Columns = Mapping[str, Sequence[str]]


def _with_gaps(draw: Generator, cells: Sequence[str], share: float, mark: str = "NA") -> list[str]:
    return [mark if gap else cell for cell, gap in zip(cells, draw.random(len(cells)) < share, strict=True)]


def _numbers(values: NDArray[np.float64], decimals: int) -> list[str]:
    return [f"{value:.{decimals}f}" for value in values]


def penguins(draw: Generator, rows: int = 344) -> Columns:
    """As in palmerpenguins 0.1.6: text, whole numbers and numbers, each of which may be missing."""
    kind = draw.choice(3, rows, p=[0.44, 0.2, 0.36])

    def measured(means: Sequence[float], spread: float, decimals: int) -> list[str]:
        values = np.array(means)[kind] + draw.normal(0, spread, rows)
        return _with_gaps(draw, _numbers(values, decimals), 0.006)

    islands = np.array([["Biscoe", "Dream", "Torgersen"], ["Dream"] * 3, ["Biscoe"] * 3])
    return {
        "species": [("Adelie", "Chinstrap", "Gentoo")[each] for each in kind],
        "island": [str(draw.choice(each)) for each in islands[kind]],
        "bill_length_mm": measured([38.8, 48.8, 47.5], 3, 1),
        "bill_depth_mm": measured([18.3, 18.4, 15.0], 1, 1),
        "flipper_length_mm": measured([190, 196, 217], 7, 0),
        "body_mass_g": measured([3700, 3733, 5076], 450, 0),
        "sex": _with_gaps(draw, draw.choice(["male", "female"], rows).tolist(), 0.03),
        "year": draw.choice(["2007", "2008", "2009"], rows).tolist(),
    }


def chile(draw: Generator, rows: int = 2700) -> Columns:
    """As Chile of pydataset 0.2.0: row names without a header, and gaps in the target too."""
    status = draw.normal(0, 1, rows)
    vote = np.where(status + draw.normal(0, 0.7, rows) > 0.4, "Y", np.where(status < -0.3, "N", "U"))
    vote[draw.random(rows) < 0.07] = "A"
    return {
        "": [str(number) for number in range(1, rows + 1)],
        "region": draw.choice(["C", "M", "N", "S", "SA"], rows, p=[0.22, 0.04, 0.12, 0.27, 0.35]).tolist(),
        "population": draw.choice(["3750", "15000", "25000", "175000", "250000"], rows).tolist(),
        "sex": draw.choice(["F", "M"], rows).tolist(),
        "age": _with_gaps(draw, draw.integers(18, 71, rows).astype(str).tolist(), 0.0005),
        "education": _with_gaps(draw, draw.choice(["P", "PS", "S"], rows).tolist(), 0.004),
        "income": _with_gaps(draw, draw.choice(["2500", "7500", "15000", "35000", "75000"], rows).tolist(), 0.04),
        "statusquo": _with_gaps(draw, _numbers(status, 5), 0.006),
        "vote": _with_gaps(draw, vote.tolist(), 0.06),
    }


def flchain(draw: Generator, rows: int = 7874) -> Columns:
    """As flchain of pydataset 0.2.0: names that are no names of Python, and three quarters of a column missing."""
    age = draw.integers(50, 102, rows)
    death = draw.random(rows) < 1 / (1 + np.exp(-(age - 80) / 6))
    causes = ["Circulatory", "Neoplasms", "Respiratory", "Mental", "Nervous", "External Causes", "Ill Defined"]
    return {
        "": [str(number) for number in range(1, rows + 1)],
        "age": age.astype(str).tolist(),
        "sex": draw.choice(["F", "M"], rows).tolist(),
        "sample.yr": draw.integers(1995, 2004, rows).astype(str).tolist(),
        "kappa": _numbers(draw.lognormal(0.2, 0.5, rows), 2),
        "lambda": _numbers(draw.lognormal(0.4, 0.4, rows), 2),
        "flc.grp": draw.integers(1, 11, rows).astype(str).tolist(),
        "creatinine": _with_gaps(draw, _numbers(draw.lognormal(0.05, 0.25, rows), 1), 0.17),
        "mgus": (draw.random(rows) < 0.015).astype(int).astype(str).tolist(),
        "chapter": _with_gaps(draw, draw.choice(causes, rows).tolist(), 0.72),
        "death": death.astype(int).astype(str).tolist(),
    }


_ODD_HEADERS = (
    *("Größe (cm)", "class", "a b", "a-b", "2nd value", "weight;kg", "lambda", "date", "json", "x|y", "Preis, €", "ID"),
    *("constant", "note", "flag?", "input", "model_name", "seen at"),
)


def everything(draw: Generator, rows: int = 10_000, columns: int = 60) -> Columns:
    """Every kind again and again, 5 % missing, and headers that are odd; the last column is the target."""
    found: dict[str, list[str]] = {}
    signal = np.zeros(rows)
    for place in range(columns - 1):
        name = _ODD_HEADERS[place] if place < len(_ODD_HEADERS) else f"column {place}"
        cells, told = _KINDS[place % len(_KINDS)](draw, rows)
        found[name] = _with_gaps(draw, cells, 0.05, "")
        if place < 2 * len(_KINDS):
            signal += told
    found["ID"] = [f"{draw.integers(10**9):x}-{row}" for row in range(rows)]
    found["constant"] = ["same"] * rows
    found["note"] = [f"A sentence of more than sixty characters, for people, on row {row:,}." for row in range(rows)]
    found["score (EUR)"] = _numbers(signal + draw.normal(0, 0.3, rows), 2)
    return found


def _a_number(draw: Generator, rows: int) -> tuple[list[str], NDArray[np.float64]]:
    values = draw.normal(50, 10, rows)
    return _numbers(values, 3), values / 10


def _a_double(draw: Generator, rows: int) -> tuple[list[str], NDArray[np.float64]]:
    values = draw.random(rows)
    return [repr(float(value)) for value in values], (values * 2).astype(np.float64)


def _a_count(draw: Generator, rows: int) -> tuple[list[str], NDArray[np.float64]]:
    values = draw.integers(0, 20, rows)
    return values.astype(str).tolist(), (values * 0.1).astype(np.float64)


def _a_flag(draw: Generator, rows: int) -> tuple[list[str], NDArray[np.float64]]:
    values = draw.random(rows) < 0.5
    return ["Yes" if value else "No" for value in values], values.astype(np.float64)


def _a_category(draw: Generator, rows: int) -> tuple[list[str], NDArray[np.float64]]:
    values = draw.choice(["red", "green", "blue", 'it\'s "odd"', "a,b"], rows)
    return values.tolist(), (values == "red").astype(np.float64)


def _a_city(draw: Generator, rows: int) -> tuple[list[str], NDArray[np.float64]]:
    values = draw.zipf(1.6, rows) % 300
    return [f"city {value}" for value in values], np.zeros(rows)


def _a_day(draw: Generator, rows: int) -> tuple[list[str], NDArray[np.float64]]:
    values = draw.integers(18_000, 19_700, rows)
    return np.datetime_as_string(values.astype("datetime64[D]")).tolist(), (values - 18_000) / 1000


def _a_moment(draw: Generator, rows: int) -> tuple[list[str], NDArray[np.float64]]:
    values = draw.integers(1_600_000_000, 1_700_000_000, rows).astype("datetime64[s]")
    return [f"{value}Z" for value in np.datetime_as_string(values)], np.zeros(rows)


_KINDS: tuple[Callable[[Generator, int], tuple[list[str], NDArray[np.float64]]], ...] = (
    *(_a_number, _a_count, _a_flag, _a_category, _a_day, _a_moment, _a_double, _a_city),
)


def write(path: Path, columns: Columns, separator: str = ",") -> Path:
    """Write a table as CSV."""
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path
