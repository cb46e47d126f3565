"""Connections and consents: what the Hub told us about each, and what is ours alone (paused, needs consent).

The Hub is the system of record: a surprising move of a status is written down in `audit` and followed, never refused
(`domain.md` §4).  A view older than the one we hold changes nothing, since answers overtake each other; but an end is
always the last word, whatever its date.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.consents import (
    ARROWS,
    TERMINAL,
    ConsentView,
    OnBehalfOf,
    Status,
    read_on_behalf_of,
    root_of,
    usable,
)
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.dialect import Dialect
from syncworker.store.statements import Answer, Statement, Told, named, run_all
from syncworker.store.tables import audit, connection, consent

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

STATUS_LENGTH: Final = 40
USER_TYPE_LENGTH: Final = 20
PURPOSE_LENGTH: Final = 40

ON_ITS_WAY_MAX: Final = timedelta(minutes=15)
"""No answer is on its way for so long, the wait of a token answer for an absent database included.

A view dated before a move that happened longer ago than this did not miss the move: one of the two dates is wrong, as
where a bank's clock dates what its Hub dates too, and the view is the newer word.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """The consents of one user at one LFI: a chain, and those that go on where its root can be named no more.

    Attributes:
        connection_id: root ConsentId of its first chain.
        user_ref: the product's opaque id of its customer; the root ConsentId when it gave none.
        last_data_at: when data was last received; `None` before the first.
    """

    connection_id: ConsentId
    lfi: Slug
    user_ref: str
    created_at: datetime
    last_data_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredConsent:
    """One consent as we hold it.

    Attributes:
        status: the Hub's word; a value outside `Status` is kept as text.
        status_updated_at: when the Hub says that it moved; `None` when the Hub did not say.
        status_seen_at: when we last heard from the Hub.
        paused_at: ours alone: no calls while set.
        needs_consent: why the user has to consent again; `None` while the grant lives.
        revoke_asked_at: when it was revoked here: no calls from then on, whatever the Hub still says.
        revoke_by: `RevokedBy` of that revocation.
        account_types, account_sub_types: the kinds of account it shows, in its own words; `None`: every kind.
        base_consent_id: root of its chain; `None`: it is the root.
        made_in: the version it was made in, where that is none we speak (v1.1); `version` is the one it is read on.
        ended_at: when we saw its terminal status.
        compared_at: when it was last compared with the Hub as a whole.
        drift: what that comparison could not mend, in words; `None` when nothing.
        webhook_active: its event notifications, as the Hub last showed them; `None` when it never did.
        webhook_wanted: how they are to be; `None` when the Hub has been told.
        raw: `Data` of the consent as last seen.
    """

    consent_id: ConsentId
    connection_id: ConsentId
    lfi: Slug
    user_ref: str
    version: Version
    status: str
    status_updated_at: datetime | None
    status_seen_at: datetime
    permissions: tuple[str, ...]
    expires_at: datetime
    user_type: str
    purpose: str
    created_at: datetime
    from_date: date | None = None
    to_date: date | None = None
    account_types: tuple[str, ...] | None = None
    account_sub_types: tuple[str, ...] | None = None
    on_behalf_of: OnBehalfOf | None = field(default=None, repr=False)
    made_in: str | None = None
    base_consent_id: ConsentId | None = None
    revoked_by: str | None = None
    paused_at: datetime | None = None
    needs_consent: str | None = None
    revoke_asked_at: datetime | None = None
    revoke_by: str | None = None
    ended_at: datetime | None = None
    compared_at: datetime | None = None
    drift: str | None = None
    webhook_active: bool | None = None
    webhook_wanted: bool | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def terminal(self) -> bool:
        """Whether the Hub will never move it again."""
        return self.status in TERMINAL

    @property
    def root(self) -> ConsentId:
        """The root of its chain: what a successor names as `BaseConsentId`."""
        return root_of(self.consent_id, self.base_consent_id)

    @property
    def follows(self) -> bool:
        """Whether it follows another consent of its connection: as a successor, or as the root of a new chain."""
        return self.consent_id != self.connection_id

    def callable_at(self, now: datetime) -> bool:
        """Whether data and tokens may be asked for: Authorized, not past its end, not paused or revoked here, alive."""
        return _callable(self, now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """As much of a consent as says whether it may be called; members as in `StoredConsent`."""

    consent_id: ConsentId
    status: str
    expires_at: datetime
    paused_at: datetime | None
    needs_consent: str | None
    revoke_asked_at: datetime | None

    def callable_at(self, now: datetime) -> bool:
        """As `StoredConsent.callable_at`."""
        return _callable(self, now)


def _callable(one: StoredConsent | Standing, now: datetime) -> bool:
    stopped = (one.paused_at, one.needs_consent, one.revoke_asked_at)
    return usable(one.status, one.expires_at, now=now) and stopped == (None, None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What one look at the Hub changed.

    Attributes:
        surprising: the standard draws no such arrow, or does not know the status.
    """

    consent_id: ConsentId
    connection_id: ConsentId
    lfi: Slug
    before: str
    after: str
    surprising: bool

    @property
    def ended(self) -> bool:
        """Whether the consent reached a terminal status with this move."""
        return self.after in TERMINAL and self.before not in TERMINAL


_USER: Final = (
    sa.select(connection.c.user_ref)
    .where(connection.c.tenant == consent.c.tenant, connection.c.connection_id == consent.c.connection_id)
    .correlate(consent)
    .scalar_subquery()
)
_WITH_USER: Final = sa.select(consent, _USER.label("user_ref"))
"""No join: PostgreSQL might begin with the connections, all of them, for the sake of a few consents."""

_WHOLE: Final = (*(column.name for column in consent.columns), "user_ref")
_ONE: Final = _WITH_USER.where(
    consent.c.tenant == named(consent.c.tenant), consent.c.consent_id == named(consent.c.consent_id)
)
GET: Final = Statement(lambda _: _ONE)
GET_LOCKED: Final = Statement(lambda _: _ONE.with_for_update(of=consent))


def _these(dialect: Dialect) -> sa.Select[Any]:
    return _WITH_USER.where(dialect.among(consent.c.consent_id, "consent_ids", tenant=named(consent.c.tenant)))


GET_MANY: Final = Statement(_these)
GET_FREE: Final = Statement(
    lambda dialect: _these(dialect).order_by(consent.c.consent_id).with_for_update(of=consent, skip_locked=True)
)
"""Those no other transaction holds, locked."""

_SEEN_AGAIN: Final = Statement(
    lambda _: (
        sa.update(consent)
        .where(
            consent.c.tenant == named(consent.c.tenant, "of_tenant"),
            consent.c.consent_id == named(consent.c.consent_id, "of_consent"),
        )
        .values(
            status_updated_at=named(consent.c.status_updated_at, "as_updated_at"),
            status_seen_at=named(consent.c.status_seen_at, "at"),
            raw=named(consent.c.raw, "as_raw"),
        )
    )
)

_STOPPED: Final = sa.or_(consent.c.revoke_asked_at.is_not(None), consent.c.needs_consent.is_not(None))
LIVE_FIRST: Final = (
    sa.case((consent.c.status != Status.Authorized.value, 2), (_STOPPED, 1), else_=0),
    consent.c.created_at.desc(),
    consent.c.consent_id.desc(),
)
"""Order of a connection's consents: the one that data is asked with comes first."""


def live_ids(dialect: Dialect) -> sa.Select[tuple[str]]:
    """The ids of the consents that data is asked with, of the connections `connection_ids`."""
    place = sa.func.row_number().over(partition_by=consent.c.connection_id, order_by=LIVE_FIRST)
    ranked = (
        sa.select(consent.c.consent_id, place.label("place"))
        .where(
            dialect.among(consent.c.connection_id, "connection_ids", tenant=named(consent.c.tenant)),
        )
        .subquery()
    )
    return sa.select(ranked.c.consent_id).where(ranked.c.place == 1)


LIVE: Final = Statement(
    lambda dialect: _WITH_USER.where(
        dialect.one_of(consent.c.consent_id, live_ids(dialect), tenant=named(consent.c.tenant))
    )
)


def _standing(dialect: Dialect) -> sa.Select[Any]:
    return (
        sa.select(*(consent.c[name] for name in Standing.__slots__))
        .where(dialect.among(consent.c.consent_id, "consent_ids", tenant=named(consent.c.tenant)))
        .order_by(consent.c.consent_id)
        .with_for_update(of=consent)
    )


STANDING: Final = Statement(_standing)
"""How some consents stand, kept so until the transaction ends; locked in the order of their ids."""


def _receiving(dialect: Dialect) -> Any:
    kinds = {"connection_id": connection.c.connection_id.type}
    those = dialect.keys("received", kinds, tenant=named(connection.c.tenant, "of_tenant"))
    at = named(connection.c.last_data_at, "at")
    return (
        sa.update(connection)
        .where(
            connection.c.tenant == those.c.tenant,
            connection.c.connection_id == those.c.connection_id,
            sa.or_(connection.c.last_data_at.is_(None), connection.c.last_data_at < at),
        )
        .values(last_data_at=at)
    )


_DATA_RECEIVED: Final = Statement(_receiving)
_NAMED: Final = Statement(
    lambda dialect: sa.select(connection).where(
        dialect.among(connection.c.connection_id, "connection_ids", tenant=named(connection.c.tenant))
    )
)
_NOTES: Final = Statement(
    lambda dialect: (
        sa.select(audit.c.id, audit.c.subject, audit.c.facts)
        .where(
            audit.c.what == named(audit.c.what, "word"),
            dialect.among(audit.c.subject, "subjects", tenant=named(audit.c.tenant)),
        )
        .order_by(audit.c.id)
    )
)


class Consents:
    """The tables `connection`, `consent` and `audit`.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def add_connection(self, row: Connection) -> bool:
        """File a connection; `False` when it is already there, in which case nothing changes."""
        fresh = self._unit.dialect.upsert(connection, ("tenant", "connection_id"), ())
        added = fresh.values(self._connection_values(row)).returning(connection.c.connection_id)
        return await self._unit.connection.scalar(added) is not None

    async def add_connections(self, rows: Sequence[Connection]) -> None:
        """File connections, sorted by id, in one statement; those that are there already do not change."""
        if rows:
            fresh = self._unit.dialect.upsert(connection, ("tenant", "connection_id"), ())
            await self._unit.connection.execute(fresh, [self._connection_values(row) for row in rows])

    async def add(self, row: StoredConsent) -> bool:
        """File a consent whose connection is there; `False` when it is already there: then nothing changes."""
        fresh = self._unit.dialect.upsert(consent, ("tenant", "consent_id"), ())
        added = fresh.values(self._consent_values(row)).returning(consent.c.consent_id)
        if await self._unit.connection.scalar(added) is None:
            return False
        await self._added([row])
        return True

    async def add_new(self, rows: Sequence[StoredConsent]) -> None:
        """File consents nobody holds yet, sorted by id, in one statement.

        Raises:
            StoreRefusedError: one of them is there; the transaction has to be given up.
        """
        if rows:
            await self._unit.connection.execute(sa.insert(consent), [self._consent_values(row) for row in rows])
            await self._added(rows)

    async def get(self, consent_id: ConsentId, *, lock: bool = False) -> StoredConsent | None:
        """One consent; `lock=True` keeps other writers of the row out until the end of this transaction."""
        answer = await (GET_LOCKED if lock else GET).run(self._unit, tenant=self._unit.tenant, consent_id=consent_id)
        return read_consent(answer)

    async def get_many(self, consent_ids: Collection[ConsentId]) -> dict[ConsentId, StoredConsent]:
        """Those of some consents that are held."""
        place = {"tenant": self._unit.tenant, "consent_ids": sorted(set(consent_ids))}
        return {found.consent_id: found for found in read_consents(await GET_MANY.run(self._unit, **place))}

    async def connections_named(self, connection_ids: Collection[ConsentId]) -> dict[ConsentId, Connection]:
        """Those of some connections that are held."""
        place = {"tenant": self._unit.tenant, "connection_ids": sorted(set(connection_ids))}
        rows = (
            dict(zip(connection.c.keys(), row, strict=True)) for row in (await _NAMED.run(self._unit, **place)).rows
        )
        return {found.connection_id: found for found in map(_connection, rows)}

    async def connection(self, connection_id: ConsentId) -> Connection | None:
        """One connection."""
        query = sa.select(connection).where(
            connection.c.tenant == self._unit.tenant, connection.c.connection_id == connection_id
        )
        row = (await self._unit.connection.execute(query)).mappings().first()
        return None if row is None else _connection(row)

    async def connection_of(self, root: ConsentId) -> Connection | None:
        """The connection a chain belongs to: the one its root's consent is filed under, else the one named like it."""
        held = await self.get(root)
        return await self.connection(root if held is None else held.connection_id)

    async def connections(self, *, lfi: Slug | None = None, user_ref: str | None = None) -> Sequence[Connection]:
        """Connections, oldest first."""
        query = sa.select(connection).where(connection.c.tenant == self._unit.tenant)
        if lfi is not None:
            query = query.where(connection.c.lfi == lfi)
        if user_ref is not None:
            query = query.where(connection.c.user_ref == user_ref)
        query = query.order_by(connection.c.created_at, connection.c.connection_id)
        return [_connection(row) for row in (await self._unit.connection.execute(query)).mappings()]

    async def live(self, connection_id: ConsentId) -> StoredConsent | None:
        """The consent of a connection that data is asked with: the newest Authorized one, else the newest.

        One that was revoked here, or whose grant is lost, counts as Authorized only where no other is.
        """
        return read_consent(await LIVE.run(self._unit, tenant=self._unit.tenant, connection_ids=[connection_id]))

    async def chain_locked(self, connection_id: ConsentId, *, closed: bool = False) -> Sequence[StoredConsent]:
        """Every consent of a connection, oldest first, kept from other writers until the end of this transaction.

        Whoever takes several takes them in the order of their ids, so that nobody waits for the other.

        Args:
            closed: let nobody add a consent to the connection either, until then.
        """
        query = self._select().where(consent.c.connection_id == connection_id).order_by(consent.c.consent_id)
        rows = (await self._unit.connection.execute(query.with_for_update(of=consent))).mappings().all()
        if closed:  # a consent that is being added holds its connection by the foreign key: wait for it, and look again
            await self._unit.connection.execute(
                sa.select(connection.c.connection_id)
                .where(connection.c.tenant == self._unit.tenant, connection.c.connection_id == connection_id)
                .with_for_update()
            )
            rows = (await self._unit.connection.execute(query.with_for_update(of=consent))).mappings().all()
        return sorted(map(_stored, rows), key=lambda one: (one.created_at, one.consent_id))

    async def find(
        self,
        *,
        lfi: Slug | None = None,
        status: str | None = None,
        user_ref: str | None = None,
        connection_id: ConsentId | None = None,
        limit: int | None = None,
    ) -> Sequence[StoredConsent]:
        """Consents that match every given filter, oldest first."""
        query = self._select().order_by(consent.c.created_at, consent.c.consent_id)
        for column, wanted in (
            (consent.c.lfi, lfi),
            (consent.c.status, status),
            (consent.c.connection_id, connection_id),
        ):
            if wanted is not None:
                query = query.where(column == wanted)
        if user_ref is not None:
            theirs = sa.select(connection.c.connection_id).where(
                connection.c.tenant == self._unit.tenant, connection.c.user_ref == user_ref
            )
            query = query.where(consent.c.connection_id.in_(theirs))
        if limit is not None:
            query = query.limit(limit)
        return [_stored(row) for row in (await self._unit.connection.execute(query)).mappings()]

    async def overdue(self, *, at: datetime, limit: int) -> list[str]:
        """Consents past their end that nobody has ended yet, in use or revoked here."""
        ends = sa.or_(
            consent.c.status.in_([Status.Authorized.value, Status.Suspended.value]),
            consent.c.revoke_asked_at.is_not(None),
        )
        query = (
            sa.select(consent.c.consent_id)
            .where(
                consent.c.tenant == self._unit.tenant,
                consent.c.status.not_in(sorted(TERMINAL)),
                consent.c.expires_at <= at,
                ends,
            )
            .order_by(consent.c.expires_at)
            .limit(limit)
        )
        return list(await self._unit.connection.scalars(query))

    async def observe(self, view: ConsentView, *, at: datetime) -> Moved | None:
        """Take over what the Hub shows; say what moved, `None` when nothing did.

        A consent we do not hold, and a view whose `StatusUpdateDateTime` is older than the one held, change nothing.
        Nor does a view of the same second that shows a consent alive which has ended: answers overtake each other.
        But nothing comes after an end: a terminal view is followed whatever its date, and an older view that shows a
        consent alive is followed once no answer can be on its way for so long (`ON_ITS_WAY_MAX`).
        A move the standard does not draw, or dated before the one held, is written to `audit` and followed all the
        same.

        Args:
            at: when the Hub was heard.
        """
        held = await self.get(view.consent_id, lock=True)
        if held is None or _overtaken(view, held, at=at):
            return None
        backwards = _older(view, held)
        status = _text(view.status, STATUS_LENGTH)
        seen: dict[str, Any] = {
            "status": status,
            "status_updated_at": _moved_at(view, held),
            "status_seen_at": at,
            "raw": _storable(view.raw),
        }
        if view.permissions:
            seen["permissions"] = list(_storable(view.permissions))
        if view.expires_at is not None:
            seen["expires_at"] = view.expires_at
        seen |= _columns_of(_terms_shown(view))
        if status not in TERMINAL:
            seen["ended_at"] = None
        elif held.ended_at is None:
            seen["ended_at"] = at
        if view.webhook_active is not None:
            seen["webhook_active"] = view.webhook_active
        if view.revoked_by:
            seen["revoked_by"] = _text(str(view.revoked_by), STATUS_LENGTH)
        await self._update(view.consent_id, seen)
        await self._note_changed_terms(held, view, at=at)
        if status == held.status:
            return None
        await self._unit.use.settle([held.connection_id], at=at)
        moved = Moved(
            consent_id=held.consent_id,
            connection_id=held.connection_id,
            lfi=held.lfi,
            before=held.status,
            after=status,
            surprising=backwards or _surprising(held.status, status),
        )
        if moved.surprising:
            await self.note(
                "consent_moved_surprisingly",
                subject=held.consent_id,
                facts={"before": moved.before, "after": moved.after} | ({"dated_before": True} if backwards else {}),
                at=at,
            )
        return moved

    def seen_again(self, held: StoredConsent, view: ConsentView, *, at: datetime) -> bool:
        """File a view that shows nothing but what is held, with the commit; `False`: there is more to it (`observe`).

        Args:
            held: the consent as this transaction has locked it.
        """
        shown = (view.status, sorted(view.permissions or held.permissions), view.expires_at or held.expires_at)
        if shown != (held.status, sorted(held.permissions), held.expires_at) or held.terminal:
            return False
        if _older(view, held) or view.revoked_by or view.webhook_active not in (None, held.webhook_active):
            return False
        if any(_differs(getattr(held, name), shown) for name, shown in _terms_shown(view).items()):
            return False
        values = {"as_updated_at": _moved_at(view, held), "at": at, "as_raw": _storable(view.raw)}
        place = {"of_tenant": self._unit.tenant, "of_consent": held.consent_id}
        self._unit.with_commit([(_SEEN_AGAIN, place | values)])
        return True

    async def set_needs_consent(self, consent_id: ConsentId, cause: str | None) -> None:
        """Say why the user has to consent again; `None` when the grant proved alive after all."""
        await self._update(consent_id, {"needs_consent": cause})

    async def expire(self, consent_id: ConsentId, *, at: datetime) -> None:
        """Our own word that a consent is past its `ExpirationDateTime` while the Hub's status lags (trap 16).

        The status is dated at the consent's end, so that a view from before the end cannot undo it.
        """
        await self._update(
            consent_id,
            {
                "status": Status.Expired.value,
                "status_updated_at": consent.c.expires_at,
                "status_seen_at": at,
                "ended_at": at,
            },
        )
        await self._settle(consent_id, at=at)

    async def end_unknown(self, consent_id: ConsentId, *, at: datetime) -> None:
        """Our own word that a consent revoked here has ended: the Hub does not know it.

        It keeps the date of its last status, so that whatever the Hub should show of it after all is followed.
        """
        values = {"status": Status.Revoked.value, "revoked_by": consent.c.revoke_by, "ended_at": at}
        await self._update(consent_id, values)
        await self._settle(consent_id, at=at)

    async def set_paused(self, consent_id: ConsentId, at: datetime | None) -> None:
        """Our own pause, since when; `None` ends it."""
        await self._update(consent_id, {"paused_at": at})

    async def order_revocation(self, consent_id: ConsentId, *, by: str, at: datetime) -> None:
        """Revoked here: no calls from now on; the Hub has to be told."""
        await self._update(consent_id, {"revoke_asked_at": at, "revoke_by": by})
        await self._settle(consent_id, at=at)

    async def want_webhook(self, consent_id: ConsentId, *, active: bool) -> None:
        """Its event notifications are to be switched; the Hub has to be told."""
        await self._update(consent_id, {"webhook_wanted": active})

    async def webhook_told(self, consent_id: ConsentId, *, active: bool) -> bool:
        """The Hub was told of that switch; `False` when another one is wanted by now."""
        told = await self._unit.connection.execute(
            sa.update(consent)
            .where(
                consent.c.tenant == self._unit.tenant,
                consent.c.consent_id == consent_id,
                consent.c.webhook_wanted.is_(active),
            )
            .values(webhook_wanted=None, webhook_active=active)
        )
        return told.rowcount == 1

    async def compared(self, consent_id: ConsentId, *, drift: str | None, at: datetime) -> None:
        """It was compared with the Hub; what is left of a difference, in words."""
        await self._update(consent_id, {"compared_at": at, "drift": drift})

    async def data_received(self, connection_id: ConsentId, *, at: datetime) -> None:
        """Move the connection's date of last data received; never back."""
        await run_all(self._unit, [self.receiving([connection_id], at=at)])

    def receiving(self, connection_ids: Sequence[ConsentId], *, at: datetime) -> Told:
        """`data_received` for many, to be sent with others."""
        those = self._unit.dialect.rows([{"connection_id": one} for one in connection_ids])
        return _DATA_RECEIVED, {"of_tenant": self._unit.tenant, "at": at, "received": those}

    async def note(self, what: str, *, subject: str, facts: Mapping[str, Any], at: datetime) -> None:
        """Append to `audit`: a constant word, the id it is about, ids and codes as facts."""
        await self._unit.connection.execute(
            sa.insert(audit).values(
                tenant=self._unit.tenant, at=at, what=what, subject=subject, facts=_storable(dict(facts))
            )
        )

    async def note_many(self, what: str, notes: Sequence[tuple[str, Mapping[str, Any]]], *, at: datetime) -> None:
        """`note`, for many subjects with their facts."""
        if notes:
            rows = [
                {"tenant": self._unit.tenant, "at": at, "what": what, "subject": subject, "facts": _storable(facts)}
                for subject, facts in notes
            ]
            await self._unit.connection.execute(sa.insert(audit), rows)

    async def newest_notes(self, what: str, *, subjects: Collection[str]) -> dict[str, Mapping[str, Any]]:
        """The facts of the newest note of that word about each subject that has one."""
        if not subjects:
            return {}
        place = {"tenant": self._unit.tenant, "word": what, "subjects": sorted(set(subjects))}
        return {subject: facts for _, subject, facts in (await _NOTES.run(self._unit, **place)).rows}

    async def notes(self, *, subject: str | None = None, what: str | None = None) -> Sequence[Mapping[str, Any]]:
        """The audit's rows, oldest first: `at`, `what`, `subject`, `facts`."""
        query = (
            sa.select(audit.c.at, audit.c.what, audit.c.subject, audit.c.facts)
            .where(audit.c.tenant == self._unit.tenant)
            .order_by(audit.c.id)
        )
        if subject is not None:
            query = query.where(audit.c.subject == subject)
        if what is not None:
            query = query.where(audit.c.what == what)
        return [dict(row) for row in (await self._unit.connection.execute(query)).mappings()]

    def _connection_values(self, row: Connection) -> dict[str, Any]:
        return {
            "tenant": self._unit.tenant,
            "connection_id": row.connection_id,
            "lfi": row.lfi,
            "user_ref": row.user_ref,
            "created_at": row.created_at,
            "last_data_at": row.last_data_at,
        }

    def _consent_values(self, row: StoredConsent) -> dict[str, Any]:
        return {
            "tenant": self._unit.tenant,
            "consent_id": row.consent_id,
            "connection_id": row.connection_id,
            "lfi": row.lfi,
            "version": row.version.value,
            "status": _text(row.status, STATUS_LENGTH),
            "status_updated_at": row.status_updated_at,
            "status_seen_at": row.status_seen_at,
            "permissions": list(row.permissions),
            "expires_at": row.expires_at,
            "from_date": row.from_date,
            "to_date": row.to_date,
            "account_types": _listed(row.account_types),
            "account_sub_types": _listed(row.account_sub_types),
            "on_behalf_of": row.on_behalf_of and _storable(row.on_behalf_of.written()),
            "made_in": row.made_in,
            "base_consent_id": row.base_consent_id,
            "revoked_by": row.revoked_by and _text(row.revoked_by, STATUS_LENGTH),
            "paused_at": row.paused_at,
            "needs_consent": row.needs_consent,
            "webhook_active": row.webhook_active,
            "user_type": _text(row.user_type, USER_TYPE_LENGTH),
            "purpose": _text(row.purpose, PURPOSE_LENGTH),
            "created_at": row.created_at,
            "raw": _storable(row.raw),
        }

    def _select(self) -> sa.Select[Any]:
        return _WITH_USER.where(consent.c.tenant == self._unit.tenant)

    async def _update(self, consent_id: ConsentId, values: Mapping[str, Any]) -> None:
        await self._unit.connection.execute(
            sa.update(consent)
            .where(consent.c.tenant == self._unit.tenant, consent.c.consent_id == consent_id)
            .values(**values)
        )

    async def _settle(self, consent_id: ConsentId, *, at: datetime) -> None:
        """A consent's use has ended: its connection's may have."""
        held = await self.get(consent_id)
        if held is not None:
            await self._unit.use.settle([held.connection_id], at=at)

    async def _added(self, rows: Sequence[StoredConsent]) -> None:
        """Consents were added that may be in use, to connections that may have ended; a new connection has not."""
        older = {row.connection_id for row in rows if row.follows and row.status != Status.AwaitingAuthorization}
        ended = {row.connection_id for row in rows if row.terminal}
        if older or ended:
            await self._unit.use.settle(older | ended, at=await self._unit.now())

    async def _note_changed_terms(self, held: StoredConsent, view: ConsentView, *, at: datetime) -> None:
        """Terms are immutable after staging: a change is worth a line.  What we did not know is no change."""
        changed = [
            name
            for name, before, after in (
                ("Permissions", sorted(held.permissions), sorted(view.permissions)),
                ("ExpirationDateTime", held.expires_at, view.expires_at),
            )
            if after and after != before
        ]
        changed += [name for name, _, _ in terms_changed(held, view)]
        if changed:
            await self.note("consent_terms_changed", subject=held.consent_id, facts={"members": changed}, at=at)


TERMS: Final = {
    "from_date": "FromDate",
    "to_date": "ToDate",
    "account_types": "AccountType",
    "account_sub_types": "AccountSubType",
    "on_behalf_of": "OnBehalfOf",
    "user_type": "UserType",
    "purpose": "Purpose",
}
"""Terms that a view may leave out: our name of each → the standard's."""


def _terms_shown(view: ConsentView) -> dict[str, Any]:
    """Those of `TERMS` that a view shows, as a consent that was read from its row would have them."""
    shown = ((name, _as_held(name, getattr(view, name))) for name in TERMS)
    return {name: term for name, term in shown if term is not None}


def terms_changed(held: StoredConsent, view: ConsentView) -> list[tuple[str, str, str]]:
    """Terms of which a view shows another value than is held: the standard's name, what is held, what is shown.

    A term nothing was known of is not among them.  Of `OnBehalfOf` only that it changed is said.
    """
    return [
        (TERMS[name], _said(known), _said(shown))
        for name, shown in _terms_shown(view).items()
        if (known := getattr(held, name)) and _differs(known, shown)
    ]


def _said(term: Any) -> str:
    if isinstance(term, OnBehalfOf):
        return "another"
    return ",".join(term) if isinstance(term, tuple) else str(term)


def _as_held(name: str, term: Any) -> Any:
    match term:
        case str():
            return _text(term, USER_TYPE_LENGTH if name == "user_type" else PURPOSE_LENGTH)
        case tuple():
            return tuple(_storable(term))
        case OnBehalfOf():
            return read_on_behalf_of(_storable(term.written()))
    return term


def _differs(held: Any, shown: Any) -> bool:
    """Whether a term is another than the one held; the order of a list means nothing."""
    if isinstance(held, tuple) and isinstance(shown, tuple):
        return sorted(held) != sorted(shown)
    return bool(held != shown)


def _columns_of(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Terms as their columns hold them."""
    return {name: term.written() if isinstance(term, OnBehalfOf) else term for name, term in terms.items()} | {
        name: _listed(term) for name, term in terms.items() if isinstance(term, tuple)
    }


def _listed(words: Sequence[str] | None) -> list[str] | None:
    return None if words is None else list(_storable(words))


def _tuple(words: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if words is None else tuple(words)


def _surprising(before: str, after: str) -> bool:
    known = set(Status)
    return before not in known or after not in known or Status(after) not in ARROWS.get(Status(before), frozenset())


def _older(view: ConsentView, held: StoredConsent) -> bool:
    """Whether a view is dated before the one held.  The Hub's instants are of whole seconds."""
    seen, known = view.status_updated_at, held.status_updated_at
    return seen is not None and known is not None and seen < known


def _overtaken(view: ConsentView, held: StoredConsent, *, at: datetime) -> bool:
    """Whether a view shows what was before the one held, so that nothing follows from it."""
    if held.terminal and view.status not in TERMINAL:
        return _older(view, held) or (
            view.status_updated_at is not None and view.status_updated_at == held.status_updated_at
        )
    if not _older(view, held) or (view.status in TERMINAL and not held.terminal):
        return False
    assert held.status_updated_at is not None  # else nothing is older
    known = min(held.status_updated_at, held.status_seen_at)  # a date ahead of us counts from when we heard it
    return held.terminal or at - known <= ON_ITS_WAY_MAX


def _moved_at(view: ConsentView, held: StoredConsent) -> datetime | None:
    """The date of a view's status.  An end keeps a later date held: no view of before that date can undo it."""
    seen, known = view.status_updated_at, held.status_updated_at
    if seen is None or known is None:
        return seen or known
    return max(seen, known) if view.status in TERMINAL else seen


def _connection(row: Mapping[Any, Any]) -> Connection:
    return Connection(
        connection_id=ConsentId(row["connection_id"]),
        lfi=Slug(row["lfi"]),
        user_ref=row["user_ref"],
        created_at=row["created_at"],
        last_data_at=row["last_data_at"],
    )


def read_consent(answer: Answer) -> StoredConsent | None:
    """What `GET`, `GET_LOCKED` or `LIVE` gave of one."""
    return next(iter(read_consents(answer)), None)


def read_consents(answer: Answer) -> list[StoredConsent]:
    """What `LIVE`, `GET_MANY` or `GET_FREE` gave."""
    return [_stored(dict(zip(_WHOLE, row, strict=True))) for row in answer.rows]


def _stored(row: Mapping[Any, Any]) -> StoredConsent:
    return StoredConsent(
        consent_id=ConsentId(row["consent_id"]),
        connection_id=ConsentId(row["connection_id"]),
        lfi=Slug(row["lfi"]),
        user_ref=row["user_ref"],
        version=Version(row["version"]),
        status=row["status"],
        status_updated_at=row["status_updated_at"],
        status_seen_at=row["status_seen_at"],
        permissions=tuple(row["permissions"]),
        expires_at=row["expires_at"],
        user_type=row["user_type"],
        purpose=row["purpose"],
        created_at=row["created_at"],
        from_date=row["from_date"],
        to_date=row["to_date"],
        account_types=_tuple(row["account_types"]),
        account_sub_types=_tuple(row["account_sub_types"]),
        on_behalf_of=read_on_behalf_of(row["on_behalf_of"]),
        made_in=row["made_in"],
        base_consent_id=row["base_consent_id"] and ConsentId(row["base_consent_id"]),
        revoked_by=row["revoked_by"],
        paused_at=row["paused_at"],
        needs_consent=row["needs_consent"],
        revoke_asked_at=row["revoke_asked_at"],
        revoke_by=row["revoke_by"],
        ended_at=row["ended_at"],
        compared_at=row["compared_at"],
        drift=row["drift"],
        webhook_active=row["webhook_active"],
        webhook_wanted=row["webhook_wanted"],
        raw=row["raw"] or {},
    )


def _text(text: str, length: int) -> str:
    """Text both databases take: no NUL, no lone surrogate, no longer than its column."""
    return text.encode(errors="replace").decode().replace("\x00", "�")[:length]


def _storable(value: Any) -> Any:
    """The same JSON, in what both databases can hold.

    A consent comes with each token answer and is filed in the same transaction: nothing a bank writes into it may
    keep a new token from being stored.
    """
    match value:
        case str():
            return _text(value, len(value))
        case Mapping():
            return {_text(str(name), len(str(name))): _storable(member) for name, member in value.items()}
        case list() | tuple():
            return [_storable(member) for member in value]
        case None | bool() | int():
            return value
        case float():
            return value if value - value == 0 else str(value)  # neither NaN nor an infinity
        case _:
            return json.loads(json.dumps(value, default=str))
