"""A bank that is never the bottleneck: every answer is rendered before the first call.

One process, one event loop, a parser that looks for three things in a request.  It wants a client certificate, keeps
connections alive, knows whose token is whose, rotates refresh tokens, and counts what it served.  It judges nothing
else: the sandbox bank (`simulator`) is there for that.

It is told what to do, and asked what it served, in lines of JSON on its standard input; when that closes, it ends.
`Bank` is the other end of that line.

    {"latency": 0.05}   answer so many seconds late
    {"changed": true}   show every item in its second state
    {"reset": true}     forget the counts
    {}                  only tell them
"""

import argparse
import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final, Self, cast
from urllib.parse import parse_qs

from syncworker.bench.books import World, listings, pages
from syncworker.simulator.identity import Identity, load_or_create

BASE_PATH: Final = "/open-finance/account-information/v2.1"
REDIRECT_URI: Final = "https://127.0.0.1/callback"
TOKEN_SECONDS: Final = 86_400
"""Access tokens outlive a measurement; what a refresh costs is measured by itself."""

READY_S: Final = 300.0
_END: Final = b"\r\n\r\n"
_BEARER: Final = b"uthorization: bearer "
_OF_CONSENT: Final = (b"/accounts", b"/parties")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the bank served since the last reset.

    Attributes:
        pages: data GETs answered with 200.
        distinct: different pages among them.
        refused: data GETs answered with anything else.
        tokens: token calls.
        most_in_flight: data GETs that waited for their answer at once.
    """

    pages: int
    distinct: int
    refused: int
    tokens: int
    most_in_flight: int


def access_token(consent: int, serial: int = 0) -> str:
    """An access token of a consent."""
    return f"at-{consent}-{serial}"


def refresh_token(consent: int, serial: int = 0) -> str:
    """A refresh token of a consent; each is good for one call."""
    return f"rt-{consent}-{serial}"


class _Desk:
    """The answers and the counts, shared by all connections."""

    def __init__(self, world: World, origin: str) -> None:
        self.latency = 0.0
        self.changed = False
        self._origin = origin
        self._answers: dict[bytes, tuple[int, tuple[bytes, bytes]]] = {}
        self._serials: dict[int, int] = {}
        base_url = origin + BASE_PATH
        for consent in range(world.consents):
            before, after = (
                [
                    page
                    for one in listings(world, consent, changed=state)
                    for page in pages(one, world, base_url=base_url)
                ]
                for state in (False, True)
            )
            for (path, one), (_, other) in zip(before, after, strict=True):
                name = path.encode()
                if name.partition(b"?")[0] in _OF_CONSENT:
                    name = b"%d%b" % (consent, name)
                answers = _answer(one), _answer(other)
                self._answers[name] = (len(self._answers), (answers[0], answers[0] if one == other else answers[1]))
        self.pages = len(self._answers)
        self.reset()

    def reset(self) -> None:
        self.served = self.refused = self.tokens = self.in_flight = self.most_in_flight = 0
        self._seen = bytearray(self.pages)

    def tell(self) -> Served:
        return Served(
            pages=self.served,
            distinct=sum(self._seen),
            refused=self.refused,
            tokens=self.tokens,
            most_in_flight=self.most_in_flight,
        )

    def get(self, target: bytes, head: bytes) -> bytes:
        """The answer to a GET."""
        if target.startswith(b"/.well-known/"):
            return _answer(json.dumps(self._discovery()).encode())
        path, _, query = target.removeprefix(BASE_PATH.encode()).partition(b"?")
        number = query[5:] if query.startswith(b"page=") else b"1"
        token = head.lower().partition(_BEARER)[2].partition(b"\r")[0].split(b"-")
        if len(token) != 3 or token[0] != b"at":
            self.refused += 1
            return _answer(b"{}", "401 Unauthorized")
        name = b"%b?page=%b" % (path, number)
        if path in _OF_CONSENT:
            name = token[1] + name
        elif int(path[len(b"/accounts/") :].partition(b"/")[0]) // 100 % 1_000_000_000 != int(token[1]):
            self.refused += 1
            return _answer(b"{}", "403 Forbidden")
        found = self._answers.get(name)
        if found is None:
            self.refused += 1
            return _answer(b"{}", "404 Not Found")
        self.served += 1
        self._seen[found[0]] = 1
        return found[1][self.changed]

    def token(self, body: bytes) -> bytes:
        """The answer to a refresh: rotates, and takes the newest refresh token only."""
        self.tokens += 1
        form = parse_qs(body.decode())
        parts = form.get("refresh_token", [""])[0].split("-")
        if len(parts) != 3 or self._serials.get(int(parts[1]), 0) != int(parts[2]) or "client_assertion" not in form:
            return _answer(b'{"error":"invalid_grant"}', "400 Bad Request")
        consent, serial = int(parts[1]), int(parts[2]) + 1
        self._serials[consent] = serial
        answer = {
            "access_token": access_token(consent, serial),
            "refresh_token": refresh_token(consent, serial),
            "token_type": "Bearer",
            "expires_in": TOKEN_SECONDS,
        }
        return _answer(json.dumps(answer).encode())

    def _discovery(self) -> dict[str, str]:
        names = ("authorization_endpoint", "token_endpoint", "pushed_authorization_request_endpoint", "jwks_uri")
        return {"issuer": self._origin} | {name: f"{self._origin}/{name}" for name in names}


def _answer(body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Connection(asyncio.Protocol):
    def __init__(self, desk: _Desk) -> None:
        self._desk = desk
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass

    def data_received(self, data: bytes) -> None:
        rest = self._rest + data if self._rest else data
        while True:
            head, end, rest_of = rest.partition(_END)
            if not end:
                break
            method, target, _ = head.split(b" ", 2)
            if method == b"GET":
                rest = rest_of
                self._send(self._desk.get(target, head))
                continue
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0] or 0)
            if len(rest_of) < length:
                break
            rest = rest_of[length:]
            self._send(self._desk.token(rest_of[:length]))
        self._rest = rest

    def _send(self, answer: bytes) -> None:
        desk = self._desk
        if not desk.latency:
            self._transport.write(answer)
            return
        desk.in_flight += 1
        desk.most_in_flight = max(desk.most_in_flight, desk.in_flight)
        asyncio.get_running_loop().call_later(desk.latency, self._late, answer)

    def _late(self, answer: bytes) -> None:
        self._desk.in_flight -= 1
        self._transport.write(answer)


def _context(identity: Identity) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=identity.ca_bundle)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(identity.server_certificate, identity.server_key)
    return context


async def _serve(world: World, identity: Identity) -> None:
    loop = asyncio.get_running_loop()
    desks: list[_Desk] = []
    server = await loop.create_server(
        lambda: _Connection(desks[0]), "127.0.0.1", 0, ssl=_context(identity), backlog=1024
    )
    port = server.sockets[0].getsockname()[1]
    desks.append(_Desk(world, f"https://127.0.0.1:{port}"))
    _say({"port": port, "pages": desks[0].pages})
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        served = asdict(desks[0].tell())  # before the order: a reset tells what it forgets
        _told(desks[0], json.loads(line))
        _say(served)
    server.close()


def _told(desk: _Desk, order: dict[str, Any]) -> None:
    desk.latency = float(order.get("latency", desk.latency))
    desk.changed = bool(order.get("changed", desk.changed))
    if order.get("reset"):
        desk.reset()


def _say(facts: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


class Bank:
    """The bank in a process of its own; ends with the `with` around it, and with us."""

    def __init__(self, world: World, folder: Path) -> None:
        """Starts nothing.

        Args:
            folder: for keys and certificates, made at the first start.
        """
        self.world = world
        self.identity = load_or_create(folder, redirect_uri=REDIRECT_URI)
        self.pages = 0
        self.origin = ""
        self._process: subprocess.Popen[str] | None = None

    @property
    def base_url(self) -> str:
        """Of the data API."""
        return self.origin + BASE_PATH

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        world = {**asdict(self.world), "today": self.world.today.isoformat()}
        argv = [sys.executable, "-m", "syncworker.bench.bank", str(self.identity.folder), json.dumps(world)]
        self._process = subprocess.Popen(  # noqa: S603  argv is ours
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, env=dict(os.environ)
        )
        facts = self._answer()
        self.origin, self.pages = f"https://127.0.0.1:{facts['port']}", facts["pages"]
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def order(self, **order: Any) -> Served:
        """Give an order (see the module) and hear what was served until then, counts not yet forgotten by it."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Served(**self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the bench bank ended with status {self._process.wait()}")
        facts: dict[str, Any] = json.loads(line)
        return facts


def main(arguments: Sequence[str] | None = None, *, run: Callable[..., Any] | None = None) -> None:
    """Run the bank until its standard input closes."""
    parser = argparse.ArgumentParser(prog="syncworker.bench.bank")
    parser.add_argument("folder", type=Path)
    parser.add_argument("world", type=json.loads)
    options = parser.parse_args(arguments)
    world = World(**options.world | {"today": date.fromisoformat(options.world["today"])})
    identity = load_or_create(options.folder, redirect_uri=REDIRECT_URI)
    (run or _runner())(_serve(world, identity))


def _runner() -> Callable[..., Any]:
    try:
        import uvloop  # where it installs
    except ImportError:
        return asyncio.run
    return uvloop.run


if __name__ == "__main__":
    main()
