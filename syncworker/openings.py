"""Account openings: asked for once, followed to their end, handed over to a data-sharing consent.

The POST that creates an account is never sent twice.  It is noted before it is sent; an answer that never came, or
that nobody can read, leaves the state `unknown`, where it stays until a person has found out (`Openings.settle`).  One
that got an answer has a row of work: the LFI is asked as often as its state deserves, and at once when somebody asks
for the row, as an event does.  A state that lasts too long is *overdue*: noted, shown, and asked about less often.

What the body says about a person lies sealed, and is destroyed after the end by the setting for personal data.

Source: `domain.md` §8.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import structlog
import xxhash

from syncworker.consents.allowed import EVERYBODY, Allowed
from syncworker.consents.authorize import AuthorizationStarted, Authorizer
from syncworker.consents.lifecycle import Clients, OnCall, untold
from syncworker.consents.storing import Storing
from syncworker.errors import LFIRateLimitedError, RefusedError, RequestError, SyncWorkerError
from syncworker.lfi.openings import InDoubtError, OpeningCalls, Prepared, refused_with
from syncworker.lfi.transport import Call
from syncworker.standard import accounts
from syncworker.standard.calendar import shifted, span
from syncworker.standard.consents import EXPIRY_MAX, ConsentRequest
from syncworker.standard.json_text import WITH_NUMBERS
from syncworker.standard.opening_request import data_sharing_audit, faults, warnings
from syncworker.standard.openings import ENDED, UNDER_WAY, OpeningState, OpeningVersion, OpeningView
from syncworker.standard.permissions import faults_of
from syncworker.standard.values import AccountId, ConsentId, Slug
from syncworker.store.messages import MessageType
from syncworker.store.openings import ShareWish, StoredOpening
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, WorkKind

S = OpeningState

USER_REF_LENGTH: Final = 128
FAULTS_SHOWN_MAX: Final = 12
SENDING_MAX: Final = timedelta(minutes=2)
"""A POST noted so long ago has an answer, or the process that waited for it is gone: more than one call may take."""

SPREAD: Final = 0.1
"""Looks come up to this share of their cadence early, by the opening's id."""

ABANDONED: Final = "opening_abandoned"
"""What the audit says about an opening that nobody asks about any more."""

NOT_HANDED_OVER: Final = "opening_not_handed_over"
"""What the audit says about an opened account whose consent cannot be asked for as it was wished."""

HAND_OVER_LIFE: Final = timedelta(days=7)
"""How long the data-sharing consent of an opened account waits for its user: nobody sits before the screen then."""

log = structlog.stdlib.get_logger(__name__)

WHAT_TO_DO: Final[Mapping[OpeningState, str]] = {
    S.SENDING: "being sent; if no answer is filed within two minutes it becomes unknown",
    S.UNKNOWN: (
        "nobody knows whether the LFI has it, and it is never sent again: ask the LFI, or wait for its event in "
        "`events list --quarantine`; then `openings settle ID --account-id …`, or --not-created"
    ),
    S.REFUSED: "the LFI refused it; correct what the error names and create a new one",
    S.PENDING: "the LFI works on it",
    S.USER_ACTION: "the LFI waits for the user: send them to redirect_url",
    S.LFI_PROCESSING: "the LFI works on it",
    S.OTHER: "the LFI gave a status no version lists; it is followed all the same",
    S.COMPLETED: (
        "the account is open; its data-sharing consent waits for the user under `intent`, if one was wished for, and "
        "`openings share ID` begins one at once"
    ),
    S.REJECTED: "the LFI rejected it",
    S.NOT_CREATED: "somebody found that the LFI has no such request",
}
"""What a person may do about an opening in each state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningCadence:
    """How often an LFI is asked about an opening, by state, and how long a state may last.

    Attributes:
        user_action_first, user_action_first_for: quickly while the user is probably at the LFI's page …
        user_action: … then slowly.
        overdue: how often once it has lasted too long.
        *_for: how long a state may last before it is overdue.
        follow_for: counted from its creation; after that nobody asks any more.
    """

    pending: timedelta = timedelta(minutes=15)
    user_action_first: timedelta = timedelta(minutes=1)
    user_action_first_for: timedelta = timedelta(minutes=30)
    user_action: timedelta = timedelta(minutes=30)
    lfi_processing: timedelta = timedelta(minutes=30)
    other: timedelta = timedelta(minutes=30)
    overdue: timedelta = timedelta(hours=6)
    pending_for: timedelta = timedelta(days=1)
    user_action_for: timedelta = timedelta(days=3)
    lfi_processing_for: timedelta = timedelta(days=5)
    other_for: timedelta = timedelta(days=1)
    follow_for: timedelta = timedelta(days=90)

    def every(self, opening: StoredOpening, *, now: datetime) -> timedelta:
        """How often this opening deserves a look now."""
        if is_overdue(opening, now=now, cadence=self):
            return self.overdue
        if opening.state is S.USER_ACTION and now < shifted(opening.state_since, self.user_action_first_for):
            return self.user_action_first
        every: timedelta = getattr(self, opening.state.value)
        return every


def is_overdue(opening: StoredOpening, *, now: datetime, cadence: OpeningCadence) -> bool:
    """Whether it is longer in a state under way than that state should last."""
    if opening.state not in UNDER_WAY:
        return False
    patience: timedelta = getattr(cadence, f"{opening.state.value}_for")
    return now >= shifted(opening.state_since, patience)


def next_look(opening: StoredOpening, *, now: datetime, cadence: OpeningCadence) -> datetime | None:
    """When to ask about an opening again; `None` when there is nothing to ask, or nobody hopes any more."""
    if opening.state not in UNDER_WAY or now >= shifted(opening.created_at, cadence.follow_for):
        return None
    early = SPREAD * (xxhash.xxh3_64_intdigest(opening.opening_id.encode()) / 2**64)
    return shifted(opening.heard_at or opening.created_at, cadence.every(opening, now=now) * (1 - early))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningOrder:
    """What a caller wants opened.

    Attributes:
        body: the request as the version's schema has it, numbers as `Decimal` or `int`.
        user_ref: the product's opaque id of its customer; the opening's own id when it gives none.
        webhook: where the LFI shall send events; `None` leaves the body's own `Subscription`.
        original: the `Party` as data sharing delivered it: `DataSharingAudit` is computed from its edits.
        share: the consent wished for once the account is open.
    """

    body: Mapping[str, Any] = field(repr=False)
    user_ref: str | None = None
    webhook: str | None = None
    original: Mapping[str, Any] | None = field(default=None, repr=False)
    share: ShareWish | None = None


def composed(order: OpeningOrder, version: OpeningVersion) -> dict[str, Any]:
    """The body to send: as given, with subscription and audit of edits; checked.

    Raises:
        RequestError: the LFI would refuse it; names each field and what is wrong, never a value.
    """
    body = _whole(order)
    if found := faults(body, version):
        more = len(found) - FAULTS_SHOWN_MAX
        shown = "; ".join(found[:FAULTS_SHOWN_MAX]) + (f"; and {more} more" if more > 0 else "")
        raise RequestError(f"body: not a request of {version.value}: {shown}")
    return body


def doubts(order: OpeningOrder, version: OpeningVersion) -> list[str]:
    """What the LFI may refuse in an order that is sent all the same, each line `path: what is wrong`; never a value.

    For a version without a published file it is what the file of its errata demands; for others there is none.

    Raises:
        RequestError: as `composed`.
    """
    return warnings(_whole(order), version)


def _whole(order: OpeningOrder) -> dict[str, Any]:
    body = dict(order.body)
    if order.webhook is not None:
        if "Subscription" in body:
            raise RequestError("webhook: the body has a Subscription of its own; give one of the two")
        body["Subscription"] = {"Webhook": {"Url": order.webhook, "IsActive": True}}
    if order.original is not None:
        body["Data"] = _audited(body.get("Data"), order.original)
    return body


def _audited(data: object, original: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(data, Mapping) or not isinstance(data.get("Party"), Mapping):
        raise RequestError("original: the body has no Data.Party to compare it with")
    if "DataSharingAudit" in data:
        raise RequestError("original: the body has a DataSharingAudit of its own; give one of the two")
    edits = data_sharing_audit(original, data["Party"])
    return {**data, "DataSharingAudit": edits} if edits else dict(data)


class Openings:
    """Opens accounts and follows them.  Lives on one event loop.

    Args:
        authorize: begins the data-sharing consent of an opened account.
        retention: how long what lies sealed stays after the end; `None` keeps it.
        on_call: is told each call made.
        allowed: whom we may call at all.
        checkpoint: awaited at named moments, for tests of crashes between them.
    """

    def __init__(
        self,
        store: Store,
        clients: Clients,
        authorize: Authorizer,
        *,
        cadence: OpeningCadence | None = None,
        retention: timedelta | None = None,
        on_call: OnCall = untold,
        allowed: Allowed = EVERYBODY,
        checkpoint: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._clients = clients
        self._authorize = authorize
        self._cadence = cadence or OpeningCadence()
        self._retention = retention
        self._on_call = on_call
        self._allowed = allowed
        self._checkpoint = checkpoint
        self._storing = Storing()

    async def drain(self) -> None:
        """Wait until every answer that arrived is stored."""
        await self._storing.drain()

    # -- create -------------------------------------------------------------------------------------------------------

    async def create(self, lfi: Slug, order: OpeningOrder) -> StoredOpening:
        """Ask an LFI to open an account, once; how the opening stands afterwards.

        Its state says what became of the POST: one of the LFI's, `refused`, or `unknown`.

        Raises:
            RequestError: the order is one the LFI would refuse; nothing was sent.
            NotAllowedError: the LFI or the customer is outside the allow-lists; nothing was sent.
            SetupError, TransientError, RefusedError, StandardViolationError: it could not be prepared; nothing was
                sent.
            StoreUnavailableError: before the POST nothing was sent; after it, the row becomes `unknown` by itself.
        """
        _check_refs(order)
        self._allowed.check(lfi, order.user_ref or "")
        calls = OpeningCalls(await self._clients(lfi))
        body = _written(composed(order, calls.version))
        prepared = await calls.prepare(body)
        opening = await self._store.atomically(partial(self._intend, lfi, order, prepared.version, body))
        await self._reach("noted")
        return await self._send(calls, prepared, opening)

    async def _intend(
        self, lfi: Slug, order: OpeningOrder, version: OpeningVersion, body: bytes, unit: UnitOfWork
    ) -> StoredOpening:
        at, opening_id = await unit.now(), str(uuid.uuid4())
        webhook = order.webhook is not None or "Subscription" in order.body
        opening = StoredOpening(
            opening_id=opening_id,
            lfi=lfi,
            version=version,
            user_ref=order.user_ref or opening_id,
            state=S.SENDING,
            state_since=at,
            created_at=at,
            webhook_active=True if webhook else None,
            share=order.share,
        )
        await unit.openings.add(opening, request=body)
        await unit.work.schedule(WorkKind.OPENING, opening_id, lfi=lfi, due_at=at + SENDING_MAX)
        await unit.consents.note("opening_noted", subject=opening_id, facts={"lfi": lfi, "version": version}, at=at)
        return opening

    async def _send(self, calls: OpeningCalls, prepared: Prepared, opening: StoredOpening) -> StoredOpening:
        opening_id = opening.opening_id
        try:
            view, status = await calls.create(prepared, calls=self._told(opening.lfi))
        except InDoubtError as error:
            log.error(  # noqa: TRY400  a traceback might quote the answer
                "account opening in doubt", opening_id=opening_id, lfi=opening.lfi, error=error.because
            )
            file = partial(self._moved, opening_id, S.UNKNOWN, "answer", error.because, error.status)
        except (RefusedError, LFIRateLimitedError) as error:
            status_given, code = refused_with(error)
            log.warning("account opening refused", opening_id=opening_id, lfi=opening.lfi, error=code)
            file = partial(
                self._moved, opening_id, S.REFUSED, "answer", code, status_given, information=error.lfi_reason
            )
        else:
            file = partial(self._observed, opening_id, view, "answer", status)
        await self._reach("answered")
        return await self._storing.until_done(lambda: self._store.atomically(file))

    # -- follow -------------------------------------------------------------------------------------------------------

    async def follow(self, claim: Claim) -> tuple[datetime | None, str]:
        """Look at the opening of a claim; says when to look again, and what was done in one word.

        Raises:
            TransientError, RefusedError, StandardViolationError, SetupError: the LFI gave no answer we could file.
        """
        opening, now = await self._held(claim.subject)
        if opening is None:
            return None, "erased"
        if opening.state is S.SENDING:
            return await self._given_up_sending(opening, now)
        if opening.state in ENDED:
            return await self._ended(opening), "ended"
        if opening.state is S.UNKNOWN:
            return None, opening.state.value
        due = next_look(opening, now=now, cadence=self._cadence)
        if due is None and not claim.asked:
            return await self._abandoned(opening), "abandoned"
        newly_overdue = opening.overdue_at is None and is_overdue(opening, now=now, cadence=self._cadence)
        if due is not None and due > now and not claim.asked and not newly_overdue:
            return due, "fresh"
        return await self._looked_at(opening, now)

    async def _looked_at(self, opening: StoredOpening, now: datetime) -> tuple[datetime | None, str]:
        before = opening.state
        try:
            opening = await self.ask(opening)
        except SyncWorkerError:
            if is_overdue(opening, now=now, cadence=self._cadence):
                await self._overdue(opening)  # an LFI that does not answer is late all the more
            raise
        if opening.state in ENDED:
            return await self._ended(opening), "ended"
        word = "asked" if opening.state is before else "moved"
        if is_overdue(opening, now=now, cadence=self._cadence):
            await self._overdue(opening)
            word = "overdue"
        due = next_look(opening, now=now, cadence=self._cadence)
        return (await self._abandoned(opening) if due is None else due), word

    async def ask(self, opening: StoredOpening) -> StoredOpening:
        """Ask the LFI how an opening stands, file it with its consequences, and give it as it stands now.

        Raises:
            RequestError: no AccountId is known to ask with.
            NotAllowedError: outside the allow-lists.
            TransientError, RefusedError, StandardViolationError, SetupError: no answer we could file.
        """
        if opening.account_id is None:
            raise RequestError("opening_id: no AccountId is known, so the LFI cannot be asked; `openings settle` it")
        view = await self._read(opening, opening.account_id)
        return await self._store.atomically(partial(self._observed, opening.opening_id, view, "poll", None))

    async def _read(self, opening: StoredOpening, account_id: AccountId) -> OpeningView:
        self._allowed.check(opening.lfi, opening.user_ref)
        calls = OpeningCalls(await self._clients(opening.lfi))
        return await calls.read(account_id, version=opening.version, calls=self._told(opening.lfi))

    async def _given_up_sending(self, opening: StoredOpening, now: datetime) -> tuple[datetime | None, str]:
        """Whoever sent it may still wait for the answer; after that it is in doubt."""
        until = shifted(opening.state_since, SENDING_MAX)
        if now < until:
            return until, "sending"
        await self._store.atomically(partial(self._moved, opening.opening_id, S.UNKNOWN, "ours", "interrupted", None))
        return None, S.UNKNOWN.value

    async def _overdue(self, opening: StoredOpening) -> None:
        """Note, once for each stay in a state, that it lasts too long."""

        async def step(unit: UnitOfWork) -> None:
            at = await unit.now()
            await unit.openings.set_overdue(opening.opening_id, at=at)
            facts = {"state": opening.state, "since": opening.state_since.isoformat()}
            await unit.consents.note("opening_overdue", subject=opening.opening_id, facts=facts, at=at)

        if opening.overdue_at is None:
            log.warning("account opening overdue", opening_id=opening.opening_id, state=opening.state)
            await self._store.atomically(step)

    async def _abandoned(self, opening: StoredOpening) -> datetime | None:
        """Nobody hopes any more: said once, and from then on as if it had ended; an event still has it asked about."""

        async def step(unit: UnitOfWork) -> None:
            await unit.openings.set_overdue(opening.opening_id, at=None)
            await self._note_once(ABANDONED, opening.opening_id, {"state": opening.state}, unit)

        await self._store.atomically(step)
        since = shifted(opening.created_at, self._cadence.follow_for)
        return await self._store.atomically(partial(self._kept_no_longer, opening.opening_id, since))

    async def _ended(self, opening: StoredOpening) -> datetime | None:
        """Keep what lies sealed for its time and no longer, and hand an opened account over; when to look again."""
        since = opening.ended_at or opening.state_since
        due = await self._store.atomically(partial(self._kept_no_longer, opening.opening_id, since))
        await self._hand_over(opening)  # may fail for months; what is over its time does not wait for it
        return due

    async def _hand_over(self, opening: StoredOpening) -> None:
        """Prepare the data-sharing consent that was wished for; twice is harmless, an unopened intent expires.

        Raises:
            NotAllowedError, SetupError: somebody has to act first; it is tried again.
        """
        wish, opening_id = opening.share, opening.opening_id
        if opening.state is not S.COMPLETED or wish is None or (opening.intent_id or opening.consent_id) is not None:
            return
        async with self._store.reading() as unit:
            now = await unit.now()
        try:
            intended = await self._authorize.intend(
                opening.lfi, _consent(wish, now=now), user_ref=opening.user_ref, life=HAND_OVER_LIFE
            )
        except RequestError as error:  # no time mends the wish; `openings share` takes another
            log.warning("opened account not handed over", opening_id=opening_id, lfi=opening.lfi, error=error.code)
            await self._store.atomically(partial(self._note_once, NOT_HANDED_OVER, opening_id, {"error": error.code}))
            return

        async def step(unit: UnitOfWork) -> None:
            await unit.openings.set_intent(opening_id, intended.intent_id)
            facts = {"permissions": list(wish.permissions), "open_before": intended.expires_at.isoformat()}
            await unit.consents.note("opening_handed_over", subject=opening_id, facts=facts, at=await unit.now())

        await self._store.atomically(step)

    async def _note_once(self, what: str, opening_id: str, facts: Mapping[str, Any], unit: UnitOfWork) -> None:
        if not await unit.consents.notes(subject=opening_id, what=what):
            await unit.consents.note(what, subject=opening_id, facts=facts, at=await unit.now())

    async def _kept_no_longer(self, opening_id: str, since: datetime, unit: UnitOfWork) -> datetime | None:
        """Destroy what lies sealed once its time is over; when to look again, `None`: never."""
        if self._retention is None:
            return None
        at = await unit.now()
        if at < shifted(since, self._retention):
            return shifted(since, self._retention)
        if await unit.openings.destroy_contents(opening_id):
            await unit.consents.note("opening_contents_destroyed", subject=opening_id, facts={}, at=at)
        return None

    # -- what a person decides ----------------------------------------------------------------------------------------

    async def settle(self, opening_id: str, *, account_id: str | None) -> StoredOpening:
        """Say what became of an opening that is `unknown`.

        Args:
            account_id: the LFI has it under this id: it is asked, and followed from then on; `None`: the LFI has no
                such request.

        Raises:
            RequestError: no such opening, or it is not unknown.
            TransientError, RefusedError, StandardViolationError, SetupError: the LFI did not answer about that id;
                nothing was changed.
        """
        opening = await self._must(opening_id)
        if opening.state is not S.UNKNOWN:
            raise RequestError(f"opening_id: is {opening.state.value}, not unknown; there is nothing to settle")
        if account_id is None:
            return await self._store.atomically(partial(self._moved, opening_id, S.NOT_CREATED, "person", None, None))
        view = await self._read(opening, AccountId(account_id))
        return await self._store.atomically(partial(self._observed, opening_id, view, "person", None))

    async def subscribe(self, opening_id: str, *, active: bool, url: str | None = None) -> StoredOpening:
        """Switch the event notifications of an opening at the LFI.

        Raises:
            RequestError: no such opening, its version cannot, or there is no AccountId to name.
            TransientError, RefusedError, SetupError: the LFI did not take it.
        """
        opening = await self._must(opening_id)
        if opening.account_id is None:
            raise RequestError("opening_id: no AccountId is known, so nothing can be switched")
        if url is not None and not url.startswith("https://"):
            raise RequestError("url: must be an https:// address")
        self._allowed.check(opening.lfi, opening.user_ref)
        calls = OpeningCalls(await self._clients(opening.lfi))
        await calls.subscribe(
            opening.account_id, version=opening.version, active=active, url=url, calls=self._told(opening.lfi)
        )

        async def step(unit: UnitOfWork) -> StoredOpening:
            await unit.openings.set_webhook(opening_id, active=active)
            return await unit.openings.get(opening_id) or opening

        return await self._store.atomically(step)

    async def share(self, opening_id: str, *, wish: ShareWish | None = None) -> AuthorizationStarted:
        """Begin the data-sharing consent for an opened account: same LFI, same `user_ref`, linked to the opening.

        Called again, it begins a new one: a `request_uri` lives for minutes.

        Args:
            wish: what to ask for; the wish kept with the opening unless given.

        Raises:
            RequestError: not opened yet, or nobody said which permissions.
            and those of `Authorizer.begin`.
        """
        opening = await self._must(opening_id)
        wish = wish or opening.share
        if opening.state is not S.COMPLETED:
            raise RequestError(f"opening_id: is {opening.state.value}; data is shared once it is completed")
        if wish is None:
            raise RequestError("permissions: no wish was kept with the opening; give --permission")
        _check_wish(wish)
        async with self._store.reading() as unit:
            now = await unit.now()
        started = await self._authorize.begin(opening.lfi, _consent(wish, now=now), user_ref=opening.user_ref)
        await self._store.atomically(partial(self._linked, opening_id, wish, started.consent_id))
        return started

    # -- filing -------------------------------------------------------------------------------------------------------

    async def _linked(self, opening_id: str, wish: ShareWish, consent_id: ConsentId, unit: UnitOfWork) -> None:
        await unit.openings.set_share(opening_id, wish, consent_id=consent_id)
        facts = {"consent_id": consent_id}
        await unit.consents.note("opening_shared", subject=opening_id, facts=facts, at=await unit.now())

    async def _observed(
        self, opening_id: str, view: OpeningView, source: str, http_status: int | None, unit: UnitOfWork
    ) -> StoredOpening:
        """File what the LFI shows, and what follows from a move."""
        at = await unit.now()
        moved = await unit.openings.observe(opening_id, view, at=at, source=source, http_status=http_status)
        held = await unit.openings.get(opening_id)
        if held is None:
            raise RequestError("opening_id: was erased meanwhile")
        if moved is not None:
            log.info("account opening moved", opening_id=opening_id, lfi=held.lfi, state=held.state)
            await unit.consents.note(
                "opening_moved", subject=opening_id, facts={"state": held.state, "source": source}, at=at
            )
            unit.messages.tell(MessageType.OPENING_UPDATED, {"opening_id": opening_id, "state": held.state}, at=at)
        if source != "poll" or (moved and held.state in ENDED):  # a poll ends its own claim, but may have none
            due = at if held.state in ENDED else next_look(held, now=at, cadence=self._cadence)
            if due is not None:
                await unit.work.schedule(WorkKind.OPENING, opening_id, lfi=held.lfi, due_at=due)
        return held

    async def _moved(
        self,
        opening_id: str,
        state: OpeningState,
        source: str,
        error: str | None,
        http_status: int | None,
        unit: UnitOfWork,
        *,
        information: str = "",
    ) -> StoredOpening:
        """File a state of ours; harmless when the LFI has been heard meanwhile."""
        at = await unit.now()
        if await unit.openings.move(
            opening_id, state, at=at, source=source, error=error, http_status=http_status, information=information
        ):
            facts = {"state": state, "source": source, "error": error}
            await unit.consents.note("opening_moved", subject=opening_id, facts=facts, at=at)
            unit.messages.tell(MessageType.OPENING_UPDATED, {"opening_id": opening_id, "state": state}, at=at)
        held = await unit.openings.get(opening_id)
        if held is None:
            raise RequestError("opening_id: was erased meanwhile")
        if state in ENDED:
            await unit.work.schedule(WorkKind.OPENING, opening_id, lfi=held.lfi, due_at=at)
        return held

    async def _held(self, opening_id: str) -> tuple[StoredOpening | None, datetime]:
        async with self._store.reading() as unit:
            return await unit.openings.get(opening_id), await unit.now()

    async def _must(self, opening_id: str) -> StoredOpening:
        opening, _ = await self._held(opening_id)
        if opening is None:
            raise RequestError("opening_id: no opening of that id is held; `openings list` shows those that are")
        return opening

    def _told(self, lfi: Slug) -> Callable[[Call], None]:
        return lambda call: self._on_call(lfi, ConsentId(""), call)

    async def _reach(self, name: str) -> None:
        if self._checkpoint is not None:
            await self._checkpoint(name)


def _written(body: Mapping[str, Any]) -> bytes:
    try:
        return WITH_NUMBERS.encode(body)
    except (ValueError, OverflowError, RecursionError):
        raise RequestError("body: holds text that is not Unicode, or a number no reader takes") from None


def _check_refs(order: OpeningOrder) -> None:
    ref = order.user_ref
    if ref is not None and not (0 < len(ref) <= USER_REF_LENGTH and ref.isprintable()):
        raise RequestError(f"user_ref: must have 1 to {USER_REF_LENGTH} printable characters")
    if order.share is not None:
        _check_wish(order.share)


def _consent(wish: ShareWish, *, now: datetime) -> ConsentRequest:
    return ConsentRequest(
        permissions=wish.permissions,
        expires_at=shifted(now, span(days=wish.days)),
        user_type=wish.user_type,
        purpose=wish.purpose,
        account_types=wish.account_types,
        account_sub_types=wish.account_sub_types,
        on_behalf_of=wish.on_behalf_of,
    )


def _check_wish(wish: ShareWish) -> None:
    found = faults_of(wish.permissions)
    found += accounts.faults_of(wish.account_types, wish.account_sub_types, version=None)
    if wish.on_behalf_of is not None:
        found += wish.on_behalf_of.faults()
    if found:
        raise RequestError(f"share: {found[0]}")
    if not 0 < wish.days <= EXPIRY_MAX.days:
        raise RequestError(f"days: must be 1 to {EXPIRY_MAX.days}")
