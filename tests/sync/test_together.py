"""Runs that share a trip: what they know before they begin, and the ends of those without news."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa

from syncworker.consents.revoking import ordered
from syncworker.standard.consents import Revoker
from syncworker.standard.resources import ResourceName
from syncworker.store.cursors import Listing
from syncworker.store.situations import before_syncs
from syncworker.store.tables import connection_check, cursor, work
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.store.work import WorkKind
from syncworker.sync.reports import RunOutcome
from tests.sync.house import Product

pytestmark = pytest.mark.flow

CUSTOMERS = 4


@pytest.fixture
async def product(open_product: Callable[..., Awaitable[Product]]) -> Product:
    """Four customers, synced once."""
    product = await open_product(customers=CUSTOMERS)
    for user in range(CUSTOMERS):
        await product.consented(user)
    await product.sync_all(*product.consents)
    return product


async def test_runs_without_news_end_each_by_itself(product: Product) -> None:
    """Of four that end together one was revoked meanwhile and one's claim is another's: the other two end well.

    Each has its run and its calls; cursors and the connection's date move for those two alone, and so does work.
    """
    fine, revoked, stolen, also_fine = product.consents
    before = {one: await product.cursors(one) for one in product.consents}
    product.clock.advance(minutes=30)

    async def between(_resource: ResourceName, _page: int) -> None:
        product.between = None

        async def step(unit: UnitOfWork) -> None:
            await ordered(unit, revoked, by=Revoker.TPP_USER)
            steal = sa.update(work).where(work.c.kind == WorkKind.SYNC, work.c.subject == stolen)
            await unit.connection.execute(steal.values(gen=work.c.gen + 1))

        await product.store.atomically(step)

    product.between = between
    mark = product.mark()
    report = await product.sync_all(*product.consents)

    outcomes = {run.connection_id: (run.outcome.value, run.error) for run in report.runs}
    moved = [one for one in product.consents if await product.cursors(one) != before[one]]
    async with product.store.reading() as unit:
        runs = {filed.run.connection_id: filed for filed in await unit.runs.find(limit=CUSTOMERS)}
        calls = [call for filed in runs.values() for call in await unit.runs.calls_of(filed)]
        dates = {one.connection_id: one.last_data_at for one in await unit.consents.connections()}
    assert outcomes[fine] == outcomes[also_fine] == ("unchanged", None)
    assert outcomes[revoked] == ("failed", "consent_not_usable:Authorized")
    assert outcomes[stolen] == ("lease_lost", "lease_lost")
    assert moved == [fine, also_fine]
    assert {one for one, at in dates.items() if at == product.clock.now()} == {fine, also_fine}
    assert {one: filed.run.outcome for one, filed in runs.items()} == {
        one: found for one, (found, _) in outcomes.items()
    }
    assert Counter(call.consent_id for call in calls) == {one: filed.run.calls for one, filed in runs.items()}
    assert len(calls) == product.gets(mark).total()


async def test_each_run_files_its_own_calls(product: Product) -> None:
    """In the order they were made, whoever's end they went with."""
    product.clock.advance(minutes=30)
    await product.sync_all(*product.consents)

    async with product.store.reading() as unit:
        runs = await unit.runs.find(limit=CUSTOMERS)
        calls = [await unit.runs.calls_of(run) for run in runs]
    assert [{call.consent_id for call in made} for made in calls] == [{run.run.consent_id} for run in runs]
    assert [len(made) for made in calls] == [run.run.calls for run in runs]


async def test_what_is_read_ahead_is_each_one_s_own(product: Product) -> None:
    """Four begin with one trip; each asks with its own token for its own accounts, and only those."""
    product.clock.advance(minutes=30)
    mark = product.mark()
    await product.sync_all(*product.consents)

    asked = Counter(account for (_, account), times in product.gets(mark).items() for _ in range(times) if account)
    shown = {account for _, account, _, _ in product.listed() if account}
    assert set(asked) == shown


async def test_what_shows_nothing_new_is_noted_in_one_row_a_connection(product: Product) -> None:
    """No cursor is written: the checks say when its listing was read and when it is due.  Then one thing changes."""
    one = product.consents[0]

    async def rows(table: sa.Table) -> list[tuple[Any, ...]]:
        mine = sa.select(table).where(table.c.connection_id == one).order_by(*table.primary_key)
        async with product.store.reading() as unit:
            return [tuple(row) for row in await unit.connection.execute(mine)]

    product.clock.advance(hours=13)
    await product.sync(one, asked=False)  # the newest part begins elsewhere now: other pages than the first walk's
    for _ in range(3):
        product.clock.advance(hours=13)
        before, knew = await rows(cursor), await product.cursors(one)
        report = await product.sync(one, asked=False)

        found, after = await product.cursors(one), await rows(cursor)
        read = {Listing(step.account_id, step.resource) for step in report.steps}
        asked = {Listing(step.account_id, step.resource) for step in report.steps if step.error}  # still not there
        written = {Listing(row[2], row[3]) for row in after if row not in before}
        assert (report.outcome, written, len(await rows(connection_check))) == (RunOutcome.UNCHANGED, asked, 1)
        assert {listing for listing, was in found.items() if was != knew[listing]} == read
        assert {found[listing].attempted_at for listing in read} == {product.clock.now()}
        assert read > asked

    product.bank.bank.change_balance(product.bank.bank.account_of(product.bank.users[0]).account_id, amount="1")
    product.clock.advance(hours=13)
    await product.sync(one, asked=False)

    last = await product.cursors(one)
    changed = {listing for listing, was in last.items() if was.checked_at == product.clock.now() and was.check is None}
    assert {listing.resource for listing in changed} == {ResourceName.BALANCES}
    assert len(await rows(cursor)) == len(before)


async def test_the_row_of_checks_is_written_in_its_place(product: Product) -> None:
    """PostgreSQL writes its next version beside it, and nothing into an index."""
    if not product.store.dialect.is_postgresql:
        pytest.skip("PostgreSQL alone has such versions")
    for _ in range(6):
        product.clock.advance(hours=13)
        await product.sync_all(*product.consents, asked=False)
    await product.report_statistics()

    async with product.store.reading() as unit:
        query = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'connection_check'"
        (counted,) = await unit.connection.exec_driver_sql(query)
    assert counted.n_tup_upd >= 5 * CUSTOMERS
    assert counted.n_tup_hot_upd == counted.n_tup_upd


async def test_what_is_known_before_a_sync_comes_in_one_trip(product: Product) -> None:
    """Cursors and checks of all connections, with the consents, grants, tokens and the time."""
    async with product.store.reading() as unit:
        sent = []
        sa.event.listen(unit.connection.sync_connection, "before_cursor_execute", lambda *given: sent.append(given[2]))
        known = await before_syncs(unit, product.consents)

    assert sum(statement.startswith("SELECT") for statement in sent) == 6
    assert all(one.cursors for one in known.values())
