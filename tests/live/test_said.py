"""What the libraries we use would say: with the real set-up of the logs, nothing they put in a line leaves the process.

Each library is made to say, in a process of its own with logs as `syncworker` sets them up, what it says of itself
when it works: URLs with their queries, rows, statements with their parameters, frames of a traceback.  Every value is
marked, and both outputs are searched.
"""

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.cli.house import ROOT

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

MARK: Final = "marked-7c2b90"

BEGIN: Final = """
import asyncio, logging, sys
from syncworker.cli import logs
MARK, LEVEL, PLACE = sys.argv[1:4]
logs.configure(LEVEL)
"""

SAYS: Final = {
    "httpx and httpcore, of a request": """
import httpx, http.server, threading
class Door(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302); self.send_header("location", "https://app.example/callback?code=" + MARK)
        self.send_header("set-cookie", "session=" + MARK); self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Door)
threading.Thread(target=server.serve_forever, daemon=True).start()
async def ask():
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{server.server_port}/token?code={MARK}",
                                  headers={"authorization": "Bearer " + MARK})
        assert answer.status_code == 302
asyncio.run(ask())
""",
    "SQLAlchemy and aiosqlite, of a statement": """
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
async def ask():
    engine = create_async_engine(f"sqlite+aiosqlite:///{PLACE}/said.db")
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE one (name TEXT)"))
        await connection.execute(sa.text("INSERT INTO one VALUES (:name)"), {"name": MARK})
        assert (await connection.execute(sa.text("SELECT name FROM one"))).scalar_one() == MARK
    await engine.dispose()
asyncio.run(ask())
""",
    "asyncio, of a slow step": """
async def ask():
    asyncio.get_running_loop().slow_callback_duration = 0
    await asyncio.create_task(one(), name=MARK)
async def one():
    await asyncio.sleep(0)
logging.getLogger("asyncio").info("took %s", MARK)
logging.getLogger("asyncio").debug("took %s", MARK)
""",
    "any other library, below a warning": """
for name in ("authlib", "urllib3", "redis", "psycopg.pool", "uvicorn.access", "multipart"):
    logging.getLogger(name).info("GET /callback?code=%s", MARK)
    logging.getLogger(name).debug("row %s", MARK)
""",
    "a traceback, of its frames' values": """
import structlog
def fails(token):
    held = {"refresh_token": token}
    raise RuntimeError("constant")
try:
    fails(MARK)
except RuntimeError:
    logging.getLogger("syncworker.one").exception("failed")
    structlog.stdlib.get_logger("syncworker.two").exception("failed")
""",
    "Celery, of a task that failed": """
from pathlib import Path
from celery.app import trace
from syncworker import tasks
from syncworker.broker import Broker
tasks.configure(Broker(url="redis://127.0.0.1:9/0"), 5, Path(PLACE) / "data")
context = {"name": "sync_batch", "id": MARK, "description": "raised unexpected", "args": MARK, "kwargs": MARK,
           "exc": f"ValueError('{MARK}')", "traceback": MARK}
def fails(token):
    raise ValueError(token)
try:
    fails(MARK)
except ValueError:
    trace.logger.error(trace.LOG_FAILURE.strip(), context, exc_info=sys.exc_info(), extra={"data": context})
print("celery spoke")
""",
}


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
@pytest.mark.parametrize("terminal", [False, True], ids=["to a file", "to a terminal"])
@pytest.mark.parametrize("what", SAYS)
def test_no_library_says_what_it_holds(tmp_path: Path, what: str, terminal: bool, level: str) -> None:
    """The act succeeds, and neither output has the mark."""
    script = BEGIN + SAYS[what] + "\nlogging.getLogger('syncworker').warning('at the end')\n"
    argv = (sys.executable, "-c", script, MARK, level, str(tmp_path))
    said = _on_a_terminal(argv) if terminal else _to_files(argv)

    assert "at the end" in said, said
    assert MARK not in said, said


def _to_files(argv: tuple[str, ...]) -> str:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def _on_a_terminal(argv: tuple[str, ...]) -> str:
    """Both outputs on a pseudo-terminal, where lines are written for people."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 65_536):
            said += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert child.wait(60) == 0, said.decode()
    return said.decode()
