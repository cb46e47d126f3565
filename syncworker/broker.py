"""The broker: the one Celery app, the broker's address, its TLS, and whether it answers.

Importing this module costs Celery and nothing of ours that knows the database or an LFI: beat needs no more.  The tasks
stand in `tasks`, which registers them with `app`.

Nothing is connected at import.  `configure` gives the app the settings' values before a process starts.
"""

import importlib.util
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from types import ModuleType
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import structlog
from celery import Celery
from kombu import Connection, Queue
from kombu.exceptions import KombuError
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, Transport
from redis import exceptions as redis_errors

from syncworker import private
from syncworker.clock import in_time
from syncworker.errors import SettingsError, SetupError
from syncworker.processes import EmbeddedBroker
from syncworker.settings import EMBEDDED, Settings

log = structlog.stdlib.get_logger(__name__)

CONNECT_S: Final = 2.0
"""Most seconds that a check waits for one answer; it tries twice."""

AGAIN_S: Final = 0.2

CHECK_S: Final = 12.0
"""Most seconds one check of the broker may take, whatever listens at its address."""

PING_S: Final = 0.5
RESP: Final = frozenset(bytes((one,)) for one in b"+-:$*_#,(!=%~>|")
"""First bytes of what a Redis or Valkey says (RESP 2 and 3)."""

TICK_EXPIRES_S: Final = 7200.0
"""A tick that no worker took for so long is dropped, so that ticks do not pile up while no worker runs.

Beat writes the instant by its own clock and the worker compares it with its own.  Two clocks, or one clock that is set
anew, may differ by an hour; an expiry shorter than that would drop every tick, and nothing would be claimed any more.
"""

CANARY_QUEUE_EXPIRES_S: Final = 600
"""RabbitMQ removes a dead worker's own queue after so long; on Redis a queue is nothing but its messages."""

AMQP: Final = frozenset({"amqp", "amqps", "pyamqp"})
TLS: Final = frozenset({"rediss", "amqps"})
_TLS_IN_URL: Final = "ssl_"


class ForeignBrokerError(SetupError):
    """Something answers at the broker's address, and is not the broker of the settings."""


class RedisChannel(Channel):  # type: ignore[misc]  # kombu ships no types
    """kombu's channel, with two of its ends mended that would end the worker.

    A server that becomes a replica unblocks its waiting clients with `UNBLOCKED`, for which redis-py has no class: that
    is a lost connection.  An entry of a queue that is no JSON is dropped: it was taken from the queue already.
    """

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except redis_errors.ResponseError as error:
            if str(error).startswith("UNBLOCKED"):
                raise redis_errors.ConnectionError("the server broke off a wait: is it a replica now?") from error
            raise
        except ValueError:
            log.warning("entry of a queue dropped, it is no message")
            raise Empty from None


class RedisTransport(Transport):  # type: ignore[misc]  # kombu ships no types
    """kombu's transport, for which a server that takes no writes just now is one to reconnect to.

    After a failover a client may still hold a connection to the former primary, which is a replica now.  Every pop
    and publish is a write there, and kombu would end the worker with the server's `READONLY`; a new connection may
    reach the new primary.
    """

    Channel = RedisChannel
    connection_errors = (
        *Transport.connection_errors,
        redis_errors.ReadOnlyError,
        redis_errors.MasterDownError,
        redis_errors.OutOfMemoryError,
    )


for _scheme in ("redis", "rediss"):
    TRANSPORT_ALIASES[_scheme] = f"{__name__}:RedisTransport"


def _celeryconfig() -> ModuleType:
    """`celeryconfig.py`: beside the package in a checkout, inside it in a wheel."""
    here = Path(__file__).resolve().parent
    for file in (here / "celeryconfig.py", here.parent / "celeryconfig.py"):
        spec = importlib.util.spec_from_file_location("syncworker_celeryconfig", file)
        if file.is_file() and spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise SetupError("celeryconfig.py: not found beside or inside the package; install syncworker anew")


app: Final = Celery("syncworker", set_as_current=False)
_CELERYCONFIG: Final = _celeryconfig()
app.config_from_object(_CELERYCONFIG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where the broker is and how its TLS is verified.

    Attributes:
        url: as Celery spells it, without options of TLS.
        ca: bundle that certifies the server; `None`: the system's.
        verify: check the server's certificate and host.
        certificate, key: our own, where the server asks for one.
    """

    url: str
    ca: Path | None = None
    verify: bool = True
    certificate: Path | None = None
    key: Path | None = None

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0].lower()

    @property
    def is_tls(self) -> bool:
        return self.scheme in TLS

    def redis_options(self) -> Mapping[str, Any]:
        """Keyword arguments of a redis-py client or connection; empty without TLS."""
        if self.scheme != "rediss":
            return {}
        return _given(
            ssl_cert_reqs=ssl.CERT_REQUIRED if self.verify else ssl.CERT_NONE,
            ssl_check_hostname=self.verify,
            ssl_ca_certs=self.ca and str(self.ca),
            ssl_certfile=self.certificate and str(self.certificate),
            ssl_keyfile=self.key and str(self.key),
        )

    def use_ssl(self) -> dict[str, Any] | None:
        """Celery's `broker_use_ssl`; `None` without TLS."""
        if self.scheme == "rediss":
            return dict(self.redis_options())
        if self.scheme != "amqps":
            return None
        return _given(
            cert_reqs=ssl.CERT_REQUIRED if self.verify else ssl.CERT_NONE,
            server_hostname=urlsplit(self.url).hostname if self.verify else None,
            ca_certs=self.ca and str(self.ca),
            certfile=self.certificate and str(self.certificate),
            keyfile=self.key and str(self.key),
        )

    def transport_options(self) -> dict[str, Any]:
        """Options of the broker's own kind; with those of Redis, AMQP would wait without a deadline."""
        amqp = self.scheme in AMQP
        return dict(_CELERYCONFIG.amqp_transport_options if amqp else _CELERYCONFIG.broker_transport_options)


def broker_of(settings: Settings) -> Broker:
    """The broker of the settings; the embedded one listens in the data folder.

    Raises:
        SettingsError: the URL carries options of TLS, which have settings of their own.
    """
    embedded = settings.broker_url == EMBEDDED
    return _placed(
        settings, EmbeddedBroker(settings.data_folder).url if embedded else settings.broker_url, "broker_url"
    )


def limits_of(settings: Settings) -> Broker:
    """Where the counts of calls that all workers share are kept: `limits_url`, else the broker."""
    return _placed(settings, settings.limits_url, "limits_url") if settings.limits_url else broker_of(settings)


def _placed(settings: Settings, url: str, field: str) -> Broker:
    told = sorted(name for name, _ in parse_qsl(urlsplit(url).query) if name.startswith(_TLS_IN_URL))
    if told:
        raise SettingsError(
            f"{field}: {told[0]} in the URL is not read; TLS is verified by default; broker_ca, "
            "broker_certificate, broker_key and broker_verify change how"
        )
    found = Broker(
        url=url,
        ca=settings.broker_ca and settings.resolved(settings.broker_ca),
        verify=settings.broker_verify,
        certificate=settings.broker_certificate and settings.resolved(settings.broker_certificate),
        key=settings.broker_key and settings.resolved(settings.broker_key),
    )
    if found.is_tls:
        for name, file in (
            ("broker_ca", found.ca),
            ("broker_certificate", found.certificate),
            ("broker_key", found.key),
        ):
            if file is not None and not file.is_file():
                raise SettingsError(f"{name}: no such file; name a file in PEM form, or leave it out")
    return found


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def configure(broker: Broker, tick_seconds: float, data_dir: Path, *, threads: int) -> None:
    """Give the app the settings' values; before a worker or beat starts, and before anything is published.

    Args:
        tick_seconds: between two ticks.
        data_dir: where beat keeps its life sign; made when missing.
        threads: of a worker process.
    """
    private.narrow()  # with Celery's own command line a process begins here
    private.make_folder(data_dir)
    if broker.is_tls and not broker.verify:
        log.warning("broker not verified")
    entry = dict(app.conf.beat_schedule["tick"], schedule=tick_seconds, options={"expires": TICK_EXPIRES_S})
    app.conf.update(
        broker_url=broker.url,
        broker_read_url=broker.url,
        broker_write_url=broker.url,
        broker_use_ssl=broker.use_ssl(),
        broker_transport_options=broker.transport_options(),
        worker_concurrency=threads,
        beat_schedule={"tick": entry},
        beat_schedule_filename=str(data_dir / "beat"),
        beat_max_loop_interval=min(1.0, tick_seconds),
    )


def start(arguments: Sequence[str]) -> int:
    """Run Celery's command line: a worker or beat, until it is told to end.

    Returns:
        Its exit code, which `Celery.worker_main` and `Celery.start` drop: not 0 when Celery ended by a failure.
    """
    from celery.bin.celery import celery

    app_option = celery.params[0]
    app_option.default = app
    try:
        return int(celery.main(args=list(arguments), standalone_mode=False) or 0)
    finally:
        app_option.default = None


def own_queue(worker: str) -> Queue:
    """The queue only this worker takes from; no exchange, so that it leaves no binding behind."""
    name = f"worker.{worker}"
    return Queue(name, exchange="", routing_key=name, auto_delete=True, expires=CANARY_QUEUE_EXPIRES_S)


def check(broker: Broker, *, within: float = CHECK_S) -> None:
    """See whether the broker answers, before a process that needs it starts.

    Args:
        within: seconds after which the check itself gives up: something may take the connection and say nothing.

    Raises:
        SetupError: it does not answer; names the setting and the fix.
        ForeignBrokerError: what answers is not what TLS should prove it to be, or no broker of that kind.
    """
    fix = (
        "start one with `syncworker up`, or set broker_url to a Redis or Valkey of yours"
        if broker.scheme == "redis+socket"
        else "start it, or correct broker_url"
    )
    try:
        in_time(lambda: _connect(broker), within=within)
    except TimeoutError:
        said = "TLS was begun and not finished" if broker.is_tls else "the connection was taken and nothing was said"
        raise SetupError(f"broker_url: no answer within {within:.0f} s ({broker.scheme}); {said}; {fix}") from None
    except (OSError, KombuError, redis_errors.RedisError) as error:
        fault = _tls_fault(error)
        if fault is not None:
            raise ForeignBrokerError(f"broker_url: TLS failed ({broker.scheme}): {fault}") from None
        if _speaks_otherwise(error) or _greets_otherwise(broker):
            raise ForeignBrokerError(
                f"broker_url: what answers speaks another protocol than {broker.scheme}; correct broker_url"
            ) from None
        raise SetupError(f"broker_url: no broker answers ({broker.scheme}, {type(error).__name__}); {fix}") from None
    except (KeyError, ValueError):
        raise SettingsError("broker_url: not a broker's URL; write redis://host:6379/0 or embedded") from None


def _connect(broker: Broker) -> None:
    options = dict(broker.transport_options(), socket_timeout=CONNECT_S, socket_connect_timeout=CONNECT_S)
    if broker.scheme in AMQP:
        options = dict(broker.transport_options(), read_timeout=CONNECT_S, connect_timeout=CONNECT_S)
    with Connection(
        broker.url, ssl=broker.use_ssl() or False, connect_timeout=CONNECT_S, transport_options=options
    ) as connection:
        connection.ensure_connection(max_retries=1, interval_start=AGAIN_S, interval_step=0)


def _speaks_otherwise(error: BaseException | None) -> bool:
    """Whether the other side answered in a protocol that is not the broker's."""
    while error is not None:
        if isinstance(error, redis_errors.InvalidResponse) or type(error).__name__ == "UnexpectedFrame":
            return True
        error = error.__cause__ or error.__context__
    return False


def _greets_otherwise(broker: Broker) -> bool:
    """Whether what listens at a plain Redis address answers a bare PING in words that are none of Redis.

    A server of another protocol often answers the first line and closes; what it said is lost then, for our client had
    sent more.
    """
    if broker.scheme != "redis":
        return False
    parts = urlsplit(broker.url)
    with suppress(OSError), socket.create_connection((parts.hostname or "", parts.port or 6379), PING_S) as connection:
        connection.settimeout(PING_S)
        connection.sendall(b"PING\r\n")
        said = connection.recv(1)
        return bool(said) and said not in RESP
    return False


def _tls_fault(error: BaseException | None) -> str | None:
    """What TLS found wrong, with the fix; `None` when TLS is not to blame."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"{error.verify_message}; name the authority in broker_ca, or the host as its certificate does"
        if isinstance(error, ssl.SSLError):
            said = error.reason or "the other side speaks no TLS"
            return f"{said}; use redis:// or amqp:// where the port is a plain one"
        text = str(error)
        if "certificate verify failed" in text.lower() or "CERTIFICATE_VERIFY_FAILED" in text:
            return (
                "the certificate is not trusted; name the authority in broker_ca, or the host as its certificate does"
            )
        error = error.__cause__ or error.__context__
    return None
