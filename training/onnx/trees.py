"""Converts tree ensembles to ONNX in double precision.

skl2onnx writes thresholds and leaves in single precision, and its double-precision path fails for these estimators
(1.20). With a rounded threshold, rows near it take the wrong branch and their answers jump. The operator
``TreeEnsemble`` of ``ai.onnx.ml`` 5 computes in double precision throughout:
https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.ensemble._forest import ForestClassifier, ForestRegressor

from training.errors import PipelineError
from training.onnx.graph import Graph

Convert = Callable[[Any, Any, Any], None]
"""A converter: takes skl2onnx's scope, operator and container."""
ML_OPSET = 5
"""The version of ``ai.onnx.ml`` that has ``TreeEnsemble``."""
BRANCH_LEQ, BRANCH_MEMBER = 0, 6
SUM = 1
_NO_MEMBER = -1.0
"""The only member of an empty set, which onnxruntime refuses: no category has this code."""


@dataclass(frozen=True)
class Tree:
    """One tree that adds to one output column. Each array has one entry per node; node 0 is the root.

    A row goes to ``left`` if its ``feature`` is at most ``threshold``, else to ``right``; at a node of ``members`` it
    goes to ``left`` if its ``feature`` is one of them. A row whose feature is missing goes to the left where
    ``missing_left``. A leaf adds its ``value`` to output column ``target``.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    leaf: NDArray[np.bool_]
    value: NDArray[np.float64]
    target: int
    missing_left: NDArray[np.bool_] | None = None
    members: dict[int, NDArray[np.float64]] = field(default_factory=dict)


def _forest_trees(estimator: Any) -> Iterator[Tree]:
    # A leaf of the operator adds to only one column, so each tree of a classifier is written once per class.
    for member in estimator.estimators_:
        tree = member.tree_
        for target in range(tree.value.shape[2]):
            yield Tree(
                left=tree.children_left,
                right=tree.children_right,
                feature=tree.feature,
                threshold=tree.threshold,
                leaf=tree.children_left == -1,
                value=tree.value[:, 0, target] / len(estimator.estimators_),
                target=target,
            )


def _boosted_trees(estimator: Any, *, missing: bool) -> Iterator[Tree]:
    columns, categories = _boosted_columns(estimator)
    for iteration in estimator._predictors:
        for target, predictor in enumerate(iteration):
            nodes = predictor.nodes
            left, right = nodes["left"].copy(), nodes["right"].copy()
            missing_left = nodes["missing_go_to_left"].astype(bool)
            members = {}
            for node in np.flatnonzero(nodes["is_categorical"] & ~nodes["is_leaf"]):
                known = categories[nodes["feature_idx"][node]]
                goes_left = _bits(predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]])[: len(known)]
                # Unknown categories go where missing ones do. The members are those that go to the other side.
                members[int(node)] = known[~goes_left if missing_left[node] else goes_left]
                if missing_left[node]:
                    left[node], right[node] = right[node], left[node]
                    missing_left[node] = False
            yield Tree(
                left=left,
                right=right,
                feature=columns[nodes["feature_idx"]],
                threshold=nodes["num_threshold"],
                leaf=nodes["is_leaf"].astype(bool),
                value=nodes["value"],
                target=target,
                missing_left=missing_left if missing else None,
                members=members,
            )


def _boosted_columns(estimator: Any) -> tuple[NDArray[np.int64], list[NDArray[np.float64]]]:
    """Which column each of the estimator's features is, and of the categorical ones, which come first, the codes."""
    categorical = estimator.is_categorical_
    if categorical is None:
        return np.arange(estimator.n_features_in_), []
    columns = np.concatenate([np.flatnonzero(categorical), np.flatnonzero(~categorical)])
    encoder = estimator._preprocessor.named_transformers_["encoder"]
    return columns, [known[~np.isnan(known)] for known in encoder.categories_]


def _bits(words: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """The bits of a set of 256, the lowest first."""
    return np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little").astype(bool)


def _stage_trees(estimator: Any) -> Iterator[Tree]:
    for stage in estimator.estimators_:
        for target, member in enumerate(stage):
            tree = member.tree_
            yield Tree(
                left=tree.children_left,
                right=tree.children_right,
                feature=tree.feature,
                threshold=tree.threshold,
                leaf=tree.children_left == -1,
                value=tree.value[:, 0, 0] * estimator.learning_rate,
                target=target,
            )


def trees_of(estimator: Any) -> list[Tree]:
    """The trees of one of scikit-learn's ensembles; of any other estimator, none."""
    if isinstance(estimator, HistGradientBoostingRegressor | HistGradientBoostingClassifier):
        return list(_boosted_trees(estimator, missing=False))
    if isinstance(estimator, GradientBoostingRegressor | GradientBoostingClassifier):
        return list(_stage_trees(estimator))
    if isinstance(estimator, ForestRegressor | ForestClassifier):
        return list(_forest_trees(estimator))
    return []


def thresholds(trees: Sequence[Tree]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The columns that trees compare with thresholds, and these thresholds, each ``[T]``; none of no trees."""
    numeric = [~tree.leaf & ~np.isin(np.arange(len(tree.leaf)), list(tree.members)) for tree in trees]
    none: list[NDArray[Any]] = [np.zeros(0)]
    return (
        np.concatenate(none + [tree.feature[some] for tree, some in zip(trees, numeric, strict=True)]).astype(np.int64),
        np.concatenate(none + [tree.threshold[some] for tree, some in zip(trees, numeric, strict=True)]),
    )


def _attributes(trees: Iterable[Tree], targets: int) -> dict[str, Any]:
    """The attributes of a ``TreeEnsemble``. Inner nodes and leaves are numbered separately, across all trees."""
    inner: list[dict[str, NDArray[Any]]] = []
    leaf_values: list[NDArray[np.float64]] = []
    leaf_targets: list[NDArray[np.int64]] = []
    members: list[NDArray[np.float64]] = []
    roots: list[int] = []
    inner_count = leaf_count = 0
    tracks_missing = False
    for tree in trees:
        split = ~tree.leaf
        # Each node's index in the list of leaves or of inner nodes.
        place = np.where(tree.leaf, leaf_count + np.cumsum(tree.leaf) - 1, inner_count + np.cumsum(split) - 1)
        roots.append(inner_count)
        if tree.leaf[0]:
            # A tree of a single leaf: the operator needs a split, so both branches lead to that leaf.
            alone = np.zeros(1, dtype=np.int64)
            inner.append(
                {
                    "feature": alone,
                    "threshold": alone.astype(np.float64),
                    "true": alone + leaf_count,
                    "false": alone + leaf_count,
                    "true_leaf": alone + 1,
                    "false_leaf": alone + 1,
                    "mode": alone + BRANCH_LEQ,
                    "missing": alone,
                }
            )
        else:
            left, right = tree.left[split].astype(np.int64), tree.right[split].astype(np.int64)
            mode = np.full(len(tree.leaf), BRANCH_LEQ, dtype=np.int64)
            # A set is all members up to a NaN, in the order of the nodes.
            for node in sorted(tree.members):
                mode[node] = BRANCH_MEMBER
                members.append(np.append(tree.members[node] if len(tree.members[node]) else _NO_MEMBER, np.nan))
            missing_left = np.zeros(len(tree.leaf)) if tree.missing_left is None else tree.missing_left
            tracks_missing |= tree.missing_left is not None
            inner.append(
                {
                    "feature": tree.feature[split].astype(np.int64),
                    "threshold": tree.threshold[split].astype(np.float64),
                    "true": place[left],
                    "false": place[right],
                    "true_leaf": tree.leaf[left].astype(np.int64),
                    "false_leaf": tree.leaf[right].astype(np.int64),
                    "mode": mode[split],
                    "missing": missing_left[split].astype(np.int64),
                }
            )
        leaf_values.append(tree.value[tree.leaf])
        leaf_targets.append(np.full(int(tree.leaf.sum()), tree.target, dtype=np.int64))
        inner_count += len(inner[-1]["feature"])
        leaf_count += len(leaf_values[-1])

    def joined(key: str) -> NDArray[Any]:
        return np.concatenate([part[key] for part in inner])

    attributes = {
        "n_targets": targets,
        "aggregate_function": SUM,
        "tree_roots": roots,
        "nodes_featureids": joined("feature").tolist(),
        "nodes_splits": _doubles("nodes_splits", joined("threshold")),
        "nodes_modes": helper.make_tensor(
            "nodes_modes",
            TensorProto.UINT8,
            [inner_count],
            joined("mode").astype(np.uint8).tobytes(),
            raw=True,
        ),
        "nodes_truenodeids": joined("true").tolist(),
        "nodes_falsenodeids": joined("false").tolist(),
        "nodes_trueleafs": joined("true_leaf").tolist(),
        "nodes_falseleafs": joined("false_leaf").tolist(),
        "leaf_targetids": np.concatenate(leaf_targets).tolist(),
        "leaf_weights": _doubles("leaf_weights", np.concatenate(leaf_values)),
    }
    # Where nothing is ever missing and no category is, the operator takes the fastest way.
    if tracks_missing:
        attributes["nodes_missing_value_tracks_true"] = joined("missing").tolist()
    if members:
        attributes["membership_values"] = _doubles("membership_values", np.concatenate(members))
    return attributes


def _doubles(name: str, values: NDArray[np.float64]) -> Any:
    return helper.make_tensor(name, TensorProto.DOUBLE, list(values.shape), values.astype("<f8").tobytes(), raw=True)


def ensemble(graph: Graph, trees: Iterable[Tree], targets: int, rows: str | None = None) -> str:
    """Add a ``TreeEnsemble`` over ``rows``, or over the step's input: ``[N, F]`` to ``[N, targets]``."""
    return graph.node(
        "TreeEnsemble",
        [rows or graph.input],
        op_domain="ai.onnx.ml",
        # skl2onnx supports `ai.onnx.ml` up to 3; `export.convert` sets the real version on the finished model.
        op_version=3,
        **_attributes(trees, targets),
    )


def _boosted(graph: Graph, *, missing: bool) -> str:
    baseline = np.asarray(graph.estimator._baseline_prediction, dtype=np.float64).reshape(1, -1)
    scores = ensemble(graph, _boosted_trees(graph.estimator, missing=missing), baseline.shape[1])
    return graph.node("Add", [scores, graph.constant(baseline)])


def probabilities(graph: Graph, kind: str, inputs: Sequence[str], **attributes: Any) -> None:
    """Add the node whose output is a classifier's probabilities, and the label that skl2onnx wants beside them."""
    label, output = graph.outputs
    graph.node(kind, inputs, output, **attributes)
    # Classes are indices (checked by `export.convert`), so the label is the index of the largest probability.
    graph.node("ArgMax", [output], label, axis=1, keepdims=0)


def _forest_regressor(scope: Any, operator: Any, container: Any) -> None:
    graph = Graph(scope, operator, container)
    graph.node("Identity", [ensemble(graph, _forest_trees(graph.estimator), 1)], graph.outputs[0])


def _forest_classifier(scope: Any, operator: Any, container: Any) -> None:
    graph = Graph(scope, operator, container)
    classes = len(graph.estimator.classes_)
    probabilities(graph, "Identity", [ensemble(graph, _forest_trees(graph.estimator), classes)])


def _boosted_regressor(*, missing: bool) -> Convert:
    def convert(scope: Any, operator: Any, container: Any) -> None:
        graph = Graph(scope, operator, container)
        if graph.estimator.loss not in ("squared_error", "absolute_error", "quantile"):
            raise PipelineError(
                f"HistGradientBoostingRegressor: loss {graph.estimator.loss!r} has a link function that cannot be "
                "converted; use squared_error, absolute_error or quantile."
            )
        graph.node("Identity", [_boosted(graph, missing=missing)], graph.outputs[0])

    return convert


def _boosted_classifier(*, missing: bool) -> Convert:
    def convert(scope: Any, operator: Any, container: Any) -> None:
        graph = Graph(scope, operator, container)
        _link(graph, _boosted(graph, missing=missing))

    return convert


def _link(graph: Graph, raw: str) -> None:
    """Raw scores as probabilities."""
    if len(graph.estimator.classes_) > 2:
        probabilities(graph, "Softmax", [raw], axis=1)
        return
    second = graph.node("Sigmoid", [raw])
    first = graph.node("Sigmoid", [graph.node("Neg", [raw])])
    probabilities(graph, "Concat", [first, second], axis=1)


def _stages(graph: Graph) -> str:
    estimator = graph.estimator
    if estimator.init is not None:
        raise PipelineError(f"{type(estimator).__name__}: init={estimator.init!r} cannot be converted; leave it out.")
    # The start is the same for every row: a mean, or the logarithms of the classes' odds.
    start = estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_), dtype=np.float32))
    scores = ensemble(graph, _stage_trees(estimator), start.shape[1])
    return graph.node("Add", [scores, graph.constant(start.astype(np.float64))])


def _stages_regressor(scope: Any, operator: Any, container: Any) -> None:
    graph = Graph(scope, operator, container)
    graph.node("Identity", [_stages(graph)], graph.outputs[0])


def _stages_classifier(scope: Any, operator: Any, container: Any) -> None:
    graph = Graph(scope, operator, container)
    if graph.estimator.loss != "log_loss":
        raise PipelineError(
            f"GradientBoostingClassifier: loss {graph.estimator.loss!r} cannot be converted; use log_loss."
        )
    _link(graph, _stages(graph))


def _regression_shape(operator: Any) -> None:
    operator.outputs[0].type = DoubleTensorType([operator.inputs[0].get_first_dimension(), 1])


def _classification_shape(operator: Any) -> None:
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = Int64TensorType([rows])
    operator.outputs[1].type = DoubleTensorType([rows, len(operator.raw_operator.classes_)])


def register(*, missing: bool = False) -> None:
    """Register these converters with skl2onnx. Calling it again has no effect but for ``missing``.

    Args:
        missing: whether gradient boosting is given missing values.
    """
    regressors: list[tuple[type, Convert]] = [
        (RandomForestRegressor, _forest_regressor),
        (ExtraTreesRegressor, _forest_regressor),
        (GradientBoostingRegressor, _stages_regressor),
        (HistGradientBoostingRegressor, _boosted_regressor(missing=missing)),
    ]
    for estimator, convert in regressors:
        register_regressor(estimator, convert)
    classifiers: list[tuple[type, Convert]] = [
        (RandomForestClassifier, _forest_classifier),
        (ExtraTreesClassifier, _forest_classifier),
        (GradientBoostingClassifier, _stages_classifier),
        (HistGradientBoostingClassifier, _boosted_classifier(missing=missing)),
    ]
    for estimator, convert in classifiers:
        register_classifier(estimator, convert)


def register_regressor(estimator: type, convert: Convert) -> None:
    """Register the converter of a regressor with skl2onnx."""
    update_registered_converter(estimator, f"Double{estimator.__name__}", _regression_shape, convert)


def register_classifier(estimator: type, convert: Convert) -> None:
    """Register the converter of a classifier with skl2onnx."""
    update_registered_converter(
        estimator,
        f"Double{estimator.__name__}",
        _classification_shape,
        convert,
        options={"zipmap": [False], "nocl": [True, False], "output_class_labels": [False]},
    )
