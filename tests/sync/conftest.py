"""Fixtures of the sync's tests."""

import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from syncworker.lfi.api import LFIClient
from syncworker.simulator.sandbox import Sandbox
from syncworker.store.unit_of_work import Store
from tests.ground.clock import ManualClock
from tests.sync.books import Desk, file_consent
from tests.sync.house import SETTINGS, Product, config_of


@pytest.fixture
async def desk(store: Store, clock: ManualClock) -> Desk:
    """A connection with an Authorized consent, on each database."""
    await file_consent(store, clock)
    return Desk(store, clock)


@pytest.fixture(scope="session")
def bank_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and certificates of the bank, made once."""
    folder = tmp_path_factory.mktemp("bank-keys")
    Sandbox(folder, customers=1)
    return folder


@pytest.fixture
async def open_product(
    bank_keys: Path, tmp_path: Path, store: Store, clock: ManualClock
) -> AsyncIterator[Callable[..., Awaitable[Product]]]:
    """`await open_product(customers=…)`: a product and its bank, on each database, closed at the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened(
            *, connections: int = 8, settings: Any = SETTINGS, client: Any = None, **options: Any
        ) -> Product:
            folder = shutil.copytree(bank_keys, tmp_path / "bank")
            bank = Sandbox(folder, now=clock.now, **{"customers": 2, **options})
            await stack.enter_async_context(bank)
            made = LFIClient(config_of(bank, connections=connections), clock=clock, **client or {})
            stack.push_async_callback(made.close)
            return Product(bank, store, clock, made, stack, settings)

        yield opened


@pytest.fixture
async def product(open_product: Callable[..., Awaitable[Product]]) -> Product:
    """A product and its bank of two customers, on each database."""
    return await open_product()
