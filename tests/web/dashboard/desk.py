"""An operator's browser before filled tables."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx

from syncworker.store.api_keys import Scope
from tests.web.dashboard.filled import Filled, fill
from tests.web.house import PUBLIC_URL, WebHouse

COOKIE = "__Host-syncworker-ops"
ORIGIN = {"origin": PUBLIC_URL}
PATHS = (
    "/ops/", "/ops/connections", "/ops/connections/{connection}", "/ops/lfis", "/ops/lfis/{lfi}", "/ops/runs",
    "/ops/runs/{run}", "/ops/work", "/ops/events", "/ops/events?state=refused", "/ops/events/{event}",
    "/ops/events/q{refused}", "/ops/webhooks", "/ops/openings", "/ops/openings/{opening}", "/ops/exports",
    "/ops/exports?series=nightly", "/ops/cost",
    "/ops/processes", "/ops/audit", "/ops/audit/{audit}", "/ops/actions/sync/{connection}",
)  # fmt: skip
"""Every page, with what its path names."""


@dataclass
class Desk:
    """The browser of an operator whose key may act, signed in."""

    house: WebHouse
    filled: Filled
    browser: httpx.AsyncClient

    @classmethod
    async def opened(cls, house: WebHouse) -> Self:
        """Fill the tables and sign in."""
        desk = cls(house, await fill(house.store), house.another())
        await desk.sign_in(desk.browser, Scope.OPS_WRITE)
        return desk

    async def sign_in(self, browser: httpx.AsyncClient, *scopes: Scope) -> httpx.Response:
        """Sign in with a new key."""
        key = await self.house.key(scopes)
        answer = await browser.post("/ops/sign-in", data={"key": key}, headers=ORIGIN)
        assert answer.status_code == 303, answer.text
        return answer

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """Open a page."""
        return await self.browser.get(path, **options)

    async def form_of(self, path: str) -> dict[str, str]:
        """The hidden fields of a page's last form."""
        page = (await self.get(path)).text
        return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))

    async def act(self, action: str, subject: str, **fields: str) -> httpx.Response:
        """Send the form of an action, as its page has it."""
        path = f"/ops/actions/{action}/{subject}"
        form = await self.form_of(path)
        return await self.browser.post(path, data={**form, "reason": "a test", **fields}, headers=ORIGIN)

    def paths(self) -> Sequence[str]:
        """Every page of these tables."""
        made = self.filled
        ids = {
            "connection": made.hostile, "lfi": "bank-two", "run": made.runs[-1], "event": made.events[-1],
            "refused": made.refused[0], "opening": made.openings[0], "audit": made.audits[0],
        }  # fmt: skip
        return [path.format(**ids) for path in PATHS]
