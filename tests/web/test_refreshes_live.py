"""Refreshes through real processes: the web process, `up` with its worker and broker, and a bank."""

import asyncio
import os
import re
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ground.processes import Nursery, Spawned
from tests.web.house import HTML, asked
from tests.web.live import Town, town

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

SCOPES = ("consents:read", "consents:write", "connections:read", "refreshes:write")
CUSTOMER = {"ip_address": "2001:db8::77", "auth_date": "2026-11-20T08:30:00+04:00", "user_agent": "Browser of a user"}


@dataclass
class Site:
    """A town with a worker, and a connection whose first sync is done."""

    town: Town
    up: Spawned
    client: httpx.AsyncClient
    connection_id: str

    async def ask(self, *, wait: int = 20, **body: Any) -> dict[str, Any]:
        body = {"connection_id": self.connection_id, **body}
        answer = await self.client.post("/v1/refreshes", params={"wait": wait}, json=body)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def ended(self, refresh: dict[str, Any], *, within: int = 60) -> dict[str, Any]:
        async with asyncio.timeout(within):
            while refresh["ended_at"] is None:
                answer = await self.client.get(f"/v1/refreshes/{refresh['refresh_id']}", params={"wait": 20})
                refresh = answer.json()
        return refresh

    async def runs(self) -> int:
        listed = await asyncio.to_thread(self.town.house.run, "syncs", "list", "--limit", "1000", "--json")
        return len(listed.json)


@asynccontextmanager
async def site(folder: Path, nursery: Nursery) -> AsyncIterator[Site]:
    """Ticks are a minute apart: what is served sooner was hurried."""
    async with town(folder, nursery, settings="tick_seconds = 60\nlease_seconds = 5\n") as place:
        wanted = [part for scope in SCOPES for part in ("--scope", scope)]
        made = (await asyncio.to_thread(place.house.run, "apikeys", "create", *wanted, "--json")).json
        up = nursery.syncworker("up", "--log-level", "debug", cwd=place.house.folder, env=place.house.environment())
        await up.soon(lambda child: " ready." in child.output(), timeout=90)
        context = ssl.create_default_context(cafile=str(place.bank.ca_bundle))
        keyed = {"authorization": f"Bearer {made['key']}"}
        options: dict[str, Any] = {"verify": context, "trust_env": False, "base_url": place.url, "timeout": 60}
        async with httpx.AsyncClient(headers=keyed, **options) as client, httpx.AsyncClient(**options) as browser:
            body = asked(return_url=place.product.url)
            begun = (await client.post("/v1/consents", json=body)).json()
            led = await browser.get(begun["authorize_url"], headers=HTML)
            redirect = await place.bank.decide(led.headers["location"], user=place.bank.users[0], approve=True)
            await browser.get(redirect, headers=HTML)
            stands = (await client.get(f"/v1/authorizations/{begun['authorization_id']}")).json()
            one = Site(place, up, client, stands["connection_id"])
            assert (await one.ended(await one.ask()))["status"] == "complete"
            yield one


async def test_a_hundred_at_once_make_at_most_two_runs(tmp_path: Path, worker_process: Nursery) -> None:
    """Through the web process and a worker that takes what is hurried: each ends, and no output names the customer."""
    async with site(tmp_path, worker_process) as place:
        runs, before = await place.runs(), len(place.town.bank.bank.log.served())
        place.town.bank.bank.latency(4.0, "balances")  # so that all hundred are here before the first run has ended
        answers = await asyncio.gather(
            *(place.ask(customer=CUSTOMER, resources=["balances"], wait=20) for _ in range(100))
        )
        ends = [await place.ended(one) for one in answers]

        assert {one["status"] for one in ends} == {"complete"}
        assert await place.runs() <= runs + 2
        served = place.town.bank.bank.log.served()[before:]
        assert {one.operation for one in served if one.attended} == {"balances"}
        assert [one.operation for one in served if not one.attended and one.operation == "balances"] == []
        shown = await asyncio.to_thread(place.town.house.run, "refreshes", "show", ends[0]["refresh_id"], "--json")
        listed = await asyncio.to_thread(place.town.house.run, "refreshes", "show", ends[0]["refresh_id"])
        unknown = await asyncio.to_thread(place.town.house.run, "refreshes", "show", "rfr_unknown")
        assert (shown.json["status"], shown.json["attended"], len(shown.json["connections"])) == ("complete", True, 1)
        assert {one["outcome"] for one in shown.json["listings"]} == {"unchanged"}
        assert "unchanged" in listed.stdout
        assert (unknown.code, "refresh_id: no refresh" in unknown.stderr) == (2, True)
        said = place.town.process.output() + place.up.output() + shown.said + listed.said
        for value in ("2001:db8::77", "Browser of a user", "04:30:00"):
            assert value not in said


async def test_a_refresh_outlives_the_worker_and_the_web_process_that_began_it(
    tmp_path: Path, worker_process: Nursery
) -> None:
    """`kill -9` of the worker in the middle of the run: another one makes it again, and the refresh ends."""
    async with site(tmp_path, worker_process) as place:
        bank = place.town.bank.bank
        bank.hang("balances", times=None)
        before = len(bank.log.served())
        refresh = await place.ask(customer=CUSTOMER, resources=["balances", "accounts"], wait=0)
        async with asyncio.timeout(30):  # the accounts were read, and the balances are under way
            while not any(one.operation == "accounts" for one in bank.log.served()[before:]):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        workers = re.findall(r"up: .*\bworker (\d+)", place.up.output())
        os.kill(int(workers[-1]), signal.SIGKILL)
        bank.clear_faults()
        ended = await place.ended(refresh, within=150)

        assert ended["status"] == "complete"
        assert ended["attended"]
        assert place.up.output().count(" ready.") >= 2
