"""A real browser goes the user's way: the link, the bank's pages, the callback, back to the product."""

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from tests.ground.processes import Nursery
from tests.web.chromium import Chromium, binary
from tests.web.house import asked
from tests.web.live import Town, town

pytestmark = [
    pytest.mark.live,
    pytest.mark.timeout(240),
    pytest.mark.skipif(binary() is None, reason="no Chromium on this machine (apt-get install chromium)"),
]


def picture(folder: Path, name: str) -> Path:
    """Where a picture goes; `SYNCWORKER_TEST_PICTURES` names a folder that outlives the run."""
    kept = Path(os.environ.get("SYNCWORKER_TEST_PICTURES", folder))
    return kept / f"{name}.png"


async def begin(town: Town) -> str:
    """The link a product sends its user's browser to."""
    made = await asyncio.to_thread(town.house.run, "apikeys", "create", "--scope", "consents:write", "--json")
    context = ssl.create_default_context(cafile=str(town.bank.ca_bundle))
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        answer = await client.post(
            f"{town.url}/v1/consents",
            json=asked(return_url=town.product.url),
            headers={"authorization": f"Bearer {made.json['key']}"},
        )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["authorize_url"])


def drive(link: str, folder: Path) -> dict[str, Any]:
    """The user's part."""
    seen: dict[str, Any] = {}
    with Chromium(folder / "profile") as browser:
        browser.goto(link)
        browser.click("button[name=user]")
        browser.until("!!document.querySelector('button[value=approve]')")
        browser.screenshot(picture(folder, "bank"))
        browser.click("button[value=approve]")
        browser.until("document.title === 'Your bank is connected'")
        browser.screenshot(picture(folder, "connected"))
        seen["done"] = browser.text()
        seen["scripts"] = browser.value("document.scripts.length")
        seen["cookie in scripts"] = browser.value("document.cookie")
        seen["cookies"] = browser.send("Network.getCookies")["cookies"]
        browser.send("Page.reload")
        browser.until("document.title === 'This step was already taken'")
        browser.screenshot(picture(folder, "already"))
        seen["complaints"] = browser.complaints()
        browser.until("document.title === 'App'")
        seen["end"] = browser.value("location.href")
        seen["referrer"] = browser.value("document.referrer")
    return seen


async def test_a_browser_goes_the_whole_way(tmp_path: Path, worker_process: Nursery) -> None:
    """No script, nothing the policy refuses, a cookie no script can read, a reload that exchanges nothing, and home."""
    async with town(tmp_path, worker_process) as place:
        seen = await asyncio.to_thread(drive, await begin(place), tmp_path)
        exchanged = sum(entry.grant_type == "authorization_code" for entry in place.bank.bank.log.tokens())
        (consent_id,) = (one.consent_id for one in place.bank.bank.consents)
        output = place.process.output()

    (cookie,) = seen["cookies"]
    shape = (cookie["name"][:18], cookie["secure"], cookie["httpOnly"], cookie["sameSite"])
    assert shape == ("__Host-syncworker-", True, True, "Lax")
    assert (seen["scripts"], seen["cookie in scripts"], seen["complaints"], seen["referrer"]) == (0, "", FAILED_409, "")
    assert "You agreed to share your data" in seen["done"]
    assert dict(parse_qsl(urlsplit(seen["end"]).query)) == {
        "result": "authorized",
        "consent_id": consent_id,
        "connection_id": consent_id,
    }
    assert exchanged == 1, output


FAILED_409 = ["Failed to load resource: the server responded with a status of 409 (Conflict)"]
"""What the browser says of the reload, and nothing else."""
