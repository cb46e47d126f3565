"""`/v1` for the product: ask for consents, look at connections, act on them.

Every route asks for a scope, and everything is looked up within the key's tenant: what belongs to another is not found.
An action takes effect here before its answer is sent; a worker tells the Hub.

Source: `domain.md` §4.5; `design.md` §2.
"""

import base64
import binascii
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from syncworker.consents import pausing, revoking
from syncworker.consents.authorize import (
    INTENT_LENGTH,
    RETURN_URL_LENGTH,
    USER_REF_LENGTH,
    Authorizer,
    Ending,
    Intended,
)
from syncworker.consents.renewal import SAME, Renewals, Wishes
from syncworker.errors import RequestError
from syncworker.settings import SLUG
from syncworker.standard.accounts import AccountSubType, AccountType
from syncworker.standard.calendar import as_utc, fault_of_instant, read_iso
from syncworker.standard.consents import ConsentRequest, OnBehalfOf, Purpose, Revoker, UserType
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.api_keys import Scope
from syncworker.store.authorizations import StoredAuthorization, StoredIntent
from syncworker.store.connections import (
    AccountShown,
    Action,
    ConnectionShown,
    ConsentShown,
    Label,
    Place,
    Tab,
)
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.web import problems
from syncworker.web.callbacks import AUTHORIZE_PATH, ReturnURLs
from syncworker.web.guard import Keys, Principal, demand
from syncworker.web.problems import Code, Fault, Problem, bad_request, not_found

PREFIX: Final = "/v1"
PAGE_SIZE: Final = 50
PAGE_SIZE_MAX: Final = 200
PERMISSIONS_MAX: Final = 100
CONSENT_ID_LENGTH: Final = 128
TEXT_LENGTH: Final = 256

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    # what a permission's code begins with, the longer before the shorter
    "Accounts": ("ReadAccounts",),
    "Balances": ("ReadBalances",),
    "Transactions": ("ReadTransactions", "ReadFX"),
    "Statements": ("ReadStatements",),
    "Beneficiaries": ("ReadBeneficiaries",),
    "Regular and scheduled payments": ("ReadStandingOrders", "ReadDirectDebits", "ReadScheduledPayments"),
    "Products and rates": ("ReadProduct",),
    "Personal details": ("ReadParty",),
}
"""How permissions are shown to a user: by what they are about."""

OTHER: Final = "Other"

UserRef = Annotated[str, StringConstraints(min_length=1, max_length=USER_REF_LENGTH, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=TEXT_LENGTH, pattern=r"^[^\x00-\x1f\x7f]+$")]
SlugText = Annotated[str, StringConstraints(pattern=SLUG)]

Declared = Callable[[], Awaitable[Collection[Slug]]]
"""Gives the LFIs a consent can be asked of."""


class Body(BaseModel):
    """The body of a request: an unknown field is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OnBehalfOfAsked(Body):
    """For which other firm the consent is asked for; one member at least."""

    trading_name: Text | None = None
    legal_name: Text | None = None
    identifier_type: Annotated[Literal["Other"] | None, Field(description="Set it with an identifier.")] = None
    identifier: Text | None = None


Kinds = Annotated[tuple[AccountType, ...], Field(min_length=1, max_length=len(AccountType))]
SubKinds = Annotated[tuple[AccountSubType, ...], Field(min_length=1, max_length=len(AccountSubType))]


class ConsentAsked(Body):
    """A consent to ask a user for."""

    lfi: SlugText = Field(description="Slug of the LFI.")
    user_ref: UserRef = Field(description="Your own opaque id of the user; no personal data.")
    permissions: list[str] = Field(min_length=1, max_length=PERMISSIONS_MAX)
    expires_at: AwareDatetime = Field(description="End of the consent, at most 364 days ahead.")
    user_type: UserType = UserType.Retail
    purpose: Purpose = Purpose.AccountAggregation
    from_date: Annotated[date | None, Field(description="First day of transactions shown.")] = None
    to_date: Annotated[date | None, Field(description="Last day of transactions shown.")] = None
    account_types: Annotated[
        Kinds | None, Field(description="Only accounts of these; the LFI must support them. Absent: every kind.")
    ] = None
    account_sub_types: Annotated[
        SubKinds | None,
        Field(
            description="Only accounts of these; spelled as the version asked in spells them (PersonalLoan is Finance "
            "since v2.1). Absent: every kind."
        ),
    ] = None
    on_behalf_of: OnBehalfOfAsked | None = None
    version: Annotated[
        Version | None, Field(description="Of the standard; the highest the LFI offers unless given.")
    ] = None
    return_url: Annotated[
        str | None,
        Field(max_length=RETURN_URL_LENGTH, description="Where your user is sent back to; within `web.return_urls`."),
    ] = None


class RenewalAsked(Body):
    """A successor to ask a user for; what is not given stays as it was, and what is null has no limit."""

    permissions: Annotated[list[str] | None, Field(min_length=1, max_length=PERMISSIONS_MAX)] = None
    expires_at: Annotated[AwareDatetime | None, Field(description="At most 364 days ahead.")] = None
    user_type: UserType | None = None
    purpose: Purpose | None = None
    from_date: Annotated[
        date | None, Field(description="Absent: it moves with the consent (`pin_window`). Null: no limit.")
    ] = None
    to_date: Annotated[date | None, Field(description="As `from_date`.")] = None
    pin_window: Annotated[bool, Field(description="Keep dates that are not given as they are.")] = False
    account_types: Annotated[Kinds | None, Field(description="Null: every kind.")] = None
    account_sub_types: Annotated[SubKinds | None, Field(description="Null: every kind.")] = None
    on_behalf_of: OnBehalfOfAsked | None = None
    version: Annotated[
        Version | None, Field(description="Of the standard; the highest the LFI offers unless given.")
    ] = None
    new_chain: Annotated[
        bool,
        Field(
            description="Name no BaseConsentId: begin a new chain in the same connection. "
            "For a root that is not a UUID at an LFI on v2.1."
        ),
    ] = False
    return_url: Annotated[str | None, Field(max_length=RETURN_URL_LENGTH)] = None

    def wishes(self) -> Wishes:
        """What was given, as a renewal takes it."""
        given = self.model_fields_set
        behalf = None if self.on_behalf_of is None else OnBehalfOf(**self.on_behalf_of.model_dump())
        return Wishes(
            permissions=None if self.permissions is None else tuple(self.permissions),
            expires_at=self.expires_at,
            user_type=self.user_type,
            purpose=self.purpose,
            from_date=self.from_date if "from_date" in given else SAME,
            to_date=self.to_date if "to_date" in given else SAME,
            account_types=self.account_types if "account_types" in given else SAME,
            account_sub_types=self.account_sub_types if "account_sub_types" in given else SAME,
            on_behalf_of=behalf if "on_behalf_of" in given else SAME,
            pin_window=self.pin_window,
            version=self.version,
            new_chain=self.new_chain,
        )


class OnBehalfOfOut(BaseModel):
    """For which other firm a consent was asked for."""

    trading_name: str | None
    legal_name: str | None
    identifier_type: str | None
    identifier: str | None


class AuthorizationOut(BaseModel):
    """An authorisation that begins when its user opens `authorize_url`, once, in their own browser."""

    authorization_id: str
    authorize_url: str
    expires_at: datetime = Field(description="The link's end.")
    lfi: str
    user_ref: str | None
    connection_id: str | None = Field(description="Of the connection that is renewed.")
    permissions: list[str]
    consent_expires_at: datetime
    user_type: str
    purpose: str
    from_date: date | None
    to_date: date | None
    account_types: list[str] | None = Field(description="Null: every kind.")
    account_sub_types: list[str] | None = Field(description="Null: every kind.")
    on_behalf_of: OnBehalfOfOut | None


class AuthorizationState(BaseModel):
    """Where an authorisation stands."""

    authorization_id: str
    state: str = Field(description="intended, opened, completed, expired, or how the last try ended: declined …")
    lfi: str
    user_ref: str | None
    consent_id: str | None = Field(description="Of the request pushed last; each opening asks for a new one.")
    connection_id: str | None
    created_at: datetime
    expires_at: datetime
    completed_at: datetime | None


class PermissionGroup(BaseModel):
    """Permissions about one thing."""

    group: str
    permissions: list[str]


class ConsentOut(BaseModel):
    """One consent, as a user is shown it."""

    consent_id: str
    short_id: str = Field(description="For a screen: f47ac10b...d479.")
    base_consent_id: str | None
    type: str = "Data Sharing"
    version: str
    status: str = Field(description="The Hub's word.")
    label: str = Field(description="What the user reads: Active, Pending, Paused, Suspended, Cancelled …")
    tab: Tab
    needs_consent: str | None = Field(description="Why the user has to consent again.")
    permissions: list[PermissionGroup]
    purpose: str
    user_type: str
    from_date: date | None
    to_date: date | None
    account_types: list[str] | None = Field(description="Only accounts of these; null: every kind.")
    account_sub_types: list[str] | None = Field(description="In the words of its version; null: every kind.")
    on_behalf_of: OnBehalfOfOut | None
    created_at: datetime
    expires_at: datetime
    status_updated_at: datetime | None
    paused_at: datetime | None
    revocation_pending: bool = Field(description="Stopped here, and the Hub has yet to confirm it.")
    revoked_by: str | None
    ended_at: datetime | None


class AccountOut(BaseModel):
    """One connected account."""

    account_id: str | None = Field(description="acc_…, as /v1/accounts has it.")
    lfi_account_id: str = Field(description="The LFI's id of it.")
    account_type: str | None
    account_sub_type: str | None
    currency: str | None
    status: str | None
    nickname: str | None
    iban: str | None = Field(description="Masked, unless `ibans=whole` was asked for with the scope connections:iban.")


class ConnectionOut(BaseModel):
    """One user's connection to one LFI: a chain of consents."""

    connection_id: str
    lfi: str
    lfi_name: str
    user_ref: str
    label: str
    tab: Tab
    actions: list[Action]
    accounts: int = Field(description="How many are connected.")
    last_data_at: datetime | None = Field(description="Date of last data received.")
    created_at: datetime
    consent: ConsentOut = Field(description="The consent of the chain that counts.")


class ConnectionDetail(ConnectionOut):
    """One connection with everything a detail screen shows."""

    connected_accounts: list[AccountOut]
    lineage: list[ConsentOut] = Field(description="The whole chain, oldest first.")


class ConsentDetail(ConsentOut):
    """One consent and where it belongs."""

    connection_id: str
    lfi: str
    lfi_name: str
    user_ref: str


class ConnectionsPage(BaseModel):
    """Connections, newest first."""

    connections: list[ConnectionOut]
    next_cursor: str | None = Field(description="Give it as `cursor` to go on; null at the end.")


class ConnectionsAsked(Body):
    """Which connections."""

    user_ref: UserRef | None = None
    lfi: SlugText | None = None
    state: Annotated[Label | None, Field(description="A label.")] = None
    tab: Tab | None = None
    cursor: Annotated[str, StringConstraints(max_length=512)] | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_SIZE_MAX)] = PAGE_SIZE


class ConnectionAsked(Body):
    """How a connection is shown."""

    ibans: Annotated[
        str | None, Field(pattern="^(masked|whole)$", description="whole needs the scope connections:iban.")
    ] = None


def routes(
    *,
    store: Store,
    authorizer: Authorizer,
    renewals: Renewals,
    keys: Keys,
    declared: Declared,
    return_urls: ReturnURLs,
    public_url: str,
) -> APIRouter:
    """The routes of `/v1`.

    Args:
        public_url: origin at which users' browsers reach us.
    """
    router = APIRouter(prefix=PREFIX, responses=problems.REFUSALS, route_class=keys.route_class())
    reads_consents = Annotated[Principal, Depends(keys.needs(Scope.CONSENTS_READ))]
    writes_consents = Annotated[Principal, Depends(keys.needs(Scope.CONSENTS_WRITE))]
    reads_connections = Annotated[Principal, Depends(keys.needs(Scope.CONNECTIONS_READ))]
    acts = Annotated[Principal, Depends(keys.needs(Scope.CONSENTS_WRITE, Scope.CONNECTIONS_READ))]
    """For what answers with the connection it acted on."""

    def begun(intended: Intended, response: Response) -> AuthorizationOut:
        path = AUTHORIZE_PATH.format(authorization_id=intended.intent_id)
        response.headers["location"] = f"{PREFIX}/authorizations/{intended.intent_id}"
        return AuthorizationOut(
            authorization_id=intended.intent_id,
            authorize_url=f"{public_url}{path}",
            expires_at=intended.expires_at,
            lfi=intended.lfi,
            user_ref=intended.user_ref,
            connection_id=intended.connection_id,
            permissions=list(intended.request.permissions),
            consent_expires_at=intended.request.expires_at,
            user_type=intended.request.user_type,
            purpose=intended.request.purpose,
            from_date=intended.request.from_date,
            to_date=intended.request.to_date,
            account_types=_listed(intended.request.account_types),
            account_sub_types=_listed(intended.request.account_sub_types),
            on_behalf_of=_behalf(intended.request.on_behalf_of),
        )

    def check_return(url: str | None) -> None:
        why = None if url is None else return_urls.fault(url)
        if why is not None:
            raise bad_request(Fault("return_url", why))

    async def shown(connection_id: str) -> tuple[ConnectionShown, Sequence[ConsentShown]]:
        found = None
        if _is_id(connection_id):
            async with store.reading() as unit:
                found = await unit.connections.get(ConsentId(connection_id))
        if found is None:
            raise not_found("connection")
        return found

    async def acted(
        connection_id: str, action: Action, step: Callable[[UnitOfWork, ConsentId], Awaitable[Any]]
    ) -> Chain:
        """Do something to a connection whose state allows it, and show it as it is then.

        What was shown may be old by then: a step looks for itself which consents there are.
        """
        one, _ = await shown(connection_id)
        _check_action(one, action)
        try:
            await store.atomically(lambda unit: step(unit, one.connection_id))
        except RequestError as error:  # it moved meanwhile
            raise _wrong_state(str(error), action) from None
        return await shown(connection_id)

    @router.post("/consents", status_code=HTTPStatus.CREATED, tags=["authorisations"])
    async def ask(_: writes_consents, asked: ConsentAsked, response: Response) -> AuthorizationOut:
        """Ask for a consent: nothing is sent to the LFI before the user opens `authorize_url`."""
        check_return(asked.return_url)
        known = await declared()
        if asked.lfi not in known:
            raise bad_request(Fault("lfi", f"is not declared; give one of {', '.join(sorted(known)) or '(none)'}"))
        request = ConsentRequest(
            permissions=tuple(asked.permissions),
            expires_at=asked.expires_at,
            user_type=asked.user_type,
            purpose=asked.purpose,
            from_date=asked.from_date,
            to_date=asked.to_date,
            account_types=asked.account_types,
            account_sub_types=asked.account_sub_types,
            on_behalf_of=None if asked.on_behalf_of is None else OnBehalfOf(**asked.on_behalf_of.model_dump()),
        )
        intended = await authorizer.intend(
            Slug(asked.lfi), request, user_ref=asked.user_ref, version=asked.version, return_url=asked.return_url
        )
        return begun(intended, response)

    @router.get("/authorizations/{authorization_id}", tags=["authorisations"])
    async def authorization(_: reads_consents, authorization_id: str) -> AuthorizationState:
        """Where an authorisation stands."""
        intent, pushed = None, None
        if _is_id(authorization_id, length=INTENT_LENGTH):
            async with store.reading() as unit:
                intent = await unit.intents.get(authorization_id)
                if intent is not None and intent.consent_id is not None:
                    pushed = await unit.authorizations.of(intent.consent_id)
                now = await unit.now()
        if intent is None:
            raise not_found("authorisation")
        return _authorization(intent, pushed, now)

    @router.get("/consents/{consent_id}", tags=["consents"])
    async def consent(_: reads_consents, consent_id: str) -> ConsentDetail:
        """One consent."""
        chain = None
        if _is_id(consent_id):
            async with store.reading() as unit:
                held = await unit.consents.get(ConsentId(consent_id))
                chain = held and await unit.connections.get(held.connection_id)
        if not chain:
            raise not_found("consent")
        of, lineage = chain
        one = next(one for one in lineage if one.consent_id == consent_id)
        return ConsentDetail(
            **_consent(one).model_dump(),
            connection_id=of.connection_id,
            lfi=of.lfi,
            lfi_name=of.lfi_name,
            user_ref=of.user_ref,
        )

    @router.get("/connections", tags=["connections"])
    async def connections(
        request: Request, _: reads_connections, asked: Annotated[ConnectionsAsked, Query()]
    ) -> ConnectionsPage:
        """Connections, newest first, a page at a time."""
        _check_repeated(request)
        async with store.reading() as unit:
            found = await unit.connections.page(
                user_ref=asked.user_ref,
                lfi_slug=None if asked.lfi is None else Slug(asked.lfi),
                label=asked.state,
                tab=asked.tab,
                after=None if asked.cursor is None else _place(asked.cursor),
                limit=asked.limit + 1,
            )
        page = found[: asked.limit]
        return ConnectionsPage(
            connections=[ConnectionOut(**_connection(one)) for one in page],
            next_cursor=_cursor(page[-1]) if len(found) > asked.limit else None,
        )

    @router.get("/connections/{connection_id}", tags=["connections"])
    async def connection(
        principal: reads_connections, connection_id: str, asked: Annotated[ConnectionAsked, Query()]
    ) -> ConnectionDetail:
        """One connection: its accounts, its permissions, its chain of consents.

        Once sharing has ended its IBANs are masked, whatever is asked for.
        """
        whole = asked.ibans == "whole"
        if whole:
            demand(principal, Scope.CONNECTIONS_IBAN)
        one, lineage = await shown(connection_id)
        async with store.reading() as unit:
            accounts = await unit.connections.accounts(one, whole_ibans=whole)
        return ConnectionDetail(
            **_connection(one),
            connected_accounts=[_account(account) for account in accounts],
            lineage=[_consent(consent) for consent in lineage],
        )

    @router.post("/connections/{connection_id}/pause", tags=["connections"])
    async def pause(_: acts, connection_id: str) -> ConnectionOut:
        """Stop all calls for now; ours alone, the LFI is not told."""
        one, _lineage = await acted(connection_id, Action.PAUSE, pausing.pause_all)
        return ConnectionOut(**_connection(one))

    @router.post("/connections/{connection_id}/reactivate", tags=["connections"])
    async def reactivate(_: acts, connection_id: str) -> ConnectionOut:
        """Let a paused connection go on, without asking the user again."""
        one, _lineage = await acted(connection_id, Action.REACTIVATE, pausing.resume_all)
        return ConnectionOut(**_connection(one))

    @router.post("/connections/{connection_id}/stop", tags=["connections"])
    async def stop(_: acts, connection_id: str) -> ConnectionOut:
        """Stop sharing, for good: no call from now on, the tokens are destroyed; a worker tells the Hub.

        Every consent of the chain that still lives is revoked, as `TPP.InitiatedByUser`.
        """

        one, _lineage = await acted(connection_id, Action.STOP, partial(revoking.ordered_all, by=Revoker.TPP_USER))
        return ConnectionOut(**_connection(one))

    @router.post("/connections/{connection_id}/renew", status_code=HTTPStatus.CREATED, tags=["connections"])
    async def renew(
        _: writes_consents, connection_id: str, response: Response, asked: RenewalAsked | None = None
    ) -> AuthorizationOut:
        """Ask for a successor: same connection, same history; the old consent ends when the new one is authorised."""
        asked = asked or RenewalAsked()
        check_return(asked.return_url)
        one, _lineage = await shown(connection_id)
        _check_action(one, Action.RENEW)
        try:
            intended = await renewals.renew(one.connection_id, asked.wishes(), return_url=asked.return_url)
        except RequestError as error:
            if str(error).startswith("consent_id: "):  # the chain is at fault, not what was asked for
                raise _wrong_state(str(error).removeprefix("consent_id: "), Action.RENEW) from None
            raise
        return begun(intended, response)

    return router


Chain = tuple[ConnectionShown, Sequence[ConsentShown]]
"""A connection and its consents, oldest first."""


def grouped(permissions: Sequence[str]) -> list[PermissionGroup]:
    """Permissions by what they are about, in the order a user reads them; a code nobody knows is among the others."""
    found: dict[str, list[str]] = {name: [] for name in (*GROUPS, OTHER)}
    for code in permissions:
        group = next((name for name, begins in GROUPS.items() if code.startswith(begins)), OTHER)
        found[group].append(code)
    return [PermissionGroup(group=name, permissions=codes) for name, codes in found.items() if codes]


def short_id(consent_id: str) -> str:
    """`f47ac10b...d479`; a short id as it is."""
    return f"{consent_id[:8]}...{consent_id[-4:]}" if len(consent_id) > 15 else consent_id


def _authorization(intent: StoredIntent, pushed: StoredAuthorization | None, now: datetime) -> AuthorizationState:
    if intent.completed_at is not None:
        state = "completed"
    elif pushed is not None and pushed.outcome is not None and pushed.outcome != Ending.AUTHORIZED:
        state = pushed.outcome
    elif now >= intent.expires_at:
        state = "expired"
    else:
        state = "intended" if pushed is None else "opened"
    root = intent.request.connection_id or intent.request.base_consent_id
    return AuthorizationState(
        authorization_id=intent.intent_id,
        state=state,
        lfi=intent.lfi,
        user_ref=intent.user_ref,
        consent_id=intent.consent_id,
        connection_id=root or (intent.consent_id if intent.completed_at else None),
        created_at=intent.created_at,
        expires_at=intent.expires_at,
        completed_at=intent.completed_at,
    )


def _connection(one: ConnectionShown) -> dict[str, Any]:
    return {
        "connection_id": one.connection_id,
        "lfi": one.lfi,
        "lfi_name": one.lfi_name,
        "user_ref": one.user_ref,
        "label": one.consent.label,
        "tab": one.consent.tab,
        "actions": list(one.consent.actions),
        "accounts": one.accounts,
        "last_data_at": one.last_data_at,
        "created_at": one.created_at,
        "consent": _consent(one.consent),
    }


def _consent(one: ConsentShown) -> ConsentOut:
    return ConsentOut(
        consent_id=one.consent_id,
        short_id=short_id(one.consent_id),
        base_consent_id=one.base_consent_id,
        version=one.version,
        status=one.status,
        label=one.label,
        tab=one.tab,
        needs_consent=one.needs_consent,
        permissions=grouped(one.permissions),
        purpose=one.purpose,
        user_type=one.user_type,
        from_date=one.from_date,
        to_date=one.to_date,
        account_types=_listed(one.account_types),
        account_sub_types=_listed(one.account_sub_types),
        on_behalf_of=_behalf(one.on_behalf_of),
        created_at=one.created_at,
        expires_at=one.expires_at,
        status_updated_at=one.status_updated_at,
        paused_at=one.paused_at,
        revocation_pending=one.revoke_asked_at is not None and one.ended_at is None,
        revoked_by=one.revoked_by,
        ended_at=one.ended_at,
    )


def _account(one: AccountShown) -> AccountOut:
    return AccountOut(
        account_id=one.account_id,
        lfi_account_id=one.lfi_account_id,
        account_type=one.account_type,
        account_sub_type=one.account_sub_type,
        currency=one.currency,
        status=one.status,
        nickname=one.nickname,
        iban=one.iban,
    )


def _listed(words: Sequence[str] | None) -> list[str] | None:
    return None if words is None else list(words)


def _behalf(of: OnBehalfOf | None) -> OnBehalfOfOut | None:
    return None if of is None else OnBehalfOfOut(**asdict(of))


def _check_action(one: ConnectionShown, action: Action) -> None:
    if action not in one.consent.actions:
        raise _wrong_state(f"the connection is {one.consent.label}", action)


def _wrong_state(why: str, action: Action) -> Problem:
    return Problem(
        status=HTTPStatus.CONFLICT,
        code=Code.WRONG_STATE,
        detail=f"{why}: {action.value} is not possible",
        fix="read the connection again; its `actions` are those that are possible",
    )


def _check_repeated(request: Request) -> None:
    """A filter given twice would be half ignored."""
    twice = repeated(name for name, _ in request.query_params.multi_items())
    if twice:
        raise bad_request(*(Fault(name, "is given more than once; give it once") for name in twice))


def repeated(names: Iterable[str]) -> list[str]:
    """Those that are there more than once, sorted; each is looked at once, since strangers say how many there are."""
    return sorted(name for name, times in Counter(names).items() if times > 1)


def _is_id(text: str, *, length: int = CONSENT_ID_LENGTH) -> bool:
    """Whether an id of ours could look so; whatever else came with the path never reaches the database."""
    return 1 <= len(text) <= length and text.isascii() and text.isprintable()


def _cursor(one: ConnectionShown) -> str:
    place = json.dumps([one.created_at.isoformat(), one.connection_id])
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _place(cursor: str) -> Place:
    """Where the page before ended.

    Raises:
        Problem: the cursor is none of ours.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        at, connection_id = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        created_at = as_utc(read_iso(at))  # a naive one is none of ours
        ours = _is_id(connection_id) and not fault_of_instant(created_at)
    except (binascii.Error, ValueError, TypeError, RecursionError):
        ours = False
    if not ours:
        raise bad_request(Fault("cursor", "is none of ours; give next_cursor of the page before, or none to begin"))
    return Place(created_at, connection_id)
