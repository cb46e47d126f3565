"""Write pictures of the pages: `python -m tests.web.dashboard.pictures OUT`."""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.web.chromium import binary
from tests.web.dashboard.served import Served, served
from tests.web.dashboard.window import NARROW, SCHEMES, WIDE, Window


def pages(place: Served) -> dict[str, str]:
    """Pages by the name of their picture."""
    made = place.filled
    return {
        "overview": "/ops/",
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
        "hostile": f"/ops/connections/{made.hostile}",
    }


def draw(place: Served, folder: Path, profile: Path) -> None:
    """Open each page in both colours, wide and narrow."""
    folder.mkdir(parents=True, exist_ok=True)
    with Window(profile) as window:
        window.shape(WIDE, "light")
        window.goto(f"{place.url}/ops/sign-in")
        window.until("!!document.querySelector('input[name=key]')")
        window.screenshot(folder / "sign-in-light.png")
        window.sign_in(place)
        for scheme in SCHEMES:
            for name, path in pages(place).items():
                window.shape(WIDE, scheme)
                window.open(place.url + path)
                if name == "overview":
                    window.screenshot(folder / f"{name}-{scheme}.png")
                else:
                    window.whole(folder / f"{name}-{scheme}.png")
                window.shape(NARROW, scheme)
                window.open(place.url + path)
                window.whole(folder / f"{name}-narrow-{scheme}.png")


async def main(folder: Path) -> None:
    """Fill tables, serve them, draw."""
    with tempfile.TemporaryDirectory() as home:
        async with served(Path(home) / "served") as place:
            await asyncio.to_thread(draw, place, folder, Path(home) / "profile")


if __name__ == "__main__":
    if len(sys.argv) != 2 or binary() is None:
        sys.exit("usage: python -m tests.web.dashboard.pictures OUT; needs Chromium (apt-get install chromium)")
    asyncio.run(main(Path(sys.argv[1])))
