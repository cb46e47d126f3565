"""A real browser, driven over its debugging pipe: no driver, no library.

Chromium reads commands from file descriptor 3 and writes answers and events to 4, JSON ended by a NUL each (Chrome
DevTools Protocol).  A command waits for its answer; events are kept for who asks.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.ground.processes import die_with_parent

BINARIES: Final = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S: Final = 60.0
FLAGS: Final = (
    "--headless",
    "--no-sandbox",  # it refuses to run as root with one
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",  # the bank's authority is of this run alone
    "--remote-debugging-pipe",
    "--window-size=900,760",
)


def binary() -> str | None:
    """The browser of this machine; `None` when it has none."""
    return next(filter(None, map(shutil.which, BINARIES)), None)


class Chromium:
    """One window.  Use it as a context manager."""

    def __init__(self, profile: Path) -> None:
        found = binary()
        assert found is not None
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        dies = die_with_parent()

        def wired() -> None:
            dies()
            high = [os.dup(fd) for fd in (commands, answers)]  # out of the way of 3 and 4
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self._process = subprocess.Popen(
            [found, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=wired,
            close_fds=False,
            start_new_session=True,
        )
        os.close(commands)
        os.close(answers)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._commands)  # it ends when its pipe of commands closes
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait(10)
        os.close(self._answers)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            heard = self._next(deadline)
            if heard.get("id") == self._number:
                assert "error" not in heard, heard
                result: dict[str, Any] = heard["result"]
                return result
            self.events.append(heard)

    def goto(self, url: str) -> None:
        """Open an address, as by a click on a link."""
        self.send("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """What a script of the test sees in the page; `None` while the page changes."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Press the first such element, once it is there."""
        self.until(f"!!document.querySelector({json.dumps(selector)})")
        self.value(f"document.querySelector({json.dumps(selector)}).click()")

    def until(self, expression: str) -> None:
        """Wait until a page shows that."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.value(f"document.readyState === 'complete' && ({expression})"):
            assert time.monotonic() < deadline, f"{expression} at {self.value('location.pathname')}: {self.text()}"
            time.sleep(0.05)

    def text(self) -> str:
        """What a user reads."""
        return str(self.value("document.body.innerText"))

    def screenshot(self, path: Path) -> None:
        """A picture of the window."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """What the browser found wrong: scripts, styles or frames the policy refused, failed loads."""
        self.value("1")
        entries = [event["params"]["entry"] for event in self.events if event.get("method") == "Log.entryAdded"]
        return [entry["text"] for entry in entries if "favicon" not in entry.get("url", "")]

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            readable, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, "the browser does not answer"
            chunk = os.read(self._answers, 65_536)
            assert chunk, "the browser is gone"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        heard: dict[str, Any] = json.loads(message)
        return heard
