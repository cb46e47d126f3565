"""What a driver's error means for us: come back later, or a bug."""

import psycopg
import pytest

from syncworker.store.failures import (
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
        pytest.param("23505", StoreRefusedError, id="a key is there already"),
        pytest.param("22001", StoreRefusedError, id="too long for its column"),
        pytest.param("42P01", StoreRefusedError, id="no such table"),
    ],
)
def test_an_error_is_told_by_its_sqlstate(sqlstate: str, meaning: type[Exception]) -> None:
    """What time mends is tried again, by `Storing` until a token is stored; the rest is not."""
    assert type(translated_driver_error(psycopg.errors.lookup(sqlstate)())) is meaning
