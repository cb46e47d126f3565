"""`syncworker web`: the process that serves the product's API, users' browsers and LFIs' events."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from syncworker import opening, private
from syncworker.cli import frame, liveness, logs, show
from syncworker.cli.logs import Level, LogLevel
from syncworker.errors import SettingsError, SetupError
from syncworker.runtime import new_loop
from syncworker.settings import Settings
from syncworker.store import migrate

BACKLOG: Final = 1024
KEEP_ALIVE_S: Final = 20
HEAD_BYTES_MAX: Final = 32 * 1024
"""Request line and headers together; a redirect of a bank and the cookies of ten authorisations have room."""

CONNECTIONS_MAX: Final = 1_000
"""Open at once; one more is answered 503 and closed.  Memory is bounded by these two."""

GRACE_S: Final = 20
"""For requests under way when it ends: longer than a token call may take (`token_timeout`)."""

SERVING: Final[dict[str, Any]] = {
    "http": "h11",  # the one that bounds what comes before a body; httptools takes headers without end
    "h11_max_incomplete_event_size": HEAD_BYTES_MAX,
    "limit_concurrency": CONNECTIONS_MAX,
    "ws": "none",
    "lifespan": "off",
    "log_config": None,
    "access_log": False,  # it would print redirects, code and all
    "server_header": False,
    "timeout_keep_alive": KEEP_ALIVE_S,
    "timeout_graceful_shutdown": GRACE_S,
}
"""How uvicorn serves, whatever the settings say."""


def web(log_level: Level = LogLevel.INFO) -> None:
    """Run the web process: `/v1` for the product, the callback for users' browsers, events in."""
    config = frame.settings().for_web()
    logs.configure(log_level)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    opening.load_keyring(config)
    migrate.check(config.database)
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(_serve(config))
    except ModuleNotFoundError as error:
        raise SetupError(f"web: needs {error.name}, which is not installed; install syncworker[web]") from error


async def _serve(config: Settings) -> None:
    import uvicorn

    from syncworker.web import app as web_app
    from syncworker.web.dashboard.door import reach

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:  # uvicorn would raise the signal again and cut our end short
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._leave)
            yield

        def _leave(self) -> None:
            self.should_exit = True

    context = tls(config)
    bound = listening(config)
    port = bound.getsockname()[1]
    config = config.with_values(web=config.web.model_copy(update={"port": port}))
    with contextlib.closing(bound), _noted(config):
        async with web_app.opened(config) as application:
            served = uvicorn.Config(
                application,
                **SERVING,
                proxy_headers=bool(config.web.proxies),
                forwarded_allow_ips=list(config.web.proxies),
                ssl_context_factory=None if context is None else lambda _config, _default: context,
            )
            public = config.web.url or web_app.own_url(config)
            show.say(f"web: listens at {web_app.own_url(config)}; browsers reach it at {public}; Ctrl-C ends it")
            _warn(config, public)
            reached = reach(config.web, public)
            show.say(f"web: the dashboard is {'off: ' + reached if isinstance(reached, str) else f'at {public}/ops/'}")
            await Server(served).serve(sockets=[bound])


@contextlib.contextmanager
def _noted(config: Settings) -> Iterator[None]:
    """Leave a file that tells `syncworker health --web` which process it is."""
    file = liveness.web_file(config, os.getpid())
    private.make_folder(file.parent)
    private.close_file(file, make=True)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _warn(config: Settings, public: str) -> None:
    """Say what will keep callbacks from working."""
    named = {config.client.redirect_uri, *(entry.redirect_uri for entry in config.lfis.values())}
    for redirect_uri in sorted(filter(None, named)):
        parts = urlsplit(redirect_uri)
        if f"{parts.scheme}://{parts.netloc}" != public:
            show.say(
                f"web: redirect_uri {redirect_uri} is not at {public}, where users set out: their browser would come "
                "back without its cookie and be refused; set web.url to the origin of the redirect URI"
            )


def listening(config: Settings) -> socket.socket:
    """A socket that listens where the settings say.

    Raises:
        SettingsError: this machine cannot listen there.
    """
    host, port = config.web.host, config.web.port
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError(f"web.host: {host!r} is no address of this machine ({error.strerror})") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise SettingsError(f"web.port: cannot listen at {host}:{port} ({error.strerror}); set another port") from None
    return bound


def tls(config: Settings) -> ssl.SSLContext | None:
    if config.web.certificate is None or config.web.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.resolved(config.web.certificate), config.resolved(config.web.key))
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror or "not a PEM certificate with its key"
        raise SettingsError(f"web.certificate: certificate and key cannot be used ({why})") from None
    return context
