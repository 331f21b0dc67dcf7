"""``POST /models/reload`` and ``POST /models/rollback``: what the workers of this server serve."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from contract import DATASETS
from contract.errors import cut
from serving.access import Access
from serving.errors import NotFound, UnsupportedMediaType
from serving.http.app import JSON, HttpRequest, HttpResponse, Route, json_response
from serving.http.body import media_type, parse_json, read_body
from serving.http.errors import checked
from serving.reload import Reloader, Status
from serving.settings import Settings
from serving.telemetry.call import Endpoint, http_counter

RELOAD, ROLLBACK = "/models/reload", "/models/rollback"
_MAXIMUM_BODY = 1024


class RollbackRequest(BaseModel):
    """Which model goes back."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str = Field(description="Name of the model.", examples=list(DATASETS)[:1])


class ServedVersions(BaseModel):
    """What all workers serve now."""

    models: dict[str, str] = Field(
        description="Version of each model.", examples=[dict.fromkeys(DATASETS, "sha-3f9a0c1b2d4e")]
    )
    workers: dict[str, dict[str, str]] = Field(
        description="The same by worker; workers are named by process id.",
        examples=[{"4711": dict.fromkeys(DATASETS, "sha-3f9a0c1b2d4e")}],
    )


class ModelsApp:
    """Answers the requests of the routes.

    Args:
        reloader: of this worker.
        settings: the limits of time.
    """

    def __init__(self, reloader: Reloader, settings: Settings) -> None:
        self._reloader = reloader
        self._seconds = settings.TIMEOUT_SECONDS

    @property
    def routes(self) -> list[Route]:
        """The routes."""
        return [
            Route(Endpoint(path, "http", counter=http_counter(path)), handler, "POST", access=Access.ADMIN)
            for path, handler in ((RELOAD, self.reload), (ROLLBACK, self.roll_back))
        ]

    async def reload(self, _: HttpRequest) -> HttpResponse:
        """Have all workers serve what is deployed."""
        return json_response(_answer(await self._reloader.everywhere()))

    async def roll_back(self, request: HttpRequest) -> HttpResponse:
        """Deploy what was deployed before."""
        kind = media_type(request.scope) or JSON
        if kind != JSON:
            raise UnsupportedMediaType(f"The body must be {JSON}, not {cut(kind)}.")
        body = await read_body(request.scope, request.receive, _MAXIMUM_BODY, self._seconds)
        name = checked(RollbackRequest, parse_json(body)).model
        if name not in DATASETS:
            raise NotFound(f"model: there is no model {cut(name)!r}; there are {', '.join(DATASETS)}.")
        return json_response(_answer(await self._reloader.roll_back(name)))


def _answer(workers: dict[int, Status]) -> dict[str, Any]:
    by_worker = {str(pid): status.versions for pid, status in workers.items()}
    return {"models": next(iter(by_worker.values()), {}), "workers": by_worker}
