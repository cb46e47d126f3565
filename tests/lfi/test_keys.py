"""Keys and certificates: what loads, what is refused, and what the refusal says."""

import base64
import hashlib
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from freezegun import freeze_time

from syncworker.errors import SettingsError
from syncworker.lfi.keys import SigningKey, TransportCertificate, generate
from tests.lfi.raw_bank import Identities, new_key, write_key

pytestmark = pytest.mark.unit

NOW = datetime.now(UTC)


def test_a_signing_key_shows_kid_and_thumbprint_and_nothing_else(identities: Identities) -> None:
    """Its repr may land in a log, so it names the key and gives nothing of it away."""
    key = SigningKey.load(identities.signing_key, "sig-1")

    assert repr(key) == f"SigningKey(kid='sig-1', thumbprint='{key.thumbprint}')"


def test_a_transport_certificate_knows_its_thumbprint_and_its_end(identities: Identities) -> None:
    """The thumbprint is `x5t#S256`: what the bank binds access tokens to."""
    leaf = x509.load_pem_x509_certificate(identities.client_certificate.read_bytes())
    digest = hashlib.sha256(leaf.public_bytes(serialization.Encoding.DER)).digest()

    loaded = TransportCertificate.load(identities.client_certificate, identities.client_key, now=NOW)

    assert (loaded.thumbprint, loaded.expires_at) == (
        base64.urlsafe_b64encode(digest).decode().rstrip("="),
        leaf.not_valid_after_utc,
    )


def _missing(folder: Path) -> Path:
    return folder / "absent.key"


def _open_to_others(folder: Path) -> Path:
    path = write_key(folder / "open.key", new_key())
    path.chmod(0o640)
    return path


def _not_a_key(folder: Path) -> Path:
    path = folder / "text.key"
    path.touch(mode=0o600)
    path.write_text("-----BEGIN SECRET-----\nsecret-words\n")
    return path


def _elliptic(folder: Path) -> Path:
    return write_key(folder / "ec.key", ec.generate_private_key(ec.SECP256R1()))


def _small(folder: Path) -> Path:
    return write_key(folder / "small.key", new_key(1024))


def _locked(folder: Path) -> Path:
    return write_key(folder / "locked.key", new_key(), password=b"word")


REFUSED_KEYS = [
    pytest.param(_missing, "cannot read", id="unreadable"),
    pytest.param(_open_to_others, "has mode 0640, which others may use; run chmod 600 on it", id="readable by a group"),
    pytest.param(_not_a_key, "holds no PEM private key", id="not a key"),
    pytest.param(_elliptic, "is not an RSA key", id="elliptic curve"),
    pytest.param(_small, "has 1024 bits; the standard wants 2048 or more", id="too small"),
    pytest.param(_locked, "is locked with a password; store the key without one", id="locked"),
]


@pytest.mark.parametrize(("make", "says"), REFUSED_KEYS)
def test_an_unfit_signing_key_is_refused_by_field_and_fix(make: object, says: str, tmp_path: Path) -> None:
    """The message opens with the setting and says what to do, also for root."""
    assert callable(make)
    with pytest.raises(SettingsError) as caught:
        SigningKey.load(make(tmp_path), "kid", field="lfis.al.signing_key")

    assert str(caught.value).startswith("lfis.al.signing_key: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(("make", "says"), REFUSED_KEYS)
def test_an_unfit_transport_key_is_refused_by_field_and_fix(
    make: object, says: str, tmp_path: Path, identities: Identities
) -> None:
    """The transport key is held to the same rules."""
    assert callable(make)
    with pytest.raises(SettingsError) as caught:
        TransportCertificate.load(identities.client_certificate, make(tmp_path), now=NOW)

    assert str(caught.value).startswith("transport_key: ")
    assert says in str(caught.value)


def test_a_key_without_a_kid_is_refused(identities: Identities) -> None:
    """No LFI can find our public key without it."""
    with pytest.raises(SettingsError, match="signing_key: has no kid"):
        SigningKey.load(identities.signing_key, "")


def test_what_a_broken_key_file_holds_is_not_repeated(tmp_path: Path) -> None:
    """Neither the message nor its cause quotes the file."""
    with pytest.raises(SettingsError) as caught:
        SigningKey.load(_not_a_key(tmp_path), "kid")

    assert ("secret-words" in str(caught.value), caught.value.__cause__) == (False, None)


def test_a_certificate_of_another_key_is_refused(tmp_path: Path, identities: Identities) -> None:
    """Certificate and key are told apart by their public keys."""
    other = write_key(tmp_path / "other.key", new_key())

    with pytest.raises(SettingsError, match=r"transport_key: .* does not belong to transport_certificate"):
        TransportCertificate.load(identities.client_certificate, other, now=NOW)


@pytest.mark.parametrize(
    ("edge", "seconds", "says"),
    [
        pytest.param("begin", -1, r"transport_certificate: .* is not valid before .*clock", id="a second before it"),
        pytest.param("begin", 0, None, id="as it begins"),
        pytest.param("end", -1, None, id="a second before its end"),
        pytest.param("end", 0, r"transport_certificate: .* expired at .*; request a new one", id="as it ends"),
    ],
)
def test_a_certificate_is_taken_in_its_time_to_the_second(
    edge: str, seconds: int, says: str | None, identities: Identities
) -> None:
    """The time is an argument: one certificate, judged by the caller's clock, wherever the computer's own stands."""
    certificate = x509.load_pem_x509_certificate(identities.client_certificate.read_bytes())
    edges = {"begin": certificate.not_valid_before_utc, "end": certificate.not_valid_after_utc}
    now = edges[edge] + timedelta(seconds=seconds)

    refused = nullcontext() if says is None else pytest.raises(SettingsError, match=says)
    with freeze_time(now + timedelta(days=1000)), refused:
        loaded = TransportCertificate.load(identities.client_certificate, identities.client_key, now=now)
        assert loaded.expires_at == edges["end"]


@pytest.mark.parametrize("content", [b"", b"no certificate"], ids=["empty", "text"])
def test_a_file_without_a_certificate_is_refused(content: bytes, tmp_path: Path, identities: Identities) -> None:
    """An empty or foreign file is named with its setting."""
    path = tmp_path / "text.pem"
    path.write_bytes(content)

    with pytest.raises(SettingsError, match=r"transport_certificate: .* holds no PEM certificate"):
        TransportCertificate.load(path, identities.client_key, now=NOW)


def test_generated_keys_load_and_their_requests_name_us(tmp_path: Path) -> None:
    """Three keys of mode 0600, each with a request that carries the subject the directory wants."""
    made = generate(tmp_path / "keys", organisation="Sample TPP", organisation_id="org-1", client_id="client-1")

    keys = (made.signing_key, made.transport_key, made.encryption_key)
    requests = (made.signing_request, made.transport_request, made.encryption_request)
    assert {oct(path.stat().st_mode & 0o777) for path in keys} == {"0o600"}
    assert {x509.load_pem_x509_csr(path.read_bytes()).subject.rfc4514_string() for path in requests} == {
        "CN=client-1,OU=org-1,O=Sample TPP,C=AE"
    }
    assert SigningKey.load(made.signing_key, made.kid).thumbprint == made.kid


def test_a_request_belongs_to_its_key(tmp_path: Path) -> None:
    """A certificate made from the request works with the key beside it."""
    made = generate(tmp_path, organisation="Sample TPP", organisation_id="org-1", client_id="client-1")
    request = x509.load_pem_x509_csr(made.transport_request.read_bytes())
    key = serialization.load_pem_private_key(made.transport_key.read_bytes(), None)

    assert isinstance(key, rsa.RSAPrivateKey)
    assert (request.is_signature_valid, request.public_key()) == (True, key.public_key())


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    """One file in the way, and nothing at all is written."""
    (tmp_path / "transport.csr").write_text("mine")

    with pytest.raises(SettingsError, match=r"transport\.csr exists already"):
        generate(tmp_path, organisation="Sample TPP", organisation_id="org-1", client_id="client-1")

    assert [path.name for path in tmp_path.iterdir()] == ["transport.csr"]


def test_a_subject_that_fits_no_request_is_refused(tmp_path: Path) -> None:
    """X.509 allows 64 characters of organisation."""
    with pytest.raises(SettingsError, match="organisation: "):
        generate(tmp_path, organisation="x" * 65, organisation_id="org-1", client_id="client-1")


def test_a_year_of_certificate_is_judged_by_the_clock_it_is_given(identities: Identities) -> None:
    """The same files fail a year later."""
    with pytest.raises(SettingsError, match="expired at"):
        TransportCertificate.load(identities.client_certificate, identities.client_key, now=NOW + timedelta(days=366))
