"""What a check says of a database that is not fit for us, or is none."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from syncworker.errors import SetupError
from syncworker.store import migrate
from syncworker.store.failures import StoreUnavailableError

pytestmark = pytest.mark.store


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def misencoded_url(request: pytest.FixtureRequest, postgresql_url: str) -> Iterator[str]:
    """A database of another encoding."""
    parts = urlsplit(postgresql_url)
    name = sql.Identifier(f"encoded_{parts.path[1:]}")
    with psycopg.connect(postgresql_url, autocommit=True) as admin:
        made = "CREATE DATABASE {} ENCODING {} TEMPLATE template0"
        admin.execute(sql.SQL(made).format(name, sql.Literal(request.param)))
        yield parts._replace(path=f"/{name.as_string()[1:-1]}").geturl()
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.mark.parametrize("ask", [migrate.check, migrate.upgrade])
def test_another_encoding_than_utf8_is_refused(misencoded_url: str, ask: Callable[[str], object]) -> None:
    """Before a table is made and before a worker starts: a name in Arabic would be refused in the middle of a sync."""
    with pytest.raises(SetupError, match=r"^database_url: the database's encoding is .* ENCODING 'UTF8'"):
        ask(misencoded_url)


@contextlib.contextmanager
def listener(says: bytes | None) -> Iterator[int]:
    """Takes connections and says this to the first bytes of each, or nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    taken.append(connection)
                    if says is not None:
                        connection.recv(1024)
                        connection.sendall(says)
                        connection.close()

        threading.Thread(target=take, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for one in taken:
            one.close()


@pytest.mark.parametrize(
    ("says", "query", "said"),
    [
        pytest.param(None, "", "no answer in time", id="silent"),
        pytest.param(b"HTTP/1.1 400 \r\n\r\n", "", "does not speak PostgreSQL", id="another service"),
        pytest.param(
            b"\x15\x03\x01\x00\x02\x02\x46", "&sslmode=require", "does not speak PostgreSQL", id="TLS at once"
        ),
    ],
)
def test_what_is_no_postgresql_is_named(says: bytes | None, query: str, said: str) -> None:
    """Whatever listens there, the check ends and says what it met."""
    with listener(says) as port, pytest.raises(StoreUnavailableError, match=said):
        migrate.check(f"postgresql://u:s3cr3t@127.0.0.1:{port}/n?connect_timeout=2{query}")


def test_tls_that_a_server_does_not_offer_is_named(postgresql_url: str) -> None:
    """`sslmode` asks for it in vain."""
    with pytest.raises(StoreUnavailableError, match="sslmode asks for TLS, and the server offers none"):
        migrate.check(f"{postgresql_url}?sslmode=require")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param('FATAL:  password authentication failed for user "x"', "the password is wrong", id="password"),
        pytest.param('FATAL:  database "x" does not exist', "no such database or user", id="no database"),
        pytest.param("FATAL:  sorry, too many clients already", "it has no connection left", id="full"),
        pytest.param("SSL error: certificate verify failed", "name its authority in sslrootcert", id="authority"),
        pytest.param("FATAL:  the database system is starting up", "starting or stopping", id="starting"),
        pytest.param('FATAL:  no pg_hba.conf entry for host "10.0.0.1"', "does not let us in from here", id="hba"),
        pytest.param("something new", "", id="unknown"),
    ],
)
def test_a_failed_connection_is_explained_in_our_words(text: str, said: str) -> None:
    """A driver's text may repeat names; what we say of it does not."""
    assert said in migrate.fault_of(text)
