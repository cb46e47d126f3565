"""`syncworker lfis`: the LFIs we are registered with, from the settings and from what was added by command."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from syncworker import wiring
from syncworker.cli import frame, show
from syncworker.errors import RequestError
from syncworker.settings import LFISettings, faults_of, read_slug
from syncworker.standard.versions import Version
from syncworker.store.unit_of_work import Store

app = typer.Typer(help="LFIs we are registered with.", no_args_is_help=True)


@app.command()
def add(
    slug: Annotated[str, typer.Argument(help="Our short name for the LFI: a-z, 0-9 and -.")],
    issuer: Annotated[str, typer.Option(help="The issuer, exactly as its discovery document says.")],
    base_url: Annotated[list[str], typer.Option(help="VERSION=URL of the Account Information API, repeatable.")],
    discovery_url: Annotated[str | None, typer.Option(help="When it is not below the issuer.")] = None,
    client_id: Annotated[str | None, typer.Option(help="When it is not the one under [client].")] = None,
    redirect_uri: Annotated[str | None, typer.Option()] = None,
    signing_key: Annotated[Path | None, typer.Option()] = None,
    signing_kid: Annotated[str | None, typer.Option()] = None,
    transport_certificate: Annotated[Path | None, typer.Option()] = None,
    transport_key: Annotated[Path | None, typer.Option()] = None,
    ca_bundle: Annotated[Path | None, typer.Option(help="Roots trusted beside the system's own.")] = None,
    allow_private_hosts: Annotated[bool, typer.Option(help="For a sandbox on this machine.")] = False,
) -> None:
    """Declare an LFI in the database.  The same slug in syncworker.toml wins over it."""
    config = frame.settings()
    name = read_slug(slug)
    given = {
        "issuer": issuer,
        "base_urls": dict(_version_url(pair) for pair in base_url),
        "discovery_url": discovery_url,
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "signing_key": signing_key and config.resolved(signing_key),
        "signing_kid": signing_kid,
        "transport_certificate": transport_certificate and config.resolved(transport_certificate),
        "transport_key": transport_key and config.resolved(transport_key),
        "ca_bundle": ca_bundle and config.resolved(ca_bundle),
        "allow_private_hosts": allow_private_hosts,
    }
    try:
        declared = LFISettings.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise RequestError("; ".join(faults_of(error))) from None
    wiring.lfi_config(config, name, declared)  # keys and certificate are read now, so that a fault shows now

    async def keep(store: Store) -> None:
        async with store.writing() as unit:
            await unit.lfis.add(name, declared.model_dump(mode="json", exclude_none=True), at=await unit.now())
            await unit.commit()

    frame.with_store(keep)
    show.say(f"{slug} added; `syncworker lfis show {slug}` shows it, `syncworker doctor` checks it")


@app.command("list")
def list_(as_json: frame.AsJson = False) -> None:
    """Every LFI, with where its declaration comes from."""
    config = frame.settings()
    declared = frame.with_store(lambda store: wiring.declared_lfis(config, store))
    show.rows(
        [
            {"slug": slug, "issuer": entry.issuer, "versions": sorted(entry.base_urls), "declared_in": origin}
            for slug, (entry, origin) in sorted(declared.items())
        ],
        as_json=as_json,
        title="LFIs",
        empty="no LFI yet: declare one under [lfis.<slug>] in syncworker.toml, or with `syncworker lfis add`",
    )


@app.command("show")
def show_(slug: str, as_json: frame.AsJson = False) -> None:
    """One LFI's declaration, as it is used."""
    config = frame.settings()
    declared = frame.with_store(lambda store: wiring.declared_lfis(config, store))
    name = read_slug(slug)
    if name not in declared:
        raise RequestError(f"lfi: {slug!r} is not declared; `syncworker lfis list` shows those that are")
    entry, origin = declared[name]
    used = wiring.lfi_config(config, name, entry)
    show.facts(
        {
            "slug": slug,
            "declared_in": origin,
            "issuer": used.issuer,
            "discovery_url": used.discovery_url,
            **{f"base_url_{version.value}": url for version, url in used.base_urls.items()},
            "client_id": used.client_id,
            "redirect_uri": used.redirect_uri,
            "signing_kid": used.signing_key.kid,
            "transport_thumbprint": used.transport.thumbprint,
            "transport_expires_at": used.transport.expires_at,
            "connections": used.connections,
            "calls_per_second": used.calls_per_second,
            "allow_private_hosts": used.allow_private_hosts,
        },
        as_json=as_json,
    )


@app.command()
def retry(
    slug: Annotated[str, typer.Argument(help="Our short name for the LFI.")],
    as_json: frame.AsJson = False,
) -> None:
    """Try an LFI again now, after its trouble was mended: ends the wait of its open breakers.

    One row of each class goes as the trial; a gate closed by 429 stays closed, since that is the LFI's own word.
    """
    name = read_slug(slug)

    async def try_now(store: Store) -> int:
        return await store.atomically(lambda unit: unit.breakers.try_now(name))

    waited = frame.with_store(try_now)
    if not waited:
        show.say(f"{slug}: no breaker keeps calls back")
    show.facts({"slug": slug, "breakers_tried": waited}, as_json=as_json)


def _version_url(pair: str) -> tuple[Version, str]:
    version, separator, url = pair.partition("=")
    if not separator or version not in set(Version):
        raise RequestError(f"base_url: write VERSION=URL with one of {', '.join(Version)}, as in v2.1=https://…")
    return Version(version), url
