"""`syncworker health`: whether processes get on, for a container's health check; and the same for `up`'s supervisor."""

import asyncio
import contextlib
import http.client
import os
import signal
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from syncworker import beat as beats_of
from syncworker import broker, tasks
from syncworker.cli import frame, show
from syncworker.clock import monotonic
from syncworker.errors import RequestError, SyncWorkerError
from syncworker.processes import Child, host_name
from syncworker.schedule.health import Finding, Verdict, judge, process_runs, quiet_max, workers_of
from syncworker.settings import Settings
from syncworker.store.failures import StoreUnavailableError
from syncworker.store.unit_of_work import Store

BEGIN_MAX_S: Final = 60.0
"""How long a worker that `up` started may take until it notes progress for the first time."""

WATCH_EVERY_S: Final = 10.0
BEAT_NAME: Final = "beat"
WEB_NAME: Final = "web"
WEB_ANSWER_S: Final = 5.0
WEB_TRIES: Final = 3
"""Questions in a row that the web process leaves unanswered when it hangs: one may fall into a busy moment."""

EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  where to ask what listens everywhere


def health(
    worker: Annotated[str | None, typer.Option(help="One worker, by its name: host/process id.")] = None,
    this_host: Annotated[bool, typer.Option("--this-host", help="Every worker of this host.")] = False,
    beat: Annotated[bool, typer.Option("--beat", help="The beat of this host.")] = False,
    web: Annotated[bool, typer.Option("--web", help="The web process of this host: whether /healthz answers.")] = False,
    end_hung: Annotated[
        bool, typer.Option("--end-hung", help="End what hangs on this host, for a restart policy to act.")
    ] = False,
    as_json: frame.AsJson = False,
) -> None:
    """Say whether a worker, beat or web process gets on; exit 1 when it hangs or is absent and is to be started again.

    While the database or the broker is away nobody is blamed (exit 0): a restart would mend nothing, and would lose
    what a worker still holds in its hands.
    """
    if [worker is not None, this_host, beat, web].count(True) != 1:
        raise RequestError("health: say whose, with one of --worker NAME, --this-host, --beat and --web")
    config = frame.settings()
    if web:
        found: Sequence[Finding] = [judge_web(config, web_pid(config))]
    else:
        found = [_judge_beat(config)] if beat else frame.run(_judge_workers(config, worker))
    good = all(one.good for one in found)
    if end_hung:
        # a worker whose loop stands still ends itself on SIGTERM; the web process cannot, nor store what it holds
        _end_hung(found, signal.SIGKILL if web else signal.SIGTERM)
    if as_json:
        processes = [{"name": one.name, "verdict": one.verdict.value, "said": one.said} for one in found]
        show.value({"good": good, "processes": processes})
    else:
        for one in found:
            show.OUT.print(f"{'✓' if one.good else '✗'} {one.name}: {one.verdict.value}, {one.said}", markup=False)
    if not good:
        raise typer.Exit(frame.FAILED)


def _end_hung(found: Sequence[Finding], number: signal.Signals) -> None:
    """Send a signal to each process of this host that hangs."""
    for one in found:
        host, _, pid = one.name.rpartition("/")
        if one.verdict is Verdict.HANGS and host == host_name():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), number)


async def _judge_workers(config: Settings, worker: str | None) -> Sequence[Finding]:
    host = host_name()
    try:
        async with frame.open_store(config) as store:
            names = [worker] if worker is not None else await workers_of(store, host)
            if not names:
                return [Finding(host, Verdict.ABSENT, "no worker runs on this host")]
            return await judge_all(config, store, names)
    except StoreUnavailableError:
        return [Finding(worker or host, Verdict.UNKNOWN, "the database is away")]


async def judge_all(config: Settings, store: Store, names: Sequence[str]) -> Sequence[Finding]:
    """Judge workers side by side; asks those that are quiet."""
    tasks.configure(broker.broker_of(config), config.tick_seconds, config.data_folder)

    async def ask(name: str) -> bool:
        return await asyncio.to_thread(tasks.publish_canary, name)

    quiet = quiet_max(config.tick_seconds)
    return await asyncio.gather(*(judge(store, name, quiet=quiet, ask=ask) for name in names))


def _judge_beat(config: Settings) -> Finding:
    """By the file that a beat writes whenever a tick went out."""
    files = [
        file
        for file in config.data_folder.glob(f"{BEAT_NAME}-*")
        if file.name.rpartition("-")[2].isdigit() and process_runs(int(file.name.rpartition("-")[2]))
    ]
    if not files:
        return Finding(BEAT_NAME, Verdict.ABSENT, f"no beat has sent a tick from {config.data_folder}")
    return min((judge_beat(config, file) for file in files), key=lambda found: found.good)


def judge_beat(config: Settings, file: Path) -> Finding:
    """Whether the beat that writes this file sends its ticks."""
    name = f"{host_name()}/{file.name.rpartition('-')[2]}"
    age = beats_of.ticked_ago(file)
    if age is None:
        return Finding(name, Verdict.ABSENT, "no tick was sent yet")
    if age <= quiet_max(config.tick_seconds).total_seconds():
        return Finding(name, Verdict.ALIVE, f"sent a tick {age:.0f} s ago")
    try:
        broker.check(broker.broker_of(config))
    except SyncWorkerError:
        return Finding(name, Verdict.UNKNOWN, "the broker is away")
    return Finding(name, Verdict.HANGS, f"sent no tick for {age:.0f} s, and the broker answers")


def web_file(config: Settings, pid: int) -> Path:
    """Where a web process notes that it runs."""
    return config.data_folder / f"{WEB_NAME}-{pid}"


def web_pid(config: Settings) -> int | None:
    """Process id of the web process of this data folder; `None` when none runs."""
    names = [file.name.rpartition("-")[2] for file in config.data_folder.glob(f"{WEB_NAME}-*")]
    running = [int(name) for name in names if name.isdigit() and process_runs(int(name))]
    return max(running, default=None)


def judge_web(config: Settings, pid: int | None) -> Finding:
    """Whether the web process answers `/healthz`, whatever it says: that needs its loop and nothing else.

    Waits up to `WEB_TRIES` times `WEB_ANSWER_S`.
    """
    name = f"{host_name()}/{pid or '?'}"
    if config.web.port == 0:
        return Finding(name, Verdict.UNKNOWN, "web.port is 0: nobody knows where it listens")
    if pid is None:
        return Finding(name, Verdict.ABSENT, f"no web process runs from {config.data_folder}")
    for _ in range(WEB_TRIES):
        try:
            status = _asked_health(config)
        except ConnectionRefusedError:
            return Finding(name, Verdict.ABSENT, "it does not listen")
        except (OSError, http.client.HTTPException):
            continue
        return Finding(name, Verdict.ALIVE, f"/healthz answers {status}")
    return Finding(name, Verdict.HANGS, f"/healthz was asked {WEB_TRIES} times and gave no answer")


def _asked_health(config: Settings) -> int:
    host, port = EVERYWHERE.get(config.web.host, config.web.host), config.web.port
    if config.web.certificate is None:
        connection = http.client.HTTPConnection(host, port, timeout=WEB_ANSWER_S)
    else:
        context = ssl.create_default_context()
        context.check_hostname = False  # its certificate names the public host; nothing is told or believed here
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=WEB_ANSWER_S, context=context)
    with contextlib.closing(connection):
        connection.request("GET", "/healthz")
        return connection.getresponse().status


class Watch:
    """Looks after the progress of this host's processes in a thread of its own; the supervisor asks it and never waits.

    Use it around the supervisor: `with watching(config) as watch: Supervisor(…, hung=watch.hung)`.
    """

    def __init__(self, config: Settings) -> None:
        self._config = config
        self._host = host_name()
        self._ended = threading.Event()
        self._asked: Mapping[str, Child] = {}
        self._found: Mapping[int, Finding] = {}
        self._thread = threading.Thread(target=self._run, name="syncworker-health", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join(timeout=2)

    def hung(self, name: str, child: Child) -> str | None:
        """Why a running child hangs, as far as is known; `None` when it does not, or nothing is known yet."""
        self._asked = {**self._asked, name: child}
        found = self._found.get(child.pid)
        if found is None or found.good:
            return None
        if found.verdict is Verdict.ABSENT and monotonic() - child.started_at < BEGIN_MAX_S:
            return None  # it has yet to begin
        return found.said

    def _run(self) -> None:
        while not self._ended.wait(WATCH_EVERY_S):
            try:
                asyncio.run(self._look(dict(self._asked)))
            except SyncWorkerError:
                self._found = {}  # nothing is known, so nobody is blamed
            except Exception as error:  # noqa: BLE001  the watch must outlive whatever one look meets
                self._found = {}
                show.say(f"supervisor | health not seen ({type(error).__name__})")

    async def _look(self, children: Mapping[str, Child]) -> None:
        beats = {name: child for name, child in children.items() if name == BEAT_NAME}
        webs = {name: child for name, child in children.items() if name == WEB_NAME}
        workers = {
            f"{self._host}/{child.pid}": child.pid for name, child in children.items() if name not in {*beats, *webs}
        }
        async with frame.open_store(self._config) as store:
            judged = await judge_all(self._config, store, list(workers))
        found = {workers[one.name]: one for one in judged}
        for child in beats.values():
            file = beats_of.file_of(self._config.data_folder, child.pid)
            found[child.pid] = await asyncio.to_thread(judge_beat, self._config, file)
        for child in webs.values():
            found[child.pid] = await asyncio.to_thread(judge_web, self._config, child.pid)
        self._found = found


@contextlib.contextmanager
def watching(config: Settings) -> Iterator[Watch]:
    """A watch that looks until the block ends."""
    watch = Watch(config)
    watch.start()
    try:
        yield watch
    finally:
        watch.end()
