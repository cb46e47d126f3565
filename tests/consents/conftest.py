"""Fixtures of the consents' tests."""

import contextlib
import json
import shutil
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from syncworker.simulator.sandbox import Sandbox
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store
from tests.consents.house import House
from tests.ground.clock import ManualClock

ROOT = Path(__file__).parents[2]

SandboxMaker = Callable[..., Awaitable[Sandbox]]
Starter = Callable[..., Awaitable[Process]]


@pytest.fixture(scope="session")
def keyring_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the key ring, for other processes."""
    path = tmp_path_factory.mktemp("ring") / "keyring"
    KeyRing.generate(path)
    return path


@pytest.fixture(scope="session")
def keyring(keyring_file: Path) -> KeyRing:
    """The key ring that file holds."""
    return KeyRing.load(keyring_file)


@pytest.fixture(scope="session")
def bank_identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and certificates, made once: a bank that starts again keeps its own."""
    folder = tmp_path_factory.mktemp("bank")
    Sandbox(folder, customers=1)
    return folder


@pytest.fixture
async def sandbox(bank_identity: Path, tmp_path: Path) -> AsyncIterator[SandboxMaker]:
    """`await sandbox(now=…)`: a bank with three customers, closed at the end."""
    folder = tmp_path / "bank"
    shutil.copytree(bank_identity, folder)
    async with contextlib.AsyncExitStack() as stack:

        async def opened(*, now: Callable[[], datetime] | None = None, **changes: Any) -> Sandbox:
            options: dict[str, Any] = {"customers": 3, "strays": False, **changes}
            bank = Sandbox(folder, **options) if now is None else Sandbox(folder, now=now, **options)
            return await stack.enter_async_context(bank)

        yield opened


@pytest.fixture
async def house(sandbox: SandboxMaker, store: Store, clock: ManualClock) -> AsyncIterator[House]:
    """A bank and a store on one clock, on each database."""
    bank = await sandbox(now=clock.now)
    async with contextlib.AsyncExitStack() as stack:
        yield House(bank, store, clock, stack)


@pytest.fixture
async def vault_process(keyring_file: Path, database_url: str) -> AsyncIterator[Starter]:
    """`await vault_process(bank, consent_id, …)`: a real process with a vault of its own, killed at the end.

    `module="calls_process"`: another of the processes of this folder.
    """
    started: list[Process] = []

    async def start(bank: Sandbox, consent_id: str, *, module: str = "vault_process", **order: Any) -> Process:
        orders = {
            "database_url": database_url,
            "keyring": str(keyring_file),
            "consent_id": consent_id,
            "bank": bank.facts(),
            **order,
        }
        argv = (sys.executable, "-m", f"tests.consents.{module}")
        process = await create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE, cwd=ROOT)
        started.append(process)
        assert process.stdin is not None
        process.stdin.write(json.dumps(orders).encode() + b"\n")
        await process.stdin.drain()
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # asyncio leaves the pipes to the collector
