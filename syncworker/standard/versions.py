"""The published versions of the UAE Open Finance standard that LFIs run side by side.

Each name stands for the version with its newest errata, which replace the published files in place: v1.2-errata1,
v2.0-errata1, v2.1-errata2.  v1.1 is history: nothing is asked for in it, and its shapes are read where they still occur
(`Subscription`, `TransactionFromDateTime`, offsets as `+0300`, ConsentIds as `aac-…`).  A consent of v1.1 stays valid
until it ends, as every consent of an old version does, and no LFI publishes endpoints of v1.1; so it is read on the
oldest version its LFI serves, the one whose shapes are nearest.
"""

from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Final


class Version(StrEnum):
    """A version as it stands in URLs and in the RAR type, oldest first."""

    V1_2 = "v1.2"
    V2_0 = "v2.0"
    V2_1 = "v2.1"

    @property
    def rank(self) -> int:
        """Position in time; a later version ranks higher."""
        return list(Version).index(self)


HISTORY: Final = frozenset({"v1.1"})
"""Versions whose consents may still be held, and that no LFI serves any more."""


def oldest(declared: Iterable[Version]) -> Version | None:
    """The version a consent of `HISTORY` is read on; `None` when none is declared."""
    return min(declared, key=lambda version: version.rank, default=None)


RAR_TYPE: Final = "urn:openfinanceuae:account-access-consent:"
"""What the RAR type of a data-sharing consent begins with; other spellings in articles are wrong (D-13)."""


def rar_type(version: Version) -> str:
    """`authorization_details[0].type` of a data-sharing consent."""
    return f"{RAR_TYPE}{version.value}"


def highest(declared: Iterable[Version], types: Collection[str] | None = None) -> Version | None:
    """The version a new consent takes: the highest that is declared and offered.

    Args:
        declared: versions the LFI publishes a base URL for.
        types: `authorization_details_types_supported` of its discovery document; `None` when it has no such member,
            and then the declaration alone decides.

    Returns:
        `None` when nothing is both declared and offered.
    """
    offered = [version for version in declared if types is None or rar_type(version) in types]
    return max(offered, key=lambda version: version.rank, default=None)
