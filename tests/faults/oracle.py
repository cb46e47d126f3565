"""What a run owed, told from the bank's side: which pages were asked for, and what each answer was worth.

In: every data request of a run with the verdict on its answer, and what was due when the run began.  Out: what the run
did not bring, in words; empty when it brought all.  The engine's own report is not asked.

A walk begins at an address no page promised and follows the links it was given.  Its last word on each page counts:
a short retry that went well mends what came before.
"""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from urllib.parse import parse_qsl, urlsplit

from syncworker.store.cursors import Listing
from tests.faults.kinds import Verdict
from tests.faults.wire import Asked, Sent


@dataclass(slots=True)
class _Walk:
    """One walk of a listing, from its first page.

    Attributes:
        wants: the address that comes next; `None` at the end.
    """

    begins: str
    wants: str | None
    verdict: Verdict = Verdict.TRUE
    short: bool = False
    lied: bool = False

    @property
    def whole(self) -> bool:
        return self.wants is None


@dataclass(slots=True)
class Witness:
    """Watches the data requests of one consent during one run."""

    walks: dict[Listing, list[_Walk]] = field(default_factory=dict)
    asked: int = 0

    def saw(self, listing: Listing, asked: Asked, sent: Sent, verdict: Verdict) -> None:
        """One request and what came back."""
        self.asked += 1
        walks = self.walks.setdefault(listing, [])
        walk = self._walk(listing, asked.url)
        if walk is None:
            begun = [one for one in walks if one.begins == asked.url]
            for one in begun:
                walks.remove(one)  # begun again: what came of it before does not count
            walk = _Walk(begins=asked.url, wants=asked.url)
            walks.append(walk)
        walk.verdict = verdict
        if verdict is Verdict.OWED:
            return
        walk.short |= verdict is Verdict.SHORT
        walk.lied |= verdict is not Verdict.TRUE
        if sent.status == 200:
            walk.wants = _link(sent)
        elif sent.status == 404:
            walk.wants = None  # the account has no such thing, says the bank itself

    def _walk(self, listing: Listing, url: str) -> _Walk | None:
        """The walk that an address goes on with; `None`: one begins there."""
        return next((one for one in reversed(self.walks.get(listing, [])) if one.wants == url), None)

    def in_slice(self, listing: Listing, url: str) -> bool:
        """Whether an address belongs to a walk of a slice of history."""
        walk = self._walk(listing, url)
        return _is_slice(url if walk is None else walk.begins)

    def owed(self, due: Iterable[Listing]) -> list[str]:
        """What the run owes."""
        told = [
            f"{listing.resource} of {listing.account_id[-4:] or 'the connection'}: "
            + ("an item was left out" if walk.whole else f"the walk was not read to its end ({walk.verdict})")
            for listing, walks in self.walks.items()
            for walk in walks
            if not walk.whole or walk.short
        ]
        told += [
            f"{listing.resource} of {listing.account_id[-4:] or 'the connection'}: due, and never asked for"
            for listing in due
            if not self.walks.get(listing)
        ]
        return told

    def read(self, since: date) -> set[Listing]:
        """Listings that were read to their end, truly, and back to a date where they can be narrowed."""
        return {
            listing
            for listing, walks in self.walks.items()
            if any(one.whole and not one.lied and _reaches(one.begins, since) for one in walks)
        }


def _is_slice(begins: str) -> bool:
    return "toBookingDateTime" in begins


def _reaches(url: str, since: date) -> bool:
    """Whether a walk that begins here goes from the newest back to a date."""
    query = dict(parse_qsl(urlsplit(url).query))
    begin = query.get("fromBookingDateTime") or query.get("fromStatementDate")
    return not _is_slice(url) and (begin is None or date.fromisoformat(begin[:10]) <= since)


def _link(sent: Sent) -> str | None:
    body = gzip.decompress(sent.body) if "content-encoding" in sent.headers else sent.body
    link: str | None = json.loads(body).get("Links", {}).get("Next")
    return link
