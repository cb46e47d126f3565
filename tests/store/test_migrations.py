"""From nothing to the newest schema and back, on both databases; an old schema is refused with the command."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import syncworker
from syncworker.errors import SetupError
from syncworker.store import migrate
from syncworker.store.dialect import json_text
from syncworker.store.failures import StoreRefusedError, StoreUnavailableError
from syncworker.store.tables import metadata
from tests.ground.postgres import PostgresServer, free_port

pytestmark = pytest.mark.store


def migrations() -> Path:
    project = Path(syncworker.__file__).parent
    return next(folder for folder in (project / "migrations", project.parent / "migrations") if folder.is_dir())


def engine(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)


def tables(url: str) -> set[str]:
    with engine(url).connect() as connection:
        return set(sa.inspect(connection).get_table_names()) - {"alembic_version"}


@pytest.fixture(params=["postgresql", "sqlite"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A database nobody migrated yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/empty.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    yield server.make_template("empty")
    server.drop("empty")


def test_the_migrations_make_what_the_code_expects(database_url: str) -> None:
    """`alembic` finds no difference between the migrated database and `tables.py`."""
    with engine(database_url).connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": metadata}
        )
        assert compare_metadata(context, metadata) == []


def test_from_empty_to_head_and_back(empty_url: str) -> None:
    """Up makes every table, down leaves none, up again works."""
    migrate.upgrade(empty_url)
    up = tables(empty_url)
    migrate.downgrade(empty_url, "base")
    down = tables(empty_url)
    migrate.upgrade(empty_url)

    assert (up, down, migrate.current(empty_url)) == (set(metadata.tables), set(), migrate.head())


def test_the_folder_of_an_sqlite_file_is_made(tmp_path: Path) -> None:
    """A data folder that is not there yet is no fault."""
    url = f"sqlite:///{tmp_path}/new/data.db"
    migrate.upgrade(url)

    assert migrate.current(url) == migrate.head()


def test_upgrading_twice_changes_nothing(database_url: str) -> None:
    """The second upgrade is a no-op; the check passes."""
    migrate.upgrade(database_url)
    migrate.check(database_url)

    assert migrate.current(database_url) == migrate.head()


def test_a_database_without_schema_is_refused(empty_url: str) -> None:
    """The message names the command."""
    with pytest.raises(SetupError, match=r"^database_url: the database has no schema yet; run: syncworker db upgrade$"):
        migrate.check(empty_url)


def test_looking_at_an_absent_sqlite_file_does_not_make_it(tmp_path: Path) -> None:
    """A check leaves no empty file behind."""
    path = tmp_path / "none.db"
    found = migrate.current(f"sqlite:///{path}")

    assert (found, path.exists()) == (None, False)


def test_a_newer_schema_is_refused(database_url: str) -> None:
    """A worker older than its database does not start."""
    with engine(database_url).begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SetupError, match="newer than this syncworker"):
        migrate.check(database_url)


def test_a_failed_migration_leaves_nothing(empty_url: str) -> None:
    """Its first tables go with its last: the migration runs in one transaction, on SQLite too."""
    with engine(empty_url).begin() as connection:
        connection.execute(sa.text("CREATE TABLE worker (name TEXT)"))
    with pytest.raises(StoreRefusedError):
        migrate.upgrade(empty_url)

    assert tables(empty_url) == {"worker"}


def test_no_database_is_named(tmp_path: Path) -> None:
    """Nobody listens: the field is named, the driver's text is not repeated."""
    with pytest.raises(StoreUnavailableError, match=r"^database_url: the database cannot be reached"):
        migrate.check(f"postgresql://someone@127.0.0.1:{free_port()}/none")


def test_an_installed_package_carries_its_migrations_and_refuses_an_old_schema(sqlite_url: str, tmp_path: Path) -> None:
    """Laid out as in a wheel, and one migration newer than the database: the command is named."""
    project = Path(syncworker.__file__).parent
    here = tmp_path / "site" / "syncworker"
    shutil.copytree(project, here, ignore=shutil.ignore_patterns("__pycache__", "migrations"))
    shutil.copytree(migrations(), here / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    newer = f'revision = "9999"\ndown_revision = "{migrate.head()}"\n'
    (here / "migrations" / "versions" / "9999_newer.py").write_text(newer)
    script = f"from syncworker.store import migrate; migrate.check({sqlite_url!r})"

    done = subprocess.run([sys.executable, "-c", script], cwd=here.parent, capture_output=True, text=True, check=False)

    assert done.stderr.splitlines()[-1] == (
        "syncworker.errors.SetupError: database_url: the database schema is old"
        f" ({migrate.head()}, newest is 9999); run: syncworker db upgrade"
    )


def test_consents_that_are_there_get_columns_for_what_they_are_narrowed_to(empty_url: str) -> None:
    """0016 copies `consent` on SQLite: rows and what points to them stay.  A second chain bars the way back."""
    migrate.upgrade(empty_url, "0010")
    at = "2026-01-01 00:00:00+00:00"
    row = {
        "tenant": "t", "consent_id": "root", "connection_id": "root", "lfi": "bank", "version": "v2.1",
        "status": "Authorized", "status_seen_at": at, "permissions": "[]", "expires_at": at, "user_type": "Retail",
        "purpose": "TaxFiling", "created_at": at, "base_consent_id": None, "webhook_active": True,
    }  # fmt: skip
    insert = sa.text(f"INSERT INTO consent ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})")
    with engine(empty_url).begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO connection (tenant, connection_id, lfi, user_ref, created_at) VALUES (:t, :c, :l, :u, :a)"
            ),
            {"t": "t", "c": "root", "l": "bank", "u": "u", "a": at},
        )
        connection.execute(insert, row)
        connection.execute(sa.text("INSERT INTO token (tenant, consent_id, version) VALUES ('t', 'root', 1)"))
    migrate.upgrade(empty_url)
    with engine(empty_url).begin() as connection:
        assert connection.execute(sa.text("SELECT consent_id, purpose, account_types FROM consent")).all() == [
            ("root", "TaxFiling", None)
        ]
        assert connection.execute(sa.text("SELECT consent_id FROM token")).all() == [("root",)]
        connection.execute(insert, {**row, "consent_id": "second-root"})
        if connection.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []

    with pytest.raises(StoreRefusedError):
        migrate.downgrade(empty_url, "0010")
    assert migrate.current(empty_url) == migrate.head()


def test_accounts_that_are_there_get_a_reference(empty_url: str) -> None:
    """0020 names all of them, of every tenant, more than one chunk holds; the way back leaves the accounts."""
    migrate.upgrade(empty_url, "0019")
    at = "2026-01-01 00:00:00+00:00"
    row = {"raw": b"x", "digest": b"d" * 16, "first_seen_at": at, "changed_at": at, "gen": 1, "account_id": ""}
    places = [("t1", "c1", f"a{number}") for number in range(1_001)] + [("t2", "c1", "a1"), ("t2", "c0", "a2")]
    names = ["tenant", "connection_id", "key", *row]
    insert = sa.text(f"INSERT INTO account ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})")
    with engine(empty_url).begin() as connection:
        connection.execute(insert, [dict(zip(names, place, strict=False)) | row for place in places])
    migrate.upgrade(empty_url)
    query = sa.text("SELECT tenant, connection_id, lfi_account_id, account_id, identity FROM account_reference")
    with engine(empty_url).connect() as connection:
        found = connection.execute(query).all()
    migrate.downgrade(empty_url, "0019")
    with engine(empty_url).connect() as connection:
        accounts = connection.scalar(sa.text("SELECT count(*) FROM account"))

    assert sorted(tuple(one[:3]) for one in found) == sorted(places)
    assert len({one.account_id for one in found}) == len(places)
    assert {(len(one.account_id), one.account_id[:4], one.identity) for one in found} == {(24, "acc_", None)}
    assert accounts == len(places)


def test_checks_are_written_into_the_cursors_on_the_way_back(empty_url: str) -> None:
    """0025 leaves cursors as they are; down again they say what newer checks said, and an older check says nothing."""
    migrate.upgrade(empty_url, "0019")
    early, late, due = (f"2026-01-0{day} 10:00:00.000001+00:00" for day in (1, 2, 3))
    if empty_url.startswith("sqlite"):
        early, late, due = (one.replace(" ", "T").replace("+00:00", "Z") for one in (early, late, due))
    cursors = sa.text(
        "INSERT INTO cursor (tenant, connection_id, account_id, resource, pages, checked_at, due_at, outcome, gen)"
        " VALUES ('t', 'c', :account, 'balances', :pages, :early, :early, 'ok', :gen)"
    )
    read = sa.text("SELECT account_id, gen, outcome, checked_at, due_at, attempted_at, pages FROM cursor ORDER BY 1")
    with engine(empty_url).begin() as connection:
        for account, gen in (("checked", 1), ("changed since", 9), ("never checked", 1)):
            connection.execute(cursors, {"account": account, "gen": gen, "pages": b"p", "early": early})
        before = connection.execute(read).all()
    migrate.upgrade(empty_url, "0025")
    walk = [2, late.replace(" ", "T"), [[due.replace(" ", "T"), [0], ["balances", "transactions"]]]]
    listings = [[["checked", "changed since", "without a cursor"]], [walk]]
    with engine(empty_url).begin() as connection:
        assert connection.execute(read).all() == before
        connection.execute(
            sa.text(
                "INSERT INTO connection_check (tenant, connection_id, listings, gen, at) VALUES ('t', 'c', :l, 2, :a)"
            ),
            {"l": json_text(listings), "a": late},
        )
    migrate.downgrade(empty_url, "0019")

    with engine(empty_url).connect() as connection:
        after = {row.account_id: row for row in connection.execute(read)}
        same = [row for row in before if row.account_id != "checked"]
        assert [after[row.account_id] for row in same] == same
        (found,) = connection.execute(
            sa.text(
                "SELECT * FROM cursor"
                " WHERE account_id = 'checked' AND checked_at = :l AND attempted_at = :l AND due_at = :d"
            ),
            {"l": late, "d": due},
        ).all()
    assert (found.gen, found.outcome, bytes(found.pages)) == (2, "unchanged", b"p")
    assert "connection_check" not in tables(empty_url)
