"""Real processes: sixteen wants, and ends by SIGKILL at named points (`reliability.md` §9, scenarios 8 and 11).

The children live by the real clock, as do bank and client here; only database time is in our hand, so that a lease can
run out without waiting for it.
"""

import asyncio
import contextlib
import json
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from syncworker.clock import SystemClock
from syncworker.consents.tokens import Outcome, Vault
from syncworker.lfi.api import LFIClient
from syncworker.standard.values import Slug
from syncworker.store.unit_of_work import Store
from tests.consents.conftest import SandboxMaker, Starter
from tests.consents.house import LEASE_S, House, config_of, retry_after, sha256, token_due
from tests.ground.clock import ManualClock

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]


@pytest.fixture
async def real_house(sandbox: SandboxMaker, store: Store, clock: ManualClock) -> AsyncIterator[House]:
    """As `house`, the bank on the computer's clock."""
    bank = await sandbox()
    async with contextlib.AsyncExitStack() as stack:
        yield House(bank, store, clock, stack)


async def surviving(house: House) -> Vault:
    """A vault here: client and bank on the computer's clock, lease and patience on the hand-moved one."""
    client = LFIClient(config_of(house.bank.facts()), clock=SystemClock())
    house.stack.push_async_callback(client.close)

    async def clients(_: Slug) -> LFIClient:
        return client

    return Vault(
        house.store,
        clients,
        SystemClock(),
        holder="survivor",
        token_due=token_due,
        retry_after=retry_after,
        sleep=house.sleep,
        elapsed=house.elapsed,
        patience=20,
    )


async def said(process: Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), timeout=30)
    answer = json.loads(line)
    assert isinstance(answer, dict)
    return answer


async def go(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    await process.stdin.drain()


async def test_sixteen_wants_in_four_processes_make_one_call(real_house: House, vault_process: Starter) -> None:
    """Four processes, four callers in each, one rejected token: one token call, sixteen equal answers."""
    consent_id = (await real_house.consented()).consent_id
    children = [await vault_process(real_house.bank, consent_id, wants=4) for _ in range(4)]
    assert [await said(child) for child in children] == [{"ready": True}] * 4
    real_house.bank.bank.latency(0.2, "token")

    await asyncio.gather(*(go(child) for child in children))
    answers = [await said(child) for child in children]

    stored = await real_house.token(consent_id)
    assert real_house.refreshes() == ["issued"]
    assert [answer["tokens"] for answer in answers] == [[sha256(stored.access_token)] * 4] * 4


async def test_a_process_killed_between_intent_and_call_costs_nothing(
    real_house: House, vault_process: Starter
) -> None:
    """Busy while its lease lasts, refreshed afterwards."""
    consent_id = (await real_house.consented()).consent_id
    await killed(real_house, vault_process, consent_id, at="intent-committed")
    real_house.clock.set(SystemClock().now())
    vault = await surviving(real_house)

    assert await vault.refresh(consent_id, reason="test") is Outcome.BUSY
    real_house.clock.advance(seconds=LEASE_S)
    assert await vault.refresh(consent_id, reason="test") is Outcome.GRACE

    assert real_house.refreshes() == ["issued"]
    assert await real_house.stored_is_current(consent_id)


async def test_a_process_killed_between_answer_and_commit_is_one_named_loss(
    real_house: House, vault_process: Starter
) -> None:
    """The answer died with the process and the bank is strict: three calls at most, then a cause; nobody else hurt."""
    consent_id = (await real_house.consented(user=0)).consent_id
    other = (await real_house.consented(user=1)).consent_id
    untouched = await real_house.token(other)
    await killed(real_house, vault_process, consent_id, at="answer-received")
    real_house.clock.set(SystemClock().now() + timedelta(seconds=LEASE_S))

    assert await (await surviving(real_house)).refresh(consent_id, reason="test") is Outcome.LOST

    assert real_house.refreshes() == ["issued", "invalid_grant", "invalid_grant"]
    assert (await real_house.consent(consent_id)).needs_consent == "answer_lost"
    assert await real_house.token(other) == untouched


async def test_a_process_killed_between_answer_and_commit_is_saved_by_a_grace_window(
    real_house: House, vault_process: Starter
) -> None:
    """The bank answers the old token once more: no loss."""
    consent_id = (await real_house.consented()).consent_id
    real_house.bank.bank.configure(reuse="grace:60")
    await killed(real_house, vault_process, consent_id, at="answer-received")
    real_house.clock.set(SystemClock().now() + timedelta(seconds=LEASE_S))

    assert await (await surviving(real_house)).refresh(consent_id, reason="test") is Outcome.GRACE

    assert real_house.refreshes() == ["issued", "repeated"]
    assert await real_house.stored_is_current(consent_id)


async def test_a_process_killed_after_the_commit_leaves_a_living_token(
    real_house: House, vault_process: Starter
) -> None:
    """Once stored, nothing is owed: the next one reads it and calls nobody."""
    consent_id = (await real_house.consented()).consent_id
    await killed(real_house, vault_process, consent_id, at="answer-stored")
    real_house.clock.set(SystemClock().now())
    vault = await surviving(real_house)

    token = await vault.access_token(consent_id)

    assert (await real_house.token(consent_id)).access_token == token
    assert real_house.refreshes() == ["issued"]
    assert await real_house.stored_is_current(consent_id)


async def test_a_process_killed_between_a_groups_intents_and_its_calls_costs_nothing(
    real_house: House, vault_process: Starter
) -> None:
    """Each of those who began together is in doubt by itself, and refreshed once its lease has run out."""
    mine = [(await real_house.consented(user=user)).consent_id for user in range(3)]
    child = await vault_process(real_house.bank, mine[0], beside=mine[1:], stop_at="intent-committed")
    assert await said(child) == {"ready": True}
    await go(child)
    assert [await said(child) for _ in mine] == [{"reached": "intent-committed"}] * 3
    child.kill()
    await child.wait()
    left = [await real_house.token(one) for one in mine]
    real_house.clock.set(SystemClock().now() + timedelta(seconds=LEASE_S))
    vault = await surviving(real_house)

    ended = [await vault.refresh(one, reason="test") for one in mine]

    assert [(one.in_doubt, one.attempts, one.version) for one in left] == [(True, 1, 1)] * 3
    assert (ended, real_house.refreshes()) == ([Outcome.GRACE] * 3, ["issued"] * 3)
    assert [await real_house.stored_is_current(one) for one in mine] == [True] * 3


async def killed(house: House, vault_process: Starter, consent_id: str, *, at: str) -> None:
    """A child that begins a refresh and is killed, by SIGKILL, at a checkpoint."""
    child = await vault_process(house.bank, consent_id, stop_at=at)
    assert await said(child) == {"ready": True}
    await go(child)
    assert await said(child) == {"reached": at}
    child.kill()
    await child.wait()
