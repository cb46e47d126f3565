"""A bank that opens accounts, and a store, on one clock."""

import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
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


@contextlib.asynccontextmanager
async def _house(identity: Path, folder: Path, store: Store, clock: ManualClock) -> AsyncIterator[House]:
    shutil.copytree(identity, folder)
    async with contextlib.AsyncExitStack() as stack:
        bank = await stack.enter_async_context(Sandbox(folder, customers=1, strays=False, now=clock.now))
        house = House(bank, store, clock, stack)
        house.desk.configure(by_hand=True)
        yield house


@pytest.fixture
async def house(
    bank_identity: Path, tmp_path: Path, open_store: Callable[..., Store], sqlite_url: str, clock: ManualClock
) -> AsyncIterator[House]:
    """A bank whose openings wait for a person, and a store in a file: what differs by database `test_table` tells."""
    async with _house(bank_identity, tmp_path / "bank", open_store(sqlite_url), clock) as house:
        yield house


@pytest.fixture
async def house_on_each(bank_identity: Path, tmp_path: Path, store: Store, clock: ManualClock) -> AsyncIterator[House]:
    """The same on each database."""
    async with _house(bank_identity, tmp_path / "bank", store, clock) as house:
        yield house
