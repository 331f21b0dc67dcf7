"""The image's HEALTHCHECK: prints what is wrong and exits with 1 if the service in this container is not ready.

It runs every few seconds beside the service, so it imports little, and nothing of ours. An argument is another path to
ask, such as ``/livez``.
"""

import http.client
import os
import ssl
import sys
from collections.abc import Mapping

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
"""The loopback address to ask, for each address that means all interfaces."""
TIMEOUT_SECONDS = 2


def problem(environment: Mapping[str, str], path: str = "/readyz") -> str | None:
    """What is wrong, or None if the path at ``API_HOST`` and ``API_PORT`` answers 200."""
    host = environment.get("API_HOST") or "0.0.0.0"  # noqa: S104 - compared, not bound
    port = int(environment.get("API_PORT") or 8000)
    try:
        connection = _connection(WILDCARDS.get(host, host), port, environment)
    except OSError as error:
        return f"the health check cannot use its certificate: {error}"
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{host}:{port} does not answer: {error}"
    finally:
        connection.close()
    return None if status == http.client.OK else f"{path} answered {status}"


def _connection(host: str, port: int, environment: Mapping[str, str]) -> http.client.HTTPConnection:
    """One that speaks what the service speaks, by its settings."""
    if not environment.get("TLS_CERT_FILE"):
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The certificate names the host that clients use; this connection is to the container's own loopback.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if environment.get("TLS_CLIENT_CA_FILE"):
        kind = "PROBE_" if environment.get("TLS_PROBE_CERT_FILE") else ""
        context.load_cert_chain(environment[f"TLS_{kind}CERT_FILE"], environment.get(f"TLS_{kind}KEY_FILE") or None)
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)


if __name__ == "__main__":
    sys.exit(problem(os.environ, *sys.argv[1:2]))
