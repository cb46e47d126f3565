"""The settings that reach a sandbox bank of ours, and the key ring they need, written into a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from syncworker.store.keyring import KeyRing

FILE: Final = "syncworker.toml"


def write(
    folder: Path,
    facts: Mapping[str, Any],
    *,
    slug: str = "sandbox",
    database_url: str | None = "sqlite:///syncworker.db",
    own: str = "",
) -> Path:
    """Write `syncworker.toml`, and `keyring` unless there is one, and tell the file.

    Args:
        facts: what a running sandbox says about itself (`Sandbox.facts`).
        database_url: `None` leaves it to the environment.
        own: more TOML, for the top of the file.
    """
    file, keyring = folder / FILE, folder / "keyring"
    if not keyring.exists():
        KeyRing.generate(keyring)
    file.write_text(_text(facts, slug, database_url, own), encoding="utf-8")
    return file


def _text(facts: Mapping[str, Any], slug: str, database_url: str | None, own: str) -> str:
    client = "\n".join(f"{name} = {json.dumps(value)}" for name, value in facts["client"].items())
    database = f"database_url = {json.dumps(database_url)}\n" if database_url else ""
    return f"""# Settings for a sandbox bank on this machine, written anew at each start of it.
{database}data_dir = "data"
keyring = "keyring"
{own}
[client]
{client}
ca_bundle = {json.dumps(facts["ca_bundle"])}

[lfis.{slug}]
issuer = {json.dumps(facts["issuer"])}
base_urls = {{ "v2.1" = {json.dumps(facts["resource_base_url"])} }}
allow_private_hosts = true
calls_per_second = 500
connections = 16
"""
