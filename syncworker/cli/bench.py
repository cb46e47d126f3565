"""`syncworker bench`: how fast the product syncs on this machine, measured and audited."""

import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from syncworker.bench.audit import Expected, expected
from syncworker.bench.bank import Bank
from syncworker.bench.books import World
from syncworker.bench.databases import Databases
from syncworker.bench.drive import median
from syncworker.bench.ground import Load
from syncworker.bench.phases import Measured, run_phases
from syncworker.bench.product import Product
from syncworker.cli import frame, show
from syncworker.clock import SystemClock
from syncworker.errors import SettingsError
from syncworker.processes import end_with_parent

CONNECTIONS_NEAR = 8
"""Connections of a worker to a bank that answers at once."""

CONNECTIONS_FAR = 192
"""Connections of all workers together to a bank that takes its time."""


def bench(
    consents: Annotated[int, typer.Option(min=1, max=20_000)] = 200,
    accounts: Annotated[int, typer.Option(min=1, max=50, help="Of each consent.")] = 2,
    transactions: Annotated[int, typer.Option(min=0, max=100_000, help="Of each account.")] = 200,
    latency: Annotated[float, typer.Option(min=0, max=10, help="Seconds the bank takes for each answer.")] = 0.0,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="The median counts.")] = 3,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; one a core by default.")] = None,
    database_url: Annotated[
        str | None,
        typer.Option(help="A PostgreSQL whose user may create databases; a SQLite file of its own by default."),
    ] = None,
    as_json: frame.AsJson = False,
) -> None:
    """Measure first, unchanged and 5 %-changed syncs through broker, claims and workers; audit each.

    Needs nothing: brings a bank, a broker and databases of its own, and removes them.
    """
    if database_url is not None and not database_url.startswith(("postgresql://", "postgres://")):
        raise SettingsError("database_url: give postgresql://…, or leave it out for SQLite")
    end_with_parent()
    world = World(
        consents=consents,
        accounts=accounts,
        transactions=transactions,
        today=SystemClock().now().date(),
    )
    processes = workers or os.cpu_count() or 1
    with Progress(console=show.TALK, transient=True, disable=not sys.stderr.isatty()) as progress:
        measured = list(_measured(world, latency, rounds, processes, database_url, progress))
    kind = "PostgreSQL" if database_url else "SQLite"
    if as_json:
        show.value(
            {"database": kind, "workers": processes, "latency": latency, "measured": [asdict(one) for one in measured]}
        )
        return
    title = f"{consents} consents, {kind}, {processes} workers, bank {latency * 1000:.0f} ms, median of {rounds}"
    show.rows(_table(measured), as_json=False, title=title, empty="")


def _measured(
    world: World, latency: float, rounds: int, workers: int, database_url: str | None, progress: Progress
) -> Iterator[Measured]:
    books: dict[bool, Expected] = {}

    def wanted(changed: bool) -> Expected:
        if changed not in books:
            books[changed] = expected(world, changed=changed)
        return books[changed]

    load = Load.of(workers=workers, in_flight=CONNECTIONS_FAR if latency else CONNECTIONS_NEAR * workers)
    with tempfile.TemporaryDirectory(prefix="swbench-") as made:
        folder = Path(made)
        databases = Databases(folder, database_url)
        try:
            with Bank(world, folder / "bank") as bank:
                for number in range(rounds):
                    task = progress.add_task(f"round {number + 1} of {rounds}", total=world.consents)

                    def told(done: int, of: int, task: Any = task) -> None:
                        progress.update(task, completed=done, total=of)

                    with (
                        databases.fresh() as url,
                        Product(
                            bank, folder / f"round-{number}", url, load=load, workers=workers, progress=told
                        ) as one,
                    ):
                        pids = databases.server_pids()
                        yield from run_phases(one, bank, wanted, latency=latency, database_pids=pids)
                    progress.remove_task(task)
        finally:
            databases.close()


def _table(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    phases: dict[str, list[Measured]] = defaultdict(list)
    for one in measured:
        phases[one.phase.value].append(one)
    return [
        {
            "sync": phase,
            "seconds": round(median([one.seconds for one in those]), 2),
            "rows": those[0].rows,
            "GETs": those[0].pages,
            "GETs/s": round(median([one.pages / one.seconds for one in those])),
            "CPU s workers": round(median([one.cpu_s for one in those]), 2),
            "CPU s database": round(median([one.database_cpu_s for one in those]), 2),
            "MB": round(max(one.peak_mb for one in those)),
        }
        for phase, those in phases.items()
    ]
