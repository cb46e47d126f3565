"""Fixtures of the commands' tests: a bank for all of them, a folder of settings for each."""

import asyncio
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from syncworker import wiring
from syncworker.settings import ClientSettings, LFISettings, Settings
from syncworker.simulator.browser import Browser
from syncworker.standard.consents import ConsentRequest, Purpose
from syncworker.standard.permissions import Permission
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store import migrate
from syncworker.store.keyring import KeyRing
from tests.cli.house import CLIENT_FILES, House, settings_toml
from tests.ground.processes import Nursery

PERMISSIONS = (Permission.ReadAccountsBasic, Permission.ReadBalances)


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What a running sandbox says about itself; two customers, tokens of ten minutes."""
    folder = tmp_path_factory.mktemp("bank")
    nursery = Nursery(folder)
    argv = (sys.executable, "-m", "syncworker.simulator", "--data-dir", str(folder / "data"), "--customers", "2")
    nursery.spawn(argv, ready=lambda _child: (folder / "data" / "sandbox.json").is_file())
    yield json.loads((folder / "data" / "sandbox.json").read_text())
    nursery.clear()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A folder with two authorisations: one brought home, one whose redirect still waits.

    Attributes:
        consent_id: of the authorised consent.
        used: the redirect URL it came home with.
        waiting: the redirect URL of the other one.
        secrets: what no output may show.
    """

    folder: Path
    consent_id: str
    used: str
    waiting: str
    secrets: tuple[str, ...]


@pytest.fixture(scope="session")
def prepared(bank: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The way up to the tokens, once; each test works on a copy."""
    folder = tmp_path_factory.mktemp("prepared")
    files = {name: f"keys/{name}.pem" for name in CLIENT_FILES}
    (folder / "keys").mkdir(mode=0o700)
    for name, path in files.items():
        shutil.copy(bank["client"][name], folder / path)  # with its mode
    (folder / "syncworker.toml").write_text(settings_toml(bank, files=files))
    KeyRing.generate(folder / "keyring")
    settings = Settings(
        database_url=f"sqlite:///{folder}/syncworker.db",
        data_dir=folder / "data",
        keyring=folder / "keyring",
        client=ClientSettings.model_validate(
            {
                "client_id": bank["client"]["client_id"],
                "redirect_uri": bank["client"]["redirect_uri"],
                "signing_kid": bank["client"]["signing_kid"],
                "ca_bundle": Path(bank["ca_bundle"]),
                **{name: folder / path for name, path in files.items()},
            }
        ),
        lfis={
            "sandbox": LFISettings(
                issuer=bank["issuer"], base_urls={Version("v2.1"): bank["resource_base_url"]}, allow_private_hosts=True
            )
        },
    )
    migrate.upgrade(settings.database_url)
    return asyncio.run(_authorised(folder, settings, bank))


async def _authorised(folder: Path, settings: Settings, bank: dict[str, Any]) -> Prepared:
    application = await wiring.build_application(settings)
    try:
        async with Browser(Path(bank["ca_bundle"])) as browser:
            redirects = []
            for user in bank["users"]:
                request = ConsentRequest(
                    permissions=PERMISSIONS,
                    expires_at=datetime.now(UTC) + timedelta(days=180),
                    purpose=Purpose.AccountAggregation,
                )
                started = await application.authorize.begin(Slug("sandbox"), request, user_ref=user)
                redirects.append(await browser.decide(started.url, user=user))
        completed = await application.authorize.complete(redirects[0])
        async with application.store.reading() as unit:
            token = await unit.tokens.read(ConsentId(completed.consent_id))
            waiting = await unit.authorizations.get(_query(redirects[1])["state"])
        assert token is not None
        assert token.access_token is not None
        assert token.refresh_token is not None
        assert waiting is not None
        assert waiting.code_verifier is not None
        secrets = (
            token.access_token.get_secret_value(),
            token.refresh_token.get_secret_value(),
            waiting.code_verifier.get_secret_value(),
            *(_query(redirect)["code"] for redirect in redirects),
            (folder / "keyring").read_text().split()[-1],
            "PRIVATE KEY",
        )
        return Prepared(folder, completed.consent_id, redirects[0], redirects[1], secrets)
    finally:
        await application.close()


def _query(redirect: str) -> dict[str, str]:
    from urllib.parse import parse_qsl, urlsplit

    return dict(parse_qsl(urlsplit(redirect).query))


@pytest.fixture
def house(prepared: Prepared, tmp_path: Path) -> House:
    """An own copy of the prepared folder."""
    folder = tmp_path / "house"
    shutil.copytree(prepared.folder, folder)
    return House(folder)
