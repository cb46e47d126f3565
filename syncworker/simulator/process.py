"""The sandbox as a program: one JSON line on stdout when it is ready, an end by SIGTERM or SIGINT.

`SandboxProcess` starts that program as a child and waits for the line.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from syncworker.simulator.sandbox import REDIRECT_URI, Sandbox

Ready = Callable[[dict[str, Any]], None]
"""Is told `Sandbox.facts` when every port answers."""


def main(arguments: Sequence[str] | None = None, *, ready: Ready | None = None) -> int:
    """Run a sandbox bank until SIGTERM or SIGINT.

    Prints one line of JSON (`Sandbox.facts`) to stdout when every port answers, and writes the same to `sandbox.json`
    in the data directory; then calls `ready` with it.

    Returns: 0 after a signal, 1 when a port is taken.
    """
    options = _options(arguments)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(options, ready))
    except OSError as fault:
        print(f"sandbox: cannot listen: {fault.strerror}; choose another --base-port", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="syncworker.simulator", description="A sandbox bank on loopback.")
    parser.add_argument("--data-dir", type=Path, required=True, help="keys and certificates; kept between starts")
    parser.add_argument("--customers", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--anchor", type=date.fromisoformat, help="last day of the history, YYYY-MM-DD; default today")
    parser.add_argument("--base-port", type=int, default=0, help="first of four ports; 0: the system chooses")
    parser.add_argument("--page-size", type=int, default=100)
    parser.add_argument("--access-token-seconds", type=float, default=600)
    parser.add_argument("--rotation", choices=("always", "never", "omit"), default="always")
    parser.add_argument("--reuse", default="revoke_grant", help="revoke_grant or grace:SECONDS")
    parser.add_argument("--redirect-uri", default=REDIRECT_URI)
    parser.add_argument("--client-id")
    parser.add_argument("--no-strays", dest="strays", action="store_false", help="serve nothing the standard forbids")
    parser.add_argument("--parent", type=int, metavar="PID", help="end when this process is not the parent any more")
    return parser.parse_args(arguments)


async def _serve(options: argparse.Namespace, ready: Ready | None) -> None:
    values = dict(vars(options))
    parent = values.pop("parent")
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    bank = Sandbox(values.pop("data_dir"), **values)
    bank.forget_facts()  # of a bank that was killed here
    async with bank as sandbox:
        sandbox.write_facts()
        print(json.dumps(sandbox.facts()), flush=True)  # noqa: T201 - the program's answer
        if ready is not None:
            ready(sandbox.facts())
        watching = asyncio.create_task(_watch_parent(parent, done)) if parent else None
        await done.wait()
        if watching is not None:
            watching.cancel()
        sandbox.forget_facts()


async def _watch_parent(parent: int, done: asyncio.Event) -> None:
    """Set `done` when this process belongs to another parent."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nobody tells a child that its parent died
        await asyncio.sleep(0.5)
    done.set()


def _loop_factory() -> Any:
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None


class SandboxProcess:
    """A sandbox in a process of its own, ended with the `async with` around it.

    Args:
        data_dir: as for `Sandbox`.
        options: command line options, such as `--customers 50`.

    Raises:
        RuntimeError: it ended before it was ready; the message is its last line on stderr.
        TimeoutError: not ready within `timeout_s`.
    """

    def __init__(self, data_dir: Path, *options: str, timeout_s: float = 30) -> None:
        self._command = (sys.executable, "-m", "syncworker.simulator", "--data-dir", str(data_dir), *options)
        self._timeout_s = timeout_s
        self._process: Process | None = None
        self.facts: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        """Its process id, 0 when it does not run."""
        return self._process.pid if self._process else 0

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, "--parent", str(os.getpid()), stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(self._timeout_s):
                line = await self._process.stdout.readline()
        except BaseException:
            await self.stop()
            raise
        if not line:
            _, stderr = await self._process.communicate()
            last = stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise RuntimeError(f"the sandbox did not start: {last[0]}")
        self.facts = json.loads(line)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self, *, patience_s: float = 5) -> int | None:
        """End it (SIGTERM, then SIGKILL) and give its exit code; `None` when it did not run."""
        if self._process is None:
            return None
        if self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(patience_s):
                    await self._process.communicate()
            except TimeoutError:
                self._process.kill()
                await self._process.communicate()
        return self._process.returncode
