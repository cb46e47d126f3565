"""The Celery app and its tasks: thin shells that hand one coroutine to the process's loop and wait.

`tick` claims what is due and publishes hints; `sync_batch` and `token_batch` work on the claims a hint names.
Messages are a public format: names stay, unknown keywords are ignored, arguments are integers (`reliability.md` rule
8).  Running a batch twice is harmless, since a claim is begun once; losing one costs a lease.

Nothing but the app is built when this module is imported.  `configure` gives it the settings' values before a worker
or beat starts; the parts are built on the process's loop at first use, by `wiring`.
"""

import contextlib
import gc
import importlib.util
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

from celery import Celery, signals
from kombu import Connection
from kombu.exceptions import KombuError, OperationalError

from syncworker.errors import SettingsError, SetupError, SyncWorkerError
from syncworker.runtime import Runtime
from syncworker.schedule.claims import Batch
from syncworker.settings import load
from syncworker.store.work import WorkKind

log = logging.getLogger(__name__)

Hints = Sequence[tuple[int, int]]
"""Claims as a message carries them: `(id, gen)`."""

BATCH_DEADLINE_S: Final = 900.0
BROKER_CONNECT_S: Final = 5.0
SHORT_DEADLINE_S: Final = 30.0
"""For what only touches the database: a tick, a heartbeat, giving claims back."""

STOP_PATIENCE_S: Final = 20.0
"""How long runs may go on after SIGTERM: more than the longest token call, since a call cut short is in doubt."""

STOP_GRACE_S: Final = 17.0
"""After that, how long cancelled runs, shielded commits and the closing of the parts may take together.

More than one token call too: a refresh may begin as late as the end of the patience, and must not be cut short.
"""

THREADS: Final = 8
RESERVED_THREADS: Final = 2
"""Threads no sync may keep: a tick and a token refresh always find one."""

GC_THRESHOLDS: Final = (10_000, 20, 50)
"""New objects before a young collection, and of how many the older generations follow (`docs/performance.md`)."""

SYNC_WAIT_S: Final = 0.25
"""How long a sync batch may hold a reserved thread while it waits for one of its own; then its claims go back."""


class Application(Protocol):
    """What a worker process can do: built by `wiring`, lives on the process's loop."""

    async def tick(self) -> list[Batch]:
        """Claim what is due and commit."""
        ...

    async def sync_batch(self, claims: Hints) -> object:
        """Sync the claimed connections; one failure is a value in the report."""
        ...

    async def token_batch(self, claims: Hints) -> object:
        """Refresh the claimed consents' tokens; one failure is a value in the report."""
        ...

    async def progress(self) -> None:
        """Note that this worker gets on."""
        ...

    async def give_back(self, claims: Hints) -> object:
        """Free claims nobody will begin."""
        ...

    async def leave(self) -> None:
        """Note that this worker ends in order."""
        ...

    async def close(self) -> None:
        """Give everything back."""
        ...


class _Process:
    """What this process was told before it started."""

    def __init__(self) -> None:
        self.build: Callable[[], Awaitable[Application]] = _build_from_settings
        self.batch_deadline = BATCH_DEADLINE_S
        self.patience = STOP_PATIENCE_S
        self.sync_threads = threading.BoundedSemaphore(THREADS - RESERVED_THREADS)


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
        log.warning("this worker's end was not noted (%s)", error.code)
    await application.close()


def _celeryconfig() -> ModuleType:
    """`celeryconfig.py`: beside the package in a checkout, inside it in a wheel."""
    here = Path(__file__).resolve().parent
    for file in (here / "celeryconfig.py", here.parent / "celeryconfig.py"):
        spec = importlib.util.spec_from_file_location("syncworker_celeryconfig", file)
        if file.is_file() and spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise SetupError("celeryconfig.py: not found beside or inside the package; install syncworker anew")


_process: Final = _Process()
runtime: Final[Runtime[Application]] = Runtime(_build, _close)
app: Final = Celery("syncworker", set_as_current=False)
app.config_from_object(_celeryconfig())


def configure(
    broker_url: str,
    tick_seconds: float,
    data_dir: Path,
    *,
    threads: int = THREADS,
    batch_deadline: float = BATCH_DEADLINE_S,
    patience: float = STOP_PATIENCE_S,
    build: Callable[[], Awaitable[Application]] | None = None,
) -> None:
    """Give the app the settings' values; before a worker or beat starts, and before anything is published.

    Args:
        broker_url: of Redis, Valkey or RabbitMQ; `embedded` is resolved by the caller.
        tick_seconds: between two ticks; a tick nobody took within that time is dropped.
        data_dir: for what beat or a worker may have to keep; made when missing.
        threads: of a worker process, batches at once; two of them never take a sync.
        batch_deadline: seconds for one batch.
        patience: seconds that runs may go on after SIGTERM, before they are cancelled.
        build: builds the application on the process's loop; without it, `wiring` builds it from the settings.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    entry = dict(app.conf.beat_schedule["tick"], schedule=tick_seconds, options={"expires": tick_seconds})
    app.conf.update(
        broker_url=broker_url,
        worker_concurrency=max(threads, RESERVED_THREADS + 1),
        beat_schedule={"tick": entry},
        beat_schedule_filename=str(data_dir / "beat"),
        beat_max_loop_interval=min(1.0, tick_seconds),
    )
    _process.batch_deadline = batch_deadline
    _process.patience = patience
    _process.sync_threads = threading.BoundedSemaphore(max(threads - RESERVED_THREADS, 1))
    if build is not None:
        _process.build = build
    for name in ("celery.worker.consumer.consumer", "celery.worker.strategy"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, _WithoutBodies) for known in logger.filters):
            logger.addFilter(_WithoutBodies())


def check_broker(broker_url: str) -> None:
    """See whether the broker answers, before a process that needs it starts.

    Raises:
        SetupError: it does not; names the setting and the fix.
    """
    scheme = broker_url.partition("://")[0]
    try:
        with Connection(broker_url, connect_timeout=BROKER_CONNECT_S) as connection:
            connection.ensure_connection(max_retries=1, timeout=BROKER_CONNECT_S)
    except (OSError, KombuError) as error:
        fix = (
            "start one with `syncworker up`, or set broker_url to a Redis or Valkey of yours"
            if scheme == "redis+socket"
            else "start it, or correct broker_url"
        )
        raise SetupError(f"broker_url: no broker answers ({scheme}, {type(error).__name__}); {fix}") from None
    except (KeyError, ValueError):
        raise SettingsError("broker_url: not a broker's URL; write redis://host:6379/0 or embedded") from None


def worker_arguments(*, queues: Sequence[str] = (), loglevel: str = "INFO") -> list[str]:
    """Arguments for `app.worker_main`.

    Args:
        queues: to consume; none means all of them.
    """
    arguments = ["worker", f"--loglevel={loglevel}", f"--hostname=syncworker-{os.getpid()}@%h"]
    arguments += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    return arguments + ([f"--queues={','.join(queues)}"] if queues else [])


def beat_arguments(*, loglevel: str = "INFO") -> list[str]:
    """Arguments for `app.start`."""
    return ["beat", f"--loglevel={loglevel}", "--pidfile="]


def _task(name: str) -> Callable[[Callable[..., None]], Any]:
    """A task by its public name; our own errors are outcomes, logged in one line."""
    decorator: Callable[[Callable[..., None]], Any] = app.task(name=name, throws=(SyncWorkerError,))
    return decorator


# -- tasks -------------------------------------------------------------------------------------------------------------


@_task("tick")
def tick(**_ignored: object) -> None:
    """Claim what is due, commit, publish.  Any number of ticks at once do no harm."""
    batches = runtime.run(_tick(), deadline=SHORT_DEADLINE_S)
    for position, batch in enumerate(batches):
        try:
            publish(batch)
        except OperationalError:
            left = [hint for unpublished in batches[position:] for hint in unpublished.claims]
            log.warning("broker away: %d claims given back", len(left))
            runtime.run(_give_back(left), deadline=SHORT_DEADLINE_S)
            return


@_task("sync_batch")
def sync_batch(claims: list[list[int]], **_ignored: object) -> None:
    """Sync the claimed connections.  Running it twice is harmless: a claim is begun once, a stale one is skipped."""
    hints = _hints(claims)
    with _sync_thread() as free:
        work = _sync(hints) if free else _give_back(hints)  # no thread: the rows wait in the table, not here
        runtime.run(work, deadline=_process.batch_deadline)


@_task("token_batch")
def token_batch(claims: list[list[int]], **_ignored: object) -> None:
    """Refresh the tokens of the claimed consents.  Running it twice is harmless, as above."""
    runtime.run(_refresh(_hints(claims)), deadline=_process.batch_deadline)


TASKS: Final = {WorkKind.SYNC: sync_batch, WorkKind.TOKEN: token_batch}


def publish(batch: Batch) -> None:
    """Send the hint that a batch of claims waits.  Call it after the commit of the claims.

    Raises:
        OperationalError: the broker is away.
    """
    TASKS[batch.kind].apply_async(args=([list(hint) for hint in batch.claims],))


def publish_tick() -> bool:
    """Ask for a tick now, as when somebody waits for a sync.

    Returns:
        Whether the broker took it; beat's next one does the same.
    """
    try:
        tick.apply_async(expires=SHORT_DEADLINE_S)
    except OperationalError:
        return False
    return True


async def _tick() -> list[Batch]:
    application = await runtime.parts()
    return await application.tick()


async def _sync(hints: Hints) -> None:
    application = await runtime.parts()
    await application.progress()
    await application.sync_batch(hints)


async def _refresh(hints: Hints) -> None:
    application = await runtime.parts()
    await application.progress()
    await application.token_batch(hints)


async def _give_back(hints: Hints) -> None:
    application = await runtime.parts()
    await application.give_back(hints)


async def _progress() -> None:
    application = await runtime.parts()
    await application.progress()


def _hints(claims: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    return [(int(claim[0]), int(claim[1])) for claim in claims]


@contextlib.contextmanager
def _sync_thread() -> Iterator[bool]:
    threads = _process.sync_threads
    free = threads.acquire(timeout=SYNC_WAIT_S)
    try:
        yield free
    finally:
        if free:
            threads.release()


# -- the worker's life -------------------------------------------------------------------------------------------------


def _on_ready(**_: Any) -> None:
    """The pool is there: build the parts, so that what is wrong shows now and not at the first tick."""
    try:
        runtime.run(_progress(), deadline=SHORT_DEADLINE_S)
    except SyncWorkerError as error:
        log.error("worker is not able to work yet: %s (%s)", error, error.code)  # noqa: TRY400  the text says it all
    _settle_memory()


def _settle_memory() -> None:
    """Take what a worker is made of out of the garbage collector's sight, and have it look less often.

    Half a million objects of libraries stay for good, and each full collection walked them all in the midst of a page.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _on_shutting_down(**_: Any) -> None:
    """Called inside a signal handler, before Celery waits for its threads: bound that wait, in a thread of its own."""
    threading.Thread(target=_stop, name="syncworker-stop", daemon=True).start()


def _on_shutdown(**_: Any) -> None:
    _stop()


def _stop() -> None:
    runtime.stop(_process.patience + STOP_GRACE_S, patience=_process.patience)


def _on_beat(**_: Any) -> None:
    """Beat keeps nothing, so SIGTERM may end it anywhere.

    Celery's own handler raises `SystemExit`, which is lost when it strikes while a message is being published: beat
    would go on until it is killed.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


for _signal, _receiver in (
    (signals.worker_ready, _on_ready),  # threads: one process, one loop
    (signals.worker_process_init, _on_ready),  # prefork: one loop per child
    (signals.worker_shutting_down, _on_shutting_down),
    (signals.worker_shutdown, _on_shutdown),
    (signals.worker_process_shutdown, _on_shutdown),
    (signals.beat_init, _on_beat),
):
    _signal.connect(_receiver, weak=False)


class _WithoutBodies(logging.Filter):
    """Celery prints the whole body of a message it does not understand; we say that there was one (rule 37)."""

    _OPENINGS: Final = ("Received and deleted unknown", "Received unregistered", "Received invalid", "Can't decode")

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        if text.startswith(self._OPENINGS):
            record.msg, record.args, record.exc_info = text.splitlines()[0].split("%")[0].rstrip() + " …", (), None
        return True
