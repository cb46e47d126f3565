"""Ask a user for a consent, and bring home its first tokens.

`begin` pushes the request (PAR), keeps what the redirect will be checked against, and only then gives the address to
open.  `complete` checks the redirect in the order of `domain.md` §2.4, uses the authorisation up before the code is
exchanged, and stores connection, consent, tokens and work in one transaction before anything else happens.

How an authorisation ends is kept in its row and, where it brings no consent, is the `cause` of an
`AuthorizationFailedError`: the words of `Ending`.

Source: Pushed Authorization Endpoint v2.1-errata2; RFC 7636, 9126, 9207; `domain.md` §2.1 – §2.5, §3, §4.4.
"""

import asyncio
import secrets
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import structlog
from pydantic import SecretStr

from syncworker.clock import Clock
from syncworker.consents.allowed import EVERYBODY, Allowed
from syncworker.consents.lifecycle import NEVER, Clients, OnCall, noted, untold
from syncworker.consents.storing import Storing
from syncworker.consents.tokens import TokenDue, no_checkpoint
from syncworker.errors import (
    AuthorizationFailedError,
    GrantLostError,
    LFIUnavailableError,
    RequestError,
    SetupError,
    SyncWorkerError,
)
from syncworker.lfi.api import LFIClient
from syncworker.lfi.directory import Discovery
from syncworker.lfi.jose import code_challenge
from syncworker.lfi.oauth import Redirect, TokenAnswer, read_redirect
from syncworker.standard.consents import (
    ConsentRequest,
    ConsentView,
    Status,
    authorization_details,
    read_consent,
    root_of,
)
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version, highest
from syncworker.store.authorizations import StoredAuthorization
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.failures import StoreRefusedError
from syncworker.store.tokens import NewToken
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind

AGE_MAX: Final = timedelta(minutes=10)
"""A redirect that comes later than this after its PAR is refused."""

USER_REF_LENGTH: Final = 128
STATE_LENGTH: Final = 128
VERIFIER_BYTES: Final = 64
"""Random bytes of a `code_verifier`: 86 characters of base64url, within the 43 to 128 of RFC 7636."""

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
    FAILED = "failed"
    """The exchange was refused or its answer does not hold, for a reason our operator or the LFI has to mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationStarted:
    """A request the LFI took.

    Attributes:
        url: for the user to open, once, before `expires_at`; it carries the `request_uri`, so it is not logged.
    """

    consent_id: ConsentId
    url: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A consent whose first tokens are stored.

    Attributes:
        status: as the Hub says; `AwaitingAuthorization` while further authorisers are asked.
    """

    consent_id: ConsentId
    connection_id: ConsentId
    lfi: Slug
    status: str


class Authorizer:
    """Begins and completes authorisations.  Lives on one event loop; `drain()` it before the loop ends.

    Args:
        clients: gives the client of an LFI.
        clock: the one the clients use.
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
    ) -> None:
        self._store = store
        self._clients = clients
        self._clock = clock
        self._token_due = token_due
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
        connection_id = root_of(request.consent_id, request.base_consent_id)
        user_ref = connection_id if user_ref is None else user_ref
        self._check(request, user_ref, version)
        self._allowed.check(lfi, user_ref)
        client = await self._clients(lfi)
        if version is not None and version not in client.config.base_urls:
            raise RequestError(f"version: {lfi} declares no base URL for {version.value}; add it to base_urls")
        await self._check_root(lfi, request, user_ref)
        discovery = await client.discovery()
        version = _version(lfi, discovery, (version,) if version else tuple(client.config.base_urls))
        self._check(request, user_ref, version)

        verifier = SecretStr(secrets.token_urlsafe(VERIFIER_BYTES))
        state, nonce = str(uuid.uuid4()), str(uuid.uuid4())
        details = authorization_details(request, version=version)
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
        )
        await self._store.atomically(lambda unit: self._add(unit, row))
        url = await client.authorization_url(pushed.request_uri)
        log.info("authorisation begun", lfi=lfi, consent_id=request.consent_id)
        return AuthorizationStarted(consent_id=request.consent_id, url=url, expires_at=pushed.expires_at)

    async def complete(self, redirect_url: str) -> Completed:
        """Take the redirect a user came back with, and bring home the tokens.

        A redirect that is not ours changes nothing.  One that declined is filed with the status the Hub gives.

        Args:
            redirect_url: the whole URL, or its query.

        Raises:
            AuthorizationFailedError: it brings no consent; `cause` is an `Ending` (or `redirect_unreadable`).
            SetupError, RefusedError, StandardViolationError: the exchange was refused, or its answer does not hold.
            StoreUnavailableError: the database was away before the exchange, or stayed away after it.
        """
        redirect = read_redirect(redirect_url)
        row, verifier = await self._checked(redirect)
        self._allowed.check(row.lfi, row.user_ref)
        client = await self._clients(row.lfi)
        if redirect.code is None:
            raise await self._declined(client, row, redirect)
        await self._use(row, Ending.FAILED)  # until we know better; the code is never sent twice
        await self._reach("code-used")
        try:
            answer = await client.exchange_code(
                redirect.code,
                code_verifier=verifier,
                nonce=row.nonce,
                calls=lambda call: self._on_call(row.lfi, row.consent_id, call),
            )
        except GrantLostError as error:
            raise await self._ended(row, Ending.CODE_REFUSED) from error
        except LFIUnavailableError as error:
            raise await self._ended(row, Ending.CODE_UNANSWERED) from error
        await self._reach("answer-received")
        completed = await self._kept(row, answer)
        await self._reach("answer-stored")
        if answer.consent is None:
            completed = await self._asked(client, completed, row.version)
        log.info("authorisation completed", lfi=row.lfi, consent_id=row.consent_id, status=completed.status)
        return completed

    async def drain(self) -> None:
        """Wait until what was answered is stored."""
        await self._storing.drain()

    # -- begin --------------------------------------------------------------------------------------------------------

    def _check(self, request: ConsentRequest, user_ref: str, version: Version | None = None) -> None:
        faults = request.faults(now=self._clock.now(), version=version)
        if not 1 <= len(user_ref) <= USER_REF_LENGTH or not user_ref.isprintable():
            faults.append(f"user_ref: must be 1 to {USER_REF_LENGTH} printable characters")
        if faults:
            raise RequestError("; ".join(faults))

    async def _check_root(self, lfi: Slug, request: ConsentRequest, user_ref: str) -> None:
        """A successor names the root of a chain we hold, of the same user at the same LFI (trap 10)."""
        if request.base_consent_id is None:
            return
        async with self._store.reading() as unit:
            root = await unit.consents.connection(request.base_consent_id)
        if root is None or root.lfi != lfi:
            raise RequestError("base_consent_id: is not the root ConsentId of a connection at this LFI")
        if user_ref not in (root.user_ref, root.connection_id):
            raise RequestError("user_ref: is not that of the connection base_consent_id names")

    async def _add(self, unit: UnitOfWork, row: StoredAuthorization) -> None:
        """File the request in database time: its age decides, in whichever process the redirect arrives."""
        at = await unit.now()
        shift = at - self._clock.now()
        await unit.authorizations.add(replace(row, created_at=at, expires_at=row.expires_at + shift))

    # -- complete -----------------------------------------------------------------------------------------------------

    async def _checked(self, redirect: Redirect) -> tuple[StoredAuthorization, SecretStr]:
        row = await self._row(redirect.state)
        if row is None:
            raise AuthorizationFailedError("redirect: its state is not one of ours", cause=Ending.UNKNOWN_STATE)
        if row.used_at is not None or row.code_verifier is None:
            raise _failed(row, Ending.USED, "redirect: was used before")
        async with self._store.reading() as unit:
            now = await unit.now()
        if now - row.created_at > AGE_MAX:
            await self._use(row, Ending.TOO_OLD)
            raise _failed(row, Ending.TOO_OLD, "redirect: came too late; begin again")
        if redirect.issuer != row.issuer:
            raise _failed(row, Ending.WRONG_ISSUER, "redirect: iss is not the issuer the request was pushed to")
        return row, row.code_verifier

    async def _row(self, state: str) -> StoredAuthorization | None:
        if len(state) > STATE_LENGTH or not state.isprintable():
            return None
        async with self._store.reading() as unit:
            return await unit.authorizations.get(state)

    async def _use(self, row: StoredAuthorization, ending: Ending) -> None:
        """Use the authorisation up, once, whoever else tries at the same time."""

        async def step(unit: UnitOfWork) -> bool:
            return await unit.authorizations.use(row.state, at=await unit.now(), outcome=ending.value)

        if not await self._store.atomically(step):
            raise _failed(row, Ending.USED, "redirect: was used before")

    async def _ended(self, row: StoredAuthorization, ending: Ending) -> AuthorizationFailedError:
        await self._store.atomically(lambda unit: unit.authorizations.settle(row.state, outcome=ending.value))
        return _failed(row, ending, f"authorisation: {ending.value}; begin again")

    async def _declined(
        self, client: LFIClient, row: StoredAuthorization, redirect: Redirect
    ) -> AuthorizationFailedError:
        """File the refusal, and the consent with the status the Hub gives it."""
        await self._use(row, Ending.DECLINED)
        failed = _failed(row, Ending.DECLINED, f"authorisation: declined ({redirect.error})")
        try:
            view = await client.read_consent(
                row.consent_id,
                version=row.version,
                calls=lambda call: self._on_call(row.lfi, row.consent_id, call),
            )
        except SyncWorkerError as error:  # the refusal stands without it
            log.warning("consent not read after a refusal", consent_id=row.consent_id, error=error.code)
            return failed

        async def step(unit: UnitOfWork) -> None:
            await self._file(unit, row, view, await unit.now())

        await self._store.atomically(step)
        return failed

    async def _kept(self, row: StoredAuthorization, answer: TokenAnswer) -> Completed:
        """Store everything the answer brought, until the database takes it."""
        harvest = answer.consent if answer.consent and answer.consent.consent_id == row.consent_id else None

        async def step() -> Completed:
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

    async def _store_all(self, row: StoredAuthorization, answer: TokenAnswer, harvest: ConsentView | None) -> Completed:
        async with self._store.writing() as unit:
            at = await unit.now()
            shift = at - self._clock.now()
            new = NewToken(
                access_token=answer.access_token,
                refresh_token=answer.refresh_token,
                issued_at=answer.received_at + shift,
                expires_at=answer.expires_at + shift,
                certificate=answer.certificate,
            )
            consent = await self._file(unit, row, harvest, at)
            if not consent.terminal:
                await unit.tokens.put_first(row.consent_id, new)
                due = self._token_due and self._token_due(row.consent_id, new.issued_at, new.expires_at)
                await unit.work.schedule(WorkKind.TOKEN, row.consent_id, lfi=row.lfi, due_at=due or NEVER)
                await unit.work.schedule(WorkKind.SYNC, consent.connection_id, lfi=row.lfi, due_at=at)
            await unit.authorizations.settle(row.state, outcome=Ending.AUTHORIZED.value)
            await unit.commit()
        return Completed(
            consent_id=row.consent_id, connection_id=consent.connection_id, lfi=row.lfi, status=consent.status
        )

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
        connection_id=root_of(row.consent_id, view.base_consent_id),
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


def _failed(row: StoredAuthorization, ending: Ending, message: str) -> AuthorizationFailedError:
    return AuthorizationFailedError(message, consent_id=row.consent_id, cause=ending.value)
