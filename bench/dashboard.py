"""How long the web process takes for the dashboard's first screen and list with many connections.

Fills a database as some weeks of work leave it, asks for pages through the whole application, and prints the fastest,
the median and the slowest of some requests each, and the processor time of the web process for one (with SQLite all of
it).  The first screen is asked for with a fresh look too: readers
share one for five seconds.  `--plans` prints what the database does for it.

    python -m bench.dashboard [--connections 10000] [--sqlite] [--plans]
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
import sqlalchemy as sa

from syncworker.store import migrate
from syncworker.store import tables as t
from syncworker.store.api_keys import Scope
from syncworker.store.calls import COLUMNS, pack
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.sync.decode import COLUMNS_VERSION
from syncworker.web.app import opened
from syncworker.web.dashboard import looking
from tests.ground.postgres import PostgresServer
from tests.web.dashboard.filled import BANKS, DOWN, PERMISSIONS, RULE, calls_of, uid
from tests.web.dashboard.served import settings_of

TIMES: Final = 15
ORIGIN: Final = "http://127.0.0.1:8080"
RUNS_A_DAY: Final = 4
DAYS: Final = 3
AT_ONCE: Final = 2_000


async def fill(store: Store, connections: int) -> list[str]:
    """Connections, a tenth of them at a bank that is down, with the runs of three days."""
    random_ = random.Random(3)
    async with store.reading() as unit:
        now = await unit.now()
    ids = [uid(random_) for _ in range(connections)]
    for begin in range(0, connections, AT_ONCE):
        some = list(enumerate(ids))[begin : begin + AT_ONCE]
        await store.atomically(lambda unit, some=some: _filled(unit, some, now))  # type: ignore[misc]
    for part in range(DAYS * RUNS_A_DAY, 0, -1):
        at = now - timedelta(hours=24 / RUNS_A_DAY * part)
        await store.atomically(lambda unit, at=at: _runs(unit, ids, at, random_))  # type: ignore[misc]
    return ids


def _bank(number: int) -> str:
    return DOWN if number % 10 == 0 else BANKS[0] if number % 2 else BANKS[2]


async def _insert(unit: UnitOfWork, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    await unit.connection.execute(sa.insert(table), [{"tenant": unit.tenant, **row} for row in rows])


async def _filled(unit: UnitOfWork, some: list[tuple[int, str]], now: datetime) -> None:
    rows: dict[str, list[dict[str, Any]]] = {"connection": [], "consent": [], "work": [], "staleness": [], "cursor": []}
    for number, root in some:
        lfi, down = _bank(number), number % 10 == 0
        checked = now - timedelta(hours=9 if down else 0.5 + number % 50 / 10)
        rows["connection"].append(
            {
                "connection_id": root,
                "lfi": lfi,
                "user_ref": f"customer-{number}",
                "created_at": now,
                "last_data_at": checked,
            }
        )
        rows["consent"].append(
            {
                "consent_id": root, "connection_id": root, "lfi": lfi, "version": "v2.1", "status": "Authorized",
                "permissions": PERMISSIONS, "status_seen_at": now, "user_type": "Retail",
                "purpose": "AccountAggregation", "created_at": now - timedelta(days=100),
                "expires_at": now + timedelta(days=1 + number % 300), "raw": {},
            }
        )  # fmt: skip
        rows["work"].append(
            {
                "kind": "sync", "subject": root, "lfi": lfi, "last_started_at": checked, "last_ended_at": checked,
                "due_at": now - timedelta(hours=2) if down else now + timedelta(minutes=1 + number % 300),
                "last_good_at": checked, "last_outcome": "failed" if down else "ok", "attempts": int(down),
                "last_error": "lfi_unavailable" if down else None, "retry": down,
            }
        )  # fmt: skip
        rows["staleness"].append(
            {
                "connection_id": root, "stale_at": checked + timedelta(hours=7.5), "resource": "balances",
                "account_id": "a", "checked_at": checked, "run_ended_at": checked, "rule": RULE,
            }
        )  # fmt: skip
        rows["cursor"] += [
            {
                "connection_id": root, "account_id": "a", "resource": name, "checked_at": checked, "outcome": "ok",
                "attempted_at": checked, "due_at": now + timedelta(hours=1), "gen": 1,
            }
            for name in ("balances", "transactions", "beneficiaries")
        ]  # fmt: skip
    for name, those in rows.items():
        await _insert(unit, t.metadata.tables[name], those)


async def _runs(unit: UnitOfWork, ids: list[str], at: datetime, random_: random.Random) -> None:
    rows = []
    for number, root in enumerate(ids):
        lfi, began = _bank(number), at + timedelta(seconds=number * 2)
        packed, _ = pack(calls_of(began, lfi=lfi, consent_id=root, down=False, random_=random_))
        assert packed is not None
        rows.append(
            {
                "connection_id": root, "consent_id": root, "lfi": lfi, "gen": 1, "started_at": began,
                "ended_at": began + timedelta(seconds=2), "outcome": "ok", "calls": packed.called, "pages": 4,
                "pages_unchanged": 2, "added": 1, "modified": 0, "removed": 0, "steps": [],
                **{name: getattr(packed, name) for name in COLUMNS},
            }
        )  # fmt: skip
    for begin in range(0, len(rows), AT_ONCE):
        await _insert(unit, t.run, rows[begin : begin + AT_ONCE])


@asynccontextmanager
async def browser(folder: Path, url: str, connections: int) -> AsyncIterator[tuple[httpx.AsyncClient, list[str]]]:
    """A signed-in browser before a filled database."""
    settings = settings_of(folder, url)
    settings = settings.with_values(web=settings.web.model_copy(update={"port": 8080}))
    store = Store(url, keyring=KeyRing.load(folder / "keyring"))
    begun = time.perf_counter()
    ids = await fill(store, connections)
    async with store.writing() as unit:
        await unit.fillings.begin(COLUMNS_VERSION, at=await unit.now())  # as every worker does when it starts
        _, key = await unit.api_keys.create("bench", [Scope.OPS_WRITE], at=await unit.now())
        await unit.commit()
    if store.dialect.is_postgresql:
        engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
        with engine.connect() as own:
            own.execute(sa.text("VACUUM ANALYZE"))
        engine.dispose()
    await store.close()
    print(f"filled {connections:,} connections with {connections * RUNS_A_DAY * DAYS:,} runs in "
          f"{time.perf_counter() - begun:.0f} s")  # fmt: skip
    async with opened(settings) as application:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url=ORIGIN, timeout=120)
        async with client:
            answer = await client.post("/ops/sign-in", data={"key": key.get_secret_value()}, headers={"origin": ORIGIN})
            assert answer.status_code == 303, answer.text
            yield client, ids


async def measure(folder: Path, url: str, connections: int, *, plans: bool) -> None:
    """Ask for each page some times."""
    async with browser(folder, url, connections) as (client, ids):
        pages = {
            "first screen, fresh look": "/ops/",
            "first screen, look shared": "/ops/",
            "first screen, as it is used": "/ops/",
            "list": "/ops/connections",
            "list, one LFI, active": "/ops/connections?lfi=bank-two&state=active",
            "list, stale": "/ops/connections?trouble=stale",
            "connection": f"/ops/connections/{ids[7]}",
            "LFI": "/ops/lfis/sandbox",
            "cost, 14 days": "/ops/cost",
        }
        kept = looking.KEPT_S
        looking.KEPT_S = looking.SHOWN_S = 0.0  # type: ignore[misc]
        if plans:
            await explained(client, url)
        print(f"{'page':28} {'fastest ms':>11} {'median ms':>10} {'slowest ms':>11} {'own CPU ms':>11}")
        for name, path in pages.items():
            looking.KEPT_S = 0.0 if "fresh" in name else 0.1 if "used" in name else 3600.0  # type: ignore[misc]
            looking.SHOWN_S = 0.0 if "fresh" in name else 20.0  # type: ignore[misc]
            await client.get(path)
            took, own = [], time.process_time()
            for _ in range(TIMES):
                begun = time.perf_counter()
                answer = await client.get(path)
                took.append((time.perf_counter() - begun) * 1000)
                assert answer.status_code == 200, answer.text
            print(
                f"{name:28} {min(took):11.0f} {statistics.median(took):10.0f} {max(took):11.0f} "
                f"{(time.process_time() - own) * 1000 / TIMES:11.0f}"
            )
        looking.KEPT_S = kept  # type: ignore[misc]


async def explained(client: httpx.AsyncClient, url: str) -> None:
    """The plans of what a whole new first screen and the list ask, as the database makes them."""
    asked: dict[str, Any] = {}

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")) and "set_config" not in statement:
            asked[statement] = tuple(parameters) if isinstance(parameters, list) else parameters

    sent = psycopg.AsyncConnection.execute

    async def noted(self: Any, query: Any, parameters: Any = None, **options: Any) -> Any:
        if isinstance(query, bytes):  # statements that travel together go past SQLAlchemy
            note(None, None, query.decode(), parameters)
        return await sent(self, query, parameters, **options)

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", note)
    psycopg.AsyncConnection.execute = noted  # type: ignore[method-assign, assignment]
    for path in ("/ops/", "/ops/connections"):
        await client.get(path)
    psycopg.AsyncConnection.execute = sent  # type: ignore[method-assign]
    sa.event.remove(sa.engine.Engine, "before_cursor_execute", note)
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    word = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) " if url.startswith("postgresql") else "EXPLAIN QUERY PLAN "
    with engine.connect() as own:
        for statement, parameters in asked.items():
            print("\n", " ".join(statement.split())[:300])
            try:
                for row in own.exec_driver_sql(word + statement, parameters):
                    print("   ", row[-1])
            except sa.exc.DBAPIError as error:
                print("    no plan:", str(error.orig).splitlines()[0])
                own.rollback()
    engine.dispose()


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--sqlite", action="store_true")
    parser.add_argument("--plans", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        if given.sqlite:
            url = f"sqlite:///{folder / 'bench.db'}"
            migrate.upgrade(url)
            asyncio.run(measure(folder, url, given.connections, plans=given.plans))
            return
        server = PostgresServer()
        try:
            migrate.upgrade(server.make_template())
            asyncio.run(measure(folder, server.url(server.clone()), given.connections, plans=given.plans))
        finally:
            server.close()


if __name__ == "__main__":
    main()
