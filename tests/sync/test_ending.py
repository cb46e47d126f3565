"""A consent that stops being callable while its sync walks, or before it: no row afterwards, and who is asked.

The bank goes on answering in most of these: what keeps rows out is our own guard, in the transaction that writes.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from syncworker.consents.lifecycle import noted
from syncworker.consents.pausing import pause
from syncworker.consents.revoking import ordered
from syncworker.consents.tokens import SOURCE_TRUST_S
from syncworker.standard.consents import ConsentView, Revoker
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.sync.reports import RunOutcome
from tests.ground.feed import whole_feed
from tests.sync.house import SETTINGS, Product

pytestmark = pytest.mark.flow

Opener = Callable[..., Awaitable[Product]]
Filing = Callable[[UnitOfWork, ConsentId], Awaitable[object]]


def shown(status: str) -> Filing:
    """An answer of the Hub's, filed as a poll, a token answer or an event files it."""

    async def file(unit: UnitOfWork, consent_id: ConsentId) -> None:
        await noted(unit, ConsentView(consent_id=consent_id, status=status), at=await unit.now())

    return file


async def revoked_here(unit: UnitOfWork, consent_id: ConsentId) -> None:
    await ordered(unit, consent_id, by=Revoker.TPP_USER)


async def everything(product: Product) -> list[Any]:
    """Every row with its generation, how much the feed says, and the cursors."""
    rows = [(row.account_id, row.resource, row.key, row.gen) for row in await product.rows(gone=True)]
    async with product.store.reading() as unit:
        feed = await whole_feed(unit)
        cursors = await unit.cursors.of(product.consents[0])
    return [sorted(rows), len(feed), {place: cursor.checked_at for place, cursor in cursors.items()}]


ALL_AT_ONCE, AS_IT_COMES = SETTINGS.flush_bytes, 1


@pytest.mark.parametrize(
    ("filing", "flush_bytes"),
    [
        *(pytest.param(shown(one), ALL_AT_ONCE, id=f"shown {one}") for one in ("Expired", "Consumed", "Suspended")),
        pytest.param(shown("Revoked"), ALL_AT_ONCE, id="shown Revoked"),
        pytest.param(shown("Revoked"), AS_IT_COMES, id="shown Revoked, part of it written"),
        pytest.param(revoked_here, AS_IT_COMES, id="revoked here, part of it written"),
        pytest.param(pause, ALL_AT_ONCE, id="paused here"),
    ],
)
async def test_no_row_is_written_after_it_is_seen(open_product: Opener, filing: Filing, flush_bytes: int) -> None:
    """Filed in the middle of a walk: not one row, change or cursor comes after, and calls end when the token is looked
    for again.
    """
    product = await open_product(customers=1, page_size=5, settings=replace(SETTINGS, flush_bytes=flush_bytes))
    connection = await product.consented()
    then: list[Any] = []

    async def between(resource: ResourceName, page: int) -> None:
        if resource is ResourceName.TRANSACTIONS and page == 3 and not then:
            then.append(None)  # other walks go on meanwhile
            await product.store.atomically(lambda unit: filing(unit, connection))
            tables = await everything(product)
            product.clock.advance(seconds=SOURCE_TRUST_S)
            then[:] = [product.mark(), tables]

    product.between = between
    report = await product.sync(connection)

    mark, tables = then
    assert (report.error or "").startswith("consent_not_usable")
    assert await everything(product) == tables
    assert product.gets(mark).total() <= SETTINGS.steps_at_once, "more than what was under way"
    walks = [pages for (operation, _), pages in product.gets().items() if operation == "transactions"]
    assert max(walks) == 3, "the longest walk met it behind its third page, and went on"


async def test_a_lifted_suspension_is_learned_by_the_sync_that_meets_it(product: Product) -> None:
    """The row says Suspended, the Hub no more: it is asked, and the sync goes on; while it lasts nothing is read."""
    connection = await product.consented()
    product.clock.advance(minutes=1)
    product.bank.bank.suspend(connection)
    await product.lifecycle.ask(connection)
    begin = product.mark()
    blocked = await product.sync(connection)
    gets = product.gets(begin)
    product.clock.advance(minutes=1)
    product.bank.bank.lift(connection)

    lifted = await product.sync(connection)

    assert (blocked.outcome, blocked.error) == (RunOutcome.FAILED, "consent_not_usable:Suspended")
    assert gets == {("consent", None): 1}
    assert lifted.outcome is RunOutcome.OK
    assert await product.differences() == ()


async def test_a_decision_nobody_told_us_of_is_learned_by_the_sync_that_meets_it(product: Product) -> None:
    """The last authoriser agreed meanwhile."""
    connection = await product.consented()
    waiting = ConsentView(consent_id=connection, status="AwaitingAuthorization")
    await product.store.atomically(lambda unit: noted(unit, waiting, at=product.clock.now()))

    assert (await product.sync(connection)).outcome is RunOutcome.OK


@pytest.mark.parametrize("ours", [revoked_here, pause])
async def test_what_we_stopped_ourselves_the_hub_is_not_asked_about(product: Product, ours: Filing) -> None:
    """Nobody there knows better: no call at all."""
    connection = await product.consented()
    await product.store.atomically(lambda unit: ours(unit, connection))
    begin = len(product.bank.bank.log.served())

    report = await product.sync(connection)

    assert (report.outcome, report.calls) == (RunOutcome.FAILED, 0)
    assert len(product.bank.bank.log.served()) == begin
