"""A refresh stands in the LFI's row before it takes its lease, and not behind it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from syncworker.consents.tokens import Outcome, Vault
from syncworker.errors import GateClosedError, LFIBreakerOpenError, SyncWorkerError
from syncworker.lfi.api import LFIClient
from syncworker.lfi.traffic import FreeTraffic
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.work import WorkKind
from tests.consents.house import LFI, House, config_of, retry_after, token_due

pytestmark = pytest.mark.flow


class Door(FreeTraffic):
    """Does what a test says to each call that wants in, and remembers which did."""

    def __init__(self, act: Callable[[OperationClass], Awaitable[None]]) -> None:
        self._act = act
        self.asked: list[OperationClass] = []

    async def admit(self, operations: OperationClass) -> None:
        self.asked.append(operations)
        await self._act(operations)


async def behind(house: House, door: Door) -> Vault:
    """A vault whose calls pass that door."""
    client = LFIClient(config_of(house.bank.facts()), clock=house.clock, traffic=door)
    house.stack.push_async_callback(client.close)

    async def clients(_: Slug) -> LFIClient:
        return client

    vault = Vault(
        house.store,
        clients,
        house.clock,
        holder="worker",
        token_due=token_due,
        retry_after=retry_after,
        sleep=house.sleep,
        elapsed=house.elapsed,
    )
    house.stack.push_async_callback(vault.drain)
    return vault


def only_tokens(act: Callable[[], Awaitable[None]]) -> Callable[[OperationClass], Awaitable[None]]:
    """Discovery, which comes first and is of the same class, passes."""
    seen: list[OperationClass] = []

    async def admitted(operations: OperationClass) -> None:
        seen.append(operations)
        if len(seen) > 1:
            await act()

    return admitted


async def test_the_place_in_the_row_comes_before_intent_and_lease(house: House) -> None:
    """While a refresh waits for its place nobody's lease runs, and nothing is in doubt."""
    consent_id = (await house.consented()).consent_id
    held: list[tuple[str | None, bool]] = []

    async def look() -> None:
        token = await house.token(consent_id)
        held.append((token.holder, token.in_doubt))

    door = Door(only_tokens(look))
    outcome = await (await behind(house, door)).refresh(consent_id, reason="test")

    assert (outcome, held, set(door.asked)) == (Outcome.ROTATED, [(None, False)], {OperationClass.TOKEN})


async def claimed(house: House, consent_id: ConsentId, *, bad_ends: int = 0) -> list[tuple[int, int]]:
    """A claim on the consent's token after so many bad ends."""
    for last in [False] * bad_ends + [True]:
        async with house.store.writing() as unit:
            await unit.work.schedule(WorkKind.TOKEN, consent_id, lfi=LFI, due_at=await unit.now())
            (claim,) = await unit.work.claim(WorkKind.TOKEN, slots={LFI: 1})
            if not last:
                taken = await unit.work.take(claim.id, claim.gen)
                assert taken is not None
                await unit.work.finish(taken, due_at=await unit.now(), outcome="unavailable", error="x", good=False)
            await unit.commit()
    return [(claim.id, claim.gen)]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(GateClosedError("gate", retry_after=40), id="gate"),
        pytest.param(LFIBreakerOpenError("breaker", retry_after=40), id="breaker"),
    ],
)
async def test_a_token_kept_back_is_due_when_the_lfi_is_let_in_again(house: House, error: SyncWorkerError) -> None:
    """Nothing is sent, and however many bad ends there were before, the ladder has no say: the LFI waits, not it."""
    consent_id = (await house.consented()).consent_id

    async def refuse() -> None:
        raise error

    vault = await behind(house, Door(only_tokens(refuse)))
    house.clock.advance(seconds=500)  # past three quarters of the token's life
    report = await vault.token_batch(await claimed(house, consent_id, bad_ends=4))
    async with house.store.reading() as unit:
        row = await unit.work.find(WorkKind.TOKEN, consent_id)

    assert row is not None
    assert (report.outcomes, row.due_at, house.refreshes()) == (
        {Outcome.UNAVAILABLE: 1},
        house.clock.now() + timedelta(seconds=40),
        [],
    )


async def test_a_process_that_stops_does_not_wait_for_its_place(house: House) -> None:
    """The row before the bucket is left at once; nothing was begun, and nothing is in doubt."""
    consent_id = (await house.consented()).consent_id
    stands = asyncio.Event()

    async def wait() -> None:
        stands.set()
        await asyncio.Event().wait()

    vault = await behind(house, Door(only_tokens(wait)))
    running = asyncio.create_task(vault.refresh(consent_id, reason="test"))
    await stands.wait()
    async with asyncio.timeout(30):
        await vault.drain()

    assert (await running, (await house.token(consent_id)).in_doubt, house.refreshes()) == (Outcome.BUSY, False, [])
