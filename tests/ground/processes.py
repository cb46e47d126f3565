"""Children of a test: in a group of their own, dead when we are, killed at the end whatever happened.

Each carries a mark in its environment.  Its children inherit the mark, so that a process which left the group is found
too (`processes_left_behind`).
"""

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MARK: Final = "SYNCWORKER_TEST_MARK"
_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)  # loaded before any fork


def die_with_parent(death_signal: int = signal.SIGKILL) -> Callable[[], None]:
    """A `preexec_fn`: the kernel sends `death_signal` when the thread that started the child ends.

    It must run after the child changed its user (which clears the setting); `subprocess` does it in that order.
    """
    parent = os.getpid()

    def in_child() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return in_child


@dataclass(frozen=True, slots=True)
class Account:
    """Another user of this machine, for servers that refuse to run as root."""

    uid: int
    gid: int


class Spawned:
    """A running child.  Output of both kinds goes to a file, which a test may read at any time."""

    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path | None, folder: Path, mark: str
    ) -> None:
        self.argv = tuple(argv)
        self.output_path = folder / f"{Path(argv[0]).name}-{time.monotonic_ns()}.log"
        with self.output_path.open("wb") as output:
            self.process = subprocess.Popen(
                self.argv,
                env={**env, MARK: mark},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        """What it has said so far."""
        return self.output_path.read_text(encoding="utf-8", errors="replace")

    def running(self) -> bool:
        return self.process.poll() is None

    def until(self, ready: Callable[["Spawned"], bool], *, timeout: float = 30.0) -> "Spawned":
        """Wait until `ready(self)`.

        Raises:
            AssertionError: it ended, or the time is over; shows its output.
        """
        deadline = time.monotonic() + timeout
        while not self._settled(ready, deadline):
            time.sleep(0.05)
        return self

    async def soon(self, ready: Callable[["Spawned"], bool], *, timeout: float = 30.0) -> "Spawned":
        """`until`, while the loop goes on."""
        deadline = time.monotonic() + timeout
        while not self._settled(ready, deadline):  # noqa: ASYNC110 - another process sets no event of ours
            await asyncio.sleep(0.05)
        return self

    def wait(self, *, timeout: float = 30.0) -> int:
        """Its exit code, once it ended by itself.

        Raises:
            AssertionError: it did not; shows its output.
        """
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s: {self._story()}") from None

    def signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the whole group."""
        _kill_group(self.process.pid)
        self.process.wait(10)

    def stop(self, *, grace: float = 10.0) -> int:
        """SIGTERM to the process, SIGKILL to the group after `grace` seconds; the exit code."""
        if self.running():
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace)
        _kill_group(self.process.pid)
        return self.process.wait(10)

    def _settled(self, ready: Callable[["Spawned"], bool], deadline: float) -> bool:
        if ready(self):
            return True
        if not self.running():
            raise AssertionError(f"ended with {self.process.returncode} before it was ready: {self._story()}")
        if time.monotonic() > deadline:
            raise AssertionError(f"not ready in time: {self._story()}")
        return False

    def _story(self) -> str:
        return f"{' '.join(self.argv)}\n{self.output()[-4000:]}"


class Nursery:
    """Starts children and answers for their end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self._children: list[Spawned] = []

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready: Callable[[Spawned], bool] | None = None,
        timeout: float = 30.0,
    ) -> Spawned:
        """Start a child; with `ready`, wait for it.

        Args:
            env: added to our own environment.
        """
        child = Spawned(argv, env={**os.environ, **(env or {})}, cwd=cwd, folder=self.folder, mark=self.mark)
        self._children.append(child)
        return child if ready is None else child.until(ready, timeout=timeout)

    def syncworker(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready: Callable[[Spawned], bool] | None = None,
        timeout: float = 30.0,
    ) -> Spawned:
        """Start `python -m syncworker …`."""
        argv = (sys.executable, "-m", "syncworker", *arguments)
        return self.spawn(argv, env=env, cwd=cwd, ready=ready, timeout=timeout)

    def processes_left_behind(self) -> list[str]:
        """`pid command` of every living process that came from here, its children's children too."""
        return [f"{pid} {_command(pid)}" for pid in _marked(self.mark)]

    def clear(self) -> None:
        """Kill every group, and whoever left its group."""
        for child in reversed(self._children):
            child.kill()
        for pid in _marked(self.mark):
            _kill(pid)
        self._children.clear()


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not yet waited for does not."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return said.rpartition(")")[2].split()[0] not in {"Z", "X"}


def account_for_servers() -> Account | None:
    """Whom a server runs as that refuses root: `postgres`, else `nobody`; `None` when we are not root ourselves."""
    if os.geteuid() != 0:
        return None
    import pwd

    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(found.pw_uid, found.pw_gid)
    return Account(65534, 65534)


def folder_for(account: Account | None, kind: str, *, inside: Path | None = None) -> Path:
    """A new temporary folder of `account`: a short path, and outside pytest's own, which only we may enter.

    Its name holds our process id; folders of the same kind whose maker was killed are removed first.
    """
    parent = inside or Path(tempfile.gettempdir())
    for left in parent.glob(f"{kind}-*-*"):
        maker = left.name.split("-")[1]
        if maker.isdigit() and not alive(int(maker)):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-{os.getpid()}-", dir=parent))
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    return folder


def _marked(mark: str) -> list[int]:
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended, or belongs to somebody else
        if wanted in environment and alive(int(entry.name)):
            found.append(int(entry.name))
    return sorted(found)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(ended)"


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
