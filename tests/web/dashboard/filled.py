"""Tables as a few weeks of work leave them: connections at several banks, one of which stopped answering.

Rows are written as they lie in the tables, so that every state a page shows is there, and hostile text stands wherever
others may put text of their own.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from syncworker.ops.targets import targets_of
from syncworker.settings import Settings
from syncworker.standard.interaction import Interactions
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.values import Slug
from syncworker.store import tables as t
from syncworker.store.calls import COLUMNS, CallRow, pack
from syncworker.store.unit_of_work import Store, UnitOfWork
from tests.web.dashboard.filled_exports import exports

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'
RTL = "\u202eevil\u202c ${jndi} {{7*7}}"
BANKS = (Slug("sandbox"), Slug("bank-two"), Slug("bank-three"))
DOWN = BANKS[1]
PERMISSIONS = [
    "ReadAccountsBasic", "ReadAccountsDetail", "ReadBalances", "ReadTransactionsBasic", "ReadTransactionsDetail",
    "ReadScheduledPaymentsBasic", "ReadStandingOrdersBasic", "ReadDirectDebits", "ReadBeneficiariesBasic", "ReadParty",
]  # fmt: skip
PER_ACCOUNT = (
    ResourceName.BALANCES, ResourceName.TRANSACTIONS, ResourceName.SCHEDULED_PAYMENTS, ResourceName.STANDING_ORDERS,
    ResourceName.DIRECT_DEBITS, ResourceName.BENEFICIARIES,
)  # fmt: skip
RULE = targets_of(Settings()).rule
DIRECTORY: dict[str, Any] = {
    "server_id": "f3", "organisation": HOSTILE, "name": HOSTILE, "logo_uri": None, "published": {},
    "over_limit_millifils": {}, "account_types": [], "account_sub_types": [], "deprecated_on": None,
    "retires_on": None, "superseded_by": None, "notes": [HOSTILE],
}  # fmt: skip
SECRETS = ("AE070331234567890123456", "Mariam Al Hashimi", "sealed-token", "12345.67")
"""Personal and secret values that are in the rows and on no page."""


@dataclass
class Filled:
    """What was written, by the ids that pages are opened with."""

    at: datetime
    connections: list[str] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    hostile: str = ""
    failed_run: int = 0
    parked: str = ""
    paused: str = ""
    events: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    openings: list[str] = field(default_factory=list)
    audits: list[int] = field(default_factory=list)
    due: list[tuple[datetime, str, str, str, Sequence[str], bool]] = field(default_factory=list)


def uid(random_: random.Random) -> str:
    """A ConsentId or interaction id."""
    return str(UUID(int=random_.getrandbits(128), version=4))


def calls_of(at: datetime, *, lfi: str, consent_id: str, down: bool, random_: random.Random) -> list[CallRow]:
    """The calls of one run, their ids made as a worker makes them."""
    made = Interactions(at)
    found, clock = [], at
    names = [ResourceName.ACCOUNTS, *PER_ACCOUNT[:3], ResourceName.TRANSACTIONS]
    for number, name in enumerate(names):
        tries = 2 if down and number > 1 else 1
        for attempt in range(1, tries + 1):
            bad = down and number > 1
            took = random_.randint(1_800, 3_900) if bad else random_.randint(80, 420)
            found.append(
                CallRow(
                    lfi=Slug(lfi),
                    consent_id=consent_id,
                    operation=BY_NAME[name].operation,
                    status=(None if number == 3 else 503) if bad else 200,
                    error="timeout" if bad and number == 3 else None,
                    interaction_id=made.new(),
                    started_at=clock,
                    duration_ms=took,
                    bytes_in=0 if bad else random_.randint(300, 61_000),
                    attended=False,
                    price_millifils=0 if name is ResourceName.TRANSACTIONS or bad else 2_500,
                    attempt=attempt,
                )
            )
            clock += timedelta(milliseconds=took + (700 if bad else 8))
    return found


async def fill(
    store: Store,
    *,
    customers: int = 24,
    runs_each: int = 6,
    seed: int = 7,
    declares_all: bool = False,
    machinery: bool = True,
    hostile: bool = True,
) -> Filled:
    """Fill a migrated, empty database.

    Args:
        declares_all: the first bank too; else the settings declare it.
        machinery: processes too, which are of no tenant.
        hostile: some customers are called by hostile text.
    """
    random_ = random.Random(seed)
    async with store.reading() as unit:
        now = await unit.now()
    found = Filled(at=now)

    async def write(unit: UnitOfWork) -> None:
        await _lfis(unit, now, BANKS if declares_all else BANKS[1:])
        for number in range(customers):
            await _connection(unit, number, found, random_, runs_each, hostile=hostile)
        for at, root, consent_id, lfi, accounts, fails in sorted(found.due):  # runs are numbered as they end
            number = await run_row(unit, root, consent_id, lfi, at, accounts, fails=fails, random_=random_)
            found.runs.append(number)
            found.failed_run = number if fails else found.failed_run
        await _in_and_out(unit, found, random_)
        await exports(unit, now)
        if machinery:
            await _machinery(unit, now)

    await store.atomically(write)
    return found


async def add_connections(store: Store, number: int) -> None:
    """More connections, without anything that belongs to them."""

    async def write(unit: UnitOfWork) -> None:
        at = await unit.now()
        rows = [
            {"connection_id": f"more-{one}", "lfi": BANKS[0], "user_ref": f"same-{one % 7}", "created_at": at}
            for one in range(number)
        ]
        await insert(unit, t.connection, *rows)

    await store.atomically(write)


async def insert(unit: UnitOfWork, table: sa.Table, *rows: Mapping[str, Any]) -> None:
    """Write rows as they are."""
    if rows:
        await unit.connection.execute(sa.insert(table), [{"tenant": unit.tenant, **row} for row in rows])


async def numbered(unit: UnitOfWork, table: sa.Table, row: Mapping[str, Any]) -> int:
    """Write a row and give its number."""
    made = sa.insert(table).values(tenant=unit.tenant, **row).returning(table.c.id)
    return int((await unit.connection.execute(made)).scalar_one())


async def _lfis(unit: UnitOfWork, now: datetime, those: Sequence[Slug]) -> None:
    for slug in those:
        await insert(
            unit,
            t.lfi,
            {
                "slug": slug,
                "declared": {
                    "issuer": f"https://{slug}.example",
                    "base_urls": {"v2.1": f"https://{slug}.example/v2.1"},
                },
                "added_at": now - timedelta(days=90),
                "directory": DIRECTORY if slug == BANKS[2] else None,
                "directory_seen_at": now - timedelta(hours=1) if slug == BANKS[2] else None,
            },
        )
    await insert(
        unit,
        t.breaker,
        {
            "lfi": DOWN,
            "operations": "data",
            "opened_at": now - timedelta(hours=2, minutes=25),
            "until": now + timedelta(seconds=112),
            "trips": 9,
            "reason": "http_503",
        },
    )


def _state(number: int) -> str:
    return {3: "paused", 5: "suspended", 7: "needs", 9: "revoked", 11: "expired", 13: "pending", 15: "parked"}.get(
        number, "active"
    )


async def _connection(
    unit: UnitOfWork, number: int, found: Filled, random_: random.Random, runs_each: int, *, hostile: bool
) -> None:
    now, lfi, state = found.at, BANKS[number % len(BANKS)], _state(number)
    root = uid(random_)
    user_ref = {1: HOSTILE, 2: RTL}.get(number if hostile else 0, f"customer-{number}")
    down = lfi == DOWN
    good_at = now - (timedelta(hours=9) if down else timedelta(minutes=20 + number))
    found.connections.append(root)
    found.hostile = root if number == 1 else found.hostile
    found.parked = root if state == "parked" else found.parked
    found.paused = root if state == "paused" else found.paused
    pending = state == "pending"
    await insert(
        unit,
        t.connection,
        {
            "connection_id": root,
            "lfi": lfi,
            "user_ref": user_ref,
            "created_at": now - timedelta(days=400 - number),
            "last_data_at": None if pending else good_at,
        },
    )
    consent_id = uid(random_) if number % 4 == 0 else root
    await _consents(unit, root, consent_id, lfi, state, now, number)
    await _work(unit, root, lfi, state, now, good_at, down=down)
    if pending:
        return
    accounts = [f"{random_.randint(10**11, 10**12 - 1)}" for _ in range(1 + number % 3)]
    await _data(unit, root, accounts, good_at, now, down=down)
    for back in range(runs_each - 1, -1, -1):
        at = good_at - timedelta(hours=6 * back)
        found.due.append((at, root, consent_id, lfi, accounts, down and back == 0))


async def _consents(
    unit: UnitOfWork, root: str, consent_id: str, lfi: str, state: str, now: datetime, number: int
) -> None:
    frame = {
        "connection_id": root, "lfi": lfi, "version": "v2.1", "permissions": PERMISSIONS, "status_seen_at": now,
        "user_type": "Retail", "purpose": "AccountAggregation",
        "status_updated_at": now - timedelta(days=30), "raw": {"OnBehalfOf": SECRETS[1]},
    }  # fmt: skip
    status = {
        "suspended": "Suspended", "revoked": "Revoked", "expired": "Expired", "pending": "AwaitingAuthorization"
    }.get(state, "Authorized")  # fmt: skip
    ended = now - timedelta(days=2) if state in ("revoked", "expired") else None
    newest = {
        **frame,
        "consent_id": consent_id,
        "status": status,
        "created_at": now - timedelta(days=300 if consent_id == root else 40),
        "expires_at": now + timedelta(days=-1 if state == "expired" else 4 + 13 * number),
        "base_consent_id": None if consent_id == root else root,
        "paused_at": now - timedelta(hours=5) if state == "paused" else None,
        "needs_consent": "grant_lost" if state == "needs" else None,
        "ended_at": ended,
        "revoked_by": "TPP.InitiatedByUser" if state == "revoked" else None,
    }
    rows = [newest]
    if consent_id != root:
        old = {
            **newest, "consent_id": root, "status": "Revoked", "base_consent_id": None,
            "created_at": now - timedelta(days=380), "expires_at": now - timedelta(days=30),
            "ended_at": now - timedelta(days=39), "revoked_by": "TPP",
        }  # fmt: skip
        rows.insert(0, old)
    await insert(unit, t.consent, *rows)
    if ended is None and state != "pending":
        await insert(
            unit,
            t.token,
            {
                "consent_id": consent_id,
                "access_token": SECRETS[2].encode(),
                "refresh_token": SECRETS[2].encode(),
                "version": 40 + number,
                "issued_at": now - timedelta(minutes=7),
                "expires_at": now + timedelta(minutes=3),
                "certificate": "9Qm4c1Yk",
                "refreshed_count": 40 + number,
                "lost_cause": "reused" if state == "needs" else None,
            },
        )


async def _work(
    unit: UnitOfWork, root: str, lfi: str, state: str, now: datetime, good_at: datetime, *, down: bool
) -> None:
    if state in ("pending", "revoked", "expired", "paused", "suspended", "needs"):
        return
    parked = state == "parked"
    await insert(
        unit,
        t.work,
        {
            "kind": "sync",
            "subject": root,
            "lfi": lfi,
            "due_at": now - timedelta(hours=2) if down or parked else now + timedelta(hours=3),
            "attempts": 2 if down else 0,
            "crashes": 5 if parked else 0,
            "parked_at": now - timedelta(hours=1) if parked else None,
            "last_started_at": good_at,
            "last_ended_at": good_at + timedelta(seconds=12),
            "last_good_at": good_at - timedelta(hours=6) if down else good_at,
            "last_outcome": "partial" if down else "parked" if parked else "ok",
            "last_error": "lfi_unavailable" if down else "crashed" if parked else None,
            "retry": down,
        },
    )


async def _data(
    unit: UnitOfWork, root: str, accounts: Sequence[str], good_at: datetime, now: datetime, *, down: bool
) -> None:
    for place, account_id in enumerate(accounts):
        await insert(
            unit,
            t.account,
            {
                "connection_id": root, "account_id": account_id, "key": account_id, "status": "Active",
                "currency": "AED", "account_type": "Retail", "account_sub_type": "CurrentAccount",
                "nickname": SECRETS[1], "raw": SECRETS[0].encode(), "digest": bytes(16), "gen": 1,
                "first_seen_at": good_at, "changed_at": good_at, "holder_name": SECRETS[1],
            },
        )  # fmt: skip
        await insert(
            unit,
            t.balance,
            {
                "connection_id": root, "account_id": account_id, "key": "InterimBooked:AED", "type": "InterimBooked",
                "currency": "AED", "raw": SECRETS[3].encode(), "digest": bytes(16), "gen": 1,
                "first_seen_at": good_at, "changed_at": good_at,
            },
        )  # fmt: skip
        for name in PER_ACCOUNT:
            odd = place == 1 and name in (ResourceName.STANDING_ORDERS, ResourceName.DIRECT_DEBITS)
            await insert(
                unit,
                t.cursor,
                {
                    "connection_id": root, "account_id": account_id, "resource": name.value, "checked_at": good_at,
                    "attempted_at": good_at, "changed_at": good_at, "gen": 1,
                    "due_at": now - timedelta(hours=2) if down else now + timedelta(hours=3),
                    "outcome": "absent" if odd else "failed" if down and place == 0 else "unchanged",
                    "error": "lfi_unavailable" if down and place == 0 else None,
                },
            )  # fmt: skip
        last: date = now.date()
        windows = [(last - timedelta(days=180), last - timedelta(days=90)), (last - timedelta(days=80), last)]
        for begin, end in windows if place == 0 else [(last - timedelta(days=180), last)]:
            await insert(
                unit,
                t.coverage,
                {
                    "connection_id": root, "account_id": account_id, "resource": "transactions", "from_date": begin,
                    "to_date": end, "walked_at": good_at, "pages": 4, "items": 390, "gen": 1,
                },
            )  # fmt: skip
    await insert(
        unit,
        t.staleness,
        {
            "connection_id": root, "stale_at": good_at + timedelta(hours=7.5), "resource": "balances",
            "account_id": accounts[0], "checked_at": good_at, "run_ended_at": good_at + timedelta(seconds=12),
            "rule": RULE,
        },
    )  # fmt: skip
    await insert(
        unit,
        t.cursor,
        {
            "connection_id": root, "account_id": "", "resource": "accounts", "checked_at": good_at,
            "attempted_at": good_at, "due_at": now + timedelta(hours=3), "outcome": "ok", "gen": 1,
        },
    )  # fmt: skip


async def run_row(
    unit: UnitOfWork,
    root: str,
    consent_id: str,
    lfi: str,
    at: datetime,
    accounts: Sequence[str],
    *,
    fails: bool,
    random_: random.Random,
) -> int:
    """A run with its calls, as `Runs.file` writes them."""
    calls = calls_of(at, lfi=lfi, consent_id=consent_id, down=fails, random_=random_)
    packed, rest = pack(calls)
    assert packed is not None
    assert not rest
    steps: list[dict[str, Any]] = [{"resource": "accounts", "outcome": "ok", "pages": 1, "items": len(accounts)}]
    for account_id in accounts:
        steps += [
            {"account_id": account_id, "resource": "balances", "outcome": "ok", "pages": 1, "items": 1, "modified": 1},
            {"account_id": account_id, "resource": "transactions", "pages": 2, "items": 120, "added": 9,
             "outcome": "failed" if fails else "ok", **({"complete": False, "retry": True, "error": "lfi_unavailable"}
                                                        if fails else {})},
        ]  # fmt: skip
    return await numbered(
        unit,
        t.run,
        {
            "connection_id": root, "consent_id": consent_id, "lfi": lfi, "gen": 1, "started_at": at,
            "ended_at": max(one.started_at + timedelta(milliseconds=one.duration_ms) for one in calls),
            "outcome": "partial" if fails else "ok", "error": "lfi_unavailable" if fails else None,
            "calls": len(calls), "pages": 4, "pages_unchanged": 2, "added": 9, "modified": 1, "removed": 0,
            "steps": steps, **{name: getattr(packed, name) for name in COLUMNS},
        },
    )  # fmt: skip


async def _in_and_out(unit: UnitOfWork, found: Filled, random_: random.Random) -> None:
    now = found.at
    for number, state in enumerate(("done", "filed", "quarantined")):
        found.events.append(
            await numbered(
                unit,
                t.event,
                {
                    "digest": bytes([number]) * 32, "issuer": HOSTILE if number == 2 else "https://bank.example",
                    "kind": "consent", "subject": HOSTILE[:40] if number == 2 else found.connections[number],
                    "lfi": "" if number == 2 else BANKS[0], "event_type": "Consent.Updated", "happened_at": now,
                    "status": "<b>Revoked</b>" if number == 2 else "Authorized",
                    "received_at": now - timedelta(minutes=number), "interaction_id": uid(random.Random(number)),
                    "state": state, "outcome": "known" if number == 0 else None, "content": SECRETS[0].encode(),
                },
            )
        )  # fmt: skip
    for number in range(2):
        found.refused.append(
            await numbered(
                unit,
                t.refused_event,
                {
                    "digest": bytes([number + 9]) * 32, "why": "signature", "address": "192.0.2.9",
                    "media_type": "<script>", "size": 812, "kid": HOSTILE, "issuer": HOSTILE, "received_at": now,
                    "last_at": now, "body": None if number else SECRETS[0].encode(),
                },
            )
        )  # fmt: skip
    await insert(
        unit,
        t.webhook_endpoint,
        {
            "endpoint_id": "whe_one", "url": "https://user:secret@product.example/hooks?key=sealed-token",
            "description": SECRETS[1], "secrets": b"sealed", "created_at": now, "failing_since": now,
        },
    )  # fmt: skip
    for number in range(3):
        found.messages.append(
            await numbered(
                unit,
                t.webhook_message,
                {
                    "endpoint_id": "whe_one", "message_id": f"msg_{number}", "type": "sync.failed",
                    "connection_id": found.connections[0], "gen": 0, "data": {"x": SECRETS[1]}, "created_at": now,
                    "not_before": now, "attempts": number, "last_status": 500 if number else None,
                    "ended_at": now if number == 2 else None, "outcome": "delivered" if number == 2 else None,
                },
            )
        )  # fmt: skip
    opening_id = uid(random_)
    found.openings.append(opening_id)
    await insert(
        unit,
        t.opening,
        {
            "opening_id": opening_id, "lfi": BANKS[0], "version": "v1.0", "user_ref": HOSTILE, "state": "pending",
            "status": "<i>Pending</i>", "state_since": now, "created_at": now, "overdue_at": now,
            "request": SECRETS[0].encode(), "redirect_url": b"https://secret.example",
        },
    )  # fmt: skip
    await insert(unit, t.opening_history, {"opening_id": opening_id, "at": now, "state": "pending", "source": "answer"})
    facts = {"by": "TPP", "note": HOSTILE}
    for number in range(2):
        row = {"at": now, "what": "revoked_by_us", "subject": found.connections[number], "facts": facts}
        found.audits.append(await numbered(unit, t.audit, row))


async def _machinery(unit: UnitOfWork, now: datetime) -> None:
    rows = [
        {"name": "ops-1/41", "kind": "worker", "started_at": now - timedelta(hours=30), "progress_at": now,
         "canary_asked_at": now, "canary_at": now},
        {"name": "ops-2/4182", "kind": "worker", "started_at": now - timedelta(hours=30),
         "progress_at": now - timedelta(minutes=6), "canary_asked_at": now - timedelta(minutes=5), "canary_at": None},
        {"name": "ops-1/40", "kind": "beat", "started_at": now - timedelta(hours=30), "progress_at": now,
         "canary_asked_at": None, "canary_at": None},
    ]  # fmt: skip
    await unit.connection.execute(sa.insert(t.worker), rows)
    await insert(
        unit,
        t.clock_offset,
        {"host": "ops-1", "peer": "bank-two", "offset_ms": 200, "within_ms": 100, "measured_at": now},
    )
