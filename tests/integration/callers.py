"""Callers who never stop asking, and count: every request that was begun has its right answer, or it failed."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import grpc
import httpx
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS

Ask = Callable[[], str]
"""Asks once; returns ``ok`` or what went wrong."""


@dataclass
class Callers:
    """Threads that ask one address over HTTP and one over gRPC, without a retry of any kind.

    ``answers`` counts, by kind, what became of each request: ``ok``, or why not. There is nothing else.
    """

    http_address: str
    grpc_address: str
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def failures(self) -> dict[tuple[str, str], int]:
        return {(kind, answer): count for (kind, answer), count in self.answers.items() if answer != "ok"}

    def answered(self, kind: str) -> int:
        return self.answers[kind, "ok"]

    @contextmanager
    def asking(self, until: threading.Event | None = None, pause: float = 0.01) -> Iterator[None]:
        """Ask until the block ends or the event is set; a thread that breaks is raised at the end."""
        over = until or threading.Event()
        with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
            asks = {"row": self.rows(stack), "batch": self.batches(stack), "call": self.calls(stack)}
            threads: list[Future[None]] = [pool.submit(self._ask, kind, ask, over, pause) for kind, ask in asks.items()]
            try:
                yield
            finally:
                over.set()
                for thread in threads:
                    thread.result()

    def _ask(self, kind: str, ask: Ask, over: threading.Event, pause: float) -> None:
        while not over.wait(pause):
            self.answers[kind, ask()] += 1

    def rows(self, stack: ExitStack) -> Ask:
        """One row a request, over connections that are kept."""
        return self._post(stack, f"/predict/{IRIS.name}", IRIS.example)

    def batches(self, stack: ExitStack) -> Ask:
        """A thousand rows a request: some are always on their way."""
        return self._post(stack, f"/predict/{HOUSING.name}/batch", {"rows": [HOUSING.example] * 1000})

    def _post(self, stack: ExitStack, path: str, body: object) -> Ask:
        client = stack.enter_context(httpx.Client(base_url=f"http://{self.http_address}", timeout=60))

        def ask() -> str:
            try:
                answer = client.post(path, json=body)
            except httpx.TransportError as error:
                return f"{type(error).__name__}: {error}"
            return "ok" if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"

        return ask

    def calls(self, stack: ExitStack) -> Ask:
        """One row a call, over one channel."""
        # A connection of its own: channels of one process would share one.
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        channel = stack.enter_context(grpc.insecure_channel(self.grpc_address, options))
        stub = GRPCInferenceServiceStub(channel)
        request = pb.ModelInferRequest(model_name=IRIS.name)
        row = [float(IRIS.example[name]) for name in IRIS.feature_names]
        request.inputs.add(name="input", datatype="FP64", shape=[1, len(row)]).contents.fp64_contents.extend(row)

        def ask() -> str:
            try:
                stub.ModelInfer(request, timeout=60)
            except grpc.RpcError as error:
                return f"{error.code()}: {error.details()}"
            return "ok"

        return ask
