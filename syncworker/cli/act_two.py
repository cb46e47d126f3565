"""The demo's act two: what becomes of a consent after it was given.

One user takes their consent back at the bank and an event tells us; another does so while the bank sends no events, and
we find it by asking.  One consent is suspended and comes back.  One is renewed, and its data goes on without a seam.
One account is opened through the standard and becomes an account like any other.  The audit at the end is taken from
the banks' own log and from our tables.
"""

import asyncio
import importlib.util
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from syncworker.cli import show
from syncworker.clock import monotonic
from syncworker.consents.subscribing import ordered
from syncworker.openings import OpeningOrder
from syncworker.simulator.browser import Browser
from syncworker.standard.consents import Status
from syncworker.standard.openings import OpeningState
from syncworker.standard.permissions import Permission
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.changes import Place
from syncworker.store.openings import ShareWish
from syncworker.store.work import WorkKind

if TYPE_CHECKING:
    from syncworker.cli.demo import Bank, Stage

CAST: Final = 3
"""Banks it needs: the parts are played at one of each version."""
ASKED_EVERY_S: Final = 6
"""How often the Hub is asked about a consent, without events; an hour in earnest."""
LULL: Final = timedelta(seconds=4)
"""Within this time an event has done its work, also on a busy machine."""
LULL_BEHIND: Final = timedelta(seconds=1.5)
"""A sync or refresh comes at least so long after the look that is to come first: more than a tick."""
ASKED_AGAIN_S: Final = 3
LULL_PATIENCE_S: Final = 20
DATA: Final = frozenset(ResourceName)
SHARED: Final = (Permission.ReadAccountsDetail, Permission.ReadBalances, Permission.ReadTransactionsDetail)


# -- what it needs running --------------------------------------------------------------------------------------------


def has_web() -> bool:
    """Whether events can come in: the web process is an extra."""
    return all(importlib.util.find_spec(name) is not None for name in ("fastapi", "uvicorn"))


def settings(folder: Path, facts: Mapping[Slug, Mapping[str, Any]], versions: Mapping[Slug, Version]) -> str:
    """Tables of the settings: short cadences, and, with the web process, where events come in and who may send them."""
    lines = [
        "[lifecycle]",
        f"authorized = {ASKED_EVERY_S}",
        f"suspended_first = {ASKED_EVERY_S}",
        "\n[openings]",
        f"pending = {ASKED_EVERY_S}",
        f"lfi_processing = {ASKED_EVERY_S}\n",
    ]
    if has_web():
        lines += _web_settings(folder, facts, versions)
    return "\n".join(lines)


def _web_settings(
    folder: Path, facts: Mapping[Slug, Mapping[str, Any]], versions: Mapping[Slug, Version]
) -> Sequence[str]:
    """The web process on loopback, its certificate by the first bank's authority."""
    authorities = folder / "authorities.pem"
    authorities.write_text("".join(Path(one["ca_bundle"]).read_text(encoding="ascii") for one in facts.values()))
    own, port = next(iter(facts.values()))["events"], _free_port()
    keys = ", ".join(
        f'"{one["events"]["encryption_kid"]}" = "{one["events"]["encryption_key"]}"' for one in facts.values()
    )
    lines = [
        "[client]",
        f'ca_bundle = "{authorities}"',
        "\n[web]",
        f"port = {port}",
        f'certificate = "{own["web_certificate"]}"',
        f'key = "{own["web_key"]}"',
        "\n[events]",
        f'url = "https://127.0.0.1:{port}/events"',
        f"encryption_keys = {{ {keys} }}",
    ]
    for slug, one in facts.items():
        lines += [
            f'\n[events.senders."{one["issuer"]}"]',
            f'jwks_url = "{one["issuer"]}/jwks"',
            f'lfis = ["{slug}"]',
            f"bearer = {'false' if versions[slug] is Version.V2_1 else 'true'}",
            "allow_private_hosts = true",
        ]
    return [*lines, ""]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# -- the play ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A consent with a part to play."""

    bank: "Bank"
    user: str
    connection_id: ConsentId
    consent_id: ConsentId


@dataclass(frozen=True, slots=True, kw_only=True)
class _Revoked:
    """A consent its user took back at the bank.

    Attributes:
        at: by the bank's clock.
        known_at: when our tables said so.
        head: of the change feed before it.
    """

    part: _Part
    at: datetime
    known_at: datetime
    head: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class _Suspended:
    """A consent the bank blocked."""

    part: _Part
    known_at: datetime
    rows: Mapping[ResourceName, int]


async def play(stage: "Stage") -> None:
    """Play it, and prove what it shows; needs a customer at each of the banks."""
    if len(stage.banks) < CAST:
        show.OUT.print(f"\nact two needs {CAST} customers, one at each bank; left out", markup=False)
        return
    first, second, third = stage.banks
    told = await _part(stage, third, -1)
    blocked = await _part(stage, second, 0)
    renewed = await _part(stage, first, 0)
    await _events_on(stage, [told, blocked])

    revoked = [await _revoke(stage, told, events=has_web())]
    suspended = await _suspend(stage, blocked)
    await _renew(stage, renewed)
    await _open_account(stage, renewed)
    await _lift(stage, suspended)
    unheard = await _part(stage, second, -1)
    await second.books.do("configure_events", off=True)
    revoked.append(await _revoke(stage, unheard, events=False))
    await _audit(stage, revoked)


async def _part(stage: "Stage", bank: "Bank", number: int) -> _Part:
    """A customer of a bank, with the consent that is in use."""
    user = bank.users[number]
    async with stage.application.store.reading() as unit:
        connection, *_ = await unit.consents.connections(lfi=bank.slug, user_ref=f"{user}@{bank.slug}")
        held = await unit.consents.live(connection.connection_id)
    assert held is not None
    return _Part(bank=bank, user=user, connection_id=connection.connection_id, consent_id=held.consent_id)


async def _events_on(stage: "Stage", parts: Sequence[_Part]) -> None:
    """Ask the Hubs to tell us of these consents."""
    _headline("act two: events")
    if not has_web():
        show.OUT.print(
            "  left out: they need the web process, syncworker[web]; everything is found by asking", markup=False
        )
        return
    await stage.wait_for("the web process", lambda: _listens(stage.settings.web.port))
    for bank in stage.banks:
        await bank.books.do("configure_events", trust=[stage.banks[0].facts["ca_bundle"]])
    async with stage.application.store.writing() as unit:
        for part in parts:
            await ordered(unit, part.consent_id, active=True)
        await unit.commit()

    async def told() -> bool:
        async with stage.application.store.reading() as unit:
            held = await unit.consents.get_many([part.consent_id for part in parts])
        return all(one.webhook_active and one.webhook_wanted is None for one in held.values())

    took = await stage.wait_for("the subscription", told)
    stage.claim(True, f"{len({part.consent_id for part in parts})} consents subscribed at their Hubs in {took:.1f} s")


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def _lull(stage: "Stage", part: _Part, *, events: bool) -> None:
    """Wait for a moment when no call of ours would notice a revocation before what is to be shown does.

    That is an event, or else the next scheduled look at the Hub: a sync or a refresh in between would be refused, and
    we would ask at once.  On a machine too busy for such moments it goes on without one, and the audit says how we
    came to know.
    """
    subjects = {WorkKind.SYNC: part.connection_id, WorkKind.TOKEN: part.consent_id, WorkKind.CONSENT: part.consent_id}
    began = monotonic()
    asked_at = began - ASKED_AGAIN_S

    async def calm() -> bool:
        nonlocal asked_at
        if monotonic() - began > LULL_PATIENCE_S:
            return True
        async with stage.application.store.reading() as unit:
            now = await unit.now()
            rows = {kind: await unit.work.find(kind, subject) for kind, subject in subjects.items()}
        due = {kind: row.due_at for kind, row in rows.items() if row is not None and row.lease_until is None}
        if len(due) == len(subjects):
            look = due.pop(WorkKind.CONSENT)
            if (now + LULL < min(look, *due.values())) if events else (now < look < min(due.values()) - LULL_BEHIND):
                return True
        if monotonic() - asked_at > ASKED_AGAIN_S:
            asked_at = monotonic()
            async with stage.application.store.writing() as unit:
                await unit.work.ask_now(WorkKind.SYNC, part.connection_id)
                await unit.work.ask_now(WorkKind.CONSENT, part.consent_id)
                await unit.commit()
        return False

    await stage.wait_for("a lull", calm)


async def _revoke(stage: "Stage", part: _Part, *, events: bool) -> _Revoked:
    """The user takes the consent back at the bank, where something new then happens that is none of our business."""
    _headline(f"{part.user} takes the consent back at {part.bank.slug}, {'with' if events else 'without'} an event")
    await _lull(stage, part, events=events)
    async with stage.application.store.reading() as unit:
        head = await unit.changes.head()
    await part.bank.books.do("revoke", consent_id=part.consent_id)
    facts = await _facts(part.bank, part.consent_id)
    await part.bank.books.do("insert_transaction", account_id=facts["account_ids"][0], amount="99.00")
    await stage.wait_for("news of the revocation", lambda: _has_status(stage, part, Status.Revoked))
    known_at, at = datetime.now(UTC), datetime.fromisoformat(facts["status_updated_at"])
    stage.claim(True, f"known {(known_at - at).total_seconds():.1f} s later")
    return _Revoked(part=part, at=at, known_at=known_at, head=head)


async def _suspend(stage: "Stage", part: _Part) -> _Suspended:
    """The bank blocks a consent."""
    _headline(f"{part.bank.slug} suspends the consent of {part.user}")
    rows = await _rows(stage, part.connection_id)
    began = monotonic()
    await part.bank.books.do("suspend", consent_id=part.consent_id)
    await stage.wait_for("news of the suspension", lambda: _has_status(stage, part, Status.Suspended))
    stage.claim(True, f"known {monotonic() - began:.1f} s later; calls stop, tokens and data stay")
    return _Suspended(part=part, known_at=datetime.now(UTC), rows=rows)


async def _renew(stage: "Stage", part: _Part) -> None:
    """The user agrees to a successor; the data goes on in the same connection."""
    _headline(f"the consent of {part.user} at {part.bank.slug} is renewed before its end")
    async with stage.application.store.reading() as unit:
        head = await unit.changes.head()
    rows = await _rows(stage, part.connection_id)
    link = await stage.application.renewals.renew(part.consent_id)
    started = await stage.application.authorize.open(link.intent_id)
    async with Browser(Path(part.bank.facts["ca_bundle"])) as browser:
        redirect = await browser.decide(started.url, user=part.user)
    completed = await stage.application.authorize.complete(redirect)
    took = await stage.wait_for("the successor's first sync", lambda: _synced(stage, completed.consent_id))
    changed, now = await _changed(stage, part.connection_id, head), await _rows(stage, part.connection_id)
    stage.claim(
        completed.connection_id == part.connection_id and now == rows and changed == 0,
        f"the same connection, synced by its successor {took:.1f} s after the callback: "
        f"{now[ResourceName.TRANSACTIONS]} transactions as before, {changed} rows changed",
    )

    async def old_one_revoked() -> bool:
        return bool((await _facts(part.bank, part.consent_id))["revoked_by"] == "TPP")

    await stage.wait_for("the revocation of the consent before it", old_one_revoked)
    stage.claim(True, "the consent before it is revoked at the Hub, by us, now that its successor works")


async def _open_account(stage: "Stage", part: _Part) -> None:
    """An account is asked for, opened by the bank, and shared like any other."""
    _headline(f"{part.user} opens an account at {part.bank.slug}")
    openings, books = stage.application.openings, part.bank.books
    await books.do("configure_openings", by_hand=True)
    order = OpeningOrder(
        body=await _application_form(part),
        user_ref=f"{part.user}@{part.bank.slug}",
        webhook=stage.settings.events.url,
        share=ShareWish(permissions=SHARED, days=180),
    )
    opening = await openings.create(part.bank.slug, order)
    seen = [opening.state.value]
    for status, state in (("AwaitingLFIProcesses", OpeningState.LFI_PROCESSING), ("Completed", OpeningState.COMPLETED)):
        await books.do("opening_moves", account_id=opening.account_id, status=status, user=part.user)

        async def reached(state: OpeningState = state) -> bool:
            async with stage.application.store.reading() as unit:
                held = await unit.openings.get(opening.opening_id)
            return held is not None and held.state is state

        await stage.wait_for(f"the opening being {state.value}", reached)
        seen.append(state.value)
    started = await openings.share(opening.opening_id)
    async with Browser(Path(part.bank.facts["ca_bundle"])) as browser:
        redirect = await browser.decide(started.url, user=part.user, accounts=[str(opening.account_id)])
    completed = await stage.application.authorize.complete(redirect)
    await stage.wait_for("the sync of the opened account", lambda: _synced(stage, completed.consent_id))
    async with stage.application.store.reading() as unit:
        shown = await unit.records.granted(completed.consent_id)
    stage.claim(shown == {opening.account_id}, f"{' → '.join(seen)} → shared → {len(shown)} account synced")


async def _application_form(part: _Part) -> Mapping[str, Any]:
    """What the customer's form says: the person as the bank itself knows them."""
    (consent,) = await part.bank.books.books(part.consent_id)
    (party,) = consent["resources"][ResourceName.PARTIES.value]
    (verified,) = party["item"]["VerifiedClaims"]
    return {"Data": {"Account": {"SchemeName": "IBAN"}, "Party": {"Claims": verified["Claims"]}}}


async def _lift(stage: "Stage", suspended: _Suspended) -> None:
    """The bank lifts the block; nobody has to do anything."""
    part = suspended.part
    _headline(f"{part.bank.slug} lifts the block")
    lifted_at = datetime.now(UTC)
    calls = [at for at in await _calls(part) if _a_tick_after(stage, suspended.known_at) < at < lifted_at]
    mark = await stage.now()
    await part.bank.books.do("lift", consent_id=part.consent_id)
    await stage.wait_for("news of the lifted block", lambda: _has_status(stage, part, Status.Authorized))
    took = await stage.wait_for("the next sync", lambda: _synced(stage, part.consent_id, since=mark))
    length = (lifted_at - suspended.known_at).total_seconds()
    stage.claim(not calls, f"{len(calls)} calls with its tokens while it was suspended, for {length:.1f} s")
    kept = await _rows(stage, part.connection_id)
    stage.claim(kept == suspended.rows, f"synced again {took:.1f} s after we knew; {sum(kept.values())} rows as before")


async def _audit(stage: "Stage", revoked: Sequence[_Revoked]) -> None:
    """When every other connection has been synced once more: what was called and written after each revocation."""
    mark, others = await stage.now(), stage.customers - len(revoked) + 1

    async def passed() -> bool:
        return await stage.synced_since(mark) >= others

    await stage.wait_for("a sync of everybody else", passed)
    calls = {one.part.consent_id: [at for at in await _calls(one.part) if at > one.at] for one in revoked}
    rows = {one.part.consent_id: await _changed(stage, one.part.connection_id, one.head) for one in revoked}
    async with stage.application.store.reading() as unit:
        tokens = sum([await unit.tokens.exists(one.part.consent_id) for one in revoked])
    show.rows(
        [
            {
                "LFI": one.part.bank.slug,
                "customer": one.part.user,
                "revoked at the bank": await _how(stage, one),
                "known after": _seconds(one.known_at - one.at),
                "calls after it": len(calls[one.part.consent_id]),
                "last call after": _seconds(max(last) - one.at) if (last := calls[one.part.consent_id]) else "none",
                "rows after": rows[one.part.consent_id],
            }
            for one in revoked
        ],
        as_json=False,
        title="\nAfter the end, by the banks' own log and our tables",
        empty="nothing",
    )
    late = sum(at > _a_tick_after(stage, one.known_at) for one in revoked for at in calls[one.part.consent_id])
    longest = max((at - one.at for one in revoked for at in calls[one.part.consent_id]), default=timedelta())
    stage.claim(
        late == 0,
        f"{_seconds(longest)} from a revocation to the last call with its tokens; {late} calls later than a tick "
        f"({stage.settings.tick_seconds:g} s) after we knew",
    )
    written = sum(rows.values())
    stage.claim(written == 0, f"{written} rows written after a revocation, though the bank had something new each time")
    stage.claim(tokens == 0, f"{tokens} of them still have tokens")


# -- reading ----------------------------------------------------------------------------------------------------------


async def _facts(bank: "Bank", consent_id: ConsentId) -> Mapping[str, Any]:
    return next(one for one in await bank.books.consents() if one["consent_id"] == consent_id)


async def _how(stage: "Stage", revoked: _Revoked) -> str:
    """How we came to know, by our inbox and by what the bank was asked first afterwards."""
    async with stage.application.store.reading() as unit:
        events = await unit.inbox.list(limit=1_000)
    told = (revoked.part.consent_id, Status.Revoked, "moved")
    if any((event.subject, event.status, event.outcome) == told for event in events):
        return "told by an event"
    entries = (await revoked.part.bank.books.log())["entries"]
    first = next(
        entry["operation"]
        for entry in entries
        if entry["consent_id"] == revoked.part.consent_id and datetime.fromisoformat(entry["at"]) > revoked.at
    )
    return "found by asking" if first == "consent" else "asked after a refused call"


async def _calls(part: _Part) -> Sequence[datetime]:
    """When the bank answered data calls and token requests of a consent; our questions about it are none of these."""
    entries = (await part.bank.books.log())["entries"]
    return [
        datetime.fromisoformat(entry["at"])
        for entry in entries
        if entry["consent_id"] == part.consent_id
        and (entry["operation"] in DATA or entry["operation"].startswith("token."))
    ]


async def _has_status(stage: "Stage", part: _Part, status: Status) -> bool:
    async with stage.application.store.reading() as unit:
        held = await unit.consents.get(part.consent_id)
    return held is not None and held.status == status


async def _synced(stage: "Stage", consent_id: ConsentId, *, since: datetime | None = None) -> bool:
    async with stage.application.store.reading() as unit:
        runs = await unit.runs.latest(limit=1_000)
    return any(
        run.consent_id == consent_id
        and run.outcome in {"ok", "unchanged"}
        and (since is None or run.started_at > since)
        for run in runs
    )


async def _rows(stage: "Stage", connection_id: ConsentId) -> Mapping[ResourceName, int]:
    async with stage.application.store.reading() as unit:
        return await unit.records.count(connection_id)


async def _changed(stage: "Stage", connection_id: ConsentId, after: Place) -> int:
    """Rows of a connection in the change feed behind a place."""
    async with stage.application.store.reading() as unit:
        changes = await unit.changes.read(after=after, limit=10_000, connection_id=connection_id)
    return sum(row.change.resource is not None for row in changes)


def _a_tick_after(stage: "Stage", moment: datetime) -> datetime:
    return moment + timedelta(seconds=stage.settings.tick_seconds)


def _seconds(length: timedelta) -> str:
    return f"{length.total_seconds():.1f} s"


def _headline(text: str) -> None:
    show.OUT.print(f"\n[bold]{text}[/bold]")
