"""`GET /metrics` over a bank that was really synced, as the web process's own role, against what the tables hold."""

import asyncio
import itertools
import threading
from collections import Counter

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from syncworker import __version__
from syncworker.ops.diagnosis import Diagnosis, diagnose
from syncworker.ops.metrics import BY_NAME, METRICS, SERIES, MetricType
from syncworker.ops.recording import Recording
from syncworker.ops.status import BrokerFact, BrokerState, collect
from syncworker.settings import Settings
from syncworker.standard.values import Slug
from syncworker.store.api_keys import Scope
from syncworker.store.calls import CallRow, unpack
from syncworker.store.tables import call, cursor, run, work
from syncworker.store.tokens import IN_DOUBT
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.web.metrics import PATH, Scrapes
from tests.web.house import Opener, WebHouse
from tests.web.test_connections import synced

pytestmark = pytest.mark.flow


def read(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by name and by the values of their labels, which are sorted by name."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


async def scrape(web: WebHouse, **headers: str) -> dict[str, dict[tuple[str, ...], float]]:
    answer = await web.product.get(PATH, headers=headers)
    assert answer.status_code == 200, answer.text
    return read(answer.text)


async def every_call(unit: UnitOfWork) -> list[CallRow]:
    """Calls that are rows, and those that are packed; those in doubt count once they are settled."""
    names = CallRow.__slots__
    settled = call.c.error.is_distinct_from(IN_DOUBT)
    rows = await unit.connection.execute(sa.select(*(call.c[name] for name in names)).where(settled))
    found = [CallRow(**dict(row)) for row in rows.mappings()]
    packed = await unit.connection.execute(sa.select(run).where(run.c.packed.is_not(None)))
    for row in packed.mappings():
        facts = {"mark": row["call_mark"], "first": row["called_from"], "lfi": Slug(row["lfi"])}
        found += unpack(row["packed"], consent_id=row["consent_id"], **facts)
    return found


async def expected(store: Store) -> dict[str, dict[tuple[str, ...], float]]:
    """Counters by the rows, while all of them are there."""
    async with store.reading() as unit:
        calls = await every_call(unit)
        runs = [dict(row) for row in (await unit.connection.execute(sa.select(run))).mappings()]
    by_call = Counter[tuple[str, ...]](
        (str(one.attended).lower(), "sandbox", one.operation, f"{(one.status or 0) // 100}xx") for one in calls
    )
    steps = [step for one in runs for step in one["steps"]]
    rows = Counter[tuple[str, ...]]()
    for step in steps:
        rows.update({("added", "sandbox", step["resource"]): step.get("added", 0)})
    return {
        "syncworker_calls_total": dict(by_call),
        "syncworker_call_duration_seconds_count": dict(Counter(("sandbox", one.operation) for one in calls)),
        "syncworker_price_aed_total": {("sandbox",): sum(one.price_millifils for one in calls) / 100_000},
        "syncworker_syncs_total": dict(Counter(("sandbox", one["outcome"]) for one in runs)),
        "syncworker_walks_total": dict(Counter(("sandbox", step["outcome"], step["resource"]) for step in steps)),
        "syncworker_rows_total": {labels: value for labels, value in rows.items() if value},
    }


async def test_counters_are_what_the_tables_hold_and_stay_when_the_rows_go(
    open_house: Opener, database_url: str
) -> None:
    """Calls, price, runs, walks, rows; retention deletes every row of a run, and the next sync counts on."""
    seconds = itertools.count(step=2.0)  # between two scrapes
    web = await open_house(database_url, timer=lambda: next(seconds))
    connection_id = await synced(web)
    before, rows = await scrape(web), await expected(web.store)

    async def retention(unit: UnitOfWork) -> None:
        await unit.connection.execute(sa.delete(call).where(call.c.tenant == unit.tenant))
        await unit.connection.execute(sa.delete(run).where(run.c.connection_id == connection_id))

    await web.store.atomically(retention)
    after = await scrape(web)
    await synced(web)
    later = await scrape(web)

    assert {name: pytest.approx(before[name]) for name in rows} == rows
    assert sum(rows["syncworker_rows_total"].values()) > 0
    counted = [one.series for one in BY_NAME.values() if one.type in (MetricType.COUNTER, MetricType.HISTOGRAM)]
    names = [name for those in counted for name in those if name in before]
    assert {name: after[name] for name in names} == {name: before[name] for name in names}
    assert all(later[name][labels] >= value for name in names for labels, value in before[name].items())
    assert later["syncworker_syncs_total"] != before["syncworker_syncs_total"]


async def test_every_metric_of_a_connection_that_is_fresh(web: WebHouse) -> None:
    """States, work, ages as the tables have them; no metric that is not listed, and none without its type."""
    await synced(web)
    async with web.store.reading() as unit:
        now = await unit.now()
    await Recording(web.settings, web.store).note(now)
    answer = await web.product.get(PATH)
    found = read(answer.text)
    async with web.store.reading() as unit:
        kinds = Counter((await unit.connection.execute(sa.select(work.c.kind))).scalars())
        resources = set((await unit.connection.execute(sa.select(cursor.c.resource).distinct())).scalars())

    assert found["syncworker_build_info"] == {(__version__,): 1}
    assert found["syncworker_connections"] == {("sandbox", "live"): 1}
    assert found["syncworker_connections_stale"] == {("sandbox",): 0}
    assert found["syncworker_work_rows"] == {
        (kind, "sandbox" if kind not in ("fill", "directory", "delivery") else "other"): count
        for kind, count in kinds.items()
    }
    assert set(found["syncworker_data_age_seconds_gcount"]) == {("sandbox", resource) for resource in resources}
    assert set(found["syncworker_data_age_seconds_gcount"].values()) == {1}
    assert all(value < 600 for value in found["syncworker_data_age_seconds_gsum"].values())
    assert found["syncworker_database_state"][("ok",)] == 1
    causes = {labels[:2] for labels in found["syncworker_cause"]}  # kind and LFI
    assert {("workers_dead", ""), ("beat_dead", "")} <= causes
    assert found["syncworker_causes"][("us",)] == sum(
        one.side == "us" for one in (await diagnosed(web)).causes
    )  # as `status` says, in this very moment
    told = {line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")}
    every = {one.name for those in METRICS.values() for one in those}
    assert every <= told
    assert {name for name in found if name not in SERIES} == set()


async def diagnosed(web: WebHouse) -> Diagnosis:
    return diagnose(await collect(web.settings, web.store, asks_broker=False, probes=False))


# -- who may, and in which words ---------------------------------------------------------------------------------------


async def test_a_scrape_needs_the_scope(small_web: WebHouse) -> None:
    """No key, a key of another scope, the key of Prometheus; it says nothing but metrics with it."""
    stranger = await small_web.another().get(PATH)
    key = await small_web.key([one for one in Scope if one is not Scope.METRICS_READ])
    other = await small_web.another(headers={"authorization": f"Bearer {key}"}).get(PATH)
    key = await small_web.key([Scope.METRICS_READ])
    mine = small_web.another(headers={"authorization": f"Bearer {key}"})
    scraped, data = await mine.get(PATH), await mine.get("/v1/connections")

    assert (stranger.status_code, other.status_code, other.json()["code"]) == (401, 403, "scope_missing")
    assert (scraped.status_code, data.status_code) == (200, 403)
    assert scraped.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_prometheus_is_answered_in_the_format_it_asks_for(small_web: WebHouse) -> None:
    """OpenMetrics, with the same values and its end mark."""
    answer = await small_web.product.get(PATH, headers={"accept": "application/openmetrics-text; version=1.0.0"})

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    assert "syncworker_build_info{" in answer.text


async def test_no_customer_is_in_any_label(web: WebHouse) -> None:
    """Neither ids of consents, connections, accounts and interactions, nor the product's reference."""
    connection_id = await synced(web)
    text = (await web.product.get(PATH)).text
    async with web.store.reading() as unit:
        ids = {connection_id, "customer-1", *(one.interaction_id for one in await every_call(unit))}
        ids |= {one for one in (await unit.connection.execute(sa.select(cursor.c.account_id))).scalars() if one}

    assert len(ids) > 4
    assert [one for one in ids if one in text] == []


# -- scrapes and everything else ---------------------------------------------------------------------------------------


async def test_scrapes_at_the_same_time_share_one_collection(web: WebHouse) -> None:
    """And one that was given up ends none of the others."""
    scrapes = Scrapes(web.settings, web.store, ask=lambda _: BrokerFact(state=BrokerState.ANSWERS))
    first, *others = [asyncio.create_task(scrapes.sheet()) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    sheets = await asyncio.gather(*others)
    await scrapes.close()

    assert {id(one) for one in sheets} == {id(sheets[0])}


async def test_a_broker_that_is_silent_holds_up_no_scrape(web: WebHouse) -> None:
    """It is asked beside the scrapes: what it said is in a later one."""
    answered = threading.Event()

    def ask(_: Settings) -> BrokerFact:
        assert answered.wait(60)
        return BrokerFact(state=BrokerState.FOREIGN, said="no broker")

    now = [0.0]
    scrapes = Scrapes(web.settings, web.store, ask=ask, timer=lambda: now[0])
    before = await scrapes.sheet()
    answered.set()
    for _ in range(1_000):
        now[0] += 2.0
        after = await scrapes.sheet()
        if after.values["syncworker_broker_state"][("foreign",)]:
            break
    await scrapes.close()

    assert before.values["syncworker_broker_state"][("unasked",)] == 1
    assert after.values["syncworker_broker_state"][("foreign",)] == 1
    assert after.values["syncworker_cause"][("broker_foreign", "us", "")] == 1
