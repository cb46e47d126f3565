"""The setting `ended_consents`; alone here, so that settings are read without loading SQLAlchemy."""

from enum import StrEnum


class EndedConsents(StrEnum):
    """Whether data of connections can be read whose consents have all ended."""

    HIDDEN = "hidden"
    SHOWN = "shown"
