"""One dataset: its row, its target, its task."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from operator import attrgetter
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, create_model

from contract.feature import Feature, Kind, Unknown, Value
from contract.row import Row, features


class Task(StrEnum):
    """What a model predicts: a number, or one class of several."""

    REGRESSION = "regression"
    CLASSIFICATION = "classification"


RowT = TypeVar("RowT", bound=Row)

MAXIMUM_BATCH_ROWS = 10_000
"""Most rows of one batch request."""


class Rows(BaseModel, Generic[RowT]):
    """The body of a batch request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: list[RowT] = Field(
        min_length=1, max_length=MAXIMUM_BATCH_ROWS, description="The rows; predictions come in the same order."
    )


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
        return tuple(features(self.row).values())

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
    def plain(self) -> bool:
        """Whether all features are numbers that are never missing."""
        return all(feature.plain for feature in self.features)

    @cached_property
    def has_optional(self) -> bool:
        """Whether a feature may be missing."""
        return any(feature.optional for feature in self.features)

    @cached_property
    def all_numeric(self) -> bool:
        """Whether all features are numbers, so that rows can be one tensor ``[N, F]``."""
        return all(feature.numeric for feature in self.features)

    @cached_property
    def example(self) -> dict[str, Any]:
        """A row that works, as JSON has it, by feature name."""
        return {feature.name: feature.example for feature in self.features}

    @cached_property
    def json_fields(self) -> int:
        """How many fields a row has in JSON, at most, where two of the characters ``,:[{`` in names and texts count as
        one more. It bounds what is parsed.
        """
        return len(self.features) + -(-sum(_tokens(feature) for feature in self.features) // 2)

    @cached_property
    def contract_version(self) -> str:
        """A fingerprint of all that a trained model depends on: task, features and their order, target, classes.

        Of a feature: name and unit, and what distinguishes it from a number that is never missing. Plausible ranges
        and descriptions are left out: a model stays valid when they change.
        """
        essence = {
            "name": self.name,
            "task": self.task,
            "features": [feature.essence for feature in self.features],
            "target": (self.target.name, self.target.unit, self.target.classes),
        }
        return hashlib.sha256(json.dumps(essence).encode()).hexdigest()[:12]

    @cached_property
    def _values(self) -> Callable[[Row], Sequence[Any]]:
        """Gives the values of a row, encoded where numpy does not do it."""
        names = tuple(features(self.row))
        values = attrgetter(*names)
        encoders = [
            (column, feature.encode_valid)
            for column, feature in enumerate(self.features)
            if feature.encode_valid is not None
        ]
        if not encoders and len(names) > 1:
            return values

        def encoded(row: Row) -> list[Any]:
            # Of one name, attrgetter gives the value itself.
            found = [*values(row)] if len(names) > 1 else [values(row)]
            for column, encode in encoders:
                found[column] = encode(found[column])
            return found

        return encoded

    def matrix(self, rows: Iterable[Row]) -> NDArray[np.float64]:
        """Validated rows as the model's input, encoded, of shape ``[N, F]``."""
        return np.array([self._values(row) for row in rows], dtype=np.float64)

    def decode(self, values: Iterable[float]) -> dict[str, Value]:
        """An encoded row ``[F]`` as JSON has it, by feature name."""
        return {feature.name: feature.decode(value) for feature, value in zip(self.features, values, strict=True)}

    def encode(self, row: Mapping[str, Value]) -> list[float]:
        """A row that ``decode`` gave, encoded again. Its values may be outside of the plausible ranges.

        Raises:
            KeyError: it lacks a feature.
            Refusal: a value is of another kind.
        """
        return [feature.encode_any(row[feature.name]) for feature in self.features]

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: not what was computed, of which functions are a part."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


_IN_DATETIME, _IN_UNKNOWN = 3, 8
"""Tokens in 2024-05-31T12:00:00+02:00, and in a category that is not known."""


def _tokens(feature: Feature) -> int:
    """How many of JSON's tokens name and text of a feature have, at most."""
    name, *categories = (sum(map(text.count, ",:[{")) for text in (feature.name, *feature.vocabulary))
    if feature.kind is Kind.DATETIME:
        return name + _IN_DATETIME
    return name + (max(categories, default=0) if feature.unknown is Unknown.REFUSE else _IN_UNKNOWN)
