"""What a person has to look at: one row for each LFI, operation and code, on both databases."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from syncworker.standard.values import ConsentId, Slug
from syncworker.store.findings import Cleared, Finding, Found, together
from syncworker.store.unit_of_work import Store, UnitOfWork
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

NOOR, ORDERS = Slug("noor"), "GetAccountsAccountIdStandingOrders"


def met(operation: str = ORDERS, code: str = "refused_401", by: str = "c-1", times: int = 1) -> Found:
    return Found(
        lfi=NOOR,
        operation=operation,
        code=code,
        times=times,
        connection_id=ConsentId(by),
        consent_id=ConsentId(by),
        interaction_id=f"interaction of {by}",
    )


async def meet(store: Store, *found: Found) -> None:
    async def write(unit: UnitOfWork) -> None:
        unit.with_commit([unit.findings.meeting(together(found), at=await unit.now())])

    await store.atomically(write)


async def clear(store: Store, operation: str = ORDERS, by: str = "c-1", unseen_for: timedelta = timedelta(9)) -> None:
    async def write(unit: UnitOfWork) -> None:
        now = await unit.now()
        cleared = Cleared(lfi=NOOR, operation=operation, connection_id=ConsentId(by), last_seen_before=now - unseen_for)
        unit.with_commit([unit.findings.clearing([cleared], at=now)])

    await store.atomically(write)


async def findings(store: Store, *, only_open: bool = True) -> list[Finding]:
    async with store.reading() as unit:
        return await unit.findings.all(only_open=only_open)


async def test_many_consents_meet_one_finding(store: Store, clock: ManualClock) -> None:
    """Counted from the first time on, with the facts of the last."""
    began = clock.now()
    await meet(store, met(), met(by="c-2"), met(code="item.no_usable_key"))
    clock.advance(hours=1)
    await meet(store, met(by="c-3", times=4))
    refused = [one for one in await findings(store) if one.code == "refused_401"]

    assert [(one.times, one.first_seen_at, one.last_seen_at, one.connection_id) for one in refused] == [
        (6, began, clock.now(), "c-3")
    ]
    assert refused[0].interaction_id == "interaction of c-3"


async def test_the_connection_that_met_it_last_shows_it_gone(store: Store, clock: ManualClock) -> None:
    """Another one does not: its listing may be well while the matter stands."""
    await meet(store, met(), met(operation="GetAccounts"))
    await clear(store, by="c-2")
    before = len(await findings(store))
    await clear(store)

    assert (before, [one.operation for one in await findings(store)]) == (2, ["GetAccounts"])


async def test_a_finding_that_is_not_met_any_more_is_gone_with_any_read(store: Store, clock: ManualClock) -> None:
    """Its connection may have ended meanwhile."""
    await meet(store, met())
    clock.advance(days=10)
    await clear(store, by="c-2")

    assert await findings(store) == []
    assert [one.resolved_at for one in await findings(store, only_open=False)] == [clock.now()]


async def test_a_finding_that_comes_back_begins_anew(store: Store, clock: ManualClock) -> None:
    """It counts from then on."""
    await meet(store, met(times=7))
    await clear(store)
    clock.advance(days=1)
    await meet(store, met())
    (found,) = await findings(store)

    assert (found.times, found.first_seen_at, found.resolved_at) == (1, clock.now(), None)


async def test_findings_of_another_tenant_are_not_seen(
    store: Store, open_store: Callable[..., Store], database_url: str
) -> None:
    """Nor met, nor cleared."""
    other = open_store(database_url, tenant="other")
    await meet(store, met())
    await meet(other, met(by="theirs"))
    await clear(other, by="theirs")

    assert [one.connection_id for one in await findings(store)] == ["c-1"]
    assert await findings(other) == []
