"""The configuration of logging: destinations, format and levels.

Each line is one event: JSON, or text on a terminal. All lines of the process take the same path, BentoML's included.
Processes that share a log file would rotate it under each other, so each worker has a file of its own, with its number
in the name. A worker that replaces another takes over its number.
"""

import logging
import logging.config
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bentoml import server_context
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from contract.errors import StartupError
from ledger import log_output
from serving.settings import Settings
from serving.telemetry import request_id

FILE_BYTES = 10 * 1024 * 1024
FILE_BACKUPS = 5
"""Maximum number of rotated files, in addition to the current one."""


def configure(settings: Settings) -> None:
    """Log to standard output and to ``LOG_FILE``, if there is one; our lines and BentoML's from ``LOG_LEVEL`` on.

    Called once per process, when the service is imported. BentoML has configured its own logging by then.

    Raises:
        StartupError: the file cannot be written.
    """
    style = settings.LOG_FORMAT
    if style == "auto":
        style = "console" if sys.stdout.isatty() else "json"
    handlers: dict[str, dict[str, Any]] = {"output": {"()": log_output.OutputHandler, "formatter": style}}
    if settings.LOG_FILE is not None:
        handlers["file"] = {
            "()": log_output.FileHandler,
            "file": file_of_process(settings.LOG_FILE, server_context.worker_index),
            "most_bytes": FILE_BYTES,
            "backups": FILE_BACKUPS,
            "formatter": "json",
        }
    for handler in handlers.values():
        handler["filters"] = ["request"]
    # Libraries that had handlers of their own now use the root's.
    levels = {
        "serving": settings.LOG_LEVEL,
        "bentoml": settings.LOG_LEVEL,
        # `bentoml build` warns that it takes the older way for our Dockerfile template, as it should.
        "bentoml.build": "ERROR",
        "uvicorn.error": "WARNING",
        "circus": "WARNING",
    }
    try:
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "filters": {"request": {"()": _RequestFilter}},
                "formatters": {"json": {"()": LineFormatter}, "console": {"()": ConsoleFormatter}},
                "handlers": handlers,
                "loggers": {
                    name: {"level": level, "handlers": [], "propagate": True} for name, level in levels.items()
                },
                "root": {"level": "WARNING", "handlers": list(handlers)},
            }
        )
    except ValueError as error:
        raise StartupError(
            f"The log file {settings.LOG_FILE} cannot be written: {error.__cause__}. Set LOG_FILE to one that can."
        ) from error


def file_of_process(file: Path, worker: int | None) -> Path:
    """The log file of a worker, by its number (from 1), or of the process that starts the workers (None)."""
    return file if worker is None else file.with_name(f"{file.stem}.{worker}{file.suffix}")


class _RequestFilter(logging.Filter):
    """Adds the identifier of the current request, unless the line is about several requests and names them."""

    def filter(self, record: logging.LogRecord) -> bool:
        identifier = request_id.CURRENT.get()
        if identifier and not hasattr(record, "request_ids"):
            record.request_id = identifier
        return True


class LineFormatter(JsonFormatter):
    """One JSON object: timestamp (UTC), level, logger, message, then the fields of the event."""

    def __init__(self) -> None:
        super().__init__(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "stack"},
            timestamp=True,
            json_ensure_ascii=False,
        )

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Put the timestamp first."""
        return {"timestamp": log_data.pop("timestamp"), **log_data}


class ConsoleFormatter(logging.Formatter):
    """Time, level, logger, event, fields: ``12:30:01.123 INFO serving.bundle model loaded model=iris``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, followed by the stack if there is one."""
        time = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields = "".join(
            f" {name}={_written(value)}" for name, value in vars(record).items() if name not in RESERVED_ATTRS
        )
        line = f"{time} {record.levelname} {record.name} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


_PLAIN = re.compile(r"[\w./:+@%*-]+", re.ASCII).fullmatch


def _written(value: object) -> str:
    """A value as people write it: ``missing``, ``[{feature: MedInc, reason: missing, rows: 1}]``.

    Text is quoted if it would not read as one word: control characters of a caller never reach the terminal.
    """
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_written(key)}: {_written(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(map(_written, value))}]"
    text = str(value)
    return text if _PLAIN(text) else repr(text)
