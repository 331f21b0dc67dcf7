"""The page that shows the OpenAPI document, and the files it loads. Nothing comes from elsewhere.

The files are those of swagger-ui, from the package fastapi-swagger. BentoML has older ones, but no longer serves them
with its feature ``new_index``. The package's code is not used, and so neither is FastAPI.
"""

import base64
import hashlib
from importlib import metadata
from pathlib import Path

from serving.http.security import NO_SNIFF, page_headers

_PACKAGE = metadata.distribution("fastapi-swagger")
_VERSION = _PACKAGE.version
STATIC = "/static_content"
"""Path of the files."""
FILES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
"""Media type of each file."""
FILE_HEADERS = {**NO_SNIFF, "cache-control": "public, max-age=31536000, immutable"}
"""Browsers may cache the files for good: the page asks for the files of its version."""

# Every address is relative: a proxy may serve the page under a path of its own.
_SCRIPT = """
SwaggerUIBundle({url: "./docs.json", dom_id: "#swagger-ui", deepLinking: true, tryItOutEnabled: true});
"""
PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ML prediction bundle: API</title>
<link rel="stylesheet" href=".{STATIC}/swagger-ui.css?v={_VERSION}">
<link rel="icon" href=".{STATIC}/favicon-32x32.png?v={_VERSION}">
</head>
<body>
<div id="swagger-ui"></div>
<script src=".{STATIC}/swagger-ui-bundle.js?v={_VERSION}"></script>
<script>{_SCRIPT}</script>
</body>
</html>
"""
_DIGEST = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
# swagger-ui has styles in its elements, and its icons in the style sheet.
PAGE_HEADERS = page_headers(
    scripts=f"'self' 'sha256-{_DIGEST}'", styles="'self' 'unsafe-inline'", images="'self' data:"
)


def read_file(name: str) -> bytes:
    """The content of one of the ``FILES``."""
    return Path(str(_PACKAGE.locate_file(f"fastapi_swagger/resources/{name}"))).read_bytes()
