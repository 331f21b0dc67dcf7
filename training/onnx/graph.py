"""The nodes and constants that one converter adds to an ONNX graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper


class Graph:
    """Adds nodes and constants for one scikit-learn step, on top of skl2onnx's scope and container.

    Args:
        scope, operator, container: skl2onnx's arguments of a converter.
    """

    def __init__(self, scope: Any, operator: Any, container: Any) -> None:
        self._scope = scope
        self._container = container
        self.estimator = operator.raw_operator
        self.input: str = operator.inputs[0].full_name
        self.outputs: list[str] = [output.full_name for output in operator.outputs]

    def node(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        result = output or self._scope.get_unique_variable_name(kind.lower())
        name = self._scope.get_unique_operator_name(kind)
        self._container.add_node(kind, list(inputs), [result], name=name, **attributes)
        return str(result)

    def constant(self, values: NDArray[np.float64] | NDArray[np.int64] | NDArray[np.bool_]) -> str:
        """Add a constant of the array's type and return its name."""
        name = self._scope.get_unique_variable_name("constant")
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        self._container.add_initializer(name, kind, list(values.shape), values.ravel().tolist())
        return str(name)
