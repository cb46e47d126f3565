"""One seed: a bank that lives on, a network and processes that fail, then peace, and the audit.

    sick     a few runs over some days.  The bank's books change; at random requests, at random commits and between any
             two steps something goes wrong.  After each run the oracle says what the run owed, from the bank's side.
    peace    the faults end.  The ordinary schedule goes on until each listing was read to its end twice, and no item
             is left that could not be read.
    audit    tables against books, both ways: keys, typed columns, raw items, live and gone; the history whole; the
             change feed replays to the tables.

The same seed is the same play.  `play` raises `FailedError` with the seed, the schedule and the first
difference.
"""

import asyncio
import json
import random
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import UUID

import msgspec

from syncworker.audit import AuditedRow, Difference, RowName, compare
from syncworker.audit import Kind as DifferenceKind
from syncworker.simulator.consents import MoveError
from syncworker.standard.consents import Status
from syncworker.standard.permissions import Permission, in_words_of
from syncworker.standard.resources import BY_NAME, ResourceName, permitted
from syncworker.standard.values import ConsentId, local_date
from syncworker.standard.versions import Version
from syncworker.store.changes import Op
from syncworker.store.cursors import Cursor, Listing
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.store.work import Claim, WorkKind
from syncworker.sync.decode import whole_columns
from syncworker.sync.plan import PlanSettings
from syncworker.sync.reports import RunOutcome, RunReport, StepOutcome
from syncworker.sync.run import SyncSettings
from tests.faults.ground import COMMITS, HISTORY, LFI, START, Clock, Keys, Trouble, Worker, agreed, retry_after
from tests.faults.kinds import KINDS, Kind, Moment, Verdict, Where
from tests.faults.oracle import Witness
from tests.faults.wire import Asked, MemoryBank, Sent
from tests.ground.feed import name_of, whole_feed

N = ResourceName
CADENCE: Final = dict.fromkeys(N, timedelta(days=7)) | {
    N.ACCOUNTS: timedelta(hours=24),
    N.SCHEDULED_PAYMENTS: timedelta(hours=24),
    N.BALANCES: timedelta(hours=6),
    N.TRANSACTIONS: timedelta(hours=12),
}
SLOWEST: Final = max(CADENCE.values())
PATIENCE: Final = 2 * SLOWEST + timedelta(hours=12)
"""Twice the slowest cadence, and the ladder's longest waits beside it."""

REACH_DAYS: Final = 14
FIRST_SYNC: Final = timedelta(days=60)
"""As far back as a bank may lie: later walks look there again.  What a slice of history says is believed for good."""

LEASE_S: Final = 120.0
RUNS_OF_PEACE_MAX: Final = 40
BESIDE: Final = (
    Permission.ReadBalances,
    Permission.ReadBeneficiariesDetail,
    Permission.ReadStandingOrdersDetail,
    Permission.ReadDirectDebits,
    Permission.ReadScheduledPaymentsDetail,
    Permission.ReadStatements,
    Permission.ReadProduct,
    Permission.ReadParty,
)
_404: Final = frozenset({N.DIRECT_DEBITS, N.PRODUCT, N.SCHEDULED_PAYMENTS, N.STANDING_ORDERS})
LISTS_404: Final = {
    Version.V1_2: _404 | {N.ACCOUNT_PARTIES, N.PARTIES},
    Version.V2_0: _404,
    Version.V2_1: _404,
}
"""Operations that list 404 among their answers (Account Information API, `paths`): there it says *not held*."""

EVENTS: Final = ("suspended", "other-revoked", "lease-lost", "killed", *COMMITS)
"""What happens beside the faults of single requests."""

CRASHES: Final = {
    "lease-lost": 2,
    "killed": 1,
    "killed before": 1,
    "killed after": 1,
    "away before": 1,
    "away after": 1,
}
"""How many claims, at most, an event leaves begun and never ended."""

CRASHES_MAX: Final = 4
"""One more and the product parks the connection, for a person to look at."""

RARE: Final = (Where.TOKEN, Where.HUB, Where.ACCOUNTS, Where.LATER)
"""Requests of which a run makes few."""

GOOD: Final = (RunOutcome.OK, RunOutcome.UNCHANGED)
_JSON: Final = msgspec.json.Encoder(decimal_format="number")


class FailedError(AssertionError):
    """A seed failed: `str` tells which, what happened in it, and what is wrong."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What may go wrong.

    Attributes:
        kinds: names of `KINDS` that strike.
        events: names of `EVENTS` that happen.
    """

    kinds: frozenset[str] = frozenset(KINDS)
    events: frozenset[str] = frozenset(EVENTS)


HOLDING: Final = Rules()
"""What the product holds against: everything."""


@dataclass(slots=True)
class _Plan:
    """One fault that waits for its request.

    Attributes:
        at: strikes the n-th fitting request from now on.
        listing: with a kind that lasts: where it keeps striking.
    """

    kind: Kind
    at: int
    listing: Listing | None = None
    struck: int = 0


@dataclass(slots=True)
class _Live:
    """A consent of the play."""

    consent_id: ConsentId
    version: Version
    user: str
    permissions: tuple[Permission, ...]
    revoked: bool = False
    suspended: bool = False
    read: dict[Listing, int] = field(default_factory=dict)


class Play:
    """One seed, played once."""

    def __init__(self, seed: int, keys: Keys, database_url: str, rules: Rules) -> None:
        self.seed, self.keys, self.database_url, self.rules = seed, keys, database_url, rules
        self.dice = Random(f"faults/{seed}")
        self.told: list[str] = []
        self.clock = Clock(START)
        self.consents: list[_Live] = []
        self.peace = False
        self.plans: list[_Plan] = []
        self.on_request: dict[int, Callable[[], Any]] = {}
        self.requests = 0
        self.witnesses: dict[str, Witness] = {}
        self.earlier: dict[str, Sent] = {}
        self.crashes = 0
        self.struck: list[str] = []
        self.runs = 0

    # -- the ground ---------------------------------------------------------------------------------------------------

    async def play(self) -> None:
        """Play the seed to its end.

        Raises:
            FailedError: something is not as it must be.
        """
        random.seed(self.seed)
        dice = self.dice
        bank_folder = self.keys.folder / "bank"
        bank = self._bank(
            bank_folder, versions=tuple(Version), customers=8, now=self.clock.now,
            page_size=dice.choice((3, 4, 7, 100)),
            anchor=START.date(), access_token_seconds=dice.choice((600, 86_400)),
            rotation=dice.choice(("always", "never", "omit")), reuse=f"grace:{90 * 86_400}",
        )  # fmt: skip
        (bank_folder / "assertion-ids").unlink(missing_ok=True)
        bank.bank.ledger._make = self.keys.town.moved_in(Random(f"{self.seed}/town"), most=dice.randint(0, 24))
        bank.bank.ledger.users = self.keys.town.users
        async with bank:
            self.bank = bank
            for name in (N.BENEFICIARIES, N.STANDING_ORDERS, N.DIRECT_DEBITS, N.ACCOUNTS):
                bank.bank.paginate(name, dice.choice((None, 1, 2)))
            self.settings = SyncSettings(
                plan=PlanSettings(
                    cadence=CADENCE, rewalk=FIRST_SYNC + timedelta(days=20),
                    rewalk_every=timedelta(hours=dice.choice((9, 30))),
                    first_sync=dice.choice((FIRST_SYNC / 2, FIRST_SYNC)),
                    backfill_slice=timedelta(days=dice.choice((60, 120))),
                    backfill_max=HISTORY + timedelta(days=60),
                ),
                retry_after=retry_after, lease_s=LEASE_S, steps_at_once=dice.choice((1, 1, 8)),
                flush_bytes=dice.choice((4_000, 8_000_000)), seal_raw=dice.random() < 0.2,
            )  # fmt: skip
            self.worker = self._hire()
            try:
                await self._consent()
                await self._sick()
                await self._peace()
                await self._audit()
            except FailedError:
                raise
            except Exception as fault:
                raise self._failed(f"broke: {type(fault).__name__}: {fault}") from fault
            finally:
                await self.worker.close()

    def _bank(self, folder: Path, **options: Any) -> MemoryBank:
        """The bank of this play."""
        return MemoryBank(folder, **options)

    def _hire(self) -> Worker:
        """A process of the product."""
        return Worker(
            bank=self.bank, clock=self.clock, database_url=self.database_url, stores=self.keys.stores,
            config=self.keys.config, certificate=self.keys.certificate, settings=self.settings, strike=self._strike,
        )  # fmt: skip

    async def _replace(self) -> None:
        """A new process in place of a dead one."""
        await self.worker.close()
        self.worker = self._hire()

    async def _consent(self) -> None:
        dice, ledger = self.dice, self.bank.bank.ledger
        users = list(self.keys.town.users)
        for number in range(dice.choice((1, 1, 2))):
            user, version = dice.choice(users), dice.choice(tuple(Version))
            wanted = [Permission.ReadAccountsDetail, Permission.ReadTransactionsDetail]
            wanted += [one for one in BESIDE if dice.random() < (0.45 if number == 0 else 0.2)]
            known = [one.account_id for one in ledger.customer(user).accounts]
            accounts = known[: dice.randint(1, min(2, len(known)))]
            from_date = local_date(START - timedelta(days=dice.randint(60, 200))) if dice.random() < 0.2 else None
            permissions = in_words_of(version, wanted)
            consent_id = ConsentId(str(UUID(int=dice.getrandbits(128), version=4)))
            await agreed(
                self.bank, self.worker.store, self.clock, consent_id=consent_id, version=version, user=user,
                accounts=accounts, permissions=permissions, certificate=self.worker.config.transport.thumbprint,
                from_date=from_date,
            )  # fmt: skip
            self.consents.append(_Live(consent_id, version, user, permissions))
            self._tell(f"consent {consent_id[:4]} of {user}: {version}, {len(accounts)} accounts, from {from_date}, "
                       f"{' '.join(permissions)}")  # fmt: skip

    def _tell(self, what: str) -> None:
        self.told.append(f"{(self.clock.now() - START).total_seconds() / 3600:8.2f} h  {what}")

    def _failed(self, what: str) -> FailedError:
        lines = [f"seed {self.seed}: {what}", "the schedule:", *self.told]
        lines.append(f"again alone: python -m tests.faults.full --seed {self.seed}")
        return FailedError("\n".join(lines))

    # -- the network --------------------------------------------------------------------------------------------------

    async def _strike(self, asked: Asked) -> Sent:
        """What the wire carries back for one request."""
        worker = self.worker
        if worker.trouble.dead:
            return Sent.gone("lost")
        self.requests += 1
        happens = self.on_request.pop(self.requests, None)
        if happens is not None:
            done = happens()
            if asyncio.iscoroutine(done):
                await done
            if self.worker is not worker or _is_dead(worker):
                return Sent.gone("lost")
        listing = _listing(asked)
        kind = None if self.peace else self._kind_for(asked, listing)
        if kind is None:
            sent, verdict = await asked.process(), Verdict.TRUE
            if sent.status not in (200, 404):
                verdict = Verdict.OWED
        else:
            sent = await kind.bend(asked, Moment(dice=self.dice, clock=self.clock, earlier=self.earlier))
            verdict = await self._verdict(kind, asked, sent, listing)
            self.struck.append(kind.name)
            self._tell(
                f"  {kind.name} at {asked.operation} of {asked.account_id[-4:]} {asked.url.partition('?')[2][:90]}"
            )
        if listing is not None:
            self.witnesses.setdefault(asked.consent_id, Witness()).saw(listing, asked, sent, verdict)
            self._remember(asked, sent)
        return sent

    async def _verdict(self, kind: Kind, asked: Asked, sent: Sent, listing: Listing | None) -> Verdict:
        """What a bent answer is worth."""
        if asked.own is not None and asked.own.status == 404 == sent.status:
            return Verdict.TRUE  # the bank's own word, whatever became of its body
        if sent is asked.own and sent.status == 200:
            return Verdict.TRUE  # there was nothing on the page to bend
        if sent.status == 404 and listing is not None and await self._believed(kind, asked, listing):
            return Verdict.LIE
        if sent.status not in (200, 404):
            return Verdict.OWED
        return kind.verdict

    async def _believed(self, kind: Kind, asked: Asked, listing: Listing) -> bool:
        """Whether a 404 may be taken for the LFI's word that there is no such thing."""
        one = self._one(asked.consent_id)
        if "html" in kind.name or "continuation=" in asked.url or listing.resource not in LISTS_404[one.version]:
            return False
        async with self.worker.store.reading() as unit:
            rows = unit.records.all_rows(one.consent_id, resources=(listing.resource,), gone=True)
            return not [row async for row in rows if row.account_id == listing.account_id]

    def _remember(self, asked: Asked, sent: Sent) -> None:
        """Keep a page under the address of the one behind it."""
        if (
            sent.status == 200
            and "content-encoding" not in sent.headers
            and sent.body.startswith(b"{")
            and not sent.lost
        ):
            try:
                link = json.loads(sent.body).get("Links", {}).get("Next")
            except ValueError:
                return
            if link:
                self.earlier[link] = sent

    def _kind_for(self, asked: Asked, listing: Listing | None) -> Kind | None:
        for plan in self.plans:
            if plan.listing is not None:
                if plan.listing == listing:
                    plan.struck += 1
                    return plan.kind
                continue
            if not _fits(plan.kind.where, asked, listing) or self._for_good(plan.kind, asked, listing):
                continue
            plan.at -= 1
            if plan.at == 0:
                plan.struck += 1
                if plan.kind.lasts:
                    plan.listing = listing
                return plan.kind
        return None

    def _for_good(self, kind: Kind, asked: Asked, listing: Listing | None) -> bool:
        """Whether a lie would be believed for good: a slice of history, or an old statement, is not read again."""
        if kind.verdict is not Verdict.LIE or listing is None:
            return False
        return listing.resource is N.STATEMENTS or self._witness(asked.consent_id).in_slice(listing, asked.url)

    # -- sickness -----------------------------------------------------------------------------------------------------

    async def _sick(self) -> None:
        for number in range(self.dice.randint(2, 4)):
            await self._round(number)
        for one in self.consents:
            self._lift(one)

    async def _round(self, number: int) -> None:
        dice = self.dice
        self.plans = [one for one in self.plans if one.listing is not None and dice.random() < 0.6]
        names = sorted(self.rules.kinds)
        for _ in range(dice.randint(1, 3)):
            drawn = dice.randrange(len(KINDS))  # of all: a seed is the same play whatever the rules leave out
            name = tuple(KINDS)[drawn]
            kind = KINDS[name if name in self.rules.kinds else names[drawn % len(names)]]
            most = 2 if kind.where in RARE else 14
            self.plans.append(_Plan(kind, dice.randint(1, most)))
        if number and dice.random() < 0.7:
            self._storm(dice.randint(1, 6))
        if dice.random() < 0.25:
            self.bank.bank.drift(
                "storm", {"seed": dice.getrandbits(31), "n": 1, "reach_days": REACH_DAYS, "pages": False},
                operation="*", after_page=None, times=2,
            )  # fmt: skip
        self._event()
        asked = dice.random() < 0.25
        await self._run(asked=asked)
        self.on_request.clear()
        self.bank.bank.drifts.clear()
        self.worker.trouble.at.clear()
        if self.worker.trouble.dead:
            self._tell("a new worker; the lease of the old one runs out")
            await self._replace()
            self.clock.advance(seconds=LEASE_S + 1)
        self._pass_time()
        await self._polls()

    def _storm(self, count: int) -> None:
        shown = [one for live in self.consents if not live.revoked
                 for one in self.bank.bank.consents.get(live.consent_id).account_ids]  # fmt: skip
        if not shown:
            return
        drops = self.bank.bank.storm(
            self.dice.getrandbits(31), count, account_ids=dict.fromkeys(shown), reach_days=REACH_DAYS,
            pages=self.dice.random() < 0.3,
        )  # fmt: skip
        self._tell("storm: " + ", ".join(drop["verb"] for drop in drops))

    def _pass_time(self) -> None:
        """Some time until the next run: minutes, hours, a day."""
        kind = self.dice.random()
        if kind < 0.4:
            self.clock.advance(minutes=self.dice.choice((1, 2, 5, 30)))
        elif kind < 0.9:
            self.clock.advance(hours=self.dice.choice((1, 6, 7, 13)))
        else:
            self.clock.advance(hours=self.dice.choice((25, 49)))

    def _event(self) -> None:
        """One thing beside the faults, sometimes."""
        dice = self.dice
        if not self.rules.events or dice.random() < 0.45:
            return
        event = dice.choice(sorted(self.rules.events))
        costs = CRASHES.get(event, 0)
        if self.crashes + costs > CRASHES_MAX:
            return
        self.crashes += costs
        if event in COMMITS:
            self.worker.trouble.at[self.worker.trouble.commits + dice.randint(1, 8)] = event
            self._tell(f"a commit to come: {event}")
        else:
            acts = {"suspended": self._suspend, "other-revoked": self._revoke, "lease-lost": self._steal,
                    "killed": self._kill}  # fmt: skip
            self.on_request[self.requests + dice.randint(1, 16)] = acts[event]

    def _kill(self) -> None:
        self._tell("  the worker is killed")
        self.struck.append("killed")
        self.worker.die()

    def _suspend(self) -> None:
        one = self.dice.choice(self.consents)
        if not (one.revoked or one.suspended):
            self._tell(f"  {one.consent_id[:4]} is suspended")
            self.struck.append("suspended")
            self.bank.bank.suspend(one.consent_id)
            one.suspended = True

    def _lift(self, one: _Live) -> None:
        if one.suspended and not one.revoked:
            self._tell(f"{one.consent_id[:4]} is lifted")
            self.bank.bank.lift(one.consent_id)
            one.suspended = False

    def _revoke(self) -> None:
        if len(self.consents) < 2 or self.consents[1].revoked:
            return
        one = self.consents[1]
        self._tell(f"  {one.consent_id[:4]} is revoked")
        self.struck.append("other-revoked")
        try:
            self.bank.bank.revoke(one.consent_id)
        except MoveError:
            return
        one.revoked = True

    async def _steal(self) -> None:
        """The worker stands still until its leases are over, and others claim its work."""
        self._tell("  the worker stood still beyond its lease; its work is claimed anew")
        self.struck.append("lease-lost")
        self.clock.advance(seconds=LEASE_S + 1)
        thief = self._thief()
        try:
            claims = await self._claimed(thief.store.writing)
            async with thief.store.writing() as unit:
                await unit.work.take_many([(one.id, one.gen) for one in claims], lease=timedelta(seconds=LEASE_S))
                await unit.commit()
        finally:
            await thief.close()

    def _thief(self) -> Worker:
        thief = self._hire()
        thief.trouble = Trouble()
        return thief

    async def _polls(self) -> None:
        """What the poller does: ask the Hub for consents that rest, and follow."""
        self.plans = [one for one in self.plans if one.listing is not None]
        for one in self.consents:
            if self.dice.random() < 0.5:
                self._lift(one)
            await self._poll(one)

    async def _poll(self, one: _Live) -> None:
        async with self.worker.store.reading() as unit:
            held = await unit.consents.get(one.consent_id)
        if held is not None and held.status == Status.Suspended and not one.suspended:
            await self.worker.lifecycle.ask(one.consent_id)

    # -- a run --------------------------------------------------------------------------------------------------------

    async def _claimed(self, writing: Callable[[], Any]) -> list[Claim]:
        async with writing() as unit:
            claims: list[Claim] = await unit.work.claim(
                WorkKind.SYNC, slots={LFI: 1000}, lease=timedelta(seconds=LEASE_S)
            )
            await unit.commit()
        return claims

    async def _run(self, *, asked: bool = False) -> bool:
        """Sync what is due; says whether anything was."""
        async with self.worker.store.writing() as unit:
            if asked:
                for one in self.consents:
                    await unit.work.ask_now(WorkKind.SYNC, one.consent_id)
            await UnitOfWork.commit(unit)
        async with self.worker.store.writing() as unit:
            claims = await unit.work.claim(WorkKind.SYNC, slots={LFI: 1000}, lease=timedelta(seconds=LEASE_S))
            await UnitOfWork.commit(unit)
        if not claims:
            return False
        self.runs += 1
        due = {claim.subject: await self._due(claim) for claim in claims}
        usable = {one.consent_id for one in self.consents if not (one.revoked or one.suspended)}
        self.witnesses.clear()
        self._tell("run" + (", asked for" if asked else ""))
        done = await self.worker.sync(claims)
        self.struck += self.worker.trouble.struck
        for how in self.worker.trouble.struck:
            self._tell(f"  a commit: {how}")
        self.worker.trouble.struck.clear()
        for one in self.consents:
            for listing in self._witness(one.consent_id).read(self._since(one)) if self.peace else ():
                one.read[listing] = one.read.get(listing, 0) + 1
        if done is None:
            self._tell("  the run has no report")
            return True
        for report in done.runs:
            self._tell(f"  {report.connection_id[:4]}: {report.outcome}, {report.error}, {report.calls} calls")
            self._judge(report, due.get(report.connection_id, ()) if report.connection_id in usable else ())
        return True

    def _witness(self, consent_id: str) -> Witness:
        return self.witnesses.get(consent_id) or Witness()

    def _since(self, one: _Live) -> date:
        """As far back as something changed or a bank lied, within what the consent shows."""
        since = local_date(START - FIRST_SYNC)
        from_date = self.bank.bank.consents.get(one.consent_id).from_date
        return since if from_date is None else max(since, from_date)

    async def _due(self, claim: Claim) -> list[Listing]:
        """Listings a run of this claim has to read: due by their cursors, or never read, and not refused lately.

        Of a connection of which nothing was ever read, all: a run that brought nothing of it either is no good one.
        But what the bank said it does not have was heard, even in a run whose other writes failed.
        """
        one = self._one(claim.subject)
        async with self.worker.store.reading() as unit:
            cursors = await unit.cursors.of(one.consent_id)
        now = self.clock.now()
        known = {listing.account_id for listing in cursors}
        due = [
            listing
            for listing in self._listings(one)
            if ((cursor := cursors.get(listing)) is None and (listing.account_id in known or not listing.account_id))
            or (
                cursor is not None
                and (claim.asked or cursor.due_at <= now)
                and (cursor.refused_until is None or cursor.refused_until <= now)
            )
        ]
        never = not any(cursor.checked_at for cursor in cursors.values())
        absent = {listing for listing, cursor in cursors.items() if cursor.outcome == StepOutcome.ABSENT} - {*due}
        return [listing for listing in self._listings(one) if listing not in absent] if never else due

    def _listings(self, one: _Live) -> list[Listing]:
        accounts = self.bank.bank.consents.get(one.consent_id).account_ids
        return [
            Listing(account, resource.name)
            for resource in permitted([code.value for code in one.permissions], version=one.version, repeats=False)
            for account in (accounts if resource.per_account else ("",))
        ]

    def _one(self, consent_id: str) -> _Live:
        return next(one for one in self.consents if one.consent_id == consent_id)

    def _judge(self, report: RunReport, due: Collection[Listing]) -> None:
        """A run that owed something must not say that all is well."""
        witness = self._witness(report.connection_id)
        walked = witness.walks.get(Listing("", N.ACCOUNTS), [])
        lied = any(walk.lied for walk in walked)
        owed = witness.owed([] if lied else due)
        if owed and (report.outcome in GOOD or report.complete or report.good):
            raise self._failed(f"a run called itself {report.outcome} and owed: " + "; ".join(owed))

    # -- peace --------------------------------------------------------------------------------------------------------

    async def _peace(self) -> None:
        self.peace = True
        self.plans.clear()
        began = self.clock.now()
        self._tell("peace")
        for _ in range(RUNS_OF_PEACE_MAX):
            for one in self.consents:
                await self._poll(one)
            await self._run()
            unread = await self._unread()
            lacking = {one.consent_id: self._lacking(one, unread) for one in self.consents if not one.revoked}
            if not any(lacking.values()):
                break
            await self._wait_for(lacking)
            if self.clock.now() - began > PATIENCE:
                raise self._failed(f"not read twice within {PATIENCE}: {_words(lacking)}")
        else:
            raise self._failed(f"not read twice in {RUNS_OF_PEACE_MAX} runs: {_words(lacking)}")
        self._tell("all was read twice")

    def _lacking(self, one: _Live, unread: Collection[tuple[str, Listing]]) -> list[Listing]:
        return [
            listing
            for listing in self._listings(one)
            if one.read.get(listing, 0) < 2 or (one.consent_id, listing) in unread
        ]

    async def _unread(self) -> set[tuple[str, Listing]]:
        """Listings of which an item was kept that could not be read: it is owed until a walk shows it mended."""
        async with self.worker.store.reading() as unit:
            items = await unit.unreadable.list(limit=1_000)
        return {(one.connection_id, Listing(one.account_id, one.resource)) for one in items}

    async def _wait_for(self, lacking: Mapping[ConsentId, Sequence[Listing]]) -> None:
        """Until the schedule reads one of them: the connection is due, and the listing with it."""
        moments = []
        async with self.worker.store.reading() as unit:
            for consent_id, listings in lacking.items():
                if not listings:
                    continue
                work = await unit.work.find(WorkKind.SYNC, consent_id)
                assert work is not None
                cursors = await unit.cursors.of(consent_id)
                wanted = [_due_of(cursors.get(listing)) for listing in listings]
                known = [at for at in wanted if at is not None]
                moments.append(max(work.due_at, min(known)) if len(known) == len(wanted) else work.due_at)
        wait = (min(moments) - self.clock.now()).total_seconds()
        self.clock.advance(seconds=max(60.0, min(wait, PATIENCE.total_seconds() * 2)))

    # -- the audit ----------------------------------------------------------------------------------------------------

    async def _audit(self) -> None:
        living = [one for one in self.consents if not one.revoked]
        books = [
            AuditedRow(
                RowName(one.consent_id, row["account_id"], resource, "|".join(row["key"])),
                _JSON.encode(row["item"]),
                row["columns"],
            )
            for one in living
            for resource, rows in self.bank.bank.books(one.consent_id)["consents"][0]["resources"].items()
            for row in rows
        ]
        async with self.worker.store.reading() as unit:
            rows = [row async for row in unit.records.all_rows(None)]
            feed = await whole_feed(unit)
            cursors = {one.consent_id: await unit.cursors.of(one.consent_id) for one in living}
        ours = {one.consent_id for one in living}
        tables = [
            AuditedRow(RowName(row.connection_id, row.account_id, row.resource, row.key), row.item, whole_columns(row))
            for row in rows
            if row.connection_id in ours
        ]
        differences = [one for one in compare(books, tables).differences if not self._before_history(one, tables)]
        if differences:
            first = differences[0]
            name = first.name
            raise self._failed(
                f"{len(differences)} differences; {first.kind}: {name.resource} of {name.connection_id[:4]} "
                f"{name.account_id[-4:]} {name.key[:40]} {' '.join(first.columns)}"
            )
        self._replay(feed, {(row.connection_id, row.account_id, row.resource.value, row.key) for row in rows})
        for one in living:
            for listing in self._listings(one):
                self._whole(one, listing, cursors[one.consent_id].get(listing))

    def _before_history(self, one: Difference, tables: Sequence[AuditedRow]) -> bool:
        """Whether a row too many lies where the LFI's own history begins: within a day nothing is proved gone there.

        `FirstAvailableDateTime` may move on as history ages, and filters read its offset in more than one way.
        """
        if one.kind is not DifferenceKind.EXTRA or one.name.resource != N.TRANSACTIONS:
            return False
        first = min(
            (row.booked_at for row in self.bank.bank.ledger.account(one.name.account_id).transactions), default=None
        )
        at = next(row.columns["booking_date_time"] for row in tables if row.name == one.name)
        return first is not None and at is not None and at < first + timedelta(days=1)

    def _replay(self, feed: Sequence[Any], held: set[tuple[str, str, str, str]]) -> None:
        live: set[tuple[str, str, str, str]] = set()
        for row in feed:
            name = name_of(row)
            if row.change.op is Op.REMOVED:
                if name not in live:
                    raise self._failed(f"the feed removes what it never added: {name[1:]}")
                live.remove(name)
            elif (name in live) != (row.change.op is Op.MODIFIED):
                raise self._failed(
                    f"the feed says {row.change.op} of {name[1:]}, which was{'' if name in live else ' not'} live"
                )
            else:
                live.add(name)
        if live != held:
            raise self._failed(f"the feed replays to another state: {min(live ^ held)[1:]}")

    def _whole(self, one: _Live, listing: Listing, cursor: Cursor | None) -> None:
        """The history of a long listing is said to be whole."""
        window = BY_NAME[listing.resource].window
        if window is None or not window.sliced:
            return
        if cursor is None or cursor.backfilled_to is None:
            raise self._failed(f"the history of {listing.resource} of {listing.account_id[-4:]} is not whole")


def _is_dead(worker: Worker) -> bool:
    return worker.trouble.dead


def _words(lacking: Mapping[ConsentId, Sequence[Listing]]) -> str:
    return ", ".join(
        f"{consent_id[:4]} {listing.resource} of {listing.account_id[-4:]}"
        for consent_id, listings in lacking.items()
        for listing in listings
    )


def _due_of(cursor: Cursor | None) -> Any:
    if cursor is None:
        return None
    return max(cursor.due_at, cursor.refused_until) if cursor.refused_until else cursor.due_at


def _listing(asked: Asked) -> Listing | None:
    if asked.host != "rs" or asked.method != "GET":
        return None
    try:
        return Listing(asked.account_id, N(asked.operation))
    except ValueError:
        return None


def _fits(where: Where, asked: Asked, listing: Listing | None) -> bool:
    match where:
        case Where.TOKEN:
            return asked.operation == "token.refresh_token"
        case Where.HUB:
            return listing is None and asked.operation != "token.refresh_token"
        case _ if listing is None:
            return False
        case Where.LATER:
            return "continuation=" in asked.url
        case Where.DATED:
            return listing.resource is N.TRANSACTIONS
        case Where.ACCOUNTS:
            return listing.resource is N.ACCOUNTS
        case Where.LISTS:
            return listing.resource not in (N.PARTIES, N.ACCOUNTS, N.BALANCES, N.PRODUCT)
    return True


async def play(seed: int, keys: Keys, template: Path, *, rules: Rules, database_url: str = "") -> Play:
    """Play one seed on a database of its own.

    Args:
        keys: of this process alone; its database lies in their folder.
        template: a migrated SQLite file to copy.
        database_url: another database, migrated and empty; SQLite unless given.

    Raises:
        FailedError: something is not as it must be.
    """
    folder = keys.folder
    if not database_url:
        file = folder / f"seed-{seed}.db"
        for left in folder.glob(f"seed-{seed}.db*"):
            left.unlink()
        shutil.copyfile(template, file)
        database_url = f"sqlite:///{file}"
    played = Play(seed, keys, database_url, rules)
    try:
        await played.play()
    finally:
        for left in folder.glob(f"seed-{seed}.db*"):
            left.unlink()
    return played
