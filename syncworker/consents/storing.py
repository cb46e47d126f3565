"""Store before use: between an answer that carries tokens and its commit nothing may come.

A refresh token that was given out and not stored is a consent lost.  So the commit is its own small transaction, tried
again until the database takes it, and no cancellation, limit or shutdown strikes in between (`reliability.md` rule 19).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import structlog
import tenacity

from syncworker.store.failures import StoreUnavailableError

T = TypeVar("T")

ATTEMPT_TIMEOUT_S: Final = 20.0
"""One try at the database; a connection that has gone silent must not hold the answer for ever."""

WAIT_MAX_S: Final = 5.0

log = structlog.stdlib.get_logger(__name__)


class Storing:
    """Transactions that are seen through to their end.

    Args:
        patience: seconds to go on trying while the database is away.
        sleep: waits between tries.
    """

    def __init__(self, *, patience: float = 600.0, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._patience = patience
        self._sleep = sleep
        self._open: set[asyncio.Task[Any]] = set()

    async def until_done(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run `step` until the database takes it; a cancellation of the caller is passed on only afterwards.

        `step` must be harmless when it runs again: a commit whose confirmation was lost may have happened.

        Raises:
            StoreUnavailableError: the database stayed away longer than our patience; what was to be stored is lost.
        """
        task = asyncio.ensure_future(self._patiently(step))
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError as error:
                if not task.done():
                    cancelled = error
            except BaseException:  # noqa: BLE001, S110  it is the task's own, and raised by result() below
                pass
        if cancelled is not None and not task.cancelled() and task.exception() is None:
            raise cancelled
        return task.result()

    async def drain(self) -> None:
        """Wait until everything that was being stored is stored, or given up."""
        while self._open:
            await asyncio.wait(set(self._open))

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        async def once() -> T:
            async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
                return await step()

        try:
            return await once()  # nearly always the only one: what counts attempts is not built for it
        except (StoreUnavailableError, TimeoutError) as error:
            _say(1, error)
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type((StoreUnavailableError, TimeoutError)),
            stop=tenacity.stop_after_delay(self._patience),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=WAIT_MAX_S),
            sleep=self._sleep,
            before_sleep=_said,
            reraise=True,
        )
        try:
            return await retrying(once)
        except TimeoutError as error:
            raise StoreUnavailableError("database unavailable (timeout)") from error


def _said(state: tenacity.RetryCallState) -> None:
    _say(state.attempt_number + 1, state.outcome.exception() if state.outcome else None)


def _say(attempt: int, error: BaseException | None) -> None:
    log.warning("answer not stored yet", attempt=attempt, error=getattr(error, "code", type(error).__name__))
