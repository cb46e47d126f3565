"""Why what is shown is older than it should be: each reason produced by its real cause, at the bank or here."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from syncworker.consents import revoking
from syncworker.consents.pausing import pause_all, resume_all
from syncworker.schedule.limits import LocalAdmission
from syncworker.schedule.traffic import LFITraffic, TrafficControl
from syncworker.standard.consents import Revoker
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.ended import EndedConsents
from syncworker.store.tables import connection, consent
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.views import questions
from syncworker.views.freshness import StaleReason
from syncworker.views.questions import Whose
from tests.ground.clock import ManualClock
from tests.sync.house import CADENCE, LFI, Product

pytestmark = pytest.mark.flow

N, R = ResourceName, StaleReason
TARGETS = {name: every * 1.25 for name, every in CADENCE.items()}
OLD = timedelta(hours=25)
"""Older than every cadence but the weekly ones."""


async def why(
    product: Product, connection_id: ConsentId, resource: ResourceName = N.BALANCES
) -> set[StaleReason | None]:
    """What is said of the listings of one resource; `None`: it is young enough."""
    async with product.store.reading() as unit:
        known = await questions.freshness_of(unit, [connection_id], targets=TARGETS, of={resource})
    found = [one for of in known.values() for name, one in of.items() if name == resource]
    assert all(one.stale is (one.stale_reason is not None) for one in found)
    return {one.stale_reason for one in found}


async def shown(product: Product) -> None:
    """The setting says that rows of ended consents stay to be read; housekeeping shows them again."""
    product.store._ended_consents = EndedConsents.SHOWN

    async def settled(unit: UnitOfWork) -> None:
        otherwise = [ConsentId(one) for one in await unit.use.otherwise(limit=10)]
        assert await unit.use.settle(otherwise, at=await unit.now()) == otherwise != []

    await product.store.atomically(settled)


@pytest.fixture
async def synced(product: Product) -> ConsentId:
    """A connection that was read whole a day ago."""
    connection_id = await product.consented(expires_at=product.clock.now() + timedelta(days=10))
    await product.sync(connection_id)
    assert await why(product, connection_id) == {None}
    product.clock.advance(hours=25)
    return connection_id


@pytest.fixture
async def guarded(
    open_product: Callable[..., Awaitable[Product]], store: Store, clock: ManualClock
) -> AsyncIterator[Product]:
    """A product whose calls pass gate and breaker, as a worker's do."""

    async def sleep(seconds: float) -> None:
        clock.advance(seconds=seconds)

    timer = lambda: clock.now().timestamp()  # noqa: E731
    control = TrafficControl(store, LocalAdmission({LFI: 1000.0}, sleep=sleep, timer=timer), clock=clock, timer=timer)
    product = await open_product(client={"traffic": LFITraffic(control, LFI)})
    yield product
    await control.close()


def test_every_reason_has_a_test_of_its_cause() -> None:
    """By its name: a new value needs one that produces it."""
    tests = [name for name in globals() if name.startswith("test_")]
    without = [one.value for one in StaleReason if not any(name.startswith(f"test_{one.value}") for name in tests)]
    assert without == []


async def test_never_synced(product: Product) -> None:
    """Consented, and the first sync is still to come."""
    connection_id = await product.consented()
    assert await why(product, connection_id, N.ACCOUNTS) == {R.NEVER_SYNCED}


async def test_never_synced_while_the_first_sync_failed(product: Product) -> None:
    """The accounts came, their balances did not."""
    connection_id = await product.consented()
    product.bank.bank.answers(500, operation="balances", times=None)
    await product.sync(connection_id)
    assert (await why(product, connection_id), await why(product, connection_id, N.ACCOUNTS)) == (
        {R.NEVER_SYNCED},
        {None},
    )


async def test_late(product: Product, synced: ConsentId) -> None:
    """Nothing keeps it back; it waits for its turn.  With its sync it is young again."""
    before = await why(product, synced)
    await product.sync(synced)
    assert (before, await why(product, synced)) == ({R.LATE}, {None})


async def test_paused(product: Product, synced: ConsentId) -> None:
    """By the product; reactivated it is late."""
    await product.store.atomically(lambda unit: pause_all(unit, synced))
    paused = await why(product, synced)
    await product.store.atomically(lambda unit: resume_all(unit, synced))
    assert (paused, await why(product, synced)) == ({R.PAUSED}, {R.LATE})


async def test_suspended(product: Product, synced: ConsentId) -> None:
    """By the Hub, as it says when it is asked."""
    product.bank.bank.suspend(synced)
    await product.lifecycle.ask(synced)
    assert await why(product, synced) == {R.SUSPENDED}


async def test_revoked_at_the_lfi(product: Product, synced: ConsentId) -> None:
    """Learned by the sync that meets it."""
    product.bank.bank.revoke(synced)
    await product.sync(synced)
    await shown(product)
    assert await why(product, synced) == {R.REVOKED}


async def test_revoked_here_before_the_hub_knows(product: Product, synced: ConsentId) -> None:
    """No call is made from then on."""
    await product.store.atomically(lambda unit: revoking.ordered_all(unit, synced, by=Revoker.TPP_USER))
    await shown(product)
    assert await why(product, synced) == {R.REVOKED}


async def test_expired(product: Product, synced: ConsentId) -> None:
    """From its end on, whether the Hub was heard or not."""
    product.clock.advance(days=10)
    unheard = await why(product, synced)
    await product.lifecycle.ask(synced)
    await shown(product)
    assert (unheard, await why(product, synced)) == ({R.EXPIRED}, {R.EXPIRED})


async def test_needs_consent(product: Product, synced: ConsentId) -> None:
    """The grant was lost: the next token is refused."""
    product.bank.bank.end_grant(synced)
    await product.sync(synced)
    assert await why(product, synced) == {R.NEEDS_CONSENT}


async def test_refused(product: Product, synced: ConsentId) -> None:
    """403 for one listing; the others are read."""
    product.bank.bank.answers(403, operation="balances", times=None, code="Consent.PermanentAccountAccessFailure")
    await product.sync(synced)
    assert (await why(product, synced), await why(product, synced, N.TRANSACTIONS)) == ({R.REFUSED}, {None})


async def test_gated(guarded: Product) -> None:
    """429: the LFI asked for fewer calls.  Once the gate is open it is late."""
    connection_id = await synced_by(guarded)
    guarded.bank.bank.answers(429, retry_after=600, times=None)
    await guarded.sync(connection_id)
    gated = await why(guarded, connection_id)
    guarded.clock.advance(hours=2)
    assert (gated, await why(guarded, connection_id)) == ({R.GATED}, {R.LATE})


async def test_lfi_down(guarded: Product) -> None:
    """It answers nothing but 503 until the breaker opens."""
    connection_id = await synced_by(guarded)
    for resource in N:
        guarded.bank.bank.answers(503, operation=resource.value, times=None)
    for _ in range(12):
        report = await guarded.sync(connection_id)
        if report.error == "lfi_breaker_open":
            break
    assert await why(guarded, connection_id) == {R.LFI_DOWN}


async def synced_by(product: Product) -> ConsentId:
    connection_id = await product.consented()
    await product.sync(connection_id)
    product.clock.advance(hours=25)
    return connection_id


async def test_a_successor_counts_before_the_consent_it_ended(product: Product, synced: ConsentId) -> None:
    """A connection is as its consent in use, however its older ones ended."""
    other = await product.consented(1)
    async with product.store.writing() as unit:
        moved = sa.update(consent).where(consent.c.consent_id == other).values(connection_id=synced)
        await unit.connection.execute(moved)
        await unit.commit()
    product.bank.bank.revoke(synced)
    await product.lifecycle.ask(synced)
    assert await why(product, synced) == {R.LATE}


async def test_a_restricted_connection_is_told_by_id_and_left_out_otherwise(
    product: Product, synced: ConsentId
) -> None:
    """On both databases; an account of it likewise."""
    async with product.store.writing() as unit:
        await unit.connection.execute(sa.update(connection).values(restricted_at=product.clock.now()))
        (reference, *_) = await unit.account_references.of_connections([synced])
        await unit.commit()
    async with product.store.reading() as unit:
        for whose in (Whose(connection_id=synced), Whose(account_id=reference.account_id)):
            with pytest.raises(questions.RestrictedError, match=r"^connection_id: its consent ended"):
                await questions.page(unit, questions.LISTINGS["balances"], whose, targets=TARGETS)
            with pytest.raises(questions.RestrictedError):
                await questions.balances(unit, whose, targets=TARGETS)
        found = await questions.balances(unit, Whose(user_ref="customer-0"), targets=TARGETS)
    nothing: Any = ([], [], {})
    assert (found.page.rows, found.totals, found.page.freshness) == nothing
