"""`syncworker bench` and `sync_all`, whole: a bank, a broker, workers, phases, audits."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]


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
