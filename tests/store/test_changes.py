"""The feed skips nothing, in whatever order transactions begin, write and commit."""

from collections.abc import Callable
from datetime import datetime

import pytest

from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.changes import BEGINNING, Op, Place, RowChange, RowChanges
from syncworker.store.unit_of_work import Store, UnitOfWork
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

CONNECTION = ConsentId("root-1")


async def append(unit: UnitOfWork, key: str, at: datetime) -> None:
    """One change, in an open transaction."""
    one = RowChanges("acc-1", ResourceName.TRANSACTIONS, Op.ADDED, [key])
    await unit.changes.append(CONNECTION, [one], at=at, gen=1)
    await unit.send()


async def read(store: Store, after: Place) -> tuple[list[str], Place]:
    """Keys behind a place, and where the reader stands then."""
    async with store.reading() as unit:
        rows = await unit.changes.read(after=after)
    return [row.change.key for row in rows], rows[-1].place if rows else after


async def test_a_reader_goes_on_where_it_stood(store: Store, clock: ManualClock) -> None:
    """Pages of the feed show every change once, in order."""
    async with store.writing() as unit:
        for number in range(5):
            await append(unit, f"tx-{number}", clock.now())
        await unit.commit()

    async with store.reading() as unit:
        first = await unit.changes.read(limit=2)
        second = await unit.changes.read(after=first[-1].place, limit=2)
        third = await unit.changes.read(after=second[-1].place, limit=2)

    assert [row.change.key for row in (*first, *second, *third)] == [f"tx-{number}" for number in range(5)]


@pytest.mark.parametrize("moved_clock", [True, False])
async def test_changes_appended_together_keep_their_order(
    database_url: str, open_store: Callable[..., Store], clock: ManualClock, moved_clock: bool
) -> None:
    """Listing by listing and key by key, whatever the keys are made of."""
    store = open_store(database_url, clock=clock if moved_clock else None)
    odd = ['z"\\{', "a,é\n", "null"]
    those = [
        RowChanges("acc-2", ResourceName.BALANCES, Op.MODIFIED, odd),
        RowChanges("", ResourceName.PARTIES, Op.REMOVED, ["p"]),
        RowChanges("acc-1", ResourceName.BALANCES, Op.ADDED, []),
    ]
    async with store.writing() as unit:
        await unit.changes.append(CONNECTION, those, at=clock.now(), gen=7)
        await unit.commit()
    async with store.reading() as unit:
        rows = await unit.changes.read()
    assert [(row.change, row.at, row.gen) for row in rows] == [
        (RowChange(one.account_id, one.resource, key, one.op), clock.now(), 7) for one in those for key in one.keys
    ]


@pytest.mark.parametrize("late_writes_first", [True, False], ids=["lower number", "higher number"])
async def test_a_transaction_that_commits_late_is_not_skipped(
    postgresql_url: str, open_store: Callable[..., Store], clock: ManualClock, late_writes_first: bool
) -> None:
    """Whoever took the lower number: a reader that comes in between sees both changes in the end, each once."""
    store = open_store(postgresql_url)
    async with store.writing() as late, store.writing() as early:
        first, second = (late, early) if late_writes_first else (early, late)
        await append(first, "first", clock.now())
        await append(second, "second", clock.now())
        await early.commit()
        seen, place = await read(store, BEGINNING)
        await late.commit()
    more, _ = await read(store, place)

    assert sorted(seen + more) == ["first", "second"]


async def test_a_younger_transaction_with_a_lower_number_is_not_skipped(
    postgresql_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """The older one began first and wrote second; with the number as place, its reader passed over the younger."""
    store = open_store(postgresql_url)
    async with store.writing() as older, store.writing() as younger:
        await older.changes.append(CONNECTION, [], at=clock.now(), gen=1)
        await older.connection.exec_driver_sql("SELECT pg_current_xact_id()")
        await append(younger, "number 1", clock.now())
        await append(older, "number 2", clock.now())
        await older.commit()
        seen, place = await read(store, BEGINNING)
        await younger.commit()
    more, _ = await read(store, place)

    assert sorted(seen + more) == ["number 1", "number 2"]


async def test_who_starts_at_the_head_sees_what_comes_from_now_on(store: Store, clock: ManualClock) -> None:
    """History before it stays behind."""
    async with store.writing() as unit:
        await append(unit, "before", clock.now())
        await unit.commit()
    async with store.reading() as unit:
        head = await unit.changes.head()

    async with store.writing() as unit:
        await append(unit, "after", clock.now())
        await unit.commit()

    assert (await read(store, head))[0] == ["after"]
