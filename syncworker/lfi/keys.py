"""Our keys and certificates: loaded once per process, checked before use, never shown.

A signing key signs request objects and client assertions; an encryption key opens the events sent to us; a transport
certificate opens every connection to the Hub.  Whatever is wrong with a file becomes a `SettingsError` that names the
setting and the fix, because the person who reads it is at a prompt.  `generate` makes the three
key pairs a new TPP application needs.

A new transport certificate is put over the old one's files and found there (`TransportCertificate.renewed`); nobody
restarts anything.  Its end is announced 60, 30, 14 and 7 days ahead (`days_announced`).

Source: Nebras Community Standards, "Secure Management" and certificates; `domain.md` §1.5; `reliability.md` rule 35.
"""

import base64
import os
import stat
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import NameOID
from joserfc.jwk import RSAKey

from syncworker import private
from syncworker.errors import SettingsError

KEY_BITS_MIN: Final = 2048
SUBJECT_CHARACTERS_MAX: Final = 64  # X.520 upper bound of O, OU and CN
EXPIRY_DAYS: Final = (60, 30, 14, 7)
"""Days before its end at which a certificate is spoken of, once each: the directory needs some of them."""

_OWNER_ONLY: Final = stat.S_IRUSR | stat.S_IWUSR


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private PS256 key under the `kid` the directory gave it.  Its repr shows kid and thumbprint only."""

    kid: str
    thumbprint: str
    jwk: RSAKey = field(repr=False, compare=False)

    @classmethod
    def load(cls, path: Path, kid: str, *, field: str = "signing_key") -> "SigningKey":
        """Read a PEM file with an RSA private key.

        Args:
            field: the setting's name, for the message of an error.

        Raises:
            SettingsError: no `kid`; the file is unreadable, wider than 0600, no private key, or RSA below 2048 bits.
        """
        if not kid:
            raise SettingsError(f"{field}: has no kid; set the key id shown beside the certificate in the directory")
        key = _read_private_key(path, field=field)
        return cls.of(key, kid)

    @classmethod
    def of(cls, key: rsa.RSAPrivateKey, kid: str) -> "SigningKey":
        """Take a private key that is already in memory, as it is: reading one again would check its primes again."""
        jwk = RSAKey(key, key)
        return cls(kid=kid, thumbprint=jwk.thumbprint(), jwk=jwk)

    def published(self) -> dict[str, str]:
        """The public half as a member of our JWKS (RFC 7517): what a server of one's own has to know."""
        public = self.jwk.as_dict(private=False)
        return {
            "kty": "RSA",
            "use": "sig",
            "alg": "PS256",
            "kid": self.kid,
            "n": str(public["n"]),
            "e": str(public["e"]),
        }


FileStamp = tuple[tuple[int, int, int, int], ...]
"""What changes when a file is written or replaced: device, inode, time of its last change, size, for each file."""


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """A private key that opens what is encrypted to us, under its `kid` in the directory.  Its repr shows no more.

    Keep the old one loaded while events encrypted to it may still be under way (trap 37).
    """

    kid: str
    jwk: RSAKey = field(repr=False, compare=False)

    @classmethod
    def load(cls, path: Path, kid: str, *, field: str = "encryption_keys") -> "EncryptionKey":
        """Read a PEM file with an RSA private key.

        Raises:
            SettingsError: as `SigningKey.load`.
        """
        signing = SigningKey.load(path, kid, field=field)
        return cls(kid=kid, jwk=signing.jwk)


@dataclass(frozen=True, slots=True)
class TransportCertificate:
    """The client certificate of every connection, with its key beside it in files that OpenSSL reads.

    Attributes:
        thumbprint: `x5t#S256`, base64url of the SHA-256 of the certificate: what access tokens are bound to.
        expires_at: end of validity, UTC.
        stamp: of the two files, taken before they were read.
        certificate_field, key_field: the settings that name the files, for the message of an error.
    """

    certificate: Path
    key: Path
    thumbprint: str
    expires_at: datetime
    stamp: FileStamp = field(default=(), repr=False, compare=False)
    certificate_field: str = field(default="transport_certificate", repr=False, compare=False)
    key_field: str = field(default="transport_key", repr=False, compare=False)

    @classmethod
    def load(
        cls,
        certificate: Path,
        key: Path,
        *,
        now: datetime,
        certificate_field: str = "transport_certificate",
        key_field: str = "transport_key",
    ) -> "TransportCertificate":
        """Read a PEM certificate (its chain may follow it) and the key that belongs to it.

        Raises:
            SettingsError: a file is unreadable or not what it should be, the key's mode is wider than 0600, the key
                does not belong to the certificate, or `now` lies outside the certificate's validity.
        """
        stamp = _stamp(certificate, key)
        private_key = _read_private_key(key, field=key_field)
        leaf = _read_leaf(certificate, field=certificate_field)
        if _spki(leaf.public_key()) != _spki(private_key.public_key()):
            raise SettingsError(
                f"{key_field}: {key} does not belong to {certificate_field} {certificate}; "
                "give the key the certificate was requested with"
            )
        if now >= leaf.not_valid_after_utc:
            raise SettingsError(
                f"{certificate_field}: {certificate} expired at {leaf.not_valid_after_utc.isoformat()}; "
                "request a new one from the directory"
            )
        if now < leaf.not_valid_before_utc:
            raise SettingsError(
                f"{certificate_field}: {certificate} is not valid before {leaf.not_valid_before_utc.isoformat()}; "
                "check this machine's clock"
            )
        digest = leaf.fingerprint(hashes.SHA256())
        return cls(
            certificate=certificate,
            key=key,
            thumbprint=base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            expires_at=leaf.not_valid_after_utc,
            stamp=stamp,
            certificate_field=certificate_field,
            key_field=key_field,
        )

    @property
    def files_changed(self) -> bool:
        """Whether one of the files was written, replaced or removed since they were read."""
        return _stamp(self.certificate, self.key) != self.stamp

    def renewed(self, *, now: datetime) -> "TransportCertificate":
        """What the two files hold now.

        Raises:
            SettingsError: as `load`; so too while only one of the two files has been replaced.
        """
        return TransportCertificate.load(
            self.certificate,
            self.key,
            now=now,
            certificate_field=self.certificate_field,
            key_field=self.key_field,
        )


def certificate_end(path: Path, *, field: str) -> datetime:
    """The end of validity of the first certificate in a PEM file, UTC.

    Args:
        field: the setting's name, for the message of an error.

    Raises:
        SettingsError: unreadable, or no certificate in it.
    """
    return _read_leaf(path, field=field).not_valid_after_utc


def days_announced(expires_at: datetime, *, now: datetime) -> int | None:
    """The smallest of `EXPIRY_DAYS` that has begun, 0 for a certificate that has ended; `None` while it is far off."""
    left = expires_at - now
    if left <= timedelta(0):
        return 0
    return min((days for days in EXPIRY_DAYS if left <= timedelta(days=days)), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedKeys:
    """What `generate` wrote: private keys (0600), the requests to upload to the directory, and a kid to start with.

    `kid` is the RFC 7638 thumbprint of the signing key.  The directory issues its own when it signs the certificate;
    that one goes into the settings.
    """

    signing_key: Path
    signing_request: Path
    transport_key: Path
    transport_request: Path
    encryption_key: Path
    encryption_request: Path
    kid: str


def generate(directory: Path, *, organisation: str, organisation_id: str, client_id: str) -> GeneratedKeys:
    """Make the signing, transport and encryption keys of one application, each with a certificate request.

    The subject is `C=AE, O=organisation, OU=organisation_id, CN=client_id`, without alternative names.  Nothing is
    ever overwritten: an existing file ends the call before anything is written.

    Raises:
        SettingsError: a file exists already, the directory cannot be written, or a part of the subject is unfit.
    """
    subject = _subject(organisation=organisation, organisation_id=organisation_id, client_id=client_id)
    uses = ("signing", "transport", "encryption")
    paths = {use: (directory / f"{use}.key", directory / f"{use}.csr") for use in uses}
    for path in (path for pair in paths.values() for path in pair):
        if path.exists() or path.is_symlink():
            raise SettingsError(f"keys: {path} exists already; give another directory, keys are never overwritten")
    keys = {use: rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS_MIN) for use in uses}
    try:
        private.make_folder(directory)
        for use, (key_path, request_path) in paths.items():
            request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(keys[use], hashes.SHA256())
            _write_new(key_path, _private_pem(keys[use]), mode=0o600)
            _write_new(request_path, request.public_bytes(serialization.Encoding.PEM), mode=0o644)
    except OSError as error:
        raise SettingsError(f"keys: cannot write below {directory}: {error.strerror}") from error
    return GeneratedKeys(
        signing_key=paths["signing"][0],
        signing_request=paths["signing"][1],
        transport_key=paths["transport"][0],
        transport_request=paths["transport"][1],
        encryption_key=paths["encryption"][0],
        encryption_request=paths["encryption"][1],
        kid=SigningKey.of(keys["signing"], "new").thumbprint,
    )


def _subject(*, organisation: str, organisation_id: str, client_id: str) -> x509.Name:
    parts = (
        (NameOID.COUNTRY_NAME, "AE", "country"),
        (NameOID.ORGANIZATION_NAME, organisation, "organisation"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, organisation_id, "organisation_id"),
        (NameOID.COMMON_NAME, client_id, "client_id"),
    )
    for _, text, name in parts:
        if not 1 <= len(text) <= SUBJECT_CHARACTERS_MAX:
            raise SettingsError(f"{name}: a certificate request holds 1 to {SUBJECT_CHARACTERS_MAX} characters of it")
    return x509.Name([x509.NameAttribute(oid, text) for oid, text, _ in parts])


def _stamp(*paths: Path) -> FileStamp:
    """The stamp of some files; one that cannot be looked at counts as a file of its own kind."""

    def of(path: Path) -> tuple[int, int, int, int]:
        try:
            seen = path.stat()
        except OSError:
            return (0, 0, 0, 0)
        return (seen.st_dev, seen.st_ino, seen.st_ctime_ns, seen.st_size)

    return tuple(of(path) for path in paths)


def _read(path: Path, *, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{field}: cannot read {path}: {error.strerror}; give a readable file") from error


def _read_leaf(path: Path, *, field: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(_read(path, field=field))[0]
    except ValueError as error:
        raise SettingsError(f"{field}: {path} holds no PEM certificate") from error


def _read_private_key(path: Path, *, field: str) -> rsa.RSAPrivateKey:
    pem = _read(path, field=field)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & ~_OWNER_ONLY:  # also as root: the mode says who else could have read it
        raise SettingsError(f"{field}: {path} has mode {mode:04o}, which others may use; run chmod 600 on it")
    try:
        key = _checked(pem)
    except TypeError:
        raise SettingsError(f"{field}: {path} is locked with a password; store the key without one") from None
    except ValueError:  # the parser's words may repeat what it read
        raise SettingsError(f"{field}: {path} holds no PEM private key; give the private key's file") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise SettingsError(f"{field}: {path} is not an RSA key; the standard wants RSA of {KEY_BITS_MIN} bits or more")
    if key.key_size < KEY_BITS_MIN:
        raise SettingsError(f"{field}: {path} has {key.key_size} bits; the standard wants {KEY_BITS_MIN} or more")
    return key


@lru_cache(maxsize=8)
def _checked(pem: bytes) -> PrivateKeyTypes:
    """A private key, its primes checked: that takes 55 ms, and every LFI's settings name the same two files."""
    return serialization.load_pem_private_key(pem, password=None)


def _private_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _spki(key: object) -> bytes:
    """A public key's canonical bytes, to compare keys of any kind."""
    public_bytes = key.public_bytes  # type: ignore[attr-defined]  # every public key of cryptography has it
    encoded: bytes = public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _write_new(path: Path, content: bytes, *, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # the umask only narrows; a wide default ACL would not
        file.write(content)
