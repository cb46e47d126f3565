"""A row that ends its process takes others along: they are told apart, on PostgreSQL and on SQLite."""

import pytest

from syncworker.store.unit_of_work import Store
from syncworker.store.work import CRASHES_MAX, LEASE, SUSPECT_AFTER, SUSPECTS_AT_ONCE, Claim, WorkKind
from tests.ground.clock import ManualClock
from tests.schedule.test_work import HOUR, SYNC, TOKEN, Desk

pytestmark = pytest.mark.store


@pytest.fixture
def desk(store: Store, clock: ManualClock) -> Desk:
    return Desk(store, clock)


async def crash(desk: Desk, clock: ManualClock, *subjects: str, kind: WorkKind = SYNC) -> None:
    """Let rows be begun together and never ended, as often as makes them suspects."""
    for _ in range(SUSPECT_AFTER):
        claims = await desk.claim(kind)
        assert {claim.subject for claim in claims} >= set(subjects)
        for claim in claims:
            await desk.take(claim)
        clock.advance(seconds=LEASE.total_seconds())


async def test_none_is_parked_for_being_in_work_beside_a_deadly_row(desk: Desk, clock: ManualClock) -> None:
    """Sixty rows in one process with the one that ends it: it alone is parked, each of the others has its good end."""
    innocent = [f"connection-{number}" for number in range(60)]
    await desk.due(*innocent[:30], "poison", *innocent[30:])
    for _ in range(200):
        claims = await desk.claim()
        for claim in claims:
            await desk.take(claim)
        if "poison" in {claim.subject for claim in claims}:
            clock.advance(seconds=LEASE.total_seconds())  # the process is gone, and everything in it
            continue
        for claim in claims:
            assert await desk.finish(claim)
        if (await desk.row("poison")).parked_at is not None and not claims:
            break

    rows = [await desk.row(subject) for subject in innocent]
    assert (await desk.row("poison")).crashes == CRASHES_MAX
    assert {(row.parked_at, row.last_outcome, row.crashes) for row in rows} == {(None, "ok", 0)}


async def test_a_group_of_suspects_waits_for_the_one_before(desk: Desk, clock: ManualClock) -> None:
    """Rows that crashed twice come back in groups; while one group is in work no other is claimed."""
    subjects = [f"connection-{number:02}" for number in range(SUSPECTS_AT_ONCE + 4)]
    await desk.due(*subjects)
    await desk.due("consent-1", kind=TOKEN)
    await crash(desk, clock, *subjects)

    first = await desk.claim()
    meanwhile = await desk.claim()
    for claim in first:
        await desk.take(claim)
        await desk.finish(claim)
    second = await desk.claim()

    assert ([claim.subject for claim in first], meanwhile) == (subjects[:SUSPECTS_AT_ONCE], [])
    assert [claim.subject for claim in second] == subjects[SUSPECTS_AT_ONCE:]


async def test_after_one_more_crash_a_suspect_is_claimed_alone(desk: Desk, clock: ManualClock) -> None:
    """A group that died is taken apart, and its rows meet nobody else's guilt any more."""
    subjects = ["connection-1", "connection-2", "connection-3"]
    await desk.due(*subjects)
    await crash(desk, clock, *subjects)
    for claim in await desk.claim():
        await desk.take(claim)
    clock.advance(seconds=LEASE.total_seconds())

    alone: list[list[str]] = []
    for _ in subjects:
        claims: list[Claim] = await desk.claim()
        alone.append([claim.subject for claim in claims])
        for claim in claims:
            await desk.take(claim)
            await desk.finish(claim)

    assert alone == [["connection-1"], ["connection-2"], ["connection-3"]]


async def test_a_single_crash_costs_nothing_but_the_lease(desk: Desk, clock: ManualClock) -> None:
    """A worker that was killed: what it had begun comes back at once, all of it, beside what is newly due."""
    subjects = [f"connection-{number:02}" for number in range(40)]
    await desk.due(*subjects)
    for claim in await desk.claim():
        await desk.take(claim)
    clock.advance(seconds=LEASE.total_seconds())
    await desk.due("new", ago=HOUR / 2)

    assert len(await desk.claim()) == 41
