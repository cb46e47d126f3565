"""`syncworker consents reconcile`: compare what we hold with the Hub's record, and say what differs."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from syncworker.cli import frame, show
from syncworker.settings import read_slug

if TYPE_CHECKING:
    from syncworker.consents.reconciling import Comparison
    from syncworker.wiring import Application


def reconcile(
    lfi: Annotated[str | None, typer.Option(help="Only this LFI's.")] = None,
    as_json: frame.AsJson = False,
) -> None:
    """Compare every consent with the Hub, by its id and by its chain; what differs is filed and followed.

    Calls are free of charge and wait in the LFI's rate like all others.

    Exit code 0: nothing differs.  3: something did, it is named.  1: nothing did, but not all could be asked.
    """
    slug = read_slug(lfi) if lfi else None

    async def compare(application: "Application") -> "Comparison":
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        quiet = not show.TALK.is_terminal
        with Progress(*columns, console=show.TALK, transient=True, disable=quiet) as bar:
            task = bar.add_task("comparing connections", total=None)
            return await application.reconcile(
                lfi=slug, progress=lambda done, whole: bar.update(task, completed=done, total=whole)
            )

    found = frame.with_application(compare)
    if as_json:
        show.value(_as_json(found))
    else:
        _print(found)
    if found.differences:
        raise typer.Exit(frame.PARTLY)
    if found.unanswered:
        raise typer.Exit(frame.FAILED)


def _as_json(found: "Comparison") -> dict[str, Any]:
    return {
        "consents": found.consents,
        "chains": found.chains,
        "not_allowed": found.not_allowed,
        "drift": [
            {
                "consent": one.consent_id,
                "connection": one.connection_id,
                "lfi": one.lfi,
                "what": one.what.value,
                "held": one.held,
                "hub": one.hub,
                "heard_at": one.heard_at,
            }
            for one in found.differences
        ],
        "unanswered": [{"consent": one.subject, "lfi": one.lfi, "error": one.error.code} for one in found.unanswered],
    }


def _print(found: "Comparison") -> None:
    said = _as_json(found)
    show.rows(
        [{name: fact for name, fact in one.items() if name != "connection"} for one in said["drift"]],
        as_json=False,
        title="Not as the Hub has it",
        empty=f"nothing differs: {found.consents} consents, {found.chains} chains",
    )
    if found.differences:
        show.say(f"{found.consents} consents, {found.chains} chains; the Hub's record was followed")
    if found.unanswered:
        show.rows(said["unanswered"], as_json=False, title="\nNot answered", empty="")
    if found.not_allowed:
        show.say(f"{found.not_allowed} connections are outside the allow-lists and were not asked about")
