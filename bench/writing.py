"""What the ways to write a consent's rows cost: 440 transactions into PostgreSQL, new and then all of them changed.

    python -m bench.writing [--rows 440] [--rounds 7]

Every way writes the same rows in one transaction and commits; medians of microseconds a row: by the clock, and of
processor time, this process's and the database's.  Starts a PostgreSQL of its own.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from syncworker.bench.books import World, listings, rows
from syncworker.bench.databases import Databases
from syncworker.bench.drive import median
from syncworker.bench.measure import cost_of
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.records import Record
from syncworker.store.tables import RECORD_TABLES, typed_columns
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.sync.decode import columns_of
from tests.ground.postgres import PostgresServer

NAME = ResourceName.TRANSACTIONS
TABLE = RECORD_TABLES[NAME]
CONNECTION = ConsentId("bench")
NOW = datetime.now(UTC)
Write = Callable[[UnitOfWork, list[Record], int], Awaitable[object]]


def records(count: int, *, generation: int) -> list[Record]:
    """So many transactions as the decoder gives them."""
    world = World(consents=1, accounts=1, transactions=count, today=NOW.date())
    (listing,) = (one for one in listings(world, 0, changed=False) if one.resource is NAME)
    digest = generation.to_bytes(16, "big")
    return [Record(place.key, columns_of(NAME, item) or (), item, digest) for place, _, item in rows(listing)]


async def appended(unit: UnitOfWork, those: list[Record], gen: int) -> None:
    """What a first sync does: COPY into the table, the keys known to be new."""
    new = {"a": {one.key for one in those}}
    await unit.records.upsert(NAME, CONNECTION, {"a": those}, gen=gen, at=NOW, new=new)


async def staged(unit: UnitOfWork, those: list[Record], gen: int) -> None:
    """COPY into a temporary table, then `INSERT … ON CONFLICT`."""
    await unit.records.upsert(NAME, CONNECTION, {"a": those}, gen=gen, at=NOW)


def values(one: Record, gen: int) -> dict[str, Any]:
    """A row by column."""
    typed = dict(zip(typed_columns(TABLE), one.columns, strict=True))
    place = {"tenant": "default", "connection_id": CONNECTION, "account_id": "a", "key": one.key}
    frame = {"raw": b"\0" + one.raw, "digest": one.digest, "first_seen_at": NOW, "changed_at": NOW, "gen": gen}
    return place | typed | frame


async def core(unit: UnitOfWork, those: list[Record], gen: int) -> None:
    """SQLAlchemy Core, one upsert with all rows as `executemany`."""
    replaced = [*typed_columns(TABLE), "raw", "digest", "changed_at", "gen"]
    statement = unit.dialect.upsert(TABLE, ("tenant", "connection_id", "account_id", "key"), replaced)
    await unit.connection.execute(statement, [values(one, gen) for one in those])


async def one_by_one(unit: UnitOfWork, those: list[Record], gen: int) -> None:
    """A `SELECT` and an `INSERT` or `UPDATE` a row, as an ORM's merge does."""
    for one in those:
        row = values(one, gen)
        place = [TABLE.c[name] == row[name] for name in ("tenant", "connection_id", "account_id", "key")]
        if (await unit.connection.execute(sa.select(TABLE).where(*place))).first() is None:
            await unit.connection.execute(sa.insert(TABLE).values(row))
        else:
            await unit.connection.execute(sa.update(TABLE).where(*place).values(row))


WAYS: dict[str, tuple[Write, bool]] = {
    "COPY into the table (kept, for what is new)": (appended, False),
    "COPY into a staging table, then upsert (kept, for what may be there)": (staged, True),
    "Core upsert, `executemany`": (core, True),
    "row by row, as a merge": (one_by_one, True),
}


Seconds = tuple[float, float, float]


async def measured(store: Store, write: Write, those: list[Record], gen: int, server: list[int]) -> Seconds:
    """Seconds by the clock, of our processor time, and of the database's."""
    theirs, began, busy = cost_of(server).cpu_s, time.perf_counter(), time.process_time()
    await store.atomically(lambda unit: write(unit, those, gen))
    clock, ours = time.perf_counter() - began, time.process_time() - busy
    return clock, ours, cost_of(server).cpu_s - theirs


async def forget(store: Store) -> None:
    """Empty the table."""

    async def step(unit: UnitOfWork) -> None:
        await unit.connection.execute(sa.delete(TABLE))

    await store.atomically(step)


async def compare(url: str, count: int, rounds: int, server: list[int]) -> None:
    """Measure all ways by turns, and print."""
    store = Store(url)
    found: dict[tuple[str, str], list[Seconds]] = {}
    first, second = records(count, generation=1), records(count, generation=2)
    try:
        for number in range(rounds + 1):
            for name, (write, overwrites) in WAYS.items():
                await forget(store)
                new = await measured(store, write, first, 1, server)
                changed = await measured(store, write, second, 2, server) if overwrites else None
                if number:  # the first round warms caches
                    found.setdefault((name, "new"), []).append(new)
                    if changed:
                        found.setdefault((name, "changed"), []).append(changed)
    finally:
        await store.close()
    print(f"{count} rows in one transaction, µs a row: by the clock (processor: own + database, means)\n")
    print("| way | new | changed |\n|---|---:|---:|")
    for name in WAYS:
        cells = []
        for state in ("new", "changed"):
            those = found.get((name, state), [])
            if not those:
                cells.append("–")
                continue
            clock, own = (median([one[part] for one in those]) / count * 1e6 for part in (0, 1))
            database = sum(one[2] for one in those) / len(those) / count * 1e6  # the kernel counts it in 10 ms
            cells.append(f"{clock:,.0f} ({own:,.0f} + {database:,.0f})")
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=440)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    server = PostgresServer()
    try:
        with tempfile.TemporaryDirectory(prefix="swbench-") as folder:
            databases = Databases(Path(folder), server.url())
            with databases.fresh() as url:
                asyncio.run(compare(url, options.rows, options.rounds, databases.server_pids()))
            databases.close()
    finally:
        server.close()


if __name__ == "__main__":
    main()
