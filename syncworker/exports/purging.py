"""Takes old exports of a series away: what `purge` decides, acted on, for the command and for the workers."""

from datetime import datetime, timedelta
from typing import Any

from syncworker.exports.layout import LATEST, Latest
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
