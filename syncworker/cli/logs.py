"""Logs: one constant event per line with fields; console on a terminal, JSON otherwise.

Every library's records pass the same formatter.  httpx and aiohttp stay silent below WARNING: at INFO they print whole
URLs (`reliability.md` rule 37).
"""

import logging
import sys
from typing import Any, Final

import structlog

QUIET: Final = ("httpx", "httpcore", "aiohttp", "asyncio", "alembic", "sqlalchemy")
EVERY_TICK: Final = ("celery.worker.strategy", "celery.app.trace", "celery.beat")
"""Loggers that say each tick three times over; our own events say what came of it."""


def configure(level: str = "INFO") -> None:
    """Send everything to standard error.  A second call replaces the first."""
    stamped: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if sys.stderr.isatty():
        render: list[Any] = [structlog.dev.ConsoleRenderer()]
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
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    chatty = QUIET if level.upper() == "DEBUG" else (*QUIET, *EVERY_TICK)
    for name in chatty:
        logging.getLogger(name).setLevel(logging.WARNING)
