"""`beat`: the process that sends ticks.  Imports neither SQLAlchemy nor what calls LFIs, which it does not need."""

import typer

from syncworker import broker
from syncworker import settings as settings_module
from syncworker.beat import leave_signs
from syncworker.cli import logs
from syncworker.cli.logs import Level, LogLevel
from syncworker.settings import Settings


def beat(log_level: Level = LogLevel.INFO) -> None:
    """Run beat: one tick every `tick_seconds`.  Two of them do no harm."""
    ready_beat(settings_module.load(), log_level)
    raise typer.Exit(broker.start(["beat", f"--loglevel={log_level}", "--pidfile="]))


def ready_beat(config: Settings, log_level: str) -> None:
    """Logs on, the broker checked, the Celery app configured for beat.

    Raises:
        SyncWorkerError: settings or broker are not as beat needs them; says what, and the fix.
    """
    logs.configure(log_level)
    found = broker.broker_of(config)
    broker.check(found)
    broker.configure(found, config.tick_seconds, config.data_folder, threads=config.threads)
    leave_signs(config.data_folder, config.database)
