"""The demo as a newcomer runs it: real processes, real sockets, and nothing left behind."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from syncworker.cli import demo as demo_module
from syncworker.errors import SetupError
from tests.ground.postgres import PostgresServer
from tests.ground.processes import Nursery, Spawned
from tests.ground.valkey import ValkeyServer

pytestmark = [pytest.mark.live, pytest.mark.timeout(330)]

CUSTOMERS = "3"
PROVED = (
    "all 3 consents synced",
    "0 resource rows written, by the database's own counters",
    "in the table and in the change feed",
    "3 consents refreshed by beat",
    "0 of them with an expired token",
    "2 consents subscribed at their Hubs",
    "calls stop, tokens and data stay",
    "transactions as before, 0 rows changed",
    "the consent before it is revoked at the Hub, by us, now that its successor works",
    "pending → lfi_processing → completed → shared → 1 account synced",
    "0 calls with its tokens while it was suspended",
    "rows as before",
    "0 calls later than a tick",
    "0 rows written after a revocation, though the bank had something new each time",
    "0 of them still have tokens",
)


def left_behind(worker_process: Nursery, *, within: float) -> list[str]:
    """What still lives after at most `within` seconds."""
    until = time.monotonic() + within
    while (left := worker_process.processes_left_behind()) and time.monotonic() < until:
        time.sleep(0.1)
    return left


def proved(demo: Spawned) -> list[str]:
    """Which of the demo's claims its output shows as held."""
    return [claim for claim in PROVED if re.search(rf"✓ .*{re.escape(claim)}", demo.output())]


def ended(demo: Spawned) -> list[str]:
    """Where consents were revoked, from the table of act two, whatever made us look: a busy machine may be refused a
    call before the event or the next look has its turn."""
    told = r"(?:told by an event|found by asking|asked after a refused call)"
    return re.findall(rf"^(bank-[a-z]+) +\S+ +{told} ", demo.output(), re.MULTILINE)


PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def last_lines(demo: Spawned) -> list[str]:
    """What the demo ends with, as copied into a shell: the settings, then one command."""
    _, _, last = demo.output().rpartition("look around with: ")
    settings, *commands = last.strip().splitlines()
    return [f"{settings}\n{command}" for command in commands]


def shown(demo: Spawned) -> set[tuple[str, str]]:
    """LFIs with the version of their consents, from the demo's table."""
    return set(re.findall(r"^(bank-[a-z]+) +(v\d\.\d) +\S+ +[0-9a-f]{8}…", demo.output(), re.MULTILINE))


def test_without_a_terminal_the_demo_proves_its_claims_and_ends_by_itself(
    worker_process: Nursery, tmp_path: Path
) -> None:
    """SQLite and a broker of its own: the two defaults of a newcomer; three customers, each at a bank of its own."""
    demo = worker_process.syncworker("demo", "--customers", CUSTOMERS, cwd=tmp_path)

    assert demo.wait(timeout=300) == 0, demo.output()
    assert proved(demo) == list(PROVED), demo.output()
    assert shown(demo) == {("bank-one", "v2.1"), ("bank-two", "v2.0"), ("bank-three", "v1.2")}, demo.output()
    assert demo.output().count("\n0 differences") == 3, demo.output()
    assert ended(demo) == ["bank-three", "bank-two"], demo.output()
    assert left_behind(worker_process, within=5) == []
    for command, printed in zip(last_lines(demo), ("\nsums\n", "\nbooking date "), strict=True):
        shell = worker_process.spawn(("sh", "-c", command), cwd=tmp_path, env={"PATH": PATH})
        assert shell.wait(timeout=60) == 0, shell.output()
        assert printed in f"\n{shell.output()}", shell.output()


def test_a_second_demo_on_the_same_folder_is_refused(worker_process: Nursery, tmp_path: Path) -> None:
    """It would delete the first one's files; a lock that ends with the process keeps it out."""
    folder = tmp_path / "demo"
    with demo_module._held(folder):
        (folder / "demo.db").write_text("the first one's")

        second = worker_process.syncworker("demo", "--folder", str(folder))

        assert second.wait() == 1
        assert f"another demo runs in {folder}" in second.output()
        assert (folder / "demo.db").read_text() == "the first one's"


def test_a_folder_of_another_demo_that_ended_is_emptied(tmp_path: Path) -> None:
    """Files, folders and links go; what a link points to stays; a folder with other files is refused."""
    folder, elsewhere = tmp_path / "demo", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    with demo_module._held(folder):
        (folder / "data").mkdir()
        (folder / "demo.db").touch()
        (folder / "link").symlink_to(elsewhere)

    with demo_module._held(folder):
        assert [entry.name for entry in folder.iterdir()] == [".syncworker-demo"]
    assert (elsewhere / "kept").exists()
    with pytest.raises(SetupError, match="holds files that are not the demo's"), demo_module._held(elsewhere):
        pass


@pytest.mark.long
def test_the_demo_runs_on_a_postgresql_and_a_redis_of_yours(
    worker_process: Nursery, tmp_path: Path, postgres_server: PostgresServer, valkey: ValkeyServer
) -> None:
    """The same engine and the same proofs on the production database, empty at the start."""
    valkey.flush()
    database = postgres_server.clone("template0")
    env = {"SYNCWORKER_DATABASE_URL": postgres_server.url(database), "SYNCWORKER_BROKER_URL": valkey.url}

    demo = worker_process.syncworker("demo", "--customers", CUSTOMERS, cwd=tmp_path, env=env)

    assert demo.wait(timeout=300) == 0, demo.output()
    assert proved(demo) == list(PROVED), demo.output()
    assert demo.output().count("\n0 differences") == 3, demo.output()
    assert left_behind(worker_process, within=5) == []


def running(child: Spawned) -> bool:
    """Whether bank, broker, worker and beat are up and syncing."""
    return "What is in the database" in child.output()


def test_ctrl_c_ends_everything_in_order(worker_process: Nursery, tmp_path: Path) -> None:
    """On a terminal it stays until then."""
    demo = worker_process.syncworker("demo", "--customers", "1", "--stay", cwd=tmp_path, ready=running, timeout=60)

    demo.signal(signal.SIGINT)

    assert demo.wait(timeout=45) == 0, demo.output()
    assert left_behind(worker_process, within=5) == []


def test_killed_the_demo_takes_its_children_along(worker_process: Nursery, tmp_path: Path) -> None:
    """`kill -9` leaves nobody to clean up; the kernel does."""
    demo = worker_process.syncworker("demo", "--customers", "1", "--stay", cwd=tmp_path, ready=running, timeout=60)

    demo.process.kill()
    demo.wait()

    assert left_behind(worker_process, within=10) == []


def test_the_demo_ends_when_what_started_it_is_killed(worker_process: Nursery, tmp_path: Path) -> None:
    """`make` or a shell, killed with -9: no bank and no worker goes on by itself."""
    starter = (
        "import subprocess, sys; "
        "subprocess.run([sys.executable, '-m', 'syncworker', 'demo', '--customers', '1', '--stay'])"
    )
    parent = worker_process.spawn((sys.executable, "-c", starter), cwd=tmp_path, ready=running, timeout=60)

    parent.process.kill()
    parent.wait()

    assert left_behind(worker_process, within=45) == []


def test_the_demo_empties_only_its_own_folder(worker_process: Nursery, tmp_path: Path) -> None:
    """Somebody's files in the folder stop it before it touches anything."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")

    demo = worker_process.syncworker("demo", "--folder", "mine", cwd=tmp_path)

    assert demo.wait() == 1
    assert "folder:" in demo.output()
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
