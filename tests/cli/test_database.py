"""What commands say of a PostgreSQL: as it is, read-only, through an undeclared pooler, or not one at all."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from syncworker.store.keyring import KeyRing
from tests.cli.house import House
from tests.ground.pgbouncer import PgBouncer, pgbouncer_program

pytestmark = pytest.mark.live

SECRET = "s3cr3t-word"


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Nothing but a key ring."""
    KeyRing.generate(tmp_path / "keyring")
    (tmp_path / "syncworker.toml").write_text('keyring = "keyring"\n')
    return House(tmp_path)


def database_checks(house: House, url: str) -> dict[str, tuple[bool, str]]:
    ended = house.run("doctor", "--json", env={"SYNCWORKER_DATABASE_URL": url})
    return {
        one["check"]: (one["good"], one["said"]) for one in ended.json["checks"] if one["check"].startswith("database")
    }


@pytest.fixture
def read_only_url(postgresql_url: str) -> Iterator[str]:
    """A database that takes no writes for now."""
    name = sql.Identifier(urlsplit(postgresql_url).path[1:])
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        yield postgresql_url
        admin.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))


def test_the_doctor_says_what_server_it_met(house: House, postgresql_url: str) -> None:
    """Schema first; then version and encoding."""
    found = database_checks(house, postgresql_url)

    assert found["database schema"] == (True, "newest")
    assert (found["database"][0], found["database"][1].startswith("PostgreSQL ")) == (True, True)


def test_a_view_that_is_missing_is_named_with_the_command(house: House, postgresql_url: str) -> None:
    """By `db check` and the doctor; views of others that read ours are told of, and no fault."""
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        admin.execute("DROP VIEW v_account")
        admin.execute("CREATE VIEW mine AS SELECT id FROM v_balance")
    env = {"SYNCWORKER_DATABASE_URL": postgresql_url}
    said = "the view v_account is missing; run: syncworker db upgrade"
    missing = house.run("db", "check", env=env), database_checks(house, postgresql_url)["database views"]
    made = house.run("db", "upgrade", env=env)
    good = house.run("db", "check", "--json", env=env), database_checks(house, postgresql_url)["database views"]

    assert (missing[0].code, missing[0].stderr.strip(), missing[1]) == (
        1,
        f"error [setup]: database_url: {said}",
        (False, said),
    )
    assert made.code == 0
    assert (good[0].code, good[0].json["other_views"]) == (0, ["public.mine"])
    assert good[1] == (True, "as they should be; views of others, which `db upgrade` meets: public.mine")


def test_the_doctor_says_that_a_database_takes_no_writes(house: House, read_only_url: str) -> None:
    """A standby, or a primary before the failover is over."""
    good, said = database_checks(house, read_only_url)["database"]

    assert (good, said.split(" (")[0]) == (False, "database_url: the database takes no writes now")


@pytest.mark.skipif(pgbouncer_program() is None, reason="no PgBouncer is installed on this machine")
@pytest.mark.parametrize("command", [("worker",), ("db", "check"), ("db", "upgrade"), ("status",)])
def test_a_pooler_in_transaction_mode_needs_its_setting(
    house: House, postgresql_url: str, command: tuple[str, ...]
) -> None:
    """One line on stderr with the setting's name, before anything else is done."""
    pooler = PgBouncer(postgresql_url, "transaction")
    try:
        ended = house.run(*command, env={"SYNCWORKER_DATABASE_URL": pooler.url()})
    finally:
        pooler.close()

    assert (ended.code, 'set database_pooler = "transaction"' in ended.stderr) == (1, True), ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", [("db", "check"), ("beat",), ("consents", "list")])
def test_a_parameter_of_another_driver_is_named_with_the_fix(house: House, command: tuple[str, ...]) -> None:
    """In the same words in every process; no password is repeated."""
    url = f"postgresql://u:{SECRET}@127.0.0.1/n?ssl=true"
    ended = house.run(*command, env={"SYNCWORKER_DATABASE_URL": url, "SYNCWORKER_BROKER_URL": "memory://"})

    fault = "database_url: ssl is not a parameter of PostgreSQL; write sslmode=verify-full"
    assert (ended.code, fault in ended.stderr, SECRET in ended.stdout + ended.stderr) == (1, True, False), ended.stderr
