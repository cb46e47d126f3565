"""How concurrent a sync is: a bank in its own process answers 100 ms late, and 50 consents are synced by one process.

    python bench/concurrency.py [--consents 50] [--latency 0.1]

Prints, for a first and an unchanged sync: GETs served, seconds, the serial time (GETs × latency), their ratio, and the
most requests that were in flight at the bank at once.
"""

import argparse
import asyncio
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from syncworker import settings, wiring
from syncworker.cli import bank_settings, logs
from syncworker.clock import monotonic
from syncworker.settings import CONFIG_VARIABLE
from syncworker.simulator.books import Books
from syncworker.simulator.browser import Browser
from syncworker.simulator.process import SandboxProcess
from syncworker.standard.consents import ConsentRequest
from syncworker.standard.permissions import Permission
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import Slug
from syncworker.store import migrate
from syncworker.store.work import WorkKind

PERMISSIONS = (Permission.ReadAccountsDetail, Permission.ReadBalances, Permission.ReadTransactionsDetail)
DATA = frozenset(ResourceName)


async def main(consents: int, latency: float, folder: Path) -> None:
    """Measure, and print the table."""
    async with SandboxProcess(folder / "bank", "--customers", str(consents)) as bank:
        file = bank_settings.write(folder, bank.facts, database_url=f"sqlite:///{folder / 'bench.db'}")
        os.environ[CONFIG_VARIABLE] = str(file)
        chosen = settings.load()
        migrate.upgrade(chosen.database_url)
        application = await wiring.build_application(chosen.with_values(broker_url="amqp://unused"))
        async with Books.of(bank.facts) as books, Browser(Path(bank.facts["ca_bundle"])) as browser:
            for user in bank.facts["users"]:
                request = ConsentRequest(permissions=PERMISSIONS, expires_at=datetime.now(UTC) + timedelta(days=90))
                started = await application.authorize.begin(Slug("sandbox"), request, user_ref=user)
                await application.authorize.complete(await browser.decide(started.url, user=user))
            await books.do("latency", seconds=latency)
            table = Table("sync", "GETs", "seconds", "serial", "ratio", "most in flight", box=None)
            for name in ("first", "unchanged"):
                table.add_row(name, *await _measured(application, books, latency))
        await application.close()
    Console().print(table)


async def _measured(application: wiring.Application, books: Books, latency: float) -> tuple[str, ...]:
    async with application.store.writing() as unit:
        for connection in await unit.consents.connections():
            await unit.work.ask_now(WorkKind.SYNC, connection.connection_id)
        await unit.commit()
    since = (await books.log())["next"]
    await books.do("forget_peaks")
    batches = [batch for batch in await application.tick() if batch.kind is WorkKind.SYNC]
    began = monotonic()
    reports = await asyncio.gather(*(application.sync_batch(batch.claims) for batch in batches))
    took = monotonic() - began
    failed = [run for report in reports for run in report.runs if run.outcome not in ("ok", "unchanged")]
    assert not failed, f"{len(failed)} runs did not end well"
    log = await books.log(since)
    served = sum(1 for entry in log["entries"] if entry["operation"] in DATA)
    serial = served * latency
    return str(served), f"{took:.1f}", f"{serial:.1f}", f"1/{serial / took:.0f}", str(log["max_data_in_flight"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--consents", type=int, default=50)
    parser.add_argument("--latency", type=float, default=0.1)
    options = parser.parse_args()
    logs.configure("ERROR")
    with tempfile.TemporaryDirectory(prefix="syncworker-bench-") as made:
        asyncio.run(main(options.consents, options.latency, Path(made)))
