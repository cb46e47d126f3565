"""Every token call the bank served has its row in `call`; a refresh cut short is taken up after one lease."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from syncworker.clock import SystemClock
from syncworker.consents.tokens import LEASE_DEADLINES_MIN, Outcome
from syncworker.errors import SetupError
from syncworker.lfi.api import CONSENT_SCOPE, LFIClient
from syncworker.lfi.observing import Observing
from syncworker.lfi.transport import Call
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.failures import StoreUnavailableError
from syncworker.store.tables import call
from syncworker.store.tokens import IN_DOUBT, TOKEN_CALL
from syncworker.store.unit_of_work import Store
from syncworker.store.work import LEASE, WorkKind
from syncworker.wiring import Journal
from tests.consents.conftest import Starter
from tests.consents.house import LEASE_S, LFI, TOKEN_TIMEOUT_S, Gate, House, config_of, request
from tests.consents.test_processes import killed, real_house, said, surviving

__all__ = ["real_house"]
pytestmark = pytest.mark.flow


async def filed(house: House) -> list[tuple[str, int | None, str | None]]:
    """The rows of token calls but for code exchanges: interaction id, status, error."""
    served = house.bank.bank.log.served()
    exchanges = {one.interaction_id for one in served if one.operation == "token.authorization_code"}
    return [row for row in await all_filed(house) if row[0] not in exchanges]


async def all_filed(house: House) -> list[tuple[str, int | None, str | None]]:
    """The rows of all token calls."""
    query = sa.select(call.c.interaction_id, call.c.status, call.c.error).where(call.c.operation == TOKEN_CALL)
    async with house.store.reading() as unit:
        return [tuple(row) for row in await unit.connection.execute(query.order_by(call.c.id))]


def refreshed(house: House) -> list[str | None]:
    """The interaction ids of the refreshes the bank was sent, oldest first; the first token call was the exchange."""
    served = [one for one in house.bank.bank.log.served() if one.operation.startswith("token.refresh")]
    return [one.interaction_id for one in served]


async def test_a_call_is_filed_in_the_transaction_that_stores_its_token(house: House) -> None:
    """Nothing is left to a later flush: the process may end right after the commit."""
    consent_id = (await house.consented()).consent_id

    assert await (await house.vault()).refresh(consent_id, reason="test") is Outcome.ROTATED

    (interaction_id,) = refreshed(house)
    assert await filed(house) == [(interaction_id, 200, None)]
    assert (await house.token(consent_id)).intent_call is None


async def test_each_call_of_a_refresh_is_filed_once(house: House) -> None:
    """Two without an answer and one that brings the token."""
    consent_id = (await house.consented()).consent_id
    house.bank.bank.drop_response("token.refresh_token", after_processing=False, times=2)

    assert await (await house.vault()).refresh(consent_id, reason="test") is Outcome.GRACE

    rows = await filed(house)
    assert [row[1:] for row in rows] == [(None, "lost"), (None, "lost"), (200, None)]
    assert len({row[0] for row in rows}) == 3


@pytest.mark.parametrize(
    ("fault", "outcome", "expected"),
    [
        pytest.param(
            lambda bank: bank.answers(503, operation="token.refresh_token"), Outcome.UNAVAILABLE, [503] * 3, id="away"
        ),
        pytest.param(
            lambda bank: bank.answers(429, retry_after=9, operation="token.refresh_token"),
            Outcome.UNAVAILABLE,
            [429],
            id="rate limited",
        ),
        pytest.param(
            lambda bank: bank.answers(400, code="invalid_client", operation="token.refresh_token"),
            Outcome.REFUSED,
            [400],
            id="refused",
        ),
        pytest.param(
            lambda bank: bank.answers(400, code="invalid_grant", operation="token.refresh_token"),
            Outcome.LOST,
            [400],
            id="lost",
        ),
    ],
)
async def test_calls_of_a_refresh_that_ends_badly_are_filed_with_its_end(
    house: House, fault: Callable[[Any], None], outcome: Outcome, expected: list[int]
) -> None:
    """However it ends, its calls have rows, and none is in doubt."""
    consent_id = (await house.consented()).consent_id
    vault = await house.vault()
    fault(house.bank.bank)

    assert await vault.refresh(consent_id, reason="test") is outcome

    assert [row[1] for row in await filed(house)] == expected
    assert (await house.token(consent_id)).intent_call is None


@pytest.mark.live
@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    ("at", "sent", "outcome"),
    [
        pytest.param("intent-committed", 0, Outcome.GRACE, id="before the call"),
        pytest.param("answer-received", 1, Outcome.LOST, id="between answer and commit"),
        pytest.param("answer-stored", 1, Outcome.ROTATED, id="after the commit"),
    ],
)
async def test_a_call_of_a_killed_process_has_its_row(
    real_house: House, vault_process: Starter, at: str, sent: int, outcome: Outcome
) -> None:
    """SIGKILL at each point: the row is there, or the token names the call in doubt until the next refresh files it."""
    consent_id = (await real_house.consented()).consent_id
    await killed(real_house, vault_process, consent_id, at=at)
    token = await real_house.token(consent_id)
    served = refreshed(real_house)
    known = {row[0] for row in await filed(real_house)} | {token.intent_call}
    real_house.clock.set(SystemClock().now() + timedelta(seconds=LEASE_S))

    assert await (await surviving(real_house)).refresh(consent_id, reason="test") is outcome

    rows = await filed(real_house)
    in_doubt = [interaction_id for interaction_id, _, error in rows if error == IN_DOUBT]
    assert (len(served), set(served) <= known) == (sent, True)
    assert set(refreshed(real_house)) <= {row[0] for row in rows}
    assert len({row[0] for row in rows}) == len(rows)
    assert in_doubt == ([] if at == "answer-stored" else [token.intent_call])


async def test_a_holder_that_slept_puts_its_own_row_in_the_place_of_the_one_in_doubt(
    house: House, database_url: str, open_store: Callable[..., Store]
) -> None:
    """The other took over, filed the sleeper's call in doubt, and was refused; the sleeper then stores its answer."""
    consent_id = (await house.consented()).consent_id
    gate = Gate("answer-received")
    in_doubt: list[str | None] = []

    async def sleep(seconds: float) -> None:
        in_doubt.extend(row[2] for row in await filed(house))
        gate.opened.set()
        await asyncio.sleep(0.05)
        await house.sleep(seconds)

    paused = await house.vault(holder="paused", checkpoint=gate)
    other = await house.vault(open_store(database_url), holder="other", sleep=sleep)
    first = asyncio.create_task(paused.refresh(consent_id, reason="test"))
    await gate.reached.wait()
    house.clock.advance(seconds=LEASE_S + 1)
    house.bank.bank.answers(400, code="invalid_grant", operation="token.refresh_token", times=1)

    ended = await other.refresh(consent_id, reason="test"), await first

    rows = await filed(house)
    assert (ended, in_doubt[0]) == ((Outcome.HEALED, Outcome.ROTATED), IN_DOUBT)
    assert sorted(row[1:] for row in rows) == [(200, None), (400, "invalid_grant")]
    assert len({row[0] for row in rows}) == 2


async def test_a_swap_clears_the_lease_of_a_refresh_that_took_over(
    house: House, database_url: str, open_store: Callable[..., Store]
) -> None:
    """The lease spoke of the version that is gone: a refresh of the new one waits for nothing."""
    consent_id = (await house.consented()).consent_id
    gate, second = Gate("answer-received"), Gate("intent-committed")
    paused = await house.vault(holder="paused", checkpoint=gate)
    other = await house.vault(open_store(database_url), holder="other", checkpoint=second)
    first = asyncio.create_task(paused.refresh(consent_id, reason="test"))
    await gate.reached.wait()
    house.clock.advance(seconds=LEASE_S + 1)
    taking_over = asyncio.create_task(other.refresh(consent_id, reason="test"))
    await second.reached.wait()
    gate.opened.set()
    assert await first is Outcome.ROTATED

    token = await house.token(consent_id)
    began = house.clock.now()
    third = await (await house.vault(holder="third")).refresh(consent_id, reason="test")
    waited = house.clock.now() - began
    current = await house.stored_is_current(consent_id)
    house.bank.bank.configure(reuse="grace:600")  # what it sends now is old
    second.opened.set()
    await taking_over

    assert (token.holder, token.lease_until, token.in_doubt, token.intent_call) == (None, None, False, None)
    assert (third, waited, current) == (Outcome.ROTATED, timedelta(0), True)


async def test_the_call_of_a_refresh_whose_version_moved_is_in_doubt_until_it_says_how_it_went(
    house: House, database_url: str, open_store: Callable[..., Store]
) -> None:
    """Were it killed now, its call would still have a row; it lives, and files what it knows."""
    consent_id = (await house.consented()).consent_id
    gate, second = Gate("answer-received"), Gate("answer-received")
    paused = await house.vault(holder="paused", checkpoint=gate)
    other = await house.vault(open_store(database_url), holder="other", checkpoint=second)
    house.bank.bank.configure(reuse="grace:600")
    first = asyncio.create_task(paused.refresh(consent_id, reason="test"))
    await gate.reached.wait()
    house.clock.advance(seconds=LEASE_S + 1)
    taking_over = asyncio.create_task(other.refresh(consent_id, reason="test"))
    await second.reached.wait()
    gate.opened.set()
    await first
    meanwhile = [row[2] for row in await filed(house)]
    second.opened.set()
    await taking_over

    assert sorted(map(str, meanwhile)) == ["None", IN_DOUBT]
    assert [row[1:] for row in await filed(house)] == [(200, None)] * 2
    assert {row[0] for row in await filed(house)} == set(refreshed(house))


async def test_a_call_that_cannot_be_filed_takes_no_token_away(house: House) -> None:
    """The table `call` is gone: the tokens are stored without the row."""
    consent_id = (await house.consented()).consent_id
    async with house.store.writing() as unit:
        await unit.connection.execute(sa.text("ALTER TABLE call RENAME TO call_away"))
        await unit.commit()
    vault = await house.vault()

    assert await vault.refresh(consent_id, reason="test") is Outcome.ROTATED

    assert (await house.token(consent_id)).version == 2
    assert await house.stored_is_current(consent_id)


async def test_a_token_destroyed_while_it_was_refreshed_leaves_the_calls_row(house: House) -> None:
    """The consent ends in between; in doubt first, then as it was."""
    consent_id = (await house.consented()).consent_id
    gate = Gate("answer-received")
    vault = await house.vault(checkpoint=gate)
    running = asyncio.create_task(vault.refresh(consent_id, reason="test"))
    await gate.reached.wait()
    async with house.store.writing() as unit:
        assert await unit.tokens.destroy(consent_id)
        await unit.commit()
    meanwhile = [row[1:] for row in await filed(house)]
    gate.opened.set()
    await running

    assert (meanwhile, [row[1:] for row in await filed(house)]) == ([(None, IN_DOUBT)], [(200, None)])


# -- token calls that are no refreshes --------------------------------------------------------------------------------


def served_tokens(house: House) -> list[str | None]:
    """The interaction ids of all token calls the bank served, oldest first."""
    return [one.interaction_id for one in house.bank.bank.log.served() if one.operation.startswith("token.")]


@pytest.mark.live
@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    ("do", "at", "served", "expected"),
    [
        pytest.param("own token", "announced", 0, [(None, IN_DOUBT)], id="client credentials, before the call"),
        pytest.param("own token", "answer-received", 1, [(None, IN_DOUBT)], id="client credentials, with the answer"),
        pytest.param("own token", "filed", 1, [(200, None)], id="client credentials, filed"),
        pytest.param("exchange", "code-used", 0, [(None, IN_DOUBT)], id="code exchange, before the call"),
        pytest.param("exchange", "answer-received", 1, [(None, IN_DOUBT)], id="code exchange, with the answer"),
        pytest.param("exchange", "answer-stored", 1, [(None, IN_DOUBT)], id="code exchange, tokens stored"),
        pytest.param("exchange", "filed", 1, [(200, None)], id="code exchange, filed"),
    ],
)
async def test_every_token_call_of_a_killed_process_has_its_row(
    real_house: House,
    vault_process: Starter,
    do: str,
    at: str,
    served: int,
    expected: list[tuple[int | None, str | None]],
) -> None:
    """SIGKILL at each point: what the bank served has its row, exactly one."""
    authorizer = await real_house.authorizer()
    started = await authorizer.begin(LFI, request(real_house.clock), user_ref="customer-0")
    redirect = await real_house.bank.approve(started.url, user=real_house.bank.users[0])
    child = await vault_process(
        real_house.bank, started.consent_id, module="calls_process", do=do, redirect=redirect, stop_at=at
    )
    assert await said(child) == {"reached": at}
    child.kill()
    await child.wait()

    rows, ids = await all_filed(real_house), served_tokens(real_house)
    assert ([row[1:] for row in rows], len(ids)) == (expected, served)
    assert set(ids) <= {row[0] for row in rows}


async def test_a_token_call_that_cannot_be_announced_is_not_sent(house: House) -> None:
    """As a refresh whose intent cannot be written: the error goes up, and the bank hears nothing."""

    async def announce(_operation: str, _interaction_id: str, _at: object) -> None:
        raise StoreUnavailableError("database unavailable")

    client = LFIClient(config_of(house.bank.facts()), clock=house.clock, announce=announce)
    house.stack.push_async_callback(client.close)

    with pytest.raises(StoreUnavailableError):
        await client.own_token(CONSENT_SCOPE)

    assert served_tokens(house) == []


async def test_token_calls_of_several_banks_are_settled_by_one_flush(house: House) -> None:
    """Beside a document; the row in doubt of a call that is still under way stays."""
    journal, now = Journal(house.store, Observing()), house.clock.now()
    calls = [
        Call(
            operation=TOKEN_CALL, method="POST", status=200, interaction_id=f"id-{slug}", started_at=now,
            duration_ms=1, bytes_in=2, attended=False, error_code="", price_class="free",
        )
        for slug in ("one", "two")
    ]  # fmt: skip
    for slug in ("one", "two", "three"):
        await journal.announce(Slug(slug), TOKEN_CALL, f"id-{slug}", now)
    for slug, one in zip(("one", "two"), calls, strict=True):
        journal.note(Slug(slug), ConsentId(""), one)
    journal.note(Slug("one"), ConsentId(""), msgspec.structs.replace(calls[0], operation="GetJwks"))
    await journal.flush()
    await journal.flush()

    assert sorted(await all_filed(house), key=str) == sorted(
        [("id-one", 200, None), ("id-two", 200, None), ("id-three", None, IN_DOUBT)], key=str
    )


async def test_the_row_of_an_exchange_that_was_not_sent_is_taken_back(house: House) -> None:
    """What failed, failed before: nothing is in doubt."""
    authorizer = await house.authorizer()
    started = await authorizer.begin(LFI, request(house.clock), user_ref="customer-0")
    redirect = await house.bank.approve(started.url, user=house.bank.users[0])
    client = await authorizer._clients(LFI)

    async def unsigned(*_: object, **__: object) -> None:
        house_rows.extend(await all_filed(house))
        raise SetupError("client.signing_keys: cannot sign")

    house_rows: list[tuple[str, int | None, str | None]] = []
    client._token_call = unsigned  # type: ignore[method-assign, assignment]  # the step before the call fails
    with pytest.raises(SetupError):
        await authorizer.complete(redirect)

    assert ([row[1:] for row in house_rows], await all_filed(house)) == ([(None, IN_DOUBT)], [])
    assert served_tokens(house) == []


# -- one lease, not two -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waited_s", "left_s"),
    [
        pytest.param(0.0, LEASE_S, id="at once: as long as a refresh needs"),
        pytest.param(LEASE.total_seconds() - 20, 20.0, id="late: until the claim's end"),
        pytest.param(
            LEASE.total_seconds() - 1, LEASE_DEADLINES_MIN * TOKEN_TIMEOUT_S, id="at the very end: what a call needs"
        ),
    ],
)
async def test_the_lease_of_a_scheduled_refresh_ends_with_that_of_its_claim(
    house: House, waited_s: float, left_s: float
) -> None:
    """A worker that is killed then leaves claim and token free at the same time."""
    consent_id = (await house.consented()).consent_id
    seen: list[timedelta] = []

    async def look(name: str) -> None:
        if name == "intent-committed":
            token = await house.token(consent_id)
            assert token.lease_until is not None
            seen.append(token.lease_until - house.clock.now())

    vault = await house.vault(checkpoint=look)
    client = await vault._clients(LFI)

    async def admitted(_: object) -> None:
        house.clock.advance(seconds=waited_s)

    client.admit = admitted  # type: ignore[method-assign, assignment]  # a place among the LFI's calls came free after so long
    house.clock.advance(seconds=450)

    await vault.token_batch(await claimed(house))

    assert [one.total_seconds() for one in seen] == [pytest.approx(left_s)]


@pytest.mark.live
@pytest.mark.timeout(90)
async def test_a_killed_scheduled_refresh_is_decided_within_one_lease(
    real_house: House, vault_process: Starter
) -> None:
    """Killed with the answer in hand, at a bank that gives no second one: the loss is named with the next claim."""
    consent_id = (await real_house.consented()).consent_id
    await killed(real_house, vault_process, consent_id, at="answer-received")
    died_at = SystemClock().now()
    real_house.clock.set(died_at)
    lease_until = (await real_house.token(consent_id)).lease_until
    assert lease_until is not None
    real_house.clock.set(lease_until)
    async with real_house.store.writing() as unit:
        await unit.work.schedule(WorkKind.TOKEN, consent_id, lfi=LFI, due_at=lease_until)
        assert await unit.work.ask_now(WorkKind.TOKEN, consent_id)
        await unit.commit()
    vault = await surviving(real_house)

    report = await vault.token_batch(await claimed(real_house))

    assert report.outcomes == {Outcome.LOST: 1}
    assert real_house.clock.now() - died_at < timedelta(seconds=LEASE_S + 2 * TOKEN_TIMEOUT_S + 2)


async def test_claims_of_a_batch_do_not_run_out_while_it_waits(house: House) -> None:
    """Renewed a third of the lease before: a batch in a long queue is not claimed a second time."""
    consent_id = (await house.consented()).consent_id
    gate = Gate("intent-committed")
    vault = await house.vault(checkpoint=gate, lease=timedelta(seconds=0.6))
    house.clock.advance(seconds=450)
    hints = await claimed(house)
    running = asyncio.create_task(vault.token_batch(hints))
    await gate.reached.wait()
    async with house.store.reading() as unit:
        before = await unit.work.find(WorkKind.TOKEN, consent_id)
    house.clock.advance(seconds=0.5)
    renewed = before
    async with asyncio.timeout(20):
        while renewed == before:
            await asyncio.sleep(0.05)
            async with house.store.reading() as unit:
                renewed = await unit.work.find(WorkKind.TOKEN, consent_id)
    gate.opened.set()
    report = await running

    assert before is not None
    assert before.lease_until is not None
    assert renewed is not None
    assert renewed.lease_until == before.lease_until + timedelta(seconds=0.5)
    assert report.outcomes == {Outcome.ROTATED: 1}


async def claimed(house: House) -> list[tuple[int, int]]:
    """The dispatcher's hints for every token that is due."""
    async with house.store.writing() as unit:
        claims = await unit.work.claim(WorkKind.TOKEN, slots={LFI: 10})
        await unit.commit()
    return [(claim.id, claim.gen) for claim in claims]
