"""What is newer: dates of a bank and of its Hub may disagree, and an end is still the last word."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from syncworker.consents.lifecycle import Lifecycle, noted
from syncworker.standard.events import EventKind
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.consents import ON_ITS_WAY_MAX
from syncworker.store.inbox import EventState, StoredEvent
from syncworker.store.unit_of_work import Store
from syncworker.webhooks import says_nothing_new
from tests.consents.hub import Hub, filed
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

AHEAD = timedelta(seconds=40)
"""How far the bank's clock, which dated the token answer, is before the Hub's."""


async def held_ahead(store: Store, hub: Hub) -> ConsentId:
    """A consent held as Authorized with a date the Hub has not reached yet."""
    return await filed(store, hub, "one", status_updated_at=hub.clock.now().replace(microsecond=0) + AHEAD)


async def statuses(store: Store, consent_id: ConsentId) -> tuple[str, list[Any]]:
    async with store.reading() as unit:
        held = await unit.consents.get(consent_id)
        notes = await unit.consents.notes(subject=consent_id, what="consent_moved_surprisingly")
    assert held is not None
    return held.status, [note["facts"] for note in notes]


async def test_a_revocation_counts_though_the_bank_dated_its_answer_too_late(store: Store, clock: ManualClock) -> None:
    """The first look after it finds it, and the stale answer dated later does not bring the consent back."""
    hub = Hub(clock)
    consent_id = await held_ahead(store, hub)
    stale = replace(hub.shows(consent_id), status="Authorized")
    hub.has(consent_id, "Revoked")
    clock.advance(seconds=10)

    await Lifecycle(store, hub.clients).ask(consent_id)
    revoked = await statuses(store, consent_id)
    await store.atomically(lambda unit: noted(unit, stale, at=clock.now()))

    said = [{"before": "Authorized", "after": "Revoked", "dated_before": True}]
    assert [revoked, await statuses(store, consent_id)] == [("Revoked", said)] * 2


async def test_a_suspension_dated_too_early_is_followed_once_no_answer_is_on_its_way(
    store: Store, clock: ManualClock
) -> None:
    """At first it may be an answer that was overtaken; later on it is what the Hub says."""
    hub = Hub(clock)
    consent_id = await held_ahead(store, hub)
    hub.has(consent_id, "Suspended")
    lifecycle = Lifecycle(store, hub.clients)
    clock.advance(minutes=1)
    first = await lifecycle.ask(consent_id)
    clock.advance(minutes=ON_ITS_WAY_MAX / timedelta(minutes=1))

    assert [first.status, (await lifecycle.ask(consent_id)).status] == ["Authorized", "Suspended"]


@pytest.mark.parametrize(
    ("status", "held", "says"),
    [("Revoked", "Authorized", None), ("Suspended", "Authorized", "older"), ("Revoked", "Expired", "older")],
)
async def test_an_event_that_ends_a_consent_is_never_old(
    store: Store, clock: ManualClock, status: str, held: str, says: str | None
) -> None:
    """The Hub is asked, whatever the event's date."""
    hub = Hub(clock)
    consent_id = await filed(store, hub, "one", status=held)
    async with store.reading() as unit:
        consent = await unit.consents.get(consent_id)
    assert consent is not None
    assert consent.status_updated_at is not None

    assert says_nothing_new(_event(status, consent.status_updated_at - AHEAD), consent) == says


def _event(status: str, at: datetime) -> StoredEvent:
    return StoredEvent(
        id=1, issuer="i", kind=EventKind.CONSENT, subject="one", lfi=Slug("noor"), event_type="t", happened_at=at,
        status=status, status_updated_at=at, received_at=at, received=1, state=EventState.FILED, outcome=None,
        acted_at=None, interaction_id="",
    )  # fmt: skip


async def test_data_is_asked_with_the_consent_that_was_not_revoked_here(store: Store, clock: ManualClock) -> None:
    """A newer one, Authorized at the Hub and given up by us, does not stand in the way of the one that works."""
    hub = Hub(clock)
    good = await filed(store, hub, "good")
    clock.advance(minutes=1)
    surplus = await filed(store, hub, "surplus", tokens=False, base_consent_id=good)
    async with store.writing() as unit:
        newest = await unit.consents.live(good)
        await unit.consents.order_revocation(surplus, by="TPP", at=clock.now())
        live = await unit.consents.live(good)
        await unit.commit()

    assert [one and one.consent_id for one in (newest, live)] == [surplus, good]
