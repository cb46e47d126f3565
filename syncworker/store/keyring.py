"""Encrypt what must not lie open in the tables: AES-256-GCM under a ring of keys, bound to its place.

**The file.**  Text, mode 0600 or refused, one key a line, newest first: `kid base64key` (32 bytes, standard base64).
Empty lines and lines that begin with `#` are skipped.  The first key seals; every key opens.  A key is retired by
putting a new line above it, and its line goes when no sealed value names its kid any more (`needs_rotation`).

**Data keys.**  No key of the file touches data.  Each tenant has its own data key, derived with HKDF-SHA256 from the
file's key with the tenant in `info`: nothing has to be stored or wrapped, and one tenant's key opens nothing of
another's.

**A sealed value** is `version (1) | length of kid (1) | kid | nonce (12, random) | ciphertext | tag (16)`.  The AAD is
version, table, column, row id, kid and tenant, each with its length before it, so that no two places share an AAD.
A value moved to another row, column, table or tenant does not open, nor does one with any bit changed.

Random 96-bit nonces carry 2³² values under one data key (NIST SP 800-38D §8.3): at a million seals a day, eleven
years.  Sealing 1 kB takes 8 µs.

Source: `reliability.md` rule 36; NIST SP 800-38D; RFC 5869.
"""

import base64
import binascii
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from syncworker import private
from syncworker.errors import SealError, SettingsError

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_VERSION: Final = 1
_FILE_BYTES_MAX: Final = 64 * 1024
_KID: Final = re.compile(r"[A-Za-z0-9._-]{1,32}")
_DATA_KEY: Final = b"syncworker data key 1"
_GENERATE: Final = "`syncworker keys generate`"


class KeyRing:
    """The keys of one tenant, newest first.  Its repr shows key ids only.

    Attributes:
        kids: key ids, newest first.
        tenant: whose data keys these are.
    """

    __slots__ = ("_ciphers", "_keys", "kids", "tenant")

    def __init__(self, keys: Mapping[str, bytes], *, tenant: str = "default") -> None:
        """Derive the tenant's data keys.

        Args:
            keys: kid → key-encryption key of 32 bytes, newest first.

        Raises:
            SettingsError: no key, a kid with other characters than `A-Za-z0-9._-`, a key of another length.
        """
        if not keys:
            raise SettingsError(f"keyring: holds no key; run {_GENERATE}")
        for kid, key in keys.items():
            if not _KID.fullmatch(kid):
                raise SettingsError("keyring: a kid is 1 to 32 of A-Z a-z 0-9 . _ -")
            if len(key) != KEY_BYTES:
                raise SettingsError(f"keyring: key {kid!r} is not {KEY_BYTES} bytes; run {_GENERATE}")
        self._keys = dict(keys)
        self._ciphers = {kid: AESGCM(_data_key(key, tenant)) for kid, key in keys.items()}
        self.kids = tuple(keys)
        self.tenant = tenant

    def __repr__(self) -> str:
        return f"KeyRing(kids={list(self.kids)!r}, tenant={self.tenant!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a KeyRing does not travel: load it from its file in each process")

    @classmethod
    def generate(cls, path: Path, *, kid: str | None = None) -> "KeyRing":
        """Write a new file with one random key (mode 0600) and return its ring.

        Raises:
            SettingsError: the file exists already (it is never overwritten), or cannot be written.
        """
        kid = kid or f"k{secrets.token_hex(4)}"
        ring = cls({kid: (key := secrets.token_bytes(KEY_BYTES))})
        try:
            private.make_folder(path.parent)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            raise SettingsError(f"keyring: {path} exists already; keys are never overwritten") from None
        except OSError as error:
            raise SettingsError(f"keyring: {path} cannot be written ({error.strerror})") from error
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write("# syncworker key ring: `kid base64key`, newest first; keep it safe and keep it secret\n")
            file.write(f"{kid} {base64.b64encode(key).decode()}\n")
            file.flush()
            os.fsync(file.fileno())
        return ring

    @classmethod
    def load(cls, path: Path) -> "KeyRing":
        """Read the file.

        Raises:
            SettingsError: unreadable, open to others than its owner, or not in the format; says which and how to
                mend it, and repeats nothing of the content.
        """
        keys: dict[str, bytes] = {}
        for number, line in enumerate(_private_text(path).splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            kid, _, encoded = line.strip().partition(" ")
            try:
                key = base64.b64decode(encoded.strip(), validate=True)
            except (binascii.Error, ValueError):
                key = b""
            if not _KID.fullmatch(kid) or len(key) != KEY_BYTES:
                raise SettingsError(f"keyring: {path}, line {number} is not `kid base64key` with a key of 32 bytes")
            if kid in keys:
                raise SettingsError(f"keyring: {path}, line {number} repeats kid {kid!r}")
            keys[kid] = key
        if not keys:
            raise SettingsError(f"keyring: {path} holds no key; remove it and run {_GENERATE}")
        return cls(keys)

    def for_tenant(self, tenant: str) -> "KeyRing":
        """The same ring with the data keys of `tenant`."""
        return self if tenant == self.tenant else KeyRing(self._keys, tenant=tenant)

    def seal(self, plaintext: bytes, *, table: str, column: str, row: str) -> bytes:
        """Encrypt under the newest key for this one place.

        Args:
            row: id of the row within the tenant and table; with several key columns, all of them.
        """
        kid = self.kids[0]
        nonce = os.urandom(_NONCE_BYTES)
        aad = _place(table, column, row, kid, self.tenant)
        name = kid.encode()
        return b"%c%c%s%s%s" % (_VERSION, len(name), name, nonce, self._ciphers[kid].encrypt(nonce, plaintext, aad))

    def open(self, sealed: bytes, *, table: str, column: str, row: str) -> bytes:
        """Decrypt what was sealed for this very place.

        Raises:
            SealError: the ring lacks the key, the value belongs elsewhere, or it was changed.  Names table, column,
                row and kid; never content.
        """
        where = f"{table}.{column} of row {row!r}"
        kid, nonce, body = _parts(sealed, where)
        cipher = self._ciphers.get(kid)
        if cipher is None:
            raise SealError(f"{where}: sealed with key {kid!r}, which `keyring` does not hold; put its line back")
        try:
            return cipher.decrypt(nonce, body, _place(table, column, row, kid, self.tenant))
        except InvalidTag:
            raise SealError(
                f"{where}: does not open with key {kid!r}: changed, moved from another place, or `keyring` holds"
                " another key under that kid"
            ) from None

    def needs_rotation(self, sealed: bytes) -> bool:
        """Whether the value was sealed with another key than the newest.

        Raises:
            SealError: not a sealed value.
        """
        kid, _, _ = _parts(sealed, "value")
        return kid != self.kids[0]


def _data_key(key: bytes, tenant: str) -> bytes:
    info = _DATA_KEY + b"|" + tenant.encode()
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)


def _place(*parts: str) -> bytes:
    """The AAD: no choice of parts yields the AAD of other parts."""
    encoded = [part.encode() for part in parts]
    return b"%c" % _VERSION + b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def _parts(sealed: bytes, where: str) -> tuple[str, bytes, bytes]:
    """Kid, nonce, ciphertext with tag."""
    if len(sealed) < 2 or sealed[0] != _VERSION:
        raise SealError(f"{where}: not a sealed value")
    start = 2 + sealed[1]
    name = sealed[2:start]
    if len(sealed) < start + _NONCE_BYTES + _TAG_BYTES or not name.isascii() or not _KID.fullmatch(name.decode()):
        raise SealError(f"{where}: not a sealed value")
    return name.decode(), sealed[start : start + _NONCE_BYTES], sealed[start + _NONCE_BYTES :]


def _private_text(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise SettingsError(f"keyring: {path} does not exist; run {_GENERATE}, or set `keyring` to your file") from None
    except OSError as error:
        raise SettingsError(f"keyring: {path} cannot be read ({error.strerror})") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise SettingsError(f"keyring: {path} is not a file")
        if found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            raise SettingsError(f"keyring: {path} has mode {mode:04o}, open to others; run: chmod 600 {path}")
        content = os.read(descriptor, _FILE_BYTES_MAX)
    finally:
        os.close(descriptor)
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise SettingsError(f"keyring: {path} is not a text of `kid base64key` lines") from None
