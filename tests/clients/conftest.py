import os

import pytest
import requests

from tests.clients.forms import FORMS, Form, Outputs, expected


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what takes a ``form`` with each form of a request."""
    if "form" in metafunc.fixturenames:
        metafunc.parametrize("form", FORMS, ids=str)


@pytest.fixture(scope="session")
def api_url() -> str:
    return os.environ["API_URL"]


@pytest.fixture(scope="session")
def grpc_address() -> str:
    return os.environ["GRPC_ADDRESS"]


@pytest.fixture(scope="session")
def answers(api_url: str) -> dict[Form, Outputs]:
    """The outputs for each form's rows, as ``/predict/{model}/batch`` has them."""
    with requests.Session() as session:
        return {form: expected(session, api_url, form) for form in FORMS}
