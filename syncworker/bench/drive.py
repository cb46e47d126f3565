"""Drive the product as production runs it: broker, worker processes, ticks, claims, batches, commits.

`sync_all` is the door for harnesses: it returns when every due consent is synced and committed, or raises.  It is an
beat and nothing else: it publishes the same `tick` message beat publishes, at once and again as often as beat does, and
looks into `work` to see when nothing is left.
"""

import asyncio
import atexit
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Self

from syncworker import settings as settings_module
from syncworker import tasks
from syncworker.broker import broker_of, check
from syncworker.clock import monotonic
from syncworker.errors import SetupError, SyncWorkerError
from syncworker.opening import open_store
from syncworker.processes import Child, EmbeddedBroker, spawn
from syncworker.settings import CONFIG_VARIABLE, EMBEDDED, Settings
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind

LOOK_EVERY_S: Final = 0.05
READY_S: Final = 180.0
PATIENCE_S: Final = 900.0
"""How long `sync_all` waits without one more consent coming to its end."""

GOOD: Final = frozenset({"ok", "unchanged"})


class SyncAllError(SyncWorkerError):
    """Not every due consent was synced."""

    code = "sync_all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What `sync_all` did.

    Attributes:
        seconds: from the tick to the last commit, as seen in the table.
        outcomes: runs by outcome.
    """

    consents: int
    seconds: float
    outcomes: Mapping[str, int]


class Fleet:
    """Worker processes on the settings' database and broker; stopped with the `with` around it.

    Runs no beat: nothing happens before `sync_all`.
    """

    def __init__(self, settings: Settings, *, workers: int | None = None, environment: Mapping[str, str] | None = None):
        """Starts nothing.

        Args:
            workers: processes; one a core unless said otherwise.
            environment: of the workers, in place of ours; must lead them to the same settings.
        """
        self._settings = settings
        self._wanted = workers or os.cpu_count() or 1
        self._environment = environment
        self._broker: EmbeddedBroker | None = None
        self._children: list[Child] = []
        self._runner = asyncio.Runner()
        self._store: Store | None = None
        self._line: Any = None

    @property
    def pids(self) -> list[int]:
        """The worker processes, without the broker."""
        return [child.pid for child in self._children]

    def start(self) -> Self:
        """Start broker, if it is the embedded one, and workers, and wait until each has built its parts.

        Raises:
            SetupError: settings, schema or broker; or a worker that did not come up.
        """
        found = broker_of(self._settings)
        if self._settings.broker_url == EMBEDDED:
            broker = EmbeddedBroker(self._settings.data_folder)
            if not broker.answers():
                broker.start()
                self._broker = broker
        check(found)
        tasks.configure(found, self._settings.tick_seconds, self._settings.data_folder)
        self._line = tasks.app.connection_for_write(
            found.url
        )  # Celery's own pool would keep to the first broker it met
        self._store = self._runner.run(open_store(self._settings))
        argv = [sys.executable, "-m", "syncworker", "worker", "--log-level=ERROR"]
        environment = self._environment
        self._children = [spawn(argv, env=environment, stdout=subprocess.DEVNULL) for _ in range(self._wanted)]
        until = monotonic() + READY_S
        while self._runner.run(self._alive()) < self._wanted:
            if any(child.status() is not None for child in self._children) or monotonic() > until:
                self.stop()
                raise SetupError("worker: did not come up; run `syncworker doctor`")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """Stop workers and the broker we started.  A second call changes nothing."""
        for child in self._children:
            child.stop(grace=40)
        self._children = []
        if self._line is not None:
            self._line.release()
            self._line = None
        if self._store is not None:
            self._runner.run(self._store.close())
            self._store = None
        if self._broker is not None:
            self._broker.stop()
            self._broker = None
        self._runner.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def sync_all(self, *, progress: Callable[[int, int], None] | None = None, patience: float = PATIENCE_S) -> Synced:
        """Sync every consent that is due now.

        Args:
            progress: is told how many are done, and how many there were, now and then.
            patience: seconds without a consent coming to its end after which it gives up.

        Raises:
            SyncAllError: a consent ended badly, a worker ended, or nothing moved any more; the tables say which.
        """
        return self._runner.run(self._sync_all(progress or _silent, patience))

    async def _sync_all(self, progress: Callable[[int, int], None], patience: float) -> Synced:
        began = monotonic()
        since = await self._newest_run()
        self._publish_tick()
        ticked = moved = began
        waiting, working = await self._left()
        wanted = left = waiting + working
        while left:
            await asyncio.sleep(LOOK_EVERY_S)
            now = monotonic()
            waiting, working = await self._left()
            if waiting and now - ticked > self._settings.tick_seconds:
                self._publish_tick()
                ticked = now
            if waiting + working != left:
                left, moved = waiting + working, now
                progress(wanted - left, wanted)
            if now - moved > patience or any(child.status() is not None for child in self._children):
                raise SyncAllError(f"{left} of {wanted} consents were not synced: a worker ended, or nothing moved")
        seconds = monotonic() - began
        outcomes = await self._outcomes(since)
        if set(outcomes) - GOOD or sum(outcomes.values()) < wanted:
            raise SyncAllError(f"not every consent was synced well: {dict(outcomes)} of {wanted}; see the table run")
        return Synced(consents=wanted, seconds=seconds, outcomes=outcomes)

    @property
    def store(self) -> Store:
        """Our own view of the database.

        Raises:
            SetupError: the fleet is not started.
        """
        if self._store is None:
            raise SetupError("bench: the workers are not started")
        return self._store

    def run(self, work: Callable[[Store], Any]) -> Any:
        """Run a coroutine function on the store, between two syncs."""
        return self._runner.run(work(self.store))

    def _publish_tick(self) -> None:
        tasks.app.send_task("tick", queue="tick", ignore_result=True, connection=self._line)

    async def _alive(self) -> int:
        async with self.store.reading() as unit:
            return await unit.work.alive("worker", timedelta(seconds=READY_S))

    async def _left(self) -> tuple[int, int]:
        """Consents that are due and unclaimed, and those in work."""
        async with self.store.reading() as unit:
            rows = [row for row in await unit.work.summary() if row.kind is WorkKind.SYNC]
        return sum(row.due for row in rows), sum(row.leased for row in rows)

    async def _newest_run(self) -> int:
        async with self.store.reading() as unit:
            return await unit.runs.newest()

    async def _outcomes(self, since: int) -> Mapping[str, int]:
        async with self.store.reading() as unit:
            return Counter(await unit.runs.outcomes(after=since))


def sync_all(settings: Settings | None = None, *, workers: int | None = None) -> Synced:
    """Sync every consent that is due, through worker processes, and return when all are committed.

    The first call for some settings starts the workers (and the embedded broker, where that is the setting) and keeps
    them until this process ends, so that a later call pays for the sync alone.

    Args:
        settings: `None` reads `syncworker.toml` and the environment, as every command does.  Settings made otherwise
            must be the ones a worker process of this environment would read.
        workers: processes; one a core unless said otherwise.

    Raises:
        SetupError: settings, schema, key ring or broker.
        SyncAllError: a consent was not synced well.
    """
    chosen = settings or settings_module.load()
    place = (chosen.database_url, chosen.tenant, broker_of(chosen).url)
    fleet = _fleets.get(place)
    if fleet is None:
        fleet = _fleets[place] = Fleet(chosen, workers=workers).start()
        atexit.register(fleet.stop)
    return fleet.sync_all()


_fleets: Final[dict[tuple[str, str, str], Fleet]] = {}


def environment_for(file: Path) -> dict[str, str]:
    """Our environment, led to one file of settings and to nothing else of ours."""
    ours = settings_module.ENVIRONMENT_PREFIX
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {
        CONFIG_VARIABLE: str(file)
    }


def _silent(_done: int, _wanted: int) -> None:
    pass


def median(values: Sequence[float]) -> float:
    """The middle one; of an even number the mean of the two."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
