"""`worker`, `up` and `sandbox`: processes that run until they are told to end."""

import signal
import sys
import threading
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from syncworker import broker, opening, tasks
from syncworker.cli import bank_settings, frame, liveness, logs, show
from syncworker.cli.logs import Level, LogLevel
from syncworker.processes import EmbeddedBroker, Program, Supervisor, process_name
from syncworker.settings import CONFIG_VARIABLE, EMBEDDED, Settings
from syncworker.standard.versions import Version
from syncworker.store import migrate


class Queue(StrEnum):
    """What a worker may take; the queues of `celeryconfig.py`."""

    SYNC = "sync"
    TOKEN = "token"  # noqa: S105  the name of a queue
    TICK = "tick"


RUN: Final = (sys.executable, "-m", "syncworker")


def worker(
    queues: Annotated[list[Queue] | None, typer.Option("--queue", help="Repeatable; all by default.")] = None,
    log_level: Level = LogLevel.INFO,
) -> None:
    """Run one worker process: claims, token refreshes and syncs, on one event loop."""
    name = process_name()
    ready_worker(frame.settings(), log_level, name=name)
    raise typer.Exit(broker.start(tasks.worker_arguments(queues=queues or (), worker=name, loglevel=log_level)))


def up(
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Worker processes; the setting `workers` otherwise.")
    ] = None,
    log_level: Level = LogLevel.INFO,
) -> None:
    """Run everything on this machine: broker when embedded, workers, beat, and with `[web] enabled` the web process.

    Ctrl-C or SIGTERM ends all in order.

    A process that died or hangs is started again.
    """
    config = frame.settings(workers=workers)
    opening.load_keyring(config)
    if config.database_url.startswith("sqlite"):
        migrate.upgrade(config.database)
    migrate.check(config.database)
    embedded = EmbeddedBroker(config.data_folder) if config.broker_url == EMBEDDED else None
    if embedded is None:
        broker.check(broker.broker_of(config))
    level = f"--log-level={log_level}"
    programs = [Program(name=name, argv=(*RUN, "worker", level)) for name in _worker_names(config)]
    programs.append(Program(name=liveness.BEAT_NAME, argv=(*RUN, "beat", level)))
    if config.web.enabled:
        programs.append(Program(name=liveness.WEB_NAME, argv=(*RUN, "web", level)))
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with liveness.watching(config) as watch, Supervisor(programs, broker=embedded, hung=watch.hung) as supervisor:
        running = ", ".join(f"{name} {pid}" for name, pid in supervisor.children().items())
        show.say(f"up: {running}{', embedded broker' if embedded else ''}; Ctrl-C ends it")
        supervisor.run(ended)
        show.say("stopping …")


def sandbox(
    folder: Annotated[Path, typer.Option(help="Keys and facts of the bank; kept between starts.")] = Path(
        ".syncworker/sandbox"
    ),
    customers: Annotated[int, typer.Option(min=1, help="How many people have accounts.")] = 8,
    base_port: Annotated[
        int, typer.Option(min=0, max=65_000, help="First of four ports; 0 lets the system choose.")
    ] = 18_440,
    access_token_seconds: Annotated[int, typer.Option(min=1)] = 600,
    version: Annotated[
        list[Version] | None, typer.Option("--version", help="Of the standard; repeatable, v2.1 by default.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Argument(help="More options of the bank, after --; or `break LFI 429|500|slow|down|revoke`, `mend LFI`."),
    ] = None,
) -> None:
    """Run a sandbox bank on loopback: PAR, consent page, tokens and data over mTLS; or make trouble at one that runs.

    `sandbox break LFI TROUBLE` has a running bank answer 429 or 500, answer slowly, cut connections, or its customers
    revoke; `sandbox mend LFI` ends that.

    When it is ready it prints one line of JSON and writes it to sandbox.json in the folder.  Beside it lies a
    syncworker.toml with the settings to reach it, written anew at each start.
    """
    folder = folder.absolute()
    if options and options[0] in ("break", "mend"):
        from syncworker.cli import breaking

        breaking.run(folder, options)
        return
    from syncworker.simulator import main as bank

    def ready(facts: dict[str, Any]) -> None:
        file = bank_settings.write(folder, facts)
        show.say(f"sandbox bank at {facts['issuer']}; in another terminal: export {CONFIG_VARIABLE}={file}")

    arguments = ["--data-dir", str(folder), "--customers", str(customers), "--base-port", str(base_port)]
    arguments += ["--access-token-seconds", str(access_token_seconds)]
    arguments += [part for one in version or () for part in ("--version", one.value)] + (options or [])
    raise typer.Exit(bank(arguments, ready=ready))


def _worker_names(config: Settings) -> list[str]:
    """One name for each worker process to run."""
    if config.workers > 1 and config.database_url.startswith("sqlite"):
        show.say(f"workers: 1 instead of {config.workers}: SQLite takes one writer at a time; use PostgreSQL for more")
        return ["worker"]
    return ["worker"] if config.workers == 1 else [f"worker-{number}" for number in range(1, config.workers + 1)]


def ready_worker(config: Settings, log_level: str, *, name: str, threads: int | None = None) -> None:
    """Logs on; schema, key ring and broker checked; the Celery app configured for a worker of this name.

    Args:
        threads: in the place of those of the settings.

    Raises:
        SyncWorkerError: something that a worker needs is not there; says what, and the fix.
    """
    logs.configure(log_level)
    migrate.check(config.database)
    opening.load_keyring(config)
    found = broker.broker_of(config)
    broker.check(found)
    tasks.configure(
        found,
        config.tick_seconds,
        config.data_folder,
        threads=threads or config.threads,
        batch_deadline=config.batch_deadline,
        worker=name,
    )
