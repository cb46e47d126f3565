"""A process that makes one export and ends by SIGKILL at a step: `python -m tests.exports.killed URL FOLDER STEP`.

`STEP` is a value of `run.Step`, or `none`.  Its lease has run out when it is dead.
"""

import asyncio
import os
import signal
import sys
from datetime import timedelta

from syncworker.exports.layout import Format
from syncworker.exports.run import Step, Wanted, Watching, run
from syncworker.exports.schema import chosen
from syncworker.exports.targets import target_of
from syncworker.store.unit_of_work import Store

NAMES = ("account", "balance", "transaction", "connection", "consent")


def wanted(folder: str, name: str = "nightly", *, full: bool = False) -> Wanted:
    """The series that is made here."""
    return Wanted(name=name, target=target_of(folder), format=Format.PARQUET, tables=chosen(NAMES), full=full)


async def main(url: str, folder: str, at: str) -> None:
    """Make an export, as far as `at`."""

    def step(now: Step) -> None:
        if now.value == at:
            os.kill(os.getpid(), signal.SIGKILL)

    store = Store(url)
    try:
        await run(store, wanted(folder), watching=Watching(step=step), lease=timedelta(milliseconds=400))
    finally:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
