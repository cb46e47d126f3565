"""What the end of one claim costs PostgreSQL, by how many there are: consent and claim held, cursors, end written.

    python -m bench.ends [--rows 4000 100000] [--rounds 300]

Processor time of the server's own process for one transaction, in milliseconds, with statistics of the tables and
without; the plans are those that a connection keeps.  Starts a PostgreSQL of its own.
"""

import argparse
import asyncio
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId, Slug
from syncworker.store import migrate
from syncworker.store.cursors import Checked
from syncworker.store.situations import before_writes
from syncworker.store.unit_of_work import Store
from syncworker.store.work import Claim, End, WorkKind
from tests.ground.postgres import PostgresServer

FILL = (
    """INSERT INTO work (tenant, kind, subject, lfi, due_at, gen, started_gen, lease_until, last_started_at)
       SELECT 'default', 'sync', 'c' || i, 'bank', now(), 1, 1, now() + interval '1 day', now()""",
    """INSERT INTO connection (tenant, connection_id, lfi, user_ref, created_at)
       SELECT 'default', 'c' || i, 'bank', 'u' || i, now()""",
    """INSERT INTO consent (tenant, consent_id, connection_id, lfi, version, status, status_seen_at, permissions,
                            expires_at, user_type, purpose, created_at)
       SELECT 'default', 'c' || i, 'c' || i, 'bank', 'v2.1', 'Authorized', now(), '[]', now(), 'Retail', 'x', now()""",
    """INSERT INTO cursor (tenant, connection_id, account_id, resource, due_at, gen)
       SELECT 'default', 'c' || i, 'a', r, now(), 1""",
)


def processor_s(pid: int) -> float:
    """Processor seconds of a process so far."""
    told = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


async def measure(url: str, rows: int, rounds: int) -> tuple[float, float]:
    """Milliseconds of the server's processor, and by the clock, for one end."""
    store = Store(url, connections=1)
    pid = 0
    numbers = [1 + (37 * number) % rows for number in range(rounds + 20)]
    for place, number in enumerate(numbers):
        name = ConsentId(f"c{number}")
        claim = Claim(number, WorkKind.SYNC, name, Slug("bank"), 1)
        now = datetime.now(UTC)
        async with store.writing() as unit:
            if place == 20:
                pid = int(await unit.connection.scalar(sa.text("SELECT pg_backend_pid()")) or 0)
                began, spent = time.perf_counter(), processor_s(pid)
            await before_writes(unit, [(name, claim)])
            those = [Checked(connection_id=name, account_id="a", resource=one, due_at=now, gen=1)
                     for one in (ResourceName.BALANCES, ResourceName.TRANSACTIONS)]  # fmt: skip
            end = End(claim=claim, due_at=now + timedelta(hours=1), outcome="unchanged", good=True)
            unit.with_commit(
                [
                    unit.cursors.checking(those, at=now),
                    unit.consents.receiving([name], at=now),
                    unit.work.finishing([end]),
                ]
            )
            await unit.commit()
    taken = (processor_s(pid) - spent) * 1_000 / rounds, (time.perf_counter() - began) * 1_000 / rounds
    await store.close()
    return taken


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[4_000, 100_000])
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    server = PostgresServer()
    try:
        migrate.upgrade(server.make_template())
        for rows in options.rows:
            for analyzed in (False, True):
                database = server.clone()
                url = server.url(database)
                engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
                with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as own:
                    for statement in FILL:
                        listings = ", unnest(ARRAY['balances', 'transactions']) r" if " r, " in statement else ""
                        own.execute(sa.text(f"{statement} FROM generate_series(1, {rows}) i{listings}"))
                    if analyzed:
                        own.execute(sa.text("ANALYZE"))
                engine.dispose()
                server_ms, clock_ms = asyncio.run(measure(url, rows, options.rounds))
                known = f"{rows:,} rows {'with' if analyzed else 'without'} statistics"
                print(f"{known:>34}  {server_ms:7.2f} ms  {clock_ms:7.2f} ms by the clock")
                server.drop(database)
    finally:
        server.close()


if __name__ == "__main__":
    main()
