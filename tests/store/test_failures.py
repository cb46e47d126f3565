"""What a driver's error means for us: come back later, or a bug."""

import psycopg
import pytest

from syncworker.store.failures import (
    Session,
    StoreConflictError,
    StoreRefusedError,
    StoreUnavailableError,
    translated_driver_error,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("sqlstate", "meaning"),
    [
        pytest.param("40001", StoreConflictError, id="serialization failure"),
        pytest.param("40P01", StoreConflictError, id="deadlock"),
        pytest.param("55P03", StoreUnavailableError, id="a lock did not come free"),
        pytest.param("57P01", StoreUnavailableError, id="the server is being shut down"),
        pytest.param("53100", StoreUnavailableError, id="disk full"),
        pytest.param("58030", StoreUnavailableError, id="input/output error"),
        pytest.param("25006", StoreUnavailableError, id="read-only: a standby not yet promoted"),
        pytest.param("25P03", StoreUnavailableError, id="the session stood idle too long, as a paused process's does"),
        pytest.param("42501", StoreUnavailableError, id="our user may not: an operator may give the right back"),
        pytest.param("26000", StoreUnavailableError, id="a prepared statement is gone"),
        pytest.param("08006", StoreUnavailableError, id="connection failure"),
        pytest.param("23505", StoreRefusedError, id="a key is there already"),
        pytest.param("22001", StoreRefusedError, id="too long for its column"),
        pytest.param("42P01", StoreRefusedError, id="no such table"),
    ],
)
def test_an_error_is_told_by_its_sqlstate(sqlstate: str, meaning: type[Exception]) -> None:
    """What time mends is tried again, by `Storing` until a token is stored; the rest is not."""
    assert type(translated_driver_error(psycopg.errors.lookup(sqlstate)())) is meaning


@pytest.mark.parametrize(
    ("sqlstate", "session"),
    [
        pytest.param("25006", Session.ALL_LOST, id="read-only"),
        pytest.param("57P01", Session.ALL_LOST, id="admin shutdown"),
        pytest.param("57P02", Session.ALL_LOST, id="crash shutdown"),
        pytest.param("57P03", Session.ALL_LOST, id="cannot connect now"),
        pytest.param("08003", Session.ALL_LOST, id="connection does not exist"),
        pytest.param("57014", Session.LOST, id="cancelled"),
        pytest.param("42501", Session.LOST, id="changed rights"),
        pytest.param("53300", Session.LOST, id="too many connections"),
        pytest.param("26000", Session.LOST, id="prepared statement is gone"),
        pytest.param("0A000", Session.LOST, id="cached plan"),
        pytest.param("40001", Session.GOOD, id="serialization failure"),
        pytest.param("55P03", Session.GOOD, id="lock not available"),
        pytest.param("53100", Session.GOOD, id="disk full"),
        pytest.param("23505", Session.GOOD, id="a key is there already"),
        pytest.param("42P01", Session.GOOD, id="no such table"),
    ],
)
def test_an_error_says_what_becomes_of_its_session(sqlstate: str, session: Session) -> None:
    """A session that leads to the wrong server is given up; one whose statement was wrong is kept."""
    assert translated_driver_error(psycopg.errors.lookup(sqlstate)()).session is session
