"""Logging setup: one JSON object per line on stderr, whatever a message contains."""

from __future__ import annotations

import datetime
import json
import logging
import socket
import sys

from services.shared.process.config import ConfigError

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class JsonFormatter(logging.Formatter):
    """Formats a log record as JSON.

    The keys are ts, level, service, the given `fields`, logger, msg, then the record's `extra`, then `exc`.
    """

    def __init__(self, service: str, **fields: object) -> None:
        super().__init__()
        self._always = {"service": service, **fields}

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, object] = {
            "ts": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            **self._always,
            "logger": record.name,
            "msg": record.getMessage(),
        }
        line.update((name, value) for name, value in vars(record).items() if name not in _STANDARD)
        if record.exc_info:
            line["exc"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, default=_as_text)  # ASCII only: Unicode line separators are escaped too


class _GivenUpLookups(logging.Filter):
    """Drops uvloop's log line for a name lookup of a connection that was given up.

    The code that gave up the connection has logged that itself.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, socket.gaierror) and "Future exception" in record.getMessage())


def setup_logging(service: str, *, level: str = "INFO", **fields: object) -> None:
    """Send all log records and warnings, also those of libraries, to stderr as JSON.

    Every line has these `fields`.

    Raises:
        ConfigError: `level` is not DEBUG, INFO, WARNING, ERROR or CRITICAL.
    """
    if level.upper() not in _LEVELS:
        raise ConfigError(f"LOG_LEVEL must be one of {', '.join(_LEVELS)}, not {level!r}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service, **fields))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    # At DEBUG botocore logs whole requests: password hashes, private keys, messages of users.
    for chatty in ("asyncio", "boto3", "botocore", "grpc", "httpcore", "httpx", "urllib3", "websockets"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
    logging.getLogger("asyncio").addFilter(_GivenUpLookups())


def _as_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
