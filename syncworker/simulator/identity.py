"""The keys and certificates of the sandbox: a certificate authority, a server, an LFI and one registered TPP.

Everything is made at run time in a folder the caller gives, files with mode 0600, and used again when it is there, so
that a restarted sandbox is the same bank.  Only names under loopback are certified.

Source: Certificates, `domain.md` §1.5 (RSA 2048 for the TPP, CN = client id, no SAN on client certificates).
"""

import hashlib
import ipaddress
import os
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFE: Final = timedelta(days=395)
"""Certificates live at most thirteen months (`domain.md` §1.5)."""

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The registered TPP, as its operator would write it down: ids and paths, no secret."""

    client_id: str
    redirect_uri: str
    signing_key: Path
    signing_kid: str
    transport_certificate: Path
    transport_key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who the bank is and whom it knows."""

    folder: Path
    client: Client
    client_thumbprint: str
    client_signing_keys: dict[str, rsa.RSAPublicKey]
    client_encryption_key: rsa.RSAPublicKey
    client_encryption_kid: str
    lfi_signing_key: rsa.RSAPrivateKey
    lfi_kid: str
    ca_bundle: Path
    server_certificate: Path
    server_key: Path
    _renewed: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def knows(self, certificate: bytes | None) -> bool:
        """Whether a certificate (DER) is the registered client's: the first one, or one that followed it."""
        return certificate is not None and thumbprint(certificate) in {self.client_thumbprint, *self._renewed}

    def renew_client_certificate(self, name: str = "tpp-transport") -> tuple[Path, Path]:
        """Certify a new transport certificate of the registered client; the old one stays good beside it.

        Args:
            name: of the files, `<name>.pem` and `<name>.key`; those in use unless given, each replaced as one step.

        Returns: paths of the certificate and of its key.
        """
        now = datetime.now(UTC)
        pair = self.issue_client_certificate(
            name, common_name=self.client.client_id, not_before=now - timedelta(minutes=5), not_after=now + LIFE
        )
        self._renewed.add(thumbprint_of(pair[0]))
        return pair

    @property
    def encryption_key(self) -> Path:
        """The private half of the key that events are encrypted to: the TPP's own."""
        return self.folder / "tpp-encryption.key"

    @property
    def web_certificate(self) -> tuple[Path, Path]:
        """Certificate and key of the TPP's own server on loopback: where events come in."""
        return self.folder / "tpp-web.pem", self.folder / "tpp-web.key"

    def register_signing_key(self, name: str) -> tuple[Path, str]:
        """Make and register one more signing key of the client, beside the one it has.

        Returns: path of the key, `<name>.key`, and its kid.
        """
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        kid = _kid(key.public_key())
        self.client_signing_keys[kid] = key.public_key()
        return _write(self.folder / f"{name}.key", _pem(key)), kid

    def issue_client_certificate(
        self, name: str, *, common_name: str, not_before: datetime, not_after: datetime
    ) -> tuple[Path, Path]:
        """Certify another client, for tests of strangers and of expired certificates.

        Returns: paths of the certificate and of its key, `<name>.pem` and `<name>.key`.
        """
        authority = _load_key(self.folder / "ca.key")
        issuer = x509.load_pem_x509_certificate(self.ca_bundle.read_bytes()).subject
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        certificate = _certify(
            key, _name(common_name), issuer, authority, not_before=not_before, not_after=not_after, server=False
        )
        return _write_pair(self.folder, name, certificate, key)


def thumbprint(certificate_der: bytes) -> str:
    """The SHA-256 of a certificate in hexadecimal: what tokens are bound to."""
    return hashlib.sha256(certificate_der).hexdigest()


def thumbprint_of(path: Path) -> str:
    """The `thumbprint` of the first certificate in a PEM file."""
    return thumbprint(x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(serialization.Encoding.DER))


def load_or_create(folder: Path, *, redirect_uri: str, client_id: str | None = None) -> Identity:
    """The identity kept in `folder`, made there when it is not.

    Args:
        folder: made with mode 0700 when missing.
        redirect_uri: the only redirect URI of the registered TPP.
        client_id: a UUID; kept from the first start unless given.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = _text(folder / "client-id", client_id or str(uuid.uuid4()), overwrite=client_id is not None)
    now = datetime.now(UTC)
    if not (folder / "ca.key").exists():
        _make_authority(folder, now)
    authority = _load_key(folder / "ca.key")
    issuer = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()).subject
    for name in ("server", "tpp-web"):
        if not _fresh(folder / f"{name}.pem", now):
            key = ec.generate_private_key(ec.SECP256R1())
            _write_pair(folder, name, _certify(
                key, _name("localhost"), issuer, authority, not_before=now - timedelta(minutes=5),
                not_after=now + LIFE, server=True,
            ), key)  # fmt: skip
    if not _fresh(folder / "tpp-transport.pem", now, common_name=known):
        client_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        _write_pair(folder, "tpp-transport", _certify(
            client_key, _name(known), issuer, authority, not_before=now - timedelta(minutes=5),
            not_after=now + LIFE, server=False,
        ), client_key)  # fmt: skip
    for name in ("tpp-signing", "lfi-signing", "tpp-encryption"):
        if not (folder / f"{name}.key").exists():
            _write(folder / f"{name}.key", _pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)))
    signing, lfi, encryption = (
        _rsa(_load_key(folder / f"{name}.key")) for name in ("tpp-signing", "lfi-signing", "tpp-encryption")
    )
    transport = x509.load_pem_x509_certificate((folder / "tpp-transport.pem").read_bytes())
    return Identity(
        folder=folder,
        client=Client(
            client_id=known,
            redirect_uri=redirect_uri,
            signing_key=folder / "tpp-signing.key",
            signing_kid=_kid(signing.public_key()),
            transport_certificate=folder / "tpp-transport.pem",
            transport_key=folder / "tpp-transport.key",
        ),
        client_thumbprint=thumbprint(transport.public_bytes(serialization.Encoding.DER)),
        client_signing_keys={_kid(signing.public_key()): signing.public_key()},
        client_encryption_key=encryption.public_key(),
        client_encryption_kid=_kid(encryption.public_key()),
        lfi_signing_key=lfi,
        lfi_kid=_kid(lfi.public_key()),
        ca_bundle=folder / "ca.pem",
        server_certificate=folder / "server.pem",
        server_key=folder / "server.key",
    )


def write_secret(path: Path, text: str) -> Path:
    """Write a secret into a file only its owner can read."""
    return _write(path, text.encode())


def _make_authority(folder: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Sandbox LFI certificate authority")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_usage(certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_pair(folder, "ca", certificate, key)


def _certify(
    key: PrivateKey,
    subject: x509.Name,
    issuer: x509.Name,
    authority: PrivateKey,
    *,
    not_before: datetime,
    not_after: datetime,
    server: bool,
) -> x509.Certificate:
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if server:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority, hashes.SHA256())


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=certificates, crl_sign=certificates, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "AE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Sandbox"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _fresh(path: Path, now: datetime, *, common_name: str | None = None) -> bool:
    if not path.exists():
        return False
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = [entry.value for entry in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return certificate.not_valid_after_utc > now + timedelta(days=1) and common_name in (None, *names)


def _kid(key: rsa.RSAPublicKey) -> str:
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()[:32]


def _rsa(key: PrivateKey) -> rsa.RSAPrivateKey:
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("a signing key must be RSA")
    return key


def _pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_key(path: Path) -> PrivateKey:
    key = serialization.load_pem_private_key(
        path.read_bytes(),
        password=None,
        unsafe_skip_rsa_key_validation=True,  # made here; the check costs 60 ms a key
    )
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path.name}: neither an RSA nor an EC key")
    return key


def _write_pair(folder: Path, name: str, certificate: x509.Certificate, key: PrivateKey) -> tuple[Path, Path]:
    public = certificate.public_bytes(serialization.Encoding.PEM)
    return _write(folder / f"{name}.pem", public), _write(folder / f"{name}.key", _pem(key))


def _text(path: Path, text: str, *, overwrite: bool) -> str:
    if overwrite or not path.exists():
        _write(path, text.encode())
    return path.read_text(encoding="utf-8").strip()


def _write(path: Path, content: bytes) -> Path:
    """Replace a file as one step, so that a killed process leaves no half of it behind."""
    draft = path.with_name(path.name + ".new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    return draft.replace(path)
