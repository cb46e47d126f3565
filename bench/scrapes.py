"""What a scrape of `GET /metrics` takes the server, by how many connections there are.

    python -m bench.scrapes [--connections 10000] [--scrapes 30] [--plans]

Milliseconds of the first scrape, which counts how old the data is, and of those after it: collection, diagnosis and
text, without HTTP; and the processor time of this process for one.  A fifth of the connections is stale.  Meanwhile the
event loop is watched: the longest time for which nothing else could run is what a scrape holds up of other requests;
beside it that of an idle loop, which is what other processes of the machine hold up.  Starts a PostgreSQL of its own.
"""

import argparse
import asyncio
import json
import statistics
import time
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from syncworker.ops.status import BrokerFact, BrokerState
from syncworker.ops.targets import targets_of
from syncworker.settings import Settings
from syncworker.standard.resources import ResourceName
from syncworker.store import migrate, tally
from syncworker.store.ages import pack
from syncworker.store.standings import AGES, STANDING
from syncworker.store.statements import Statement
from syncworker.store.tally import Key
from syncworker.store.unit_of_work import Store
from syncworker.web.metrics import Scrapes, exposition
from tests.ground.postgres import PostgresServer

LFIS = 12
FILL = (
    """INSERT INTO work (tenant, kind, subject, lfi, due_at, last_started_at, last_ended_at, last_good_at,
                         last_outcome)
       SELECT 'default', 'sync', 'c' || i, 'bank-' || i % :lfis, now() + interval '1 hour', now(), now(), now(),
              'ok'""",
    """INSERT INTO work (tenant, kind, subject, lfi, due_at)
       SELECT 'default', 'token', 'c' || i, 'bank-' || i % :lfis, now() + interval '1 hour'""",
    """INSERT INTO connection (tenant, connection_id, lfi, user_ref, created_at)
       SELECT 'default', 'c' || i, 'bank-' || i % :lfis, 'u' || i, now() - interval '90 days'""",
    """INSERT INTO consent (tenant, consent_id, connection_id, lfi, version, status, status_seen_at, permissions,
                            expires_at, user_type, purpose, created_at)
       SELECT 'default', 'c' || i, 'c' || i, 'bank-' || i % :lfis, 'v2.1', 'Authorized', now(), '[]',
              now() + interval '40 days', 'Retail', 'x', now() - interval '90 days'""",
    """INSERT INTO staleness (tenant, connection_id, stale_at, resource, account_id, checked_at, run_ended_at, rule,
                              ages)
       SELECT 'default', 'c' || i, now() + CASE WHEN i % 5 = 0 THEN interval '-1 hour' ELSE interval '5 hours' END,
              'balances', 'a', now(), w.last_ended_at, :rule, :ages""",
    """INSERT INTO run (tenant, connection_id, consent_id, lfi, gen, started_at, ended_at, outcome, calls, pages,
                        pages_unchanged, added, modified, removed, steps)
       SELECT 'default', 'c' || i, 'c' || i, 'bank-' || i % :lfis, 1, now(), now(), 'ok', 12, 12, 12, 0, 0, 0, '[]'""",
)  # fmt: skip


def counters() -> dict[Key, int]:
    """What is counted of so many LFIs, generously."""
    found: dict[Key, int] = {}
    for number in range(LFIS):
        lfi = f"bank-{number}"
        for operation in sorted(tally.OPERATIONS)[:16]:
            for status in ("2xx", "5xx"):
                found[("calls", lfi, operation, status, "false")] = 10_000
            for bound in tally.BOUNDS_MS:
                found[("call_time", lfi, operation, str(bound))] = 1_000
            found[("call_ms", lfi, operation)] = 1_000_000
        for resource in tally.RESOURCES:
            for outcome in tally.WALK_OUTCOMES[:4]:
                found[("walks", lfi, resource, outcome)] = 1_000
            for change in tally.CHANGES:
                found[("rows", lfi, resource, change)] = 1_000
    return found


async def fill(store: Store, connections: int, rule: str) -> None:
    now = datetime.now(UTC)
    at = {one: now - timedelta(hours=place // 3) for place, one in enumerate(ResourceName)}
    values = {"lfis": LFIS, "rule": rule, "ages": pack(at)}
    async with store.writing() as unit:
        for text in FILL:
            source = f" FROM generate_series(1, {connections}) AS i"
            if "staleness" in text:
                source += " JOIN work w ON w.kind = 'sync' AND w.subject = 'c' || i"
            mine = {name: value for name, value in values.items() if f":{name}" in text}
            await unit.connection.execute(sa.text(text + source), mine)
        await unit.counters.count(counters())
        await unit.commit()
    async with store.looking() as unit:
        await unit.connection.exec_driver_sql("ANALYZE")


async def explained(store: Store, statement: Statement, rule: str) -> str:
    """The plan of a statement with what it took."""
    given = {"tenant": store.tenant, "rule": rule, "everybody": True, "allowed": "[]"}
    async with store.reading() as unit:
        built = statement.build(unit.dialect)
        compiled = built.compile(dialect=unit.connection.dialect)
        values = {**compiled.params, **given}
        text = f"EXPLAIN (ANALYZE, COSTS OFF) {compiled}"
        rows = await unit.connection.exec_driver_sql(text, {name: values[name] for name in compiled.params})
        return "\n".join(f"  {line}" for (line,) in rows)


async def watch(longest: list[float]) -> None:
    """Note for how long the event loop was busy with one thing."""
    while True:
        begun = time.perf_counter()
        await asyncio.sleep(0.001)
        longest[0] = max(longest[0], time.perf_counter() - begun - 0.001)


async def measure(database: str, connections: int, scrapes: int, *, plans: bool) -> dict[str, float]:
    names = [f"bank-{number}" for number in range(LFIS)]
    urls = {name: f"https://{name}.example" for name in names}
    bank = {name: {"issuer": url, "base_urls": {"v2.1": url}} for name, url in urls.items()}
    settings = Settings.model_validate({"lfis": bank})
    rule = targets_of(settings).rule
    store = Store(database)
    await fill(store, connections, rule)
    if plans:
        for name, statement in (("standing", STANDING), ("ages", AGES)):
            print(f"{name}:\n{await explained(store, statement, rule)}")
    scraping = Scrapes(settings, store, ask=lambda _: BrokerFact(state=BrokerState.ANSWERS))
    took: list[float] = []
    spent: list[float] = []
    longest = [0.0]
    watching = asyncio.create_task(watch(longest))
    await asyncio.sleep(5.0)
    idle, longest[0] = longest[0], 0.0
    size = 0
    for _ in range(scrapes + 1):
        begun, processor = time.perf_counter(), time.process_time()
        sheet = await scraping.sheet()
        size = len((await asyncio.to_thread(exposition, sheet))[0])
        took.append((time.perf_counter() - begun) * 1000)
        spent.append((time.process_time() - processor) * 1000)
        await asyncio.sleep(1.0)  # the next one collects anew
    watching.cancel()
    await scraping.close()
    await store.close()
    first, *others = took
    return {
        "connections": connections,
        "first_ms": round(first, 1),
        "median_ms": round(statistics.median(others), 1),
        "worst_ms": round(max(others), 1),
        "idle_loop_busy_ms": round(idle * 1000, 1),
        "loop_busy_ms": round(longest[0] * 1000, 1),
        "processor_ms": round(statistics.median(spent[1:]), 1),
        "kilobytes": round(size / 1000, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, nargs="+", default=[100, 10_000])
    parser.add_argument("--scrapes", type=int, default=30)
    parser.add_argument("--plans", action="store_true", help="show the plans of the two largest statements")
    asked = parser.parse_args()
    server = PostgresServer()
    try:
        migrate.upgrade(server.make_template())
        for connections in asked.connections:
            url = server.url(server.clone())
            found = asyncio.run(measure(url, connections, asked.scrapes, plans=asked.plans))
            print(json.dumps(found))
    finally:
        server.close()


if __name__ == "__main__":
    main()
