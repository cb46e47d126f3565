"""`syncworker web` and `syncworker apikeys`, as real processes: how they begin, what they say, how they end."""

import asyncio
import json
import re
import ssl
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from syncworker.store.keyring import KeyRing
from tests.cli.house import House
from tests.ground.postgres import free_port
from tests.ground.processes import Nursery
from tests.web.house import HTML, asked
from tests.web.live import town

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]


async def test_nothing_secret_is_in_any_output(tmp_path: Path, worker_process: Nursery) -> None:
    """Every way a callback can end at DEBUG; then what was said and every page is searched."""
    secrets: dict[str, str] = {}
    pages: list[str] = []
    async with town(tmp_path, worker_process) as place:
        scopes = ("consents:read", "consents:write", "connections:read", "connections:iban")
        wanted = [part for scope in scopes for part in ("--scope", scope)]
        made = (await asyncio.to_thread(place.house.run, "apikeys", "create", *wanted, "--json")).json
        secrets["api key"] = made["key"]
        context = ssl.create_default_context(cafile=str(place.bank.ca_bundle))
        async with httpx.AsyncClient(verify=context, trust_env=False, base_url=place.url) as client:
            keyed = {"authorization": f"Bearer {made['key']}"}

            async def gone(name: str, *, approve: bool, times: int = 1, forged: bool = False) -> None:
                begun = (
                    await client.post("/v1/consents", json=asked(return_url=place.product.url), headers=keyed)
                ).json()
                led = await client.get(begun["authorize_url"], headers=HTML)
                redirect = await place.bank.decide(led.headers["location"], user=place.bank.users[0], approve=approve)
                if forged:
                    redirect = re.sub("code=[^&]*", "code=forgedforgedforged", redirect)
                query = dict(parse_qsl(urlsplit(redirect).query))
                secrets[f"{name}: link"] = begun["authorization_id"]
                secrets[f"{name}: request_uri"] = dict(parse_qsl(urlsplit(led.headers["location"]).query))[
                    "request_uri"
                ]
                secrets[f"{name}: cookie"] = led.headers["set-cookie"].split(";")[0].partition("=")[2]
                secrets[f"{name}: state"] = query["state"]
                if "code" in query:
                    secrets[f"{name}: code"] = query["code"]
                pages.extend([(await client.get(redirect, headers=HTML)).text for _ in range(times)])

            await gone("authorised", approve=True, times=2)
            await gone("declined", approve=False)
            await gone("forged", approve=True, forged=True)
            place.bank.bank.answers(500, operation="token", times=1)
            await gone("unanswered", approve=True)
            unknown = await client.get("/callback?code=strangecode&state=strangestate", headers=HTML)
            wrong = await client.get(
                "/v1/connections?user_ref=strangeuser", headers={"authorization": "Bearer strangekey"}
            )
            pages += [unknown.text, wrong.text]
            secrets |= {"code of a stranger": "strangecode", "key of a stranger": "strangekey"}
            listed = await client.get("/v1/connections", headers=keyed)
        code = await asyncio.to_thread(place.process.stop, grace=30)
        output = place.process.output()
        secrets["keyring"] = (place.house.folder / "keyring").read_text().split()[-1]

    headings = [re.search(r"<h1>(.*?)</h1>", page) for page in pages[:5]]
    assert [found and found[1] for found in headings] == [
        "Your bank is connected",
        "This step was already taken",
        "You did not agree",
        "Your bank did not complete it",
        "Your bank did not answer",
    ]
    assert (listed.status_code, code) == (200, 0), output
    assert [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert sorted(name for name, secret in secrets.items() if secret in output) == []
    assert sorted(name for name, secret in secrets.items() if any(secret in page for page in pages)) == []


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A folder with a key ring and a schema."""
    KeyRing.generate(tmp_path / "keyring")
    one = House(tmp_path)
    one.toml.write_text('keyring = "keyring"\n')
    assert one.run("db", "upgrade").code == 0
    return one


def test_a_key_is_shown_once_listed_without_and_revoked(house: House) -> None:
    """The noun's three verbs; an unknown id is told so."""
    made = house.run("apikeys", "create", "--scope", "consents:read", "--name", "app", "--days", "30", "--json")
    listed = house.run("apikeys", "list", "--json")
    revoked = house.run("apikeys", "revoke", made.json["key_id"], "--json")
    unknown = house.run("apikeys", "revoke", "none")
    (row,) = listed.json

    assert made.json["key"].startswith(f"swk_{made.json['key_id']}_")
    assert (row["name"], row["scopes"], row["revoked_at"]) == ("app", ["consents:read"], None)
    assert revoked.json["revoked_at"] is not None
    assert made.json["key"] not in listed.said + revoked.said + "".join(house.tables()["api_key"])
    assert (unknown.code, "key_id: there is no such key" in unknown.stderr) == (2, True)


def test_a_host_there_is_not_is_named(house: House) -> None:
    """One line, no traceback, nothing left running."""
    ended = house.run("web", env={"SYNCWORKER_WEB__HOST": "no such host"})

    assert (ended.code, "Traceback" in ended.said) == (1, False)
    assert "web.host: 'no such host' is no address of this machine" in ended.stderr


def test_up_runs_the_web_process_when_it_is_enabled(house: House, worker_process: Nursery) -> None:
    """Beside workers and beat; it answers, and ends with them."""
    port = free_port()
    house.toml.write_text(house.toml.read_text() + f"tick_seconds = 1\n[web]\nenabled = true\nport = {port}\n")
    up = worker_process.syncworker("up", cwd=house.folder, env=house.environment())
    up.until(lambda child: f"web | web: listens at http://127.0.0.1:{port}" in child.output(), timeout=90)
    health = httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)
    up.until(lambda child: " ready." in child.output(), timeout=90)

    assert health.json() == {"status": "ok"}
    assert (up.stop(grace=60), worker_process.processes_left_behind()) == (0, []), up.output()
