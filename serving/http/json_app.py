"""An ASGI application that answers a request with JSON, with no more in the way than it needs.

Starlette's middlewares, routes and response classes take a quarter of a small prediction's time.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from contract.errors import BundleError
from serving.errors import ERROR, INTERNAL_ERROR, error_headers
from serving.http.body import CLIENT_CLOSED_REQUEST

JSON = "application/json"


class Answer(NamedTuple):
    """What a request is answered with, and the headers beside type and length."""

    content: bytes
    media_type: str = JSON
    headers: Mapping[str, str] = MappingProxyType({})


class JsonApp(ABC):
    """Its subclasses say what is answered, and in which form an error is."""

    @abstractmethod
    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """The answer to one request, with status 200.

        Raises:
            BundleError: the request is refused, with the error's status.
            ClientDisconnect: nobody waits for an answer any more.
        """

    @abstractmethod
    def error_body(self, error: BundleError) -> Any:
        """What a client is told of an error, as plain data."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; who counts and logs finds an error in the scope."""
        status = 200
        try:
            content, media_type, headers = await self.answer(scope, receive)
        except BundleError as error:
            scope[ERROR] = error
            status = error.status
            content, media_type, headers = to_json(self.error_body(error)), JSON, error_headers(error)
        except ClientDisconnect:
            # Nobody is there to read it; metrics count it.
            status, content, media_type, headers = CLIENT_CLOSED_REQUEST, b"", JSON, {}
        except Exception as error:  # noqa: BLE001 - our bug: logged with its stack, answered in the usual form
            scope[ERROR] = error
            status = BundleError.status
            content, media_type, headers = to_json(self.error_body(BundleError(INTERNAL_ERROR))), JSON, {}
        raw = [(b"content-type", media_type.encode()), (b"content-length", b"%d" % len(content))]
        raw += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": content})
