"""A process with a vault of its own, for tests that kill it.

Reads one line of orders from stdin, says `ready`, waits for a second line, does what it was told, and prints one line
of JSON: hashes of tokens and outcomes, never a token.  With `stop_at` it says `reached` at that checkpoint and sleeps
for ever; with `beside` it refreshes those consents at the same time.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import structlog

from syncworker.clock import SystemClock
from syncworker.consents.tokens import Vault
from syncworker.lfi.api import LFIClient
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store
from tests.consents.house import config_of, retry_after, sha256, token_due


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)  # noqa: T201  the parent reads it


async def main() -> None:
    orders = json.loads(await asyncio.to_thread(sys.stdin.readline))
    consent_id = ConsentId(orders["consent_id"])
    clock = SystemClock()
    store = Store(orders["database_url"], keyring=KeyRing.load(Path(orders["keyring"])))
    client = LFIClient(config_of(orders["bank"], token_timeout=orders.get("token_timeout", 3.0)), clock=clock)

    async def clients(_: Slug) -> LFIClient:
        return client

    async def stop(name: str) -> None:
        if name == orders.get("stop_at"):
            say(reached=name)
            await asyncio.Event().wait()

    vault = Vault(store, clients, clock, holder="child", token_due=token_due, retry_after=retry_after, checkpoint=stop)
    async with store.reading() as unit:
        held = await unit.tokens.read(consent_id)
    assert held is not None
    say(ready=True)
    await asyncio.to_thread(sys.stdin.readline)
    wants: list[Awaitable[Any]] = [
        vault.access_token(consent_id, rejected=held.access_token) for _ in range(orders.get("wants", 1))
    ]
    beside = [vault.refresh(ConsentId(other), reason="test") for other in orders.get("beside", ())]
    tokens, _ = await asyncio.gather(asyncio.gather(*wants), asyncio.gather(*beside))
    say(tokens=[sha256(token) for token in tokens], outcomes={str(key): n for key, n in vault.outcomes.items()})
    await vault.drain()
    await client.close()
    await store.close()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for answers
    asyncio.run(main())
