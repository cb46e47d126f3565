"""Decides which exports may go, and takes them away."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from syncworker.exports.layout import ExportKind
from syncworker.exports.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One folder at a target: `written_at` of its newest file."""

    folder: str
    kind: ExportKind
    number: int
    complete: bool
    written_at: datetime | None


@dataclass(frozen=True, slots=True)
class Removal:
    folder: str
    reason: str


def standing(target: Target, name: str) -> Sequence[Standing]:
    """What lies below a name."""
    raise NotImplementedError


def removals(
    found: Sequence[Standing], *, keep_full: int, now: datetime, leftovers_after: timedelta = timedelta(days=1)
) -> Sequence[Removal]:
    """Which folders may go, and why."""
    raise NotImplementedError


def remove(target: Target, name: str, removal: Removal) -> int:
    """Take a folder away, its manifest first.  Returns the files removed."""
    raise NotImplementedError
