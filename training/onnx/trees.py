"""Converts tree ensembles to ONNX in double precision.

skl2onnx writes thresholds and leaves in single precision, and its double-precision path fails for these estimators
(1.20). With a rounded threshold, rows near it take the wrong branch and their answers jump. The operator
``TreeEnsemble`` of ``ai.onnx.ml`` 5 computes in double precision throughout:
https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from training.errors import PipelineError
from training.onnx.graph import Graph

ML_OPSET = 5
"""The version of ``ai.onnx.ml`` that has ``TreeEnsemble``."""
BRANCH_LEQ = 0
SUM = 1


@dataclass(frozen=True)
class Tree:
    """One tree that adds to one output column. Each array has one entry per node; node 0 is the root.

    A row goes to ``left`` if its ``feature`` is at most ``threshold``, else to ``right``. A leaf adds its ``value`` to
    output column ``target``.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    leaf: NDArray[np.bool_]
    value: NDArray[np.float64]
    target: int


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


def _boosted_trees(estimator: Any) -> Iterator[Tree]:
    for iteration in estimator._predictors:
        for target, predictor in enumerate(iteration):
            nodes = predictor.nodes
            if nodes["is_categorical"].any():
                raise PipelineError(
                    f"{type(estimator).__name__}: categorical splits cannot be converted; remove categorical_features."
                )
            yield Tree(
                left=nodes["left"],
                right=nodes["right"],
                feature=nodes["feature_idx"],
                threshold=nodes["num_threshold"],
                leaf=nodes["is_leaf"].astype(bool),
                value=nodes["value"],
                target=target,
            )


def _attributes(trees: Iterable[Tree], targets: int) -> dict[str, Any]:
    """The attributes of a ``TreeEnsemble``. Inner nodes and leaves are numbered separately, across all trees."""
    inner: list[dict[str, NDArray[Any]]] = []
    leaf_values: list[NDArray[np.float64]] = []
    leaf_targets: list[NDArray[np.int64]] = []
    roots: list[int] = []
    inner_count = leaf_count = 0
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
                }
            )
        else:
            left, right = tree.left[split].astype(np.int64), tree.right[split].astype(np.int64)
            inner.append(
                {
                    "feature": tree.feature[split].astype(np.int64),
                    "threshold": tree.threshold[split].astype(np.float64),
                    "true": place[left],
                    "false": place[right],
                    "true_leaf": tree.leaf[left].astype(np.int64),
                    "false_leaf": tree.leaf[right].astype(np.int64),
                }
            )
        leaf_values.append(tree.value[tree.leaf])
        leaf_targets.append(np.full(int(tree.leaf.sum()), tree.target, dtype=np.int64))
        inner_count += len(inner[-1]["feature"])
        leaf_count += len(leaf_values[-1])

    def joined(key: str) -> NDArray[Any]:
        return np.concatenate([part[key] for part in inner])

    return {
        "n_targets": targets,
        "aggregate_function": SUM,
        "tree_roots": roots,
        "nodes_featureids": joined("feature").tolist(),
        "nodes_splits": _doubles("nodes_splits", joined("threshold")),
        "nodes_modes": helper.make_tensor(
            "nodes_modes",
            TensorProto.UINT8,
            [inner_count],
            np.full(inner_count, BRANCH_LEQ, np.uint8).tobytes(),
            raw=True,
        ),
        "nodes_truenodeids": joined("true").tolist(),
        "nodes_falsenodeids": joined("false").tolist(),
        "nodes_trueleafs": joined("true_leaf").tolist(),
        "nodes_falseleafs": joined("false_leaf").tolist(),
        "leaf_targetids": np.concatenate(leaf_targets).tolist(),
        "leaf_weights": _doubles("leaf_weights", np.concatenate(leaf_values)),
    }


def _doubles(name: str, values: NDArray[np.float64]) -> Any:
    return helper.make_tensor(name, TensorProto.DOUBLE, list(values.shape), values.astype("<f8").tobytes(), raw=True)


def _ensemble(graph: Graph, trees: Iterable[Tree], targets: int) -> str:
    return graph.node(
        "TreeEnsemble",
        [graph.input],
        op_domain="ai.onnx.ml",
        # skl2onnx supports `ai.onnx.ml` up to 3; `export.convert` sets the real version on the finished model.
        op_version=3,
        **_attributes(trees, targets),
    )


def _boosted(graph: Graph) -> str:
    baseline = np.asarray(graph.estimator._baseline_prediction, dtype=np.float64).reshape(1, -1)
    scores = _ensemble(graph, _boosted_trees(graph.estimator), baseline.shape[1])
    return graph.node("Add", [scores, graph.constant(baseline)])


def _probabilities(graph: Graph, kind: str, inputs: Sequence[str], **attributes: Any) -> None:
    label, probabilities = graph.outputs
    graph.node(kind, inputs, probabilities, **attributes)
    # Classes are indices (checked by `export.convert`), so the label is the index of the largest probability.
    graph.node("ArgMax", [probabilities], label, axis=1, keepdims=0)


def _forest_regressor(scope: Any, operator: Any, container: Any) -> None:
    graph = Graph(scope, operator, container)
    graph.node("Identity", [_ensemble(graph, _forest_trees(graph.estimator), 1)], graph.outputs[0])


def _forest_classifier(scope: Any, operator: Any, container: Any) -> None:
    graph = Graph(scope, operator, container)
    classes = len(graph.estimator.classes_)
    _probabilities(graph, "Identity", [_ensemble(graph, _forest_trees(graph.estimator), classes)])


def _boosted_regressor(scope: Any, operator: Any, container: Any) -> None:
    graph = Graph(scope, operator, container)
    if graph.estimator.loss not in ("squared_error", "absolute_error", "quantile"):
        raise PipelineError(
            f"HistGradientBoostingRegressor: loss {graph.estimator.loss!r} has a link function that cannot be "
            "converted; use squared_error, absolute_error or quantile."
        )
    graph.node("Identity", [_boosted(graph)], graph.outputs[0])


def _boosted_classifier(scope: Any, operator: Any, container: Any) -> None:
    graph = Graph(scope, operator, container)
    raw = _boosted(graph)
    if len(graph.estimator.classes_) > 2:
        _probabilities(graph, "Softmax", [raw], axis=1)
        return
    second = graph.node("Sigmoid", [raw])
    first = graph.node("Sigmoid", [graph.node("Neg", [raw])])
    _probabilities(graph, "Concat", [first, second], axis=1)


def _regression_shape(operator: Any) -> None:
    operator.outputs[0].type = DoubleTensorType([operator.inputs[0].get_first_dimension(), 1])


def _classification_shape(operator: Any) -> None:
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = Int64TensorType([rows])
    operator.outputs[1].type = DoubleTensorType([rows, len(operator.raw_operator.classes_)])


def register() -> None:
    """Register these converters with skl2onnx. Calling it again has no effect."""
    for estimator, convert in (
        (RandomForestRegressor, _forest_regressor),
        (ExtraTreesRegressor, _forest_regressor),
        (HistGradientBoostingRegressor, _boosted_regressor),
    ):
        update_registered_converter(estimator, f"Double{estimator.__name__}", _regression_shape, convert)
    for estimator, convert in (
        (RandomForestClassifier, _forest_classifier),
        (ExtraTreesClassifier, _forest_classifier),
        (HistGradientBoostingClassifier, _boosted_classifier),
    ):
        update_registered_converter(
            estimator,
            f"Double{estimator.__name__}",
            _classification_shape,
            convert,
            options={"zipmap": [False], "nocl": [True, False], "output_class_labels": [False]},
        )
