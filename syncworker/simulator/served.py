"""The bank's log: what was asked and answered, and which token replaced which.  No token, no payload, no name.

Both logs are bounded: the oldest entries go first.
"""

from collections import Counter, deque
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final, TypeVar

ENTRIES_MAX: Final = 500_000


@dataclass(slots=True, kw_only=True)
class Served:
    """One request.

    Attributes:
        seq: counts from 1.
        at: when it was answered (bank's clock).
        host: auth, as or rs.
        token_age_s, token_expires_at: of the access token it came with, when that was known.
        token_expired: the access token was known and past its end.
        page: number from 1, for listings.
        status: 0 when the connection was cut without an answer.
        fault: the ordered fault that struck.
    """

    seq: int = 0
    at: datetime
    host: str
    method: str
    operation: str
    status: int
    duration_ms: float
    bytes_out: int
    interaction_id: str | None = None
    consent_id: str | None = None
    account_id: str | None = None
    token_age_s: float | None = None
    token_expires_at: datetime | None = None
    token_expired: bool = False
    attended: bool = False
    page: int | None = None
    fault: str | None = None


@dataclass(slots=True, kw_only=True)
class TokenAnswer:
    """One request to the token endpoint.

    Attributes:
        outcome: issued, repeated (within grace), or the OAuth error.
        version: of the grant after it; 1 is the code exchange.
        replaced_expires_at: end of the access token that this one replaces.
        early_s: how long before that end the refresh came; negative is too late.
    """

    seq: int = 0
    at: datetime
    grant_type: str
    consent_id: str | None
    outcome: str
    version: int = 0
    expires_at: datetime | None = None
    replaced_expires_at: datetime | None = None
    early_s: float | None = None


_Entry = TypeVar("_Entry", Served, TokenAnswer)


class Log:
    """Both logs and what they add up to."""

    def __init__(self) -> None:
        self._served: deque[Served] = deque(maxlen=ENTRIES_MAX)
        self._tokens: deque[TokenAnswer] = deque(maxlen=ENTRIES_MAX)
        self._counted = 0
        self._tokens_counted = 0
        self.counters: Counter[str] = Counter()
        self.in_flight = 0
        self.max_in_flight = 0
        self._data_in_flight = 0
        self.max_data_in_flight = 0

    def begin(self, *, host: str) -> None:
        """A request came in."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        if host == "rs":
            self._data_in_flight += 1
            self.max_data_in_flight = max(self.max_data_in_flight, self._data_in_flight)

    def end(self, entry: Served) -> None:
        """A request was answered, or left without an answer."""
        self.in_flight -= 1
        self._data_in_flight -= entry.host == "rs"
        self._counted += 1
        entry.seq = self._counted
        self._served.append(entry)
        self.counters[f"{entry.operation} {entry.status}"] += 1

    def token(self, entry: TokenAnswer) -> None:
        """The token endpoint decided."""
        self._tokens_counted += 1
        entry.seq = self._tokens_counted
        self._tokens.append(entry)

    def served(self, since: int = 0) -> list[Served]:
        """Entries with a `seq` above `since`, oldest first."""
        return _after(self._served, since)

    def tokens(self, since: int = 0) -> list[TokenAnswer]:
        """Token entries with a `seq` above `since`, oldest first."""
        return _after(self._tokens, since)

    def forget(self) -> None:
        """Reset the peaks of requests in flight, to measure a new stretch of time."""
        self.max_in_flight, self.max_data_in_flight = self.in_flight, self._data_in_flight

    def facts(self, since: int = 0) -> dict[str, Any]:
        """`{entries, next, counters, in_flight, max_in_flight, max_data_in_flight}` as JSON."""
        return {
            "entries": [asdict(entry) for entry in self.served(since)],
            "next": self._counted,
            "counters": dict(self.counters),
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "max_data_in_flight": self.max_data_in_flight,
        }

    def token_facts(self, since: int = 0) -> dict[str, Any]:
        """`{entries, next}` of the token log as JSON."""
        return {"entries": [asdict(entry) for entry in self.tokens(since)], "next": self._tokens_counted}


def _after(entries: deque[_Entry], since: int) -> list[_Entry]:
    return list(islice(entries, max(0, since - entries[0].seq + 1), None)) if entries else []
