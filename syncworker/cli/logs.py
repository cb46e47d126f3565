"""Logs: one constant event per line with fields; console on a terminal, JSON otherwise.

Every library's records pass the same formatter.  Below WARNING only we and Celery speak, whatever the level: at INFO
httpx prints whole URLs, at DEBUG aiosqlite prints every row it writes (`reliability.md` rule 37).
"""

import logging
import sys
from enum import StrEnum
from typing import Annotated, Any, Final

import structlog
import typer


class LogLevel(StrEnum):
    """How much a process says."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


Level = Annotated[LogLevel, typer.Option(case_sensitive=False)]

OUTSPOKEN: Final = frozenset({"syncworker", "celery", "kombu"})
"""Packages that may speak below WARNING."""

QUIET: Final = ("httpx", "httpcore", "aiohttp", "aiosqlite", "asyncio", "alembic", "sqlalchemy")
"""Loggers of others that would say much: not even asked to build their records."""

EVERY_TICK: Final = ("celery.worker.strategy", "celery.app.trace", "celery.beat")
"""Loggers that say each tick three times over; our own events say what came of it."""


def configure(level: str = "INFO") -> None:
    """Send everything to standard error.  A second call replaces the first."""
    stamped: list[Any] = [
        structlog.contextvars.merge_contextvars,  # `run` and `interaction_id`, where a task has them
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if sys.stderr.isatty():
        render: list[Any] = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    else:
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *stamped,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=stamped,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    handler.addFilter(_may_be_said)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    chatty = QUIET if level.upper() == "DEBUG" else (*QUIET, *EVERY_TICK)
    for name in chatty:
        logging.getLogger(name).setLevel(logging.WARNING)


def _may_be_said(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] in OUTSPOKEN
