"""A consent's event notifications are switched at the Hub, as often as it takes."""

import pytest

from syncworker.consents.lifecycle import Lifecycle
from syncworker.consents.polling import Cadence, Polling
from syncworker.consents.revoking import Revoking
from syncworker.consents.subscribing import ORDERED, TOLD, Subscribing, ordered
from syncworker.errors import LFIUnavailableError, RefusedError, RequestError
from syncworker.standard.values import ConsentId
from syncworker.store.unit_of_work import Store
from syncworker.store.work import Claim, WorkKind
from tests.consents.house import House
from tests.consents.hub import LFI, Hub, filed
from tests.ground.clock import ManualClock


class Desk:
    """One consent, both sides, and the looks at it."""

    def __init__(self, store: Store, hub: Hub) -> None:
        self.store = store
        self.hub = hub
        lifecycle = Lifecycle(store, hub.clients)
        self.polling = Polling(
            store,
            lifecycle,
            Revoking(store, hub.clients, lifecycle),
            cadence=Cadence(),
            retention={},
            subscribing=Subscribing(store, hub.clients, lifecycle),
        )

    async def wants(self, active: bool) -> None:
        await self.store.atomically(lambda unit: ordered(unit, ConsentId("one"), active=active))

    async def look(self) -> str:
        return (await self.polling.look(Claim(1, WorkKind.CONSENT, "one", LFI, 1)))[1]

    async def stands(self) -> tuple[bool | None, bool | None, bool | None]:
        """As it is wanted, as we know it, as the Hub has it."""
        async with self.store.reading() as unit:
            held = await unit.consents.get(ConsentId("one"))
        assert held is not None
        return held.webhook_wanted, held.webhook_active, self.hub.consents[ConsentId("one")].webhook_active


@pytest.fixture
async def desk(store: Store, clock: ManualClock) -> Desk:
    hub = Hub(clock)
    await filed(store, hub, "one")
    return Desk(store, hub)


@pytest.mark.store
async def test_what_is_wanted_is_told_once(desk: Desk) -> None:
    """The order alone calls nobody; a look tells the Hub; both are in the audit."""
    await desk.wants(True)
    await desk.wants(True)
    ordered_only = (await desk.stands(), list(desk.hub.asked))
    looks = [await desk.look(), await desk.look()]
    async with desk.store.reading() as unit:
        words = [note["what"] for note in await unit.consents.notes(subject="one")]

    assert ordered_only == ((True, None, None), [])
    assert (looks, await desk.stands()) == (["subscription_told", "fresh"], (None, True, True))
    assert (desk.hub.asked, words) == (["patch", "read"], [ORDERED, TOLD])


@pytest.mark.store
async def test_a_hub_that_is_away_is_told_later(desk: Desk) -> None:
    """Nothing is known then: the wish stays."""
    await desk.wants(False)
    desk.hub.away = 2
    with pytest.raises(LFIUnavailableError):
        await desk.look()
    waiting = await desk.stands()

    assert (await desk.look(), waiting, await desk.stands()) == (
        "subscription_told",
        (False, None, None),
        (None, False, False),
    )


@pytest.mark.store
async def test_an_answer_that_was_lost_is_read_from_the_consent(desk: Desk) -> None:
    """The PATCH had arrived: it is not sent again."""
    await desk.wants(True)
    desk.hub.lost = 1

    assert (await desk.look(), await desk.stands()) == ("subscription_told", (None, True, True))
    assert desk.hub.asked == ["patch", "read"]


@pytest.mark.store
async def test_a_refusal_is_an_error_and_the_wish_stays(desk: Desk) -> None:
    """A person sees it, and it is tried again."""
    await desk.wants(True)
    desk.hub.refuses = True

    with pytest.raises(RefusedError):
        await desk.look()
    assert await desk.stands() == (True, None, None)


@pytest.mark.store
async def test_of_what_has_ended_nothing_is_switched(desk: Desk) -> None:
    """The refusal says why."""
    desk.hub.clock.advance(hours=1)
    desk.hub.has(ConsentId("one"), "Revoked")
    await desk.look()

    with pytest.raises(RequestError, match=r"^consent_id: the consent is Revoked; "):
        await desk.wants(True)


@pytest.mark.flow
async def test_the_simulated_hub_takes_it(house: House) -> None:
    """The real PATCH, with our address where it is switched on."""
    consent_id = (await house.consented()).consent_id
    client = await house.client()

    async def clients(_: object) -> object:
        return client

    lifecycle = await house.lifecycle()
    subscribing = Subscribing(house.store, clients, lifecycle, url="https://tpp.example/events")  # type: ignore[arg-type]
    shown = []
    for active in (True, False):
        held = await house.store.atomically(lambda unit, active=active: ordered(unit, consent_id, active=active))  # type: ignore[misc]
        seen = await subscribing.send(held)
        shown.append((seen.webhook_active, house.bank.bank.consents.get(consent_id).subscription))

    assert shown == [
        (active, {"Webhook": {"Url": "https://tpp.example/events", "IsActive": active}}) for active in (True, False)
    ]
