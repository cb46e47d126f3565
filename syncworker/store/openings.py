"""Account-opening requests: what we sent, what the LFI made of it, and every state in between.

The body sent and what the LFI says about the person and the new account lie sealed; states, ids and codes lie open.
A view older than the one held changes nothing, and nothing leaves an end (`domain.md` §8.3).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.consents import OnBehalfOf, Purpose, UserType, read_on_behalf_of
from syncworker.standard.openings import ENDED, OpeningState, OpeningVersion, OpeningView
from syncworker.standard.values import AccountId, ConsentId, Slug
from syncworker.store.tables import authorization_intent, opening, opening_history

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

STATUS_LENGTH: Final = 60
ERROR_LENGTH: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareWish:
    """The data-sharing consent somebody wants once the account is there.

    Attributes:
        days: how long the consent shall live, counted from when the user is asked.
        user_type … on_behalf_of: as of `ConsentRequest`.
    """

    permissions: tuple[str, ...]
    days: int
    user_type: UserType = UserType.Retail
    purpose: Purpose = Purpose.AccountAggregation
    account_types: tuple[str, ...] | None = None
    account_sub_types: tuple[str, ...] | None = None
    on_behalf_of: OnBehalfOf | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOpening:
    """One account opening, without what lies sealed.

    Attributes:
        opening_id: ours; the LFI's is `account_id`, `None` until an answer named it.
        status: the LFI's word, as sent; `state` is the same for all versions.
        state_since: when we saw it enter its state.
        heard_at: when the LFI last answered about it.
        overdue_at: since when it is longer in its state than it should be.
        http_status: of the answer to the POST; `None` when there was none.
        error: why it is unknown or refused.
        webhook_active: whether events are on; `None`: never asked for.
        intent_id: the authorisation intended for the opened account; whoever knows it may open it, so it is not logged.
        consent_id: the data-sharing consent begun for the opened account: of the request pushed last.
    """

    opening_id: str
    lfi: Slug
    version: OpeningVersion
    user_ref: str
    state: OpeningState
    state_since: datetime
    created_at: datetime
    account_id: AccountId | None = None
    status: str | None = None
    status_updated_at: datetime | None = None
    heard_at: datetime | None = None
    overdue_at: datetime | None = None
    ended_at: datetime | None = None
    http_status: int | None = None
    error: str | None = None
    webhook_active: bool | None = None
    share: ShareWish | None = None
    intent_id: str | None = field(default=None, repr=False)
    consent_id: ConsentId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningContents:
    """What lies sealed beside an opening; `None` where nothing is, or it was destroyed.

    Attributes:
        request: the JSON body sent.
        raw: `Data` as last seen.
    """

    request: bytes | None = field(default=None, repr=False)
    raw: Mapping[str, Any] | None = field(default=None, repr=False)
    information: str | None = field(default=None, repr=False)
    redirect_url: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningMoved:
    """One line of an opening's history.

    Attributes:
        source: who said so: `ours`, `answer` (to the POST), `poll` or `person`.
    """

    at: datetime
    state: OpeningState
    status: str | None
    status_updated_at: datetime | None
    source: str
    error: str | None


_SEALED: Final = tuple(one.name for one in fields(OpeningContents))
_PLAIN: Final = tuple(one.name for one in fields(StoredOpening))


class Openings:
    """The tables `opening` and `opening_history`.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def add(self, row: StoredOpening, *, request: bytes) -> None:
        """File a request that is about to be sent, its body sealed."""
        values = {name: getattr(row, name) for name in _PLAIN} | {
            "tenant": self._unit.tenant,
            "version": row.version.value,
            "state": row.state.value,
            "share": _written(row.share),
            "request": self._seal("request", row.opening_id, request),
        }
        await self._unit.connection.execute(sa.insert(opening).values(values))
        await self._remember(row.opening_id, row.state, at=row.created_at, source="ours")

    async def get(self, opening_id: str, *, lock: bool = False) -> StoredOpening | None:
        """One opening; `lock=True` keeps other writers of the row out until the end of this transaction."""
        query = self._select().where(opening.c.opening_id == opening_id)
        if lock:
            query = query.with_for_update()
        row = (await self._unit.connection.execute(query)).mappings().first()
        return None if row is None else _stored(row)

    async def find(
        self,
        *,
        lfi: Slug | None = None,
        state: OpeningState | None = None,
        user_ref: str | None = None,
        account_id: str | None = None,
    ) -> Sequence[StoredOpening]:
        """Openings that match every given filter, oldest first."""
        query = self._select().order_by(opening.c.created_at, opening.c.opening_id)
        for column, wanted in (
            (opening.c.lfi, lfi),
            (opening.c.state, state and state.value),
            (opening.c.user_ref, user_ref),
            (opening.c.account_id, account_id),
        ):
            if wanted is not None:
                query = query.where(column == wanted)
        return [_stored(row) for row in (await self._unit.connection.execute(query)).mappings()]

    async def troubled(self) -> Sequence[StoredOpening]:
        """Those a person should look at, unknown or overdue, oldest first."""
        stuck = sa.or_(opening.c.state == OpeningState.UNKNOWN.value, opening.c.overdue_at.is_not(None))
        query = self._select().where(stuck).order_by(opening.c.created_at, opening.c.opening_id)
        return [_stored(row) for row in (await self._unit.connection.execute(query)).mappings()]

    async def contents(self, opening_id: str) -> OpeningContents:
        """What lies sealed beside an opening.

        Raises:
            SealError: it does not open with this key ring.
        """
        query = sa.select(*(opening.c[name] for name in _SEALED)).where(self._is(opening_id))
        row = (await self._unit.connection.execute(query)).mappings().first()
        if row is None:
            return OpeningContents()
        opened = {name: self._open(name, opening_id, row[name]) for name in _SEALED}
        raw, information, redirect_url = (opened[name] for name in ("raw", "information", "redirect_url"))
        return OpeningContents(
            request=opened["request"],
            raw=None if raw is None else json.loads(raw),
            information=None if information is None else information.decode(),
            redirect_url=None if redirect_url is None else redirect_url.decode(),
        )

    async def history(self, opening_id: str) -> Sequence[OpeningMoved]:
        """Every state it was seen in, oldest first."""
        query = (
            sa.select(opening_history)
            .where(opening_history.c.tenant == self._unit.tenant, opening_history.c.opening_id == opening_id)
            .order_by(opening_history.c.id)
        )
        return [
            OpeningMoved(
                at=row["at"],
                state=OpeningState(row["state"]),
                status=row["status"],
                status_updated_at=row["status_updated_at"],
                source=row["source"],
                error=row["error"],
            )
            for row in (await self._unit.connection.execute(query)).mappings()
        ]

    async def observe(
        self, opening_id: str, view: OpeningView, *, at: datetime, source: str, http_status: int | None = None
    ) -> StoredOpening | None:
        """Take over what the LFI shows; the opening as it stands now if its state or status moved, else `None`.

        Nothing leaves an end.  A view whose `OpeningStatusUpdateDateTime` is older than the one held moves nothing;
        one of the same instant is a later answer to a later question, and counts.

        Args:
            at: when the LFI was heard.
            http_status: of the answer to the POST, when this is that answer.
        """
        held = await self.get(opening_id, lock=True)
        if held is None or held.state in ENDED:
            return None
        if _older(view.status_updated_at, held.status_updated_at):
            await self._update(opening_id, {"heard_at": at})  # heard all the same: it is not asked again at once
            return None
        status = view.status and _text(view.status)
        moved = (held.state, held.status) != (view.state, status)
        seen: dict[str, Any] = {
            "account_id": view.account_id,
            "heard_at": at,
            "status_updated_at": view.status_updated_at or held.status_updated_at,
            "raw": self._seal("raw", opening_id, json.dumps(view.raw).encode()),
            "information": self._seal("information", opening_id, (view.information or "").encode() or None),
        }
        if view.redirect_url:
            seen["redirect_url"] = self._seal("redirect_url", opening_id, view.redirect_url.encode())
        if http_status is not None:
            seen["http_status"] = http_status
        if moved:
            seen |= self._entered(view.state, at=at) | {"status": status, "error": None}
        await self._update(opening_id, seen)
        if not moved:
            return None
        await self._remember(
            opening_id, view.state, at=at, source=source, status=status, status_updated_at=view.status_updated_at
        )
        return await self.get(opening_id)

    async def move(
        self,
        opening_id: str,
        state: OpeningState,
        *,
        at: datetime,
        source: str,
        error: str | None = None,
        http_status: int | None = None,
        information: str = "",
    ) -> bool:
        """Put an opening the LFI has said nothing about into a state of ours; `False` when it is past that.

        Args:
            information: the LFI's words about a refusal, cleaned; sealed, and destroyed with the contents.
        """
        held = await self.get(opening_id, lock=True)
        if held is None or held.state not in (OpeningState.SENDING, OpeningState.UNKNOWN):
            return False
        error = error and error[:ERROR_LENGTH]
        moved = self._entered(state, at=at) | {"error": error, "http_status": http_status or held.http_status}
        if information:
            moved["information"] = self._seal("information", opening_id, information.encode())
        await self._update(opening_id, moved)
        await self._remember(opening_id, state, at=at, source=source, error=error)
        return True

    async def set_overdue(self, opening_id: str, *, at: datetime | None) -> None:
        """It is longer in its state than it should be; the next move takes that back, and so does `None`."""
        await self._update(opening_id, {"overdue_at": at})

    async def set_webhook(self, opening_id: str, *, active: bool) -> None:
        """Whether the LFI sends events about it."""
        await self._update(opening_id, {"webhook_active": active})

    async def set_share(self, opening_id: str, wish: ShareWish, *, consent_id: ConsentId | None = None) -> None:
        """What consent is wished for, and, once it was begun, which one it is."""
        await self._update(opening_id, {"share": _written(wish), "consent_id": consent_id})

    async def set_intent(self, opening_id: str, intent_id: str) -> None:
        """What its user has to open for the data-sharing consent; the first one stays."""
        first = sa.and_(self._is(opening_id), opening.c.intent_id.is_(None))
        await self._unit.connection.execute(sa.update(opening).where(first).values(intent_id=intent_id))

    async def destroy_contents(self, opening_id: str) -> bool:
        """Destroy what lies sealed; `False` when nothing was left of it."""
        left = sa.or_(*(opening.c[name].is_not(None) for name in _SEALED))
        done = await self._unit.connection.execute(
            sa.update(opening).where(self._is(opening_id), left).values(dict.fromkeys(_SEALED))
        )
        return bool(done.rowcount)

    async def overdue_contents(self, *, ended_before: datetime, created_before: datetime, limit: int) -> list[str]:
        """Openings that ended by then, or began by then without ever ending, and of which something lies sealed.

        Not the unknown ones: a person has to settle them, and needs what was sent.
        """
        ended = opening.c.state.in_(sorted(one.value for one in ENDED))
        open_ = ~opening.c.state.in_(sorted(one.value for one in {*ENDED, OpeningState.UNKNOWN}))
        since = sa.func.coalesce(opening.c.ended_at, opening.c.state_since)
        query = (
            sa.select(opening.c.opening_id)
            .where(
                opening.c.tenant == self._unit.tenant,
                sa.or_(*(opening.c[name].is_not(None) for name in _SEALED)),
                sa.or_(sa.and_(ended, since <= ended_before), sa.and_(open_, opening.c.created_at <= created_before)),
            )
            .limit(limit)
        )
        return list(await self._unit.connection.scalars(query))

    def _entered(self, state: OpeningState, *, at: datetime) -> dict[str, Any]:
        return {
            "state": state.value,
            "state_since": at,
            "overdue_at": None,
            "ended_at": at if state in ENDED else None,
        }

    async def _remember(
        self,
        opening_id: str,
        state: OpeningState,
        *,
        at: datetime,
        source: str,
        status: str | None = None,
        status_updated_at: datetime | None = None,
        error: str | None = None,
    ) -> None:
        await self._unit.connection.execute(
            sa.insert(opening_history).values(
                tenant=self._unit.tenant,
                opening_id=opening_id,
                at=at,
                state=state.value,
                status=status,
                status_updated_at=status_updated_at,
                source=source,
                error=error,
            )
        )

    def _select(self) -> sa.Select[Any]:
        begun = sa.select(authorization_intent.c.consent_id).where(
            authorization_intent.c.tenant == opening.c.tenant, authorization_intent.c.intent_id == opening.c.intent_id
        )
        consent_id = sa.func.coalesce(opening.c.consent_id, begun.scalar_subquery()).label("consent_id")
        own = (opening.c[name] for name in _PLAIN if name != "consent_id")
        return sa.select(*own, consent_id).where(opening.c.tenant == self._unit.tenant)

    def _is(self, opening_id: str) -> sa.ColumnElement[bool]:
        return sa.and_(opening.c.tenant == self._unit.tenant, opening.c.opening_id == opening_id)

    async def _update(self, opening_id: str, values: Mapping[str, Any]) -> None:
        await self._unit.connection.execute(sa.update(opening).where(self._is(opening_id)).values(**values))

    def _seal(self, column: str, row: str, plain: bytes | None) -> bytes | None:
        return plain and self._unit.keyring.seal(plain, table=opening.name, column=column, row=row)

    def _open(self, column: str, row: str, sealed: bytes | None) -> bytes | None:
        return sealed and self._unit.keyring.open(bytes(sealed), table=opening.name, column=column, row=row)


def _older(one: datetime | None, held: datetime | None) -> bool:
    return one is not None and held is not None and one < held


def _text(text: str) -> str:
    """As the column takes it: no NUL, no lone surrogate, not too long."""
    return text.replace("\x00", "").encode(errors="replace").decode()[:STATUS_LENGTH]


def _written(wish: ShareWish | None) -> dict[str, Any] | None:
    if wish is None:
        return None
    return {
        "permissions": list(wish.permissions),
        "days": wish.days,
        "user_type": wish.user_type.value,
        "purpose": wish.purpose.value,
        "account_types": wish.account_types and list(wish.account_types),
        "account_sub_types": wish.account_sub_types and list(wish.account_sub_types),
        "on_behalf_of": wish.on_behalf_of and wish.on_behalf_of.written(),
    }


def _wish(share: Mapping[str, Any] | None) -> ShareWish | None:
    """A wish as it was written; one of before a member was known does not have it."""
    if share is None:
        return None
    types, sub_types = share.get("account_types"), share.get("account_sub_types")
    return ShareWish(
        permissions=tuple(share["permissions"]),
        days=int(share["days"]),
        user_type=UserType(share.get("user_type", UserType.Retail)),
        purpose=Purpose(share.get("purpose", Purpose.AccountAggregation)),
        account_types=types and tuple(types),
        account_sub_types=sub_types and tuple(sub_types),
        on_behalf_of=read_on_behalf_of(share.get("on_behalf_of")),
    )


def _stored(row: Mapping[Any, Any]) -> StoredOpening:
    changed = {
        "version": OpeningVersion(row["version"]),
        "state": OpeningState(row["state"]),
        "share": _wish(row["share"]),
    }
    return StoredOpening(**{name: row[name] for name in _PLAIN} | changed)
