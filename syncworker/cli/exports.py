"""`syncworker export`: the tables as files for analysts, made now, listed, looked at again, taken away."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from syncworker.cli import frame, show
from syncworker.errors import RequestError
from syncworker.exports.extras import require
from syncworker.exports.layout import Format, Manifest, Privacy, checked_name
from syncworker.settings import ExportSettings
from syncworker.standard.values import read_instant
from syncworker.store.exports import ExportRow
from syncworker.store.unit_of_work import Store

if TYPE_CHECKING:
    from syncworker.exports.run import Watching
    from syncworker.exports.targets import Target

app = typer.Typer(help="Exports: the tables as files for analysts.", no_args_is_help=True)

DEFAULT: Final = "export"
"""Name of a series that was given none."""

To = Annotated[str | None, typer.Option("--to", help="A folder, or s3://bucket/prefix; default: `exports.NAME.to`.")]
Name = Annotated[str | None, typer.Option("--name", help="Of the series; a key under `exports` in the settings.")]
Series = Annotated[str, typer.Argument(help="Name of the series, as `export list` shows it.")]


@app.command("run")
def run_(
    to: To = None,
    format_: Annotated[Format | None, typer.Option("--format", help="How files are written.")] = None,
    name: Name = None,
    tables: Annotated[str | None, typer.Option(help="Names with commas between, as account,transaction.")] = None,
    full: Annotated[bool, typer.Option("--full", help="A full export, also where an increment would do.")] = False,
    since: Annotated[
        str | None, typer.Option(help="An increment behind the last export of this series; fails where none can be.")
    ] = None,
    as_of: Annotated[str | None, typer.Option(help="What was known at this instant (ISO 8601, with offset).")] = None,
    privacy: Annotated[Privacy | None, typer.Option(help="pseudonymous: no names, IBANs or free text.")] = None,
    as_json: frame.AsJson = False,
) -> None:
    """Make one export now: an increment where the series has one to stand on, else a full one."""
    require("exports")
    if since is not None and (full or as_of):
        raise RequestError("since: an increment is neither --full nor --as-of; give one of them")
    if since is not None and name not in (None, since):
        raise RequestError(f"since: an increment belongs to its series; leave out --name, or say --name {since}")
    series = checked_name(since or name or DEFAULT)
    instant = None if as_of is None else _instant(as_of)
    settings = frame.settings()
    set_ = settings.exports.get(series)
    wanted = _wanted(series, set_, to, format_, tables, privacy, history=as_of is not None)
    if wanted.format is Format.DELTA:
        require("delta")

    async def work(store: Store) -> Manifest:
        from dataclasses import replace

        from syncworker.exports.run import run

        asked = replace(wanted, full=full, increment=since is not None, as_of=instant)
        with _watched(as_json=as_json) as watching:
            return await run(store, asked, watching=watching)

    opens = wanted.privacy is Privacy.PSEUDONYMOUS or instant is not None  # a tenant's key, or items as sent
    manifest = frame.with_store(work, sealed=opens)
    at = f"{wanted.target.text}/{manifest.export}/{manifest.folder}"
    show.facts(_facts(manifest) | {"at": at}, as_json=as_json)


@app.command("list")
def list_(
    name: Name = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    as_json: frame.AsJson = False,
) -> None:
    """Exports, newest first, as the database knows them.

    One that was purged stays in the list.  An older full one at its target still holds what was erased since:
    `export purge`.
    """

    series = None if name is None else checked_name(name)

    async def read(store: Store) -> list[dict[str, Any]]:
        async with store.reading() as unit:
            return [_row(one) for one in await unit.exports.listed(name=series, limit=limit)]

    of_name = "" if series is None else f" named {series}"
    empty = f"no export{of_name} yet: `syncworker export run --to FOLDER`"
    show.rows(frame.with_store(read), as_json=as_json, title="exports", empty=empty)


@app.command("show")
def show_(
    name: Series,
    number: Annotated[int | None, typer.Option(help="Default: the newest.")] = None,
    to: To = None,
    as_json: frame.AsJson = False,
) -> None:
    """One export as its manifest tells it: tables, rows, files, coverage, what was left out."""
    require("exports")
    target = _target(name, to)
    manifest = _at(target, name, number)
    if as_json:
        show.value(_document(manifest))
        return
    show.facts(_facts(manifest) | {"coverage": f"{len(manifest.coverage)} listings"}, as_json=False)
    show.rows(
        [
            {"table": one.name, "rows": one.rows, "files": len(one.files), "digest": one.content_digest[:16]}
            for one in manifest.tables
        ],
        as_json=False, title="tables", empty="no table",
    )  # fmt: skip
    if manifest.left_out:
        left = [
            {"connection_id": one.connection_id, "reason": one.reason, "rows": one.rows} for one in manifest.left_out
        ]
        show.rows(left, as_json=False, title="left out", empty="")


@app.command("verify")
def verify_(
    name: Series,
    number: Annotated[int | None, typer.Option(help="Only this export; default: all the newest stands on.")] = None,
    to: To = None,
    as_json: frame.AsJson = False,
) -> None:
    """Read an export again and compare it with its manifest.  Exit code 1: something is wrong."""
    require("exports")
    from syncworker.exports.verify import verify

    report = verify(_target(name, to), name, number=number)
    findings = [{"file": one.file, "what": one.what, "fix": one.fix} for one in report.findings]
    facts = {"export": report.export, "exports": list(report.exports), "files": report.files, "rows": report.rows,
             "bytes": report.bytes, "good": not findings}  # fmt: skip
    if as_json:
        show.value(facts | {"findings": findings})
    else:
        show.facts(facts, as_json=False)
        for one in findings:
            show.say(f"✗ {one['file']}: {one['what']} → {one['fix']}")
    if findings:
        raise typer.Exit(show.FAILED)


@app.command("purge")
def purge_(
    name: Series,
    keep_full: Annotated[
        int | None, typer.Option(min=1, help="Full exports to keep; default: `exports.NAME.keep_full`.")
    ] = None,
    vacuum_days: Annotated[
        float | None,
        typer.Option(min=0, help="Of Delta tables: keep files of versions since then (an hour at the least)."),
    ] = None,
    to: To = None,
    yes: frame.Yes = False,
    as_json: frame.AsJson = False,
) -> None:
    """Take old exports away.  Without --yes: show what would go.

    An export holds the rows of its day: a full one that stays keeps what was erased since it was made.  To have no
    file with it left, make a full export and keep that one alone: --keep-full 1.  Delta tables keep such files for old
    versions too: --vacuum-days.
    """
    require("exports")
    from syncworker.exports import purging
    from syncworker.exports.chain import check_owner

    set_ = frame.settings().exports.get(name)
    keep = keep_full or (3 if set_ is None else set_.keep_full)
    if vacuum_days is None:
        vacuum_days = 14.0 if set_ is None else set_.vacuum_days
    retention = timedelta(days=vacuum_days)
    target = _target(name, to)

    async def work(store: Store) -> list[dict[str, Any]]:
        async with store.reading() as unit:
            now, made = await unit.now(), await unit.exports.open_row(name)
        if yes and made is not None and made.lease_until is not None and made.lease_until > now:
            raise RequestError(f"name: export {name} {made.number} is being made; purge when it has ended")
        await asyncio.to_thread(check_owner, target, name, store.tenant)
        old = await asyncio.to_thread(purging.purged, target, name, keep_full=keep, now=now, dry=not yes)
        return old + await asyncio.to_thread(purging.tidied, target, name, retention=retention, dry=not yes)

    gone = frame.with_store(work)
    show.rows(gone, as_json=as_json, title="exports removed" if yes else "exports that would go",
              empty="nothing is old enough to go")  # fmt: skip
    if gone and not yes and not as_json:
        show.say("say --yes to remove them")


# -- what is asked for -----------------------------------------------------------------------------------------------


def _wanted(
    series: str,
    set_: ExportSettings | None,
    to: str | None,
    format_: Format | None,
    tables: str | None,
    privacy: Privacy | None,
    *,
    history: bool,
) -> Any:
    from syncworker.exports.plans import wanted_of

    names = None if tables is None else tuple(one.strip() for one in tables.split(",") if one.strip())
    if to is None and set_ is None:
        raise RequestError("to: is missing; give --to FOLDER or --to s3://bucket/prefix, or set exports.NAME.to")
    return wanted_of(
        series, set_, frame.settings(), to=to, format_=format_, tables=names, privacy=privacy, history=history
    )


def _target(name: str, to: str | None) -> "Target":
    from syncworker.exports.plans import target_for

    settings = frame.settings()
    set_ = settings.exports.get(checked_name(name))
    if to is None and set_ is None:
        to = frame.with_store(lambda store: _last_target(store, name))
    return target_for(set_, settings, to=to)


async def _last_target(store: Store, name: str) -> str:
    async with store.reading() as unit:
        last = await unit.exports.last_good(name)
    if last is None:
        raise RequestError(f"name: there is no export named {name}; `syncworker export list` shows those there are")
    return last.target


def _at(target: "Target", name: str, number: int | None) -> Manifest:
    from syncworker.exports.chain import manifest_at
    from syncworker.exports.layout import LATEST, Latest

    if number is None:
        try:
            number = Latest.of(target.read(f"{name}/{LATEST}")).number
        except FileNotFoundError:
            raise RequestError(
                f"name: {target.text} holds no export named {name}; name another, or give --to"
            ) from None
    found = manifest_at(target, name, number)
    if found is None:
        raise RequestError(f"number: {target.text} holds no export {name} {number}; `export list` shows the numbers")
    return found[0]


def _instant(text: str) -> datetime:
    try:
        moment, without_offset = read_instant(text, exact=True)
        if not without_offset:
            return moment
    except ValueError:
        pass
    raise RequestError("as_of: takes an instant with an offset, as 2026-11-30T00:00:00+04:00")


# -- what is shown ---------------------------------------------------------------------------------------------------


@contextmanager
def _watched(*, as_json: bool) -> Iterator["Watching"]:
    """A bar of rows on a terminal; without one a line for each step."""
    from syncworker.exports.run import Step, Watching

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeElapsedColumn(),
    )
    on_terminal = show.TALK.is_terminal and not as_json
    done: dict[str, int] = {}
    with Progress(*columns, console=show.TALK, transient=True, disable=not on_terminal) as progress:
        task = progress.add_task("export", total=None)

        def rows(table: str, count: int) -> None:
            done[table] = count
            progress.update(task, description=table, completed=sum(done.values()))

        def about(count: int | None) -> None:
            progress.update(task, total=count)

        def step(now: Step) -> None:
            if not on_terminal and not as_json and now is not Step.ENDED:
                show.say(f"export: {now.value}")

        yield Watching(step=step, rows=rows, about=about)


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "export": manifest.export,
        "number": manifest.number,
        "kind": manifest.kind.value,
        "reason": manifest.reason,
        "folder": manifest.folder,
        "format": manifest.format.value,
        "privacy": manifest.privacy.value,
        "as_of": manifest.as_of,
        "rows": sum(one.rows for one in manifest.tables),
        "bytes": sum(file.bytes for one in manifest.tables for file in one.files),
        "tables": {one.name: one.rows for one in manifest.tables if one.rows},
        "left_out": sum(one.rows for one in manifest.left_out),
    }


def _document(manifest: Manifest) -> Any:
    import json

    return json.loads(manifest.to_bytes())


def _row(one: ExportRow) -> dict[str, Any]:
    return {
        "name": one.name, "number": one.number, "kind": one.kind, "format": one.format,
        "outcome": one.outcome or "open", "rows": one.rows, "bytes": one.bytes, "as_of": one.as_of,
        "started_at": one.started_at,
        "ended_at": one.ended_at, "reason": one.reason, "error": one.error, "target": one.target,
    }  # fmt: skip
