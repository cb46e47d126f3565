"""What the pages write: ages, counts, money, ids, and states as icon, word and colour.  Pure.

A state is never told by colour alone: it has an icon and a word.  Healthy is grey; colour means "look here".
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from syncworker.ops.words import instant
from syncworker.ops.words import span as plain_span
from syncworker.standard.calendar import UAE, shifted
from syncworker.standard.consents import TERMINAL, Status
from syncworker.store.connections import Label

NBSP: Final = "\u00a0"
MILLIFILS_PER_FILS: Final = 1_000
MILLIFILS_PER_DIRHAM: Final = 100_000


class Shown(NamedTuple):
    """A state as it is shown.

    Attributes:
        icon: of the sprite.
        tone: class of the colour; empty: the text's own.
    """

    icon: str
    tone: str
    word: str


OK: Final = Shown("ok", "", "ok")
NEVER: Final = Shown("none", "faint", "never asked")

OUTCOMES: Final[Mapping[str, Shown]] = {
    # runs and listings: `RunOutcome`, `StepOutcome`
    "ok": Shown("ok", "", "ok"),
    "unchanged": Shown("same", "", "unchanged"),
    "partial": Shown("part", "warn", "partial"),
    "failed": Shown("bad", "bad", "failed"),
    "lease_lost": Shown("end", "faint", "lease lost"),
    "absent": Shown("none", "faint", "absent"),
    "refused": Shown("bad", "bad", "refused"),
    "truncated": Shown("part", "warn", "truncated"),
    "skipped": Shown("held", "held", "skipped"),
    "parked": Shown("bad", "bad", "parked"),
    # messages to the product: `messages.Outcome`
    "delivered": Shown("ok", "", "delivered"),
    "folded": Shown("same", "", "folded"),
    "given_up": Shown("bad", "bad", "given up"),
    # events: `EventState`
    "done": Shown("ok", "", "done"),
    "filed": Shown("run", "run", "filed"),
    "quarantined": Shown("warn", "warn", "quarantined"),
}
"""By the word that the tables hold; one that is not here is shown as it is."""

LABELS: Final[Mapping[str, Shown]] = {
    Label.ACTIVE: Shown("ok", "", "Active"),
    Label.PENDING: Shown("run", "run", "Pending"),
    Label.SUSPENDED: Shown("held", "held", "Suspended"),
    Label.PAUSED: Shown("held", "held", "Paused"),
    Label.CANCELLED: Shown("end", "faint", "Cancelled"),
    Label.REJECTED: Shown("end", "faint", "Rejected"),
    Label.EXPIRED: Shown("end", "faint", "Expired"),
    Label.CONSUMED: Shown("end", "faint", "Consumed"),
}


def outcome(word: str | None) -> Shown:
    """How a run, listing, message or event ended."""
    return NEVER if word is None else OUTCOMES.get(word, Shown("none", "", word.replace("_", " ")))


def label(word: str) -> Shown:
    """A connection's label, or a status the standard does not know."""
    return LABELS.get(word, Shown("warn", "warn", word))


def status(word: str) -> Shown:
    """A consent's status, as the Hub sent it."""
    if word in {one.value for one in TERMINAL}:
        return Shown("end", "faint", word)
    tones = {Status.Authorized.value: ("ok", ""), Status.Suspended.value: ("held", "held")}
    icon, tone = tones.get(word, ("run", "run"))
    return Shown(icon, tone, word)


def http(answer: int | None, error: str | None = None) -> Shown:
    """What came of a call."""
    if answer is None:
        return Shown("bad", "bad", (error or "no answer").replace("_", " "))
    if answer == 429:
        return Shown("held", "held", "429")
    if answer >= 500:
        return Shown("bad", "bad", str(answer))
    if answer == 404:
        return Shown("none", "faint", "404")
    return Shown("warn", "warn", str(answer)) if answer >= 400 else Shown("ok", "", str(answer))


# -- numbers -----------------------------------------------------------------------------------------------------


def span(length: timedelta) -> str:
    """A duration in its two largest units, as the command line writes it, with no-break spaces: `2 h 25 min`."""
    return plain_span(length).replace(" ", NBSP)


def rough(length: timedelta) -> str:
    """A duration in its largest unit, for narrow cells: `9 h`."""
    first, _, rest = span(length).partition(NBSP)
    return f"{first}{NBSP}{rest.partition(NBSP)[0]}"


def count(number: int) -> str:
    """A count with thousands separators, never rounded."""
    return f"{number:,}"


def dirhams(millifils: int, calls: int = 0) -> str:
    """A sum: `AED 834.90`; `free` where calls were made and none had a price, `–` where none was made."""
    if not millifils:
        return "free" if calls else "–"
    return f"AED{NBSP}{Decimal(millifils) / MILLIFILS_PER_DIRHAM:,.2f}"


def sentence(text: str) -> str:
    """A step as a sentence of its own: it begins with a capital, unless a command opens it."""
    return text[:1].upper() + text[1:] if text else text


def fils(millifils: int) -> str:
    """The price of a call: `2.5`; `free` for none."""
    return "free" if not millifils else f"{Decimal(millifils) / MILLIFILS_PER_FILS:,.1f}"


def percent(part: int, whole: int) -> str:
    """A share in whole per cent; `–` of nothing."""
    return f"{round(100 * part / whole)}{NBSP}%" if whole else "–"


def milliseconds(number: int | None) -> str:
    """A short duration: `188 ms`, `2,100 ms`."""
    return "–" if number is None else f"{number:,}{NBSP}ms"


def size(octets: int) -> str:
    """A size: `812 B`, `61.2 kB`, `3.4 GB`."""
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if octets >= 1_000**power:
            return f"{octets / 1_000**power:,.1f}{NBSP}{unit}"
    return f"{octets}{NBSP}B"


def tail(text: str, length: int = 4) -> str:
    """The end of an id: `…4821`; a short one as it is."""
    return text if len(text) <= length + 1 else f"…{text[-length:]}"


def head(text: str, length: int = 8) -> str:
    """The beginning of an id: `7f3c1d52…`; a short one as it is."""
    return text if len(text) <= length + 1 else f"{text[:length]}…"


# -- instants ----------------------------------------------------------------------------------------------------


def machine(at: datetime) -> str:
    """`2026-12-03T00:47:02Z`, for the attribute `datetime`."""
    return instant(at).replace(" ", "T")


def short(at: datetime) -> str:
    """`3 Dec, 07:30 UTC`."""
    return f"{at.day} {at:%b, %H:%M} UTC"


def day(at: datetime) -> str:
    """`3 Dec 2026`."""
    return f"{at.day} {at:%b %Y}"


def dubai(at: datetime) -> str:
    """The time of day in Dubai: `07:12`."""
    return f"{shifted(at, UAE.utcoffset(None)):%H:%M}"
