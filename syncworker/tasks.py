"""The Celery app and its tasks: thin shells that hand one coroutine to the process's loop and wait.

`tick` claims what is due and publishes hints; `sync_batch` and `token_batch` work on the claims a hint names; `canary`
is sent to one worker alone, to see whether it hears and gets on.
Messages are a public format: names stay, unknown keywords are ignored, arguments are integers and slugs (rule 8 of
`reliability.md`).  Running a batch twice is harmless, since a claim is begun once; losing one costs a lease.

Nothing but the app is built when this module is imported.  `configure` gives it the settings' values before a worker
or beat starts; the parts are built on the process's loop at first use, by `wiring`.
"""

import asyncio
import contextlib
import gc
import logging
import os
import re
import threading
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

import structlog
from celery import signals
from celery.exceptions import Reject
from kombu.exceptions import OperationalError

from syncworker.broker import TICK_EXPIRES_S, Broker, own_queue
from syncworker.broker import app as app
from syncworker.broker import configure as set_up
from syncworker.clock import monotonic
from syncworker.errors import RequestError, SyncWorkerError
from syncworker.runtime import EXIT_HUNG, HARD_LIMIT_S, Runtime, RuntimeStoppedError
from syncworker.schedule.claims import Batch
from syncworker.settings import load
from syncworker.standard.values import Slug
from syncworker.store.work import WorkKind

log = structlog.stdlib.get_logger(__name__)

Hints = Sequence[tuple[int, int]]
"""Claims as a message carries them: `(id, gen)`."""

BATCH_DEADLINE_S: Final = 900.0
SHORT_DEADLINE_S: Final = 30.0
"""For what only touches the database: a tick, a heartbeat, giving claims back."""

STOP_PATIENCE_S: Final = 20.0
"""How long runs may go on after SIGTERM: more than the longest token call, since a call cut short is in doubt."""

STOP_GRACE_S: Final = 17.0
"""After that, how long cancelled runs, shielded commits and the closing of the parts may take together.

A refresh that began goes on after its batch was given back: its call and the commit of its answer end within both
times together.
"""

EXIT_MARGIN_S: Final = 2.0
"""After both, how long Celery may take to end; then the process ends itself.  A loop that stands still never would."""

THREADS: Final = 8
RESERVED_THREADS: Final = 2
"""Threads no sync may keep: a tick and a token refresh always find one."""

PULSE_S: Final = 5.0
"""How often a worker sees for itself whether its loop turns, when nobody says how long a tick is."""

HOLD_S: Final = 5.0
"""How long a batch keeps its thread: longer than most batches, so that a worker takes no more than it gets done."""

LEFT_MAX: Final = 200
"""Batches that may go on without a thread; each has an open claim, and an LFI has `consents_at_once` of those at most,
so with the default four hanging LFIs fit in the worst case, and mostly many more."""

GC_THRESHOLDS: Final = (10_000, 20, 50)
"""New objects before a young collection, and of how many the older generations follow (`docs/performance.md`)."""

SYNC_WAIT_S: Final = 0.25
"""How long a sync batch may hold a reserved thread while it waits for one of its own; then it is passed on."""

SYNC_BATCHES: Final = 2
"""Batches of one LFI a worker syncs before it lets another worker have the next: more would only wait here."""

PASSES_MAX: Final = 3
"""How often a batch is passed on; then whoever has a thread takes it, and without one its claims go back."""


class Application(Protocol):
    """What a worker process can do: built by `wiring`, lives on the process's loop."""

    async def tick(self) -> list[Batch]:
        """Claim what is due and commit."""
        ...

    async def refill(self, kind: WorkKind, lfi: Slug) -> list[Batch]:
        """Claim what else is due of a kind at an LFI, and commit."""
        ...

    async def sync_batch(self, claims: Hints) -> object:
        """Sync the claimed connections; one failure is a value in the report."""
        ...

    async def token_batch(self, claims: Hints) -> object:
        """Refresh the claimed consents' tokens; one failure is a value in the report."""
        ...

    async def small_batch(self, kind: WorkKind, claims: Hints) -> object:
        """Work on claims of a small kind; one failure is a value in the report."""
        ...

    async def arrive(self) -> None:
        """Note that this worker begins."""
        ...

    async def progress(self) -> None:
        """Note that this worker gets on."""
        ...

    async def canaries(self) -> Sequence[str]:
        """Names of the workers to send a canary to."""
        ...

    async def canary(self) -> None:
        """Note that this worker's canary came round."""
        ...

    async def pulse(self, *, busy: bool) -> None:
        """What a worker does for itself now and then; `busy`: every thread is at work, so no canary can come."""
        ...

    async def give_back(self, claims: Hints) -> object:
        """Free claims nobody will begin."""
        ...

    def stop(self) -> None:
        """Begin no consent, page or refresh any more: the process is to end."""
        ...

    async def leave(self) -> None:
        """Note that this worker ends in order."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...


class SyncThreads:
    """The threads that batches of syncs may keep, shared out among the LFIs.

    The last free one goes to an LFI that has none: however many batches of one LFI come, another's finds a thread.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._held: Counter[str] = Counter()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, lfi: str, *, wait: float = SYNC_WAIT_S, most: int | None = None) -> Iterator[bool]:
        """Hold a thread for a batch of this LFI; gives whether there was one within `wait` seconds.

        Args:
            most: threads the LFI may have, this one included.
        """
        with self._changed:
            got = self._changed.wait_for(
                lambda: self._fits(lfi) and (most is None or self._held[lfi] < most), timeout=wait
            )
            self._held[lfi] += got
        try:
            yield got
        finally:
            with self._changed:
                self._held[lfi] -= got
                self._changed.notify_all()

    def _fits(self, lfi: str) -> bool:
        free = self._threads - self._held.total()
        return free > (1 if self._held[lfi] and self._threads > 1 else 0)


class _Process:
    """What this process was told before it started."""

    def __init__(self) -> None:
        self.build: Callable[[], Awaitable[Application]] = _build_from_settings
        self.batch_deadline = BATCH_DEADLINE_S
        self.patience = STOP_PATIENCE_S
        self.hold = HOLD_S
        self.threads = THREADS
        self.pulse_every = PULSE_S
        self.sync_threads = SyncThreads(THREADS - RESERVED_THREADS)


async def _build_from_settings() -> Application:
    from syncworker import wiring  # beat never needs it

    application: Application = await wiring.build_application(load())
    return application


async def _build() -> Application:
    return await _process.build()


async def _close(application: Application) -> None:
    try:
        await application.leave()
    except SyncWorkerError as error:
        log.warning("end of this worker not noted", error=error.code)
    await application.close()


_process: Final = _Process()
runtime: Final[Runtime[Application]] = Runtime(_build, _close, warn=lambda application: application.stop())


def configure(
    broker: Broker,
    tick_seconds: float,
    data_dir: Path,
    *,
    threads: int = THREADS,
    batch_deadline: float = BATCH_DEADLINE_S,
    patience: float = STOP_PATIENCE_S,
    hard_limit: float = HARD_LIMIT_S,
    worker: str | None = None,
    build: Callable[[], Awaitable[Application]] | None = None,
) -> None:
    """Give the app the settings' values; before a worker or beat starts, and before anything is published.

    Args:
        broker: Redis, Valkey or RabbitMQ.
        tick_seconds: between two ticks.
        data_dir: for what beat or a worker may have to keep; made when missing.
        threads: of a worker process, batches at once; two of them never take a sync.
        batch_deadline: seconds for one batch.
        patience: seconds that runs may go on after SIGTERM, before they are cancelled.
        hard_limit: seconds past its deadline after which a run costs the process its life.
        worker: name of this worker process, for a queue of its own that brings its canaries; `None` when it is none.
        build: builds the application on the process's loop; without it, `wiring` builds it from the settings.
    """
    set_up(broker, tick_seconds, data_dir, threads=max(threads, RESERVED_THREADS + 1))
    _process.batch_deadline = batch_deadline
    _process.patience = patience
    use_threads(threads)
    _process.pulse_every = tick_seconds
    runtime.hard_limit = hard_limit
    if worker is not None:
        app.amqp.queues.select_add(own_queue(worker))
        app.conf.worker_consumer = _careful_consumer()
    if build is not None:
        _process.build = build
    for name in _PRINT_MESSAGES:
        logger = logging.getLogger(name)
        if not any(isinstance(known, _WithoutBodies) for known in logger.filters):
            logger.addFilter(_WithoutBodies())


def use_threads(threads: int) -> None:
    """Share out so many threads of this worker process; two of them never take a sync."""
    _process.threads = max(threads, RESERVED_THREADS + 1)
    _process.sync_threads = SyncThreads(max(threads - RESERVED_THREADS, 1))


def worker_arguments(*, queues: Sequence[str] = (), worker: str | None = None, loglevel: str = "INFO") -> list[str]:
    """Arguments for `app.worker_main`.

    Args:
        queues: to consume; none means all of them.
        worker: as given to `configure`; its own queue is consumed beside those.
    """
    queues = [*queues, own_queue(worker).name] if queues and worker is not None else queues
    arguments = ["worker", f"--loglevel={loglevel}", f"--hostname=syncworker-{os.getpid()}@%h"]
    arguments += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    return arguments + ([f"--queues={','.join(queues)}"] if queues else [])


def _task(name: str) -> Callable[[Callable[..., None]], Any]:
    """A task by its public name; our own errors are outcomes, logged in one line."""
    decorator: Callable[[Callable[..., None]], Any] = app.task(name=name, throws=(SyncWorkerError,))
    return decorator


# -- tasks -------------------------------------------------------------------------------------------------------------


@_task("tick")
def tick(**_ignored: object) -> None:
    """Claim what is due, commit, publish.  Any number of ticks at once do no harm."""
    left = publish_all(runtime.run(_tick(), deadline=SHORT_DEADLINE_S))
    if left:
        runtime.run(_give_back(left), deadline=SHORT_DEADLINE_S)
        return
    for worker in runtime.run(_canaries(), deadline=SHORT_DEADLINE_S):
        if not publish_canary(worker):
            return


@_task("sync_batch")
def sync_batch(claims: list[list[int]], lfi: str = "", passed: int = 0, **_ignored: object) -> None:
    """Sync the claimed connections.  Running it twice is harmless: a claim is begun once, a stale one is skipped.

    Args:
        lfi: whose they are; a message of an older producer does not say.  Here and below.
        passed: how many workers had enough of this LFI in work, and let another have it.
    """
    hints = _hints(claims)
    last = passed >= PASSES_MAX
    with _process.sync_threads.taken(lfi, most=None if last else SYNC_BATCHES) as free:
        if free:
            _run_batch(_sync(hints, lfi))
            return
    left = hints if last else publish_all([Batch(WorkKind.SYNC, Slug(lfi), tuple(hints))], passed=passed + 1)
    if left:  # the rows wait in the table, not here
        _run_batch(_give_back(left))


@_task("token_batch")
def token_batch(claims: list[list[int]], lfi: str = "", **_ignored: object) -> None:
    """Refresh the tokens of the claimed consents.  Running it twice is harmless, as above."""
    _run_batch(_refresh(_hints(claims), lfi))


@_task("canary")
def canary(**_ignored: object) -> None:
    """Note that this worker hears the broker, turns its loop and reaches the database."""
    runtime.run(_canary(), deadline=SHORT_DEADLINE_S)


@_task("consent_batch")
def consent_batch(claims: list[list[int]], lfi: str = "", **_ignored: object) -> None:
    """Ask the Hub about the claimed consents.  Running it twice is harmless, as above."""
    _run_batch(_small(WorkKind.CONSENT, _hints(claims), lfi))


@_task("flag_batch")
def flag_batch(claims: list[list[int]], lfi: str = "", **_ignored: object) -> None:
    """Flag the claimed consents that near their end.  Running it twice is harmless: a flag is raised once."""
    _run_batch(_small(WorkKind.FLAG, _hints(claims), lfi))


@_task("event_batch")
def event_batch(claims: list[list[int]], lfi: str = "", **_ignored: object) -> None:
    """Act on the claimed events.  Running it twice is harmless: an event is a hint, the Hub is asked."""
    _run_batch(_small(WorkKind.EVENT, _hints(claims), lfi))


@_task("opening_batch")
def opening_batch(claims: list[list[int]], lfi: str = "", **_ignored: object) -> None:
    """Follow the claimed account openings.  Running it twice is harmless: it only asks."""
    _run_batch(_small(WorkKind.OPENING, _hints(claims), lfi))


@_task("delivery_batch")
def delivery_batch(claims: list[list[int]], lfi: str = "", **_ignored: object) -> None:
    """Send webhooks to the claimed endpoints.  Running it twice is harmless: each message has one id."""
    _run_batch(_small(WorkKind.DELIVERY, _hints(claims), lfi))


TASKS: Final = {
    WorkKind.SYNC: sync_batch,
    WorkKind.TOKEN: token_batch,
    WorkKind.CONSENT: consent_batch,
    WorkKind.FLAG: flag_batch,
    WorkKind.EVENT: event_batch,
    WorkKind.OPENING: opening_batch,
    WorkKind.DELIVERY: delivery_batch,
}


def publish(batch: Batch, *, passed: int = 0) -> None:
    """Send the hint that a batch of claims waits.  Call it after the commit of the claims.

    Args:
        passed: as in `sync_batch`.

    Raises:
        OperationalError: the broker is away.
    """
    named = {"lfi": batch.lfi, **({"passed": passed} if passed else {})}
    TASKS[batch.kind].apply_async(args=([list(hint) for hint in batch.claims],), kwargs=named)


def publish_all(batches: Sequence[Batch], *, passed: int = 0) -> list[tuple[int, int]]:
    """Send the hints of batches, after the commit of their claims.

    Returns:
        The claims nobody was told of, because the broker is away: they are to be given back.
    """
    for position, batch in enumerate(batches):
        try:
            publish(batch, passed=passed)
        except OperationalError:
            left = [hint for unpublished in batches[position:] for hint in unpublished.claims]
            log.warning("broker away, claims given back", claims=len(left))
            return left
    return []


def publish_tick() -> bool:
    """Ask for a tick now, as when somebody waits for a sync.

    Returns:
        Whether the broker took it; beat's next one does the same.
    """
    try:
        tick.apply_async(expires=TICK_EXPIRES_S)
    except OperationalError:
        return False
    return True


def publish_canary(worker: str) -> bool:
    """Send a canary to one worker.

    Args:
        worker: its name.

    Returns:
        Whether the broker took it.
    """
    try:
        canary.apply_async(queue=own_queue(worker))
    except OperationalError:
        return False
    return True


def _run_batch(work: Coroutine[Any, Any, None]) -> None:
    """Run a batch; a process that stops hands the hint to another one instead of dropping it.

    A batch that lasts goes on without its thread, its message acknowledged: a bank that hangs must not keep the
    others' batches, the ticks and the canaries out of this process.  Its claims' leases bring it back if we die.
    """
    try:
        runtime.run_or_leave(work, deadline=_process.batch_deadline, patience=_process.hold, left_max=LEFT_MAX)
    except RuntimeStoppedError as error:
        raise Reject(error.code, requeue=True) from None


async def _tick() -> list[Batch]:
    application = await runtime.parts()
    return await application.tick()


async def _sync(hints: Hints, lfi: str) -> None:
    application = await runtime.parts()
    await application.progress()
    await application.sync_batch(hints)
    await _refill(application, WorkKind.SYNC, lfi)


async def _refresh(hints: Hints, lfi: str) -> None:
    application = await runtime.parts()
    await application.progress()
    await application.token_batch(hints)
    await _refill(application, WorkKind.TOKEN, lfi)


async def _small(kind: WorkKind, hints: Hints, lfi: str) -> None:
    application = await runtime.parts()
    await application.progress()
    await application.small_batch(kind, hints)
    await _refill(application, kind, lfi)


async def _refill(application: Application, kind: WorkKind, lfi: str) -> None:
    """Let the next of this kind follow at once; whoever is free takes them.  Without it they wait for a tick."""
    if not lfi:
        return
    left = await asyncio.to_thread(publish_all, await application.refill(kind, Slug(lfi)))
    if left:
        await application.give_back(left)


async def _give_back(hints: Hints) -> None:
    application = await runtime.parts()
    await application.give_back(hints)


async def _canaries() -> Sequence[str]:
    application = await runtime.parts()
    return await application.canaries()


async def _canary() -> None:
    application = await runtime.parts()
    await application.canary()


async def _arrive() -> None:
    application = await runtime.parts()
    await application.arrive()


async def _pulse(*, busy: bool) -> None:
    application = await runtime.parts()
    await application.pulse(busy=busy)


def _hints(claims: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """The claims of a message.

    Raises:
        RequestError: they are none; the message is not ours, and what it holds is not repeated.
    """
    try:
        return [(int(claim[0]), int(claim[1])) for claim in claims]
    except (ValueError, TypeError, LookupError, OverflowError):
        raise RequestError("claims: must be pairs of numbers; the message was dropped") from None


# -- the worker's life -------------------------------------------------------------------------------------------------


def _on_ready(**_: Any) -> None:
    """The pool is there: build the parts, so that what is wrong shows now and not at the first tick."""
    try:
        runtime.run(_arrive(), deadline=SHORT_DEADLINE_S)
    except SyncWorkerError as error:
        log.error("worker cannot work yet", error=error.code, why=str(error))  # noqa: TRY400  the text says it all
    _settle_memory()
    threading.Thread(target=_keep_pulse, name="syncworker-pulse", daemon=True).start()


def _settle_memory() -> None:
    """Take what a worker is made of out of the garbage collector's sight, and have it look less often.

    Half a million objects of libraries stay for good, and each full collection walked them all in the midst of a page.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _keep_pulse() -> None:
    """See now and then whether the loop turns: a run that never comes back is one more for the watchdog to find."""
    while not runtime.wait_stopping(_process.pulse_every):
        busy = runtime.busy >= _process.threads
        try:
            runtime.run(_pulse(busy=busy), deadline=SHORT_DEADLINE_S)
        except SyncWorkerError as error:
            log.debug("pulse not written", error=error.code)
        except Exception as error:  # noqa: BLE001  the pulse must outlive whatever one beat of it meets
            log.warning("pulse failed", error=type(error).__name__)


def _on_shutting_down(**_: Any) -> None:
    """Called inside a signal handler, before Celery waits for its threads: bound that wait, in a thread of its own."""
    threading.Thread(target=_end, name="syncworker-stop", daemon=True).start()


def _on_shutdown(**_: Any) -> None:
    _stop()


def _end() -> None:
    """Stop in order, and see to it that the process is gone then; who ends before takes this thread along."""
    until = monotonic() + _process.patience + STOP_GRACE_S + EXIT_MARGIN_S
    _stop()
    time.sleep(max(0.0, until - monotonic()))
    _end_at_once()


def _stop() -> None:
    """Stop in order; with a loop that stands still there is none, and whoever finds that out first says so."""
    if not runtime.stop(_process.patience + STOP_GRACE_S, patience=_process.patience):
        _end_at_once()


def _end_at_once() -> NoReturn:
    log.critical("the process did not end in order")
    os._exit(EXIT_HUNG)


for _signal, _receiver in (
    (signals.worker_ready, _on_ready),  # threads: one process, one loop
    (signals.worker_process_init, _on_ready),  # prefork: one loop per child
    (signals.worker_shutting_down, _on_shutting_down),
    (signals.worker_shutdown, _on_shutdown),
    (signals.worker_process_shutdown, _on_shutdown),
):
    _signal.connect(_receiver, weak=False)


# -- messages that are not ours ----------------------------------------------------------------------------------------


def _careful_consumer() -> type[Any]:
    """Celery's consumer, which refuses a message that is not like ours before anything comes of it.

    Celery's own unpacks a body of three parts without looking; what that raises ends the process, and the message,
    which nothing acknowledged, ends the next one too.  Keywords that are no mapping, a callback or a chain fail after
    the task and outside of it: such a message is never acknowledged, and each takes one of the few a worker may hold.
    """
    from celery.exceptions import InvalidTaskError
    from celery.worker.consumer import Consumer  # a worker's alone: beat and the commands never need it
    from kombu.exceptions import ContentDisallowed, DecodeError

    class CarefulConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
        def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], object]:
            handle = super().create_task_handler(*args, **kwargs)

            def careful(message: Any) -> object:
                try:
                    if "task" not in (message.headers or {}) or _like_ours(message.payload):
                        return handle(message)
                    return self.on_invalid_task(None, message, InvalidTaskError("not like ours"))
                except (ContentDisallowed, DecodeError) as error:
                    return self.on_decode_error(message, error)
                except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                    return self.on_invalid_task(None, message, InvalidTaskError(type(error).__name__))

            return careful

    return CarefulConsumer


def _like_ours(payload: Any) -> bool:
    """Whether the body of a message is arguments, keywords, and nothing to be done afterwards."""
    match payload:
        case [list(), dict(), dict(after)]:
            return not any(after.values())
    return False


_PRINT_MESSAGES: Final = (
    "celery.app.trace",
    "celery.pool",
    "celery.worker.consumer.consumer",
    "celery.worker.request",
    "celery.worker.strategy",
)
"""Loggers of Celery that print parts of messages."""


class _WithoutBodies(logging.Filter):
    """Celery prints what a message holds: body, headers, arguments, and errors that repeat them.

    We say that there was one and what became of it: the constant beginning of Celery's line; of a task of ours its name
    and id, how long it took, and the type and place of an error.
    """

    _ABOUT_BROKER: Final = ("consumer: ", "%s (%r)")
    """Of the consumer: what it says of its connection.  Celery masks the password of the URL."""

    _OF_TASK: Final = "Task %(name)s[%(id)s]"
    _ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__.pop("data", None)  # the arguments once more, as a field
        text, said = str(record.msg), record.args
        if text.startswith(self._OF_TASK) and isinstance(said, Mapping):
            record.args = {name: self._shown(name, value, failed=bool(record.exc_info)) for name, value in said.items()}
            if record.exc_info and record.exc_info[2] is not None:
                frames = traceback.extract_tb(record.exc_info[2])
                record.where = [f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in frames]
            record.exc_info = None
        elif not text.startswith(self._ABOUT_BROKER):
            record.msg = text.splitlines()[0].split("%")[0].rstrip() + " …" if "%" in text else text
            record.args, record.exc_info = (), None
        return True

    def _shown(self, name: str, value: object, *, failed: bool) -> object:
        match name:
            case "args" | "kwargs" | "traceback":
                return "…"
            case "id":
                return value if self._ID.fullmatch(str(value)) else "…"
            case "exc" if failed:  # not one of ours: its text may repeat what it was given
                return str(value).partition("(")[0]
        return value
