"""The driver's errors, translated once: by SQLSTATE and constraint, with none of their text.

PostgreSQL's DETAIL repeats key values, and a driver's message may repeat the statement; so only codes and names of
constraints travel on.

An error also says whether its session may be used again.  A session that answers may be no good all the same: after a
failover it leads to a server that takes no writes, and every attempt in it would fail in the same way.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy.exc import DBAPIError, OperationalError

from syncworker.errors import SyncWorkerError, TransientError


class Session(StrEnum):
    """What becomes of the session in which a statement failed."""

    GOOD = "good"
    LOST = "lost"
    """Given up; the next transaction opens another."""
    ALL_LOST = "all lost"
    """Given up with all that were opened before: they lead to the same server."""


class StoreUnavailableError(TransientError):
    """The database cannot be reached, gave up on a statement, or does not take it for now."""

    code = "store_unavailable"
    session: Session = Session.GOOD
    reported: str = ""
    """The database's own code for it, as `53100` or `SQLITE_FULL`; empty: it gave none."""


class StoreConflictError(StoreUnavailableError):
    """Deadlock or serialization failure: the same transaction may succeed now."""

    code = "store_conflict"


class StoreRefusedError(SyncWorkerError):
    """The database refused a statement: a constraint, a missing table.  A bug of ours, or an old schema."""

    code = "store_refused"
    session: Session = Session.GOOD


StoreError = StoreUnavailableError | StoreRefusedError


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code says about the statement and about its session."""

    kind: type[StoreError]
    session: Session = Session.GOOD
    words: str = ""


_LATER: Final = StoreUnavailableError
_NEVER: Final = StoreRefusedError

# fmt: off
SQLSTATES: Final = {
    #        class, or one of its codes       the same statement    the session
    "08":    Meaning(_LATER,                                        Session.ALL_LOST, "connection lost"),
    "0A000": Meaning(_NEVER,                                        Session.LOST),  # "cached plan must not change"
    "25006": Meaning(_LATER,                                        Session.ALL_LOST, "it takes no writes now"),
    "25P03": Meaning(_LATER,                                        Session.LOST, "the transaction stood idle"),
    "25P04": Meaning(_LATER,                                        Session.LOST, "the transaction took too long"),
    "26000": Meaning(_LATER,                                        Session.LOST, "its prepared statements are gone"),
    "28":    Meaning(_LATER,                                        Session.LOST, "it does not let us in"),
    "3D000": Meaning(_LATER,                                        Session.LOST, "no such database"),
    "40001": Meaning(StoreConflictError),
    "40P01": Meaning(StoreConflictError),
    "42501": Meaning(_LATER,                                        Session.LOST, "our user may not"),
    "42P05": Meaning(_LATER,                                        Session.LOST, "another client's session"),
    "53":    Meaning(_LATER),                                                     # disk full, out of memory
    "53300": Meaning(_LATER,                                        Session.LOST, "too many connections"),
    "55P03": Meaning(_LATER),                                                     # a lock did not come free
    "57":    Meaning(_LATER,                                        Session.ALL_LOST, "it is going down or coming up"),
    "57014": Meaning(_LATER,                                        Session.LOST, "the statement was cancelled"),
    "58":    Meaning(_LATER,                                        Session.LOST),  # input/output error
    "XX":    Meaning(_NEVER,                                        Session.LOST),  # internal error, corrupted
}
"""PostgreSQL's codes.  57014 is our own time limit, an operator's cancel, or a limit that another client of a pooler
left in the session: a new session costs little, the third one would fail for ever."""

SQLITE: Final = {
    "SQLITE_BUSY":     Meaning(_LATER),
    "SQLITE_LOCKED":   Meaning(_LATER),
    "SQLITE_FULL":     Meaning(_LATER),
    "SQLITE_NOMEM":    Meaning(_LATER),
    "SQLITE_PROTOCOL": Meaning(_LATER,                              Session.LOST),
    "SQLITE_CANTOPEN": Meaning(_LATER,                              Session.LOST),
    "SQLITE_IOERR":    Meaning(_LATER,                              Session.ALL_LOST),
    "SQLITE_READONLY": Meaning(_LATER,                              Session.ALL_LOST),  # also: the file was moved
    "SQLITE_CORRUPT":  Meaning(_NEVER,                              Session.ALL_LOST),  # another file may have come
    "SQLITE_NOTADB":   Meaning(_NEVER,                              Session.ALL_LOST),
}
"""SQLite's codes and the beginnings of its extended ones."""
# fmt: on

_REFUSED: Final = Meaning(_NEVER)


def meaning_of(sqlstate: str) -> Meaning:
    """What PostgreSQL's code says; a code of its own counts before its class."""
    return SQLSTATES.get(sqlstate) or SQLSTATES.get(sqlstate[:2]) or _REFUSED


def translated(error: DBAPIError) -> StoreError:
    """Our error for SQLAlchemy's."""
    if error.orig is None:
        return StoreRefusedError("database refused")
    unavailable = error.connection_invalidated or isinstance(error, OperationalError)
    return translated_driver_error(error.orig, unavailable=unavailable)


def translated_driver_error(error: BaseException, *, unavailable: bool = False) -> StoreError:
    """Our error for the driver's own.

    Args:
        unavailable: what it means when the driver gives no SQLSTATE, as when a connection breaks.
    """
    kind = type(error).__name__
    sqlite = getattr(error, "sqlite_errorname", None) or ""
    if sqlite:
        meaning = next((found for name, found in SQLITE.items() if sqlite.startswith(name)), _REFUSED)
        return _said(meaning, sqlite, f"{kind} {sqlite}")
    sqlstate = getattr(error, "sqlstate", None) or ""
    if not sqlstate and (unavailable or kind == "OperationalError"):
        return _said(Meaning(_LATER, Session.LOST), kind, "")
    constraint = getattr(getattr(error, "diag", None), "constraint_name", None) or ""
    return _said(meaning_of(sqlstate), sqlstate, f"{kind} {sqlstate} {constraint}".rstrip())


def _said(meaning: Meaning, code: str, refused: str) -> StoreError:
    if meaning.kind is StoreRefusedError:
        text = f"database refused: {refused}"
    else:
        what = "conflict" if meaning.kind is StoreConflictError else "unavailable"
        text = f"database {what} ({code}{': ' if meaning.words else ''}{meaning.words})"
    error = meaning.kind(text)
    error.session = meaning.session
    if isinstance(error, StoreUnavailableError):
        error.reported = code
    return error
