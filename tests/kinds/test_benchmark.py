"""The benchmark over kinds: its table, and its two ways to ask; the run itself takes minutes."""

from collections.abc import Callable

import httpx
import numpy as np
import pytest

from contract.dataset import Dataset
from load_tests.benchmark import kinds
from load_tests.benchmark.payloads import PayloadFormat
from tests.kinds.datasets import PARCEL
from tests.serving.worker import LocalWorker


def test_the_table_is_the_same_each_time_and_has_something_to_learn() -> None:
    table = kinds.generated(2000)
    assert table.equals(kinds.generated(2000))
    assert [table[name].nunique() for name in table.columns.astype(str) if "category" in name] == [*range(3, 13)]
    assert np.corrcoef(table.iloc[:, :5].sum(axis=1), table[kinds.TARGET])[0, 1] > 0.3


@pytest.mark.parametrize(
    ("path", "format_of"),
    [("/predict/parcel", kinds.row_format), ("/v2/models/parcel/infer", kinds.frame_format)],
)
def test_both_ways_to_ask_are_answered_alike(
    worker: LocalWorker, path: str, format_of: Callable[[Dataset], PayloadFormat]
) -> None:
    row = PARCEL.example
    told = httpx.post(f"{worker.url}/predict/parcel", json=row).raise_for_status().json()["prediction"]
    asked = format_of(PARCEL)
    body, headers = asked.write(np.array([PARCEL.encode(row)]))
    answer = httpx.post(
        f"{worker.url}{path}", content=body, headers={"content-type": asked.content_type, **headers}
    ).raise_for_status()
    assert asked.read is not None
    assert asked.read(answer.content) == [told]
