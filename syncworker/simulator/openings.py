"""The account-opening API of the bank, in three versions: strict about what is sent, moved by a script or a person.

Base paths are `/open-finance/account-opening/v2.0` and `…/v2.1`; which document v2.0 follows (the guide or errata1) is
a setting.  A created request waits until somebody moves it (`move`), or is completed by its n-th look.  A completed
account is one of the customer with the Emirates ID of the request: they may share it from then on.

The signed request is judged by the bank's own code: PS256 by the registered key, the claims of the schema and no
others, at most five minutes old, never seen before.

Sources: Account Opening API v2.0-errata1 and v2.1; Account Opening Service Initiation API Guide v2.0; `domain.md` §8.
"""

import hashlib
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from syncworker.simulator.asgi import JSON, Answer, Host, Request, json_answer
from syncworker.simulator.clock import BankClock
from syncworker.simulator.consents import MoveError
from syncworker.simulator.details import is_uuid
from syncworker.simulator.dice import Dice
from syncworker.simulator.faults import Fault
from syncworker.simulator.grants import Grants
from syncworker.simulator.identity import Identity, thumbprint
from syncworker.simulator.jose import JoseError, sign, verify
from syncworker.simulator.ledger import Account, Balance, Ledger, PartyRole, Person
from syncworker.simulator.render import Item, instant
from syncworker.simulator.resources import Echoing, RefusalError
from syncworker.standard.opening_request import faults
from syncworker.standard.openings import DIALECTS, ENDED, SCOPE, OpeningState, OpeningVersion, state_of

PREFIX: Final = "/open-finance/account-opening/"
JWT: Final = "application/jwt"
LIFE_MAX: Final = timedelta(minutes=5)
SKEW: Final = timedelta(seconds=10)
ANSWER_LIFE: Final = timedelta(minutes=5)

V = OpeningVersion
STATUSES: Final[Mapping[OpeningVersion, frozenset[str]]] = {
    V.V2_0: frozenset({"AwaitingPartyData", "Pending", "Created", "Rejected"}),
    V.V2_0_ERRATA1: frozenset({"AwaitingPartyData", "Pending", "Created", "Rejected"}),
    V.V2_1: frozenset({"Pending", "AwaitingUserInput", "AwaitingLFIProcesses", "Rejected", "Completed"}),
}
_DONE: Final = {V.V2_0: "Created", V.V2_0_ERRATA1: "Created", V.V2_1: "Completed"}
_NEEDED: Final = frozenset({"iss", "exp", "nbf", "message"})
_CLAIMS: Final = _NEEDED | {"aud", "iat"}
_PATHS: Final = (
    ("opening_create", re.compile(r"/accounts")),
    ("opening_status", re.compile(r"/accounts/(?P<AccountId>[^/]+)/status")),
    ("opening_subscription", re.compile(r"/accounts/(?P<AccountId>[^/]+)/subscription")),
    ("opening", re.compile(r"/accounts/(?P<AccountId>[^/]+)")),
)
_NAMES: Final = {"/accounts/{AccountId}": "opening", "/accounts/{AccountId}/status": "opening_status"}


@dataclass(slots=True, kw_only=True)
class Opening:
    """One request to open an account, and what the bank has made of it.

    Attributes:
        asked: the `message` of the signed request.
        looks: how often its status was read.
    """

    account_id: str
    version: OpeningVersion
    asked: Mapping[str, Any] = field(repr=False)
    status: str
    updated_at: datetime
    created_at: datetime
    information: str | None = None
    redirect: bool = False
    subscription: Mapping[str, Any] | None = None
    looks: int = 0
    user: str | None = None
    iban: str | None = None

    @property
    def ended(self) -> bool:
        """Whether it will never move again."""
        return state_of(self.status) in ENDED


class Openings(Echoing):
    """The account-opening API on the host rs1.

    Attributes:
        behaviour: what `configure` changes.
        on_move: is told each opening that was created or has moved: the sender of events.
    """

    name = "rs"

    def __init__(
        self, *, base_url: str, issuer: str, identity: Identity, ledger: Ledger, grants: Grants, clock: BankClock
    ) -> None:
        self.on_move: Callable[[Opening], None] = lambda _: None
        self._base_url = base_url
        self._issuer = issuer
        self._identity = identity
        self._ledger = ledger
        self._grants = grants
        self._clock = clock
        self._openings: dict[str, Opening] = {}
        self._sent: set[str] = set()
        self._v2_0 = V.V2_0_ERRATA1
        self._signed = False
        self._completes_after: int | None = 3
        self._first: str | None = None

    @property
    def base_urls(self) -> dict[str, str]:
        """Where each version is served."""
        return {one.value: f"{self._base_url}{PREFIX}{one.value.partition('-')[0]}" for one in V}

    # -- what the bank's staff do -------------------------------------------------------------------------------------

    def facts(self) -> list[Item]:
        """Every opening, in the order they were asked for; nothing personal."""
        return [
            {
                "account_id": one.account_id,
                "version": one.version.value,
                "status": one.status,
                "updated_at": one.updated_at,
                "looks": one.looks,
                "user": one.user,
                "audit": one.asked.get("Data", {}).get("DataSharingAudit", []),
                "subscription": one.subscription,
            }
            for one in self._openings.values()
        ]

    def held(self, account_id: str) -> Opening:
        """One opening, for tests in this process.

        Raises:
            KeyError: no such opening.
        """
        return self._openings[account_id]

    def configure(
        self,
        *,
        v2_0: str | None = None,
        signed: bool | None = None,
        completes_after: int | None = None,
        by_hand: bool = False,
        first: str | None = None,
    ) -> None:
        """Change how openings are answered from now on; what is not given stays.

        Args:
            v2_0: which document the base path v2.0 follows: `v2.0` or `v2.0-errata1`.
            signed: answer with a signed JWT instead of JSON.
            completes_after: complete each opening at its n-th look.
            by_hand: leave every move to `move`.
            first: the status a new opening begins with.

        Raises:
            ValueError: no such version or status.
        """
        if v2_0 is not None:
            version = OpeningVersion(v2_0)
            if version is V.V2_1:
                raise ValueError("v2_0: must be v2.0 or v2.0-errata1")
            self._v2_0 = version
        if signed is not None:
            self._signed = signed
        if completes_after is not None:
            self._completes_after = completes_after
        if by_hand:
            self._completes_after = None
        if first is not None:
            self._first = first

    def move(
        self,
        account_id: str,
        status: str,
        *,
        information: str | None = None,
        redirect: bool | None = None,
        user: str | None = None,
    ) -> Item:
        """Move an opening, as a person at the bank would.

        Args:
            redirect: whether the user must be sent to the bank's page.
            user: whose account it becomes; the customer with the Emirates ID of the request unless given.

        Raises:
            KeyError: no such opening or customer.
            ValueError: its version has no such status.
            MoveError: it has ended.
        """
        opening = self._openings[account_id]
        if status not in STATUSES[opening.version]:
            raise ValueError(f"status: {opening.version.value} has {', '.join(sorted(STATUSES[opening.version]))}")
        if opening.ended:
            raise MoveError(f"{opening.status} does not become {status}")
        if status == _DONE[opening.version]:
            self._open(opening, user)
        opening.status, opening.updated_at = status, self._clock.now()
        opening.information = information
        opening.redirect = opening.redirect if redirect is None else redirect
        self.on_move(opening)
        return {"account_id": account_id, "status": status, "user": opening.user}

    def _open(self, opening: Opening, user: str | None) -> None:
        """The account itself, empty, its opening balance nothing."""
        dice, now = Dice(f"opening/{opening.account_id}"), self._clock.now()
        opening.iban = dice.iban()
        opening.user = user or self._owner(opening)
        if opening.user is None:
            return
        person = self._ledger.customer(opening.user).person
        account = Account(
            account_id=opening.account_id,
            holder=person,
            sub_type="CurrentAccount",
            currency="AED",
            description="Opened through Open Finance",
            nickname=None,
            iban=opening.iban,
            number=dice.digits(12),
            opened_at=now,
        )
        account.parties.append(PartyRole(person=person, party_type="Sole", role="Principal"))
        account.balances.append(Balance(type="InterimBooked", currency="AED", amount=Decimal(0), at=now))
        self._ledger.open_account(opening.user, account)

    def _owner(self, opening: Opening) -> str | None:
        claims = opening.asked.get("Data", {}).get("Party", {}).get("Claims", {})
        for customer in self._ledger.customers():
            person: Person = customer.person
            if person.emirates_id == claims.get("EmiratesId"):
                return customer.user
        return None

    # -- requests -----------------------------------------------------------------------------------------------------

    def recognise(self, request: Request) -> None:
        """Name the operation and its account."""
        trace = request.trace
        _, _, path = request.path.removeprefix(PREFIX).partition("/")
        for name, pattern in _PATHS:
            if match := pattern.fullmatch(f"/{path}"):
                trace.operation = name if request.method != "PATCH" else "opening_subscription"
                request.parts = {one: unquote(part) for one, part in match.groupdict().items()} | {"path": name}
                break
        trace.account_id = request.parts.get("AccountId")
        trace.interaction_id = request.headers.get("x-fapi-interaction-id")

    def _answer(self, request: Request) -> Answer:
        version = self._version(request)
        kind = request.parts.get("path")
        if kind is None:
            raise RefusalError(404)
        act = self._act(kind, request.method, version)
        self._check(request)
        return act(request, version)

    def _version(self, request: Request) -> OpeningVersion:
        match request.path.removeprefix(PREFIX).partition("/")[0]:
            case "v2.0":
                return self._v2_0
            case "v2.1":
                return V.V2_1
        raise RefusalError(404)

    def _act(self, kind: str, method: str, version: OpeningVersion) -> Callable[[Request, OpeningVersion], Answer]:
        dialect = DIALECTS[version]
        table: dict[tuple[str, str], Callable[[Request, OpeningVersion], Answer]] = {
            ("opening_create", "POST"): self._create,
            (_NAMES[dialect.read], "GET"): self._read,
        }
        if dialect.subscription is not None:
            switched = "opening" if version is V.V2_0 else "opening_subscription"
            table[switched, "PATCH"] = self._switch
        if (kind, method) in table:
            return table[kind, method]
        raise RefusalError(405 if any(kind == one for one, _ in table) else 404)

    def _check(self, request: Request) -> None:
        accepted = {part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "*/*").split(",")}
        if not accepted & {JWT if self._signed else JSON, "application/*", "*/*"}:
            raise RefusalError(406)
        interaction = request.trace.interaction_id
        if interaction is not None and not is_uuid(interaction):
            raise RefusalError(400, "Resource.InvalidFormat", "must be a UUID", "x-fapi-interaction-id")
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        token = self._grants.access(text) if scheme.lower() == "bearer" else None
        if token is None or token.revoked or token.expires_at <= self._clock.now():
            raise RefusalError(401)
        if request.certificate is None or thumbprint(request.certificate) != token.certificate:
            raise RefusalError(401)
        if token.consent_id is not None or SCOPE not in token.scope.split():
            raise RefusalError(403, "AccessToken.InvalidScope", f"needs a client-credentials token with scope {SCOPE}")

    def _create(self, request: Request, version: OpeningVersion) -> Answer:
        if _media_type(request) != JWT:
            raise RefusalError(415)
        message = self._message(request.body.decode("ascii", "replace"))
        if found := faults(message, version):
            path, _, why = found[0].partition(": ")
            raise RefusalError(400, "Body.InvalidFormat", why, f"$.{path}")
        now = self._clock.now()
        first = self._first if self._first in STATUSES[version] else "Pending"
        opening = Opening(
            account_id=str(uuid.uuid4()),
            version=version,
            asked=message,
            status=first or "Pending",
            updated_at=now,
            created_at=now,
            redirect=state_of(first) is OpeningState.USER_ACTION,
            subscription=message.get("Subscription"),
        )
        self._openings[opening.account_id] = opening
        request.trace.account_id = opening.account_id
        self.on_move(opening)
        return self._said(opening, 201)

    def _message(self, token: str) -> dict[str, Any]:
        """The message of a signed request whose claims hold."""
        try:
            claims = verify(token, self._identity.client_signing_keys)
        except JoseError as fault:
            raise RefusalError(400, "JWS.InvalidSignature", str(fault)) from None
        for name in sorted(_NEEDED - claims.keys()):
            raise RefusalError(400, "JWS.InvalidClaim", f"{name} is missing", name)
        for name in sorted(claims.keys() - _CLAIMS):
            raise RefusalError(400, "JWS.InvalidClaim", f"{name} is not a claim of the published schema", name)
        if claims["iss"] != self._identity.client.client_id:
            raise RefusalError(400, "JWS.InvalidClaim", "must be the client id", "iss")
        if claims.get("aud", [self._issuer]) != [self._issuer]:
            raise RefusalError(400, "JWS.InvalidClaim", "must be an array with the issuer", "aud")
        self._check_times(claims)
        if not isinstance(claims["message"], dict):
            raise RefusalError(400, "JWS.InvalidPayload", "must be an object", "message")
        digest = hashlib.sha256(token.encode()).hexdigest()
        if digest in self._sent:
            raise RefusalError(400, "JWS.InvalidClaim", "this request was sent before")
        self._sent.add(digest)
        message: dict[str, Any] = claims["message"]
        return message

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        moments = {}
        for name in ("nbf", "exp"):
            value = claims[name]
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 10**11:
                raise RefusalError(400, "JWS.InvalidClaim", "must be a number of seconds", name)
            moments[name] = datetime.fromtimestamp(value, tz=UTC)
        now = self._clock.now()
        if moments["nbf"] > now + SKEW:
            raise RefusalError(400, "JWS.InvalidClaim", "lies in the future", "nbf")
        if moments["exp"] <= now - SKEW or moments["exp"] - moments["nbf"] > LIFE_MAX:
            raise RefusalError(400, "JWS.InvalidClaim", "has passed, or is more than five minutes ahead", "exp")

    def _found(self, request: Request) -> Opening:
        opening = self._openings.get(request.parts["AccountId"])
        if opening is None:
            raise RefusalError(404)
        return opening

    def _read(self, request: Request, _version: OpeningVersion) -> Answer:
        opening = self._found(request)
        opening.looks += 1
        if self._completes_after is not None and not opening.ended and opening.looks >= self._completes_after:
            self.move(opening.account_id, _DONE[opening.version])
        return self._said(opening, 200)

    def _switch(self, request: Request, version: OpeningVersion) -> Answer:
        opening = self._found(request)
        if _media_type(request) != JSON:
            raise RefusalError(415)
        member = DIALECTS[version].subscription_member
        try:
            body = msgspec.json.decode(request.body)
            webhook = body[member]["Webhook"]
            shape = (set(body), set(body[member]), set(webhook) - {"Url"})
        except (msgspec.MsgspecError, KeyError, TypeError):
            raise RefusalError(400, "Body.InvalidFormat", f"must be {{{member}: {{Webhook: …}}}}") from None
        if shape != ({member}, {"Webhook"}, {"IsActive"}) or type(webhook["IsActive"]) is not bool:
            raise RefusalError(400, "Body.InvalidFormat", "holds other members than Url and IsActive")
        if "Url" not in webhook and opening.subscription is None:
            raise RefusalError(400, "Body.InvalidFormat", "Url is needed the first time")
        held = (opening.subscription or {}).get("Webhook", {})
        opening.subscription = {"Webhook": {**held, **webhook}}
        return Answer(204)

    # -- answers ------------------------------------------------------------------------------------------------------

    def body(self, opening: Opening) -> Item:
        """`{Data, Links, Meta}` of an opening, as its version has it."""
        data: Item = {} if opening.version is V.V2_0_ERRATA1 else {"AccountId": opening.account_id}
        data |= {"OpeningStatus": opening.status, "OpeningStatusUpdateDateTime": instant(opening.updated_at)}
        if opening.status == _DONE[opening.version]:
            data |= {
                "Currency": "AED",
                "AccountIdentifiers": [{"SchemeName": "IBAN", "Identification": opening.iban}],
                "CreationDateTime": instant(opening.updated_at),
            }
        elif opening.information and opening.version is V.V2_1:
            data["AdditionalStatusInformation"] = opening.information
        base = self.base_urls[opening.version.value]
        links = {"Self": base + DIALECTS[opening.version].read.replace("{AccountId}", opening.account_id)}
        if opening.redirect and not opening.ended:
            links["AccountOpeningRedirectUrl"] = f"{self._issuer}/account-opening/{opening.account_id}"
        return {"Data": data, "Links": links, "Meta": {}}

    def _said(self, opening: Opening, status: int) -> Answer:
        body = self.body(opening)
        if not self._signed:
            return json_answer(body, status)
        now = self._clock.now()
        claims = {
            "iss": self._issuer,
            "aud": [self._identity.client.client_id],
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "exp": int((now + ANSWER_LIFE).timestamp()),
            "message": body,
        }
        token = sign(claims, self._identity.lfi_signing_key, self._identity.lfi_kid)
        return Answer(status, token.encode(), content_type=JWT)


class WithOpenings:
    """The host rs1 with both of its APIs: each request goes to the one whose path it has."""

    def __init__(self, data: Host, openings: Openings) -> None:
        self.name = data.name
        self._data = data
        self._openings = openings

    def recognise(self, request: Request) -> None:
        """As the API the path belongs to."""
        self._of(request).recognise(request)

    async def answer(self, request: Request) -> Answer:
        """As the API the path belongs to."""
        return await self._of(request).answer(request)

    def refusal(self, request: Request, fault: Fault) -> Answer:
        """As the API the path belongs to."""
        return self._of(request).refusal(request, fault)

    def _of(self, request: Request) -> Host:
        return self._openings if request.path.startswith(PREFIX) else self._data


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
