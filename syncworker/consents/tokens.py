"""A live access token for each consent, refreshed by one worker at a time.

The one door is `Vault`.  A refresh goes

    begin     intent and lease, committed            with the interaction id of the call that is to follow
    call      one HTTP attempt, fresh assertion      rule 20: no answer is not a refusal
    swap      compare the version, store, commit     rules 16, 19: the holder of an answer wins unless the version moved

and comes out as an `Outcome`.  An access token is given out only after its commit.  `invalid_grant` is a question first
(rule 21): did the version move?  did somebody else begin and vanish?  is a spare left?  does the Hub say that the
consent ended?  Only then is the grant lost, with a cause, once.

Refreshes that begin at the same time share a transaction, and so do answers that come while one is being committed
(`store.grouped`): the plain ones, after which nothing follows but the next refresh.  Nobody waits for company.  An
answer with more to it, or whose rows another transaction holds, goes alone and holds up nobody.

Each call has its row in the table `call`, filed in the transaction that stores what came of it.  A process that ends
between call and commit leaves the call's interaction id with the intent; the next refresh files it as `in_doubt`.

A process that ended in a refresh is known to have ended when its lease has run out, and so is its claim by then: the
next claim sends its call at once.  Only after `invalid_grant` does it wait some seconds more, for an answer that the
other holds and could not store yet.

A refresh runs as a task of its own: whoever waits for it may give up or be cancelled without harm to it, and `drain`
waits for all of them at shutdown.

Named checkpoints, for tests that end or pause the process there: `intent-committed`, `answer-received`,
`answer-stored`.

Source: Tokens, `domain.md` §2.5; `design.md` §7 "Token"; `reliability.md` §4.
"""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import structlog
from pydantic import SecretStr
from structlog.contextvars import bind_contextvars

from syncworker.clock import Clock, monotonic
from syncworker.consents.allowed import EVERYBODY, Allowed
from syncworker.consents.filing import free_call
from syncworker.consents.lifecycle import (
    NEVER,
    Clients,
    OnCall,
    ended_by_clock,
    noted,
    rest,
    tell_needs_consent,
    untold,
)
from syncworker.consents.storing import Storing
from syncworker.errors import (
    ClientRejectedError,
    ConsentError,
    ConsentNotUsableError,
    GrantLostError,
    LFIBreakerOpenError,
    LFIRateLimitedError,
    LFIUnavailableError,
    RefusedError,
    SealError,
    SetupError,
    StandardViolationError,
    SyncWorkerError,
    TokenBusyError,
    TransientError,
)
from syncworker.lfi.api import LFIClient
from syncworker.lfi.oauth import TokenAnswer
from syncworker.lfi.transport import Call
from syncworker.standard.calendar import shifted, span
from syncworker.standard.consents import ConsentView
from syncworker.standard.interaction import new_interaction_id
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.calls import CallRow
from syncworker.store.consents import StoredConsent
from syncworker.store.failures import StoreRefusedError
from syncworker.store.grouped import Grouped
from syncworker.store.situations import BeforeCall, BeforeSwaps, before_call, before_calls, before_swaps
from syncworker.store.tokens import Beginning, NewToken, StoredToken
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import LEASE, Claim, End, WorkKind

CALLS_MAX: Final = 3
"""Calls with one refresh token in one refresh; each spare is tried once beside them."""

RETRY_WAITS_S: Final = (1.0, 5.0)
MARGIN_MAX: Final = timedelta(seconds=60)
MARGIN_SHARE: Final = 0.15
LEASE_DEADLINES: Final = 8
LEASE_MIN_S: Final = 10.0
LEASE_DEADLINES_MIN: Final = 4
"""Call deadlines that a lease covers at least, where it is cut to end with its claim's."""

RENEWALS: Final = 3
"""How often the leases of claims are renewed within their length."""

ATTEMPTS_WAITED_FOR: Final = 2
"""Attempts without an answer after which nobody waits for a vanished holder any more."""

GATE_S: Final = 60.0
"""How long a 429 without `Retry-After` keeps every call from its LFI."""

GROUP_MAX: Final = 100
"""Refreshes that share a transaction at most."""

SOURCE_TRUST_S: Final = 3.0
"""A `TokenSource` gives the same token again for this long without looking into the table.

Less than a tick: for so long a walk may go on after another process saw the consent end.
"""

TokenDue = Callable[[ConsentId, datetime, datetime], datetime]
"""When a token (consent, issued, expires) is to be refreshed by schedule."""

RetryAfter = Callable[[int], timedelta]
"""How long to wait after that many attempts without a good end."""

log = structlog.stdlib.get_logger(__name__)


class Outcome(StrEnum):
    """How a refresh ended: the words of our metrics (`reliability.md` §8)."""

    ROTATED = "rotated"
    """New access and refresh token stored."""
    KEPT = "kept"
    """New access token stored; the answer brought no refresh token, the old one stays."""
    GRACE = "grace"
    """The LFI answered a token whose earlier answer was lost."""
    HEALED = "healed"
    """`invalid_grant`, or an answer too late: somebody else had stored a newer token, which is used."""
    FRESH = "fresh"
    """No call was needed: a newer token is there."""
    BUSY = "busy"
    """Somebody else is at it and did not finish within our patience."""
    UNAVAILABLE = "unavailable"
    """No definite answer; the token stays in doubt and is tried again later."""
    LOST = "lost"
    """The grant is gone: needs consent."""
    REFUSED = "refused"
    """The LFI does not accept us as a client, or the request; nothing changed for the consent."""
    STOPPED = "stopped"
    """The consent is not one to ask tokens for: ended, suspended, paused."""


GOOD: Final = frozenset({Outcome.ROTATED, Outcome.KEPT, Outcome.GRACE, Outcome.HEALED, Outcome.FRESH})


CUT_SHORT: Final = frozenset({Outcome.BUSY, Outcome.UNAVAILABLE})
"""Ends that a shutdown may have brought about: the row is due again at once, and nothing is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatchReport:
    """What became of a batch of claimed tokens.

    Attributes:
        stale: hints whose claim was no longer ours to take.
    """

    outcomes: dict[Outcome, int]
    stale: int
    failed: int = 0


@dataclass(frozen=True, slots=True)
class _Ended:
    """How one refresh ended, with the token to use or the error to raise.

    Attributes:
        idle_until: nobody needs a token before then.
        claim: ended in the transaction that stored the answer.
    """

    outcome: Outcome
    token: StoredToken | None = None
    error: SyncWorkerError | None = None
    idle_until: datetime | None = None
    claim: Claim | None = None


@dataclass(slots=True)
class _Holding:
    """One refresh for which we hold the lease.

    Attributes:
        before: the row as it was when we took the lease.
        covered_until: our monotonic clock when the lease ends, at the earliest.
        claim: the row of work it is done for; `None` when it is not scheduled.
        in_doubt: whether some call with this token may have been answered without our knowing.
        call: interaction id of the next call, as it stands on the row; of the last one, once it was made.
        made: calls that have no row in `call` yet.
    """

    consent: StoredConsent
    client: LFIClient
    before: StoredToken
    covered_until: float
    in_doubt: bool
    call: str
    claim: Claim | None = None
    calls: int = 0
    waited: bool = field(default=False)
    made: list[Call] = field(default_factory=list)

    @property
    def consent_id(self) -> ConsentId:
        return self.consent.consent_id

    @property
    def deadline(self) -> float:
        """Seconds one call may take at the very most; the client's own deadline is half of it."""
        return 2 * self.client.config.token_timeout

    @property
    def rows(self) -> list[CallRow]:
        """The calls that have no row yet."""
        return [free_call(self.consent.lfi, self.consent_id, call) for call in self.made]


@dataclass(frozen=True, slots=True)
class _Answered:
    """An answer that wants to be stored.

    Attributes:
        whole: with the consent that came with it, the calls made for it and the end of the claim; `False`: the tokens
            and their next refresh.
    """

    holding: _Holding
    answer: TokenAnswer
    whole: bool = True

    @property
    def consent_id(self) -> ConsentId:
        return self.holding.consent_id

    @property
    def rows(self) -> list[CallRow]:
        """The calls made for it, to be filed with it."""
        return self.holding.rows if self.whole else []

    @property
    def view(self) -> ConsentView | None:
        """What came with it about its consent and is to be filed."""
        view = self.answer.consent if self.whole else None
        return view if view is not None and view.consent_id == self.consent_id else None


@dataclass(frozen=True, slots=True)
class _Stored:
    """An answer on its way into the table.

    Attributes:
        consent: as it is after what came with the answer.
    """

    asked: _Answered
    new: NewToken
    consent: StoredConsent

    @property
    def consent_id(self) -> ConsentId:
        return self.consent.consent_id

    @property
    def claim(self) -> Claim | None:
        return self.asked.holding.claim if self.asked.whole else None

    @property
    def ended(self) -> _Ended:
        holding = self.asked.holding
        return _Ended(_named(holding, self.new), holding.before.swapped(self.new), claim=self.claim)


def no_checkpoint(_name: str) -> None:
    """A checkpoint where nothing happens."""


def lease_of(token_timeout: float) -> timedelta:
    """The lease that protects a refresh: 120 s for a call deadline of 15 s, never under 10 s."""
    return timedelta(seconds=max(LEASE_DEADLINES * token_timeout, LEASE_MIN_S))


def good_until(issued_at: datetime, expires_at: datetime) -> datetime:
    """Until when an access token is given out: its end less min(60 s, 15 % of its life)."""
    return shifted(expires_at, -min(MARGIN_MAX, (expires_at - issued_at) * MARGIN_SHARE))


class Vault:
    """The one door to tokens.  Lives on one event loop; `drain()` it before the loop ends.

    Args:
        clients: gives the client of an LFI.
        clock: the one the clients use; the difference to database time is taken out of each answer's instants.
        holder: who we are, for the lease; made unique with a few random characters.
        token_due: when a stored token is refreshed by schedule; `None` schedules nothing (refresh on demand).
        keep_warm: refresh by schedule also what no sync will use within the next token's life.
        lease: of claims, renewed while their batch runs.
        retry_after: when a scheduled refresh that ended badly is tried again.
        sleep: waits between calls and looks.
        elapsed: monotonic seconds, for leases and patience.
        patience: seconds to wait for a refresh somebody else is at.
        store_patience: seconds to go on trying to store an answer.
        checkpoint: is called, and awaited if it gives something to await, at each named point.
        on_call: is told each HTTP call that is not filed here: questions to the Hub.
        allowed: whom we may call at all; for others there is no token.
    """

    def __init__(
        self,
        store: Store,
        clients: Clients,
        clock: Clock,
        *,
        holder: str,
        token_due: TokenDue | None,
        retry_after: RetryAfter,
        keep_warm: bool = True,
        lease: timedelta = LEASE,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        elapsed: Callable[[], float] = monotonic,
        patience: float = 60.0,
        store_patience: float = 600.0,
        checkpoint: Callable[[str], Awaitable[None] | None] = no_checkpoint,
        on_call: OnCall = untold,
        allowed: Allowed = EVERYBODY,
    ) -> None:
        self._store = store
        self._clients = clients
        self._clock = clock
        self._holder = f"{holder[:50]}/{secrets.token_hex(4)}"
        self._token_due = token_due
        self._retry_after = retry_after
        self._keep_warm = keep_warm
        self._sleep = sleep
        self._elapsed = elapsed
        self._patience = patience
        self._storing = Storing(patience=store_patience, sleep=sleep)
        self._checkpoint = checkpoint
        self._on_call = on_call
        self._allowed = allowed
        self._begins = Grouped(store, self._begin_all, most=GROUP_MAX)
        self._swaps = Grouped(store, self._swap_plain, most=GROUP_MAX)
        self._lease = lease
        self._claimed_until: dict[int, float] = {}
        self._running: dict[ConsentId, asyncio.Task[_Ended]] = {}
        self._closing = asyncio.Event()
        self.outcomes: Counter[Outcome] = Counter()

    # -- what others ask for ------------------------------------------------------------------------------------------

    async def access_token(self, consent_id: ConsentId, *, rejected: SecretStr | None = None) -> SecretStr:
        """An access token that is good now.

        Args:
            rejected: one that just got a 401; a newer one is wanted.

        Raises:
            NotAllowedError: the LFI or the customer is outside the allow-lists.
            ConsentNotUsableError: the consent is not one to call for.
            GrantLostError: its grant is gone.
            TokenBusyError: somebody else is refreshing and did not finish within our patience.
            LFIUnavailableError, LFIRateLimitedError: no answer now.
            ClientRejectedError, RefusedError: the LFI refuses us.
            StoreUnavailableError: the database is away; nothing was sent, or what was answered could not be stored.
        """
        token, _ = await self._live(consent_id, rejected)
        return token

    async def refresh(self, consent_id: ConsentId, *, reason: str) -> Outcome:
        """Refresh a consent's token now, whether it needs it or not; joins a refresh under way.

        Args:
            reason: a constant word for the log: `scheduled`, `asked` …

        Raises:
            StoreUnavailableError, SealError: the table could not be read or written.
        """
        ended = await self._join(consent_id, beyond=None, reason=reason)
        return ended.outcome

    def source(self, consent_id: ConsentId, seen: BeforeCall | None = None, age: float = 0.0) -> "VaultSource":
        """A `TokenSource` for one run of one consent.

        Args:
            seen: consent and token as they were read lately, so that the first call needs no look of its own.
            age: how many seconds ago that was.
        """
        return VaultSource(self._live, consent_id, self._elapsed, seen, age)

    async def token_batch(self, hints: Sequence[tuple[int, int]]) -> TokenBatchReport:
        """Refresh the tokens of claimed work rows `(id, gen)`, all at once; one consent's failure is a value.

        Running it twice is harmless: a stale claim is passed over, and a token that is no longer due costs no call.
        """
        until = self._elapsed() + self._lease.total_seconds()
        claims = await self._store.atomically(lambda unit: unit.work.take_many(hints, lease=self._lease))
        self._claimed_until |= {claim.id: until for claim in claims}
        renewing = asyncio.create_task(self._renew_claims(claims), name="renew leases")
        try:
            seen = await self._look_at_all(claims)
            ended = await asyncio.gather(
                *(self._claimed(claim, seen.get(ConsentId(claim.subject))) for claim in claims)
            )
        except asyncio.CancelledError:
            await self._given_back(claims)
            raise
        finally:
            renewing.cancel()
            for claim in claims:
                self._claimed_until.pop(claim.id, None)
        known = [outcome for outcome in ended if outcome is not None]
        return TokenBatchReport(
            outcomes=dict(Counter(known)), stale=len(hints) - len(claims), failed=len(ended) - len(known)
        )

    def stop(self) -> None:
        """The process is to end: no refresh begins any more, waits are cut short, a call that was sent is awaited."""
        self._closing.set()

    async def drain(self) -> None:
        """End in order: `stop`, then wait until every refresh has ended and what was answered is stored."""
        self.stop()
        while self._running:
            await asyncio.wait(set(self._running.values()))
        await self._storing.drain()

    # -- scheduled ----------------------------------------------------------------------------------------------------

    async def _renew_claims(self, claims: Sequence[Claim]) -> None:
        """Keep claims from running out while their batch waits for places, or for answers."""
        while True:
            await asyncio.sleep(self._lease.total_seconds() / RENEWALS)
            until = self._elapsed() + self._lease.total_seconds()
            try:
                kept = await self._store.atomically(lambda unit: unit.work.extend_many(claims, lease=self._lease))
            except SyncWorkerError as error:
                log.warning("leases not renewed", error=error.code)
                continue
            self._claimed_until |= dict.fromkeys(kept, until)

    async def _claimed(self, claim: Claim, seen: BeforeCall | None) -> Outcome | None:
        consent_id = ConsentId(claim.subject)
        ended: _Ended | None = None
        error: str | None = "internal"
        try:
            ended = await self._scheduled(claim, consent_id, seen)
            error = None if ended.error is None else ended.error.code
        except SyncWorkerError as fault:
            error = fault.code
        except Exception as fault:  # noqa: BLE001  the batch outlives one bad item
            log.warning("token refresh failed", lfi=claim.lfi, consent_id=consent_id, error=type(fault).__name__)
        if self._closing.is_set() and ended is not None and ended.outcome in CUT_SHORT:
            await self._given_back([claim])
            return ended.outcome
        if ended is not None and ended.claim == claim:
            return ended.outcome
        try:
            await self._store.atomically(lambda unit: self._finish(unit, claim, ended, error))
        except SyncWorkerError as fault:  # the lease brings the row back
            log.warning("token claim not finished", lfi=claim.lfi, consent_id=consent_id, error=fault.code)
        return None if ended is None else ended.outcome

    async def _given_back(self, claims: Sequence[Claim]) -> None:
        """The process stops: rows that were not ended are due again at once; refreshes that began go on."""
        try:
            await self._store.atomically(lambda unit: unit.work.give_back(claims))
        except SyncWorkerError as fault:  # the leases bring them back
            log.warning("token claims not given back", claims=len(claims), error=fault.code)

    async def _scheduled(self, claim: Claim, consent_id: ConsentId, seen: BeforeCall | None) -> _Ended:
        if not claim.asked:
            consent, held, now = seen = seen or await self._look(consent_id)
            if held is not None and held.lost_cause is None:
                if self._token_due is None:
                    return _Ended(Outcome.FRESH, held)  # scheduled before refreshes were put on demand
                if (due := self._due(held)) is not None and due > now:
                    return _Ended(Outcome.FRESH, held)
                if not self._keep_warm and consent is not None and (idle := await self._idle(consent, held, now)):
                    return _Ended(Outcome.FRESH, held, idle_until=idle)
        reason = "asked" if claim.asked else "scheduled"
        return await self._join(consent_id, beyond=None, reason=reason, seen=seen, claim=claim)

    async def _idle(self, consent: StoredConsent, held: StoredToken, now: datetime) -> datetime | None:
        """Until when nobody needs a token: the next sync lies behind the life of one minted now; `None` otherwise."""
        if held.issued_at is None or held.expires_at is None:
            return None
        async with self._store.reading() as unit:
            sync = await unit.work.find(WorkKind.SYNC, consent.connection_id)
        life = held.expires_at - held.issued_at
        if sync is None or sync.parked_at is not None or sync.due_at <= shifted(now, life):
            return None
        return shifted(sync.due_at, -life / 2)  # then one minted is good when the sync begins

    async def _finish(self, unit: UnitOfWork, claim: Claim, ended: _Ended | None, error: str | None) -> None:
        outcome = "failed" if ended is None else ended.outcome.value
        good = ended is not None and ended.outcome in GOOD
        due = await self._next_due(unit, claim, ended)
        end = End(claim=claim, due_at=due, outcome=outcome, error=error, good=good)
        unit.with_commit([unit.work.finishing([end])])

    async def _next_due(self, unit: UnitOfWork, claim: Claim, ended: _Ended | None) -> datetime:
        if ended is not None and ended.outcome in {Outcome.LOST, Outcome.STOPPED}:
            return NEVER
        if ended is not None and ended.idle_until is not None:
            return ended.idle_until
        if ended is not None and ended.outcome in GOOD:
            due = None if ended.token is None else self._due(ended.token)
            return NEVER if due is None else due
        error = ended.error if ended is not None else None
        asked = error.retry_after if isinstance(error, TransientError) else None
        if isinstance(error, LFIRateLimitedError | LFIBreakerOpenError):
            # the whole LFI waits: this consent's bad ends must not say how long
            return shifted(await unit.now(), span(seconds=GATE_S if asked is None else asked))
        wait = max(self._retry_after(claim.attempts), span(seconds=asked or 0))
        return shifted(await unit.now(), wait)

    def _due(self, token: StoredToken) -> datetime | None:
        if token.issued_at is None or token.expires_at is None:
            return None
        return self._due_of(token.consent_id, token.issued_at, token.expires_at)

    def _due_of(self, consent_id: ConsentId, issued_at: datetime, expires_at: datetime) -> datetime | None:
        if self._token_due is None:
            return None
        if expires_at <= issued_at:  # the answer did not say how long it lives
            return issued_at + self._retry_after(1)
        return self._token_due(consent_id, issued_at, expires_at)

    # -- on demand ----------------------------------------------------------------------------------------------------

    async def _live(
        self, consent_id: ConsentId, rejected: SecretStr | None, seen: BeforeCall | None = None
    ) -> tuple[SecretStr, float]:
        """A token to use now, and for how many seconds from now it may be used without asking again.

        Args:
            seen: what a look of just now brought.
        """
        for _ in range(2):
            (consent, held, now), seen = seen or await self._look(consent_id), None
            fault = _why_not(consent_id, consent, held, now)
            if fault is not None or consent is None or held is None:
                raise fault or _unknown(consent_id)
            self._allowed.check(consent.lfi, consent.user_ref)
            certificate = (await self._clients(consent.lfi)).certificate.thumbprint
            if (usable := _usable(held, certificate, rejected)) and now < usable[1]:
                return usable[0], (usable[1] - now).total_seconds()
            ended = await self._join(consent_id, beyond=held.version, reason="needed")
            if isinstance(ended.error, TransientError) and usable and held.expires_at and now < held.expires_at:
                return usable[0], 0.0  # inside its margin, and there is nothing better just now
            if ended.error is not None:
                raise _again(ended.error)
            if ended.token is not None and (usable := _usable(ended.token, certificate, rejected)):
                return usable[0], max(0.0, (usable[1] - now).total_seconds())
        raise TokenBusyError("token: two refreshes brought no token that is accepted")

    async def _look(self, consent_id: ConsentId) -> BeforeCall:
        async with self._store.looking() as unit:
            return await before_call(unit, consent_id)

    async def _look_at_all(self, claims: Sequence[Claim]) -> Mapping[ConsentId, BeforeCall]:
        """What is known of claimed consents, read in one trip; who is left out looks alone, and hears why."""
        try:
            async with self._store.looking() as unit:
                return await before_calls(unit, [ConsentId(claim.subject) for claim in claims])
        except SyncWorkerError:
            return {}

    # -- one refresh per consent in this process ----------------------------------------------------------------------

    async def _join(
        self,
        consent_id: ConsentId,
        *,
        beyond: int | None,
        reason: str,
        seen: BeforeCall | None = None,
        claim: Claim | None = None,
    ) -> _Ended:
        """Wait for the refresh of this consent, begin it if none is under way; its own task, so we may leave.

        Args:
            beyond: a version above this one will do.
            seen: what a look of just now brought.
            claim: ends with the refresh, if it is this one that begins it.
        """
        task = self._running.get(consent_id)
        if task is None:
            if self._closing.is_set():
                return _Ended(Outcome.BUSY, error=TokenBusyError("token: this process is shutting down"))
            task = asyncio.create_task(self._renewed(consent_id, beyond, reason, seen, claim))
            self._running[consent_id] = task
            task.add_done_callback(lambda _: self._running.pop(consent_id, None))
            task.add_done_callback(_seen)
        done, _ = await asyncio.wait({task}, timeout=self._patience)
        if not done:
            return _Ended(Outcome.BUSY, error=TokenBusyError("token: the refresh is taking longer than our patience"))
        return task.result()

    async def _renewed(
        self, consent_id: ConsentId, beyond: int | None, reason: str, seen: BeforeCall | None, claim: Claim | None
    ) -> _Ended:
        ended, lfi = await self._renew(consent_id, beyond, seen, claim)
        self.outcomes[ended.outcome] += 1
        log.info(
            "token refresh ended",
            lfi=lfi,
            consent_id=consent_id,
            outcome=ended.outcome.value,
            reason=reason,
            error=None if ended.error is None else ended.error.code,
        )
        return ended

    async def _renew(
        self, consent_id: ConsentId, beyond: int | None, seen: BeforeCall | None, claim: Claim | None
    ) -> tuple[_Ended, Slug | None]:
        began = self._elapsed()
        while True:
            (consent, held, now), seen = seen or await self._look(consent_id), None
            fault = _why_not(consent_id, consent, held, now)
            if fault is not None or consent is None or held is None:
                slug = None if consent is None else consent.lfi
                return await self._stopped(consent, fault or _unknown(consent_id), now), slug
            beyond = held.version if beyond is None else beyond
            if held.version > beyond:
                return _Ended(Outcome.FRESH, held), consent.lfi
            if held.lease_until is None or held.lease_until <= now or held.holder == self._holder:
                client = await self._ready(consent)
                if isinstance(client, _Ended):
                    return client, consent.lfi
                if self._closing.is_set():
                    return _Ended(Outcome.BUSY, error=TokenBusyError("token: this process stops")), consent.lfi
                holding = await self._begin(consent, held, client, claim)
                ended = None if holding is None else await self._seen_through(holding)
                if ended is not None:
                    return ended, consent.lfi
            if self._elapsed() - began >= self._patience or self._closing.is_set():
                error = TokenBusyError("token: another worker is refreshing it")
                return _Ended(Outcome.BUSY, error=error), consent.lfi
            await self._pause(random.uniform(0.05, 0.2))  # noqa: S311  only spreads the looks of those who wait

    async def _stopped(self, consent: StoredConsent | None, fault: ConsentError, now: datetime) -> _Ended:
        if isinstance(fault, GrantLostError):
            return _Ended(Outcome.LOST, error=fault)
        if consent is not None and now >= consent.expires_at:
            await self._store.atomically(lambda unit: _end_by_clock(unit, consent.consent_id))
        return _Ended(Outcome.STOPPED, error=fault)

    # -- the protocol -------------------------------------------------------------------------------------------------

    async def _ready(self, consent: StoredConsent) -> LFIClient | _Ended:
        """The client, its discovery document fetched and its call admitted now rather than between intent and call."""
        try:
            self._allowed.check(consent.lfi, consent.user_ref)
            client = await self._clients(consent.lfi)
            await client.discovery()
            if not await self._admitted(client):
                return _Ended(Outcome.BUSY, error=TokenBusyError("token: this process stops"))
        except (TransientError, StandardViolationError, RefusedError, SetupError) as error:
            return _Ended(Outcome.UNAVAILABLE if isinstance(error, TransientError) else Outcome.REFUSED, error=error)
        return client

    async def _admitted(self, client: LFIClient) -> bool:
        """Wait for a place among the LFI's calls; `False` when the process began to stop meanwhile."""
        waiting = asyncio.ensure_future(client.admit(OperationClass.TOKEN))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({waiting, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                return False
            await waiting
            return True
        finally:
            waiting.cancel()
            closing.cancel()

    async def _begin(
        self, consent: StoredConsent, held: StoredToken, client: LFIClient, claim: Claim | None
    ) -> _Holding | None:
        """Take the lease and commit the intent; `None` when somebody else was faster.

        If it cannot be written, the error goes up and nothing is sent (rule 17).
        """
        since = self._elapsed()
        lease = self._lease_for(client, claim, since)
        call = new_interaction_id(self._clock.now())
        bind_contextvars(interaction_id=call)  # in a task of its own: of this refresh alone
        before = await self._begins.add(Beginning(consent.consent_id, held.version, lease, call))
        if isinstance(before, SealError):
            raise before
        if before is None:
            return None
        covered_until = since + lease.total_seconds()
        holding = _Holding(consent, client, before, covered_until, in_doubt=before.in_doubt, call=call, claim=claim)
        await self._reach("intent-committed")
        return holding

    def _lease_for(self, client: LFIClient, claim: Claim | None, now: float) -> timedelta:
        """The lease of a refresh that begins now: it ends with that of its claim, when that covers some calls.

        Should this process end now, claim and token are free at the same time.
        """
        lease = lease_of(client.config.token_timeout)
        until = None if claim is None else self._claimed_until.get(claim.id)
        if until is None:
            return lease
        least = timedelta(seconds=LEASE_DEADLINES_MIN * client.config.token_timeout)
        return min(lease, max(least, timedelta(seconds=until - now)))

    async def _begin_all(
        self, unit: UnitOfWork, those: Sequence[Beginning]
    ) -> Sequence[StoredToken | SealError | None]:
        return await unit.tokens.begin_many(those, holder=self._holder)

    async def _seen_through(self, holding: _Holding) -> _Ended | None:
        """As `_refresh`; calls that no transaction of it filed are filed at its end."""
        try:
            return await self._refresh(holding)
        finally:
            if holding.made:
                await self._file_rest(holding)

    async def _file_rest(self, holding: _Holding) -> None:
        """Without a database the last call's interaction id stays on the token's row; the next refresh files it."""

        async def step(unit: UnitOfWork) -> None:
            await unit.tokens.filed(holding.consent_id, call=holding.call)
            await unit.runs.settle(holding.rows)

        try:
            await self._store.atomically(step)
        except SyncWorkerError as error:
            log.warning("token calls not filed", consent_id=holding.consent_id, error=error.code)

    async def _refresh(self, holding: _Holding) -> _Ended | None:
        """From intent to end; `None` when the lease was lost before anything was sent."""
        token = holding.before.refresh_token
        if token is None:
            return await self._lost(holding, "no_refresh_token")
        while True:
            answer = await self._call(holding, token)
            match answer:
                case TokenAnswer():
                    return await self._answered(holding, answer)
                case None:
                    return None
                case GrantLostError():
                    ended = await self._doubted(holding)
                    if ended is not None:
                        return ended
                case LFIUnavailableError() if holding.calls < CALLS_MAX and not self._closing.is_set():
                    await self._pause(RETRY_WAITS_S[min(holding.calls, len(RETRY_WAITS_S)) - 1])
                    if self._closing.is_set():
                        return await self._unanswered(holding, answer)
                case _:
                    return await self._unanswered(holding, answer)

    async def _call(self, holding: _Holding, token: SecretStr) -> TokenAnswer | SyncWorkerError | None:
        """One call under the lease: the answer, or the error as a value; `None` when the lease is lost.

        What is no definite answer comes as `LFIUnavailableError` and puts the token in doubt.
        """
        if not await (self._announced(holding) if holding.calls else self._covered(holding)):
            return None
        holding.calls += 1
        told = holding.in_doubt
        holding.in_doubt = True  # whatever happens from here on, short of a definite answer
        try:
            async with asyncio.timeout(holding.deadline):
                answer = await holding.client.refresh(token, calls=holding.made.append, interaction_id=holding.call)
        except (GrantLostError, ClientRejectedError, RefusedError, LFIRateLimitedError, SetupError) as error:
            holding.in_doubt = told
            return error
        except (TransientError, StandardViolationError, TimeoutError) as error:
            asked = error.retry_after if isinstance(error, TransientError) else None
            unanswered = LFIUnavailableError("token call: no definite answer", retry_after=asked)
            unanswered.__cause__ = error
            return unanswered
        holding.in_doubt = told
        return answer

    async def _covered(self, holding: _Holding) -> bool:
        """Whether the lease covers one more call; renews it where it does not."""
        if self._elapsed() + holding.deadline <= holding.covered_until:
            return True
        return await self._store.atomically(lambda unit: self._extend(unit, holding))

    async def _announced(self, holding: _Holding) -> bool:
        """Write down that one more call follows, and what became of those before; `False` when the lease is lost."""
        call = new_interaction_id(self._clock.now())

        async def step(unit: UnitOfWork) -> bool:
            announced = await self._extend(unit, holding, call)
            if announced:
                unit.with_commit(unit.runs.adding(holding.rows))
            return announced

        announced = await self._store.atomically(step)
        if announced:
            holding.call = call
            bind_contextvars(interaction_id=call)
            holding.made.clear()
        return announced

    async def _extend(self, unit: UnitOfWork, holding: _Holding, call: str | None = None) -> bool:
        lease = lease_of(holding.client.config.token_timeout)
        until = self._elapsed() + lease.total_seconds()
        extended = await unit.tokens.extend(
            holding.consent_id, version=holding.before.version, holder=self._holder, lease=lease, call=call
        )
        if extended:
            holding.covered_until = until
        return extended

    async def _answered(self, holding: _Holding, answer: TokenAnswer) -> _Ended:
        """Store an answer before anything else happens with it."""
        await self._reach("answer-received")
        asked = _Answered(holding, answer)

        async def step() -> _Ended:
            nonlocal asked
            try:
                return await self._swap(asked)
            except StoreRefusedError:
                if not asked.whole:
                    raise
                asked = replace(asked, whole=False)  # what goes with the tokens must not cost us the tokens
                log.warning("token answer not stored as a whole", consent_id=holding.consent_id)
                return await self._swap(asked)

        ended = await self._storing.until_done(step)
        await self._reach("answer-stored")
        return ended

    async def _swap(self, asked: _Answered) -> _Ended:
        """One small transaction; harmless when it runs again after a commit whose confirmation was lost."""
        ended = await self._swaps.add(asked)
        if ended is None:
            ended = await self._store.atomically(lambda unit: self._swap_alone(unit, asked))
        if asked.whole:
            asked.holding.made.clear()
        return ended

    async def _swap_plain(self, unit: UnitOfWork, those: Sequence[_Answered]) -> Sequence[_Ended | None]:
        """Store the plain ones among answers, each of another consent; `None` for those that have to go alone.

        Plain: no other transaction holds its rows, the version did not move, the lease is ours, and neither consent nor
        answer says anything new.
        """
        held = await before_swaps(unit, [one.consent_id for one in those])
        found = [self._plain(unit, one, held) for one in those]
        plain = [one for one in found if one is not None]
        swaps = [(one.consent_id, one.asked.holding.before.version, one.new) for one in plain]
        unit.tokens.swap_locked(swaps)
        unit.with_commit(unit.runs.adding([row for one in plain for row in one.asked.rows]))
        self._follow(unit, plain, held.now)
        return [None if one is None else one.ended for one in found]

    def _plain(self, unit: UnitOfWork, asked: _Answered, held: BeforeSwaps) -> _Stored | None:
        consent, version = held.consents.get(asked.consent_id), held.versions.get(asked.consent_id)
        if consent is None or version is None or consent.needs_consent is not None:
            return None
        if version != (asked.holding.before.version, self._holder):
            return None
        if asked.view is not None and not unit.consents.seen_again(consent, asked.view, at=held.now):
            return None
        return _Stored(asked, self._new_token(asked.holding, asked.answer, held.now), consent)

    async def _swap_alone(self, unit: UnitOfWork, asked: _Answered) -> _Ended:
        """Store an answer with all that follows from it."""
        holding, consent_id = asked.holding, asked.consent_id
        consent = await unit.consents.get(consent_id, lock=True)
        at = await unit.now()
        new = self._new_token(holding, asked.answer, at)
        ours = await unit.tokens.holder(consent_id) == self._holder
        if not ours:
            await unit.tokens.file_in_doubt(consent_id)  # the call of a refresh that took the lease over
        if not await unit.tokens.swap(consent_id, version=holding.before.version, new=new):
            await unit.runs.settle(asked.rows)
            return await self._too_late(unit, holding, new, at)
        if ours:
            unit.with_commit(unit.runs.adding(asked.rows))
        else:
            await unit.runs.settle(asked.rows)
        if consent is not None and consent.needs_consent is not None:
            await self._revive(unit, consent, at)
        if asked.view is not None:
            await noted(unit, asked.view, at=at)
        consent = await unit.consents.get(consent_id)
        if consent is None or not await unit.tokens.exists(consent_id):
            return _Ended(Outcome.STOPPED, error=_not_usable(consent_id, "ended"))
        stored = _Stored(asked, new, consent)
        self._follow(unit, [stored], at)
        return stored.ended

    def _follow(self, unit: UnitOfWork, those: Sequence[_Stored], at: datetime) -> None:
        """The next refreshes and the ends of claims, with the commit.

        None is due where the answer itself said that the consent is no longer one to call for.
        """
        dues: list[tuple[ConsentId, Slug, datetime]] = []
        ends: list[End] = []
        for one in those:
            due_at = self._due_of(one.consent_id, one.new.issued_at, one.new.expires_at)
            if due_at is None or not one.consent.callable_at(at):
                due_at = NEVER
            else:
                dues.append((one.consent_id, one.consent.lfi, due_at))
            if one.claim is not None:
                ends.append(End(claim=one.claim, due_at=due_at, outcome=one.ended.outcome.value, good=True))
        if dues:
            unit.with_commit([unit.work.scheduling(WorkKind.TOKEN, dues)])
        if ends:
            unit.with_commit([unit.work.finishing(ends)])

    async def _too_late(self, unit: UnitOfWork, holding: _Holding, new: NewToken, at: datetime) -> _Ended:
        """The version moved: keep our refresh token as a spare and use what is there."""
        consent_id = holding.consent_id
        held = await unit.tokens.read(consent_id, lock=True)
        if held is None:
            await unit.consents.note("answer_for_destroyed_token", subject=consent_id, facts={}, at=at)
            return _Ended(Outcome.STOPPED, error=_not_usable(consent_id, "ended"))
        await unit.tokens.release(consent_id, holder=self._holder, in_doubt=held.in_doubt)
        if held.access_token == new.access_token:  # our own commit, or the same answer given twice within grace
            return _Ended(_named(holding, new), held)
        if new.refresh_token is not None and await unit.tokens.keep_spare(consent_id, new.refresh_token):
            await unit.consents.note("spare_token_kept", subject=consent_id, facts={"version": held.version}, at=at)
        return _Ended(Outcome.HEALED, held)

    async def _revive(self, unit: UnitOfWork, consent: StoredConsent, at: datetime) -> None:
        await unit.consents.set_needs_consent(consent.consent_id, None)
        await unit.consents.note(
            "grant_healed", subject=consent.consent_id, facts={"cause": consent.needs_consent}, at=at
        )
        await unit.work.schedule(WorkKind.SYNC, consent.connection_id, lfi=consent.lfi, due_at=at)

    def _new_token(self, holding: _Holding, answer: TokenAnswer, at: datetime) -> NewToken:
        """The answer in database time: our own clock may be off."""
        shift = at - self._clock.now()
        return NewToken(
            access_token=answer.access_token,
            refresh_token=answer.refresh_token,
            issued_at=answer.received_at + shift,
            expires_at=answer.expires_at + shift,
            certificate=answer.certificate,
        )

    # -- no token -----------------------------------------------------------------------------------------------------

    async def _doubted(self, holding: _Holding) -> _Ended | None:
        """`invalid_grant` is a question first (rule 21).  `None`: ask once more with the same token."""
        healed = await self._moved(holding)
        if healed is not None:
            return healed
        if not holding.waited and self._somebody_vanished(holding):
            holding.waited = True
            healed = await self._wait_out(holding)
            if healed is not None:
                return healed
            if self._closing.is_set():
                return await self._unanswered(holding, TokenBusyError("token: in doubt, and shutting down"))
            if holding.calls < CALLS_MAX:
                return None
        return await self._spares(holding)

    def _somebody_vanished(self, holding: _Holding) -> bool:
        before = holding.before
        another = before.holder is not None and before.holder != self._holder
        return another and before.in_doubt and before.attempts < ATTEMPTS_WAITED_FOR

    async def _moved(self, holding: _Holding) -> _Ended | None:
        """The end of this refresh if somebody else stored a newer token, or the tokens are gone."""
        _, held, _ = await self._look(holding.consent_id)
        if held is None:
            return _Ended(Outcome.STOPPED, error=_not_usable(holding.consent_id, "ended"))
        if held.version == holding.before.version:
            return None
        await self._release(holding, in_doubt=held.in_doubt)
        return _Ended(Outcome.HEALED, held)

    async def _wait_out(self, holding: _Holding) -> _Ended | None:
        """Give the process whose lease ran out a little longer to store an answer it may have.

        It has no lease for a further call.  If it lives, it tries every few seconds to store what it has
        (`consents.storing`), so the time a call may take is enough.
        """
        began = self._elapsed()
        while self._elapsed() - began < holding.deadline and not self._closing.is_set():
            await self._pause(min(1.0, holding.deadline / 20))
            if (moved := await self._moved(holding)) is not None:
                return moved
            if not await self._covered(holding):
                return _Ended(Outcome.BUSY, error=TokenBusyError("token: the lease passed to another worker"))
        return None

    async def _spares(self, holding: _Holding) -> _Ended:
        """Try what is left, newest first, each once; then the grant is lost."""
        _, held, _ = await self._look(holding.consent_id)
        for spare in () if held is None else held.spares:
            answer = await self._call(holding, spare)
            match answer:
                case TokenAnswer():
                    return await self._answered(holding, answer)
                case None:
                    return _Ended(Outcome.BUSY, error=TokenBusyError("token: the lease passed to another worker"))
                case GrantLostError():
                    await self._drop(holding, spare)
                case _:
                    return await self._unanswered(holding, answer)
        return await self._lost(holding, "answer_lost" if holding.in_doubt else "invalid_grant")

    async def _drop(self, holding: _Holding, spare: SecretStr) -> None:
        await self._store.atomically(lambda unit: unit.tokens.drop_spare(holding.consent_id, spare))

    async def _lost(self, holding: _Holding, cause: str) -> _Ended:
        """Name the loss once, unless the Hub says that the consent itself is what ended."""
        await self._ask_hub(holding)

        async def step(unit: UnitOfWork) -> _Ended:
            consent = await unit.consents.get(holding.consent_id, lock=True)
            if await unit.tokens.holder(holding.consent_id) != self._holder:
                await unit.tokens.file_in_doubt(holding.consent_id)
            await unit.runs.settle(holding.rows)
            if consent is None or not consent.callable_at(await unit.now()):
                await unit.tokens.release(holding.consent_id, holder=self._holder, in_doubt=False)
                why = "unknown" if consent is None else consent.status
                return _Ended(Outcome.STOPPED, error=_not_usable(holding.consent_id, why))
            if not await unit.tokens.give_up(holding.consent_id, version=holding.before.version, cause=cause):
                held = await unit.tokens.read(holding.consent_id)
                if held is None:
                    return _Ended(Outcome.STOPPED, error=_not_usable(holding.consent_id, "ended"))
                return _Ended(Outcome.HEALED, held)
            await unit.consents.set_needs_consent(holding.consent_id, cause)
            tell_needs_consent(unit, consent, cause, at=await unit.now())
            facts = {"cause": cause, "calls": holding.calls, "attempts": holding.before.attempts + 1}
            await unit.consents.note("grant_lost", subject=holding.consent_id, facts=facts, at=await unit.now())
            await rest(unit, consent_id=consent.consent_id, connection_id=consent.connection_id, lfi=consent.lfi)
            return _Ended(Outcome.LOST, error=_grant_lost(holding.consent_id, cause))

        ended = await self._store.atomically(step)
        holding.made.clear()
        return ended

    async def _ask_hub(self, holding: _Holding) -> None:
        """Ask what became of the consent (client-credentials); no answer changes nothing."""
        consent = holding.consent
        try:
            view = await holding.client.read_consent(
                consent.consent_id,
                version=consent.version,
                calls=lambda call: self._on_call(consent.lfi, consent.consent_id, call),
            )
        except SyncWorkerError as error:
            log.warning("consent not read after invalid_grant", consent_id=consent.consent_id, error=error.code)
            return
        if view.consent_id == consent.consent_id:
            await self._store.atomically(lambda unit: _note_now(unit, view))

    async def _unanswered(self, holding: _Holding, error: SyncWorkerError) -> _Ended:
        """Give the lease back; the intent stays on the row while a call is in doubt.  429 closes the LFI's gate."""
        await self._release(holding, in_doubt=holding.in_doubt)
        if isinstance(error, LFIRateLimitedError):
            await self._store.atomically(lambda unit: _close_gate(unit, holding.consent.lfi, error.retry_after))
        if isinstance(error, TokenBusyError):
            return _Ended(Outcome.BUSY, error=error)
        return _Ended(Outcome.UNAVAILABLE if isinstance(error, TransientError) else Outcome.REFUSED, error=error)

    async def _release(self, holding: _Holding, *, in_doubt: bool) -> None:
        async def step(unit: UnitOfWork) -> None:
            if await unit.tokens.release(holding.consent_id, holder=self._holder, in_doubt=in_doubt):
                unit.with_commit(unit.runs.adding(holding.rows))
            else:
                await unit.runs.settle(holding.rows)

        await self._store.atomically(step)
        holding.made.clear()

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not past the beginning of a shutdown."""
        waits = [asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._closing.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _reach(self, name: str) -> None:
        waiting = self._checkpoint(name)
        if waiting is not None:
            await waiting


class VaultSource:
    """A `TokenSource`: the vault's token of one consent, remembered for some seconds so that pages cost no look.

    Listings are walked side by side: who asks while another looks waits for that look and shares what comes of it.
    """

    def __init__(
        self,
        live: Callable[[ConsentId, SecretStr | None, BeforeCall | None], Awaitable[tuple[SecretStr, float]]],
        consent_id: ConsentId,
        elapsed: Callable[[], float],
        seen: BeforeCall | None = None,
        age: float = 0.0,
    ) -> None:
        self._live = live
        self._consent_id = consent_id
        self._elapsed = elapsed
        self._seen, self._seen_at = seen, elapsed() - age
        self._token: SecretStr | None = None
        self._until = 0.0
        self._asking: asyncio.Task[SecretStr] | None = None

    async def __call__(self, *, rejected: SecretStr | None = None) -> SecretStr:
        """As `Vault.access_token`."""
        if self._token is not None and self._token != rejected and self._elapsed() < self._until:
            return self._token
        while True:
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask(rejected))
                self._asking.add_done_callback(self._asked)
            token = await asyncio.shield(self._asking)
            if token != rejected:  # another's look may have begun before ours was refused
                return token

    async def _ask(self, rejected: SecretStr | None) -> SecretStr:
        asked, seen, self._seen = self._elapsed(), self._seen, None
        if seen is not None and asked - self._seen_at < SOURCE_TRUST_S:
            asked = self._seen_at
        else:
            seen = None
        self._token, good_for = await self._live(self._consent_id, rejected, seen)
        self._until = asked + min(good_for, SOURCE_TRUST_S)
        return self._token

    def _asked(self, task: asyncio.Task[SecretStr]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # looked at, in case everybody who waited has left


def _usable(held: StoredToken, certificate: str, rejected: SecretStr | None) -> tuple[SecretStr, datetime] | None:
    """The access token and until when it is given out; `None` for one that is refused or bound elsewhere (rule 23)."""
    if held.access_token is None or held.issued_at is None or held.expires_at is None:
        return None
    if held.certificate != certificate or held.access_token == rejected:
        return None
    return held.access_token, good_until(held.issued_at, held.expires_at)


def _why_not(
    consent_id: ConsentId, consent: StoredConsent | None, held: StoredToken | None, now: datetime
) -> ConsentError | None:
    """Why no token may be asked for; `None` when one may."""
    if consent is None:
        return _unknown(consent_id)
    cause = consent.needs_consent or (None if held is None else held.lost_cause)
    if cause is not None:
        return _grant_lost(consent_id, cause)
    if not consent.callable_at(now):
        return _not_usable(consent_id, _state(consent, now))
    return _not_usable(consent_id, "no_token") if held is None else None


def _state(consent: StoredConsent, now: datetime) -> str:
    if consent.status == "Authorized":
        return "paused" if consent.paused_at is not None else "expired"
    return consent.status


def _named(holding: _Holding, new: NewToken) -> Outcome:
    if holding.in_doubt:
        return Outcome.GRACE
    kept = new.refresh_token is None or new.refresh_token == holding.before.refresh_token
    return Outcome.KEPT if kept else Outcome.ROTATED


def _unknown(consent_id: ConsentId) -> ConsentNotUsableError:
    return _not_usable(consent_id, "unknown")


def _not_usable(consent_id: ConsentId, why: str) -> ConsentNotUsableError:
    return ConsentNotUsableError(f"consent {consent_id}: not usable ({why})", consent_id=consent_id, cause=why)


def _grant_lost(consent_id: ConsentId, cause: str) -> GrantLostError:
    return GrantLostError(
        f"consent {consent_id}: the grant is lost ({cause}); the user has to give consent again",
        consent_id=consent_id,
        cause=cause,
    )


def _again(error: SyncWorkerError) -> SyncWorkerError:
    """The same error for each of those who waited: one exception must not be raised twice at once."""
    match error:
        case ConsentError():
            return type(error)(str(error), consent_id=error.consent_id, cause=error.cause)
        case TransientError():
            return type(error)(str(error), retry_after=error.retry_after)
        case RefusedError():
            return type(error)(str(error), status=error.status, error_code=error.error_code)
        case _:
            return type(error)(str(error))


async def _note_now(unit: UnitOfWork, view: ConsentView) -> None:
    await noted(unit, view, at=await unit.now())


async def _close_gate(unit: UnitOfWork, lfi: Slug, seconds: float | None) -> None:
    until = shifted(await unit.now(), span(seconds=GATE_S if seconds is None else seconds))
    await unit.lfis.close_gate(lfi, until=until)


async def _end_by_clock(unit: UnitOfWork, consent_id: ConsentId) -> None:
    held = await unit.consents.get(consent_id, lock=True)
    if held is not None:
        await ended_by_clock(unit, held, at=await unit.now())


def _seen(task: asyncio.Task[_Ended]) -> None:
    """Those who waited may all have left: the error is known then, and not "never retrieved"."""
    if not task.cancelled():
        task.exception()
