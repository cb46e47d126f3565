"""Beat: one tick every `tick_seconds`, by the monotonic clock, and a sign of life of its own.

A tick asks a worker to claim what is due.  Two beats at once do no harm, and beat keeps nothing on disk that it needs:
what is due, and when, stands in the table `work`.

Beat proves in two places that it gets on.  A file in the data folder says when its last tick went out; `up` and
`syncworker health --beat` read it.  Its row in the table `worker` says that its schedule went round; `syncworker
status` reads it on any machine.  The row is beat's own: while no worker lives, beat is still seen to live.

This module imports no SQLAlchemy and no HTTP client: a beat that only sends ticks needs neither.
"""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog
from celery import beat, signals

from syncworker import private
from syncworker.clock import monotonic
from syncworker.processes import process_name
from syncworker.store.address import Address
from syncworker.store.life_sign import LifeSign

log = structlog.stdlib.get_logger(__name__)

TICK: Final = "tick"
SIGN_EVERY_S: Final = 5.0
STILL_S: Final = 15.0
"""A schedule that has not gone round for so long hangs: no sign of life is written for it."""


class Scheduler(beat.Scheduler):  # type: ignore[misc]  # Celery ships no types
    """Celery's scheduler, counting by the monotonic clock.

    Celery compares instants of the wall clock: set back by an hour, it sends nothing for an hour.  Our schedule has
    fixed steps, so the wall clock has no part in it.  Ticks that a pause swallowed are not made up for.
    """

    def __init__(self, *arguments: Any, timer: Callable[[], float] = monotonic, **options: Any) -> None:
        self._timer = timer
        self._due: dict[str, float] = {}
        self.went_round_at = timer()
        super().__init__(*arguments, **options)

    def tick(self, **_options: Any) -> float:
        """Send what is due.

        Returns:
            Seconds until something is due again, at most `max_interval`.
        """
        now = self.went_round_at = self._timer()
        for entry in list(self.schedule.values()):
            if self._due.setdefault(entry.name, now) <= now:
                self._due[entry.name] = now + entry.schedule.run_every.total_seconds()
                self.apply_entry(entry, producer=self.producer)
        wait = min(self._due.values(), default=now + self.max_interval) - self._timer()
        return float(min(max(wait, 0.0), self.max_interval))


def file_of(data_dir: Path, pid: int) -> Path:
    """The file in which the beat of that process says when its last tick went out."""
    return data_dir / f"beat-{pid}"


def ticked_ago(file: Path, *, timer: Callable[[], float] = monotonic) -> float | None:
    """Seconds since the beat that writes this file sent a tick; `None` when the file says nothing of this boot.

    The file holds the machine's monotonic clock, which all processes share, so that a wall clock that is set anew makes
    no beat look dead.
    """
    try:
        age = timer() - float(file.read_text())
    except (OSError, ValueError):
        return None
    return age if age >= 0 else None


class _Signs:
    """What this process leaves to be seen."""

    def __init__(self) -> None:
        self.file: Path | None = None
        self.sign: LifeSign | None = None
        self.scheduler: Scheduler | None = None
        self.told = False


_signs: Final = _Signs()


def leave_signs(data_dir: Path, database: str | Address) -> None:
    """Say where this process leaves its signs of life once it is a beat.

    Args:
        data_dir: of the file.
        database: of the row.
    """
    _signs.file = file_of(data_dir, os.getpid())
    _signs.sign = LifeSign(database, process_name(), "beat")


def _on_beat(sender: Any = None, **_: Any) -> None:
    """Beat keeps nothing, so SIGTERM may end it anywhere.

    Celery's own handler raises `SystemExit`, which is lost when it strikes while a message is being published: beat
    would go on until it is killed.  Inside a worker (`celery worker -B`) the worker's own handler stands.
    """
    if _signs.file is None or _signs.sign is None:
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    for left in _signs.file.parent.glob("beat-*"):
        left.unlink(missing_ok=True)  # of processes that ended; one that lives writes its own anew
    _signs.scheduler = sender.scheduler
    threading.Thread(target=_keep_signing, name="syncworker-sign", daemon=True).start()


def _keep_signing() -> None:
    """Write the row now and then, as long as the schedule goes round; a database that is away costs no tick."""
    pause = threading.Event()
    while True:
        if _gets_on():
            _write_sign()
        pause.wait(SIGN_EVERY_S)


def _gets_on() -> bool:
    return _signs.scheduler is not None and monotonic() - _signs.scheduler.went_round_at < STILL_S


def _write_sign() -> None:
    assert _signs.sign is not None
    try:
        _signs.sign.write()
    except Exception as error:  # noqa: BLE001  a driver's errors have no common root, and beat must outlive them all
        if not _signs.told:
            log.warning("sign of life of beat not written", error=type(error).__name__)
        _signs.told = True
    else:
        _signs.told = False


def _on_published(sender: str | None = None, **_: Any) -> None:
    """A tick went out."""
    if sender == TICK and _signs.file is not None and _signs.scheduler is not None:
        with suppress(OSError):
            private.replace_file(_signs.file, repr(monotonic()))


signals.beat_init.connect(_on_beat, weak=False)
signals.after_task_publish.connect(_on_published, weak=False)
