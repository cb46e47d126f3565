"""Stop, pause and go on mean a connection, whichever consents it has at that moment."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from syncworker.consents.lifecycle import NEVER, Lifecycle
from syncworker.consents.pausing import pause_all, resume_all
from syncworker.consents.polling import REVOKING_FIRST, REVOKING_FIRST_FOR, Cadence, Polling
from syncworker.consents.revoking import Revoking, ordered_all
from syncworker.errors import RefusedError, RequestError
from syncworker.standard.consents import Revoker
from syncworker.standard.values import ConsentId
from syncworker.store.consents import StoredConsent
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, WorkKind
from tests.consents.hub import LFI, Hub, filed
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store


async def chain(store: Store, hub: Hub) -> tuple[ConsentId, ConsentId, ConsentId]:
    """A connection of three consents: one that ended, and two in use."""
    root = await filed(store, hub, "root", status="Expired", tokens=False)
    return (
        root,
        await filed(store, hub, "old", base_consent_id=root),
        await filed(store, hub, "new", base_consent_id=root),
    )


async def held(store: Store, *consent_ids: ConsentId) -> list[StoredConsent]:
    async with store.reading() as unit:
        found = await unit.consents.get_many(consent_ids)
    return [found[one] for one in consent_ids]


async def waiting(store: Store) -> None:
    """Until somebody waits for a lock."""
    query = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(30):
        while True:
            async with store.reading() as unit:
                if await unit.connection.scalar(query):
                    return
            await asyncio.sleep(0.02)


async def test_to_stop_revokes_what_lives_and_minds_nothing_that_ended(store: Store, clock: ManualClock) -> None:
    """Twice is harmless; when nothing lives, it says so."""
    hub = Hub(clock)
    root, old, new = await chain(store, hub)
    for _ in range(2):
        await store.atomically(lambda unit: ordered_all(unit, root, by=Revoker.TPP_USER))
    orders = [one.revoke_by for one in await held(store, root, old, new)]
    for one in (old, new):
        hub.has(one, "Revoked")
        await Lifecycle(store, hub.clients).ask(one)

    assert orders == [None, "TPP.InitiatedByUser", "TPP.InitiatedByUser"]
    with pytest.raises(RequestError, match="has ended already"):
        await store.atomically(lambda unit: ordered_all(unit, root, by=Revoker.TPP_USER))


async def test_a_pause_is_of_the_whole_connection(store: Store, clock: ManualClock) -> None:
    """Of two consents in use both rest, the sync with them; to go on wakes both."""
    hub = Hub(clock)
    root, old, new = await chain(store, hub)

    async def after(step: Callable[[UnitOfWork, ConsentId], Awaitable[None]]) -> tuple[list[bool], bool]:
        await store.atomically(lambda unit: step(unit, root))
        async with store.reading() as unit:
            sync = await unit.work.find(WorkKind.SYNC, root)
        return [one.paused_at is not None for one in await held(store, root, old, new)], bool(
            sync and sync.due_at == NEVER
        )

    assert [await after(pause_all), await after(resume_all)] == [([False, True, True], True), ([False] * 3, False)]
    with pytest.raises(RequestError, match="is paused"):
        await store.atomically(lambda unit: resume_all(unit, root))


async def test_a_successor_on_its_way_in_is_stopped_too(
    postgresql_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """Its callback has not committed when the user stops: the stop waits for it, and revokes it as well."""
    store, hub = open_store(postgresql_url), Hub(clock)
    root = await filed(store, hub, "root")
    async with store.writing() as unit:
        (template,) = await unit.consents.find(connection_id=root)
        await unit.consents.add(_successor(template, clock))
        stop = asyncio.create_task(store.atomically(lambda unit: ordered_all(unit, root, by=Revoker.TPP_USER)))
        await waiting(store)
        await unit.commit()

    assert sorted(await stop) == ["root", "successor"]


async def test_the_end_of_one_consent_does_not_put_the_next_ones_sync_to_sleep(
    postgresql_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """The successor commits while the old consent's end is being written: its sync stays due."""
    store, hub = open_store(postgresql_url), Hub(clock)
    root = await filed(store, hub, "root")
    clock.advance(minutes=1)
    hub.has(root, "Revoked")
    async with store.writing() as unit:
        (template,) = await unit.consents.find(connection_id=root)
        await unit.consents.add(_successor(template, clock, status="Authorized"))
        await unit.work.schedule(WorkKind.SYNC, root, lfi=LFI, due_at=clock.now())
        end = asyncio.create_task(Lifecycle(store, hub.clients).ask(root))
        await waiting(store)
        await unit.commit()
    ended = await end

    async with store.reading() as unit:
        sync = await unit.work.find(WorkKind.SYNC, root)
    assert (ended.status, sync and sync.due_at) == ("Revoked", clock.now())


def _successor(of: StoredConsent, clock: ManualClock, status: str = "AwaitingAuthorization") -> StoredConsent:
    return replace(
        of, consent_id=ConsentId("successor"), base_consent_id=of.connection_id, status=status, created_at=clock.now()
    )


async def test_a_revocation_the_hub_will_not_hear_of_ends_with_the_consent(store: Store, clock: ManualClock) -> None:
    """It is tried again within minutes for a day, then by the cadence; at the consent's end nobody is asked."""
    hub = Hub(clock)
    consent_id = await filed(store, hub, "one")
    hub.refuses = True
    lifecycle = Lifecycle(store, hub.clients)
    polling = Polling(store, lifecycle, Revoking(store, hub.clients, lifecycle), cadence=Cadence(), retention={})
    claim = Claim(1, WorkKind.CONSENT, consent_id, LFI, 9)
    plain = await polling.patience(claim)
    await store.atomically(lambda unit: ordered_all(unit, consent_id, by=Revoker.TPP_USER))
    first = await polling.patience(claim)
    with pytest.raises(RefusedError):
        await polling.look(claim)
    clock.advance(days=REVOKING_FIRST_FOR / timedelta(days=1))
    later = await polling.patience(claim)
    clock.advance(days=89)
    calls = len(hub.asked)

    ended = await polling.look(claim)

    assert (plain, first, later) == (Cadence().authorized, REVOKING_FIRST, Cadence().authorized)
    assert (ended, (await held(store, consent_id))[0].status, hub.asked[calls:]) == (
        (None, "ended_by_clock"),
        "Expired",
        [],
    )


async def test_what_the_hub_never_knew_ends_after_a_day(store: Store, clock: ManualClock) -> None:
    """Revoked here while nobody had decided; until then it may yet turn up, and it can be erased afterwards."""
    hub = Hub(clock)
    consent_id = await filed(store, hub, "one", status="AwaitingAuthorization")
    hub.refuses = True
    hub.consents.clear()
    lifecycle = Lifecycle(store, hub.clients)
    polling = Polling(store, lifecycle, Revoking(store, hub.clients, lifecycle), cadence=Cadence(), retention={})
    claim = Claim(1, WorkKind.CONSENT, consent_id, LFI, 1)
    await store.atomically(lambda unit: ordered_all(unit, consent_id, by=Revoker.TPP))
    with pytest.raises(RefusedError):
        await polling.look(claim)
    clock.advance(days=1)

    assert (await polling.look(claim), (await held(store, consent_id))[0].status) == (
        (clock.now(), "unknown_there"),
        "Revoked",
    )
