"""What keeping tokens costs: token calls and CPU, by schedule, by schedule for consents in use, and on demand.

A sandbox bank in a process of its own, our whole application in this one: claims, batches, vault, engine, SQLite; no
Celery.  Lives and cadences are shortened by the same factor, so that their ratio is the one that decides.  All consents
begin due at a random point of their cadence, as they are after some days.  Measured is what stands under "measured";
the lines under "extrapolated" are arithmetic on it, for the lives and cadences of production.

    python bench/refresh.py [--consents 24] [--life 12] [--cadence 90] [--seconds 90]
"""

import argparse
import asyncio
import logging
import os
import random
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import sqlalchemy as sa
import structlog

from syncworker import settings as settings_module
from syncworker import wiring
from syncworker.cli import bank_settings
from syncworker.simulator.browser import Browser
from syncworker.simulator.process import SandboxProcess
from syncworker.standard.consents import ConsentRequest, Purpose
from syncworker.standard.permissions import Permission
from syncworker.standard.values import ConsentId, Slug
from syncworker.store import migrate
from syncworker.store.tables import call
from syncworker.store.work import WorkKind

SANDBOX: Final = Slug("sandbox")
TICK_S: Final = 0.5
TOKEN_CALL: Final = "CreateAccessTokenRequest"
MODES: Final = {
    "scheduled, keep_warm (the default)": {"refresh": "scheduled", "keep_warm": "true"},
    "scheduled, keep_warm = false": {"refresh": "scheduled", "keep_warm": "false"},
    "on_demand": {"refresh": "on_demand", "keep_warm": "true"},
}
PRODUCTION_LIFE: Final = timedelta(minutes=10)
PRODUCTION_CADENCES: Final = (timedelta(hours=4), timedelta(hours=6), timedelta(hours=24))


@dataclass(frozen=True, slots=True)
class Measured:
    """What one mode did in its time.

    Attributes:
        cpu_s: of our process alone, everything it did.
    """

    token_calls: int
    data_calls: int
    syncs: int
    cpu_s: float


async def measure(folder: Path, bank: SandboxProcess, mode: dict[str, str], options: argparse.Namespace) -> Measured:
    """Run one mode on a fresh database.

    Args:
        folder: an empty one.
    """
    cadence = "\n".join(f"{name} = {options.cadence}" for name in ("accounts", "balances"))
    own = f"tick_seconds = {TICK_S}\n\n[cadence]\n{cadence}\n\n[tokens]\n"
    own += f'refresh = "{mode["refresh"]}"\nkeep_warm = {mode["keep_warm"]}\n'
    file = bank_settings.write(folder, bank.facts, own=own)
    os.environ[settings_module.CONFIG_VARIABLE] = str(file)
    settings = settings_module.load()
    migrate.upgrade(settings.database_url)
    application = await wiring.build_application(settings)
    try:
        connections = await _consents(application, bank, options.consents)
        await _run(application, seconds=2 * TICK_S + options.life / 2)  # the first syncs
        async with application.store.writing() as unit:
            now = await unit.now()
            for connection in connections:
                due_at = now + timedelta(seconds=random.uniform(0, options.cadence))
                await unit.work.schedule(WorkKind.SYNC, connection, lfi=SANDBOX, due_at=due_at)
            await unit.commit()
        before, cpu = await _calls(application), time.process_time()
        syncs = await _run(application, seconds=options.seconds)
        cpu = time.process_time() - cpu
        after = await _calls(application)
    finally:
        await application.close()
    tokens = after.get(TOKEN_CALL, 0) - before.get(TOKEN_CALL, 0)
    data = sum(after.values()) - sum(before.values()) - tokens
    return Measured(tokens, data, syncs, cpu)


async def _consents(application: wiring.Application, bank: SandboxProcess, count: int) -> list[ConsentId]:
    connections: list[ConsentId] = []
    for number in range(count):
        request = ConsentRequest(  # each carries an id of its own
            permissions=(Permission.ReadAccountsBasic, Permission.ReadBalances),
            expires_at=datetime.now(UTC) + timedelta(days=180),
            purpose=Purpose.AccountAggregation,
        )
        async with Browser(Path(bank.facts["ca_bundle"])) as browser:
            user = bank.facts["users"][number % len(bank.facts["users"])]
            started = await application.authorize.begin(SANDBOX, request, user_ref=f"customer-{number}")
            completed = await application.authorize.complete(await browser.decide(started.url, user=user))
            connections.append(completed.connection_id)
    return connections


async def _run(application: wiring.Application, *, seconds: float) -> int:
    """Tick and work for so long; how many syncs ended."""
    until = time.monotonic() + seconds
    running: set[asyncio.Task[object]] = set()
    syncs = 0
    while time.monotonic() < until:
        for batch in await application.tick():
            syncs += len(batch.claims) if batch.kind is WorkKind.SYNC else 0
            work = application.sync_batch if batch.kind is WorkKind.SYNC else application.token_batch
            running.add(asyncio.ensure_future(work(batch.claims)))
        await asyncio.sleep(TICK_S)
    await asyncio.gather(*running)
    return syncs


async def _calls(application: wiring.Application) -> dict[str, int]:
    """Calls of no run by operation, and those of runs as one."""
    query = sa.select(call.c.operation, sa.func.count()).where(call.c.run_id.is_(None)).group_by(call.c.operation)
    async with application.store.reading() as unit:
        rows = await unit.connection.execute(query)
        alone = {operation: count for operation, count in rows}  # noqa: C416  rows are no pairs to mypy
        return alone | {"of runs": await unit.runs.calls_of_runs()}


def _print(found: dict[str, Measured], options: argparse.Namespace) -> None:
    hours = options.seconds / 3600
    scale = options.consents * hours
    print(f"\nmeasured: {options.consents} consents, tokens of {options.life:g} s, a sync every {options.cadence:g} s,")
    print(f"{options.seconds:g} s a mode, {os.cpu_count()} cores\n")
    print("| mode | token calls | syncs | token calls per consent and hour | CPU per consent and hour |")
    print("|---|---|---|---|---|")
    for name, one in found.items():
        rate, cpu = one.token_calls / scale, one.cpu_s / scale
        print(f"| {name} | {one.token_calls} | {one.syncs} | {rate:.0f} | {cpu:.2f} s |")
    warm, demand = found["scheduled, keep_warm (the default)"], found["on_demand"]
    more = warm.token_calls - demand.token_calls
    each = (warm.cpu_s - demand.cpu_s) / more if more > 0 else float("nan")
    print(f"\nCPU of one more scheduled refresh, claim and storing included: {each * 1000:.1f} ms")
    life = PRODUCTION_LIFE.total_seconds()
    print(
        f"\nextrapolated to tokens of {life / 60:g} min: calls per consent and hour; a million consents', per second\n"
    )
    print("| sync every | keep_warm | keep_warm = false | on_demand |")
    print("|---|---|---|---|")
    per_warm_life = warm.token_calls * options.life / (options.consents * options.seconds)
    for cadence in PRODUCTION_CADENCES:
        per_sync = 3600 / cadence.total_seconds()
        rates = (per_warm_life * 3600 / life, per_sync, per_sync)
        print(f"| {cadence.total_seconds() / 3600:g} h | " + " | ".join(_rate(rate) for rate in rates) + " |")


def _rate(per_hour: float) -> str:
    return f"{per_hour:.2f}; {per_hour * 1e6 / 3600:,.0f}"


async def main() -> None:
    logging.getLogger("syncworker").setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--consents", type=int, default=24)
    parser.add_argument("--life", type=float, default=12, help="seconds an access token lives")
    parser.add_argument("--cadence", type=float, default=90, help="seconds between two syncs of a consent")
    parser.add_argument("--seconds", type=float, default=90, help="of each mode")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (mode, settings) in enumerate(MODES.items()):
            arguments = ("--customers", "8", "--access-token-seconds", str(options.life))
            async with SandboxProcess(folder / f"bank-{number}", *arguments) as bank:
                print(f"{mode} …", flush=True)
                own = Path(tempfile.mkdtemp(dir=folder))
                found[mode] = await measure(own, bank, settings, options)
    _print(found, options)


if __name__ == "__main__":
    asyncio.run(main())
