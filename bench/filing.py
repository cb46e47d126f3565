"""What it costs to file a run that found nothing new: WAL, room in the tables, and processor time here and there.

    python -m bench.filing [--runs 2000] [--together 10]

One account with everything the standard lists for it, nineteen calls, none of them explained by the LFI; runs are
filed so many in one transaction, as `sync.run.end_all` does.  WAL is read from `pg_current_wal_lsn`, with full page
images (a checkpoint comes first) and, the second half, without most of them.  Starts a PostgreSQL of its own.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from bench.ends import processor_s
from syncworker.standard.interaction import Interactions
from syncworker.standard.resources import RESOURCES
from syncworker.standard.values import ConsentId, Slug
from syncworker.store import migrate
from syncworker.store.calls import CallRow
from syncworker.store.runs import RunRow
from syncworker.store.unit_of_work import Store, UnitOfWork
from tests.ground.postgres import PostgresServer

CALLS = 19
TABLES = ("run", "call")


def an_unchanged_run(number: int, began: datetime) -> tuple[RunRow, list[CallRow]]:
    """A run of one connection, with its calls."""
    consent_id, lfi = ConsentId(f"00000000-0000-4000-8000-{number:012x}"), Slug("bank")
    ids = Interactions(began)
    resources = [RESOURCES[place % len(RESOURCES)] for place in range(CALLS)]
    steps = [
        {"account_id": "100004000000000000000001", "resource": one.name.value, "outcome": "unchanged",
         "pages": 1, "pages_unchanged": 1}
        for one in resources
    ]  # fmt: skip
    run = RunRow(
        connection_id=consent_id, consent_id=consent_id, lfi=lfi, gen=number, started_at=began,
        ended_at=began + timedelta(seconds=1), outcome="unchanged", error=None, calls=CALLS, pages=CALLS,
        pages_unchanged=CALLS, added=0, modified=0, removed=0, steps=steps,
    )  # fmt: skip
    calls = [
        CallRow(
            lfi=lfi, consent_id=consent_id, operation=one.operation, status=200, error=None,
            interaction_id=ids.new(), started_at=began + timedelta(microseconds=random.randrange(900_000)),
            duration_ms=random.randrange(20, 400), bytes_in=random.randrange(200, 9_000), attended=False,
            price_millifils=2_500,
        )
        for one in resources
    ]  # fmt: skip
    return run, calls


async def measure(url: str, *, runs: int, together: int) -> None:
    """Print what one run costs."""
    store = Store(url, connections=1)
    began = datetime.now(UTC).replace(microsecond=0)
    made = [an_unchanged_run(number, began + timedelta(milliseconds=10 * number)) for number in range(runs)]
    batches = [made[place : place + together] for place in range(0, runs, together)]
    for half, some in enumerate((batches[: len(batches) // 2], batches[len(batches) // 2 :])):
        async with store.writing() as unit:
            pid = int(await unit.connection.scalar(sa.text("SELECT pg_backend_pid()")) or 0)
            if not half:
                await unit.connection.execute(sa.text("CHECKPOINT"))
            lsn, sizes = await _wal(unit), await _sizes(unit)
        here, there, clock = time.process_time(), processor_s(pid), time.perf_counter()
        for batch in some:
            await _file(store, batch)
        count = sum(map(len, some))
        took = time.process_time() - here, processor_s(pid) - there, time.perf_counter() - clock
        async with store.writing() as unit:
            wal, grown = await _wal(unit) - lsn, await _sizes(unit) - sizes
        print(
            f"{'after a checkpoint' if not half else 'later':>18}: WAL {wal / count:7.0f}, tables {grown / count:7.0f}"
            f" bytes; here {took[0] / count * 1e6:6.0f}, the server {took[1] / count * 1e6:6.0f},"
            f" by the clock {took[2] / count * 1e6:6.0f} us a run"
        )
    await store.close()


async def _file(store: Store, batch: Sequence[tuple[RunRow, Sequence[CallRow]]]) -> None:
    async with store.writing() as unit:
        await unit.runs.file(batch)
        await unit.commit()


async def _wal(unit: UnitOfWork) -> int:
    return int(await unit.connection.scalar(sa.text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")) or 0)


async def _sizes(unit: UnitOfWork) -> int:
    query = " + ".join(f"pg_total_relation_size('{name}')" for name in TABLES)
    return int(await unit.connection.scalar(sa.text(f"SELECT {query}")) or 0)


def main() -> None:
    """Start a server, file, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4_000)
    parser.add_argument("--together", type=int, default=10)
    options = parser.parse_args()
    server = PostgresServer()
    try:
        migrate.upgrade(server.make_template())
        asyncio.run(measure(server.url(server.clone()), runs=options.runs, together=options.together))
    finally:
        server.close()


if __name__ == "__main__":
    main()
