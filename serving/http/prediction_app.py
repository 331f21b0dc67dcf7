"""A prediction route: body to validated input to the answer of the API method."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope

from contract.dataset import Rows
from contract.errors import BundleError, UnsupportedMediaType
from serving.errors import error_body, refusal, sentence
from serving.http.body import check_method, media_type, read_body
from serving.http.json_app import JSON, Answer, JsonApp
from serving.settings import Settings

MAXIMUM_ROW_BYTES = 64 * 1024
"""Largest body of a single row: pydantic lists every unknown field, so that a large one would be costly to refuse."""


class PredictionApp(JsonApp):
    """One route.

    Args:
        name: of the API method.
        input_spec: what the method takes.
        calls: the API methods by name, bound to the worker's instance once it has started.
        settings: have the limits of size and time.
    """

    def __init__(
        self,
        name: str,
        input_spec: type[BaseModel],
        calls: Mapping[str, Callable[[Any], Awaitable[BaseModel]]],
        settings: Settings,
    ) -> None:
        self._name = name
        self._input = input_spec
        self._calls = calls
        single = not issubclass(input_spec, Rows)
        self._limit = min(settings.MAX_BODY_BYTES, MAXIMUM_ROW_BYTES) if single else settings.MAX_BODY_BYTES
        self._seconds = settings.TIMEOUT_SECONDS

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """The method's answer."""
        check_method(scope, "POST")
        kind = media_type(scope) or JSON
        if kind != JSON:
            raise UnsupportedMediaType(f"The body must be {JSON}, not {kind[:60]}.")
        body = await read_body(scope, receive, self._limit, self._seconds)
        try:
            # An empty body is an empty object: the error then names the first missing field.
            value = self._input.model_validate_json(body or b"{}")
        except ValidationError as error:
            raise refusal(error) from None
        answer = await self._calls[self._name](value)
        return Answer(answer.model_dump_json().encode())

    def error_body(self, error: BundleError) -> dict[str, Any]:
        """One sentence, and a detail for each reason."""
        return error_body(sentence(error), error.detail)
