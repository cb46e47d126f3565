"""Write pictures of the pages: `python -m tests.web.dashboard.pictures OUT`."""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.ground.valkey import ValkeyServer
from tests.web.chromium import binary
from tests.web.dashboard.served import Served, served
from tests.web.dashboard.window import NARROW, SCHEMES, WIDE, Window


def pages(place: Served) -> dict[str, str]:
    """Pages by the name of their picture."""
    made = place.filled
    return {
        "connection": f"/ops/connections/{made.connections[4]}",
        "lfi": "/ops/lfis/bank-two",
        "run": f"/ops/runs/{made.failed_run}",
        "connections": "/ops/connections",
        "lfis": "/ops/lfis",
        "runs": "/ops/runs",
        "work": "/ops/work",
        "events": "/ops/events",
        "webhooks": "/ops/webhooks",
        "exports": "/ops/exports",
        "opening": f"/ops/openings/{made.openings[0]}",
        "event": f"/ops/events/{made.events[-1]}",
        "cost": "/ops/cost",
        "processes": "/ops/processes",
        "audit": "/ops/audit",
        "action": f"/ops/actions/revoke/{made.connections[4]}",
        "overview": "/ops/",
    }


def hostile(place: Served) -> dict[str, str]:
    """The connection of a customer who is called by hostile text."""
    return {"hostile": f"/ops/connections/{place.filled.hostile}"}


def draw(place: Served, drawn: dict[str, str], folder: Path, profile: Path) -> None:
    """Open each page in both colours, wide and narrow."""
    folder.mkdir(parents=True, exist_ok=True)
    with Window(profile) as window:
        for scheme in SCHEMES:
            for size, width in ((WIDE, ""), (NARROW, "narrow-")):
                window.shape(size, scheme)
                window.goto(f"{place.url}/ops/sign-in")
                window.until("!!document.querySelector('input[name=key]')")
                window.screenshot(folder / f"sign-in-{width}{scheme}.png")
        window.shape(WIDE, "light")
        window.sign_in(place)
        for scheme in SCHEMES:
            for name, path in drawn.items():
                for size, width in ((WIDE, ""), (NARROW, "narrow-")):
                    window.shape(size, scheme)
                    window.open(place.url + path)
                    file = folder / f"{name}-{width}{scheme}.png"
                    if (name, size) == ("overview", WIDE):
                        window.screenshot(file)
                    else:
                        window.whole(file)


async def main(folder: Path) -> None:
    """Fill tables, serve them, draw."""
    broker = ValkeyServer()
    try:
        for names, drawn in ((False, pages), (True, hostile)):
            with tempfile.TemporaryDirectory() as home:
                async with served(Path(home) / "served", hostile=names, broker_url=broker.url) as place:
                    await asyncio.to_thread(draw, place, drawn(place), folder, Path(home) / "profile")
    finally:
        broker.close()


if __name__ == "__main__":
    if len(sys.argv) != 2 or binary() is None:
        sys.exit("usage: python -m tests.web.dashboard.pictures OUT; needs Chromium (apt-get install chromium)")
    asyncio.run(main(Path(sys.argv[1])))
