"""Cursors and checks of a connection: two places for what is known of a listing, of which the newer counts."""

import ast
import asyncio
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import syncworker
from syncworker.standard.json_text import json_bytes
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.cursors import Attempt, Checked
from syncworker.store.erasure import DataClass
from syncworker.store.freshness import (
    Check,
    Cursor,
    Listing,
    checks,
    freshness,
    listing_fact,
    listings,
    packed,
    unpacked,
)
from syncworker.store.statements import run_all
from syncworker.store.tables import connection_check, cursor
from syncworker.store.unit_of_work import Store, UnitOfWork
from tests.store.filled import fill
from tests.store.test_plans import _read_whole

pytestmark = pytest.mark.store

N = ResourceName
CONNECTION = ConsentId("c")
NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
A, B, ALL = Listing("a", N.BALANCES), Listing("b", N.BALANCES), Listing("", N.ACCOUNTS)
LISTINGS = (ALL, A, Listing("a", N.TRANSACTIONS), B)


def at(gen: int) -> datetime:
    """When a claim's run ends; an odd microsecond."""
    return NOW + gen * HOUR + timedelta(microseconds=gen)


def due(gen: int, listing: Listing = A) -> datetime:
    return at(gen) + (6 if listing.resource is N.BALANCES else 24) * HOUR


async def known(store: Store, connection_id: ConsentId = CONNECTION) -> dict[Listing, Cursor]:
    async with store.reading() as unit:
        return (await freshness(unit, [connection_id])).get(connection_id, {})


async def write(store: Store, act: Callable[[UnitOfWork], Any]) -> None:
    async with store.writing() as unit:
        await act(unit)
        await unit.commit()


def read_now(listing: Listing, gen: int, before: Cursor | None = None, **changes: Any) -> Cursor:
    """The cursor that a walk with changes writes."""
    start = before or Cursor(listing=listing, due_at=due(gen, listing), gen=gen)
    facts: dict[str, Any] = {
        "pages": b"%d" % gen, "checked_at": at(gen), "attempted_at": at(gen), "changed_at": at(gen),
        "due_at": due(gen, listing), "outcome": "ok", "error": None, "refused_until": None, "gen": gen,
        "attempts": 0, "failing_since": None,
    }  # fmt: skip
    return replace(start, **facts | changes)


def failed(listing: Listing, gen: int, before: Cursor | None) -> Attempt:
    return Attempt(
        listing=listing, at=at(gen), due_at=at(gen) + HOUR, outcome="failed", error="server", refused_until=None,
        checked_at=before.checked_at if before else None, changed_at=before.changed_at if before else None,
        attempts=(before.attempts if before else 0) + 1, failing_since=at(gen),
    )  # fmt: skip


def checked(connection_id: ConsentId, gen: int, *those: Listing) -> list[Checked]:
    return [
        Checked(
            connection_id=connection_id, account_id=one.account_id, resource=one.resource, due_at=due(gen, one), gen=gen
        )
        for one in those
    ]


async def check(unit: UnitOfWork, gen: int, *those: Listing, kept: Mapping[Listing, Cursor] | None = None) -> None:
    """Note walks of a claim that showed nothing new; it knew `kept` when it began."""
    before = {listing: one.check for listing, one in (kept or {}).items() if one.check is not None}
    told = unit.cursors.checking(checked(CONNECTION, gen, *those), at=at(gen), kept={CONNECTION: before})
    await run_all(unit, [told])


# -- the row ---------------------------------------------------------------------------------------------------------

INSTANTS = st.datetimes(timezones=st.just(UTC))
SOME = st.dictionaries(
    st.builds(Listing, st.sampled_from(["", "a", 'b"\\[', "\u00e9", "d"]), st.sampled_from(list(N))),
    st.builds(Check, st.integers(0, 3), st.sampled_from([at(1), at(2)]) | INSTANTS, INSTANTS | st.just(due(9))),
)


@given(SOME)
def test_what_is_packed_comes_back(those: dict[Listing, Check]) -> None:
    """Every listing with its own walk, to the microsecond; the same checks are the same text."""
    text = packed(those)

    assert unpacked(text) == those
    assert packed(dict(reversed(those.items()))) == text


@pytest.mark.parametrize(("apart", "most"), [(0, 21_000), (40, 23_000)])
def test_five_hundred_accounts_are_named_once(apart: int, most: int) -> None:
    """Ten listings each; some accounts whose balances were read by themselves cost some bytes more, not all again."""
    accounts = [str(uuid.UUID(int=number * 7**40)) for number in range(500)]
    those = {Listing(one, name): Check(7, at(7), due(7)) for one in accounts for name in list(N)[:10]}
    those |= {Listing(one, N.BALANCES): Check(8, at(8), due(8)) for one in accounts[:apart]}

    assert len(json_bytes(packed(those))) < most
    assert unpacked(packed(those)) == those


# -- which of the two counts -----------------------------------------------------------------------------------------


ORDERS = [
    pytest.param([(1, "changed")], (1, 1, "ok"), id="no check: the cursor's own"),
    pytest.param([(1, "changed"), (2, "unchanged")], (2, 2, "unchanged"), id="checked since"),
    pytest.param([(1, "changed"), (2, "unchanged"), (3, "changed")], (3, 3, "ok"), id="changed since the check"),
    pytest.param([(2, "changed"), (2, "unchanged")], (2, 2, "unchanged"), id="by one claim: the check comes last"),
    pytest.param([(1, "changed"), (2, "unchanged"), (3, "failed")], (3, 2, "failed"), id="failed since the check"),
    pytest.param([(1, "changed"), (3, "changed"), (2, "unchanged")], (3, 3, "ok"), id="a late check"),
    pytest.param([(1, "changed"), (3, "unchanged"), (2, "changed")], (3, 3, "unchanged"), id="a late change"),
    pytest.param([(1, "changed"), (3, "unchanged"), (2, "failed")], (3, 3, "unchanged"), id="a late failure"),
    pytest.param([(1, "changed"), (3, "unchanged"), (2, "unchanged")], (3, 3, "unchanged"), id="an older check late"),
    pytest.param([(1, "changed"), (2, "unchanged"), (3, "forgot")], (3, 2, "unchanged"), id="pages forgotten since"),
    pytest.param([(1, "changed"), (3, "unchanged"), (2, "forgot")], (3, 3, "unchanged"), id="pages forgotten late"),
    pytest.param([(1, "changed"), (2, "unchanged"), (3, "delayed")], (3, 2, "unchanged"), id="a slice delayed since"),
    pytest.param([(1, "changed"), (2, "unchanged"), (3, "looked")], (3, 2, "unchanged"), id="a look planned since"),
    pytest.param([(2, "unchanged")], None, id="a check of a listing without a cursor"),
]


async def act(unit: UnitOfWork, gen: int, what: str, before: Cursor | None, listing: Listing = A) -> None:
    """What a claim writes of a listing; it knew `before` when it began."""
    match what:
        case "changed":
            await unit.cursors.advance(CONNECTION, [read_now(listing, gen, before)])
        case "failed":
            await unit.cursors.attempted(CONNECTION, [failed(listing, gen, before)], gen=gen)
        case "unchanged":
            await check(unit, gen, listing)
        case "forgot":
            await unit.cursors.forget_pages(CONNECTION, [listing], gen=gen)
        case "delayed":
            await unit.cursors.delay_backfill(
                CONNECTION, listing, until=due(gen), attempts=1, failing_since=at(gen), gen=gen
            )
        case "looked":
            await unit.cursors.look_again(CONNECTION, listing, at=due(gen), gen=gen)


@pytest.mark.parametrize(("acts", "expected"), ORDERS)
async def test_the_newer_claim_says_how_fresh_a_listing_is(
    store: Store, acts: list[tuple[int, str]], expected: tuple[int, int, str] | None
) -> None:
    """By gen, whatever the order of writing: (gen, claim whose walk was complete, outcome)."""
    for gen, what in acts:
        before = (await known(store)).get(A)
        await write(store, partial(act, gen=gen, what=what, before=before))

    found = (await known(store)).get(A)
    said = None if found is None else (found.gen, found.checked_at, found.outcome)
    assert said == (None if expected is None else (expected[0], at(expected[1]), expected[2]))


@pytest.mark.parametrize(("what", "facts"), [("forgot", {"pages": None}), ("delayed", {"attempts": 1})])
async def test_who_writes_some_facts_leaves_those_of_the_check(store: Store, what: str, facts: dict[str, Any]) -> None:
    """Due time and instants stay those of the check, though the cursor is newer than it afterwards."""
    await write(store, lambda unit: act(unit, 1, "changed", None))
    await write(store, lambda unit: act(unit, 2, "unchanged", None))
    before = (await known(store))[A]
    await write(store, lambda unit: act(unit, 3, what, before))

    after = (await known(store))[A]
    assert (after.check, after.due_at, after.attempted_at) == (None, before.due_at, before.attempted_at)
    assert {name: getattr(after, name) for name in facts} == facts


async def test_a_listing_that_was_not_walked_keeps_its_check(store: Store) -> None:
    """The next claim walks another listing of the connection; both are as their last walk left them."""
    await write(store, lambda unit: unit.cursors.advance(CONNECTION, [read_now(one, 1) for one in LISTINGS]))
    await write(store, lambda unit: check(unit, 2, *LISTINGS))
    before = await known(store)
    await write(store, lambda unit: check(unit, 3, A, kept=before))

    after = await known(store)
    assert {listing: one.gen for listing, one in after.items()} == dict.fromkeys(LISTINGS, 2) | {A: 3}
    assert {listing: one.due_at for listing, one in after.items() if listing != A} == {
        listing: due(2, listing) for listing in LISTINGS if listing != A
    }


MARKS = [
    pytest.param({}, True, id="quiet"),
    pytest.param({"error": "server", "attempts": 2, "failing_since": NOW}, False, id="failing"),
    pytest.param({"error": "refused_403", "refused_until": NOW}, False, id="refused"),
    pytest.param({"attempts": 1}, False, id="attempts"),
    pytest.param({"attempts": 3, "failing_since": NOW, "backfill_due_at": NOW}, True, id="a slice is delayed"),
    pytest.param({"attempts": 3, "error": "server", "backfill_due_at": NOW}, False, id="and its newest part fails"),
]


@pytest.mark.parametrize(("marks", "quiet"), MARKS)
async def test_marks_of_a_failure_are_cleared_by_a_walk_without_news(
    store: Store, marks: dict[str, Any], quiet: bool
) -> None:
    """All but those of a slice that is still delayed; only a cursor with marks to clear is written."""
    await write(store, lambda unit: unit.cursors.advance(CONNECTION, [read_now(A, 1, **marks)]))
    before = (await known(store))[A]

    async def recover(unit: UnitOfWork) -> None:
        await run_all(unit, [unit.cursors.recovering(checked(CONNECTION, 2, A), at=at(2))])

    await write(store, (lambda unit: check(unit, 2, A)) if before.is_quiet else recover)

    after = (await known(store))[A]
    kept = marks.get("attempts", 0) if "backfill_due_at" in marks else 0
    assert (before.is_quiet, after.check is not None) == (quiet, quiet)
    assert (after.error, after.refused_until, after.attempts, after.outcome, after.gen) == (
        None, None, kept, "unchanged", 2,
    )  # fmt: skip
    assert (after.checked_at, after.attempted_at, after.due_at, after.pages) == (at(2), at(2), due(2), b"1")


# -- any order -------------------------------------------------------------------------------------------------------

ENDS = ("unchanged", "changed", "failed")
PARTS = ("forgot", "delayed", "looked")
RUNS = st.lists(st.dictionaries(st.sampled_from(LISTINGS), st.sampled_from(ENDS + PARTS), max_size=4), max_size=7)


@dataclass
class Reference:
    """Cursors as they are where each walk writes them itself."""

    rows: dict[Listing, Cursor] = field(default_factory=dict)

    def run(self, gen: int, acts: Mapping[Listing, str]) -> None:
        for listing, what in acts.items():
            before = self.rows.get(listing)
            if before is None and what not in ("changed", "failed"):
                continue
            one = before or Cursor(listing=listing, due_at=at(gen), gen=gen)
            match what:
                case "changed":
                    one = read_now(listing, gen, before)
                case "failed":
                    noted = failed(listing, gen, before)
                    one = replace(
                        one, attempted_at=noted.at, due_at=noted.due_at, outcome="failed", error="server",
                        refused_until=None, attempts=noted.attempts, failing_since=noted.failing_since, gen=gen,
                    )  # fmt: skip
                case "unchanged":
                    over = one.backfill_due_at is None
                    one = replace(
                        one, checked_at=at(gen), attempted_at=at(gen), due_at=due(gen, listing), outcome="unchanged",
                        error=None, refused_until=None, gen=gen, attempts=0 if over else one.attempts,
                        failing_since=None if over else one.failing_since,
                    )  # fmt: skip
                case "forgot":
                    one = replace(one, pages=None, gen=gen)
                case "delayed":
                    one = replace(one, backfill_due_at=due(gen), attempts=1, failing_since=at(gen), gen=gen)
                case "looked":
                    one = replace(one, look_again_at=due(gen), gen=gen)
            self.rows[listing] = one


async def end_run(unit: UnitOfWork, gen: int, acts: Mapping[Listing, str], knew: Mapping[Listing, Cursor]) -> None:
    """What a claim that knew so much writes: its checks last, as a run does."""
    for listing, what in acts.items():
        if what != "unchanged":
            await act(unit, gen, what, knew.get(listing), listing)
    await unit.send()
    same = [one for one in knew if acts.get(one) == "unchanged"]
    if quiet := [one for one in same if knew[one].is_quiet]:
        await check(unit, gen, *quiet, kept=knew)
    if rest := [one for one in same if not knew[one].is_quiet]:
        await run_all(unit, [unit.cursors.recovering(checked(CONNECTION, gen, *rest), at=at(gen))])


async def said_by_sql(unit: UnitOfWork, connection_id: ConsentId = CONNECTION) -> dict[Listing, tuple[Any, ...]]:
    every = listings(unit.dialect)
    query = sa.select(every).where(every.c.tenant == unit.tenant, every.c.connection_id == connection_id)
    return {
        Listing(account_id, ResourceName(resource)): tuple(facts)
        for _, _, account_id, resource, *facts in await unit.connection.execute(query)
    }


def facts_of(those: Mapping[Listing, Cursor]) -> dict[Listing, tuple[Any, ...]]:
    """What `listings` says of them."""
    return {
        listing: (one.checked_at, one.attempted_at, one.changed_at, one.due_at, one.outcome, one.error)
        for listing, one in those.items()
    }


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def own(database_url: str, runner: asyncio.Runner) -> Iterator[Store]:
    """A store for many examples, each in a transaction that is rolled back."""
    store = Store(database_url)
    yield store
    runner.run(store.close())


MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(RUNS)
@example([{A: "changed"}, {A: "unchanged"}, {A: "delayed"}, {A: "unchanged"}, {A: "failed"}])
def test_the_listings_are_as_if_each_walk_wrote_its_cursor(
    own: Store, runner: asyncio.Runner, runs: list[dict[Listing, str]]
) -> None:
    """One claim after the other, whatever each finds: no check is lost and none counts too long; SQL says the same."""

    async def play() -> None:
        reference = Reference()
        async with own.writing() as unit:
            for gen, acts in enumerate(runs, start=1):
                knew = (await freshness(unit, [CONNECTION])).get(CONNECTION, {})
                await end_run(unit, gen, acts, knew)
                reference.run(gen, acts)
            found = (await freshness(unit, [CONNECTION])).get(CONNECTION, {})
            assert found == reference.rows
            assert await said_by_sql(unit) == facts_of(found)
            await unit.cursors.fold_checks(CONNECTION)
            await unit.connection.execute(sa.delete(connection_check))
            assert (await freshness(unit, [CONNECTION])).get(CONNECTION, {}) == found

    runner.run(play())


LATE = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(LISTINGS), st.sampled_from(ENDS + PARTS)), max_size=12)


@MANY
@given(LATE)
@example([(1, A, "changed"), (2, A, "unchanged"), (3, A, "changed"), (2, A, "unchanged"), (2, A, "failed")])
@example([(1, A, "changed"), (3, A, "unchanged"), (2, A, "changed"), (2, A, "forgot"), (2, A, "delayed")])
def test_an_older_claim_never_writes_over_a_newer_one(
    own: Store, runner: asyncio.Runner, writes: list[tuple[int, Listing, str]]
) -> None:
    """Claims write in any order, each knowing what there was when it began: what a newer one says of a listing stays.

    A claim that comes late may lose a check that was noted after it began: the listing is due earlier then, and is
    read once more.
    """

    async def play() -> None:
        knew: dict[int, dict[Listing, Cursor]] = {}
        async with own.writing() as unit:
            for gen, listing, what in writes:
                before = (await freshness(unit, [CONNECTION])).get(CONNECTION, {})
                then = knew.setdefault(gen, before)
                await end_run(unit, gen, {listing: what}, then)
                after = (await freshness(unit, [CONNECTION])).get(CONNECTION, {})
                for one, was in before.items():
                    if was.gen > gen:
                        assert after[one] == was
                    elif one != listing and after[one] != was:
                        assert was.check is not None
                        assert after[one].due_at <= was.due_at

    runner.run(play())


# -- for SQL ---------------------------------------------------------------------------------------------------------


async def test_sql_says_one_fact_of_one_listing(store: Store) -> None:
    """Correlated with a row of the query around it; a listing of another tenant or connection says nothing here."""
    await write(store, lambda unit: unit.cursors.advance(CONNECTION, [read_now(one, 1) for one in LISTINGS]))
    await write(store, lambda unit: check(unit, 2, A, ALL))
    asked = [(one.account_id, one.resource.value) for one in (A, B)] + [("none", "balances")]
    row = sa.union_all(
        *(
            sa.select(sa.literal(account_id).label("account_id"), sa.literal(resource).label("resource"))
            for account_id, resource in asked
        )
    ).subquery()
    async with store.reading() as unit:
        names = {"account_id": row.c.account_id, "resource": row.c.resource}
        columns = [
            listing_fact(
                unit.dialect, name, tenant=sa.literal(unit.tenant), connection_id=sa.literal(CONNECTION), **names
            )
            for name in ("checked_at", "due_at", "outcome")
        ]
        found = {one[0]: tuple(one[1:]) for one in await unit.connection.execute(sa.select(row.c.account_id, *columns))}

    assert found == {"a": (at(2), due(2), "unchanged"), "b": (at(1), due(1), "ok"), "none": (None, None, None)}


@pytest.mark.parametrize("analyzed", [False, True])
async def test_the_listings_of_one_connection_are_found_by_keys(postgresql_url: str, analyzed: bool) -> None:
    """Of thousands; neither table is read whole."""
    engine = sa.create_engine(postgresql_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as own:
        fill(own, 3_000)
    if analyzed:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as own:
            own.execute(sa.text("ANALYZE"))
    store = Store(postgresql_url)
    try:
        async with store.reading() as unit:
            every = listings(unit.dialect)
            query = sa.select(every).where(every.c.tenant == unit.tenant, every.c.connection_id == "c1500")
            driver = unit.connection.dialect
            text = str(query.compile(dialect=driver, compile_kwargs={"literal_binds": True}))
            plan = await unit.connection.scalar(sa.text(f"EXPLAIN (FORMAT JSON) {text}"))
            found = (await unit.connection.execute(query)).all()
    finally:
        await store.close()
        engine.dispose()

    assert not _read_whole(plan[0]["Plan"]) & {"cursor", "connection_check"}
    assert len(found) == 4


# -- many accounts ---------------------------------------------------------------------------------------------------


async def test_five_hundred_accounts(store: Store) -> None:
    """Two thousand listings: written by COPY, checked in one row, some failing again, and read back the same."""
    accounts = [f"{number:036}" for number in range(500)]
    names = (N.BALANCES, N.TRANSACTIONS, N.BENEFICIARIES, N.DIRECT_DEBITS)
    every = [Listing(one, name) for one in accounts for name in names]
    await write(store, lambda unit: unit.cursors.advance(CONNECTION, [read_now(one, 1) for one in every]))
    await write(store, lambda unit: check(unit, 2, *every))
    knew = await known(store)
    failing, rest = [one for one in every if one.resource is N.BALANCES], every[:400]

    async def third(unit: UnitOfWork) -> None:
        attempts = [failed(one, 3, knew[one]) for one in failing]
        assert await unit.cursors.attempted(CONNECTION, attempts, gen=3) == 500
        await unit.cursors.forget_pages(CONNECTION, failing[:20], gen=3)
        await check(unit, 3, *(one for one in rest if one not in set(failing)), kept=knew)

    await write(store, third)
    late = await known(store)

    async def older(unit: UnitOfWork) -> None:
        assert await unit.cursors.attempted(CONNECTION, [failed(one, 2, knew[one]) for one in every], gen=2) == 0
        await unit.cursors.advance(CONNECTION, [read_now(one, 2) for one in every])

    await write(store, older)
    after = await known(store)
    async with store.reading() as unit:
        by_sql = await said_by_sql(unit)
        rows = await unit.connection.scalar(sa.select(sa.func.count()).select_from(connection_check))
    assert rows == 1
    assert after == late
    assert by_sql == facts_of(after)
    assert {one.outcome for listing, one in after.items() if listing in failing} == {"failed"}
    assert {one.checked_at for listing, one in after.items() if listing in failing} == {at(2)}
    assert [listing for listing, one in after.items() if one.pages is None] == failing[:20]


# -- erasure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [None, DataClass.DATA, DataClass.PERSONAL])
async def test_checks_go_with_the_data(store: Store, of: DataClass | None) -> None:
    """The parties, destroyed at another time, stay as fresh as they are."""
    party = Listing("a", N.ACCOUNT_PARTIES)
    await write(store, lambda unit: unit.cursors.advance(CONNECTION, [read_now(A, 1), read_now(party, 1)]))
    await write(store, lambda unit: check(unit, 2, A, party))
    async with store.writing() as unit:
        said = await unit.erasure.count(CONNECTION, of=of)
        done = await unit.erasure.erase(CONNECTION, of=of)
        left = (await freshness(unit, [CONNECTION])).get(CONNECTION, {})
        rows = (await unit.connection.execute(sa.select(checks(unit.dialect)))).all()

    assert said == done
    assert ("connection_check" in done, bool(rows)) == (of is not DataClass.PERSONAL, of is DataClass.PERSONAL)
    stays = {None: [], DataClass.DATA: [party], DataClass.PERSONAL: [A]}[of]
    assert [(listing, one.checked_at, one.due_at) for listing, one in left.items()] == [
        (one, at(2), due(2, one)) for one in stays
    ]


# -- one reader ------------------------------------------------------------------------------------------------------

TABLES = {cursor.name, connection_check.name}
READERS = {
    "store/freshness.py",
    "store/cursors.py",
    "store/tables.py",
    "store/erasure.py",
    "store/sql_views.py",
}
"""The reader; what writes the two tables; declares them; destroys their rows; shows them by `freshness.checks`."""


def uses(text: str) -> list[str]:
    """How a module reaches one of the two tables: by an import, as an attribute of `tables`, or in SQL text."""
    found: list[str] = []
    if not any(name in text for name in TABLES):
        return found
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.ImportFrom(module="syncworker.store.tables", names=names):
                found += [one.name for one in names if one.name in TABLES]
            case ast.Attribute(value=ast.Name(id="tables"), attr=name) if name in TABLES:
                found.append(f"tables.{name}")
            case ast.Constant(value=str(said)):
                words = said.replace('"', " ").split()
                found += [
                    f"{verb} {name}"
                    for verb, name in pairwise(words)
                    if verb in ("FROM", "JOIN", "UPDATE") and name.partition(".")[0] in TABLES
                ]
    return found


def test_one_module_reads_cursors_and_checks() -> None:
    """A reader of `cursor.checked_at` alone would show instants that a check has overtaken: use `freshness`."""
    package = Path(syncworker.__file__).parent
    reach = {path.relative_to(package).as_posix(): uses(path.read_text()) for path in sorted(package.rglob("*.py"))}

    assert {name: found for name, found in reach.items() if found and name not in READERS} == {}
    assert all(reach[name] for name in READERS - {"store/tables.py"})


@pytest.mark.parametrize(
    "text",
    [
        "from syncworker.store.tables import call, cursor",
        "query = sa.select(tables.connection_check.c.at)",
        'unit.connection.exec_driver_sql("SELECT checked_at FROM cursor WHERE x")',
    ],
)
def test_such_a_reader_is_found(text: str) -> None:
    """Whichever way it takes."""
    assert uses(text)
