"""Liveness is progress: who is judged alive, hung, absent, and when nobody is blamed."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from syncworker.schedule.health import QUIET_MIN, Verdict, judge, quiet_max, workers_of
from syncworker.store.unit_of_work import Store
from syncworker.store.workers import CANARY_AGAIN, GIVEN_UP
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

NAME = "here/17"
QUIET = timedelta(seconds=30)


async def arrive(store: Store, *names: str) -> None:
    for name in names:
        await store.atomically(lambda unit, name=name: unit.workers.arrive(name))  # type: ignore[misc]


def answering(store: Store) -> Callable[[str], Awaitable[bool]]:
    """A broker and a worker that hears it."""

    async def ask(name: str) -> bool:
        await store.atomically(lambda unit: unit.workers.canary_came(name))
        return True

    return ask


async def deaf(_name: str) -> bool:
    """A broker that takes the canary, and nobody who hears it."""
    return True


async def away(_name: str) -> bool:
    """No broker."""
    return False


async def verdict(
    store: Store, clock: ManualClock, *, quiet_for: timedelta, ask: Callable[[str], Awaitable[bool]]
) -> Verdict:
    """Of a worker that made progress `quiet_for` ago."""
    await arrive(store, NAME)
    clock.advance(seconds=quiet_for.total_seconds())

    async def sleep(seconds: float) -> None:
        clock.advance(seconds=seconds)

    found = await judge(store, NAME, quiet=QUIET, ask=ask, sleep=sleep, timer=lambda: clock.now().timestamp())
    return found.verdict


async def test_a_worker_that_made_progress_is_alive_and_not_asked(store: Store, clock: ManualClock) -> None:
    """No message is sent for it."""
    assert await verdict(store, clock, quiet_for=QUIET, ask=away) is Verdict.ALIVE


async def test_a_quiet_worker_that_answers_is_alive(store: Store, clock: ManualClock) -> None:
    """Beat is away, or other workers take every tick: nobody called it."""
    assert await verdict(store, clock, quiet_for=2 * QUIET, ask=answering(store)) is Verdict.ALIVE


async def test_a_quiet_worker_that_does_not_answer_hangs(store: Store, clock: ManualClock) -> None:
    """Its loop stands still, or its connection to the broker is half open."""
    assert await verdict(store, clock, quiet_for=2 * QUIET, ask=deaf) is Verdict.HANGS


async def test_nobody_is_blamed_while_the_broker_is_away(store: Store, clock: ManualClock) -> None:
    """A restart would mend nothing."""
    assert await verdict(store, clock, quiet_for=2 * QUIET, ask=away) is Verdict.UNKNOWN


async def test_a_worker_nobody_knows_is_absent(store: Store) -> None:
    """It never began, or left in order."""
    found = await judge(store, NAME, quiet=QUIET, ask=away)

    assert (found.verdict, found.good) == (Verdict.ABSENT, False)


async def test_nobody_is_blamed_while_the_database_is_away(open_store: Callable[..., Store]) -> None:
    """A worker may hold a new token that it cannot store yet."""
    found = await judge(open_store("postgresql://user@127.0.0.1:9/none"), NAME, quiet=QUIET, ask=deaf)

    assert (found.verdict, found.good) == (Verdict.UNKNOWN, True)


@pytest.mark.parametrize(("tick", "expected"), [(0.3, QUIET_MIN), (5, QUIET_MIN), (60, timedelta(minutes=3))])
def test_three_ticks_and_a_floor(tick: float, expected: timedelta) -> None:
    """A worker reconnects within 20 s by itself: no shorter silence counts."""
    assert quiet_max(tick) == expected


async def test_only_living_workers_of_this_host_count(store: Store) -> None:
    """Rows of other hosts, and of processes that ended without a word, are nobody's fault here."""
    await arrive(store, "here/1", "here/2", "there/1")

    assert await workers_of(store, "here", running=lambda pid: pid == 2) == ["here/2"]


async def test_a_canary_is_sent_again_only_when_it_came_or_was_lost(store: Store, clock: ManualClock) -> None:
    """At most one waits in a worker's queue; a broker that lost its data costs one more."""
    await arrive(store, NAME, "here/18")

    async def ask() -> list[str]:
        return list(await store.atomically(lambda unit: unit.workers.ask_canaries()))

    first, second = await ask(), await ask()
    clock.advance(seconds=1)
    await store.atomically(lambda unit: unit.workers.canary_came(NAME))
    came = await ask()
    clock.advance(seconds=CANARY_AGAIN.total_seconds() + 1)
    lost = await ask()

    assert (first, second, came, lost) == ([NAME, "here/18"], [], [NAME], [NAME, "here/18"])


async def test_a_worker_long_quiet_gets_no_canary(store: Store, clock: ManualClock) -> None:
    """Nobody would collect them; a worker that comes back says so itself."""
    await arrive(store, NAME)
    clock.advance(seconds=GIVEN_UP.total_seconds() + 1)

    assert await store.atomically(lambda unit: unit.workers.ask_canaries()) == []


async def test_a_name_that_begins_anew_forgets_its_past(store: Store, clock: ManualClock) -> None:
    """A restarted container keeps host name and process id."""
    await arrive(store, NAME)
    await store.atomically(lambda unit: unit.workers.ask_canaries())
    clock.advance(seconds=600)
    await arrive(store, NAME)
    async with store.reading() as unit:
        row = await unit.workers.get(NAME)

    assert row is not None
    assert (row.started_at, row.progress_at, row.canary_asked_at) == (clock.now(), clock.now(), None)
