"""Roles of PostgreSQL: what each may read and write, without a condition of ours, and how they are made."""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from syncworker.errors import RequestError, SetupError
from syncworker.store import grants, migrate
from syncworker.store.address import Pooler, address_of
from syncworker.store.bulk import COPY_FROM, STAGED_FROM, insert_many
from syncworker.store.roles import ACCESS, TENANT_SETTING, VERSIONS, Kind, analyst_columns, has_tenant, role_name
from syncworker.store.sql_views import VIEWS
from syncworker.store.tables import audit, metadata
from syncworker.store.unit_of_work import Store
from tests.ground.pgbouncer import PgBouncer, pgbouncer_program
from tests.ground.postgres import PostgresServer, as_role

pytestmark = pytest.mark.store

OURS, THEIRS = "default", "o'ther %1"
ANALYST: Final = role_name(Kind.ANALYST, OURS)
WEB, EXPORT, WORKER = (role_name(kind) for kind in (Kind.WEB, Kind.EXPORT, Kind.WORKER))
AT: Final = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


def applied(url: str, *, prefix: str | None = None, tenants: tuple[str, ...] = (OURS, THEIRS)) -> grants.Plan:
    with migrate.connected(url) as own, own.begin():
        return grants.apply(own, prefix=prefix, tenants=tenants)


def missing(url: str, *, tenants: tuple[str, ...] = (OURS, THEIRS)) -> list[str]:
    """What a plan would still do."""
    with migrate.connected(url) as own:
        return [step.sql for step in grants.plan(own, tenants=tenants).steps]


def _value(column: sa.Column[Any], tenant: str) -> Any:
    """A value that every constraint takes; ids are the same everywhere, so that foreign keys hold."""
    if column.name == "tenant":
        return tenant
    if column.name in {"op", "state"}:
        return {"op": "modified", "state": "filed"}[column.name]
    kind: Any = column.type.python_type if not isinstance(column.type, sa.types.TypeDecorator) else None
    if isinstance(column.type, sa.JSON):
        return {}
    if kind is bytes:
        return b"sealed"
    if kind in {int, bool}:
        return kind(1)
    if kind is dt.date:
        return AT.date()
    if kind is str:
        return "x"
    return Decimal(1) if "amount" in column.name else AT


def fill(url: str) -> None:
    """One row of each tenant in every table."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    with engine.begin() as own:
        for table in metadata.sorted_tables:
            for tenant in (OURS, THEIRS) if has_tenant(table.name) else (OURS,):
                row = {
                    column.name: _value(column, tenant)
                    for column in table.columns
                    if not column.nullable and column.autoincrement is not True
                }
                own.execute(sa.insert(table).values(row))


@dataclass
class Database:
    """A database with roles, rows of two tenants and the views."""

    url: str

    def session(self, role: str, *, tenant: str | None = None) -> psycopg.Connection[Any]:
        connection = psycopg.connect(as_role(self.url, role), autocommit=True)
        if tenant is not None:
            connection.execute("SELECT set_config(%s, %s, false)", (TENANT_SETTING, tenant))
        return connection

    def tenants(self, role: str, *, tenant: str | None = None) -> dict[str, str]:
        """What a role finds in each table and view: tenants of its rows, `none`, `denied`; `rows` of no tenant."""
        with self.session(role, tenant=tenant) as connection:
            return {name: self._found(connection, name, role) for name in (*metadata.tables, *VIEW_NAMES, VERSIONS)}

    def _found(self, connection: psycopg.Connection[Any], name: str, role: str) -> str:
        columns: list[sql.Composable] = [sql.SQL("*")]
        if "_analyst_" in role and name in ACCESS:
            columns = [sql.Identifier(one) for one in analyst_columns(name)] or columns
        query = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(columns), sql.Identifier(name))
        try:
            cursor = connection.execute(query)
        except psycopg.errors.InsufficientPrivilege:
            return "denied"
        names = [one.name for one in cursor.description or ()]
        rows = cursor.fetchall()
        if "tenant" not in names:
            return "rows" if rows else "none"
        return " ".join(sorted({row[names.index("tenant")] for row in rows})) or "none"


VIEW_NAMES: Final = tuple(view.name for view in VIEWS)


@pytest.fixture(scope="module")
def template(postgres_server: PostgresServer) -> Iterator[str]:
    """Filled, with roles; for tests that change nothing."""
    name = postgres_server.clone()
    url = postgres_server.url(name)
    fill(url)
    applied(url)
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("ANALYZE")
    yield url
    postgres_server.drop(name)


@pytest.fixture
def database(template: str) -> Database:
    return Database(template)


# -- the lists -------------------------------------------------------------------------------------------------------


def test_every_table_has_its_line() -> None:
    """A new table belongs into `ACCESS`: who reads it, who writes it, what analysts see of it."""
    assert set(ACCESS) == set(metadata.tables)


def test_names_of_hidden_columns_are_right() -> None:
    """A column that was renamed must not become readable."""
    strange = {
        table: names
        for table, access in ACCESS.items()
        if (names := access.hidden - set(metadata.tables[table].columns.keys()))
    }
    assert strange == {}


def test_analysts_read_no_sealed_column() -> None:
    """Nothing binary, and nothing whose comment says that it is sealed or a raw item."""
    found = {
        f"{table}.{name}"
        for table in ACCESS
        for name in analyst_columns(table)
        if name in {"raw", "digest"}
        or "sealed"
        in (metadata.tables[table].c[name].comment or "")
        .replace("sealed by setting", "")
        .replace("NULL where raw items are sealed", "")
    }
    assert found == set()


@pytest.mark.parametrize(
    ("tenant", "name"),
    [
        pytest.param("acme", "syncworker_analyst_acme", id="plain"),
        pytest.param("Acme", "syncworker_analyst_acme_37036cd8", id="other letters"),
        pytest.param("a" * 64, f"syncworker_analyst_{'a' * 35}_ffe054fe", id="long"),
    ],
)
def test_each_tenant_has_a_role_of_its_own(tenant: str, name: str) -> None:
    """What PostgreSQL would cut or fold gets a digest."""
    assert role_name(Kind.ANALYST, tenant) == name


def test_a_prefix_is_a_plain_word() -> None:
    with pytest.raises(RequestError, match="--prefix: takes a-z"):
        role_name(Kind.WEB, prefix='x"; DROP')


# -- what the roles see ----------------------------------------------------------------------------------------------


def _expected(kind: Kind) -> dict[str, str]:
    """By the lists: rows of our tenant where the kind reads a table, `denied` elsewhere."""
    found = {}
    for table, access in ACCESS.items():
        reads = (
            access.analyst if kind is Kind.ANALYST else bool({"web": access.web, "export": access.export}[kind.value])
        )
        found[table] = (OURS if has_tenant(table) else "rows") if reads else "denied"
    return {**found, **dict.fromkeys(VIEW_NAMES, OURS), VERSIONS: "denied" if kind is Kind.ANALYST else "rows"}


@pytest.mark.parametrize(
    ("role", "kind", "tenant"),
    [
        pytest.param(WEB, Kind.WEB, OURS, id="web"),
        pytest.param(EXPORT, Kind.EXPORT, OURS, id="export"),
        pytest.param(ANALYST, Kind.ANALYST, None, id="analyst"),
        pytest.param(ANALYST, Kind.ANALYST, THEIRS, id="analyst that sets the other tenant"),
    ],
)
def test_a_reading_role_sees_its_tenant_alone(database: Database, role: str, kind: Kind, tenant: str | None) -> None:
    """`SELECT *` without a condition, of every table and view: rows of the other tenant are in none."""
    assert database.tenants(role, tenant=tenant) == _expected(kind)


def test_the_other_tenants_analyst_sees_the_other_tenant(database: Database) -> None:
    """The same tables, and a tenant whose name needs quotes."""
    found = database.tenants(role_name(Kind.ANALYST, THEIRS))

    assert {found[name] for name, access in ACCESS.items() if access.analyst and has_tenant(name)} == {THEIRS}


@pytest.mark.parametrize("role", [WEB, EXPORT])
def test_a_session_without_tenant_sees_no_row(database: Database, role: str) -> None:
    """Neither one that never named it, nor one whose `SET LOCAL` ended with its transaction."""
    before = database.tenants(role)
    with database.session(role) as connection:
        with connection.transaction():
            connection.execute("SELECT set_config(%s, %s, true)", (TENANT_SETTING, OURS))
            inside = connection.execute("SELECT tenant FROM transaction").fetchall()
        behind = connection.execute("SELECT tenant FROM transaction").fetchall()

    of_a_tenant = {
        name: found for name, found in before.items() if name != VERSIONS and (name in VIEW_NAMES or has_tenant(name))
    }
    assert set(of_a_tenant.values()) <= {"none", "denied"}
    assert (inside, behind) == ([(OURS,)], [])


def test_the_worker_sees_every_tenant(database: Database) -> None:
    found = database.tenants(WORKER)

    assert {found[table] for table in metadata.tables if has_tenant(table)} == {f"{OURS} {THEIRS}"}


@pytest.mark.parametrize("bound", [False, True], ids=["bypassrls", "policy"])
def test_the_worker_sees_every_tenant_with_and_without_bypassrls(postgresql_url: str, bound: bool) -> None:
    """A managed server does not let its users give BYPASSRLS; its policy does the same."""
    fill(postgresql_url)
    applied(postgresql_url)
    with psycopg.connect(postgresql_url, autocommit=True) as owner:
        owner.execute(
            sql.SQL("ALTER ROLE {} " + ("NOBYPASSRLS" if bound else "BYPASSRLS")).format(sql.Identifier(WORKER))
        )
    found = Database(postgresql_url).tenants(WORKER)
    with psycopg.connect(postgresql_url, autocommit=True) as owner:
        owner.execute(sql.SQL("ALTER ROLE {} BYPASSRLS").format(sql.Identifier(WORKER)))

    assert {found[table] for table in metadata.tables if has_tenant(table)} == {f"{OURS} {THEIRS}"}


# -- what they may not do --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        *(f"SET ROLE {role}" for role in (WORKER, WEB, EXPORT, "syncworker", role_name(Kind.ANALYST, THEIRS))),
        "SET SESSION AUTHORIZATION syncworker",
        "SELECT raw FROM transaction",
        "SELECT digest FROM account",
        "SELECT * FROM transaction",
        "SELECT raw FROM consent",
        "SELECT transaction FROM transaction",
        "SELECT pages FROM cursor",
        "SELECT access_token FROM token",
        "SELECT digest FROM api_key",
        "COPY transaction TO STDOUT",
        "SET row_security = off; SELECT key FROM transaction",
        "ALTER TABLE transaction DISABLE ROW LEVEL SECURITY",
        "DROP POLICY syncworker_worker ON transaction",
        f"GRANT SELECT ON token TO {ANALYST}",
        "CREATE TABLE mine (a int)",
        "CREATE TEMPORARY TABLE mine (a int)",
        "CREATE VIEW mine AS SELECT key FROM transaction",
        "CREATE FUNCTION mine() RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
        "DO $$ BEGIN EXECUTE 'SELECT raw FROM transaction'; END $$",
        "SELECT query_to_xml('SELECT raw FROM transaction', true, false, '')",
        "INSERT INTO connection (tenant) VALUES ('default')",
        "UPDATE transaction SET status = 'x'",
        "UPDATE v_connection SET user_ref = 'x'",
        "DELETE FROM transaction",
        "TRUNCATE transaction",
        "SELECT key FROM transaction FOR UPDATE",
        "BEGIN; LOCK TABLE transaction IN EXCLUSIVE MODE",
        "SELECT nextval('change_seq_seq')",
        "SELECT pg_read_file('/etc/passwd')",
    ],
)
def test_an_analyst_cannot_leave_its_place(database: Database, statement: str) -> None:
    """Also after it has lifted the read-only default that its sessions begin with."""
    with database.session(ANALYST) as connection:
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())


def test_an_analysts_session_begins_read_only_and_with_time_limits(database: Database) -> None:
    names = ("default_transaction_read_only", "statement_timeout", "idle_in_transaction_session_timeout")
    with database.session(ANALYST) as connection:
        found = [connection.execute(f"SHOW {name}".encode()).fetchone() for name in names]

    assert found == [("on",), ("1min",), ("1min",)]


def test_a_condition_does_not_look_at_rows_behind_the_policy(database: Database) -> None:
    """One that fails for a row of the other tenant would tell that there is one; statistics would tell its values."""
    with database.session(ANALYST) as connection:
        found = connection.execute(
            "SELECT count(*) FROM transaction WHERE 1 / (CASE WHEN tenant = %s THEN 1 ELSE 0 END) = 1", (OURS,)
        ).fetchone()
        stats = connection.execute(
            "SELECT count(*) FROM pg_stats WHERE schemaname = 'public' AND tablename <> 'feed_epoch'"  # of no tenant
        ).fetchone()

    assert (found, stats) == ((1,), (0,))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO api_key (tenant, key_id) VALUES ('default', 'k')",
        "UPDATE api_key SET scopes = '[]'",
        "UPDATE api_key SET revoked_at = NULL",
        "UPDATE lfi SET declared = '{}'",
        "DELETE FROM consent",
        "DELETE FROM connection",
        "UPDATE audit SET what = 'x'",
        "DELETE FROM audit",
        "UPDATE transaction SET status = 'x'",
        "SELECT item FROM unreadable_item",
        "UPDATE alembic_version SET version_num = 'x'",
        "INSERT INTO connection SELECT 'o''ther %1', 'n', 'l', 'u', now()",
        "UPDATE connection SET tenant = 'o''ther %1'",
        "CREATE TABLE mine (a int)",
        "SET ROLE syncworker_worker",
    ],
)
def test_the_web_process_writes_no_more_than_it_has_to(database: Database, statement: str) -> None:
    """No key is made or widened, nothing is written for another tenant, no trace is removed."""
    with database.session(WEB, tenant=OURS) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_the_web_process_deletes_calls_in_doubt_alone(database: Database) -> None:
    """How a call went replaces the row that announced it; calls that went stay, and those of another tenant."""
    made = (
        "INSERT INTO call (tenant, lfi, consent_id, operation, attempt, interaction_id, started_at, attended, error,"
        " duration_ms, bytes_in, price_millifils) VALUES (%s, 'doubtful', 'x', 'x', 1, %s, now(), false, %s, 1, 1, 0)"
    )
    with psycopg.connect(database.url, autocommit=True) as own:
        for number, (tenant, error) in enumerate([(OURS, "in_doubt"), (OURS, "timeout"), (THEIRS, "in_doubt")]):
            own.execute(made, (tenant, str(number), error))
        with database.session(WEB, tenant=OURS) as connection:
            deleted = connection.execute("DELETE FROM call WHERE lfi = 'doubtful'").rowcount
        left = own.execute("SELECT interaction_id FROM call WHERE lfi = 'doubtful' ORDER BY 1").fetchall()
        own.execute("DELETE FROM call WHERE lfi = 'doubtful'")

    assert (deleted, left) == (1, [("1",), ("2",)])


@pytest.mark.parametrize(
    "statement", ["UPDATE audit SET what = 'x'", "DELETE FROM audit", "TRUNCATE audit", "DROP TABLE audit"]
)
def test_the_worker_cannot_change_what_was_written_down(database: Database, statement: str) -> None:
    """`audit` only grows."""
    with database.session(WORKER) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_an_export_cannot_write(database: Database) -> None:
    with database.session(EXPORT, tenant=OURS) as connection:
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE transaction SET status = 'x'")


# -- our own sessions ------------------------------------------------------------------------------------------------


async def _seen(store: Store) -> list[str]:
    async with store.reading() as unit:
        reading = list(await unit.connection.scalars(sa.text("SELECT tenant FROM transaction")))
    async with store.looking() as unit:
        return reading + list(await unit.connection.scalars(sa.text("SELECT tenant FROM v_transaction")))


@pytest.mark.parametrize("tenant", [OURS, THEIRS])
async def test_a_store_names_its_tenant_to_the_server(
    database: Database, open_store: Callable[..., Store], tenant: str
) -> None:
    """With the statement that opens a session, so that no trip is added."""
    store = open_store(as_role(database.url, WEB), tenant=tenant, clock=None)

    assert await _seen(store) == [tenant, tenant]


@pytest.mark.skipif(pgbouncer_program() is None, reason="no PgBouncer is installed on this machine")
async def test_through_a_pooler_each_transaction_has_its_own_tenant(
    database: Database, open_store: Callable[..., Store]
) -> None:
    """Two tenants' stores by turns in the one session that the server has for them, and a stranger behind them."""
    pooler = PgBouncer(as_role(database.url, WEB), "transaction", pool_size=1)
    try:
        address = address_of(pooler.url(), pooler=Pooler.TRANSACTION)
        stores = [open_store(address, tenant=tenant, clock=None) for tenant in (OURS, THEIRS)]
        seen = [await _seen(store) for store in (*stores, *stores)]
        with psycopg.connect(pooler.url(), autocommit=True, prepare_threshold=None) as stranger:
            left = stranger.execute("SELECT tenant FROM transaction").fetchall()
    finally:
        pooler.close()

    assert (seen, left) == ([[OURS] * 2, [THEIRS] * 2] * 2, [])


@pytest.mark.parametrize("count", [COPY_FROM, STAGED_FROM])
@pytest.mark.parametrize("pooler", [Pooler.NONE, Pooler.TRANSACTION])
async def test_rows_are_appended_where_copy_is_refused(
    postgresql_url: str, open_store: Callable[..., Store], count: int, pooler: Pooler
) -> None:
    """PostgreSQL takes no COPY into a table whose policies hold for the session."""
    applied(postgresql_url)
    store = open_store(address_of(as_role(postgresql_url, WEB), pooler=pooler), clock=None)
    columns = ("tenant", "at", "what", "subject", "facts")
    rows = [(OURS, AT, "tried", f"{number:04}", {"a": 1}) for number in range(count)]
    async with store.writing() as unit:
        written = [await insert_many(unit.connection, unit.dialect, audit, columns, rows) for _ in range(2)]
        await unit.commit()
    async with store.reading() as unit:
        held = await unit.connection.scalar(sa.text("SELECT count(*) FROM audit"))

    assert (written, held) == ([count, count], 2 * count)


# -- how they are made -----------------------------------------------------------------------------------------------


def test_a_second_apply_has_nothing_to_do(postgresql_url: str) -> None:
    first = applied(postgresql_url)
    second = applied(postgresql_url)

    assert (len(first.steps) > 100, list(second.steps), list(second.notes), missing(postgresql_url)) == (
        True,
        [],
        [],
        [],
    )


def test_tables_and_views_made_later_have_their_rights_after_the_upgrade(
    postgres_server: PostgresServer,
) -> None:
    """The roles are older than half of the tables and all views; what an upgrade makes has its rights at once."""
    url = postgres_server.make_template("upgraded")
    try:
        migrate.upgrade(url, "0010")
        applied(url)
        migrate.upgrade(url)
        fill(url)
        unready = missing(url)
        migrate.upgrade(url)
        ready, found = missing(url), Database(url).tenants(ANALYST)
    finally:
        postgres_server.drop("upgraded")

    assert (unready, ready, found) == ([], [], _expected(Kind.ANALYST))


def test_an_upgrade_makes_no_roles(postgresql_url: str) -> None:
    """A database without roles stays one."""
    migrate.upgrade(postgresql_url)
    with migrate.connected(postgresql_url) as own:
        stands = grants.standing(own)

    assert (list(stands.roles), stands.secured, stands.bound) == ([], 0, False)


@pytest.mark.parametrize(
    "tampering",
    [
        f"GRANT UPDATE ON transaction TO {ANALYST}",
        f"GRANT SELECT ON transaction TO {ANALYST}",
        f"GRANT SELECT (access_token) ON token TO {ANALYST}",
        f"GRANT SELECT ON token TO {EXPORT}",
        "GRANT SELECT ON token TO PUBLIC",
        f"GRANT SELECT (key) ON transaction TO {ANALYST} WITH GRANT OPTION",
        f"REVOKE SELECT (key) ON transaction FROM {ANALYST}",
        "ALTER TABLE transaction DISABLE ROW LEVEL SECURITY",
        "ALTER POLICY syncworker_export ON transaction USING (true)",
        "ALTER POLICY syncworker_export ON transaction TO PUBLIC",
        "DROP POLICY syncworker_web ON work",
        f"REVOKE USAGE ON SEQUENCE work_id_seq FROM {WEB}",
    ],
)
def test_rights_that_were_changed_are_put_back(postgresql_url: str, tampering: str) -> None:
    """What is too much is taken away, what is missing is given; then nothing is left to do."""
    applied(postgresql_url)
    with psycopg.connect(postgresql_url, autocommit=True) as owner:
        owner.execute(tampering.encode())
    before = missing(postgresql_url)
    applied(postgresql_url)

    assert (before != [], missing(postgresql_url)) == (True, [])


@pytest.mark.parametrize(
    ("made", "undone", "note"),
    [
        pytest.param(
            "CREATE VIEW v_all AS SELECT key FROM transaction",
            "DROP VIEW v_all",
            "view v_all runs with its owner's rights",
            id="a view of its owner",
        ),
        pytest.param(
            f"GRANT {WORKER} TO {ANALYST}",
            f"REVOKE {WORKER} FROM {ANALYST}",
            f"role {ANALYST} is a member of {WORKER}",
            id="a member",
        ),
        pytest.param(
            f"ALTER ROLE {WEB} BYPASSRLS",
            f"ALTER ROLE {WEB} NOBYPASSRLS",
            f"role {WEB} is exempt from row level security",
            id="an exempt role",
        ),
        pytest.param(
            "CREATE ROLE stranger; GRANT SELECT ON transaction TO stranger",
            "DROP OWNED BY stranger; DROP ROLE stranger",
            "role stranger has rights on tables",
            id="a stranger",
        ),
        pytest.param(
            "CREATE POLICY wide ON transaction USING (true)",
            "DROP POLICY wide ON transaction",
            "policy wide on transaction is none of these",
            id="another policy",
        ),
    ],
)
def test_what_no_statement_mends_is_told(postgresql_url: str, made: str, undone: str, note: str) -> None:
    """And no right is given on a view that would show every tenant."""
    applied(postgresql_url)
    with psycopg.connect(postgresql_url, autocommit=True) as owner:
        owner.execute(made.encode())
        notes, left = applied(postgresql_url).notes, missing(postgresql_url)
        owner.execute(undone.encode())

    assert ([one[: len(note)] for one in notes], left) == ([note], [])


def test_roles_keep_the_prefix_they_have(postgresql_url: str) -> None:
    applied(postgresql_url, prefix="tpp")
    with migrate.connected(postgresql_url) as own:
        names = [role.name for role in grants.plan(own, tenants=[OURS]).roles]
        with pytest.raises(RequestError, match="--prefix: this database has its roles already, tpp_worker"):
            grants.plan(own, prefix="other")

    assert names[:3] == ["tpp_worker", "tpp_web", "tpp_export"]
    assert missing(postgresql_url) == []


@pytest.fixture
def managed(postgres_server: PostgresServer) -> Iterator[Callable[[str], str]]:
    """A migrated database of a user who is no superuser, with the attributes given."""
    made: list[str] = []

    def of(attributes: str) -> str:
        with psycopg.connect(postgres_server.url(), autocommit=True) as admin:
            admin.execute(f"CREATE ROLE landlord LOGIN {attributes}".encode())
            admin.execute("CREATE DATABASE test_managed OWNER landlord")
        made.append("test_managed")
        url = as_role(postgres_server.url("test_managed"), "landlord")
        migrate.upgrade(url)
        return url

    yield of
    for name in made:
        postgres_server.drop(name)
    with psycopg.connect(postgres_server.url(), autocommit=True) as admin:
        for name in ("worker", "web", "export", f"analyst_{OURS}"):
            admin.execute(f"DROP ROLE IF EXISTS managed_{name}".encode())
        admin.execute("DROP ROLE IF EXISTS landlord")


def test_an_owner_with_createrole_needs_no_superuser(managed: Callable[[str], str]) -> None:
    """As on a managed server; the worker goes without BYPASSRLS, which such an owner cannot give."""
    url = managed("CREATEROLE")
    applied(url, prefix="managed", tenants=(OURS,))
    with migrate.connected(url) as own:
        left = grants.plan(own, tenants=[OURS]).steps
    with migrate.connected(as_role(url, "managed_web")) as own:
        stands = grants.standing(own)

    assert [(one.sql, one.optional, one.possible) for one in left] == [
        ('ALTER ROLE "managed_worker" BYPASSRLS', True, False)
    ]
    assert (stands.kind, stands.bound, stands.owner, stands.secured) == (Kind.WEB, True, "landlord", stands.tables)


def test_a_missing_right_is_named_and_nothing_is_done(managed: Callable[[str], str]) -> None:
    """Without CREATEROLE; then an administrator makes the roles, and the owner does the rest."""
    url = managed("NOCREATEROLE")
    with pytest.raises(
        SetupError, match=r"user landlord lacks .* CREATEROLE \(for \d+, as CREATE ROLE \"managed_worker\""
    ):
        applied(url, prefix="managed", tenants=(OURS,))
    with migrate.connected(url) as own:
        before = grants.standing(own)
        by_admin = [one.sql for one in grants.plan(own, prefix="managed", tenants=[OURS]).impossible]
    with psycopg.connect(as_role(url, "syncworker"), autocommit=True) as admin:
        for statement in by_admin:
            admin.execute(statement.encode())
    applied(url, prefix="managed", tenants=(OURS,))
    with migrate.connected(url) as own:
        after = grants.standing(own)

    assert (before.secured, after.secured, after.pending) == (0, after.tables, 0)


def test_a_user_who_owns_nothing_is_refused(managed: Callable[[str], str]) -> None:
    url = managed("CREATEROLE")
    applied(url, prefix="managed", tenants=(OURS,))
    with pytest.raises(SetupError, match="user managed_worker lacks what some statements need"):
        applied(as_role(url, "managed_worker"), tenants=("another",))
