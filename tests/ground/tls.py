"""A TLS front on loopback before a server that speaks none, as a proxy or a managed service puts one there."""

import contextlib
import socket
import ssl
import threading
from pathlib import Path
from typing import Self


class TLSFront:
    """Takes TLS connections, and carries what they say to a plain server.  `with TLSFront(…) as front: front.port`."""

    def __init__(self, certificate: Path, key: Path, *, target_port: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(near, server_side=True) as inside:
            far = socket.create_connection(self._target)
            with far:
                back = threading.Thread(target=_carry, args=(far, inside), daemon=True)
                back.start()
                _carry(inside, far)
                back.join(5)


def _carry(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while chunk := source.recv(65_536):
            to.sendall(chunk)
    with contextlib.suppress(OSError):
        to.shutdown(socket.SHUT_WR)
