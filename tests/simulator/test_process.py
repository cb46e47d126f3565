"""The sandbox as a program: ready in one line, gone with a signal, and with its parent."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from syncworker.simulator.books import Books
from syncworker.simulator.process import SandboxProcess
from tests.simulator.conftest import until

pytestmark = pytest.mark.live


async def test_it_says_where_it_is_when_it_is_ready(bank_dir: Path) -> None:
    """One JSON line, the same as in sandbox.json; every port answers; SIGTERM ends it with 0."""
    process = SandboxProcess(bank_dir, "--customers", "2", "--seed", "9")
    async with process:
        written = json.loads((bank_dir / "sandbox.json").read_text())
        async with Books.of(process.facts) as books:
            customers = await books.customers()
        code = await process.stop()
    assert process.facts == written
    assert not (bank_dir / "sandbox.json").exists()
    assert [one["user"] for one in customers] == process.facts["users"] == ["aisha-1", "omar-2"]
    assert code == 0


async def test_its_facts_hold_no_secret(bank_dir: Path) -> None:
    """Paths of keys, never keys."""
    async with SandboxProcess(bank_dir, "--customers", "1") as process:
        text = json.dumps(process.facts)
        secret = _read(Path(process.facts["books_key"]))
    assert "PRIVATE KEY" not in text
    assert secret
    assert secret not in text


async def test_a_taken_port_is_told_in_a_sentence(bank_dir: Path) -> None:
    """No traceback."""
    async with SandboxProcess(bank_dir, "--customers", "1") as first:
        port = first.facts["issuer"].rpartition(":")[2]
        with pytest.raises(RuntimeError, match=r"did not start: sandbox: cannot listen: .*--base-port"):
            await SandboxProcess(bank_dir, "--base-port", port).__aenter__()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_ends_by_signal(bank_dir: Path, number: signal.Signals) -> None:
    """Within a second or two, with exit code 0."""
    async with SandboxProcess(bank_dir, "--customers", "1") as process:
        os.kill(process.pid, number)
        await until(lambda: not _lives(process.pid), timeout_s=5)
        assert await process.stop() == 0


async def test_it_ends_when_its_parent_is_killed(tmp_path: Path, bank_dir: Path) -> None:
    """`kill -9` of the parent leaves no bank behind."""
    command = f"{sys.executable} -m syncworker.simulator --data-dir {bank_dir} --customers 1 --parent $$"
    script = f"{command} > {tmp_path}/line & echo $! > {tmp_path}/pid; wait"
    shell = await asyncio.create_subprocess_exec("/bin/sh", "-c", script)
    await until(lambda: _read(tmp_path / "line"))
    bank = int(_read(tmp_path / "pid"))
    shell.kill()
    await shell.wait()
    await until(lambda: not _lives(bank), timeout_s=5)


def _lives(pid: int) -> bool:
    stat = _read(Path(f"/proc/{pid}/stat"))
    return bool(stat) and stat.rpartition(")")[2].split()[0] != "Z"


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
