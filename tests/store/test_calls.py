"""The calls of a run: packed into its row, counted and found as when each was a row; words of an LFI never packed."""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from syncworker.errors import SetupError
from syncworker.standard.interaction import Interactions, new_interaction_id
from syncworker.standard.resources import RESOURCES, Resource
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store import migrate
from syncworker.store.calls import OPERATIONS, CallRow, PackedCalls, pack, unpack
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.runs import RunRow, TrafficRow
from syncworker.store.tables import call, run
from syncworker.store.unit_of_work import Store
from tests.store.test_migrations import empty_url, engine, migrations

__all__ = ["empty_url"]
pytestmark = pytest.mark.store

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
BANK = Slug("bank")
WORDS = "closed for the night"


def a_run(connection: str, *, at: datetime = NOW, calls: int = 0) -> RunRow:
    return RunRow(
        connection_id=ConsentId(connection), consent_id=ConsentId(connection), lfi=BANK, gen=1, started_at=at,
        ended_at=at + timedelta(seconds=9), outcome="ok", error=None, calls=calls, pages=calls, pages_unchanged=0,
        added=0, modified=0, removed=0, steps=[],
    )  # fmt: skip


def a_call(ids: Interactions, consent: str, *, after_s: float = 0, at: datetime = NOW, **changes: Any) -> CallRow:
    facts: dict[str, Any] = {
        "lfi": BANK, "consent_id": consent, "operation": "GetAccounts", "status": 200, "error": None,
        "interaction_id": ids.new(), "started_at": at + timedelta(seconds=after_s), "duration_ms": 40, "bytes_in": 700,
        "attended": False, "price_millifils": 2_500,
    }  # fmt: skip
    return CallRow(**facts | changes)


def some_calls(ids: Interactions, consent: str, *, at: datetime = NOW) -> list[CallRow]:
    """A call of each fate; the fourth and the last are not to be packed."""
    away = {"status": 503, "error": "http_503", "price_millifils": 0}
    return [
        a_call(ids, consent, at=at),
        a_call(ids, consent, at=at, after_s=0.25, operation="GetAccountsAccountIdBalances", bytes_in=70_000),
        a_call(ids, consent, at=at, after_s=0.125, **away),
        a_call(ids, consent, at=at, after_s=0.5, status=403, error="refused", price_millifils=0, reason=WORDS),
        a_call(ids, consent, at=at, after_s=1, attempt=2, **away),
        a_call(ids, consent, at=at, after_s=2, status=429, error="http_429", operation="GetOfTomorrow", attended=True),
        a_call(ids, consent, at=at, after_s=3, status=None, error="timeout", price_millifils=0),
        replace(a_call(ids, consent, at=at, after_s=4), interaction_id="of another make"),
    ]


async def filed(store: Store, those: Sequence[tuple[RunRow, Sequence[CallRow]]]) -> None:
    async with store.writing() as unit:
        await unit.runs.file(those)
        await unit.commit()


# -- the pack --------------------------------------------------------------------------------------------------------


def back(packed: PackedCalls, rows: Sequence[CallRow]) -> list[CallRow]:
    return unpack(packed.packed, mark=packed.call_mark, first=packed.called_from, lfi=BANK, consent_id="c", rows=rows)


def test_packed_calls_come_back_in_their_order() -> None:
    """With those that stay rows between them; sums are of the packed ones."""
    ids = Interactions(NOW)
    calls = some_calls(ids, "c")
    packed, rows = pack(calls)

    assert packed is not None
    assert rows == [calls[3], calls[7]]
    assert back(packed, rows) == calls
    assert replace(packed, packed=b"") == PackedCalls(
        call_mark=ids.mark, called_from=NOW, called_until=NOW + timedelta(seconds=3), called=6, retried=1,
        unanswered=3, rate_limited=1, attended=1, called_bytes=5 * 700 + 70_000, called_millifils=3 * 2_500, packed=b"",
    )  # fmt: skip


def test_the_words_of_an_lfi_are_in_no_pack() -> None:
    """They may name a person, and have to be found by consent."""
    packed, _ = pack(some_calls(Interactions(NOW), "c"))

    assert packed is not None
    assert WORDS.encode() not in packed.packed


@pytest.mark.parametrize("times", [0, 1])
def test_calls_that_cannot_be_packed_stay_rows(times: int) -> None:
    """None, or one whose id is of another make."""
    calls = [replace(a_call(Interactions(NOW), "c"), interaction_id="x")] * times
    assert pack(calls) == (None, calls)


def test_a_call_of_another_consent_or_run_stays_a_row() -> None:
    """What the run's row says of its calls holds for each packed one."""
    ids = Interactions(NOW)
    calls = [a_call(ids, "c"), a_call(ids, "d"), a_call(Interactions(NOW), "c"), a_call(ids, "c", after_s=1)]
    packed, rows = pack(calls)

    assert packed is not None
    assert (packed.called, rows, back(packed, rows)) == (2, calls[1:3], calls)


def test_a_pack_is_small() -> None:
    """Nineteen calls of a run that found nothing new: some twenty bytes each, of which ten are its id."""
    ids = Interactions(NOW)
    packed, _ = pack([a_call(ids, "c", after_s=one / 20, bytes_in=400 + one) for one in range(19)])

    assert packed is not None
    assert len(packed.packed) < 19 * 20


def test_a_pack_of_another_format_is_refused() -> None:
    """With what to do, and never as a wrong list."""
    with pytest.raises(SetupError, match="by a newer syncworker; upgrade this one"):
        unpack(msgspec.msgpack.encode([2, "unknown"]), mark=0, first=NOW, lfi=BANK, consent_id="c")


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda one: one.name)
def test_every_operation_has_a_number(resource: Resource) -> None:
    """One without is packed by its name: forty bytes for each call."""
    assert resource.operation in OPERATIONS


def the_migration() -> Any:
    path = next((migrations() / "versions").glob("*_calls.py"))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_numbers_of_operations_never_change() -> None:
    """They stand in packs; the migration's way back reads them too, so a new one is added there as well."""
    assert the_migration().OPERATIONS == OPERATIONS
    assert (OPERATIONS[0], OPERATIONS[11]) == ("GetAccounts", "Parties_read")


# -- in the database ---------------------------------------------------------------------------------------------------


async def test_the_calls_of_a_run_are_one_row_but_for_those_with_words(store: Store) -> None:
    """Several runs in one go, each with its own; read back they are what was filed."""
    made = {name: some_calls(Interactions(NOW), name) for name in ("a", "b")}
    plain = [a_call(Interactions(NOW), "c")]
    await filed(store, [(a_run(name, calls=8), calls) for name, calls in made.items()])
    await filed(store, [(a_run("c", calls=1), plain), (a_run("d"), [])])

    async with store.reading() as unit:
        runs = {one.run.connection_id: one for one in await unit.runs.find()}
        rows = list(await unit.connection.scalars(sa.select(call.c.reason).order_by(call.c.id)))
        read = {name: await unit.runs.calls_of(one) for name, one in runs.items()}
        counted = await unit.runs.calls_of_runs()

    assert read == {**made, "c": plain, "d": []}
    assert (rows, counted) == ([WORDS, None] * 2, 17)


async def test_sums_are_those_of_rows(store: Store) -> None:
    """The same calls as rows of an older run, packed, and of no run: each counted once."""
    await filed(store, [(a_run("packed"), some_calls(Interactions(NOW), "packed"))])
    async with store.writing() as unit:
        await unit.runs.add_calls(some_calls(Interactions(NOW), "old"), run_id=await unit.runs.add(a_run("old")))
        await unit.runs.add_calls([a_call(Interactions(NOW), "", operation="GetJwks", price_millifils=0)])
        await unit.commit()
    async with store.reading() as unit:
        traffic = await unit.runs.traffic(since=NOW)
        cost = await unit.runs.cost()
        later = await unit.runs.cost(since=NOW + timedelta(seconds=5))
        of_another = await unit.runs.cost(lfi=Slug("another"))

    assert traffic == [
        TrafficRow(lfi=BANK, calls=17, retried=2, unanswered=6, rate_limited=2, price_millifils=8 * 2_500)
    ]
    assert (cost, later, of_another) == ((17, 20_000), (0, 0), (0, 0))


@pytest.mark.parametrize("apart", [timedelta(0), timedelta(minutes=50), timedelta(minutes=-50)], ids=str)
@pytest.mark.parametrize(
    ("since_s", "calls"), [(-1, 8), (0, 8), (0.0625, 7), (0.125, 7), (0.2, 6), (1, 4), (2.5, 2), (3.5, 1), (4.5, 0)]
)
async def test_a_run_that_the_instant_cuts_in_two_is_counted_by_call(
    store: Store, apart: timedelta, since_s: float, calls: int
) -> None:
    """By the worker's clock, which calls carry; the run's mark is by the database's."""
    at = NOW + apart
    await filed(store, [(a_run("c"), some_calls(Interactions(NOW), "c", at=at))])
    async with store.reading() as unit:
        traffic = await unit.runs.traffic(since=at + timedelta(seconds=since_s))

    assert sum(one.calls for one in traffic) == calls


async def test_an_interaction_id_leads_to_its_call_and_run(store: Store) -> None:
    """Packed, a row of the run, of an older run, of none; in upper case; and ids of nothing."""
    ids = Interactions(NOW)
    packed, older = some_calls(ids, "packed"), some_calls(Interactions(NOW), "old")
    alone = a_call(Interactions(NOW), "alone", operation="CreateAccessTokenRequest", after_s=3)
    await filed(store, [(a_run("packed"), packed), (a_run("other"), [a_call(Interactions(NOW), "other")])])
    async with store.writing() as unit:
        await unit.runs.add_calls(older[:3], run_id=await unit.runs.add(a_run("old")))
        await unit.runs.add_calls([alone])
        await unit.commit()

    async with store.reading() as unit:
        found = [await unit.runs.of_interaction(one.interaction_id) for one in [*packed, *older[:3], alone]]
        shouted = await unit.runs.of_interaction(packed[1].interaction_id.upper())
        unknown = [await unit.runs.of_interaction(one) for one in ("x", ids.new(), new_interaction_id(NOW))]

    assert [(one.call, one.run and one.run.run.connection_id) for one in found if one] == [
        *((one, "packed") for one in packed), *((one, "old") for one in older[:3]), (alone, None),
    ]  # fmt: skip
    assert shouted is not None
    assert (shouted.call, unknown) == (packed[1], [None] * 3)


async def test_a_run_is_found_by_the_name_that_logs_give_it(store: Store) -> None:
    """The head of its calls' ids, in any case, or one of the ids; not a head of no run, and no other text."""
    ids = Interactions(NOW)
    calls = some_calls(ids, "packed")
    await filed(store, [(a_run("packed"), calls), (a_run("other"), [a_call(Interactions(NOW), "other")])])
    async with store.reading() as unit:
        found = [await unit.runs.named(one) for one in (ids.head, ids.head.upper(), calls[0].interaction_id)]
        none = [await unit.runs.named(one) for one in (Interactions(NOW).head, "1", "", ids.head[:-1], ids.head + "-")]

    assert [one and one.run.connection_id for one in found] == ["packed"] * 3
    assert none == [None] * 5
    assert calls[0].interaction_id.startswith(ids.head + "-")


async def test_runs_that_share_a_mark_are_told_apart(store: Store) -> None:
    """Two of one second draw the same chance once in 65,536 times."""
    ids = Interactions(NOW)
    mine, others = [a_call(ids, "a")], [a_call(ids, "b")]
    await filed(store, [(a_run("a"), mine), (a_run("b"), others)])
    async with store.reading() as unit:
        found = [await unit.runs.of_interaction(one.interaction_id) for one in (*mine, *others)]

    assert [one and one.run and one.run.run.connection_id for one in found] == ["a", "b"]


async def test_runs_of_an_id_are_looked_up_by_an_index(postgresql_url: str) -> None:
    """Among ten thousand, without statistics."""
    store = Store(postgresql_url)
    async with store.writing() as unit:
        await unit.connection.execute(
            sa.text(
                "INSERT INTO run (tenant, connection_id, consent_id, lfi, gen, started_at, ended_at, outcome, calls,"
                " pages, pages_unchanged, added, modified, removed, steps, call_mark) SELECT 'default', 'c', 'c', 'l',"
                " 1, now(), now(), 'ok', 0, 0, 0, 0, 0, 0, '[]', i FROM generate_series(1, 10000) i"
            )
        )
        query = sa.select(run.c.id).where(run.c.call_mark == 77, run.c.tenant == "default").order_by(run.c.id.desc())
        told = await unit.connection.execute(
            sa.text(
                "EXPLAIN "
                + str(query.limit(100).compile(dialect=unit.connection.dialect, compile_kwargs={"literal_binds": True}))
            )
        )
        plan = "\n".join(row[0] for row in told)
    await store.close()

    assert "ix_run_call_mark_tenant" in plan, plan


async def test_words_about_a_call_of_a_run_are_destroyed_with_the_personal_data(store: Store) -> None:
    """The call stays, in its place among the others; its words are nowhere."""
    consent = ConsentId("c")
    calls = some_calls(Interactions(NOW), consent)
    async with store.writing() as unit:
        await unit.consents.add_connection(Connection(connection_id=consent, lfi=BANK, user_ref="user", created_at=NOW))
        await unit.consents.add(
            StoredConsent(
                consent_id=consent, connection_id=consent, lfi=BANK, user_ref="user", version=Version.V2_1,
                status="Authorized", status_updated_at=NOW, status_seen_at=NOW, permissions=("ReadBalances",),
                expires_at=NOW + timedelta(days=9), user_type="Retail", purpose="AccountAggregation", created_at=NOW,
                raw={},
            )
        )  # fmt: skip
        await unit.runs.file([(a_run(consent), calls)])
        await unit.commit()
    async with store.writing() as unit:
        said = await unit.runs.said([consent])
        erased = await unit.erasure.erase(consent)
        await unit.commit()
    async with store.reading() as unit:
        (filed_run,) = await unit.runs.find()
        left = await unit.runs.calls_of(filed_run)
        silent = await unit.runs.said([consent])

    assert (said, erased["call.reason"], silent) == ([calls[3]], 1, [])
    assert left == [replace(one, reason=None) for one in calls]


# -- the migration -----------------------------------------------------------------------------------------------------


async def test_packed_calls_are_rows_again_on_the_way_back(empty_url: str) -> None:
    """Down: every call is a row of its run, once; up again: they stay rows, are found and counted as before."""
    migrate.upgrade(empty_url)
    made = {name: some_calls(Interactions(NOW), name) for name in ("a", "b")}
    store = Store(empty_url)
    await filed(store, [(a_run(name), calls) for name, calls in made.items()])
    async with store.reading() as unit:
        traffic = await unit.runs.traffic(since=NOW)
    await store.close()

    migrate.downgrade(empty_url, "0019")
    with engine(empty_url).connect() as connection:
        rows = connection.execute(sa.select(call.c.run_id, call.c.interaction_id)).all()
    migrate.upgrade(empty_url)

    store = Store(empty_url)
    async with store.reading() as unit:
        read = {
            one.run.connection_id: sorted(await unit.runs.calls_of(one), key=lambda each: each.started_at)
            for one in await unit.runs.find()
        }
        same = await unit.runs.traffic(since=NOW)
    await store.close()
    assert len(rows) == 16
    assert read == {name: sorted(calls, key=lambda each: each.started_at) for name, calls in made.items()}
    assert same == traffic
