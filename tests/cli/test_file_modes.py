"""Whatever the product writes is closed to other accounts, whatever the umask it was started with."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from syncworker.store import migrate
from syncworker.store.unit_of_work import Store

pytestmark = pytest.mark.live

AS_A_LIBRARY = """
import asyncio, os, sys
from pathlib import Path
from syncworker.store import migrate
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store

folder = Path(sys.argv[1])
url = f"sqlite:///{folder}/deep/er/data.db"
migrate.upgrade(url)
KeyRing.generate(folder / "keys" / "keyring")

async def write():
    store = Store(url)
    async with store.writing() as unit:
        await unit.work.beat("one", "worker")
        await unit.commit()
        for file in folder.rglob("*"):
            print(oct(file.stat().st_mode & 0o7777), file.is_dir(), file.relative_to(folder))
    await store.close()

asyncio.run(write())
"""

AS_A_PROCESS = """
import sys
from pathlib import Path
from celery import signals
from syncworker import beat, tasks
from syncworker.broker import Broker
from syncworker.processes import EmbeddedBroker

data = Path(sys.argv[1]) / "data"
tasks.configure(Broker(url="redis://localhost"), 1, data, threads=4)
beat.leave_signs(data, f"sqlite:///{data}/data.db")
beat._signs.scheduler = beat.Scheduler(tasks.app, lazy=True)
signals.after_task_publish.send(sender=beat.TICK)  # a tick went out
with EmbeddedBroker(data):
    (data / "told.log").write_text("what the supervisor hears")
"""


def run(*arguments: str, umask: int = 0, folder: Path, **environment: str) -> str:
    """Run Python with a umask of its own; what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        umask=umask,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def open_to_others(folder: Path) -> dict[str, str]:
    """Files and folders beneath a folder that others may use, with their modes; save for `.csr`, which are public."""
    found = {}
    for file in folder.rglob("*"):
        mode = stat.S_IMODE(file.lstat().st_mode)
        if mode & 0o077 and file.suffix != ".csr":
            found[file.relative_to(folder).as_posix()] = f"{mode:04o}"
    return found


def test_a_database_and_what_lies_beside_it(tmp_path: Path) -> None:
    """Folders, the file, `-wal` and `-shm`, and the key ring, also where the program that opens them is not ours."""
    told = run("-c", AS_A_LIBRARY, str(tmp_path), folder=tmp_path).splitlines()

    modes = {name: mode for mode, _, name in (line.split(maxsplit=2) for line in told)}
    assert modes == {
        "deep": "0o700", "deep/er": "0o700", "deep/er/data.db": "0o600", "deep/er/data.db-wal": "0o600",
        "deep/er/data.db-shm": "0o600", "keys": "0o700", "keys/keyring": "0o600",
    }  # fmt: skip


def test_what_worker_beat_and_the_embedded_broker_write(tmp_path: Path) -> None:
    """The data folder, beat's sign of life, the broker's data and log, and what is written beside them."""
    run("-c", AS_A_PROCESS, str(tmp_path), folder=tmp_path)

    assert list((tmp_path / "data").glob("beat-*")) != []
    assert len([file for file in tmp_path.rglob("*") if file.is_file()]) >= 4
    assert open_to_others(tmp_path) == {}


def test_what_commands_write(tmp_path: Path) -> None:
    """`keys generate` and `db upgrade`; the folder they are started in is not theirs."""
    names = ("--organisation", "A", "--organisation-id", "b", "--client-id", "c")
    url = f"sqlite:///{tmp_path}/new/data.db"
    run("-m", "syncworker", "keys", "generate", str(tmp_path / "keys"), *names, folder=tmp_path)
    run("-m", "syncworker", "db", "upgrade", folder=tmp_path, SYNCWORKER_DATABASE_URL=url)

    assert {file.name for file in tmp_path.iterdir()} == {"keys", "new"}
    assert open_to_others(tmp_path) == {}


def test_what_a_sandbox_writes(tmp_path: Path) -> None:
    """Its keys, certificates, logs and facts."""
    data = tmp_path / "bank"
    with subprocess.Popen(
        [sys.executable, "-m", "syncworker.simulator", "--data-dir", str(data)],
        umask=0,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline()  # it serves
        child.send_signal(signal.SIGTERM)

    assert (child.returncode, (data / "server.key").exists()) == (0, True)
    assert open_to_others(tmp_path) == {}


async def test_a_database_that_lay_open_is_closed_when_it_is_opened(tmp_path: Path) -> None:
    """One that an older syncworker made."""
    database = tmp_path / "data.db"
    migrate.upgrade(f"sqlite:///{database}")
    database.chmod(0o644)
    store = Store(f"sqlite:///{database}")
    try:
        async with store.reading() as unit:
            await unit.now()
    finally:
        await store.close()

    assert open_to_others(tmp_path) == {}
