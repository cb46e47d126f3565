"""Where the database is: `database_url` read once, for the store, the migrations and beat's own row.

This module imports neither SQLAlchemy nor a driver, so that beat stays small.  All processes get the same parameters
of libpq from here and set the same settings of a session.

A session's settings are set by a statement and not by libpq's `options`: PgBouncer refuses that parameter.  With a
pooler in transaction mode they hold for one transaction at a time (`SET LOCAL`), since the server's session is another
client's in the next moment.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from syncworker.errors import SettingsError

CONNECT_TIMEOUT_S: Final = 5
SILENCE: Final = {"tcp_user_timeout": 30_000, "keepalives_idle": 20, "keepalives_interval": 5, "keepalives_count": 3}
"""When libpq gives up a connection that went silent, as in a failover: the server's own timeouts end nothing then."""


class Pooler(StrEnum):
    """What stands between us and PostgreSQL (setting `database_pooler`)."""

    NONE = "none"
    """Nothing, or a pooler that gives each client a session of its own (PgBouncer's `pool_mode = session`)."""
    TRANSACTION = "transaction"
    """A pooler that gives a client a session for one transaction at a time."""


_URL: Final = re.compile(
    r"""(?P<scheme>[\w+]+)://
    (?:(?P<user>[^:/@?]*)(?::(?P<password>[^@]*))?@)?
    (?P<hosts>[^/?@]*)
    (?:/(?P<database>[^?]*))?
    (?:\?(?P<query>.*))?""",
    re.VERBOSE | re.DOTALL,
)
# fmt: off
_KNOWN: Final = frozenset({
    "application_name", "channel_binding", "client_encoding", "connect_timeout", "dbname",
    "fallback_application_name", "gssdelegation", "gssencmode", "gsslib", "host", "hostaddr", "keepalives",
    "keepalives_count", "keepalives_idle", "keepalives_interval", "krbsrvname", "load_balance_hosts",
    "max_protocol_version", "min_protocol_version", "oauth_client_id", "oauth_client_secret", "oauth_issuer",
    "oauth_scope", "options", "passfile", "password", "port", "require_auth", "requirepeer", "scram_client_key",
    "scram_server_key", "service", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcert",
    "sslcertmode", "sslcompression", "sslcrl", "sslcrldir", "sslkey", "sslmode", "sslnegotiation", "sslpassword",
    "sslrootcert", "sslsni", "target_session_attrs", "tcp_user_timeout", "user",
})
# fmt: on
"""Parameters of libpq 18, but for `replication` and `sslkeylogfile`, which no process of ours may use."""

_INSTEAD: Final = {
    "ssl": "write sslmode=verify-full",
    "sslfactory": "write sslmode=verify-full",
    "sslkeylogfile": "remove it: it would write the keys of TLS into a file",
    "sslrootcertificate": "write sslrootcert=FILE",
    "sslca": "write sslrootcert=FILE",
    "timeout": "write connect_timeout=SECONDS",
    "connecttimeout": "write connect_timeout=SECONDS",
    "command_timeout": "remove it: statements have a limit of their own",
    "statement_timeout": "remove it: statements have a limit of their own",
    "applicationname": "write application_name=NAME",
    "targetservertype": "write target_session_attrs=read-write",
    "server_settings": "write options=-c NAME=VALUE",
    "search_path": "write options=-c search_path=NAME",
    "schema": "write options=-c search_path=NAME",
    "currentschema": "write options=-c search_path=NAME",
    "charset": "remove it: text is UTF8",
    "encoding": "remove it: text is UTF8",
    "unix_sock": "write host=/FOLDER",
    "unix_socket": "write host=/FOLDER",
    "database": "write dbname=NAME",
    "username": "write user=NAME",
    "pgbouncer": "set database_pooler to transaction",
    "statement_cache_size": "set database_pooler to transaction where a pooler forbids prepared statements",
    "prepared_statement_cache_size": "set database_pooler to transaction where a pooler forbids prepared statements",
    "prepare_threshold": "set database_pooler to transaction where a pooler forbids prepared statements",
    "preparethreshold": "set database_pooler to transaction where a pooler forbids prepared statements",
    "pool_size": "remove it: connections are pooled by syncworker itself",
    "max_overflow": "remove it: connections are pooled by syncworker itself",
    "pool_pre_ping": "remove it: connections are pooled by syncworker itself",
    "connection_limit": "remove it: connections are pooled by syncworker itself",
    "autocommit": "remove it",
    "replication": "remove it",
}
"""Words of other drivers, in small letters, and what to write in their place."""

_VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("read-write", "primary", "any"),  # of the rest, a host that takes no writes would do
}
_SECONDS_MAX: Final = 300
_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_OURS: Final = frozenset({"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "timezone"})


@dataclass(frozen=True, slots=True)
class Address:
    """A database and the way to it.

    Attributes:
        file: of SQLite; `None`: it is PostgreSQL.
        parameters: of libpq, as the URL gives them, without `options`.
        settings: of each session, as the URL's `options` give them.
        pooler: what stands in between.
    """

    file: Path | None = None
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    pooler: Pooler = Pooler.NONE

    @property
    def is_postgresql(self) -> bool:
        return self.file is None

    @property
    def shares_sessions(self) -> bool:
        """Whether a server's session is ours for one transaction only."""
        return self.is_postgresql and self.pooler is Pooler.TRANSACTION

    @property
    def connecting_max_s(self) -> float:
        """Seconds after which an attempt to open a session is given up, whatever the hosts do."""
        hosts = self.parameters.get("host", "").count(",") + 1
        return int(self.parameters.get("connect_timeout", CONNECT_TIMEOUT_S)) * hosts + CONNECT_TIMEOUT_S

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of psycopg's `connect`, for a session in autocommit."""
        given = {**SILENCE, "connect_timeout": CONNECT_TIMEOUT_S, **self.parameters, "client_encoding": "UTF8"}
        return {**given, "autocommit": True} | ({"prepare_threshold": None} if self.shares_sessions else {})

    def setting(self, ours: Mapping[str, str], *, local: bool) -> tuple[str, list[str]]:
        """The statement that gives a session its settings, and its parameters.

        Args:
            ours: beside those of the URL.
            local: for the present transaction only.
        """
        values = {**self.settings, **ours}
        calls = ", ".join([f"set_config(%s, %s, {'true' if local else 'false'})"] * len(values))
        return f"SELECT {calls}", [part for pair in values.items() for part in pair]


def address_of(database: str | Address, *, pooler: Pooler = Pooler.NONE) -> Address:
    """The address in a `database_url`: `sqlite:///FILE` or `postgresql://[user[:password]@]host[:port][,…][/name][?…]`.

    Names, passwords and values are percent-encoded where they hold signs of a URL; in values after `?`, `+` is a blank.

    Raises:
        SettingsError: not such a URL, or a parameter that is none; names it and the fix, never a password.
    """
    if isinstance(database, Address):
        return database
    found = _URL.fullmatch(database)
    if found is None or (found["password"] and "@" in f"{found['database']}{found['query']}"):
        raise SettingsError(
            "database_url: not a URL; write sqlite:///file or postgresql://user@host/name, and %40 for @ in a password"
        )
    name = found["scheme"].partition("+")[0]
    if name in {"postgresql", "postgres"}:
        parameters = _parameters(found)
        settings = _settings(parameters.pop("options", ""))
        return Address(parameters=parameters, settings=settings, pooler=pooler)
    if name != "sqlite":
        raise SettingsError(f"database_url: {name!r} is not supported; use sqlite:///file or postgresql://…")
    if found["query"]:
        raise SettingsError("database_url: SQLite takes no parameters; write sqlite:///file alone")
    if found["hosts"] or found["user"] or found["database"] in (None, "", ":memory:"):
        raise SettingsError("database_url: SQLite needs a file, as in sqlite:///syncworker.db")
    return Address(file=Path(found["database"]))


def _parameters(url: "re.Match[str]") -> dict[str, str]:
    """All that a URL says, as libpq's parameters."""
    found = {
        name: unquote(url[group])
        for name, group in (("user", "user"), ("password", "password"), ("dbname", "database"))
        if url[group]
    }
    listed: dict[str, list[str]] = {}
    for name, value in parse_qsl(url["query"] or "", keep_blank_values=True):
        listed.setdefault(name, []).append(value)
    for name, values in listed.items():
        if name not in _KNOWN:
            raise SettingsError(f"database_url: {name} is not a parameter of PostgreSQL; {_instead(name)}")
        if len(values) > 1 and name != "host":
            raise SettingsError(f"database_url: {name} is given {len(values)} times; give it once")
        found[name] = values[0]
    hosts = listed.get("host") or [unquote(url["hosts"])]
    found |= _hosts([part for host in hosts for part in host.split(",")], found.get("port", ""))
    return _checked({name: value for name, value in found.items() if value != ""})


def _instead(name: str) -> str:
    known = _INSTEAD.get(name.lower())
    if known is not None:
        return known
    close = difflib.get_close_matches(name.lower(), sorted(_KNOWN), n=1)
    return f"did you mean {close[0]}?" if close else "remove it"


def _hosts(given: Iterable[str], port: str) -> dict[str, str]:
    """`host` and `port`; with several hosts, as many ports."""
    pairs = [_host(one) for one in given]
    hosts, ports = [host for host, _ in pairs], [own for _, own in pairs]
    if any(ports):
        for one in filter(None, ports):
            if not one.isdecimal() or not 0 < int(one) < 65_536:
                raise SettingsError("database_url: a port is no number between 1 and 65535; correct it")
        return {"host": ",".join(hosts), "port": ",".join(own or "5432" for own in ports)}
    return {"host": ",".join(hosts), "port": port}


def _host(text: str) -> tuple[str, str]:
    """Host and port (or empty) of `host`, `host:port`, `[::1]:port` or `/folder`."""
    if text.startswith("/"):
        return text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    host, separator, port = text.rpartition(":")
    return (host, port) if separator and ":" not in host else (text, "")


def _checked(parameters: dict[str, str]) -> dict[str, str]:
    for name, allowed in _VALUES.items():
        if name in parameters and parameters[name] not in allowed:
            raise SettingsError(f"database_url: {name} takes one of {', '.join(allowed)}; correct it")
    if parameters.pop("client_encoding", "UTF8").upper().replace("-", "") not in {"UTF8", "AUTO"}:
        raise SettingsError("database_url: client_encoding is UTF8 here; remove it")
    seconds = parameters.get("connect_timeout")
    if seconds is not None and not (seconds.isdecimal() and 0 < int(seconds) <= _SECONDS_MAX):
        raise SettingsError(f"database_url: connect_timeout takes 1 to {_SECONDS_MAX} seconds; correct it")
    for name in _FILES:
        file = parameters.get(name)
        if file is not None and not (name == "sslrootcert" and file == "system") and not Path(file).is_file():
            raise SettingsError(f"database_url: {name} names no file; give the path of a file in PEM form")
    return parameters


def _settings(options: str) -> dict[str, str]:
    """`-c name=value`, `-cname=value` and `--name=value`, as `postgres` reads them; a backslash quotes a blank."""
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|\S)+", options)]
    found: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if word == "-c" and words:
            word = words.pop(0)
        elif word.startswith(("-c", "--")):
            word = word[2:]
        else:
            word = ""
        name, separator, value = word.partition("=")
        name = name.replace("-", "_").lower()
        if not separator or not re.fullmatch(r"[a-z_][a-z0-9_.]*", name):
            raise SettingsError("database_url: options is not understood; write options=-c NAME=VALUE")
        if name in _OURS:
            raise SettingsError(f"database_url: options sets {name}, which syncworker sets itself; remove it")
        found[name] = value
    return found
