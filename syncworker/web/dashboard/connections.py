"""Connections: the list with search and filters, and one connection: fresh, whole, still permitted, and if not, why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from fastapi import Response
from fastapi.responses import RedirectResponse

from syncworker.schedule.breaker import standing
from syncworker.standard.calendar import local_date, shifted
from syncworker.standard.consents import TERMINAL
from syncworker.standard.operations import OperationClass
from syncworker.standard.resources import RESOURCES, ResourceName, permitted
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.connections import ConnectionShown, ConsentShown, Label
from syncworker.store.freshness import Cursor, Listing, freshness
from syncworker.store.ops_connections import (
    AccountRow,
    ConnectionRow,
    ConsentRow,
    CoverageRow,
    Oldest,
)
from syncworker.store.ops_filters import State, Trouble, Wanted
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.store.work import WorkKind, WorkRow
from syncworker.web.dashboard import charts, paging, words
from syncworker.web.dashboard.door import Visit, not_found
from syncworker.web.dashboard.frame import CauseShown, Frame, month_began, shown_of
from syncworker.web.dashboard.looking import Looked
from syncworker.web.dashboard.render import link
from syncworker.web.dashboard.words import Shown

RUNS_SHOWN: Final = 10
CALLS_SHOWN: Final = 12
HISTORY_MAX: Final = timedelta(days=731)
"""How far back the line of walked days goes at most."""

PER_ACCOUNT: Final = tuple(one.name for one in RESOURCES if one.per_account and one.repeats is None)
_SOON: Final = timedelta(days=30)

NOT_PERMITTED: Final = Shown("lock", "faint", "not permitted")
_SPELLED: Final = {one.value for one in Version}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One connection in a list.

    Attributes:
        oldest: the listing that passes its target first; `None`: not judged yet.
        stale_since: `None`: it is fresh, or cannot be.
        cause: the number of what explains its trouble, with the colour; `None`: nothing does.
    """

    row: ConnectionRow
    state: Shown
    expires_at: datetime | None
    oldest: Oldest | None
    stale_since: datetime | None
    cause: CauseShown | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One listing in the matrix.

    Attributes:
        checked_at: end of its last complete walk.
        late: it is past its target.
        next: what comes next, in words.
        note: code of the last fault.
    """

    shown: Shown
    checked_at: datetime | None = None
    late: bool = False
    next: str = ""
    note: str | None = None


class Connections:
    """The two pages.

    Args:
        frame: what all pages stand on.
    """

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    # -- the list -------------------------------------------------------------------------------------------------

    async def every(self, visit: Visit, unit: UnitOfWork) -> Response:
        """Connections by user_ref; an id that leads to one thing opens it."""
        request = visit.request
        q = paging.asked(request, "q")
        if q is not None and (found := await _found(unit, q)) is not None:
            return RedirectResponse(found, status_code=303, headers={"cache-control": "no-store"})
        state, trouble = paging.chosen(request, "state", State), paging.chosen(request, "trouble", Trouble)
        lfi = paging.asked(request, "lfi")
        after = paging.asked(request, "after")
        wanted = Wanted(
            begins=q,
            lfi=lfi,
            state=state,
            trouble=trouble,
            after=None if after is None else _pair(after),
            limit=paging.PAGE + 1,
        )
        rows, more = paging.cut(await unit.ops_connections.page(wanted))
        filters = paging.kept(request, ("q", "lfi", "state", "trouble"))
        counts = await unit.ops_connections.counts()
        last = rows[-1] if rows else None
        return await self._frame.page(
            visit,
            unit,
            "connections.html",
            here="connections",
            lines=await self.lines(unit, rows, now=visit.now),
            q=q,
            lfi=lfi,
            state=state,
            trouble=trouble,
            states=list(State),
            troubles=list(Trouble),
            lfis=sorted(counts),
            total=sum(counts.values()),
            filtered=bool(filters),
            further=link("connections", **filters, after=paging.packed((last.user_ref, last.connection_id)))
            if more and last is not None
            else None,
        )

    async def lines(self, unit: UnitOfWork, rows: Sequence[ConnectionRow], *, now: datetime) -> Sequence[Line]:
        """Rows with the state of their consents and their oldest listing."""
        ids = [one.connection_id for one in rows]
        if not ids:
            return []
        consents = await unit.ops_connections.consents(ids)
        oldest = await unit.ops_connections.oldest(ids)
        looked = await self._frame.looker.looked()
        return [
            _line(one, consents.get(one.connection_id, []), oldest.get(one.connection_id), looked, now) for one in rows
        ]

    # -- one connection -------------------------------------------------------------------------------------------

    async def one(self, visit: Visit, unit: UnitOfWork) -> Response:
        """One connection."""
        connection_id = str(visit.request.path_params["connection_id"])
        found = await unit.connections.get(ConsentId(connection_id)) if paging.is_id(connection_id) else None
        if found is None:
            raise not_found("connection")
        shown, lineage = found
        now, ids = visit.now, [one.consent_id for one in lineage]
        listings = (await freshness(unit, [shown.connection_id])).get(shown.connection_id, {})
        work = await unit.work.find(WorkKind.SYNC, shown.connection_id)
        accounts = await unit.ops_connections.accounts(shown.connection_id)
        held = await _held(unit, shown.lfi, now)
        runs = await unit.ops_traffic.runs(connection_id=shown.connection_id, limit=RUNS_SHOWN)
        filed = await unit.runs.get(runs[0].id) if runs else None
        calls = await unit.runs.calls_of(filed) if filed is not None else []
        counts = callable_at(shown.consent, now)
        looked = await self._frame.looker.looked()
        stale = looked.stale.get(shown.connection_id)
        begins = month_began(now)
        return await self._frame.page(
            visit,
            unit,
            "connection.html",
            here="connections",
            one=shown,
            consent=shown.consent,
            lineage=charts.lineage(_lives(lineage), now=now),
            chain=list(lineage),
            listings=listings,
            resources=self._columns(shown.consent, listings),
            matrix=self._matrix(shown.consent, accounts, listings, held=held, now=now),
            of_connection=self._of_connection(shown.consent, listings, held=held, now=now),
            coverage=_coverage(await unit.ops_connections.coverage(shown.connection_id), shown, accounts, now=now),
            tokens=await unit.ops_connections.tokens(ids),
            links=await unit.ops_connections.links(shown.connection_id),
            flags=await unit.ops_connections.flags([shown.consent.consent_id]),
            spent=await unit.ops_connections.spent(shown.connection_id, since=begins),
            today=await unit.ops_connections.spent(shown.connection_id, since=shifted(now, timedelta(hours=-24))),
            work=work,
            schedule=_schedule(work, held, now),
            stale_since=None if stale is None else stale.since,
            runs=runs,
            calls=calls[-CALLS_SHOWN:],
            more_calls=max(0, len(calls) - CALLS_SHOWN),
            cause=await self._frame.cause_of(connection_id=shown.connection_id),
            actions=actions_for(shown, work, now),
            soon=shown.consent.expires_at <= shifted(now, _SOON) and counts,
        )

    def _columns(
        self, consent: ConsentShown, listings: Mapping[Listing, Cursor]
    ) -> list[tuple[ResourceName, timedelta]]:
        known = {listing.resource for listing in listings}
        version = _version(consent.version)
        since = {one.name: one.since for one in RESOURCES}
        return [
            (name, self._frame.cadence[name])
            for name in PER_ACCOUNT
            if name in known or version is None or version.rank >= since[name].rank
        ]

    def _matrix(
        self,
        consent: ConsentShown,
        accounts: Sequence[AccountRow],
        listings: Mapping[Listing, Cursor],
        *,
        held: str | None,
        now: datetime,
    ) -> list[tuple[AccountRow, list[Cell]]]:
        allowed = _permitted(consent)
        columns = [name for name, _ in self._columns(consent, listings)]
        return [
            (
                one,
                [
                    self._cell(name, listings.get(Listing(one.account_id, name)), allowed, consent, held=held, now=now)
                    for name in columns
                ],
            )
            for one in accounts
        ]

    def _of_connection(
        self, consent: ConsentShown, listings: Mapping[Listing, Cursor], *, held: str | None, now: datetime
    ) -> list[tuple[ResourceName, Cell]]:
        """Listings that belong to no account."""
        allowed = _permitted(consent)
        return [
            (name, self._cell(name, listings.get(Listing("", name)), allowed, consent, held=held, now=now))
            for name in (ResourceName.ACCOUNTS, ResourceName.PARTIES)
        ]

    def _cell(
        self,
        name: ResourceName,
        cursor: Cursor | None,
        allowed: frozenset[ResourceName] | None,
        consent: ConsentShown,
        *,
        held: str | None,
        now: datetime,
    ) -> Cell:
        if allowed is not None and name not in allowed:
            return Cell(shown=NOT_PERMITTED)
        if cursor is None:
            return Cell(shown=words.NEVER)
        live = callable_at(consent, now)
        late = live and cursor.checked_at is not None and now - cursor.checked_at > self._frame.target(name)
        refused = cursor.refused_until is not None and cursor.refused_until > now
        shown = words.outcome(cursor.outcome)
        if late and not refused:
            shown = Shown("bad", "bad", shown.word)
        return Cell(
            shown=shown,
            checked_at=None if cursor.outcome == "absent" else cursor.checked_at,
            late=late and not refused,
            next=_next(cursor, live=live, held=held, refused=refused, now=now),
            note=cursor.error,
        )


def _line(
    row: ConnectionRow, consents: Sequence[ConsentRow], oldest: Oldest | None, looked: Looked, now: datetime
) -> Line:
    state, expires_at, _ = standing_of(consents, now)
    stale = looked.stale.get(row.connection_id)
    return Line(
        row=row,
        state=state,
        expires_at=expires_at,
        oldest=oldest,
        stale_since=None if stale is None else stale.since,
        cause=shown_of(looked.of_connection(row.connection_id)),
    )


def standing_of(consents: Sequence[ConsentRow], now: datetime) -> tuple[Shown, datetime | None, bool]:
    """How a connection stands by its consents: state, end of the one that counts, whether data may be asked for."""
    alive = [
        one
        for one in consents
        if one.status not in {end.value for end in TERMINAL} and one.revoke_asked_at is None and one.expires_at > now
    ]
    if not alive:
        return words.label(Label.EXPIRED)._replace(word="ended"), None, False
    counts = next((one for one in reversed(alive) if one.status == "Authorized"), alive[-1])
    if counts.needs_consent is not None:
        return Shown("warn", "warn", "needs consent"), counts.expires_at, False
    if counts.status == "Authorized" and counts.paused_at is not None:
        return words.label(Label.PAUSED), counts.expires_at, False
    named = {"Authorized": Label.ACTIVE, "Suspended": Label.SUSPENDED, "AwaitingAuthorization": Label.PENDING}
    return words.label(named.get(counts.status, counts.status)), counts.expires_at, counts.status == "Authorized"


def callable_at(consent: ConsentShown, now: datetime) -> bool:
    """Whether data may be asked for with a consent."""
    return (
        consent.status == "Authorized"
        and consent.paused_at is None
        and consent.needs_consent is None
        and consent.revoke_asked_at is None
        and consent.expires_at > now
    )


def actions_for(shown: ConnectionShown, work: WorkRow | None, now: datetime) -> list[tuple[str, str]]:
    """What may be done: name of the action and the words on its button."""
    found = []
    if callable_at(shown.consent, now):
        found.append(
            ("unpark", "Put back …") if work is not None and work.parked_at is not None else ("sync", "Sync now …")
        )
    possible = {one.value for one in shown.consent.actions}
    if "pause" in possible:
        found.append(("pause", "Pause …"))
    if "reactivate" in possible:
        found.append(("resume", "Resume …"))
    if "stop" in possible:
        found.append(("revoke", "Revoke …"))
    return found


async def _found(unit: UnitOfWork, q: str) -> str | None:
    """Where an id leads; `None`: it is none, so that it is how a user_ref begins."""
    if not paging.is_id(q):
        return None
    connection_id = await unit.ops_connections.connection_of(q)
    if connection_id is not None:
        return link("connections", connection_id)
    if len(q) == 36 and q.count("-") == 4:
        call = await unit.runs.of_interaction(q)
        if call is not None and call.run is not None:
            return link("runs", str(call.run.id))
        if call is not None and call.call.consent_id:
            connection_id = await unit.ops_connections.connection_of(call.call.consent_id)
            return None if connection_id is None else link("connections", connection_id)
        if call is not None:
            return link("lfis", call.call.lfi)
    return None


async def _held(unit: UnitOfWork, lfi: Slug, now: datetime) -> str | None:
    """Why data calls to an LFI are held back, in a word for a cell; `None`: they are let through."""
    gates, breakers = await unit.lfis.gates_known(), await unit.breakers.all()
    stands = standing(gates.get(lfi), breakers.get((lfi, OperationClass.DATA)), now=now)
    if stands.until is None:
        return None
    return "held by the gate" if stands.gated else "held for the trial"


def _schedule(work: WorkRow | None, held: str | None, now: datetime) -> Shown:
    """When the next sync comes, or what keeps it back."""
    if work is None:
        return Shown("end", "faint", "not scheduled")
    if work.parked_at is not None:
        return Shown("bad", "bad", "parked")
    if work.lease_until is not None and work.lease_until > now:
        return Shown("run", "run", "running")
    if work.due_at.year >= 9000:
        return Shown("end", "faint", "rests")
    if work.due_at > now:
        return Shown("none", "", f"next in {words.span(work.due_at - now)}")
    return (
        Shown("held", "held", f"due, {held}") if held else Shown("run", "run", f"due {words.span(now - work.due_at)}")
    )


def _next(cursor: Cursor, *, live: bool, held: str | None, refused: bool, now: datetime) -> str:
    if not live:
        return ""
    if refused and cursor.refused_until is not None:
        return f"asked in {words.rough(cursor.refused_until - now)}"
    if cursor.due_at > now:
        return f"next in {words.rough(cursor.due_at - now)}"
    return held or "due"


def _lives(chain: Sequence[ConsentShown]) -> list[charts.Life]:
    found = []
    for one in chain:
        ended = one.ended_at is not None or one.status in {end.value for end in TERMINAL}
        ends = one.ended_at or one.status_updated_at or one.expires_at if ended else one.expires_at
        said = f"{one.version}, {one.status}, {'ended' if ended else 'ends'} {words.day(ends)}"
        root = "root" if one.base_consent_id is None else "renewed"
        found.append(charts.Life(f"{words.head(one.consent_id)} {root}", said, one.created_at, ends, ended))
    return found


def _permitted(consent: ConsentShown) -> frozenset[ResourceName] | None:
    """Resources that a consent opens; `None`: its version is none we know."""
    version = _version(consent.version)
    if version is None:
        return None
    return frozenset(one.name for one in permitted(consent.permissions, version=version))


def _version(text: str) -> Version | None:
    return Version(text) if text in _SPELLED else None


def _coverage(
    rows: Sequence[CoverageRow], shown: ConnectionShown, accounts: Sequence[AccountRow], *, now: datetime
) -> list[Mapping[str, Any]]:
    """The line of walked days of each account's transactions."""
    found: list[Mapping[str, Any]] = []
    last = local_date(now)
    for one in accounts:
        mine = [row for row in rows if row.account_id == one.account_id and row.resource == ResourceName.TRANSACTIONS]
        if not mine:
            continue
        first = _first_day(mine, shown, last)
        until = min(last, max(row.to_date for row in mine)) if shown.consent.ended_at else last
        days = charts.walked([(row.from_date, row.to_date) for row in mine], first=first, last=max(first, until))
        found.append(
            {
                "account": one,
                "days": days,
                "first": first,
                "last": until,
                "pages": sum(row.pages for row in mine),
                "items": sum(row.items for row in mine),
            }
        )
    return found


def _first_day(rows: Sequence[CoverageRow], shown: ConnectionShown, last: date) -> date:
    """Where the line begins: where the consent's window does, else the first day walked."""
    bound = shifted(last, -HISTORY_MAX)
    dated = [row.from_date for row in rows if row.from_date > bound]
    wanted = shown.consent.from_date or min(dated, default=bound)
    return min(max(wanted, bound), last)


def _pair(after: str) -> tuple[str, str]:
    user_ref, connection_id = paging.unpacked(after, 2)
    return user_ref, connection_id
