"""TLS of the HTTP listener: each new connection gets the current certificate.

uvicorn makes one ``ssl.SSLContext`` and keeps it. Ours passes every new connection to the current context, through
``wrap_bio`` and ``sslobject_class``, which ``ssl`` offers for that. The event loop ends a handshake after a minute and
does not report failures. Ours ends it sooner, and failures are counted.
"""

import logging
import resource
import ssl
from time import monotonic
from typing import Any, ClassVar
from weakref import WeakSet

import uvloop
from uvicorn import config

from serving.telemetry import series
from serving.tls import CERTIFICATE, CLIENT_CA, HANDSHAKE_SECONDS, KEY, Tls

logger = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 5.0
"""Maximum seconds for a client to acknowledge the close of a connection."""
LOG_SECONDS = 60.0
"""Seconds between two log lines about failed handshakes; all of them are counted."""
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
"""Maps OpenSSL's words to the reason of a failed handshake."""
REFUSED_BY_CLIENT, CROWDED, OTHER = "refused_by_client", "crowded", "other"
DESCRIPTOR_SHARE = 0.25
"""Share of the process' file descriptors for connections whose handshake goes on; at the limit, new ones are closed."""
MOST_HANDSHAKES = 10_000
"""Their limit if there are plenty of descriptors."""


def options(tls: Tls | None) -> dict[str, Any]:
    """``ssl`` of the arguments of ``@bentoml.service``."""
    if tls is None:
        return {"enabled": False}
    files = {"certfile": str(tls.files[CERTIFICATE]), "keyfile": str(tls.files[KEY])}
    if tls.asks_clients:
        files |= {"ca_certs": str(tls.files[CLIENT_CA])}
    return {"enabled": True, **files, "cert_reqs": int(ssl.CERT_REQUIRED if tls.asks_clients else ssl.CERT_NONE)}


def install(tls: Tls) -> None:
    """Make uvicorn use the current certificate for servers that are configured from now on."""
    context = LiveContext(tls)
    config.create_ssl_context = lambda *_, **__: context
    config.LOOP_FACTORIES["auto"] = f"{__name__}:{loop_factory.__qualname__}"


class LiveContext(ssl.SSLContext):
    """A context that passes each connection to the current context."""

    def __new__(cls, tls: Tls) -> "LiveContext":  # noqa: ARG004 - for __init__
        """The context of a server. It has no certificate of its own."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        abound = descriptors == resource.RLIM_INFINITY
        self.limit = MOST_HANDSHAKES if abound else min(int(descriptors * DESCRIPTOR_SHARE), MOST_HANDSHAKES)
        for reason in {*REASONS.values(), REFUSED_BY_CLIENT, CROWDED, OTHER}:
            series.TLS_FAILED.labels(reason)

    def wrap_bio(self, *arguments: Any, **keywords: Any) -> ssl.SSLObject:
        """Begin one connection.

        Raises:
            ConnectionAbortedError: too many handshakes are unfinished. The event loop closes this one.
        """
        if len(Connection.shaking) >= self.limit:
            _count(CROWDED, f"{self.limit} handshakes are going on in this worker")
            raise ConnectionAbortedError
        context = self._tls.material.context
        context.sslobject_class = Connection
        connection = context.wrap_bio(*arguments, **keywords)
        Connection.shaking.add(connection)
        return connection


class Connection(ssl.SSLObject):
    """One connection; counts its handshake if it fails."""

    shaking: ClassVar[WeakSet[ssl.SSLObject]] = WeakSet()
    """Connections of this process with an unfinished handshake. One that the event loop gives up leaves by itself."""

    def do_handshake(self) -> None:
        """Go on with the handshake."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.shaking.discard(self)
            word = error.reason or ""
            _count(REFUSED_BY_CLIENT if "_ALERT_" in word else REASONS.get(word, OTHER), str(error))
            raise
        self.shaking.discard(self)


def _count(reason: str, told: str) -> None:
    """Count a failed handshake; log one a minute."""
    series.TLS_FAILED.labels(reason).inc()
    now = monotonic()
    if now - _logged[-1] >= LOG_SECONDS:
        _logged[:] = [now]
        logger.warning("TLS handshake failed", extra={"reason": reason, "told": told})


_logged = [-LOG_SECONDS]
"""Time of this process's last log line about a failure."""


class Loop(uvloop.Loop):
    """uvicorn's event loop; its servers give up a handshake sooner than after a minute."""

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """Listen."""
        if options.get("ssl") is not None:
            options |= {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": SHUTDOWN_SECONDS}
        return await super().create_server(*arguments, **options)


def loop_factory(use_subprocess: bool = False) -> type[Loop]:  # noqa: ARG001 - uvicorn asks with it
    """The factory of a worker's event loop."""
    return Loop
