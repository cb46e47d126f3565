"""What a first, an unchanged and a changed sync write: log, statements, rows; and what a row takes on disk.

    python -m bench.writes [--consents 100] [--transactions 200] [--json]

The product syncs as in production (broker, claims, two workers) on a PostgreSQL of its own; each figure is one
consent's share.  The log (WAL) is that of the records alone, without images of pages: how many images a change costs
depends on how long ago the last checkpoint was.  Statements are counted by `pg_stat_statements` where the server
brings it.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psycopg

from syncworker.bench.bank import Bank
from syncworker.bench.books import World
from syncworker.bench.databases import Databases
from syncworker.bench.ground import Load
from syncworker.bench.phases import PHASES, Phase
from syncworker.bench.product import Product
from syncworker.clock import SystemClock
from tests.ground.postgres import PostgresServer

WORKERS: Final = 2
SERVER: Final = {"full_page_writes": "off", "max_wal_size": "4GB", "checkpoint_timeout": "1h"}
COUNTING: Final = {"shared_preload_libraries": "pg_stat_statements"}
_OURS: Final = "FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One consent's share of one phase.

    Attributes:
        wal_bytes: of the server's log.
        statements: that came to the server; `None` where it cannot count them.
        rows: written, by table: inserted, updated and deleted ones.
    """

    phase: Phase
    wal_bytes: int
    statements: float | None
    rows: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What a table takes once all phases are over: bytes a row, of the rows themselves and of all indexes."""

    table: str
    rows: int
    row_bytes: int
    index_bytes: int


class Counters:
    """The server's own counts, read between the phases."""

    def __init__(self, url: str, *, counting: bool) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._counting = counting
        self._from = 0
        if counting:
            self._connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    def close(self) -> None:
        """Let go of the server."""
        self._connection.close()

    def start(self) -> None:
        """Begin to count."""
        self._connection.execute("SELECT pg_stat_reset()")
        if self._counting:
            self._connection.execute("SELECT pg_stat_statements_reset()")
        self._from = self._log()

    def read(self, phase: Phase, consents: int) -> Written:
        """What was written since `start`, by consent."""
        wal = self._log() - self._from
        statements = self._one(f"SELECT sum(calls) {_OURS}") if self._counting else None
        self._connection.execute("SELECT pg_sleep(11)")  # an idle session tells its counts after ten seconds
        rows = self._connection.execute(
            """SELECT relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables
               WHERE n_tup_ins + n_tup_upd + n_tup_del > 0 ORDER BY 2 DESC"""
        ).fetchall()
        return Written(
            phase=phase,
            wal_bytes=round(wal / consents),
            statements=None if statements is None else round(statements / consents, 2),
            rows={name: round(count / consents, 2) for name, count in rows},
        )

    def tables(self) -> list[Table]:
        """Every table that holds rows, the largest first."""
        self._connection.execute("VACUUM ANALYZE")
        found = self._connection.execute(
            """SELECT c.relname, c.reltuples::bigint, pg_table_size(c.oid), pg_indexes_size(c.oid)
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind = 'r' AND n.nspname = 'public' AND c.reltuples > 0
               ORDER BY pg_total_relation_size(c.oid) DESC"""
        ).fetchall()
        return [
            Table(table=name, rows=rows, row_bytes=round(size / rows), index_bytes=round(indexes / rows))
            for name, rows, size, indexes in found
        ]

    def _log(self) -> int:
        return self._one("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")

    def _one(self, query: str) -> int:
        (value,) = self._connection.execute(query.encode()).fetchone() or (0,)
        return int(value or 0)


def measure(server: PostgresServer, world: World, *, counting: bool) -> tuple[list[Written], list[Table]]:
    """Take the product through its phases on a database of its own."""
    written = []
    with tempfile.TemporaryDirectory(prefix="swwrites-") as made:
        folder = Path(made)
        databases = Databases(folder, server.url())
        try:
            with Bank(world, folder / "bank") as bank, databases.fresh() as url:
                load = Load.of(workers=WORKERS, in_flight=8 * WORKERS)
                counters = Counters(url, counting=counting)
                try:
                    with Product(bank, folder / "product", url, load=load, workers=WORKERS) as product:
                        for phase in PHASES:
                            bank.order(latency=0.0, changed=phase is Phase.CHANGED)
                            product.prepare(phase)
                            counters.start()
                            product.sync()
                            written.append(counters.read(phase, world.consents))
                    return written, counters.tables()
                finally:
                    counters.close()
        finally:
            databases.close()


def main() -> None:
    """Print two tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--consents", type=int, default=100)
    parser.add_argument("--transactions", type=int, default=200, help="of each of two accounts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    today = SystemClock().now().date()
    world = World(consents=options.consents, transactions=options.transactions, today=today)
    counting = True
    try:
        server = PostgresServer(settings=SERVER | COUNTING)
    except RuntimeError:  # the server's build has no such library
        counting, server = False, PostgresServer(settings=SERVER)
    try:
        written, tables = measure(server, world, counting=counting)
    finally:
        server.close()
    if options.json:
        print(json.dumps({"written": [asdict(one) for one in written], "tables": [asdict(one) for one in tables]}))
        return
    print(f"one consent of {world.consents}, {world.accounts} accounts, {world.transactions} transactions each")
    for one in written:
        many = "" if one.statements is None else f"  {one.statements:7.2f} statements"
        print(f"{one.phase.value:>10}  {one.wal_bytes:9,} B of log{many}  rows: ", end="")
        print(", ".join(f"{name} {count:g}" for name, count in one.rows.items() if count >= 0.05))
    print(f"\n{'table':>20}  {'rows':>9}  {'B a row':>8}  {'of indexes':>10}")
    for table in tables:
        print(f"{table.table:>20}  {table.rows:9,}  {table.row_bytes:8,}  {table.index_bytes:10,}")


if __name__ == "__main__":
    main()
