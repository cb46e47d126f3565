"""Every error of syncworker, arranged by who has to act.

SyncWorkerError
├── TransientError                 time mends it: try again after `retry_after`
│   ├── LFIUnavailableError            5xx, timeout, connection lost
│   │   └── LFIBreakerOpenError            calls are kept back after too many of those; nothing was sent
│   ├── LFIRateLimitedError            429; the wait comes from Retry-After
│   │   └── GateClosedError                an earlier 429 keeps the whole LFI waiting; nothing was sent
│   ├── TokenBusyError                 another worker is refreshing this consent's token
│   ├── LeaseLostError                 a newer claim owns this work; its writes stand, ours do not
│   └── StoppingError                  this process is stopping: nothing new is begun here
├── ConsentError                   the user must act: stop this consent
│   ├── ConsentNotUsableError          not Authorized, or past its ExpirationDateTime
│   ├── GrantLostError                 the refresh token is gone for good: consent must be given again
│   └── AuthorizationFailedError       a redirect that declined, expired, or does not belong to us
├── RequestError                   our caller must act: what was asked for cannot be asked of an LFI
│   ├── CursorTooOldError              changes behind a cursor of the feed were taken away: begin again
│   ├── CursorUnknownError             a cursor of another history or tenant, or none of ours: begin again
│   └── CursorFilterError              a cursor that was given for another filter
├── RefusedError                   the LFI refuses this request of this consent; other requests may pass
├── StandardViolationError         the LFI must act: keep the payload, raise an alert
│   └── TruncatedError                 a guard cut a listing off: what came is good, the rest was never seen
│       └── EndlessListingError            its links lead on, and nothing new is behind them
└── SetupError                     our operator must act: key, certificate, registration, settings
    ├── SettingsError                  a value in the settings: names the field and the fix
    ├── NotAllowedError                outside the allow-lists of live proving: nothing was sent
    ├── ClientRejectedError            invalid_client, unauthorized_client: the LFI does not know us (yet)
    ├── SealError                      a sealed column does not open: wrong key ring, or tampered
    ├── ExportTargetError              the place exports go to cannot be written or read
    └── ManifestError                  a manifest at such a place is damaged, or of a newer version

Each class has a stable `code` for metrics, alerts and `--json`.  Facts are attributes.  A message carries ids,
codes and field names, never a token, a key, a payload or anything personal.
"""

import re
from enum import StrEnum
from typing import ClassVar, Self


class SyncWorkerError(Exception):
    """Anything syncworker raises on purpose.

    Attributes:
        lfi_reason: what the LFI said about it, cleaned and bounded (`standard.reasons`); empty when it said nothing.
            For an operator's eyes: never part of the message, and nothing decides by it.
    """

    code: ClassVar[str] = "error"
    lfi_reason: str = ""

    def saying(self, lfi_reason: str) -> Self:
        """The same error, with what the LFI said about it."""
        self.lfi_reason = lfi_reason
        return self


def meaning_of(code: str) -> str:
    """What the error of a code means, in a line, for who finds the code in a table; empty for a code of no error.

    Args:
        code: of a class, alone or with what a run adds to it: `grant_lost:reused`, `refused_403:Consent.Suspended`.
    """
    error = class_of(code)
    return "" if error is None else (error.__doc__ or "").partition("\n")[0]


def class_of(code: str) -> type[SyncWorkerError] | None:
    """The error of a code, alone or with what a run adds to it; `None` for a code of no error."""
    code = re.split(r":|_\d", code)[0]
    known = [SyncWorkerError]
    for error in known:
        known.extend(error.__subclasses__())
        if error.code == code:
            return error
    return None


def told(error: SyncWorkerError) -> str:
    """An error as an operator is told it: its message, and what the LFI said about it."""
    return f"{error}; the LFI says: {error.lfi_reason}" if error.lfi_reason else str(error)


class TransientError(SyncWorkerError):
    """Time mends it.

    Attributes:
        retry_after: seconds to wait as the other side asked; `None` when it did not say.
    """

    code = "transient"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LFIUnavailableError(TransientError):
    """The LFI did not give a usable answer: 5xx, timeout, connection lost."""

    code = "lfi_unavailable"


class LFIRateLimitedError(TransientError):
    """429.  The whole LFI waits, not one request (`domain.md` trap: thundering herd)."""

    code = "lfi_rate_limited"


class LFIBreakerOpenError(LFIUnavailableError):
    """Calls of this class are kept back at this LFI: too many got no answer, or it does not accept us as a client."""

    code = "lfi_breaker_open"


class GateClosedError(LFIRateLimitedError):
    """The LFI asked us to wait, by a 429 before; nothing was sent."""

    code = "lfi_gate_closed"


class TokenBusyError(TransientError):
    """Another worker is refreshing this token and did not finish within our patience."""

    code = "token_busy"


class LeaseLostError(TransientError):
    """The work was claimed again: the newer generation's writes stand and ours change nothing."""

    code = "lease_lost"


class StoppingError(TransientError):
    """This process is stopping and begins nothing new; another one goes on."""

    code = "stopping"


class ConsentError(SyncWorkerError):
    """Only the user can mend it: calls for this consent stop."""

    code = "consent"

    def __init__(self, message: str, *, consent_id: str | None = None, cause: str | None = None) -> None:
        super().__init__(message)
        self.consent_id = consent_id
        self.cause = cause


class ConsentNotUsableError(ConsentError):
    """The consent is not Authorized, or its ExpirationDateTime has passed."""

    code = "consent_not_usable"


class GrantLostError(ConsentError):
    """The refresh token no longer works; `cause` names why.  The user has to give consent again."""

    code = "grant_lost"


class AuthorizationFailedError(ConsentError):
    """A redirect back from the LFI that brings no consent: declined, too old, used, or not ours."""

    code = "authorization_failed"


class RequestError(SyncWorkerError):
    """Our caller asked for something no LFI would take; the message names the field and the fix."""

    code = "bad_request"


_BEGIN_AGAIN = "begin again: take a cursor of now, read the listings, then go on from that cursor"


class CursorTooOldError(RequestError):
    """A cursor of the feed behind which changes were taken away: the reader would miss them."""

    code = "cursor_too_old"

    def __init__(self) -> None:
        super().__init__(f"cursor: is older than the changes that are kept; {_BEGIN_AGAIN}")


class CursorUnknownError(RequestError):
    """A cursor of another history of the database or another tenant, or one that was changed on its way."""

    code = "cursor_unknown"

    def __init__(self) -> None:
        super().__init__(f"cursor: belongs to no feed that is here, as after a database was restored; {_BEGIN_AGAIN}")


class CursorFilterError(RequestError):
    """A cursor that was given for other connections, another user or other resources."""

    code = "cursor_filter"

    def __init__(self) -> None:
        super().__init__(
            "cursor: was given for another filter; give the filter it was given for, or begin again with the new one"
        )


class Body(StrEnum):
    """What the body of a refusal was."""

    NONE = "none"
    STANDARD = "standard"  # the standard's error body: `Errors`, each with a `Code`
    FOREIGN = "foreign"  # anything else, such as a gateway's HTML page


class RefusedError(SyncWorkerError):
    """A definite refusal of one request: 403, 404 or another 4xx of the Data API.

    Attributes:
        status: HTTP status.
        error_code: `Errors[0].Code` of the body, or the OAuth `error`; empty when there was none.
        page: of the listing, from 1.
        content_type: media type of the body without parameters, at most 64 characters; empty when it had none.
        body: whether there was a body, and whether it was the standard's.
    """

    code = "refused"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        error_code: str = "",
        page: int = 1,
        content_type: str = "",
        body: Body = Body.NONE,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.page = page
        self.content_type = content_type
        self.body = body


class StandardViolationError(SyncWorkerError):
    """The LFI sent what the standard forbids, or what no reader can take."""

    code = "standard_violation"


class TruncatedError(StandardViolationError):
    """A listing was cut off by a guard of ours: too many pages, a loop, a link that leads away, a page too large."""

    code = "truncated"


class EndlessListingError(TruncatedError):
    """The links of a listing lead on behind all it has, or round in a circle, or further than we follow.

    Attributes:
        note: `NEVER_ENDS` or `REPEATS_ITSELF`, as the notes of a report have it.
    """

    NEVER_ENDS: ClassVar[str] = "listing.never_ends"
    REPEATS_ITSELF: ClassVar[str] = "listing.repeats_itself"

    def __init__(self, message: str, *, note: str) -> None:
        super().__init__(message)
        self.note = note


class SetupError(SyncWorkerError):
    """Our operator must act.  The message names the field and the fix."""

    code = "setup"


class SettingsError(SetupError):
    """A setting is missing or wrong."""

    code = "settings"


class NotAllowedError(SetupError):
    """The LFI or the customer is outside the allow-lists of live proving; nothing was sent."""

    code = "not_allowed"


class ClientRejectedError(SetupError):
    """The LFI does not accept us as a client: key, `kid`, certificate, clock, or registration not activated."""

    code = "client_rejected"


class SealError(SetupError):
    """A sealed value does not open: the key ring lacks its key, or the value was tampered with."""

    code = "seal"


class ExportTargetError(SetupError):
    """The place exports go to cannot be written or read: its address, its rights, or a file that is in the way."""

    code = "export_target"


class ManifestError(SetupError):
    """The manifest of an export, or the pointer to the latest, is damaged or of a version we do not know."""

    code = "manifest"
