"""Logs as JSON lines on stderr: ids and versions, never the text of a mail."""

from __future__ import annotations

import logging
import logging.config
import sys
import traceback
import warnings
from datetime import UTC, datetime
from types import TracebackType

import orjson

from mailtriage.errors import MailtriageError
from serving.refusals import Refused

# The messages of these are written in this project and hold no text of a mail.
OUR_ERRORS = (MailtriageError, Refused)


class JsonFormatter(logging.Formatter):
    """One JSON object a line.

    An exception of another library may quote what it was given (Pydantic's do), so of those only the type and the
    place are written.
    """

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "role": self._role,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line |= describe_exception(record.exc_info[1], record.exc_info[2])
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode("utf-8", "replace")


def describe_exception(error: BaseException, trace: TracebackType | None) -> dict[str, object]:
    """Type and place of an exception, and its message only where that is ours."""
    frames = traceback.extract_tb(trace)[-6:]
    described: dict[str, object] = {
        "exception": type(error).__name__,
        "at": [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames],
    }
    if isinstance(error, OUR_ERRORS):
        described["reason"] = str(error) or getattr(error, "message", "")
    return described


def configure_logging(role: str, level: str = "INFO") -> None:
    """Send every logger of this process, KServe's and Uvicorn's too, through `JsonFormatter` to stderr."""
    silent = {"handlers": [], "propagate": False}
    logging.captureWarnings(True)
    # KServe still asks for it; it serialises faster than FastAPI's new default.
    warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {"()": JsonFormatter, "role": role}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": sys.stderr}},
            "root": {"handlers": ["stderr"], "level": level},
            "loggers": {
                # KServe configures its loggers itself where it finds no handler on them.
                "kserve": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
                "kserve.trace": silent,
                # `serving.guard` writes the access log: with the request id, without the query string.
                "uvicorn.access": silent,
                "uvicorn": {"level": "WARNING"},
                "asyncio": {"level": "WARNING"},
                "httpx": {"level": "WARNING"},
            },
        }
    )


def log_exception(loop: object, context: dict[str, object]) -> None:
    """An exception handler for an event loop that keeps to the rules of `JsonFormatter`."""
    error = context.get("exception")
    logging.getLogger("serving").error(
        "an asynchronous task failed",
        exc_info=(type(error), error, error.__traceback__) if isinstance(error, BaseException) else None,
    )
