"""The app for Celery's own command line: `celery -A syncworker worker` and `celery -A syncworker beat`.

Both are the processes that `syncworker worker` and `syncworker beat` run, started by Celery.  Broker, threads, tick and
the place of beat's file come from our settings: the first when Celery reads its configuration, the rest by Celery's
signals for a worker and for beat that begin.  What is wrong with the settings, the schema, the key ring or the broker
ends the process with one line on stderr and exit code 1, as with our own commands.

Celery's options count where they choose among what we have: `--concurrency` (threads), `--queues`, `--loglevel`,
`--hostname`.  A broker given to Celery (`--broker`, `CELERY_BROKER_URL`) does not count, and neither does another pool
than threads: one event loop per process does the work.
"""

import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, ParamSpec

from celery import signals
from celery.concurrency import get_implementation

from syncworker import broker
from syncworker.environment import forget_foreign

FORGOTTEN: Final = forget_foreign()
"""Names of variables of other programs that were set; before Celery reads any of them."""

from syncworker.beat import leave_signs  # noqa: E402
from syncworker.broker import app  # noqa: E402
from syncworker.cli import logs, show  # noqa: E402
from syncworker.errors import SetupError, SyncWorkerError  # noqa: E402
from syncworker.settings import Settings, load  # noqa: E402

__all__ = ["app"]

P = ParamSpec("P")


def _or_end(receiver: Callable[P, None]) -> Callable[P, None]:
    """End the process where a receiver finds that it cannot work; Celery would only log that a receiver failed."""

    @wraps(receiver)
    def whole(*arguments: P.args, **named: P.kwargs) -> None:
        try:
            receiver(*arguments, **named)
        except SyncWorkerError as error:
            show.say(f"error [{error.code}]: {error}")
            sys.exit(show.FAILED)

    return whole


@_or_end
def _on_configure(**_: Any) -> None:
    """Celery has read `celeryconfig.py`: give it what the settings say."""
    config = load()
    broker.configure(broker.broker_of(config), config.tick_seconds, config.data_folder, threads=config.threads)
    leave_signs(config.data_folder, config.database)


def _on_logging(loglevel: int | str | None = None, **_: Any) -> None:
    """Our logs instead of Celery's: one event a line, and no message bodies."""
    logs.configure(logging.getLevelName(loglevel) if isinstance(loglevel, int) else loglevel or "INFO")


@_or_end
def _on_worker_init(sender: Any = None, instance: Any = None, **_: Any) -> None:
    """A worker begins: register the tasks, and check what it needs."""
    from syncworker import tasks
    from syncworker.cli.processes import ready_worker
    from syncworker.processes import process_name

    config = load()
    ready_worker(config, "INFO", name=process_name())
    tasks.app.finalize()


@_or_end
def _on_worker_built(sender: Any = None, **_: Any) -> None:
    """Celery has read its options: take the threads they say, and refuse another pool."""
    from syncworker import tasks

    if get_implementation(sender.pool_cls) is not get_implementation("threads"):
        raise SetupError(
            "--pool: only threads; one event loop per process does the work, and --concurrency says how many"
        )
    tasks.use_threads(int(sender.concurrency))


def _on_worker_set_up(**_: Any) -> None:
    """`--queues` chose the queues; this worker's own one comes with each choice."""
    from syncworker.processes import process_name

    app.amqp.queues.select_add(broker.own_queue(process_name()))


@_or_end
def _on_beat(**_: Any) -> None:
    """Beat begins: see whether its broker answers."""
    config: Settings = load()
    broker.check(broker.broker_of(config))


show.take_any_encoding()
app.on_after_configure.connect(_on_configure, weak=False)
signals.setup_logging.connect(_on_logging, weak=False)
signals.celeryd_init.connect(_on_worker_init, weak=False)
signals.worker_init.connect(_on_worker_built, weak=False)
signals.celeryd_after_setup.connect(_on_worker_set_up, weak=False)
signals.beat_init.connect(_on_beat, weak=False)
