"""The host rs1: accounts and what lies below them, and the consent resources.  Every answer is the published schema's.

What an account shows is rendered once and kept until the account changes, so the same data is the same bytes.

A consent is served under the base path of its own version and in the shapes of that version alone.

Sources: Account Information API v1.2-errata1, v2.0-errata1 and v2.1-errata2; `domain.md` §5.1 (operations), §6
(headers, errors), §4.2 (consents).
"""

import base64
import binascii
import re
import sys
import uuid
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from syncworker.simulator.asgi import JSON, Answer, Request, Trace, json_answer
from syncworker.simulator.clock import BankClock
from syncworker.simulator.consents import TPP_REVOKERS, Consent, Consents, MoveError
from syncworker.simulator.details import is_uuid, is_webhook
from syncworker.simulator.editions import RATES
from syncworker.simulator.faults import Fault, Habit
from syncworker.simulator.grants import AccessToken, Grants
from syncworker.simulator.identity import thumbprint
from syncworker.simulator.ledger import Account, Ledger
from syncworker.simulator.listings import LISTINGS, item_of, own_party, rows_of
from syncworker.simulator.render import ENCODER, instant
from syncworker.simulator.signing import JWT
from syncworker.standard.consents import Status
from syncworker.standard.permissions import Permission
from syncworker.standard.resources import BY_NAME, RESOURCES, Resource, ResourceName, Shape, Window
from syncworker.standard.values import UAE
from syncworker.standard.versions import Version

BASE_PATH: Final = "/open-finance/account-information"
AUTH_DATE: Final = re.compile(
    r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{2} (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4}"
    r" \d{2}:\d{2}:\d{2} (GMT|UTC)"
)
LONG_BEFORE: Final = timedelta(days=40)
NEWEST: Final = 5
"""What `newest_instead` shows, and for windows that begin how much before the history."""

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
    since: Version = Version.V1_2


def base_path(version: Version) -> str:
    """The path all operations of a version begin with."""
    return f"{BASE_PATH}/{version.value}"


def _pattern(path: str) -> re.Pattern[str]:
    below = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path))
    return re.compile(f"{BASE_PATH}/(?P<Version>{'|'.join(map(re.escape, Version))}){below}")


OPERATIONS: Final = (
    *(_Operation(row.name.value, "GET", _pattern(row.path), row.permissions, since=row.since) for row in RESOURCES),
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


class Echoing(ABC):
    """How every resource interface answers: the interaction id comes back, whatever the answer is."""

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

    @abstractmethod
    def _answer(self, request: Request) -> Answer: ...


@dataclass(slots=True)
class _Shelf:
    """Rendered parts of one account, good for one version of it."""

    version: int
    rows: dict[tuple[ResourceName, Version, bool], tuple[Sequence[Any], list[bytes]] | None] = field(
        default_factory=dict
    )
    bodies: dict[tuple[object, ...], bytes] = field(default_factory=dict)

    def listed(
        self, name: ResourceName, account: Account, *, version: Version, rates: bool
    ) -> tuple[Sequence[Any], list[bytes]]:
        """What an account has of a resource in a version, and the same written.

        Raises:
            RefusalError: 404, the account knows no such thing.
        """
        key = (name, version, rates)
        if key not in self.rows:
            rows = rows_of(name, account, version=version, rates=rates)
            self.rows[key] = (
                None if rows is None else (rows, [ENCODER.encode(item_of(name, row, version)) for row in rows])
            )
        found = self.rows[key]
        if found is None:
            raise RefusalError(404)
        return found


class Resources(Echoing):
    """The resource server of the bank.

    Args:
        base_url: `https://host:port` without a path.
        versions: those that have a base path here.
        page_size: items on a page of transactions and of statements; the other listings come whole.

    Attributes:
        sizes: items on a page by resource; `None` or absent: the listing comes whole, without links to pages.
        habits: how a listing behaves otherwise than the standard has it.
        on_page: is told the trace of each page, when it has been written and before it is sent.
    """

    name = "rs"

    def __init__(
        self,
        *,
        base_url: str,
        versions: Collection[Version],
        page_size: int,
        ledger: Ledger,
        consents: Consents,
        grants: Grants,
        clock: BankClock,
    ) -> None:
        self.sizes: dict[ResourceName, int | None] = {N.TRANSACTIONS: page_size, N.STATEMENTS: page_size}
        self.habits: dict[ResourceName, set[Habit]] = {}
        self.on_page: Callable[[Trace], None] = lambda _: None
        self._base_url = base_url
        self._versions = frozenset(versions)
        self._ledger = ledger
        self._consents = consents
        self._grants = grants
        self._clock = clock
        self._shelves: dict[str, _Shelf] = {}

    def size_of(self, name: ResourceName) -> int | None:
        """Items on a page; `None` for a listing that comes whole."""
        return self.sizes.get(name)

    # -- the way of a request -----------------------------------------------------------------------------------------

    def recognise(self, request: Request) -> None:
        """Find the operation by path, and the consent by token."""
        for operation in OPERATIONS:
            if match := self._match(operation, request.path):
                request.trace.operation = operation.name
                request.parts = {name: unquote(part) for name, part in match.groupdict().items()}
                if operation.method == request.method:
                    break
        trace = request.trace
        trace.account_id = request.parts.get("AccountId")
        trace.interaction_id = request.headers.get("x-fapi-interaction-id")
        trace.consent_id = request.parts.get("ConsentId")
        token = self._token(request)
        if token is not None:
            trace.consent_id = token.consent_id or trace.consent_id
            trace.token_expires_at = token.expires_at
            trace.token_age_s = round((self._clock.now() - token.issued_at).total_seconds(), 3)
            trace.token_expired = token.expires_at <= self._clock.now()

    def _answer(self, request: Request) -> Answer:
        operation = self._operation(request)
        _check_headers(request)
        version = Version(request.parts["Version"])
        if operation.own_token:
            self._check_own_token(request)
            return self._consent_operation(operation, version, request)
        consent = self._check_user_token(request, version, operation.permissions)
        answer = Answer(200, self._data(BY_NAME[ResourceName(operation.name)], consent, request))
        self.on_page(request.trace)
        return answer

    def _operation(self, request: Request) -> _Operation:
        found = [one for one in OPERATIONS if self._match(one, request.path)]
        if not found:
            raise RefusalError(404)
        for operation in found:
            if operation.method == request.method:
                return operation
        raise RefusalError(405)

    def _match(self, operation: _Operation, path: str) -> re.Match[str] | None:
        """The parts of a path, when it names this operation in a version that is served and has it."""
        match = operation.pattern.fullmatch(path)
        if match is None:
            return None
        version = Version(match["Version"])
        return match if version in self._versions and version.rank >= operation.since.rank else None

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

    def _check_user_token(self, request: Request, version: Version, permissions: _Permissions) -> Consent:
        token = self._live_token(request)
        if token.consent_id is None:
            raise RefusalError(403, "AccessToken.InvalidScope", "needs a token a user has agreed to")
        consent = self._consents.get(token.consent_id)
        if consent.version is not version:
            raise RefusalError(403, "AccessToken.InvalidScope", "the consent is of another version")
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

    def _data(self, resource: Resource, consent: Consent, request: Request) -> bytes:
        window = _Window.read(resource, request.query())
        request.trace.page = window.start // (self.size_of(resource.name) or sys.maxsize) + 1
        if resource.name is N.PARTIES:
            person = own_party(self._ledger.customer(consent.user or "").person, consent.version)
            written = [ENCODER.encode(item_of(N.PARTIES, person, consent.version))]
            return self._page(resource, {}, written, window, request)
        if resource.name is N.ACCOUNTS:
            accounts = [self._ledger.account(one) for one in consent.account_ids]
            written = [
                self._shelf(one).listed(N.ACCOUNTS, one, version=consent.version, rates=False)[1][0] for one in accounts
            ]
            return self._page(resource, {}, written, window, request)
        return self._below_account(
            resource, consent, self._account(consent, request.parts["AccountId"]), window, request
        )

    def _shelf(self, account: Account) -> _Shelf:
        shelf = self._shelves.get(account.account_id)
        if shelf is None or shelf.version != account.version:
            shelf = self._shelves[account.account_id] = _Shelf(account.version)
        return shelf

    def _below_account(
        self, resource: Resource, consent: Consent, account: Account, window: "_Window", request: Request
    ) -> bytes:
        shelf, size = self._shelf(account), self.size_of(resource.name)
        version = consent.version
        rates = RATES[version] in consent.permissions
        habits = frozenset(self.habits.get(resource.name, ()))
        key = (resource.name, version, request.query_string, size, consent.from_date, consent.to_date, rates, habits)
        if key not in shelf.bodies:
            if len(shelf.bodies) >= KEPT_MAX:
                shelf.bodies.clear()
            rows, written = shelf.listed(resource.name, account, version=version, rates=rates)
            shown = self._shown(resource, rows, window, consent)
            head: dict[str, Any] = {"AccountId": account.account_id}
            if resource.name is N.STATEMENTS:
                head["AccountSubType"] = account.sub_type
            meta = {} if Habit.SILENT in habits else _available(resource, rows)
            shelf.bodies[key] = self._page(resource, head, [written[one] for one in shown], window, request, **meta)
        return shelf.bodies[key]

    def _shown(self, resource: Resource, rows: Sequence[Any], window: "_Window", consent: Consent) -> Sequence[int]:
        """Numbers of the rows a window shows, as the bank's habits have it."""
        habits = self.habits.get(resource.name, set())
        if Habit.IGNORES_FILTER in habits:
            window = window.open()
        if Habit.NEWEST_INSTEAD in habits and rows and window.since is not None:
            begins = _compared(resource, rows[-1]) - LONG_BEFORE.total_seconds()
            if _stamp(window.since) < begins:
                return range(min(NEWEST, len(rows)))
        return _within(resource, rows, window, consent)

    def _page(
        self,
        resource: Resource,
        head: Mapping[str, Any],
        items: Sequence[bytes],
        window: "_Window",
        request: Request,
        **meta: str,
    ) -> bytes:
        """The page of a listing that a window starts at."""
        size = self.size_of(resource.name) if resource.shape is Shape.LIST else None
        here = f"{self._base_url}{request.path}" + (f"?{request.query_string}" if request.query_string else "")
        links, pages = {"Self": here}, 1
        if size is not None:
            pages = max(1, -(-len(items) // size))
            links |= self._links(request.path, window, size, len(items), pages)
            habits = self.habits.get(resource.name, set())
            if habits & {Habit.NEVER_ENDS, Habit.REPEATS}:
                links["Next"] = self._link(request.path, window, window.start + size)
            start = 0 if Habit.REPEATS in habits else window.start
            items = items[start : start + size]
        else:
            items = items[window.start :]
        listed = b",".join(items) if resource.shape is Shape.ONE else b"[" + b",".join(items) + b"]"
        members = [(name, ENCODER.encode(value)) for name, value in head.items()] + [(resource.items, listed)]
        data = b"{" + b",".join(ENCODER.encode(name) + b":" + value for name, value in members) + b"}"
        return _envelope(data, links, {"TotalPages": pages, **meta})

    def _links(self, path: str, window: "_Window", size: int, count: int, pages: int) -> dict[str, str]:
        links = {"First": self._link(path, window, 0), "Last": self._link(path, window, (pages - 1) * size)}
        if window.start:
            links["Prev"] = self._link(path, window, max(0, window.start - size))
        if window.start + size < count:
            links["Next"] = self._link(path, window, window.start + size)
        return links

    def _link(self, path: str, window: "_Window", start: int) -> str:
        query = window.query(start)
        return f"{self._base_url}{path}" + (f"?{query}" if query else "")

    # -- consents -----------------------------------------------------------------------------------------------------

    def _consent_operation(self, operation: _Operation, version: Version, request: Request) -> Answer:
        if operation.name == "consents":
            return self._chain(version, request)
        consent_id = request.parts["ConsentId"]
        if consent_id not in self._consents or self._consents.get(consent_id).version is not version:
            raise RefusalError(400, "Consent.Invalid", "no such consent", "ConsentId")
        if operation.name == "consent":
            return json_answer(self.consent_body(self._consents.get(consent_id)))
        return self._patch(consent_id, request)

    def consent_body(self, consent: Consent) -> dict[str, Any]:
        """The wrapped consent, as the consent API and the token endpoint show it."""
        link = f"{self._base_url}{base_path(consent.version)}/account-access-consents/{consent.consent_id}"
        return self._consents.body(consent, self_link=link)

    def _chain(self, version: Version, request: Request) -> Answer:
        base = request.query().get("baseConsentId")
        if not base:
            raise RefusalError(400, "Resource.InvalidFormat", "baseConsentId is missing", "baseConsentId")
        chain = [one for one in self._consents.chain(base) if one.version is version]
        if not chain:
            raise RefusalError(404)
        return json_answer([self.consent_body(one) for one in chain])

    def _patch(self, consent_id: str, request: Request) -> Answer:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            raise RefusalError(415)
        data, subscription = _read_patch(request.body)
        consent = self._consents.get(consent_id)
        if subscription is not None and "Url" not in subscription and consent.subscription is None:
            raise RefusalError(400, "Body.InvalidFormat", "is needed the first time", "Subscription.Webhook.Url")
        if data is not None and consent.status is not Status.Revoked:  # a repeated PATCH is safe
            try:
                self._consents.revoke(consent_id, by=data.get("RevokedBy", "TPP"))
            except MoveError as fault:
                raise RefusalError(400, "Consent.BusinessRuleViolation", str(fault), "Data.Status") from fault
            self._grants.end(consent_id, "consent_revoked")
        if subscription is not None:
            consent.subscription = {"Webhook": dict((consent.subscription or {}).get("Webhook", {})) | subscription}
        return Answer(204)


@dataclass(frozen=True, slots=True)
class _Window:
    """What a request for a listing narrows, and where its page starts.

    The time zone of date-time filters is ignored, as LFIs do: only the written date and time count (trap 26).
    """

    window: Window | None
    since: datetime | None
    until: datetime | None
    start: int

    @classmethod
    def read(cls, resource: Resource, query: dict[str, str]) -> "_Window":
        window = resource.window
        names = {window.from_param, window.to_param} if window else set()
        listed = {"continuation"} if resource.shape is Shape.LIST else set()
        for name in query.keys() - names - listed:
            raise RefusalError(400, "Resource.InvalidFormat", "not a parameter of this endpoint", name[:100] or None)
        token = query.get("continuation")
        if token is not None:
            query = _read_continuation(token)
        start = query.get("start", "0")
        if not start.isdecimal():
            raise RefusalError(400, "Resource.InvalidFormat", "not a continuation", "continuation")
        if window is None:
            return cls(None, None, None, int(start))
        since, until = (_written(query.get(name), name, window) for name in (window.from_param, window.to_param))
        return cls(window, since, until, int(start))

    def open(self) -> "_Window":
        """The same page without a window."""
        return replace(self, since=None, until=None)

    def query(self, start: int) -> str:
        """The query of another page of the same window: opaque to the client."""
        facts = {"start": str(start)}
        for name, moment in (("from_param", self.since), ("to_param", self.until)):
            if self.window is not None and moment is not None:
                written = moment.date() if self.window.as_dates else moment
                facts[getattr(self.window, name)] = written.isoformat()
        return "continuation=" + base64.urlsafe_b64encode(ENCODER.encode(facts)).rstrip(b"=").decode()


def _written(text: str | None, name: str, window: Window) -> datetime | None:
    """A filter as it is written: its offset does not count, a date alone is midnight."""
    if text is None:
        return None
    try:
        if window.as_dates:
            return datetime.combine(date.fromisoformat(text), time())
        # a `+` that was not encoded has become a space: real LFIs refuse it as no date-time
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        kind = "a date" if window.as_dates else "a date-time"
        raise RefusalError(400, "Resource.InvalidFormat", f"not {kind}", name) from None


def _read_continuation(token: str) -> dict[str, str]:
    try:
        content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        return msgspec.json.decode(content, type=dict[str, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise RefusalError(400, "Resource.InvalidFormat", "not a continuation", "continuation") from None


def _within(resource: Resource, rows: Sequence[Any], window: _Window, consent: Consent) -> Sequence[int]:
    """Numbers of the rows a window and a consent show, in listing order."""
    day = LISTINGS[resource.name].day
    first, last = 0, len(rows)
    if day is None or (window.since, window.until, consent.from_date, consent.to_date) == (None, None, None, None):
        return range(first, last)
    # rows fall by what the filters compare with
    if window.until is not None:
        first = bisect_left(rows, -_stamp(window.until), key=lambda row: -_compared(resource, row))
    if window.since is not None:
        last = bisect_right(rows, -_stamp(window.since), key=lambda row: -_compared(resource, row))
    return [number for number in range(first, last) if consent.shows(day(rows[number]))]


def _compared(resource: Resource, row: Any) -> float:
    """What a filter compares with: the instant as written in UTC, the opening date as midnight."""
    if resource.name is N.STATEMENTS:
        return _stamp(datetime.combine(row.opening_date, time()))
    stamp: float = row.booked_at.timestamp()
    return stamp


def _stamp(written: datetime) -> float:
    return (written - datetime(1970, 1, 1)).total_seconds()  # noqa: DTZ001 - both sides are written times


def _available(resource: Resource, rows: Sequence[Any]) -> dict[str, str]:
    """First and last available instant of a listing that has a window and is not empty."""
    if resource.window is None or not rows:
        return {}
    if resource.name is N.STATEMENTS:
        first = datetime.combine(rows[-1].opening_date, time(), tzinfo=UAE)
        last = datetime.combine(rows[0].closing_date, time(23, 59, 59), tzinfo=UAE)
    else:
        first, last = rows[-1].booked_at, rows[0].booked_at
    return {"FirstAvailableDateTime": instant(first), "LastAvailableDateTime": instant(last)}


def _envelope(data: bytes, links: dict[str, str], meta: dict[str, Any]) -> bytes:
    return b'{"Data":' + data + b',"Links":' + ENCODER.encode(links) + b',"Meta":' + ENCODER.encode(meta) + b"}"


def _check_headers(request: Request) -> None:
    accepted = {part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "*/*").split(",")}
    if not accepted & {JSON, JWT, "application/*", "*/*"}:
        raise RefusalError(406)
    interaction = request.trace.interaction_id
    if interaction is not None and not is_uuid(interaction):
        raise RefusalError(400, "Resource.InvalidFormat", "must be a UUID", "x-fapi-interaction-id")
    auth_date = request.headers.get("x-fapi-auth-date")
    if auth_date is not None and not AUTH_DATE.fullmatch(auth_date):
        raise RefusalError(400, "Resource.InvalidFormat", "must be an RFC 7231 date", "x-fapi-auth-date")
    if "x-fapi-customer-ip-address" in request.headers and auth_date is None:
        raise RefusalError(
            400, "Resource.InvalidFormat", "only a customer who is present has an address", "x-fapi-customer-ip-address"
        )


def _read_patch(body: bytes) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """`Data` and `Subscription.Webhook` of an `AEPatchConsent`; nothing else may be there."""
    refusal = RefusalError(400, "Body.InvalidFormat", "not a PatchConsent")
    try:
        patch = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        raise refusal from None
    if not isinstance(patch, dict) or not patch or patch.keys() - {"Data", "Subscription"}:
        raise refusal
    data, subscription = patch.get("Data"), patch.get("Subscription")
    if "Data" in patch and (
        not isinstance(data, dict)
        or data.get("Status") != "Revoked"
        or data.keys() - {"Status", "RevokedBy"}
        or data.get("RevokedBy", "TPP") not in TPP_REVOKERS
    ):
        raise refusal
    if "Subscription" not in patch:
        return data, None
    webhook = subscription.get("Webhook") if isinstance(subscription, dict) and len(subscription) == 1 else None
    if not isinstance(webhook, dict) or not webhook or webhook.keys() - {"Url", "IsActive"}:
        raise refusal
    if type(webhook.get("IsActive", True)) is not bool or not is_webhook(webhook.get("Url", "https://unchanged")):
        raise refusal
    return data, webhook
