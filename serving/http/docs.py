"""The OpenAPI document, the page that shows it, and the files which that page loads. Nothing comes from elsewhere.

The files are those of swagger-ui, from the package fastapi-swagger. BentoML has older ones, but no longer serves them
with its feature ``new_index``. The package's code is not used, and so neither is FastAPI.
"""

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from serving.http import pages
from serving.http.app import HttpRequest, HttpResponse, Route, json_response, quiet_route
from serving.http.examples import with_examples
from serving.http.pages import STATIC
from serving.http.security import NO_SNIFF, page_headers
from serving.protocol.inference import Inference

PATH = "/docs"
DOCUMENT_PATHS = ("/docs.json", "/openapi.json")
_PACKAGE = metadata.distribution("fastapi-swagger")
_VERSION = _PACKAGE.version
FILES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
"""Media type of each file of the package."""
FILE_HEADERS = {**NO_SNIFF, "cache-control": "public, max-age=31536000, immutable"}
"""Browsers may cache the files for good: the page asks for the files of its version."""

# Every address is relative: a proxy may serve the page under a path of its own.
PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ML prediction bundle: API</title>
<link rel="stylesheet" href=".{STATIC}/swagger-ui.css?v={_VERSION}">
<link rel="stylesheet" href=".{STATIC}/docs.css">
<link rel="icon" href=".{STATIC}/favicon-32x32.png?v={_VERSION}">
</head>
<body>
{pages.header("API", pages.links(without=f".{PATH}", more={"./openapi.json": "JSON"}))}
<div id="swagger-ui"></div>
<script src=".{STATIC}/swagger-ui-bundle.js?v={_VERSION}"></script>
<script src=".{STATIC}/docs.js"></script>
</body>
</html>
"""
# swagger-ui has styles in its elements, and its icons in the style sheet.
PAGE_HEADERS = page_headers(styles="'self' 'unsafe-inline'", images="'self' data:")


class DocsApp:
    """Answers the requests of the page, of its files and of the document.

    Args:
        document: makes the document of the routes.
        inference: the models, of which the document has examples.
        outside: whether outsiders read the document.
    """

    def __init__(self, document: Callable[[], dict[str, Any]], inference: Inference, *, outside: bool = False) -> None:
        self._document = document
        self._outside = outside
        self._inference = inference
        self._built: tuple[list[str], HttpResponse] | None = None

    @property
    def routes(self) -> list[Route]:
        """The routes."""
        return [
            quiet_route(PATH, self.page, page=True),
            *(quiet_route(path, self.document) for path in DOCUMENT_PATHS),
            *(pages.file_route(name, read_file(name), FILES[name], FILE_HEADERS) for name in FILES),
        ]

    async def page(self, _: HttpRequest) -> HttpResponse:
        """The page."""
        return pages.html_response(PAGE, headers=PAGE_HEADERS)

    async def document(self, _: HttpRequest) -> HttpResponse:
        """The document, built once for what is served."""
        served = [predictor.version for predictor in self._inference.bundle.predictors.values()]
        if self._built is None or self._built[0] != served:
            self._built = served, json_response(with_examples(self._document(), self._inference, outside=self._outside))
        return self._built[1]


def read_file(name: str) -> bytes:
    """The content of one of the ``FILES``."""
    return Path(str(_PACKAGE.locate_file(f"fastapi_swagger/resources/{name}"))).read_bytes()
