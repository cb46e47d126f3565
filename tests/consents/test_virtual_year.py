"""Consents live through a year: flags, renewals, expiries, through work, claims and tables.

Some twenty here; two hundred with `SYNCWORKER_TEST_YEAR_USERS=46`, as `make scenarios` has it.

The Hub is `hub.Hub` with the calls of an authorisation and a bank's two listings; everything of ours is real.  What is
due is claimed once a day, and again behind every hour in which users did something.  For ten days nobody claims.
"""

import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import structlog.testing
from pydantic import SecretStr

from syncworker.consents.authorize import Authorizer
from syncworker.consents.lifecycle import NEVER, Lifecycle
from syncworker.consents.polling import Cadence, Polling
from syncworker.consents.renewal import NEAR_END, THRESHOLDS, Flagging, Renewals, Wishes
from syncworker.consents.revoking import Revoking
from syncworker.lfi.api import Page
from syncworker.lfi.directory import Discovery
from syncworker.lfi.oauth import PushedAuthorization, TokenAnswer
from syncworker.schedule.handlers import Ended, Handlers
from syncworker.standard.consents import EXPIRY_MAX, TERMINAL, ConsentRequest, Status
from syncworker.standard.resources import Resource, ResourceName
from syncworker.standard.values import AccountId, ConsentId
from syncworker.standard.versions import Version
from syncworker.store.consents import StoredConsent
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, WorkKind
from syncworker.sync.engine import Engine, Parts
from syncworker.sync.plan import PlanSettings
from syncworker.sync.run import SyncSettings
from tests.consents.hub import LFI, PERMISSIONS, Hub
from tests.ground.clock import ManualClock

pytestmark = pytest.mark.store

ISSUER = "https://auth.noor.example"
USERS = int(os.environ.get("SYNCWORKER_TEST_YEAR_USERS", "6"))
CONSENTS_MIN = 200 if USERS >= 46 else 3 * USERS
DAY = timedelta(days=1)
RARELY = timedelta(days=400)
ASLEEP = range(200, 210)
"""Days on which no worker lives and nobody calls."""


@dataclass
class Bank(Hub):
    """The Hub, and what else of an LFI's client a year needs; it refuses what the standard forbids."""

    config: Any = field(
        default_factory=lambda: SimpleNamespace(
            base_urls={Version.V2_1: ISSUER}, account_types=(), account_sub_types=(), published_in=_all, connections=8
        )
    )
    certificate: Any = field(default_factory=lambda: SimpleNamespace(thumbprint="thumbprint"))
    served: Counter[ConsentId] = field(default_factory=Counter)

    async def discovery(self) -> Discovery:
        return Discovery(
            issuer=ISSUER,
            authorization_endpoint=ISSUER,
            token_endpoint=ISSUER,
            pushed_authorization_request_endpoint=ISSUER,
            jwks_uri=ISSUER,
            raw={},
            fetched_at=self.clock.now(),
        )

    async def push_authorization(self, details: list[dict[str, Any]], *, state: str, **_: Any) -> PushedAuthorization:
        asked = details[0]["consent"]
        now, ends = self.clock.now(), datetime.fromisoformat(asked["ExpirationDateTime"])
        base = asked.get("BaseConsentId")
        assert asked["ConsentId"] not in self.consents
        assert now < ends <= now + EXPIRY_MAX
        assert base is None or self.consents[base].base_consent_id is None, "BaseConsentId is not a root"
        self.has(
            ConsentId(asked["ConsentId"]),
            "AwaitingAuthorization",
            base_consent_id=base,
            permissions=tuple(asked["Permissions"]),
            expires_at=ends,
            raw={"CreationDateTime": now.isoformat()},
        )
        return PushedAuthorization(f"urn:{state}", now + timedelta(seconds=90))

    async def authorization_url(self, request_uri: str) -> str:
        return f"{ISSUER}/authorize?request_uri={request_uri}"

    async def ready_to_exchange(self) -> Any:
        return {}

    async def exchange_code(self, code: SecretStr, **_: Any) -> TokenAnswer:
        now, secret = self.clock.now(), SecretStr("token")
        view = self.shows(ConsentId(code.get_secret_value()))
        return TokenAnswer(
            access_token=secret,
            refresh_token=secret,
            expires_in=600,
            expires_at=now + timedelta(seconds=600),
            id_token=None,
            consent=view,
            received_at=now,
        )

    async def pages(self, resource: Resource, account_id: AccountId | None, **options: Any) -> AsyncIterator[Page]:
        """One account, and a balance that is another one at each look."""
        token = await options["token"]()
        consent_id = ConsentId(token.get_secret_value())
        assert self.shows(consent_id).status == "Authorized", "data was asked for with a consent not in use"
        self.served[consent_id] += 1
        root = self.consents[consent_id].base_consent_id or consent_id
        item: dict[str, Any] = {"AccountId": f"acc-{root[:30]}"}
        data: dict[str, Any] = {"Account": [item]}
        if resource.name is ResourceName.BALANCES:
            amount = {"Amount": f"{sum(self.served.values())}.00", "Currency": "AED"}
            when = self.clock.now().isoformat()
            balance = {"CreditDebitIndicator": "Credit", "Type": "InterimBooked", "DateTime": when, "Amount": amount}
            data = {"AccountId": account_id, "Balance": [balance]}
        yield Page(
            number=1,
            data=json.dumps(data).encode(),
            next_url=None,
            total_pages=1,
            first_available=None,
            last_available=None,
        )


def _all(_: Version) -> None:
    """The LFI publishes every endpoint."""


class User:
    """What one customer does, drawn once: when they follow a link, and what befalls their consents."""

    def __init__(self, number: int, dice: random.Random) -> None:
        self.ref = f"user-{number}"
        self.begins = dice.randrange(60)
        self.days = dice.choice((10, 45, 90, 120, 180, 364))
        self.answers = dice.choice((30, 14, 7, 1, None))  # which flag; None: none of them
        self.returns_after = dice.choice((3, 20, None))  # days after the end; None: never
        self.suspended = dice.randrange(365) if dice.random() < 0.2 else None
        self.revokes = dice.randrange(365) if dice.random() < 0.2 else None
        self.changes = dice.randrange(365) if dice.random() < 0.2 else None
        self.doubts = dice.random() < 0.3  # opens the link once and leaves
        self.root: ConsentId | None = None


class Year:
    """The worker's parts on one store and one bank."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self.clock = store, clock
        self.bank = Bank(clock)
        lifecycle = Lifecycle(store, self.bank.clients)
        revoking = Revoking(store, self.bank.clients, lifecycle)
        polling = Polling(store, lifecycle, revoking, cadence=Cadence(authorized=RARELY, compared=RARELY), retention={})
        flagging = Flagging(store)
        self.authorizer = Authorizer(store, self.bank.clients, clock, token_due=None)
        self.renewals = Renewals(store, self.bank.clients, self.authorizer)
        self.told: list[ConsentId] = []
        self.ticks: list[datetime] = []

        async def look(claim: Claim) -> Ended:
            return Ended(*await polling.look(claim))

        async def flag(claim: Claim) -> Ended:
            due_at, outcome = await flagging.flag(claim)
            if outcome == "flagged":
                self.told.append(ConsentId(claim.subject))
            return Ended(due_at, outcome)

        handlers = {WorkKind.CONSENT: look, WorkKind.FLAG: flag}
        self.handlers = Handlers(store, handlers, retry_after=lambda _: DAY)
        settings = SyncSettings(
            plan=PlanSettings(cadence=dict.fromkeys(ResourceName, RARELY)), retry_after=lambda _: DAY
        )
        self.engine = Engine(
            Parts(store=store, clients=self.bank.clients, tokens=_named, ask=lifecycle.ask, clock=clock), settings
        )

    async def tick(self) -> None:
        """Claim what is due and do it, until nothing is: flags first, since they order revocations."""
        self.ticks.append(self.clock.now())
        for _ in range(10):
            claims = await self.store.atomically(self._claim)
            if not any(claims.values()):
                return
            for kind, hints in claims.items():
                if kind is WorkKind.SYNC:
                    await self.engine.sync_batch(hints)
                elif hints:
                    await self.handlers.batch(kind, hints)
        raise AssertionError("work is due again and again")

    async def _claim(self, unit: UnitOfWork) -> dict[WorkKind, list[tuple[int, int]]]:
        now = await unit.now()
        claims: dict[WorkKind, list[tuple[int, int]]] = {}
        for kind in (WorkKind.FLAG, WorkKind.CONSENT, WorkKind.SYNC):
            due = await unit.work.next_due(kind)
            found = await unit.work.claim(kind, slots={LFI: 1000}) if due is not None and due <= now else []
            claims[kind] = [(claim.id, claim.gen) for claim in found]
        return claims

    async def begins(self, user: User) -> None:
        request = ConsentRequest(permissions=PERMISSIONS, expires_at=self.clock.now() + user.days * DAY)
        intended = await self.authorizer.intend(LFI, request, user_ref=user.ref)
        user.root = await self.follows(intended.intent_id)

    async def renews(self, user: User, **changes: Any) -> None:
        assert user.root is not None
        intended = await self.renewals.renew(user.root, Wishes(**changes))
        if user.doubts:
            user.doubts = False
            await self.authorizer.open(intended.intent_id)
            self.clock.advance(minutes=5)
        await self.follows(intended.intent_id)

    async def follows(self, intent_id: str) -> ConsentId:
        """The user opens a link, agrees and comes back."""
        started = await self.authorizer.open(intent_id)
        self.clock.advance(seconds=30)
        self.bank.moves(started.consent_id, Status.Authorized)
        redirect = f"https://tpp.example/cb?code={started.consent_id}&state={started.state}&iss={ISSUER}"
        return (await self.authorizer.complete(redirect)).consent_id

    async def happens(self, consent_id: ConsentId, status: Status) -> None:
        """The bank moves a consent and an event says so."""
        if not self.bank.moves(consent_id, status):
            return
        async with self.store.writing() as unit:
            await unit.work.ask_now(WorkKind.CONSENT, consent_id)
            await unit.commit()

    async def consents(self) -> list[StoredConsent]:
        async with self.store.reading() as unit:
            return list(await unit.consents.find())


def _named(consent_id: ConsentId, _seen: object = None, _age: float = 0.0) -> Any:
    """A token that says whose it is."""

    async def source(*, rejected: SecretStr | None = None) -> SecretStr:
        return SecretStr(consent_id)

    return source


async def lived(year: Year, users: list[User]) -> None:
    """The year, day by day."""
    began = year.clock.now()
    of_root: dict[ConsentId, User] = {}
    ended: dict[ConsentId, int] = {}
    for day in range(365):
        year.clock.set(began + day * DAY)
        if day in ASLEEP:
            continue
        year.told.clear()
        await year.tick()
        year.clock.advance(hours=6)
        held = {one.consent_id: one for one in await year.consents()}
        in_use = {one.connection_id: one for one in held.values() if one.callable_at(year.clock.now())}
        for one in held.values():
            if one.status == "Expired" or one.status == "Revoked":
                ended.setdefault(one.consent_id, day)
        told = {held[one].connection_id: held[one] for one in year.told}
        acted = False
        for user in users:
            acted |= await acts(year, user, day, in_use, told, ended)
            if user.root is not None:
                of_root[user.root] = user
        if acted:
            await year.tick()


async def acts(
    year: Year,
    user: User,
    day: int,
    in_use: Mapping[ConsentId, StoredConsent],
    told: Mapping[ConsentId, StoredConsent],
    ended: Mapping[ConsentId, int],
) -> bool:
    """What a user or their bank does on a day; says whether anything."""
    if user.root is None:
        if user.begins == day:
            await year.begins(user)
        return user.begins == day
    mine = in_use.get(user.root)
    if mine is None:
        over = max((at for one, at in ended.items() if _root(year, one) == user.root), default=day)
        if user.returns_after is not None and day - over == user.returns_after:
            await year.renews(user)
            return True
        if user.suspended is not None and day == user.suspended + 10:
            await lifted(year, user)
            return True
        return False
    left = mine.expires_at - year.clock.now()
    if user.root in told and user.answers is not None and left <= user.answers * DAY:
        await year.renews(user)
    elif day == user.changes:
        await year.renews(user, permissions=("ReadAccountsBasic",), expires_at=year.clock.now() + 100 * DAY)
    elif day == user.revokes:
        await year.happens(mine.consent_id, Status.Revoked)
    elif day == user.suspended:
        await year.happens(mine.consent_id, Status.Suspended)
    else:
        return False
    return True


async def lifted(year: Year, user: User) -> None:
    for one in list(year.bank.consents):
        if _root(year, one) == user.root and year.bank.shows(one).status == "Suspended":
            await year.happens(one, Status.Authorized)


def _root(year: Year, consent_id: ConsentId) -> ConsentId:
    return year.bank.consents[consent_id].base_consent_id or consent_id


def expected_flags(held: StoredConsent, ticks: list[datetime]) -> dict[int, str | None]:
    """What must have become of a consent's thresholds, from its life and the instants at which anybody looked."""
    begun = datetime.fromisoformat(held.raw["CreationDateTime"])
    over = min(held.expires_at, held.revoke_asked_at or NEVER)
    looked = [one for one in ticks if held.created_at <= one < over and one <= (held.ended_at or NEVER)]
    # at the very tick that hears of an end from the Hub, flags came first
    flags: dict[int, str | None] = {}
    for tick in looked:
        come = sorted(
            days for days in THRESHOLDS if days not in flags and held.expires_at - timedelta(days=days) <= tick
        )
        flags |= {days: "short" for days in come if held.expires_at - timedelta(days=days) <= begun}
        late = [days for days in come if days not in flags]
        flags |= dict.fromkeys(late, "passed")
        if late:
            flags[late[0]] = None
    return flags


@pytest.mark.timeout(600)
async def test_a_year_of_flags_renewals_and_expiries(postgresql_url: str, open_store: Callable[..., Store]) -> None:
    """Each threshold is decided about exactly once, no connection has two roots, and generations only grow."""
    clock = ManualClock(datetime.combine(date(2026, 1, 1), datetime.min.time(), UTC))
    store = open_store(postgresql_url, clock=clock)
    year = Year(store, clock)
    dice = random.Random(5)
    with structlog.testing.capture_logs():  # thousands of lines nobody reads
        await lived(year, [User(number, dice) for number in range(USERS)])

    held = await year.consents()
    by_id = {one.consent_id: one for one in held}
    async with store.reading() as unit:
        flags = {
            one: {flag.days: flag.skipped for flag in found}
            for one, found in (await unit.renewals.flags(list(by_id))).items()
        }
        notes = Counter((note["subject"], note["facts"]["days"]) for note in await unit.consents.notes(what=NEAR_END))
        chains = {one.connection_id: await unit.runs.latest(one.connection_id, limit=1000) for one in held}
        parked = [row for kind in WorkKind for row in await unit.work.troubled(kind)]

    assert flags == {one.consent_id: expected_flags(one, year.ticks) for one in held}
    assert notes == Counter({(one, days): 1 for one, of in flags.items() for days, why in of.items() if why is None})
    assert {one: len(_roots(held, one)) for one in chains} == dict.fromkeys(chains, 1)
    assert all(one.base_consent_id in (None, one.connection_id) for one in held)
    assert [one for one, runs in chains.items() if not _in_order(runs, by_id)] == []
    assert {one.consent_id: one.status for one in held} == {
        one.consent_id: year.bank.shows(one.consent_id).status for one in held
    }
    alive = Counter(one.connection_id for one in held if one.status not in TERMINAL)
    assert (max(alive.values()), parked) == (1, [])
    came_of_it = Counter(why for of in flags.values() for why in of.values())
    assert {None, "short", "passed"} <= came_of_it.keys()  # the year met each of them
    assert (len(chains), len(held) >= CONSENTS_MIN) == (USERS, True)
    assert {"Authorized", "Expired", "Revoked"} <= {one.status for one in held}


def _roots(held: list[StoredConsent], connection_id: ConsentId) -> list[ConsentId]:
    return [one.consent_id for one in held if one.connection_id == connection_id and one.base_consent_id is None]


def _in_order(runs: Any, consents: Mapping[ConsentId, StoredConsent]) -> bool:
    """Whether the runs of a connection, by their generation, go from one consent to the next and never back."""
    begun = [consents[run.consent_id].created_at for run in sorted(runs, key=lambda run: run.gen) if run.consent_id]
    return begun == sorted(begun)
