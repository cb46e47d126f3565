"""The sandbox as a program: one JSON line on stdout when it is ready, an end by SIGTERM or SIGINT.

`SandboxProcess` starts that program as a child and waits for the line.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from syncworker.simulator.sandbox import REDIRECT_URI, Sandbox
from syncworker.standard.versions import Version

PORTS: Final = 4
"""Ports of one bank."""

Ready = Callable[[dict[str, Any]], None]
"""Is told `Sandbox.facts` when every port answers; of several banks, by their names."""


def main(arguments: Sequence[str] | None = None, *, ready: Ready | None = None) -> int:
    """Run a sandbox bank until SIGTERM or SIGINT, or several of them in this one process (`--lfi`).

    Prints one line of JSON (`Sandbox.facts`) to stdout when every port answers, and writes the same to `sandbox.json`
    in the data directory; then calls `ready` with it.  Of several banks the line is an object of their facts by name,
    and each has a folder of that name in the data directory, with its own keys and its own `sandbox.json`.

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
    parser.add_argument(
        "--version", dest="versions", action="append", choices=[one.value for one in Version],
        help="of the standard; repeat it for a bank that serves several side by side; default v2.1",
    )  # fmt: skip
    parser.add_argument(
        "--lfi", dest="lfis", action="append", nargs=3, metavar=("NAME", "VERSION", "CUSTOMERS"),
        help="a bank of its own, with its own people and keys; repeat it, and leave --version and --customers out",
    )  # fmt: skip
    parser.add_argument("--customers", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--anchor", type=date.fromisoformat, help="last day of the history, YYYY-MM-DD; default today")
    parser.add_argument("--base-port", type=int, default=0, help="first of four ports; 0: the system chooses")
    parser.add_argument("--page-size", type=int, default=100)
    parser.add_argument("--access-token-seconds", type=float, default=600)
    parser.add_argument("--rotation", choices=("always", "never", "omit"), default="always")
    parser.add_argument("--reuse", default="revoke_grant", help="revoke_grant or grace:SECONDS")
    parser.add_argument("--signed-answers", choices=("asked", "always", "never"), default="asked")
    parser.add_argument(
        "--mtls-aliases", action="store_true", help="name a fifth port for tokens and PAR as mtls_endpoint_aliases"
    )
    parser.add_argument("--redirect-uri", default=REDIRECT_URI)
    parser.add_argument("--client-id")
    parser.add_argument("--no-strays", dest="strays", action="store_false", help="serve nothing the standard forbids")
    parser.add_argument("--parent", type=int, metavar="PID", help="end when this process is not the parent any more")
    options = parser.parse_args(arguments)
    for name, version, customers in options.lfis or ():
        if not re.fullmatch(r"[a-z0-9-]+", name) or version not in set(Version):
            parser.error(f"--lfi {name} {version}: give a name of a-z, 0-9 and -, and one of {', '.join(Version)}")
        if not customers.isdecimal():
            parser.error(f"--lfi {name}: CUSTOMERS is a number")
    options.versions = options.versions or [Version.V2_1.value]  # a list as default would be appended to
    return options


async def _serve(options: argparse.Namespace, ready: Ready | None) -> None:
    values = dict(vars(options))
    parent = values.pop("parent")
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    named = values.pop("lfis")
    banks = _banks(values, named or [])
    for bank in banks.values():
        bank.forget_facts()  # of a bank that was killed here
    async with contextlib.AsyncExitStack() as stack:
        for bank in banks.values():
            await stack.enter_async_context(bank)
        facts = {name: bank.facts() for name, bank in banks.items()}
        said = facts if named else facts[""]
        for bank in banks.values():
            bank.write_facts()
            stack.callback(bank.forget_facts)
        print(json.dumps(said), flush=True)  # noqa: T201 - the program's answer
        if ready is not None:
            ready(said)
        watching = asyncio.create_task(_watch_parent(parent, done)) if parent else None
        await done.wait()
        if watching is not None:
            watching.cancel()


def _banks(values: dict[str, Any], named: Sequence[Sequence[str]]) -> dict[str, Sandbox]:
    """The bank of these options under the name `""`, or those that `--lfi` names: other people, ports of their own."""
    data_dir: Path = values.pop("data_dir")
    if not named:
        return {"": Sandbox(data_dir, **values)}
    banks = {}
    for number, (name, version, customers) in enumerate(named):
        own = {
            "versions": [version],
            "customers": int(customers),
            "seed": values["seed"] + number,
            "base_port": values["base_port"] and values["base_port"] + PORTS * number,
        }
        banks[name] = Sandbox(data_dir / name, **values | own)
    return banks


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
            self._signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(patience_s):
                    await self._process.communicate()
            except TimeoutError:
                self._signal(signal.SIGKILL)
                await self._process.communicate()
        return self._process.returncode

    def _signal(self, number: signal.Signals) -> None:
        """Send it past asyncio, whose `terminate` first polls a child and so takes its exit code from who awaits it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
