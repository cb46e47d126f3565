"""Ask a user for a consent, and bring home its first tokens.

`begin` pushes the request (PAR), keeps what the redirect will be checked against, and only then gives the address to
open.  `intend` writes down what a user is to be asked for, and `open` pushes it when they open the link: a
`request_uri` lives for minutes (trap 9).  `complete` checks the redirect in the order of `domain.md` §2.4, uses the
authorisation up before the code is exchanged, and stores connection, consent, tokens and work in one transaction
before anything else happens.

How an authorisation ends is kept in its row and, where it brings no consent, is the `cause` of an
`AuthorizationFailedError`: the words of `Ending`.

The user may have agreed at the bank, and the Hub may hold the consent for a year, whatever goes wrong on the way home.
So the consent is filed and looked at from the moment its redirect is taken; where the tokens did not come home, it is
revoked (`NOT_HELD` in the audit), and so is one whose redirect never came (`astray`).

Source: Pushed Authorization Endpoint v2.1-errata2; RFC 7636, 9126, 9207; `domain.md` §2.1 – §2.5, §3, §4.4.
"""

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import structlog
from pydantic import SecretStr

from syncworker.clock import Clock
from syncworker.consents.allowed import EVERYBODY, Allowed
from syncworker.consents.filing import announced, free_call
from syncworker.consents.lifecycle import NEVER, Clients, OnCall, noted, untold
from syncworker.consents.revoking import ordered
from syncworker.consents.storing import Storing
from syncworker.consents.tokens import TokenDue, no_checkpoint
from syncworker.errors import (
    AuthorizationFailedError,
    GrantLostError,
    LFIUnavailableError,
    RequestError,
    SetupError,
    SyncWorkerError,
    TransientError,
)
from syncworker.lfi.api import LFIClient
from syncworker.lfi.directory import Discovery, LFIConfig
from syncworker.lfi.jose import code_challenge
from syncworker.lfi.oauth import Redirect, TokenAnswer, read_redirect
from syncworker.lfi.transport import Call
from syncworker.standard import accounts
from syncworker.standard.consents import (
    IN_USE,
    ConsentRequest,
    ConsentView,
    Revoker,
    Status,
    authorization_details,
    read_consent,
    root_of,
)
from syncworker.standard.interaction import new_interaction_id
from syncworker.standard.resources import readable
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version, highest
from syncworker.store.authorizations import StoredAuthorization, StoredIntent
from syncworker.store.calls import CallRow
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.failures import StoreRefusedError
from syncworker.store.runs import ANNOUNCED_WITHIN
from syncworker.store.tokens import NewToken
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind

AGE_MAX: Final = timedelta(minutes=10)
"""A redirect that comes later than this after its PAR is refused."""

USER_REF_LENGTH: Final = 128
STATE_LENGTH: Final = 128
VERIFIER_BYTES: Final = 64
"""Random bytes of a `code_verifier`: 86 characters of base64url, within the 43 to 128 of RFC 7636."""

INTENT_BYTES: Final = 32
"""Random bytes of an intent's id: 43 characters of base64url."""

INTENT_LENGTH: Final = 64
INTENT_LIFE: Final = timedelta(hours=24)
"""How long a link may wait for its user."""

RETURN_URL_LENGTH: Final = 2048

SAME_CLICK: Final = timedelta(seconds=10)
"""An intent opened again within this time is a double click and gets the request pushed for the first.

Later on a new one is pushed, though the old `request_uri` may still live: it is good for one visit of the bank's page,
and a user who comes back here has probably been there.
"""

LOOK_AFTER: Final = timedelta(minutes=2)
"""A consent whose redirect was taken is looked at after this time, unless its tokens came home before."""

SETTLED_WITHIN: Final = timedelta(minutes=30)
"""So long after its PAR an authorisation has ended, its exchange and the wait for an absent database included."""

ASTRAY_FOR: Final = timedelta(days=1)
"""The last look at a consent whose user did not come back comes so long after its PAR."""

EXCHANGE_WAIT_S: Final = 20.0
"""How long a user is kept waiting for a place among the LFI's calls; after that they are asked to try again."""

NOT_HELD: Final = "agreed_and_not_held"
"""Audit: the user may have agreed, and no tokens came home; the consent is revoked."""

OPENINGS_MAX: Final = 50
"""Requests pushed for one intent: whoever holds a link cannot keep a bank busy with it."""

log = structlog.stdlib.get_logger(__name__)


class Ending(StrEnum):
    """How an authorisation ended, or why a redirect was not taken."""

    AUTHORIZED = "authorized"
    """Tokens came home; the consent may still await further authorisers."""
    DECLINED = "declined"
    """The user or the LFI said no."""
    UNKNOWN_STATE = "unknown_state"
    USED = "used"
    TOO_OLD = "too_old"
    WRONG_ISSUER = "wrong_issuer"
    CODE_REFUSED = "code_refused"
    """`invalid_grant`: the code is too old, used, or not ours."""
    CODE_UNANSWERED = "code_unanswered"
    """The exchange got no definite answer; a code is good once, so the user has to begin again."""
    UNKNOWN_INTENT = "unknown_intent"
    INTENT_EXPIRED = "intent_expired"
    """The link was opened too late."""
    INTENT_COMPLETED = "intent_completed"
    """Its consent is home already; a second one of the same intent is revoked."""
    OPENED_TOO_OFTEN = "opened_too_often"
    FAILED = "failed"
    """The exchange was refused or its answer does not hold, for a reason our operator or the LFI has to mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationStarted:
    """A request the LFI took.

    Attributes:
        url: for the user to open, once, before `expires_at`; it carries the `request_uri`, so it is not logged.
        state: comes back with the redirect; whoever serves the user's browser binds it to that browser.
        request: what the user is asked for.
    """

    consent_id: ConsentId
    request: ConsentRequest
    url: str = field(repr=False)
    expires_at: datetime
    state: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A consent whose first tokens are stored.

    Attributes:
        status: as the Hub says; `AwaitingAuthorization` while further authorisers are asked; `Revoked` where it was
            revoked here meanwhile.
    """

    consent_id: ConsentId
    connection_id: ConsentId
    lfi: Slug
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Intended:
    """An authorisation that begins when its user opens it.

    Attributes:
        intent_id: random, part of the link; whoever knows it may open it, so it is not logged.
        request: what the user is asked for.
        expires_at: the link's end.
    """

    intent_id: str = field(repr=False)
    lfi: Slug
    user_ref: str | None
    request: ConsentRequest
    return_url: str | None = field(default=None, repr=False)
    expires_at: datetime

    @property
    def connection_id(self) -> ConsentId | None:
        """Of the connection that is renewed; `None` for a new one."""
        return self.request.connection_id or self.request.base_consent_id


class Authorizer:
    """Begins and completes authorisations.  Lives on one event loop; `drain()` it before the loop ends.

    Args:
        clients: gives the client of an LFI.
        clock: the one the clients use.
        events_url: where the events of each new consent are to be sent; `None`: no event is asked for.
        token_due: when the first token is refreshed by schedule; `None` schedules nothing.
        sleep: waits between tries to store.
        store_patience: seconds to go on trying to store what was answered.
        checkpoint: as in `Vault`: `code-used`, `answer-received`, `answer-stored`.
        on_call: is told each HTTP call made.
        allowed: whom we may call at all.
    """

    def __init__(
        self,
        store: Store,
        clients: Clients,
        clock: Clock,
        *,
        token_due: TokenDue | None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        store_patience: float = 600.0,
        checkpoint: Callable[[str], Awaitable[None] | None] = no_checkpoint,
        on_call: OnCall = untold,
        allowed: Allowed = EVERYBODY,
        events_url: str | None = None,
    ) -> None:
        self._store = store
        self._clients = clients
        self._clock = clock
        self._token_due = token_due
        self._events_url = events_url
        self._storing = Storing(patience=store_patience, sleep=sleep)
        self._checkpoint = checkpoint
        self._on_call = on_call
        self._allowed = allowed

    async def begin(
        self, lfi: Slug, request: ConsentRequest, *, user_ref: str | None = None, version: Version | None = None
    ) -> AuthorizationStarted:
        """Push a request for consent and give the address for the user to open.

        Args:
            user_ref: the product's opaque id of its customer; the root ConsentId when not given.
            version: of the standard; when not given, the highest that the LFI is declared for and its discovery
                document lists.

        Raises:
            RequestError: the request is one the Hub would refuse, in this version at least; names field and fix.
            NotAllowedError: the LFI or the customer is outside the allow-lists.
            SetupError: the LFI is not known, does not know us, or offers no version it is declared for.
            RefusedError, TransientError, StandardViolationError: the LFI did not take it.
        """
        return await self._begin(lfi, request, user_ref=user_ref, version=version)

    async def intend(
        self,
        lfi: Slug,
        request: ConsentRequest,
        *,
        user_ref: str | None = None,
        version: Version | None = None,
        return_url: str | None = None,
        life: timedelta = INTENT_LIFE,
    ) -> Intended:
        """Write down what a user is to be asked for; nothing is sent before they `open` it.

        Args:
            request: its `consent_id` is not used: each opening asks for a new one.
            user_ref, version: as for `begin`.
            return_url: where the product wants its user back; whether it may be sent there is the caller's to check.
            life: of the link.

        Raises:
            RequestError: the request is one the Hub would refuse, or does not fit the connection it renews.
            NotAllowedError: the LFI or the customer is outside the allow-lists.
            SetupError: the LFI is not known.
        """
        self._check(request, "-" if user_ref is None else user_ref, version)
        self._allowed.check(lfi, user_ref)
        config = (await self._client(lfi, version)).config
        self._check_at(config, request, version or highest(config.base_urls))
        connection = await self._joined(lfi, request, user_ref)
        if connection is not None:
            request = replace(request, connection_id=connection.connection_id)
        if return_url is not None and len(return_url) > RETURN_URL_LENGTH:
            raise RequestError(f"return_url: is longer than {RETURN_URL_LENGTH} characters")

        async def step(unit: UnitOfWork) -> StoredIntent:
            at = await unit.now()
            row = StoredIntent(
                intent_id=_intent_id(),
                lfi=lfi,
                user_ref=user_ref,
                version=version,
                request=request,
                return_url=return_url,
                created_at=at,
                expires_at=at + life,
            )
            await unit.intents.add(row)
            return row

        return _intended(await self._store.atomically(step))

    async def open(self, intent_id: str) -> AuthorizationStarted:
        """Push the request of an intent, now that its user is there, and give the address to send them to.

        A double click gets the same request; a user who comes back later gets a new one, with a ConsentId of its own.

        Raises:
            AuthorizationFailedError: there is nothing to open; `cause` is `UNKNOWN_INTENT`, `INTENT_EXPIRED`,
                `INTENT_COMPLETED` or `OPENED_TOO_OFTEN`.
            and those of `begin`.
        """
        intent, earlier, now = await self._intent(intent_id)
        if earlier is not None and earlier.request_uri is not None and now < earlier.created_at + SAME_CLICK:
            client = await self._clients(intent.lfi)
            return AuthorizationStarted(
                consent_id=earlier.consent_id,
                request=replace(intent.request, consent_id=earlier.consent_id),
                url=await client.authorization_url(earlier.request_uri.get_secret_value()),
                expires_at=earlier.expires_at,
                state=earlier.state,
            )
        if intent.opened >= OPENINGS_MAX:
            raise _unopened(Ending.OPENED_TOO_OFTEN, f"was opened {intent.opened} times; begin a new one")
        return await self._begin(
            intent.lfi, intent.request, user_ref=intent.user_ref, version=intent.version, intent_id=intent_id
        )

    async def _begin(
        self,
        lfi: Slug,
        request: ConsentRequest,
        *,
        user_ref: str | None,
        version: Version | None,
        intent_id: str | None = None,
    ) -> AuthorizationStarted:
        connection = await self._joined(lfi, request, user_ref)
        connection_id = request.consent_id if connection is None else connection.connection_id
        user_ref = connection_id if user_ref is None else user_ref
        self._check(request, user_ref, version)
        self._allowed.check(lfi, user_ref)
        client = await self._client(lfi, version)
        discovery = await client.discovery()
        version = _version(lfi, discovery, (version,) if version else tuple(client.config.base_urls))
        self._check(request, user_ref, version, offered=client.config.base_urls)
        self._check_at(client.config, request, version)

        verifier = SecretStr(secrets.token_urlsafe(VERIFIER_BYTES))
        state, nonce = str(uuid.uuid4()), str(uuid.uuid4())
        details = authorization_details(request, version=version, events_url=self._events_url)
        pushed = await client.push_authorization(
            details,
            state=state,
            nonce=nonce,
            code_challenge=code_challenge(verifier),
            calls=lambda call: self._on_call(lfi, request.consent_id, call),
        )
        row = StoredAuthorization(
            state=state,
            consent_id=request.consent_id,
            lfi=lfi,
            version=version,
            user_ref=user_ref,
            issuer=discovery.issuer,
            nonce=nonce,
            code_verifier=verifier,
            request_uri=SecretStr(pushed.request_uri),
            request=details,
            created_at=self._clock.now(),
            expires_at=pushed.expires_at,
            intent_id=intent_id,
            connection_id=connection_id,
        )
        await self._store.atomically(lambda unit: self._add(unit, row))
        url = await client.authorization_url(pushed.request_uri)
        log.info("authorisation begun", lfi=lfi, consent_id=request.consent_id)
        return AuthorizationStarted(
            consent_id=request.consent_id, request=request, url=url, expires_at=pushed.expires_at, state=state
        )

    async def complete(self, redirect_url: str) -> Completed:
        """Take the redirect a user came back with, and bring home the tokens.

        A redirect that is not ours changes nothing.  One that declined is filed with the status the Hub gives.  While
        the code cannot be sent, nothing is used up, and the same redirect may be taken again.

        Args:
            redirect_url: the whole URL, or its query.

        Raises:
            AuthorizationFailedError: it brings no consent; `cause` is an `Ending` (or `redirect_unreadable`).
            SetupError, RefusedError, StandardViolationError: the exchange was refused, or its answer does not hold.
            TransientError: the LFI cannot be called now; the redirect is unused, unless it says 429 to the exchange.
            StoreUnavailableError: the database was away before the exchange, or stayed away after it.
        """
        redirect = read_redirect(redirect_url)
        row, verifier = await self._checked(redirect)
        self._allowed.check(row.lfi, row.user_ref)
        client = await self._clients(row.lfi)
        if redirect.code is None:
            raise await self._declined(client, row, redirect)
        keys = await _ready(client)
        at = self._clock.now()
        exchange = announced(row.lfi, row.consent_id, interaction_id=new_interaction_id(at), at=at)
        await self._use(row, Ending.FAILED, exchange=exchange)  # until we know better; the code is never sent twice
        await self._reach("code-used")
        async with self._filing(exchange) as made:
            try:
                answer = await client.exchange_code(
                    redirect.code,
                    code_verifier=verifier,
                    nonce=row.nonce,
                    calls=made.append,
                    keys=keys,
                    interaction_id=exchange.interaction_id,
                )
            except GrantLostError as error:
                raise await self._ended(row, Ending.CODE_REFUSED, error.lfi_reason) from error
            except LFIUnavailableError as error:
                raise await self._ended(row, Ending.CODE_UNANSWERED, error.lfi_reason) from error
            except SyncWorkerError as error:
                await self._ended(row, Ending.FAILED, error.lfi_reason)
                raise
            await self._reach("answer-received")
            completed = await self._kept(row, answer)
            await self._reach("answer-stored")
        if completed is None:
            raise _failed(row, Ending.INTENT_COMPLETED, "redirect: its intent was completed before")
        if answer.consent is None and completed.status != Status.Revoked:
            completed = await self._asked(client, completed, row.version)
        log.info("authorisation completed", lfi=row.lfi, consent_id=row.consent_id, status=completed.status)
        return completed

    async def astray(self, consent_id: ConsentId) -> tuple[datetime | None, str]:
        """See to a consent we asked for whose redirect never came; says when to look again, and what was done.

        Nothing is held of it, and nothing is filed while the Hub shows it undecided.  In use there, it is one the user
        agreed to and that nobody holds: it is filed, and revoked.

        Raises:
            TransientError, RefusedError, StandardViolationError, SetupError: the Hub gave no answer.
        """
        async with self._store.reading() as unit:
            row, now = await unit.authorizations.of(consent_id), await unit.now()
        if row is None:
            return None, "erased"
        if now < row.created_at + SETTLED_WITHIN:
            return row.created_at + SETTLED_WITHIN, "under_way"
        self._allowed.check(row.lfi, row.user_ref)
        view = await self._read(await self._clients(row.lfi), row)
        if view.status in IN_USE:

            async def step(unit: UnitOfWork) -> None:
                at = await unit.now()
                await self._file(unit, row, view, at)
                await _give_up(unit, row, "astray", at=at)

            await self._store.atomically(step)
            return now, "not_held"
        last = row.created_at + ASTRAY_FOR
        return (last if now < last else None), "never_came"

    async def with_everything(
        self, lfi: Slug, request: ConsentRequest, *, version: Version | None = None
    ) -> tuple[Version, ConsentRequest]:
        """A request with every permission we can read an LFI with, in the words of the version it would be made in.

        Args:
            request: its permissions are not looked at.
            version: as for `begin`.

        Raises:
            RequestError: another of its terms is one the Hub would refuse; nothing was asked of the LFI.
            NotAllowedError: the LFI is outside the allow-lists.
            SetupError, TransientError, StandardViolationError: as `begin`.
        """
        self._check(replace(request, permissions=readable(version or min(Version))), "-")
        self._allowed.check(lfi)
        client = await self._client(lfi, version)
        declared = (version,) if version else tuple(client.config.base_urls)
        chosen = _version(lfi, await client.discovery(), declared)
        return chosen, replace(request, permissions=readable(chosen, published=client.config.published_in(chosen)))

    async def drain(self) -> None:
        """Wait until what was answered is stored."""
        await self._storing.drain()

    # -- begin --------------------------------------------------------------------------------------------------------

    def _check(
        self,
        request: ConsentRequest,
        user_ref: str,
        version: Version | None = None,
        *,
        offered: Collection[Version] = tuple(Version),
    ) -> None:
        faults = request.faults(now=self._clock.now(), version=version, offered=offered)
        if not 1 <= len(user_ref) <= USER_REF_LENGTH or not user_ref.isprintable():
            faults.append(f"user_ref: must be 1 to {USER_REF_LENGTH} printable characters")
        if faults:
            raise RequestError("; ".join(faults))

    def _check_at(self, config: LFIConfig, request: ConsentRequest, version: Version | None) -> None:
        """See that an LFI takes a request: what it declares to support, in a version's words.

        Raises:
            RequestError: names each field, and what the LFI or the version takes.
        """
        faults = request.unsaid(version=version, offered=config.base_urls) or accounts.unsupported(
            request.account_types,
            request.account_sub_types,
            by_types=config.account_types,
            by_sub_types=config.account_sub_types,
        )
        if faults:
            raise RequestError("; ".join(faults))

    async def _client(self, lfi: Slug, version: Version | None) -> LFIClient:
        """The client of an LFI, which must be declared for the version if one is wished for."""
        client = await self._clients(lfi)
        if version is not None and version not in client.config.base_urls:
            raise RequestError(f"version: {lfi} declares no base URL for {version.value}; add it to base_urls")
        return client

    async def _intent(self, intent_id: str) -> tuple[StoredIntent, StoredAuthorization | None, datetime]:
        """An intent that may be opened, the request pushed for it last, and the time."""
        readable = len(intent_id) <= INTENT_LENGTH and intent_id.isascii() and intent_id.isprintable()
        async with self._store.reading() as unit:
            intent = await unit.intents.get(intent_id) if readable else None
            earlier = None
            if intent is not None and intent.consent_id is not None:
                earlier = await unit.authorizations.of(intent.consent_id)
            now = await unit.now()
        if intent is None:
            raise _unopened(Ending.UNKNOWN_INTENT, "is not one of ours")
        if intent.completed_at is not None:
            raise _unopened(Ending.INTENT_COMPLETED, "was completed; its consent is home")
        if now >= intent.expires_at:
            raise _unopened(Ending.INTENT_EXPIRED, "has expired; begin a new one")
        return intent, earlier, now

    async def _joined(self, lfi: Slug, request: ConsentRequest, user_ref: str | None) -> Connection | None:
        """The connection a request joins, of the same user at the same LFI; `None`: it begins one.

        Raises:
            RequestError: there is no such connection, or it is another user's.
        """
        base, named = request.base_consent_id, request.connection_id
        if base is None and named is None:
            return None
        field = "connection_id" if base is None else "base_consent_id"
        async with self._store.reading() as unit:
            found = None
            if base is not None:
                found = await unit.consents.connection_of(base)
            elif named is not None:
                found = await unit.consents.connection(named)
            root = None if base is None else await unit.consents.get(base)
        if found is None or found.lfi != lfi or (root is not None and root.base_consent_id is not None):
            raise RequestError(f"{field}: is not the root ConsentId of a connection at this LFI")
        if named is not None and named != found.connection_id:
            raise RequestError("connection_id: is not the connection base_consent_id belongs to")
        if user_ref is not None and user_ref not in (found.user_ref, found.connection_id):
            raise RequestError(f"user_ref: is not that of the connection {field} names")
        return found

    async def _add(self, unit: UnitOfWork, row: StoredAuthorization) -> None:
        """File the request in database time: its age decides, in whichever process the redirect arrives."""
        at = await unit.now()
        shift = at - self._clock.now()
        await unit.authorizations.add(replace(row, created_at=at, expires_at=row.expires_at + shift))
        await unit.work.schedule(WorkKind.CONSENT, row.consent_id, lfi=row.lfi, due_at=at + SETTLED_WITHIN)
        if row.intent_id is not None:
            await unit.intents.pushed(row.intent_id, consent_id=row.consent_id)

    # -- complete -----------------------------------------------------------------------------------------------------

    async def _checked(self, redirect: Redirect) -> tuple[StoredAuthorization, SecretStr]:
        row = await self._row(redirect.state)
        if row is None:
            raise AuthorizationFailedError("redirect: its state is not one of ours", cause=Ending.UNKNOWN_STATE)
        if row.used_at is not None:
            raise _failed(row, Ending.USED, "redirect: was used before")
        async with self._store.reading() as unit:
            intent = None if row.intent_id is None else await unit.intents.get(row.intent_id)
            now = await unit.now()
        agreed = redirect.code is not None
        if now - row.created_at > AGE_MAX or row.code_verifier is None:
            await self._use(row, Ending.TOO_OLD, give_up=agreed)
            raise _failed(row, Ending.TOO_OLD, "redirect: came too late; begin again")
        if redirect.issuer != row.issuer:  # the genuine one may still come; if it does not, `astray` sees to it
            raise _failed(row, Ending.WRONG_ISSUER, "redirect: iss is not the issuer the request was pushed to")
        if agreed and intent is not None and intent.completed_at is not None:
            await self._use(row, Ending.INTENT_COMPLETED, give_up=True)
            raise _failed(row, Ending.INTENT_COMPLETED, "redirect: its intent was completed before")
        return row, row.code_verifier

    async def _row(self, state: str) -> StoredAuthorization | None:
        if len(state) > STATE_LENGTH or not state.isprintable():
            return None
        async with self._store.reading() as unit:
            return await unit.authorizations.get(state)

    async def _use(
        self,
        row: StoredAuthorization,
        ending: Ending,
        *,
        give_up: bool = False,
        reason: str = "",
        exchange: CallRow | None = None,
    ) -> None:
        """Use the authorisation up, once, whoever else tries at the same time, and file what it asked for.

        Args:
            exchange: the row of the token call that follows, in doubt until it says how it went.
            reason: the LFI's words about it, cleaned.
            give_up: the user agreed, and it ends here.
        """

        async def step(unit: UnitOfWork) -> bool:
            at = await unit.now()
            if not await unit.authorizations.use(row.state, at=at, outcome=ending.value, reason=reason):
                return False
            await self._file(unit, row, None, at)
            await unit.work.schedule(WorkKind.CONSENT, row.consent_id, lfi=row.lfi, due_at=at + LOOK_AFTER)
            if exchange is not None:
                unit.with_commit(unit.runs.adding([exchange]))
            if give_up:
                await _give_up(unit, row, ending.value, at=at)
            return True

        if not await self._store.atomically(step):
            raise _failed(row, Ending.USED, "redirect: was used before")

    @asynccontextmanager
    async def _filing(self, exchange: CallRow) -> AsyncIterator[list[Call]]:
        """File how an exchange went, in the place of its row in doubt, when its tokens are stored or it has failed.

        Should this process end before, the row in doubt stays.  What cannot be filed costs no tokens.

        Args:
            exchange: the row in doubt; taken back when no call was made.
        """
        made: list[Call] = []
        try:
            yield made
        finally:
            rows = [free_call(exchange.lfi, ConsentId(exchange.consent_id), call) for call in made]

            async def step(unit: UnitOfWork) -> None:
                if rows:
                    await unit.runs.settle(rows, apart=ANNOUNCED_WITHIN)
                else:
                    await unit.runs.withdraw(exchange)

            try:
                await self._store.atomically(step)
            except SyncWorkerError as error:
                log.warning("token call not filed", consent_id=exchange.consent_id, error=error.code)

    async def _ended(self, row: StoredAuthorization, ending: Ending, reason: str) -> AuthorizationFailedError:
        """No tokens came home; the consent the user agreed to is given up."""

        async def step(unit: UnitOfWork) -> None:
            await unit.authorizations.settle(row.state, outcome=ending.value, reason=reason)
            await _give_up(unit, row, ending.value, at=await unit.now())

        await self._store.atomically(step)
        return _failed(row, ending, f"authorisation: {ending.value}; begin again").saying(reason)

    async def _declined(
        self, client: LFIClient, row: StoredAuthorization, redirect: Redirect
    ) -> AuthorizationFailedError:
        """File the refusal, and the consent with the status the Hub gives it."""
        reason = redirect.error_description or ""
        await self._use(row, Ending.DECLINED, reason=reason)
        failed = _failed(row, Ending.DECLINED, f"authorisation: declined ({redirect.error})").saying(reason)
        try:
            view = await self._read(client, row)
        except SyncWorkerError as error:  # the refusal stands without it, and a look comes
            log.warning("consent not read after a refusal", consent_id=row.consent_id, error=error.code)
            return failed

        async def step(unit: UnitOfWork) -> None:
            await self._file(unit, row, view, await unit.now())

        await self._store.atomically(step)
        return failed

    async def _read(self, client: LFIClient, row: StoredAuthorization) -> ConsentView:
        return await client.read_consent(
            row.consent_id, version=row.version, calls=lambda call: self._on_call(row.lfi, row.consent_id, call)
        )

    async def _kept(self, row: StoredAuthorization, answer: TokenAnswer) -> Completed | None:
        """Store everything the answer brought, until the database takes it; `None`: its intent needs it no more."""
        harvest = answer.consent if answer.consent and answer.consent.consent_id == row.consent_id else None

        async def step() -> Completed | None:
            nonlocal harvest
            try:
                return await self._store_all(row, answer, harvest)
            except StoreRefusedError:
                if harvest is None:
                    raise
                harvest = None  # a consent the table will not take must not cost us the tokens beside it
                log.warning("consent of a token answer not stored", consent_id=row.consent_id)
                return await self._store_all(row, answer, None)

        return await self._storing.until_done(step)

    async def _store_all(
        self, row: StoredAuthorization, answer: TokenAnswer, harvest: ConsentView | None
    ) -> Completed | None:
        async with self._store.writing() as unit:
            at = await unit.now()
            wanted = row.intent_id is None or await unit.intents.complete(
                row.intent_id, consent_id=row.consent_id, at=at
            )
            shift = at - self._clock.now()
            new = NewToken(
                access_token=answer.access_token,
                refresh_token=answer.refresh_token,
                issued_at=answer.received_at + shift,
                expires_at=answer.expires_at + shift,
                certificate=answer.certificate,
            )
            consent = await self._file(unit, row, harvest, at)
            ending = Ending.AUTHORIZED if wanted else Ending.INTENT_COMPLETED
            await unit.authorizations.settle(row.state, outcome=ending.value)
            if not wanted:
                await _give_up(unit, row, ending.value, at=at)
            elif not consent.terminal and consent.revoke_asked_at is None:
                await unit.tokens.put_first(row.consent_id, new)
                due = self._token_due and self._token_due(row.consent_id, new.issued_at, new.expires_at)
                await unit.work.schedule(WorkKind.TOKEN, row.consent_id, lfi=row.lfi, due_at=due or NEVER)
                await unit.work.schedule(WorkKind.SYNC, consent.connection_id, lfi=row.lfi, due_at=at)
                await unit.work.schedule(WorkKind.CONSENT, row.consent_id, lfi=row.lfi, due_at=at)
            await unit.commit()
        if not wanted:
            return None
        status = consent.status if consent.revoke_asked_at is None else Status.Revoked.value
        return Completed(consent_id=row.consent_id, connection_id=consent.connection_id, lfi=row.lfi, status=status)

    async def _file(
        self, unit: UnitOfWork, row: StoredAuthorization, view: ConsentView | None, at: datetime
    ) -> StoredConsent:
        """Connection and consent as they were asked for, then what the Hub shows; harmless the second time."""
        consent = asked_for(row, at=at)
        await unit.consents.add_connection(
            Connection(connection_id=consent.connection_id, lfi=row.lfi, user_ref=row.user_ref, created_at=at)
        )
        await unit.consents.add(consent)
        if view is not None:
            await noted(unit, view, at=at)
        return await unit.consents.get(row.consent_id, lock=True) or consent

    async def _asked(self, client: LFIClient, completed: Completed, version: Version) -> Completed:
        """The status from the Hub, for an LFI whose token answer did not carry it."""
        consent_id = completed.consent_id
        try:
            view = await client.read_consent(
                consent_id, version=version, calls=lambda call: self._on_call(completed.lfi, consent_id, call)
            )
        except SyncWorkerError as error:
            log.warning("consent not read after the exchange", consent_id=consent_id, error=error.code)
            return completed

        async def step(unit: UnitOfWork) -> str:
            await noted(unit, view, at=await unit.now())
            held = await unit.consents.get(consent_id)
            return completed.status if held is None else held.status

        status = await self._store.atomically(step)
        return Completed(consent_id=consent_id, connection_id=completed.connection_id, lfi=completed.lfi, status=status)

    async def _reach(self, name: str) -> None:
        waiting = self._checkpoint(name)
        if waiting is not None:
            await waiting


async def not_held(unit: UnitOfWork, held: StoredConsent) -> StoredAuthorization | None:
    """The authorisation of a consent in use whose tokens never came home and cannot come any more; `None`: not so."""
    if held.status not in IN_USE or held.revoke_asked_at is not None or await unit.tokens.exists(held.consent_id):
        return None
    row = await unit.authorizations.of(held.consent_id)
    if row is None or row.outcome == Ending.AUTHORIZED or await unit.now() < row.created_at + SETTLED_WITHIN:
        return None
    return row


async def give_up_not_held(unit: UnitOfWork, consent_id: ConsentId) -> bool:
    """Have a consent revoked that is `not_held`; commits nothing."""
    held = await unit.consents.get(consent_id, lock=True)
    row = None if held is None else await not_held(unit, held)
    if row is None:
        return False
    await _give_up(unit, row, row.outcome or "astray", at=await unit.now())
    return True


async def _give_up(unit: UnitOfWork, row: StoredAuthorization, ending: str, *, at: datetime) -> None:
    """Have a consent revoked that the user may have agreed to and whose tokens are not ours; commits nothing."""
    held = await unit.consents.get(row.consent_id, lock=True)
    if held is None or held.terminal:
        return
    await unit.consents.note(NOT_HELD, subject=row.consent_id, facts={"ending": ending}, at=at)
    await ordered(unit, row.consent_id, by=Revoker.TPP)


async def _ready(client: LFIClient) -> Any:
    """What an exchange needs beside the code, while a user waits.

    Raises:
        TransientError: not now.
    """
    try:
        async with asyncio.timeout(EXCHANGE_WAIT_S):
            return await client.ready_to_exchange()
    except TimeoutError:
        raise TransientError("exchange: no place among the LFI's calls yet; open the same redirect again") from None


def _version(lfi: Slug, discovery: Discovery, declared: Collection[Version]) -> Version:
    """The highest of these versions that the discovery document lists.

    Raises:
        SetupError: it lists none of them.
    """
    types = discovery.raw.get("authorization_details_types_supported")
    version = highest(declared, types if isinstance(types, list) else None)
    if version is None:
        named = ", ".join(sorted(one.value for one in declared))
        raise SetupError(
            f"lfis.{lfi}.base_urls: declares {named}, but authorization_details_types_supported of the discovery "
            "document lists no such consent; declare a version it lists"
        )
    return version


def asked_for(row: StoredAuthorization, *, at: datetime) -> StoredConsent:
    """The consent as we asked for it, before the Hub has said anything about it."""
    consent = _consent_of(row.request)
    view = read_consent({**consent, "Status": Status.AwaitingAuthorization.value})
    assert view.expires_at is not None
    billing = consent["OpenFinanceBilling"]
    return StoredConsent(
        consent_id=row.consent_id,
        connection_id=row.connection_id or root_of(row.consent_id, view.base_consent_id),
        lfi=row.lfi,
        user_ref=row.user_ref,
        version=row.version,
        status=view.status,
        status_updated_at=None,
        status_seen_at=at,
        permissions=view.permissions,
        expires_at=view.expires_at,
        from_date=view.from_date,
        to_date=view.to_date,
        account_types=view.account_types,
        account_sub_types=view.account_sub_types,
        on_behalf_of=view.on_behalf_of,
        base_consent_id=view.base_consent_id,
        user_type=billing["UserType"],
        purpose=billing["Purpose"],
        created_at=at,
        raw=view.raw,
    )


def _consent_of(details: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    consent = details[0]["consent"]
    assert isinstance(consent, Mapping)
    return consent


def _intent_id() -> str:
    """A random id that no command takes for an option."""
    while (made := secrets.token_urlsafe(INTENT_BYTES)).startswith("-"):
        pass
    return made


def _intended(row: StoredIntent) -> Intended:
    return Intended(
        intent_id=row.intent_id,
        lfi=row.lfi,
        user_ref=row.user_ref,
        request=row.request,
        return_url=row.return_url,
        expires_at=row.expires_at,
    )


def _unopened(ending: Ending, why: str) -> AuthorizationFailedError:
    return AuthorizationFailedError(f"intent: {why}", cause=ending.value)


def _failed(row: StoredAuthorization, ending: Ending, message: str) -> AuthorizationFailedError:
    return AuthorizationFailedError(message, consent_id=row.consent_id, cause=ending.value)
