"""Events in: verify one, file it once, act on it once.

`Receiver.receive` is called while the sender waits.  It checks in the order of `reliability.md` rule 38: size and rate
(the web process, before it reads the body), structure, algorithm, the sender's key, signature, claims, and `jti` in the
very insert that files the event.  Filing and the work that will act on it are one transaction, which events
that come at the same time share (`store/grouped.py`); once it is committed the sender gets its answer.

`Acting.act` is called by a worker for each filed event.  An event is a hint: it says *that* something changed, and
what is true is asked of the Hub.  One question serves every event of a consent that came before it.  An event may be
ahead of the Hub's own view: where the answer does not say what the event says, the Hub is asked again, a few times
(`CONFIRM_AFTER`).  A false event that verifies costs those GETs, nothing more.

An event whose check cannot be made yet, because a look at its sender's keys is not allowed at this moment, is held back
in the quarantine, and its sender is told to come again.  `Receiver.take_held_back` takes in what verifies later.

    verified, subject ours        filed, acted on      moved | unmoved | not_confirmed | older | known | followed |
                                                       not_allowed | given_up
    verified, another kind        done                 not_ours
    verified, subject not ours    quarantined          unknown_subject | foreign_subject
    not verified                  refused              one of `Why`

Source: Webhook Template v2.1-errata2; `domain.md` §7; `reliability.md` rule 38.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

import structlog
from pydantic import SecretStr

from syncworker.clock import Clock
from syncworker.consents.lifecycle import Lifecycle
from syncworker.errors import (
    LFIUnavailableError,
    NotAllowedError,
    RequestError,
    StandardViolationError,
    SyncWorkerError,
    TransientError,
)
from syncworker.lfi import jose
from syncworker.lfi.jose import Fault
from syncworker.lfi.keys import EncryptionKey, SigningKey
from syncworker.lfi.senders import KeyNotYetKnownError, Sender, SenderKeys
from syncworker.standard.calendar import shifted
from syncworker.standard.consents import TERMINAL
from syncworker.standard.events import Event, EventKind, read_event
from syncworker.standard.openings import ENDED, OpeningState
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.consents import StoredConsent
from syncworker.store.grouped import Grouped
from syncworker.store.inbox import NOT_OURS, PRUNED_MAX, Arrival, EventState, Filing, Refused, StoredEvent
from syncworker.store.openings import StoredOpening
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, WorkKind

T = TypeVar("T")

BODY_BYTES_MAX: Final = 64 * 1024
MEDIA_TYPES: Final = frozenset({"application/jwe", "application/jwt", "application/jose"})
"""What events come as; the shape of the body decides what it is, not its type (D-17)."""

MESSAGE_CHARACTERS_MAX: Final = 500
JTI_CHARACTERS_MAX: Final = 256
CLAIMED_KID_MAX: Final = 128
CLAIMED_ISSUER_MAX: Final = 512

CALLBACK_AWAITED: Final = timedelta(minutes=15)
"""An event may overtake the user's way back to us: so long it waits for the consent to be stored."""

CALLBACK_RETRY: Final = timedelta(seconds=30)
CONFIRM_AFTER: Final = (timedelta(seconds=5), timedelta(seconds=30), timedelta(seconds=120))
"""So long after it came, an event that the Hub or the LFI does not confirm has them asked again."""

OPENING_GIVEN_UP_AFTER: Final = CONFIRM_AFTER[-1] + timedelta(seconds=30)
"""An account opening is asked about by its own work; what the last question brought is known by then."""

SERVED_MAX: Final = 1_000
"""Events one answer of the Hub serves; those beyond it ask again."""

HELD_BACK_FOR: Final = timedelta(hours=24)
"""An entry of the quarantine older than this is not taken in by itself: polling has learnt what it told long since."""

LOOKED_FOR: Final = timedelta(minutes=10)
"""So long after an event came its sender's keys are looked at for its sake."""

TAKEN_IN_MAX: Final = 50
"""Entries of the quarantine verified again in one round."""

ATTEMPTS_MAX: Final = 12
"""After so many attempts in a row without an answer of the Hub, the poll alone looks after the consent."""

GROUP_MAX: Final = 100
"""Events that share a transaction at most."""

PRUNE_EVERY: Final = timedelta(hours=1)
PRUNE_STEPS_MAX: Final = 20
"""Transactions one prune makes at most: what is left goes at the next tick."""

log = structlog.stdlib.get_logger(__name__)


class Why(StrEnum):
    """Which check an event failed."""

    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    UNENCRYPTED = "unencrypted"
    BEARER = "bearer"
    JWE_HEADER = "jwe_header"
    UNKNOWN_ENCRYPTION_KEY = "unknown_encryption_key"
    DECRYPTION = "decryption"
    JWS_MALFORMED = "jws_malformed"
    JWS_HEADER = "jws_header"
    UNTRUSTED_SENDER = "untrusted_sender"
    UNKNOWN_KEY = "unknown_key"
    SIGNATURE = "signature"
    LIFETIME = "lifetime"
    AUDIENCE = "audience"
    MESSAGE = "message"
    JTI_USED = "jti_used"


# Webhook Template v2.1-errata2, `AEError400Codes`; its 401 has no body.
ERROR_CODES: Final[Mapping[Why, str]] = {
    Why.TOO_LARGE: "Body.InvalidFormat",
    Why.MALFORMED: "Body.InvalidFormat",
    Why.UNENCRYPTED: "JWE.InvalidHeader",
    Why.JWE_HEADER: "JWE.InvalidHeader",
    Why.UNKNOWN_ENCRYPTION_KEY: "JWE.InvalidHeader",
    Why.DECRYPTION: "JWE.DecryptionError",
    Why.JWS_MALFORMED: "JWS.Malformed",
    Why.JWS_HEADER: "JWS.InvalidHeader",
    Why.UNKNOWN_KEY: "JWS.InvalidHeader",
    Why.SIGNATURE: "JWS.InvalidSignature",
    Why.UNTRUSTED_SENDER: "JWS.InvalidClaim",
    Why.LIFETIME: "JWS.InvalidClaim",
    Why.AUDIENCE: "JWS.InvalidClaim",
    Why.JTI_USED: "JWS.InvalidClaim",
    Why.MESSAGE: "JWS.InvalidPayload",
}

KEPT: Final = frozenset(
    {Why.UNENCRYPTED, Why.UNKNOWN_ENCRYPTION_KEY, Why.UNTRUSTED_SENDER, Why.UNKNOWN_KEY, Why.AUDIENCE}
)
"""Refusals that a setting or a key of ours may turn round: their body is kept, sealed, for a replay."""

_FAULTS: Final = {
    Fault.JWE_HEADER: Why.JWE_HEADER,
    Fault.JWE_DECRYPTION: Why.DECRYPTION,
    Fault.JWS_MALFORMED: Why.JWS_MALFORMED,
    Fault.JWS_HEADER: Why.JWS_HEADER,
    Fault.JWS_SIGNATURE: Why.SIGNATURE,
}


@dataclass(slots=True)
class Claimed:
    """What an event says of itself before anything proves it: for the quarantine."""

    kid: str | None = None
    issuer: str | None = None


class EventRefusedError(StandardViolationError):
    """An event failed a check; nothing of it acts.

    Attributes:
        why: which check.
        error_code: the standard's code for the sender; empty where it defines no body.
        status: 401 for the bearer JWT, else 400.
        claimed: what had been read of it when it failed.
    """

    code: ClassVar[str] = "event_refused"

    def __init__(self, why: Why, message: str) -> None:
        super().__init__(message)
        self.why = why
        self.error_code = ERROR_CODES.get(why, "")
        self.status = 400 if self.error_code else 401
        self.claimed = Claimed()


class EventHeldBackError(TransientError):
    """An event's key is not known yet and may not be looked for at this moment; it is kept, and may come again.

    Attributes:
        why, claimed: as in `EventRefusedError`, for the quarantine.
    """

    code = "event_held_back"
    why: ClassVar[Why] = Why.UNKNOWN_KEY

    def __init__(self, message: str, *, retry_after: float | None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.claimed = Claimed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One request that brings an event.

    Attributes:
        body: as received, at most `BODY_BYTES_MAX`.
        media_type: lower case, without parameters.
        bearer: the JWT of the `Authorization` header, if there was one.
        address: of the peer, for the quarantine.
        received_at: what `exp` and `nbf` are held against.
        replayed: taken out of the quarantine; its bearer JWT was not kept and is not asked for.
    """

    body: bytes = field(repr=False)
    media_type: str
    bearer: SecretStr | None = None
    address: str = ""
    interaction_id: str = ""
    received_at: datetime
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRules:
    """What this installation takes.

    Attributes:
        senders: whom we trust, by issuer; nobody else.
        encryption_keys: our private keys by `kid`, several during a rotation.
        audiences: what `aud` may call us: client ids, the organisation's id, our URL.
        url: the address events come to: a bearer JWT's `aud`, to the letter; `None`: bearer JWTs cannot be checked.
        accept_unencrypted: whether a bare JWS is an event too.
    """

    senders: Mapping[str, Sender]
    encryption_keys: Mapping[str, EncryptionKey]
    audiences: frozenset[str]
    url: str | None = None
    accept_unencrypted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """An event that passed every check but the last, which is filing it."""

    event: Event
    sender: Sender
    jti: str | None
    bearer_jti: str | None
    interaction_id: str
    payload: bytes = field(repr=False)


class Receiver:
    """Verifies and files events.  Lives on one event loop.

    Args:
        group: how many events that come at the same time share a transaction at most.

    Attributes:
        counts: deliveries since the process began, by what became of them: `new`, `again`, a `Why`, `held_back`,
            `unavailable`.
    """

    def __init__(self, store: Store, rules: EventRules, keys: SenderKeys, *, group: int = GROUP_MAX) -> None:
        self._store = store
        self._filing = Grouped(store, _file, most=group)
        self._rules = rules
        self._keys = keys
        self._noting = asyncio.Lock()  # refusals take one connection of the pool, never those of good events
        self._tried: set[int] = set()  # entries of the quarantine that failed again under these rules
        self.counts: Counter[str] = Counter()

    async def receive(self, delivery: Delivery) -> int:
        """Verify and file an event; the same one again is welcome and changes nothing.

        A refusal is counted; whether it is also noted (`quarantine`) is the caller's to say, who knows the pace.

        Returns:
            Its id in the inbox.

        Raises:
            EventRefusedError: it failed a check.
            EventHeldBackError: its key is not known yet; `quarantine` it, and let its sender come again.
            TransientError: its sender's keys or the database are away; it may come again.
        """
        claimed = Claimed()
        try:
            filing, event_id = await self._filed(delivery, claimed)
        except EventRefusedError as refused:
            self.counts[refused.why.value] += 1
            refused.claimed = claimed
            raise
        except EventHeldBackError as held_back:
            self.counts["held_back"] += 1
            held_back.claimed = claimed
            raise
        except TransientError:
            self.counts["unavailable"] += 1
            raise
        self.counts[filing.value] += 1
        return event_id

    async def quarantine(self, delivery: Delivery, refused: EventRefusedError | EventHeldBackError) -> None:
        """Note an event that was refused or held back, in the database and in the log.

        While the database is away it is not noted.
        """
        why, claimed = refused.why, refused.claimed
        if isinstance(refused, EventHeldBackError):
            log.warning("event held back", why=why.value, address=delivery.address, size=len(delivery.body))
        else:
            log.warning("event refused", why=why.value, address=delivery.address, size=len(delivery.body))

        async def note(unit: UnitOfWork) -> None:
            entry = Refused(
                digest=hashlib.sha256(delivery.body).digest(),
                why=why.value,
                address=_claim(delivery.address, 64) or "",
                media_type=_claim(delivery.media_type, 64) or "",
                size=len(delivery.body),
                kid=claimed.kid,
                issuer=claimed.issuer,
                received_at=delivery.received_at,
                last_at=await unit.now(),
                body=delivery.body if why in KEPT else None,
            )
            await unit.inbox.refuse(entry)

        try:
            async with self._noting:
                await self._store.atomically(note)
        except SyncWorkerError as error:  # the refusal stands, noted or not
            log.warning("refused event not noted", error=error.code)

    # -- what is held back -------------------------------------------------------------------------------------------

    async def take_held_back(self, *, now: datetime) -> int:
        """Take in events of the quarantine that verify by now; call it every half minute or so.

        Tried is what came within `HELD_BACK_FOR` and whose reason is gone: its key is known by now, its sender or our
        key was written down, a setting takes it.  At most `TAKEN_IN_MAX` in one round.  What fails another check is
        noted with that one.

        Returns:
            How many were taken in.

        Raises:
            StoreUnavailableError: the quarantine could not be read.
        """
        async with self._store.reading() as unit:
            entries = await unit.inbox.held_back(since=now - HELD_BACK_FOR)
        self._tried &= {one.id for one in entries}
        looked_for: set[tuple[str, str]] = set()
        ripe: list[int] = []
        for one in entries:
            if len(ripe) < TAKEN_IN_MAX and one.id not in self._tried and await self._may_pass(one, now, looked_for):
                ripe.append(one.id)
        return sum([await self._taken_in(entry_id) for entry_id in ripe])

    async def _may_pass(self, entry: Refused, now: datetime, looked_for: set[tuple[str, str]]) -> bool:
        """Whether what an entry failed may hold by now."""
        match entry.why:
            case Why.UNENCRYPTED:
                return self._rules.accept_unencrypted
            case Why.UNKNOWN_ENCRYPTION_KEY:
                return entry.kid in self._rules.encryption_keys
            case Why.UNTRUSTED_SENDER:
                return entry.issuer in self._rules.senders
            case Why.UNKNOWN_KEY:
                return await self._key_is_known(entry, now, looked_for)
            case _:
                return True  # nothing noted of it says more: it is tried once by each process

    async def _key_is_known(self, entry: Refused, now: datetime, looked_for: set[tuple[str, str]]) -> bool:
        """Whether the key an entry names is known; of each key of a young entry one look in a round, if one is due."""
        sender = self._rules.senders.get(entry.issuer or "")
        if sender is None or entry.kid is None:
            return False
        named = sender.issuer, entry.kid
        if now - entry.received_at < LOOKED_FOR and named not in looked_for:
            looked_for.add(named)
            try:
                await self._keys.key(sender, entry.kid)
            except (StandardViolationError, TransientError):
                return False
        return self._keys.holds(sender, entry.kid)

    async def _taken_in(self, entry_id: int) -> bool:
        async with self._store.reading() as unit:
            entry = await unit.inbox.one_refused(entry_id)
        if entry is None or entry.body is None:
            return False
        try:
            event_id = await self.receive(redelivered(entry, entry.body))
        except EventRefusedError as refused:
            self._tried.add(entry_id)
            why, keep = refused.why, refused.why in KEPT
            if why.value != entry.why:
                await self._store.atomically(lambda unit: unit.inbox.rejudge(entry_id, why=why.value, keep=keep))
            return False
        except TransientError:
            return False
        await self._store.atomically(lambda unit: unit.inbox.release(entry_id))
        log.info("event of the quarantine taken in", entry=entry_id, event_id=event_id, why=entry.why)
        return True

    async def _filed(self, delivery: Delivery, claimed: Claimed) -> tuple[Filing, int]:
        opened = await self._open(delivery, claimed)
        filing, event_id = await self._filing.add(opened)
        if filing is Filing.JTI_USED:
            raise EventRefusedError(Why.JTI_USED, "jti: another event came with it")
        return filing, event_id

    # -- the checks, in their order ----------------------------------------------------------------------------------

    async def _open(self, delivery: Delivery, claimed: Claimed) -> _Opened:
        token = _structure(delivery.body)
        bearer_jti = await self._check_bearer(delivery, claimed)
        token = self._decrypt(token, claimed)
        kid = _envelope(jose.check_signature_header, token)
        claimed.kid = _claim(kid, CLAIMED_KID_MAX)
        sender = self._sender(token, claimed)
        if sender.bearer and delivery.bearer is None and not delivery.replayed:
            raise EventRefusedError(Why.BEARER, "authorization: this sender's events come with a bearer JWT")
        payload = await self._verified(token, sender, kid)
        claims = _claims(payload)
        if fault := jose.fault_of_lifetime(claims, now=delivery.received_at):
            raise EventRefusedError(Why.LIFETIME, f"{fault}: missing, or not good at this time")
        audiences = jose.audiences_of(claims)
        if "aud" in claims and audiences.isdisjoint(self._rules.audiences):
            raise EventRefusedError(Why.AUDIENCE, "aud: is not us")
        return _Opened(
            event=_message(claims, payload),
            sender=sender,
            jti=_jti(claims),
            bearer_jti=bearer_jti,
            interaction_id=delivery.interaction_id[:64],
            payload=payload,
        )

    async def _check_bearer(self, delivery: Delivery, claimed: Claimed) -> str | None:
        """Stands for the `jti` of the bearer JWT and who issued it; whatever is wrong with one is a refusal."""
        if delivery.bearer is None:
            return None
        token = delivery.bearer.get_secret_value()
        if token.count(".") != 2 or len(token) > jose.TOKEN_CHARACTERS_MAX:
            raise EventRefusedError(Why.BEARER, "authorization: not a compact JWS")
        try:
            kid = jose.check_signature_header(token)
            sender = self._sender(token, claimed)
            claims = _claims(await self._verified(token, sender, kid))
        except EventHeldBackError as error:  # not kept: in the quarantine it would pass without its bearer JWT
            raise LFIUnavailableError(f"authorization: {error}", retry_after=error.retry_after) from None
        except StandardViolationError:
            raise EventRefusedError(Why.BEARER, "authorization: not a JWT of a sender we trust") from None
        jti = _jti(claims)
        if self._rules.url is None or claims.get("aud") not in (self._rules.url, [self._rules.url]):
            raise EventRefusedError(Why.BEARER, "authorization: its aud is not the address of our webhook")
        if jti is None or jose.fault_of_lifetime(claims, now=delivery.received_at):
            raise EventRefusedError(Why.BEARER, "authorization: no jti, or not good at this time")
        return hashlib.sha256(f"{sender.issuer}\n{jti}".encode()).hexdigest()  # it need not be the event's own issuer

    def _decrypt(self, token: str, claimed: Claimed) -> str:
        if token.count(".") == 2:
            if not self._rules.accept_unencrypted:
                raise EventRefusedError(Why.UNENCRYPTED, "body: a JWS that is not encrypted; encrypt it to our key")
            return token
        try:
            claimed.kid = _claim(jose.protected_header(token).get("kid"), CLAIMED_KID_MAX)
            inner = jose.decrypt(token, self._rules.encryption_keys)
        except jose.UnknownEncryptionKeyError as error:
            raise EventRefusedError(Why.UNKNOWN_ENCRYPTION_KEY, str(error)) from None
        except jose.EnvelopeError as error:
            raise EventRefusedError(_FAULTS[error.fault], str(error)) from None
        except StandardViolationError as error:
            raise EventRefusedError(Why.JWE_HEADER, f"JWE: {error}") from None
        if inner.count(".") != 2:
            raise EventRefusedError(Why.JWS_MALFORMED, "JWE: holds no JWS")
        return inner

    def _sender(self, token: str, claimed: Claimed) -> Sender:
        try:
            issuer = jose.unverified_claims(token).get("iss")
        except StandardViolationError as error:
            raise EventRefusedError(Why.JWS_MALFORMED, f"JWS: {error}") from None
        claimed.issuer = _claim(issuer, CLAIMED_ISSUER_MAX)
        sender = self._rules.senders.get(issuer) if isinstance(issuer, str) else None
        if sender is None:
            raise EventRefusedError(Why.UNTRUSTED_SENDER, "iss: is no sender we trust")
        return sender

    async def _verified(self, token: str, sender: Sender, kid: str) -> bytes:
        try:
            key = await self._keys.key(sender, kid)
        except jose.UnknownKeyError as error:
            raise EventRefusedError(Why.UNKNOWN_KEY, str(error)) from None
        except KeyNotYetKnownError as error:
            raise EventHeldBackError(str(error), retry_after=error.retry_after) from None
        return _envelope(partial(jose.verified_payload, key=key), token)


def redelivered(entry: Refused, body: bytes) -> Delivery:
    """An entry of the quarantine as a delivery of the instant it came."""
    return Delivery(
        body=body,
        media_type=entry.media_type,
        address=entry.address,
        received_at=entry.received_at,
        replayed=True,
    )


async def verified_again(
    store: Store,
    receiver: Receiver,
    refused_id: int,
    *,
    shown: str,
    along: Callable[[UnitOfWork], Awaitable[object]] | None = None,
) -> StoredEvent:
    """Verify a body of the quarantine as of the instant it came, and file it.

    Args:
        shown: the entry's id, as the caller wrote it.
        along: is done in the transaction that takes the entry out of the quarantine.

    Raises:
        RequestError: no such entry, its body was not kept, or it fails a check still; names the check.
    """
    async with store.reading() as unit:
        refused = await unit.inbox.one_refused(refused_id)
    if refused is None:
        raise RequestError(f"id: there is no event {shown}; see `syncworker events list`")
    if refused.body is None:
        raise RequestError(
            f"id: {shown} failed the check {refused.why!r}, which no replay can mend; its body was not kept"
        )
    try:
        accepted = await receiver.receive(redelivered(refused, refused.body))
    except EventRefusedError as error:
        raise RequestError(f"id: {shown} still fails the check {error.why.value!r}: {error}") from None

    async def released(unit: UnitOfWork) -> None:
        await unit.inbox.release(refused_id)
        if along is not None:
            await along(unit)

    await store.atomically(released)
    async with store.reading() as unit:
        event = await unit.inbox.get(accepted)
    if event is None:
        raise RequestError(f"id: there is no event {accepted} any more; see `syncworker events list`")
    return event


async def _file(unit: UnitOfWork, group: Sequence[_Opened]) -> Sequence[tuple[Filing, int]]:
    """File events and the work that acts on them, in one transaction."""
    at = await unit.now()
    known = await lfis_of(unit, {(one.event.kind, one.event.subject) for one in group})
    arrivals = [_arrival(one, known.get((one.event.kind, one.event.subject), ())) for one in group]
    filed = await unit.inbox.file_all(arrivals, at=at)
    new = [(event_id, one) for one, (filing, event_id) in zip(arrivals, filed, strict=True) if filing is Filing.NEW]
    await unit.work.schedule_sooner(
        [(WorkKind.EVENT, str(event_id), one.lfi, at) for event_id, one in new if one.state is EventState.FILED]
    )
    if any(one.state is EventState.QUARANTINED for _, one in new):
        await unit.inbox.trim_quarantined()
    return filed


def _arrival(opened: _Opened, known: Sequence[Slug]) -> Arrival:
    lfi, state, outcome = placed(opened.event.kind, known, opened.sender)
    return Arrival(
        event=opened.event,
        issuer=opened.sender.issuer,
        jti=opened.jti,
        bearer_jti=opened.bearer_jti,
        lfi=lfi,
        state=state,
        outcome=outcome,
        content=opened.payload,
        interaction_id=opened.interaction_id,
    )


class Refusals:
    """Writes the signed bodies of our answers to events we do not take.

    Source: Webhook Template v2.1-errata2, `400Error`, `500Error`.
    """

    def __init__(self, key: SigningKey, *, issuer: str, clock: Clock) -> None:
        self._key = key
        self._issuer = issuer
        self._clock = clock

    def body(self, error_code: str, message: str) -> str:
        """A compact JWS that says what was wrong."""
        errors = [{"Code": error_code, "Message": message[:MESSAGE_CHARACTERS_MAX]}]
        return jose.signed_refusal(errors, key=self._key, issuer=self._issuer, now=self._clock.now())


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the Hub said about a consent.

    Attributes:
        began_at: when the question began: the answer serves every event that came before.
        before: the status held until then.
    """

    began_at: datetime
    before: str
    seen: StoredConsent


WAITING: Final[Mapping[str, Callable[[StoredEvent, datetime], datetime]]] = {
    "callback_awaited": lambda _, now: now + CALLBACK_RETRY,
    "answer_awaited": lambda _, now: now + CALLBACK_RETRY,
    "confirmation_awaited": lambda event, now: next_question(event, now=now) or now,
}
"""Outcomes that leave an event filed, and when it is looked at again."""

SERVED: Final = frozenset({"moved", "unmoved", "not_confirmed"})
"""Outcomes of an event about a consent that are written down with the answer of the Hub."""


class Acting:
    """Acts on filed events, one claim each, and takes away old ones.  Lives on one event loop.

    Args:
        retention: how long an event stays in the inbox.
    """

    def __init__(self, store: Store, lifecycle: Lifecycle, *, retention: timedelta) -> None:
        self._store = store
        self._lifecycle = lifecycle
        self._retention = retention
        self._pruned_at: datetime | None = None
        self._asking: dict[ConsentId, asyncio.Future[None]] = {}

    async def act(self, claim: Claim) -> tuple[datetime | None, str]:
        """Act on the event of a claim; says when to come back to it, if ever, and what was done.

        A claim somebody asked for (`events replay`) asks the Hub even where the event says nothing new.

        Raises:
            TransientError, RefusedError, StandardViolationError, SetupError: the Hub gave no answer we could file.
        """
        event, now = await self._event(claim)
        if event is None:
            return None, "forgotten"
        if event.state is not EventState.FILED:
            return None, "done"
        if event.kind is EventKind.OPENING:
            outcome = await self._store.atomically(partial(self._follow_opening, event, now, claim.asked))
        elif claim.attempts > ATTEMPTS_MAX:
            outcome = "given_up"
        else:
            outcome = await self._ask(event, now, claim)
        if outcome in WAITING:
            return WAITING[outcome](event, now), outcome
        if event.kind is EventKind.CONSENT and outcome in SERVED:
            return None, outcome
        state = EventState.QUARANTINED if outcome == "unknown_subject" else EventState.DONE
        await self._store.atomically(lambda unit: unit.inbox.end(event.id, outcome=outcome, at=now, state=state))
        return None, outcome

    async def _event(self, claim: Claim) -> tuple[StoredEvent | None, datetime]:
        async with self._store.reading() as unit:
            return await unit.inbox.get(int(claim.subject)), await unit.now()

    async def prune(self) -> None:
        """Take away what is past its retention, inbox and quarantine; once an hour, and at once where more is left.

        Call it at every tick.  While the database is away nothing happens, and the next hour finds the same.
        """
        try:
            async with self._store.reading() as unit:
                now = await unit.now()
            if self._pruned_at is not None and now - self._pruned_at < PRUNE_EVERY:
                return
            self._pruned_at = now
            for _ in range(PRUNE_STEPS_MAX):
                gone = await self._store.atomically(lambda unit: unit.inbox.prune(before=now - self._retention))
                if gone < PRUNED_MAX:
                    return
            self._pruned_at = None  # more came in an hour than one prune takes away
        except SyncWorkerError as error:
            log.warning("old events not taken away yet", error=error.code)

    async def _ask(self, event: StoredEvent, now: datetime, claim: Claim) -> str:
        """What became of an event about a consent, by an answer of the Hub that is new enough for it."""
        consent_id = ConsentId(event.subject)
        async with self._store.reading() as unit:
            held = await unit.consents.get(consent_id)
        if held is None:
            return "callback_awaited" if now < shifted(event.received_at, CALLBACK_AWAITED) else "unknown_subject"
        if not claim.asked and (nothing_new := says_nothing_new(event, held)):
            return nothing_new
        since = now if claim.asked else last_question(event, now=now)
        for _ in range(2):  # an answer that was under way when it came does not serve it; the next one does
            if event.asked_at is not None and event.asked_at >= since:
                break
            try:
                await self._served(consent_id)
            except NotAllowedError:  # no time mends it; the event stays, and `events replay` acts once it is allowed
                return "not_allowed"
            found, _ = await self._event(claim)
            if found is None or found.state is not EventState.FILED:
                return "forgotten" if found is None else found.outcome or "done"
            event = found
        return "confirmation_awaited"

    async def _served(self, consent_id: ConsentId) -> None:
        """Ask the Hub for a consent, or wait for the answer to a question that is under way in this process.

        Raises:
            SyncWorkerError: the Hub gave no answer we could file; those that waited for it get the same.
        """
        under_way = self._asking.get(consent_id)
        if under_way is not None:
            await asyncio.shield(under_way)
            return
        mine = self._asking[consent_id] = asyncio.get_running_loop().create_future()
        try:
            await self._serve(consent_id)
        except SyncWorkerError as error:
            mine.set_exception(error)
            mine.exception()  # retrieved: it is no fault when no other event waited for it
            raise
        finally:
            del self._asking[consent_id]
            if not mine.done():  # good, or cancelled: then those that waited ask themselves
                mine.set_result(None)

    async def _serve(self, consent_id: ConsentId) -> None:
        """Ask the Hub for a consent, and hold every event of it that waits against the answer."""
        async with self._store.reading() as unit:
            held, began_at = await unit.consents.get(consent_id), await unit.now()
        seen = await self._lifecycle.ask(consent_id)
        answer = _Answer(began_at, seen.status if held is None else held.status, seen)

        async def step(unit: UnitOfWork) -> None:
            waiting = await unit.inbox.filed(EventKind.CONSENT, consent_id, until=began_at, limit=SERVED_MAX)
            words = {one.id: judged(one, answer) for one in waiting}
            ended = {event_id: word for event_id, word in words.items() if word not in WAITING}
            await unit.inbox.end_filed(ended, at=await unit.now(), asked_at=began_at)
            await unit.inbox.note_asked(words.keys() - ended.keys(), asked_at=began_at)

        await self._store.atomically(step)

    async def _follow_opening(self, event: StoredEvent, now: datetime, asked: bool, unit: UnitOfWork) -> str:
        """Wake the work that follows the opening: it asks the LFI; until the LFI says what the event says, again."""
        openings = await unit.openings.find(lfi=event.lfi, account_id=event.subject)
        if not openings:
            return "answer_awaited" if now < shifted(event.received_at, CALLBACK_AWAITED) else "unknown_subject"
        behind = any(says_something_new(event, one) for one in openings)
        if event.asked_at is not None and not asked:
            if not behind:
                return "followed"
            if next_question(event, now=now) is None:
                return "followed" if event.status is None else "not_confirmed"
        woken = [await unit.work.ask_now(WorkKind.OPENING, one.opening_id) for one in openings]
        if not any(woken):
            return "known"
        await unit.inbox.note_asked([event.id], asked_at=now)
        return "confirmation_awaited" if behind and next_question(event, now=now) else "followed"


Subject = tuple[EventKind, str]
"""What an event is about: its kind, and the id of the consent or account opening."""


async def lfis_of(unit: UnitOfWork, subjects: Collection[Subject]) -> Mapping[Subject, Sequence[Slug]]:
    """The LFIs of those subjects we know; of an account opening we do not know, those whose answer is under way."""
    consents = await unit.inbox.lfis_of_consents({one for kind, one in subjects if kind is EventKind.CONSENT})
    known: dict[Subject, Sequence[Slug]] = {(EventKind.CONSENT, one): [lfi] for one, lfi in consents.items()}
    for kind, subject in subjects:
        if kind is EventKind.OPENING and subject:
            known[kind, subject] = [one.lfi for one in await unit.openings.find(account_id=subject)]
            if not known[kind, subject]:  # it may overtake the answer that tells us the AccountId
                sending = await unit.openings.find(state=OpeningState.SENDING)
                known[kind, subject] = sorted({one.lfi for one in sending})
    return known


def placed(kind: EventKind, known: Sequence[Slug], sender: Sender) -> tuple[Slug, EventState, str | None]:
    """Where an event belongs: the LFI of its subject, and the state and outcome it is filed with.

    Args:
        known: LFIs of its subject.
    """
    if kind not in {EventKind.CONSENT, EventKind.OPENING}:
        return Slug(""), EventState.DONE, NOT_OURS
    if not known:
        return Slug(""), EventState.QUARANTINED, "unknown_subject"
    allowed = [lfi for lfi in known if sender.may_speak_of(lfi)]
    if not allowed:
        return known[0], EventState.QUARANTINED, "foreign_subject"
    return allowed[0], EventState.FILED, None


async def replay(unit: UnitOfWork, event_id: int, senders: Mapping[str, Sender]) -> StoredEvent:
    """Have a filed or quarantined event acted on once more; commits nothing.

    Raises:
        RequestError: no such event, or one that nothing follows from; says why.
    """
    event = await unit.inbox.get(event_id)
    if event is None:
        raise RequestError(f"id: no event {event_id} is in the inbox; see `syncworker events list`")
    sender = senders.get(event.issuer)
    if sender is None:
        raise RequestError("issuer: its sender is not trusted (any more); add it under [events.senders]")
    subject = (event.kind, event.subject)
    lfi, state, outcome = placed(event.kind, (await lfis_of(unit, {subject})).get(subject, ()), sender)
    if state is not EventState.FILED:
        raise RequestError(f"id: nothing follows from event {event_id} ({outcome})")
    await unit.inbox.reopen(event_id, lfi=lfi)
    await unit.work.schedule(WorkKind.EVENT, str(event_id), lfi=lfi, due_at=await unit.now())
    await unit.work.ask_now(WorkKind.EVENT, str(event_id))
    return await unit.inbox.get(event_id) or event


def says_nothing_new(event: StoredEvent, held: StoredConsent) -> str | None:
    """`older` or `known` when an event says nothing the stored consent does not say; else `None`."""
    said, stored = event.status_updated_at, held.status_updated_at
    ends = event.status in TERMINAL and not held.terminal  # nothing comes after an end, whatever its date
    if said is not None and stored is not None and said < stored and not ends:
        return "older"
    same = event.status == held.status
    return "known" if same and (held.terminal or (said is not None and said == stored)) else None


def says_something_new(event: StoredEvent, opening: StoredOpening) -> bool:
    """Whether an event tells of an account opening what the LFI has not shown, and may show yet.

    One that names no status tells of a move: the LFI has shown it when it moved since.
    """
    if opening.state in ENDED or (event.status is not None and event.status == opening.status):
        return False
    if event.status is None:
        return opening.state_since <= event.received_at and not _as_late(opening.status_updated_at, event)
    said, held = event.status_updated_at, opening.status_updated_at
    return said is None or held is None or said >= held


def _as_late(updated_at: datetime | None, event: StoredEvent) -> bool:
    """Whether what is shown is from the instant of an event, or later."""
    return updated_at is not None and event.happened_at is not None and updated_at >= event.happened_at


def judged(event: StoredEvent, answer: _Answer) -> str:
    """What became of an event about a consent by an answer to a question asked after it came."""
    seen, moved = answer.seen, answer.seen.status != answer.before
    asked_again = next_question(event, now=answer.began_at) is not None
    if event.status is None:  # it tells of a move and does not say which
        silent = not moved and not seen.terminal and not _as_late(seen.status_updated_at, event)
        return "confirmation_awaited" if silent and asked_again else "moved" if moved else "unmoved"
    if event.status == seen.status:
        return "moved" if moved else "unmoved"
    nothing_new = says_nothing_new(event, seen)
    if nothing_new is None and asked_again:
        return "confirmation_awaited"
    return "moved" if moved else nothing_new or "not_confirmed"


def last_question(event: StoredEvent, *, now: datetime) -> datetime:
    """Since when an event deserves an answer: it came, or it was time to ask again."""
    return max(at for at in _questions(event) if at <= now or at == event.received_at)


def next_question(event: StoredEvent, *, now: datetime) -> datetime | None:
    """When to ask again about an event that was not confirmed by now; `None`: no more."""
    later = [at for at in _questions(event) if at > now]
    return min(later) if later else None


def _questions(event: StoredEvent) -> Sequence[datetime]:
    times = [event.received_at, *(event.received_at + after for after in CONFIRM_AFTER)]
    return [*times, event.received_at + OPENING_GIVEN_UP_AFTER] if event.kind is EventKind.OPENING else times


def _structure(body: bytes) -> str:
    """The compact token a body is: three parts or five, of base64url.  Some senders quote it as a JSON string."""
    if len(body) > BODY_BYTES_MAX:
        raise EventRefusedError(Why.TOO_LARGE, f"body: larger than {BODY_BYTES_MAX} bytes")
    text = body.strip()
    if text[:1] == text[-1:] == b'"':
        text = text[1:-1]
    if text.count(b".") not in (2, 4) or not text.replace(b".", b"").replace(b"-", b"").replace(b"_", b"").isalnum():
        raise EventRefusedError(Why.MALFORMED, "body: neither a compact JWE nor a compact JWS")
    return text.decode("ascii")


def _claims(payload: bytes) -> dict[str, Any]:
    try:
        return jose.read_claims(payload)
    except StandardViolationError as error:
        raise EventRefusedError(Why.MESSAGE, str(error)) from None


def _envelope(check: Callable[[str], T], token: str) -> T:
    try:
        return check(token)
    except jose.EnvelopeError as error:
        raise EventRefusedError(_FAULTS[error.fault], str(error)) from None


def _message(claims: Mapping[str, Any], payload: bytes) -> Event:
    message = claims.get("message")
    if not isinstance(message, Mapping):
        raise EventRefusedError(Why.MESSAGE, "message: is not an object")
    try:
        return read_event(message, signed=payload)
    except ValueError as error:
        raise EventRefusedError(Why.MESSAGE, str(error)) from None


def _jti(claims: Mapping[str, Any]) -> str | None:
    """The `jti`; one too long or strange for its column counts by its hash."""
    jti = claims.get("jti")
    if not isinstance(jti, str) or not jti:
        return None
    return _claim(jti, JTI_CHARACTERS_MAX) or hashlib.sha256(jti.encode(errors="surrogatepass")).hexdigest()


def _claim(value: object, length: int) -> str | None:
    return value if isinstance(value, str) and len(value) <= length and value.isprintable() else None
