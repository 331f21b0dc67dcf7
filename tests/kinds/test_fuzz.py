"""Random requests about tables with every kind of feature."""

from contextlib import closing

import pytest

from load_tests.fuzz import Target, fuzz
from serving.http.app import BENTOML_ROUTES
from tests.kinds.datasets import KINDS
from tests.serving.worker import LocalWorker


@pytest.mark.integration
@pytest.mark.weekly
def test_random_requests_about_every_kind_do_no_harm(worker: LocalWorker) -> None:
    with closing(Target(worker.url, worker.target, tuple(KINDS.values()))) as target:
        target.described.leave_out(BENTOML_ROUTES)  # Nothing is behind our application here.
        fuzz(target, 2000, first=2)
    assert target.answers["HTTP 200"]
    assert target.answers["gRPC OK"]
    assert target.answers["described 200"]
