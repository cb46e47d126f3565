"""A process with a client, an authorizer and a journal as an application has them, for tests that kill it.

Reads one line of orders from stdin, does what `do` says, and says `reached` at the point `stop_at`; there it sleeps for
ever, and nothing is filed any more.
"""

import asyncio
import json
import sys
from functools import partial
from pathlib import Path

import structlog

from syncworker.clock import SystemClock
from syncworker.consents.authorize import Authorizer
from syncworker.lfi.api import CONSENT_SCOPE, LFIClient
from syncworker.lfi.observing import Observing
from syncworker.standard.values import Slug
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store
from syncworker.wiring import NO_CONSENT, Journal
from tests.consents.house import LFI, config_of, token_due


async def main() -> None:
    orders = json.loads(await asyncio.to_thread(sys.stdin.readline))
    clock = SystemClock()
    store = Store(orders["database_url"], keyring=KeyRing.load(Path(orders["keyring"])))
    journal = Journal(store, Observing())

    async def stop(name: str) -> None:
        if name == orders["stop_at"]:
            print(json.dumps({"reached": name}), flush=True)  # noqa: T201  the parent reads it
            await asyncio.Event().wait()

    async def announce(operation: str, interaction_id: str, at: object) -> None:
        await journal.announce(LFI, operation, interaction_id, at)  # type: ignore[arg-type]
        await stop("announced")

    client = LFIClient(
        config_of(orders["bank"]), clock=clock, log=partial(journal.note, LFI, NO_CONSENT), announce=announce
    )

    async def clients(_: Slug) -> LFIClient:
        return client

    if orders["do"] == "own token":
        await client.own_token(CONSENT_SCOPE)
        await stop("answer-received")
    else:
        authorizer = Authorizer(store, clients, clock, token_due=token_due, on_call=journal.note, checkpoint=stop)
        await authorizer.complete(orders["redirect"])
    await journal.flush()
    await stop("filed")


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for answers
    asyncio.run(main())
