"""A folder from which somebody runs commands, and the commands themselves, as real processes.

The folder holds what an operator has: `syncworker.toml`, a key ring, keys, an SQLite database.  `House.run` runs
`syncworker …` in it and waits; `House.tables` is everything the database holds, to compare before and after.
"""

import asyncio
import atexit
import json
import os
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from syncworker.settings import ENVIRONMENT_PREFIX
from syncworker.simulator.browser import Browser

ROOT: Final = Path(__file__).parents[2]
CLIENT_FILES: Final = ("signing_key", "transport_certificate", "transport_key")
PATIENCE_S: Final = 60


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command left: exit code, and both outputs as text."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Its standard output, read."""
        return json.loads(self.stdout)

    @property
    def said(self) -> str:
        """Both outputs."""
        return self.stdout + self.stderr


class Zygote:
    """`tests.cli.zygote` as a child of ours; it ends when its standard input does."""

    def __init__(self) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.zygote"],
            cwd=ROOT,
            env=own,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdin: bytes) -> Ended:
        """Have it fork one command, and wait for that one's end."""
        with tempfile.TemporaryDirectory(prefix="syncworker-command-") as folder:
            files = [Path(folder) / name for name in ("stdin", "stdout", "stderr")]
            for file, content in zip(files, (stdin, b"", b""), strict=True):
                file.write_bytes(content)
            asked = {"argv": arguments, "cwd": str(cwd), "env": env, "files": [str(file) for file in files]}
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], PATIENCE_S)[0]:
                self.close()
                raise subprocess.TimeoutExpired(list(arguments), PATIENCE_S)
            code = int(self._process.stdout.readline())
            return Ended(code, files[1].read_bytes().decode(), files[2].read_bytes().decode())

    def close(self) -> None:
        """End it, and the command it waits for."""
        _zygote.cache_clear()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@cache
def _zygote() -> Zygote:
    zygote = Zygote()
    atexit.register(zygote.close)
    return zygote


class House:
    """One operator's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def copy(cls, of: Path, folder: Path) -> "House":
        """A house in a new folder, with everything the other one holds."""
        shutil.copytree(of, folder)
        return cls(folder)

    @property
    def toml(self) -> Path:
        return self.folder / "syncworker.toml"

    @property
    def database(self) -> Path:
        return self.folder / "syncworker.db"

    @property
    def keyring(self) -> Path:
        return self.folder / "keyring"

    def environment(self, **more: str) -> dict[str, str]:
        """Our own without settings of ours: nothing but the folder and `more` counts."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
        return {**own, "PYTHONPATH": str(ROOT), **more}

    def run(self, *arguments: str, stdin: str | bytes = "", env: Mapping[str, str] | None = None) -> Ended:
        """Run one command to its end: in a fork of the zygote, or started afresh where `env` is not of ours alone."""
        whole = self.environment(**(env or {}))
        given = stdin.encode() if isinstance(stdin, str) else stdin
        if all(name.startswith(ENVIRONMENT_PREFIX) for name in env or {}):
            return _zygote().run(arguments, cwd=self.folder, env=whole, stdin=given)
        done = subprocess.run(
            [sys.executable, "-m", "syncworker", *arguments],
            cwd=self.folder,
            env=whole,
            input=given,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def set(self, name: str, value: str | None) -> None:
        """Give a setting of the file's first lines or its `[client]` another value; `None` removes it."""
        lines = self.toml.read_text().splitlines()
        found = [number for number, line in enumerate(lines) if line.startswith(f"{name} = ")]
        assert len(found) == 1, f"{name}: stands {len(found)} times in the file"
        lines[found[0] : found[0] + 1] = [] if value is None else [f"{name} = {json.dumps(value)}"]
        self.toml.write_text("\n".join(lines) + "\n")

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Go behind everybody's back: one statement on the database file, committed."""
        with closing(sqlite3.connect(self.database)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def tables(self) -> dict[str, list[str]]:
        """Every row of every table, in an order of its own; nothing when there is no database."""
        if not self.database.is_file():
            return {}
        try:
            names = [name for (name,) in self.sql("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {name: sorted(map(repr, self.sql(f'SELECT * FROM "{name}"'))) for name in names}
        except sqlite3.DatabaseError:  # a test put something else there
            return {"": [repr(self.database.read_bytes())]}


def settings_toml(facts: Mapping[str, Any], *, files: Mapping[str, str], more: str = "") -> str:
    """Settings that reach a sandbox under the slug `sandbox`.

    Args:
        facts: of the sandbox.
        files: paths of `CLIENT_FILES`.
        more: lines for the top.
    """
    client = {"client_id": facts["client"]["client_id"], "redirect_uri": facts["client"]["redirect_uri"], **files}
    client |= {"signing_kid": facts["client"]["signing_kid"], "ca_bundle": facts["ca_bundle"]}
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in client.items())
    return f"""database_url = "sqlite:///syncworker.db"
data_dir = "data"
keyring = "keyring"
{more}
[client]
{lines}

[lfis.sandbox]
issuer = {json.dumps(facts["issuer"])}
base_urls = {{ "v2.1" = {json.dumps(facts["resource_base_url"])} }}
allow_private_hosts = true
calls_per_second = 500
"""


def approve(facts: Mapping[str, Any], url: str, *, user: str) -> str:
    """The user's part, in a browser: the redirect URL it ends at."""

    async def decided() -> str:
        async with Browser(Path(facts["ca_bundle"])) as browser:
            return await browser.decide(url, user=user)

    return asyncio.run(decided())
