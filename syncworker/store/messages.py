"""Webhooks to the product: its endpoints, and the messages that wait to be sent to them.

A message is written in the transaction of what it tells, once for each endpoint that wants its type: so it is there
exactly when what it tells is there.  Messages of one endpoint about one connection are sent in the order they were
written; each endpoint and connection is a queue of its own, so that none waits for another.

Of a queue, `heads` gives the first message when its time has come.  Messages `sync.updates_available` that wait one
behind the other are folded into the first as long as no attempt at it was begun.  An attempt is counted before its
request is sent (`begin`): a process that is killed afterwards leaves a message that may have arrived, and what waits
behind it must not be told under an id that the receiver knows already.
"""

import base64
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from pydantic import SecretStr

from syncworker.errors import RequestError
from syncworker.store.changes import Place
from syncworker.store.sealed import open_list, seal_list
from syncworker.store.statements import Statement, Told, named
from syncworker.store.tables import change, run, webhook_endpoint, webhook_message
from syncworker.store.tally import Counted

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

ID_BYTES: Final = 10
SECRETS_MAX: Final = 5
FOLDED_MAX: Final = 500
"""Messages folded into one at a time."""


class MessageType(StrEnum):
    """What a webhook tells."""

    UPDATES_AVAILABLE = "sync.updates_available"
    SYNC_FAILED = "sync.failed"
    CONSENT_EXPIRING = "consent.expiring"
    CONSENT_SUSPENDED = "consent.suspended"
    CONSENT_RESUMED = "consent.resumed"
    CONSENT_PAUSED = "consent.paused"
    CONSENT_REVOKED = "consent.revoked"
    CONSENT_EXPIRED = "consent.expired"
    CONSENT_RENEWED = "consent.renewed"
    NEEDS_CONSENT = "consent.needs_consent"
    ACCOUNT_ADDED = "account.added"
    ACCOUNT_REMOVED = "account.removed"
    OPENING_UPDATED = "opening.updated"
    ENDPOINT_DISABLED = "endpoint.disabled"
    TEST = "test"


class Disabled(StrEnum):
    """Why nothing is sent to an endpoint."""

    OPERATOR = "operator"
    GONE = "gone"  # it answered 410
    FAILING = "failing"  # every attempt of three days failed


class Outcome(StrEnum):
    """How a message ended."""

    DELIVERED = "delivered"
    FOLDED = "folded"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where messages are sent.

    Attributes:
        types: those it wants; empty: every one.
        failing_since: first failed attempt since the last one that succeeded.
        quiet_until: nothing is sent before, since the last attempts failed.
    """

    endpoint_id: str
    url: str
    description: str | None
    types: frozenset[str]
    created_at: datetime
    failing_since: datetime | None = None
    quiet_until: datetime | None = None
    disabled_at: datetime | None = None
    disabled_why: str | None = None
    secrets: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message for one endpoint.

    Attributes:
        message_id: `webhook-id`; the same with every attempt, and with a redelivery.
        gen: of the claim whose changes it tells; 0: it tells none.
        data: what it says.
        not_before: when the next attempt is due.
        attempts: begun so far.
        outcome: `None` while it waits.
    """

    id: int
    endpoint_id: str
    message_id: str
    type: str
    connection_id: str
    gen: int
    data: Mapping[str, Any] = field(repr=False)
    created_at: datetime
    not_before: datetime
    attempts: int
    last_status: int | None = None
    last_error: str | None = None
    ended_at: datetime | None = None
    outcome: str | None = None
    folded_into: int | None = None


_MESSAGE: Final = tuple(Message.__slots__)
_ENDPOINT: Final = (
    "endpoint_id",
    "url",
    "description",
    "created_at",
    "failing_since",
    "quiet_until",
    "disabled_at",
    "disabled_why",
)
_SAME: Final = ("endpoint_id", "connection_id")


def _telling(_: Any) -> Any:
    """A message for every endpoint that wants its type, disabled ones too."""
    column, endpoint = webhook_message.c, webhook_endpoint.c
    wanted: sa.ColumnElement[str] = sa.literal_column("' '") + named(column.type, "of_type") + sa.literal_column("' '")
    given = {
        name: named(column[name], f"as_{name}")
        for name in ("message_id", "type", "connection_id", "gen", "data", "created_at", "not_before")
    }
    those = sa.select(endpoint.tenant, endpoint.endpoint_id, *given.values()).where(
        endpoint.tenant == named(endpoint.tenant, "of_tenant"),
        sa.or_(endpoint.types.is_(None), endpoint.types.contains(wanted)),
    )
    return sa.insert(webhook_message).from_select(("tenant", "endpoint_id", *given), those)


_TELL: Final = Statement(_telling)


class Messages:
    """The tables `webhook_endpoint` and `webhook_message` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    # -- endpoints -----------------------------------------------------------------------------------------------------

    async def add_endpoint(
        self, url: str, *, types: Collection[MessageType] = (), description: str | None = None, at: datetime
    ) -> tuple[Endpoint, SecretStr]:
        """A new endpoint; its signing secret is given here and never again."""
        endpoint_id, secret = new_id("whe"), _new_secret()
        await self._unit.connection.execute(
            sa.insert(webhook_endpoint).values(
                tenant=self._unit.tenant,
                endpoint_id=endpoint_id,
                url=url,
                description=description,
                types=_as_text(types),
                secrets=self._sealed(endpoint_id, [secret]),
                created_at=at,
            )
        )
        found = await self.endpoint(endpoint_id)
        assert found is not None
        return found, SecretStr(secret)

    async def endpoints(self) -> Sequence[Endpoint]:
        """Every endpoint, oldest first."""
        query = self._endpoints().order_by(webhook_endpoint.c.created_at, webhook_endpoint.c.endpoint_id)
        return [self._read(row) for row in (await self._unit.connection.execute(query)).mappings()]

    async def endpoint(self, endpoint_id: str) -> Endpoint | None:
        """One endpoint."""
        query = self._endpoints().where(webhook_endpoint.c.endpoint_id == endpoint_id)
        row = (await self._unit.connection.execute(query)).mappings().first()
        return None if row is None else self._read(row)

    async def secrets_of(self, endpoint_id: str) -> list[SecretStr]:
        """The endpoint's signing secrets, newest first; every one signs.

        Raises:
            SealError: they do not open.
        """
        query = sa.select(webhook_endpoint.c.secrets).where(self._is(endpoint_id))
        sealed = await self._unit.connection.scalar(query)
        return [SecretStr(one) for one in self._opened(endpoint_id, sealed)]

    async def add_secret(self, endpoint_id: str) -> SecretStr | None:
        """Another secret beside those there are, so that the receiver can change over; `None`: no such endpoint.

        Raises:
            RequestError: it has as many as an endpoint may have.
        """
        if await self.endpoint(endpoint_id) is None:
            return None
        held = [one.get_secret_value() for one in await self.secrets_of(endpoint_id)]
        if len(held) >= SECRETS_MAX:
            raise RequestError(f"endpoint_id: it has {SECRETS_MAX} secrets already; drop the old ones first")
        secret = _new_secret()
        await self._change(endpoint_id, secrets=self._sealed(endpoint_id, [secret, *held]))
        return SecretStr(secret)

    async def drop_old_secrets(self, endpoint_id: str) -> int:
        """Sign with the newest secret alone; says how many were dropped."""
        held = [one.get_secret_value() for one in await self.secrets_of(endpoint_id)]
        if held[1:]:
            await self._change(endpoint_id, secrets=self._sealed(endpoint_id, held[:1]))
        return len(held[1:])

    async def change_endpoint(
        self, endpoint_id: str, *, url: str, types: Collection[MessageType], description: str | None
    ) -> bool:
        """Put an endpoint's facts; says whether there is one."""
        return await self._change(endpoint_id, url=url, types=_as_text(types), description=description)

    async def remove_endpoint(self, endpoint_id: str) -> bool:
        """Remove an endpoint and its messages; says whether there was one."""
        column = webhook_message.c
        await self._unit.connection.execute(
            sa.delete(webhook_message).where(column.endpoint_id == endpoint_id, column.tenant == self._unit.tenant)
        )
        gone = await self._unit.connection.execute(sa.delete(webhook_endpoint).where(self._is(endpoint_id)))
        return bool(gone.rowcount)

    async def disable(self, endpoint_id: str, why: Disabled, *, at: datetime) -> bool:
        """Send nothing there any more, messages are kept; says whether that is new."""
        done = await self._unit.connection.execute(
            sa.update(webhook_endpoint)
            .where(self._is(endpoint_id), webhook_endpoint.c.disabled_at.is_(None))
            .values(disabled_at=at, disabled_why=why.value)
        )
        return bool(done.rowcount)

    async def enable(self, endpoint_id: str, *, at: datetime) -> bool:
        """Send there again, what waits first and at once; says whether there is such an endpoint."""
        known = await self._change(
            endpoint_id, disabled_at=None, disabled_why=None, failing_since=None, quiet_until=None
        )
        column = webhook_message.c
        await self._unit.connection.execute(
            sa.update(webhook_message).where(*self._waiting(endpoint_id), column.not_before > at).values(not_before=at)
        )
        return known

    async def note_success(self, endpoint_id: str) -> None:
        """The endpoint took a message."""
        await self._unit.connection.execute(
            sa.update(webhook_endpoint)
            .where(self._is(endpoint_id), webhook_endpoint.c.failing_since.is_not(None))
            .values(failing_since=None, quiet_until=None)
        )

    async def note_failure(self, endpoint_id: str, *, at: datetime, quiet_until: datetime) -> datetime:
        """The endpoint took none of the messages it was sent; since when that is so."""
        column = webhook_endpoint.c.failing_since
        first = sa.func.coalesce(column, sa.bindparam("at", at, type_=column.type))
        await self._change(endpoint_id, failing_since=first, quiet_until=quiet_until)
        since = await self._unit.connection.scalar(sa.select(column).where(self._is(endpoint_id)))
        return since if isinstance(since, datetime) else at

    # -- messages ------------------------------------------------------------------------------------------------------

    def tell(
        self, what: MessageType, data: Mapping[str, Any], *, connection_id: str = "", gen: int = 0, at: datetime
    ) -> None:
        """Write a message for every endpoint that wants its type, with the commit of what it tells.

        Args:
            data: ids, counts, dates and codes only.
            gen: of the claim whose changes it tells.
        """
        self._unit.with_commit([self.telling(what, data, connection_id=connection_id, gen=gen, at=at)])

    def telling(
        self, what: MessageType, data: Mapping[str, Any], *, connection_id: str = "", gen: int = 0, at: datetime
    ) -> Told:
        """`tell`, to be sent with others."""
        return _TELL, {
            "of_tenant": self._unit.tenant,
            "of_type": what.value,
            "as_message_id": new_id("msg"),
            "as_type": what.value,
            "as_connection_id": connection_id,
            "as_gen": gen,
            "as_data": dict(data),
            "as_created_at": at,
            "as_not_before": at,
        }

    async def add_test(self, endpoint_id: str, *, at: datetime) -> int:
        """A message of type `test` for one endpoint; its number."""
        return await self._add(endpoint_id, new_id("msg"), MessageType.TEST.value, "", 0, {}, at=at)

    async def due_endpoints(self, *, now: datetime) -> list[str]:
        """Endpoints for which a message is to be sent now."""
        message, endpoint = webhook_message.c, webhook_endpoint.c
        waiting = sa.exists().where(
            message.endpoint_id == endpoint.endpoint_id,
            message.tenant == endpoint.tenant,
            message.ended_at.is_(None),
            message.not_before <= now,
        )
        query = sa.select(endpoint.endpoint_id).where(
            endpoint.tenant == self._unit.tenant,
            endpoint.disabled_at.is_(None),
            sa.or_(endpoint.quiet_until.is_(None), endpoint.quiet_until <= now),
            waiting,
        )
        return list(await self._unit.connection.scalars(query.order_by(endpoint.endpoint_id)))

    async def heads(self, endpoint_id: str, *, now: datetime, limit: int) -> list[Message]:
        """The first message of each of the endpoint's queues whose time has come; those tried least often first."""
        column = webhook_message.c
        earlier = webhook_message.alias("earlier")
        behind = sa.exists().where(
            earlier.c.endpoint_id == column.endpoint_id,
            earlier.c.connection_id == column.connection_id,
            earlier.c.tenant == column.tenant,
            earlier.c.ended_at.is_(None),
            earlier.c.id < column.id,
        )
        query = self._messages().where(*self._waiting(endpoint_id), column.not_before <= now, ~behind)
        return await self._found(query.order_by(column.attempts, column.id).limit(limit))

    async def head_of(self, endpoint_id: str, connection_id: str) -> Message | None:
        """The first message of one queue, whether its time has come or not."""
        column = webhook_message.c
        query = self._messages().where(*self._waiting(endpoint_id), column.connection_id == connection_id)
        return next(iter(await self._found(query.order_by(column.id).limit(1))), None)

    async def behind(self, head: Message) -> list[Message]:
        """What waits in a queue directly behind its head and is of the head's type, in order."""
        column = webhook_message.c
        query = self._messages().where(
            *self._waiting(head.endpoint_id), column.connection_id == head.connection_id, column.id > head.id
        )
        following = await self._found(query.order_by(column.id).limit(FOLDED_MAX))
        same: list[Message] = []
        for one in following:
            if one.type != head.type:
                break
            same.append(one)
        return same

    async def fold(self, head: Message, those: Sequence[Message], data: Mapping[str, Any], *, at: datetime) -> None:
        """Let the head tell what those behind it tell, before it is sent for the first time."""
        column = webhook_message.c
        await self._unit.connection.execute(
            sa.update(webhook_message).where(column.id == head.id, self._mine()).values(data=dict(data))
        )
        await self._unit.connection.execute(
            sa.update(webhook_message)
            .where(column.id.in_([one.id for one in those]), self._mine())
            .values(ended_at=at, outcome=Outcome.FOLDED.value, folded_into=head.id)
        )
        self._unit.tally.add(Counted.DELIVERIES, Outcome.FOLDED.value, by=len(those))

    async def begin(self, number: int) -> None:
        """Count an attempt, in a transaction that commits before the request is sent."""
        column = webhook_message.c
        await self._unit.connection.execute(
            sa.update(webhook_message).where(column.id == number, self._mine()).values(attempts=column.attempts + 1)
        )

    async def end(self, number: int, outcome: Outcome, *, at: datetime, status: int | None, error: str | None) -> None:
        """A message came to its end."""
        await self._attempted(number, status=status, error=error, ended_at=at, outcome=outcome.value)
        self._unit.tally.add(Counted.DELIVERIES, outcome.value)

    async def put_off(self, number: int, *, until: datetime, status: int | None, error: str) -> None:
        """A message was not taken: the next attempt is at `until`."""
        await self._attempted(number, status=status, error=error, not_before=until)
        self._unit.tally.add(Counted.DELIVERIES, "put_off")

    async def first_place(self, connection_id: str, gen: int) -> Place | None:
        """Where in the feed the changes of a claim begin, or those of a later one where its own are gone.

        `None`: none is left.
        """
        column = change.c
        query = (
            sa.select(column.epoch, column.txid, column.seq)
            .where(
                column.connection_id == connection_id,
                self._unit.dialect.aside(column.tenant) == self._unit.tenant,
                column.gen >= gen,
            )
            .order_by(column.epoch, column.txid, column.seq)
            .limit(1)
        )
        row = (await self._unit.connection.execute(query)).first()
        return None if row is None else Place(*row)

    async def run_of(self, connection_id: str, gen: int) -> int | None:
        """Number of the run of a claim; `None` until it has ended."""
        query = sa.select(run.c.id).where(
            run.c.tenant == self._unit.tenant, run.c.connection_id == connection_id, run.c.gen == gen
        )
        return await self._unit.connection.scalar(query.order_by(run.c.id.desc()).limit(1))

    async def find(
        self, *, endpoint_id: str | None = None, waiting: bool | None = None, number: int | None = None, limit: int = 50
    ) -> Sequence[Message]:
        """Messages, newest first, as far as every condition given holds."""
        column = webhook_message.c
        query = self._messages().where(self._mine())
        if endpoint_id is not None:
            query = query.where(column.endpoint_id == endpoint_id)
        if waiting is not None:
            query = query.where(column.ended_at.is_(None) if waiting else column.ended_at.is_not(None))
        if number is not None:
            query = query.where(column.id == number)
        return await self._found(query.order_by(column.id.desc()).limit(limit))

    async def redeliver(
        self, endpoint_id: str, *, numbers: Collection[int] = (), since: datetime | None = None, at: datetime
    ) -> int:
        """Send messages that have ended once more, behind what waits and under their own `webhook-id`.

        Args:
            numbers: these; empty: all written since `since`.

        Returns:
            How many.
        """
        column = webhook_message.c
        query = self._messages().where(
            self._mine(),
            column.endpoint_id == endpoint_id,
            column.ended_at.is_not(None),
            column.outcome != Outcome.FOLDED.value,
        )
        if numbers:
            query = query.where(column.id.in_(sorted(numbers)))
        if since is not None:
            query = query.where(column.created_at >= since)
        again = await self._found(query.order_by(column.id))
        for one in again:
            await self._add(endpoint_id, one.message_id, one.type, one.connection_id, one.gen, one.data, at=at)
        return len(again)

    async def prune(self, *, before: datetime, limit: int) -> int:
        """Remove messages written before an instant, whatever became of them; says how many."""
        column = webhook_message.c
        old = sa.select(column.id).where(column.created_at < before, self._mine()).limit(limit)
        gone = await self._unit.connection.execute(sa.delete(webhook_message).where(column.id.in_(old)))
        return gone.rowcount

    async def backlog(self) -> Mapping[str, tuple[int, datetime]]:
        """Of each endpoint with messages that wait: how many, and since when the oldest."""
        column = webhook_message.c
        query = (
            sa.select(column.endpoint_id, sa.func.count(), sa.func.min(column.created_at))
            .where(self._mine(), column.ended_at.is_(None))
            .group_by(column.endpoint_id)
        )
        return {name: (int(count), oldest) for name, count, oldest in await self._unit.connection.execute(query)}

    # ------------------------------------------------------------------------------------------------------------------

    async def _add(
        self, endpoint_id: str, message_id: str, kind: str, connection_id: str, gen: int, data: Mapping[str, Any], *,
        at: datetime,
    ) -> int:  # fmt: skip
        added = await self._unit.connection.execute(
            sa.insert(webhook_message)
            .values(
                tenant=self._unit.tenant,
                endpoint_id=endpoint_id,
                message_id=message_id,
                type=kind,
                connection_id=connection_id,
                gen=gen,
                data=dict(data),
                created_at=at,
                not_before=at,
            )
            .returning(webhook_message.c.id)
        )
        return int(added.scalar_one())

    async def _attempted(self, number: int, *, status: int | None, error: str | None, **values: Any) -> None:
        column = webhook_message.c
        await self._unit.connection.execute(
            sa.update(webhook_message)
            .where(column.id == number, self._mine())
            .values(last_status=status, last_error=error, **values)
        )

    async def _change(self, endpoint_id: str, **values: Any) -> bool:
        done = await self._unit.connection.execute(
            sa.update(webhook_endpoint).where(self._is(endpoint_id)).values(**values)
        )
        return bool(done.rowcount)

    async def _found(self, query: sa.Select[Any]) -> list[Message]:
        return [Message(**dict(row)) for row in (await self._unit.connection.execute(query)).mappings()]

    def _endpoints(self) -> sa.Select[Any]:
        column = webhook_endpoint.c
        return sa.select(*(column[name] for name in _ENDPOINT), column.types, column.secrets).where(
            column.tenant == self._unit.tenant
        )

    def _messages(self) -> sa.Select[Any]:
        return sa.select(*(webhook_message.c[name] for name in _MESSAGE))

    def _is(self, endpoint_id: str) -> sa.ColumnElement[bool]:
        column = webhook_endpoint.c
        return sa.and_(column.tenant == self._unit.tenant, column.endpoint_id == endpoint_id)

    def _mine(self) -> sa.ColumnElement[bool]:
        return webhook_message.c.tenant == self._unit.tenant

    def _waiting(self, endpoint_id: str) -> tuple[sa.ColumnElement[bool], ...]:
        column = webhook_message.c
        return self._mine(), column.endpoint_id == endpoint_id, column.ended_at.is_(None)

    def _read(self, row: Mapping[Any, Any]) -> Endpoint:
        facts = {name: row[name] for name in _ENDPOINT}
        secrets_held = len(self._opened(row["endpoint_id"], row["secrets"]))
        return Endpoint(**facts, types=frozenset((row["types"] or "").split()), secrets=secrets_held)

    def _sealed(self, endpoint_id: str, values: Sequence[str]) -> bytes:
        return seal_list(self._unit.keyring, values, table="webhook_endpoint", column="secrets", row=endpoint_id)

    def _opened(self, endpoint_id: str, sealed: bytes | None) -> list[str]:
        return open_list(
            self._unit.keyring,
            None if sealed is None else bytes(sealed),
            table="webhook_endpoint",
            column="secrets",
            row=endpoint_id,
        )


def new_id(prefix: str) -> str:
    """An id that cannot be guessed: the prefix and 20 hexadecimal digits."""
    return f"{prefix}_{secrets.token_hex(ID_BYTES)}"


def _new_secret() -> str:
    """A signing secret as Standard Webhooks writes it: 32 random bytes in base64 behind `whsec_`."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _as_text(types: Collection[MessageType]) -> str | None:
    return f" {' '.join(sorted(one.value for one in types))} " if types else None
