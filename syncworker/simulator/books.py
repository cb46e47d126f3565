"""Read the bank's books, its log and its clock, and use its verbs, from another process.

The counterpart of `door`: what the audit, the demo and tests use to know what the bank itself says.
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec


class BooksError(Exception):
    """The door refused, or nobody is behind it; the message is the reason."""


class Books:
    """A client of one sandbox's books door.  Use it as an async context manager, or close it.

    Args:
        url: `Sandbox.books_url`.
        key: path of the file with the bearer key, `Sandbox.books_key`.
    """

    def __init__(self, url: str, key: Path) -> None:
        secret = key.read_text(encoding="utf-8").strip()
        self._client = httpx.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {secret}"}, trust_env=False, timeout=120
        )

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Books":
        """The client for a running sandbox, from its `sandbox.json`."""
        return cls(facts["books_url"], Path(facts["books_key"]))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def customers(self) -> list[dict[str, Any]]:
        """`[{user, name, accounts}]`."""
        answer: list[dict[str, Any]] = await self._get("/customers")
        return answer

    async def consents(self) -> list[dict[str, Any]]:
        """Facts of each consent the Hub knows; see `bank.Bank.consent_facts`."""
        answer: list[dict[str, Any]] = await self._get("/consents")
        return answer

    async def openings(self) -> list[dict[str, Any]]:
        """Facts of each account opening; see `bank.Bank.opening_facts`."""
        answer: list[dict[str, Any]] = await self._get("/openings")
        return answer

    async def events(self) -> list[dict[str, Any]]:
        """What was told to the TPP, and how it was answered; see `events.Sent`."""
        answer: list[dict[str, Any]] = await self._get("/events")
        return answer

    async def books(self, consent_id: str | None = None, *, repeats: bool = False) -> list[dict[str, Any]]:
        """What the bank has, per consent; see `bank.Bank.books`.

        Numbers under `item` come as `int` or, exactly, as `Decimal`.
        """
        query = {} if consent_id is None else {"consent_id": consent_id}
        query |= {"repeats": "1"} if repeats else {}
        content = await self._send("GET", "/books", params=query)
        answer: dict[str, Any] = json.loads(content, parse_float=Decimal)
        consents: list[dict[str, Any]] = answer["consents"]
        return consents

    async def log(self, since: int = 0) -> dict[str, Any]:
        """`{entries, next, counters, in_flight, max_in_flight, max_data_in_flight}`; see `served.Served`."""
        answer: dict[str, Any] = await self._get("/log", since=since)
        return answer

    async def tokens(self, since: int = 0) -> dict[str, Any]:
        """`{entries, next}`; see `served.TokenAnswer`."""
        answer: dict[str, Any] = await self._get("/tokens", since=since)
        return answer

    async def faults(self) -> dict[str, Any]:
        """`{latency, faults}` in force."""
        answer: dict[str, Any] = await self._get("/faults")
        return answer

    async def clock(self) -> dict[str, Any]:
        """`{now, offset_s}`."""
        answer: dict[str, Any] = await self._get("/clock")
        return answer

    async def do(self, verb: str, /, **arguments: Any) -> Any:
        """Use a verb of `bank.VERBS`, with amounts and instants as text; gives its result.

        Raises:
            BooksError: unknown verb or arguments that do not fit.
        """
        answer = await self._send("POST", f"/verbs/{verb}", content=msgspec.json.encode(arguments))
        return json.loads(answer)["result"]

    async def _get(self, path: str, **query: int) -> Any:
        return json.loads(await self._send("GET", path, params=query))

    async def _send(self, method: str, path: str, **options: Any) -> bytes:
        try:
            answer = await self._client.request(method, path, **options)
        except httpx.TransportError as error:
            raise BooksError(f"the bank does not answer ({type(error).__name__})") from error
        if answer.status_code != 200:
            raise BooksError(f"{answer.status_code}: {answer.text[:200]}")
        return answer.content
