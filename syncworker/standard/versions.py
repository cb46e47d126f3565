"""The published versions of the UAE Open Finance standard that LFIs run side by side."""

from enum import StrEnum


class Version(StrEnum):
    """A version as it stands in URLs and in the RAR type, oldest first."""

    V1_2 = "v1.2"
    V2_0 = "v2.0"
    V2_1 = "v2.1"

    @property
    def rank(self) -> int:
        """Position in time; a later version ranks higher."""
        return list(Version).index(self)
