"""A bank that says exactly the bytes a test wrote, over real TLS that wants a client certificate.

For answers no decent server gives: bombs, drips, cuts, lies about lengths.  Keys are made at run time.
"""

import asyncio
import base64
import contextlib
import datetime as dt
import hashlib
import ipaddress
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from joserfc import jws, jwt
from joserfc.jwk import RSAKey

BASE_PATH = "/open-finance/account-information/v2.1"
CLIENT_ID = "7d0c4f6e-6f44-4f0c-9d0e-3f8b5c1a2b3c"
REDIRECT_URI = "https://tpp.example/callback"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def new_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def write_key(path: Path, key: PrivateKey, *, password: bytes | None = None) -> Path:
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection))
    return path


def issue(
    path: Path,
    name: str,
    key: PrivateKey,
    *,
    signer: rsa.RSAPrivateKey,
    ca: bool = False,
    days: tuple[float, float] = (-1, 30),
    host: str | None = None,
) -> Path:
    """Write a certificate for `host`, else 127.0.0.1 and localhost, valid from and to so many days from now."""
    now = dt.datetime.now(dt.UTC)
    alternatives = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    if host is not None:
        alternatives = [x509.DNSName(host)]
    issuer_id = x509.SubjectKeyIdentifier.from_public_key(signer.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
    )
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    path.write_bytes(builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


class Identities:
    """A root and what it signed, in files: the bank's certificate, ours, and both signing keys."""

    def __init__(self, folder: Path) -> None:
        self.root_key, server_key, client_key = new_key(), new_key(), new_key()
        self.ca_bundle = issue(folder / "ca.pem", "root", self.root_key, signer=self.root_key, ca=True)
        self.server_certificate = issue(folder / "server.pem", "bank", server_key, signer=self.root_key)
        self.server_key = write_key(folder / "server.key", server_key)
        self.client_certificate = issue(folder / "client.pem", "tpp", client_key, signer=self.root_key)
        self.client_key = write_key(folder / "client.key", client_key)
        self.tpp_signing = new_key()
        self.signing_key = write_key(folder / "signing.key", self.tpp_signing)
        self.bank_signing = RSAKey.import_key(write_key(folder / "bank.key", new_key()).read_bytes())

    def jwks(self, *kids: str) -> dict[str, Any]:
        """The bank's published keys: its signing key under each of `kids`."""
        public = self.bank_signing.as_dict(private=False)
        return {"keys": [{"kty": "RSA", "n": public["n"], "e": public["e"], "kid": kid, "use": "sig"} for kid in kids]}

    def signed_answer(self, claims: dict[str, Any], message: bytes, *, kid: str = "bank-1", **header: Any) -> bytes:
        """An `application/jwt` answer around a message, byte for byte."""
        payload = json.dumps(claims).encode()[:-1] + (b", " if claims else b"") + b'"message": ' + message + b"}"
        sealed = {"alg": "PS256", "kid": kid} | header
        return jws.serialize_compact(sealed, payload, self.bank_signing, algorithms=[sealed["alg"]]).encode()

    def id_token(self, claims: dict[str, Any], *, kid: str = "bank-1") -> str:
        return jwt.encode({"alg": "PS256", "kid": kid}, claims, self.bank_signing, algorithms=["PS256"])


@dataclass
class Request:
    """One request as it stood on the wire; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    certificate: str = ""
    """`x5t#S256` of the client certificate of its connection."""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True, strict_parsing=True))


def x5t(certificate: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(certificate).digest()).rstrip(b"=").decode()


Reply = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


def http(
    status: int = 200,
    body: bytes = b"",
    *,
    length: int | None = None,
    more: dict[str, str] | None = None,
    **headers: str,
) -> bytes:
    """The bytes of an answer; `content_type="…"` becomes `content-type: …`, `more` is sent as it is."""
    given = {"content-type": "application/json; charset=utf-8"} | {k.replace("_", "-"): v for k, v in headers.items()}
    given |= more or {}
    given["content-length"] = str(len(body) if length is None else length)
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def json_of(document: Any) -> bytes:
    return json.dumps(document).encode()


def says(*answers: bytes) -> Reply:
    """Answers in order, the last one for ever."""
    left = list(answers)

    async def reply(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])

    return reply


async def cuts(_request: Request, writer: asyncio.StreamWriter) -> None:
    """Reads the whole request, then drops the connection."""
    writer.transport.abort()


async def hangs(_request: Request, _writer: asyncio.StreamWriter) -> None:
    """Never answers."""
    await asyncio.Event().wait()


@dataclass
class RawBank:
    """The server.  `replies` maps a path to what is said there; everything heard is in `requests`."""

    identities: Identities
    requests: list[Request] = field(default_factory=list)
    replies: dict[str, Reply] = field(default_factory=dict)
    connections: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def start(self, host: str = "127.0.0.1") -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.identities.ca_bundle))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.identities.server_certificate, self.identities.server_key)
        self._server = await asyncio.start_server(self._serve, host, 0, ssl=context)
        self.origin = f"https://{host}:{self._server.sockets[0].getsockname()[1]}"
        self.base_url = self.origin + BASE_PATH
        self.replies["/.well-known/openid-configuration"] = says(http(body=json_of(self.discovery())))
        self.replies["/jwks"] = says(http(body=json_of(self.identities.jwks("bank-1"))))

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def discovery(self, **changes: Any) -> dict[str, Any]:
        return {
            "issuer": self.origin,
            "authorization_endpoint": f"{self.origin}/authorize",
            "token_endpoint": f"{self.origin}/token",
            "pushed_authorization_request_endpoint": f"{self.origin}/par",
            "jwks_uri": f"{self.origin}/jwks",
        } | changes

    def heard(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    def says_pages(self, path: str, *pages: bytes) -> str:
        self.replies[BASE_PATH + path] = says(*pages)
        return self.base_url + path

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        certificate = x5t(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.split("\r\n")
                method, target, _ = first.split(" ")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Request(method, target, headers, body, certificate)
                self.requests.append(request)
                await self.replies.get(request.path, says(http(404)))(request, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                writer.close()
