"""Every consent is compared with the Hub's record: what differs is named, filed once, and followed."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from syncworker.consents.allowed import Allowed
from syncworker.consents.lifecycle import Lifecycle
from syncworker.consents.polling import NIGHT, NIGHT_BEGINS, Cadence, Polling, next_comparison
from syncworker.consents.reconciling import DRIFTED, Comparison, Drift, Reconciling
from syncworker.consents.revoking import Revoking
from syncworker.consents.revoking import ordered as revoked
from syncworker.standard.consents import ConsentView, Revoker
from syncworker.standard.values import ConsentId
from syncworker.store.consents import StoredConsent
from syncworker.store.unit_of_work import Store
from syncworker.store.work import Claim, WorkKind
from tests.consents.house import House
from tests.consents.hub import LFI, Hub, filed
from tests.ground.clock import ManualClock

DAY = timedelta(days=1)


@pytest.fixture
def hub(clock: ManualClock) -> Hub:
    return Hub(clock)


@pytest.fixture
def reconciling(store: Store, hub: Hub) -> Reconciling:
    return Reconciling(store, hub.clients)


def drift(found: Comparison) -> list[tuple[str, str, str | None, str | None]]:
    """What differs: consent, kind, ours, theirs."""
    return sorted((one.consent_id, one.what.value, one.held, one.hub) for one in found.differences)


async def row(store: Store, consent_id: str) -> StoredConsent:
    async with store.reading() as unit:
        held = await unit.consents.get(ConsentId(consent_id))
    assert held is not None
    return held


async def notes(store: Store, consent_id: str) -> list[Any]:
    async with store.reading() as unit:
        return [note["facts"] for note in await unit.consents.notes(subject=consent_id, what=DRIFTED)]


@pytest.mark.store
async def test_what_is_the_same_is_no_drift(store: Store, hub: Hub, reconciling: Reconciling) -> None:
    """Each consent is read by its id and each root's chain by the root: ended ones too."""
    await filed(store, hub, "alive")
    await filed(store, hub, "ended", status="Revoked", tokens=False)
    await filed(store, hub, "successor", base_consent_id=ConsentId("alive"))

    found = await reconciling.every()

    assert found == Comparison(consents=3, chains=2)
    assert sorted(hub.asked) == ["chain", "chain", "read", "read", "read"]
    assert (await row(store, "ended")).compared_at == hub.clock.now()


@pytest.mark.store
async def test_a_move_nobody_told_us_of_is_named_filed_and_followed(
    store: Store, hub: Hub, reconciling: Reconciling, clock: ManualClock
) -> None:
    """The second comparison finds nothing: following the Hub mended it."""
    consent_id = await filed(store, hub, "one")
    clock.advance(minutes=1)
    hub.has(consent_id, "Revoked", revoked_by="LFI")

    first, second = await reconciling.every(), await reconciling.every()

    held = await row(store, "one")
    async with store.reading() as unit:
        assert not await unit.tokens.exists(consent_id)
    assert (drift(first), drift(second)) == ([("one", "status", "Authorized", "Revoked")], [])
    assert (held.status, held.drift, held.revoked_by) == ("Revoked", None, "LFI")
    assert await notes(store, "one") == [
        {"differences": [{"what": "status", "consent_id": "one", "held": "Authorized", "hub": "Revoked"}]}
    ]


@pytest.mark.store
async def test_what_following_does_not_mend_stays_on_the_row_and_is_filed_once(
    store: Store, hub: Hub, reconciling: Reconciling
) -> None:
    """Unknown to the Hub, lacking in its list, in its list and not held by us, of another root."""
    for name in ("lost", "root", "other"):
        await filed(store, hub, name)
    await filed(store, hub, "gone", base_consent_id=ConsentId("root"))
    del hub.consents[ConsentId("lost")], hub.consents[ConsentId("gone")]
    hub.has(ConsentId("stranger"), "Authorized", base_consent_id=ConsentId("root"))
    hub.has(ConsentId("other"), "Authorized", base_consent_id=ConsentId("elsewhere"))

    first, second = await reconciling.every(), await reconciling.every()

    expected = [
        ("gone", Drift.NOT_IN_CHAIN, "Authorized", None),
        ("gone", Drift.UNKNOWN_THERE, "Authorized", "HTTP 404"),
        ("lost", Drift.UNKNOWN_THERE, "Authorized", "HTTP 404"),
        ("other", Drift.BASE, None, "elsewhere"),
        ("stranger", Drift.NOT_HELD, None, "Authorized"),
    ]
    assert drift(first) == drift(second) == expected
    assert {name: (await row(store, name)).drift for name in ("gone", "lost", "other", "root")} == {
        "gone": "not_in_chain unknown_there",
        "lost": "unknown_there",
        "other": "base",
        "root": "not_held",
    }
    assert [len(await notes(store, name)) for name in ("gone", "lost", "other", "root")] == [1, 1, 1, 1]


@pytest.mark.store
async def test_a_revocation_of_ours_that_the_hub_lacks_is_drift(
    store: Store, hub: Hub, reconciling: Reconciling
) -> None:
    """Until it has it."""
    consent_id = await filed(store, hub, "one")
    await store.atomically(lambda unit: revoked(unit, consent_id, by=Revoker.TPP))

    before = await reconciling.every()
    hub.clock.advance(minutes=1)
    hub.has(consent_id, "Revoked")
    await reconciling.every()

    assert drift(before) == [("one", Drift.REVOCATION, "Revoked", "Authorized")]
    assert (await row(store, "one")).drift is None
    assert drift(await reconciling.every()) == []


@pytest.mark.store
@pytest.mark.parametrize("ours", ["Authorized", "Expired"])
async def test_a_status_that_lags_behind_the_end_is_no_drift(
    store: Store, hub: Hub, reconciling: Reconciling, clock: ManualClock, ours: str
) -> None:
    """Trap 16: past its end a consent is Expired on both sides, whichever of them says so first."""
    consent_id = await filed(store, hub, "one", status=ours, tokens=False, expires_at=clock.now() + DAY)
    clock.advance(days=2)
    hub.consents[consent_id] = replace(hub.consents[consent_id], status="Authorized", expires_at=None)

    assert drift(await reconciling.every()) == []
    assert (await row(store, "one")).status == "Expired"


@pytest.mark.store
async def test_what_the_hub_does_not_answer_is_named_and_not_drift(
    store: Store, hub: Hub, reconciling: Reconciling
) -> None:
    """Nothing is known of it: the row stays as it was."""
    await filed(store, hub, "one")
    hub.away = 2

    found = await reconciling.every()

    assert (found.consents, found.differences) == (0, ())
    assert [(one.subject, one.error.code) for one in found.unanswered] == [("one", "lfi_unavailable")] * 2
    assert (await row(store, "one")).compared_at is None


@pytest.mark.store
async def test_nobody_outside_the_allow_lists_is_asked_about(store: Store, hub: Hub) -> None:
    """Counted, and no call made."""
    await filed(store, hub, "one")

    found = await Reconciling(store, hub.clients, allowed=Allowed(user_refs=frozenset())).every()

    assert (found, hub.asked) == (Comparison(not_allowed=1), [])


@pytest.mark.store
async def test_progress_is_told_connection_by_connection(store: Store, hub: Hub, reconciling: Reconciling) -> None:
    """To whoever looks at a bar."""
    for name in ("a", "b", "c"):
        await filed(store, hub, name)
    told: list[tuple[int, int]] = []

    await reconciling.every(progress=lambda done, whole: told.append((done, whole)))

    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.flow
async def test_the_simulated_hub_agrees(house: House) -> None:
    """The real calls: a chain of two, and an authorisation that was begun and never came home."""
    first = await house.consented()
    house.clock.advance(minutes=1)
    await house.consented(base_consent_id=first.consent_id)
    client = await house.client()

    async def clients(_: object) -> Any:
        return client

    reconciling = Reconciling(house.store, clients)
    same = await reconciling.every()
    house.clock.advance(minutes=1)
    house.bank.bank.revoke(first.consent_id)
    moved = await reconciling.every()

    assert same == Comparison(consents=2, chains=1)
    assert drift(moved) == [(first.consent_id, "status", "Authorized", "Revoked")]
    assert (await house.consent(first.consent_id)).status == "Revoked"


@pytest.mark.unit
def test_each_connection_has_its_minute_of_the_night() -> None:
    """Once a night, between one and five o'clock where the customers are; all of one connection together."""
    view: Callable[[str, Any], Any] = lambda name, at: next_comparison(  # noqa: E731
        _held(name, compared_at=at), cadence=Cadence()
    )
    begun = NIGHT_BEGINS + 300 * DAY
    firsts = {f"c-{number}": view(f"c-{number}", begun) for number in range(200)}

    assert all(begun < due <= begun + DAY + NIGHT for due in firsts.values())
    assert all(timedelta(0) <= (due - NIGHT_BEGINS) % DAY < NIGHT for due in firsts.values())
    assert len(set(firsts.values())) == 200
    assert {view(name, due) - due for name, due in firsts.items()} == {DAY}


@pytest.mark.store
async def test_a_look_of_the_night_compares_the_whole_connection(
    store: Store, hub: Hub, reconciling: Reconciling, clock: ManualClock
) -> None:
    """Fresh or not; once: the connection's other consent is done with it; ended ones are read in the list alone."""
    await filed(store, hub, "old", status="Revoked", tokens=False)
    await filed(store, hub, "root")
    await filed(store, hub, "next", base_consent_id=ConsentId("root"))
    await filed(store, hub, "before", status="Revoked", tokens=False, base_consent_id=ConsentId("root"))
    lifecycle = Lifecycle(store, hub.clients)
    polling = Polling(
        store,
        lifecycle,
        Revoking(store, hub.clients, lifecycle),
        cadence=Cadence(authorized=100 * DAY),
        retention={},
        reconciling=reconciling,
    )

    async def look(name: str) -> str:
        return (await polling.look(Claim(1, WorkKind.CONSENT, name, LFI, 1)))[1]

    by_day = await look("root")
    clock.set(next_comparison(await row(store, "root"), cadence=Cadence()))
    by_night = [await look("root"), await look("next")]

    assert (by_day, by_night) == ("fresh", ["compared", "fresh"])
    assert hub.asked == ["chain", "read", "read"]


def _held(name: str, **changes: Any) -> StoredConsent:
    view = ConsentView(consent_id=ConsentId(name), status="Authorized")
    facts: dict[str, Any] = {
        "consent_id": view.consent_id, "connection_id": view.consent_id, "lfi": LFI, "user_ref": "u",
        "version": "v2.1", "status": view.status, "status_updated_at": None, "status_seen_at": NIGHT_BEGINS,
        "permissions": (), "expires_at": NIGHT_BEGINS, "user_type": "Retail", "purpose": "AccountAggregation",
        "created_at": NIGHT_BEGINS,
    }  # fmt: skip
    return StoredConsent(**facts | changes)
