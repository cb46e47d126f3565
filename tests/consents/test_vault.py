"""One refresh at a time, stored before use, and a loss that has a name (`reliability.md` §9, scenarios 8 – 12)."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from urllib.parse import urlsplit

import psycopg
import pytest

from syncworker.consents.lifecycle import NEVER
from syncworker.consents.tokens import Outcome, TokenBatchReport, Vault
from syncworker.errors import (
    ClientRejectedError,
    ConsentNotUsableError,
    GrantLostError,
    LFIUnavailableError,
    TokenBusyError,
)
from syncworker.standard.values import ConsentId
from syncworker.store.failures import StoreUnavailableError
from syncworker.store.tokens import NewToken, StoredToken
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind
from tests.consents.house import LEASE_S, LFI, Gate, House, request, sha256, token_due
from tests.ground.clock import ManualClock
from tests.ground.proxy import FaultProxy

pytestmark = pytest.mark.flow

LIFE = timedelta(seconds=600)


async def test_a_living_token_costs_no_call(house: House) -> None:
    """Until its margin the stored token is given out."""
    consent_id = (await house.consented()).consent_id
    vault = await house.vault()
    stored = await house.token(consent_id)
    house.clock.advance(seconds=539)

    assert await vault.access_token(consent_id) == stored.access_token
    assert house.refreshes() == []


async def test_inside_its_margin_a_token_is_refreshed(house: House) -> None:
    """A minute before its end a token of ten minutes is no longer given out."""
    consent_id = (await house.consented()).consent_id
    vault = await house.vault()
    stored = await house.token(consent_id)
    house.clock.advance(seconds=540)

    assert await vault.access_token(consent_id) != stored.access_token
    assert house.refreshes() == ["issued"]
    assert await house.stored_is_current(consent_id)


async def test_a_rejected_token_is_not_given_out_again(house: House) -> None:
    """A 401 asks for a newer one; a second caller with the same complaint gets that newer one without a call."""
    consent_id = (await house.consented()).consent_id
    vault = await house.vault()
    source = vault.source(consent_id)
    first = await source()

    second = await source(rejected=first)

    assert second != first
    assert await vault.access_token(consent_id, rejected=first) == second
    assert house.refreshes() == ["issued"]


async def test_a_token_bound_to_another_certificate_is_dropped(house: House) -> None:
    """After a change of certificate access tokens go, refresh tokens stay (rule 23)."""
    consent_id = (await house.consented()).consent_id
    vault = await house.vault()
    async with house.store.writing() as unit:
        held = await unit.tokens.read(consent_id)
        assert held is not None
        assert held.refresh_token is not None
        assert await unit.tokens.destroy(consent_id)
        await unit.tokens.put_first(consent_id, _new(held, certificate="another"))
        await unit.commit()

    assert await vault.access_token(consent_id) != held.access_token
    assert house.refreshes() == ["issued"]


async def test_the_next_refresh_is_scheduled_with_the_token(house: House) -> None:
    """Stored token and due time move together."""
    consent_id = (await house.consented()).consent_id
    house.clock.advance(seconds=450)

    assert await (await house.vault()).refresh(consent_id, reason="test") is Outcome.ROTATED

    token = await house.token(consent_id)
    async with house.store.reading() as unit:
        row = await unit.work.find(WorkKind.TOKEN, consent_id)
    assert row is not None
    assert token.issued_at is not None
    assert token.expires_at is not None
    assert (row.due_at, token.version, token.refreshed_count) == (
        token_due(consent_id, token.issued_at, token.expires_at),
        2,
        1,
    )


@pytest.mark.parametrize("rotation", ["never", "omit"])
async def test_an_answer_without_a_new_refresh_token_keeps_the_old_one(house: House, rotation: str) -> None:
    """Trap 1: absence is not a null to store."""
    consent_id = (await house.consented()).consent_id
    before = await house.token(consent_id)
    house.bank.bank.configure(rotation=rotation)

    assert await (await house.vault()).refresh(consent_id, reason="test") is Outcome.KEPT

    after = await house.token(consent_id)
    assert after.refresh_token == before.refresh_token
    assert await house.stored_is_current(consent_id)


async def test_each_answer_brings_the_consents_status(house: House) -> None:
    """A suspension is noticed with the refresh, whether the bank answers or refuses it."""
    consent_id = (await house.consented()).consent_id
    house.bank.bank.suspend(consent_id)
    vault = await house.vault()

    await vault.refresh(consent_id, reason="test")

    assert (await house.consent(consent_id)).status == "Suspended"


# -- scenario 8 -------------------------------------------------------------------------------------------------------


async def test_sixteen_wants_in_two_processes_make_one_call(
    house: House, database_url: str, open_store: Callable[..., Store]
) -> None:
    """Sixteen callers of one expired token get one and the same new token for one call at the bank."""
    consent_id = (await house.consented()).consent_id
    stores = [open_store(database_url) for _ in range(2)]
    vaults = [
        await house.vault(store, holder=f"process-{number}", sleep=lambda _: asyncio.sleep(0.01))
        for number, store in enumerate(stores)
    ]
    house.clock.advance(seconds=600)
    house.bank.bank.latency(0.1, "token")

    tokens = await asyncio.gather(*(vaults[number % 2].access_token(consent_id) for number in range(16)))

    assert house.refreshes() == ["issued"]
    assert {sha256(token) for token in tokens} == {sha256((await house.token(consent_id)).access_token)}


async def test_who_waits_too_long_is_told_that_the_token_is_busy(
    house: House, open_store: Callable[..., Store]
) -> None:
    """Patience ends; the refresh of the other goes on and is stored."""
    consent_id = (await house.consented()).consent_id
    gate = Gate("answer-received")
    slow = await house.vault(checkpoint=gate)
    quick = await house.vault(patience=5)
    house.clock.advance(seconds=600)
    refreshing = asyncio.create_task(slow.access_token(consent_id))
    await gate.reached.wait()

    with pytest.raises(TokenBusyError):
        await quick.access_token(consent_id)
    gate.opened.set()
    await refreshing

    assert house.refreshes() == ["issued"]
    assert await house.stored_is_current(consent_id)


# -- scenarios 9 and 10 -----------------------------------------------------------------------------------------------


async def test_a_lost_answer_of_a_strict_bank_is_one_named_loss(house: House) -> None:
    """At most three calls, `needs_consent` with its cause, the work at rest, and no other consent touched."""
    consent_id, other = (await house.consented(user=0)).consent_id, (await house.consented(user=1)).consent_id
    untouched = await house.token(other)
    vault = await house.vault()
    house.bank.bank.drop_response("token.refresh_token", consent_id=consent_id)
    house.clock.advance(seconds=450)

    assert await vault.refresh(consent_id, reason="test") is Outcome.LOST
    assert await vault.refresh(consent_id, reason="test") is Outcome.LOST  # and never loop: no call

    async with house.store.reading() as unit:
        work = [await unit.work.find(kind, consent_id) for kind in (WorkKind.TOKEN, WorkKind.SYNC)]
    with pytest.raises(GrantLostError) as lost:
        await vault.access_token(consent_id)
    assert house.refreshes() == ["issued", "invalid_grant"]
    assert (lost.value.cause, (await house.consent(consent_id)).needs_consent) == ("answer_lost", "answer_lost")
    assert [row and row.due_at for row in work] == [NEVER, NEVER]
    assert await house.notes(consent_id) == [("grant_lost", {"cause": "answer_lost", "calls": 2, "attempts": 1})]
    assert await house.token(other) == untouched


async def test_a_lost_answer_within_a_grace_window_costs_nothing(house: House) -> None:
    """The same refresh token, sent again after a second, brings the tokens that are current."""
    consent_id = (await house.consented()).consent_id
    house.bank.bank.configure(reuse="grace:30")
    house.bank.bank.drop_response("token.refresh_token", consent_id=consent_id)

    assert await (await house.vault()).refresh(consent_id, reason="test") is Outcome.GRACE

    assert house.refreshes() == ["issued", "repeated"]
    assert await house.stored_is_current(consent_id)


async def test_a_request_that_never_arrived_costs_nothing(house: House) -> None:
    """Cut before the bank did anything: sent again, with a new assertion."""
    consent_id = (await house.consented()).consent_id
    house.bank.bank.drop_response("token.refresh_token", after_processing=False, times=2)

    assert await (await house.vault()).refresh(consent_id, reason="test") is Outcome.GRACE

    assert house.refreshes() == ["issued"]
    assert await house.stored_is_current(consent_id)


async def test_three_calls_without_an_answer_leave_the_token_in_doubt(house: House) -> None:
    """No answer is not a refusal: the lease goes back, the intent stays, and the next refresh goes on from there."""
    consent_id = (await house.consented()).consent_id
    vault = await house.vault()
    house.bank.bank.drop_response("token.refresh_token", after_processing=False, times=3)
    house.clock.advance(seconds=600)
    began = house.clock.now()

    with pytest.raises(LFIUnavailableError):
        await vault.access_token(consent_id)
    waited = house.clock.now() - began
    token = await house.token(consent_id)
    assert await vault.refresh(consent_id, reason="test") is Outcome.GRACE

    assert (waited, token.in_doubt, token.holder, token.version) == (timedelta(seconds=6), True, None, 1)
    assert (await house.token(consent_id)).in_doubt is False


async def test_a_token_in_its_margin_still_serves_when_the_bank_is_away(house: House) -> None:
    """A failed refresh ahead of time takes nothing away."""
    consent_id = (await house.consented()).consent_id
    house.bank.bank.answers(503, operation="token.refresh_token")
    house.clock.advance(seconds=545)

    assert await (await house.vault()).access_token(consent_id) == (await house.token(consent_id)).access_token


async def test_a_discovery_document_that_cannot_be_read_puts_nothing_in_doubt(house: House) -> None:
    """Nothing was sent, so nothing is marked."""
    consent_id = (await house.consented()).consent_id
    before = await house.token(consent_id)
    vault = await house.vault()
    house.bank.bank.answers(503, operation="discovery")

    assert await vault.refresh(consent_id, reason="test") is Outcome.UNAVAILABLE

    assert await house.token(consent_id) == before


async def test_429_closes_the_gate_of_the_whole_lfi(house: House) -> None:
    """A definite answer: one call, no doubt, and nobody calls before `Retry-After`."""
    consent_id = (await house.consented()).consent_id
    house.bank.bank.answers(429, retry_after=90, operation="token.refresh_token")

    assert await (await house.vault()).refresh(consent_id, reason="test") is Outcome.UNAVAILABLE

    async with house.store.reading() as unit:
        gates = await unit.lfis.gates()
    assert dict(gates) == {LFI: house.clock.now() + timedelta(seconds=90)}
    assert (await house.token(consent_id)).in_doubt is False


async def test_a_refusal_of_us_as_a_client_changes_nothing_for_the_consent(house: House) -> None:
    """`invalid_client` is our operator's business: one call, no loss, no doubt."""
    consent_id = (await house.consented()).consent_id
    vault = await house.vault()
    house.bank.bank.answers(400, code="invalid_client", operation="token.refresh_token", times=1)
    house.clock.advance(seconds=600)

    with pytest.raises(ClientRejectedError):
        await vault.access_token(consent_id)
    token = await house.token(consent_id)

    assert (token.version, token.holder, token.in_doubt, token.lost_cause) == (1, None, False, None)
    assert house.refreshes() == ["invalid_client"]
    assert await vault.refresh(consent_id, reason="test") is Outcome.ROTATED


async def test_a_grant_ended_by_the_bank_is_lost_with_its_own_cause(house: House) -> None:
    """Nothing was in doubt, so nothing of ours was lost: `invalid_grant`."""
    consent_id = (await house.consented()).consent_id
    house.bank.bank.end_grant(consent_id)

    assert await (await house.vault()).refresh(consent_id, reason="test") is Outcome.LOST

    assert (await house.consent(consent_id)).needs_consent == "invalid_grant"
    assert house.refreshes() == ["invalid_grant"]


async def test_a_revoked_consent_is_not_a_lost_grant(house: House) -> None:
    """Asked after `invalid_grant`, the Hub says Revoked: tokens destroyed, work at rest, no call for new consent."""
    consent_id = (await house.consented()).consent_id
    house.bank.bank.revoke(consent_id)
    vault = await house.vault()
    house.clock.advance(seconds=600)

    with pytest.raises(ConsentNotUsableError) as stopped:
        await vault.access_token(consent_id)

    consent = await house.consent(consent_id)
    async with house.store.reading() as unit:
        assert await unit.tokens.read(consent_id) is None
    assert (stopped.value.cause, consent.status, consent.needs_consent) == ("Revoked", "Revoked", None)
    assert (await house.notes(consent_id))[-1] == (
        "consent_ended",
        {"before": "Authorized", "after": "Revoked", "tokens_destroyed": True},
    )


async def test_a_spare_saves_a_grant_whose_stored_token_is_refused(house: House) -> None:
    """Of two answers the table holds one and keeps the other; when the bank goes on with the other, so do we."""
    consent_id = (await house.consented()).consent_id
    gate = Gate("answer-received")
    late, early = await house.vault(holder="late", checkpoint=gate), await house.vault(holder="early")
    refreshing = asyncio.create_task(late.refresh(consent_id, reason="test"))
    await gate.reached.wait()
    async with house.store.writing() as unit:  # an answer the bank has since forgotten won the race
        held = await unit.tokens.read(consent_id)
        assert held is not None
        assert await unit.tokens.swap(consent_id, version=1, new=_new(held))
        await unit.commit()
    gate.opened.set()
    assert await refreshing is Outcome.HEALED
    assert len((await house.token(consent_id)).spares) == 1
    house.bank.bank.answers(400, code="invalid_grant", operation="token.refresh_token", times=1)

    assert await early.refresh(consent_id, reason="test") is Outcome.ROTATED

    assert (await house.token(consent_id)).spares == ()
    assert await house.stored_is_current(consent_id)


# -- scenario 12 ------------------------------------------------------------------------------------------------------


async def test_a_holder_paused_beyond_its_lease_still_stores_the_live_token(
    house: House, database_url: str, open_store: Callable[..., Store]
) -> None:
    """The second holder's `invalid_grant` is healed by the answer of the first, who stores it late."""
    consent_id = (await house.consented()).consent_id
    gate = Gate("answer-received")

    async def sleep(seconds: float) -> None:
        gate.opened.set()
        await asyncio.sleep(0.05)
        await house.sleep(seconds)

    paused = await house.vault(holder="paused", checkpoint=gate)
    other = await house.vault(open_store(database_url), holder="other", sleep=sleep)
    first = asyncio.create_task(paused.refresh(consent_id, reason="test"))
    await gate.reached.wait()
    house.clock.advance(seconds=LEASE_S + 1)
    house.bank.bank.answers(400, code="invalid_grant", operation="token.refresh_token", times=1)

    assert await other.refresh(consent_id, reason="test") is Outcome.HEALED
    assert await first is Outcome.ROTATED

    assert (await house.token(consent_id)).version == 2
    assert (await house.token(consent_id)).holder is None
    assert await house.stored_is_current(consent_id)


async def test_an_answer_that_comes_after_the_loss_was_named_heals_it(
    house: House, database_url: str, open_store: Callable[..., Store]
) -> None:
    """The other holder gave up; the live token still ends up stored, and the consent is usable again."""
    consent_id = (await house.consented()).consent_id
    gate = Gate("answer-received")
    paused = await house.vault(holder="paused", checkpoint=gate)
    other = await house.vault(open_store(database_url), holder="other")
    first = asyncio.create_task(paused.refresh(consent_id, reason="test"))
    await gate.reached.wait()
    house.clock.advance(seconds=LEASE_S + 1)
    house.bank.bank.answers(400, code="invalid_grant", operation="token.refresh_token", times=2)
    assert await other.refresh(consent_id, reason="test") is Outcome.LOST
    assert (await house.consent(consent_id)).needs_consent == "answer_lost"

    gate.opened.set()
    assert await first is Outcome.ROTATED

    assert (await house.consent(consent_id)).needs_consent is None
    assert await other.access_token(consent_id) == (await house.token(consent_id)).access_token
    assert await house.stored_is_current(consent_id)


async def test_a_holder_paused_before_its_call_does_not_send(
    house: House, database_url: str, open_store: Callable[..., Store]
) -> None:
    """The lease no longer covers the call, so the sleeper uses what the other stored meanwhile."""
    consent_id = (await house.consented()).consent_id
    gate = Gate("intent-committed")
    paused = await house.vault(holder="paused", checkpoint=gate)
    other = await house.vault(open_store(database_url), holder="other")
    first = asyncio.create_task(paused.refresh(consent_id, reason="test"))
    await gate.reached.wait()
    house.clock.advance(seconds=LEASE_S + 1)
    await other.refresh(consent_id, reason="test")
    gate.opened.set()

    assert await first is Outcome.FRESH
    assert house.refreshes() == ["issued"]
    assert await house.stored_is_current(consent_id)


@pytest.fixture
async def outage(
    database_url: str,
    house: House,
    open_store: Callable[..., Store],
    fault_proxy: Callable[[str | int], Awaitable[FaultProxy]],
) -> AsyncIterator[Callable[[], Awaitable[tuple[Vault, Store]]]]:
    """A vault whose database goes away when the bank's answer is there, and comes back a while later."""
    if urlsplit(database_url).scheme == "sqlite":
        yield lambda: _locked_file(database_url, house, open_store)
        return
    proxy = await fault_proxy(database_url)
    tries = 0

    async def sleep(_: float) -> None:
        nonlocal tries
        tries += 1
        if tries == 4:
            await proxy.heal()

    async def away(name: str) -> None:
        if name == "answer-received":
            await proxy.refuse()

    async def opened() -> tuple[Vault, Store]:
        store = open_store(proxy.url(database_url))
        return await house.vault(store, sleep=sleep, checkpoint=away), store

    yield opened


async def _locked_file(url: str, house: House, open_store: Callable[..., Store]) -> tuple[Vault, Store]:
    blocker = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)

    def unlock() -> None:
        blocker.execute("ROLLBACK")
        blocker.close()

    def away(name: str) -> None:
        if name == "answer-received":
            blocker.execute("BEGIN IMMEDIATE")
            asyncio.get_running_loop().call_later(0.5, unlock)

    store = open_store(url)
    return await house.vault(store, checkpoint=away), store


async def test_a_database_away_at_commit_delays_the_token_and_loses_nothing(
    house: House, outage: Callable[[], Awaitable[tuple[Vault, Store]]]
) -> None:
    """The answer is held until the database takes it."""
    consent_id = (await house.consented()).consent_id
    vault, _ = await outage()

    assert await vault.refresh(consent_id, reason="test") is Outcome.ROTATED

    assert house.refreshes() == ["issued"]
    assert (await house.token(consent_id)).version == 2
    assert await house.stored_is_current(consent_id)


async def test_a_commit_whose_confirmation_was_lost_is_recognised(
    house: House,
    postgresql_url: str,
    open_store: Callable[..., Store],
    fault_proxy: Callable[[str | int], Awaitable[FaultProxy]],
) -> None:
    """Tried again, it finds its own token stored: no spare, no second version."""
    house.store = open_store(postgresql_url)
    consent_id = (await house.consented()).consent_id
    proxy = await fault_proxy(postgresql_url)

    with psycopg.connect(postgresql_url, autocommit=True) as watcher:

        def committed() -> bool:
            row = watcher.execute("SELECT version FROM token").fetchone()
            return row is not None and row[0] == 2

        proxy.cut_answer_when(committed)
        vault = await house.vault(open_store(proxy.url(postgresql_url)), sleep=lambda _: asyncio.sleep(0))
        assert await vault.refresh(consent_id, reason="test") is Outcome.ROTATED

    token = await house.token(consent_id)
    assert (proxy.answers_lost, token.version, token.spares, token.holder) == (1, 2, (), None)
    assert await house.stored_is_current(consent_id)


async def test_no_intent_no_call(
    house: House,
    postgresql_url: str,
    open_store: Callable[..., Store],
    fault_proxy: Callable[[str | int], Awaitable[FaultProxy]],
) -> None:
    """A database that takes no writes keeps the token from being rotated (rule 17)."""
    house.store = open_store(postgresql_url)
    consent_id = (await house.consented()).consent_id
    proxy = await fault_proxy(postgresql_url)
    vault = await house.vault(open_store(proxy.url(postgresql_url)))
    await vault.access_token(consent_id)
    await proxy.refuse()

    with pytest.raises(StoreUnavailableError):
        await vault.refresh(consent_id, reason="test")

    assert house.refreshes() == []


async def test_a_lease_left_behind_is_waited_out(house: House) -> None:
    """Whoever committed an intent and died before the call costs no grant, only the rest of the lease."""
    consent_id = (await house.consented()).consent_id
    vault = await house.vault()
    async with house.store.writing() as unit:
        await unit.tokens.begin(consent_id, version=1, holder="another", lease=timedelta(seconds=LEASE_S))
        await unit.commit()
    began = house.clock.now()

    assert await vault.refresh(consent_id, reason="test") is Outcome.GRACE

    assert house.clock.now() - began >= timedelta(seconds=LEASE_S)
    assert house.refreshes() == ["issued"]


# -- shutdown and batches ---------------------------------------------------------------------------------------------


async def test_who_gives_up_waiting_does_not_harm_the_refresh(house: House) -> None:
    """A cancelled caller leaves; the answer is stored, and `drain` has waited for it."""
    consent_id = (await house.consented()).consent_id
    gate = Gate("answer-received")
    vault = await house.vault(checkpoint=gate)
    house.clock.advance(seconds=600)
    caller = asyncio.create_task(vault.access_token(consent_id))
    await gate.reached.wait()
    caller.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await caller
    gate.opened.set()
    await vault.drain()

    assert (await house.token(consent_id)).version == 2
    assert await house.stored_is_current(consent_id)


async def test_a_drained_vault_begins_nothing(house: House) -> None:
    """Shutting down, it says busy rather than send what it may not be able to store."""
    consent_id = (await house.consented()).consent_id
    vault = await house.vault()
    await vault.drain()
    house.clock.advance(seconds=600)

    with pytest.raises(TokenBusyError):
        await vault.access_token(consent_id)
    assert house.refreshes() == []


async def test_a_batch_refreshes_what_is_due_and_finishes_its_rows(house: House) -> None:
    """One good, one lost, one stale hint: each row gets its own next due time."""
    good, lost = (await house.consented(user=0)).consent_id, (await house.consented(user=1)).consent_id
    house.bank.bank.end_grant(lost)
    vault = await house.vault()
    house.clock.advance(seconds=450)
    hints = await _claimed(house)

    report = await vault.token_batch([*hints, (hints[0][0], 99)])

    async with house.store.reading() as unit:
        rows = {row.subject: row for row in [await unit.work.find(WorkKind.TOKEN, one) for one in (good, lost)] if row}
    token = await house.token(good)
    assert token.issued_at is not None
    assert token.expires_at is not None
    assert report == TokenBatchReport(outcomes={Outcome.ROTATED: 1, Outcome.LOST: 1}, stale=1)
    assert (rows[good].due_at, rows[good].last_outcome, rows[good].lease_until) == (
        token_due(good, token.issued_at, token.expires_at),
        "rotated",
        None,
    )
    assert (rows[lost].due_at, rows[lost].last_outcome, rows[lost].last_error) == (NEVER, "lost", "grant_lost")


async def test_a_batch_cut_short_is_due_again_at_once(house: House) -> None:
    """A shutdown costs the row neither a lease nor a crash, and the refresh under way ends by itself."""
    consent_id = (await house.consented()).consent_id
    gate = Gate("answer-received")
    vault = await house.vault(checkpoint=gate)
    house.clock.advance(seconds=450)
    running = asyncio.create_task(vault.token_batch(await _claimed(house)))
    await gate.reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    gate.opened.set()
    await vault.drain()

    async with house.store.reading() as unit:
        row = await unit.work.find(WorkKind.TOKEN, consent_id)
    assert row is not None
    assert (row.lease_until, row.crashes, row.attempts) == (None, 0, 0)
    assert await house.stored_is_current(consent_id)


async def test_a_vault_that_stops_begins_no_refresh_and_counts_nothing(house: House) -> None:
    """SIGTERM before the first call: nothing is sent, the row is due at once for another worker."""
    consent_id = (await house.consented()).consent_id
    vault = await house.vault()
    house.clock.advance(seconds=450)
    hints = await _claimed(house)
    vault.stop()

    report = await vault.token_batch(hints)

    async with house.store.reading() as unit:
        row = await unit.work.find(WorkKind.TOKEN, consent_id)
    assert row is not None
    assert report == TokenBatchReport(outcomes={Outcome.BUSY: 1}, stale=0)
    assert (row.lease_until, row.crashes, row.attempts, row.due_at <= house.clock.now()) == (None, 0, 0, True)
    assert house.refreshes() == []


async def test_on_demand_a_refresh_scheduled_before_costs_no_call(house: House) -> None:
    """The setting was changed: rows of the old schedule come to rest, and work still mints what it needs."""
    consent_id = (await house.consented()).consent_id
    vault = await house.vault(token_due=None)
    house.clock.advance(seconds=590)

    report = await vault.token_batch(await _claimed(house))
    after_the_schedule = house.refreshes()
    await vault.access_token(consent_id)

    async with house.store.reading() as unit:
        row = await unit.work.find(WorkKind.TOKEN, consent_id)
    assert row is not None
    assert (report.outcomes, after_the_schedule, house.refreshes(), row.due_at) == (
        {Outcome.FRESH: 1},
        [],
        ["issued"],
        NEVER,
    )


@pytest.mark.parametrize(
    ("sync_in", "refreshed"),
    [
        pytest.param(timedelta(minutes=5), True, id="a sync within the next life"),
        pytest.param(timedelta(hours=6), False, id="nobody needs a token for hours"),
    ],
)
async def test_without_keep_warm_only_what_a_sync_will_use_is_refreshed(
    house: House, sync_in: timedelta, refreshed: bool
) -> None:
    """What is left to cool is due again when a token minted then is good for the sync."""
    completed = await house.consented()
    consent_id = completed.consent_id
    vault = await house.vault(keep_warm=False)
    house.clock.advance(seconds=450)
    sync_at = house.clock.now() + sync_in
    async with house.store.writing() as unit:
        await unit.work.schedule(WorkKind.SYNC, completed.connection_id, lfi=LFI, due_at=sync_at)
        await unit.commit()

    await vault.token_batch(await _claimed(house))

    token = await house.token(consent_id)
    async with house.store.reading() as unit:
        row = await unit.work.find(WorkKind.TOKEN, consent_id)
    assert row is not None
    assert token.issued_at is not None
    assert token.expires_at is not None
    life = token.expires_at - token.issued_at
    warm = token_due(consent_id, token.issued_at, token.expires_at)
    assert (house.refreshes(), row.due_at) == ((["issued"], warm) if refreshed else ([], sync_at - life / 2))


async def test_a_token_refreshed_meanwhile_is_not_refreshed_by_schedule(house: House) -> None:
    """A hint that waited in the queue costs no call when work has already minted a token."""
    consent_id = (await house.consented()).consent_id
    vault = await house.vault()
    house.clock.advance(seconds=450)
    hints = await _claimed(house)
    await vault.refresh(consent_id, reason="needed")

    report = await vault.token_batch(hints)

    assert report == TokenBatchReport(outcomes={Outcome.FRESH: 1}, stale=0)
    assert house.refreshes() == ["issued"]


async def test_an_unavailable_bank_is_tried_again_by_the_ladder(house: House) -> None:
    """The row keeps its attempts and becomes due as the policy says."""
    consent_id = (await house.consented()).consent_id
    vault = await house.vault()
    house.bank.bank.answers(503, operation="token.refresh_token")
    house.clock.advance(seconds=450)

    report = await vault.token_batch(await _claimed(house))

    async with house.store.reading() as unit:
        row = await unit.work.find(WorkKind.TOKEN, consent_id)
    assert row is not None
    assert report == TokenBatchReport(outcomes={Outcome.UNAVAILABLE: 1}, stale=0)
    assert (row.due_at, row.attempts, row.last_error) == (
        house.clock.now() + timedelta(minutes=1),
        1,
        "lfi_unavailable",
    )


async def test_a_consent_past_its_end_is_ended_by_the_clock(house: House, clock: ManualClock) -> None:
    """Though the Hub's status lags, no token is asked for and the tokens are destroyed (trap 16)."""
    completed = await house.consented(expires_at=clock.now() + timedelta(hours=1))
    house.clock.advance(hours=1)

    assert await (await house.vault()).refresh(completed.consent_id, reason="test") is Outcome.STOPPED

    async with house.store.reading() as unit:
        assert await unit.tokens.read(completed.consent_id) is None
    assert (await house.consent(completed.consent_id)).status == "Expired"
    assert house.refreshes() == []


async def test_an_unknown_consent_has_no_token(house: House) -> None:
    """Ids from messages are untrusted input."""
    with pytest.raises(ConsentNotUsableError):
        await (await house.vault()).access_token(ConsentId("nobody"))


async def test_no_secret_reaches_an_output(house: House, capfd: pytest.CaptureFixture[str]) -> None:
    """Through consent, refresh, a lost answer and the loss: no token and no state in any line (rule 37)."""
    authorizer = await house.authorizer()
    started = await authorizer.begin(LFI, request(house.clock))
    consent_id = started.consent_id
    async with house.store.reading() as unit:
        row = await unit.authorizations.of(consent_id)  # its secrets are destroyed with the first use
    assert row is not None
    await authorizer.complete(await house.bank.approve(started.url, user=house.bank.users[0]))
    vault = await house.vault()
    first = await house.token(consent_id)
    await vault.refresh(consent_id, reason="test")
    second = await house.token(consent_id)
    house.bank.bank.drop_response("token.refresh_token")
    await vault.refresh(consent_id, reason="test")

    said = "".join(capfd.readouterr())

    secrets = [first.access_token, first.refresh_token, second.access_token, second.refresh_token]
    assert "token refresh ended" in said
    assert [secret for secret in secrets if secret is None or secret.get_secret_value() in said] == []
    assert row.state not in said
    assert row.nonce not in said


def _new(held: StoredToken, *, certificate: str | None = None) -> NewToken:
    assert held.access_token is not None
    assert held.issued_at is not None
    assert held.expires_at is not None
    assert held.certificate is not None
    return NewToken(
        access_token=held.access_token,
        refresh_token=held.refresh_token,
        issued_at=held.issued_at,
        expires_at=held.expires_at,
        certificate=certificate or held.certificate,
    )


async def _claimed(house: House) -> list[tuple[int, int]]:
    """The dispatcher's hints for every token that is due."""
    async with house.store.writing() as unit:
        claims = await unit.work.claim(WorkKind.TOKEN, slots={LFI: 10})
        await unit.commit()
    return [(claim.id, claim.gen) for claim in claims]
