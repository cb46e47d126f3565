"""What a refusal of one request means for its listing and for the consent.

In: status, code, kind of body, page, operation, version, and whether the listing ever had rows.  Out: `Refusal`.  No
I/O here.  `Message` is not standardised and never counts.

A refusal means something only in context:

    by code      `Consent.*`, `AccessToken.*` and `GenericRecoverableError`, whatever the status: v1.2 has one list of
                 codes for all statuses
    absent       404 on page 1 of an operation that lists it in the consent's version, with no body or the standard's
                 error body, where the listing never had rows
    refused      400 with a `Code`; 403; 405, 406, 415; another status with a `Code`
    a fault      all else, and every refusal of a later page: the walk was cut.  Time mends it

Source: Account Information API v2.1-errata2, `400Error`, `403Error`; v1.2-errata1, `AEErrorCode`.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from syncworker.errors import Body
from syncworker.standard.resources import Resource
from syncworker.standard.versions import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What to do about it.

    Attributes:
        outcome: a constant word for cursor and report.
        remember: do not ask again for so long.
        ask: ask the Hub whether the consent still stands.
        retry: time mends it; without `remember` the listing's own ladder says when.
        person: a person has to act.
        token: the LFI does not take the token, for this listing or for all.
    """

    outcome: str
    remember: timedelta | None = None
    ask: bool = False
    retry: bool = False
    person: bool = False
    token: bool = False


ABSENT: Final = Refusal(outcome="absent", remember=timedelta(days=7))
"""The account has no such thing; not an error."""

REFUSED: Final = Refusal(outcome="refused", remember=timedelta(hours=24), person=True)
FAULT: Final = Refusal(outcome="failed", retry=True)
"""Time mends it: a fault of the LFI, of a gateway before it, or a walk that was cut between two pages."""

UNAUTHORIZED: Final = replace(FAULT, ask=True, token=True)
"""A second 401, after a newer token or for a token that other listings were read with."""

BLOCKED: Final = Refusal(outcome="refused", remember=timedelta(hours=6), ask=True, retry=True)
UNREADABLE: Final = Refusal(outcome="failed", retry=True, person=True)
"""An answer that cannot be read: a gateway's page with status 200, or a listing that breaks the standard."""

TRUNCATED: Final = Refusal(outcome="truncated", person=True)
"""A guard cut the walk off: too many pages, a loop, a link that leads away, a page too large.  Asked again at cadence:
the same walk again in a minute would cost as many calls and be cut off at the same place.
"""

BLOCKED_CODE: Final = "Consent.AccountTemporarilyBlocked"
OF_THE_ACCOUNT: Final = frozenset({BLOCKED_CODE, "Consent.PermanentAccountAccessFailure"})
"""Codes that are about the account as a whole: its other listings would be answered the same."""

BLOCKED_FOR: Final = timedelta(hours=1)
"""No listing of a blocked account is read for so long, not even when a person asks for a sync."""

_DEFINITE: Final = replace(REFUSED, ask=True)

# fmt: off
BY_CODE: Final = {
    "GenericRecoverableError":               FAULT,
    "AccessToken.Unauthorized":              UNAUTHORIZED,
    "Consent.TransientAccountAccessFailure": replace(FAULT, ask=True),  # a suspended consent answers so everywhere
    "Consent.Revoked":                       replace(FAULT, ask=True),  # the Hub is the system of record
    BLOCKED_CODE:                            BLOCKED,
}
"""Codes that mean the same whatever the status."""

BY_FAMILY: Final = {
    "Consent":     _DEFINITE,
    "AccessToken": _DEFINITE,
}
"""The other codes of these families."""

BY_STATUS: Final = {
    401: UNAUTHORIZED,
    403: _DEFINITE,
    405: REFUSED,
    406: REFUSED,
    410: FAULT,
    415: REFUSED,
}
# fmt: on


def refusal(
    status: int,
    code: str = "",
    *,
    body: Body,
    page: int,
    resource: Resource,
    version: Version,
    had_rows: bool,
) -> Refusal:
    """The meaning of one refusal.

    Args:
        code: of the error body; counts only where `body` is the standard's.
        page: of the listing, from 1.
        version: the consent's.
        had_rows: a walk of this listing brought a row at some time.
    """
    code = code if body is Body.STANDARD else ""
    found = BY_CODE.get(code) or BY_FAMILY.get(code.partition(".")[0]) or _by_status(status, code, body)
    if status == 404 and found is ABSENT and (had_rows or version not in resource.lists_404):
        found = FAULT
    if page > 1:
        return replace(FAULT, ask=found.ask, token=found.token)
    return found


def _by_status(status: int, code: str, body: Body) -> Refusal:
    if status == 403 and body is Body.FOREIGN:  # a firewall's page: the Hub says whether the consent stands
        return replace(FAULT, ask=True)
    if status == 404:
        return FAULT if body is Body.FOREIGN else ABSENT
    return BY_STATUS.get(status) or (REFUSED if code else FAULT)


def is_blocked(error: str | None) -> bool:
    """Whether the error of a cursor says that the account is blocked for some hours."""
    return error is not None and error.endswith(f":{BLOCKED_CODE}")
