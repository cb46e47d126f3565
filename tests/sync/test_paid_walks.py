"""Walks that could cost without end, where each page is billed: few calls, what came is kept, nothing is buried."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from syncworker.errors import EndlessListingError
from syncworker.standard.resources import ResourceName
from syncworker.sync.reports import RunReport, StepOutcome
from tests.sync.house import CADENCE, Product

pytestmark = pytest.mark.flow

N = ResourceName
Opener = Callable[..., Awaitable[Product]]


def transactions_of(report: RunReport) -> list[Any]:
    return [step for step in report.steps if step.resource is N.TRANSACTIONS]


def asked(product: Product, since: int = 0) -> dict[str, int]:
    """Pages of transactions, by account."""
    return {str(account): n for (name, account), n in product.gets(since).items() if name == "transactions"}


@pytest.mark.parametrize(
    ("repeats", "size", "note", "pages"),
    [
        pytest.param(False, 10_000, EndlessListingError.NEVER_ENDS, 2, id="empty pages for ever"),
        pytest.param(True, 10_000, EndlessListingError.REPEATS_ITSELF, 2, id="the only page for ever"),
        pytest.param(True, 5, EndlessListingError.REPEATS_ITSELF, 2, id="the first of several pages for ever"),
    ],
)
async def test_a_listing_whose_links_never_end_costs_few_calls(
    open_product: Opener, repeats: bool, size: int, note: str, pages: int
) -> None:
    """It is truncated, with a note that says how; what came is held, and it is read again at its cadence."""
    product = await open_product(customers=1, page_size=size)
    product.bank.bank.next_for_ever(repeats=repeats)
    connection = await product.consented()
    report = await product.sync(connection)
    steps, first = transactions_of(report), asked(product)
    due = {step.due_at - report.started_at for step in steps}
    cursors = [one for place, one in (await product.cursors(connection)).items() if place.resource is N.TRANSACTIONS]
    begin = product.mark()
    product.clock.advance(hours=1)
    soon = await product.sync_all(connection, asked=False)
    early = asked(product, begin)
    product.clock.advance(hours=12)
    await product.sync(connection, asked=False)
    later = asked(product, begin)
    assert {step.outcome for step in steps} == {StepOutcome.TRUNCATED}
    assert all(step.notes[note] == 1 and step.items for step in steps)
    assert (set(first.values()), due) == ({pages}, {CADENCE[N.TRANSACTIONS]})
    assert [(one.checked_at, one.covered_from) for one in cursors] == [(None, None)] * len(cursors)
    assert ([one for run in soon.runs for one in transactions_of(run)], early) == ([], {})
    assert set(later.values()) == {pages}
    assert await product.buried() == set()


async def test_a_listing_that_ends_again_is_whole(open_product: Opener) -> None:
    """Once the bank is mended the next walk reads all there is, the history behind included."""
    product = await open_product(customers=1, page_size=5)
    product.bank.bank.next_for_ever(repeats=True)
    connection = await product.consented()
    await product.sync(connection)
    product.bank.bank.clear_faults()
    product.clock.advance(hours=13)
    await product.sync(connection, asked=False)
    assert await product.differences() == ()


async def test_rows_that_an_endless_walk_did_not_show_are_not_buried(open_product: Opener) -> None:
    """A walk of the same page for ever proves nothing about the others."""
    product = await open_product(customers=1, page_size=5)
    connection = await product.consented()
    await product.sync(connection)
    product.bank.bank.next_for_ever(repeats=True)
    for _ in range(3):
        product.clock.advance(days=8)
        await product.sync(connection)
    assert await product.buried() == set()


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(lambda bank: bank.other_host(), id="links that name another host"),
        pytest.param(lambda bank: bank.relative_link(), id="links that name no host"),
        pytest.param(lambda bank: bank.gzip_members("transactions"), id="gzip in members"),
    ],
)
async def test_a_listing_that_is_only_written_otherwise_is_read_whole(
    open_product: Opener, order: Callable[[Any], object]
) -> None:
    """Every page, once."""
    product = await open_product(customers=1, page_size=5)
    order(product.bank.bank)
    connection = await product.consented()
    report = await product.sync(connection)
    assert {step.outcome for step in transactions_of(report)} == {StepOutcome.OK}
    assert max(step.pages for step in transactions_of(report)) > 1
    assert await product.differences() == ()


async def test_the_next_sync_of_an_endless_listing_comes_with_the_others(open_product: Opener) -> None:
    """Nothing of it makes the connection due sooner than the listings that were read."""
    product = await open_product(customers=1)
    product.bank.bank.next_for_ever("beneficiaries")
    product.bank.bank.paginate("beneficiaries", 10_000)
    connection = await product.consented()
    report = await product.sync(connection)
    assert report.due_at - report.started_at >= timedelta(hours=6)
