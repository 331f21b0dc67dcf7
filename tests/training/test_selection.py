import numpy as np
import pytest
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from contract import DATASETS
from tests.training.conftest import tiny_splits
from training.errors import PipelineError
from training.evaluation import candidate_plots
from training.selection import SCORES, CrossValidation, best, cross_validate, fit
from training.splits import Split

HOUSING, IRIS = DATASETS["housing"], DATASETS["iris"]


def result(**means: float) -> CrossValidation:
    return CrossValidation({name: [mean - 0.01, mean + 0.01] for name, mean in means.items()}, np.zeros(1))


@pytest.mark.parametrize(("metric", "chosen"), [("log_loss", "a"), ("accuracy", "b"), ("macro_f1", "b")])
def test_the_gates_score_chooses(metric: str, chosen: str) -> None:
    results = {
        "a": result(accuracy=0.9, macro_f1=0.8, log_loss=0.1),
        "b": result(accuracy=0.95, macro_f1=0.9, log_loss=0.5),
    }
    assert best(results, metric) == chosen


def test_the_first_of_equals_is_chosen() -> None:
    assert best({"a": result(rmse=0.3), "b": result(rmse=0.1 + 0.2), "c": result(rmse=0.4)}, "rmse") == "a"


def test_every_row_is_answered_by_a_model_that_did_not_see_it() -> None:
    """The nearest row to a row that was seen is itself, at no distance: its target would come back unchanged."""
    split = tiny_splits("housing", 100).train
    unique = Split(split.features, np.arange(len(split.target), dtype=np.float64))
    pipeline = Pipeline([("estimator", KNeighborsRegressor(n_neighbors=1))])
    found = cross_validate(HOUSING, pipeline, unique, metric="rmse", folds=4, random_state=0)
    assert (found.out_of_fold != unique.target).all()
    assert set(found.out_of_fold) <= set(unique.target)
    assert {metric: len(values) for metric, values in found.folds.items()} == {"rmse": 4, "mae": 4, "r2": 4}
    assert found.summary["rmse"] == pytest.approx((np.mean(found.folds["rmse"]), np.std(found.folds["rmse"])))


def test_classes_are_stratified() -> None:
    split = tiny_splits("iris", 150).train
    pipeline = Pipeline([("estimator", DummyClassifier(strategy="prior"))])
    found = cross_validate(IRIS, pipeline, split, metric="brier", folds=2, random_state=0)
    assert found.out_of_fold.shape == (len(split.target), 3)
    shares = np.bincount(split.target.astype(int)) / len(split.target)
    np.testing.assert_allclose(found.out_of_fold, np.tile(shares, (len(split.target), 1)), atol=0.02)
    assert set(found.summary) == {"accuracy", "macro_f1", "log_loss", "brier"}


def test_too_many_folds_are_told() -> None:
    split = tiny_splits("iris", 15).train
    pipeline = Pipeline([("estimator", DummyClassifier())])
    with pytest.raises(PipelineError, match=r"train\.iris\.folds: .*n_splits=13"):
        cross_validate(IRIS, pipeline, split, metric="log_loss", folds=13, random_state=0)


@pytest.mark.parametrize("name", ["housing", "iris"])
def test_figures_show_every_candidate_and_row(name: str) -> None:
    dataset, split = DATASETS[name], tiny_splits(name, 60).train
    dummy = DummyClassifier(strategy="prior") if dataset.target.classes else DummyRegressor()
    metric = SCORES[dataset.task][0]
    found = cross_validate(dataset, Pipeline([("estimator", dummy)]), split, metric=metric, folds=3, random_state=0)

    (axes,) = candidate_plots.comparison({"one": found, "two": found}, metric).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]

    (axes,) = candidate_plots.out_of_fold(dataset, split.target, found).axes
    if dataset.target.classes:
        assert sum(int(text.get_text()) for text in axes.texts) == len(split.target)
        assert [label.get_text() for label in axes.get_yticklabels()] == list(dataset.target.classes)
    else:
        assert axes.get_ylabel() == "actual MedHouseVal (100k USD)"


def test_rows_count_by_their_weight() -> None:
    """A row of weight two is as good as two rows, and folds take the weights along."""
    split = tiny_splits("housing", 100).train
    pipeline = Pipeline([("scale", StandardScaler()), ("estimator", Ridge())])
    weight = np.where(np.arange(len(split.target)) < 20, 2.0, 1.0)
    weighted = fit(Pipeline(pipeline.steps[1:]), Split(split.features, split.target, weight), HOUSING.task)
    twice = np.concatenate([np.arange(len(split.target)), np.arange(20)])
    doubled = fit(Pipeline(pipeline.steps[1:]), split.take(twice), HOUSING.task)
    np.testing.assert_allclose(weighted.predict(split.features), doubled.predict(split.features))
    plain = cross_validate(HOUSING, pipeline, split, metric="rmse", folds=3, random_state=0)
    other = cross_validate(
        HOUSING, pipeline, Split(split.features, split.target, weight * 5), metric="rmse", folds=3, random_state=0
    )
    assert not np.allclose(plain.out_of_fold, other.out_of_fold)
