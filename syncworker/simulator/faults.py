"""Troubles to order: latency, refusals, lost answers, silence, nonsense.

A fault names the operations it strikes (`*` for all), how many times it strikes (for ever when not said) and, if it
should spare the others, one consent.  Faults strike in the order they were ordered, one to a request; latency is apart.

Operations: discovery, jwks, authorize, par, token (and token.authorization_code, token.refresh_token,
token.client_credentials), consent, consents, consent_patch, opening_create, opening_status, opening (the status at the
path of v2.0), opening_subscription, and the names of `standard.resources`.

Source: Fault scenarios, `reliability.md` §9.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What goes wrong."""

    ANSWERS = "answers"
    """`status` (with `retry_after`, `code`) instead of an answer; nothing is processed."""
    DROP = "drop"
    """The connection is cut; the request is processed first unless `after_processing` is false."""
    HANG = "hang"
    """No answer until the fault is cleared or the bank stops; nothing is processed."""
    HTML = "html"
    """A web page with status 200; nothing is processed."""
    TRUNCATED = "truncated"
    """Half of the body, then the connection is cut."""
    FOREIGN_LINK = "foreign_link"
    """`Links.Next` leads to another host and path."""
    OTHER_HOST = "other_host"
    """`Links.Next`, where there is one, names another host and is right otherwise."""
    RELATIVE_LINK = "relative_link"
    """`Links.Next`, where there is one, names no host."""
    LOOP_LINK = "loop_link"
    """`Links.Next` leads to the page itself."""
    GZIP_BOMB = "gzip_bomb"
    """A small gzip stream that unpacks to `size` megabytes, whether or not gzip was asked for."""
    GZIP_MEMBERS = "gzip_members"
    """The body as a series of `size` gzip members, whether or not gzip was asked for."""
    DEEP = "deep"
    """An item with `size` nested arrays."""
    GIANT_AMOUNT = "giant_amount"
    """An amount of `size` digits, as text."""
    GIANT_NUMBER = "giant_number"
    """An amount of `size` digits, as a JSON number."""
    WRONG_LENGTH = "wrong_length"
    """`Content-Length` is `size` bytes more (negative: fewer) than what comes before the line is closed."""
    DUPLICATE_ITEM = "duplicate_item"
    """An item comes twice on its page, the second time with one member more."""
    DUPLICATE_MEMBER = "duplicate_member"
    """An item has one member twice."""
    WRONG_TYPE = "wrong_type"
    """The right body as `content_type`."""
    FORGED = "forged"
    """A signed answer whose signature does not hold; it strikes where answers are signed."""
    DRIP = "drip"
    """A byte every `seconds` until the fault is cleared."""


class Habit(StrEnum):
    """How a bank lists a resource, as long as it stands: not one strike, but every page."""

    NEVER_ENDS = "never_ends"
    """Every page has a `Links.Next`; behind the last one come empty pages."""
    REPEATS = "repeats"
    """Every page is the first one, and has a `Links.Next`."""
    IGNORES_FILTER = "ignores_filter"
    """Whatever window is asked for, everything is shown."""
    NEWEST_INSTEAD = "newest_instead"
    """A window that begins long before the history is answered with the newest rows."""
    SILENT = "silent"
    """`Meta` does not say where the history begins and ends."""


BEFORE = frozenset({Kind.ANSWERS, Kind.HANG, Kind.HTML})
"""Nothing is processed."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """One order.

    Attributes:
        times: strikes left; `None` is for ever.
        struck: strikes so far.
        cleared: taken back.
        size: how much, in the unit of the kind.
    """

    kind: Kind
    operation: str = "*"
    times: int | None = None
    consent_id: str | None = None
    status: int = 503
    retry_after: int | None = None
    code: str = "GenericRecoverableError"
    after_processing: bool = True
    size: int = 0
    seconds: float = 1
    content_type: str = "text/plain"
    struck: int = 0
    cleared: bool = False

    def __post_init__(self) -> None:
        self.kind = Kind(self.kind)

    @property
    def spent(self) -> bool:
        """Whether it has struck as often as it was to."""
        return self.times is not None and self.struck >= self.times

    @property
    def late(self) -> bool:
        """Whether the request is processed before it strikes."""
        return self.after_processing if self.kind is Kind.DROP else self.kind not in BEFORE

    def facts(self) -> dict[str, Any]:
        """The order as JSON."""
        return asdict(self)


class Faults:
    """The orders in force."""

    def __init__(self) -> None:
        self.latency: dict[str, float] = {}
        self._orders: list[Fault] = []

    def order(self, fault: Fault) -> Fault:
        """Put a fault in force."""
        self._orders.append(fault)
        return fault

    def clear(self) -> None:
        """Take all faults and latencies back; hanging requests end."""
        for fault in self._orders:
            fault.cleared = True
        self._orders.clear()
        self.latency.clear()

    def delay(self, operation: str) -> float:
        """Seconds to wait before an operation is answered."""
        if not self.latency:
            return 0.0
        names = _names(operation)
        return max((seconds for name, seconds in self.latency.items() if name in names), default=0.0)

    def strike(self, operation: str, consent_id: str | None) -> Fault | None:
        """The fault that strikes this request, counted; `None` when all is well."""
        if not self._orders:
            return None
        names = _names(operation)
        for fault in self._orders:
            if fault.operation in names and fault.consent_id in (None, consent_id) and not fault.spent:
                fault.struck += 1
                return fault
        return None

    def facts(self) -> dict[str, Any]:
        """All orders as JSON."""
        return {"latency": dict(self.latency), "faults": [fault.facts() for fault in self._orders]}


def _names(operation: str) -> frozenset[str]:
    return frozenset({"*", operation, operation.partition(".")[0]})
