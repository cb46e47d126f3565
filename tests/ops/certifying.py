"""A certificate of a signing key, from the sandbox's authority, that ends when it is told to."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID


def certified(bank: Path, key_file: Path, *, days: float) -> bytes:
    """The certificate as PEM.

    Args:
        bank: folder of the sandbox.
        key_file: our signing key, PEM.
    """
    authority = serialization.load_pem_private_key(next(bank.rglob("ca.key")).read_bytes(), None)
    issuer = x509.load_pem_x509_certificate(next(bank.rglob("ca.pem")).read_bytes()).subject
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    assert isinstance(authority, ec.EllipticCurvePrivateKey)
    assert isinstance(key, rsa.RSAPrivateKey)
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signing")]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .sign(authority, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
