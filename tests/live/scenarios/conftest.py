"""Fixtures of the scenarios: what is authorised once, and an installation of one's own."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.ground.postgres import PostgresServer
from tests.ground.processes import Nursery
from tests.live.scenarios.installation import Installation, Prepared, open_banks, prepare

CUSTOMERS = 9


Prepare = Callable[..., Prepared]


@pytest.fixture(scope="session")
def prepare_banks(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepare]:
    """`prepare_banks(slug …, customers=…)`: banks whose customers have consented, ended with the session."""
    nurseries: list[Nursery] = []

    def prepared(*slugs: str, customers: int, long_every: int = 4) -> Prepared:
        folder = tmp_path_factory.mktemp("scenarios")
        nurseries.append(Nursery(folder))
        options = ("--customers", str(customers), "--access-token-seconds", "3600")  # outlives the tests
        banks = open_banks(nurseries[-1], folder, *slugs, options=options)
        return prepare(folder, banks, postgres_server.url(postgres_server.clone()), long_every=long_every)

    yield prepared
    for nursery in nurseries:
        nursery.clear()


@pytest.fixture(scope="session")
def prepared(prepare_banks: Prepare) -> Prepared:
    """One bank for the scenarios that leave its grants alone."""
    return prepare_banks("sandbox", customers=CUSTOMERS)


@pytest.fixture
async def install(
    postgres_server: PostgresServer, worker_process: Nursery, broker_url: str, tmp_path: Path
) -> AsyncIterator[Callable[..., Any]]:
    """`await install(prepared, **settings)`: an installation on a clone of the prepared database."""
    clones: list[str] = []
    async with AsyncExitStack() as stack:

        async def installed(prepared: Prepared, **values: Any) -> Installation:
            clone = postgres_server.clone(prepared.database.rpartition("/")[2])
            clones.append(clone)
            options: dict[str, Any] = {"broker_url": broker_url, **values}
            url = postgres_server.url(clone)
            return await stack.enter_async_context(
                Installation(worker_process, tmp_path / "site", prepared, database_url=url, **options)
            )

        yield installed
    for clone in clones:
        postgres_server.drop(clone)
