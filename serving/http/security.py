"""Headers for browsers: what a page may load, who may frame it, and which other sites may call the API."""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from serving.access import HEADER
from serving.telemetry import request_id

NO_SNIFF = {"x-content-type-options": "nosniff"}
"""For files: browsers must not guess another media type."""
_CORS_SECONDS = 600


def page_headers(*, scripts: str = "'self'", styles: str = "'self'", images: str = "'self'") -> dict[str, str]:
    """The headers of an HTML page: it loads and runs our files only, and only our pages may frame it.

    Args:
        scripts, styles, images: the sources of each, as in a ``Content-Security-Policy``.
    """
    policy = (
        f"default-src 'none'; style-src {styles}; script-src {scripts}; img-src {images}; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
    )
    # The address of a page may contain the filters that somebody has chosen.
    return {"content-security-policy": policy, "referrer-policy": "same-origin", **NO_SNIFF}


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application, open to pages of these origins; unchanged if there are none."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=[HEADER, "content-type", request_id.HEADER, "inference-header-content-length"],
        expose_headers=[request_id.HEADER, "retry-after", "inference-header-content-length"],
        max_age=_CORS_SECONDS,
    )
