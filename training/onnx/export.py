"""Saves a fitted pipeline: in the skops format for Python, as ONNX for the service. Checks that both agree."""

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contract.dataset import Dataset, Task
from contract.table import FloatMatrix
from model.card import ONNX_INPUT, PROBABILITIES_OUTPUT, REGRESSION_OUTPUT, OnnxCard
from model.session import open_session, output_name, run_session
from training import boosters
from training.errors import PipelineError
from training.registry import archives

if TYPE_CHECKING:
    import onnx
    from sklearn.base import BaseEstimator

ESTIMATOR_FILE = "estimator.skops"
OPSET = 21
"""The version of ONNX's own operators; onnxruntime 1.20 and later run it."""
TRUSTED_TYPES = (
    # Ours: they only compute columns.
    "training.features.BoostingRows",
    "training.features.KindEncoder",
    "training.features.OptionalRowFeatures",
    "training.features.RowFeatures",
    "training.features.SinglePrecision",
    # scikit-learn's: arrays and arithmetic. skops does not trust them by default because the compiled code of the trees
    # does not check its arrays.
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    # Gradient boosting over categories holds a check of its input. A partial calls a function that is trusted too.
    "functools.partial",
    "sklearn.utils.validation.check_array",
)
"""Types that a stored estimator may hold, besides those that skops trusts by default and those of ``BOOSTERS``. All
others are refused.
"""


def trusted_types(estimator: "BaseEstimator") -> list[str]:
    """The types that skops must trust to load a fitted pipeline."""
    booster = boosters.of(estimator)
    return [*TRUSTED_TYPES, *(booster.trusted if booster else ())]


def save_estimator(estimator: "BaseEstimator", path: Path) -> None:
    """Write a fitted estimator in the skops format. Equal estimators give equal bytes.

    Raises:
        PipelineError: if it holds a type that ``load_estimator`` would refuse.
    """
    import skops.io

    skops.io.dump(estimator, path)
    archives.normalise_skops(path)
    _refuse_untrusted(path, "The estimator")


def load_estimator(path: Path) -> "BaseEstimator":
    """Read an estimator that ``save_estimator`` wrote.

    Raises:
        PipelineError: if the file is missing, if it holds a type that neither skops nor ``TRUSTED_TYPES`` trusts, or
            if it needs a package that is not installed. Nothing is loaded then.
    """
    import skops.io

    if not path.is_file():
        raise PipelineError(f"{path} is missing: train the model first, with `dvc repro`.")
    _refuse_untrusted(path, str(path))
    try:
        return skops.io.load(path, trusted=_all_trusted())
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in boosters.BOOSTERS:
            raise
        raise PipelineError(f"{path}: {boosters.not_installed(package)}") from error


def _all_trusted() -> list[str]:
    return [*TRUSTED_TYPES, *(name for booster in boosters.BOOSTERS.values() for name in booster.trusted)]


def _refuse_untrusted(path: Path, subject: str) -> None:
    import skops.io

    untrusted = sorted(set(skops.io.get_untrusted_types(file=path)) - set(_all_trusted()))
    if untrusted:
        raise PipelineError(
            f"{subject} holds {', '.join(untrusted)}, which training/onnx/export.py does not trust. If a new candidate "
            "needs this type and its code is harmless, add it to TRUSTED_TYPES. Never do so for a file of unknown "
            "origin."
        )


def answers(estimator: "BaseEstimator", rows: FloatMatrix, task: Task) -> FloatMatrix:
    """The estimator's answers to rows ``[N, F]``: predictions ``[N]`` or, for C classes, probabilities ``[N, C]``."""
    answer = estimator.predict_proba(rows) if task is Task.CLASSIFICATION else estimator.predict(rows)
    return np.asarray(answer, dtype=np.float64)


def predictor(dataset: Dataset, estimator: "BaseEstimator") -> Callable[[FloatMatrix], FloatMatrix]:
    """The same in the service's shape: ``[N, F]`` to ``[N, 1]`` or, for C classes, ``[N, C]``."""
    return lambda rows: answers(estimator, rows, dataset.task).reshape(len(rows), -1)


def convert(dataset: Dataset, estimator: "BaseEstimator") -> bytes:
    """Convert a fitted pipeline to an ONNX model with one input and one output, named as in ``model.card``.

    Raises:
        PipelineError: if the classes are not exactly the indices of the contract's classes, or if the pipeline cannot
            be converted.
    """
    import onnx
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType

    from training.onnx import boosters as booster_conversion
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
    tree_conversion.register(missing=dataset.has_optional)
    booster_conversion.register(missing=dataset.has_optional)
    with warnings.catch_warnings():
        # skl2onnx 1.20 reads attributes that scikit-learn 1.9 deprecates, but does not need them.
        warnings.filterwarnings("ignore", "Attribute `prob[AB]_` was deprecated", FutureWarning)
        try:
            model = to_onnx(
                estimator,
                name=dataset.name,
                initial_types=[(ONNX_INPUT, DoubleTensorType([None, len(dataset.features)]))],
                options=options,
                target_opset={"": OPSET, "ai.onnx.ml": 3},
            )
        except (RuntimeError, NotImplementedError, NameError, ValueError, TypeError) as error:
            # What skl2onnx raises for an estimator that it has no converter for, or only a partial one.
            raise _not_convertible(estimator, error) from error
    # skl2onnx keeps them in a set, whose order differs from process to process.
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    for opset in model.opset_import:
        if opset.domain == "ai.onnx.ml":
            opset.version = tree_conversion.ML_OPSET
    _keep_one_output(model, PROBABILITIES_OUTPUT if dataset.task is Task.CLASSIFICATION else REGRESSION_OUTPUT)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        # skl2onnx's own tree operators no longer exist in `ai.onnx.ml` 5.
        raise _not_convertible(estimator, error) from error
    return bytes(model.SerializeToString(deterministic=True))


def _not_convertible(estimator: "BaseEstimator", error: Exception) -> PipelineError:
    kind = type(estimator[-1] if hasattr(estimator, "steps") else estimator).__name__
    said = " ".join(str(error).split())[:300]
    return PipelineError(f"{kind} cannot be converted to ONNX. Add a converter in training/onnx. The error was: {said}")


def _keep_one_output(model: "onnx.ModelProto", name: str) -> None:
    """Keep only the last output, rename it to ``name``, and drop the nodes that are no longer used."""
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
    for node in reversed(graph.node):  # nodes are in topological order: users come after what they use
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
    # Comparisons with NaN are false, so NaN would pass as agreement.
    difference[np.isnan(difference)] = np.inf
    worst = int(difference.argmax())
    if not difference[worst] <= tolerance:
        raise PipelineError(
            f"{dataset.name}: the ONNX model and the estimator differ by {difference[worst]:.3g} in row {worst}, "
            f"{dataset.decode(rows[worst].tolist())}: {answer[worst].tolist()} against {expected[worst].tolist()}. "
            f"train.{dataset.name}.tolerance allows {tolerance:g}: raise it if that is good enough, or choose "
            "another candidate."
        )
    return OnnxCard(
        sha256=hashlib.sha256(content).hexdigest(),
        opset=OPSET,
        max_difference=float(difference[worst]),
        tolerance=tolerance,
    )
