"""Converts LightGBM and XGBoost to ONNX in double precision, from their own models of a fitted estimator.

LightGBM compares doubles with ``<=`` and adds doubles, as ``TreeEnsemble`` does. XGBoost compares single precision with
``<``, which is reproduced exactly. It also adds in single precision, in the order of its trees, which is not: the sums
here are more exact.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from contract.dataset import Task
from training.boosters import BOOSTERS
from training.errors import PipelineError
from training.onnx.graph import Graph
from training.onnx.trees import (
    Convert,
    Tree,
    ensemble,
    probabilities,
    register_classifier,
    register_regressor,
)

LIGHTGBM_FORMAT = "v4"
"""The version of LightGBM's model text that is read here."""
LIGHTGBM_IDENTITY = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")
XGBOOST_IDENTITY = ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror")
"""The objectives of regression whose sums of leaves are the answer."""

# LightGBM's `decision_type`: bit 0 for a set of categories, bit 1 for missing values that go to the left, and the rest
# for which values are missing.
_CATEGORICAL, _DEFAULT_LEFT, _MISSING_TYPE = 1, 2, 2
_ZERO_IS_MISSING, _NAN_IS_MISSING = 1, 2
_ZERO = float(np.float32(1e-35))
"""LightGBM takes any number between this and its negative, both included, for zero."""


def trees_of(estimator: Any) -> list[Tree]:
    """The trees of an estimator of LightGBM or XGBoost; of any other, none."""
    read = {"lightgbm": _lightgbm_trees, "xgboost": _xgboost_trees}.get(type(estimator).__module__.partition(".")[0])
    return list(read(estimator, missing=False)) if read else []


def _lightgbm_trees(estimator: Any, *, missing: bool) -> Iterator[Tree]:
    header, texts = _lightgbm_model(estimator)
    for index, text in enumerate(texts):
        yield _lightgbm_tree(text, index % int(header["num_tree_per_iteration"]), missing=missing)


def _lightgbm_model(estimator: Any) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The model text: its header, and each of its trees."""
    text, _, _ = estimator.booster_.model_to_string().partition("end of trees")
    header, *trees = (
        dict(line.split("=", 1) for line in part.splitlines() if "=" in line) for part in text.split("\nTree=")
    )
    if header.get("version") != LIGHTGBM_FORMAT:
        raise PipelineError(
            f"LightGBM wrote version {header.get('version')} of its format, and training/onnx/boosters.py reads "
            f"{LIGHTGBM_FORMAT}: install the locked release with `make boosters`."
        )
    return header, trees


def _lightgbm_tree(text: Mapping[str, str], target: int, *, missing: bool) -> Tree:
    def integers(key: str) -> NDArray[np.int64]:
        return np.array(text.get(key, "").split(), dtype=np.int64)

    def doubles(key: str) -> NDArray[np.float64]:
        return np.array(text.get(key, "").split(), dtype=np.float64)

    decision, threshold, value = integers("decision_type"), doubles("threshold"), doubles("leaf_value")
    categorical = decision & _CATEGORICAL > 0
    missing_type = decision >> _MISSING_TYPE
    if text.get("is_linear", "0") != "0" or (missing_type[~categorical] == _ZERO_IS_MISSING).any():
        raise PipelineError("LightGBM: linear_tree and zero_as_missing cannot be converted; leave them out.")
    # Where the training rows had no missing value, LightGBM takes one for zero.
    missing_left = np.where(missing_type == _NAN_IS_MISSING, decision & _DEFAULT_LEFT > 0, threshold >= 0)
    words, ends = integers("cat_threshold").astype(np.uint32), integers("cat_boundaries")
    members = {}
    for node in np.flatnonzero(categorical):
        place = int(threshold[node])
        bits = words[ends[place] : ends[place + 1]].astype("<u4").view(np.uint8)
        # Other categories and missing values go to the right.
        members[int(node)] = np.flatnonzero(np.unpackbits(bits, bitorder="little")).astype(np.float64)
        missing_left[node] = False
    # The same numbers must go to the same side here. Its own splits lie at the ends of that range.
    threshold[(threshold >= -_ZERO) & (threshold < 0)] = np.nextafter(-_ZERO, -np.inf)
    threshold[(threshold >= 0) & (threshold < _ZERO)] = _ZERO
    leaves = np.zeros(len(value), dtype=np.int64)

    def child(key: str) -> NDArray[np.int64]:
        # A leaf has its number's complement, and comes after the splits here.
        nodes = integers(key)
        return np.concatenate([np.where(nodes < 0, len(decision) + ~nodes, nodes), leaves])

    return Tree(
        left=child("left_child"),
        right=child("right_child"),
        feature=np.concatenate([integers("split_feature"), leaves]),
        threshold=np.concatenate([threshold, leaves]),
        leaf=np.arange(len(decision) + len(value)) >= len(decision),
        value=np.concatenate([np.zeros(len(decision)), value]),
        target=target,
        missing_left=np.concatenate([missing_left, leaves > 0]) if missing else None,
        members=members,
    )


def _xgboost_trees(estimator: Any, *, missing: bool) -> Iterator[Tree]:
    model = _xgboost_model(estimator)["gradient_booster"]["model"]
    for tree, target in zip(model["trees"], model["tree_info"], strict=True):
        yield _xgboost_tree(tree, target, missing=missing)


def _xgboost_model(estimator: Any) -> dict[str, Any]:
    learner: dict[str, Any] = json.loads(estimator.get_booster().save_raw("json"))["learner"]
    if learner["gradient_booster"]["name"] != "gbtree":
        raise _refused(estimator, "booster", learner["gradient_booster"]["name"], ["gbtree"])
    return learner


def _xgboost_tree(tree: Mapping[str, Any], target: int, *, missing: bool) -> Tree:
    left, right = (np.array(tree[key], dtype=np.int64) for key in ("left_children", "right_children"))
    condition = np.array(tree["split_conditions"], dtype=np.float32)
    default_left = np.array(tree["default_left"], dtype=np.bool_)
    codes = np.array(tree["categories"], dtype=np.float64)
    members = {}
    for node, start, size in zip(
        tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True
    ):
        # The categories of a set go to the right, and all others to the left.
        members[node] = codes[start : start + size]
        left[node], right[node] = right[node], left[node]
        default_left[node] = not default_left[node]
    return Tree(
        left=left,
        right=right,
        feature=np.array(tree["split_indices"], dtype=np.int64),
        # Less than a number is at most the one before it.
        threshold=np.nextafter(condition, np.float32(-np.inf)).astype(np.float64),
        leaf=left == -1,
        value=condition.astype(np.float64),
        target=target,
        missing_left=default_left if missing else None,
        members=members,
    )


def _lightgbm_scores(graph: Graph, allowed: Sequence[str], *, missing: bool) -> str:
    """Sums of leaves ``[N, 1]`` or ``[N, C]``. The first trees hold the value that boosting starts from."""
    estimator = graph.estimator
    if estimator.boosting_type != "gbdt":
        raise _refused(estimator, "boosting_type", estimator.boosting_type, ["gbdt"])
    header, _ = _lightgbm_model(estimator)
    if header["objective"] not in allowed:
        raise _refused(estimator, "objective", header["objective"], [name.partition(" ")[0] for name in allowed])
    return ensemble(graph, _lightgbm_trees(estimator, missing=missing), int(header["num_tree_per_iteration"]))


def _xgboost_scores(graph: Graph, allowed: Sequence[str], *, missing: bool) -> str:
    """Sums of leaves ``[N, 1]`` or ``[N, C]``."""
    estimator = graph.estimator
    learner = _xgboost_model(estimator)
    objective = learner["objective"]["name"]
    if objective not in allowed:
        raise _refused(estimator, "objective", objective, allowed)
    if not np.isnan(estimator.missing):
        raise _refused(estimator, "missing", estimator.missing, ["NaN"])
    if estimator.multi_strategy not in (None, "one_output_per_tree"):
        raise _refused(estimator, "multi_strategy", estimator.multi_strategy, ["one_output_per_tree"])
    # A vector since release 3.1.
    start = np.atleast_1d(np.array(json.loads(learner["learner_model_param"]["base_score"]), dtype=np.float32))
    base = start.astype(np.float64)
    if objective == "binary:logistic":
        base = np.log(base / (1 - base))
    targets = max(int(learner["learner_model_param"]["num_class"]), 1)
    single = graph.node("Cast", [graph.input], to=TensorProto.FLOAT)
    rows = graph.node("Cast", [single], to=TensorProto.DOUBLE)
    scores = ensemble(graph, _xgboost_trees(estimator, missing=missing), targets, rows)
    return graph.node("Add", [scores, graph.constant(base.reshape(1, -1))])


def _refused(estimator: Any, parameter: str, value: object, allowed: Sequence[str]) -> PipelineError:
    return PipelineError(
        f"{type(estimator).__name__}: {parameter} {value!r} cannot be converted; use {' or '.join(allowed)}."
    )


def _two_classes(graph: Graph, score: str) -> None:
    second = graph.node("Sigmoid", [score])
    # Both packages give the first class what is left, rather than the sigmoid of the negative score.
    first = graph.node("Sub", [graph.constant(np.ones(1)), second])
    probabilities(graph, "Concat", [first, second], axis=1)


def _regressor(scores: Any, allowed: Sequence[str], *, missing: bool) -> Convert:
    def convert(scope: Any, operator: Any, container: Any) -> None:
        graph = Graph(scope, operator, container)
        graph.node("Identity", [scores(graph, allowed, missing=missing)], graph.outputs[0])

    return convert


def _classifier(scores: Any, two: str, more: str, *, missing: bool) -> Convert:
    def convert(scope: Any, operator: Any, container: Any) -> None:
        graph = Graph(scope, operator, container)
        classes = len(graph.estimator.classes_)
        if classes > 2:
            probabilities(graph, "Softmax", [scores(graph, [more.format(classes)], missing=missing)], axis=1)
        else:
            _two_classes(graph, scores(graph, [two], missing=missing))

    return convert


def register(*, missing: bool = False) -> None:
    """Register the converters of the packages that are imported with skl2onnx. Calling it again has no effect but for
    ``missing``.

    Args:
        missing: whether the estimators are given missing values.
    """
    converters = {
        "lightgbm": (
            _regressor(_lightgbm_scores, LIGHTGBM_IDENTITY, missing=missing),
            _classifier(_lightgbm_scores, "binary sigmoid:1", "multiclass num_class:{}", missing=missing),
        ),
        "xgboost": (
            _regressor(_xgboost_scores, XGBOOST_IDENTITY, missing=missing),
            _classifier(_xgboost_scores, "binary:logistic", "multi:softprob", missing=missing),
        ),
    }
    for package, (regressor, classifier) in converters.items():
        if module := sys.modules.get(package):
            register_regressor(getattr(module, BOOSTERS[package].classes[Task.REGRESSION]), regressor)
            register_classifier(getattr(module, BOOSTERS[package].classes[Task.CLASSIFICATION]), classifier)
