"""What a refusal of one request means for its listing and for the consent.

In: status and error code.  Out: `Refusal`.  No I/O here.  Source: `domain.md` §6.2; Account Information API
v2.1-errata2, `400Error`, `403Error`.  `Message` is not standardised: only status and `Code` count.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final


@dataclass(frozen=True, slots=True)
class Refusal:
    """What to do about it.

    Attributes:
        outcome: a constant word for cursor and report.
        remember: do not ask again for so long; `None`: time mends it, try again soon.
        ask: ask the Hub whether the consent still stands.
    """

    outcome: str
    remember: timedelta | None = None
    ask: bool = False


ABSENT: Final = Refusal("absent", timedelta(days=7))
"""404: the account has no such thing; not an error."""

REFUSED: Final = Refusal("refused", timedelta(hours=24))
TRANSIENT: Final = Refusal("failed")
TRUNCATED: Final = Refusal("truncated")
"""A guard cut the walk off: too many pages, a loop, a link that leads away, a page too large."""

# fmt: off
BY_CODE: Final = {
    (403, "GenericRecoverableError"):                 TRANSIENT,
    (403, "Consent.TransientAccountAccessFailure"):   TRANSIENT,
    (403, "Consent.AccountTemporarilyBlocked"):       Refusal("refused", timedelta(hours=6), ask=True),
    (400, "GenericRecoverableError"):                 TRANSIENT,
}

BY_STATUS: Final = {
    400: REFUSED,
    401: Refusal("failed", ask=True),                                # a second 401, after a fresh token
    403: Refusal("refused", timedelta(hours=24), ask=True),
    404: ABSENT,
}
# fmt: on


def refusal(status: int, code: str) -> Refusal:
    """The meaning of one refusal; an unlisted 4xx is remembered for a day."""
    known = BY_CODE.get((status, code)) or BY_STATUS.get(status, REFUSED)
    if code.startswith("Consent.") and status == 400:
        return Refusal(known.outcome, known.remember, ask=True)
    return known
