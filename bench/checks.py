"""What PostgreSQL logs of a sync that found nothing new: its checks, beside the cursors it would write otherwise.

    python -m bench.checks [--listings 19] [--rounds 200]

Bytes of write-ahead log for one transaction with nothing else in it: on average, and right after a checkpoint, when
each page written goes to the log as a whole.  Cursors hold 2 kB of digests, as those of a long listing do.  Starts a
PostgreSQL of its own.
"""

import argparse
import asyncio
import os
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store import migrate
from syncworker.store.cursors import Checked, Cursor, Listing
from syncworker.store.statements import Told
from syncworker.store.unit_of_work import Store, UnitOfWork
from tests.ground.postgres import PostgresServer

Way = Callable[[UnitOfWork, list[Checked], datetime], Told]
CONNECTION = ConsentId("c1")
PAGES = 2_000


def listings(number: int) -> list[Listing]:
    """So many listings of as few accounts as have them."""
    names = list(ResourceName)
    accounts = [str(uuid.uuid4()) for _ in range(number // len(names) + 1)]
    return sorted(Listing(accounts[place // len(names)], names[place % len(names)]) for place in range(number))


async def logged(store: Store) -> int:
    """Bytes of write-ahead log so far."""
    async with store.reading() as unit:
        return int(await unit.connection.scalar(sa.text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")) or 0)


async def measure(url: str, number: int, rounds: int, told: Way) -> str:
    """A transaction's bytes, on average and after a checkpoint."""
    store = Store(url, connections=2)
    now = datetime.now(UTC)
    those = listings(number)
    async with store.writing() as unit:
        cursors = [
            Cursor(listing=one, due_at=now, gen=0, pages=os.urandom(PAGES), checked_at=now, outcome="ok")
            for one in those
        ]
        await unit.cursors.advance(CONNECTION, cursors)
        await unit.commit()

    async def once(gen: int) -> None:
        at = now + gen * timedelta(hours=1)
        checked = [
            Checked(connection_id=CONNECTION, account_id=one.account_id, resource=one.resource,
                    due_at=at + timedelta(hours=6 if one.resource is ResourceName.BALANCES else 24), gen=gen)
            for one in those
        ]  # fmt: skip
        async with store.writing() as unit:
            unit.with_commit([told(unit, checked, at)])
            await unit.commit()

    await once(1)
    before = await logged(store)
    for gen in range(2, rounds + 2):
        await once(gen)
    usual = (await logged(store) - before) / rounds
    async with store.writing() as unit:
        await unit.connection.exec_driver_sql("CHECKPOINT")
    before = await logged(store)
    await once(rounds + 2)
    first = await logged(store) - before
    await store.close()
    return f"{usual:9,.0f} bytes {first:9,.0f} after a checkpoint"


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listings", type=int, default=19)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    server = PostgresServer(settings={"full_page_writes": "on"})
    try:
        migrate.upgrade(server.make_template())
        ways: dict[str, Way] = {
            "cursors": lambda unit, those, at: unit.cursors.recovering(those, at=at),
            "checks": lambda unit, those, at: unit.cursors.checking(those, at=at),
        }
        for name, told in ways.items():
            database = server.clone()
            taken = asyncio.run(measure(server.url(database), options.listings, options.rounds, told))
            print(f"{options.listings:>5} listings, {name:<8} {taken}")
            server.drop(database)
    finally:
        server.close()


if __name__ == "__main__":
    main()
