"""The inbox: events that verified, once each, and a bounded quarantine of those that did not.

An event is filed in the same transaction as the work that acts on it, so neither exists without the other.  The same
event of the same issuer is known again by its digest; a `jti` is taken once per issuer.  What an event says lies
sealed; beside it stand ids, words and instants, for lists and for deciding.

Of an event that does not verify, nobody knows whose it is.  Kept are: why, from where, when and how often, size, media
type, the SHA-256 of its body, and the issuer and `kid` it claims.  The body itself is kept, sealed, only where a change
of ours may make it verify (a sender or a key we do not have yet), so that a replay can take it in.  The quarantine
holds at most `REFUSED_ROWS_MAX` rows and `REFUSED_BYTES_MAX` of bodies; those without a body go first, then those
anybody could have made up (`EASILY_FORGED`), and of equals the oldest.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.events import Event, EventKind
from syncworker.standard.values import Slug
from syncworker.store.dialect import Dialect
from syncworker.store.many import Given, Many
from syncworker.store.sealed import pack_raw, unpack_raw
from syncworker.store.statements import Statement, named, run_all
from syncworker.store.tables import authorization, consent, event, refused_event, work
from syncworker.store.tally import Counted
from syncworker.store.work import WorkKind

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

REFUSED_ROWS_MAX: Final = 1_000
REFUSED_BYTES_MAX: Final = 8 * 1024 * 1024
QUARANTINED_ROWS_MAX: Final = 1_000
"""Events that verified and concern nobody we know: the newest so many are kept."""

NOT_OURS: Final = "not_ours"
"""Outcome of an event nothing follows from, whatever it says."""

NOT_OURS_ROWS_MAX: Final = 10_000
"""Of those the newest so many are kept."""

EASILY_FORGED: Final = ("unencrypted", "untrusted_sender")
"""Refusals that take nothing to provoke but our public key, or not even that."""

PRUNED_MAX: Final = 500
"""Most events one call of `prune` takes away: a transaction stays short."""


class EventState(StrEnum):
    """Where an event stands."""

    FILED = "filed"
    """To be acted on."""
    DONE = "done"
    """Acted on, or there was nothing to do."""
    QUARANTINED = "quarantined"
    """Its subject is not known to us, or not its sender's to speak of."""


class Filing(StrEnum):
    """What filing an event did."""

    NEW = "new"
    AGAIN = "again"
    """The same event was here before: a retry."""
    JTI_USED = "jti_used"
    """Another event came with this `jti`: nothing was filed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """One event in the inbox; what it says is read by `Inbox.content`.

    Attributes:
        status, status_updated_at: as the event says; a hint.
        received: how often it came.
        outcome: a constant word for what became of it; `None` while nothing did.
        asked_at: when the question to the Hub began whose answer it was last held against; `None`: it never was.
    """

    id: int
    issuer: str
    kind: EventKind
    subject: str
    lfi: Slug
    event_type: str
    happened_at: datetime | None
    status: str | None
    status_updated_at: datetime | None
    received_at: datetime
    received: int
    state: EventState
    outcome: str | None
    acted_at: datetime | None
    interaction_id: str
    asked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """One event that did not verify.

    Attributes:
        why: a constant word for the check it failed.
        kid, issuer: as it claims.
        body: the body, where keeping it makes sense.
    """

    id: int = 0
    digest: bytes = field(repr=False)
    why: str
    address: str
    media_type: str
    size: int
    kid: str | None
    issuer: str | None
    received_at: datetime
    last_at: datetime
    received: int = 1
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One event that verified, to be filed.

    Attributes:
        lfi: of its subject; '' when the subject is not known.
        content: the claims its sender signed.
    """

    event: Event
    issuer: str
    jti: str | None
    bearer_jti: str | None
    lfi: Slug
    state: EventState
    outcome: str | None
    content: bytes = field(repr=False)
    interaction_id: str

    @property
    def key(self) -> tuple[str, bytes]:
        """By what the same event is known again."""
        return self.issuer, self.event.digest


def _lfis(dialect: Dialect, table: sa.Table) -> sa.Select[Any]:
    return sa.select(table.c.consent_id, table.c.lfi).where(
        dialect.among(table.c.consent_id, "consent_ids", tenant=named(table.c.tenant))
    )


_ASKED: Final = Statement(partial(_lfis, table=authorization))
_HELD: Final = Statement(partial(_lfis, table=consent))


def _counting_again(dialect: Dialect, given: Given) -> Any:
    return (
        sa.update(event)
        .where(
            dialect.aside(event.c.tenant) == given["tenant"],
            event.c.issuer == named(event.c.issuer, "of_issuer"),
            event.c.digest == given["of_digest"],
        )
        .values(received=event.c.received + named(event.c.received, "times"))
        .returning(event.c.id, event.c.digest)
    )


_COUNT_AGAIN: Final = Many({"of_digest": event.c.digest}, _counting_again, tenant=named(event.c.tenant, "of_tenant"))
_FORGET: Final = Statement(
    lambda dialect: sa.delete(event).where(dialect.among(event.c.id, "ids", tenant=named(event.c.tenant)))
)
_FORGET_WORK: Final = Statement(
    lambda dialect: sa.delete(work).where(
        work.c.kind == named(work.c.kind, "of_kind"),
        dialect.among(work.c.subject, "subjects", tenant=named(work.c.tenant)),
    )
)

_IS_FILED: Final = event.c.state == sa.literal_column(f"'{EventState.FILED.value}'")
"""What `ix_event_filed` holds; written out, since a planner does not see through a parameter."""


def _filed(_: Dialect) -> sa.Select[Any]:
    return (
        sa.select(*(event.c[name] for name in StoredEvent.__slots__))
        .where(
            _IS_FILED,
            event.c.tenant == named(event.c.tenant),
            event.c.subject == named(event.c.subject, "of_subject"),
            event.c.kind == named(event.c.kind, "of_kind"),
            event.c.received_at <= named(event.c.received_at, "until"),
        )
        .order_by(event.c.id)
        .limit(sa.bindparam("most", type_=sa.Integer, required=True))
    )


def _still_filed(dialect: Dialect) -> sa.Update:
    """An `UPDATE` of those of some events that wait to be acted on."""
    those = dialect.among(event.c.id, "ids", tenant=named(event.c.tenant, "of_tenant"))
    is_filed = (
        dialect.aside(event.c.state) == EventState.FILED.value
    )  # else all that wait are read, by `ix_event_filed`
    return sa.update(event).where(those, is_filed).values(asked_at=named(event.c.asked_at, "as_asked_at"))


_FILED: Final = Statement(_filed)
_NOTE_ASKED: Final = Statement(_still_filed)
_END_FILED: Final = Statement(
    lambda dialect: _still_filed(dialect).values(
        state=named(event.c.state, "as_state"),
        outcome=named(event.c.outcome, "as_outcome"),
        acted_at=named(event.c.acted_at, "at"),
    )
)


class Inbox:
    """The tables `event` and `refused_event` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def file_all(self, arrivals: Sequence[Arrival], *, at: datetime) -> Sequence[tuple[Filing, int]]:
        """File events that verified, each unless it is here already.

        Returns:
            For each in order what was done, and the id of the event in the inbox; 0 for `JTI_USED`.
        """
        if not arrivals:
            return []
        rows = [self._row_of(one, at) for one in sorted(arrivals, key=lambda one: one.key)]  # one order of locking
        fresh = self._unit.dialect.insert(event).on_conflict_do_nothing()
        fresh = fresh.returning(event.c.id, event.c.issuer, event.c.digest)
        new = {(one.issuer, bytes(one.digest)): int(one.id) for one in await self._unit.connection.execute(fresh, rows)}
        repeats = Counter(one.key for one in arrivals) - Counter(new.keys())
        known = await self._count_again(repeats)
        filed = []
        for key in (one.key for one in arrivals):
            if key in new:
                filed.append((Filing.NEW, new[key]))
                known[key] = new.pop(key)
            else:
                filed.append((Filing.AGAIN, known[key]) if key in known else (Filing.JTI_USED, 0))
        for filing, _ in filed:
            self._unit.tally.add(Counted.EVENTS, filing.value)
        return filed

    async def lfis_of_consents(self, consent_ids: Collection[str]) -> Mapping[str, Slug]:
        """The LFI of each consent we hold, or have asked for: an event may overtake the user's way back to us."""
        if not consent_ids:
            return {}
        place = {"tenant": self._unit.tenant, "consent_ids": sorted(set(consent_ids))}
        asked, held = await run_all(self._unit, [(_ASKED, place), (_HELD, place)])
        return {consent_id: Slug(lfi) for consent_id, lfi in (*asked.rows, *held.rows)}  # what is held counts

    async def get(self, event_id: int) -> StoredEvent | None:
        """One event."""
        row = (await self._unit.connection.execute(self._select().where(event.c.id == event_id))).mappings().first()
        return None if row is None else _stored(row)

    async def content(self, event_id: int) -> bytes | None:
        """The claims an event's sender signed.

        Raises:
            SealError: they do not open.
        """
        query = sa.select(event.c.digest, event.c.issuer, event.c.content).where(
            event.c.tenant == self._unit.tenant, event.c.id == event_id
        )
        row = (await self._unit.connection.execute(query)).first()
        if row is None:
            return None
        opened = self._open(event, "content", _row(row.digest, row.issuer))
        return unpack_raw(row.content, opened, sealed_only=True)

    async def list(self, *, state: EventState | None = None, limit: int = 50) -> Sequence[StoredEvent]:
        """Events, newest first."""
        query = self._select().order_by(event.c.id.desc()).limit(limit)
        if state is not None:
            query = query.where(event.c.state == state.value)
        return [_stored(row) for row in (await self._unit.connection.execute(query)).mappings()]

    async def end(self, event_id: int, *, outcome: str, at: datetime, state: EventState = EventState.DONE) -> None:
        """Write down what became of an event."""
        await self._unit.connection.execute(
            sa.update(event)
            .where(event.c.tenant == self._unit.tenant, event.c.id == event_id)
            .values(state=state.value, outcome=outcome, acted_at=at)
        )

    async def filed(self, kind: EventKind, subject: str, *, until: datetime, limit: int) -> Sequence[StoredEvent]:
        """Events of one subject that wait to be acted on and came by then, oldest first."""
        frame = {"tenant": self._unit.tenant, "of_kind": kind.value, "of_subject": subject}
        found = await _FILED.run(self._unit, **frame, until=until, most=limit)
        return [_stored(dict(zip(StoredEvent.__slots__, row, strict=True))) for row in found.rows]

    async def end_filed(self, outcomes: Mapping[int, str], *, at: datetime, asked_at: datetime) -> None:
        """Write down what became of events that one answer served; those that ended meanwhile are left alone."""
        alike: dict[str, list[int]] = defaultdict(list)
        for event_id, outcome in sorted(outcomes.items()):
            alike[outcome].append(event_id)
        frame = {"of_tenant": self._unit.tenant, "as_state": EventState.DONE.value, "at": at, "as_asked_at": asked_at}
        told = [(_END_FILED, {**frame, "as_outcome": outcome, "ids": ids}) for outcome, ids in sorted(alike.items())]
        if told:
            await run_all(self._unit, told)

    async def note_asked(self, ids: Collection[int], *, asked_at: datetime) -> None:
        """Write down that events were held against the answer to a question of that instant, and wait on."""
        if ids:
            frame = {"of_tenant": self._unit.tenant, "as_asked_at": asked_at}
            await _NOTE_ASKED.run(self._unit, **frame, ids=sorted(set(ids)))

    async def reopen(self, event_id: int, *, lfi: Slug) -> None:
        """Have an event acted on once more, its subject's LFI being known now."""
        await self._unit.connection.execute(
            sa.update(event)
            .where(event.c.tenant == self._unit.tenant, event.c.id == event_id)
            .values(state=EventState.FILED.value, outcome=None, lfi=lfi, asked_at=None)
        )

    # -- what does not verify ----------------------------------------------------------------------------------------

    async def refuse(self, refused: Refused) -> None:
        """Note an event that did not verify; the same body again only counts.  The oldest make room."""
        values = {name: getattr(refused, name) for name in Refused.__slots__ if name not in ("id", "body")}
        seal = self._seal(refused_event, "body", _row(refused.digest))
        values |= {"tenant": self._unit.tenant, "body": None if refused.body is None else seal(refused.body)}
        fresh = self._unit.dialect.insert(refused_event).values(values)
        again = {name: fresh.excluded[name] for name in ("why", "address", "last_at", "body")}
        await self._unit.connection.execute(
            fresh.on_conflict_do_update(
                index_elements=["tenant", "digest"], set_=again | {"received": refused_event.c.received + 1}
            )
        )
        await self._make_room()

    async def refused(self, *, limit: int = 50) -> Sequence[Refused]:
        """What did not verify, newest first, without bodies."""
        query = self._refused().order_by(refused_event.c.last_at.desc(), refused_event.c.id.desc()).limit(limit)
        return [_refused(row, None) for row in (await self._unit.connection.execute(query)).mappings()]

    async def one_refused(self, refused_id: int) -> Refused | None:
        """One entry of the quarantine, with its body if it was kept.

        Raises:
            SealError: the body does not open.
        """
        query = self._refused().where(refused_event.c.id == refused_id)
        row = (await self._unit.connection.execute(query)).mappings().first()
        if row is None:
            return None
        opened = None if row["body"] is None else self._open(refused_event, "body", _row(row["digest"]))(row["body"])
        return _refused(row, opened)

    async def held_back(self, *, since: datetime) -> Sequence[Refused]:
        """Entries of the quarantine whose body is kept and that came since then, oldest first, without their bodies."""
        columns = [column for column in refused_event.c if column is not refused_event.c.body]
        query = sa.select(*columns).where(
            refused_event.c.tenant == self._unit.tenant,
            refused_event.c.body.is_not(None),
            refused_event.c.received_at >= since,
        )
        rows = await self._unit.connection.execute(query.order_by(refused_event.c.id))
        return [_refused(row, None) for row in rows.mappings()]

    async def rejudge(self, refused_id: int, *, why: str, keep: bool) -> None:
        """Write down another check that an entry of the quarantine fails; its body goes unless it is worth keeping."""
        changes: dict[str, Any] = {"why": why} | ({} if keep else {"body": None})
        await self._unit.connection.execute(
            sa.update(refused_event)
            .where(refused_event.c.tenant == self._unit.tenant, refused_event.c.id == refused_id)
            .values(changes)
        )

    async def release(self, refused_id: int) -> None:
        """Take an entry out of the quarantine: it was taken in after all."""
        await self._unit.connection.execute(
            sa.delete(refused_event).where(
                refused_event.c.tenant == self._unit.tenant, refused_event.c.id == refused_id
            )
        )

    # -- keeping it small --------------------------------------------------------------------------------------------

    async def prune(self, *, before: datetime) -> int:
        """Take away events and quarantine older than their retention, with the rows of work that named them.

        Of events that are not ours the newest `NOT_OURS_ROWS_MAX` stay, however young the others are.

        Returns:
            How many events went; from `PRUNED_MAX` on there may be more.
        """
        old = (
            sa.select(event.c.id)
            .where(event.c.tenant == self._unit.tenant, event.c.received_at < before)
            .order_by(event.c.received_at)
            .limit(PRUNED_MAX)
        )
        ids = list((await self._unit.connection.execute(old)).scalars())
        await self._forget(ids)
        await self._unit.connection.execute(
            sa.delete(refused_event).where(
                refused_event.c.tenant == self._unit.tenant, refused_event.c.last_at < before
            )
        )
        not_ours = sa.and_(event.c.state == EventState.DONE.value, event.c.outcome == NOT_OURS)
        return len(ids) + await self._trim(not_ours, keep=NOT_OURS_ROWS_MAX)

    async def trim_quarantined(self) -> None:
        """Keep the newest `QUARANTINED_ROWS_MAX` events that concern nobody we know."""
        await self._trim(event.c.state == EventState.QUARANTINED.value, keep=QUARANTINED_ROWS_MAX)

    async def counts(self) -> Mapping[str, int]:
        """Events by state and outcome (`done:asked`), deliveries that repeated one (`again`), refusals by reason."""
        tenant = self._unit.tenant
        ended = sa.select(
            event.c.state, event.c.outcome, sa.func.count().label("rows"), sa.func.sum(event.c.received).label("came")
        )
        ended = ended.where(event.c.tenant == tenant).group_by(event.c.state, event.c.outcome)
        counts: dict[str, int] = {"again": 0}
        for row in await self._unit.connection.execute(ended):
            counts[f"{row.state}:{row.outcome}" if row.outcome else row.state] = row.rows
            counts["again"] += int(row.came) - row.rows
        refusals = sa.select(refused_event.c.why, sa.func.sum(refused_event.c.received).label("came"))
        refusals = refusals.where(refused_event.c.tenant == tenant).group_by(refused_event.c.why)
        for row in await self._unit.connection.execute(refusals):
            counts[f"refused:{row.why}"] = int(row.came)
        return dict(sorted(counts.items()))

    async def _make_room(self) -> None:
        mine = refused_event.c.tenant == self._unit.tenant
        keepable = (
            refused_event.c.body.is_not(None).desc(),
            refused_event.c.why.in_(EASILY_FORGED),
            refused_event.c.last_at.desc(),
            refused_event.c.id.desc(),
        )
        size = sa.func.length(refused_event.c.body)
        ranked = (
            sa.select(
                refused_event.c.id,
                size.label("size"),
                sa.func.row_number().over(order_by=keepable).label("place"),
                sa.func.coalesce(sa.func.sum(size).over(order_by=keepable), 0).label("bytes"),
            )
            .where(mine)
            .subquery()
        )
        too_many = ranked.c.place > REFUSED_ROWS_MAX
        too_much = sa.and_(ranked.c.size.is_not(None), ranked.c.bytes > REFUSED_BYTES_MAX)
        beyond = sa.select(ranked.c.id).where(sa.or_(too_many, too_much))
        await self._unit.connection.execute(sa.delete(refused_event).where(mine, refused_event.c.id.in_(beyond)))

    def _row_of(self, one: Arrival, at: datetime) -> dict[str, Any]:
        read = one.event
        return {
            "tenant": self._unit.tenant,
            "digest": read.digest,
            "issuer": one.issuer,
            "jti": one.jti,
            "bearer_jti": one.bearer_jti,
            "kind": read.kind.value,
            "subject": read.subject,
            "lfi": one.lfi,
            "event_type": read.type,
            "happened_at": read.happened_at,
            "status": read.status,
            "status_updated_at": read.status_updated_at,
            "received_at": at,
            "interaction_id": one.interaction_id,
            "state": one.state.value,
            "outcome": one.outcome,
            "content": pack_raw(one.content, self._seal(event, "content", _row(read.digest, one.issuer))),
        }

    async def _count_again(self, repeats: Mapping[tuple[str, bytes], int]) -> dict[tuple[str, bytes], int]:
        """Count deliveries of events that are here; the ids of those that are."""
        alike: dict[tuple[str, int], list[bytes]] = defaultdict(list)
        for (issuer, digest), times in sorted(repeats.items()):
            alike[issuer, times].append(digest)
        known = {}
        for (issuer, times), digests in alike.items():
            those = [{"of_digest": digest} for digest in digests]
            frame = {"of_tenant": self._unit.tenant, "of_issuer": issuer, "times": times}
            for event_id, digest in await _COUNT_AGAIN.rows(self._unit, those, **frame):
                known[issuer, bytes(digest)] = int(event_id)
        return known

    async def _trim(self, which: sa.ColumnElement[bool], *, keep: int) -> int:
        """Take away the oldest of such events beyond so many; says how many went, at most `PRUNED_MAX`."""
        beyond = (
            sa.select(event.c.id)
            .where(event.c.tenant == self._unit.tenant, which)
            .order_by(event.c.id.desc())
            .offset(keep)
            .limit(PRUNED_MAX)
        )
        ids = list((await self._unit.connection.execute(beyond)).scalars())
        await self._forget(ids)
        return len(ids)

    async def _forget(self, ids: Sequence[int]) -> None:
        if not ids:
            return
        tenant = self._unit.tenant
        subjects = [str(event_id) for event_id in ids]
        await run_all(
            self._unit,
            [
                (_FORGET_WORK, {"tenant": tenant, "of_kind": WorkKind.EVENT.value, "subjects": subjects}),
                (_FORGET, {"tenant": tenant, "ids": list(ids)}),
            ],
        )

    def _select(self) -> sa.Select[Any]:
        columns = [event.c[name] for name in StoredEvent.__slots__]
        return sa.select(*columns).where(event.c.tenant == self._unit.tenant)

    def _refused(self) -> sa.Select[Any]:
        return sa.select(refused_event).where(refused_event.c.tenant == self._unit.tenant)

    def _seal(self, table: sa.Table, column: str, row: str) -> Callable[[bytes], bytes]:
        return lambda plain: self._unit.keyring.seal(plain, table=table.name, column=column, row=row)

    def _open(self, table: sa.Table, column: str, row: str) -> Callable[[bytes], bytes]:
        return lambda sealed: self._unit.keyring.open(sealed, table=table.name, column=column, row=row)


def _row(digest: bytes, issuer: str = "") -> str:
    """Names a row in its seal, as its unique key does: the id is not known before the row is."""
    return f"{digest.hex()} {issuer}"


def _stored(row: Mapping[Any, Any]) -> StoredEvent:
    values = {name: row[name] for name in StoredEvent.__slots__}
    words = {"kind": EventKind(row["kind"]), "state": EventState(row["state"]), "lfi": Slug(row["lfi"])}
    return StoredEvent(**values | words)


def _refused(row: Mapping[Any, Any], body: bytes | None) -> Refused:
    return Refused(**{name: row[name] for name in Refused.__slots__ if name != "body"}, body=body)
