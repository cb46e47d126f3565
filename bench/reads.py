"""What reading costs: balances of a user at a rate, and lists and the feed over a million transactions, with plans.

`syncworker web` in a process of its own, asked over HTTP by this one, on a database that is filled here; with
`--writing` a task of this process goes on changing balances, as syncs do.  Latencies count from the instant a request
was to be sent, so that one that waited in line shows it.  On PostgreSQL of this machine the processor time of the
sessions that served is told beside that of the web process.

    python bench/reads.py [--database-url URL] [--filled] [--users 1000] [--transactions 1000000] [--rate 200]
                          [--seconds 20] [--writing] [--webs 1] [--plans] [--profile]

An empty database is filled, one that this program filled is taken as it is (`--filled`); without a URL a file of SQLite
in a folder that goes at the end.  `--plans`: every statement of each list, with its plan.  `--profile`: the application
in this process, profiled, and nothing else.
"""

import argparse
import asyncio
import contextlib
import cProfile
import json
import logging
import os
import pstats
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any, Final

import aiohttp
import httpx
import psycopg
import sqlalchemy as sa
import structlog

from syncworker import settings as settings_module
from syncworker.bench.measure import cost_of
from syncworker.standard.json_text import json_bytes
from syncworker.standard.resources import ResourceName
from syncworker.store import migrate, statements, tables
from syncworker.store.api_keys import Scope
from syncworker.store.dialect import Instant
from syncworker.store.freshness import Check, Listing, packed
from syncworker.store.keyring import KeyRing
from syncworker.store.sealed import pack_raw
from syncworker.store.unit_of_work import Store
from syncworker.web.app import opened

NOW: Final = datetime.now(UTC).replace(microsecond=0)
N: Final = ResourceName
CHECKED: Final = Check(2, NOW, NOW + timedelta(hours=4))
WALKED: Final = (N.BALANCES, N.TRANSACTIONS, N.STANDING_ORDERS, N.DIRECT_DEBITS, N.BENEFICIARIES)
RARE: Final = 50_000
"""One transaction in so many has the text that is looked for."""
CHANGES_OF_CHUNK: Final = 1_000
"""Rows of the feed that one transaction wrote."""
LISTS: Final = {
    "first page, newest": "/v1/transactions?limit=50",
    "first page of a user": "/v1/transactions?user_ref=u7&limit=50",
    "page of a mirror (order=id)": "/v1/transactions?order=id&limit=500",
    "text, of a user": "/v1/transactions?user_ref=u7&text=needle",
    "text, of all, rare": "/v1/transactions?text=needle",
    "text, of all, common": "/v1/transactions?text=coffee",
    "text, of all, none": "/v1/transactions?text=nowhere",
    "feed": "/v1/changes?limit=100",
    "feed, in the middle": "/v1/changes?limit=100",
    "feed of a connection": "/v1/changes?connection_id=c7&limit=100",
}
MIDDLE: Final = 50
"""Pages of the feed before the one in the middle."""


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
        walked = {Listing(f"a{number}", one): CHECKED for number in range(2) for one in WALKED}
        put(
            tables.connection_check,
            **mine,
            listings=packed({**walked, Listing("", N.ACCOUNTS): CHECKED}),
            gen=2,
            at=NOW,
        )
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
    for begin in range(0, transactions // 4, CHANGES_OF_CHUNK):
        with engine.begin() as own:
            on_postgresql = own.dialect.name == "postgresql"
            txid = own.scalar(sa.text("SELECT pg_current_xact_id()::text::bigint")) if on_postgresql else 0
            numbers = range(begin, min(begin + CHANGES_OF_CHUNK, transactions // 4))
            own.execute(sa.insert(tables.change), [_change(number, users, txid) for number in numbers])
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as own:
        own.execute(sa.text("VACUUM ANALYZE" if own.dialect.name == "postgresql" else "ANALYZE"))
    engine.dispose()


def _change(number: int, users: int, txid: int) -> dict[str, Any]:
    """A change of a transaction: one in four was changed once."""
    changed = number * 4 + number % 4
    return {
        "tenant": "default", "txid": txid, "epoch": 1, "connection_id": f"c{changed % users}",
        "account_id": f"a{changed // users % 2}", "resource": "transactions", "key": f"T{changed:08}",
        "op": "modified", "at": NOW, "gen": 1,
    }  # fmt: skip


_PLAIN: Final[tuple[tuple[type, Any], ...]] = ((sa.JSON, []), (sa.Integer, 0), (Instant, NOW), (sa.String, ""))


def _whole(table: sa.Table, row: dict[str, Any]) -> dict[str, Any]:
    missing = {
        one.name: next(value for kind, value in _PLAIN if isinstance(one.type, kind))
        for one in table.columns
        if one.name not in row and not one.nullable and one.server_default is None and one.autoincrement is not True
    }
    return missing | row


@dataclass(frozen=True, slots=True)
class Product:
    """The web application on a database.

    Attributes:
        pids: of its web processes; none where it runs in this one.
        get: asks a path; gives status and body.
    """

    pids: Sequence[int]
    get: Callable[[str], Awaitable[tuple[int, bytes]]]


async def configured(url: str, folder: Path) -> str:
    """Write the settings, and make a key that sees all."""
    file = folder / "syncworker.toml"
    keyring = KeyRing.generate(folder / "keyring")
    file.write_text(
        f'database_url = "{url}"\nkeyring = "{folder / "keyring"}"\ndata_dir = "{folder}"\n'
        "[web]\nreads_per_second = 100000\nport = 0\n"
    )
    os.environ[settings_module.CONFIG_VARIABLE] = str(file)
    store = Store(url, keyring=keyring)
    async with store.writing() as unit:
        _, key = await unit.api_keys.create("bench", tuple(Scope), at=await unit.now())
        await unit.commit()
    await store.close()
    return key.get_secret_value()


@asynccontextmanager
async def here(key: str) -> AsyncIterator[Product]:
    """In this process, without sockets."""
    async with opened(settings_module.load()) as app:
        headers = {"authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://bench", headers=headers) as client:

            async def get(path: str) -> tuple[int, bytes]:
                answer = await client.get(path)
                return answer.status_code, answer.content

            yield Product((), get)


@asynccontextmanager
async def served(key: str, webs: int, folder: Path) -> AsyncIterator[Product]:
    """So many processes of `syncworker web`, asked in turn."""
    async with AsyncExitStack() as stack:
        pids, ports = list[int](), list[int]()
        for number in range(webs):
            said = folder / f"web-{number}.log"
            with said.open("wb") as log:
                process = await asyncio.create_subprocess_exec(sys.executable, "-m", "syncworker", "web", stderr=log)
            stack.push_async_callback(_ended, process)
            while (found := re.search(r"listens at http://[^ ;]*:(\d+);", said.read_text())) is None:
                assert process.returncode is None, said.read_text()
                await asyncio.sleep(0.1)
            pids.append(process.pid)
            ports.append(int(found[1]))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                headers={"authorization": f"Bearer {key}"}, connector=aiohttp.TCPConnector(limit=100 * webs)
            )
        )
        turn = count()

        async def get(path: str) -> tuple[int, bytes]:
            async with session.get(f"http://127.0.0.1:{ports[next(turn) % webs]}{path}") as answer:
                return answer.status, await answer.read()

        yield Product(pids, get)


async def _ended(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 30)
    except TimeoutError:
        process.kill()


async def at_rate(product: Product, rate: float, seconds: float, users: int) -> list[float]:
    """Latencies of `/v1/balances` at so many requests a second, from the instant each was to be sent."""
    began, found = time.perf_counter(), list[float]()

    async def one(number: int) -> None:
        due = began + number / rate
        status, body = await product.get(f"/v1/balances?user_ref=u{number * 7919 % users}")
        assert status == 200, body
        found.append(time.perf_counter() - due)

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            group.create_task(one(number))
    return found


async def changing(store: Store, users: int) -> None:
    """Change the balances of a connection after the other, fifty a second at most, as syncs do."""
    for number in count():
        async with store.writing() as unit:
            mine = tables.balance.c.connection_id == f"c{number % users}"
            changed = sa.update(tables.balance).where(mine, tables.balance.c.tenant == "default")
            await unit.connection.execute(changed.values(signed_amount=Decimal(number % 1000), changed_at=NOW))
            await unit.commit()
        await asyncio.sleep(0.02)


@asynccontextmanager
async def written(url: str, folder: Path, users: int, *, writing: bool) -> AsyncIterator[None]:
    """A task beside that writes, where it is wanted."""
    if not writing:
        yield
        return
    store = Store(url, keyring=KeyRing.load(folder / "keyring"))
    task = asyncio.create_task(changing(store, users))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await store.close()


def sessions(url: str) -> list[int]:
    """The server's processes that serve sessions of this database now; none where they are not of this machine."""
    if not url.startswith("postgresql"):
        return []
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as own:
        found = own.scalars(
            sa.text("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        ).all()
    engine.dispose()
    return [pid for pid in found if Path(f"/proc/{pid}").exists()]


async def balances(args: argparse.Namespace, url: str, folder: Path, product: Product) -> None:
    """Print what balances of a user cost at the rate: without writes beside them, and with."""
    await at_rate(product, args.rate / 2, 2, args.users)
    for writing in (False, True) if args.writing else (False,):
        before = sessions(url)
        own, theirs = cost_of(product.pids).cpu_s, cost_of(before).cpu_s
        async with written(url, folder, args.users, writing=writing):
            latencies = await at_rate(product, args.rate, args.seconds, args.users)
            own, theirs = cost_of(product.pids).cpu_s - own, cost_of(before).cpu_s - theirs
        cuts = [1000 * one for one in statistics.quantiles(latencies, n=100)]
        print(
            f"balances of a user, {args.rate:.0f}/s for {args.seconds:.0f} s,"
            f" {'beside' if writing else 'without'} writes: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms;"
            f" processor time a request: web {1000 * own / len(latencies):.2f} ms,"
            f" database {1000 * theirs / len(latencies):.2f} ms; load {os.getloadavg()[0]:.1f}"
        )


async def lists(product: Product) -> None:
    """Print what pages take; of a list that ends a page before it has all, to its end."""
    for said, path in LISTS.items():
        path = await _middle(product, path) if said.endswith("in the middle") else path
        times = list[float]()
        for _ in range(7):
            began = time.perf_counter()
            status, body = await product.get(path)
            times.append(1000 * (time.perf_counter() - began))
            assert status == 200, body
        answer = json.loads(body)
        rows = len(answer.get("transactions", answer.get("changes")))
        more = "" if answer["next_cursor"] is None else ", and more"
        print(f"{said}: median {statistics.median(times):.1f} ms of 7 (best {min(times):.1f}), {rows} rows{more}")


async def _middle(product: Product, path: str) -> str:
    cursor = ""
    for _ in range(MIDDLE):
        _, body = await product.get(path + cursor)
        cursor = f"&cursor={json.loads(body)['next_cursor']}"
    return path + cursor


class Watched:
    """Notes the statements that this process sends to PostgreSQL."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        told = statements._told  # noqa: SLF001  what it gives is what is sent

        def noting(unit: Any, one: Any) -> Any:
            text, values, reader = told(unit, one)
            self.seen.append((text.decode(), values))
            return text, values, reader

        statements._told = noting  # noqa: SLF001

        @sa.event.listens_for(sa.Engine, "before_cursor_execute")
        def _before(_own: Any, _cursor: Any, text: str, values: Any, _context: Any, _many: bool) -> None:
            self.seen.append((text, values))


async def plans(url: str, key: str) -> None:
    """Print every statement of each list with its plan."""
    watched = Watched()
    async with here(key) as product:
        with psycopg.connect(url, autocommit=True) as own:
            own.execute("SET random_page_cost = 1")
            for said, path in LISTS.items():
                path = await _middle(product, path) if said.endswith("in the middle") else path
                watched.seen.clear()
                await product.get(path)
                print(f"\n== {said}: {path[:60]}, {len(watched.seen)} statements")
                for text, values in list(watched.seen):
                    if not text.lstrip().upper().startswith("SELECT"):
                        continue
                    rows = own.execute(f"EXPLAIN (ANALYZE, BUFFERS) {text}".encode(), values).fetchall()
                    print("--", " ".join(text.split())[:160])
                    print(*(f"   {line}" for (line,) in rows), sep="\n")


async def measure(args: argparse.Namespace, url: str, folder: Path) -> None:
    """Print what was measured."""
    key = await configured(url, folder)
    if args.profile:
        async with here(key) as product:
            await at_rate(product, 20, 2, args.users)
            profile = cProfile.Profile()
            with profile:
                await at_rate(product, args.rate, args.seconds, args.users)
            pstats.Stats(profile).sort_stats("tottime").print_stats(60)
        return
    async with served(key, args.webs, folder) as product:
        await balances(args, url, folder, product)
        if args.lists:
            await lists(product)
    if args.plans and url.startswith("postgresql"):
        await plans(url, key)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--database-url", default="")
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--transactions", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--webs", type=int, default=1, help="web processes")
    parser.add_argument("--no-lists", dest="lists", action="store_false", help="balances alone")
    for name in ("filled", "writing", "plans", "profile"):
        parser.add_argument(f"--{name}", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = args.database_url or f"sqlite:///{folder}/bench.db"
        if not args.filled:
            migrate.upgrade(url)
            began = time.perf_counter()
            fill(url, args.users, args.transactions)
            print(
                f"filled in {time.perf_counter() - began:.0f} s: {args.transactions} transactions of {args.users} users"
            )
        asyncio.run(measure(args, url, folder))


if __name__ == "__main__":
    main()
