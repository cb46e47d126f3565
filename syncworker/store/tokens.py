"""Tokens: one row per consent, sealed, changed only under the row's version.

A refresh goes `begin` (intent and lease, before the call) → the call → `swap` (after it).  `swap` compares the version
and nothing else: whoever holds an answer wins unless the version moved, lease or no lease (`reliability.md` rule 16).
An answer that lost the swap is not thrown away but kept as a spare.

    intent_at set, intent_version = version    a refresh of this very token was begun and has no answer: in doubt
    holder set, lease_until past               whoever began it has vanished, or sleeps
    lost_cause set                             the grant is gone; a late answer still heals it
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from pydantic import SecretStr

from syncworker.standard.values import ConsentId
from syncworker.store.consents import live_ids
from syncworker.store.dialect import Dialect
from syncworker.store.statements import Answer, Statement, named, run_all
from syncworker.store.tables import token

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

SPARES_MAX: Final = 3
"""Refresh tokens kept beside the stored one, newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    """One consent's token as it lies in the table, unsealed.

    Attributes:
        version: counts swaps; only grows.
        certificate: x5t#S256 of the transport certificate the access token is bound to.
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
    attempts: int = 0
    lost_cause: str | None = None
    refreshed_count: int = 0

    @property
    def in_doubt(self) -> bool:
        """Whether a refresh of this very version was begun and nobody knows how it ended."""
        return self.intent_at is not None and self.intent_version == self.version


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
        token.c.tenant == named(token.c.tenant), dialect.one_of(token.c.consent_id, live_ids(dialect))
    )
)
"""The tokens of the consents that `consents.LIVE` finds."""


@cache
def _beginning(lease: timedelta) -> Statement:
    """Lease and intent."""

    def build(dialect: Dialect) -> Any:
        now, holder = dialect.now(), named(token.c.holder, "me")
        version = named(token.c.version, "of_version")
        free = sa.or_(token.c.lease_until.is_(None), token.c.lease_until <= now, token.c.holder == holder)
        begun = sa.update(token).where(*_the_version(version), token.c.lost_cause.is_(None), free)
        return begun.values(
            holder=holder,
            lease_until=dialect.after(lease),
            intent_at=now,
            intent_version=version,
            attempts=token.c.attempts + 1,
        ).returning(token.c.version)

    return Statement(build)


@cache
def _swapping(names: tuple[str, ...]) -> Statement:
    """An answer, whose columns these are, in the place of the version it was asked with."""

    def build(_: Dialect) -> Any:
        mine = token.c.holder == named(token.c.holder, "me")
        kept = {name: sa.case((mine, None), else_=token.c[name]) for name in ("holder", "lease_until")}
        swapped = sa.update(token).where(*_the_version(named(token.c.version, "of_version")))
        return swapped.values(
            version=token.c.version + 1,
            spares=None,
            attempts=0,
            lost_cause=None,
            intent_at=None,
            intent_version=None,
            refreshed_count=token.c.refreshed_count + 1,
            **kept,
            **{name: named(token.c[name], f"new_{name}") for name in names},
        ).returning(token.c.version)

    return Statement(build)


def _the_version(version: sa.ColumnElement[int]) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        token.c.tenant == named(token.c.tenant, "of_tenant"),
        token.c.consent_id == named(token.c.consent_id, "of_consent"),
        token.c.version == version,
    )


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
        return self.opened_row(answer.rows[0]) if answer.rows else None

    def opened_row(self, row: Sequence[Any]) -> StoredToken:
        """One row of `OF_LIVE`.

        Raises:
            SealError: a sealed column does not open.
        """
        return self._stored(dict(zip(_WHOLE, row, strict=True)))

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
        query = sa.select(token).where(token.c.tenant == self._unit.tenant, token.c.consent_id.in_(sorted(consent_ids)))
        rows = (await self._unit.connection.execute(query)).mappings()
        return {found.consent_id: found for found in map(self._stored, rows)}

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
        ended = dict.fromkeys(("holder", "lease_until", "intent_at", "intent_version", "lost_cause"))
        await self._execute(
            sa.update(token)
            .where(self._is(row.consent_id), token.c.version == version)
            .values(version=version + 1, attempts=0, **ended, **self._imported(row))
        )
        await self._put_spares(row.consent_id, spares[:SPARES_MAX])
        return True

    async def begin(self, consent_id: ConsentId, *, version: int, holder: str, lease: timedelta) -> StoredToken | None:
        """Take the lease and write the intent in one statement; the attempt is counted.

        A lease of `holder` itself may be taken again: one holder runs one refresh of a consent at a time.

        Returns:
            The row as it was before, so that the caller sees in whose footsteps it treads; `None` when the version
            moved, somebody's lease lives, the grant is lost, or there is no row.
        """
        place = {"tenant": self._unit.tenant, "consent_id": consent_id}
        begin = (_beginning(lease), self._version(consent_id, version) | {"me": holder})
        before, begun = await run_all(self._unit, [(READ_LOCKED, place), begin])
        return self.opened(before) if begun.rows else None

    async def extend(self, consent_id: ConsentId, *, version: int, holder: str, lease: timedelta) -> bool:
        """Move the lease's end to now + `lease`; `False` when it is not ours, has run out, or the version moved."""
        done = await self._execute(
            sa.update(token)
            .where(
                self._is(consent_id),
                token.c.version == version,
                token.c.holder == holder,
                token.c.lease_until > self._unit.dialect.now(),
            )
            .values(lease_until=self._unit.dialect.after(lease))
        )
        return bool(done)

    async def release(self, consent_id: ConsentId, *, holder: str, in_doubt: bool) -> bool:
        """Give the lease back; `False` when it is not ours any more.

        Args:
            in_doubt: whether a call went unanswered, so that the intent has to stay on the row.
        """
        values: dict[str, Any] = {"holder": None, "lease_until": None}
        if not in_doubt:
            values |= {"intent_at": None, "intent_version": None}
        done = await self._execute(
            sa.update(token).where(self._is(consent_id), token.c.holder == holder).values(**values)
        )
        return bool(done)

    async def swap(self, consent_id: ConsentId, *, version: int, holder: str, new: NewToken) -> bool:
        """Store an answer if the version is still the one it was asked with; `False` when it moved, or no row is there.

        Compares nothing but the version.  A grant already given up for lost is alive again.  Spares go: the stored
        chain has just proved alive.  The lease is given back when it is ours.
        """
        columns = self._columns(consent_id, new)
        values = self._version(consent_id, version) | {"me": holder}
        values |= {f"new_{name}": value for name, value in columns.items()}
        swapped = await _swapping(tuple(columns)).run(self._unit, **values)
        return bool(swapped.rows)

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
            .values(lost_cause=cause, holder=None, lease_until=None, intent_at=None, intent_version=None)
        )
        return bool(done)

    async def destroy(self, consent_id: ConsentId) -> bool:
        """Delete a consent's tokens, spares included; `False` when there were none."""
        return bool(await self._execute(sa.delete(token).where(self._is(consent_id))))

    async def states(self) -> Sequence[StoredToken]:
        """Every row without its secrets, for people: what expires when, what is held, in doubt or lost."""
        names = [column for column in token.columns if column.name not in {"access_token", "refresh_token", "spares"}]
        query = sa.select(*names).where(token.c.tenant == self._unit.tenant).order_by(token.c.consent_id)
        return [_bare(row) for row in (await self._unit.connection.execute(query)).mappings()]

    def _version(self, consent_id: ConsentId, version: int) -> dict[str, Any]:
        return {"of_tenant": self._unit.tenant, "of_consent": consent_id, "of_version": version}

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

    def _columns(self, consent_id: ConsentId, new: NewToken) -> dict[str, Any]:
        columns: dict[str, Any] = {
            "access_token": self._seal("access_token", consent_id, new.access_token.get_secret_value()),
            "issued_at": new.issued_at,
            "expires_at": new.expires_at,
            "certificate": new.certificate,
        }
        if new.refresh_token is not None:
            columns["refresh_token"] = self._seal("refresh_token", consent_id, new.refresh_token.get_secret_value())
        return columns

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

    def _seal(self, column: str, consent_id: ConsentId, plain: str) -> bytes:
        return self._unit.keyring.seal(plain.encode(), table=token.name, column=column, row=consent_id)

    def _open(self, column: str, consent_id: ConsentId, sealed: bytes | None) -> SecretStr | None:
        if sealed is None:
            return None
        return SecretStr(self._unit.keyring.open(sealed, table=token.name, column=column, row=consent_id).decode())


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
        attempts=row["attempts"],
        lost_cause=row["lost_cause"],
        refreshed_count=row["refreshed_count"],
    )
