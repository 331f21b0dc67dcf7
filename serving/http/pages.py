"""What our pages share: their frame, their files, and how text gets into HTML."""

from collections.abc import Mapping
from html import escape
from importlib import resources
from types import MappingProxyType

from serving.http.app import HttpRequest, HttpResponse, Route, quiet_route
from serving.http.security import NO_SNIFF, page_headers

STATIC = "/static_content"
"""Path of the files that pages load."""
FILES = ("pages.css", "logs.css", "logs.js", "try.css", "try.js", "docs.css", "docs.js")
"""Our own files; those of swagger-ui are in ``docs.FILES``."""
_MEDIA_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
# Every address in a page is relative: a proxy may serve it under a path of its own.
_LINKS = {"./": "Try", "./docs": "API", "./logs": "Predictions", "./metrics": "Metrics", "./models/info": "Models"}
# Nothing that callers have sent can run as script.
_HEADERS = page_headers()
_NONE: Mapping[str, str] = MappingProxyType({})


def text(value: object) -> str:
    """A value as HTML, for elements and attributes."""
    return escape(str(value), quote=True)


def html_response(content: str, status: int = 200, headers: Mapping[str, str] = _NONE) -> HttpResponse:
    """A page with the headers of every page; ``headers`` adds to them or replaces some."""
    return HttpResponse(content.encode(), "text/html; charset=utf-8", {**_HEADERS, **headers}, status)


def frame(name: str, title: str, content: str, links: Mapping[str, str]) -> str:
    """A whole page.

    Args:
        name: of its style sheet and its script.
        title: its heading.
        content: the HTML inside.
        links: what the other pages are called, by address.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ML prediction bundle: {text(title)}</title>
<link rel="stylesheet" href=".{STATIC}/pages.css">
<link rel="stylesheet" href=".{STATIC}/{name}.css">
<link rel="icon" href=".{STATIC}/favicon-32x32.png">
<script src=".{STATIC}/{name}.js" defer></script>
</head>
<body>
{header(title, links)}
<main>
{content}
</main>
</body>
</html>
"""


def header(title: str, links: Mapping[str, str]) -> str:
    """The heading of a page, and the way to the others."""
    listed = "".join(f'<a href="{address}">{name}</a>' for address, name in links.items())
    return f"<header>\n<h1>{text(title)}</h1>\n<nav>{listed}</nav>\n</header>"


def links(*, without: str, more: Mapping[str, str] = _NONE) -> dict[str, str]:
    """The links of a page: all but its own, and more."""
    return {address: name for address, name in {**_LINKS, **more}.items() if address != without}


def file_routes() -> list[Route]:
    """The routes of our files."""
    folder, headers = resources.files("serving.http").joinpath("static"), {**NO_SNIFF, "cache-control": "no-cache"}
    return [
        file_route(name, folder.joinpath(name).read_bytes(), _MEDIA_TYPES[name.rpartition(".")[2]], headers)
        for name in FILES
    ]


def file_route(name: str, content: bytes, media_type: str, headers: Mapping[str, str]) -> Route:
    """The route of a file that belongs to a page."""
    response = HttpResponse(content, media_type, headers)

    async def answer(_: HttpRequest) -> HttpResponse:
        return response

    return quiet_route(f"{STATIC}/{name}", answer)
