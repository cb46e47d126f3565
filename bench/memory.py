"""Whether a worker's memory stays flat: one worker, more and more small consents, first sync and unchanged sync.

    python -m bench.memory [--consents 200 --consents 1000] [--full]

Every number of consents gets a database and a worker of its own; what is printed is the most memory the worker ever
held.  `--full` goes up to 10,000 consents, which takes some ten minutes on a quiet machine.
"""

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from syncworker.bench.audit import Expected, expected
from syncworker.bench.bank import Bank
from syncworker.bench.books import World
from syncworker.bench.databases import Databases
from syncworker.bench.ground import Load
from syncworker.bench.phases import Measured, Phase, run_phases
from syncworker.bench.product import Product
from tests.ground.postgres import PostgresServer

FULL = (200, 1_000, 5_000, 10_000)


def measured(folder: Path, databases: Databases, consents: int) -> list[Measured]:
    """Two phases of so many consents, audited."""
    world = World(consents=consents, accounts=1, transactions=1, today=datetime.now(UTC).date())

    def wanted(changed: bool) -> Expected:
        return expected(world, changed=changed)

    with (
        Bank(world, folder / "bank") as bank,
        databases.fresh() as url,
        Product(bank, folder / "product", url, load=Load(open_claims=200), workers=1) as one,
    ):
        return list(
            run_phases(
                one,
                bank,
                wanted,
                latency=0,
                database_pids=databases.server_pids(),
                phases=(Phase.FIRST, Phase.UNCHANGED),
            )
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--consents", type=int, action="append")
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    numbers = options.consents or (FULL if options.full else FULL[:2])
    server = PostgresServer()
    try:
        with tempfile.TemporaryDirectory(prefix="swbench-") as made:
            databases = Databases(Path(made), server.url())
            print("| consents | rows | first s | unchanged s | MB after first | MB after unchanged |")
            print("|---:|---:|---:|---:|---:|---:|")
            for consents in numbers:
                print(f"{consents} consents …", file=sys.stderr, flush=True)
                folder = Path(made) / str(consents)
                folder.mkdir()
                first, unchanged = measured(folder, databases, consents)
                print(
                    f"| {consents:,} | {first.rows:,} | {first.seconds:.1f} | {unchanged.seconds:.1f} "
                    f"| {first.peak_mb:.0f} | {unchanged.peak_mb:.0f} |",
                    flush=True,
                )
            databases.close()
    finally:
        server.close()


if __name__ == "__main__":
    main()
