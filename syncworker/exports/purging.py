"""Takes old exports of a series away: what `purge` decides, acted on, for the command and for the workers."""

from datetime import datetime, timedelta
from typing import Any

from syncworker.errors import ManifestError
from syncworker.exports.chain import manifest_at
from syncworker.exports.layout import LATEST, Format, Latest
from syncworker.exports.purge import LEFTOVERS_AFTER, removals, remove, standing
from syncworker.exports.targets import Target


def purged(
    target: Target,
    name: str,
    *,
    keep_full: int,
    now: datetime,
    dry: bool = False,
    leftovers_after: timedelta = LEFTOVERS_AFTER,
) -> list[dict[str, Any]]:
    """Remove what may go, oldest first.  Blocks.

    Args:
        dry: remove nothing, and say what would go.

    Returns:
        Each folder, why it goes, and how many files it had (`None` where nothing was removed).
    """
    try:
        latest = Latest.of(target.read(f"{name}/{LATEST}"))
    except FileNotFoundError:
        latest = None
    going = removals(
        standing(target, name), keep_full=keep_full, now=now, latest=latest, leftovers_after=leftovers_after
    )
    return [
        {"folder": one.folder, "reason": one.reason, "files": None if dry else remove(target, name, one)}
        for one in going
    ]


def tidied(
    target: Target, name: str, *, retention: timedelta, compact: bool = False, dry: bool = False
) -> list[dict[str, Any]]:
    """Remove files that no version of a series' Delta tables within a retention needs; nothing of other formats.

    Blocks.

    Args:
        retention: one hour at the least.
        compact: put small files together before.
        dry: remove nothing, and say what would go.

    Returns:
        As `purged`, for each table of which something goes.
    """
    try:
        newest = manifest_at(target, name, Latest.of(target.read(f"{name}/{LATEST}")).number)
    except (FileNotFoundError, ManifestError):
        return []
    if newest is None or newest[0].format is not Format.DELTA:
        return []
    from syncworker.exports.delta import folder_of, tidy  # deltalake is an extra of its own

    done = [
        (one.name, tidy(target, name, one.name, compact=compact, retention=retention, dry=dry).removed)
        for one in newest[0].tables
    ]
    return [
        {"folder": folder_of(name, table), "reason": "no_version_needs_it", "files": None if dry else removed}
        for table, removed in done
        if removed
    ]
