"""What exports cost: seconds and peak memory of one full export, by rows.

    python bench/exports.py --database-url URL --rows 1000000 [--users 1000] [--format parquet] [--fill]

With `--fill` an empty database is filled first, by the database itself.  Each run is a process of its own.
"""

import argparse
import asyncio
import resource
import tempfile
import time
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from bench import reads
from syncworker.store import migrate

_COLUMNS: Final = "tenant, connection_id, account_id, key"


def filled(url: str, users: int, rows: int) -> None:
    """Transactions like the one that is there, spread over the users' accounts."""
    migrate.upgrade(url)
    reads.fill(url, users, 1)
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    from syncworker.store.tables import transaction

    changed = {
        "connection_id": "'c' || mod(n, {users})",
        "account_id": "'a' || mod(n / {users}, 2)",
        "key": "'T' || n",
        "transaction_information": "'coffee ' || n",
    }
    names = [column.name for column in transaction.columns]
    values = ", ".join(changed.get(name, f't."{name}"').format(users=users) for name in names)
    series = (
        f"generate_series(1, {rows}) AS s(n)"
        if url.startswith("postgresql")
        else f"(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {rows}) SELECT n FROM c) s"
    )
    quoted = ", ".join(f'"{name}"' for name in names)
    with engine.begin() as own:
        own.exec_driver_sql(
            f'INSERT INTO "transaction" ({quoted}) SELECT {values} FROM {series}, "transaction" t'  # noqa: S608
            f" WHERE t.key = 'T00000000'"
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as own:
        own.execute(sa.text("ANALYZE"))
    engine.dispose()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--fill", action="store_true")
    parser.add_argument("--stream", action="store_true")
    given = parser.parse_args()
    if given.fill:
        filled(given.database_url, given.users, given.rows)
        return
    asyncio.run(streamed(given.database_url))


async def streamed(url: str) -> None:
    """The stream alone, into nothing."""
    from syncworker.exports.schema import TABLES
    from syncworker.exports.snapshot import Reader
    from syncworker.store.unit_of_work import Store

    import pyarrow as pa

    store = Store(url)
    began = time.perf_counter()
    held = 0

    def take(lfi: str, batch: pa.RecordBatch) -> None:
        nonlocal held
        held += batch.nbytes

    async with store.exporting() as snapshot:
        for table in TABLES.values():
            started = time.perf_counter()
            rows = await Reader(snapshot).whole(table, take)
            print(f"{table.name}: {rows} rows, {time.perf_counter() - started:.1f} s")
    await store.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.perf_counter() - began:.1f} s, {held / 1e6:.0f} MB in Arrow, peak {peak:.0f} MB")


if __name__ == "__main__":
    main()
