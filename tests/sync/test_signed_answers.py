"""From signed answers to tables: the same rows, the same digests, and nothing believed that does not hold."""

from collections.abc import Awaitable, Callable

import pytest

from syncworker.sync.reports import RunOutcome, StepOutcome
from tests.sync.house import Product

pytestmark = pytest.mark.flow


@pytest.fixture
async def signing(open_product: Callable[..., Awaitable[Product]]) -> Product:
    """A product at a bank that signs every answer."""
    return await open_product(customers=1, signed_answers="always")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_signed_data_is_the_same_data(signing: Product) -> None:
    """All rows arrive, and when the bank stops signing nothing has changed: the digest is over `Data` alone."""
    connection = await signing.consented()
    first = await signing.sync(connection)
    assert await signing.differences() == ()

    again = await signing.sync(connection)
    signing.bank.bank.configure(signed_answers="never")
    unsigned = await signing.sync(connection)

    assert (first.outcome, again.outcome, unsigned.outcome) == (
        RunOutcome.OK,
        RunOutcome.UNCHANGED,
        RunOutcome.UNCHANGED,
    )
    assert sum(step.pages for step in unsigned.steps) == sum(step.pages_unchanged for step in unsigned.steps) > 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_forged_page_changes_nothing(signing: Product) -> None:
    """One listing fails, the others pass, nothing is buried; the next sync heals it."""
    connection = await signing.consented()
    await signing.sync(connection)
    signing.bank.bank.forged("transactions", times=1)

    forged = await signing.sync(connection)
    healed = await signing.sync(connection)

    wrong = [step for step in forged.steps if step.outcome is StepOutcome.FAILED]
    assert [(step.resource.value, step.error) for step in wrong] == [("transactions", "standard_violation")]
    assert (forged.outcome, healed.outcome) == (RunOutcome.PARTIAL, RunOutcome.UNCHANGED)
    assert await signing.differences() == ()
