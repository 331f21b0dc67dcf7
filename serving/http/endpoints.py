"""The endpoints of the HTTP server, each under one name however its path is written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serving.http.docs import STATIC
from serving.protocol.rest import PREFIX
from serving.telemetry import UNKNOWN


@dataclass(frozen=True)
class Endpoint:
    """What a request asks.

    ``route`` is its name in metrics and logs, ``model`` the model it is about ("" for none). ``traffic`` tells users'
    requests from those of probes, scrapes and pages, which are not counted.
    """

    route: str
    model: str = ""
    traffic: bool = True


class Endpoints:
    """Finds the endpoint of a path.

    Args:
        predictions: the model of each prediction route.
        models: the names of the models.
    """

    def __init__(self, predictions: Mapping[str, str], models: Iterable[str]) -> None:
        found = [Endpoint(route, model) for route, model in predictions.items()]
        found += [Endpoint("/models/info"), Endpoint(PREFIX), Endpoint(f"{PREFIX}/repository/index")]
        quiet = ["/livez", "/readyz", "/healthz", "/health", f"{PREFIX}/health/live", f"{PREFIX}/health/ready"]
        quiet += ["/metrics", "/metrics/prometheus", "/", "/docs", "/docs.json", "/schema.json", STATIC]
        found += [Endpoint(route, traffic=False) for route in quiet]
        for model in models:
            path = f"{PREFIX}/models/{model}"
            found += [Endpoint(path, model), Endpoint(f"{path}/infer", model)]
            found.append(Endpoint(f"{path}/ready", model, traffic=False))
        self._by_path = {endpoint.route: endpoint for endpoint in found}
        self.all = (*found, UNKNOWN_ENDPOINT)

    def find(self, path: str) -> Endpoint:
        """The endpoint of a path; all that are not served are one, and so are all versions of a model."""
        return self._by_path.get(path) or self._by_path.get(_folded(path), UNKNOWN_ENDPOINT)


UNKNOWN_ENDPOINT = Endpoint(UNKNOWN)


def _folded(path: str) -> str:
    if path.startswith(f"{STATIC}/"):
        return STATIC
    parts = path.split("/", 2)
    if len(parts) < 3 or f"/{parts[1]}" != PREFIX:
        return path
    # As the protocol's routes are read: slashes at the ends do not count.
    names = parts[2].strip("/").split("/")
    if len(names) > 3 and names[2] == "versions":
        del names[2:4]
    return "/".join([PREFIX, *names]).rstrip("/")
