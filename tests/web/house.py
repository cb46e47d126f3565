"""What the tests of `web` stand on: a bank, the whole web application in this process, a product and its users."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from starlette.types import ASGIApp

from syncworker.settings import Settings
from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.values import ConsentId
from syncworker.store.api_keys import Scope
from syncworker.store.consents import StoredConsent
from syncworker.store.unit_of_work import Store

PUBLIC_URL = "https://tpp.example"
RETURN_URL = "https://app.example/banks/done"
WEB = f"""
[web]
url = "{PUBLIC_URL}"
return_urls = ["{RETURN_URL.rpartition("/")[0]}"]
key_per_second = 1000
address_per_second = 1000
"""

HTML = {"accept": "text/html,application/xhtml+xml"}
EVERYTHING = tuple(Scope)


def asked(**changes: Any) -> dict[str, Any]:
    """The body of `POST /v1/consents`: accounts and balances for ninety days."""
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=90)
    body = {
        "lfi": "sandbox",
        "user_ref": "customer-1",
        "permissions": ["ReadAccountsDetail", "ReadBalances"],
        "expires_at": end.isoformat(),
        "return_url": f"{RETURN_URL}?page=2",
    }
    return {name: value for name, value in (body | changes).items() if value is not None}


@dataclass
class WebHouse:
    """One tenant's web process, its product, its users' browsers, and the bank.

    Attributes:
        product: the product's backend: it has a key with every scope.
        browser: a user's browser: it keeps cookies and follows nothing by itself.
        heard: every request that the bank got, as it came.
    """

    settings: Settings
    bank: Sandbox
    app: ASGIApp
    store: Store
    product: httpx.AsyncClient
    browser: httpx.AsyncClient
    another: Callable[..., httpx.AsyncClient]
    heard: list[Any] = field(default_factory=list, repr=False)
    keys: list[str] = field(default_factory=list, repr=False)

    async def key(self, scopes: Collection[Scope] = EVERYTHING, **changes: Any) -> str:
        """A new key."""
        async with self.store.writing() as unit:
            at = await unit.now()
            _, key = await unit.api_keys.create("a test", scopes, at=at, **changes)
            await unit.commit()
        self.keys.append(key.get_secret_value())
        return self.keys[-1]

    async def begin(self, **changes: Any) -> dict[str, Any]:
        """An authorisation the product asked for."""
        answer = await self.product.post("/v1/consents", json=asked(**changes))
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def set_out(self, begun: dict[str, Any], *, browser: httpx.AsyncClient | None = None) -> str:
        """The user opens the link: the bank's address they are led to."""
        answer = await (browser or self.browser).get(begun["authorize_url"], headers=HTML)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def answer(self, address: str, *, approve: bool = True, user: int = 0) -> str:
        """The user decides at the bank: path and query they come back with."""
        redirect = httpx.URL(await self.bank.decide(address, user=self.bank.users[user], approve=approve))
        return redirect.raw_path.decode()

    async def come_back(self, back: str, *, browser: httpx.AsyncClient | None = None) -> httpx.Response:
        """The user's browser arrives at the callback."""
        return await (browser or self.browser).get(back, headers=HTML)

    async def connect(self, *, user: int = 0, **changes: Any) -> StoredConsent:
        """A consent, the whole way."""
        begun = await self.begin(**changes)
        shown = await self.come_back(await self.answer(await self.set_out(begun), user=user))
        assert shown.status_code == 200, shown.text
        stands = await self.product.get(f"/v1/authorizations/{begun['authorization_id']}")
        return await self.consent(stands.json()["consent_id"])

    async def consent(self, consent_id: str) -> StoredConsent:
        """A consent as it is stored."""
        async with self.store.reading() as unit:
            held = await unit.consents.get(ConsentId(consent_id))
        assert held is not None
        return held

    def exchanges(self) -> int:
        """How many codes the bank was given."""
        return sum(entry.grant_type == "authorization_code" for entry in self.bank.bank.log.tokens())


Opener = Callable[..., Awaitable[WebHouse]]
