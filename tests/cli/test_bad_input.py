"""What somebody may get wrong at a prompt: the command says in one line which field and how to mend it.

Each row is a real process in a folder of its own, with one fault in it.  It ends with 2 when it was used wrongly and
with 1 otherwise, prints no data, no traceback and no secret, and leaves every table as it was.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from syncworker.store.keyring import KeyRing
from tests.cli.conftest import Prepared
from tests.cli.house import House
from tests.ground.postgres import free_port

pytestmark = pytest.mark.live

PASSWORD: Final = "hunter2-hunter2"
LINE_CHARACTERS_MAX: Final = 500
USAGE_LINES_MAX: Final = 8
"""Usage, a hint, and the fault in a frame."""

WAITING: Final = b"(the waiting redirect)"
AUTHORIZE: Final = ("consents", "authorize", "sandbox")

Break = Callable[[House, Prepared], None]
Argument = str | Callable[[House, Prepared], str]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong, and what has to be said about it.

    Attributes:
        says: words of the one line on stderr: the field, then the fix.
        code: the exit code.
        breaks: puts the fault into the folder.
        env, stdin: of the process; `{port}` is a port nobody listens on.
        writes: tables that may change.
    """

    arguments: tuple[Argument, ...]
    says: tuple[str, ...]
    code: int = 1
    breaks: Break = lambda _house, _prepared: None
    env: dict[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    writes: frozenset[str] = frozenset()


def setting(name: str, value: str | None) -> Break:
    """A setting of the file has another value, or is not there."""
    return lambda house, _prepared: house.set(name, value)


def file(path: str, content: bytes | str, mode: int = 0o600) -> Break:
    """A file holds something else."""

    def put(house: House, _prepared: Prepared) -> None:
        target = house.folder / path
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)

    return put


def mode(path: str, bits: int) -> Break:
    """A file is open to others."""
    return lambda house, _prepared: (house.folder / path).chmod(bits)


def sql(*statements: str) -> Break:
    """The database was changed behind our back."""

    def change(house: House, _prepared: Prepared) -> None:
        for statement in statements:
            house.sql(statement)

    return change


def another_key(house: House, _prepared: Prepared) -> None:
    """The transport key is a good one, of another certificate."""
    (house.folder / "keys/transport_key.pem").write_bytes(_pem(_rsa()))


def expired(house: House, _prepared: Prepared) -> None:
    """The transport certificate belongs to its key and ended yesterday."""
    key, now = _rsa(), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tpp.example")])
    unsigned = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now - timedelta(days=1))
    )
    certificate = unsigned.sign(key, hashes.SHA256())
    (house.folder / "keys/transport_key.pem").write_bytes(_pem(key))
    (house.folder / "keys/transport_certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def another_keyring(house: House, _prepared: Prepared) -> None:
    """A key ring of the right form, which sealed nothing of ours."""
    house.keyring.unlink()
    KeyRing.generate(house.keyring)


def tampered(table: str, column: str) -> Break:
    """One bit of each sealed value in a column is another."""

    def flip(house: House, _prepared: Prepared) -> None:
        for rowid, sealed in house.sql(f'SELECT rowid, {column} FROM "{table}" WHERE {column} IS NOT NULL'):
            other = sealed[:-1] + bytes([sealed[-1] ^ 1])
            house.sql(f'UPDATE "{table}" SET {column} = ? WHERE rowid = ?', other, rowid)

    return flip


def consent(_house: House, prepared: Prepared) -> str:
    return prepared.consent_id


def used(_house: House, prepared: Prepared) -> str:
    return prepared.used


def waiting(**changes: str) -> Argument:
    """The waiting redirect with other parameters."""

    def edited(_house: House, prepared: Prepared) -> str:
        url = urlsplit(prepared.waiting)
        return url._replace(query=urlencode(dict(parse_qsl(url.query)) | changes)).geturl()

    return edited


def stale_sandbox(house: House, _prepared: Prepared) -> None:
    """The bank was killed and left its facts behind."""
    (house.folder / "books.key").write_text("key")
    (house.folder / "sandbox.json").write_text(
        f'{{"books_url": "http://127.0.0.1:{free_port()}", "books_key": "{house.folder}/books.key"}}'
    )


def _rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


NO_KEY: Final = "-----BEGIN PRIVATE KEY-----\nMIIEvgIBADANBgkq\n-----END PRIVATE KEY-----\n"
POSTGRES: Final = f"postgresql://someone:{PASSWORD}@127.0.0.1:{{port}}/none"
VALKEY: Final = f"redis://:{PASSWORD}@127.0.0.1:{{port}}/0"
NO_POSTGRES: Final = {"SYNCWORKER_DATABASE_URL": POSTGRES}
NO_VALKEY: Final = {"SYNCWORKER_BROKER_URL": VALKEY}
UPGRADE: Final = "run: syncworker db upgrade"
EMPTY_SCHEMA: Final = sql("DROP TABLE alembic_version")

KEYS: Final = {
    "signing key that is not there": Fault(
        AUTHORIZE,
        ("client.signing_key", "cannot read", "give a readable file"),
        breaks=setting("signing_key", "no.pem"),
    ),
    "signing key that is no key": Fault(
        AUTHORIZE, ("client.signing_key", "give the private key's file"), breaks=file("keys/signing_key.pem", NO_KEY)
    ),
    "signing key of mode 0644": Fault(
        AUTHORIZE, ("client.signing_key", "mode 0644", "chmod 600"), breaks=mode("keys/signing_key.pem", 0o644)
    ),
    "signing key without a kid": Fault(
        AUTHORIZE, ("lfis.sandbox.signing_kid", "is not set", "client.signing_kid"), breaks=setting("signing_kid", None)
    ),
    "transport key of another certificate": Fault(
        AUTHORIZE, ("client.transport_key", "does not belong to", "give the key"), breaks=another_key
    ),
    "certificate that is none": Fault(
        AUTHORIZE,
        ("client.transport_certificate", "holds no PEM certificate"),
        breaks=file("keys/transport_certificate.pem", "certificate"),
    ),
    "expired certificate": Fault(
        AUTHORIZE, ("client.transport_certificate", "expired at", "request a new one"), breaks=expired
    ),
}

LFIS: Final = {
    "unknown LFI": Fault(("consents", "authorize", "noor"), ("lfis.noor", "is not declared", "declare it")),
    "LFI with a bad slug": Fault(
        ("lfis", "add", "Noor Bank", "--issuer", "https://a.example", "--base-url", "v2.1=https://b.example"),
        ("slug", "use a-z"),
        2,
    ),
    "LFI with an http issuer": Fault(
        ("lfis", "add", "noor", "--issuer", "http://a.example", "--base-url", "v2.1=https://b.example"),
        ("issuer: must be an https:// URL",),
        2,
    ),
    "LFI of an unknown version": Fault(
        ("lfis", "add", "noor", "--issuer", "https://a.example", "--base-url", "v9.9=https://b.example"),
        ("base_url: write VERSION=URL", "v2.1"),
        2,
    ),
    "LFI whose declaration in the database is old": Fault(
        ("lfis", "list"),
        ("lfis.noor", "is no setting"),
        breaks=sql(
            "INSERT INTO lfi (tenant, slug, declared, added_at) VALUES ('default', 'noor', "
            """'{"issuer": "https://a.example", "base_urls": {"v2.1": "https://b.example"}, "mood": 1}', """
            "'2026-01-01T00:00:00.000000Z')"
        ),
    ),
}

BROKER: Final = {
    "no embedded broker for worker": Fault(("worker",), ("broker_url", "no broker answers", "`syncworker up`")),
    "no embedded broker for beat": Fault(("beat",), ("broker_url", "no broker answers", "`syncworker up`")),
    "no broker for worker": Fault(
        ("worker",), ("broker_url", "no broker answers", "correct broker_url"), env=NO_VALKEY
    ),
    "no broker for beat": Fault(("beat",), ("broker_url", "no broker answers", "correct broker_url"), env=NO_VALKEY),
    "broker in a folder that is none": Fault(
        ("up",), ("data_dir", "set another data_dir"), env={"SYNCWORKER_DATA_DIR": "keyring/data"}
    ),
    "queue nobody fills": Fault(("worker", "--queue", "results"), ("--queue", "is not one of 'sync'"), 2),
    "log level that is none": Fault(("beat", "--log-level", "loud"), ("--log-level", "is not one of 'debug'"), 2),
}

DATABASE: Final = {
    "no PostgreSQL": Fault(
        ("consents", "list"), ("database_url", "cannot be reached", "check host, port"), env=NO_POSTGRES
    ),
    "no PostgreSQL for worker": Fault(
        ("worker",), ("database_url", "cannot be reached", "check host, port"), env=NO_POSTGRES
    ),
    "SQLite below a file": Fault(
        ("db", "upgrade"),
        ("database_url", "cannot be made", "give another place"),
        env={"SYNCWORKER_DATABASE_URL": "sqlite:///keyring/syncworker.db"},
    ),
    "SQLite that is not there": Fault(
        ("consents", "list"),
        ("database_url", UPGRADE),
        env={"SYNCWORKER_DATABASE_URL": "sqlite:///nowhere/syncworker.db"},
    ),
    "SQLite file of something else": Fault(
        ("db", "check"),
        ("database_url", "is no SQLite database", "give another file"),
        env={"SYNCWORKER_DATABASE_URL": "sqlite:///keys/signing_key.pem"},
    ),
    "database we do not know": Fault(
        ("db", "check"),
        ("database_url", "use sqlite:///file or postgresql://"),
        env={"SYNCWORKER_DATABASE_URL": f"mysql://someone:{PASSWORD}@127.0.0.1/none"},
    ),
    "no schema": Fault(("consents", "list"), ("database_url", UPGRADE), breaks=EMPTY_SCHEMA),
    "no schema for worker": Fault(("worker",), ("database_url", UPGRADE), breaks=EMPTY_SCHEMA),
    "newer schema": Fault(
        ("consents", "list"),
        ("database_url", "newer", "update syncworker"),
        breaks=sql("UPDATE alembic_version SET version_num = '9999'"),
    ),
}

KEYRING: Final = {
    "no key ring set": Fault(AUTHORIZE, ("keyring", "syncworker keys generate"), breaks=setting("keyring", None)),
    "key ring that is not there": Fault(
        AUTHORIZE, ("keyring", "does not exist", "syncworker keys generate"), breaks=setting("keyring", "no-ring")
    ),
    "key ring of mode 0644": Fault(AUTHORIZE, ("keyring", "mode 0644", "chmod 600"), breaks=mode("keyring", 0o644)),
    "key ring that is none": Fault(
        AUTHORIZE, ("keyring", "is not `kid base64key`"), breaks=file("keyring", f"k1 {PASSWORD}\n")
    ),
    "another key ring": Fault(
        ("consents", "callback", "-"),
        ("authorization.code_verifier", "`keyring` does not hold"),
        breaks=another_keyring,
        stdin=WAITING,
    ),
    "key ring that would be overwritten": Fault(
        ("keys", "generate", ".", "--keyring-only"), ("keyring", "exists already", "give another folder")
    ),
    "key ring below a file": Fault(
        ("keys", "generate", "keyring", "--keyring-only"), ("directory", "cannot be made", "give another folder")
    ),
    "tampered code verifier": Fault(
        ("consents", "callback", "-"),
        ("authorization.code_verifier", "does not open", "changed"),
        breaks=tampered("authorization", "code_verifier"),
        stdin=WAITING,
    ),
}

TERMS: Final = {
    "end in 365 days": Fault((*AUTHORIZE, "--days", "365"), ("--days", "less than or equal to 364"), 2),
    "end in more days than there are": Fault(
        (*AUTHORIZE, "--days", "99999999999"), ("--days", "less than or equal to 364"), 2
    ),
    "end in a year": Fault(
        (*AUTHORIZE, "--expires-at", (datetime.now(UTC) + timedelta(days=365)).isoformat()),
        ("expires_at", "less than one year", "at most 364 days"),
        2,
    ),
    "end without offset": Fault(
        (*AUTHORIZE, "--expires-at", "2027-01-31T00:00:00"),
        ("expires_at", "no offset", "write 2027-01-31T00:00:00Z"),
        2,
    ),
    "end that is no instant": Fault((*AUTHORIZE, "--expires-at", "soon"), ("expires_at", "write 2027-01-31"), 2),
    "window to the end of time": Fault(
        (*AUTHORIZE, "--to-date", "9999-12-31"), ("to_date: lies outside", "leave it out for no limit"), 2
    ),
    "window from the beginning of time": Fault(
        (*AUTHORIZE, "--from-date", "0001-01-01"), ("from_date: lies outside", "leave it out for no limit"), 2
    ),
    "duration of an age": Fault(
        ("status",), ("rewalk_every", "less than or equal to"), 1, env={"SYNCWORKER_REWALK_EVERY": "1e300"}
    ),
    "rate of none": Fault(
        ("status",),
        ("calls_per_second", "greater than or equal to 0.001"),
        1,
        env={"SYNCWORKER_LFIS__SANDBOX__CALLS_PER_SECOND": "1e-300"},
    ),
    "end of time": Fault(
        (*AUTHORIZE, "--expires-at", "9999-12-31T23:59:59-14:00"), ("expires_at", "give the instant that is meant"), 2
    ),
    "unknown permission": Fault(
        (*AUTHORIZE, "--permission", "ReadMinds"), ("permissions", "'ReadMinds'", "not a permission of the standard"), 2
    ),
    "balances without accounts": Fault(
        (*AUTHORIZE, "--permission", "ReadBalances"), ("permissions", "need ReadAccountsBasic or ReadAccountsDetail"), 2
    ),
    "argument that is not UTF-8": Fault(
        ("consents", "show", os.fsdecode(b"\xff")), ("arguments", "not UTF-8", "write it in UTF-8"), 2
    ),
}

REDIRECTS: Final = {
    "redirect of somebody else": Fault(
        ("consents", "callback", waiting(state="another")), ("redirect", "state is not one of ours")
    ),
    "redirect of another issuer": Fault(
        ("consents", "callback", waiting(iss="https://evil.example")), ("redirect", "iss is not the issuer")
    ),
    "redirect used twice": Fault(("consents", "callback", used), ("redirect", "was used before")),
    "redirect that is none": Fault(
        ("consents", "callback", "https://tpp.example/?code#"), ("redirect", "not the query")
    ),
    "redirect that is no text": Fault(("consents", "callback"), ("redirect", "not the query"), stdin=b"\xff\xfe\n"),
    "no redirect": Fault(("consents", "callback", "-"), ("url", "give the whole redirect URL"), 2),
}

CONSENTS: Final = {
    "unknown consent to show": Fault(
        ("consents", "show", "c-1"), ("consent_id", "'c-1' is not held", "`syncworker consents list`"), 2
    ),
    "unknown consent to sync": Fault(("consents", "sync", "c-1"), ("consent_id", "`syncworker consents list`"), 2),
    "unknown consent to sync here": Fault(
        ("consents", "sync", "c-1", "--here"), ("consent_id", "`syncworker consents list`"), 2
    ),
    "no worker to wait for": Fault(
        ("consents", "sync", consent, "--wait"), ("no worker lives", "`syncworker up`"), writes=frozenset({"work"})
    ),
    "worker and broker that died just now": Fault(
        ("consents", "sync", consent, "--wait", "--timeout", "1"),
        ("no sync ended within 1 s", "`syncworker status` shows why"),
        breaks=sql(
            "INSERT INTO worker (name, kind, started_at, progress_at) SELECT 'gone/1', 'worker', now, now FROM "
            "(SELECT strftime('%Y-%m-%dT%H:%M:%f000Z', 'now') AS now)"
        ),
        writes=frozenset({"work"}),
    ),
    "audit without a bank": Fault(("audit", "--sandbox", "keys"), ("sandbox", "`syncworker sandbox`"), 2),
    "audit of a bank that is gone": Fault(
        ("audit", "--sandbox", "."), ("sandbox", "does not answer", "`syncworker sandbox`"), breaks=stale_sandbox
    ),
}

SETTINGS: Final = {
    "file that is not there": Fault(
        ("lfis", "list"), ("SYNCWORKER_CONFIG", "correct the path"), env={"SYNCWORKER_CONFIG": "no.toml"}
    ),
    "file that is no TOML": Fault(
        ("lfis", "list"),
        ("syncworker.toml", "not valid TOML", "end of document"),
        breaks=file("syncworker.toml", "lfis = ["),
    ),
    "file that is no text": Fault(
        ("lfis", "list"), ("syncworker.toml", "UTF-8"), breaks=file("syncworker.toml", b"tenant = '\xff'")
    ),
    "setting that is none": Fault(
        ("lfis", "list"),
        ("databse_url: is no setting", "correct its name"),
        breaks=file("syncworker.toml", f'databse_url = "{PASSWORD}"'),
    ),
    "LFI without base URL": Fault(
        ("lfis", "list"),
        ("lfis.noor.base_urls", "required"),
        breaks=file("syncworker.toml", '[lfis.noor]\nissuer = "https://a.example"'),
    ),
    "variable of another type": Fault(
        ("lfis", "list"),
        ("tick_seconds", "valid number", "SYNCWORKER_TICK_SECONDS"),
        env={"SYNCWORKER_TICK_SECONDS": PASSWORD},
    ),
    "variable that is no JSON": Fault(
        ("lfis", "list"), ("SYNCWORKER_CLIENT", "is not JSON"), env={"SYNCWORKER_CLIENT": f"{{{PASSWORD}"}
    ),
}

FAULTS: Final = KEYS | LFIS | BROKER | DATABASE | KEYRING | TERMS | REDIRECTS | CONSENTS | SETTINGS


@pytest.mark.parametrize("fault", [pytest.param(fault, id=name) for name, fault in FAULTS.items()])
def test_a_fault_is_one_line_that_names_field_and_fix(fault: Fault, house: House, prepared: Prepared) -> None:
    """Exit code, words, nothing else on either output, nothing in the tables."""
    fault.breaks(house, prepared)
    before = house.tables()
    arguments = [part if isinstance(part, str) else part(house, prepared) for part in fault.arguments]
    env = {name: value.replace("{port}", str(free_port())) for name, value in fault.env.items()}
    stdin = prepared.waiting.encode() + b"\n" if fault.stdin == WAITING else fault.stdin

    ended = house.run(*arguments, stdin=stdin, env=env)

    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    lines_max = USAGE_LINES_MAX if lines[:1] and lines[0].startswith("Usage:") else 1
    unsaid = [words for words in fault.says if words not in " ".join(ended.stderr.split())]
    assert (ended.code, unsaid) == (fault.code, []), ended.stderr
    assert (ended.stdout, len(lines) <= lines_max, max(map(len, lines)) <= LINE_CHARACTERS_MAX) == ("", True, True)
    assert shown(prepared, ended.said) == []
    assert changed(before, house.tables()) <= fault.writes


def test_a_tampered_token_syncs_nothing_and_is_named(house: House, prepared: Prepared) -> None:
    """The run is filed as failed, with the error's code; the token and the records stay as they were."""
    tampered("token", "refresh_token")(house, prepared)
    before = house.tables()

    ended = house.run("consents", "sync", prepared.consent_id, "--here", "--json")

    assert (ended.code, ended.json["outcome"], ended.json["error"], ended.json["added"]) == (1, "failed", "seal", 0)
    assert "\nerror [seal]: A sealed value does not open" in ended.stderr, ended.stderr
    assert shown(prepared, ended.said) == []
    written = changed(before, house.tables()) - {"sqlite_sequence"}  # the database's own numbers
    assert written == {"work", "open_claims", "cursor", "run", "finding", "counter"}


def test_the_tables_of_a_tampered_token_can_be_looked_at(house: House, prepared: Prepared) -> None:
    """Commands that only look open nothing."""
    tampered("token", "refresh_token")(house, prepared)

    assert [one["consent"] for one in house.run("tokens", "status", "--json").json] == [prepared.consent_id]


def test_text_of_others_is_no_markup(house: House, prepared: Prepared) -> None:
    """A customer's reference with brackets is shown as it is."""
    house.sql("UPDATE connection SET user_ref = '[/red] [bold]x'")

    assert "[/red] [bold]x" in house.run("consents", "list").stdout


def changed(before: dict[str, list[str]], after: dict[str, list[str]]) -> set[str]:
    """Names of the tables that are not what they were."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def shown(prepared: Prepared, said: str) -> list[str]:
    """Secrets, or a traceback, in what was said."""
    return [secret for secret in (*prepared.secrets, PASSWORD, "Traceback") if secret in said]
