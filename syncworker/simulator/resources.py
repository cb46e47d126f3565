"""The host rs1: accounts and what lies below them, and the consent resources.  Every answer is the published schema's.

What an account shows is rendered once and kept until the account changes, so the same data is the same bytes.

Sources: Account Information API v2.1-errata2; `domain.md` §5.1 (operations), §6 (headers, errors), §4.2 (consents).
"""

import base64
import binascii
import re
import uuid
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from syncworker.simulator.asgi import JSON, Answer, Request, json_answer
from syncworker.simulator.clock import BankClock
from syncworker.simulator.consents import REVOKERS, Consent, Consents, MoveError
from syncworker.simulator.faults import Fault
from syncworker.simulator.grants import AccessToken, Grants
from syncworker.simulator.identity import thumbprint
from syncworker.simulator.ledger import Account, Ledger
from syncworker.simulator.render import (
    ENCODER,
    account_item,
    account_party_item,
    balance_item,
    instant,
    party_item,
    transaction_item,
)
from syncworker.simulator.requests import is_uuid
from syncworker.standard.consents import Status
from syncworker.standard.permissions import Permission
from syncworker.standard.resources import BY_NAME, RESOURCES, ResourceName
from syncworker.standard.values import local_date
from syncworker.standard.versions import Version

BASE_PATH: Final = f"/open-finance/account-information/{Version.V2_1.value}"
AUTH_DATE: Final = re.compile(
    r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{2} (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4}"
    r" \d{2}:\d{2}:\d{2} (GMT|UTC)"
)
KEPT_MAX: Final = 256
"""Rendered answers kept for one account."""

N = ResourceName
_Permissions = frozenset[Permission]


@dataclass(frozen=True, slots=True)
class _Operation:
    name: str
    method: str
    pattern: re.Pattern[str]
    permissions: _Permissions = frozenset()
    own_token: bool = False
    """Called with client credentials instead of the user's token."""


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(BASE_PATH + path)))


OPERATIONS: Final = (
    *(_Operation(row.name.value, "GET", _pattern(row.path), row.permissions) for row in RESOURCES),
    _Operation("account", "GET", _pattern("/accounts/{AccountId}"), BY_NAME[N.ACCOUNTS].permissions),
    _Operation("consents", "GET", _pattern("/account-access-consents"), own_token=True),
    _Operation("consent", "GET", _pattern("/account-access-consents/{ConsentId}"), own_token=True),
    _Operation("consent_patch", "PATCH", _pattern("/account-access-consents/{ConsentId}"), own_token=True),
)


class RefusalError(Exception):
    """A refusal of the resource server; a body exists for 400, 403 and 500 alone (`domain.md` §6.2)."""

    def __init__(self, status: int, code: str = "", message: str = "", path: str | None = None) -> None:
        super().__init__(f"{status} {code}")
        self.status, self.code, self.message, self.path = status, code, message, path

    def answer(self) -> Answer:
        """The refusal as an answer."""
        if not self.code:
            return Answer(self.status)
        error = {"Code": self.code, "Message": self.message} | ({"Path": self.path} if self.path else {})
        return json_answer({"Errors": [error]}, self.status)


@dataclass(slots=True)
class _Shelf:
    """Rendered parts of one account, good for one version of it."""

    version: int
    rows: list[bytes] = field(default_factory=list)
    days: list[date] = field(default_factory=list)
    """UAE booking dates of the rows, negated order: newest first."""
    bodies: dict[tuple[str, str, date | None, date | None], bytes] = field(default_factory=dict)


class Resources:
    """The resource server of the bank.

    Args:
        base_url: `https://host:port` without a path.
        page_size: items on a page of transactions.
    """

    name = "rs"

    def __init__(
        self,
        *,
        base_url: str,
        page_size: int,
        ledger: Ledger,
        consents: Consents,
        grants: Grants,
        clock: BankClock,
    ) -> None:
        self.page_size = page_size
        self._base_url = base_url
        self._ledger = ledger
        self._consents = consents
        self._grants = grants
        self._clock = clock
        self._shelves: dict[str, _Shelf] = {}

    # -- the way of a request -----------------------------------------------------------------------------------------

    def recognise(self, request: Request) -> None:
        """Find the operation by path, and the consent by token."""
        for operation in OPERATIONS:
            if match := operation.pattern.fullmatch(request.path):
                request.trace.operation = operation.name
                request.parts = {name: unquote(part) for name, part in match.groupdict().items()}
                if operation.method == request.method:
                    break
        trace = request.trace
        trace.account_id = request.parts.get("AccountId")
        trace.interaction_id = request.headers.get("x-fapi-interaction-id")
        trace.attended = "x-fapi-customer-ip-address" in request.headers
        trace.consent_id = request.parts.get("ConsentId")
        token = self._token(request)
        if token is not None:
            trace.consent_id = token.consent_id or trace.consent_id
            trace.token_expires_at = token.expires_at
            trace.token_age_s = round((self._clock.now() - token.issued_at).total_seconds(), 3)
            trace.token_expired = token.expires_at <= self._clock.now()

    async def answer(self, request: Request) -> Answer:
        """Answer an operation; the interaction id is echoed whatever comes out."""
        try:
            answer = self._answer(request)
        except RefusalError as refusal:
            answer = refusal.answer()
        return self._echo(request, answer)

    def refusal(self, request: Request, fault: Fault) -> Answer:
        """An ordered refusal, with a body where the standard has one."""
        code = fault.code if fault.status in (400, 403, 500) else ""
        answer = RefusalError(fault.status, code, "ordered").answer()
        if fault.retry_after is not None:
            answer.headers["Retry-After"] = str(fault.retry_after)
        return self._echo(request, answer)

    def _echo(self, request: Request, answer: Answer) -> Answer:
        answer.headers["x-fapi-interaction-id"] = request.trace.interaction_id or str(uuid.uuid4())
        return answer

    def _answer(self, request: Request) -> Answer:
        operation = self._operation(request)
        _check_headers(request)
        if operation.own_token:
            self._check_own_token(request)
            return self._consent_operation(operation, request)
        consent = self._check_user_token(request, operation.permissions)
        if operation.name == N.ACCOUNTS:
            return Answer(200, self._accounts(consent))
        if operation.name == N.PARTIES:
            return Answer(200, self._parties(consent))
        account = self._account(consent, request.parts["AccountId"])
        if operation.name == N.TRANSACTIONS:
            return Answer(200, self._transactions(consent, account, request))
        return Answer(200, self._below_account(operation.name, account, request.path))

    def _operation(self, request: Request) -> _Operation:
        found = [one for one in OPERATIONS if one.pattern.fullmatch(request.path)]
        if not found:
            raise RefusalError(404)
        for operation in found:
            if operation.method == request.method:
                return operation
        raise RefusalError(405)

    # -- who asks -----------------------------------------------------------------------------------------------------

    def _token(self, request: Request) -> AccessToken | None:
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        return self._grants.access(text) if scheme.lower() == "bearer" else None

    def _live_token(self, request: Request) -> AccessToken:
        token = self._token(request)
        if token is None or token.revoked or token.expires_at <= self._clock.now():
            raise RefusalError(401)
        if request.certificate is None or thumbprint(request.certificate) != token.certificate:
            raise RefusalError(401)
        return token

    def _check_own_token(self, request: Request) -> None:
        token = self._live_token(request)
        if token.consent_id is not None or "accounts" not in token.scope.split():
            raise RefusalError(403, "AccessToken.InvalidScope", "needs a client-credentials token with scope accounts")

    def _check_user_token(self, request: Request, permissions: _Permissions) -> Consent:
        token = self._live_token(request)
        if token.consent_id is None:
            raise RefusalError(403, "AccessToken.InvalidScope", "needs a token a user has agreed to")
        consent = self._consents.get(token.consent_id)
        if consent.status is Status.Suspended:
            raise RefusalError(403, "Consent.TransientAccountAccessFailure", "the consent is suspended")
        if consent.status is not Status.Authorized:
            raise RefusalError(403, "Consent.PermanentAccountAccessFailure", "the consent is not Authorized")
        if not consent.permissions & permissions:
            raise RefusalError(403, "AccessToken.InvalidScope", "the consent lacks the permission of this endpoint")
        return consent

    def _account(self, consent: Consent, account_id: str) -> Account:
        if not consent.permissions & BY_NAME[N.ACCOUNTS].permissions:
            raise RefusalError(403, "AccessToken.InvalidScope", "the consent lacks ReadAccountsBasic and Detail")
        if account_id not in consent.account_ids:
            raise RefusalError(403, "Consent.PermanentAccountAccessFailure", "not an account of this consent")
        return self._ledger.account(account_id)

    # -- data ---------------------------------------------------------------------------------------------------------

    def _shelf(self, account: Account) -> _Shelf:
        shelf = self._shelves.get(account.account_id)
        if shelf is None or shelf.version != account.version:
            shelf = self._shelves[account.account_id] = _Shelf(account.version)
            shelf.rows = [ENCODER.encode(transaction_item(row)) for row in account.transactions]
            shelf.days = [local_date(row.booked_at) for row in account.transactions]
        return shelf

    def _accounts(self, consent: Consent) -> bytes:
        items = [ENCODER.encode(account_item(self._ledger.account(one))) for one in consent.account_ids]
        return self._listing(b'{"Account":[' + b",".join(items) + b"]}", f"{BASE_PATH}/accounts")

    def _parties(self, consent: Consent) -> bytes:
        person = self._ledger.customer(consent.user or "").person
        return self._listing(ENCODER.encode({"Party": party_item(person)}), f"{BASE_PATH}/parties")

    def _below_account(self, name: str, account: Account, path: str) -> bytes:
        shelf = self._shelf(account)
        key = (name, path, None, None)
        if key not in shelf.bodies:
            shelf.bodies[key] = self._listing(ENCODER.encode(_below(name, account)), path)
        return shelf.bodies[key]

    def _transactions(self, consent: Consent, account: Account, request: Request) -> bytes:
        window = _Window.read(request.query())
        shelf = self._shelf(account)
        request.trace.page = window.start // self.page_size + 1
        key = (N.TRANSACTIONS.value, f"{request.query_string}#{self.page_size}", consent.from_date, consent.to_date)
        if key not in shelf.bodies:
            if len(shelf.bodies) >= KEPT_MAX:
                shelf.bodies.clear()
            shelf.bodies[key] = self._page(consent, account, shelf, window, request)
        return shelf.bodies[key]

    def _page(self, consent: Consent, account: Account, shelf: _Shelf, window: "_Window", request: Request) -> bytes:
        rows = _within(shelf, account, window, consent)
        size = self.page_size
        pages = max(1, -(-len(rows) // size))
        path = request.path
        here = f"{self._base_url}{path}" + (f"?{request.query_string}" if request.query_string else "")
        last = self._link(path, window, (pages - 1) * size)
        links = {"Self": here, "First": self._link(path, window, 0), "Last": last}
        if window.start:
            links["Prev"] = self._link(path, window, max(0, window.start - size))
        if window.start + size < len(rows):
            links["Next"] = self._link(path, window, window.start + size)
        meta: dict[str, Any] = {"TotalPages": pages}
        if account.transactions:
            meta["FirstAvailableDateTime"] = instant(account.transactions[-1].booked_at)
            meta["LastAvailableDateTime"] = instant(account.transactions[0].booked_at)
        listed = b",".join(shelf.rows[number] for number in rows[window.start : window.start + size])
        data = b'{"AccountId":' + ENCODER.encode(account.account_id) + b',"Transaction":[' + listed + b"]}"
        return _envelope(data, links, meta)

    def _link(self, path: str, window: "_Window", start: int) -> str:
        query = window.query(start)
        return f"{self._base_url}{path}" + (f"?{query}" if query else "")

    def _listing(self, data: bytes, path: str) -> bytes:
        return _envelope(data, {"Self": self._base_url + path}, {"TotalPages": 1})

    # -- consents -----------------------------------------------------------------------------------------------------

    def _consent_operation(self, operation: _Operation, request: Request) -> Answer:
        if operation.name == "consents":
            return self._chain(request)
        consent_id = request.parts["ConsentId"]
        if consent_id not in self._consents:
            raise RefusalError(400, "Consent.Invalid", "no such consent", "ConsentId")
        if operation.name == "consent":
            return json_answer(self.consent_body(self._consents.get(consent_id)))
        return self._patch(consent_id, request)

    def consent_body(self, consent: Consent) -> dict[str, Any]:
        """The wrapped consent, as the consent API and the token endpoint show it."""
        link = f"{self._base_url}{BASE_PATH}/account-access-consents/{consent.consent_id}"
        return self._consents.body(consent, self_link=link)

    def _chain(self, request: Request) -> Answer:
        base = request.query().get("baseConsentId")
        if not base:
            raise RefusalError(400, "Resource.InvalidFormat", "baseConsentId is missing", "baseConsentId")
        chain = self._consents.chain(base)
        if not chain:
            raise RefusalError(404)
        return json_answer([self.consent_body(one) for one in chain])

    def _patch(self, consent_id: str, request: Request) -> Answer:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            raise RefusalError(415)
        data, subscription = _read_patch(request.body)
        consent = self._consents.get(consent_id)
        if data is not None and consent.status is not Status.Revoked:  # a repeated PATCH is safe
            try:
                self._consents.revoke(consent_id, by=data.get("RevokedBy", "TPP"))
            except MoveError as fault:
                raise RefusalError(400, "Consent.BusinessRuleViolation", str(fault), "Data.Status") from fault
            self._grants.end(consent_id, "consent_revoked")
        if subscription is not None:
            webhook = dict((consent.subscription or {}).get("Webhook", {})) | subscription["Webhook"]
            consent.subscription = {"Webhook": webhook}
        return Answer(204)


@dataclass(frozen=True, slots=True)
class _Window:
    """What a request for transactions narrows, and where its page starts.

    The time zone of the filters is ignored, as LFIs do: only the written date and time count (trap 26).
    """

    booked_from: datetime | None
    booked_to: datetime | None
    start: int

    @classmethod
    def read(cls, query: dict[str, str]) -> "_Window":
        for name in query.keys() - {"fromBookingDateTime", "toBookingDateTime", "continuation"}:
            raise RefusalError(400, "Resource.InvalidFormat", "not a parameter of this endpoint", name[:100] or None)
        token = query.get("continuation")
        if token is not None:
            query = _read_continuation(token)
        texts = (query.get("fromBookingDateTime"), query.get("toBookingDateTime"))
        booked_from, booked_to = (_written(text) for text in texts)
        start = query.get("start", "0")
        if not start.isdecimal():
            raise RefusalError(400, "Resource.InvalidFormat", "not a continuation", "continuation")
        return cls(booked_from, booked_to, int(start))

    def query(self, start: int) -> str:
        """The query of another page of the same window: opaque to the client."""
        facts = {"start": str(start)}
        if self.booked_from:
            facts["fromBookingDateTime"] = self.booked_from.isoformat()
        if self.booked_to:
            facts["toBookingDateTime"] = self.booked_to.isoformat()
        return "continuation=" + base64.urlsafe_b64encode(ENCODER.encode(facts)).rstrip(b"=").decode()


def _written(text: str | None) -> datetime | None:
    """A filter as it is written: its offset does not count, a date alone is midnight."""
    if text is None:
        return None
    try:
        # a `+` that was not encoded has become a space: real LFIs refuse it as no date-time
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        raise RefusalError(400, "Resource.InvalidFormat", "not a date-time", "fromBookingDateTime") from None


def _read_continuation(token: str) -> dict[str, str]:
    try:
        content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        return msgspec.json.decode(content, type=dict[str, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise RefusalError(400, "Resource.InvalidFormat", "not a continuation", "continuation") from None


def _within(shelf: _Shelf, account: Account, window: _Window, consent: Consent) -> range | list[int]:
    """Numbers of the rows a window and a consent show, in listing order."""
    whole = range(len(shelf.rows))
    if (window.booked_from, window.booked_to, consent.from_date, consent.to_date) == (None, None, None, None):
        return whole
    # rows fall by booking instant; the filters compare with the instant as written in UTC
    times = [row.booked_at for row in account.transactions]
    first, last = 0, len(times)
    if window.booked_to is not None:
        first = bisect_left(times, -_stamp(window.booked_to), key=lambda moment: -moment.timestamp())
    if window.booked_from is not None:
        last = bisect_right(times, -_stamp(window.booked_from), key=lambda moment: -moment.timestamp())
    return [number for number in range(first, last) if consent.shows(shelf.days[number])]


def _stamp(written: datetime) -> float:
    return (written - datetime(1970, 1, 1)).total_seconds()  # noqa: DTZ001 - both sides are written times


def _below(name: str, account: Account) -> dict[str, Any]:
    if name == "account":
        return {"AccountId": account.account_id, "Account": account_item(account, with_id=False)}
    if name == N.BALANCES:
        return {"AccountId": account.account_id, "Balance": [balance_item(row) for row in account.balances]}
    return {"AccountId": account.account_id, "Party": [account_party_item(role) for role in account.parties]}


def _envelope(data: bytes, links: dict[str, str], meta: dict[str, Any]) -> bytes:
    return b'{"Data":' + data + b',"Links":' + ENCODER.encode(links) + b',"Meta":' + ENCODER.encode(meta) + b"}"


def _check_headers(request: Request) -> None:
    accepted = {part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "*/*").split(",")}
    if not accepted & {JSON, "application/*", "*/*"}:
        raise RefusalError(406)
    interaction = request.trace.interaction_id
    if interaction is not None and not is_uuid(interaction):
        raise RefusalError(400, "Resource.InvalidFormat", "must be a UUID", "x-fapi-interaction-id")
    auth_date = request.headers.get("x-fapi-auth-date")
    if auth_date is not None and not AUTH_DATE.fullmatch(auth_date):
        raise RefusalError(400, "Resource.InvalidFormat", "must be an RFC 7231 date", "x-fapi-auth-date")
    if request.trace.attended and auth_date is None:
        raise RefusalError(
            400, "Resource.InvalidFormat", "only a customer who is present has an address", "x-fapi-customer-ip-address"
        )


def _read_patch(body: bytes) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """`Data` and `Subscription` of an `AEPatchConsent`; nothing else may be there."""
    refusal = RefusalError(400, "Body.InvalidFormat", "not a PatchConsent")
    try:
        patch = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        raise refusal from None
    if not isinstance(patch, dict) or not patch or patch.keys() - {"Data", "Subscription"}:
        raise refusal
    data, subscription = patch.get("Data"), patch.get("Subscription")
    if data is not None and (
        not isinstance(data, dict)
        or data.get("Status") != "Revoked"
        or data.keys() - {"Status", "RevokedBy"}
        or data.get("RevokedBy", "TPP") not in REVOKERS
    ):
        raise refusal
    webhook = subscription.get("Webhook") if isinstance(subscription, dict) else {}
    if not isinstance(webhook, dict) or webhook.keys() - {"Url", "IsActive"}:
        raise refusal
    return data, subscription
