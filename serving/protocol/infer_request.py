"""What both transports read from an inference request."""

from collections.abc import Collection
from typing import NamedTuple

from contract.errors import InvalidInput
from serving.protocol.tensors import InputTensor

UNSUPPORTED = {
    "classification": "part of Triton's classification extension; ask for the outputs label or probabilities",
    "shared_memory_region": "part of Triton's shared memory extension; send the data",
}
"""Parameters that would change what is read or answered: refused, never ignored."""


MAXIMUM_OUTPUTS = 100
"""Most outputs that are looked at; a model has three at most."""


def check_counts(inputs: int, outputs: int, features: int) -> None:
    """Refuse more tensors than a request can have, before each is looked at.

    Raises:
        InvalidInput: tells how many there are.
    """
    if inputs > 2 * features:  # up to here, the one too many is named
        raise InvalidInput(f"There are {inputs} inputs; send one of all features, or one for each of {features}.")
    if outputs > MAXIMUM_OUTPUTS:
        raise InvalidInput(f"{outputs} outputs are asked for, at most {MAXIMUM_OUTPUTS} may be.")


class InferRequest(NamedTuple):
    """One inference request.

    ``outputs`` are the names of the outputs asked for; empty means all. ``binary`` says for each output whether it is
    wanted as raw bytes; its key None holds the default.
    """

    id: str | None
    inputs: list[InputTensor]
    outputs: list[str]
    binary: dict[str | None, bool]

    def wants_binary(self, output: str) -> bool:
        """Whether this output is wanted as raw bytes."""
        return self.binary.get(output, self.binary[None])


def check_parameters(parameters: Collection[str], whose: str) -> None:
    """Refuse parameters of extensions that we do not support.

    Raises:
        InvalidInput: names the parameter and what to do instead.
    """
    if not parameters:  # nearly always: it saves a look-up of each name
        return
    for name, hint in UNSUPPORTED.items():
        if name in parameters:
            raise InvalidInput(f"{name}, in the parameters of {whose}, is {hint}.")
