"""The Hub's event notifications: what happened to a consent or an opening, signed, encrypted and sent to the TPP.

Every move of a consent or an opening whose subscription is active becomes an event; staging a consent is the TPP's own
act and tells nobody.  `configure` makes the sender as bad as real ones may be: events lost, sent twice, late, out of
order, or with a forger beside it, who knows everything that is public.  The log says what was sent and how it was
answered.

v2.1 sends `application/jwe`; v1.2 and v2.0 send `application/jwt` with a bearer JWT.  Which key signs no document says;
here it is the one auth1 publishes.  Nothing is sent off this machine.

Sources: Webhook Template v2.1-errata2; Account Opening Service Initiation API Guide v2.0; `domain.md` §7.
"""

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import json
import ssl
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from cryptography.hazmat.primitives.asymmetric import rsa

from syncworker.simulator import jose
from syncworker.simulator.clock import BankClock
from syncworker.simulator.consents import Consent
from syncworker.simulator.dice import Dice
from syncworker.simulator.identity import Identity
from syncworker.simulator.openings import Opening
from syncworker.simulator.render import Item, instant
from syncworker.standard.consents import Status
from syncworker.standard.openings import OpeningVersion
from syncworker.standard.versions import Version

LIFE: Final = timedelta(minutes=5)
BEARER_LIFE: Final = timedelta(seconds=30)
WAITS_S: Final = (1.0, 5.0, 15.0)
"""Waits before an event without a good answer is sent again; then it is given up."""
TIMEOUT_S: Final = 10.0
AT_ONCE_MAX: Final = 16
"""Requests under way at one time."""
KEPT_MAX: Final = 10_000
"""Events the log remembers."""
JWE: Final = "application/jwe"
JWT: Final = "application/jwt"
_AGAIN: Final = frozenset({0, 408, 429, 500, 502, 503, 504})
_LIES: Final = {"Status": "Revoked", "OpeningStatus": "Rejected"}
"""What a forger says, by the member of `Data` that holds the status."""
_NOT_IN_EVENTS: Final = frozenset({"FromDate", "ToDate", "TransactionFromDateTime", "TransactionToDateTime"})


class Fate(StrEnum):
    """What became of an event."""

    HELD = "held"
    """Waits for its time, or for others to overtake it."""
    SENDING = "sending"
    TAKEN = "taken"
    REFUSED = "refused"
    """Answered, and not with 2xx."""
    UNANSWERED = "unanswered"
    DROPPED = "dropped"
    """Lost on purpose."""
    OFF = "off"
    """Events were switched off at the bank."""
    NOT_LOCAL = "not_local"
    """The subscription leads off this machine."""


class Forgery(StrEnum):
    """How an event is forged."""

    SIGNATURE = "signature"
    """The bank's key, another content than was signed."""
    KEY = "key"
    """Another key under the bank's `kid`."""
    AUDIENCE = "audience"
    """Meant for another TPP, though well signed."""
    NONE = "none"
    """`alg` none."""
    HS256 = "hs256"
    """`alg` HS256 with the public key as the secret."""


@dataclass(slots=True, kw_only=True)
class Sent:
    """One event and its way.

    Attributes:
        seq: counts from 1.
        subject: ConsentId or AccountId.
        status: the one it speaks of.
        answers: status of the answer to each attempt, 0 without one.
    """

    seq: int
    at: datetime
    subject: str
    status: str
    url: str
    fate: Fate
    forgery: Forgery | None = None
    answers: list[int] = field(default_factory=list)
    body: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def facts(self) -> Item:
        """As JSON, without what was sent."""
        return {
            "seq": self.seq, "at": self.at, "subject": self.subject, "status": self.status, "url": self.url,
            "fate": self.fate.value, "forgery": self.forgery and self.forgery.value, "answers": list(self.answers),
        }  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Conduct:
    """How well the sender does its work.

    Attributes:
        off: nothing is sent.
        drop, duplicate: share of events that are lost, or sent twice.
        forge: share of events beside which a forger sends one of his own about the same subject.
        late_s: seconds each event waits before it is sent.
        reorder: how many events are gathered and then sent in the reverse order; 0 sends each at once.
        encrypted: otherwise the signed body goes out as it is.
    """

    off: bool = False
    drop: float = 0.0
    duplicate: float = 0.0
    forge: float = 0.0
    late_s: float = 0.0
    reorder: int = 0
    encrypted: bool = True

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: names the member.
        """
        for name in ("drop", "duplicate", "forge"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: is a share, from 0 to 1")
        for name in ("late_s", "reorder"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: is not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    """What an event says, before it is signed.

    Attributes:
        member: of `Data`, that holds the status.
    """

    subject: str
    member: str
    status: str
    url: str
    older: bool
    content: Mapping[str, Any]


class Events:
    """The sender of one bank.  Sends between `start` and `stop`.

    Args:
        issuer: `iss` of every event.
        body: the wrapped consent, as the consent API shows it.
        opening_body: the same of an opening.
        sleep: waits until an event is due or tried again.

    Attributes:
        conduct: changed by `configure`.
    """

    def __init__(
        self,
        *,
        issuer: str,
        identity: Identity,
        clock: BankClock,
        body: Callable[[Consent], Mapping[str, Any]],
        opening_body: Callable[[Opening], Mapping[str, Any]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.conduct = Conduct()
        self._issuer = issuer
        self._identity = identity
        self._clock = clock
        self._body = body
        self._opening_body = opening_body
        self._sleep = sleep
        self._trust: tuple[Path, ...] = (identity.ca_bundle,)
        self._log: list[Sent] = []
        self._counted = 0
        self._forged = 0
        self._gathered: list[Sent] = []
        self._dice = Dice("events")
        self._under_way: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Semaphore(AT_ONCE_MAX)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: httpx.AsyncClient | None = None

    async def start(self) -> None:
        """Send from now on, on the running loop."""
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """Leave what is under way."""
        self._loop = None
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._close()

    # -- what happens -------------------------------------------------------------------------------------------------

    def consent_moved(self, consent: Consent) -> None:
        """Tell of a consent's status."""
        message = self._of_consent(consent)
        if message is not None:
            self._tell(message)

    def opening_moved(self, opening: Opening) -> None:
        """Tell of an opening's status."""
        message = self._of_opening(opening)
        if message is not None:
            self._tell(message)

    # -- what the bank's staff do -------------------------------------------------------------------------------------

    def configure(self, *, trust: list[str] | None = None, seed: str | None = None, **conduct: Any) -> None:
        """Change how events are sent from now on; what is not given stays.

        Args:
            trust: PEM files of authorities that may have certified the receiver, beside the bank's own.
            seed: begins the chance behind the shares anew.
            conduct: members of `Conduct`.

        Raises:
            ValueError: not a member, or not a value of it; a file that holds no certificate.
        """
        members = {name: getattr(self.conduct, name) for name in Conduct.__slots__}
        for name in conduct.keys() - members.keys():
            raise ValueError(f"{name}: events have {', '.join(members)}, trust and seed")
        changed = Conduct(**members | conduct)
        changed.check()
        if trust is not None:
            files = (self._identity.ca_bundle, *map(Path, trust))
            _trusting(files)
            self._trust = files
            self._renew_client()
        if seed is not None:
            self._dice = Dice(seed)
        self.conduct = changed

    def facts(self) -> list[Item]:
        """What was sent, oldest first; see `Sent`."""
        return [one.facts() for one in self._log]

    def send(self, consent: Consent) -> Item:
        """Tell of a consent as it is, as if it had just moved, whatever `conduct` says.

        Raises:
            ValueError: nobody subscribed.
        """
        sent = self._file(self._must(consent))
        self._go(sent)
        return sent.facts()

    def forge(self, consent: Consent, *, how: str = Forgery.KEY, status: str = Status.Revoked) -> Item:
        """Send what a forger would: that a consent has a status which it may not have.

        Raises:
            ValueError: no such forgery, or nobody subscribed.
        """
        forged = self._file(_claiming(self._must(consent), status), Forgery(how))
        self._go(forged)
        return forged.facts()

    def repeat(self, seq: int) -> Item:
        """Send an event of the log again, byte for byte.

        Raises:
            KeyError: the log has no such event.
        """
        known = next((one for one in self._log if one.seq == seq), None)
        if known is None:
            raise KeyError(seq)
        again = self._again(known)
        self._go(again)
        return again.facts()

    def release(self) -> int:
        """Send what was gathered, the newest first, and tell how many."""
        gathered, self._gathered = self._gathered[::-1], []
        for one in gathered:
            self._go(one)
        return len(gathered)

    async def quiet(self) -> None:
        """Wait until nothing is under way, for tests in this process."""
        while self._under_way:
            await asyncio.gather(*self._under_way, return_exceptions=True)

    # -- messages -----------------------------------------------------------------------------------------------------

    def _of_consent(self, consent: Consent) -> _Message | None:
        url = _subscribed(consent.subscription)
        if url is None:
            return None
        shown = self._body(consent)["Data"]
        older = consent.version is not Version.V2_1
        data = {name: value for name, value in shown.items() if older or name not in _NOT_IN_EVENTS}
        meta = self._meta("ConsentId", consent.consent_id, f"/account-access-consents/{consent.consent_id}")
        return _Message(
            subject=consent.consent_id,
            member="Status",
            status=consent.status.value,
            url=url,
            older=older,
            content={"Data": data, "Meta": meta},
        )

    def _of_opening(self, opening: Opening) -> _Message | None:
        url = _subscribed(opening.subscription)
        if url is None:
            return None
        shown = self._opening_body(opening)
        older = opening.version is not OpeningVersion.V2_1
        content: Mapping[str, Any] = shown
        if not older:
            names = ("AccountId", "OpeningStatus", "OpeningStatusUpdateDateTime", "AdditionalStatusInformation")
            data = {name: shown["Data"][name] for name in names if name in shown["Data"]}
            path = f"/accounts/{opening.account_id}/status"
            content = {"Data": data, "Meta": self._meta("AccountId", opening.account_id, path)}
        return _Message(
            subject=opening.account_id,
            member="OpeningStatus",
            status=opening.status,
            url=url,
            older=older,
            content=content,
        )

    def _meta(self, identifier: str, subject: str, resource: str) -> Item:
        return {
            "EventDateTime": instant(self._clock.now()),
            "EventResource": resource,
            "EventType": "Resource.Updated",
            identifier: subject,
        }

    def _must(self, consent: Consent) -> _Message:
        message = self._of_consent(consent)
        if message is None:
            raise ValueError("nobody subscribed to events of this consent")
        return message

    # -- the way of an event ------------------------------------------------------------------------------------------

    def _tell(self, message: _Message) -> None:
        """Send an event as well as `conduct` allows."""
        chance, conduct = self._dice.random, self.conduct
        if conduct.off or chance() < conduct.drop:
            self._file(message).fate = Fate.OFF if conduct.off else Fate.DROPPED
            return
        sent = self._file(message)
        self._queue(sent)
        if chance() < conduct.duplicate:
            self._queue(self._again(sent))
        if chance() < conduct.forge:
            how = tuple(Forgery)[self._forged % len(Forgery)]
            self._forged += 1
            self._queue(self._file(_claiming(message, _LIES[message.member]), how))

    def _queue(self, sent: Sent) -> None:
        if self.conduct.reorder:
            self._gathered.append(sent)
            if len(self._gathered) >= self.conduct.reorder:
                self.release()
        else:
            self._go(sent, after_s=self.conduct.late_s)

    def _file(self, message: _Message, forgery: Forgery | None = None) -> Sent:
        body = self._signed(message, forgery)
        encrypted = self.conduct.encrypted
        if encrypted:
            body = jose.encrypt(body, self._identity.client_encryption_key, self._identity.client_encryption_kid)
        headers = {"content-type": JWT if message.older or not encrypted else JWE}
        if message.older:
            headers["authorization"] = f"Bearer {self._bearer(message.url, forgery)}"
            headers["date"] = format_datetime(self._clock.now(), usegmt=True)
        return self._noted(
            Sent(
                seq=0, at=self._clock.now(), subject=message.subject, status=message.status, url=message.url,
                fate=Fate.HELD, forgery=forgery, body=body, headers=headers,
            )
        )  # fmt: skip

    def _again(self, known: Sent) -> Sent:
        return self._noted(
            Sent(
                seq=0, at=self._clock.now(), subject=known.subject, status=known.status, url=known.url,
                fate=Fate.HELD, forgery=known.forgery, body=known.body, headers=known.headers,
            )
        )  # fmt: skip

    def _noted(self, sent: Sent) -> Sent:
        self._counted += 1
        sent.seq = self._counted
        self._log.append(sent)
        del self._log[:-KEPT_MAX]
        return sent

    def _go(self, sent: Sent, *, after_s: float = 0) -> None:
        if not _on_this_machine(sent.url):
            sent.fate = Fate.NOT_LOCAL
        elif self._loop is not None:
            task = self._loop.create_task(self._deliver(sent, after_s))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _deliver(self, sent: Sent, after_s: float) -> None:
        if after_s:
            await self._sleep(after_s)
        sent.fate = Fate.SENDING
        for wait_s in (0.0, *WAITS_S):
            if wait_s:
                await self._sleep(wait_s)
            status = await self._post(sent)
            sent.answers.append(status)
            if 200 <= status < 300:
                sent.fate = Fate.TAKEN
                return
            if status not in _AGAIN:
                break
        sent.fate = Fate.REFUSED if sent.answers[-1] else Fate.UNANSWERED

    async def _post(self, sent: Sent) -> int:
        headers = {**sent.headers, "x-fapi-interaction-id": str(uuid.uuid4())}
        if self._client is None:
            self._client = httpx.AsyncClient(
                verify=_trusting(self._trust),
                trust_env=False,
                timeout=TIMEOUT_S,
                limits=httpx.Limits(max_keepalive_connections=0),  # minutes lie between two events of a bank
            )
        async with self._at_once:
            with contextlib.suppress(httpx.HTTPError, RuntimeError):  # RuntimeError: the client was renewed meanwhile
                return (await self._client.post(sent.url, content=sent.body, headers=headers)).status_code
        return 0

    def _renew_client(self) -> None:
        """Have the next request made by a client that trusts as we do now."""
        if self._client is not None and self._loop is not None:
            task = self._loop.create_task(self._client.aclose())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        self._client = None

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    # -- signatures ---------------------------------------------------------------------------------------------------

    def _signed(self, message: _Message, forgery: Forgery | None) -> str:
        """The JWS of a message; fresh by the bank's clock and by the unmoved one, like signed answers."""
        readings = self._clock.readings()
        begins = int(min(readings).timestamp())
        audience = "somebody-else" if forgery is Forgery.AUDIENCE else self._identity.client.client_id
        claims = {
            "iss": self._issuer,
            "aud": [audience],
            "iat": begins,
            "nbf": begins,
            "exp": int((max(readings) + LIFE).timestamp()),
            "jti": str(uuid.uuid4()),
            "message": message.content,
        }
        match forgery:
            case Forgery.NONE | Forgery.HS256:
                return self._with_algorithm(claims, forgery)
            case Forgery.SIGNATURE:
                return self._spoilt(claims)
            case Forgery.KEY:
                return jose.sign(claims, self._stranger, self._identity.lfi_kid)
        return jose.sign(claims, self._identity.lfi_signing_key, self._identity.lfi_kid)

    def _bearer(self, url: str, forgery: Forgery | None) -> str:
        """The bearer JWT of the older versions; a forger has no key to sign it with but his own."""
        now = int(min(self._clock.readings()).timestamp())
        claims = {
            "iss": self._issuer, "sub": str(uuid.uuid4()), "aud": url, "iat": now, "nbf": now,
            "exp": int((max(self._clock.readings()) + BEARER_LIFE).timestamp()), "jti": str(uuid.uuid4()),
        }  # fmt: skip
        key = self._identity.lfi_signing_key if forgery is None else self._stranger
        return jose.sign(claims, key, self._identity.lfi_kid)

    def _spoilt(self, claims: Mapping[str, Any]) -> str:
        """The signature of another content."""
        honest = jose.sign({**claims, "message": {}}, self._identity.lfi_signing_key, self._identity.lfi_kid)
        header, _, signature = honest.split(".")
        return f"{header}.{jose.encode(json.dumps(claims).encode())}.{signature}"

    def _with_algorithm(self, claims: Mapping[str, Any], forgery: Forgery) -> str:
        name = {Forgery.NONE: "none", Forgery.HS256: "HS256"}[forgery]
        header = {"alg": name, "typ": "JWT", "kid": self._identity.lfi_kid}
        signed = ".".join(jose.encode(json.dumps(part).encode()) for part in (header, claims))
        public = jose.jwk(self._identity.lfi_signing_key.public_key(), self._identity.lfi_kid)
        secret = json.dumps({"keys": [public]}).encode()
        signature = hmac.new(secret, signed.encode(), hashlib.sha256).digest() if name == "HS256" else b"none"
        return f"{signed}.{jose.encode(signature)}"

    @cached_property
    def _stranger(self) -> rsa.RSAPrivateKey:
        """The forger's own key."""
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _claiming(message: _Message, status: str) -> _Message:
    """The same event, saying another status."""
    return replace(
        message,
        status=status,
        content={**message.content, "Data": {**message.content["Data"], message.member: status}},
    )


def _subscribed(subscription: Mapping[str, Any] | None) -> str | None:
    """Where events go; `None` when nobody wants them."""
    webhook = (subscription or {}).get("Webhook", {})
    return webhook.get("Url") if webhook.get("IsActive") else None


def _on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _trusting(files: tuple[Path, ...]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(files[0]))
    for one in files[1:]:
        try:
            context.load_verify_locations(one)
        except OSError as fault:  # ssl.SSLError is one
            raise ValueError(f"trust: {one.name} holds no certificate ({fault.strerror or 'not PEM'})") from None
    return context
