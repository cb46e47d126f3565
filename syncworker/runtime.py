"""The process's event loop: hands it a coroutine, waits with a deadline, stops it cleanly.

A worker process has one loop in one thread, and on it everything that does I/O (`design.md` §4).  Any other thread
gives it work with `run` and waits.  The process-wide parts (clients, engine, limiter) are built on that loop at
first use, after the pool has started, so that no connection is inherited through a fork (`reliability.md` rule 13).

Three ends of a run: its result, its error, or its deadline.  A run that passes even its hard limit holds the loop
itself; then nothing in this process can be trusted to end, and the watchdog ends the process (rule 14).
"""

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import structlog

from syncworker.clock import monotonic
from syncworker.errors import TransientError

log = structlog.stdlib.get_logger(__name__)

P = TypeVar("P")
T = TypeVar("T")

EXIT_HUNG: Final = 70
"""Exit status of a process that its watchdog ended (EX_SOFTWARE)."""

HARD_LIMIT_S: Final = 30.0
"""How far past its deadline a run may still be ending."""

WATCH_EVERY_S: Final = 1.0


class DeadlineExceededError(TransientError):
    """A run passed its deadline and was cancelled."""

    code = "deadline_exceeded"


class RuntimeStoppedError(TransientError):
    """The process is stopping: the run was not begun, or cancelled."""

    code = "runtime_stopped"


@dataclass(frozen=True, slots=True)
class _Run:
    future: concurrent.futures.Future[Any]
    hard_limit: float


class Runtime(Generic[P]):
    """One event loop in one thread, and the parts that live on it.

    Knows its process: after a fork the child starts with nothing and builds its own.

    Attributes:
        hard_limit: seconds past its deadline after which a run costs the process its life; for runs begun from now on.
    """

    def __init__(
        self,
        build: Callable[[], Awaitable[P]],
        close: Callable[[P], Awaitable[None]],
        *,
        warn: Callable[[P], None] | None = None,
        hard_limit: float = HARD_LIMIT_S,
        watch_every: float = WATCH_EVERY_S,
        die: Callable[[int], object] = os._exit,
    ) -> None:
        """Starts nothing.

        Args:
            build: makes the process-wide parts, on the loop; called once, at first use.
            close: gives them back, on the loop, at `stop`.
            warn: tells the parts, on the loop and before anything is waited for, that `stop` was called.
            hard_limit: seconds past its deadline after which a run costs the process its life.
            die: ends the process at once with that exit status.
        """
        self._build = build
        self._close = close
        self._warn = warn
        self.hard_limit = hard_limit
        self._watch_every = watch_every
        self._die = die
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._in_order = True
        self._runs: set[_Run] = set()
        self._left: set[_Run] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._shielded: set[asyncio.Task[Any]] = set()
        self._parts: asyncio.Future[P] | None = None

    # -- from any thread ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start loop and watchdog; a second call changes nothing.  Call it after the pool has started.

        Raises:
            RuntimeStoppedError: it was stopped before.
        """
        if self._pid != os.getpid():
            self._forget()
        with self._lock:
            if self._stopping.is_set():
                raise RuntimeStoppedError("the process is stopping")
            if self._loop is not None:
                return
            self._loop = new_loop()
            self._thread = threading.Thread(target=self._turn, name="syncworker-loop", daemon=True)
            self._thread.start()
            threading.Thread(target=self._watch, name="syncworker-watchdog", daemon=True).start()

    def run(self, coroutine: Coroutine[Any, Any, T], *, deadline: float) -> T:
        """Run a coroutine on the loop and wait for it, from any thread but the loop's own.

        Args:
            deadline: seconds; then the coroutine is cancelled.  What it shielded ends by itself.

        Returns:
            What the coroutine returns; its own error passes through as it is.

        Raises:
            DeadlineExceededError: it did not end in time.
            RuntimeStoppedError: the process is stopping.
        """
        result: T = self._outcome(self._begin(coroutine, deadline))
        return result

    def run_or_leave(
        self, coroutine: Coroutine[Any, Any, object], *, deadline: float, patience: float, left_max: int
    ) -> bool:
        """Run a coroutine on the loop and wait for it at most `patience` seconds; then it goes on with nobody waiting.

        So an LFI that hangs keeps a few coroutines and not the process's threads.  A run that was left keeps its
        deadline, its hard limit and its orderly end at `stop`; how it ended badly is logged by its error's name.

        Args:
            left_max: while so many runs go on like this, the thread waits to the end after all: memory has a bound.

        Returns:
            Whether it ended while we waited.

        Raises:
            As `run`, while we waited.
        """
        run = self._begin(coroutine, deadline)
        try:
            concurrent.futures.wait([run.future], timeout=patience)
            if self._left_behind(run, left_max):
                return False
        except BaseException:  # the waiting thread was told to leave
            self._over(run)
            raise
        self._outcome(run)
        return True

    def stop(self, grace: float, *, patience: float | None = None) -> bool:
        """Stop in order, within `grace` seconds; a second call waits for the first.

        New runs are refused at once, and the parts are warned.  Runs may end by themselves for `patience` seconds (half
        of the grace when not said), then they are cancelled; what they shielded (the commit of a token) is awaited;
        then the parts are closed and the loop ends.

        Returns:
            Whether it did; `False` when the loop itself stands still, and nothing on it could be ended.
        """
        with self._lock:
            if self._pid != os.getpid() or self._loop is None:
                self._stopping.set()
                self._stopped.set()
                return True
            first, loop = not self._stopping.is_set(), self._loop
            self._stopping.set()
        if not first:
            return self._stopped.wait(grace + 2) and self._in_order
        ending = asyncio.run_coroutine_threadsafe(
            self._end(monotonic() + grace, grace / 2 if patience is None else min(patience, grace)), loop
        )
        try:
            ending.result(timeout=grace + 1)
        except TimeoutError:
            self._in_order = False
            log.warning("runtime not stopped in time", seconds=grace)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            if self._thread is not None:
                self._thread.join(timeout=1)
            self._stopped.set()
        return self._in_order

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def wait_stopping(self, timeout: float) -> bool:
        """Wait until `stop` is called, at most `timeout` seconds; whether it was."""
        return self._stopping.wait(timeout)

    @property
    def busy(self) -> int:
        """How many runs keep a thread waiting."""
        with self._lock:
            return len(self._runs - self._left)

    # -- on the loop -------------------------------------------------------------------------------------------------

    async def parts(self) -> P:
        """The process-wide parts; the first caller builds them, a failed build is tried again by the next."""
        if self._parts is None:
            self._parts = asyncio.ensure_future(self._build())
        building = self._parts
        assert building is not None
        try:
            return await asyncio.shield(building)
        except BaseException:
            if building.done() and self._parts is building and (building.cancelled() or building.exception()):
                self._parts = None
            raise

    async def shield(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await something that no deadline, cancellation or stop may strike: the commit of a new token (rule 19).

        The caller may be cancelled; the coroutine goes on, and `stop` waits for it.
        """
        task = asyncio.ensure_future(coroutine)
        self._shielded.add(task)
        task.add_done_callback(self._shielded.discard)
        return await asyncio.shield(task)

    # ----------------------------------------------------------------------------------------------------------------

    def _outcome(self, run: _Run) -> Any:
        """Wait for the run's end."""
        try:
            return run.future.result()
        except concurrent.futures.CancelledError:
            raise RuntimeStoppedError("the process is stopping; the run was cancelled") from None
        finally:
            self._over(run)

    def _over(self, run: _Run) -> None:
        run.future.cancel()  # the waiting thread was told to leave (SystemExit); nothing to do when it has ended
        with self._lock:
            self._runs.discard(run)
            self._left.discard(run)

    def _left_behind(self, run: _Run, left_max: int) -> bool:
        """Leave a run to the loop; `False` when it has ended, or too many are left already."""
        with self._lock:
            if run.future.done() or len(self._left) >= left_max:
                return False
            self._left.add(run)
        run.future.add_done_callback(lambda _: self._ended_alone(run))
        return True

    def _ended_alone(self, run: _Run) -> None:
        self._over(run)
        error = None if run.future.cancelled() else run.future.exception()
        if error is not None:
            log.warning("run left to the loop failed", error=getattr(error, "code", type(error).__name__))

    def _begin(self, coroutine: Coroutine[Any, Any, Any], deadline: float) -> _Run:
        try:
            return self._begun(coroutine, deadline)
        except BaseException:
            coroutine.close()
            raise

    def _begun(self, coroutine: Coroutine[Any, Any, Any], deadline: float) -> _Run:
        self.start()
        if threading.current_thread() is self._thread:
            raise RuntimeError("run() on the loop's own thread would wait for itself; await the coroutine")
        with self._lock:
            if self._stopping.is_set() or self._loop is None:
                raise RuntimeStoppedError("the process is stopping")
            future = asyncio.run_coroutine_threadsafe(self._bounded(coroutine, deadline), self._loop)
            run = _Run(future, monotonic() + deadline + self.hard_limit)
            self._runs.add(run)
        return run

    def _turn(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _watch(self) -> None:
        pid = self._pid
        while not self._stopped.wait(self._watch_every) and pid == os.getpid():
            now = monotonic()
            with self._lock:
                hung = [run for run in self._runs if run.hard_limit < now and not run.future.done()]
            if hung:
                log.critical("runs hang, the process ends", runs=len(hung))
                self._die(EXIT_HUNG)
                return

    async def _bounded(self, coroutine: Coroutine[Any, Any, T], deadline: float) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            async with asyncio.timeout(deadline) as limit:
                return await coroutine
        except TimeoutError:
            if limit.expired():
                raise DeadlineExceededError(f"not done within {deadline:g} s") from None
            raise
        finally:
            self._tasks.discard(task)

    async def _end(self, until: float, patience: float) -> None:
        self._warn_parts()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=patience)
        await _cancelled(set(self._tasks), until)
        if self._shielded:
            await asyncio.wait(set(self._shielded), timeout=max(0.1, until - monotonic()))
        await self._close_parts(max(0.1, until - monotonic()))
        await _cancelled(asyncio.all_tasks() - {asyncio.current_task()}, until)

    def _built(self) -> list[P]:
        """The parts, when they were built."""
        building = self._parts
        if building is None or not building.done() or building.cancelled() or building.exception() is not None:
            return []
        return [building.result()]

    def _warn_parts(self) -> None:
        warn = self._warn
        if warn is None:
            return
        try:
            for parts in self._built():
                warn(parts)
        except Exception as error:  # noqa: BLE001  stopping must go on whatever a part does in its own end
            log.warning("parts not warned of the stop", error=type(error).__name__)

    async def _close_parts(self, timeout: float) -> None:
        try:
            for parts in self._built():
                await asyncio.wait_for(self._close(parts), timeout)
        except Exception as error:  # noqa: BLE001  stopping must go on whatever a part does in its own end
            log.warning("parts not closed", error=type(error).__name__)


async def _cancelled(tasks: Iterable[asyncio.Task[Any] | None], until: float) -> None:
    """Cancel tasks and wait until they have cleaned up, at most until that instant."""
    ending = {task for task in tasks if task is not None}
    for task in ending:
        task.cancel()
    if ending:
        await asyncio.wait(ending, timeout=max(0.1, until - monotonic()))


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop for a process that serves: uvloop where it installs; it says of stray errors their kind alone."""
    try:
        import uvloop  # where it installs
    except ImportError:
        loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    loop.set_debug(False)
    loop.set_exception_handler(_log_stray)
    return loop


def _log_stray(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An error nobody awaited: its kind only, since its text may carry what no log may."""
    error = context.get("exception")
    log.error("stray error on the loop", error=type(error).__name__ if error else "no exception")
