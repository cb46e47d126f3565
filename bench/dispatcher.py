"""How many claims a second the dispatcher takes out of a table of a million consents, alone and four at once.

    python bench/dispatcher.py [--consents 1000000] [--lfis 40] [--seconds 10] [--database-url postgresql://…]

Every consent has a row for its sync and one for its token; all of them are due, as after an outage.  A dispatcher is a
process that claims as `schedule.claims` does, a part of each LFI's backlog at a time, and then ends what it claimed as
workers would, so that the table stays in the shape of a running installation.  Prints claims a second, claims made
twice (there must be none), the sizes of table and indexes, and the plan of the claim's statement.

Without a URL it starts a PostgreSQL of its own on loopback, in memory where there is room and without fsync.  A URL
must name an empty database; it is left filled.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import process_time
from typing import Any, Final

import sqlalchemy as sa
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `tests.ground` starts the database

from syncworker.clock import monotonic  # noqa: E402
from syncworker.standard.values import Slug  # noqa: E402
from syncworker.store import migrate  # noqa: E402
from syncworker.store.unit_of_work import Store, UnitOfWork  # noqa: E402
from syncworker.store.work import Claim, WorkKind  # noqa: E402
from tests.ground.postgres import PostgresServer  # noqa: E402

FILL_ROWS: Final = 50_000
CLAIMS_A_TICK: Final = 250
"""Of each LFI: five messages of fifty."""

TURNED_AWAY_S: Final = 0.01
"""What a dispatcher waits that found another one at work; in production it is the rest of the tick."""

OUT: Final = Console()


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """What one dispatcher did.

    Attributes:
        claiming: seconds in calls that claimed something.
        cpu: seconds of processor time in them, this process and its server process together.
        ending: seconds in ending what was claimed.
        seconds: from its first call to the end of its last.
        turned_away: calls that found another dispatcher at work.
    """

    claims: int
    calls: int
    claiming: float
    cpu: float
    ending: float
    seconds: float
    turned_away: int


async def dispatch(url: str, lfis: int, seconds: float) -> tuple[Took, list[Claim]]:
    """Claim and end for so many seconds."""
    store = Store(url, connections=1)
    async with store.reading() as unit:
        backend = int(await unit.connection.scalar(sa.text("SELECT pg_backend_pid()")) or 0)
    slots = dict.fromkeys(_slugs(lfis), CLAIMS_A_TICK)
    taken: list[Claim] = []
    claiming = ending = cpu = 0.0
    calls = away = 0
    began = monotonic()
    while monotonic() - began < seconds:
        at, cpu_at = monotonic(), _cpu(backend)
        claims = await store.atomically(lambda unit: unit.work.claim(WorkKind.SYNC, slots=slots))
        if not claims:
            away += 1
            await asyncio.sleep(TURNED_AWAY_S)
            continue
        claimed = monotonic()
        cpu += _cpu(backend) - cpu_at
        await store.atomically(lambda unit, claims=claims: _end(unit, claims))  # type: ignore[misc]
        calls, claiming, ending = calls + 1, claiming + claimed - at, ending + monotonic() - claimed
        taken += claims
    took = monotonic() - began
    await store.close()
    told = Took(
        claims=len(taken), calls=calls, claiming=claiming, cpu=cpu, ending=ending, seconds=took, turned_away=away
    )
    return told, taken


def _cpu(backend: int) -> float:
    """Processor seconds so far of this process and of the server process that serves it, where that is local."""
    try:
        fields = Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return process_time()
    return process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _end(unit: UnitOfWork, claims: Sequence[Claim]) -> None:
    """What workers do one by one, in one statement: the lease goes, the row is due again in hours."""
    await unit.connection.execute(
        sa.text(
            "UPDATE work SET lease_until = NULL, started_gen = gen, attempts = 0, last_outcome = 'unchanged',"
            " last_ended_at = now(), last_good_at = now(), due_at = now() + interval '12 hours' WHERE id = ANY(:ids)"
        ),
        {"ids": [claim.id for claim in claims]},
    )


def measure(url: str, lfis: int, seconds: float, dispatchers: int) -> tuple[list[Took], int]:
    """Run dispatchers side by side; what each did, and how many claims were made twice."""
    with tempfile.TemporaryDirectory(prefix="syncworker-bench-") as folder:
        files = [Path(folder) / f"{number}" for number in range(dispatchers)]
        children = [
            subprocess.Popen(
                [sys.executable, __file__, "--dispatcher", str(file), "--database-url", url, "--lfis", str(lfis),
                 "--seconds", str(seconds)],
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            for file in files
        ]  # fmt: skip
        told = [child.communicate(timeout=seconds + 120)[0] for child in children]
        if failed := [child.returncode for child in children if child.returncode]:
            raise SystemExit(f"a dispatcher ended with {failed[0]}")
        counts = Counter(line for file in files for line in file.read_text().splitlines())
    return [Took(**json.loads(one)) for one in told], sum(count - 1 for count in counts.values())


async def fill(store: Store, consents: int, lfis: int) -> None:
    """A sync and a token row for each consent, all due; in the order of time, as consents come."""
    statement = sa.text(
        "INSERT INTO work (tenant, kind, subject, lfi, due_at)"
        " SELECT 'default', kind, md5(n::text)::uuid::text, 'lfi-' || lpad((n % :lfis)::text, 3, '0'),"
        " now() - interval '6 hours' * ((hashint8(n)::float8 + 2147483648) / 4294967296)"
        " FROM generate_series(cast(:first AS bigint), cast(:last AS bigint)) AS n,"
        " unnest(ARRAY['sync', 'token']) AS kind"
    )
    for first in track(range(0, consents, FILL_ROWS), description=f"{consents:,} consents", console=OUT):
        last = min(first + FILL_ROWS, consents) - 1
        async with store.writing() as unit:
            await unit.connection.execute(statement, {"lfis": lfis, "first": first, "last": last})
            await unit.commit()
    async with store.writing() as unit:
        await unit.connection.exec_driver_sql("ANALYZE work")
        await unit.commit()


async def sizes(store: Store) -> list[tuple[str, int]]:
    """Table and indexes with their megabytes."""
    async with store.reading() as unit:
        rows = await unit.connection.execute(
            sa.text(
                "SELECT relname, pg_relation_size(oid) / 1048576 AS mb FROM pg_class"
                " WHERE relname = 'work' OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'work'::regclass)"
                " ORDER BY 2 DESC, 1"
            )
        )
        return [(str(row.relname), int(row.mb)) for row in rows]


async def plan(store: Store) -> list[str]:
    """EXPLAIN (ANALYZE, BUFFERS) of the statement that claims one LFI's rows; rolled back."""
    lines: list[str] = []

    def explain(_c: Any, cursor: Any, statement: str, parameters: Any, _x: Any, _m: bool) -> tuple[str, Any]:
        if statement.startswith("WITH due") and not lines:
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", parameters)
            lines.extend(row[0] for row in cursor.fetchall())
        return statement, parameters

    sa.event.listen(sa.Engine, "before_cursor_execute", explain, retval=True)
    async with store.writing() as unit:  # left without a commit
        await unit.work.claim(WorkKind.SYNC, slots={_slugs(1)[0]: CLAIMS_A_TICK})
    sa.event.remove(sa.Engine, "before_cursor_execute", explain)
    return lines


def _slugs(lfis: int) -> list[Slug]:
    return [Slug(f"lfi-{number:03}") for number in range(lfis)]


def _row(took: Sequence[Took], twice: int) -> Mapping[str, str]:
    claims, calls = sum(one.claims for one in took), sum(one.calls for one in took)
    claiming, wall = sum(one.claiming for one in took), max(one.seconds for one in took)
    return {
        "dispatchers": str(len(took)),
        "claims": f"{claims:,}",
        "a second, while claiming": f"{claims / claiming:,.0f}",
        "a CPU second": f"{claims / sum(one.cpu for one in took):,.0f}",
        "a second, ends included": f"{claims / wall:,.0f}",
        "ms a tick": f"{1000 * claiming / calls:.0f}",
        "turned away": str(sum(one.turned_away for one in took)),
        "claimed twice": str(twice),
    }


async def _prepared(url: str, consents: int, lfis: int) -> None:
    migrate.upgrade(url)
    store = Store(url)
    await fill(store, consents, lfis)
    await store.close()


async def _shape(url: str) -> tuple[list[tuple[str, int]], list[str]]:
    store = Store(url)
    try:
        return await sizes(store), await plan(store)
    finally:
        await store.close()


def main(url: str, consents: int, lfis: int, seconds: float) -> None:
    """Fill, measure, print."""
    asyncio.run(_prepared(url, consents, lfis))
    load = os.getloadavg()[0]
    OUT.print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {load:.0f}, {lfis} LFIs, {seconds:g} s each")
    before, plan_lines = asyncio.run(_shape(url))
    rows = [_row(*measure(url, lfis, seconds, dispatchers)) for dispatchers in (1, 4)]
    after, _ = asyncio.run(_shape(url))
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*row.values())
    OUT.print(table)
    table = Table("table or index", "MB filled", "MB after", box=None)
    for name, megabytes in before:
        table.add_row(name, str(megabytes), str(dict(after)[name]))
    OUT.print(table)
    OUT.print("\n".join(plan_lines), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--consents", type=int, default=1_000_000)
    parser.add_argument("--lfis", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--database-url", help="of an empty PostgreSQL database; one of its own otherwise")
    parser.add_argument("--dispatcher", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.dispatcher is not None:
        did, claims = asyncio.run(dispatch(options.database_url, options.lfis, options.seconds))
        options.dispatcher.write_text("".join(f"{claim.id} {claim.gen}\n" for claim in claims))
        print(json.dumps(asdict(did)))
    elif options.database_url is not None:
        main(options.database_url, options.consents, options.lfis, options.seconds)
    else:
        server = PostgresServer(settings={"shared_buffers": "1GB", "max_wal_size": "4GB"})
        try:
            main(server.url(), options.consents, options.lfis, options.seconds)
        finally:
            server.close()
