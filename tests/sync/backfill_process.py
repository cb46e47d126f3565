"""A process that syncs one connection, for tests that kill it in the middle.  Orders: one argument, JSON."""

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from syncworker.clock import SystemClock
from syncworker.consents.lifecycle import Lifecycle
from syncworker.consents.tokens import Vault
from syncworker.lfi.api import LFIClient
from syncworker.standard.values import Slug
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind
from syncworker.sync.engine import Engine, Parts
from syncworker.sync.plan import PlanSettings
from syncworker.sync.run import SyncSettings
from tests.consents.house import config_of
from tests.sync.house import CADENCE, LFI, retry_after


async def main(orders: dict[str, Any]) -> None:
    store = Store(orders["database_url"], keyring=KeyRing.load(Path(orders["keyring"])))
    client = LFIClient(config_of(orders["bank"]), clock=SystemClock())

    async def clients(_: Slug) -> LFIClient:
        return client

    vault = Vault(store, clients, SystemClock(), holder="child", token_due=None, retry_after=retry_after)
    plan = PlanSettings(
        cadence=CADENCE,
        first_sync=timedelta(days=orders["first_sync_days"]),
        backfill_slice=timedelta(days=orders["backfill_slice_days"]),
    )
    engine = Engine(
        Parts(store=store, clients=clients, tokens=vault.source, ask=Lifecycle(store, clients).ask),
        SyncSettings(plan=plan, retry_after=retry_after),
    )
    async with store.writing() as unit:
        await unit.work.ask_now(WorkKind.SYNC, orders["connection_id"])
        claims = await unit.work.claim(WorkKind.SYNC, slots={LFI: 10})
        await unit.commit()
    await engine.sync_batch([(claim.id, claim.gen) for claim in claims])


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
