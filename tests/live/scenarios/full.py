"""The scenarios as large as the table of the reliability rules has them, by hand.

    python -m tests.live.scenarios.full [NAME …]

Names are those of `PLOTS`; all of them unless given.  Brings its own PostgreSQL, Valkey and banks, takes some ten
minutes, and prints a line for each scenario: how long it took, what it measured, what the audit looked at.  Exit code 1
when one of them fails; the others still run.
"""

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from syncworker.cli import logs
from syncworker.store import migrate
from tests.ground.loopback import forbid_other_networks
from tests.ground.postgres import PostgresServer
from tests.ground.processes import Nursery
from tests.ground.proxy import FaultProxy
from tests.ground.valkey import ValkeyServer
from tests.live.scenarios import plots
from tests.live.scenarios.installation import Installation, Prepared, open_banks, prepare
from tests.live.scenarios.plots import Told

CUSTOMERS: Final = 40
SICK: Final = ("slow", "busy", "dripping")
HEALTHY: Final = ("noor", "waha")


class Ground:
    """What one scenario stands on: servers, banks and processes of its own."""

    def __init__(self, folder: Path, postgres: PostgresServer, valkey: ValkeyServer) -> None:
        self.folder = folder
        self.postgres = postgres
        self.valkey = valkey
        self.nursery = Nursery(folder)
        self._prepared: Prepared | None = None

    def banks(self, *slugs: str, customers: int, long_every: int = 4) -> "Ground":
        """Banks whose customers have consented."""
        options = ("--customers", str(customers), "--access-token-seconds", "7200")
        banks = open_banks(self.nursery, self.folder, *slugs, options=options)
        self._prepared = prepare(self.folder, banks, self.postgres.url(self.postgres.clone()), long_every=long_every)
        return self

    def install(self, **values: Any) -> Installation:
        """An installation on them."""
        assert self._prepared is not None
        self.valkey.flush()
        database = self.postgres.url(self.postgres.clone(self._prepared.database.rpartition("/")[2]))
        folder = self.folder / "site"
        options = {"broker_url": self.valkey.url, **values}
        return Installation(self.nursery, folder, self._prepared, database_url=database, **options)


Plot = Callable[[Ground], Callable[[], Awaitable[Told]]]


def one_bank(run: Callable[[Installation], Awaitable[Told]], **values: Any) -> Plot:
    """A scenario with one bank and no other ground than an installation."""

    def prepared(ground: Ground) -> Callable[[], Awaitable[Told]]:
        ground.banks("sandbox", customers=CUSTOMERS)

        async def told() -> Told:
            async with ground.install(**values) as site:
                return await run(site)

        return told

    return prepared


def emptied(ground: Ground) -> Callable[[], Awaitable[Told]]:
    """3, with the broker in hand."""
    ground.banks("sandbox", customers=CUSTOMERS)

    async def told() -> Told:
        async with ground.install() as site:
            return await plots.emptied_broker(site, ground.valkey)

    return told


def broken(ground: Ground) -> Callable[[], Awaitable[Told]]:
    """4, with a proxy before the broker."""
    ground.banks("sandbox", customers=CUSTOMERS)

    async def told() -> Told:
        async with FaultProxy(ground.valkey.port) as proxy, ground.install() as site:
            site.broker_url = proxy.url(site.broker_url)
            return await plots.broken_lines(site, proxy, cuts=6, cut_over_s=3, refused_s=8, frozen_s=20)

    return told


def neighbours(ground: Ground) -> Callable[[], Awaitable[Told]]:
    """17, with five banks."""
    ground.banks(*SICK, *HEALTHY, customers=16, long_every=0)

    async def told() -> Told:
        async with ground.install(batch_size=2, cadence_s=2) as site:
            return await plots.sick_neighbours(site, window_s=70, retry_after_s=60, deadline_s=30, healthy=HEALTHY)

    return told


PLOTS: Final[dict[str, Plot]] = {
    "1-killed": one_bank(lambda site: plots.killed_again_and_again(site, kills=30, syncs=2000)),
    "2-poisoned": one_bank(plots.poisoned),
    "3-emptied": emptied,
    "4-broken": broken,
    "6-clocks": one_bank(lambda site: plots.two_of_each(site, apart_s=300, rounds=10)),
    "7-paused": one_bank(plots.paused_holder),
    "13-orderly": one_bank(lambda site: plots.orderly_end(site, token_s=8, walk_s=6), lease_seconds=30),
    "17-neighbours": neighbours,
    "rate": one_bank(
        lambda site: plots.shared_rate(site, rate=50, calls=1500), declared={"calls_per_second": 50}, batch_size=4
    ),
    "slots": one_bank(lambda site: plots.shared_slots(site, slots=6, rounds=3), consents_at_once=6, batch_size=2),
    "gate": one_bank(lambda site: plots.shared_gate(site, retry_after_s=20), batch_size=2),
}


def main(names: list[str]) -> int:
    """Run them one after the other; 1 when one failed."""
    forbid_other_networks()
    logs.configure("CRITICAL")
    failed = 0
    for name in names or PLOTS:
        began = time.monotonic()
        try:
            told = _run(PLOTS[name])
        except Exception:  # noqa: BLE001  the others still run
            failed = 1
            say(f"{name}: FAILED after {time.monotonic() - began:.0f} s\n{traceback.format_exc()}")
        else:
            say(f"{name}: {time.monotonic() - began:.0f} s, {told.facts}, audited {asdict(told.audited)}")
    return failed


def _run(plot: Plot) -> Told:
    with tempfile.TemporaryDirectory(prefix="syncworker-scenario-") as folder:
        postgres = PostgresServer()
        valkey = ValkeyServer()
        ground = Ground(Path(folder), postgres, valkey)
        try:
            migrate.upgrade(postgres.make_template())
            told = plot(ground)

            async def awaited() -> Told:
                return await told()

            return asyncio.run(awaited())
        finally:
            ground.nursery.clear()
            valkey.close()
            postgres.close()


def say(line: str) -> None:
    """Print at once: a run takes minutes."""
    print(line, flush=True)  # noqa: T201  a script's output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PLOTS))
    chosen = parser.parse_args().names
    if unknown := [name for name in chosen if name not in PLOTS]:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(PLOTS)}")
    sys.exit(main(chosen))
