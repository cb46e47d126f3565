"""Two signing keys by kid, old and new: which one signs is a setting; and what is said before certificates end."""

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from syncworker.errors import SettingsError
from syncworker.lfi.api import LFIClient
from syncworker.lfi.jose import read_keys
from syncworker.lfi.keys import SigningKey
from syncworker.lfi.transport import Call
from syncworker.settings import ClientSettings, LFISettings, Settings
from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.unit_of_work import Store
from syncworker.wiring import CertificateFinding, CertificateWatch, certificate_findings, lfi_config, signing_files
from tests.lfi.conftest import MovableClock
from tests.lfi.raw_bank import Identities, issue, new_key

SLUG = Slug("sandbox")


@pytest.fixture(scope="module")
def keys_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sandbox")


@pytest.fixture
async def sandbox(keys_folder: Path) -> AsyncIterator[Sandbox]:
    async with Sandbox(keys_folder, customers=1) as sandbox:
        yield sandbox


def _settings(client: dict[str, Any], **lfi: Any) -> Settings:
    declared = {
        "issuer": "https://auth1.example",
        "base_urls": {"v2.1": "https://rs1.example/v2.1"},
        "allow_private_hosts": True,
    }
    return Settings(
        client=ClientSettings.model_validate(client), lfis={SLUG: LFISettings.model_validate(declared | lfi)}
    )


@pytest.mark.live
@pytest.mark.parametrize("kid", ["old", "new"])
async def test_either_key_signs_while_both_are_registered(
    kid: str, sandbox: Sandbox, clock: MovableClock, calls: list[Call]
) -> None:
    """The strict bank finds the key by the `kid` of the setting, before and after the change of one line."""
    us = sandbox.client
    path, new_kid = sandbox.identity.register_signing_key("tpp-signing-2")
    settings = _settings(
        {
            "client_id": us.client_id,
            "redirect_uri": us.redirect_uri,
            "signing_keys": {us.signing_kid: us.signing_key, new_kid: path},
            "signing_kid": {"old": us.signing_kid, "new": new_kid}[kid],
            "transport_certificate": us.transport_certificate,
            "transport_key": us.transport_key,
            "ca_bundle": sandbox.ca_bundle,
        },
        issuer=sandbox.issuer,
        base_urls={"v2.1": sandbox.resource_base_url},
    )
    async with contextlib.AsyncExitStack() as stack:
        client = LFIClient(lfi_config(settings, SLUG, settings.lfis[SLUG]), clock=clock, log=calls.append)
        stack.push_async_callback(client.close)

        assert await client.consents_of_base(ConsentId("nobody"), calls=calls.append) == ()

    assert client.config.signing_key.kid == settings.client.signing_kid


SIGNED: dict[str, Any] = {"client_id": "c", "redirect_uri": "https://tpp.example/back"}
WRONG_KEYS = [
    pytest.param({"signing_kid": "a"}, r"^lfis\.sandbox\.signing_key: is not set", id="none"),
    pytest.param({"signing_key": "a.key"}, r"^lfis\.sandbox\.signing_kid: is not set", id="no kid"),
    pytest.param(
        {"signing_keys": {"b": "b.key", "a": "a.key"}, "signing_kid": "c"},
        r"^client\.signing_kid: names none of the signing_keys \(a, b\)",
        id="another kid",
    ),
    pytest.param(
        {"signing_keys": {"a": "missing.key"}, "signing_kid": "a"},
        r"^client\.signing_keys\.a: cannot read",
        id="no file",
    ),
]


@pytest.mark.unit
@pytest.mark.parametrize(("client", "says"), WRONG_KEYS)
def test_keys_that_cannot_sign_are_named(client: dict[str, Any], says: str) -> None:
    """With the setting that is wrong."""
    settings = _settings(SIGNED | client)

    with pytest.raises(SettingsError, match=says):
        lfi_config(settings, SLUG, settings.lfis[SLUG])


@pytest.mark.unit
def test_one_key_and_several_are_not_given_together() -> None:
    """Nobody could say which is meant."""
    with pytest.raises(ValueError, match="signing_key and signing_keys are both given"):
        _settings(SIGNED | {"signing_key": "a.key", "signing_keys": {"b": "b.key"}})


@pytest.mark.unit
def test_an_lfis_own_keys_win_as_a_whole(tmp_path: Path) -> None:
    """So that one LFI can be moved to the new key before the others."""
    both = {"signing_keys": {"old": tmp_path / "old", "new": tmp_path / "new"}, "signing_kid": "old"}
    shared, own = _settings(SIGNED | both), _settings(SIGNED | both, signing_key=tmp_path / "own", signing_kid="own")
    one_ahead = _settings(SIGNED | both, signing_kid="new")

    files = {
        name: set(signing_files(one, SLUG, one.lfis[SLUG]))
        for name, one in (("shared", shared), ("own", own), ("ahead", one_ahead))
    }
    assert files == {"shared": {"old", "new"}, "own": {"own"}, "ahead": {"old", "new"}}


@pytest.mark.unit
def test_the_published_half_is_a_key_an_lfi_reads(identities: Identities) -> None:
    """It is what our own reader of an LFI's JWKS takes, and nothing private is in it."""
    published = SigningKey.load(identities.signing_key, "sig-1").published()

    assert set(published) == {"kty", "use", "alg", "kid", "n", "e"}
    assert set(read_keys({"keys": [published]})) == {"sig-1"}


@pytest.fixture
def certificates(tmp_path: Path, identities: Identities) -> Callable[..., Settings]:
    """Settings whose certificates end in so many days."""

    def made(*, transport: float, signing: float | None = None) -> Settings:
        given: dict[str, Any] = dict(SIGNED)
        for name, days in (("transport", transport), ("signing", signing)):
            if days is not None:
                path = tmp_path / f"{name}.pem"
                given[f"{name}_certificate"] = issue(
                    path, "tpp", new_key(), signer=identities.root_key, days=(-1, days)
                )
        return _settings(given)

    return made


@pytest.mark.unit
def test_each_certificate_is_found_with_its_threshold(certificates: Callable[..., Settings]) -> None:
    """Transport and signing alike; one that cannot be read is a finding, not a failure."""
    settings = certificates(transport=59.5, signing=6.5)
    now = datetime.now(UTC)
    found = certificate_findings(settings, {SLUG: settings.lfis[SLUG]}, now=now)
    Path(str(settings.client.signing_certificate)).unlink()
    spoilt = certificate_findings(settings, {SLUG: settings.lfis[SLUG]}, now=now)[1]

    assert [(one.field, one.days, one.fault) for one in found] == [
        ("client.transport_certificate", 60, ""),
        ("client.signing_certificate", 7, ""),
    ]
    assert (spoilt.expires_at, "cannot read" in spoilt.fault) == (None, True)


@pytest.mark.unit
def test_a_finding_shows_no_key(certificates: Callable[..., Settings]) -> None:
    """Names, days and paths only."""
    settings = certificates(transport=1)
    (found,) = certificate_findings(settings, {SLUG: settings.lfis[SLUG]}, now=datetime.now(UTC))

    assert found == CertificateFinding(
        lfi=SLUG, field="client.transport_certificate", expires_at=found.expires_at, days=7
    )


@pytest.mark.store
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_worker_says_each_threshold_once(
    certificates: Callable[..., Settings], store: Store, clock: MovableClock
) -> None:
    """Looked at for 71 days: four lines, and one when it has ended."""
    settings = certificates(transport=70)
    watch = CertificateWatch(settings, store, clock)
    with structlog.testing.capture_logs() as events:
        for _ in range(71 * 4):
            await watch.look()
            clock.advance(hours=6)

    told = [event for event in events if event["event"] == "certificate ends soon"]
    assert [event["days"] for event in told] == [60, 30, 14, 7, 0]
    assert {event["field"] for event in told} == {"client.transport_certificate"}
