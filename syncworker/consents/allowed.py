"""Whom we may call at all: the allow-lists of live proving.

While lists are set, nothing leaves for an LFI or a customer outside them: no authorisation is begun, no redirect is
taken, no token is refreshed, no data is read.  Their work waits in the table.  The refusal is a `NotAllowedError`.

Source: `domain.md` §13 ("LFI allow-list").
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from syncworker.errors import NotAllowedError
from syncworker.standard.values import Slug


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Two lists; `None` allows everybody.

    Attributes:
        lfis: slugs.
        user_refs: the product's ids of its customers.
    """

    lfis: frozenset[str] | None = None
    user_refs: frozenset[str] | None = None

    def has(self, lfi: Slug) -> bool:
        """Whether an LFI may be called."""
        return self.lfis is None or lfi in self.lfis

    def within(self, lfis: Collection[Slug]) -> list[Slug]:
        """Those of some LFIs that may be called."""
        return [lfi for lfi in lfis if self.has(lfi)]

    def check(self, lfi: Slug, user_ref: str | None = None) -> None:
        """See that an LFI, and a customer when one is given, may be called.

        Raises:
            NotAllowedError: names the list, never the customer.
        """
        if not self.has(lfi):
            raise NotAllowedError(
                f"allow.lfis: does not name {lfi}, so nothing was sent; add it, or remove the list when proving is over"
            )
        if user_ref is not None and self.user_refs is not None and user_ref not in self.user_refs:
            raise NotAllowedError(
                "allow.user_refs: does not name this customer, so nothing was sent; "
                "add the user_ref, or remove the list when proving is over"
            )


EVERYBODY: Final = Allowed()
