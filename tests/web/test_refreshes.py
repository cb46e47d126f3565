"""`/v1/refreshes`: have data read now, and hear how that ended; from the bank's log and the tables."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from syncworker import wiring
from syncworker.simulator.served import Served
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.api_keys import Scope
from syncworker.store.runs import FiledRun
from syncworker.store.tables import account_reference, refresh, refresh_part
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind
from tests.web.house import WebHouse

PERMISSIONS = ["ReadAccountsDetail", "ReadBalances", "ReadTransactionsDetail"]
CUSTOMER = {"ip_address": "203.0.113.7", "auth_date": "2026-11-20T08:30:00+04:00", "user_agent": "Mozilla/5.0 (Test)"}
OF_THE_CUSTOMER = ("203.0.113.7", "Fri, 20 Nov 2026 04:30:00 GMT", "Mozilla/5.0 (Test)")


@dataclass
class Place:
    """A web process with a worker beside it, which works when it is told to."""

    web: WebHouse
    worker: wiring.Application

    async def work(self) -> int:
        """Claim what is due and work on it; how many syncs that were."""
        syncs = 0
        for batch in await self.worker.tick():
            if batch.kind is WorkKind.SYNC:
                syncs += len(batch.claims)
                await self.worker.sync_batch(batch.claims)
            elif batch.kind is WorkKind.TOKEN:
                await self.worker.token_batch(batch.claims)
            else:
                await self.worker.small_batch(batch.kind, batch.claims)
        return syncs

    async def rest(self) -> None:
        """Work until nothing is due."""
        while await self.work():
            pass

    async def connect(self, **changes: Any) -> str:
        """A connection whose first sync is done."""
        consent = await self.web.connect(permissions=PERMISSIONS, **changes)
        await self.rest()
        return consent.connection_id

    async def ask(self, *, status: int = 201, headers: Any = None, wait: int = 0, **body: Any) -> dict[str, Any]:
        path = "/v1/refreshes" + (f"?wait={wait}" if wait else "")
        answer = await self.web.product.post(path, json=body, headers=headers or {})
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def look(self, refresh_id: str, *, wait: int = 0) -> dict[str, Any]:
        answer = await self.web.product.get(f"/v1/refreshes/{refresh_id}", params={"wait": wait})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def runs(self, connection_id: str) -> list[FiledRun]:
        """Newest first."""
        async with self.web.store.reading() as unit:
            return await unit.runs.find(connection_id=ConsentId(connection_id))

    def served(self, *, since: int = 0) -> list[Served]:
        return self.web.bank.bank.log.served()[since:]

    async def rows(self, table: sa.Table) -> list[Any]:
        async with self.web.store.reading() as unit:
            return list((await unit.connection.execute(sa.select(table))).mappings())


@pytest.fixture
async def place(web: WebHouse) -> AsyncIterator[Place]:
    """On each database."""
    worker = await wiring.build_application(web.settings)
    yield Place(web, worker)
    await worker.close()


@pytest.fixture
async def small_place(small_web: WebHouse) -> AsyncIterator[Place]:
    """Where one database is enough."""
    worker = await wiring.build_application(small_web.settings)
    yield Place(small_web, worker)
    await worker.close()


def outcomes(shown: dict[str, Any]) -> Counter[tuple[str, str]]:
    """(resource, outcome) of every listing, counted."""
    return Counter((one["resource"], one["outcome"]) for part in shown["connections"] for one in part["listings"])


async def test_a_refresh_reads_now_what_is_wanted_and_nothing_else(place: Place) -> None:
    """Balances are read though they are not due, transactions are not; each balance has its outcome, the run its id."""
    connection_id = await place.connect()
    before = len(place.served())

    asked = await place.ask(connection_id=connection_id, resources=["balances"])
    await place.rest()
    ended = await place.look(asked["refresh_id"])

    assert (asked["status"], asked["attended"], asked["joined"], asked["ended_at"]) == ("queued", False, False, None)
    assert {one.operation for one in place.served(since=before)} == {"balances"}
    assert ended["status"] == "complete"
    (part,) = ended["connections"]
    accounts = len(part["listings"])
    assert accounts > 0
    assert outcomes(ended) == {("balances", "unchanged"): accounts}
    assert part["run_id"] == (await place.runs(connection_id))[0].id
    assert ended["ended_at"] == part["ended_at"] is not None


async def test_without_resources_everything_is_read(place: Place) -> None:
    """Each listing that the consent opens is in the answer, those of accounts and those of the connection."""
    connection_id = await place.connect()

    asked = await place.ask(connection_id=connection_id)
    await place.rest()
    ended = await place.look(asked["refresh_id"])

    assert ended["status"] == "complete"
    assert {one["resource"] for one in ended["connections"][0]["listings"]} == {"accounts", "balances", "transactions"}


async def test_a_listing_younger_than_max_age_is_not_bought(place: Place) -> None:
    """All is young: the run makes no call at all; of age 0 nothing is."""
    connection_id = await place.connect()
    before = len(place.served())

    young = await place.ask(connection_id=connection_id, max_age=3600)
    await place.rest()
    ended = await place.look(young["refresh_id"])
    bought = len(place.served(since=before))
    old = await place.ask(connection_id=connection_id, max_age=0, resources=["accounts"])
    await place.rest()

    assert (ended["status"], bought) == ("complete", 0)
    assert {one["outcome"] for one in ended["connections"][0]["listings"]} == {"young"}
    assert outcomes(await place.look(old["refresh_id"])) == {("accounts", "unchanged"): 1}


async def test_joined_refreshes_read_the_union_of_what_they_want(place: Place) -> None:
    """One wants old balances, one the accounts now: one run; each hears of its own listings alone."""
    connection_id = await place.connect()
    before, runs = len(place.served()), len(await place.runs(connection_id))

    first = await place.ask(connection_id=connection_id, resources=["balances"], max_age=3600)
    second = await place.ask(connection_id=connection_id, resources=["accounts"])
    await place.rest()
    ends = [await place.look(one["refresh_id"]) for one in (first, second)]

    assert (first["joined"], second["joined"]) == (False, True)
    assert len(await place.runs(connection_id)) == runs + 1
    assert [one.operation for one in place.served(since=before)] == ["accounts"]
    assert set(outcomes(ends[0])) == {("balances", "young")}
    assert outcomes(ends[1]) == {("accounts", "unchanged"): 1}
    assert ends[0]["connections"][0]["run_id"] == ends[1]["connections"][0]["run_id"]


async def test_a_hundred_at_once_make_one_run(place: Place) -> None:
    """A hundred before the run begins share it; one of them joined no other."""
    connection_id = await place.connect()
    runs = len(await place.runs(connection_id))

    asked = await asyncio.gather(*(place.ask(connection_id=connection_id) for _ in range(100)))
    await place.rest()
    ends = [await place.look(one["refresh_id"]) for one in asked]

    assert len(await place.runs(connection_id)) == runs + 1
    assert {one["status"] for one in ends} == {"complete"}
    assert sum(not one["joined"] for one in asked) == 1


async def test_a_hundred_during_a_run_make_one_more(small_place: Place) -> None:
    """What the run under way has read is not what they asked for: they share the next, and it is the last."""
    place = small_place
    connection_id = await place.connect()
    runs, before = len(await place.runs(connection_id)), len(place.web.heard)
    place.web.bank.bank.hang("balances", times=1)
    first = await place.ask(connection_id=connection_id, resources=["balances"])
    working = asyncio.create_task(place.work())
    while len(place.web.heard) == before:  # noqa: ASYNC110 - the run has begun once the bank hears of it
        await asyncio.sleep(0.01)

    running = await place.look(first["refresh_id"])
    asked = await asyncio.gather(*(place.ask(connection_id=connection_id) for _ in range(100)))
    place.web.bank.bank.clear_faults()
    await working
    await place.rest()
    ends = [await place.look(one["refresh_id"]) for one in asked]

    assert running["status"] == "running"
    assert {one["status"] for one in asked} == {"queued"}
    assert sum(not one["joined"] for one in asked) == 1
    assert {one["status"] for one in ends} == {"complete"}
    assert len(await place.runs(connection_id)) == runs + 2
    assert len({one["connections"][0]["run_id"] for one in ends}) == 1


async def test_attended_headers_are_on_that_runs_calls_alone(place: Place) -> None:
    """From the bank's log: the GETs of that run say that the customer is present; token calls and other runs do not."""
    connection_id = await place.connect()
    other = await place.connect(user=1, user_ref="customer-2")
    await _token_is_refused_once(place, connection_id)
    before, heard = len(place.served()), len(place.web.heard)

    asked = await place.ask(connection_id=connection_id, resources=["balances"], customer=CUSTOMER)
    background = await place.ask(connection_id=connection_id, resources=["accounts"])
    elsewhere = await place.ask(connection_id=other, resources=["balances"])
    await place.rest()
    ends = [await place.look(one["refresh_id"]) for one in (asked, background, elsewhere)]

    calls = place.served(since=before)
    attended = [one for one in calls if one.attended]
    assert {(one.operation, one.consent_id) for one in attended} == {("balances", connection_id)}
    assert {one.operation for one in calls if one.consent_id == connection_id and not one.attended} == {
        "accounts",
        "token.refresh_token",
    }
    assert any(one.consent_id == other for one in calls)
    said = [_said(request) for request in place.web.heard[heard:]]
    assert Counter(said) == {OF_THE_CUSTOMER: len(attended), ("", "", ""): len(calls) - len(attended)}
    assert [one["status"] for one in ends] == ["complete"] * 3
    assert [one["attended"] for one in ends] == [True, False, False]
    assert not background["joined"]
    run = next(one for one in await place.runs(connection_id) if one.id == ends[0]["connections"][0]["run_id"])
    async with place.web.store.reading() as unit:
        filed = {one.attended for one in await unit.runs.calls_of(run)}
    assert filed == {True}


def _said(request: Any) -> tuple[str, ...]:
    """What a request told the bank about a customer."""
    names = ("x-fapi-customer-ip-address", "x-fapi-auth-date", "x-customer-user-agent")
    return tuple(request.headers.get(name, "") for name in names)


async def _token_is_refused_once(place: Place, connection_id: str) -> None:
    """So that the run refreshes its token on the way."""
    place.web.bank.bank.answers(401, times=1, operation="balances", consent_id=connection_id)


async def test_sessions_of_a_customer_are_never_mixed(place: Place) -> None:
    """Two sessions: a run each, with its own headers.  The same session again joins; a fifth that waits is refused."""
    connection_id = await place.connect()
    runs, heard = len(await place.runs(connection_id)), len(place.web.heard)
    sessions = [CUSTOMER | {"ip_address": f"203.0.113.{n}"} for n in range(5)]

    asked = [await place.ask(connection_id=connection_id, resources=["balances"], customer=one) for one in sessions[:4]]
    again = await place.ask(connection_id=connection_id, resources=["accounts"], customer=sessions[1])
    refused = await place.ask(connection_id=connection_id, customer=sessions[4], status=429)
    await place.rest()
    ends = [await place.look(one["refresh_id"]) for one in (*asked, again)]

    assert [one["joined"] for one in asked] == [False] * 4
    assert (again["joined"], refused["code"]) == (True, "too_many_requests")
    assert {one["status"] for one in ends} == {"complete"}
    assert len(await place.runs(connection_id)) == runs + 4
    assert ends[4]["connections"][0]["run_id"] == ends[1]["connections"][0]["run_id"]
    by_session = Counter(_said(request)[0] for request in place.web.heard[heard:])
    balances = len(ends[0]["connections"][0]["listings"])
    assert by_session == {f"203.0.113.{n}": balances + (n == 1) for n in range(4)}


async def test_what_a_session_said_is_sealed_and_destroyed_with_the_end(
    place: Place, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The row holds it sealed while it waits, and nothing afterwards; no log and no answer repeats it."""
    connection_id = await place.connect()

    asked = await place.ask(connection_id=connection_id, resources=["balances"], customer=CUSTOMER)
    (waiting,) = await place.rows(refresh_part)
    await place.rest()
    (ended,) = await place.rows(refresh_part)
    answers = f"{asked} {await place.look(asked['refresh_id'])}"

    assert waiting["customer"] is not None
    assert ended["customer"] is None
    written = f"{waiting} {ended} {await place.rows(refresh)} {answers} {caplog.text} {capsys.readouterr()}"
    for value in ("203.0.113.7", "04:30:00", "08:30:00", "Mozilla"):
        assert value not in written


async def test_a_customer_is_not_present_for_ever(small_place: Place) -> None:
    """No run came within ten minutes: the refresh ends as late, what was sealed is destroyed, no call is attended."""
    place = small_place
    connection_id = await place.connect()
    before = len(place.served())
    asked = await place.ask(connection_id=connection_id, resources=["balances"], customer=CUSTOMER)
    async with place.web.store.writing() as unit:
        earlier = await unit.now() - timedelta(minutes=11)
        await unit.connection.execute(sa.update(refresh_part).values(created_at=earlier))
        await unit.commit()

    await place.rest()
    ended = await place.look(asked["refresh_id"])

    assert (ended["status"], ended["connections"][0]["reason"]) == ("failed", "late")
    assert [one for one in place.served(since=before) if one.attended] == []
    assert {one["customer"] for one in await place.rows(refresh_part)} == {None}


async def test_the_sweep_ends_what_no_worker_served(small_place: Place) -> None:
    """Without a claim and without a look: the hourly sweep destroys what is sealed, and later the rows."""
    place = small_place
    connection_id = await place.connect()
    await place.ask(connection_id=connection_id, customer=CUSTOMER)
    async with place.web.store.writing() as unit:
        for table, age in ((refresh_part, timedelta(minutes=11)), (refresh, timedelta(days=31))):
            await unit.connection.execute(sa.update(table).values(created_at=await unit.now() - age))
        await unit.commit()

    assert await place.worker._sweeping.sweep()

    assert (await place.rows(refresh_part), await place.rows(refresh)) == ([], [])


@pytest.mark.parametrize(
    ("act", "reason"), [("pause", "paused"), ("suspend", "suspended"), ("stop", "revoked"), ("expire", "expired")]
)
async def test_what_waits_ends_with_the_reason_when_no_sync_can_come(small_place: Place, act: str, reason: str) -> None:
    """The consent stops while a refresh waits: it ends at once, and what was sealed is destroyed."""
    place = small_place
    connection_id = await place.connect()
    asked = await place.ask(connection_id=connection_id, customer=CUSTOMER)

    if act in ("pause", "stop"):
        await place.web.product.post(f"/v1/connections/{connection_id}/{act}")
    else:
        getattr(place.web.bank.bank, act)(connection_id)
        await place.worker.lifecycle.ask(ConsentId(connection_id))
    ended = await place.look(asked["refresh_id"])

    assert (ended["status"], ended["connections"][0]["reason"]) == ("failed", reason)
    assert {one["customer"] for one in await place.rows(refresh_part)} == {None}


async def test_a_connection_that_rests_says_so_at_once(small_place: Place) -> None:
    """Paused, then suspended: the answer itself has ended; no call for data is made."""
    place = small_place
    connection_id = await place.connect()
    before = len(place.served())
    await place.web.product.post(f"/v1/connections/{connection_id}/pause")
    paused = await place.ask(connection_id=connection_id)
    await place.web.product.post(f"/v1/connections/{connection_id}/reactivate")
    await place.rest()
    place.web.bank.bank.suspend(connection_id)
    await place.worker.lifecycle.ask(ConsentId(connection_id))
    suspended = await place.ask(connection_id=connection_id)

    assert [one["status"] for one in (paused, suspended)] == ["failed"] * 2
    assert [one["connections"][0]["reason"] for one in (paused, suspended)] == ["paused", "suspended"]
    assert {one.operation for one in place.served(since=before)} <= {
        "consent",
        "discovery",
        "token.client_credentials",
    }


async def test_a_suspended_connection_is_asked_about_at_the_hub(small_place: Place) -> None:
    """The bank lifted the suspension and said nothing: a refresh finds out, and the next one reads."""
    place = small_place
    connection_id = await place.connect()
    place.web.bank.bank.suspend(connection_id)
    await place.worker.lifecycle.ask(ConsentId(connection_id))
    place.web.bank.bank.lift(connection_id)

    first = await place.ask(connection_id=connection_id)
    await place.rest()
    second = await place.ask(connection_id=connection_id)
    await place.rest()

    assert first["connections"][0]["reason"] == "suspended"
    assert (await place.look(second["refresh_id"]))["status"] == "complete"


async def test_a_connection_that_ended_is_refused(small_place: Place) -> None:
    """Stopped: 409 by connection and by user; nothing is filed."""
    place = small_place
    connection_id = await place.connect()
    await place.web.product.post(f"/v1/connections/{connection_id}/stop")

    by_connection = await place.ask(connection_id=connection_id, status=409)
    by_user = await place.ask(user_ref="customer-1", status=409)

    assert (by_connection["code"], by_user["code"]) == ("wrong_state", "wrong_state")
    assert await place.rows(refresh) == []


async def test_a_users_connections_are_refreshed_together(small_place: Place) -> None:
    """Two connections of one user: a part each; the paused one says why, and the whole is partial."""
    place = small_place
    first = await place.connect()
    second = await place.connect(user=1)
    await place.web.product.post(f"/v1/connections/{second}/pause")

    asked = await place.ask(user_ref="customer-1", resources=["balances"])
    await place.rest()
    ended = await place.look(asked["refresh_id"])

    assert ended["status"] == "partial"
    assert {one["connection_id"]: (one["status"], one["reason"]) for one in ended["connections"]} == {
        first: ("complete", None),
        second: ("failed", "paused"),
    }


async def test_what_the_bank_refuses_is_told_listing_by_listing(small_place: Place) -> None:
    """Balances answer 500: failed, with the reason and when they are tried again; the accounts were read."""
    place = small_place
    connection_id = await place.connect()
    place.web.bank.bank.answers(500, operation="balances")

    asked = await place.ask(connection_id=connection_id, resources=["balances", "accounts", "statements"])
    await place.rest()
    ended = await place.look(asked["refresh_id"])

    assert ended["status"] == "partial"
    told = {one["resource"]: (one["outcome"], one["reason"]) for one in ended["connections"][0]["listings"]}
    assert told == {
        "accounts": ("unchanged", None),
        "balances": ("failed", "lfi_down"),
        "statements": ("failed", "not_permitted"),
    }
    failed = [one for one in ended["connections"][0]["listings"] if one["resource"] == "balances"]
    assert all(one["retry_at"] is not None and one["lfi_account_id"] for one in failed)


async def test_a_closed_gate_is_told_while_a_refresh_waits(small_place: Place) -> None:
    """The LFI answers 429: the first ends as gated; the next waits, and says for what and until when."""
    place = small_place
    connection_id = await place.connect()
    place.web.bank.bank.answers(429, retry_after=600, operation="balances")

    first = await place.ask(connection_id=connection_id, resources=["balances"])
    await place.rest()
    second = await place.ask(connection_id=connection_id, resources=["balances"])

    ended = (await place.look(first["refresh_id"]))["connections"][0]
    waiting = second["connections"][0]
    assert (ended["status"], ended["reason"]) == ("failed", "gated")
    assert (second["status"], waiting["reason"]) == ("queued", "gated")
    assert datetime.fromisoformat(waiting["retry_at"]) > datetime.now(UTC) + timedelta(minutes=5)


async def test_one_account_alone_is_refreshed(small_place: Place) -> None:
    """By its id in the lists, with its connection's id or without; the answer has both ids of the account."""
    place = small_place
    connection_id = await place.connect()
    account = (await place.web.product.get("/v1/accounts")).json()["accounts"][0]
    before = len(place.served())

    bodies: list[dict[str, Any]] = [{}, {"connection_id": connection_id}]
    for body in bodies:
        asked = await place.ask(**body, account_id=account["account_id"], resources=["balances"])
        await place.rest()
        (part,) = (await place.look(asked["refresh_id"]))["connections"]
        (listing,) = part["listings"]
        assert part["connection_id"] == connection_id
        assert (listing["account_id"], listing["lfi_account_id"]) == (account["account_id"], account["lfi_account_id"])
    assert {one.account_id for one in place.served(since=before)} == {account["lfi_account_id"]}


async def test_listings_are_named_as_the_lists_name_accounts(small_place: Place) -> None:
    """Each account's listing has our id and the LFI's; a listing of the connection has neither."""
    place = small_place
    connection_id = await place.connect()
    accounts = (await place.web.product.get("/v1/accounts")).json()["accounts"]
    asked = await place.ask(connection_id=connection_id, resources=["accounts", "balances"])
    await place.rest()
    (part,) = (await place.look(asked["refresh_id"]))["connections"]

    named = {(one["account_id"], one["lfi_account_id"]) for one in part["listings"] if one["resource"] == "balances"}
    assert named == {(one["account_id"], one["lfi_account_id"]) for one in accounts}
    assert [one["account_id"] for one in part["listings"] if one["resource"] == "accounts"] == [None]


async def test_an_account_that_is_not_held_is_not_found_by_its_field(
    small_place: Place, sqlite_url: str, open_store: Callable[..., Store]
) -> None:
    """Unknown, of another connection, of another tenant, the LFI's own id, or one that the LFI no longer shows."""
    place = small_place
    connection_id, other_id = await place.connect(), await place.connect(user=1, user_ref="customer-2")
    accounts = (await place.web.product.get("/v1/accounts")).json()["accounts"]
    account = next(one for one in accounts if one["connection_id"] == connection_id)
    async with place.web.store.writing() as unit:
        row = sa.select(account_reference).where(account_reference.c.account_id == account["account_id"])
        held = dict((await unit.connection.execute(row)).mappings().one())
        foreign = held | {"tenant": "another", "account_id": "acc_" + "x" * 20}
        await unit.connection.execute(sa.insert(account_reference).values(foreign))
        await unit.commit()
    bodies: list[dict[str, Any]] = [
        {"account_id": "acc_" + "0" * 20},
        {"account_id": account["lfi_account_id"]},
        {"account_id": foreign["account_id"]},
        {"account_id": account["account_id"], "connection_id": other_id},
    ]
    for body in bodies:
        refused = await place.ask(status=404, **body)
        assert refused["code"] == "not_found"
        assert [one["field"] for one in refused["errors"]] == ["account_id"], body
        assert body["account_id"] not in str(refused)


async def test_an_idempotency_key_stands_for_one_refresh(place: Place) -> None:
    """Twenty at once and one after its end: the same refresh.  Another body: 409.  Another API key: another refresh."""
    connection_id = await place.connect()
    headers = {"idempotency-key": "4b6f"}

    asked = await asyncio.gather(
        *(place.ask(connection_id=connection_id, max_age=60, headers=headers) for _ in range(20))
    )
    await place.rest()
    after = await place.ask(connection_id=connection_id, max_age=60, headers=headers)
    conflict = await place.ask(connection_id=connection_id, max_age=61, headers=headers, status=409)
    key = await place.web.key()
    other = await place.ask(
        connection_id=connection_id, max_age=61, headers=headers | {"authorization": f"Bearer {key}"}
    )

    assert len({one["refresh_id"] for one in (*asked, after)}) == 1
    assert after["status"] == "complete"
    assert conflict["code"] == "idempotency_conflict"
    assert other["refresh_id"] != after["refresh_id"]
    assert b"4b6f" not in b"".join(bytes(one["idempotency"]) + bytes(one["body"]) for one in await place.rows(refresh))


async def test_an_idempotency_key_is_forgotten_after_a_day(place: Place) -> None:
    """The same key then stands for a new refresh, of another body too."""
    connection_id = await place.connect()
    headers = {"idempotency-key": "key-1"}
    first = await place.ask(connection_id=connection_id, headers=headers)
    async with place.web.store.writing() as unit:
        yesterday = await unit.now() - timedelta(hours=24, seconds=1)
        await unit.connection.execute(sa.update(refresh).values(created_at=yesterday))
        await unit.commit()

    second = await place.ask(connection_id=connection_id, max_age=5, headers=headers)

    assert first["refresh_id"] != second["refresh_id"]


async def test_an_answer_may_wait_for_the_end(small_place: Place) -> None:
    """`wait` answers as soon as the run has ended; where none comes, after that time with how it stands."""
    place = small_place
    connection_id = await place.connect()

    waiting = asyncio.create_task(place.ask(connection_id=connection_id, wait=20))
    while not await place.work():  # noqa: ASYNC110 - the worker's ticks
        await asyncio.sleep(0.01)
    ended = await waiting
    queued = await place.ask(connection_id=connection_id, wait=1)

    assert ended["status"] == "complete"
    assert queued["status"] == "queued"


BAD = [
    ({}, "connection_id"),
    ({"connection_id": "c1", "user_ref": "u"}, "connection_id"),
    ({"user_ref": "u", "account_id": "acc_a"}, "account_id"),
    ({"user_ref": "u", "lfi_account_id": "1001"}, "lfi_account_id"),
    ({"account_id": ""}, "account_id"),
    ({"user_ref": "u", "resources": ["salaries"]}, "resources.0"),
    ({"user_ref": "u", "resources": []}, "resources"),
    ({"user_ref": "u", "max_age": -1}, "max_age"),
    ({"user_ref": "u", "since": 1}, "since"),
    ({"user_ref": "u", "customer": {"ip_address": "203.0.113.7"}}, "customer.auth_date"),
    ({"user_ref": "u", "customer": CUSTOMER | {"ip_address": "bank.example"}}, "customer.ip_address"),
    ({"user_ref": "u", "customer": CUSTOMER | {"ip_address": "fe80::1%eth0"}}, "customer.ip_address"),
    ({"user_ref": "u", "customer": CUSTOMER | {"auth_date": "2026-11-20T08:30:00"}}, "customer.auth_date"),
    ({"user_ref": "u", "customer": CUSTOMER | {"auth_date": "2999-01-01T00:00:00Z"}}, "customer.auth_date"),
    ({"user_ref": "u", "customer": CUSTOMER | {"user_agent": "a\r\nx-evil: 1"}}, "customer.user_agent"),
    ({"user_ref": "u", "customer": CUSTOMER | {"user_agent": "Ä"}}, "customer.user_agent"),
    ({"user_ref": "u", "customer": CUSTOMER | {"user_agent": "a" * 513}}, "customer.user_agent"),
]


async def test_what_is_wrong_is_named_and_not_repeated(small_place: Place) -> None:
    """422 with the field's place; no value of the customer's session is in the answer."""
    for body, field in BAD:
        refused = await small_place.ask(status=422, **body)  # type: ignore[arg-type]
        assert [one["field"] for one in refused["errors"]] == [field], (body, refused)
        assert not {"203.0.113.7", "bank.example", "x-evil", "2999"} & set(str(refused).replace(";", " ").split()), body
        assert "bank.example" not in str(refused)
        assert "x-evil" not in str(refused)
    headers = {"idempotency-key": "a" * 129}
    refused = await small_place.ask(status=422, user_ref="u", headers=headers)
    assert [one["field"] for one in refused["errors"]] == ["idempotency-key"]


async def test_what_is_not_held_is_not_found(
    small_place: Place, sqlite_url: str, open_store: Callable[..., Store]
) -> None:
    """An unknown connection, user or refresh: 404; a key without the scope: 403."""
    place = small_place
    connection_id = await place.connect()
    asked = await place.ask(connection_id=connection_id)
    for name in ("connection_id", "user_ref"):
        unknown: dict[str, Any] = {name: "unknown"}
        refused = await place.ask(status=404, **unknown)
        assert (refused["code"], [one["field"] for one in refused["errors"]]) == ("not_found", [name])
    for refresh_id in ("rfr_" + "a" * 20, "unknown"):
        answer = await place.web.product.get(f"/v1/refreshes/{refresh_id}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    async with open_store(sqlite_url, tenant="another", clock=None).reading() as unit:
        assert await unit.refreshes.get(asked["refresh_id"]) is None
        assert await unit.refreshes.unended([asked["refresh_id"]]) == set()
    key = await place.web.key([one for one in Scope if one is not Scope.REFRESHES_WRITE])
    refused = await place.ask(connection_id=connection_id, headers={"authorization": f"Bearer {key}"}, status=403)
    assert refused["code"] == "scope_missing"


async def test_a_worker_that_dies_in_the_run_leaves_the_refresh_to_the_next(place: Place) -> None:
    """The lease runs out, the run is made again by another worker, with the customer's headers; the refresh ends."""
    connection_id = await place.connect()
    asked = await place.ask(connection_id=connection_id, resources=["balances"], customer=CUSTOMER)
    claims = [claim for batch in await place.worker.tick() if batch.kind is WorkKind.SYNC for claim in batch.claims]
    async with place.web.store.writing() as unit:  # a worker that began it and is not heard of again
        assert await unit.work.take_many(claims, lease=timedelta(seconds=0))
        await unit.commit()
    between = await place.look(asked["refresh_id"])

    await place.rest()
    ended = await place.look(asked["refresh_id"])

    assert (between["status"], ended["status"]) == ("queued", "complete")
    assert any(one.attended for one in place.served())


async def test_a_parked_sync_is_told(small_place: Place) -> None:
    """A sync that is out of the schedule until a person acts: said at once, and to those that wait."""
    place = small_place
    connection_id = await place.connect()
    waiting = await place.ask(connection_id=connection_id)
    async with place.web.store.writing() as unit:
        row = await unit.work.find(WorkKind.SYNC, connection_id)
        assert row is not None
        await unit.work.park(row.id)
        await unit.commit()

    told = [await place.look(waiting["refresh_id"]), await place.ask(connection_id=connection_id)]

    assert [(one["status"], one["connections"][0]["reason"]) for one in told] == [("failed", "parked")] * 2


async def test_a_whole_sync_that_is_asked_for_too_reads_everything_without_the_customer(small_place: Place) -> None:
    """`consents sync` and a refresh with a customer: a run each; the whole sync's calls are not attended."""
    place = small_place
    connection_id = await place.connect()
    before, runs = len(place.served()), len(await place.runs(connection_id))

    asked = await place.ask(connection_id=connection_id, resources=["balances"], customer=CUSTOMER)
    async with place.web.store.writing() as unit:
        await unit.work.ask_now(WorkKind.SYNC, connection_id)
        await unit.commit()
    await place.rest()

    calls = Counter((one.operation, one.attended) for one in place.served(since=before))
    assert len(await place.runs(connection_id)) == runs + 2
    assert set(calls) == {
        ("balances", True), ("accounts", False), ("balances", False), ("transactions", False),
    }  # fmt: skip
    assert (await place.look(asked["refresh_id"]))["status"] == "complete"


async def test_the_history_behind_is_left_to_the_next_run(place: Place) -> None:
    """A first run that serves a refresh reads the newest part alone; the next runs bring the rest, all of it."""
    consent = await place.web.connect(permissions=PERMISSIONS)
    asked = await place.ask(connection_id=consent.connection_id, customer=CUSTOMER)
    heard = len(place.web.heard)

    await place.rest()
    ended = await place.look(asked["refresh_id"])

    assert ended["status"] == "complete"
    walks = Counter(
        bool(_said(request)[0]) for request in place.web.heard[heard:] if request.path.endswith("/transactions")
    )
    accounts = sum(one["resource"] == "transactions" for one in ended["connections"][0]["listings"])
    assert walks[True] >= accounts
    assert walks[False] >= accounts  # the slices of the history, in the background
    (books,) = place.web.bank.bank.books(consent.consent_id)["consents"]
    async with place.web.store.reading() as unit:
        counts = await unit.records.count(consent.connection_id)
        cursors = await unit.cursors.of(consent.connection_id)
    assert counts[ResourceName.TRANSACTIONS] == len(books["resources"]["transactions"])
    assert all(one.backfilled_to is not None for one in cursors.values() if one.listing.resource == "transactions")
