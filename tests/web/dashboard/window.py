"""A browser's window before the dashboard: signs in, changes size and colours, tells what went wrong."""

import json
from pathlib import Path

from tests.web.chromium import Chromium
from tests.web.dashboard.served import Served

WIDE, NARROW = (1440, 900), (390, 844)
SCHEMES = ("light", "dark")


class Window(Chromium):
    """One window."""

    def sign_in(self, place: Served) -> None:
        """By the form, as a person does."""
        self.goto(f"{place.url}/ops/sign-in?to=/ops/")
        self.until("!!document.querySelector('input[name=key]')")
        self.value(f"document.querySelector('input[name=key]').value = {json.dumps(place.key)}")
        self.click("button.main")
        self.until("!!document.querySelector('main[data-refresh]')")

    def open(self, address: str) -> None:
        """Open a page and wait until it is there."""
        self.goto(address)
        self.until(f"location.href === {json.dumps(address)} && !!document.querySelector('main')")

    def shape(self, size: tuple[int, int], scheme: str) -> None:
        """Width, height and colours."""
        width, height = size
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def whole(self, path: Path) -> None:
        """A picture of the whole page."""
        height = int(self.value("document.documentElement.scrollHeight"))
        width = int(self.value("document.documentElement.clientWidth"))
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=min(height, 6000), deviceScaleFactor=1,
                  mobile=width < 600)  # fmt: skip
        self.screenshot(path)

    def faults(self, origin: str) -> list[str]:
        """What the browser complained of, exceptions of scripts, and requests to elsewhere."""
        found = self.complaints()
        for event in self.events:
            match event.get("method"):
                case "Runtime.exceptionThrown":
                    found.append(str(event["params"]["exceptionDetails"].get("text")))
                case "Runtime.consoleAPICalled" if event["params"]["type"] in ("error", "warning", "assert"):
                    found.append(str(event["params"]["args"]))
                case "Network.requestWillBeSent" if not event["params"]["request"]["url"].startswith(origin):
                    found.append(f"request to {event['params']['request']['url']}")
        return found
