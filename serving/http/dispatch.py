"""Which application a request goes to."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send


class Dispatch:
    """Straight to the applications that callers want to be fast, and with everything else to BentoML's.

    Args:
        paths: application by whole path.
        prefixes: application by prefix, a whole path or one up to a slash.
        rest: the application for everything else.
    """

    def __init__(self, paths: Mapping[str, ASGIApp], prefixes: Mapping[str, ASGIApp], rest: ASGIApp) -> None:
        self._paths = {**paths, **prefixes}
        self._prefixes = [(f"{prefix}/", app) for prefix, app in prefixes.items()]
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand one connection over."""
        await self._find(scope)(scope, receive, send)

    def _find(self, scope: Scope) -> ASGIApp:
        if scope["type"] != "http":
            return self._rest
        path: str = scope["path"]
        found = self._paths.get(path)
        if found is None:
            found = next((app for prefix, app in self._prefixes if path.startswith(prefix)), self._rest)
        return found
