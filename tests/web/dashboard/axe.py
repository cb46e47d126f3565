"""axe-core from npm, kept between runs of the tests."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

VERSION: Final = "4.10.3"
FOLDER: Final = (
    Path(os.environ.get("SYNCWORKER_TEST_CACHE", Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))))
    / "syncworker-tests"
)


@cache
def script() -> str | None:
    """The script; `None` where npm is missing or gives nothing."""
    file = FOLDER / f"axe-{VERSION}" / "node_modules" / "axe-core" / "axe.min.js"
    if not file.is_file():
        npm = shutil.which("npm")
        if npm is None:
            return None
        home = file.parents[2]
        home.mkdir(parents=True, exist_ok=True)
        wanted = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(home)]
        done = subprocess.run(
            [npm, *wanted, f"axe-core@{VERSION}"],
            capture_output=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode or not file.is_file():
            return None
    return file.read_text(encoding="utf-8")
