"""Detectors of drift with much data and no trained model."""

from functools import cache

import numpy as np
import pandas as pd

from contract import deciles
from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from loop.drift_power import Bench
from model.card import FeatureCard
from model.drift import Detector
from model.reference import Reference
from tests.serving import tiny_models
from tests.serving.tiny_models import RAW


@cache
def housing() -> Bench:
    """Four fifths of Housing's rows as training rows, and the others to draw windows from; a linear model answers."""
    table = pd.read_csv(RAW / "housing.csv")[[*HOUSING.feature_names, HOUSING.target.name]].to_numpy(dtype=np.float64)
    table = np.random.default_rng(0).permutation(table)
    cut = len(table) * 4 // 5
    features, target = table[:, :-1], table[:, -1]
    outputs = tiny_models.expected(HOUSING, features)
    card = tiny_models.artifact(HOUSING)[1].model_copy(update={"features": described(HOUSING, features[:cut])})
    reference = Reference.sample(features[:cut], outputs[:cut], target[:cut], seed=0)
    return Bench(HOUSING, Detector(card, reference), features[cut:], outputs[cut:])


def described(dataset: Dataset, features: np.ndarray) -> list[FeatureCard]:
    """The features of a card, as these training rows have them."""
    edges = [deciles.edges(column) for column in features.T]
    return [
        FeatureCard(
            name=feature.name,
            unit=feature.unit,
            description=feature.description,
            minimum=feature.minimum,
            maximum=feature.maximum,
            deciles=edges[column],
            decile_shares=deciles.shares(edges[column], features[:, column]),
            mean=float(features[:, column].mean()),
            std=float(features[:, column].std()),
        )
        for column, feature in enumerate(dataset.features)
    ]
