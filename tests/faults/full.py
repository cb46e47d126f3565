"""Play many seeds, or one again.

    python -m tests.faults.full [--seeds 2000] [--first 1] [--jobs 2] [--only NAME …]
    python -m tests.faults.full --seed 1234

Prints each seed that failed, with its schedule, as soon as its chunk is played; and at the end how many requests were
made and what struck how often.
Exit code 1 when a seed failed.  Needs no PostgreSQL and no port: the bank and its network are in memory, the database
is a SQLite file in a folder of its own.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from syncworker.cli import logs
from syncworker.store import migrate
from tests.faults.ground import Keys, ShiftedLoop
from tests.faults.kinds import KINDS
from tests.faults.play import EVENTS, HOLDING, FailedError, Rules, play

SEEDS: Final = 2000
CHUNK: Final = 25
QUIET: Final = "CRITICAL"


@dataclass(slots=True)
class Told:
    """What became of some seeds.

    Attributes:
        failed: seed → what `FailedError` says.
        struck: how often each kind and each event did.
    """

    seeds: int = 0
    requests: int = 0
    runs: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    struck: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Told") -> None:
        """Count others in."""
        self.seeds += other.seeds
        self.requests += other.requests
        self.runs += other.runs
        self.failed |= other.failed
        self.struck += other.struck


def prepared(folder: Path) -> Path:
    """Keys and an empty migrated database in a folder, for every process that plays there; tells the database."""
    template = folder / "template.db"
    if not template.exists():
        migrate.upgrade(f"sqlite:///{template}")
        asyncio.run(Keys.made(folder))
    return template


def play_some(seeds: Sequence[int], folder: Path, template: Path, rules: Rules) -> Told:
    """Play seeds one after the other; a failed one is told and the others go on."""
    with asyncio.Runner(loop_factory=ShiftedLoop) as runner:
        return runner.run(_played(seeds, folder, template, rules))


async def _played(seeds: Sequence[int], folder: Path, template: Path, rules: Rules) -> Told:
    own = folder / f"process-{os.getpid()}"
    if not own.exists():
        for name in ("bank", "keyring"):
            _copied(folder / name, own / name)
    keys, told = await Keys.made(own), Told()
    for seed in seeds:
        told.seeds += 1
        try:
            played = await play(seed, keys, template, rules=rules)
        except FailedError as fault:
            told.failed[seed] = str(fault)
        else:
            told.requests += played.requests
            told.runs += played.runs
            told.struck.update(played.struck)
    return told


def _copied(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
        target.chmod(0o600)


def _in_a_process(seeds: Sequence[int], folder: Path, template: Path, rules: Rules) -> Told:
    logs.configure(QUIET)
    return play_some(seeds, folder, template, rules)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.full", description="Random faults, seed after seed.")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many seeds to play (default {SEEDS})")
    parser.add_argument("--first", type=int, default=1, help="the first of them (default 1)")
    parser.add_argument("--seed", type=int, help="play this seed alone, with the product's log")
    parser.add_argument("--jobs", type=int, default=2, help="processes that play side by side (default 2)")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="only these kinds and events", choices=[*KINDS, *EVENTS]
    )
    given = parser.parse_args()
    rules = HOLDING
    if given.only:
        rules = Rules(
            kinds=frozenset(given.only) & KINDS.keys() or frozenset({"gzip"}),
            events=frozenset(given.only) & frozenset(EVENTS),
        )
    with tempfile.TemporaryDirectory(prefix="syncworker-faults-") as name:
        folder = Path(name)
        logs.configure(QUIET if given.seed is None else "INFO")
        template = prepared(folder)
        if given.seed is not None:
            told = play_some([given.seed], folder, template, rules)
            _say_failed(told)
        else:
            told = _many(range(given.first, given.first + given.seeds), folder, template, rules, jobs=given.jobs)
    _say(f"{told.seeds} seeds, {len(told.failed)} failed; {told.runs} runs, {told.requests} requests")
    for name, times in sorted(told.struck.items()):
        _say(f"  {name:45} {times}")
    return 1 if told.failed else 0


def _say_failed(told: Told) -> None:
    for text in told.failed.values():
        _say(text + "\n", to=sys.stderr)


def _say(text: str, *, to: TextIO | None = None) -> None:
    stream = to or sys.stdout
    stream.write(text + "\n")
    stream.flush()


def _many(seeds: range, folder: Path, template: Path, rules: Rules, *, jobs: int) -> Told:
    told, began = Told(), time.monotonic()
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    folders = [folder] * len(chunks)
    with ProcessPoolExecutor(jobs) as pool:
        for done in pool.map(_in_a_process, chunks, folders, [template] * len(chunks), [rules] * len(chunks)):
            told.add(done)
            _say_failed(done)
            rate = told.seeds / (time.monotonic() - began)
            _say(f"{told.seeds} seeds, {len(told.failed)} failed, {rate:.1f} seeds/s")
    return told


if __name__ == "__main__":
    sys.exit(main())
