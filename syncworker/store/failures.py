"""The driver's errors, translated once: by SQLSTATE and constraint, with none of their text (`reliability.md` rule 37).

PostgreSQL's DETAIL repeats key values, and a driver's message may repeat the statement; so only codes and names of
constraints travel on.
"""

from typing import Final

from sqlalchemy.exc import DBAPIError, OperationalError

from syncworker.errors import SyncWorkerError, TransientError

RETRIED: Final = frozenset({"40001", "40P01"})
"""SQLSTATEs of PostgreSQL that say "the same transaction may succeed now": serialization failure, deadlock."""

_AWAY: Final = frozenset({"08", "53", "57", "58"})  # connection, resources, operator intervention, system
_AWAY_FOR_NOW: Final = frozenset({
    "25006",  # read-only: a standby that is not promoted yet, as during a failover
    "25P03", "25P04",  # the session was ended because its transaction stood idle, or took too long
    "55P03",  # a lock did not come free
})  # fmt: skip
_SQLITE_AWAY: Final = tuple(
    f"SQLITE_{name}" for name in ("BUSY", "LOCKED", "CANTOPEN", "IOERR", "FULL", "NOMEM", "PROTOCOL", "READONLY")
)


class StoreUnavailableError(TransientError):
    """The database cannot be reached or gave up on a statement."""

    code = "store_unavailable"


class StoreConflictError(StoreUnavailableError):
    """Deadlock or serialization failure: the same transaction may succeed now."""

    code = "store_conflict"


class StoreRefusedError(SyncWorkerError):
    """The database refused a statement: a constraint, a missing table.  A bug of ours, or an old schema."""

    code = "store_refused"


def translated(error: DBAPIError) -> SyncWorkerError:
    """Our error for SQLAlchemy's."""
    if error.orig is None:
        return StoreRefusedError("database refused")
    unavailable = error.connection_invalidated or isinstance(error, OperationalError)
    return translated_driver_error(error.orig, unavailable=unavailable)


def translated_driver_error(error: BaseException, *, unavailable: bool = False) -> SyncWorkerError:
    """Our error for the driver's own.

    Args:
        unavailable: what it means when the driver gives no SQLSTATE, as when a connection breaks.
    """
    kind = type(error).__name__
    sqlite = getattr(error, "sqlite_errorname", None) or ""
    if sqlite:
        if sqlite.startswith(_SQLITE_AWAY):
            return StoreUnavailableError(f"database unavailable ({sqlite})")
        return StoreRefusedError(f"database refused: {kind} {sqlite}")
    sqlstate = getattr(error, "sqlstate", None) or ""
    if sqlstate in RETRIED:
        return StoreConflictError(f"database conflict ({sqlstate})")
    if sqlstate[:2] in _AWAY or sqlstate in _AWAY_FOR_NOW:
        return StoreUnavailableError(f"database unavailable ({sqlstate})")
    if not sqlstate and (unavailable or kind == "OperationalError"):
        return StoreUnavailableError(f"database unavailable ({kind})")
    constraint = getattr(getattr(error, "diag", None), "constraint_name", None) or ""
    return StoreRefusedError(f"database refused: {kind} {sqlstate} {constraint}".rstrip())
