"""What a claim writes, and how free slots are counted without an index of leases; on PostgreSQL and on SQLite."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from syncworker.schedule.claims import LFIS_AT_ONCE, portions
from syncworker.standard.values import Slug
from syncworker.store import migrate
from syncworker.store.tables import open_claims
from syncworker.store.unit_of_work import Store
from syncworker.store.work import LEASE, Claim, WorkKind
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

NOOR, WAHA = Slug("noor"), Slug("waha")
SYNC = WorkKind.SYNC


async def due(store: Store, clock: ManualClock, *subjects: str, lfi: Slug = NOOR) -> None:
    async with store.writing() as unit:
        for subject in subjects:
            await unit.work.schedule(SYNC, subject, lfi=lfi, due_at=clock.now() - timedelta(hours=1))
        await unit.commit()


async def claim(store: Store, slots: dict[Slug, int]) -> list[Claim]:
    return await store.atomically(lambda unit: unit.work.claim(SYNC, slots=slots))


async def listed(store: Store) -> dict[str, list[int]]:
    async with store.reading() as unit:
        rows = await unit.connection.execute(sa.select(open_claims.c.lfi, open_claims.c.work_ids))
        return {row.lfi: list(row.work_ids) for row in rows}


async def written(store: Store) -> tuple[int, int]:
    """Row versions of `work` written so far, and how many of them went into no index."""
    async with store.reading() as unit:
        await unit.connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
    async with store.reading() as unit:
        counts = await unit.connection.execute(
            sa.text("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'work'")
        )
        row = counts.one()
        return row.n_tup_upd, row.n_tup_hot_upd


async def test_a_claim_is_written_into_no_index(
    postgresql_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """PostgreSQL: claimed, taken, extended and given back, each row stays on its page: every update is heap-only.

    Few rows, so that their page has room for all versions.
    """
    store = open_store(postgresql_url, connections=1)
    await due(store, clock, *(f"connection-{n}" for n in range(5)))
    before = await written(store)

    claims = await claim(store, {NOOR: 5})
    hints = [(one.id, one.gen) for one in claims]
    taken = await store.atomically(lambda unit: unit.work.take_many(hints))
    held = await store.atomically(lambda unit: unit.work.extend_many(taken))
    freed = await store.atomically(lambda unit: unit.work.give_back(taken))
    after = await written(store)

    assert (len(claims), len(taken), len(held), freed) == (5, 5, 5, 5)
    assert (after[0] - before[0], after[1] - before[1]) == (20, 20)


async def test_a_list_names_who_holds_slots_and_forgets_who_ended(store: Store, clock: ManualClock) -> None:
    """An end leaves its id behind; the next claim drops it, and takes as many as are free."""
    await due(store, clock, "one", "two", "three", "four")
    first, second = await claim(store, {NOOR: 2})
    ended = await store.atomically(
        lambda unit: unit.work.finish(first, due_at=clock.now() + timedelta(days=1), outcome="ok", good=True)
    )
    between = await listed(store)

    (third,) = await claim(store, {NOOR: 2})

    assert (ended, between) == (True, {"noor": sorted([first.id, second.id])})
    assert await listed(store) == {"noor": sorted([second.id, third.id])}


async def test_a_lease_that_ran_out_frees_its_slot(store: Store, clock: ManualClock) -> None:
    """The row comes back by its due time; its id is in the list once."""
    await due(store, clock, "one", "two")
    (first,) = await claim(store, {NOOR: 1})
    none = await claim(store, {NOOR: 1})
    clock.advance(seconds=LEASE.total_seconds())

    (again,) = await claim(store, {NOOR: 1})

    assert (none, again.id, again.gen, await listed(store)) == ([], first.id, 2, {"noor": [first.id]})


async def test_who_passes_the_dispatcher_by_holds_a_slot_too(store: Store, clock: ManualClock) -> None:
    """One subject claimed by hand counts when the dispatcher comes."""
    await due(store, clock, "one", "two", "three")
    mine = await store.atomically(lambda unit: unit.work.claim_one(SYNC, "three"))
    assert mine is not None

    theirs = await claim(store, {NOOR: 2})

    assert [one.subject for one in theirs] == ["one"]
    assert await listed(store) == {"noor": sorted([mine.id, theirs[0].id])}


async def test_two_dispatchers_claim_side_by_side_for_different_lfis(
    postgresql_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """PostgreSQL: while one claims for an LFI, another is turned away there and claims for the rest."""
    ours, theirs = open_store(postgresql_url), open_store(postgresql_url)
    await due(ours, clock, "n-1", "n-2")
    await due(ours, clock, "w-1", lfi=WAHA)
    await claim(ours, {NOOR: 1, WAHA: 0})  # its list is there

    async with ours.writing() as unit:
        mine = await unit.work.claim(SYNC, slots={NOOR: 2})
        meanwhile = await claim(theirs, {NOOR: 2, WAHA: 2})
        await unit.commit()

    assert [[one.subject for one in claims] for claims in (mine, meanwhile)] == [["n-2"], ["w-1"]]


def test_portions_hold_every_lfi_once_and_begin_elsewhere() -> None:
    """No LFI is left out, whichever dispatcher cuts them."""
    slots = {Slug(f"lfi-{n:02}"): n for n in range(4 * LFIS_AT_ONCE + 3)}
    cut = [portions(slots, name=f"host/{n}") for n in range(20)]

    assert all({slug: most for some in each for slug, most in some.items()} == slots for each in cut)
    assert all([len(some) <= LFIS_AT_ONCE for some in each] == [True] * 5 for each in cut)
    assert len({next(iter(each[0])) for each in cut}) > 1
    assert portions({}, name="host/1") == []


def test_open_claims_survive_the_migration(database_url: str) -> None:
    """Leases of a running installation are in the lists afterwards; back and forth loses none."""
    engine = sa.create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    migrate.downgrade(database_url, "0009")
    rows: list[dict[str, Any]] = [
        {"id": n, "kind": kind, "subject": f"s-{n}", "lfi": lfi, "lease": lease}
        for n, kind, lfi, lease in [
            (1, "sync", "noor", "2026-11-21T10:00:00.000000Z"),
            (2, "sync", "noor", "2020-01-01T00:00:00.000000Z"),
            (3, "sync", "noor", None),
            (4, "token", "waha", "2026-11-21T10:00:00.000000Z"),
        ]
    ]
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO work (id, tenant, kind, subject, lfi, due_at, lease_until)"
                " VALUES (:id, 'default', :kind, :subject, :lfi, '2026-11-21T09:00:00.000000Z', :lease)"
            ),
            rows,
        )

    migrate.upgrade(database_url)
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT kind, lfi, work_ids FROM open_claims ORDER BY kind")).all()
    lists = [(kind, lfi, sorted(json.loads(ids) if isinstance(ids, str) else ids)) for kind, lfi, ids in found]
    migrate.downgrade(database_url, "0009")

    assert lists == [("sync", "noor", [1, 2]), ("token", "waha", [4])]
