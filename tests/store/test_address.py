"""How `database_url` is read: what libpq is told, and what is refused with the fix."""

from pathlib import Path

import pytest

from syncworker.errors import SettingsError
from syncworker.store.address import SILENCE, Address, Pooler, address_of

pytestmark = pytest.mark.unit

SECRET = "s3cr3t-word"


@pytest.mark.parametrize(
    ("url", "parameters", "settings"),
    [
        pytest.param(
            "postgresql://u:p%40%2Fw@db:6432/name",
            {"user": "u", "password": "p@/w", "host": "db", "port": "6432", "dbname": "name"},
            {},
            id="whole",
        ),
        pytest.param("postgresql+asyncpg://db/name", {"host": "db", "dbname": "name"}, {}, id="a driver of others"),
        pytest.param("postgres:///name?host=/run/pg", {"host": "/run/pg", "dbname": "name"}, {}, id="socket"),
        pytest.param("postgresql://[::1]:5433/n", {"host": "::1", "port": "5433", "dbname": "n"}, {}, id="IPv6"),
        pytest.param(
            "postgresql://one:5433,two/n?target_session_attrs=read-write",
            {"host": "one,two", "port": "5433,5432", "dbname": "n", "target_session_attrs": "read-write"},
            {},
            id="hosts",
        ),
        pytest.param(
            "postgresql:///n?host=one:5433&host=two:5434",
            {"host": "one,two", "port": "5433,5434", "dbname": "n"},
            {},
            id="hosts as parameters",
        ),
        pytest.param(
            "postgresql://one,two/n?port=5433", {"host": "one,two", "port": "5433", "dbname": "n"}, {}, id="one port"
        ),
        pytest.param(
            "postgresql://h/n?application_name=sw&connect_timeout=9&sslmode=verify-full&sslrootcert=system",
            {
                "host": "h",
                "dbname": "n",
                "application_name": "sw",
                "connect_timeout": "9",
                "sslmode": "verify-full",
                "sslrootcert": "system",
            },
            {},
            id="libpq's own",
        ),
        pytest.param(
            "postgresql://h/n?options=-c search_path=x -cjit=off --work-mem=8MB",
            {"host": "h", "dbname": "n"},
            {"search_path": "x", "jit": "off", "work_mem": "8MB"},
            id="options",
        ),
        pytest.param(
            r"postgresql://h/n?options=-c+search_path%3Da,%5C+b",
            {"host": "h", "dbname": "n"},
            {"search_path": "a, b"},
            id="options with a quoted blank",
        ),
    ],
)
def test_a_url_becomes_parameters_of_libpq(url: str, parameters: dict[str, str], settings: dict[str, str]) -> None:
    """Everything a URL may say reaches the driver; `options` become settings that a statement sets."""
    found = address_of(url)

    assert (dict(found.parameters), dict(found.settings), found.file) == (parameters, settings, None)


def test_a_file_of_sqlite() -> None:
    """A path as it stands: nothing in it is an escape."""
    assert address_of("sqlite:////var/lib/a%20b.db") == Address(file=Path("/var/lib/a%20b.db"))


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        pytest.param("h/n?ssl=true", "ssl is not a parameter of PostgreSQL; write sslmode=verify-full", id="asyncpg"),
        pytest.param("h/n?sslmod=require", "did you mean sslmode?", id="mistyped"),
        pytest.param("h/n?colour=red", "colour is not a parameter of PostgreSQL; remove it", id="unknown"),
        pytest.param("h/n?currentSchema=x", "write options=-c search_path=NAME", id="JDBC"),
        pytest.param("h/n?pgbouncer=true", "set database_pooler to transaction", id="Prisma"),
        pytest.param("h/n?sslmode=on", "sslmode takes one of disable, allow, prefer", id="a value of no use"),
        pytest.param("h/n?target_session_attrs=standby", "takes one of read-write, primary, any", id="a standby"),
        pytest.param("h/n?connect_timeout=0", "connect_timeout takes 1 to 300 seconds", id="waits for ever"),
        pytest.param("h/n?sslrootcert=/no/such", "sslrootcert names no file", id="no file"),
        pytest.param("h/n?client_encoding=latin1", "client_encoding is UTF8 here", id="encoding"),
        pytest.param("h/n?options=-c statement_timeout=0", "options sets statement_timeout, which", id="ours"),
        pytest.param("h/n?options=-B 5", "options is not understood; write options=-c NAME=VALUE", id="a flag"),
        pytest.param("h/n?user=a&user=b", "user is given 2 times", id="twice"),
        pytest.param("h:port/n", "a port is no number", id="port"),
        pytest.param("h@x/n", "%40 for @ in a password", id="@ in a password"),
        pytest.param("h?a@x/n", "%40 for @ in a password", id="@ and ? in a password"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_fix(rest: str, said: str) -> None:
    """Nothing is dropped in silence, and no password is repeated."""
    with pytest.raises(SettingsError) as refused:
        address_of(f"postgresql://u:{SECRET}@{rest}")

    assert str(refused.value).startswith("database_url: ")
    assert said in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("url", ["sqlite:///f.db?mode=ro", "sqlite://host/f.db", "sqlite:///"])
def test_sqlite_takes_a_file_and_nothing_else(url: str) -> None:
    """A parameter that would be dropped is refused."""
    with pytest.raises(SettingsError, match=r"^database_url: SQLite "):
        address_of(url)


def test_a_url_wins_over_our_defaults() -> None:
    """What the operator says about timeouts of the network stands; text is UTF8 always."""
    given = address_of("postgresql://h/n?connect_timeout=9&keepalives_idle=60").arguments()

    assert given == {
        **SILENCE,
        "host": "h",
        "dbname": "n",
        "connect_timeout": "9",
        "keepalives_idle": "60",
        "client_encoding": "UTF8",
        "autocommit": True,
    }


def test_a_pooler_in_transaction_mode_gets_no_prepared_statements() -> None:
    """They belong to a session, which is another client's in the next moment."""
    given = address_of("postgresql://h/n", pooler=Pooler.TRANSACTION).arguments()

    assert given["prepare_threshold"] is None


def test_settings_of_the_url_stand_beside_ours() -> None:
    """One statement sets them all."""
    address = address_of("postgresql://h/n?options=-c search_path=x")

    assert address.setting({"timezone": "UTC"}, local=True) == (
        "SELECT set_config(%s, %s, true), set_config(%s, %s, true)",
        ["search_path", "x", "timezone", "UTC"],
    )


def test_an_address_shows_no_password() -> None:
    """Its repr may reach a log."""
    assert SECRET not in repr(address_of(f"postgresql://u:{SECRET}@h/n?sslpassword={SECRET}"))
