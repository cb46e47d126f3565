"""`/v1/refreshes`: have data read now, and hear how that ended.

What a customer's session says goes from the body into the sealed row and nowhere else: no refusal repeats it.
"""

import asyncio
import ipaddress
from collections.abc import Callable
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import AwareDatetime, BaseModel, Field, SecretStr, StringConstraints, field_validator

from syncworker.refreshes import Asked, PartShown, Refreshes, Refusal, Shown, Stage
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.api_keys import Scope
from syncworker.store.refreshes import Customer, Wish
from syncworker.web import problems
from syncworker.web.api import CONSENT_ID_LENGTH, PREFIX, Body, Text, UserRef
from syncworker.web.guard import Keys, Principal
from syncworker.web.problems import Code, Fault, Problem, bad_request, not_found

WAIT_MAX_S: Final = 20
MAX_AGE_MAX_S: Final = 366 * 24 * 3600
USER_AGENT_LENGTH: Final = 512
IDEMPOTENCY_KEY_LENGTH: Final = 128
RETRY_AFTER_S: Final = 5

log = structlog.stdlib.get_logger(__name__)

Wait = Annotated[
    int, Query(ge=0, le=WAIT_MAX_S, description="Answer once it has ended, at most so many seconds from now.")
]


class CustomerAsked(Body):
    """The session of the customer who is present and asks for this refresh; leave it out in the background."""

    ip_address: Annotated[str, Field(max_length=45, repr=False, description="The customer's: an IPv4 or IPv6 literal.")]
    auth_date: Annotated[AwareDatetime, Field(repr=False, description="When the customer last logged in with you.")]
    user_agent: Annotated[
        str | None,
        Field(
            max_length=USER_AGENT_LENGTH,
            pattern=r"^[!-~]([ -~]*[!-~])?$",
            repr=False,
            description="The customer's, not yours: printable ASCII.",
        ),
    ] = None

    @field_validator("ip_address")
    @classmethod
    def _is_address(cls, text: str) -> str:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise ValueError("is no IP literal; give the customer's IPv4 or IPv6 address") from None
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            raise ValueError("has a zone; give the address without it")
        return str(address)


class RefreshAsked(Body):
    """What is to be read now: of one connection, of one account, or of all connections in use of a user."""

    connection_id: Annotated[
        str | None, StringConstraints(min_length=1, max_length=CONSENT_ID_LENGTH, pattern=r"^[!-~]+$")
    ] = None
    user_ref: Annotated[UserRef | None, Field(description="In place of `connection_id`.")] = None
    account_id: Annotated[
        Text | None,
        Field(description="Only this account: acc_…, as accounts have it.  It names its connection by itself."),
    ] = None
    resources: Annotated[
        list[ResourceName] | None,
        Field(min_length=1, max_length=len(ResourceName), description="Absent: all that the consent opens."),
    ] = None
    max_age: Annotated[
        int | None,
        Field(
            ge=0,
            le=MAX_AGE_MAX_S,
            description="Seconds: listings that were read since then are not read again.  Absent: all are read.",
        ),
    ] = None
    customer: CustomerAsked | None = None


class ListingOut(BaseModel):
    """One listing that was wanted."""

    account_id: str | None = Field(
        description="acc_…; null for a listing of the connection, and for an account of which no row was ever written."
    )
    lfi_account_id: str | None = Field(description="The LFI's id of it.  Null for a listing of the connection.")
    resource: str
    outcome: str = Field(
        description="refreshed, unchanged, young (not read: younger than `max_age`), absent (the account has no such "
        "thing), partial (some of it could not be read), failed."
    )
    reason: str | None = Field(description="Why it is not complete, as for the connection; or not_permitted.")
    error: str | None = Field(description="Stable code of what went wrong.")
    retry_at: datetime | None


class ConnectionRefreshOut(BaseModel):
    """How a refresh stands at one connection."""

    connection_id: str
    status: Stage
    joined: bool
    run_id: int | None = Field(description="Number of the run that served it.")
    reason: str | None = Field(
        description="Why it is not complete, or what it waits for: paused, suspended, expired, revoked, needs_consent, "
        "refused, lfi_down, gated, incomplete, setup, parked, late."
    )
    error: str | None
    retry_at: datetime | None = Field(description="When time may have mended it.")
    ended_at: datetime | None
    listings: list[ListingOut] = Field(description="Empty before the end, and where no run came.")


class RefreshOut(BaseModel):
    """How a refresh stands."""

    refresh_id: str
    status: Stage = Field(description="complete: every listing was read, is young, or is absent; partial: some.")
    attended: bool = Field(description="The LFI was told that the customer is present.")
    joined: bool = Field(description="Another refresh waited for the same run already.")
    created_at: datetime
    ended_at: datetime | None
    connections: list[ConnectionRefreshOut]


class Hurry:
    """Asks for a tick of the workers, one at a time: however many refreshes come, what is asked for is claimed soon."""

    def __init__(self, publish: Callable[[], object]) -> None:
        self._publish = publish
        self._going: asyncio.Task[None] | None = None
        self._again = False

    def __call__(self) -> None:
        self._again = True
        if self._going is None or self._going.done():
            self._going = asyncio.create_task(self._go(), name="hurry")

    async def close(self) -> None:
        """Ask no more."""
        self._again = False
        if self._going is not None:
            await asyncio.gather(self._going, return_exceptions=True)

    async def _go(self) -> None:
        while self._again:
            self._again = False
            try:
                await asyncio.to_thread(self._publish)
            except Exception as error:  # noqa: BLE001  without a broker the next tick finds what is due
                log.debug("no tick asked for", error=type(error).__name__)


def routes(refreshes: Refreshes, *, keys: Keys, hurry: Callable[[], None]) -> APIRouter:
    """The routes.

    Args:
        hurry: is called when a refresh was filed.
    """
    router = APIRouter(prefix=PREFIX, responses=problems.REFUSALS, route_class=keys.route_class())
    writes = Annotated[Principal, Depends(keys.needs(Scope.REFRESHES_WRITE))]

    @router.post("/refreshes", status_code=HTTPStatus.CREATED, tags=["refreshes"])
    async def ask(
        principal: writes,
        asked: RefreshAsked,
        response: Response,
        wait: Wait = 0,
        idempotency_key: Annotated[
            str | None,
            Header(
                min_length=1,
                max_length=IDEMPOTENCY_KEY_LENGTH,
                pattern=r"^[!-~]+$",
                description="For 24 hours the same key of the same API key stands for this refresh.",
            ),
        ] = None,
    ) -> RefreshOut:
        """Have data read now.  Refreshes of a connection that wait for the same run share it."""
        _check(asked)
        filed = await refreshes.ask(_asked(principal, asked, idempotency_key))
        if isinstance(filed, Refusal):
            raise _refused(filed)
        hurry()
        shown = await refreshes.wait(filed, within_s=wait)
        assert shown is not None
        response.headers["location"] = f"{PREFIX}/refreshes/{filed}"
        return _out(shown)

    @router.get("/refreshes/{refresh_id}", tags=["refreshes"])
    async def refresh(_: writes, refresh_id: str, wait: Wait = 0) -> RefreshOut:
        """How a refresh stands."""
        shown = await refreshes.wait(refresh_id, within_s=wait)
        if shown is None:
            raise not_found("refresh")
        return _out(shown)

    return router


def _check(asked: RefreshAsked) -> None:
    if asked.account_id is not None and asked.user_ref is not None:
        raise bad_request(Fault("account_id", "is one account of one connection; leave user_ref out"))
    if asked.account_id is None and (asked.connection_id is None) == (asked.user_ref is None):
        raise bad_request(Fault("connection_id", "give either connection_id, account_id or user_ref"))


def _asked(principal: Principal, asked: RefreshAsked, idempotency_key: str | None) -> Asked:
    customer = asked.customer
    return Asked(
        key_id=principal.key_id,
        connection_id=None if asked.connection_id is None else ConsentId(asked.connection_id),
        user_ref=asked.user_ref,
        account_id=asked.account_id,
        wish=Wish(
            resources=None if asked.resources is None else frozenset(asked.resources),
            max_age=None if asked.max_age is None else timedelta(seconds=asked.max_age),
        ),
        customer=None
        if customer is None
        else Customer(ip=customer.ip_address, auth_date=customer.auth_date, user_agent=customer.user_agent),
        idempotency_key=None if idempotency_key is None else SecretStr(idempotency_key),
    )


def _refused(why: Refusal) -> Problem:
    match why:
        case Refusal.NO_CONNECTION:
            return not_found("connection", name="connection_id")
        case Refusal.NO_USER:
            return not_found("connection", name="user_ref")
        case Refusal.NO_ACCOUNT:
            return not_found("account", name="account_id")
        case Refusal.ENDED:
            return Problem(
                status=HTTPStatus.CONFLICT,
                code=Code.WRONG_STATE,
                detail="sharing has ended: refresh is not possible",
                fix="ask the user for a new consent: POST /v1/connections/{connection_id}/renew",
            )
        case Refusal.CONFLICT:
            return Problem(
                status=HTTPStatus.CONFLICT,
                code=Code.IDEMPOTENCY_CONFLICT,
                detail="the Idempotency-Key came with another body within the last 24 hours",
                fix="send the same body again, or a new Idempotency-Key",
            )
        case Refusal.TOO_MANY:
            return Problem(
                status=HTTPStatus.TOO_MANY_REQUESTS,
                code=Code.TOO_MANY_REQUESTS,
                detail="too many sessions of the customer wait for a run of their own",
                fix=f"wait {RETRY_AFTER_S} s, or leave `customer` out",
                headers={"retry-after": str(RETRY_AFTER_S)},
            )


def _out(shown: Shown) -> RefreshOut:
    return RefreshOut(
        refresh_id=shown.refresh_id,
        status=shown.stage,
        attended=shown.attended,
        joined=shown.joined,
        created_at=shown.created_at,
        ended_at=shown.ended_at,
        connections=[_connection(one) for one in shown.parts],
    )


def _connection(part: PartShown) -> ConnectionRefreshOut:
    return ConnectionRefreshOut(
        connection_id=part.connection_id,
        status=part.stage,
        joined=part.joined,
        run_id=part.run_id,
        reason=part.reason,
        error=part.error,
        retry_at=part.retry_at,
        ended_at=part.ended_at,
        listings=[
            ListingOut(
                account_id=one["account_id"],
                lfi_account_id=one["lfi_account_id"],
                resource=one["resource"],
                outcome=one["outcome"],
                reason=one.get("reason"),
                error=one.get("error"),
                retry_at=one.get("retry_at"),
            )
            for one in part.listings
        ],
    )
