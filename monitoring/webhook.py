"""Receive Alertmanager's messages and write each alert as a line of JSON: ``python monitoring/webhook.py``.

For trying alerts out, and as the default of ``alertmanager.yml`` until messages go where people read them. It needs
nothing but Python. The format it takes is https://prometheus.io/docs/alerting/latest/configuration/#webhook_config.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAXIMUM_BYTES = 4 * 1024 * 1024


class Receiver(BaseHTTPRequestHandler):
    """Answers Alertmanager and writes the alerts to standard output."""

    def do_POST(self) -> None:
        """Receive one message with its alerts."""
        try:
            # A longer body is cut off and then does not parse.
            length = min(int(self.headers.get("content-length") or 0), MAXIMUM_BYTES)
            message = json.loads(self.rfile.read(length))
            lines = [
                json.dumps(
                    {
                        "receiver": message["receiver"],
                        "status": alert["status"],
                        "labels": alert["labels"],
                        "annotations": alert["annotations"],
                        "starts_at": alert["startsAt"],
                    },
                    ensure_ascii=False,
                )
                for alert in message["alerts"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            self.send_error(HTTPStatus.BAD_REQUEST, f"not a message of Alertmanager: {error!r}")
            return
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's names
        """Log nothing: the alerts are the output."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the process is stopped."""
    parser = argparse.ArgumentParser(description="Write Alertmanager's alerts to standard output, one a line.")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9095, help="port (default: %(default)s)")
    options = parser.parse_args(arguments)
    ThreadingHTTPServer((options.host, options.port), Receiver).serve_forever()


if __name__ == "__main__":
    main()
