"""What the settings say of a series, as what a run is asked for."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from syncworker.exports.asof import TABLES as WITH_HISTORY
from syncworker.exports.layout import Format, Privacy
from syncworker.exports.run import Wanted
from syncworker.exports.schema import chosen
from syncworker.exports.targets import S3Access, Target, target_of
from syncworker.settings import ExportSettings, Settings


def target_for(set_: ExportSettings | None, settings: Settings, *, to: str | None = None) -> Target:
    """Where a series goes.  A folder of the settings is counted from the settings' own folder.

    Raises:
        ExportTargetError: it is no target.
    """
    access = S3Access() if set_ is None else S3Access(endpoint=set_.endpoint, region=set_.region)
    if to is not None:
        return target_of(to, access)
    assert set_ is not None, "a target is given or set"
    text = set_.to
    return target_of(text if "://" in text else str(settings.resolved(Path(text).expanduser())), access)


def wanted_of(
    name: str,
    set_: ExportSettings | None,
    settings: Settings,
    *,
    to: str | None = None,
    format_: Format | None = None,
    tables: Iterable[str] | None = None,
    privacy: Privacy | None = None,
    history: bool = False,
) -> Wanted:
    """A run of a series; what is given wins over what is set.

    Args:
        history: of the tables that can be read as of an instant, where none is named.

    Raises:
        ExportTargetError, RequestError: no such target or table; names the field.
    """
    set_tables = () if set_ is None else set_.tables
    names = tuple(set_tables if tables is None else tables)
    return Wanted(
        name=name,
        target=target_for(set_, settings, to=to),
        format=format_ or Format("parquet" if set_ is None else set_.format),
        tables=chosen(names or (WITH_HISTORY if history else ())),
        privacy=privacy or Privacy("full" if set_ is None else set_.privacy),
        full_every=None if set_ is None else timedelta(days=set_.full_every_days),
    )
