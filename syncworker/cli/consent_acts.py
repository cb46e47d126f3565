"""`syncworker consents pause|resume|revoke|subscribe|erase`: what a person does to a consent that is there."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from syncworker.cli import frame, show
from syncworker.consents import erasing, pausing, revoking, subscribing
from syncworker.standard.consents import Revoker
from syncworker.standard.values import ConsentId
from syncworker.store.consents import StoredConsent
from syncworker.store.unit_of_work import Store, UnitOfWork

Act = Callable[[UnitOfWork, ConsentId], Awaitable[StoredConsent]]


def pause(consent_id: str, as_json: frame.AsJson = False) -> None:
    """Stop all calls of an Authorized consent; ours alone, the bank is not told."""
    _done(consent_id, pausing.pause, as_json=as_json)


def resume(consent_id: str, as_json: frame.AsJson = False) -> None:
    """Let a paused consent go on, without asking the user again."""
    _done(consent_id, pausing.resume, as_json=as_json)


def revoke(
    consent_id: str,
    by_user: Annotated[
        bool, typer.Option("--by-user/--by-us", help="Who wants it: `TPP.InitiatedByUser`, or `TPP`.")
    ] = True,
    yes: frame.Yes = False,
    as_json: frame.AsJson = False,
) -> None:
    """Take a consent back for good: no call from now on, its tokens destroyed; a worker tells the Hub."""
    if not yes:
        show.say(f"{consent_id}: all calls end and its tokens are destroyed, for good; do it with --yes")
        raise typer.Exit(frame.FAILED)
    by = Revoker.TPP_USER if by_user else Revoker.TPP

    async def act(unit: UnitOfWork, one: ConsentId) -> StoredConsent:
        return await revoking.ordered(unit, one, by=by)

    _done(consent_id, act, as_json=as_json)


def subscribe(
    consent_id: str,
    on: Annotated[bool, typer.Option("--on/--off", help="Whether the bank sends events about this consent.")],
    as_json: frame.AsJson = False,
) -> None:
    """Switch a consent's event notifications; a worker tells the Hub.  Polls go on as before."""

    async def act(unit: UnitOfWork, one: ConsentId) -> StoredConsent:
        return await subscribing.ordered(unit, one, active=on)

    _done(consent_id, act, as_json=as_json)


def erase(
    consent_id: Annotated[str, typer.Argument(help="A ConsentId; all data of its connection goes.")],
    yes: frame.Yes = False,
    as_json: frame.AsJson = False,
) -> None:
    """Destroy the data of a connection whose consents have all ended; consents and audit stay as the proof."""

    async def work(store: Store) -> dict[str, Any]:
        async with store.writing() as unit:
            connection_id = await erasing.erasable(unit, ConsentId(consent_id))
            if not yes:
                return {"connection": connection_id, "erased": False, "rows": await unit.erasure.count(connection_id)}
            counts = await erasing.erase(unit, connection_id)
            await unit.commit()
        return {"connection": connection_id, "erased": True, "rows": counts}

    found = frame.with_store(work)
    if as_json:
        show.value(found)
    else:
        counted = [{"table": name, "rows": rows} for name, rows in found["rows"].items()]
        show.rows(counted, as_json=False, title="Erased" if yes else "Would be erased", empty="no data is held")
    if not yes:
        show.say("nothing was erased; do it with --yes")
        raise typer.Exit(frame.FAILED)


def _done(consent_id: str, act: Act, *, as_json: bool) -> None:
    async def work(store: Store) -> StoredConsent:
        async with store.writing() as unit:
            held = await act(unit, ConsentId(consent_id))
            await unit.commit()
        return held

    held = frame.with_store(work)
    facts = {
        "consent": held.consent_id,
        "status": held.status,
        "paused_at": held.paused_at,
        "revoke_asked_at": held.revoke_asked_at,
        "revoke_by": held.revoke_by,
        "webhook_active": held.webhook_active,
        "webhook_wanted": held.webhook_wanted,
    }
    show.facts(facts, as_json=as_json)
