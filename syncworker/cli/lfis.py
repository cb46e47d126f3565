"""`syncworker lfis`: the LFIs we are registered with, where they come from, and whether they can be reached."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from syncworker import declarations, opening, wiring
from syncworker.cli import frame, show
from syncworker.clock import SystemClock
from syncworker.declarations import DirectoryFacts
from syncworker.errors import RequestError, SyncWorkerError
from syncworker.lfi import participants
from syncworker.lfi.checkup import Finding, Verdict, walk
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.observing import Observing
from syncworker.lfi.participants import Dropped, Participant, Reading, Reason, Rules
from syncworker.settings import LFISettings, Settings, faults_of, read_slug
from syncworker.standard.values import Slug
from syncworker.standard.versions import Version
from syncworker.store.lfis import LFIChange
from syncworker.store.unit_of_work import Store

DOCUMENTS_AT_ONCE: Final = 8
CHANGES_SHOWN: Final = 10
MARKS: Final = {Verdict.GOOD: "✓", Verdict.WARN: "!", Verdict.BAD: "✗"}

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
    declared = _checked(config, name, {member: value for member, value in given.items() if value is not None})

    async def keep(store: Store) -> None:
        async with store.writing() as unit:
            await unit.lfis.add(name, declared.model_dump(mode="json", exclude_none=True), at=await unit.now())
            await unit.commit()

    frame.with_store(keep)
    show.say(f"{slug} added; `syncworker lfis show {slug}` shows it, `syncworker lfis check {slug}` checks it")


def _checked(config: Settings, slug: Slug, declared: Mapping[str, Any]) -> LFISettings:
    """A declaration that can be used: its keys and certificate are read now, so that a fault shows now."""
    try:
        checked = LFISettings.model_validate(declared)
    except ValidationError as error:
        raise RequestError("; ".join(faults_of(error))) from None
    wiring.lfi_config(config, slug, checked)
    return checked


# -- discover ----------------------------------------------------------------------------------------------------------


@app.command()
def discover(
    source: Annotated[str, typer.Argument(metavar="URL|FILE", help="A participants document; https, or a file.")],
    add: Annotated[
        list[str] | None,
        typer.Option(help="Declare the one of this name, or OWN-NAME=AuthorisationServerId; repeatable."),
    ] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Declare every one that can be called.")] = False,
    verify: Annotated[
        bool, typer.Option(help="Before declaring, see that the discovery document names the same issuer.")
    ] = True,
    host: Annotated[
        list[str] | None, typer.Option(help="Trust addresses at this host or below it; instead of directory.hosts.")
    ] = None,
    ca_bundle: Annotated[Path | None, typer.Option(help="Roots trusted beside the system's own.")] = None,
    allow_private_hosts: Annotated[bool, typer.Option(help="For a sandbox on this machine.")] = False,
    as_json: frame.AsJson = False,
) -> None:
    """Read the participants directory: who can be called, and what was left out and why.

    With --add or --all, declare them: in one step, or not at all.  Exit code 3 when some of them could not be declared.
    """
    config = frame.settings()
    directory = config.directory.model_copy(
        update={"hosts": tuple(host or config.directory.hosts), "ca_bundle": ca_bundle or config.directory.ca_bundle}
    )
    config = config.with_values(directory=directory)
    rules = wiring.directory_rules(config, allow_private_hosts=allow_private_hosts)
    reading = frame.run(_read(config, source, rules))
    if not add and not everyone:
        _print_reading(reading, as_json=as_json)
        return
    chosen = dict(reading.found) if everyone else {}
    chosen |= dict(_chosen(name, reading) for name in add or ())
    good, refused = frame.run(_verified(config, chosen, rules)) if verify else (chosen, {})

    async def keep(store: Store) -> dict[Slug, bool]:
        return await declarations.declare(store, good, check=lambda slug, one: _checked(config, slug, one))

    new = frame.with_store(keep) if good else {}
    _print_declared(config, good, new, refused, as_json=as_json)
    if refused:
        raise typer.Exit(frame.PARTLY if good else frame.FAILED)


async def _read(config: Settings, source: str, rules: Rules) -> Reading:
    if source.startswith(("https://", "http://")):
        document = await wiring.fetch_public(config, source, rules=rules)
    else:
        document = await asyncio.to_thread(participants.load, Path(source))
    return participants.read_participants(document, rules=rules, now=SystemClock().now())


def _chosen(name: str, reading: Reading) -> tuple[Slug, Participant]:
    """The participant of `--add NAME` or `--add OWN-NAME=AuthorisationServerId`.

    Raises:
        RequestError: there is none; says why when it was left out.
    """
    own, separator, server_id = name.partition("=")
    if not separator and own in reading.found:
        return Slug(own), reading.found[Slug(own)]
    wanted = server_id if separator else name
    for one in reading.found.values():
        if separator and one.server_id == wanted:
            return read_slug(own), one
    for out in reading.dropped:
        if not out.part and wanted in (out.server_id, out.server, out.organisation):
            raise RequestError(f"add: {wanted} cannot be called: {out.said}")
    raise RequestError(f"add: the document has no {wanted!r} that can be called; without --add they are listed")


async def _verified(
    config: Settings, chosen: Mapping[Slug, Participant], rules: Rules
) -> tuple[dict[Slug, Participant], dict[Slug, Dropped]]:
    """Those whose discovery document names the issuer of the directory, and the others with the reason."""
    slots = asyncio.Semaphore(DOCUMENTS_AT_ONCE)

    async def one(participant: Participant) -> Participant | Dropped:
        async with slots:
            try:
                document = await wiring.fetch_public(config, participant.discovery_url, rules=rules)
            except SyncWorkerError as error:
                return participants.unverified(participant, Reason.NO_ANSWER, f"discovery document: {error}")
        return participants.verified(participant, document)

    seen = dict(zip(chosen, await asyncio.gather(*(one(participant) for participant in chosen.values())), strict=True))
    return (
        {slug: one for slug, one in seen.items() if isinstance(one, Participant)},
        {slug: one for slug, one in seen.items() if isinstance(one, Dropped)},
    )


def _print_reading(reading: Reading, *, as_json: bool) -> None:
    if as_json:
        found = [{"slug": slug, **declarations.kept(one)} for slug, one in reading.found.items()]
        show.value({"found": found, "dropped": [asdict(one) for one in reading.dropped]})
        return
    show.rows(
        [
            {
                "name": slug,
                "shown_to_customers_as": one.name,
                "versions": sorted(one.base_urls),
                "endpoints": [len(one.published[version]) for version in sorted(one.base_urls)],
                "for": list(one.account_types) or None,
                "over_limit_page": _dirhams({v.value: fee for v, fee in one.over_limit_millifils.items()}),
                "migrate_before": one.retires_on,
                "server": one.server_id,
            }
            for slug, one in reading.found.items()
        ],
        as_json=False,
        title="Can be called",
        empty="nobody in this document can be called",
    )
    show.rows(
        [
            {
                "organisation": one.organisation,
                "server": one.server or None,
                "part": one.part or None,
                "reason": one.reason.value,
                "because": one.said,
            }
            for one in reading.dropped
        ],
        as_json=False,
        title="\nLeft out",
        empty="nothing was left out",
    )
    if reading.found:
        show.say("declare one with --add NAME, or all with --all")


def _print_declared(
    config: Settings,
    good: Mapping[Slug, Participant],
    new: Mapping[Slug, bool],
    refused: Mapping[Slug, Dropped],
    *,
    as_json: bool,
) -> None:
    rows = [
        {
            "slug": slug,
            "declared": "added" if new[slug] else "renewed",
            "versions": sorted(one.base_urls),
            "issuer": one.issuer,
            "because": None,
        }
        for slug, one in good.items()
    ]
    rows += [
        {"slug": slug, "declared": "no", "versions": [], "issuer": None, "because": one.said}
        for slug, one in refused.items()
    ]
    show.rows(rows, as_json=as_json, title="Declared", empty="nobody was declared")
    for slug in sorted(config.lfis.keys() & good.keys()):
        show.say(f"{slug}: [lfis.{slug}] in syncworker.toml wins over this declaration")
    if good:
        show.say("`syncworker lfis check NAME` walks to one and looks at everything")
        if config.directory.url is None:
            show.say("set directory.url to have the directory read again every day")


# -- check -------------------------------------------------------------------------------------------------------------


@app.command()
def check(slug: str, as_json: frame.AsJson = False) -> None:
    """Walk to an LFI and look at everything a first consent needs, changing nothing; exit 1 when something is wrong."""
    config = frame.settings()
    name = read_slug(slug)
    wiring.allowed(config).check(name)

    async def read(store: Store) -> tuple[LFISettings, DirectoryFacts | None]:
        declared = await _declared(config, store, name)
        return declared[0], (await declarations.directory_facts(store)).get(name)

    entry, facts = frame.with_store(read)
    findings = [Finding("directory", Verdict.WARN, said) for said in (facts.warnings() if facts else ())]
    try:
        used = wiring.lfi_config(config, name, entry)
    except SyncWorkerError as error:
        findings.append(Finding("settings, keys and certificate", Verdict.BAD, str(error), "correct the setting named"))
    else:
        findings.append(Finding("settings, keys and certificate", Verdict.GOOD, "complete and readable"))
        findings += frame.with_store(lambda store: _walked(store, name, used))
    good = all(one.verdict is not Verdict.BAD for one in findings)
    if as_json:
        show.value({"slug": slug, "good": good, "checks": [asdict(one) for one in findings]})
    else:
        for one in findings:
            fix = f"\n    → {one.fix}" if one.fix else ""
            show.OUT.print(f"{MARKS[one.verdict]} {one.check}: {one.said}{fix}", markup=False)
    if not good:
        raise typer.Exit(frame.FAILED)


async def _walked(store: Store, name: Slug, used: LFIConfig) -> list[Finding]:
    journal = wiring.Journal(store, Observing())
    log, announce = partial(journal.note, name, wiring.NO_CONSENT), partial(journal.announce, name)
    try:
        return [finding async for finding in walk(used, clock=SystemClock(), log=log, announce=announce)]
    finally:
        await journal.flush()


# -- list and show -----------------------------------------------------------------------------------------------------


@app.command("list")
def list_(as_json: frame.AsJson = False) -> None:
    """Every LFI, with where its declaration comes from and by when to leave it."""
    config = frame.settings()

    async def read(store: Store) -> tuple[Mapping[Slug, tuple[LFISettings, str]], dict[Slug, DirectoryFacts]]:
        return await opening.declared_lfis(config, store), await declarations.directory_facts(store)

    declared, directory = frame.with_store(read)
    allowed = wiring.allowed(config)
    show.rows(
        [
            {
                "slug": slug,
                "issuer": entry.issuer,
                "versions": sorted(entry.base_urls),
                "declared_in": origin,
                "shown_to_customers_as": directory[slug].name if slug in directory else None,
                "migrate_before": directory[slug].migrate_before if slug in directory else None,
                "missing_since": directory[slug].missing_since if slug in directory else None,
                "allowed": allowed.has(slug),
            }
            for slug, (entry, origin) in sorted(declared.items())
        ],
        as_json=as_json,
        title="LFIs",
        empty="no LFI yet: declare one under [lfis.<slug>] in syncworker.toml, or with `lfis discover` or `lfis add`",
    )


@app.command("show")
def show_(slug: str, as_json: frame.AsJson = False) -> None:
    """One LFI's declaration, as it is used, and what the directory says about it."""
    config = frame.settings()
    name = read_slug(slug)

    async def read(
        store: Store,
    ) -> tuple[tuple[LFISettings, str], DirectoryFacts | None, Sequence[LFIChange]]:
        declared = await _declared(config, store, name)
        async with store.reading() as unit:
            changes = await unit.lfis.changes(name, limit=CHANGES_SHOWN)
        return declared, (await declarations.directory_facts(store)).get(name), changes

    (entry, origin), facts, changes = frame.with_store(read)
    used = wiring.lfi_config(config, name, entry)
    content = {
        "slug": slug,
        "declared_in": origin,
        "issuer": used.issuer,
        "discovery_url": used.discovery_url,
        **{f"base_url_{version.value}": url for version, url in used.base_urls.items()},
        **{f"published_{version.value}": sorted(paths) for version, paths in (used.published or {}).items()},
        "client_id": used.client_id,
        "redirect_uri": used.redirect_uri,
        "signing_kid": used.signing_key.kid,
        "transport_thumbprint": used.transport.thumbprint,
        "transport_expires_at": used.transport.expires_at,
        "connections": used.connections,
        "calls_per_second": used.calls_per_second,
        "allow_private_hosts": used.allow_private_hosts,
        "allowed": wiring.allowed(config).has(name),
        **(_directory(facts) if facts else {}),
    }
    if as_json:
        show.value(content | {"changes": [asdict(one) for one in changes]})
        return
    for warning in facts.warnings() if facts else ():
        show.OUT.print(f"! {warning}", markup=False)
    show.facts(content, as_json=False)
    if changes:
        rows = [{name: value for name, value in asdict(one).items() if name != "slug"} for one in changes]
        show.rows(rows, as_json=False, title="\nWhat the directory changed", empty="")


def _directory(facts: DirectoryFacts) -> dict[str, Any]:
    return {
        "organisation": facts.organisation,
        "shown_to_customers_as": facts.name,
        "logo_uri": facts.logo_uri,
        "authorisation_server_id": facts.server_id,
        "account_types": list(facts.account_types),
        "account_sub_types": list(facts.account_sub_types),
        "over_limit_page": _dirhams(facts.over_limit_millifils),
        "deprecated_on": facts.deprecated_on,
        "migrate_before": facts.migrate_before,
        "superseded_by": facts.superseded_by,
        "directory_seen_at": facts.seen_at,
        "missing_since": facts.missing_since,
        "notes": list(facts.notes),
    }


def _dirhams(millifils: Mapping[str, int]) -> str | None:
    """Prices of a page in AED, by version."""
    prices = {
        version: Decimal(fee) / participants.MILLIFILS_PER_DIRHAM for version, fee in sorted(millifils.items()) if fee
    }
    return ", ".join(f"{version}: AED {price:.2f}" for version, price in prices.items()) or None


async def _declared(config: Settings, store: Store, name: Slug) -> tuple[LFISettings, str]:
    declared = await opening.declared_lfis(config, store)
    if name not in declared:
        raise RequestError(f"lfi: {name!r} is not declared; `syncworker lfis list` shows those that are")
    return declared[name]


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
