"""Random requests as the OpenAPI document describes them, by schemathesis: it and the service must say the same.

Half of the requests hold the document and half break it. What breaks it must be refused; the status, the headers and
the body of each answer must be described. What holds it must be accepted by the prediction routes; elsewhere that
depends on more than a schema can say, such as what is on record, or whether the numbers of a tensor fill its shape.
"""

from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import requests
import schemathesis
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from contract.dataset import Dataset
from contract.feature import Kind
from load_tests.errors import LoadTestError

_DATES = {Kind.DATE, Kind.DATETIME}
"""JSON Schema has no earliest and no latest date."""
TOO_LARGE, LONG_TARGET = 431, 30_000
_ALWAYS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


class Described:
    """The requests that an OpenAPI document describes.

    Args:
        url: of the service.
        timeout: seconds after which a request hangs.
        datasets: whose models it serves.
    """

    def __init__(self, url: str, timeout: float, datasets: Collection[Dataset]) -> None:
        self._url, self._timeout = url, timeout
        exact = [one for one in datasets if not _DATES & {feature.kind for feature in one.features}]
        self._exact = {f"/predict/{dataset.name}{end}" for dataset in exact for end in ("", "/batch")}
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy
        document = self._session.get(f"{url}/docs.json", timeout=timeout).json()
        schema: Any = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=url)
        self._operations = [found.ok() for found in schema.get_all_operations()]

    def leave_out(self, paths: Collection[str]) -> None:
        """Send nothing to these routes."""
        self._operations = [operation for operation in self._operations if operation.path not in paths]

    def cases(self) -> SearchStrategy[Case[Any]]:
        """Requests of all operations, good and bad ones."""
        good = [operation.as_strategy(GenerationMode.POSITIVE) for operation in self._operations]
        # Nothing can be wrong with a request that has neither parameters nor a body.
        taking = [one for one in self._operations if one.body or one.query or one.path_parameters]
        bad = [operation.as_strategy(GenerationMode.NEGATIVE) for operation in taking]
        return st.one_of(st.one_of(good), st.one_of(bad))

    def send(self, case: Case[Any]) -> int:
        """Send a request and return the status of its answer.

        Raises:
            LoadTestError: there was none, or not one that the document describes.
        """
        try:
            answer = case.call(base_url=self._url, session=self._session, timeout=self._timeout)
        except requests.RequestException as error:
            raise LoadTestError(f"{case.as_curl_command()} got no answer: {error!r}.") from error
        target = str(answer.request.url)
        if answer.status_code == TOO_LARGE and len(target) > LONG_TARGET:
            return TOO_LARGE  # By the protocol class, which does so whatever the path is.
        checks = list(_ALWAYS)
        # A parameter without a value is as if it were not there.
        query = parse_qsl(urlsplit(target).query, keep_blank_values=True)
        if all(value for _, value in query):
            checks.append(negative_data_rejection)
        if case.operation.path in self._exact:
            checks.append(positive_data_acceptance)
        try:
            case.validate_response(answer, checks=checks)
        except FailureGroup as group:
            reasons = "; ".join(f"{failure.title}: {failure.message}" for failure in group.exceptions)
            raise LoadTestError(
                f"{case.as_curl_command()}\nwas answered with {answer.status_code}: {reasons}"
            ) from None
        return int(answer.status_code)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()
