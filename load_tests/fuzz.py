"""Random requests against a real service: it answers each, with an error where one is due, and stays right.

Flat JSON, the Open Inference Protocol in JSON and with raw bytes, gRPC, and every route as the OpenAPI document has it.
Most requests are nearly right: what is quite wrong is refused at the door. ``make fuzz`` sends 100,000; ``--requests``
and ``--seed`` choose others.
"""

import argparse
import itertools
import json
import math
import struct
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import grpc
import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from open_inference.grpc import protocol as pb
from schemathesis import Case

from contract import DATASETS
from contract.dataset import Dataset
from load_tests.described import Described
from load_tests.errors import LoadTestError
from load_tests.grpc_protocol import METHOD
from local_service import free_port, running_service

REQUESTS = 100_000
SAY_EVERY = 5_000
TIMEOUT_SECONDS = 20.0
"""A request that takes longer hangs."""
ALLOWED = {200, 400, 404, 413, 415, 429}
ALLOWED_CODES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
DATATYPES = ["FP64", "FP32", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8", "BYTES", "BOOL"]

RAW: dict[str, Callable[[Any], bytes]] = {
    "FP64": lambda value: struct.pack("<d", value),
    "BOOL": lambda value: struct.pack("?", value),
    "BYTES": lambda value: struct.pack("<I", len(value.encode())) + value.encode(),
}
"""A value of each datatype, as the protocol's binary extension has it."""
Datasets = Sequence[Dataset]

REGISTERED: Datasets = tuple(DATASETS.values())

numbers = st.one_of(st.floats(), st.integers(), st.integers(-(2**70), 2**70), st.floats(-130, 200))
scalars = st.one_of(numbers, st.none(), st.booleans(), st.text(max_size=20))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


@dataclass(frozen=True)
class Request:
    """One request. ``path`` is None for gRPC."""

    path: str | None
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@st.composite
def rows(draw: st.DrawFn, dataset: Dataset) -> dict[str, Any]:
    """A row, often a good one."""
    row: dict[str, Any] = dict(dataset.example)
    of_others = st.sampled_from([*dataset.example.values()])
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(dataset.feature_names) | st.text(max_size=8))
        row[name] = draw(values | of_others)
    for name in draw(st.lists(st.sampled_from(dataset.feature_names), max_size=1)):
        row.pop(name, None)
    return row


@st.composite
def texts(draw: st.DrawFn, body: object) -> bytes:
    """A body as JSON, at times with some bytes cut, doubled or written over."""
    text = json.dumps(body).encode()
    return text if draw(st.integers(0, 3)) else draw(damaged(text))


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with a part replaced by others."""
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, min(start + 20, len(content))))
    return content[:start] + draw(st.binary(max_size=8) | st.just(content[start:end] * 2)) + content[end:]


@st.composite
def flat(draw: st.DrawFn, datasets: Datasets) -> Request:
    """A request of a prediction route."""
    dataset = draw(st.sampled_from(datasets))
    headers = {"Content-Type": draw(st.sampled_from(["application/json"] * 9 + ["text/plain"]))}
    if draw(st.booleans()):
        body = draw(st.one_of(rows(dataset), rows(dataset), values))
        return Request(f"/predict/{dataset.name}", draw(texts(body)), headers)
    many = st.lists(rows(dataset), max_size=4).map(lambda some: {"rows": some})
    body = draw(st.one_of(many, many, st.fixed_dictionaries({"rows": values}), values))
    return Request(f"/predict/{dataset.name}/batch", draw(texts(body)), headers)


class Part(NamedTuple):
    """A good tensor."""

    name: str
    datatype: str
    shape: list[int]
    values: list[Any]

    @property
    def raw(self) -> bytes:
        """Its values, as the protocol's binary extension has them."""
        return b"".join(map(RAW[self.datatype], self.values))


def parts(dataset: Dataset, count: int, *, matrix: bool) -> list[Part]:
    """The examples of so many rows: one matrix if asked for and all features are numbers, or a tensor a feature."""
    if matrix and dataset.all_numeric:
        example = [*dataset.example.values()]
        return [Part("x", "FP64", [count, len(example)], example * count)]
    return [Part(name, _datatype(value), [count, 1], [value] * count) for name, value in dataset.example.items()]


@st.composite
def tensors(draw: st.DrawFn, dataset: Dataset) -> list[dict[str, Any]]:
    """The inputs of a request, often good ones."""
    good = parts(dataset, draw(st.integers(0, 3)), matrix=draw(st.booleans()))
    inputs = [{"name": one.name, "datatype": one.datatype, "shape": one.shape, "data": one.values} for one in good]
    for _ in range(draw(st.integers(0, 2))):
        key = draw(st.sampled_from(["name", "datatype", "shape", "data", "parameters"]))
        better = {
            "datatype": st.sampled_from(DATATYPES),
            "shape": st.lists(st.integers(-1, 2**63 - 1) | st.integers(0, 4), max_size=9),
            "data": st.lists(numbers, max_size=12) | st.lists(st.lists(numbers, max_size=4), max_size=3),
        }.get(key, values)
        draw(st.sampled_from(inputs))[key] = draw(better | values)
    return inputs


@st.composite
def protocol(draw: st.DrawFn, datasets: Datasets) -> Request:
    """A request of the Open Inference Protocol in JSON."""
    dataset = draw(st.sampled_from(datasets))
    body: dict[str, Any] = {"inputs": draw(tensors(dataset))}
    for key in draw(st.lists(st.sampled_from(["id", "parameters", "outputs", "inputs", "other"]), max_size=1)):
        outputs = st.lists(st.fixed_dictionaries({"name": st.sampled_from(["predict", "label", "probabilities", ""])}))
        body[key] = draw(outputs if key == "outputs" else values)
    version = draw(st.sampled_from([""] * 9 + ["/versions/none"]))
    return Request(f"/v2/models/{dataset.name}{version}/infer", draw(texts(body)))


@st.composite
def binary(draw: st.DrawFn, datasets: Datasets) -> Request:
    """A request of the Open Inference Protocol with raw bytes."""
    dataset = draw(st.sampled_from(datasets))
    inputs, raw = [], b""
    good = parts(dataset, draw(st.integers(0, 3)), matrix=True)
    spoiled = draw(st.integers(0, 2 * len(good)))
    for number, one in enumerate(good):
        size, datatype = len(one.raw), one.datatype
        if number == spoiled:
            size = draw(st.sampled_from([size, size, 0, size - 1, size + 1, 2**70]))
            datatype = draw(st.sampled_from([datatype] * 5 + DATATYPES))
        tensor = {"name": one.name, "datatype": datatype, "shape": one.shape, "parameters": {"binary_data_size": size}}
        inputs.append(tensor)
        raw += one.raw
    head = draw(texts({"inputs": inputs, "parameters": {"binary_data_output": draw(st.booleans())}}))
    raw = draw(st.just(raw) | damaged(raw))
    length = draw(st.sampled_from([len(head)] * 5 + [0, len(head) - 1, len(head) + len(raw), 10**9]))
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(length)}
    return Request(f"/v2/models/{dataset.name}/infer", head + raw, headers)


@st.composite
def messages(draw: st.DrawFn, datasets: Datasets) -> Request:
    """A message of gRPC."""
    dataset = draw(st.sampled_from(datasets))
    message = pb.ModelInferRequest(
        model_name=draw(st.sampled_from([dataset.name] * 9 + [""])), id=draw(st.text(max_size=8))
    )
    raw = draw(st.booleans())
    good = parts(dataset, draw(st.integers(0, 3)), matrix=draw(st.booleans()))
    spoiled = draw(st.integers(0, 2 * len(good)))
    for number, one in enumerate(good):
        tensor = message.inputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
        content, field = one.raw, tensor.contents
        if number == spoiled:
            tensor.datatype = draw(st.sampled_from([one.datatype] * 5 + DATATYPES))
            tensor.shape[:] = draw(st.just(one.shape) | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9))
            content = draw(st.just(content) | st.binary(max_size=64))
            field.fp64_contents.extend(draw(st.just([]) | st.lists(st.floats(), max_size=12)))
        if raw:
            message.raw_input_contents.append(content)
        elif one.datatype == "BYTES":
            field.bytes_contents.extend(text.encode() for text in one.values)
        elif one.datatype == "BOOL":
            field.bool_contents.extend(one.values)
        else:
            field.fp64_contents.extend(one.values)
    for name in draw(st.lists(st.sampled_from(["predict", "label", "probabilities", "none"]), max_size=3)):
        message.outputs.add(name=name)
    content = message.SerializeToString()
    return Request(None, content if draw(st.integers(0, 3)) else draw(damaged(content)))


KINDS: dict[str, Callable[[Datasets], SearchStrategy[Request]]] = {
    "flat JSON": flat,
    "protocol in JSON": protocol,
    "protocol with raw bytes": binary,
    "gRPC": messages,
}


def _datatype(value: Any) -> str:
    """Of a tensor with such values, as JSON has them."""
    return "BOOL" if isinstance(value, bool) else "BYTES" if isinstance(value, str) else "FP64"


class Target:
    """A service that is fuzzed, and what it has answered.

    Args:
        url, grpc_target: where it is.
        datasets: whose models it serves.
    """

    def __init__(self, url: str, grpc_target: str, datasets: Datasets = REGISTERED) -> None:
        self.answers: Counter[str] = Counter()
        self.datasets = datasets
        self.described = Described(url, TIMEOUT_SECONDS, datasets)
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS)
        self._channel = grpc.insecure_channel(grpc_target)
        self._infer: Any = self._channel.unary_unary(METHOD)

    def send(self, request: Request) -> None:
        """Send a request, and check that the answer is one that is due.

        Raises:
            LoadTestError: it is none, or there is none.
        """
        if request.path is None:
            self._call(request)
            return
        try:
            answer = self._client.post(request.path, content=request.content, headers=dict(request.headers))
        except httpx.HTTPError as error:
            raise LoadTestError(f"{request} got no answer: {error!r}.") from error
        self.answers[f"HTTP {answer.status_code}"] += 1
        if answer.status_code not in ALLOWED:
            raise LoadTestError(f"{request} was answered with {answer.status_code}: {answer.text[:300]}")
        if answer.status_code != 200 and not answer.json()["error"]:
            raise LoadTestError(f"{request} was refused without a reason.")

    def known_answers(self) -> dict[str, Any]:
        """What the models answer to the example of each dataset."""
        found = {}
        for dataset in self.datasets:
            answer = self._client.post(f"/predict/{dataset.name}", json=dataset.example).raise_for_status().json()
            found[dataset.name] = {key: value for key, value in answer.items() if key != "prediction_id"}
        return found

    def close(self) -> None:
        """Close the connections."""
        self.described.close()
        self._client.close()
        self._channel.close()

    def _call(self, request: Request) -> None:
        code = "OK"
        try:
            self._infer(request.content, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            code = error.code().name
            if code not in ALLOWED_CODES:
                raise LoadTestError(f"{request} was answered with {code}: {error.details()}") from error
        self.answers[f"gRPC {code}"] += 1


def fuzz(target: Target, requests: int, first: int, say: Callable[[str], object] = str) -> None:
    """Send so many requests of all kinds.

    Args:
        target: the service.
        requests: how many.
        first: the seed; the same one gives the same requests.
        say: is told how far it is, every few thousand requests.

    Raises:
        LoadTestError: an answer was not one that is due, or the models answer differently afterwards.
    """
    before, sent = target.known_answers(), itertools.count(1)

    def count() -> None:
        if (number := next(sent)) % SAY_EVERY == 0:
            say(f"{number:,} of {requests:,} requests: no fault")

    share = settings(
        max_examples=math.ceil(requests / (len(KINDS) + 1)),
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[*HealthCheck],
    )

    @seed(first)
    @share
    @given(target.described.cases())
    def send_described(case: Case[Any]) -> None:
        target.answers[f"described {target.described.send(case)}"] += 1
        count()

    send_described()
    for number, kind in enumerate(KINDS.values(), 1):

        @seed(first + number)
        @share
        @given(kind(target.datasets))
        def send(request: Request) -> None:
            target.send(request)
            count()

        send()
    after = target.known_answers()
    if after != before:
        raise LoadTestError(f"The models answered {before} before, and {after} now.")


def main() -> None:
    """Fuzz a service of its own."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=REQUESTS, help="how many requests (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the requests (default: %(default)s)")
    arguments = parser.parse_args()
    port = free_port()
    with running_service(environment={"GRPC_PORT": str(port)}) as url:
        target = Target(url, f"127.0.0.1:{port}")
        try:
            fuzz(target, arguments.requests, arguments.seed, partial(print, flush=True))
        except LoadTestError as error:
            sys.exit(str(error))
        finally:
            target.close()
    for answer, count in sorted(target.answers.items()):
        print(f"{count:>8} {answer}")  # noqa: T201 - the report


if __name__ == "__main__":
    main()
