"""The image's HEALTHCHECK: prints what is wrong and exits with 1 if the service in this container is not ready.

It runs every few seconds beside the service, so it imports little, and nothing of ours.
"""

import http.client
import os
import sys
from collections.abc import Mapping

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
"""The loopback address to ask, for each address that means all interfaces."""
TIMEOUT_SECONDS = 2


def problem(environment: Mapping[str, str]) -> str | None:
    """What is wrong, or None if ``/readyz`` at ``API_HOST`` and ``API_PORT`` answers 200."""
    host = environment.get("API_HOST") or "0.0.0.0"  # noqa: S104 - compared, not bound
    port = int(environment.get("API_PORT") or 8000)
    connection = http.client.HTTPConnection(WILDCARDS.get(host, host), port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{host}:{port} does not answer: {error}"
    finally:
        connection.close()
    return None if status == http.client.OK else f"/readyz answered {status}"


if __name__ == "__main__":
    sys.exit(problem(os.environ))
