"""The access tokens of one run: whose fault a 401 is, and when a newer token is worth a refresh.

A 401 on one listing after the same token read another one belongs to that listing: a newer token would fare no better,
and every forced refresh puts the grant at risk.  A 401 on a slice of the history after the newest part was read is no
different.  So at most one refresh is forced in a run, for a token that read nothing yet, or that read earlier pages of
the very walk that is now refused.  An access token is bound to the transport certificate it was asked for with: after a
change of certificate nothing was read yet.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pydantic import SecretStr

from syncworker.errors import SyncWorkerError
from syncworker.lfi.api import TokenSource
from syncworker.store.cursors import Cursor, Listing


class RunTokens:
    """The tokens of one run.

    Args:
        source: gives a token that is good now.
        certificate: thumbprint of the transport certificate that the next call is made with.
        halted: why no further page may be asked for; `None` while it may.
        refusing: listings that refused a token lately while others took it (`refusing`): no refresh is forced for them.
    """

    def __init__(
        self,
        source: TokenSource,
        *,
        certificate: Callable[[], str],
        halted: Callable[[], SyncWorkerError | None],
        refusing: frozenset[Listing] = frozenset(),
    ) -> None:
        self._source = source
        self._certificate = certificate
        self._halted = halted
        self._refusing = refusing
        self._current: SecretStr | None = None
        self._read: dict[Bound, set[Part]] = {}
        self._forced: set[str] = set()
        self._turn = asyncio.Lock()

    @property
    def proven(self) -> bool:
        """Whether a listing was read in this run, or part of one."""
        return bool(self._read)

    def of(self, listing: Listing, *, is_slice: bool = False, delayed: bool = False) -> "WalkTokens":
        """The source for one walk.

        Args:
            is_slice: of the history of the listing, not its newest part.
            delayed: the same slice failed before: no refresh is forced for it alone.
        """
        return WalkTokens(self, Part(listing, is_slice), refusing=delayed or listing in self._refusing)

    async def token(self) -> "Bound":
        """A token that is good now.

        Raises:
            SyncWorkerError: the run has to end, or as the source.
        """
        why = self._halted()
        if why is not None:
            raise why
        self._current = await self._source()
        return Bound(self._current, self._certificate())

    async def newer(self, rejected: SecretStr, part: "Part", *, refusing: bool) -> "Bound":
        """A newer token after a 401; `rejected` itself when the 401 says nothing about it.

        Args:
            refusing: a token was refused there lately, and another listing was read since.

        Raises:
            as the source.
        """
        async with self._turn:
            bound = Bound(rejected, self._certificate())
            if self._current is not None and self._current != rejected:
                return bound._replace(token=self._current)
            read = self._read.get(bound, set())
            of_the_part = (bool(read) or refusing) and part not in read
            if bound.certificate in self._forced or of_the_part:
                return bound
            self._forced.add(bound.certificate)
            self._current = await self._source(rejected=rejected)
            return Bound(self._current, self._certificate())

    def note_read(self, bound: "Bound", part: "Part") -> None:
        """A page came with a token."""
        self._read.setdefault(bound, set()).add(part)


def refusing(cursors: Mapping[Listing, Cursor]) -> frozenset[Listing]:
    """The listings whose last attempt ended with a 401, and since which another listing was read."""
    read = [(one.checked_at, listing) for listing, one in cursors.items() if one.checked_at is not None]
    return frozenset(
        listing
        for listing, one in cursors.items()
        if (one.error or "").startswith("refused_401")
        and one.attempted_at is not None
        and any(at >= one.attempted_at and other != listing for at, other in read)
    )


class Bound(NamedTuple):
    """A token, and the certificate of the time when it was given out."""

    token: SecretStr
    certificate: str


class Part(NamedTuple):
    """What one walk reads: the newest part of a listing, or a slice of its history."""

    listing: Listing
    is_slice: bool


class WalkTokens:
    """A `TokenSource` for one walk."""

    def __init__(self, run: RunTokens, part: Part, *, refusing: bool) -> None:
        self._run = run
        self._part = part
        self._refusing = refusing
        self._last: Bound | None = None

    async def __call__(self, *, rejected: SecretStr | None = None) -> SecretStr:
        """As `RunTokens.token` and `newer`.  A token is asked for before each page: the page before it came."""
        if rejected is not None:
            self._last = await self._run.newer(rejected, self._part, refusing=self._refusing)
        else:
            self.page_came()
            self._last = await self._run.token()
        return self._last.token

    def page_came(self) -> None:
        """The page came that the last token was asked for."""
        if self._last is not None:
            self._run.note_read(self._last, self._part)
