"""The settings that reach sandbox banks of ours, and the key ring they need, written into a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from syncworker.standard.values import Slug
from syncworker.store.keyring import KeyRing

FILE: Final = "syncworker.toml"
SLUG: Final = Slug("sandbox")


def write(
    folder: Path,
    facts: Mapping[str, Any],
    *,
    database_url: str | None = "sqlite:///syncworker.db",
    own: str = "",
) -> Path:
    """Write the settings for one bank, under the slug `sandbox`; its client is `[client]`, for LFIs added later too.

    Args:
        facts: what a running sandbox says about itself (`Sandbox.facts`).
        database_url: `None` leaves it to the environment.
        own: more TOML, for the top of the file.

    Returns:
        The file.  A key ring lies beside it, a new one unless there was one.
    """
    client = f"[client]\n{_client(facts)}\n"
    return _written(folder, f"{client}\n[lfis.{SLUG}]\n{_lfi(facts)}", database_url, own)


def write_several(
    folder: Path, facts: Mapping[Slug, Mapping[str, Any]], *, database_url: str | None, own: str = ""
) -> Path:
    """Write the settings for several banks by slug; each knows us by a client of its own.  Otherwise as `write`."""
    lfis = (f"[lfis.{slug}]\n{_lfi(one)}{_client(one)}\n" for slug, one in facts.items())
    return _written(folder, "\n".join(lfis), database_url, own)


def _written(folder: Path, banks: str, database_url: str | None, own: str) -> Path:
    file, keyring = folder / FILE, folder / "keyring"
    if not keyring.exists():
        KeyRing.generate(keyring)
    database = f"database_url = {json.dumps(database_url)}\n" if database_url else ""
    head = f"""# Settings for a sandbox on this machine, written anew at each start of it.
{database}data_dir = "data"
keyring = "keyring"
{own}
"""
    file.write_text(head + banks, encoding="utf-8")
    return file


def _client(facts: Mapping[str, Any]) -> str:
    lines = {**facts["client"], "ca_bundle": facts["ca_bundle"]}
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in lines.items())


def _lfi(facts: Mapping[str, Any]) -> str:
    urls = ", ".join(
        f"{json.dumps(version)} = {json.dumps(url)}" for version, url in facts["resource_base_urls"].items()
    )
    return f"""issuer = {json.dumps(facts["issuer"])}
base_urls = {{ {urls} }}
allow_private_hosts = true
calls_per_second = 500
connections = 16
"""
