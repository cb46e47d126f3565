"""Hostile and broken answers (`reliability.md` §9, scenarios 15, 18, 20): what came is kept, nothing is buried."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from syncworker.errors import StandardViolationError, TruncatedError
from syncworker.standard.resources import ResourceName
from syncworker.sync.plan import PlanSettings
from syncworker.sync.reports import RunOutcome, RunReport, StepOutcome
from tests.ground.clock import ManualClock
from tests.sync.house import CADENCE, SETTINGS, Product

pytestmark = pytest.mark.flow

N = ResourceName
Opener = Callable[..., Awaitable[Product]]


def outcome_of(report: RunReport, resource: ResourceName) -> tuple[set[StepOutcome], set[str | None]]:
    those = [step for step in report.steps if step.resource is resource]
    return {step.outcome for step in those}, {step.error for step in those}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda bank: bank.loop_link(), id="the link leads to the page itself"),
        pytest.param(lambda bank: bank.foreign_link(times=None), id="the link leads to another host"),
        pytest.param(lambda bank: bank.gzip_bomb(megabytes=64, times=None), id="a gzip bomb"),
    ],
)
async def test_a_listing_that_is_cut_off_is_truncated(open_product: Opener, fault: Callable[[object], object]) -> None:
    """Its own outcome: no success, nothing buried, the cursor stays; the other listings are read."""
    product = await open_product(customers=1, page_size=5)
    connection = await product.consented()
    await product.sync(connection)
    account = product.bank.bank.account_of(product.bank.users[0]).account_id
    before = await product.cursors(connection)
    fault(product.bank.bank)
    product.bank.bank.change_balance(account, amount="1")
    product.clock.advance(hours=1)
    report = await product.sync(connection)
    after = await product.cursors(connection)
    checked = [(one.checked_at, one.high_water) for place, one in before.items() if place.resource is N.TRANSACTIONS]
    assert outcome_of(report, N.TRANSACTIONS) == ({StepOutcome.TRUNCATED}, {TruncatedError.code})
    assert (report.outcome, report.good, await product.buried()) == (RunOutcome.PARTIAL, False, set())
    assert checked == [
        (one.checked_at, one.high_water) for place, one in after.items() if place.resource is N.TRANSACTIONS
    ]
    product.bank.bank.clear_faults()
    product.clock.advance(hours=1)
    await product.sync(connection)
    assert await product.differences() == ()


async def test_a_listing_of_too_many_pages_is_truncated(open_product: Opener) -> None:
    """The pages that came are stored, also when nothing was held before."""
    product = await open_product(customers=1, page_size=3, settings=replace(SETTINGS, pages_max=4))
    connection = await product.consented()
    report = await product.sync(connection)
    outcomes, _ = outcome_of(report, N.TRANSACTIONS)
    cursors = [one for place, one in (await product.cursors(connection)).items() if place.resource is N.TRANSACTIONS]
    held = [row for row in await product.rows() if row.resource is N.TRANSACTIONS]
    assert StepOutcome.TRUNCATED in outcomes
    assert len(held) >= 12
    assert any(one.checked_at is None and one.outcome == "truncated" for one in cursors)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda bank: bank.html("transactions", times=None), id="HTML with status 200"),
        pytest.param(lambda bank: bank.wrong_type(times=None), id="another content type"),
    ],
)
async def test_an_answer_nobody_can_read_is_a_violation_of_one_listing(
    open_product: Opener, fault: Callable[[object], object]
) -> None:
    """The others are read, nothing is buried, and the next consent syncs."""
    product = await open_product(customers=2)
    first, second = await product.consented(0), await product.consented(1)
    await product.sync(first)
    fault(product.bank.bank)
    product.clock.advance(hours=1)
    report = await product.sync(first)
    product.bank.bank.clear_faults()
    product.clock.advance(hours=1)
    await product.sync_all(first, second)
    outcomes, errors = outcome_of(report, N.TRANSACTIONS)
    assert (outcomes, errors) == ({StepOutcome.FAILED}, {StandardViolationError.code})
    assert (await product.differences(), await product.buried()) == ((), set())


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda bank: bank.deep(times=None), id="arrays nested 200,000 deep"),
        pytest.param(lambda bank: bank.giant_amount(bare=True, times=None), id="a number of 5,000 digits"),
    ],
)
async def test_an_item_nobody_can_read_costs_itself(open_product: Opener, fault: Callable[[object], object]) -> None:
    """The first item of each page: the others are read, it is kept apart, and nothing is buried, however often."""
    product = await open_product(customers=1)
    connection = await product.consented()
    await product.sync(connection)
    product.clock.advance(hours=1)
    fault(product.bank.bank)
    reports = []
    for _ in range(3):
        reports.append(await product.sync(connection))
        product.clock.advance(hours=1)
    async with product.store.reading() as unit:
        apart = await unit.unreadable.list(connection, limit=100)
    listings = {(one.account_id, one.resource) for one in apart}
    held = {(row.account_id, row.resource) for row in await product.rows()}
    product.bank.bank.clear_faults()
    await product.sync(connection)
    async with product.store.reading() as unit:
        left = await unit.unreadable.list(connection, limit=100)
    steps = [step for step in reports[0].steps if step.resource is N.TRANSACTIONS and step.items]
    assert steps
    assert {tuple(step.notes.items()) for step in steps} == {(("item.unreadable", 1),)}
    assert {step.error for step in steps} == {StandardViolationError.code}
    assert listings <= held
    assert {one.path for one in apart} == {"Data.Transaction[0]"}
    assert (left, await product.differences(), await product.buried()) == ([], (), set())


async def test_an_amount_of_5000_digits_in_quotes_is_noted(product: Product) -> None:
    """The column is empty, the item is kept as it came; the walk is whole."""
    connection = await product.consented()
    product.bank.bank.giant_amount(times=1)
    report = await product.sync(connection)
    notes = [step.notes for step in report.steps if step.notes]
    assert report.outcome in (RunOutcome.OK, RunOutcome.PARTIAL)
    assert notes


async def test_an_id_that_is_used_twice_is_held_once(product: Product) -> None:
    """On one page, for items that differ: noted as that, and the page is no violation."""
    connection = await product.consented()
    product.bank.bank.duplicate(times=1)
    report = await product.sync(connection)
    assert report.outcome is RunOutcome.OK
    notes = {note for step in report.steps for note in step.notes if note.startswith("item.")}
    assert notes == {"item.id_used_twice"}
    await product.sync(connection)
    assert await product.differences() == ()


async def test_a_listing_turns_into_pages_and_back(product: Product) -> None:
    """Nothing is new, nothing is gone: a page is no property of an item."""
    connection = await product.consented()
    await product.sync(connection)
    for size in (2, None, 3):
        product.bank.bank.paginate("*", size)
        product.clock.advance(hours=1)
        report = await product.sync(connection)
        assert (report.total("added"), report.total("modified"), report.total("removed")) == (0, 0, 0)
    assert await product.differences() == ()


async def test_a_consent_revoked_between_pages_of_a_walk(open_product: Opener) -> None:
    """The LFI answers 403 from then on: the Hub is asked, no row is written, the tokens are gone, nothing is buried."""
    product = await open_product(customers=1, page_size=5)
    connection = await product.consented()
    await product.sync(connection)
    before = [(row.key, row.gen, row.gone_at) for row in await product.rows(gone=True)]
    product.bank.bank.storm(1, 10)
    product.bank.bank.drift("revoke", {"consent_id": connection}, operation="transactions", after_page=1)
    product.clock.advance(hours=1)
    report = await product.sync(connection)
    async with product.store.reading() as unit:
        consent, token = await unit.consents.get(connection), await unit.tokens.read(connection)
    assert consent is not None
    assert (report.outcome, consent.status, token and token.access_token) == (RunOutcome.FAILED, "Revoked", None)
    assert [(row.key, row.gen, row.gone_at) for row in await product.rows(gone=True)] == before


async def test_a_right_that_is_withdrawn_buries_nothing(product: Product, clock: ManualClock) -> None:
    """403 for one listing: what was read before stays; it is read again after a day, or when a person asks."""
    connection = await product.consented()
    await product.sync(connection)
    product.bank.bank.answers(403, operation="beneficiaries", code="AccessToken.InvalidScope", times=None)
    clock.advance(hours=1)
    report = await product.sync(connection)
    product.bank.bank.clear_faults()
    begin = product.mark()
    clock.advance(hours=6)
    await product.sync(connection, asked=False)
    soon = {operation for operation, _ in product.gets(begin)}
    begin = product.mark()
    clock.advance(hours=24)
    await product.sync(connection, asked=False)
    later = {operation for operation, _ in product.gets(begin)}
    assert (outcome_of(report, N.BENEFICIARIES)[0], await product.buried()) == ({StepOutcome.REFUSED}, set())
    assert ("beneficiaries" in soon, "beneficiaries" in later) == (False, True)
    assert await product.differences() == ()


async def test_claims_that_race_write_each_row_once(open_product: Opener) -> None:
    """Scenario 16: four batches of one connection's claims; the newest stands, money is exact to the last digit."""
    plan = PlanSettings(cadence=CADENCE, rewalk=timedelta(days=60), rewalk_every=timedelta(hours=1))
    product = await open_product(settings=replace(SETTINGS, plan=plan))
    connections = [await product.consented(0), await product.consented(1)]
    await product.sync_all(*connections)
    product.bank.bank.storm(5, 30, reach_days=28)
    product.clock.advance(days=7, hours=1)
    batches = []
    for _ in range(4):
        claims = await product.claimed(*connections)
        batches.append(product.engine.sync_batch([(claim.id, claim.gen) for claim in claims]))
        product.clock.advance(minutes=3)  # each lease runs out before the next claim
    await asyncio.gather(*batches)
    product.clock.advance(minutes=5)
    for _ in range(2):
        await product.sync_all(*connections)
        product.clock.advance(days=8)
    assert await product.differences() == ()
