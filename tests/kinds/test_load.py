"""The load tests' requests over kinds: good rows are answered, and bad ones refused by the name of the feature."""

import grpc
import httpx
import numpy as np
import pytest
from open_inference.grpc.service import GRPCInferenceServiceStub
from pydantic import ValidationError

from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from load_tests.answers import Asked
from load_tests.grpc_protocol import check_response, infer_request
from load_tests.http_protocols import Batch, HttpAnswer, HttpProtocol, InferBinary, InferJson, SingleRow
from load_tests.traffic import Traffic
from tests.kinds import models
from tests.kinds.datasets import KINDS
from tests.serving.worker import LocalWorker
from training import deployment_validation

PROTOCOLS = [SingleRow(), Batch(), InferJson(), InferBinary()]
EVERY = pytest.mark.parametrize("dataset", KINDS.values(), ids=lambda dataset: dataset.name)


def traffic(dataset: Dataset) -> Traffic:
    rows = models.matrix(dataset, models.rows(dataset, 50))
    return Traffic(dataset, rows, np.zeros(len(rows)))


@EVERY
@pytest.mark.parametrize(
    "protocol", [SingleRow(), Batch(), InferJson(), InferBinary()], ids=lambda one: type(one).__name__
)
def test_over_http(client: httpx.Client, dataset: Dataset, protocol: HttpProtocol) -> None:
    source = traffic(dataset)

    def check(asked: Asked, rows: np.ndarray) -> None:
        request = protocol.request(dataset, rows)
        answer = client.post(request.path, content=request.body, headers=dict(request.headers))
        protocol.check(asked, HttpAnswer(answer.status_code, answer.headers, answer.content))

    count = 1 if isinstance(protocol, SingleRow) else 5
    check(Asked(dataset, count, None), source.rows(count))
    for _ in range(20):
        bad = source.bad_rows(count)
        check(Asked(dataset, count, bad.feature), bad.rows)


@EVERY
def test_over_grpc(worker: LocalWorker, dataset: Dataset) -> None:
    with grpc.insecure_channel(worker.target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        check_response(5, stub.ModelInfer(infer_request(dataset, traffic(dataset).rows(5))))
        bad = traffic(dataset).bad_rows(5)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(infer_request(dataset, bad.rows))
    assert bad.feature in str(refused.value.details())


@pytest.mark.parametrize("dataset", [*KINDS.values(), HOUSING], ids=lambda dataset: dataset.name)
def test_the_validation_of_a_deployment_has_bad_rows_that_no_row_of_the_contract_is(dataset: Dataset) -> None:
    bad = deployment_validation.bad_rows(dataset)
    assert {"unknown field", "missing field", "NaN", "out of range"} <= {what for what, _, _ in bad}
    for _, field, body in bad:
        with pytest.raises(ValidationError) as refused:
            dataset.row.model_validate(body)
        assert [problem["loc"] for problem in refused.value.errors()] == [(field,)]
