"""Debian's Chromium opens every page: no complaint, no request elsewhere, nothing that axe-core finds serious."""

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.web.chromium import binary
from tests.web.dashboard import axe
from tests.web.dashboard.desk import PATHS
from tests.web.dashboard.served import Served, served
from tests.web.dashboard.window import NARROW, SCHEMES, WIDE, Window

pytestmark = [
    pytest.mark.live,
    pytest.mark.timeout(600),
    pytest.mark.skipif(binary() is None, reason="no Chromium on this machine (apt-get install chromium)"),
]

AXE = """axe.run(document, {resultTypes: ["violations"]}).then((found) => JSON.stringify(
    found.violations.filter((one) => ["serious", "critical"].includes(one.impact))
      .map((one) => `${one.id}: ${one.nodes.slice(0, 3).map((node) => node.html).join(" | ")}`)))"""


def paths(place: Served) -> list[str]:
    """Every page, the hostile connection among them."""
    made = place.filled
    ids = {
        "connection": made.hostile, "lfi": "bank-two", "run": made.failed_run, "event": made.events[-1],
        "refused": made.refused[0], "opening": made.openings[0], "audit": made.audits[0],
    }  # fmt: skip
    return [path.format(**ids) for path in PATHS]


LOOKS: Final = tuple(zip((WIDE, NARROW), SCHEMES, strict=True))
"""Every page wide and light, and narrow and dark."""


def looked_at(place: Served, folder: Path) -> dict[str, list[str]]:
    """Faults by page, colours and size; empty when there are none."""
    script, found = axe.script(), {}
    with Window(folder / "profile") as window:
        window.send("Page.setBypassCSP", enabled=False)
        window.sign_in(place)
        for path in paths(place):
            for size, scheme in LOOKS:
                window.events.clear()
                window.shape(size, scheme)
                window.open(place.url + path)
                wrong = window.faults(place.url)
                if window.value("document.documentElement.scrollWidth > document.documentElement.clientWidth + 1"):
                    wrong.append("the page is wider than its window")
                if script is not None:
                    wrong += _axe(window, script)
                if wrong:
                    found[f"{path} {scheme} {size[0]}"] = wrong
    return found


def _axe(window: Window, script: str) -> list[str]:
    """What axe-core finds serious or critical; it runs as the debugger's, past the page's policy."""
    window.send("Runtime.evaluate", expression=script)
    answer = window.send("Runtime.evaluate", expression=AXE, awaitPromise=True, returnByValue=True)
    said: list[str] = json.loads(answer["result"]["value"])
    return said


async def test_every_page_is_quiet_and_accessible(tmp_path: Path) -> None:
    """Wide and light, narrow and dark; hostile text does nothing there."""
    if axe.script() is None:
        pytest.skip("no axe-core: npm is missing or reaches no registry")
    async with served(tmp_path / "served", customers=24) as place:
        found = await asyncio.to_thread(looked_at, place, tmp_path)
    assert found == {}


def used(place: Served, folder: Path) -> dict[str, Any]:
    """Keys, refresh, an action and the way out, as a person's hands do them."""
    seen: dict[str, Any] = {}
    with Window(folder / "profile") as window:
        window.shape(WIDE, "light")
        window.sign_in(place)
        seen["cookie in scripts"] = window.value("document.cookie")

        def press(key: str) -> None:
            event = f"new KeyboardEvent('keydown', {{key: {json.dumps(key)}, bubbles: true}})"
            window.value(f"document.activeElement.dispatchEvent({event})")

        press("t")
        seen["instant"] = window.value("document.querySelector('main time[data-at]').textContent")
        press("t")
        seen["age"] = window.value("document.querySelector('main time[data-at]').textContent")
        press("j")
        seen["row"] = window.value("document.activeElement.hasAttribute('data-row')")
        press("?")
        seen["dialog"] = window.value("document.querySelector('#keys').open")
        window.value("document.querySelector('#keys').close(); document.activeElement.blur()")
        window.value("document.querySelector('main').dataset.old = 'yes'; refresh()")
        window.until("document.querySelector('main').dataset.old === undefined")
        press("g")
        press("c")
        window.until("location.pathname === '/ops/connections'")
        window.open(f"{place.url}/ops/actions/pause/{place.filled.connections[0]}")
        window.value("document.querySelector('textarea').value = 'a browser\\'s test'")
        window.click("form .btn.main")
        window.until("!!document.querySelector('.banner.done')")
        seen["done"] = window.value("document.querySelector('.banner.done').innerText")
        window.click(".out button")
        window.until("location.pathname === '/ops/sign-in'")
        seen["faults"] = window.faults(place.url)
    return seen


async def test_a_person_uses_it(tmp_path: Path) -> None:
    """The script answers keys and refreshes the page; a form works under the policy; the way out ends the session."""
    async with served(tmp_path / "served", customers=12) as place:
        seen = await asyncio.to_thread(used, place, tmp_path)

    assert seen["cookie in scripts"] == ""
    assert seen["instant"].endswith("Z")
    assert not seen["age"].endswith("Z")
    assert (seen["row"], seen["dialog"], seen["faults"]) == (True, True, [])
    assert seen["done"].startswith("Done: pause.")


def without_script(place: Served, folder: Path) -> list[str]:
    """Links and forms with JavaScript switched off."""
    with Window(folder / "profile") as window:
        window.sign_in(place)
        window.send("Emulation.setScriptExecutionDisabled", value=True)
        window.open(f"{place.url}/ops/connections?state=active")
        words = [str(window.value("getComputedStyle(document.querySelector('[data-live]')).display"))]
        window.click(".card a[data-row]")
        window.until("location.pathname.startsWith('/ops/connections/')")
        window.click("a[href*='/ops/actions/pause/']")
        window.until("!!document.querySelector('textarea')")
        window.value("document.querySelector('textarea').value = 'no script'")
        window.click("form .btn.main")
        window.until("!!document.querySelector('.banner.done')")
        words.append(str(window.value("document.querySelector('.banner.done b').innerText")))
    return words


async def test_it_works_without_javascript(tmp_path: Path) -> None:
    """By links and forms; what only a script could do is not shown."""
    async with served(tmp_path / "served", customers=12) as place:
        assert await asyncio.to_thread(without_script, place, tmp_path) == ["none", "Done: pause."]
