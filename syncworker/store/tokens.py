"""Tokens: one row per consent, sealed, changed only under the row's version.

A refresh goes `begin` (intent and lease, before the call) → the call → `swap` (after it).  `swap` compares the version
and nothing else: whoever holds an answer wins unless the version moved, lease or no lease (`reliability.md` rule 16).
An answer that lost the swap is not thrown away but kept as a spare.

    intent_at set, intent_version = version    a refresh of this very token was begun and has no answer: in doubt
    intent_call set                            the call sent, or about to be sent, for it is not in the table `call` yet
    holder set, lease_until past               the process that began it has ended, or sleeps
    lost_cause set                             the grant is gone; a late answer still heals it
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from pydantic import SecretStr

from syncworker.errors import SealError
from syncworker.standard.values import ConsentId
from syncworker.store.consents import live_ids
from syncworker.store.dialect import Dialect
from syncworker.store.many import Given, Many
from syncworker.store.statements import Answer, Statement, named, run_all
from syncworker.store.tables import call, consent, token

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

SPARES_MAX: Final = 3
"""Refresh tokens kept beside the stored one, newest first."""

IN_DOUBT: Final = "in_doubt"
"""`error` of a row of `call`: the call may have been sent, and its process ended before it could say how it went."""

TOKEN_CALL: Final = "CreateAccessTokenRequest"  # noqa: S105  the name of an operation
"""`operation` of a token call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    """One consent's token as it lies in the table, unsealed.

    Attributes:
        version: counts swaps; only grows.
        certificate: x5t#S256 of the transport certificate the access token is bound to.
        intent_call: interaction id of a call that was sent, or was about to be, and has no row in `call` yet.
        attempts: refreshes begun since the last one that brought a token.
    """

    consent_id: ConsentId
    version: int
    access_token: SecretStr | None
    refresh_token: SecretStr | None
    spares: tuple[SecretStr, ...] = ()
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    certificate: str | None = None
    holder: str | None = None
    lease_until: datetime | None = None
    intent_at: datetime | None = None
    intent_version: int | None = None
    intent_call: str | None = None
    attempts: int = 0
    lost_cause: str | None = None
    refreshed_count: int = 0

    @property
    def in_doubt(self) -> bool:
        """Whether a refresh of this very version was begun and nobody knows how it ended."""
        return self.intent_at is not None and self.intent_version == self.version

    def swapped(self, new: "NewToken") -> "StoredToken":
        """The row after the swap of `new`, by whom holds it."""
        return StoredToken(
            consent_id=self.consent_id,
            version=self.version + 1,
            access_token=new.access_token,
            refresh_token=new.refresh_token or self.refresh_token,
            issued_at=new.issued_at,
            expires_at=new.expires_at,
            certificate=new.certificate,
            refreshed_count=self.refreshed_count + 1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """What a token answer brings into the table.

    Attributes:
        refresh_token: `None` keeps the old one (trap 1).
    """

    access_token: SecretStr = field(repr=False)
    refresh_token: SecretStr | None = field(repr=False)
    issued_at: datetime
    expires_at: datetime
    certificate: str


@dataclass(frozen=True, slots=True)
class Beginning:
    """A refresh that wants to begin.

    Attributes:
        version: of the token it was decided by.
        lease: how long nobody else may begin one.
        call: interaction id of its first call.
    """

    consent_id: ConsentId
    version: int
    lease: timedelta
    call: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedToken:
    """Tokens of a consent that another system got; all but the refresh token may be missing together.

    Attributes:
        issued_at: when it came to us.
    """

    consent_id: ConsentId
    refresh_token: SecretStr = field(repr=False)
    access_token: SecretStr | None = field(default=None, repr=False)
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    certificate: str | None = None


_WHOLE: Final = tuple(column.name for column in token.columns)
_ONE: Final = sa.select(token).where(
    token.c.tenant == named(token.c.tenant), token.c.consent_id == named(token.c.consent_id)
)
READ: Final = Statement(lambda _: _ONE)
READ_LOCKED: Final = Statement(lambda _: _ONE.with_for_update())
OF_LIVE: Final = Statement(
    lambda dialect: sa.select(token).where(
        dialect.one_of(token.c.consent_id, live_ids(dialect), tenant=named(token.c.tenant))
    )
)
"""The tokens of the consents that `consents.LIVE` finds."""


def _is_given(given: Given) -> tuple[sa.ColumnElement[bool], ...]:
    return token.c.tenant == given["tenant"], token.c.consent_id == given["of_consent"]


def _these(dialect: Dialect, *columns: sa.Column[Any]) -> sa.Select[Any]:
    return sa.select(*(columns or (token,))).where(
        dialect.among(token.c.consent_id, "consent_ids", tenant=named(token.c.tenant))
    )


def _versions(dialect: Dialect) -> sa.Select[Any]:
    locked = _these(dialect, token.c.consent_id, token.c.version, token.c.holder).order_by(token.c.consent_id)
    return locked.with_for_update(of=token, skip_locked=True)


def _free(dialect: Dialect, given: Given) -> Any:
    """Rows, locked, each with whether a refresh may begin, and database time."""
    now = dialect.now()
    nobodys = sa.or_(
        token.c.lease_until.is_(None), token.c.lease_until <= now, token.c.holder == named(token.c.holder, "me")
    )
    free = sa.and_(token.c.version == given["of_version"], token.c.lost_cause.is_(None), nobodys)
    locked = sa.select(token, free, now).where(*_is_given(given)).order_by(token.c.consent_id)
    return locked.with_for_update(of=token, skip_locked=True)


def _begun(_: Dialect, given: Given) -> Any:
    """Lease and intent."""
    return (
        sa.update(token)
        .where(*_is_given(given), token.c.version == given["of_version"])
        .values(
            holder=named(token.c.holder, "me"),
            lease_until=given["until"],
            intent_at=given["at"],
            intent_version=given["of_version"],
            intent_call=given["call"],
            attempts=token.c.attempts + 1,
        )
    )


def _left_in_doubt(_: Dialect, given: Given) -> Any:
    """A row of `call` for each call that no process filed."""
    filed = {
        "tenant": token.c.tenant,
        "lfi": consent.c.lfi,
        "consent_id": token.c.consent_id,
        "operation": sa.literal(TOKEN_CALL, call.c.operation.type),
        "error": sa.literal(IN_DOUBT, call.c.error.type),
        "interaction_id": token.c.intent_call,
        "started_at": token.c.intent_at,
        "duration_ms": sa.literal(0, call.c.duration_ms.type),
        "bytes_in": sa.literal(0, call.c.bytes_in.type),
        "attended": sa.literal(False, call.c.attended.type),
        "price_millifils": sa.literal(0, call.c.price_millifils.type),
    }
    of_consent = sa.and_(consent.c.tenant == token.c.tenant, consent.c.consent_id == token.c.consent_id)
    those = (
        sa.select(*filed.values())
        .select_from(token.join(consent, of_consent))
        .where(*_is_given(given), token.c.intent_call.is_not(None), token.c.intent_at.is_not(None))
    )
    return sa.insert(call).from_select(list(filed), those)


_NO_INTENT: Final = dict.fromkeys(("holder", "lease_until", "intent_at", "intent_version", "intent_call"))


def _swapped(_: Dialect, given: Given) -> Any:
    """An answer in the place of the version it was asked with; lease and intent of whichever attempt go with it."""
    return (
        sa.update(token)
        .where(*_is_given(given), token.c.version == given["of_version"])
        .values(
            version=token.c.version + 1,
            access_token=given["new_access_token"],
            refresh_token=sa.func.coalesce(given["new_refresh_token"], token.c.refresh_token),
            issued_at=given["new_issued_at"],
            expires_at=given["new_expires_at"],
            certificate=given["new_certificate"],
            spares=None,
            attempts=0,
            lost_cause=None,
            refreshed_count=token.c.refreshed_count + 1,
            **_NO_INTENT,
        )
        .returning(token.c.version)
    )


_NAMED_VERSION: Final = {"of_consent": token.c.consent_id, "of_version": token.c.version}
_NEW: Final = ("access_token", "refresh_token", "issued_at", "expires_at", "certificate")
READ_MANY: Final = Statement(_these)
VERSIONS_FREE: Final = Statement(_versions)
"""Of those no other transaction holds, locked."""

_TENANT: Final = named(token.c.tenant, "of_tenant")
_FREE: Final = Many(_NAMED_VERSION, _free, tenant=_TENANT)
_LEFT_IN_DOUBT: Final = Many({"of_consent": token.c.consent_id}, _left_in_doubt, tenant=_TENANT)
_BEGIN: Final = Many(
    _NAMED_VERSION | {"at": token.c.intent_at, "until": token.c.lease_until, "call": token.c.intent_call},
    _begun,
    tenant=_TENANT,
)
_SWAP: Final = Many(_NAMED_VERSION | {f"new_{name}": token.c[name] for name in _NEW}, _swapped, tenant=_TENANT)


class Tokens:
    """The table `token`.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def read(self, consent_id: ConsentId, *, lock: bool = False) -> StoredToken | None:
        """The token of a consent; `lock=True` keeps other writers of the row out until the transaction's end.

        Raises:
            SealError: a sealed column does not open.
        """
        answer = await (READ_LOCKED if lock else READ).run(self._unit, tenant=self._unit.tenant, consent_id=consent_id)
        return self.opened(answer)

    def opened(self, answer: Answer) -> StoredToken | None:
        """What `READ` or `READ_LOCKED` gave.

        Raises:
            SealError: a sealed column does not open.
        """
        return self._stored(_row(answer.rows[0])) if answer.rows else None

    def opened_many(self, answer: Answer) -> "dict[ConsentId, StoredToken | SealError]":
        """What `READ_MANY` or `OF_LIVE` gave; for those that do not open, why."""
        return {ConsentId(row["consent_id"]): self._stored_or_why(row) for row in map(_row, answer.rows)}

    async def holder(self, consent_id: ConsentId) -> str | None:
        """Which process holds the lease, run out or not; the row is locked until the transaction's end."""
        query = sa.select(token.c.holder).where(self._is(consent_id)).with_for_update()
        holder: str | None = await self._unit.connection.scalar(query)
        return holder

    async def file_in_doubt(self, consent_id: ConsentId) -> None:
        """Give a call that has no row in `call` yet one, in doubt: before a change that forgets its interaction id.

        The process that made it, should it still live, puts its own row in the place of that one (`Runs.settle`).
        """
        told = _LEFT_IN_DOUBT.told(self._unit, [{"of_consent": consent_id}], of_tenant=self._unit.tenant)
        await run_all(self._unit, told)

    async def filed(self, consent_id: ConsentId, *, call: str) -> None:
        """Note that a call has its row in `call`; another call's interaction id stays."""
        which = sa.and_(self._is(consent_id), token.c.intent_call == call)
        await self._execute(sa.update(token).where(which).values(intent_call=None))

    async def exists(self, consent_id: ConsentId) -> bool:
        """Whether the consent has tokens; opens nothing."""
        query = sa.select(token.c.version).where(self._is(consent_id))
        return await self._unit.connection.scalar(query) is not None

    async def put_first(self, consent_id: ConsentId, new: NewToken) -> bool:
        """Store the tokens of a code exchange; `False` when the consent has tokens already: then nothing changes."""
        fresh = self._unit.dialect.upsert(token, ("tenant", "consent_id"), ())
        values = {
            "tenant": self._unit.tenant,
            "consent_id": consent_id,
            "version": 1,
            **self._columns(consent_id, new),
        }
        stored = fresh.values(values).returning(token.c.version)
        return await self._unit.connection.scalar(stored) is not None

    async def read_many(self, consent_ids: Collection[ConsentId]) -> dict[ConsentId, StoredToken]:
        """Those of some consents that have tokens.

        Raises:
            SealError: a sealed column does not open.
        """
        place = {"tenant": self._unit.tenant, "consent_ids": sorted(set(consent_ids))}
        answer = await READ_MANY.run(self._unit, **place)
        return {found.consent_id: found for found in map(self._stored, map(_row, answer.rows))}

    async def put_imported(self, rows: Sequence[ImportedToken]) -> None:
        """Store tokens of consents that have none, sorted by consent, in one statement.

        Raises:
            StoreRefusedError: one of them has tokens; the transaction has to be given up.
        """
        if rows:
            values = [{"tenant": self._unit.tenant, "version": 1, **self._imported(row)} for row in rows]
            await self._unit.connection.execute(sa.insert(token), values)

    async def replace(self, row: ImportedToken, *, version: int) -> bool:
        """Put tokens from outside in the place of those held; `False` when the version moved.

        The refresh token held until now becomes the newest spare: should the one from outside be the older, the next
        refresh falls back on it.  A lease ends; an answer still on its way loses its swap and is kept as a spare too.
        """
        held = await self.read(row.consent_id, lock=True)
        if held is None or held.version != version:
            return False
        spares = (held.refresh_token, *held.spares) if held.refresh_token else held.spares
        await self.file_in_doubt(row.consent_id)
        await self._execute(
            sa.update(token)
            .where(self._is(row.consent_id), token.c.version == version)
            .values(version=version + 1, attempts=0, lost_cause=None, **_NO_INTENT, **self._imported(row))
        )
        await self._put_spares(row.consent_id, spares[:SPARES_MAX])
        return True

    async def begin(
        self, consent_id: ConsentId, *, version: int, holder: str, lease: timedelta, call: str | None = None
    ) -> StoredToken | None:
        """Take the lease and write the intent; the attempt is counted.

        A lease of `holder` itself may be taken again: one holder runs one refresh of a consent at a time.  A call that
        the attempt before left without a row in `call` gets one now, in doubt.

        Args:
            call: interaction id of the first call.

        Returns:
            The row as it was before, so that the caller sees in whose footsteps it treads; `None` when the version
            moved, somebody's lease lives, the grant is lost, there is no row, or another transaction holds it.

        Raises:
            SealError: a sealed column does not open.
        """
        (before,) = await self.begin_many([Beginning(consent_id, version, lease, call)], holder=holder)
        if isinstance(before, SealError):
            raise before
        await self._unit.send()
        return before

    async def begin_many(self, those: Sequence["Beginning"], *, holder: str) -> "list[StoredToken | SealError | None]":
        """`begin` for many consents, each of them once, written with the commit; the answers in their order.

        Nobody is waited for, and what does not open is a value: none of them keeps another from beginning.
        """
        rows = [{"of_consent": one.consent_id, "of_version": one.version} for one in those]
        found = await _FREE.rows(self._unit, rows, of_tenant=self._unit.tenant, me=holder)
        free = {row["consent_id"]: (row, now) for *columns, is_free, now in found if is_free for row in [_row(columns)]}
        answers: list[StoredToken | SealError | None] = []
        begun: list[dict[str, Any]] = []
        left: list[dict[str, Any]] = []
        for one, place in zip(those, rows, strict=True):
            if one.consent_id not in free:
                answers.append(None)
                continue
            row, now = free[one.consent_id]
            answers.append(self._stored_or_why(row))
            if not isinstance(answers[-1], SealError):
                begun.append(place | {"at": now, "until": now + one.lease, "call": one.call})
                if row["intent_call"] not in (None, one.call):  # the same: this very transaction, run again
                    left.append({"of_consent": one.consent_id})
        self._unit.with_commit(_LEFT_IN_DOUBT.told(self._unit, left, of_tenant=self._unit.tenant))
        self._unit.with_commit(_BEGIN.told(self._unit, begun, of_tenant=self._unit.tenant, me=holder))
        return answers

    async def extend(
        self, consent_id: ConsentId, *, version: int, holder: str, lease: timedelta, call: str | None = None
    ) -> bool:
        """Move the lease's end to now + `lease`; `False` when it is not ours, has run out, or the version moved.

        Args:
            call: interaction id of the next call, in the place of the one before, which the caller files; `None`: none.
        """
        values: dict[str, Any] = {"lease_until": self._unit.dialect.after(lease)}
        if call is not None:
            values |= {"intent_call": call, "intent_at": self._unit.dialect.now()}
        done = await self._execute(
            sa.update(token)
            .where(
                self._is(consent_id),
                token.c.version == version,
                token.c.holder == holder,
                token.c.lease_until > self._unit.dialect.now(),
            )
            .values(**values)
        )
        return bool(done)

    async def release(self, consent_id: ConsentId, *, holder: str, in_doubt: bool) -> bool:
        """Give the lease back; `False` when it is not ours any more.

        Args:
            in_doubt: whether a call went unanswered, so that the intent has to stay on the row.  Its calls are the
                caller's to file, in the same transaction.
        """
        values: dict[str, Any] = {"holder": None, "lease_until": None, "intent_call": None}
        if not in_doubt:
            values |= {"intent_at": None, "intent_version": None}
        done = await self._execute(
            sa.update(token).where(self._is(consent_id), token.c.holder == holder).values(**values)
        )
        return bool(done)

    async def swap(self, consent_id: ConsentId, *, version: int, new: NewToken) -> bool:
        """Store an answer if the version is still the one it was asked with; `False` when it moved, or no row is there.

        Compares nothing but the version.  A grant already given up for lost is alive again.  Spares go: the stored
        chain has just proved alive.  Lease and intent go, whichever attempt they are of: they spoke of the old version.
        """
        row = self._swap_row(consent_id, version, new)
        return bool(await _SWAP.rows(self._unit, [row], of_tenant=self._unit.tenant))

    def swap_locked(self, those: Sequence[tuple[ConsentId, int, NewToken]]) -> None:
        """`swap` for many (consent, version, answer), with the commit; those very versions are locked already."""
        rows = [self._swap_row(*one) for one in those]
        self._unit.with_commit(_SWAP.told(self._unit, rows, of_tenant=self._unit.tenant))

    async def keep_spare(self, consent_id: ConsentId, refresh_token: SecretStr) -> bool:
        """Keep the refresh token of an answer that lost its swap, newest first; `False` when it is held already."""
        held = await self.read(consent_id, lock=True)
        known = () if held is None else (held.refresh_token, *held.spares)
        if held is None or refresh_token in known:
            return False
        await self._put_spares(consent_id, (refresh_token, *held.spares)[:SPARES_MAX])
        return True

    async def drop_spare(self, consent_id: ConsentId, refresh_token: SecretStr) -> None:
        """Forget a spare the LFI refused."""
        held = await self.read(consent_id, lock=True)
        if held is not None and refresh_token in held.spares:
            await self._put_spares(consent_id, tuple(spare for spare in held.spares if spare != refresh_token))

    async def give_up(self, consent_id: ConsentId, *, version: int, cause: str) -> bool:
        """Write down that the grant is lost, and why; `False` when the version moved: then it is not."""
        done = await self._execute(
            sa.update(token)
            .where(self._is(consent_id), token.c.version == version, token.c.lost_cause.is_(None))
            .values(lost_cause=cause, **_NO_INTENT)
        )
        return bool(done)

    async def destroy(self, consent_id: ConsentId) -> bool:
        """Delete a consent's tokens, spares included; `False` when there were none."""
        await self.file_in_doubt(consent_id)
        return bool(await self._execute(sa.delete(token).where(self._is(consent_id))))

    async def states(self) -> Sequence[StoredToken]:
        """Every row without its secrets, for people: what expires when, what is held, in doubt or lost."""
        names = [column for column in token.columns if column.name not in {"access_token", "refresh_token", "spares"}]
        query = sa.select(*names).where(token.c.tenant == self._unit.tenant).order_by(token.c.consent_id)
        return [_bare(row) for row in (await self._unit.connection.execute(query)).mappings()]

    def _is(self, consent_id: ConsentId) -> sa.ColumnElement[bool]:
        return sa.and_(token.c.tenant == self._unit.tenant, token.c.consent_id == consent_id)

    async def _execute(self, statement: Any) -> int:
        result: sa.CursorResult[Any] = await self._unit.connection.execute(statement)
        return result.rowcount

    async def _put_spares(self, consent_id: ConsentId, spares: Sequence[SecretStr]) -> None:
        sealed = None
        if spares:
            plain = json.dumps([spare.get_secret_value() for spare in spares])
            sealed = self._seal("spares", consent_id, plain)
        await self._execute(sa.update(token).where(self._is(consent_id)).values(spares=sealed))

    def _swap_row(self, consent_id: ConsentId, version: int, new: NewToken) -> dict[str, Any]:
        columns = {f"new_{name}": value for name, value in self._columns(consent_id, new).items()}
        return {"of_consent": consent_id, "of_version": version, **columns}

    def _columns(self, consent_id: ConsentId, new: NewToken) -> dict[str, Any]:
        refresh = None if new.refresh_token is None else new.refresh_token.get_secret_value()
        return {
            "access_token": self._seal("access_token", consent_id, new.access_token.get_secret_value()),
            "refresh_token": None if refresh is None else self._seal("refresh_token", consent_id, refresh),
            "issued_at": new.issued_at,
            "expires_at": new.expires_at,
            "certificate": new.certificate,
        }

    def _imported(self, row: ImportedToken) -> dict[str, Any]:
        access = None if row.access_token is None else row.access_token.get_secret_value()
        return {
            "consent_id": row.consent_id,
            "refresh_token": self._seal("refresh_token", row.consent_id, row.refresh_token.get_secret_value()),
            "access_token": None if access is None else self._seal("access_token", row.consent_id, access),
            "issued_at": row.issued_at,
            "expires_at": row.expires_at,
            "certificate": row.certificate,
        }

    def _stored(self, row: Mapping[Any, Any]) -> StoredToken:
        consent_id = ConsentId(row["consent_id"])
        spares = self._open("spares", consent_id, row["spares"])
        bare = _bare(row)
        return StoredToken(
            **{name: getattr(bare, name) for name in StoredToken.__slots__}
            | {
                "access_token": self._open("access_token", consent_id, row["access_token"]),
                "refresh_token": self._open("refresh_token", consent_id, row["refresh_token"]),
                "spares": tuple(SecretStr(spare) for spare in json.loads(spares.get_secret_value())) if spares else (),
            }
        )

    def _stored_or_why(self, row: Mapping[str, Any]) -> StoredToken | SealError:
        try:
            return self._stored(row)
        except SealError as error:
            return error

    def _seal(self, column: str, consent_id: ConsentId, plain: str) -> bytes:
        return self._unit.keyring.seal(plain.encode(), table=token.name, column=column, row=consent_id)

    def _open(self, column: str, consent_id: ConsentId, sealed: bytes | None) -> SecretStr | None:
        if sealed is None:
            return None
        return SecretStr(self._unit.keyring.open(sealed, table=token.name, column=column, row=consent_id).decode())


def read_versions(answer: Answer) -> dict[ConsentId, tuple[int, str | None]]:
    """What `VERSIONS_FREE` gave: version, and the process that holds the lease."""
    return {ConsentId(name): (version, holder) for name, version, holder in answer.rows}


def _row(columns: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(_WHOLE, columns, strict=True))


def _bare(row: Mapping[Any, Any]) -> StoredToken:
    return StoredToken(
        consent_id=ConsentId(row["consent_id"]),
        version=row["version"],
        access_token=None,
        refresh_token=None,
        issued_at=row["issued_at"],
        expires_at=row["expires_at"],
        certificate=row["certificate"],
        holder=row["holder"],
        lease_until=row["lease_until"],
        intent_at=row["intent_at"],
        intent_version=row["intent_version"],
        intent_call=row["intent_call"],
        attempts=row["attempts"],
        lost_cause=row["lost_cause"],
        refreshed_count=row["refreshed_count"],
    )
