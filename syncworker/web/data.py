"""`/v1` for data: accounts, balances, transactions and every other list, sync runs, and how the LFIs stand.

Rows are rows of the views of the database, without `tenant`, `key` and the integers beside amounts: a member has the
name that its column has in SQL and in exports (`merchant_name`, no object within the row).  The models of the
description are made from the same columns and their comments, so a new column appears by itself.  Answers are written
straight from the rows; pydantic has no part in it.

An answer says how fresh it is (`freshness`), and has a weak ETag over all of it but the ages.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, create_model

from syncworker.errors import RequestError
from syncworker.schedule.breaker import standing
from syncworker.settings import SLUG, LFISettings
from syncworker.standard.calendar import as_utc, fault_of_day
from syncworker.standard.json_text import json_bytes
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.api_keys import Scope
from syncworker.store.reads import Condition, Containing
from syncworker.store.runs import FiledRun
from syncworker.store.sql_views import Kind
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.sync.decode import json_of
from syncworker.views import past, questions
from syncworker.views.freshness import Freshness, StaleReason
from syncworker.views.pages import cursor_text, filter_digest, read_cursor
from syncworker.views.questions import (
    LIMIT,
    LIMIT_MAX,
    LISTINGS,
    TRANSACTIONS_MAX,
    Listing,
    Order,
    Targets,
    TransactionFilter,
    Whose,
)
from syncworker.web import problems
from syncworker.web.guard import Keys, Principal, demand
from syncworker.web.problems import Fault, bad_request

PREFIX: Final = "/v1"
TAGS: Final = ("data",)

Lfis = Callable[[], Awaitable[Mapping[Slug, LFISettings]]]
"""Gives the LFIs that are declared."""

ID_LENGTH: Final = 128
CURSOR_LENGTH: Final = 1024

Id = Annotated[str, StringConstraints(min_length=1, max_length=ID_LENGTH, pattern=r"^[\x21-\x7e]+$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
Word = Annotated[str, StringConstraints(min_length=1, max_length=40, pattern=r"^[^\x00-\x1f\x7f]+$")]
SlugText = Annotated[str, StringConstraints(pattern=SLUG)]
Amount = Annotated[Decimal, Field(max_digits=18, decimal_places=5)]
Cursor = Annotated[str, StringConstraints(min_length=1, max_length=CURSOR_LENGTH), Field(description="next_cursor of the page before.")]  # fmt: skip  # noqa: E501
AsOf = Annotated[AwareDatetime, Field(description="What was known at this instant, which must lie before now.")]


# -- what is asked ---------------------------------------------------------------------------------------------------


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WhoseAsked(_Asked):
    """Whose rows; each that is given narrows them."""

    user_ref: Annotated[Text | None, Field(description="Your id of the user.")] = None
    connection_id: Id | None = None
    account_id: Annotated[Id | None, Field(description="acc_…, as accounts have it.")] = None
    lfi: Annotated[SlugText | None, Field(description="Slug of the LFI.")] = None

    @property
    def whose(self) -> Whose:
        return Whose(user_ref=self.user_ref, connection_id=self.connection_id, account_id=self.account_id, lfi=self.lfi)


class _RowsAsked(WhoseAsked):
    include: Annotated[
        Literal["raw"] | None, Field(description="raw: each item as the LFI sent it; needs the scope data:raw.")
    ] = None


class PageAsked(_RowsAsked):
    """One page of a list."""

    cursor: Cursor | None = None
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = LIMIT


class NewestAsked(PageAsked):
    """One page of a list that has a newest."""

    order: Annotated[Order, Field(description="By id, or the newest first.")] = Order.ID


class HistoryAsked(WhoseAsked):
    """One page of the balances that were."""

    order: Annotated[Order, Field(description="By id, or the newest first.")] = Order.NEWEST
    cursor: Cursor | None = None
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = LIMIT


class AccountsAsked(PageAsked):
    """One page of accounts."""

    as_of: AsOf | None = None


class BalancesAsked(_RowsAsked):
    """The latest balances of a user, a connection or an account."""

    as_of: AsOf | None = None


class TransactionsAsked(_RowsAsked):
    """Which transactions, and in which order."""

    from_date: Annotated[date | None, Field(description="Booked on this date in the UAE, or later.")] = None
    to_date: Annotated[date | None, Field(description="Booked on this date in the UAE, or earlier.")] = None
    status: Annotated[Word | None, Field(description="Booked, Pending …, as the LFI sent it.")] = None
    direction: Literal["Credit", "Debit"] | None = None
    amount_min: Annotated[Amount | None, Field(description="Signed: a Debit is negative.")] = None
    amount_max: Annotated[Amount | None, Field(description="Signed: a Debit is negative.")] = None
    currency: Annotated[str | None, StringConstraints(pattern="^[A-Z]{3}$")] = None
    text: Annotated[
        Text | None,
        Field(
            description="Part of the information, the merchant's or the counterparty's name; without the scope "
            "data:personal of the merchant's alone."
        ),
    ] = None
    order: Annotated[Order, Field(description="The newest first, or by id.")] = Order.NEWEST
    cursor: Cursor | None = None
    limit: Annotated[int, Field(ge=1, le=TRANSACTIONS_MAX)] = LIMIT
    as_of: AsOf | None = None

    @property
    def filter(self) -> TransactionFilter:
        names = ("from_date", "to_date", "status", "direction", "amount_min", "amount_max", "currency", "text")
        return TransactionFilter(**{name: getattr(self, name) for name in names})


class RunsAsked(_Asked):
    """Which sync runs, newest first."""

    connection_id: Id | None = None
    cursor: Cursor | None = None
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = LIMIT


# -- what is answered ------------------------------------------------------------------------------------------------


class FreshnessOut(BaseModel):
    """How old what is shown of one listing is, and why it is older than it should be."""

    checked_at: datetime | None = Field(description="When we last saw the listing whole, changed or not.")
    changed_at: datetime | None = Field(description="When it last differed.")
    age_seconds: int | None = Field(description="Since checked_at; null: it was never seen whole.")
    stale: bool = Field(description="Older than its cadence times the margin of the settings (`[freshness] margin`).")
    stale_reason: StaleReason | None
    next_due_at: datetime | None
    complete_from: date | None = Field(description="Rows are complete from this date in the UAE on.")
    history_complete: bool
    error: str | None = Field(description="Stable code of the last fault.")


class TotalOut(BaseModel):
    """Balances of one type and one currency, added up."""

    type: str
    currency: str
    amount: str = Field(description="Exact decimal, signed.")
    accounts: int = Field(description="In the sum.")
    missing: int = Field(description="Accounts asked for that have no such balance.")
    stale: int = Field(description="Accounts in the sum whose balances are older than they should be.")


class IdentifierOut(BaseModel):
    """One number of an account."""

    scheme: str | None = Field(description="IBAN, AccountNumber, MaskedPAN …")
    identification: str | None = Field(description="Masked without the scope data:personal.")
    name: str | None = Field(description="Null without the scope data:personal.")


class LeftOutOut(BaseModel):
    """A connection of the user whose rows are held back."""

    connection_id: str
    reason: str = Field(description="consent_ended: its consent ended; renew the connection.")
    since: datetime


class RunOut(BaseModel):
    """One sync run."""

    run_id: int
    connection_id: str
    consent_id: str
    lfi: str
    started_at: datetime
    ended_at: datetime
    outcome: str = Field(description="ok, unchanged, partial or failed.")
    error: str | None = Field(description="Stable code of what ended it.")
    calls: int
    pages: int
    pages_unchanged: int
    added: int
    modified: int
    removed: int


class RunsOut(BaseModel):
    """Sync runs, newest first."""

    runs: list[RunOut]
    next_cursor: str | None


class LFIOut(BaseModel):
    """One LFI and how it stands."""

    lfi: str = Field(description="Slug.")
    name: str = Field(description="As the directory has it; the slug where it does not say.")
    versions: list[str] = Field(description="Of the standard.")
    state: Literal["open", "gated", "down"] = Field(
        description="gated: it asked for fewer calls (429); down: it does not answer. Calls for data wait."
    )
    since: datetime | None
    until: datetime | None = Field(description="When calls for data go out again.")
    reason: str | None = Field(description="Stable code of what it is down for.")


class LFIsOut(BaseModel):
    """Every LFI that is declared."""

    lfis: list[LFIOut]


_TYPES: Final[Mapping[Kind, Any]] = {
    Kind.TEXT: str,
    Kind.AMOUNT: str,
    Kind.INTEGER: int,
    Kind.INSTANT: datetime,
    Kind.DATE: date,
    Kind.FLAG: bool,
    Kind.JSON: Any,
}
_FRESHNESS: Final = Field(description="By account_id, a connection's own listings by connection_id; then by listing.")
_NEXT: Final = Field(description="Give it as `cursor` to go on; null at the end.")


@cache
def row_model(view: str) -> type[BaseModel]:
    """The shape of a row, as `questions.shown` makes it."""
    said = questions.comments(view)
    fields: dict[str, Any] = {
        name: (_TYPES[kind] | None, Field(description=said[name])) for name, kind in questions.members(view).items()
    }
    if view == LISTINGS["accounts"].view:
        fields["identifiers"] = (list[IdentifierOut] | None, Field(description="Null for another time (`as_of`)."))
    name = "".join(part.capitalize() for part in view.removeprefix("v_").split("_"))
    fields["raw"] = (
        dict[str, Any] | None,
        Field(default=None, description="The item as sent; with include=raw alone."),
    )
    made: type[BaseModel] = create_model(f"{name}Row", **fields)
    made.__doc__ = f"One row of `{view}`."
    return made


@cache
def page_model(name: str) -> type[BaseModel]:
    """The shape of a page of a list."""
    listing = LISTINGS[name]
    fields: dict[str, Any] = {name: (list[row_model(listing.view)], ...)}  # type: ignore[misc]
    if name == "balances":
        fields["totals"] = (list[TotalOut], ...)
    else:
        fields["next_cursor"] = (str | None, _NEXT)
    fields["left_out"] = (
        list[LeftOutOut],
        Field(description="With user_ref: connections of the user that have no row here, since their consent ended."),
    )
    fields["freshness"] = (dict[str, dict[str, FreshnessOut]], _FRESHNESS)
    made: type[BaseModel] = create_model("".join(part.capitalize() for part in name.split("_")) + "Out", **fields)
    made.__doc__ = f"Rows of {name} and how fresh they are."
    return made


# -- the routes ------------------------------------------------------------------------------------------------------


def routes(*, store: Store, keys: Keys, targets: Targets, lfis: Lfis) -> APIRouter:
    """The routes for data.

    Args:
        targets: how old a listing of each resource may grow; what is older is stale.
    """
    router = APIRouter(
        prefix=PREFIX,
        tags=list(TAGS),
        responses={**problems.REFUSALS, 304: {"description": "What `if-none-match` names is what there is."}},
        route_class=keys.route_class(reads=True),
    )
    reads = Annotated[Principal, Depends(keys.needs(Scope.DATA_READ))]

    async def listed(
        request: Request,
        principal: Principal,
        listing: Listing,
        asked: _RowsAsked | HistoryAsked,
        *,
        where: Sequence[Condition | Containing] = (),
        as_of: datetime | None = None,
    ) -> Response:
        """One page of a list."""
        raw = getattr(asked, "include", None) is not None
        personal = _sees(request, principal, raw=raw)
        at: dict[str, Any] = {
            "order": getattr(asked, "order", Order.ID),
            "cursor": asked.cursor,  # type: ignore[union-attr]
            "limit": asked.limit,  # type: ignore[union-attr]
        }
        async with _opened(store, as_of) as unit:
            if as_of is None:
                page = await questions.page(unit, listing, asked.whose, targets=targets, where=where, **at)
            else:
                page = await past.page(unit, listing, asked.whose, at=as_utc(as_of), where=where, **at)
            shown = await questions.shown_rows(
                unit, listing, page.rows, personal=personal, raw=_as_sent if raw else None
            )
        body = {listing.name: shown, "left_out": _left_out(page), "next_cursor": page.next_cursor}
        return answered(request, body, page.freshness)

    @router.get("/accounts", response_model=page_model("accounts"))
    async def accounts(request: Request, principal: reads, asked: Annotated[AccountsAsked, Query()]) -> Response:
        """Accounts, by id."""
        return await listed(request, principal, LISTINGS["accounts"], asked, as_of=asked.as_of)

    @router.get("/balances", response_model=page_model("balances"))
    async def balances(request: Request, principal: reads, asked: Annotated[BalancesAsked, Query()]) -> Response:
        """The latest balances of a user, a connection or an account, and their sums by type and currency.

        Three times: `as_of_bank` is when the LFI says the balance was so, `checked_at` when we last saw it,
        `changed_at` when it last differed.
        """
        raw = asked.include is not None
        personal = _sees(request, principal, raw=raw)
        listing = LISTINGS["balances"]
        async with _opened(store, asked.as_of) as unit:
            if asked.as_of is None:
                found = await questions.balances(unit, asked.whose, targets=targets)
            else:
                found = await past.balances(unit, asked.whose, at=as_utc(asked.as_of))
            page = found.page
            shown = await questions.shown_rows(
                unit, listing, page.rows, personal=personal, raw=_as_sent if raw else None
            )
        totals = [asdict(one) for one in found.totals]
        return answered(request, {"balances": shown, "totals": totals, "left_out": _left_out(page)}, page.freshness)

    @router.get("/balances/history", response_model=page_model("balance_history"))
    async def history(request: Request, principal: reads, asked: Annotated[HistoryAsked, Query()]) -> Response:
        """Each balance at each DateTime that a sync saw, newest first."""
        return await listed(request, principal, LISTINGS["balance_history"], asked)

    @router.get("/transactions", response_model=page_model("transactions"))
    async def transactions(
        request: Request, principal: reads, asked: Annotated[TransactionsAsked, Query()]
    ) -> Response:
        """Transactions, newest first; those without a booking date come last."""
        _check_days(asked)
        personal = _sees(request, principal, raw=asked.include is not None)
        where = asked.filter.conditions(personal=personal)
        return await listed(request, principal, LISTINGS["transactions"], asked, where=where, as_of=asked.as_of)

    def plain(name: str, said: str) -> None:
        """A list that is asked for by whose rows they are alone."""
        listing = LISTINGS[name]

        if listing.newest is None:

            async def by_id(request: Request, principal: reads, asked: Annotated[PageAsked, Query()]) -> Response:
                return await listed(request, principal, listing, asked)
        else:

            async def by_id(request: Request, principal: reads, asked: Annotated[NewestAsked, Query()]) -> Response:  # type: ignore[misc]
                return await listed(request, principal, listing, asked)

        path = f"/{name.replace('_', '-')}"
        router.get(path, response_model=page_model(name), name=name, description=said)(by_id)

    plain("beneficiaries", "Beneficiaries, by id.")
    plain("direct_debits", "Direct debits, by id.")
    plain("standing_orders", "Standing orders, by id.")
    plain("scheduled_payments", "Scheduled payments, by id.")
    plain("statements", "Statements, by id or newest first.")
    plain("products", "Products of accounts, by id.")
    plain("parties", "Parties of accounts, and the users who consented (account_id null), by id.")

    @router.get("/runs", response_model=RunsOut)
    async def runs(request: Request, _: reads, asked: Annotated[RunsAsked, Query()]) -> Response:
        """Sync runs, newest first: outcomes and counts.  Those of a connection whose consent ended too."""
        check_repeated(request)
        digest = filter_digest("runs", {"connection_id": asked.connection_id})
        before = None if asked.cursor is None else _number(read_cursor(asked.cursor, digest))
        connection_id = None if asked.connection_id is None else ConsentId(asked.connection_id)
        async with store.reading() as unit:
            if connection_id is not None and not await unit.reads.connections(connection_id=connection_id, limit=1):
                raise questions.UnknownError("connection_id: there is no such connection")
            found = await unit.runs.find(connection_id=connection_id, before=before, limit=asked.limit + 1)
        page = found[: asked.limit]
        following = cursor_text(digest, [page[-1].id]) if len(found) > asked.limit else None
        return answered(request, {"runs": [_run(one) for one in page], "next_cursor": following}, None)

    @router.get("/lfis", response_model=LFIsOut)
    async def every_lfi(request: Request, _: reads) -> Response:
        """Every LFI that is declared, and whether its calls are held back."""
        declared = await lfis()
        async with store.reading() as unit:
            found = await _lfis(unit, declared)
        return answered(request, {"lfis": found}, None)

    return router


# -- how an answer is made -------------------------------------------------------------------------------------------

AGES: Final = ("age_seconds",)
"""What an ETag is not made over: it differs with every request."""


def answered(
    request: Request, body: Mapping[str, Any], fresh: Mapping[str, Mapping[str, Freshness]] | None
) -> Response:
    """The answer with its weak ETag, or 304 where the request names it.

    Args:
        fresh: `None`: an answer that has no freshness.
    """
    parts = {name: msgspec.Raw(json_bytes(value)) for name, value in body.items()}
    hashed = hashlib.blake2b(digest_size=16)
    for name, part in parts.items():
        hashed.update(name.encode() + b"=" + bytes(part) + b"\n")
    if fresh is not None:
        said = {name: {resource: one.as_json() for resource, one in of.items()} for name, of in fresh.items()}
        aged = {
            name: {
                resource: {key: value for key, value in one.items() if key not in AGES} for resource, one in of.items()
            }
            for name, of in said.items()
        }
        hashed.update(json_bytes(aged))
        parts["freshness"] = msgspec.Raw(json_bytes(said))
    etag = f'W/"{hashed.hexdigest()}"'
    if _named(request.headers.getlist("if-none-match"), etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"etag": etag})
    return Response(json_bytes(parts), media_type="application/json", headers={"etag": etag})


def _named(headers: Sequence[str], etag: str) -> bool:
    """Whether `If-None-Match` names an ETag, by the weak comparison (RFC 9110 §8.8.3.2, §13.1.2)."""
    names = [one.strip() for header in headers for one in header.split(",")]
    return "*" in names or etag.removeprefix("W/") in {one.removeprefix("W/") for one in names}


def _as_sent(item: bytes) -> msgspec.Raw:
    """A row's item within an answer, exactly as the LFI sent it."""
    return msgspec.Raw(json_of(item))


def _left_out(page: questions.Page) -> list[dict[str, Any]]:
    return [one.as_json() for one in page.left_out]


def _opened(store: Store, as_of: datetime | None) -> AbstractAsyncContextManager[UnitOfWork]:
    """For what is known now there is no transaction around the reads; the past is read in one."""
    return store.looking() if as_of is None else store.reading()


def _sees(request: Request, principal: Principal, *, raw: bool) -> bool:
    """Whether the request's key sees who people are.

    Raises:
        Problem: items are asked for without leave to see them, or a parameter comes twice.
    """
    check_repeated(request)
    if raw:
        demand(principal, Scope.DATA_RAW)
    return principal.may(Scope.DATA_PERSONAL) or principal.may(Scope.DATA_RAW)


def check_repeated(request: Request) -> None:
    """A filter given twice would be half ignored."""
    names = [name for name, _ in request.query_params.multi_items()]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(names) > len(set(names)) else []
    if twice:
        raise bad_request(*(Fault(name, "is given more than once; give it once") for name in twice))


def _check_days(asked: TransactionsAsked) -> None:
    given = {"from_date": asked.from_date, "to_date": asked.to_date}
    faults = [Fault(name, fault) for name, day in given.items() if day is not None and (fault := fault_of_day(day))]
    if faults:
        raise bad_request(*faults)


def _number(place: Sequence[Any]) -> int:
    if len(place) != 1 or type(place[0]) is not int:
        raise RequestError("cursor: is none of this list's; begin without a cursor")
    return place[0]


def _run(filed: FiledRun) -> dict[str, Any]:
    one = filed.run
    names = [name for name in RunOut.model_fields if name != "run_id"]
    return {"run_id": filed.id, **{name: getattr(one, name) for name in names}}


async def _lfis(unit: UnitOfWork, declared: Mapping[Slug, LFISettings]) -> list[dict[str, Any]]:
    now = await unit.now()
    gates, breakers = await unit.lfis.gates_known(), await unit.breakers.all()
    names = {one.slug: (one.directory or {}).get("name") for one in await unit.lfis.list()}
    found = []
    for slug, one in sorted(declared.items()):
        gate, breaker = gates.get(slug), breakers.get((slug, OperationClass.DATA))
        stands = standing(gate, breaker, now=now)
        state, since = "open", None
        if stands.until is not None:
            state = "gated" if stands.gated else "down"
            since = (gate and gate.closed_at) if stands.gated else (breaker and breaker.opened_at)
        found.append(
            {
                "lfi": slug,
                "name": str(names.get(slug) or slug),
                "versions": sorted(version.value for version in one.base_urls),
                "state": state,
                "since": since,
                "until": stands.until,
                "reason": stands.reason if stands.until is not None else None,
            }
        )
    return found
