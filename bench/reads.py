"""What reading costs: balances of a user at a rate, and lists over a million transactions, with their plans.

The web application in this process, without sockets, on a database that is filled here; with `--writing` a task beside
it goes on changing balances, as syncs do.  Latencies count from the instant a request was to be sent, so that one that
waited in line shows it.

    python bench/reads.py [--database-url URL] [--users 1000] [--transactions 1000000] [--rate 200] [--seconds 20]
                          [--writing] [--profile]

An empty database is filled; without a URL a file of SQLite in a folder that goes at the end.
"""

import argparse
import asyncio
import contextlib
import cProfile
import logging
import os
import pstats
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx
import sqlalchemy as sa
import structlog

from syncworker import settings as settings_module
from syncworker.standard.json_text import json_bytes
from syncworker.store import migrate, tables
from syncworker.store.api_keys import Scope
from syncworker.store.dialect import Instant
from syncworker.store.keyring import KeyRing
from syncworker.store.sealed import pack_raw
from syncworker.store.unit_of_work import Store
from syncworker.web.app import opened

NOW: Final = datetime.now(UTC).replace(microsecond=0)
RARE: Final = 50_000
"""One transaction in so many has the text that is looked for."""
LISTS: Final = {
    "first page, newest": "/v1/transactions?limit=50",
    "first page of a user": "/v1/transactions?user_ref=u7&limit=50",
    "page of a mirror (order=id)": "/v1/transactions?order=id&limit=500",
    "text, of a user": "/v1/transactions?user_ref=u7&text=needle",
    "text, of all, rare": "/v1/transactions?text=needle",
    "text, of all, common": "/v1/transactions?text=coffee",
}


def rows_of(users: int, transactions: int) -> Iterator[tuple[sa.Table, list[dict[str, Any]]]]:
    """The rows of users with one connection, two accounts and two balances each."""
    frame = {"digest": b"0" * 16, "first_seen_at": NOW, "changed_at": NOW, "gen": 1, "tenant": "default"}
    raw = pack_raw(
        json_bytes({"AccountIdentifiers": [{"SchemeName": "IBAN", "Identification": "AE" + "1" * 21}]}), None
    )
    whole: dict[sa.Table, list[dict[str, Any]]] = {}

    def put(table: sa.Table, **values: Any) -> None:
        whole.setdefault(table, []).append({"tenant": "default", **values})

    for user in range(users):
        mine = {"connection_id": f"c{user}"}
        put(tables.connection, **mine, lfi="bank", user_ref=f"u{user}", created_at=NOW)
        put(
            tables.consent, **mine, consent_id=f"c{user}", lfi="bank", user_ref=f"u{user}", version="v2.1",
            status="Authorized", permissions=[], expires_at=NOW + timedelta(days=90), user_type="Retail",
            purpose="AccountAggregation", created_at=NOW, status_seen_at=NOW, status_updated_at=NOW,
        )  # fmt: skip
        for number in range(2):
            lfi_account_id, account_id = f"a{number}", f"acc_{user:018}{number:02}"
            put(tables.account_reference, **mine, lfi_account_id=lfi_account_id, account_id=account_id, created_at=NOW)
            put(tables.account, **frame, **mine, account_id="", key=lfi_account_id, currency="AED", raw=raw)
            put(
                tables.balance, **frame, **mine, account_id=lfi_account_id, key="ClosingAvailable/AED", raw=raw,
                type="ClosingAvailable", currency="AED", credit_debit_indicator="Credit", amount=Decimal("12.5"),
                signed_amount=Decimal("12.5"), date_time=NOW,
            )  # fmt: skip
            for resource in ("balances", "transactions"):
                put(tables.cursor, **mine, account_id=lfi_account_id, resource=resource, checked_at=NOW, gen=1)
        put(tables.cursor, **mine, account_id="", resource="accounts", checked_at=NOW, gen=1)
    yield from whole.items()
    for begin in range(0, transactions, 20_000):
        yield tables.transaction, [
            {
                **frame, "connection_id": f"c{number % users}", "account_id": f"a{number // users % 2}",
                "key": f"T{number:08}", "raw": raw, "status": "Booked", "credit_debit_indicator": "Debit",
                "amount": Decimal("1.25"), "signed_amount": Decimal("-1.25"), "currency": "AED",
                "booking_date_time": NOW - timedelta(minutes=number), "booking_date": NOW.date(),
                "transaction_information": "a needle" if number % RARE == 7 else f"coffee {number}",
                "merchant_name": "Date & Cardamom Coffee", "counterparty_name": None,
            }
            for number in range(begin, min(begin + 20_000, transactions))
        ]  # fmt: skip


def fill(url: str, users: int, transactions: int) -> None:
    """Fill an empty database; a column that must not be NULL and is not given gets a value of its kind."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as own:
        for table, rows in rows_of(users, transactions):
            own.execute(sa.insert(table), [_whole(table, row) for row in rows])
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as own:
        own.execute(sa.text("ANALYZE"))
    engine.dispose()


_PLAIN: Final[tuple[tuple[type, Any], ...]] = ((sa.JSON, []), (sa.Integer, 0), (Instant, NOW), (sa.String, ""))


def _whole(table: sa.Table, row: dict[str, Any]) -> dict[str, Any]:
    missing = {
        one.name: next(value for kind, value in _PLAIN if isinstance(one.type, kind))
        for one in table.columns
        if one.name not in row and not one.nullable and one.server_default is None and one.autoincrement is not True
    }
    return missing | row


@asynccontextmanager
async def product(url: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The web application on a database, and a client with a key that sees all."""
    file = folder / "syncworker.toml"
    keyring = KeyRing.generate(folder / "keyring")
    file.write_text(
        f'database_url = "{url}"\nkeyring = "{folder / "keyring"}"\ndata_dir = "{folder}"\n'
        "[web]\nreads_per_second = 100000\n"
    )
    os.environ[settings_module.CONFIG_VARIABLE] = str(file)
    store = Store(url, keyring=keyring)
    async with store.writing() as unit:
        _, key = await unit.api_keys.create("bench", tuple(Scope), at=await unit.now())
        await unit.commit()
    await store.close()
    async with opened(settings_module.load()) as app:
        headers = {"authorization": f"Bearer {key.get_secret_value()}"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://bench", headers=headers) as client:
            yield client


async def at_rate(client: httpx.AsyncClient, rate: float, seconds: float, users: int) -> list[float]:
    """Latencies of `/v1/balances` at so many requests a second, from the instant each was to be sent."""
    began, found = time.perf_counter(), list[float]()

    async def one(number: int) -> None:
        due = began + number / rate
        answer = await client.get("/v1/balances", params={"user_ref": f"u{number * 7919 % users}"})
        assert answer.status_code == 200, answer.text
        found.append(time.perf_counter() - due)

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            group.create_task(one(number))
    return found


async def changing(url: str, folder: Path, users: int) -> None:
    """Change the balances of a connection after the other, as syncs do."""
    store = Store(url, keyring=KeyRing.load(folder / "keyring"))
    try:
        for number in range(1_000_000_000):
            async with store.writing() as unit:
                mine = tables.balance.c.connection_id == f"c{number % users}"
                changed = sa.update(tables.balance).where(mine, tables.balance.c.tenant == "default")
                await unit.connection.execute(changed.values(signed_amount=Decimal(number % 1000), changed_at=NOW))
                await unit.commit()
            await asyncio.sleep(0.02)
    finally:
        await store.close()


def plans(url: str) -> Iterator[str]:
    """How the database reads the two pages that are read most."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    explain = "EXPLAIN ANALYZE" if url.startswith("postgresql") else "EXPLAIN QUERY PLAN"
    tenant = "SELECT * FROM v_transaction WHERE tenant = 'default'"
    with engine.connect() as own:
        for said, rest in {
            "newest": "AND booked_at IS NOT NULL AND account_id IS NOT NULL ORDER BY booked_at DESC, account_id, key",
            "order=id": "AND account_id IS NOT NULL ORDER BY account_id, key",
        }.items():
            yield f"-- {said}"
            for row in own.execute(sa.text(f"{explain} {tenant} {rest} LIMIT 51")):
                yield "  " + str(row[-1])
    engine.dispose()


async def measure(args: argparse.Namespace, url: str, folder: Path) -> None:
    """Print what was measured."""
    async with product(url, folder) as client:
        await at_rate(client, 20, 1, args.users)
        writing = asyncio.create_task(changing(url, folder, args.users)) if args.writing else None
        profile = cProfile.Profile() if args.profile else None
        cpu = time.process_time()
        if profile:
            profile.enable()
        latencies = await at_rate(client, args.rate, args.seconds, args.users)
        if profile:
            profile.disable()
        cpu = time.process_time() - cpu
        if writing:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
        cuts = [1000 * one for one in statistics.quantiles(latencies, n=100)]
        print(
            f"balances of a user, {args.rate:.0f}/s for {args.seconds:.0f} s,"
            f" {'beside' if args.writing else 'without'} writes:"
            f" p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, CPU {1000 * cpu / len(latencies):.2f} ms a request"
        )
        if profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(40)
        for said, path in LISTS.items():
            times = []
            for _ in range(7):
                began = time.perf_counter()
                answer = await client.get(path)
                times.append(1000 * (time.perf_counter() - began))
                assert answer.status_code == 200, answer.text
            rows = len(answer.json()["transactions"])
            print(f"{said}: median {statistics.median(times):.1f} ms of 7, {rows} rows")
    for line in plans(url):
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--database-url", default="")
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--transactions", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--writing", action="store_true")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = args.database_url or f"sqlite:///{folder}/bench.db"
        migrate.upgrade(url)
        began = time.perf_counter()
        fill(url, args.users, args.transactions)
        print(f"filled in {time.perf_counter() - began:.0f} s: {args.transactions} transactions of {args.users} users")
        asyncio.run(measure(args, url, folder))


if __name__ == "__main__":
    main()
