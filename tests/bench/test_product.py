"""`syncworker bench` and `sync_all`, whole: a bank, a broker, workers, phases, audits."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from syncworker.bench.bank import Bank
from syncworker.bench.books import World
from syncworker.bench.drive import environment_for
from syncworker.bench.ground import Load, place_consents, write_settings
from syncworker.store import migrate
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]


@pytest.mark.long
def test_the_command_measures_and_audits_three_phases() -> None:
    """On SQLite and with nothing given; every page served once in each phase, every row compared."""
    argv = [sys.executable, "-m", "syncworker", "bench", "--consents", "2", "--accounts", "1", "--transactions", "5"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SYNCWORKER_")}
    ran = subprocess.run(
        [*argv, "--rounds", "1", "--workers", "1", "--json"],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    measured = json.loads(ran.stdout)["measured"]

    assert [(one["phase"], one["pages"], one["rows"]) for one in measured] == [
        ("first", 22, 50),
        ("unchanged", 22, 50),
        ("changed", 22, 50),
    ]


HARNESS = """
import json
from syncworker.bench import sync_all

done = [sync_all(workers=1), sync_all()]
print(json.dumps([[one.consents, dict(one.outcomes)] for one in done]))
"""


async def test_a_harness_drives_the_product_with_one_call(tmp_path: Path) -> None:
    """`sync_all` reads the settings, starts workers once, and returns when every due consent is committed."""
    world = World(consents=2, accounts=1, transactions=3, today=date(2026, 11, 21))
    with Bank(world, tmp_path / "bank") as bank:
        url = f"sqlite:///{tmp_path / 'own.db'}"
        migrate.upgrade(url)
        file = write_settings(tmp_path, bank, database_url=url, load=Load())
        keyring = KeyRing.load(tmp_path / "keyring").for_tenant("default")
        store = Store(url, keyring=keyring)
        await place_consents(store, bank)
        ran = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", HARNESS],
            capture_output=True,
            text=True,
            timeout=280,
            env=environment_for(file),
        )
        async with store.reading() as unit:
            runs = [run.outcome for run in await unit.runs.latest()]
        await store.close()

    assert ran.returncode == 0, ran.stderr[-2000:]
    assert (json.loads(ran.stdout), runs) == ([[2, {"ok": 2}], [0, {}]], ["ok", "ok"])
