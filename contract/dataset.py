"""One dataset: its row, its target, its task."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from operator import attrgetter
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, create_model


class Task(StrEnum):
    """What a model predicts: a number, or one class of several."""

    REGRESSION = "regression"
    CLASSIFICATION = "classification"


class Row(BaseModel):
    """One row of features. Unknown fields, NaN, infinities, strings and booleans for numbers are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


RowT = TypeVar("RowT", bound=Row)

MAXIMUM_BATCH_ROWS = 10_000
"""Most rows of one batch request."""


class Rows(BaseModel, Generic[RowT]):
    """The body of a batch request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: list[RowT] = Field(
        min_length=1, max_length=MAXIMUM_BATCH_ROWS, description="The rows; predictions come in the same order."
    )


def feature(*, unit: str, minimum: float, maximum: float, description: str, example: float) -> Any:
    """A feature of a ``Row``.

    Args:
        unit: unit of the value, for people and for the OpenAPI page.
        minimum, maximum: the plausible range, both ends included; a value outside is refused.
        description: one line that says what was measured.
        example: a value that works.
    """
    return Field(
        ge=minimum,
        le=maximum,
        description=f"{description} Unit: {unit}.",
        examples=[example],
        json_schema_extra={"unit": unit},
    )


@dataclass(frozen=True)
class Feature:
    """A feature as its ``Row`` field declares it."""

    name: str
    unit: str
    minimum: float
    maximum: float
    description: str
    example: float


@dataclass(frozen=True)
class Target:
    """What is predicted.

    ``minimum`` and ``maximum`` bound a regression target, both ends included. ``classes`` names the classes of a
    classification target in the order of their index; empty for regression.
    """

    name: str
    unit: str
    description: str
    minimum: float = -np.inf
    maximum: float = np.inf
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """What training and serving know of one dataset.

    ``name`` is also the name of its model in MLflow, in the BentoML store and in the routes.
    """

    name: str
    description: str
    row: type[Row]
    target: Target

    @cached_property
    def rows(self) -> type[Rows[Any]]:
        """The body of a batch request: ``{"rows": [row, …]}``."""
        body: Any = Rows.__class_getitem__(self.row)
        rows: Any = create_model(
            f"{self.row.__name__}s",
            __base__=body,
            __module__=self.row.__module__,
            __doc__=f"1 to 10,000 rows of {self.name}.",
        )
        return cast(type[Rows[Any]], rows)

    @property
    def task(self) -> Task:
        """Classification if the target has classes, else regression."""
        return Task.CLASSIFICATION if self.target.classes else Task.REGRESSION

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """The features, in the order of the model's input columns."""
        properties = self.row.model_json_schema()["properties"]
        return tuple(
            Feature(
                name=name,
                unit=schema["unit"],
                minimum=schema["minimum"],
                maximum=schema["maximum"],
                description=schema["description"],
                example=schema["examples"][0],
            )
            for name, schema in properties.items()
        )

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features, in the order of the model's input columns."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The smallest and the largest plausible values, each of shape ``[F]``."""
        return (
            np.array([feature.minimum for feature in self.features], dtype=np.float64),
            np.array([feature.maximum for feature in self.features], dtype=np.float64),
        )

    @cached_property
    def example(self) -> dict[str, float]:
        """A row that works, by feature name."""
        return {feature.name: feature.example for feature in self.features}

    @cached_property
    def contract_version(self) -> str:
        """A fingerprint of all that a trained model depends on: task, feature order, units, target, classes.

        Plausible ranges and descriptions are left out: a model stays valid when they change.
        """
        essence = {
            "name": self.name,
            "task": self.task,
            "features": [(feature.name, feature.unit) for feature in self.features],
            "target": (self.target.name, self.target.unit, self.target.classes),
        }
        return hashlib.sha256(json.dumps(essence).encode()).hexdigest()[:12]

    @cached_property
    def _values(self) -> Callable[[Row], tuple[float, ...]]:
        return attrgetter(*self.feature_names)

    def matrix(self, rows: Iterable[Row]) -> NDArray[np.float64]:
        """Validated rows as the model's input, of shape ``[N, F]``."""
        return np.array([self._values(row) for row in rows], dtype=np.float64)

    def describe(self) -> list[dict[str, Any]]:
        """The features as plain data, for pages and JSON."""
        return [asdict(feature) for feature in self.features]
