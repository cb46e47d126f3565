"""`syncworker events`: what LFIs told us, what became of it, and what did not verify."""

import json
from datetime import timedelta
from typing import Annotated, Any, Final, TypeVar

import typer

from syncworker.cli import frame, show
from syncworker.errors import RequestError
from syncworker.settings import Settings
from syncworker.store.inbox import EventState, Refused, StoredEvent
from syncworker.store.unit_of_work import Store

T = TypeVar("T")

app = typer.Typer(help="Event notifications: the inbox and the quarantine.", no_args_is_help=True)

QUARANTINE: Final = "q"
"""Opens the id of an event that did not verify: `q17`."""

EventId = Annotated[str, typer.Argument(help="As `events list` shows it: a number, or q and a number.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Most rows.")]


@app.command("list")
def list_events(
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Only what nobody acts on.")] = False,
    limit: Limit = 50,
    as_json: frame.AsJson = False,
) -> None:
    """Events, newest first; with --quarantine those of unknown subjects, and those that did not verify."""

    async def read(store: Store) -> list[dict[str, Any]]:
        state = EventState.QUARANTINED if quarantine else None
        async with store.reading() as unit:
            rows = [_row(one) for one in await unit.inbox.list(state=state, limit=limit)]
            if quarantine:
                rows += [_refused_row(one) for one in await unit.inbox.refused(limit=limit)]
        return rows

    rows = frame.with_store(read)
    rows = sorted(rows, key=lambda row: row["received_at"], reverse=True)[:limit]
    empty = "the quarantine is empty" if quarantine else "no event has come yet"
    show.rows(rows, as_json=as_json, title="Quarantine" if quarantine else "Events", empty=empty)


@app.command("show")
def show_event(
    event_id: EventId,
    content: Annotated[
        bool, typer.Option("--content", help="Also what its sender signed; it may be personal.")
    ] = False,
    as_json: frame.AsJson = False,
) -> None:
    """One event: what it is about, what became of it; of the quarantine, why and what it claimed."""
    kind, number = _parsed(event_id)

    async def read(store: Store) -> dict[str, Any]:
        async with store.reading() as unit:
            if kind == QUARANTINE:
                refused = await unit.inbox.one_refused(number)
                return _refused_facts(_found(refused, event_id))
            facts = _facts(_found(await unit.inbox.get(number), event_id))
            signed = await unit.inbox.content(number) if content else None
            return facts if signed is None else facts | {"content": json.loads(signed)}

    show.facts(frame.with_store(read, sealed=content or kind == QUARANTINE), as_json=as_json)


@app.command()
def replay(event_id: EventId, as_json: frame.AsJson = False) -> None:
    """Act on an event again; one of the quarantine is verified again with today's keys and senders.  Harmless."""
    kind, number = _parsed(event_id)
    settings = frame.settings()
    again = _verified_again if kind == QUARANTINE else _acted_on_again
    one = frame.with_store(lambda store: again(settings, store, number, event_id), sealed=True)
    show.facts(_facts(one), as_json=as_json)
    if one.state is EventState.FILED:
        show.say("a worker acts on it with the next tick")


@app.command()
def counts(as_json: frame.AsJson = False) -> None:
    """How many events the tables hold, by what became of them; `again` counts deliveries that repeated one."""

    async def read(store: Store) -> dict[str, int]:
        async with store.reading() as unit:
            return dict(await unit.inbox.counts())

    show.facts(frame.with_store(read), as_json=as_json)


async def _acted_on_again(settings: Settings, store: Store, number: int, _shown: str) -> StoredEvent:
    """Have a filed event acted on once more.

    Raises:
        RequestError: as `webhooks.replay`.
    """
    from syncworker import webhooks, wiring

    senders = wiring.senders(settings, {})  # no bearer JWT is asked for: the event verified when it came
    return await store.atomically(lambda unit: webhooks.replay(unit, number, senders))


async def _verified_again(settings: Settings, store: Store, number: int, shown: str) -> StoredEvent:
    """Verify a body of the quarantine as of the instant it came, and file it.

    Raises:
        RequestError: no such entry, its body was not kept, or it fails a check still; names the check.
    """
    from syncworker import webhooks, wiring

    async with wiring.open_receiver(settings, store) as receiver:
        return await webhooks.verified_again(store, receiver, number, shown=shown)


def _parsed(event_id: str) -> tuple[str, int]:
    kind = QUARANTINE if event_id.startswith(QUARANTINE) else ""
    number = event_id.removeprefix(kind)
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        raise RequestError(
            "id: is no event's id; give a number, or q and a number, as `syncworker events list` shows it"
        )
    return kind, int(number)


def _found(one: T | None, shown: str) -> T:
    if one is None:
        raise RequestError(f"id: there is no event {shown}; see `syncworker events list`")
    return one


def _row(one: StoredEvent) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "received_at": one.received_at,
        "kind": one.kind.value,
        "subject": one.subject,
        "says": one.status,
        "state": one.state.value,
        "outcome": one.outcome,
        "received": one.received,
        "from": one.issuer,
    }


def _refused_row(one: Refused) -> dict[str, Any]:
    return {
        "id": f"{QUARANTINE}{one.id}",
        "received_at": one.last_at,
        "kind": None,
        "subject": None,
        "says": None,
        "state": "refused",
        "outcome": one.why,
        "received": one.received,
        "from": one.address,
    }


def _facts(one: StoredEvent) -> dict[str, Any]:
    return _row(one) | {
        "lfi": one.lfi or None,
        "event_type": one.event_type,
        "happened_at": one.happened_at,
        "status_updated_at": one.status_updated_at,
        "asked_at": one.asked_at,
        "acted_at": one.acted_at,
        "waited": None if one.acted_at is None else max(one.acted_at - one.received_at, timedelta()),
        "interaction_id": one.interaction_id,
    }


def _refused_facts(one: Refused) -> dict[str, Any]:
    return {
        "id": f"{QUARANTINE}{one.id}",
        "why": one.why,
        "first_at": one.received_at,
        "last_at": one.last_at,
        "received": one.received,
        "address": one.address,
        "media_type": one.media_type,
        "size": one.size,
        "claimed_issuer": one.issuer,
        "claimed_kid": one.kid,
        "sha256": one.digest.hex(),
        "body_kept": one.body is not None,
    }
