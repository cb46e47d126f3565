"""Which transport carries the hot path: small GETs over mTLS with keep-alive, from one process, one event loop.

A tiny TLS server that wants a client certificate answers from a process of its own, so that the client is what is
measured.  Rounds of all candidates alternate; the best round of each counts, which keeps a busy machine's noise out.

    python bench/transport.py [--seconds 1.5] [--rounds 3]
"""

import argparse
import asyncio
import datetime as dt
import ipaddress
import multiprocessing
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import httpx
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from syncworker.lfi.addresses import Addresses
from syncworker.lfi.transport import AiohttpTransport

IN_FLIGHT = (8, 64)
CALL_DEADLINE_S = 10.0
BODY = b'{"Data":{"AccountId":"1","Balance":[' + b",".join([b'{"Type":"InterimBooked","Amount":"12.50"}'] * 20) + b"]}}"
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
    b"Content-Length: %d\r\nx-fapi-interaction-id: 0\r\n\r\n" % len(BODY)
) + BODY
HEADERS = {"Authorization": "Bearer " + "t" * 40, "x-fapi-interaction-id": "11111111-1111-4111-8111-111111111111"}

Get = Callable[[str], Awaitable[int]]
Candidate = Callable[[AsyncExitStack, ssl.SSLContext, int], Awaitable[Get]]


async def stock_httpx(stack: AsyncExitStack, context: ssl.SSLContext, in_flight: int) -> Get:
    """httpx as it comes, with a pool as large as the number of calls in flight."""
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    client = await stack.enter_async_context(httpx.AsyncClient(verify=context, limits=limits, trust_env=False))

    async def get(url: str) -> int:
        return len((await client.get(url, headers=HEADERS)).content)

    return get


async def httpx_over_aiohttp(stack: AsyncExitStack, context: ssl.SSLContext, in_flight: int) -> Get:
    """httpx's interface over aiohttp's connections, from the package httpx-aiohttp."""
    connector = aiohttp.TCPConnector(ssl=context, limit=in_flight)
    session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
    transport = import_module("httpx_aiohttp").AiohttpTransport(client=session)
    client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, trust_env=False))

    async def get(url: str) -> int:
        return len((await client.get(url, headers=HEADERS)).content)

    return get


async def aiohttp_direct(stack: AsyncExitStack, context: ssl.SSLContext, in_flight: int) -> Get:
    """Our own small interface over aiohttp, with all its bounds and deadlines."""
    transport = AiohttpTransport(
        context, addresses=Addresses(allow_private_hosts=True), connections=in_flight, connect_timeout=5
    )
    stack.push_async_callback(transport.close)

    async def get(url: str) -> int:
        return len((await transport.send("GET", url, HEADERS, CALL_DEADLINE_S)).body)

    return get


async def measure(candidate: Candidate, context: ssl.SSLContext, url: str, *, in_flight: int, seconds: float) -> float:
    """GETs per second after every connection has been opened once."""
    async with AsyncExitStack() as stack:
        get = await candidate(stack, context, in_flight)
        await asyncio.gather(*(get(url) for _ in range(in_flight)))
        done, started = 0, time.perf_counter()
        end = started + seconds

        async def caller() -> None:
            nonlocal done
            while time.perf_counter() < end:
                if await get(url) != len(BODY):
                    raise RuntimeError("an answer of another length")
                done += 1

        await asyncio.gather(*(caller() for _ in range(in_flight)))
        return done / (time.perf_counter() - started)


async def answer_calls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request with the same small page until the client leaves."""
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def serve(folder: str, ready: Connection) -> None:
    """The server's process: tells its port, then answers until it is ended."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=f"{folder}/ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(f"{folder}/server.pem", f"{folder}/server.key")

    async def main() -> None:
        server = await asyncio.start_server(answer_calls, "127.0.0.1", 0, ssl=context)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


def write_certificates(folder: Path) -> None:
    """A root, and a server and a client certificate below it."""
    now = dt.datetime.now(dt.UTC)
    keys = {name: rsa.generate_private_key(public_exponent=65537, key_size=2048) for name in ("ca", "server", "client")}
    root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    root_id = x509.SubjectKeyIdentifier.from_public_key(keys["ca"].public_key())
    for name, key in keys.items():
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(root)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root_id), critical=False)
        )
        if name == "server":
            loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        certificate = builder.sign(keys["ca"], hashes.SHA256())
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{name}.key").write_bytes(pem)


def table(results: dict[str, dict[int, float]]) -> str:
    """The measurements as a Markdown table; the ratio is against stock httpx in the same column."""
    heads = " | ".join(f"{n} in flight: GETs/s | ratio" for n in IN_FLIGHT)
    lines = [f"| transport | {heads} |", "|---|" + "---:|" * (2 * len(IN_FLIGHT))]
    for name, rates in results.items():
        cells = [f"{rates[n]:,.0f} | {rates[n] / results['stock httpx'][n]:.1f}×" for n in IN_FLIGHT]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every candidate that can be imported and print the table."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=1.5, help="length of one round")
    arguments.add_argument("--rounds", type=int, default=3, help="rounds per candidate; the best counts")
    options = arguments.parse_args()
    candidates: dict[str, Candidate] = {"stock httpx": stock_httpx, "aiohttp, our interface": aiohttp_direct}
    if find_spec("httpx_aiohttp"):
        candidates["httpx over httpx-aiohttp"] = httpx_over_aiohttp
    else:
        print("httpx-aiohttp is not installed: not measured")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_certificates(folder)
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(name, theirs), daemon=True)
        server.start()
        try:
            if not ours.poll(20):
                raise SystemExit("the server did not start")
            url = f"https://127.0.0.1:{ours.recv()}/open-finance/account-information/v2.1/accounts/1/balances"
            context = ssl.create_default_context(cafile=f"{name}/ca.pem")
            context.load_cert_chain(f"{name}/client.pem", f"{name}/client.key")
            results: dict[str, dict[int, float]] = {label: dict.fromkeys(IN_FLIGHT, 0.0) for label in candidates}
            for _ in range(options.rounds):
                for in_flight in IN_FLIGHT:
                    for label, candidate in candidates.items():
                        rate = uvloop.run(
                            measure(candidate, context, url, in_flight=in_flight, seconds=options.seconds)
                        )
                        results[label][in_flight] = max(results[label][in_flight], rate)
        finally:
            server.terminate()
            server.join()
    print(table(results))


if __name__ == "__main__":
    main()
