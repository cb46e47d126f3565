"""Servers whose TLS handshakes fail: one stalls, one resets at accept, one resets in the midst of the handshake.

They are served by the event loop of the test itself, through `add_reader`.  The loop reports a listener as readable in
the turn in which it reports the client's socket as connected.  The reset of `AT_ACCEPT` goes out in the next turn:
after the client has seen that it is connected, and before it writes the first byte of TLS, every time and without a
wait.
"""

import asyncio
import socket
import struct
from enum import Enum, auto
from types import TracebackType
from typing import Final, Self

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""`SO_LINGER` of zero seconds: `close` sends RST."""


class Fault(Enum):
    """What happens to a connection."""

    STALL = auto()
    """Accepted; the client's bytes are read, none are sent."""
    AT_ACCEPT = auto()
    """Reset as soon as it is accepted."""
    IN_HANDSHAKE = auto()
    """Reset when the client's first bytes of TLS have arrived."""


class FailingHandshakes:
    """One listener on loopback with one fault.

    Attributes:
        port: where it listens.
        connections: how many were accepted so far.
        heard: on how many the client's first bytes came.
    """

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.connections = 0
        self.heard = 0
        self._held: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._listener, self._accept)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for connection in tuple(self._held):
            self._end(connection)

    @property
    def origin(self) -> str:
        """Its URL, without a path."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def held(self) -> int:
        """Connections that are open on this side."""
        return len(self._held)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            self.connections += 1
            connection.setblocking(False)
            if self.fault is Fault.AT_ACCEPT:
                self._loop.call_soon(_reset, connection)
                continue
            self._held.add(connection)
            self._loop.add_reader(connection, self._read, connection)

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        self.heard += bool(data)
        if not data or self.fault is Fault.IN_HANDSHAKE:
            self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        self._held.discard(connection)
        self._loop.remove_reader(connection)
        _reset(connection)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    connection.close()
