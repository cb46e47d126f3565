"""Refreshes: what the product wants to be read now, of which connections, and how that ended.

A refresh has a part for each connection.  A part waits for a run that begins after it was asked for: `work.asked_gen`
counts as for any other sync that is asked for, so however many parts wait, one run serves them.  A part whose customer
is present has a *context*, and a run serves the parts of one context alone: its calls say that this customer is there.

What the customer's session said lies sealed in the part and is destroyed with its end.  Nothing here commits.
"""

import hashlib
import hmac
import json
import secrets
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from pydantic import SecretStr

from syncworker.errors import SealError
from syncworker.standard.calendar import read_iso
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.dialect import Dialect
from syncworker.store.sealed import open_text, seal_text
from syncworker.store.statements import Answer, Statement, Told, named
from syncworker.store.tables import connection, refresh, refresh_part, run, work
from syncworker.store.tally import REFRESH_OUTCOMES, Counted, word_or_other
from syncworker.store.work import WorkKind

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

ATTENDED_FOR: Final = timedelta(minutes=10)
"""A run that begins later than this after it was asked for no longer says that the customer is present."""

WAITS_FOR: Final = timedelta(hours=24)
"""A refresh that no run served for so long ends."""

LATE: Final = "late"
"""`reason` of a part that no run served in time."""

IDEMPOTENT_FOR: Final = timedelta(hours=24)
"""How long an `Idempotency-Key` stands for the refresh it came with first."""

_PREFIX: Final = "rfr_"
_ID_LENGTH: Final = 20
_CONTEXT_LENGTH: Final = 16
_LETTERS: Final = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which listings a refresh wants.

    Attributes:
        resources: `None`: all that the consent opens.
        account_id: the LFI's id of the one account; `None`: all of them, and the listings of the connection.
        max_age: listings read since then are young enough; `None`: none is.
    """

    resources: frozenset[ResourceName] | None = None
    account_id: str | None = None
    max_age: timedelta | None = None

    def wants(self, account_id: str, resource: ResourceName) -> bool:
        """Whether a listing is among those wanted; `account_id` is `''` for one of the connection."""
        if self.resources is not None and resource not in self.resources:
            return False
        return self.account_id is None or account_id == self.account_id

    def as_json(self) -> dict[str, Any]:
        """For `refresh_part.wish`."""
        facts = {
            "resources": None if self.resources is None else sorted(one.value for one in self.resources),
            "account_id": self.account_id,
            "max_age": None if self.max_age is None else int(self.max_age.total_seconds()),
        }
        return {name: value for name, value in facts.items() if value is not None}


def read_wish(facts: Mapping[str, Any]) -> Wish:
    """A wish as `Wish.as_json` wrote it."""
    resources, max_age = facts.get("resources"), facts.get("max_age")
    return Wish(
        resources=None if resources is None else frozenset(ResourceName(one) for one in resources),
        account_id=facts.get("account_id"),
        max_age=None if max_age is None else timedelta(seconds=max_age),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """What the session of a customer who is present says.

    Attributes:
        ip: an IP literal.
        auth_date: last login at the TPP, aware.
        user_agent: printable ASCII; `None` when it is not known.
    """

    ip: str = field(repr=False)
    auth_date: datetime = field(repr=False)
    user_agent: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A part that has not ended.

    Attributes:
        asked_gen: only a run of a later claim serves it.
        context: `''`: no customer is present.
        customer: sealed.
    """

    refresh_id: str
    connection_id: ConsentId
    created_at: datetime
    asked_gen: int
    context: str = field(repr=False)
    wish: Wish
    customer: bytes | None = field(default=None, repr=False)

    @property
    def attended(self) -> bool:
        return bool(self.context)

    def late_at(self, now: datetime) -> bool:
        """Whether it is too late for a run to serve it."""
        return now - self.created_at > (ATTENDED_FOR if self.attended else WAITS_FOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEnd:
    """How a part ended.

    Attributes:
        run_gen: `run.gen` of the run that served it; `None`: none did.
        outcome: complete, partial or failed.
        reason: a constant word for why it is not complete.
        error: stable code.
        retry_at: when time may have mended it.
        listings: ids, constant words and instants only.
    """

    refresh_id: str
    connection_id: ConsentId
    run_gen: int | None = None
    outcome: str
    reason: str | None = None
    error: str | None = None
    retry_at: datetime | None = None
    listings: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPart:
    """A part to file."""

    connection_id: ConsentId
    asked_gen: int
    wish: Wish
    joined: bool = False
    context: str = field(default="", repr=False)
    customer: Customer | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """A part as it stands.

    Attributes:
        under_way: generation of the run under way that was claimed after it was asked for; `None`: there is none.
        parked: no run comes before a person has acted.
        run_id: number of the run that served it.
        others as in `PartEnd`.
    """

    connection_id: ConsentId
    lfi: Slug
    created_at: datetime
    asked_gen: int
    context: str = field(repr=False)
    joined: bool
    wish: Wish
    ended_at: datetime | None
    outcome: str | None
    reason: str | None
    error: str | None
    retry_at: datetime | None
    listings: Sequence[Mapping[str, Any]]
    run_id: int | None
    under_way: int | None
    parked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRefresh:
    """A refresh with its parts, in the order of their connections."""

    refresh_id: str
    created_at: datetime
    attended: bool
    parts: Sequence[StoredPart]

    @property
    def ended_at(self) -> datetime | None:
        """When the last part ended; `None` before."""
        ended = [one.ended_at for one in self.parts if one.ended_at is not None]
        return max(ended) if len(ended) == len(self.parts) else None


def new_refresh_id() -> str:
    """`rfr_` and 20 random characters."""
    return _PREFIX + _random(_ID_LENGTH)


def new_context() -> str:
    """A name for one customer's session."""
    return _random(_CONTEXT_LENGTH)


def could_be_refresh(text: str) -> bool:
    """Whether a text has the form of a `refresh_id`; no other is worth a look into the database."""
    rest = text.removeprefix(_PREFIX)
    return rest != text and len(rest) == _ID_LENGTH and rest.isascii() and rest.isalnum()


def digests_of(key_id: str, idempotency_key: SecretStr, body: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """What is kept of an `Idempotency-Key` and of the body it came with.

    The body may name a customer's address, of which there are few enough to try them all: so its digest is keyed by the
    key itself, which is kept nowhere.
    """
    key = idempotency_key.get_secret_value().encode()
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), default=str).encode()
    return hashlib.sha256(f"{len(key_id)}:{key_id}:".encode() + key).digest(), hmac.digest(key, text, "sha256")


_WAITING: Final = (
    refresh_part.c.refresh_id, refresh_part.c.connection_id, refresh_part.c.created_at, refresh_part.c.asked_gen,
    refresh_part.c.context, refresh_part.c.wish, refresh_part.c.customer,
)  # fmt: skip

WAITING: Final = Statement(
    lambda dialect: (
        sa.select(*_WAITING)
        .where(
            dialect.among(refresh_part.c.connection_id, "connection_ids", tenant=named(refresh_part.c.tenant)),
            refresh_part.c.ended_at.is_(None),
        )
        .order_by(refresh_part.c.created_at, refresh_part.c.refresh_id)
    )
)
"""The parts of some connections that have not ended, oldest first."""

_ENDED: Final[Mapping[str, Any]] = {
    name: refresh_part.c[name].type
    for name in ("refresh_id", "connection_id", "run_gen", "outcome", "reason", "error", "retry_at", "listings")
}


def _ending(dialect: Dialect) -> Any:
    ends = dialect.keys("ends", _ENDED, tenant=named(refresh_part.c.tenant, "of_tenant"))
    return (
        sa.update(refresh_part)
        .where(
            refresh_part.c.tenant == ends.c.tenant,
            refresh_part.c.refresh_id == ends.c.refresh_id,
            refresh_part.c.connection_id == ends.c.connection_id,
            refresh_part.c.outcome.is_(None),  # not `ended_at`: by that index all open parts of the connection are read
        )
        .values(
            ended_at=named(refresh_part.c.ended_at, "at"),
            customer=None,
            **{name: ends.c[name] for name in ("run_gen", "outcome", "reason", "error", "retry_at", "listings")},
        )
    )


_END: Final = Statement(_ending)


def read_waiting(answer: Answer) -> dict[ConsentId, list[Waiting]]:
    """What `WAITING` gave, by connection."""
    found: dict[ConsentId, list[Waiting]] = {}
    for refresh_id, connection_id, created_at, asked_gen, context, wish, customer in answer.rows:
        found.setdefault(ConsentId(connection_id), []).append(
            Waiting(
                refresh_id=refresh_id,
                connection_id=ConsentId(connection_id),
                created_at=created_at,
                asked_gen=asked_gen,
                context=context,
                wish=read_wish(wish),
                customer=None if customer is None else bytes(customer),
            )
        )
    return found


class Refreshes:
    """The tables `refresh` and `refresh_part` of one tenant."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def add(
        self,
        refresh_id: str,
        *,
        key_id: str,
        attended: bool,
        at: datetime,
        digests: tuple[bytes, bytes] | None = None,
    ) -> bool:
        """File a refresh without parts; `False`: its `Idempotency-Key` stands for another, and nothing was filed.

        Args:
            digests: of `digests_of`.
        """
        idempotency, body = digests or (None, None)
        added = await self._execute(
            self._unit.dialect.insert(refresh)
            .values(
                tenant=self._unit.tenant,
                refresh_id=refresh_id,
                key_id=key_id,
                created_at=at,
                attended=attended,
                idempotency=idempotency,
                body=body,
            )
            .on_conflict_do_nothing(index_elements=["idempotency", "tenant"])
            .returning(refresh.c.refresh_id)
        )
        return added.first() is not None

    async def add_parts(self, refresh_id: str, parts: Sequence[NewPart], *, at: datetime) -> None:
        """File the parts of a refresh; what customers' sessions said is sealed."""
        rows = [
            {
                "tenant": self._unit.tenant,
                "refresh_id": refresh_id,
                "connection_id": one.connection_id,
                "created_at": at,
                "asked_gen": one.asked_gen,
                "context": one.context,
                "customer": None if one.customer is None else self._sealed(refresh_id, one),
                "wish": one.wish.as_json(),
                "joined": one.joined,
            }
            for one in parts
        ]
        if rows:
            await self._unit.connection.execute(sa.insert(refresh_part), rows)

    async def of_idempotency(self, idempotency: bytes, *, since: datetime) -> tuple[str, bytes] | None:
        """The refresh that an `Idempotency-Key` stands for, with the digest of its body.

        Args:
            since: keys of refreshes from before are forgotten.
        """
        mine = (refresh.c.tenant == self._unit.tenant, refresh.c.idempotency == idempotency)
        query = sa.select(refresh.c.refresh_id, refresh.c.body, refresh.c.created_at).where(*mine)
        row = (await self._unit.connection.execute(query)).first()
        if row is None:
            return None
        if row.created_at >= since:
            return row.refresh_id, bytes(row.body)
        await self._execute(sa.update(refresh).where(*mine).values(idempotency=None, body=None))
        return None

    async def waiting(self, connection_ids: Collection[ConsentId]) -> dict[ConsentId, list[Waiting]]:
        """The parts of connections that have not ended, oldest first."""
        answer = await WAITING.run(self._unit, tenant=self._unit.tenant, connection_ids=sorted(connection_ids))
        return read_waiting(answer)

    def customer(self, part: Waiting) -> Customer:
        """What the customer's session said.

        Raises:
            SealError: it does not open, or is not there.
        """
        if part.customer is None:
            raise SealError("refresh_part.customer: is not there any more")
        place = _place(part.refresh_id, part.connection_id)
        facts = json.loads(open_text(self._unit.keyring, part.customer, **place))
        return Customer(ip=facts["ip"], auth_date=read_iso(facts["auth_date"]), user_agent=facts["user_agent"])

    def ending(self, ends: Sequence[PartEnd], *, at: datetime) -> Told:
        """End parts and destroy what is sealed in them, to be sent with others; those that ended stay as they are."""
        for one in ends:
            self._unit.tally.add(Counted.REFRESHES, word_or_other(one.outcome, REFRESH_OUTCOMES))
        rows = [
            {
                "refresh_id": one.refresh_id,
                "connection_id": one.connection_id,
                "run_gen": one.run_gen,
                "outcome": one.outcome,
                "reason": one.reason,
                "error": one.error,
                "retry_at": one.retry_at,
                "listings": [dict(listing) for listing in one.listings] or None,
            }
            for one in ends
        ]
        return _END, {"of_tenant": self._unit.tenant, "ends": self._unit.dialect.rows(rows), "at": at}

    async def end_open(
        self,
        connection_id: ConsentId,
        *,
        reason: str,
        at: datetime,
        error: str | None = None,
        before_gen: int | None = None,
        retry_at: datetime | None = None,
    ) -> int:
        """End the open parts of a connection that no run serves any more; says how many.

        Args:
            before_gen: only those that a claim of this generation would have served.
        """
        which = [self._open(), refresh_part.c.connection_id == connection_id]
        if before_gen is not None:
            which.append(refresh_part.c.asked_gen < before_gen)
        return await self._end(which, reason=reason, at=at, error=error, retry_at=retry_at)

    async def end_late(self, *, at: datetime) -> int:
        """End the parts that no run served in time; says how many."""
        attended = sa.and_(refresh_part.c.context != "", refresh_part.c.created_at < at - ATTENDED_FOR)
        too_late = sa.or_(attended, refresh_part.c.created_at < at - WAITS_FOR)
        return await self._end([self._open(), too_late], reason=LATE, at=at)

    async def prune(self, *, before: datetime) -> int:
        """Remove refreshes that were asked for before then and have ended; says how many."""
        of_tenant = refresh.c.tenant == self._unit.tenant
        still_open = sa.exists().where(self._open(), refresh_part.c.refresh_id == refresh.c.refresh_id)
        old = sa.select(refresh.c.refresh_id).where(of_tenant, refresh.c.created_at < before, sa.not_(still_open))
        gone = list(await self._unit.connection.scalars(old.limit(1_000)))
        for table in (refresh_part, refresh):
            those = (table.c.tenant == self._unit.tenant, table.c.refresh_id.in_(gone))
            await self._execute(sa.delete(table).where(*those))
        return len(gone)

    async def get(self, refresh_id: str) -> StoredRefresh | None:
        """One refresh with its parts."""
        of_it = (refresh.c.tenant == self._unit.tenant, refresh.c.refresh_id == refresh_id)
        head = (await self._unit.connection.execute(sa.select(refresh).where(*of_it))).first()
        if head is None:
            return None
        number = (
            sa.select(sa.func.max(run.c.id))
            .where(
                run.c.tenant == refresh_part.c.tenant,
                run.c.connection_id == refresh_part.c.connection_id,
                run.c.gen == refresh_part.c.run_gen,
            )
            .scalar_subquery()
        )
        alive = sa.and_(work.c.lease_until.is_not(None), work.c.lease_until > self._unit.dialect.now())
        begun = sa.and_(alive, work.c.started_gen == work.c.gen, work.c.started_gen > refresh_part.c.asked_gen)
        query = (
            sa.select(
                refresh_part,
                connection.c.lfi,
                number.label("run_id"),
                sa.case((begun, work.c.started_gen), else_=None).label("under_way"),
                work.c.parked_at,
            )
            .join(
                connection,
                sa.and_(
                    connection.c.tenant == refresh_part.c.tenant,
                    connection.c.connection_id == refresh_part.c.connection_id,
                ),
            )
            .outerjoin(
                work,
                sa.and_(
                    work.c.tenant == refresh_part.c.tenant,
                    work.c.kind == WorkKind.SYNC.value,
                    work.c.subject == refresh_part.c.connection_id,
                ),
            )
            .where(refresh_part.c.tenant == self._unit.tenant, refresh_part.c.refresh_id == refresh_id)
            .order_by(refresh_part.c.connection_id)
        )
        parts = [_part(row) for row in (await self._unit.connection.execute(query)).mappings()]
        return StoredRefresh(
            refresh_id=refresh_id, created_at=head.created_at, attended=head.attended, parts=tuple(parts)
        )

    async def unended(self, refresh_ids: Collection[str]) -> set[str]:
        """Those of some refreshes of which a part has not ended."""
        query = sa.select(refresh_part.c.refresh_id).where(
            self._open(), refresh_part.c.refresh_id.in_(sorted(refresh_ids))
        )
        return set(await self._unit.connection.scalars(query.distinct()))

    # ----------------------------------------------------------------------------------------------------------------

    def _open(self) -> sa.ColumnElement[bool]:
        return sa.and_(refresh_part.c.tenant == self._unit.tenant, refresh_part.c.ended_at.is_(None))

    async def _end(
        self,
        which: Sequence[sa.ColumnElement[bool]],
        *,
        reason: str,
        at: datetime,
        error: str | None = None,
        retry_at: datetime | None = None,
    ) -> int:
        values = {"ended_at": at, "customer": None, "outcome": "failed"}
        ended = await self._execute(
            sa.update(refresh_part).where(*which).values(**values, reason=reason, error=error, retry_at=retry_at)
        )
        self._unit.tally.add(Counted.REFRESHES, "failed", by=ended.rowcount)
        return ended.rowcount

    def _sealed(self, refresh_id: str, part: NewPart) -> bytes:
        customer = part.customer
        assert customer is not None
        facts = {"ip": customer.ip, "auth_date": customer.auth_date.isoformat(), "user_agent": customer.user_agent}
        return seal_text(self._unit.keyring, json.dumps(facts), **_place(refresh_id, part.connection_id))

    async def _execute(self, statement: Any) -> sa.CursorResult[Any]:
        result: sa.CursorResult[Any] = await self._unit.connection.execute(statement)
        return result


def _place(refresh_id: str, connection_id: str) -> dict[str, str]:
    return {"table": "refresh_part", "column": "customer", "row": f"{refresh_id}/{connection_id}"}


def _random(length: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def _part(row: Mapping[Any, Any]) -> StoredPart:
    return StoredPart(
        connection_id=ConsentId(row["connection_id"]),
        lfi=Slug(row["lfi"]),
        created_at=row["created_at"],
        asked_gen=row["asked_gen"],
        context=row["context"],
        joined=row["joined"],
        wish=read_wish(row["wish"]),
        ended_at=row["ended_at"],
        outcome=row["outcome"],
        reason=row["reason"],
        error=row["error"],
        retry_at=row["retry_at"],
        listings=row["listings"] or (),
        run_id=row["run_id"],
        under_way=row["under_way"],
        parked=row["parked_at"] is not None,
    )
