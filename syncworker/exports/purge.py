"""Decides which exports may go, and takes them away.

A full export holds what was erased since it was made, so old ones go by setting.  With the oldest full export that is
kept stay all that follow it: increments are of use only behind the full export they stand on.  A folder without a
manifest is no export; it goes once nothing was written to it for a day.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from syncworker.errors import RequestError
from syncworker.exports.layout import MANIFEST, ExportKind, Latest, checked_name, parsed_folder
from syncworker.exports.targets import Found, Target

LEFTOVERS_AFTER: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One folder at a target.

    Attributes:
        complete: its manifest is there.
        written_at: of its newest file; `None`: the target does not say.
    """

    folder: str
    kind: ExportKind
    number: int
    complete: bool
    written_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One folder that may go, and why."""

    folder: str
    reason: str


def standing(target: Target, name: str) -> Sequence[Standing]:
    """The folders of a name, by number."""
    return grouped(target.list(checked_name(name)), name)


def grouped(found: Iterable[Found], name: str) -> Sequence[Standing]:
    """The folders that files of a name lie in, by number; files elsewhere count for nothing."""
    files: dict[str, list[Found]] = {}
    for one in found:
        folder, _, rest = one.path.removeprefix(f"{name}/").partition("/")
        if rest:
            files.setdefault(folder, []).append(one)
    standing_ = [_standing(folder, name, held) for folder, held in files.items()]
    return sorted((one for one in standing_ if one is not None), key=lambda one: one.number)


def _standing(folder: str, name: str, held: Sequence[Found]) -> Standing | None:
    known = parsed_folder(folder)
    if known is None:
        return None
    kind, number = known
    return Standing(
        folder=folder,
        kind=kind,
        number=number,
        complete=any(one.path == f"{name}/{folder}/{MANIFEST}" for one in held),
        written_at=max((one.modified for one in held if one.modified is not None), default=None),
    )


def removals(
    found: Sequence[Standing],
    *,
    keep_full: int,
    now: datetime,
    latest: Latest | None = None,
    leftovers_after: timedelta = LEFTOVERS_AFTER,
) -> Sequence[Removal]:
    """Which folders may go, oldest first.

    Args:
        keep_full: full exports that stay, the newest ones, from 1.
        latest: what readers are sent to: it stays, and all it stands on.

    Raises:
        RequestError: `keep_full` is below 1.
    """
    if keep_full < 1:
        raise RequestError("keep_full: is 1 or more; the newest full export always stays")
    fulls = sorted(one.number for one in found if one.complete and one.kind is ExportKind.FULL)
    oldest = fulls[-keep_full] if len(fulls) >= keep_full else 0
    if latest is not None:
        base = parsed_folder(latest.base)
        oldest = min(oldest, latest.number if base is None else base[1])
    chosen: list[Removal] = []
    for one in sorted(found, key=lambda one: one.number):
        if not one.complete:
            if one.written_at is not None and now - one.written_at >= leftovers_after:
                chosen.append(Removal(folder=one.folder, reason="no_manifest"))
        elif one.number < oldest:
            chosen.append(Removal(folder=one.folder, reason="older_than_kept"))
    return chosen


def remove(target: Target, name: str, removal: Removal) -> int:
    """Take a folder away: its manifest first, so that what is left of it is no export if this stops half-way.

    Returns:
        The number of files; 0: it was gone.
    """
    folder = f"{checked_name(name)}/{removal.folder}"
    return target.remove(f"{folder}/{MANIFEST}") + target.remove(folder)
