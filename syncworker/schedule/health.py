"""Say whether a process gets on: by its progress, not by its existence (`reliability.md` rule 9).

A worker that hung keeps its process and its log quiet.  What it cannot keep is its row in `worker` moving: by ticks,
by batches, by the canary that each tick sends to every worker.  When nothing moved for three ticks the one who asks
sends a canary too, and waits for it: that tells a worker that is deaf from one whom nobody calls.

Nobody is blamed for others' trouble.  While the database or the broker is away no worker can get on, and a restart
would lose what a worker still holds in its hands, such as a new token not stored yet.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from syncworker.clock import monotonic
from syncworker.store.failures import StoreUnavailableError
from syncworker.store.unit_of_work import Store
from syncworker.store.workers import WORKER, WorkerRow

TICKS_MISSED: Final = 3
QUIET_MIN: Final = timedelta(seconds=30)
"""No shorter silence counts, however short the tick: a worker reconnects within 20 s by itself."""

CANARY_WAIT_S: Final = 12.0
"""How long the canary sent by who asks may take: a worker that just reconnects is not lost."""

LOOK_EVERY_S: Final = 0.25

AskCanary = Callable[[str], Awaitable[bool]]
"""Sends a canary to a worker; `False` when the broker is away."""


class Verdict(StrEnum):
    """What is known of a process."""

    ALIVE = "alive"
    HANGS = "hangs"
    """It makes no progress although it could: restart it."""
    ABSENT = "absent"
    """No such process: it never began, or ended."""
    UNKNOWN = "unknown"
    """Database or broker are away: no worker can get on, and none is to blame."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict with its reason, one line."""

    name: str
    verdict: Verdict
    said: str

    @property
    def good(self) -> bool:
        """Whether a supervisor should leave the process alone."""
        return self.verdict in {Verdict.ALIVE, Verdict.UNKNOWN}


def quiet_max(tick_seconds: float) -> timedelta:
    """How long a process may go without progress."""
    return max(TICKS_MISSED * timedelta(seconds=tick_seconds), QUIET_MIN)


async def judge(
    store: Store,
    name: str,
    *,
    quiet: timedelta,
    ask: AskCanary,
    wait: float = CANARY_WAIT_S,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    timer: Callable[[], float] = monotonic,
) -> Finding:
    """Whether a worker gets on; takes at most `wait` seconds longer than a look at its row.

    Args:
        name: of the worker: host and process id.
        quiet: how long it may go without progress, as `quiet_max` says.
    """
    try:
        row, age = await _look(store, name)
        if row is None:
            return Finding(name, Verdict.ABSENT, "no such worker is known")
        if age <= quiet:
            return Finding(name, Verdict.ALIVE, f"progress {_seconds(age)} ago")
        if not await ask(name):
            return Finding(name, Verdict.UNKNOWN, f"progress {_seconds(age)} ago, and the broker is away")
        until = timer() + wait
        while timer() < until:
            await sleep(LOOK_EVERY_S)
            seen, _ = await _look(store, name)
            if seen is not None and seen.progress_at > row.progress_at:
                return Finding(name, Verdict.ALIVE, f"answers, but nothing came to it for {_seconds(age)}: no ticks?")
    except StoreUnavailableError:
        return Finding(name, Verdict.UNKNOWN, "the database is away")
    return Finding(name, Verdict.HANGS, f"no progress for {_seconds(age)}, and it does not answer a canary")


async def workers_of(store: Store, host: str, *, running: Callable[[int], bool] | None = None) -> Sequence[str]:
    """Names of the workers of this host whose process runs.

    Args:
        host: as in their names.
        running: whether a process id of this host is taken.

    Raises:
        StoreUnavailableError: the database is away.
    """
    runs = running or process_runs
    async with store.reading() as unit:
        rows = await unit.workers.list()
    mine = [row.name for row in rows if row.kind == WORKER and row.name.rpartition("/")[0] == host]
    return [name for name in mine if runs(int(name.rpartition("/")[2]))]


def process_runs(pid: int) -> bool:
    """Whether a process of this host has that id, ours or not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def _look(store: Store, name: str) -> tuple[WorkerRow | None, timedelta]:
    """The row, and how long ago it moved by the database's clock."""
    async with store.reading() as unit:
        row = await unit.workers.get(name)
        return row, timedelta() if row is None else await unit.now() - row.progress_at


def _seconds(age: timedelta) -> str:
    return f"{age.total_seconds():.0f} s"
