"""A worker as `syncworker worker` starts it, which ends itself by SIGKILL at one step of a delivery.

`DELIVERY_DIES` names the step and the attempt, counted in this process: `before:2`, `answered:1`, `committed:3`.
Without it the worker is an ordinary one.
"""

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from syncworker.delivery.sending import Answer, Posting
    from syncworker.store.unit_of_work import Store
    from syncworker.wiring import Application


class Dying:
    """Stands before what a deliverer sends with, and before the store that it writes to.

    Args:
        step: `before` the request, `answered` and not committed, `committed`.
        attempt: the number of the attempt that is hit.
    """

    def __init__(self, posting: "Posting", store: "Store", step: str, attempt: int) -> None:
        self._posting = posting
        self._store = store
        self._step = step
        self._left = attempt
        self._queue: asyncio.Task[Any] | None = None

    async def send(self, *args: Any, **options: Any) -> "Answer":
        self._left -= 1
        hit = self._left == 0
        if hit and self._step == "before":
            _die()
        answer = await self._posting.send(*args, **options)
        if hit and self._step == "answered":
            _die()
        if hit:
            self._queue = asyncio.current_task()
        return answer

    async def atomically(self, step: Any) -> Any:
        found = await self._store.atomically(step)
        if self._queue is not None and self._queue is asyncio.current_task():  # the note of the answer is committed
            _die()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def build() -> "Application":
    """The application of the settings, whose deliveries end the process."""
    from syncworker import wiring
    from syncworker.settings import load

    application = await wiring.build_application(load())
    step, _, attempt = os.environ["DELIVERY_DIES"].partition(":")
    delivering: Any = application._delivering
    delivering._posting = delivering._store = Dying(delivering._posting, delivering._store, step, int(attempt))
    return application


def main() -> None:
    """Run the command line."""
    from syncworker import tasks
    from syncworker.cli.main import main as command_line

    if os.environ.get("DELIVERY_DIES"):
        tasks._process.build = build  # `configure` of the command leaves it as it is
    command_line()


if __name__ == "__main__":
    main()
