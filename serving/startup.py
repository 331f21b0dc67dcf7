"""What is checked once, before any worker starts: a worker that fails would be started again for ever."""

import errno
import os
import socket
from collections.abc import Mapping

import click
from bentoml.models import BentoModel

from contract.dataset import Dataset
from contract.errors import StartupError
from serving.models import load
from serving.settings import Settings


def check_deployment(models: Mapping[Dataset, BentoModel], settings: Settings) -> None:
    """Refuse to start on a damaged or foreign model, or on a port in use.

    Raises:
        StartupError: says what is wrong and what to do.
    """
    for dataset, reference in models.items():
        load(dataset, reference.resolve())
    context = click.get_current_context(silent=True)
    options = context.params if context else {}
    # `bentoml serve --host/--port` come before the environment.
    host = options.get("host") or settings.API_HOST
    port = options.get("port") or settings.API_PORT
    if port == settings.GRPC_PORT:
        raise StartupError(f"HTTP and gRPC cannot share port {port}. Set API_PORT or GRPC_PORT to another.")
    _check_port(host, port, "API_PORT")
    _check_port(host, settings.GRPC_PORT, "GRPC_PORT")
    # The workers read the environment only: gRPC must not listen on more than --host says.
    os.environ["API_HOST"] = host


def _check_port(host: str, port: int, variable: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without SO_REUSEPORT, with which another service of this kind would share its port with us.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StartupError(
                    f"Port {port} is in use. Stop what listens there (`ss -ltnp 'sport = :{port}'` shows it), "
                    f"or set {variable} to a free port."
                ) from None
            raise StartupError(f"Cannot listen on {host}:{port} ({variable}): {error.strerror}.") from error
