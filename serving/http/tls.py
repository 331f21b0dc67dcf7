"""TLS of the HTTP listener: each connection gets the certificate that is the present one when it begins.

uvicorn makes one ``ssl.SSLContext`` for good. Ours hands every new connection to the present context; it is told by the
methods that ``ssl`` offers for it, ``wrap_bio`` and ``sslobject_class``. The event loop ends a handshake after a minute
and says nothing of those that fail; ours ends it sooner, and failures are counted.
"""

import logging
import ssl
from time import monotonic
from typing import Any

import uvloop
from uvicorn import config

from serving.telemetry import series
from serving.tls import CERTIFICATE, CLIENT_CA, HANDSHAKE_SECONDS, KEY, Tls

logger = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 5.0
"""How long a client may take to say that it has closed, too."""
LOG_SECONDS = 60.0
"""How often a failed handshake is logged; all are counted."""
REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "CERTIFICATE_VERIFY_FAILED": "unknown_certificate",
    "HTTP_REQUEST": "plain_text",
    "HTTPS_PROXY_REQUEST": "plain_text",
    "WRONG_VERSION_NUMBER": "plain_text",
    "UNSUPPORTED_PROTOCOL": "version",
    "NO_PROTOCOLS_AVAILABLE": "version",
    "NO_SHARED_CIPHER": "version",
}
"""Why a handshake failed, by OpenSSL's word for it."""
REFUSED_BY_CLIENT, OTHER = "refused_by_client", "other"


def options(tls: Tls | None) -> dict[str, Any]:
    """``ssl`` of the arguments of ``@bentoml.service``."""
    if tls is None:
        return {"enabled": False}
    files = {"certfile": str(tls.files[CERTIFICATE]), "keyfile": str(tls.files[KEY])}
    if tls.asks_clients:
        files |= {"ca_certs": str(tls.files[CLIENT_CA])}
    return {"enabled": True, **files, "cert_reqs": int(ssl.CERT_REQUIRED if tls.asks_clients else ssl.CERT_NONE)}


def install(tls: Tls) -> None:
    """Make uvicorn use the present certificate for the servers that are configured from now on."""
    context = LiveContext(tls)
    config.create_ssl_context = lambda *_, **__: context
    config.LOOP_FACTORIES["auto"] = f"{__name__}:{loop_factory.__qualname__}"


class LiveContext(ssl.SSLContext):
    """A context whose connections are made by the present one."""

    def __new__(cls, tls: Tls) -> "LiveContext":  # noqa: ARG004 - for __init__
        """The context of a server. It has no certificate of its own."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        for reason in {*REASONS.values(), REFUSED_BY_CLIENT, OTHER}:
            series.TLS_FAILED.labels(reason)

    def wrap_bio(self, *arguments: Any, **keywords: Any) -> ssl.SSLObject:
        """Begin one connection."""
        context = self._tls.material.context
        context.sslobject_class = Connection
        return context.wrap_bio(*arguments, **keywords)


class Connection(ssl.SSLObject):
    """One connection; counts its handshake if it fails."""

    logged = -LOG_SECONDS
    """When this process last logged one."""

    def do_handshake(self) -> None:
        """Go on with the handshake."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            word = error.reason or ""
            reason = REFUSED_BY_CLIENT if "_ALERT_" in word else REASONS.get(word, OTHER)
            series.TLS_FAILED.labels(reason).inc()
            if monotonic() - Connection.logged >= LOG_SECONDS:
                Connection.logged = monotonic()
                logger.warning("TLS handshake failed", extra={"reason": reason, "openssl": str(error)})
            raise


class Loop(uvloop.Loop):
    """uvicorn's event loop, whose servers give up a handshake sooner than after a minute."""

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """Listen."""
        if options.get("ssl") is not None:
            options |= {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": SHUTDOWN_SECONDS}
        return await super().create_server(*arguments, **options)


def loop_factory(use_subprocess: bool = False) -> type[Loop]:  # noqa: ARG001 - uvicorn asks with it
    """What makes the event loop of a worker."""
    return Loop
