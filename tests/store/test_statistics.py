"""What PostgreSQL knows of its tables after a migration and after an import."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from syncworker.store import migrate
from syncworker.store.statistics import IMPORTED
from syncworker.store.tables import consent, opening
from syncworker.store.unit_of_work import Store
from tests.store.filled import fill

pytestmark = pytest.mark.store


def engine(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)


def known(url: str, *tables: sa.Table) -> list[bool]:
    """Whether PostgreSQL has statistics of the columns of these tables."""
    with engine(url).connect() as own:
        names = set(own.scalars(sa.text("SELECT DISTINCT tablename FROM pg_stats WHERE schemaname = 'public'")))
    return [table.name in names for table in tables]


def test_a_migration_gathers_them_of_tables_that_hold_rows(postgresql_url: str) -> None:
    """An empty table would be taken for small from then on, and stays unknown."""
    with engine(postgresql_url).begin() as own:
        fill(own, 300)
    migrate.downgrade(postgresql_url, "-1")
    before = known(postgresql_url, consent, opening)
    migrate.upgrade(postgresql_url)
    with engine(postgresql_url).connect() as own:
        rows = own.scalar(sa.text("SELECT reltuples::int FROM pg_class WHERE relname = 'opening'"))

    assert (before, known(postgresql_url, consent, opening), rows) == ([False, False], [True, False], -1)


def test_a_database_that_has_all_migrations_is_left_alone(postgresql_url: str) -> None:
    """`db upgrade` once more reads no table."""
    with engine(postgresql_url).begin() as own:
        fill(own, 300)
    migrate.upgrade(postgresql_url)

    assert known(postgresql_url, consent) == [False]


async def test_an_import_gathers_them_of_what_it_fills(postgresql_url: str, open_store: Callable[..., Store]) -> None:
    """Within its transaction, and for all who plan from then on."""
    with engine(postgresql_url).begin() as own:
        fill(own, 300)
    async with open_store(postgresql_url).writing() as unit:
        await unit.statistics.gather(*IMPORTED)
        await unit.commit()

    assert known(postgresql_url, *IMPORTED) == [True] * len(IMPORTED)


async def test_sqlite_needs_none(sqlite_url: str, open_store: Callable[..., Store]) -> None:
    """Nothing is written."""
    async with open_store(sqlite_url).writing() as unit:
        await unit.statistics.gather(*IMPORTED)
        found = await unit.connection.scalar(sa.text("SELECT count(*) FROM sqlite_master WHERE name = 'sqlite_stat1'"))

    assert found == 0
