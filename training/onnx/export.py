"""A fitted pipeline as files: skops for Python, ONNX for the service, and the proof that both say the same."""

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contract.dataset import Dataset, Task
from contract.errors import PipelineError
from model.card import ONNX_INPUT, PROBABILITIES_OUTPUT, REGRESSION_OUTPUT, OnnxCard
from model.session import open_session, output_name, run_session
from training.registry import archives

if TYPE_CHECKING:
    import onnx
    from sklearn.base import BaseEstimator

FloatMatrix = NDArray[np.float64]

ESTIMATOR_FILE = "estimator.skops"
OPSET = 21
"""The version of ONNX's own operators; onnxruntime 1.20 and later run it."""
TRUSTED_TYPES = (
    # Ours: arithmetic on columns, nothing else.
    "training.features.RowFeatures",
    "training.features.SinglePrecision",
    # scikit-learn's: arrays and the arithmetic on them. skops leaves them out of its own list because the compiled code
    # of the trees takes their arrays as they come.
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)
"""What a stored estimator may hold beyond the types that skops trusts of itself; a file with any other is refused."""


def save_estimator(estimator: "BaseEstimator", path: Path) -> None:
    """Write a fitted estimator in the skops format. Equal estimators give equal bytes.

    Raises:
        PipelineError: if it holds a type that ``load_estimator`` would refuse.
    """
    import skops.io

    skops.io.dump(estimator, path)
    archives.normalise_skops(path)
    _refuse_untrusted(path)


def load_estimator(path: Path) -> "BaseEstimator":
    """Read an estimator that ``save_estimator`` wrote.

    Raises:
        PipelineError: if the file is missing, or holds a type outside skops' own list and ``TRUSTED_TYPES``. None of
            it is loaded then.
    """
    import skops.io

    if not path.is_file():
        raise PipelineError(f"{path} is missing: train the model first, with `dvc repro`.")
    _refuse_untrusted(path)
    return skops.io.load(path, trusted=list(TRUSTED_TYPES))


def _refuse_untrusted(path: Path) -> None:
    import skops.io

    untrusted = sorted(set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED_TYPES))
    if untrusted:
        raise PipelineError(
            f"{path} holds {', '.join(untrusted)}, which training/onnx/export.py does not trust. If a new candidate "
            "needs it and its code is harmless, add it to TRUSTED_TYPES; never do so for a file of unknown origin."
        )


def predictor(dataset: Dataset, estimator: "BaseEstimator") -> Callable[[FloatMatrix], FloatMatrix]:
    """The estimator's answer as the service gives it: ``[N, F]`` to ``[N, 1]`` or, for C classes, ``[N, C]``."""
    if dataset.task is Task.CLASSIFICATION:
        return lambda rows: np.asarray(estimator.predict_proba(rows), dtype=np.float64)
    return lambda rows: np.asarray(estimator.predict(rows), dtype=np.float64).reshape(-1, 1)


def convert(dataset: Dataset, estimator: "BaseEstimator") -> bytes:
    """A fitted pipeline as an ONNX model with one input and one output, named as ``model.card`` says.

    Raises:
        PipelineError: if the classes are not the indices of the contract's classes, all of them.
    """
    import onnx
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType

    from training.onnx import features as feature_conversion
    from training.onnx import trees as tree_conversion

    options = None
    if dataset.task is Task.CLASSIFICATION:
        if list(estimator.classes_) != list(range(len(dataset.target.classes))):
            raise PipelineError(
                f"{dataset.name}: the estimator knows the classes {list(estimator.classes_)}, the contract has "
                f"{len(dataset.target.classes)}: {', '.join(dataset.target.classes)}. Each class needs rows in the "
                "training split."
            )
        options = {id(estimator): {"zipmap": False}}
    feature_conversion.register()
    tree_conversion.register()
    with warnings.catch_warnings():
        # skl2onnx 1.20 looks at attributes that scikit-learn 1.9 is about to drop; it does without them too.
        warnings.filterwarnings("ignore", "Attribute `prob[AB]_` was deprecated", FutureWarning)
        model = to_onnx(
            estimator,
            name=dataset.name,
            initial_types=[(ONNX_INPUT, DoubleTensorType([None, len(dataset.features)]))],
            options=options,
            target_opset={"": OPSET, "ai.onnx.ml": 3},
        )
    # skl2onnx keeps them in a set, whose order differs from process to process.
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    for opset in model.opset_import:
        if opset.domain == "ai.onnx.ml":
            opset.version = tree_conversion.ML_OPSET
    _keep_one_output(model, PROBABILITIES_OUTPUT if dataset.task is Task.CLASSIFICATION else REGRESSION_OUTPUT)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _keep_one_output(model: "onnx.ModelProto", name: str) -> None:
    """Keep the last output, call it ``name``, and drop the nodes that no longer lead anywhere."""
    graph = model.graph
    kept = graph.output[-1]
    del graph.output[:-1]
    for node in graph.node:
        for names in (node.input, node.output):
            for index, value in enumerate(names):
                if value == kept.name:
                    names[index] = name
    kept.name = name
    needed = {name}
    for node in reversed(graph.node):  # in topological order, so those that need it come later
        if needed.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            needed.update(node.input)
    for constant in list(graph.initializer):
        if constant.name not in needed:
            graph.initializer.remove(constant)


def compare(
    dataset: Dataset, content: bytes, predict: Callable[[FloatMatrix], FloatMatrix], rows: FloatMatrix, tolerance: float
) -> OnnxCard:
    """Run the ONNX model and the estimator over rows of shape ``[N, F]``.

    Raises:
        PipelineError: if they differ by more than ``tolerance`` anywhere, naming the worst row.
    """
    expected = predict(rows)
    answer = run_session(open_session(content), output_name(dataset.task), rows).reshape(expected.shape)
    difference = np.abs(answer - expected).max(axis=1)
    # A NaN is no agreement, and would hide in a comparison.
    difference[np.isnan(difference)] = np.inf
    worst = int(difference.argmax())
    if not difference[worst] <= tolerance:
        raise PipelineError(
            f"{dataset.name}: the ONNX model and the estimator differ by {difference[worst]:.3g} in row {worst}, "
            f"{rows[worst].tolist()}: {answer[worst].tolist()} against {expected[worst].tolist()}. "
            f"train.{dataset.name}.tolerance allows {tolerance:g}: raise it if that is good enough, or take "
            "another candidate."
        )
    return OnnxCard(
        sha256=hashlib.sha256(content).hexdigest(),
        opset=OPSET,
        max_difference=float(difference[worst]),
        tolerance=tolerance,
    )
