"""The parameters that ship choose models that are good enough, on the real tables."""

import numpy as np
from sklearn.model_selection import train_test_split

from contract import DATASETS
from local_service import PROJECT
from tests.training.conftest import raw_table
from training import params, selection
from training.candidates import build
from training.feature_engineering import split
from training.splits import Split

SHIPPED = params.load(PROJECT / "params.yaml")
HOUSING_CHOICE = "hist_gradient_boosting_large"
"""What cross-validation chooses; the others are left out here, which saves ten seconds."""


def test_housing_is_accurate_and_stable_on_the_common_split() -> None:
    dataset, section = DATASETS["housing"], SHIPPED.training("housing")
    table = raw_table("housing").astype(float)
    train, test = train_test_split(table, test_size=0.2, random_state=42)
    pipeline = build(
        dataset,
        HOUSING_CHOICE,
        section.candidates[HOUSING_CHOICE],
        section.features,
        random_state=section.random_state,
    )
    features, target = list(dataset.feature_names), dataset.target.name
    fitted = selection.fit(pipeline, Split(train[features].to_numpy(), train[target].to_numpy()), dataset.task)
    rows = test[features].to_numpy()
    errors = fitted.predict(rows) - test[target].to_numpy()
    assert np.sqrt(np.mean(errors**2)) <= 0.413
    # Rows sent as float32, or a millionth larger or smaller in any one feature: at most 0.1 % change by over 0.001.
    noisy = [rows.astype(np.float32).astype(np.float64)]
    noisy += [rows * (1 + noise * (np.arange(8) == column)) for column in range(8) for noise in (-1e-6, 1e-6)]
    for given in noisy:
        assert np.mean(np.abs(fitted.predict(given) - fitted.predict(rows)) > 0.001) <= 0.001


def test_iris_is_accurate_in_cross_validation() -> None:
    dataset, section = DATASETS["iris"], SHIPPED.training("iris")
    table = raw_table("iris")
    table = table.assign(species=table["species"].map(dataset.target.classes.index)).astype(float)
    train, _ = split(dataset, table, SHIPPED.feature_engineering)
    rows = Split(train[list(dataset.feature_names)].to_numpy(), train["species"].to_numpy())
    results = {
        name: selection.cross_validate(
            dataset,
            build(dataset, name, candidate, section.features, random_state=section.random_state),
            rows,
            metric="log_loss",
            folds=section.folds,
            random_state=section.random_state,
        )
        for name, candidate in section.candidates.items()
    }
    mean, _ = results[selection.best(results, "log_loss")].summary["accuracy"]
    assert mean >= 0.96
