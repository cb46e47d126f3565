"""A bank, its client, and a reader of its books."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from syncworker.simulator.books import Books
from syncworker.simulator.sandbox import Sandbox
from tests.simulator.tpp import TPP, Tokens


async def until(condition: Callable[[], object], *, timeout_s: float = 20) -> None:
    """Wait until something is true that nobody announces."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for belongs to another process or to uvicorn
            await asyncio.sleep(0.01)


class HandClock:
    """A time source that stands still at the present second until a test moves it."""

    def __init__(self) -> None:
        self.moment = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.moment


@pytest.fixture(scope="session")
def bank_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose keys every bank of this run uses again."""
    return tmp_path_factory.mktemp("bank")


@pytest.fixture
async def sandbox(bank_dir: Path) -> AsyncIterator[Sandbox]:
    async with Sandbox(bank_dir, customers=3) as running:
        yield running


@pytest.fixture
async def tpp(sandbox: Sandbox) -> AsyncIterator[TPP]:
    async with TPP(sandbox) as client:
        yield client


@pytest.fixture
async def books(sandbox: Sandbox) -> AsyncIterator[Books]:
    async with Books(sandbox.books_url, sandbox.books_key) as reader:
        yield reader


@pytest.fixture
async def tokens(tpp: TPP) -> Tokens:
    """An authorised consent of the first customer, for everything."""
    return await tpp.consent()
