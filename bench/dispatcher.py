"""How many claims a second the dispatcher takes out of a table of a million consents, alone and four at once.

    python bench/dispatcher.py [--consents 1000000] [--lfis 40] [--rounds 5] [--database-url postgresql://…]

Every consent has a row for its sync and one for its token; all of them are due, as after an outage.  A dispatcher is a
process that claims as `schedule.claims` does.  In each round all of them claim side by side until every LFI's slots are
held, and then take and end what they claimed as workers do, so that the table stays in the shape of a running
installation.  Prints claims a second, claims made twice (there must be none), what claiming and the whole circle cost,
the sizes of table and indexes, and the plan of the claim's statement.

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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import process_time
from typing import Any, Final

import sqlalchemy as sa
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `tests.ground` starts the database

from syncworker.clock import SystemClock, monotonic  # noqa: E402
from syncworker.schedule.claims import BATCH_SIZE, portions  # noqa: E402
from syncworker.standard.values import Slug  # noqa: E402
from syncworker.store import migrate  # noqa: E402
from syncworker.store.unit_of_work import Store  # noqa: E402
from syncworker.store.work import Claim, End, WorkKind  # noqa: E402
from tests.ground.postgres import PostgresServer  # noqa: E402

FILL_ROWS: Final = 50_000
SLOTS: Final = 250
"""Of each LFI: five messages of fifty."""

OUT: Final = Console()


@dataclass(frozen=True, slots=True, kw_only=True)
class Did:
    """What one dispatcher did in one half of a round.

    Attributes:
        claims: claimed, or ended.
        began: when it began, on the clock all processes share, in seconds.
        ended: when its last call that did something came back.
        cpu: seconds of processor time until then, this process and its server process together.
    """

    claims: int
    began: float
    ended: float
    cpu: float


class Hand:
    """One dispatcher, which does a half round when told."""

    def __init__(self, url: str, lfis: int, name: str) -> None:
        self._store = Store(url, connections=1)
        self._slots = portions(dict.fromkeys(_slugs(lfis), SLOTS), name=name)
        self._backend = 0
        self._open: list[Claim] = []
        self.taken: list[Claim] = []

    async def ready(self) -> None:
        """Open the connection."""
        async with self._store.reading() as unit:
            self._backend = int(await unit.connection.scalar(sa.text("SELECT pg_backend_pid()")) or 0)

    async def claim(self) -> Did:
        """Claim until no LFI has a free slot that is not being claimed by another."""
        cpu, began = self._cpu(), monotonic()
        ended, spent = began, 0.0
        more = True
        while more:
            more = False
            for some in self._slots:
                claims = await self._store.atomically(
                    lambda unit, some=some: unit.work.claim(WorkKind.SYNC, slots=some)  # type: ignore[misc]
                )
                if claims:
                    more, ended, spent = True, monotonic(), self._cpu() - cpu
                    self._open += claims
        return Did(claims=len(self._open), began=began, ended=ended, cpu=spent)

    async def end(self) -> Did:
        """Take and end what was claimed, by the statements workers use, fifty in a transaction."""
        cpu, began, claims = self._cpu(), monotonic(), self._open
        due_at = datetime.now(UTC) + timedelta(hours=12)
        for start in range(0, len(claims), BATCH_SIZE):
            hints = [(claim.id, claim.gen) for claim in claims[start : start + BATCH_SIZE]]
            taken = await self._store.atomically(lambda unit, hints=hints: unit.work.take_many(hints))  # type: ignore[misc]
            async with self._store.writing() as unit:
                ends = [End(claim=one, due_at=due_at, outcome="unchanged", good=True) for one in taken]
                unit.with_commit([unit.work.finishing(ends)])
                await unit.commit()
        self.taken += claims
        self._open = []
        return Did(claims=len(claims), began=began, ended=monotonic(), cpu=self._cpu() - cpu)

    def _cpu(self) -> float:
        """Processor seconds so far of this process and of the server process that serves it, where that is local."""
        try:
            fields = Path(f"/proc/{self._backend}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return process_time()
        return process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def obey(hand: Hand, file: Path) -> None:
    """Do what each line of standard input says, answer with a line; write down every claim at the end."""
    await hand.ready()
    print("ready", flush=True)
    for line in sys.stdin:  # nothing else is to be done meanwhile
        did = await (hand.claim() if line.strip() == "claim" else hand.end())
        print(json.dumps(asdict(did)), flush=True)
    file.write_text("".join(f"{claim.id} {claim.gen}\n" for claim in hand.taken))  # noqa: ASYNC240  the last it does


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Rounds of some dispatchers together: claims, seconds all of them took, processor seconds."""

    claims: int
    wall: float
    cpu: float


def measure(url: str, lfis: int, rounds: int, dispatchers: int) -> tuple[Sum, Sum, int]:
    """Run dispatchers side by side; what claiming cost, what ending cost, and how many claims were made twice.

    A round before them makes each process and connection warm, and counts only for claims made twice.
    """
    with tempfile.TemporaryDirectory(prefix="syncworker-bench-") as folder:
        files = [Path(folder) / f"{number}" for number in range(dispatchers)]
        children = [
            subprocess.Popen(
                [sys.executable, __file__, "--dispatcher", str(file), "--database-url", url, "--lfis", str(lfis)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            for file in files
        ]
        try:
            for child in children:
                _heard(child)
            halves = [(_tell(children, "claim"), _tell(children, "end")) for _ in range(rounds + 1)][1:]
        finally:
            for child in children:
                child.communicate(timeout=60)
        counts = Counter(line for file in files for line in file.read_text().splitlines())
    claiming, ending = _sum([one for one, _ in halves]), _sum([one for _, one in halves])
    return claiming, ending, sum(count - 1 for count in counts.values())


def _tell(children: Sequence[subprocess.Popen[str]], what: str) -> list[Did]:
    for child in children:
        assert child.stdin is not None
        child.stdin.write(f"{what}\n")
        child.stdin.flush()
    return [Did(**json.loads(_heard(child))) for child in children]


def _heard(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise SystemExit(f"a dispatcher ended with {child.wait()}")
    return line


def _sum(halves: Sequence[Sequence[Did]]) -> Sum:
    return Sum(
        claims=sum(did.claims for half in halves for did in half),
        wall=sum(max(did.ended for did in half) - min(did.began for did in half) for half in halves),
        cpu=sum(did.cpu for half in halves for did in half),
    )


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
                " WHERE relname IN ('work', 'open_claims')"
                " OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'work'::regclass)"
                " ORDER BY 2 DESC, 1"
            )
        )
        return [(str(row.relname), int(row.mb)) for row in rows]


async def plan(store: Store) -> list[str]:
    """EXPLAIN (ANALYZE, BUFFERS) of the statement that claims one LFI's rows; rolled back.

    Args:
        store: with a clock of its own, so that its statements go where they can be heard (`store.statements`).
    """
    lines: list[str] = []

    def explain(_c: Any, cursor: Any, statement: str, parameters: Any, _x: Any, _m: bool) -> tuple[str, Any]:
        if statement.startswith("WITH chosen") and "LIMIT" in statement and not lines:
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", parameters)
            lines.extend(row[0] for row in cursor.fetchall())
        return statement, parameters

    sa.event.listen(sa.Engine, "before_cursor_execute", explain, retval=True)
    async with store.writing() as unit:  # left without a commit
        await unit.work.claim(WorkKind.SYNC, slots={_slugs(1)[0]: SLOTS})
    sa.event.remove(sa.Engine, "before_cursor_execute", explain)
    return lines


def _slugs(lfis: int) -> list[Slug]:
    return [Slug(f"lfi-{number:03}") for number in range(lfis)]


def _row(dispatchers: int, claiming: Sum, ending: Sum, twice: int) -> Mapping[str, str]:
    return {
        "dispatchers": str(dispatchers),
        "claims": f"{claiming.claims:,}",
        "claims a second": f"{claiming.claims / claiming.wall:,.0f}",
        "a CPU second": f"{claiming.claims / claiming.cpu:,.0f}",
        "µs CPU a claim": f"{1e6 * claiming.cpu / claiming.claims:.0f}",
        "µs CPU to take and end it": f"{1e6 * ending.cpu / ending.claims:.0f}",
        "circles a CPU second": f"{claiming.claims / (claiming.cpu + ending.cpu):,.0f}",
        "claimed twice": str(twice),
    }


async def _prepared(url: str, consents: int, lfis: int) -> None:
    migrate.upgrade(url)
    store = Store(url)
    await fill(store, consents, lfis)
    await store.close()


async def _shape(url: str) -> tuple[list[tuple[str, int]], list[str]]:
    store = Store(url, clock=SystemClock())
    try:
        return await sizes(store), await plan(store)
    finally:
        await store.close()


def main(url: str, consents: int, lfis: int, rounds: int) -> None:
    """Fill, measure, print."""
    asyncio.run(_prepared(url, consents, lfis))
    load = os.getloadavg()[0]
    OUT.print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {load:.0f}, {lfis} LFIs, {rounds} rounds")
    before, plan_lines = asyncio.run(_shape(url))
    rows = [_row(dispatchers, *measure(url, lfis, rounds, dispatchers)) for dispatchers in (1, 4)]
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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--database-url", help="of an empty PostgreSQL database; one of its own otherwise")
    parser.add_argument("--dispatcher", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.dispatcher is not None:
        name = options.dispatcher.name
        asyncio.run(obey(Hand(options.database_url, options.lfis, name), options.dispatcher))
    elif options.database_url is not None:
        main(options.database_url, options.consents, options.lfis, options.rounds)
    else:
        server = PostgresServer(settings={"shared_buffers": "1GB", "max_wal_size": "4GB"})
        try:
            main(server.url(), options.consents, options.lfis, options.rounds)
        finally:
            server.close()
