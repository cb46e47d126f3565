"""TLS handshakes that stall or are reset harm no other connection: one owner for each socket, on every loop."""

import asyncio
import gc
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from syncworker.lfi.addresses import Addresses
from syncworker.lfi.senders import KeyFetcher
from syncworker.lfi.transport import AiohttpTransport, ControlTransport, NoAnswerError, mtls_context
from tests.ground.handshakes import FailingHandshakes, Fault
from tests.lfi.raw_bank import Identities, RawBank
from tests.lfi.storm import LEFT, LOOPS, Now, Told, config_of, often_closed, storm

pytestmark = pytest.mark.live

ANY = Addresses(allow_private_hosts=True)
ROUNDS, EACH, LEAVING = 2, 200, 20


@pytest.fixture(params=LOOPS)
def runner(request: pytest.FixtureRequest) -> asyncio.Runner:
    return asyncio.Runner(loop_factory=LOOPS[request.param])


def test_a_connection_reset_before_tls_is_closed_once(runner: asyncio.Runner, identities: Identities) -> None:
    """uvloop closes its descriptor, and a Python socket that had kept the number closed it again when it was collected.

    By then the number is another connection's: here each of many opened since, the lowest free numbers first.
    """

    async def told() -> list[bool]:
        config = config_of("https://127.0.0.1:1", "https://127.0.0.1:1/x", identities)
        transport = AiohttpTransport(mtls_context(config), addresses=ANY, connections=1, connect_timeout=20)
        async with FailingHandshakes(Fault.AT_ACCEPT) as bank:
            with pytest.raises(NoAnswerError) as failed:
                await transport.send("GET", f"{bank.origin}/x", {}, 20)
            assert (failed.value.reason, bank.connections) == ("lost", 1)
            others = [end for _ in range(10) for end in socket.socketpair()]
            del failed
            await transport.close()
            gc.collect()
            open_still = [_is_open(other) for other in others]
        for other in others:
            other.close()
        return open_still

    with runner:
        assert runner.run(told()) == [True] * 20


Caller = Callable[[AsyncExitStack, str, Identities], Coroutine[None, None, object]]
"""Calls a bank at an origin; what it opened is closed with the stack."""


async def _through_lane(
    kind: type[AiohttpTransport | ControlTransport], stack: AsyncExitStack, origin: str, identities: Identities
) -> object:
    context = mtls_context(config_of(origin, origin, identities))
    transport = kind(context, addresses=ANY, connections=1, connect_timeout=20)
    stack.push_async_callback(transport.close)
    return await transport.send("GET", f"{origin}/x", {}, 20)


async def _keys(stack: AsyncExitStack, origin: str, _identities: Identities) -> object:
    fetch = await stack.enter_async_context(KeyFetcher(clock=Now(), private={f"{origin}/jwks"}))
    return await fetch(f"{origin}/jwks")


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(partial(_through_lane, AiohttpTransport), id="data and token lanes"),
        pytest.param(partial(_through_lane, ControlTransport), id="control lane"),
        pytest.param(_keys, id="keys of a sender of events"),
    ],
)
def test_a_handshake_that_is_cancelled_closes_its_connection(
    runner: asyncio.Runner, call: Caller, identities: Identities
) -> None:
    """At once, not when the garbage is collected: a deadline around a call is such a cancellation too."""

    async def told() -> None:
        async with FailingHandshakes(Fault.STALL) as bank, AsyncExitStack() as stack, asyncio.timeout(30):
            calling = asyncio.create_task(call(stack, bank.origin, identities))
            while not bank.heard:  # noqa: ASYNC110  the bank gives no signal
                await asyncio.sleep(0.01)
            calling.cancel()
            with pytest.raises(asyncio.CancelledError) as kept:  # the error, and what it refers to, live on
                await calling
            while bank.held:  # noqa: ASYNC110  the same
                await asyncio.sleep(0.01)
            del kept

    gc.disable()
    try:
        with runner:
            runner.run(told())
    finally:
        gc.enable()


def test_failing_handshakes_fail_alone(runner: asyncio.Runner, identities: Identities) -> None:
    """Two hundred stalled and two hundred reset at a time, on all lanes, while a healthy bank is read."""

    async def told() -> Told:
        bank = RawBank(identities)
        bank.replies["/x"] = often_closed()
        await bank.start()
        try:
            async with AsyncExitStack() as stack:
                sick = {fault: (await stack.enter_async_context(FailingHandshakes(fault))).origin for fault in Fault}
                return await storm(
                    config_of(bank.origin, bank.base_url, identities),
                    f"{bank.origin}/x",
                    sick,
                    rounds=ROUNDS,
                    each=EACH,
                    left=LEAVING,
                    connect_timeout=0.3,
                    connections=EACH,
                )
        finally:
            await bank.stop()

    with runner:
        found = runner.run(told())

    assert (found.unexpected, found.strays, found.left_open) == ({}, [], 0)
    assert found.failed == {
        ("stall", "timeout"): ROUNDS * EACH,
        ("at_accept", "lost"): ROUNDS * EACH // 2,
        ("in_handshake", "lost"): ROUNDS * EACH // 2,
        (LEFT, "cancelled"): ROUNDS * LEAVING,
    }
    assert found.healthy > 0


def _is_open(one: socket.socket) -> bool:
    return Path(f"/proc/self/fd/{one.fileno()}").exists() and os.fstat(one.fileno()).st_size == 0
