"""What a repository writes for one tenant leaves the rows of another as they are, though they have the same ids."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from hashlib import sha256
from typing import Any, Final, get_type_hints

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from syncworker.standard.consents import ConsentRequest, ConsentView, Status
from syncworker.standard.events import Event, EventKind
from syncworker.standard.openings import OpeningState, OpeningVersion, OpeningView
from syncworker.standard.operations import OperationClass
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import AccountId, ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.account_references import NamedAccount
from syncworker.store.api_keys import Scope
from syncworker.store.authorizations import StoredAuthorization, StoredIntent
from syncworker.store.breakers import Breaker
from syncworker.store.calls import CallRow
from syncworker.store.causes import Judged, Observed
from syncworker.store.changes import Op, RowChanges
from syncworker.store.clocks import ClockOffset
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.cursors import Attempt, Checked, Covered, Cursor, Listing
from syncworker.store.erasure import DataClass
from syncworker.store.exports import Outcome as ExportOutcome
from syncworker.store.filling import HeldRow, Place
from syncworker.store.findings import Cleared, Found
from syncworker.store.inbox import Arrival, EventState, Refused
from syncworker.store.keyring import KeyRing
from syncworker.store.lfis import LFIChange
from syncworker.store.messages import Disabled, Message, MessageType, Outcome
from syncworker.store.openings import ShareWish, StoredOpening
from syncworker.store.ops_sessions import Ends
from syncworker.store.overview import Usual
from syncworker.store.records import Ended, Record
from syncworker.store.refreshes import Customer, NewPart, PartEnd, Wish
from syncworker.store.runs import RunRow
from syncworker.store.statements import run_all
from syncworker.store.tables import consent as consent_table
from syncworker.store.tables import (
    event,
    metadata,
    ops_session,
    party,
    refused_event,
    tenant_key,
    typed_columns,
    webhook_endpoint,
    webhook_message,
    work,
)
from syncworker.store.tables import transaction as transaction_table
from syncworker.store.tenant_keys import Purpose
from syncworker.store.tokens import IN_DOUBT, Beginning, ImportedToken, NewToken
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.unreadable import Remembered, Sighting
from syncworker.store.work import Claim, End, WorkKind
from tests.ground.clock import ManualClock
from tests.ground.postgres import PostgresServer

pytestmark = pytest.mark.store

NOW: Final = datetime(2026, 11, 21, 10, tzinfo=UTC)
LATER: Final = NOW + timedelta(hours=1)
OURS, THEIRS = "default", "other"

C1, C2 = ConsentId("c1"), ConsentId("c2")
BANK: Final = Slug("bank")
ACCOUNT: Final = "a1"
TX: Final = ResourceName.TRANSACTIONS
PLACE: Final = Place(C1, ACCOUNT, "k1")
HELD: Final = HeldRow(
    place=PLACE, resource=TX, raw=b"", columns=tuple(None for _ in typed_columns(transaction_table)), digest=b"", gen=1
)
LISTING: Final = Listing(ACCOUNT, TX)
UNREADABLE: Final = b"u" * 16
KEYS: Final = {ACCOUNT: ["k1", "k2"]}

ENDPOINT: Final = "whe_the_same"
MESSAGE: Final = Message(
    id=0,
    endpoint_id=ENDPOINT,
    message_id="msg_one",
    type="test",
    connection_id=C1,
    gen=0,
    data={},
    created_at=NOW,
    not_before=NOW,
    attempts=0,
)

Act = Callable[[UnitOfWork], Awaitable[object]]


@dataclass(frozen=True)
class Write:
    """A writing method, called.

    Attributes:
        act: for our tenant.
        before: for both, so that a row of the other could be hit as well.
        writes: `False` for one that changes only rows of no tenant, or locks.
    """

    act: Act
    before: Act | None = None
    writes: bool = True


# -- what both tenants hold ------------------------------------------------------------------------------------------


def consent(name: ConsentId, **changes: Any) -> StoredConsent:
    facts = StoredConsent(
        consent_id=name, connection_id=C1, lfi=BANK, user_ref="user", version=Version.V2_1,
        status=Status.Authorized.value, status_updated_at=NOW, status_seen_at=NOW, permissions=("ReadBalances",),
        expires_at=NOW + timedelta(days=90), user_type="Retail", purpose="AccountAggregation", created_at=NOW,
        raw={"ConsentId": name},
    )  # fmt: skip
    return replace(facts, **changes)


def connection(name: ConsentId) -> Connection:
    return Connection(connection_id=name, lfi=BANK, user_ref="user", created_at=NOW)


def new_token(name: str) -> NewToken:
    return NewToken(
        access_token=SecretStr(f"access {name}"),
        refresh_token=SecretStr(f"refresh {name}"),
        issued_at=NOW,
        expires_at=LATER,
        certificate="thumb",
    )


def imported(consent_id: ConsentId) -> ImportedToken:
    return ImportedToken(consent_id=consent_id, refresh_token=SecretStr("from outside"))


IDENTIFIER = ("IBAN", "AE07", None)


def record(key: str, digest: bytes = b"d" * 16) -> Record:
    return Record(key, tuple(None for _ in typed_columns(transaction_table)), b'{"TransactionId":"1"}', digest)


def authorization(state: str, consent_id: ConsentId) -> StoredAuthorization:
    return StoredAuthorization(
        state=state, consent_id=consent_id, lfi=BANK, version=Version.V2_1, user_ref="user", issuer="issuer",
        nonce="nonce", code_verifier=SecretStr("verifier"), request_uri=SecretStr("uri"), request=[{}],
        created_at=NOW, expires_at=LATER, intent_id="intent-1",
    )  # fmt: skip


def intent(name: str) -> StoredIntent:
    request = ConsentRequest(permissions=("ReadBalances",), expires_at=NOW + timedelta(days=90))
    return StoredIntent(
        intent_id=name, lfi=BANK, user_ref="user", version=None, request=request, created_at=NOW, expires_at=LATER
    )


def opening(name: str) -> StoredOpening:
    return StoredOpening(
        opening_id=name, lfi=BANK, version=OpeningVersion.V2_1, user_ref="user", state=OpeningState.SENDING,
        state_since=NOW, created_at=NOW,
    )  # fmt: skip


def arrival(name: str, state: EventState = EventState.QUARANTINED) -> Arrival:
    read = Event(kind=EventKind.CONSENT, subject=C1, digest=sha256(name.encode()).digest())
    return Arrival(
        event=read, issuer="issuer", jti=name, bearer_jti=None, lfi=BANK, state=state, outcome=None, content=b"{}",
        interaction_id="one",
    )  # fmt: skip


def refused(name: str) -> Refused:
    return Refused(
        digest=sha256(name.encode()).digest(), why="unknown_sender", address="one", media_type="application/jwt",
        size=2, kid=None, issuer=None, received_at=NOW, last_at=NOW, body=b"{}",
    )  # fmt: skip


def sighting(digest: bytes) -> Sighting:
    return Sighting(now=Remembered(digest=digest, shown_since=NOW), page=1, path="Amount", reason="x", raw=b"{}")


def run(**changes: Any) -> RunRow:
    facts = RunRow(
        connection_id=C1, consent_id=C1, lfi=BANK, gen=1, started_at=NOW, ended_at=NOW, outcome="ok", error=None,
        calls=1, pages=1, pages_unchanged=0, added=0, modified=0, removed=0, steps=[],
    )  # fmt: skip
    return replace(facts, **changes)


CALL: Final = CallRow(
    lfi=BANK, consent_id=C1, operation="balances", status=200, error=None, interaction_id="one", started_at=NOW,
    duration_ms=1, bytes_in=1, attended=False, price_millifils=0,
)  # fmt: skip
FOUND: Final = Found(lfi=BANK, operation="balances", code="refused_401", times=1, connection_id=C1, consent_id=C1)
CURSOR: Final = Cursor(listing=LISTING, due_at=NOW, gen=1, pages=b"pages", checked_at=NOW)
WINDOW: Final = Covered(from_date=date(2026, 1, 1), to_date=date(2026, 2, 1), walked_at=NOW, pages=1, items=1)
BREAKER: Final = Breaker(
    lfi=BANK, operations=OperationClass.DATA, opened_at=NOW, until=LATER, trips=1, reason="x", closed_at=None
)


async def furnish(unit: UnitOfWork) -> None:
    """One of everything; work rows of every kind, two rows of what is listed."""
    await unit.lfis.add(BANK, {"name": "bank"}, at=NOW, directory={"name": "Bank"})
    await unit.lfis.close_gate(BANK, until=LATER)
    await unit.lfis.add_changes([LFIChange(slug=BANK, seen_at=NOW, what="added")])
    await unit.lfis.reserve(BANK, interval=timedelta(1), burst=timedelta(1), patience=timedelta(9), calls=1)
    await unit.breakers.put(BREAKER)
    await unit.consents.add_connections([connection(C1)])
    await unit.consents.add(consent(C1))
    await unit.consents.add(consent(C2, base_consent_id=C1, created_at=LATER))
    await unit.consents.note("noted", subject=C1, facts={}, at=NOW)
    await unit.tokens.put_first(C1, new_token("one"))
    await unit.authorizations.add(authorization("state-1", C1))
    await unit.intents.add(intent("intent-1"))
    await unit.renewals.decide(C1, {30: None}, expires_at=LATER, at=NOW)
    await unit.openings.add(opening("opening-1"), request=b"{}")
    await unit.work.schedule_sooner([(kind, C1, BANK, NOW - timedelta(hours=1)) for kind in WorkKind])
    await unit.inbox.file_all([arrival("one"), arrival("two", EventState.FILED)], at=NOW)
    await unit.inbox.refuse(refused("one"))
    await unit.records.upsert(TX, C1, {ACCOUNT: [record("k1"), record("k2")]}, gen=1, at=NOW)
    await unit.records.upsert(ResourceName.PARTIES, C1, {"": [_party("p1")]}, gen=1, at=NOW)
    await unit.records.keep_identifiers(C1, {ACCOUNT: [IDENTIFIER, IDENTIFIER]}, gen=1)
    await unit.records.grant(C1, C1, [ACCOUNT], at=NOW)
    await unit.account_references.keep([NamedAccount(C1, ACCOUNT, None)], at=NOW)
    await unit.tenant_keys.key(Purpose.IDENTITY)
    await unit.fillings.begin(1, at=NOW)
    await unit.cursors.advance(C1, [CURSOR])
    await unit.cursors.cover(C1, {LISTING: WINDOW}, held={LISTING: ()}, gen=1)
    await unit.changes.append(C1, [RowChanges(ACCOUNT, TX, Op.ADDED, ["k1"])], at=NOW, gen=1)
    await unit.runs.add_calls([CALL], run_id=await unit.runs.add(run()))
    await unit.clocks.keep([_offset(1)])
    await unit.lfis.ignores_filter(BANK, TX, at=NOW)
    await unit.unreadable.keep(C1, C1, LISTING, [sighting(UNREADABLE)], known=(), at=NOW)
    await run_all(unit, [unit.findings.meeting([FOUND], at=NOW)])
    await unit.refreshes.add("refresh-1", key_id="k", attended=True, at=NOW, digests=(b"i" * 32, b"b" * 32))
    await unit.refreshes.add_parts("refresh-1", [PART], at=NOW)
    await unit.exports.reserve("nightly", beyond=0, target="out", format="parquet")
    await unit.send()


def _party(key: str) -> Record:
    return Record(key, tuple(None for _ in typed_columns(party)), b"{}", b"d" * 16)


def _offset(seconds: int) -> ClockOffset:
    return ClockOffset(host="one", peer="bank", offset=timedelta(seconds=seconds), within=timedelta(0), measured_at=NOW)


def seen_cause(key: str) -> Observed:
    return Observed(key.partition(":")[0], key, NOW, 1, 0, 0)


def judged_at(at: datetime) -> Judged:
    return Judged(C1, at, TX.value, ACCOUNT, at, at)


PART: Final = NewPart(
    connection_id=C1, asked_gen=0, wish=Wish(), context="x", customer=Customer(ip="203.0.113.7", auth_date=NOW)
)

# -- the writing methods ---------------------------------------------------------------------------------------------


async def ids(unit: UnitOfWork, table: sa.Table) -> list[int]:
    """Ids of everybody's rows: they are one series, and one of another tenant can be given."""
    return list(await unit.connection.scalars(sa.select(table.c.id).order_by(table.c.id)))


def each(table: sa.Table, act: Callable[[UnitOfWork, int], Awaitable[object]]) -> Act:
    """A method for one id, called for everybody's."""

    async def all_of_them(unit: UnitOfWork) -> None:
        for one in await ids(unit, table):
            await act(unit, one)

    return all_of_them


async def claims(unit: UnitOfWork) -> list[Claim]:
    """Everybody's newest claims, as a worker could name them."""
    rows = await unit.connection.execute(sa.select(work.c.id, work.c.kind, work.c.gen).order_by(work.c.id))
    return [Claim(row.id, WorkKind(row.kind), C1, BANK, row.gen) for row in rows]


async def claimed(unit: UnitOfWork) -> None:
    await unit.work.claim_one(WorkKind.SYNC, C1)
    await unit.send()


async def begun(unit: UnitOfWork) -> None:
    await claimed(unit)
    await unit.work.take_many([(one.id, one.gen) for one in await claims(unit)])


async def leased(unit: UnitOfWork) -> None:
    await unit.tokens.begin(C1, version=1, holder="me", lease=timedelta(minutes=1))


async def called(unit: UnitOfWork) -> None:
    """A refresh under way whose call has no row yet."""
    await unit.tokens.begin(C1, version=1, holder="me", lease=timedelta(minutes=1), call="call-1")


async def end_refresh(unit: UnitOfWork) -> None:
    end = PartEnd(refresh_id="refresh-1", connection_id=C1, outcome="complete")
    await run_all(unit, [unit.refreshes.ending([end], at=LATER)])


async def ask_again(unit: UnitOfWork) -> None:
    await run_all(unit, [unit.work.asking_again(await claims(unit))])


async def parked(unit: UnitOfWork) -> None:
    for one in await ids(unit, work):
        await unit.work.park(one)


async def spare(unit: UnitOfWork) -> None:
    await unit.tokens.keep_spare(C1, SecretStr("spare"))


async def crashed(unit: UnitOfWork) -> None:
    await unit.connection.execute(
        sa.update(work)
        .where(work.c.tenant == unit.tenant, work.c.kind == "sync")
        .values(crashes=9, gen=3, started_gen=3, lease_until=NOW - timedelta(days=1))
    )


async def missed(unit: UnitOfWork) -> None:
    await unit.records.miss(TX, C1, KEYS, gen=1, at=NOW)


async def ended(unit: UnitOfWork) -> None:
    """As if the consents had ended before connections were marked."""
    await unit.connection.execute(
        sa.update(consent_table).where(consent_table.c.tenant == unit.tenant).values(status="Revoked")
    )


def together(*acts: Act) -> Act:
    async def one_after_the_other(unit: UnitOfWork) -> None:
        for act in acts:
            await act(unit)

    return one_after_the_other


async def free_gate(unit: UnitOfWork) -> None:
    await unit.lfis.open_gate(BANK)


async def finish_all(unit: UnitOfWork) -> None:
    for one in await claims(unit):
        await unit.work.finish(one, due_at=LATER, outcome="ok", good=True)


async def finishing_all(unit: UnitOfWork) -> None:
    ends = [End(claim=one, due_at=LATER, outcome="ok", good=True) for one in await claims(unit)]
    await run_all(unit, [unit.work.finishing(ends)])


async def extend_all(unit: UnitOfWork) -> None:
    for one in await claims(unit):
        await unit.work.extend(one, lease=timedelta(hours=9))


async def extend_many(unit: UnitOfWork) -> None:
    await unit.work.extend_many(await claims(unit), lease=timedelta(hours=9))


async def take_each(unit: UnitOfWork) -> None:
    for one in await claims(unit):
        await unit.work.take(one.id, one.gen)


async def take_all(unit: UnitOfWork) -> None:
    await unit.work.take_many([(one.id, one.gen) for one in await claims(unit)])


async def give_back_all(unit: UnitOfWork) -> None:
    await unit.work.give_back(await claims(unit))


async def give_back_hints(unit: UnitOfWork) -> None:
    await unit.work.give_back_hints([(one.id, one.gen) for one in await claims(unit)])


async def note_use(unit: UnitOfWork) -> None:
    for key in await unit.api_keys.list():
        await unit.api_keys.note_use(key.key_id, at=LATER)


async def revoke_keys(unit: UnitOfWork) -> None:
    for key in await unit.api_keys.list():
        await unit.api_keys.revoke(key.key_id, at=LATER)


SESSION: Final = SecretStr("the-same-session")
ENDS: Final = Ends(idle=timedelta(hours=1), absolute=timedelta(days=1))


async def same_session(unit: UnitOfWork) -> None:
    """Ids are random; both tenants are given one session with the very id."""
    await same_key(unit)
    await unit.connection.execute(
        sa.insert(ops_session).values(
            tenant=unit.tenant,
            digest=sha256(SESSION.get_secret_value().encode()).digest(),
            key_id="the-same-key",
            created_at=NOW,
            last_seen_at=NOW,
        )
    )


async def same_key(unit: UnitOfWork) -> None:
    """Keys are random; the other tenant is given the very id of ours."""
    from syncworker.store.tables import api_key

    _, _ = await unit.api_keys.create("one", [next(iter(Scope))], at=NOW)
    await unit.connection.execute(
        sa.update(api_key).where(api_key.c.tenant == unit.tenant).values(key_id="the-same-key")
    )


async def same_endpoint(unit: UnitOfWork) -> None:
    """An endpoint of the same id for both, with messages that wait and one that ended."""
    await unit.messages.add_endpoint("https://product.example/", at=NOW)
    sealed = unit.messages._sealed(ENDPOINT, ["whsec_b25l", "whsec_dHdv"])
    await unit.connection.execute(
        sa.update(webhook_endpoint)
        .where(webhook_endpoint.c.tenant == unit.tenant)
        .values(endpoint_id=ENDPOINT, secrets=sealed, failing_since=NOW)
    )
    for connection_id in (C1, C1, C2):
        unit.messages.tell(MessageType.UPDATES_AVAILABLE, {}, connection_id=connection_id, at=NOW)
    await unit.send()
    number = min(one.id for one in await unit.messages.find())
    await unit.messages.end(number, Outcome.DELIVERED, at=NOW, status=204, error=None)


async def fold_all(unit: UnitOfWork) -> None:
    """Everybody's messages folded into each of everybody's."""
    numbers = await ids(unit, webhook_message)
    those = [replace(MESSAGE, id=number) for number in numbers]
    for one in those:
        await unit.messages.fold(one, [other for other in those if other != one], {"counts": {}}, at=LATER)


async def tell(unit: UnitOfWork) -> None:
    """A message, with the commit."""
    unit.messages.tell(MessageType.TEST, {}, connection_id=C1, at=NOW)
    await unit.send()


async def told(unit: UnitOfWork) -> None:
    """A message, sent with others."""
    await run_all(unit, [unit.messages.telling(MessageType.TEST, {}, connection_id=C1, at=NOW)])


async def old_consents(unit: UnitOfWork) -> None:
    held = await unit.consents.get(C2)
    assert held is not None
    await unit.renewals.end_older_grants(held, at=LATER)


async def seen_again(unit: UnitOfWork) -> None:
    held = await unit.consents.get(C1)
    assert held is not None
    view = ConsentView(
        consent_id=C1, status=held.status, status_updated_at=held.status_updated_at, permissions=held.permissions,
        expires_at=held.expires_at, raw={"ConsentId": "c1", "new": True},
    )  # fmt: skip
    assert unit.consents.seen_again(held, view, at=LATER)


async def keep_before(unit: UnitOfWork) -> None:
    await run_all(unit, unit.records.keeping_before(TX, C1, KEYS, op=Ended.MODIFIED, gen=2, at=LATER))


async def receiving(unit: UnitOfWork) -> None:
    await run_all(unit, [unit.consents.receiving([C1], at=LATER)])


async def checking(unit: UnitOfWork) -> None:
    one = Checked(connection_id=C1, account_id=ACCOUNT, resource=TX, due_at=LATER, gen=2)
    await run_all(unit, [unit.cursors.checking([one], at=LATER)])


async def recovering(unit: UnitOfWork) -> None:
    one = Checked(connection_id=C1, account_id=ACCOUNT, resource=TX, due_at=LATER, gen=2)
    await run_all(unit, [unit.cursors.recovering([one], at=LATER)])


async def scheduling(unit: UnitOfWork) -> None:
    await run_all(unit, [unit.work.scheduling(WorkKind.SYNC, [(C1, BANK, LATER)])])


async def meeting(unit: UnitOfWork) -> None:
    await run_all(unit, [unit.findings.meeting([FOUND], at=LATER)])


async def clearing(unit: UnitOfWork) -> None:
    gone = Cleared(lfi=BANK, operation=FOUND.operation, connection_id=C1, last_seen_before=LATER)
    await run_all(unit, [unit.findings.clearing([gone], at=LATER)])


async def end_filed(unit: UnitOfWork) -> None:
    await unit.inbox.end_filed(dict.fromkeys(await ids(unit, event), "x"), at=LATER, asked_at=LATER)


async def note_asked(unit: UnitOfWork) -> None:
    await unit.inbox.note_asked(await ids(unit, event), asked_at=LATER)


async def swap_locked(unit: UnitOfWork) -> None:
    unit.tokens.swap_locked([(C1, 1, new_token("two"))])
    await unit.send()


async def begin_many(unit: UnitOfWork) -> None:
    await unit.tokens.begin_many([Beginning(C1, 1, timedelta(minutes=1))], holder="me")
    await unit.send()


_ATTEMPT: Final = Attempt(listing=LISTING, at=LATER, due_at=LATER, outcome="failed", error="x", refused_until=None)
_WIDER: Final = replace(WINDOW, from_date=date(2025, 1, 1))
_BALANCE: Final = Record(
    "b1",
    ("InterimBooked", "AED", "Credit", Decimal(1), Decimal(1), NOW),
    b"{}",
    b"d" * 16,
)

WRITES: Final[Mapping[str, Write]] = {
    "account_references.keep": Write(
        lambda unit: unit.account_references.keep([NamedAccount(C1, ACCOUNT, "AE070331234567890123456")], at=LATER)
    ),
    "tenant_keys.key": Write(
        lambda unit: unit.tenant_keys.key(Purpose.IDENTITY),
        before=lambda unit: unit.connection.execute(sa.delete(tenant_key)),
    ),
    "tenant_keys.reseal": Write(lambda unit: unit.tenant_keys.reseal(), writes=False),
    "fillings.begin": Write(lambda unit: unit.fillings.begin(2, at=LATER)),
    "fillings.unchanged": Write(lambda unit: unit.fillings.unchanged(transaction_table, None, [HELD]), writes=False),
    "fillings.fill": Write(
        lambda unit: unit.fillings.fill(transaction_table, {PLACE: tuple(None for _ in HELD.columns)}),
        before=lambda unit: unit.connection.execute(sa.update(transaction_table).values(status="Booked")),
    ),
    "fillings.advance": Write(
        lambda unit: unit.fillings.advance(transaction_table, 1, after=PLACE, done=1, skipped=0)
    ),
    "fillings.end": Write(lambda unit: unit.fillings.end(transaction_table, 1, at=LATER)),
    "messages.add_endpoint": Write(lambda unit: unit.messages.add_endpoint("https://two.example/", at=NOW)),
    "messages.add_secret": Write(lambda unit: unit.messages.add_secret(ENDPOINT), before=same_endpoint),
    "messages.drop_old_secrets": Write(lambda unit: unit.messages.drop_old_secrets(ENDPOINT), before=same_endpoint),
    "messages.change_endpoint": Write(
        lambda unit: unit.messages.change_endpoint(ENDPOINT, url="https://two.example/", types=(), description="two"),
        before=same_endpoint,
    ),
    "messages.remove_endpoint": Write(lambda unit: unit.messages.remove_endpoint(ENDPOINT), before=same_endpoint),
    "messages.disable": Write(
        lambda unit: unit.messages.disable(ENDPOINT, Disabled.OPERATOR, at=LATER), before=same_endpoint
    ),
    "messages.enable": Write(lambda unit: unit.messages.enable(ENDPOINT, at=NOW), before=same_endpoint),
    "messages.note_success": Write(lambda unit: unit.messages.note_success(ENDPOINT), before=same_endpoint),
    "messages.note_failure": Write(
        lambda unit: unit.messages.note_failure(ENDPOINT, at=LATER, quiet_until=LATER), before=same_endpoint
    ),
    "messages.tell": Write(tell, before=same_endpoint),
    "messages.telling": Write(told, before=same_endpoint),
    "messages.add_test": Write(lambda unit: unit.messages.add_test(ENDPOINT, at=NOW), before=same_endpoint),
    "messages.fold": Write(fold_all, before=same_endpoint),
    "messages.begin": Write(
        each(webhook_message, lambda unit, one: unit.messages.begin(one)), before=same_endpoint
    ),
    "messages.end": Write(
        each(
            webhook_message,
            lambda unit, one: unit.messages.end(one, Outcome.GIVEN_UP, at=LATER, status=400, error="refused"),
        ),
        before=same_endpoint,
    ),
    "messages.put_off": Write(
        each(
            webhook_message,
            lambda unit, one: unit.messages.put_off(one, until=LATER, status=500, error="unavailable"),
        ),
        before=same_endpoint,
    ),
    "messages.redeliver": Write(
        lambda unit: unit.messages.redeliver(ENDPOINT, since=NOW, at=LATER), before=same_endpoint
    ),
    "messages.prune": Write(lambda unit: unit.messages.prune(before=LATER, limit=100), before=same_endpoint),
    "refreshes.add": Write(lambda unit: unit.refreshes.add("refresh-2", key_id="k", attended=False, at=NOW)),
    "refreshes.add_parts": Write(lambda unit: unit.refreshes.add_parts("refresh-2", [PART], at=NOW)),
    "exports.reserve": Write(lambda unit: unit.exports.reserve("other", beyond=6, target="out", format="csv")),
    "exports.extend": Write(lambda unit: unit.exports.extend("nightly", 1, lease=timedelta(hours=1))),
    "exports.end": Write(lambda unit: unit.exports.end("nightly", 1, ExportOutcome.FAILED, error="stopping")),
    "refreshes.of_idempotency": Write(lambda unit: unit.refreshes.of_idempotency(b"i" * 32, since=LATER)),
    "refreshes.ending": Write(end_refresh),
    "refreshes.end_open": Write(lambda unit: unit.refreshes.end_open(C1, reason="paused", at=LATER)),
    "refreshes.end_late": Write(lambda unit: unit.refreshes.end_late(at=NOW + timedelta(days=1))),
    "refreshes.prune": Write(lambda unit: unit.refreshes.prune(before=LATER), before=end_refresh),
    "lfis.add": Write(lambda unit: unit.lfis.add(BANK, {"name": "new"}, at=LATER)),
    "lfis.follow": Write(lambda unit: unit.lfis.follow(BANK, {"name": "new"}, directory={"name": "New"}, at=LATER)),
    "lfis.miss": Write(lambda unit: unit.lfis.miss(BANK, at=LATER)),
    "lfis.add_changes": Write(lambda unit: unit.lfis.add_changes([LFIChange(slug=BANK, seen_at=NOW, what="gone")])),
    "lfis.close_gate": Write(lambda unit: unit.lfis.close_gate(BANK, until=LATER + timedelta(days=9))),
    "lfis.open_gate": Write(free_gate),
    "lfis.reserve": Write(
        lambda unit: unit.lfis.reserve(
            BANK, interval=timedelta(1), burst=timedelta(1), patience=timedelta(9), calls=1
        )
    ),
    "lfis.ignores_filter": Write(lambda unit: unit.lfis.ignores_filter(BANK, TX, at=LATER)),
    "lfis.honours_filter": Write(lambda unit: unit.lfis.honours_filter(BANK, TX)),
    "breakers.put": Write(lambda unit: unit.breakers.put(replace(BREAKER, trips=2))),
    "breakers.try_now": Write(lambda unit: unit.breakers.try_now(BANK)),
    "consents.add_connection": Write(lambda unit: unit.consents.add_connection(connection(ConsentId("c3")))),
    "consents.add_connections": Write(lambda unit: unit.consents.add_connections([connection(ConsentId("c3"))])),
    "consents.add": Write(lambda unit: unit.consents.add(consent(ConsentId("c3"), base_consent_id=C1))),
    "consents.add_new": Write(lambda unit: unit.consents.add_new([consent(ConsentId("c3"), base_consent_id=C1)])),
    "consents.chain_locked": Write(lambda unit: unit.consents.chain_locked(C1, closed=True), writes=False),
    "consents.observe": Write(
        lambda unit: unit.consents.observe(
            ConsentView(consent_id=C1, status="Revoked", status_updated_at=LATER), at=LATER
        )
    ),
    "consents.seen_again": Write(seen_again),
    "consents.set_needs_consent": Write(lambda unit: unit.consents.set_needs_consent(C1, "lost")),
    "consents.expire": Write(lambda unit: unit.consents.expire(C1, at=LATER)),
    "consents.end_unknown": Write(lambda unit: unit.consents.end_unknown(C1, at=LATER)),
    "consents.set_paused": Write(lambda unit: unit.consents.set_paused(C1, LATER)),
    "consents.order_revocation": Write(lambda unit: unit.consents.order_revocation(C1, by="TPP", at=LATER)),
    "consents.want_webhook": Write(lambda unit: unit.consents.want_webhook(C1, active=True)),
    "consents.webhook_told": Write(
        lambda unit: unit.consents.webhook_told(C1, active=True),
        before=lambda unit: unit.consents.want_webhook(C1, active=True),
    ),
    "consents.compared": Write(lambda unit: unit.consents.compared(C1, drift="x", at=LATER)),
    "consents.data_received": Write(lambda unit: unit.consents.data_received(C1, at=LATER)),
    "consents.receiving": Write(receiving),
    "consents.note": Write(lambda unit: unit.consents.note("noted", subject=C1, facts={}, at=LATER)),
    "consents.note_many": Write(lambda unit: unit.consents.note_many("noted", [(C1, {})], at=LATER)),
    "api_keys.create": Write(lambda unit: unit.api_keys.create("one", [next(iter(Scope))], at=NOW)),
    "api_keys.note_use": Write(note_use, before=same_key),
    "api_keys.revoke": Write(revoke_keys, before=same_key),
    "ops_sessions.begin": Write(
        lambda unit: unit.ops_sessions.begin("the-same-key", at=LATER + timedelta(days=9), ends=ENDS),
        before=same_session,
    ),
    "ops_sessions.seen": Write(lambda unit: unit.ops_sessions.seen(SESSION, at=LATER), before=same_session),
    "ops_sessions.end": Write(lambda unit: unit.ops_sessions.end(SESSION), before=same_session),
    "tokens.put_first": Write(lambda unit: unit.tokens.put_first(C2, new_token("two"))),
    "tokens.put_imported": Write(lambda unit: unit.tokens.put_imported([imported(C2)])),
    "tokens.replace": Write(lambda unit: unit.tokens.replace(imported(C1), version=1)),
    "tokens.begin": Write(leased),
    "tokens.begin_many": Write(begin_many),
    "tokens.extend": Write(
        lambda unit: unit.tokens.extend(C1, version=1, holder="me", lease=timedelta(hours=9)), before=leased
    ),
    "tokens.release": Write(lambda unit: unit.tokens.release(C1, holder="me", in_doubt=False), before=leased),
    "tokens.swap": Write(lambda unit: unit.tokens.swap(C1, version=1, new=new_token("two"))),
    "tokens.swap_locked": Write(swap_locked),
    "tokens.keep_spare": Write(spare),
    "tokens.drop_spare": Write(lambda unit: unit.tokens.drop_spare(C1, SecretStr("spare")), before=spare),
    "tokens.give_up": Write(lambda unit: unit.tokens.give_up(C1, version=1, cause="x")),
    "tokens.destroy": Write(lambda unit: unit.tokens.destroy(C1)),
    "authorizations.add": Write(lambda unit: unit.authorizations.add(authorization("state-2", C2))),
    "authorizations.use": Write(lambda unit: unit.authorizations.use("state-1", at=NOW, outcome="x")),
    "authorizations.forget_secrets": Write(
        lambda unit: unit.authorizations.forget_secrets(before=LATER + timedelta(days=1))
    ),
    "authorizations.prune": Write(
        lambda unit: unit.authorizations.prune(before=LATER + timedelta(days=1)),
        before=lambda unit: unit.authorizations.add(authorization("state-2", ConsentId("c9"))),
    ),
    "authorizations.settle": Write(lambda unit: unit.authorizations.settle("state-1", outcome="x")),
    "intents.add": Write(lambda unit: unit.intents.add(intent("intent-2"))),
    "intents.pushed": Write(lambda unit: unit.intents.pushed("intent-1", consent_id=C2)),
    "intents.complete": Write(
        lambda unit: unit.intents.complete("intent-1", consent_id=C2, at=LATER),
        before=lambda unit: unit.intents.pushed("intent-1", consent_id=C2),
    ),
    "intents.prune": Write(lambda unit: unit.intents.prune(before=LATER + timedelta(days=1))),
    "renewals.decide": Write(lambda unit: unit.renewals.decide(C1, {7: None}, expires_at=LATER, at=NOW)),
    "renewals.end_older_grants": Write(old_consents),
    "work.schedule": Write(lambda unit: unit.work.schedule(WorkKind.SYNC, C1, lfi=BANK, due_at=LATER)),
    "work.scheduling": Write(scheduling),
    "work.schedule_sooner": Write(
        lambda unit: unit.work.schedule_sooner([(WorkKind.SYNC, C1, BANK, NOW - timedelta(days=1))])
    ),
    "work.ask_now": Write(lambda unit: unit.work.ask_now(WorkKind.SYNC, C1)),
    "work.ask_listings": Write(lambda unit: unit.work.ask_listings(C1)),
    "work.asking_again": Write(ask_again),
    "work.park": Write(each(work, lambda unit, one: unit.work.park(one))),
    "work.unpark": Write(lambda unit: unit.work.unpark(WorkKind.SYNC, C1, due_at=LATER), before=parked),
    "work.forget": Write(lambda unit: unit.work.forget(WorkKind.SYNC, C1)),
    "work.hold": Write(lambda unit: unit.work.hold(WorkKind.SYNC, C1), writes=False),
    "work.claim": Write(
        lambda unit: unit.work.claim(WorkKind.SYNC, slots={BANK: 9}), before=together(free_gate, crashed)
    ),
    "work.claim_one": Write(claimed),
    "work.take": Write(take_each, before=claimed),
    "work.take_many": Write(take_all, before=claimed),
    "work.extend": Write(extend_all, before=claimed),
    "work.extend_many": Write(extend_many, before=claimed),
    "work.finish": Write(finish_all, before=begun),
    "work.finishing": Write(finishing_all, before=begun),
    "work.give_back": Write(give_back_all, before=begun),
    "work.give_back_hints": Write(give_back_hints, before=claimed),
    "openings.add": Write(lambda unit: unit.openings.add(opening("opening-2"), request=b"{}")),
    "openings.observe": Write(
        lambda unit: unit.openings.observe(
            "opening-1", OpeningView(account_id=AccountId("a9"), status="Completed"), at=LATER, source="poll"
        )
    ),
    "openings.move": Write(lambda unit: unit.openings.move("opening-1", OpeningState.UNKNOWN, at=LATER, source="ours")),
    "openings.set_overdue": Write(lambda unit: unit.openings.set_overdue("opening-1", at=LATER)),
    "openings.set_webhook": Write(lambda unit: unit.openings.set_webhook("opening-1", active=True)),
    "openings.set_share": Write(
        lambda unit: unit.openings.set_share("opening-1", ShareWish(permissions=("ReadBalances",), days=9))
    ),
    "openings.set_intent": Write(lambda unit: unit.openings.set_intent("opening-1", "intent-1")),
    "openings.destroy_contents": Write(lambda unit: unit.openings.destroy_contents("opening-1")),
    "erasure.erase": Write(
        together(
            lambda unit: unit.erasure.erase(C1, of=DataClass.PERSONAL),
            lambda unit: unit.erasure.erase(C1, of=DataClass.DATA),
            lambda unit: unit.erasure.erase(C1),
        )
    ),
    "inbox.file_all": Write(lambda unit: unit.inbox.file_all([arrival("one"), arrival("three")], at=LATER)),
    "inbox.end": Write(each(event, lambda unit, one: unit.inbox.end(one, outcome="x", at=LATER))),
    "inbox.end_filed": Write(end_filed),
    "inbox.note_asked": Write(note_asked),
    "inbox.rejudge": Write(
        each(refused_event, lambda unit, one: unit.inbox.rejudge(one, why="x", keep=False))
    ),
    "inbox.reopen": Write(each(event, lambda unit, one: unit.inbox.reopen(one, lfi=Slug("elsewhere")))),
    "inbox.refuse": Write(lambda unit: unit.inbox.refuse(refused("one"))),
    "inbox.release": Write(each(refused_event, lambda unit, one: unit.inbox.release(one))),
    "inbox.prune": Write(lambda unit: unit.inbox.prune(before=LATER)),
    "inbox.trim_quarantined": Write(lambda unit: unit.inbox.trim_quarantined(), writes=False),
    "clocks.keep": Write(lambda unit: unit.clocks.keep([_offset(2)])),
    "counters.count": Write(
        lambda unit: unit.counters.count({("price", BANK): 2}),
        before=lambda unit: unit.counters.count({("price", BANK): 1}),
    ),
    "causes.record": Write(
        lambda unit: unit.causes.record([seen_cause("beat_dead")], at=LATER),
        before=lambda unit: unit.causes.record([seen_cause("lfi_down:bank")], at=NOW),
    ),
    "causes.note_past": Write(lambda unit: unit.causes.note_past("standstill", began_at=NOW, ended_at=LATER)),
    "causes.prune": Write(
        lambda unit: unit.causes.prune(before=LATER),
        before=lambda unit: unit.causes.note_past("standstill", began_at=NOW, ended_at=NOW),
    ),
    "causes.look": Write(
        lambda unit: unit.causes.look("tick", at=LATER), before=lambda unit: unit.causes.look("tick", at=NOW)
    ),
    "causes.judge": Write(
        lambda unit: unit.causes.judge([judged_at(LATER)], rule="r"),
        before=lambda unit: unit.causes.judge([judged_at(NOW)], rule="r"),
    ),
    "causes.keep_usual": Write(
        lambda unit: unit.causes.keep_usual([Usual(BANK, "", 2, 3)], at=LATER),
        before=lambda unit: unit.causes.keep_usual([Usual(BANK, "", 1, 3)], at=NOW),
    ),
    "records.upsert": Write(
        lambda unit: unit.records.upsert(TX, C1, {ACCOUNT: [record("k1", b"e" * 16)]}, gen=2, at=LATER)
    ),
    "records.keep_history": Write(
        together(
            lambda unit: unit.records.keep_history(
                ResourceName.BALANCES, C1, {ACCOUNT: [_BALANCE]}, gen=1, at=NOW
            ),
            lambda unit: unit.send(),
        )
    ),
    "records.keep_identifiers": Write(
        together(
            lambda unit: unit.records.keep_identifiers(C1, {ACCOUNT: [IDENTIFIER]}, gen=2, held=[ACCOUNT]),
            lambda unit: unit.send(),
        )
    ),
    "records.keeping_before": Write(keep_before),
    "records.miss": Write(missed),
    "records.find_again": Write(lambda unit: unit.records.find_again(TX, C1, KEYS, gen=2), before=missed),
    "records.bury": Write(lambda unit: unit.records.bury(TX, C1, KEYS, gen=2, at=LATER)),
    "records.grant": Write(
        together(lambda unit: unit.records.grant(C1, C1, ["a2"], at=LATER), lambda unit: unit.send())
    ),
    "records.end_grants": Write(lambda unit: unit.records.end_grants(C1, [ACCOUNT], at=LATER)),
    "cursors.advance": Write(
        together(
            lambda unit: unit.cursors.advance(C1, [replace(CURSOR, gen=2, checked_at=LATER)]),
            lambda unit: unit.send(),
        )
    ),
    "cursors.attempted": Write(lambda unit: unit.cursors.attempted(C1, [_ATTEMPT], gen=2)),
    "cursors.checking": Write(checking),
    "cursors.recovering": Write(recovering),
    "cursors.fold_checks": Write(lambda unit: unit.cursors.fold_checks(C1), before=checking),
    "cursors.delay_backfill": Write(
        lambda unit: unit.cursors.delay_backfill(C1, LISTING, until=LATER, attempts=1, failing_since=None, gen=2)
    ),
    "cursors.look_again": Write(lambda unit: unit.cursors.look_again(C1, LISTING, at=LATER, gen=2)),
    "cursors.forget_pages": Write(lambda unit: unit.cursors.forget_pages(C1, [LISTING], gen=2)),
    "cursors.cover": Write(
        together(
            lambda unit: unit.cursors.cover(C1, {LISTING: _WIDER}, held={LISTING: (WINDOW,)}, gen=2),
            lambda unit: unit.send(),
        )
    ),
    "findings.meeting": Write(meeting),
    "findings.clearing": Write(clearing),
    "unreadable.keep": Write(
        lambda unit: unit.unreadable.keep(C1, C1, LISTING, [sighting(UNREADABLE)], known=[UNREADABLE], at=LATER)
    ),
    "unreadable.doubt": Write(lambda unit: unit.unreadable.doubt(C1, LISTING, None)),
    "unreadable.remove": Write(lambda unit: unit.unreadable.remove(C1, LISTING, [UNREADABLE])),
    "changes.append": Write(
        together(
            lambda unit: unit.changes.append(C1, [RowChanges(ACCOUNT, TX, Op.REMOVED, ["k1"])], at=LATER, gen=2),
            lambda unit: unit.send(),
        )
    ),
    "changes.say": Write(
        lambda unit: unit.changes.say(C1, [RowChanges("", None, Op.ERASED, [""], scope="data")], now=LATER)
    ),
    "changes.say_use": Write(lambda unit: unit.changes.say_use(C1, restricted=False, now=LATER)),
    "changes.prune": Write(lambda unit: unit.changes.prune(before=LATER, limit=10)),
    "use.settle": Write(lambda unit: unit.use.settle([C1], at=LATER), before=ended),
    "runs.add": Write(lambda unit: unit.runs.add(run())),
    "tokens.file_in_doubt": Write(lambda unit: unit.tokens.file_in_doubt(C1), before=called),
    "tokens.filed": Write(lambda unit: unit.tokens.filed(C1, call="call-1"), before=called),
    "runs.adding": Write(lambda unit: run_all(unit, unit.runs.adding([CALL]))),
    "runs.settle": Write(lambda unit: unit.runs.settle([replace(CALL, interaction_id="two")])),
    "runs.withdraw": Write(
        lambda unit: unit.runs.withdraw(CALL),
        before=lambda unit: unit.runs.add_calls([replace(CALL, error=IN_DOUBT)]),
    ),
    "runs.add_calls": Write(lambda unit: unit.runs.add_calls([CALL])),
    "runs.file": Write(together(lambda unit: unit.runs.file([(run(), [CALL])]), lambda unit: unit.send())),
}  # fmt: skip


def _named(by_repository: Mapping[str, str]) -> frozenset[str]:
    return frozenset(f"{name}.{method}" for name, methods in by_repository.items() for method in methods.split())


READS: Final = _named(
    {
        "account_references": "get of_lfi of_connections with_identities",
        "fillings": "open rows",
        "lfis": "changes get list gates gates_known filters_ignored habits",
        "breakers": "get all",
        "consents": "get get_many connections_named connection connection_of connections live find overdue newest_notes"
        " notes",
        "connections": "page get accounts",
        "api_keys": "find find_now list",
        "tokens": "holder read opened opened_many exists read_many states",
        "authorizations": "get of",
        "intents": "get of_state",
        "refreshes": "waiting customer get unended",
        "exports": "open_row last_good get listed",
        "renewals": "flags due ending granted_before",
        "work": "waiting holds of_claims find next_due subjects summary troubled",
        "openings": "get find troubled contents history overdue_contents",
        "erasure": "count overdue",
        "inbox": "lfis_of_consents get content list filed refused one_refused held_back counts",
        "clocks": "list",
        "records": "held holding living stored_values kept_values opened_values identifiers granted all_rows opened"
        " as_of count",
        "cursors": "of coverage",
        "findings": "all",
        "unreadable": "of list get",
        "reads": "rows connections connection_of_account known balances reach settled_before items of_keys complete",
        "causes": "recent looked_at unjudged listings run_times usual_since",
        "overviews": "read ages",
        "counters": "read",
        "messages": "endpoints endpoint secrets_of due_endpoints heads head_of behind first_place run_of find backlog",
        "changes": "read head line page at erased_behind expanded listings blockers",
        "use": "otherwise",
        "runs": "latest newest outcomes calls_of_runs find get calls_of of_interaction named said traffic cost",
        "ops_sessions": "find",
        "ops_connections": "page counts consents connection_of tokens accounts coverage spent oldest ages endings"
        " ending links flags",
        "ops_lists": "work work_row audit audit_row events event refused refused_row endpoints messages message"
        " openings opening",
        "ops_traffic": "first_run_since runs_by_quarter calls_by_hour sample unanswered runs beside usual_duration",
    }
)
OF_NO_TENANT: Final = _named(
    {
        "work": "beat beating alive leave",
        "workers": "arrive ask_canaries canary_came observers_failed get list",
        "statistics": "gather",
        "epochs": "current differs look",
    }
)
"""Processes and the database belong to the installation."""


def methods() -> set[str]:
    """Every public method of every repository of a unit of work."""
    found = set()
    for name, value in vars(UnitOfWork).items():
        if isinstance(value, cached_property) and name != "keyring":
            repository = get_type_hints(value.func)["return"]
            found |= {f"{name}.{one}" for one in vars(repository) if not one.startswith("_")}
    return found


def test_every_method_is_in_one_of_the_lists() -> None:
    """A new one that writes is tried here; one that reads says so."""
    assert methods() == {*WRITES, *READS, *OF_NO_TENANT}


# -- the test --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["postgresql", "sqlite"])
def house_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, keyring: KeyRing
) -> Iterator[str]:
    """One database for all: every test rolls back."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("tenants") / "both.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        asyncio.run(furnish_both(f"sqlite:///{path}", keyring))
        yield f"sqlite:///{path}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    database = server.clone()
    asyncio.run(furnish_both(server.url(database), keyring))
    yield server.url(database)
    server.drop(database)


def of_tenant(unit: UnitOfWork, tenant: str, keyring: KeyRing) -> UnitOfWork:
    """The same transaction for another tenant."""
    return UnitOfWork(unit.connection, tenant=tenant, dialect=unit.dialect, keyring=keyring.for_tenant(tenant))


async def furnish_both(url: str, keyring: KeyRing) -> None:
    """The same for both, at the same instant."""
    for tenant in (OURS, THEIRS):
        store = Store(url, tenant=tenant, keyring=keyring, clock=ManualClock(NOW))
        async with store.writing() as unit:
            await furnish(unit)
            await unit.commit()
        await store.close()


async def rows_of(unit: UnitOfWork, tenant: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of a tenant, by table."""
    found = {}
    for table in metadata.sorted_tables:
        if "tenant" in table.c:
            query = f"SELECT * FROM \"{table.name}\" WHERE tenant = '{tenant}'"
            found[table.name] = sorted(map(tuple, await unit.connection.exec_driver_sql(query)), key=repr)
    return found


@pytest.mark.parametrize("name", WRITES)
async def test_rows_of_another_tenant_stay_as_they_are(house_url: str, keyring: KeyRing, name: str) -> None:
    """Two tenants with the same ids; one of them writes."""
    write = WRITES[name]
    store = Store(house_url, tenant=OURS, keyring=keyring, clock=ManualClock(NOW))
    try:
        async with store.writing() as unit:
            both = [of_tenant(unit, tenant, keyring) for tenant in (OURS, THEIRS)]
            for one in both:
                if write.before is not None:
                    await write.before(one)
            before = [await rows_of(unit, tenant) for tenant in (OURS, THEIRS)]
            await write.act(both[0])
            await both[0].send()
            after = [await rows_of(unit, tenant) for tenant in (OURS, THEIRS)]
    finally:
        await store.close()

    assert after[1] == before[1]
    assert (after[0] != before[0]) == write.writes
