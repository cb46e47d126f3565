"""A bank that opens accounts, and a store, on one clock."""

import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from syncworker.simulator.sandbox import Sandbox
from syncworker.store.unit_of_work import Store
from tests.ground.clock import ManualClock
from tests.openings.house import House


@pytest.fixture(scope="session")
def bank_identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and certificates, made once."""
    folder = tmp_path_factory.mktemp("bank")
    Sandbox(folder, customers=1)
    return folder


@pytest.fixture
async def house(bank_identity: Path, tmp_path: Path, store: Store, clock: ManualClock) -> AsyncIterator[House]:
    """A bank whose openings wait for a person, and a store, on each database."""
    folder = tmp_path / "bank"
    shutil.copytree(bank_identity, folder)
    async with contextlib.AsyncExitStack() as stack:
        bank = await stack.enter_async_context(Sandbox(folder, customers=2, strays=False, now=clock.now))
        house = House(bank, store, clock, stack)
        house.desk.configure(by_hand=True)
        yield house
