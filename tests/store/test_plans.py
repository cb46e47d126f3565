"""A statement that takes keys looks each of them up by an index, however large its table, with statistics and without.

PostgreSQL is asked what a statement really read (`EXPLAIN (ANALYZE, BUFFERS)`), on the product's own connection, and
what statements read whose plans were made while the tables were small; SQLite is asked for its plan.  A million rows:
`python -m tests.store.test_plans`, part of `make scenarios`.
"""

import asyncio
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from syncworker.store import grants, migrate
from syncworker.store.failures import StoreUnavailableError
from syncworker.store.roles import Kind, role_name
from syncworker.store.statements import Told, _compiled, driver, run_all
from syncworker.store.unit_of_work import Store, UnitOfWork
from tests.ground.postgres import PostgresServer, as_role
from tests.store.filled import CASES, OTHERS, Case, fill, found

pytestmark = pytest.mark.store

PAGES_PER_ROW_MAX = 32
"""Pages to find a row by its key and lock or write it anew: a descent in its index, its own, those of every index that
a new version is entered into, and what foreign keys look up."""

ROWS_PER_ROW_MAX = 12
"""Versions of a row met on the way to the one that counts, and the same row met by several parts of a statement."""

OTHER_NUMBERS = (1, 2, 60, 80)
"""Of rows that no measurement looks at: what is rolled back leaves versions behind."""


KEYS = 4


def numbers(rows: int) -> tuple[int, ...]:
    """Of rows all over a table: those at its beginning are found soon also by who reads it whole."""
    return rows // 10 + 3, rows // 3, rows // 2, rows - 2


def test_every_statement_is_in_one_of_the_lists() -> None:
    """A new one is either among those that look keys up, and tried here, or says why it looks up none."""
    assert sorted(found()) == sorted([*CASES, *OTHERS])


@dataclass(frozen=True)
class Filled:
    """A filled database.

    Attributes:
        rows: of each table.
        analyzed: whether it has statistics.
    """

    url: str
    rows: int
    analyzed: bool


@pytest.fixture(scope="module", params=[(100, False), (100, True), (10_000, False), (10_000, True)], ids=str)
def filled(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[Filled]:
    """One filled PostgreSQL for all statements."""
    rows, analyzed = request.param
    database = postgres_server.clone()
    yield made(postgres_server.url(database), rows, analyzed=analyzed)
    postgres_server.drop(database)


def made(url: str, rows: int, *, analyzed: bool) -> Filled:
    """Fill a migrated database."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    with engine.begin() as own:
        fill(own, rows)
    if analyzed and url.startswith("postgresql"):
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as own:
            own.execute(sa.text("ANALYZE"))
    engine.dispose()
    return Filled(url, rows, analyzed)


@pytest.mark.parametrize("name", CASES)
async def test_each_key_is_looked_up_by_an_index(filled: Filled, name: str) -> None:
    """No table that keys are looked up in is read whole, and what is read grows with the keys alone."""
    assert await faults(filled, CASES[name]) == []


async def faults(filled: Filled, case: Case) -> list[str]:
    """What a statement reads that it should not, in words."""
    store = Store(filled.url)
    try:
        async with store.writing() as unit:
            wrong: list[str] = []
            told = case.told(unit, numbers(filled.rows))
            pages = 0
            for one in told:
                plan = await _explained(unit, one)
                wrong += [f"reads {table} whole" for table in _read_whole(plan) & {table.name for table in case.tables}]
                pages += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            most = PAGES_PER_ROW_MAX * case.rows * len(case.tables) * KEYS
            return wrong if pages <= most else [*wrong, f"{pages} pages, not {most}"]
    finally:
        await store.close()


async def _explained(unit: UnitOfWork, told: Told) -> dict[str, Any]:
    statement, values = told
    compiled = _compiled(statement, unit.dialect, unit.connection.dialect)
    async with driver(unit.connection) as own:
        explain = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + compiled.text
        rows = await (await own.execute(explain, compiled.given(values))).fetchall()
    plan = rows[0][0][0]["Plan"]
    assert isinstance(plan, dict)
    return plan


def _read_whole(plan: Mapping[str, Any]) -> set[str]:
    own = {str(plan["Relation Name"])} if plan["Node Type"] == "Seq Scan" else set()
    return own.union(*(_read_whole(below) for below in plan.get("Plans", ())))


# -- under row level security -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "denied"),
    [
        pytest.param(Kind.WORKER, frozenset[str](), id="worker"),
        pytest.param(
            Kind.WEB,
            frozenset(
                {
                    "cursors._FOLD", "cursors._noting", "cursors._RECOVER", "cursors._UNCOVER",
                    "records._FORGET_IDENTIFIERS", "findings._CLEAR", "open_claims._KEEP", "open_claims._LOCK",
                    "open_claims._LOCK_FREE", "records._keeping", "records._marking",
                }
            ),
            id="web",
        ),
    ],
)  # fmt: skip
async def test_a_policy_makes_no_statement_read_a_table_whole(
    postgresql_url: str, kind: Kind, denied: frozenset[str]
) -> None:
    """As a login of its own that is a member of the role, and so has its policies and not its BYPASSRLS."""
    made(postgresql_url, 10_000, analyzed=True)
    with migrate.connected(postgresql_url) as own, own.begin():
        grants.apply(own, tenants=["default"])
    with psycopg.connect(postgresql_url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE member LOGIN IN ROLE {role_name(kind)}".encode())
        bound = Filled(as_role(postgresql_url, "member"), 10_000, analyzed=True)
        wrong: dict[str, list[str]] = {}
        refused: set[str] = set()
        for name, case in CASES.items():
            try:
                wrong[name] = await faults(bound, case)
            except StoreUnavailableError:
                refused.add(name)
        owner.execute("DROP ROLE member")

    assert {name: found for name, found in wrong.items() if found} == {}
    assert refused == denied


# -- plans that are kept ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("analyzed", [False, True], ids=["no statistics", "statistics of then"])
async def test_a_plan_made_while_the_tables_were_small_is_good_when_they_have_grown(
    postgresql_url: str, analyzed: bool
) -> None:
    """A connection keeps the plan of a statement it has run some times; the tables grow behind its back."""
    made(postgresql_url, 100, analyzed=analyzed)
    store = Store(postgresql_url, connections=1)
    try:
        for _ in range(12):  # the driver prepares after five, the server keeps a plan after five more
            for case in CASES.values():
                async with store.writing() as unit:
                    await run_all(unit, case.told(unit, OTHER_NUMBERS))
        engine = sa.create_engine(postgresql_url.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as own:
            fill(own, 5_000, after=100)
        engine.dispose()
        read = {name: await _rows_read(store, case, numbers(5_000)) for name, case in CASES.items()}
    finally:
        await store.close()

    most = {name: ROWS_PER_ROW_MAX * case.rows * len(case.tables) * KEYS for name, case in CASES.items()}
    assert {name: rows for name, rows in read.items() if rows > most[name]} == {}


async def _rows_read(store: Store, case: Case, those: tuple[int, ...]) -> int:
    """Rows that one run of a statement reads of the tables it looks keys up in."""
    async with store.writing() as unit:  # what was counted before goes to the shared statistics
        await unit.connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
    async with store.writing() as unit:
        await run_all(unit, case.told(unit, those))
        names = ", ".join(f"'{table.name}'" for table in case.tables)
        counted = await unit.connection.scalar(
            sa.text(
                "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables"
                f" WHERE relname IN ({names})"
            )
        )
        return int(counted or 0)


# -- SQLite ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled_sqlite(sqlite_template: Any, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """One filled SQLite file for all statements."""
    path = tmp_path_factory.mktemp("plans") / "filled.db"
    path.write_bytes(sqlite_template.read_bytes())
    return made(f"sqlite:///{path}", 1_000, analyzed=False)


@pytest.mark.parametrize("name", CASES)
async def test_sqlite_searches(filled_sqlite: Filled, name: str) -> None:
    """`EXPLAIN QUERY PLAN` says SEARCH of every table that keys are looked up in, and never SCAN."""
    case = CASES[name]
    store = Store(filled_sqlite.url)
    plan: list[str] = []

    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters[0] if many else parameters)
        plan.extend(str(row[3]) for row in cursor.fetchall())

    try:
        async with store.writing() as unit:
            sa.event.listen(unit.connection.sync_connection, "before_cursor_execute", explain)
            await run_all(unit, case.told(unit, numbers(filled_sqlite.rows)))
    finally:
        await store.close()

    names = case.aliases or {table.name for table in case.tables}
    assert names <= {line.split()[1] for line in plan if line.startswith("SEARCH ")}, plan
    assert not names & {line.split()[1] for line in plan if line.startswith("SCAN ")}, plan


# -- a million rows --------------------------------------------------------------------------------------------------


def main(rows: int) -> int:
    """Try every statement on tables of so many rows; prints those that read too much."""
    server = PostgresServer()
    try:
        migrate.upgrade(server.make_template())
        bad = 0
        for analyzed in (False, True):
            database = server.clone()
            filled = made(server.url(database), rows, analyzed=analyzed)
            for name, case in CASES.items():
                wrong = asyncio.run(faults(filled, case))
                bad += bool(wrong)
                if wrong:
                    sys.stdout.write(f"{name} ({'with' if analyzed else 'without'} statistics): {'; '.join(wrong)}\n")
            server.drop(database)
        sys.stdout.write(f"{rows:,} rows a table: {2 * len(CASES) - bad} of {2 * len(CASES)} look each key up\n")
        return int(bad > 0)
    finally:
        server.close()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
