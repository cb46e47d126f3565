"""The whole table: the product and four other ways to do the same job, on one machine, in one run.

    python -m bench.compare [--quick] [--consents 200] [--rounds 5] [--latency 0 --latency 0.05] [--only NAME …]
                            [--minutes 20] [--json FILE]

Every contender meets the same bank and an empty database, syncs first, unchanged and changed, and is audited after
each.  Rounds interleave, so that whatever else the machine does strikes all of them; the median of the rounds counts,
and ratios are within one run.  The slow ones run `--slow-rounds` rounds, after the others.  dlt takes part where it is
installed (`pip install "dlt[postgres]"`), and is said to be missing where it is not.

It ends by itself: who fails, dies or hangs is named below the table and takes no further part, and after `--minutes`
nobody begins any more.  What was measured until then stands in the table and in the file of `--json`.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

from syncworker.bench.audit import AuditFailedError, Expected, ReadTable, Rows, expected
from syncworker.bench.bank import Bank, access_token
from syncworker.bench.books import World
from syncworker.bench.databases import Databases
from syncworker.bench.drive import median
from syncworker.bench.ground import Load, consent_id
from syncworker.bench.phases import PHASES, Contender, Measured, Phase, run_phases
from syncworker.bench.product import Product, postgresql_rows
from syncworker.clock import monotonic
from syncworker.processes import EmbeddedBroker
from syncworker.store.sealed import unpack_raw
from tests.ground.postgres import PostgresServer

LIMIT: Final = "leanest"
NEAR_IN_FLIGHT: Final = 16
FAR_IN_FLIGHT: Final = 192
"""Calls open at the bank at once, of a contender as a whole: at 0 ms and at a real latency."""

HANGS_S: Final = 1_800.0
"""How long a contender may take for one phase before its processes are ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the table.

    Attributes:
        parts: processes that share its consents; 0 is the product, which starts its own workers.
        slow: runs in the first rounds only.
        audited: keeps rows.
    """

    name: str
    program: str = ""
    options: tuple[str, ...] = ()
    parts: int = 1
    slow: bool = False
    audited: bool = True
    broker: bool = False


CORES: Final = os.cpu_count() or 1
ENTRIES: Final = (
    Entry(name="syncworker", parts=0),
    Entry(name=LIMIT, program="leanest"),
    Entry(name=f"leanest × {CORES}", program="leanest", parts=CORES),
    Entry(name="fetch only", program="leanest", options=("--fetch-only",), audited=False),
    Entry(name="Celery + ORM upserts", program="celery_orm", slow=True, broker=True),
    Entry(name="dlt rest_api", program="dlt_rest", slow=True),
    Entry(name="httpx loop + ORM merge", program="naive", slow=True),
)


class Program:
    """A contender of `bench/contenders`, in as many processes as it has parts."""

    def __init__(self, entry: Entry, bank: Bank, folder: Path, database_url: str, *, in_flight: int) -> None:
        folder.mkdir(parents=True)
        self.name = entry.name
        self._entry = entry
        self._bank = bank
        self._folder = folder
        self._database_url = database_url
        self._in_flight = in_flight
        self._broker = EmbeddedBroker(folder / "broker-data") if entry.broker else None
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        if self._broker is not None:
            self._broker.start()
        for part in range(self._entry.parts):
            file = self._folder / f"job-{part}.json"
            file.write_text(json.dumps(self._job(part)), encoding="utf-8")
            module = f"bench.contenders.{self._entry.program}"
            argv = [sys.executable, "-m", module, str(file), *self._entry.options]
            log = (self._folder / f"part-{part}.log").open("wb")
            self._processes.append(
                subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
            )
        self._hear("ready")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            try:
                process.communicate(timeout=60)  # its input closes: it ends
            except (subprocess.TimeoutExpired, OSError):
                process.kill()
                process.wait()
        if self._broker is not None:
            self._broker.stop()

    def prepare(self, phase: Phase) -> None:
        """Always ready."""

    def sync(self) -> None:
        """Tell all parts, and hear from all of them."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("sync\n")
            process.stdin.flush()
        self._hear("done")

    def pids(self) -> Sequence[int]:
        """Its parts; what they started counts with them."""
        return [process.pid for process in self._processes]

    def read(self) -> ReadTable | None:
        """dlt keeps tables of its own and raw items as text; the others fill ours."""
        if not self._entry.audited:
            return None
        return self._rows_of_dlt if self._entry.program == "dlt_rest" else self._rows

    def raw(self, item: bytes) -> Any:
        """The bytes; of a program that parses and writes JSON anew, what they mean."""
        return json.loads(item) if self._entry.program in ("dlt_rest", "naive") else item

    def _rows(self, table: str, columns: tuple[str, ...]) -> Rows:
        for row in postgresql_rows(self._database_url, table, columns):
            yield *row[:-1], unpack_raw(row[-1])

    def _rows_of_dlt(self, table: str, columns: tuple[str, ...]) -> Rows:
        import psycopg

        names = ", ".join(f'"{name}"' for name in ("connection_id", "account_id", "key", *columns, "raw"))
        with psycopg.connect(self._database_url) as connection, connection.cursor("audit") as cursor:
            cursor.execute(f'SELECT {names} FROM dlt."{table}"'.encode())
            for row in cursor:
                yield *row[:-1], row[-1].encode()

    def _job(self, part: int) -> dict[str, Any]:
        client = self._bank.identity.client
        return {
            "base_url": self._bank.base_url,
            "ca": str(self._bank.identity.ca_bundle),
            "certificate": str(client.transport_certificate),
            "key": str(client.transport_key),
            "database_url": self._database_url,
            "broker_url": self._broker.url if self._broker else "",
            "folder": str(self._folder),
            "in_flight": max(1, self._in_flight // self._entry.parts),
            "consents": [
                (consent_id(number), access_token(number))
                for number in range(part, self._bank.world.consents, self._entry.parts)
            ],
        }

    def _hear(self, word: str) -> None:
        watch = threading.Timer(HANGS_S, self._kill)
        watch.start()
        try:
            self._hear_all(word)
        finally:
            watch.cancel()

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()

    def _hear_all(self, word: str) -> None:
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            while line and line != word:  # some print on their own
                line = process.stdout.readline().strip()
            if line != word:
                logs = "".join(file.read_text(errors="replace")[-1500:] for file in self._folder.glob("*.log"))
                raise AuditFailedError(f"{self.name} ended with {process.wait()}: {logs}")


def contender(entry: Entry, bank: Bank, folder: Path, url: str, *, in_flight: int) -> AbstractContextManager[Contender]:
    """An entry, ready to be started."""
    if entry.parts:
        return Program(entry, bank, folder, url, in_flight=in_flight)
    load = Load.of(workers=CORES, in_flight=in_flight)
    return Product(bank, folder, url, load=load, workers=CORES)


def measure(
    entries: tuple[Entry, ...],
    world: World,
    latencies: Sequence[float],
    *,
    rounds: int,
    slow_rounds: int,
    failed: dict[str, str],
    until: float = math.inf,
) -> Iterator[tuple[float, Measured]]:
    """Every phase of every contender, round by round; each round begins with another of them.

    Args:
        failed: is told who failed, and why; that one takes no further part.
        until: nobody begins after this, by the monotonic clock.
    """
    books: dict[bool, Expected] = {}

    def wanted(changed: bool) -> Expected:
        if changed not in books:
            books[changed] = expected(world, changed=changed)
        return books[changed]

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swbench-")))
        server = PostgresServer()
        stack.callback(server.close)
        databases = Databases(folder, server.url())
        stack.callback(databases.close)
        bank = stack.enter_context(Bank(world, folder / "bank"))
        pids = databases.server_pids()
        for place, (number, latency, entry) in enumerate(_turns(entries, latencies, rounds, slow_rounds)):
            if entry.name in failed:
                continue
            if monotonic() > until:
                failed["time"] = f"up before {entry.name} in round {number + 1} at {latency * 1000:.0f} ms"
                return
            own = folder / f"{place}-{number}"
            in_flight = FAR_IN_FLIGHT if latency else NEAR_IN_FLIGHT
            try:
                with databases.fresh() as url, contender(entry, bank, own, url, in_flight=in_flight) as one:
                    for found in run_phases(one, bank, wanted, latency=latency, database_pids=pids):
                        at = f"round {number + 1}, {latency * 1000:.0f} ms"
                        _say(f"{at}: {entry.name}, {found.phase}, {found.seconds:.2f} s")
                        yield latency, found
            except Exception as error:  # noqa: BLE001  the others' numbers must outlive one contender's bad end
                failed[entry.name] = f"{type(error).__name__}: {error}"
                _say(f"{entry.name} FAILED: {failed[entry.name]}")


def _turns(
    entries: tuple[Entry, ...], latencies: Sequence[float], rounds: int, slow_rounds: int
) -> Iterator[tuple[int, float, Entry]]:
    """Who runs in which round, at which latency; the slow ones after all others."""
    for slow, times in ((False, rounds), (True, slow_rounds)):
        those = tuple(entry for entry in entries if entry.slow is slow)
        for number in range(times if those else 0):
            for latency in latencies:
                for entry in those[number % len(those) :] + those[: number % len(those)]:
                    yield number, latency, entry


def table(measured: Sequence[tuple[float, Measured]], entries: Sequence[Entry], latency: float) -> str:
    """One latency's table, in Markdown."""
    found: dict[tuple[str, Phase], list[Measured]] = defaultdict(list)
    for at, one in measured:
        if at == latency:
            found[one.contender, one.phase].append(one)
    lines = [
        f"**Bank {latency * 1000:.0f} ms**",
        "",
        "| contender | n |"
        + "".join(f" {phase} s | × leanest | CPU s own + database |" for phase in PHASES)
        + " GETs | MB |",
        "|---|---:|" + "---:|---:|---:|" * len(PHASES) + "---:|---:|",
    ]
    limit = {phase: _median(found[LIMIT, phase], lambda one: one.seconds) for phase in PHASES}
    for entry in entries:
        those = found[entry.name, Phase.FIRST]
        if not those:
            continue
        cells = [entry.name, str(len(those))]
        for phase in PHASES:
            runs = found[entry.name, phase]
            seconds = _median(runs, lambda one: one.seconds)
            cpu, database = _median(runs, lambda one: one.cpu_s), _median(runs, lambda one: one.database_cpu_s)
            ratio = f"{seconds / limit[phase]:.2f}" if limit[phase] else "–"
            cells += [f"{seconds:.2f}", ratio, f"{cpu:.1f} + {database:.1f}"]
        peak = max(one.peak_mb for phase in PHASES for one in found[entry.name, phase])
        cells += [f"{those[0].pages:,}", f"{peak:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ground(world: World, rounds: int) -> str:
    """What the table was measured on."""
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {CORES} cores, CPython {sys.version.split()[0]}, {world.consents} consents × "
        f"{world.accounts} accounts × {world.transactions} transactions and every resource, medians of n "
        f"interleaved rounds (at most {rounds}), load average of the machine {load}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--consents", type=int)
    parser.add_argument("--transactions", type=int, default=200)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--slow-rounds", type=int, default=1, help="rounds of the contenders that take minutes")
    parser.add_argument("--latency", type=float, action="append", help="seconds; repeatable; 0 and 0.05 by default")
    parser.add_argument("--only", action="append", default=[], help="a contender's name; repeatable")
    parser.add_argument("--quick", action="store_true", help="20 consents, one round: does everything work?")
    parser.add_argument("--minutes", type=float, default=math.inf, help="nobody begins after so long")
    parser.add_argument("--json", type=Path, help="write every single measurement into this file")
    options = parser.parse_args()
    consents = options.consents or (20 if options.quick else 200)
    rounds = options.rounds or (1 if options.quick else 5)
    latencies = options.latency or [0.0, 0.05]
    began = monotonic()
    entries = tuple(entry for entry in ENTRIES if not options.only or entry.name in {*options.only, LIMIT})
    missing = ""
    if find_spec("dlt") is None or find_spec("psycopg2") is None:
        missing = 'dlt is not installed and does not take part: pip install "dlt[postgres]"'
        _say(missing)
        entries = tuple(entry for entry in entries if entry.program != "dlt_rest")
    world = World(consents=consents, transactions=options.transactions, today=datetime.now(UTC).date())
    measured: list[tuple[float, Measured]] = []
    failed: dict[str, str] = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who is ended tells what there is, and cleans up
    try:
        for one in measure(
            entries,
            world,
            latencies,
            rounds=rounds,
            slow_rounds=options.slow_rounds,
            failed=failed,
            until=began + 60 * options.minutes,
        ):
            measured.append(one)
            if options.json:
                those = [{"latency": at, **asdict(found)} for at, found in measured]
                options.json.write_text(json.dumps(those), encoding="utf-8")
    except KeyboardInterrupt:
        failed["all"] = "interrupted: the table holds what was measured until then"
    print(ground(world, rounds))
    for latency in latencies:
        print()
        print(table(measured, entries, latency))
    if missing:
        print(f"\n{missing}")
    for name, why in failed.items():
        print(f"\n{name}: {why}" if name == "time" else f"\n{name} FAILED: {why}")
    sys.exit(1 if failed.keys() - {"time"} else 0)


def _median(runs: Sequence[Measured], of: Callable[[Measured], float]) -> float:
    return median([of(one) for one in runs]) if runs else 0.0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
