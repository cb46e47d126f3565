"""The read model of the consent-management screens: what a user is shown about each connection.

A connection is shown by one consent of its chain (`_RANK`: one in use before one that waits, before one that has ended,
the newest of equals); the others are its lineage.  The label is computed by the database, so that filtering by it,
paging through it and showing it cannot disagree.  Nothing here writes.

Source: `domain.md` §4.5 [CS:CMI].
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.consents import TERMINAL, OnBehalfOf, Status, read_on_behalf_of
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.statements import Statement, named
from syncworker.store.tables import account, connection, consent, lfi

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork


class Label(StrEnum):
    """What a user reads for a state; a status the standard does not know is shown as it is."""

    ACTIVE = "Active"
    PENDING = "Pending"
    SUSPENDED = "Suspended"
    PAUSED = "Paused"
    CANCELLED = "Cancelled"
    """Revoked, also while the Hub has yet to hear of it."""
    REJECTED = "Rejected"
    EXPIRED = "Expired"
    CONSUMED = "Consumed"


class Tab(StrEnum):
    """Where a connection is listed."""

    CURRENT = "Current"
    HISTORY = "History"


class Action(StrEnum):
    """What a user may do to a connection."""

    PAUSE = "pause"
    REACTIVATE = "reactivate"
    STOP = "stop"
    RENEW = "renew"


HISTORY: Final = frozenset({Label.CANCELLED, Label.REJECTED, Label.EXPIRED, Label.CONSUMED})

ACTIONS: Final[Mapping[str, tuple[Action, ...]]] = {
    Label.ACTIVE: (Action.PAUSE, Action.STOP, Action.RENEW),
    Label.PENDING: (Action.STOP,),
    Label.SUSPENDED: (Action.STOP, Action.RENEW),
    Label.PAUSED: (Action.REACTIVATE, Action.STOP, Action.RENEW),
    Label.CANCELLED: (Action.RENEW,),
    Label.EXPIRED: (Action.RENEW,),
    Label.REJECTED: (Action.RENEW,),
}

_UNMASKED: Final = 4
"""Characters of an IBAN shown at either end."""

_IBAN_LENGTH_MIN: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentShown:
    """One consent as a user is shown it.

    Attributes:
        status: the Hub's word.
        label: ours (`Label`), or the status where the standard does not know it.
        needs_consent: why the user has to consent again; `None` while the grant lives.
        revoke_asked_at: revoked here; `status` follows when the Hub has it.
    """

    consent_id: ConsentId
    connection_id: ConsentId
    base_consent_id: ConsentId | None
    version: str
    status: str
    label: str
    status_updated_at: datetime | None
    permissions: tuple[str, ...]
    purpose: str
    user_type: str
    from_date: date | None
    to_date: date | None
    account_types: tuple[str, ...] | None
    account_sub_types: tuple[str, ...] | None
    on_behalf_of: OnBehalfOf | None
    created_at: datetime
    expires_at: datetime
    paused_at: datetime | None
    needs_consent: str | None
    revoke_asked_at: datetime | None
    revoked_by: str | None
    ended_at: datetime | None

    @property
    def tab(self) -> Tab:
        return Tab.HISTORY if self.label in HISTORY else Tab.CURRENT

    @property
    def actions(self) -> tuple[Action, ...]:
        if self.label == Label.REJECTED and self.consent_id == self.connection_id:
            return ()  # nobody ever agreed: there is nothing to renew
        return ACTIONS.get(self.label, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionShown:
    """One connection as a user is shown it.

    Attributes:
        lfi_name: what customers call the LFI, from the directory; its slug where that does not say.
        last_data_at: date of last data received; `None` before the first.
        accounts: how many are connected.
        consent: the one of the chain it is shown by.
    """

    connection_id: ConsentId
    lfi: Slug
    lfi_name: str
    user_ref: str
    created_at: datetime
    last_data_at: datetime | None
    accounts: int
    consent: ConsentShown


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountShown:
    """One connected account.

    Attributes:
        account_id: ours; `None`: it has none yet.
        lfi_account_id: the LFI's `AccountId`.
        iban: masked unless the whole of it was asked for; `None` when the LFI does not show one.
    """

    account_id: str | None
    lfi_account_id: str
    account_type: str | None
    account_sub_type: str | None
    currency: str | None
    status: str | None
    nickname: str | None = field(repr=False)
    iban: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended: the next one begins behind it."""

    created_at: datetime
    connection_id: str


_ACCOUNTS: Final = Statement(
    lambda dialect: (
        sa.select(account.c.connection_id, sa.func.count())
        .where(
            dialect.among(account.c.connection_id, "connection_ids", tenant=named(account.c.tenant)),
            account.c.gone_at.is_(None),
        )
        .group_by(account.c.connection_id)
    )
)


class Connections:
    """Reads connections of one tenant, for users' eyes."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def page(
        self,
        *,
        user_ref: str | None = None,
        lfi_slug: Slug | None = None,
        label: str | None = None,
        tab: Tab | None = None,
        after: Place | None = None,
        limit: int = 50,
    ) -> Sequence[ConnectionShown]:
        """Connections that match every given filter, newest first."""
        wanted = []
        if user_ref is not None:
            wanted.append(connection.c.user_ref == user_ref)
        if lfi_slug is not None:
            wanted.append(connection.c.lfi == lfi_slug)
        if after is not None:
            at = sa.literal(after.created_at, connection.c.created_at.type)
            same = sa.and_(connection.c.created_at == at, connection.c.connection_id < after.connection_id)
            wanted.append(sa.or_(connection.c.created_at < at, same))
        shown = self._shown(*wanted)
        query = sa.select(shown).where(shown.c.place == 1)
        if label is not None:
            query = query.where(shown.c.label == label)
        if tab is not None:
            ended = shown.c.label.in_(sorted(HISTORY))
            query = query.where(ended if tab is Tab.HISTORY else sa.not_(ended))
        query = query.order_by(shown.c.connected_at.desc(), shown.c.connection_id.desc()).limit(limit)
        rows = (await self._unit.connection.execute(query)).mappings().all()
        counts = await self._accounts([row["connection_id"] for row in rows])
        return [_connection(row, counts.get(row["connection_id"], 0)) for row in rows]

    async def get(self, connection_id: ConsentId) -> tuple[ConnectionShown, Sequence[ConsentShown]] | None:
        """One connection and its lineage, oldest consent first; `None` when it is not held."""
        shown = self._shown(connection.c.connection_id == connection_id)
        query = sa.select(shown).order_by(shown.c.created_at, shown.c.consent_id)
        rows = (await self._unit.connection.execute(query)).mappings().all()
        if not rows:
            return None
        counts = await self._accounts([connection_id])
        by = next(row for row in rows if row["place"] == 1)
        return _connection(by, counts.get(connection_id, 0)), [_consent(row) for row in rows]

    async def accounts(self, of: ConnectionShown, *, whole_ibans: bool = False) -> Sequence[AccountShown]:
        """The connected accounts of a connection, by the LFI's id.

        What is kept of one that has ended is restricted: its IBANs are masked for every key.
        """
        whole_ibans = whole_ibans and of.consent.tab is Tab.CURRENT
        references = await self._unit.account_references.of_connections([of.connection_id])
        names = {str(one.lfi_account_id): one.account_id for one in references}
        rows = self._unit.records.all_rows(of.connection_id, resources=(ResourceName.ACCOUNTS,))
        found = []
        async for row in rows:
            iban = _iban(row.item)
            found.append(
                AccountShown(
                    account_id=names.get(row.account),
                    lfi_account_id=row.account,
                    account_type=row.columns["account_type"],
                    account_sub_type=row.columns["account_sub_type"],
                    currency=row.columns["currency"],
                    status=row.columns["status"],
                    nickname=row.columns["nickname"],
                    iban=iban if whole_ibans or iban is None else masked_iban(iban),
                )
            )
        return sorted(found, key=lambda one: one.lfi_account_id)

    async def _accounts(self, connection_ids: Collection[str]) -> dict[str, int]:
        place = {"tenant": self._unit.tenant, "connection_ids": sorted(set(connection_ids))}
        return dict((await _ACCOUNTS.run(self._unit, **place)).rows)

    def _shown(self, *wanted: sa.ColumnElement[bool]) -> sa.Subquery:
        """Every consent of the wanted connections with its label; `place` 1 is the one its connection is shown by."""
        label = _label(self._unit.dialect.now())
        order = (_RANK, consent.c.created_at.desc(), consent.c.consent_id.desc())
        place = sa.func.row_number().over(partition_by=consent.c.connection_id, order_by=order)
        return (
            sa.select(
                consent,
                connection.c.user_ref,
                connection.c.created_at.label("connected_at"),
                connection.c.last_data_at,
                lfi.c.directory,
                label.label("label"),
                place.label("place"),
            )
            .join(
                connection,
                sa.and_(connection.c.tenant == consent.c.tenant, connection.c.connection_id == consent.c.connection_id),
            )
            .join(lfi, sa.and_(lfi.c.tenant == consent.c.tenant, lfi.c.slug == consent.c.lfi), isouter=True)
            .where(consent.c.tenant == self._unit.tenant, *wanted)
            .subquery()
        )


def masked_iban(iban: str) -> str:
    """`AE07***************3456`; one too short to be an IBAN is masked wholly."""
    if len(iban) < _IBAN_LENGTH_MIN:
        return "*" * len(iban)
    return iban[:_UNMASKED] + "*" * (len(iban) - 2 * _UNMASKED) + iban[-_UNMASKED:]


_ENDED: Final = sorted(one.value for one in TERMINAL)

_RANK: Final = sa.case(
    (sa.or_(consent.c.status.in_(_ENDED), consent.c.revoke_asked_at.is_not(None)), 4),
    (consent.c.status == Status.Authorized.value, 0),
    (consent.c.status == Status.Suspended.value, 1),
    (consent.c.status == Status.AwaitingAuthorization.value, 2),
    else_=3,
)


def _label(now: sa.ColumnElement[datetime]) -> sa.ColumnElement[str]:
    """The label of a consent: what ended it first, then what stops it here, then the Hub's word.

    A consent past its end has expired, whatever the Hub still says (trap 16).
    """
    status = consent.c.status
    overdue = sa.and_(status.in_([Status.Authorized.value, Status.Suspended.value]), consent.c.expires_at <= now)
    paused = sa.and_(status == Status.Authorized.value, consent.c.paused_at.is_not(None))
    return sa.case(
        (status == Status.Revoked.value, Label.CANCELLED.value),
        (status.in_(_ENDED), status),
        (consent.c.revoke_asked_at.is_not(None), Label.CANCELLED.value),
        (overdue, Label.EXPIRED.value),
        (paused, Label.PAUSED.value),
        (status == Status.Authorized.value, Label.ACTIVE.value),
        (status == Status.AwaitingAuthorization.value, Label.PENDING.value),
        else_=status,
    )


def _connection(row: Mapping[Any, Any], accounts: int) -> ConnectionShown:
    said = row["directory"]
    return ConnectionShown(
        connection_id=ConsentId(row["connection_id"]),
        lfi=Slug(row["lfi"]),
        lfi_name=str((said or {}).get("name") or row["lfi"]),
        user_ref=row["user_ref"],
        created_at=row["connected_at"],
        last_data_at=row["last_data_at"],
        accounts=accounts,
        consent=_consent(row),
    )


def _consent(row: Mapping[Any, Any]) -> ConsentShown:
    return ConsentShown(
        consent_id=ConsentId(row["consent_id"]),
        connection_id=ConsentId(row["connection_id"]),
        base_consent_id=row["base_consent_id"] and ConsentId(row["base_consent_id"]),
        version=row["version"],
        status=row["status"],
        label=row["label"],
        status_updated_at=row["status_updated_at"],
        permissions=tuple(row["permissions"]),
        purpose=row["purpose"],
        user_type=row["user_type"],
        from_date=row["from_date"],
        to_date=row["to_date"],
        account_types=row["account_types"] and tuple(row["account_types"]),
        account_sub_types=row["account_sub_types"] and tuple(row["account_sub_types"]),
        on_behalf_of=read_on_behalf_of(row["on_behalf_of"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        paused_at=row["paused_at"],
        needs_consent=row["needs_consent"],
        revoke_asked_at=row["revoke_asked_at"],
        revoked_by=row["revoked_by"],
        ended_at=row["ended_at"],
    )


def _iban(item: bytes) -> str | None:
    """The IBAN an account's item shows; `None` when there is none."""
    shown = json.loads(item).get("AccountIdentifiers")
    for one in shown if isinstance(shown, list) else ():
        if isinstance(one, dict) and one.get("SchemeName") == "IBAN" and isinstance(one.get("Identification"), str):
            return str(one["Identification"]).replace(" ", "").encode(errors="replace").decode()  # half a pair, sent so
    return None
