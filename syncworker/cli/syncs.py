"""`syncworker syncs`: what ran, how it ended, what it cost; and what to do about what is not complete.

Three facts of each run and listing, kept apart: complete, retry (time mends it), needs a person.
"""

import re
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from syncworker.cli import frame, show
from syncworker.errors import RequestError, meaning_of
from syncworker.ops.advice import advice_of
from syncworker.settings import read_slug
from syncworker.standard.calendar import DURATION_MAX, as_utc, read_iso
from syncworker.standard.interaction import mark_in_head
from syncworker.standard.values import ConsentId
from syncworker.store.calls import CallRow
from syncworker.store.runs import FiledRun
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind, WorkRow
from syncworker.sync.facts import Facts
from syncworker.sync.reports import NEEDS_A_PERSON, RunOutcome, facts_of_run

app = typer.Typer(help="Runs: one sync of one connection each.", no_args_is_help=True)

LIMIT: Final = 50
LIMIT_MAX: Final = 10_000
_DIGITS_MAX: Final = 18
_SPAN: Final = re.compile(r"(\d{1,6})(s|min|h|d)")
_UNITS: Final = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}


class Outcome(StrEnum):
    """How runs may have ended; those of `RunOutcome`."""

    OK = RunOutcome.OK.value
    UNCHANGED = RunOutcome.UNCHANGED.value
    PARTIAL = RunOutcome.PARTIAL.value
    FAILED = RunOutcome.FAILED.value
    LEASE_LOST = RunOutcome.LEASE_LOST.value


Lfi = Annotated[str | None, typer.Option(help="Only of this LFI, by its slug.")]
Limit = Annotated[int, typer.Option(min=1, max=LIMIT_MAX, help="At most so many.")]


@app.command("list")
def list_(
    lfi: Lfi = None,
    connection: Annotated[str | None, typer.Option(help="Only of this connection: the root ConsentId.")] = None,
    consent: Annotated[str | None, typer.Option(help="Only with this consent.")] = None,
    outcome: Annotated[list[Outcome] | None, typer.Option(help="Only with this outcome; repeatable.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only begun since: 90s, 30min, 2h, 7d, or an instant in ISO 8601 with offset.")
    ] = None,
    limit: Limit = LIMIT,
    as_json: frame.AsJson = False,
) -> None:
    """Runs, newest first."""
    slug = None if lfi is None else read_slug(lfi)
    ago = None if since is None else read_since(since)

    async def read(store: Store) -> list[FiledRun]:
        async with store.reading() as unit:
            begun = await unit.now() - ago if isinstance(ago, timedelta) else ago
            return await unit.runs.find(
                lfi=slug,
                connection_id=None if connection is None else ConsentId(connection),
                consent_id=None if consent is None else ConsentId(consent),
                outcomes=[one.value for one in outcome or ()],
                since=begun,
                limit=limit,
            )

    filed = frame.with_store(read)
    show.rows([_row(one) for one in filed], as_json=as_json, title="Runs", empty="no run like that")


@app.command("show")
def show_(
    run: Annotated[str, typer.Argument(help="Number of the run, from `syncs list`, or `run` of a line of the log.")],
    as_json: frame.AsJson = False,
) -> None:
    """One run: each listing with its outcome, each call with its interaction id, and what it cost."""
    name = run.strip()
    numbered = name.isdecimal() and len(name) <= _DIGITS_MAX
    if not numbered and mark_in_head(name) is None:
        raise RequestError(
            "run: must be its number from `syncs list`, `run` of a line of the log, or an interaction id of its calls"
        )

    async def read(store: Store) -> tuple[FiledRun, list[CallRow]]:
        async with store.reading() as unit:
            filed = await (unit.runs.get(int(name)) if numbered else unit.runs.named(name))
            if filed is None:
                raise RequestError(f"run: no run on record has the number or name {name}; `syncs list` shows them")
            return filed, await unit.runs.calls_of(filed)

    filed, calls = frame.with_store(read)
    facts = _row(filed) | {
        "consent": filed.run.consent_id,
        "generation": filed.run.gen,
        "cost_fils": sum(one.price_millifils for one in calls) / 1000,
        "meaning": meaning_of(filed.run.error) if filed.run.error else None,
        "todo": advice_of(filed.run.error) if filed.run.error else None,
    }
    steps = [_step(step) for step in filed.run.steps]
    told = [call_as_told(one) for one in calls]
    if as_json:
        show.value(facts | {"steps": steps, "made": told})
        return
    show.facts(facts, as_json=False)
    show.rows(steps, as_json=False, title="\nListings", empty="no listing was due")
    show.rows(told, as_json=False, title="\nCalls", empty="no call is on record: none was made, or it is too long ago")


@app.command()
def failed(lfi: Lfi = None, limit: Limit = LIMIT, as_json: frame.AsJson = False) -> None:
    """Connections whose latest run is not complete, parked ones first, and what to do; exit 3 when there are any.

    Each says whether it is to be retried, which happens by itself, and whether it needs a person.
    """
    slug = None if lfi is None else read_slug(lfi)

    async def read(store: Store) -> list[dict[str, Any]]:
        async with store.reading() as unit:
            now = await unit.now()
            rows = await unit.work.troubled(WorkKind.SYNC, lfi=slug, limit=limit)
            found = []
            for row in rows:
                filed = next(iter(await unit.runs.find(connection_id=ConsentId(row.subject), limit=1)), None)
                said = await unit.runs.said([filed.run.consent_id]) if filed is not None else []
                fresh = (one for one in said if row.last_good_at is None or one.started_at >= row.last_good_at)
                found.append(_trouble(row, filed, said=next(fresh, None), now=now))
            return found

    rows = frame.with_store(read)
    show.rows(rows, as_json=as_json, title="Not complete", empty="every connection's latest run is complete")
    if rows:
        raise typer.Exit(frame.PARTLY)


def read_since(text: str) -> timedelta | datetime:
    """A point in the past, as a person writes it.

    Raises:
        RequestError: neither a span nor an instant with offset.
    """
    span = _SPAN.fullmatch(text.strip())
    if span is not None:
        return min(timedelta(**{_UNITS[span[2]]: int(span[1])}), DURATION_MAX)
    try:
        instant = read_iso(text.strip())
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise RequestError("since: neither a span nor an instant; write 30min, 2h, 7d, or 2026-03-01T06:00:00+04:00")
    return as_utc(instant)


def _row(filed: FiledRun) -> dict[str, Any]:
    run = filed.run
    return {
        "run": filed.id,
        "lfi": run.lfi,
        "connection": run.connection_id,
        "started_at": run.started_at,
        "took": run.ended_at - run.started_at,
        "outcome": run.outcome,
        **facts_as_told(facts_of_run(run.outcome, run.error, run.steps)),
        "error": run.error,
        "calls": run.calls,
        "pages": run.pages,
        "added": run.added,
        "modified": run.modified,
        "removed": run.removed,
    }


def _step(step: Any) -> dict[str, Any]:
    """One listing; `steps` of a run leave out what is empty."""
    return {
        "account": step.get("account_id") or None,
        "resource": step["resource"],
        "outcome": step["outcome"],
        "complete": step.get("complete", True),
        "retry": step.get("retry", False),
        NEEDS_A_PERSON: step.get(NEEDS_A_PERSON, False),
        "error": step.get("error"),
        **{name: step.get(name, 0) for name in ("pages", "items", "added", "modified", "removed")},
        "notes": ", ".join(f"{name} {count}" for name, count in sorted(step.get("notes", {}).items())) or None,
    }


def facts_as_told(facts: Facts) -> dict[str, bool]:
    """The three facts as every command says them; on the screen `needs_a_person` reads needs a person."""
    return {"complete": facts.complete, "retry": facts.retry, NEEDS_A_PERSON: facts.person}


def call_as_told(one: CallRow) -> dict[str, Any]:
    """One call as every command says it."""
    return {
        "at": one.started_at,
        "operation": one.operation,
        "status": one.status,
        "error": one.error,
        "attempt": one.attempt,
        "ms": one.duration_ms,
        "bytes": one.bytes_in,
        "fils": one.price_millifils / 1000,
        "interaction_id": one.interaction_id,
        "reason": one.reason,
    }


def _trouble(row: WorkRow, filed: FiledRun | None, *, said: CallRow | None, now: datetime) -> dict[str, Any]:
    facts = facts_of_run(row.last_outcome or "", row.last_error, () if filed is None else filed.run.steps)
    if row.parked_at is not None:  # nothing runs for it before a person has acted
        facts = Facts(complete=False, person=True)
    return {
        "connection": row.subject,
        "lfi": row.lfi,
        "run": None if filed is None else filed.id,
        "outcome": row.last_outcome,
        **facts_as_told(facts),
        "error": row.last_error,
        "reason": None if said is None else said.reason,
        "attempts": row.attempts,
        "since_good": None if row.last_good_at is None else now - row.last_good_at,
        "next_try": None if row.parked_at is not None else row.due_at,
        "todo": advice_of(row.last_error),
    }
