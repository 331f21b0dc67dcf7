"""Checks before the workers start: a worker that cannot start would be restarted again and again."""

import errno
import ipaddress
import logging
import os
import resource
import socket
from collections.abc import Mapping

import click
from bentoml.models import BentoModel
from click.core import ParameterSource

from contract.dataset import Dataset
from contract.errors import StartupError
from ledger import database, spool
from ledger.errors import LedgerError
from serving.models import find_and_load
from serving.settings import Settings
from serving.telemetry import directory

logger = logging.getLogger(__name__)

LEAST_FILES = 128
"""An idle worker has 50 files open; the ledger's pages and a reload need more."""


def check_deployment(models: Mapping[Dataset, BentoModel], settings: Settings) -> None:
    """Check the models, the place of the ledger, the files of keys, and that both ports are free.

    Workers read the environment, not the command line, so options of ``bentoml serve`` are copied into the environment.

    Raises:
        StartupError: what is wrong, and what to do about it.
    """
    _check_process()
    for dataset, reference in models.items():
        find_and_load(dataset, str(reference.tag), settings.MODELS_DIR, settings.model_keys())
    rings = settings.keys().rings
    if rings:
        logger.info("keys are asked for", extra={"settings": sorted(rings)})
    else:
        logger.info("no keys: everybody may call")
    context = click.get_current_context(silent=True)
    options = context.params if context else {}
    # `bentoml serve --host/--port` override the environment.
    host = options.get("host") or settings.API_HOST
    port = options.get("port") or settings.API_PORT
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise StartupError(f"--host takes an IP address, not {host!r}. API_HOST takes a name too.") from None
    if port == settings.GRPC_PORT:
        raise StartupError(f"HTTP and gRPC cannot share port {port}. Set API_PORT or GRPC_PORT to another.")
    _check_ledger(settings)
    _check_port(host, port, "API_PORT")
    _check_port(host, settings.GRPC_PORT, "GRPC_PORT")
    os.environ["API_HOST"] = host
    if context and context.get_parameter_source("timeout_keep_alive") is ParameterSource.COMMANDLINE:
        os.environ["HTTP_KEEP_ALIVE_SECONDS"] = str(options["timeout_keep_alive"])


def ready_line(host: str, port: int, grpc_port: int, models: Mapping[Dataset, BentoModel], *, tls: bool) -> str:
    """The last line of a start: where to go, and what is served.

    Args:
        host: the IP address that both ports listen on.
        port: of HTTP.
        grpc_port: of gRPC.
        models: the stored model of each dataset.
        tls: whether both ports speak TLS.
    """
    address = ipaddress.ip_address(host)
    if address.is_unspecified:  # No browser opens 0.0.0.0.
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    place = f"[{address}]" if address.version == 6 else address
    served = (f"{dataset.name} {reference.tag.version}" for dataset, reference in models.items())
    return " · ".join([f"ready: http{'s' * tls}://{place}:{port} (docs /docs)", f"gRPC {grpc_port}", *served])


def _check_process() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < LEAST_FILES:  # -1 is no limit
        raise StartupError(
            f"This process may open {soft} files, and a worker needs {LEAST_FILES} and one for each connection. Raise "
            "the limit, as with `ulimit -n 4096`."
        )
    directory.check_temporary()


def _check_ledger(settings: Settings) -> None:
    if settings.LEDGER == "off":
        return
    try:
        spool.prepare(settings.spool)
    except OSError as error:
        raise StartupError(
            f"STATE_DIR={settings.STATE_DIR} must be a directory that can be written to: {error.strerror}. The ledger "
            "keeps predictions there until they are in its database: mount a volume there, name another directory, or "
            "set LEDGER=off to record nothing."
        ) from None
    try:
        database.connect(settings.database_url).dispose()
    except LedgerError as error:
        raise StartupError(str(error)) from None


def _check_port(host: str, port: int, variable: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # SO_REUSEPORT is not set: with it, another such service would share its gRPC port with us unnoticed.
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
