"""`syncworker` as `python -m syncworker` starts it, in trouble: `SCENARIO_CLOCK_S`, `SCENARIO_POISON`.

A wrong clock is wrong for everything in the process, Celery and kombu too, as on a host without NTP.  A poisoned
consent ends the process at the first step of its sync, after the claim was taken: what a crash of an extension or the
kernel's memory killer does.
"""

import os
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from freezegun import freeze_time

if TYPE_CHECKING:
    from syncworker.wiring import Application


def main() -> None:
    """Run the command line with the trouble the environment names."""
    wrong = timedelta(seconds=float(os.environ.pop("SCENARIO_CLOCK_S", "0")))
    if wrong:
        freeze_time(datetime.now(UTC) + wrong, tick=True, real_asyncio=True).start()
    from syncworker import tasks
    from syncworker.cli.main import main as command_line

    if os.environ.get("SCENARIO_POISON"):
        tasks._process.build = poisoned  # `configure` of the command leaves it as it is
    command_line()


async def poisoned() -> "Application":
    """The application of the settings, with one deadly consent."""
    from syncworker import wiring
    from syncworker.lfi.api import TokenSource
    from syncworker.settings import load
    from syncworker.standard.values import ConsentId
    from syncworker.store.situations import BeforeCall

    application = await wiring.build_application(load())
    engine, poison = application.engine, os.environ["SCENARIO_POISON"]
    tokens = engine._parts.tokens

    def deadly(consent_id: ConsentId, seen: BeforeCall | None, age: float) -> TokenSource:
        if consent_id == poison:
            os.kill(os.getpid(), signal.SIGKILL)
        return tokens(consent_id, seen, age)

    engine._parts = replace(engine._parts, tokens=deadly)
    return application


if __name__ == "__main__":
    main()
