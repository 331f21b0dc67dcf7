"""One tensor, as JSON values or as raw bytes.

Raw bytes are little-endian and row-major, without padding; an element of BYTES is a 4-byte unsigned length followed by
its bytes. HTTP's binary extension and gRPC's raw contents share this format:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contract.errors import InvalidInput, Reason, cut, shown
from contract.table import FloatMatrix

NUMBERS: dict[str, np.dtype[Any]] = {
    "FP64": np.dtype("<f8"),
    "FP32": np.dtype("<f4"),
    "INT64": np.dtype("<i8"),
    "INT32": np.dtype("<i4"),
    "INT16": np.dtype("<i2"),
    "INT8": np.dtype("i1"),
    "UINT64": np.dtype("<u8"),
    "UINT32": np.dtype("<u4"),
    "UINT16": np.dtype("<u2"),
    "UINT8": np.dtype("u1"),
}
"""The numeric datatypes that convert to a feature exactly, by their name in the protocol."""

BOOL = "BOOL"
BYTES = "BYTES"
LARGEST_EXACT_INTEGER = 2**53
"""Every integer up to here is exact as a double."""
MAXIMUM_DIMENSIONS = 8
"""Longer shapes are refused; a table has one or two dimensions."""


class Place(NamedTuple):
    """The feature and the row (counted from 0) of a tensor's element."""

    feature: str
    row: int

    def refusal(self, reason: Reason, what: str) -> InvalidInput:
        """The error for the element at this place."""
        return InvalidInput(f"{self.feature}, row {self.row}: {what}", refused={(self.feature, reason): 1})


class InputTensor(NamedTuple):
    """A tensor of a request.

    ``values`` are numbers, flags or texts, flat or nested as ``shape`` says, or their raw bytes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any] | bytes | memoryview


class OutputTensor(NamedTuple):
    """A tensor of an answer. The elements of BYTES are ``str`` objects in ``values``."""

    name: str
    datatype: str
    values: NDArray[Any]

    @property
    def shape(self) -> list[int]:
        """The dimensions."""
        return list(self.values.shape)

    def flat(self) -> list[Any]:
        """The elements, row-major."""
        elements: list[Any] = self.values.ravel().tolist()
        return elements

    def raw(self) -> bytes:
        """The elements as raw bytes."""
        if self.datatype != BYTES:
            return self.values.astype(NUMBERS[self.datatype], copy=False).tobytes()
        encoded = [element.encode() for element in self.flat()]
        return b"".join(len(element).to_bytes(4, "little") + element for element in encoded)


def checked_shape(name: str, shape: object) -> tuple[int, ...]:
    """The shape of a request's tensor.

    Raises:
        InvalidInput: it is not a list of whole numbers, 0 or more.
    """
    if (
        not isinstance(shape, list)
        or not 0 < len(shape) <= MAXIMUM_DIMENSIONS
        or not all(type(size) is int and size >= 0 for size in shape)
    ):
        raise InvalidInput(f"The input {cut(name)!r} needs a shape: a list of whole numbers, not {shown(shape)}.")
    return tuple(shape)


def check_size(name: str, count: int, shape: tuple[int, ...]) -> None:
    """Check how many elements the tensor of this name has.

    Raises:
        InvalidInput: its shape takes more or less.
    """
    if count != math.prod(shape):
        raise InvalidInput(
            f"The input {cut(name)!r} has {count} values; the shape {shown(list(shape))} takes "
            f"{shown(math.prod(shape))}."
        )


def numbers(tensor: InputTensor, place: Callable[[int], Place], *, optional: bool = False) -> FloatMatrix:
    """All elements of a tensor as doubles, row-major.

    Args:
        tensor: the tensor to read.
        place: gives the place of the element at an index, for error messages.
        optional: whether null stands for NaN in JSON, whatever the datatype.

    Raises:
        InvalidInput: the datatype is not in ``NUMBERS``, the elements do not fit the shape, or one is out of range.
    """
    dtype = NUMBERS.get(tensor.datatype)
    if dtype is None:
        raise InvalidInput(
            f"The input {cut(tensor.name)!r} is {cut(tensor.datatype)}; it must be FP64, FP32 or an integer datatype."
        )
    missing: list[int] = []
    if isinstance(tensor.values, bytes | memoryview):
        array = _from_raw(tensor, tensor.values, dtype)
    else:
        values = _flat(tensor, tensor.values)
        if optional and None in values:
            missing = [index for index, value in enumerate(values) if value is None]
            values = [0 if value is None else value for value in values]
        array = _from_values(tensor, values, dtype, place)
    if dtype.kind == "f":
        # A copy is aligned, whatever the offset of the raw bytes was.
        doubles = array.astype(np.float64)
    else:
        doubles = array.astype(np.float64)
        inexact = np.abs(doubles) > LARGEST_EXACT_INTEGER
        if inexact.any():
            index = int(inexact.argmax())
            raise place(index).refusal(Reason.OUT_OF_RANGE, f"{int(array[index])} is too large to be an exact FP64.")
    if missing:
        doubles[missing] = np.nan
    return doubles


def flags(tensor: InputTensor) -> Sequence[Any]:
    """The elements of a BOOL tensor: true, false, or whatever JSON has there.

    Raises:
        InvalidInput: the elements do not fit the shape.
    """
    if isinstance(tensor.values, bytes | memoryview):
        flat: Sequence[Any] = _from_raw(tensor, tensor.values, np.dtype(np.bool_)).tolist()
        return flat
    return _flat(tensor, tensor.values)


def texts(tensor: InputTensor, place: Callable[[int], Place]) -> list[Any]:
    """The elements of a BYTES tensor as text, or whatever JSON has there; None where it is empty.

    Args:
        tensor: the tensor to read.
        place: gives the place of the element at an index, for error messages.

    Raises:
        InvalidInput: the elements do not fit the shape, or one is not UTF-8.
    """
    elements: Sequence[Any]
    if isinstance(tensor.values, bytes | memoryview):
        elements = _split(tensor, bytes(tensor.values))
    else:
        elements = _flat(tensor, tensor.values)
    found: list[Any] = []
    for index, element in enumerate(elements):
        try:
            text = element.decode() if isinstance(element, bytes) else element
        except UnicodeDecodeError:
            raise place(index).refusal(Reason.WRONG_TYPE, f"{shown(element)} is not UTF-8.") from None
        found.append(None if text == "" else text)
    return found


def _split(tensor: InputTensor, raw: bytes) -> list[bytes]:
    """Raw BYTES: each element behind its length."""
    elements: list[bytes] = []
    position, count = 0, math.prod(tensor.shape)
    while position + 4 <= len(raw) and len(elements) < count:
        size = int.from_bytes(raw[position : position + 4], "little")
        position += 4 + size
        elements.append(raw[position - size : position])
    if position != len(raw) or len(elements) != count:
        raise InvalidInput(
            f"The {len(raw)} bytes of the input {cut(tensor.name)!r} are not {shown(count)} elements, each behind its "
            "length in 4 bytes."
        )
    return elements


def _from_raw(tensor: InputTensor, raw: bytes | memoryview, dtype: np.dtype[Any]) -> NDArray[Any]:
    needed = math.prod(tensor.shape) * dtype.itemsize
    if len(raw) != needed:
        raise InvalidInput(
            f"The input {cut(tensor.name)!r} has {len(raw)} bytes; {tensor.datatype} of shape "
            f"{shown(list(tensor.shape))} takes {shown(needed)}."
        )
    return np.frombuffer(raw, dtype)


def _flat(tensor: InputTensor, values: Sequence[Any]) -> Sequence[Any]:
    """The elements of a list that is flat, or nested as the shape says."""
    shape = tensor.shape
    if len(shape) == 2 and values and isinstance(values[0], list):
        rows, width = shape
        if len(values) != rows or set(map(type, values)) != {list} or set(map(len, values)) != {width}:
            raise InvalidInput(
                f"The data of the input {cut(tensor.name)!r} is not nested as its shape {shown(list(shape))} says."
            )
        return list(chain.from_iterable(values))
    check_size(tensor.name, len(values), shape)
    return values


def _from_values(
    tensor: InputTensor, values: Sequence[Any], dtype: np.dtype[Any], place: Callable[[int], Place]
) -> NDArray[Any]:
    allowed = {int, float} if dtype.kind == "f" else {int}
    # Compare types: isinstance takes bool for int, and numpy takes text for numbers.
    if not allowed.issuperset(map(type, values)):
        index = next(index for index, value in enumerate(values) if type(value) not in allowed)
        if values[index] is None:
            raise place(index).refusal(Reason.MISSING, "the value is missing (null).")
        kind = "number" if dtype.kind == "f" else f"{tensor.datatype} integer"
        raise place(index).refusal(Reason.NOT_A_NUMBER, f"{shown(values[index])} is not a valid {kind}.")
    try:
        if dtype.kind == "f":
            # A number too large for FP32 becomes infinite; the contract refuses it.
            with np.errstate(over="ignore"):
                return np.array(values, dtype=np.float64).astype(dtype, copy=False)
        return np.array(values, dtype=dtype)
    except OverflowError:
        limits = np.finfo(np.float64) if dtype.kind == "f" else np.iinfo(dtype)
        low, high = int(limits.min), int(limits.max)
        index = next(index for index, value in enumerate(values) if type(value) is int and not low <= value <= high)
        what = f"{shown(values[index])} is outside the range of {tensor.datatype}."
        raise place(index).refusal(Reason.OUT_OF_RANGE, what) from None
