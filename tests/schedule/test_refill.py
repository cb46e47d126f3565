"""What follows a batch at once, and which worker takes it; on PostgreSQL and on SQLite."""

from datetime import timedelta

import pytest

from syncworker.schedule.claims import Dispatcher
from syncworker.standard.values import Slug
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import End, WorkKind
from syncworker.tasks import SyncThreads
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

NOOR, WAHA = Slug("noor"), Slug("waha")
SYNC, TOKEN = WorkKind.SYNC, WorkKind.TOKEN
SLOTS = {NOOR: 8}


@pytest.fixture
def dispatcher(store: Store) -> Dispatcher:
    """Messages of four claims."""
    return Dispatcher(store, name="here", batch_size=4)


async def due(store: Store, clock: ManualClock, count: int, *, kind: WorkKind = SYNC, lfi: Slug = NOOR) -> None:
    async with store.writing() as unit:
        for number in range(count):
            at = clock.now() - timedelta(hours=1)
            await unit.work.schedule(kind, f"{lfi}-{number}", lfi=lfi, due_at=at)
        await unit.commit()


async def ended(store: Store, clock: ManualClock, hints: tuple[tuple[int, int], ...]) -> None:
    """Take claims and end them well."""

    async def step(unit: UnitOfWork) -> None:
        at = clock.now() + timedelta(days=1)
        taken = await unit.work.take_many(hints)
        ends = [End(claim=one, due_at=at, outcome="ok", good=True) for one in taken]
        unit.with_commit([unit.work.finishing(ends)])

    await store.atomically(step)


async def test_a_batch_that_ended_lets_the_next_follow(
    dispatcher: Dispatcher, store: Store, clock: ManualClock
) -> None:
    """As many as have room in the slots, batch by batch, until nothing is due: no tick comes between."""
    await due(store, clock, 18)
    sizes = []
    waiting = await dispatcher.tick(SLOTS)
    while waiting:
        batch = waiting.pop(0)
        sizes.append(len(batch.claims))
        await ended(store, clock, batch.claims)
        waiting += await dispatcher.refill(SYNC, SLOTS)

    assert sizes == [4, 4, 4, 4, 2]


async def test_nothing_follows_that_would_not_fill_a_message(
    dispatcher: Dispatcher, store: Store, clock: ManualClock
) -> None:
    """Three slots of eight are free, and messages are of four: the next end leaves more; a tick takes what it finds."""
    await due(store, clock, 18)
    first, _ = await dispatcher.tick(SLOTS)
    await ended(store, clock, first.claims[:3])

    refilled = await dispatcher.refill(SYNC, SLOTS)
    ticked = await dispatcher.tick(SLOTS)

    assert (refilled, [len(batch.claims) for batch in ticked]) == ([], [3])


async def test_one_kind_at_one_lfi_follows(dispatcher: Dispatcher, store: Store, clock: ManualClock) -> None:
    """What is due besides waits for its own batches, or the tick."""
    await due(store, clock, 3)
    await due(store, clock, 3, kind=TOKEN)
    await due(store, clock, 3, lfi=WAHA)

    found = await dispatcher.refill(TOKEN, SLOTS)

    assert [(batch.kind, batch.lfi, len(batch.claims)) for batch in found] == [(TOKEN, NOOR, 3)]


async def test_where_something_waits(dispatcher: Dispatcher, store: Store, clock: ManualClock) -> None:
    """Due and free, and nothing else: not what is claimed, parked, or due later."""
    places = [(kind, lfi) for kind in (SYNC, TOKEN) for lfi in (NOOR, WAHA)]
    await due(store, clock, 1, kind=TOKEN)
    await due(store, clock, 2)
    await due(store, clock, 1, lfi=WAHA)
    async with store.writing() as unit:
        row = await unit.work.find(SYNC, "waha-0")
        assert row is not None
        await unit.work.park(row.id)
        await unit.work.schedule(TOKEN, "waha-later", lfi=WAHA, due_at=clock.now() + timedelta(seconds=1))
        await unit.commit()

    found = []
    for lease in (timedelta(minutes=1), timedelta(minutes=5)):
        async with store.writing() as unit:
            found.append(await unit.work.waiting(places))
            await unit.work.claim(SYNC, slots=SLOTS, lease=lease)
            found.append(await unit.work.waiting(places))
            await unit.commit()
        clock.advance(minutes=2)

    assert found == [{(SYNC, NOOR), (TOKEN, NOOR)}, {(TOKEN, NOOR)}, {(SYNC, NOOR), (TOKEN, NOOR), (TOKEN, WAHA)},
                     {(TOKEN, NOOR), (TOKEN, WAHA)}]  # fmt: skip


def test_a_worker_with_enough_of_an_lfi_has_no_thread_for_more() -> None:
    """Two of its batches, then another worker's turn; another LFI's finds a thread, and so does one passed on."""
    threads = SyncThreads(6)
    got = []
    with threads.taken(NOOR, most=2, wait=0), threads.taken(NOOR, most=2, wait=0):
        with threads.taken(NOOR, most=2, wait=0) as third:
            got.append(third)
        with threads.taken(WAHA, most=2, wait=0) as other:
            got.append(other)
        with threads.taken(NOOR, wait=0) as taken_anyway:
            got.append(taken_anyway)
    with threads.taken(NOOR, most=2, wait=0) as later:
        got.append(later)

    assert got == [False, True, True, True]
