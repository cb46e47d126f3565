"""One sandbox bank, put together and listening on four loopback ports, or five, inside the running event loop."""

import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import Callable, Collection, Iterable
from datetime import date, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from syncworker.simulator.asgi import Door, Host, Request
from syncworker.simulator.authorization import PARTICIPANTS, Addresses, Alias, Issuer, TokenServer
from syncworker.simulator.bank import Bank
from syncworker.simulator.browser import Browser
from syncworker.simulator.clock import BankClock
from syncworker.simulator.consents import Consents
from syncworker.simulator.counter import Counter
from syncworker.simulator.door import BooksDoor
from syncworker.simulator.events import Events
from syncworker.simulator.faults import Faults
from syncworker.simulator.grants import Grants, Reuse, Rotation
from syncworker.simulator.identity import Client, Identity, load_or_create, write_secret
from syncworker.simulator.ledger import Ledger
from syncworker.simulator.openings import Openings, WithOpenings
from syncworker.simulator.people import People
from syncworker.simulator.requests import AssertionIds, Reader
from syncworker.simulator.resources import Resources, base_path
from syncworker.simulator.served import Log
from syncworker.simulator.servers import HOST, Listener, bind, tls
from syncworker.simulator.signing import Signer, Signing
from syncworker.standard.values import local_date
from syncworker.standard.versions import Version

REDIRECT_URI: Final = "https://tpp.example/callback"
FACTS: Final = "sandbox.json"
SETTLED_EVERY_S: Final = 0.5
"""How often the bank looks for consents whose end has come."""


class Sandbox:
    """A bank that lives as long as the `async with` around it.

    Args:
        data_dir: keys, certificates and used assertion ids; made when missing, used again when there.
        versions: of the standard, any of v1.2, v2.0 and v2.1; each consent is served in its own.
        customers: how many people have accounts.
        seed: chooses their lives.
        anchor: the last day of their history, a UAE date; today's when not given.
        page_size: transactions or statements on a page; the other listings come whole.
        access_token_seconds: life of an access token.
        rotation: `always`, `never` or `omit`.
        reuse: `revoke_grant` or `grace:SECONDS`.
        base_port: auth1 listens there, as1, rs1 and the books on the next three; 0 lets the system choose.
        redirect_uri: the one the TPP has registered.
        client_id: the TPP's; made once and kept unless given.
        strays: serve a few items that break the standard as real LFIs do.
        signed_answers: `asked`, `always` or `never`: when rs1 answers with signed JWTs.
        mtls_aliases: serve the token endpoint and PAR at a fifth port too, one that the system chooses, and name it in
            the discovery document as `mtls_endpoint_aliases` (RFC 8705 §5).
        now: where the bank's clock gets its time; the computer's unless given.
        witness: is told each request at auth, as and rs as it came: (host, request).

    Raises:
        OSError: a fixed port is taken.
        ValueError: no version, or one that is none of the standard's.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        versions: Iterable[str] = (Version.V2_1,),
        customers: int = 24,
        seed: int = 1,
        anchor: date | None = None,
        page_size: int = 100,
        access_token_seconds: float = 600,
        rotation: str = "always",
        reuse: str = "revoke_grant",
        base_port: int = 0,
        redirect_uri: str = REDIRECT_URI,
        client_id: str | None = None,
        strays: bool = True,
        signed_answers: str = "asked",
        mtls_aliases: bool = False,
        now: Callable[[], datetime] | None = None,
        witness: Callable[[str, Request], None] = lambda _, request: None,
    ) -> None:
        self.data_dir = data_dir
        self.versions = tuple(sorted({Version(one) for one in versions}, key=lambda one: one.rank))
        if not self.versions:
            raise ValueError(f"versions: name at least one of {', '.join(Version)}")
        self.identity: Identity = load_or_create(data_dir, redirect_uri=redirect_uri, client_id=client_id)
        clock = BankClock(now) if now else BankClock()
        people = People(customers=customers, seed=seed, anchor=anchor or local_date(clock.now()), strays=strays)
        self.bank = Bank(
            clock=clock,
            ledger=Ledger(people.users, people.make),
            consents=Consents(clock),
            grants=Grants(
                clock,
                access_token_seconds=access_token_seconds,
                rotation=Rotation(rotation),
                reuse=Reuse.read(reuse),
            ),
            faults=Faults(),
            log=Log(),
        )
        self.bank.identity = self.identity
        self.signed_answers = Signing(signed_answers)
        self._mtls_aliases = mtls_aliases
        self.witness = witness
        self.page_size = page_size
        self.base_port = base_port
        self.books_key = data_dir / "books.key"
        self.addresses = Addresses("", "", "")
        self.books_url = ""
        self._open = contextlib.AsyncExitStack()
        self._browser: Browser | None = None

    @property
    def client(self) -> Client:
        """The registered TPP: client id, redirect URI, paths of its keys."""
        return self.identity.client

    @property
    def ca_bundle(self) -> Path:
        """The authority that certified the bank's server."""
        return self.identity.ca_bundle

    @property
    def issuer(self) -> str:
        """auth1: `https://127.0.0.1:port`."""
        return self.addresses.issuer

    @property
    def discovery_url(self) -> str:
        """The OpenID configuration of the issuer."""
        return f"{self.issuer}/.well-known/openid-configuration"

    @property
    def resource_base_url(self) -> str:
        """rs1 with the base path of the Account Information API, in the newest version served."""
        return self.resource_base_urls[self.versions[-1]]

    @property
    def resource_base_urls(self) -> dict[Version, str]:
        """The same for each version served, oldest first."""
        return {version: self.addresses.resources + base_path(version) for version in self.versions}

    @property
    def opening_base_urls(self) -> dict[str, str]:
        """rs1 with the base path of each version of the account-opening API."""
        return {} if self.bank.openings is None else self.bank.openings.base_urls

    @property
    def users(self) -> tuple[str, ...]:
        """Login names of the customers."""
        return self.bank.ledger.users

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            sockets = [bind(self.base_port and self.base_port + number) for number in range(4)]
            if self._mtls_aliases:
                sockets.append(bind(0))
            for one in sockets:
                stack.callback(one.close)
            ports = [one.getsockname()[1] for one in sockets]
            self.addresses = Addresses(*(f"https://{HOST}:{port}" for port in (*ports[:3], *ports[4:])))
            self.books_url = f"http://{HOST}:{ports[3]}"
            key = secrets.token_urlsafe(32)
            write_secret(self.books_key, key)
            mutual = [tls(self.identity, clients=True) for _ in range(3)]
            contexts = (tls(self.identity, clients=False), *mutual[:2], None, *mutual[2:][: self._mtls_aliases])
            for door, bound, context in zip(self._doors(stack, key), sockets, contexts, strict=True):
                listener = Listener(door, bound, context)
                await listener.start()
                stack.push_async_callback(listener.stop)
            events = self._sender()
            await events.start()
            stack.push_async_callback(events.stop)
            settling = asyncio.create_task(self._settle())
            stack.push_async_callback(_ended, settling)
            stack.callback(self.bank.faults.clear)
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Close all ports; takes a few tenths of a second at most."""
        if self._browser is not None:
            await self._browser.close()
            self._browser = None
        await self._open.aclose()

    async def decide(
        self,
        authorization_url: str,
        *,
        user: str,
        approve: bool = True,
        second: bool = False,
        accounts: Collection[str] | None = None,
    ) -> str:
        """Play the user's browser through the consent page over HTTPS and give the redirect URL.

        `second`: as the first of two authorisers; the other one decides by `Bank.agree` or `Bank.reject`.
        """
        if self._browser is None:
            self._browser = Browser(self.ca_bundle)
        return await self._browser.decide(
            authorization_url, user=user, approve=approve, second=second, accounts=accounts
        )

    async def approve(self, authorization_url: str, *, user: str) -> str:
        """`decide`, with Approve for all accounts."""
        return await self.decide(authorization_url, user=user)

    def facts(self) -> dict[str, Any]:
        """What others need to reach the bank: URLs, ids and paths, no secret."""
        client = self.client
        return {
            "issuer": self.issuer,
            "discovery_url": self.discovery_url,
            "participants_url": self.issuer + PARTICIPANTS,
            "resource_base_url": self.resource_base_url,
            "opening_base_urls": self.opening_base_urls,
            "resource_base_urls": {version.value: url for version, url in self.resource_base_urls.items()},
            "ca_bundle": str(self.ca_bundle),
            "client": {
                "client_id": client.client_id,
                "redirect_uri": client.redirect_uri,
                "signing_key": str(client.signing_key),
                "signing_kid": client.signing_kid,
                "transport_certificate": str(client.transport_certificate),
                "transport_key": str(client.transport_key),
            },
            "events": {
                "encryption_kid": self.identity.client_encryption_kid,
                "encryption_key": str(self.identity.encryption_key),
                "web_certificate": str(self.identity.web_certificate[0]),
                "web_key": str(self.identity.web_certificate[1]),
            },
            "books_url": self.books_url,
            "books_key": str(self.books_key),
            "users": list(self.users),
            "pid": os.getpid(),
        }

    def write_facts(self) -> Path:
        """Write `facts()` to `sandbox.json` in the data directory, as one step."""
        return write_secret(self.data_dir / FACTS, json.dumps(self.facts(), indent=2) + "\n")

    def forget_facts(self) -> None:
        """Remove `sandbox.json`: nobody shall look for a bank that is not there."""
        (self.data_dir / FACTS).unlink(missing_ok=True)

    def _sender(self) -> Events:
        """The sender of events, told of every move from now on."""
        bank, openings, resources = self.bank, self.bank.openings, self.bank.resources
        assert openings is not None
        assert resources is not None
        events = bank.events = Events(
            issuer=self.issuer, identity=self.identity, clock=bank.clock, body=resources.consent_body,
            opening_body=openings.body,
        )  # fmt: skip
        openings.on_move = events.opening_moved
        return events

    async def _settle(self) -> None:
        """Let consents expire by themselves, also when nobody asks about them."""
        while True:
            await asyncio.sleep(SETTLED_EVERY_S)
            self.bank.consents.settle()

    def _doors(self, stack: contextlib.AsyncExitStack, key: str) -> tuple[Any, ...]:
        bank = self.bank
        ids = AssertionIds(self.data_dir / "assertion-ids", now=bank.clock.now())
        stack.callback(ids.close)
        reader = Reader(self.identity, issuer=self.issuer, versions=self.versions, clock=bank.clock, assertion_ids=ids)
        resources = bank.resources = Resources(
            base_url=self.addresses.resources,
            versions=self.versions,
            page_size=self.page_size,
            ledger=bank.ledger,
            consents=bank.consents,
            grants=bank.grants,
            clock=bank.clock,
        )
        acts = {name: getattr(bank, name) for name in ("revoke", "suspend", "lift", "agree", "reject")}
        counter = Counter(ledger=bank.ledger, consents=bank.consents, clock=bank.clock, acts=acts)
        issuer = Issuer(
            addresses=self.addresses, versions=self.versions, identity=self.identity, ledger=bank.ledger,
            consents=bank.consents, grants=bank.grants, clock=bank.clock, counter=counter,
        )  # fmt: skip
        tokens = TokenServer(
            addresses=self.addresses, versions=self.versions, identity=self.identity, reader=reader,
            ledger=bank.ledger, consents=bank.consents, grants=bank.grants, resources=resources, clock=bank.clock,
            log=bank.log,
        )  # fmt: skip
        openings = bank.openings = Openings(
            base_url=self.addresses.resources, issuer=self.issuer, identity=self.identity, ledger=bank.ledger,
            grants=bank.grants, clock=bank.clock,
        )  # fmt: skip
        hosts: tuple[Host, ...] = (issuer, tokens)
        signer = bank.signer = Signer(
            issuer=self.issuer, audience=self.client.client_id, key=self.identity.lfi_signing_key,
            kid=self.identity.lfi_kid, clock=bank.clock, mode=self.signed_answers,
        )  # fmt: skip
        common: dict[str, Any] = {"clock": bank.clock, "log": bank.log, "faults": bank.faults, "witness": self.witness}
        doors = [Door(host, **common) for host in hosts]
        doors.append(Door(WithOpenings(resources, openings), **common, signed=signer.signed))
        aliases = [Door(Alias(tokens), **common)] if self._mtls_aliases else []
        return (*doors, BooksDoor(bank, key=key), *aliases)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
