"""The access tokens of one run: whose fault a 401 is, and when a newer token is worth a refresh.

A 401 on one listing after the same token read another one belongs to that listing: a newer token would fare no better,
and every forced refresh puts the grant at risk.  So at most one refresh is forced in a run, for a token that read
nothing yet, or that read earlier pages of the very listing that now refuses it.
"""

import asyncio
from collections.abc import Callable

from pydantic import SecretStr

from syncworker.errors import SyncWorkerError
from syncworker.lfi.api import TokenSource
from syncworker.store.cursors import Listing


class RunTokens:
    """The tokens of one run.

    Args:
        source: gives a token that is good now.
        halted: why no further page may be asked for; `None` while it may.
    """

    def __init__(self, source: TokenSource, *, halted: Callable[[], SyncWorkerError | None]) -> None:
        self._source = source
        self._halted = halted
        self._current: SecretStr | None = None
        self._read: dict[SecretStr, set[Listing]] = {}
        self._forced = False
        self._turn = asyncio.Lock()

    @property
    def proven(self) -> bool:
        """Whether a listing was read in this run, or part of one."""
        return bool(self._read)

    def of(self, listing: Listing) -> "WalkTokens":
        """The source for one walk."""
        return WalkTokens(self, listing)

    async def token(self) -> SecretStr:
        """A token that is good now.

        Raises:
            SyncWorkerError: the run has to end, or as the source.
        """
        why = self._halted()
        if why is not None:
            raise why
        self._current = await self._source()
        return self._current

    async def newer(self, rejected: SecretStr, listing: Listing) -> SecretStr:
        """A newer token after a 401; `rejected` itself when the 401 says nothing about it.

        Raises:
            as the source.
        """
        async with self._turn:
            if self._current is not None and self._current != rejected:
                return self._current
            read = self._read.get(rejected, set())
            of_the_listing = bool(read) and listing not in read
            if self._forced or of_the_listing:
                return rejected
            self._forced = True
            self._current = await self._source(rejected=rejected)
            return self._current

    def note_read(self, token: SecretStr, listing: Listing) -> None:
        """A page of a listing came with a token."""
        self._read.setdefault(token, set()).add(listing)


class WalkTokens:
    """A `TokenSource` for one walk."""

    def __init__(self, run: RunTokens, listing: Listing) -> None:
        self._run = run
        self._listing = listing
        self._last: SecretStr | None = None

    async def __call__(self, *, rejected: SecretStr | None = None) -> SecretStr:
        """As `RunTokens.token` and `newer`.  A token is asked for before each page: the page before it came."""
        if rejected is not None:
            self._last = await self._run.newer(rejected, self._listing)
        else:
            self.page_came()
            self._last = await self._run.token()
        return self._last

    def page_came(self) -> None:
        """The page came that the last token was asked for."""
        if self._last is not None:
            self._run.note_read(self._last, self._listing)
