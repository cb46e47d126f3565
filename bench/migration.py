"""What a migration of a large database takes: time, locks, what waits meanwhile, a kill in the middle, the way back.

    python -m bench.migration [--transactions 1000000] [--since 0019] [--json]

Fills a PostgreSQL of its own, at the older schema, with so many transactions (100 accounts of 50 connections, items as
a bank sends them).  Then, each on a copy: the migration with a reader and a writer at work beside it; the migration
killed half way, and run again; the way back.  Locks are looked at every 10 ms.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import psycopg

from syncworker.bench import books
from syncworker.clock import SystemClock
from syncworker.standard.resources import ResourceName
from syncworker.store import migrate
from syncworker.store.sealed import pack_raw
from tests.ground.postgres import PostgresServer

CONNECTIONS: Final = 50
ACCOUNTS: Final = 2
SERVER: Final = {"max_wal_size": "4GB", "checkpoint_timeout": "1h"}
LOOK_EVERY_S: Final = 0.01
_FILL: Final = (
    """INSERT INTO connection (tenant, connection_id, lfi, user_ref, created_at)
       SELECT 'default', 'c' || i, 'bank', 'customer-' || i, now() FROM generate_series(1, %(connections)s) i""",
    """INSERT INTO consent (tenant, consent_id, connection_id, lfi, version, status, status_seen_at, permissions,
                            expires_at, user_type, purpose, created_at)
       SELECT 'default', 'c' || i, 'c' || i, 'bank', 'v2.1', 'Authorized', now(), '[]', now() + interval '180 days',
              'Retail', 'x', now() FROM generate_series(1, %(connections)s) i""",
    """INSERT INTO account (tenant, connection_id, account_id, key, status, currency, raw, digest, first_seen_at,
                            changed_at, gen)
       SELECT 'default', 'c' || i, '', 'a' || a, 'Active', 'AED', %(account)s, decode(md5(i || '/' || a), 'hex'),
              now(), now(), 1
       FROM generate_series(1, %(connections)s) i, generate_series(1, %(accounts)s) a""",
    """INSERT INTO cursor (tenant, connection_id, account_id, resource, due_at, checked_at, gen)
       SELECT 'default', 'c' || i, 'a' || a, r, now(), now(), 1
       FROM generate_series(1, %(connections)s) i, generate_series(1, %(accounts)s) a,
            unnest(ARRAY['balances', 'transactions']) r""",
    """INSERT INTO transaction (tenant, connection_id, account_id, key, status, credit_debit_indicator, amount,
                                signed_amount, currency, booking_date_time, booking_date, raw, digest, first_seen_at,
                                changed_at, gen)
       SELECT 'default', 'c' || i, 'a' || a, 'T' || n, 'Booked', 'Debit', 10.5, -10.5, 'AED',
              now() - n * interval '1 hour', current_date, %(item)s, decode(md5(i || '/' || a || '/' || n), 'hex'),
              now(), now(), 1
       FROM generate_series(1, %(connections)s) i, generate_series(1, %(accounts)s) a,
            generate_series(1, %(each)s) n""",
    """INSERT INTO change (tenant, txid, connection_id, account_id, resource, key, op, at, gen)
       SELECT tenant, 1, connection_id, account_id, 'transactions', key, 'added', now(), 1 FROM transaction""",
    """INSERT INTO call (tenant, lfi, consent_id, operation, status, interaction_id, started_at, duration_ms, bytes_in,
                         attended, price_millifils)
       SELECT 'default', 'bank', 'c' || (n %% %(connections)s + 1), 'GetTransactions', 200, md5(n::text), now(), 20,
              900, false, 250 FROM generate_series(1, %(each)s) n""",
)
_READER: Final = (
    "SELECT key, signed_amount FROM transaction WHERE tenant = 'default' AND connection_id = 'c7' AND account_id = 'a1'"
    " ORDER BY booking_date_time DESC LIMIT 50"
)
_WRITER: Final = "UPDATE work SET due_at = now() WHERE tenant = 'default' AND kind = 'sync' AND subject = 'c7'"


@dataclass(slots=True)
class Beside:
    """What a neighbour of the migration saw.

    Attributes:
        done: statements that came back.
        longest_s: the longest of them.
    """

    done: int = 0
    longest_s: float = 0.0


@dataclass(slots=True)
class Locks:
    """Seconds for which a table was locked against everything, and against writes, by table; to 10 ms."""

    against_all: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    against_writes: dict[str, float] = field(default_factory=lambda: defaultdict(float))


@contextlib.contextmanager
def at_work(url: str, query: str, seen: Beside) -> Iterator[None]:
    """Run one statement again and again while the block lasts."""
    over = threading.Event()

    def run() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not over.wait(0.02):
                began = time.perf_counter()
                connection.execute(query.encode())
                seen.longest_s = max(seen.longest_s, time.perf_counter() - began)
                seen.done += 1

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)


@contextlib.contextmanager
def watched(url: str, locks: Locks) -> Iterator[None]:
    """Look at the locks on tables while the block lasts."""
    over = threading.Event()
    query = b"""SELECT c.relname, l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
                WHERE l.granted AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
                  AND l.mode IN ('AccessExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock')"""

    def run() -> None:
        last = time.perf_counter()
        with psycopg.connect(url, autocommit=True) as connection:
            while not over.wait(LOOK_EVERY_S):
                found = connection.execute(query).fetchall()
                now = time.perf_counter()
                for table, mode in set(found):
                    held = locks.against_all if mode == "AccessExclusiveLock" else locks.against_writes
                    held[table] += now - last
                last = now

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)


def fill(url: str, transactions: int) -> None:
    """Rows as a bank's, at the older schema."""
    world = books.World(consents=1, accounts=1, transactions=1, today=SystemClock().now().date())
    items = {
        listing.resource: raw
        for listing in books.listings(world, 0, changed=False)
        for _, _, raw in books.rows(listing)
        if listing.resource in (ResourceName.TRANSACTIONS, ResourceName.ACCOUNTS)
    }
    values: dict[str, Any] = {
        "connections": CONNECTIONS,
        "accounts": ACCOUNTS,
        "each": transactions // (CONNECTIONS * ACCOUNTS),
        "item": pack_raw(items[ResourceName.TRANSACTIONS]),
        "account": pack_raw(items[ResourceName.ACCOUNTS]),
    }
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in _FILL:
            connection.execute(statement.encode(), values)
        connection.execute("VACUUM ANALYZE")


def upgrading(url: str) -> subprocess.Popen[bytes]:
    """The migration, in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", f"from syncworker.store import migrate; migrate.upgrade({url!r})"])


def measure(server: PostgresServer, transactions: int, since: str) -> Mapping[str, Any]:
    """All of it."""
    template = "swmigration"
    migrate.upgrade(server.make_template(template), since)
    fill(server.url(template), transactions)
    found: dict[str, Any] = {"transactions": transactions, "from": since, "to": migrate.head()}

    name = server.clone(template)
    url, locks, reader, writer = server.url(name), Locks(), Beside(), Beside()
    with watched(url, locks), at_work(url, _READER, reader), at_work(url, _WRITER, writer):
        began = time.perf_counter()
        assert upgrading(url).wait() == 0
        found["seconds"] = round(time.perf_counter() - began, 2)
    found |= {
        "locked_against_all_s": {table: round(held, 2) for table, held in sorted(locks.against_all.items())},
        "locked_against_writes_s": {table: round(held, 2) for table, held in sorted(locks.against_writes.items())},
        "reader": asdict(reader),
        "writer": asdict(writer),
    }
    began = time.perf_counter()
    migrate.downgrade(url, since)
    found["way_back_s"] = round(time.perf_counter() - began, 2)
    assert migrate.current(url) == since
    server.drop(name)

    name = server.clone(template)
    url = server.url(name)
    process = upgrading(url)
    time.sleep(found["seconds"] / 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    found["killed_at"] = migrate.current(url)
    began = time.perf_counter()
    assert upgrading(url).wait() == 0
    found["again_s"] = round(time.perf_counter() - began, 2)
    assert migrate.current(url) == migrate.head()
    server.drop(name)
    return found


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=1_000_000)
    parser.add_argument("--since", default="0019", help="the older schema")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    server = PostgresServer(settings=SERVER)
    try:
        found = measure(server, options.transactions, options.since)
    finally:
        server.close()
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:>24}  {value}")


if __name__ == "__main__":
    main()
