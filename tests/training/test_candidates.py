import pytest
from sklearn.base import BaseEstimator
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.kernel_ridge import KernelRidge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline

from contract import DATASETS
from local_service import PROJECT
from tests.training.conftest import tiny_splits
from training import params
from training.candidates import build, check_deployable
from training.errors import PipelineError
from training.features import RowFeatures
from training.params import CandidateParams, RowFeatureParams

SHIPPED = params.load(PROJECT / "params.yaml")


def built(dataset: str, candidate: CandidateParams) -> Pipeline:
    return build(DATASETS[dataset], "mine", candidate, RowFeatureParams(), random_state=7)


@pytest.mark.parametrize("dataset", DATASETS)
def test_shipped_candidates_are_built_with_their_parameters(dataset: str) -> None:
    section = SHIPPED.training(dataset)
    for name, candidate in section.candidates.items():
        pipeline = build(DATASETS[dataset], name, candidate, section.features, random_state=7)
        found = pipeline.get_params().items()
        for parameter, value in candidate.parameters.items():
            assert any(key.endswith(f"__{parameter}") and given == value for key, given in found)


def test_seed_is_given_unless_the_parameters_have_one() -> None:
    forest = built("iris", CandidateParams(estimator="random_forest"))
    assert forest["estimator"].random_state == 7
    forest = built("iris", CandidateParams(estimator="random_forest", parameters={"random_state": 1}))
    assert forest["estimator"].random_state == 1


@pytest.mark.parametrize(
    ("dataset", "candidate", "said"),
    [
        ("housing", CandidateParams(estimator="perceptron"), r"mine\.estimator: there is no 'perceptron'.*linear"),
        ("housing", CandidateParams(estimator="svc"), r"no 'svc' for regression"),
        ("iris", CandidateParams(estimator="svc", parameters={"c": 1}), r"mine\.parameters: SVC has no c; it has C"),
        ("housing", CandidateParams(estimator="linear", parameters={"alpha": "a"}), r"mine\.parameters: .*'alpha'"),
        ("housing", CandidateParams(estimator="random_forest", parameters={"n_estimators": 0}), r"'n_estimators'"),
    ],
)
def test_wrong_candidate_is_named(dataset: str, candidate: CandidateParams, said: str) -> None:
    with pytest.raises(PipelineError, match=said) as refusal:
        built(dataset, candidate)
    assert str(refusal.value).startswith(f"train.{dataset}.candidates.mine.")


@pytest.mark.parametrize("name", ["housing", "iris"])
@pytest.mark.parametrize(
    "estimator", ["extra_trees", "random_forest", "gradient_boosting", "hist_gradient_boosting", "neural_network"]
)
def test_estimators_can_be_deployed(name: str, estimator: str) -> None:
    pipeline = built(name, CandidateParams(estimator=estimator))
    check_deployable(DATASETS[name], "mine", pipeline, tiny_splits(name).train, 1e-9)


@pytest.mark.parametrize("name", DATASETS)
def test_shipped_candidates_can_be_deployed(name: str) -> None:
    section = SHIPPED.training(name)
    for candidate, parameters in section.candidates.items():
        pipeline = build(DATASETS[name], candidate, parameters, section.features, random_state=7)
        check_deployable(DATASETS[name], candidate, pipeline, tiny_splits(name).train, section.tolerance)


@pytest.mark.parametrize(
    ("name", "estimator", "said"),
    [
        ("housing", KNeighborsRegressor(algorithm="kd_tree"), r"holds .*sklearn\.neighbors\._kd_tree\.KDTree"),
        ("iris", KNeighborsClassifier(algorithm="kd_tree"), r"holds .*sklearn\.neighbors\._kd_tree\.KDTree"),
        ("iris", GradientBoostingClassifier(loss="exponential"), "exponential"),
        ("housing", KernelRidge(), "KernelRidge cannot be converted to ONNX"),
    ],
)
def test_candidate_that_cannot_be_deployed_is_named(name: str, estimator: BaseEstimator, said: str) -> None:
    pipeline = Pipeline([("features", RowFeatures()), ("estimator", estimator)])
    with pytest.raises(PipelineError, match=rf"train\.{name}\.candidates\.mine cannot be deployed: .*{said}"):
        check_deployable(DATASETS[name], "mine", pipeline, tiny_splits(name).train, 1e-9)
    assert not hasattr(estimator, "n_features_in_")
