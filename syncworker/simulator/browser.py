"""A user's browser at the consent page: follows it over HTTPS and comes back with the redirect, for scripts and tests.

It knows what a page shows (forms, buttons, boxes) and nothing of the bank's insides.
"""

import ssl
from collections.abc import Collection
from html.parser import HTMLParser
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urljoin

import httpx

STEPS_MAX: Final = 8


class PageError(Exception):
    """The consent page did not lead on; the message names the status it showed."""


class Browser:
    """A browser that trusts the sandbox's authority.  Use it as an async context manager."""

    def __init__(self, ca_bundle: Path) -> None:
        context = ssl.create_default_context(cafile=str(ca_bundle))
        self._client = httpx.AsyncClient(verify=context, trust_env=False, timeout=30)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def decide(
        self,
        authorization_url: str,
        *,
        user: str,
        approve: bool = True,
        second: bool = False,
        accounts: Collection[str] | None = None,
    ) -> str:
        """Log in as `user`, approve or decline, and give the redirect URL the bank sends the user to.

        Args:
            second: approve as the first of two authorisers.
            accounts: AccountIds to leave ticked; all unless given.

        Raises:
            PageError: a page says that it cannot go on.
        """
        origin = httpx.URL(authorization_url)
        answer = await self._client.get(authorization_url)
        for _ in range(STEPS_MAX):
            if answer.is_redirect:
                target = urljoin(str(answer.request.url), answer.headers["location"])
                if httpx.URL(target).netloc != origin.netloc or not httpx.URL(target).path.startswith(origin.path):
                    return target
                answer = await self._client.get(target)
                continue
            if answer.status_code != 200:
                break
            form = _Form(answer.text)
            decision = ("approve_first" if second else "approve") if approve else "decline"
            fields = form.fill(user=user, decision=decision, accounts=accounts)
            answer = await self._client.post(urljoin(str(answer.request.url), form.action), data=fields)
        raise PageError(f"the consent page did not lead on: status {answer.status_code}")


class _Form(HTMLParser):
    """The one form of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action = ""
        self.ticked: list[str] = []
        self.buttons: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        if tag == "form":
            self.action = facts.get("action") or ""
        elif tag == "button" and facts.get("name"):
            self.buttons.add(facts["name"] or "")
        elif tag == "input" and facts.get("type") == "checkbox" and "checked" in facts:
            self.ticked.append(facts.get("value") or "")

    def fill(self, *, user: str, decision: str, accounts: Collection[str] | None) -> dict[str, str | list[str]]:
        """What a person would send."""
        if "user" in self.buttons:
            return {"user": user}
        kept = [one for one in self.ticked if accounts is None or one in accounts]
        return {"decision": decision, "account": kept}
