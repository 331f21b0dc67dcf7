"""A prediction method that is called in Python, as ``service.predict_iris(row)``."""

import asyncio
from typing import Any

import pytest

from contract.datasets.iris import IRIS
from serving.http.bento_api import with_prediction_methods


@with_prediction_methods
class Bento:
    """Has what the methods need of the service; here it has no model."""

    bundle: dict[str, Any] = {}  # noqa: RUF012 # nobody adds to it


def test_a_bug_reaches_the_caller_and_is_logged_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    method: Any = getattr(Bento(), "predict_iris")  # noqa: B009 # the decorator has added it
    with pytest.raises(KeyError):
        asyncio.run(method(IRIS.row.model_validate(IRIS.example)))
    (record,) = [record for record in caplog.records if "route" in vars(record)]
    assert (vars(record)["route"], vars(record)["status"]) == ("/predict/iris", 500)
    assert record.exc_info
