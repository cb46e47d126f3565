"""`syncworker keys`: make the keys a TPP needs, each file readable by its owner alone."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from syncworker import opening, private
from syncworker.cli import frame, show
from syncworker.errors import SettingsError
from syncworker.lfi import keys
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store

app = typer.Typer(help="Keys and certificates.", no_args_is_help=True)


@app.command()
def generate(
    directory: Annotated[Path, typer.Argument(help="Folder to write to; made when absent.")] = Path("keys"),
    organisation: Annotated[str | None, typer.Option(help="Legal name (certificate O).")] = None,
    organisation_id: Annotated[str | None, typer.Option(help="Organisation id of the directory (OU).")] = None,
    client_id: Annotated[str | None, typer.Option(help="Client id of the application (CN).")] = None,
    keyring_only: Annotated[bool, typer.Option("--keyring-only", help="Only the key ring that seals columns.")] = False,
    as_json: frame.AsJson = False,
) -> None:
    """Make the key ring that seals columns and, with the organisation's names, the keys and certificate requests.

    Never overwrites a file.
    """
    names = (organisation, organisation_id, client_id)
    if not keyring_only and not all(names):
        raise typer.BadParameter(
            "give --organisation, --organisation-id and --client-id for the certificate requests, or --keyring-only"
        )
    ring = directory / "keyring"
    if ring.exists():
        raise SettingsError(f"keyring: {ring} exists already; keys are never overwritten, give another folder")
    try:
        private.make_folder(directory)
    except OSError as error:
        raise SettingsError(f"directory: {directory} cannot be made ({error.strerror}); give another folder") from None
    made: dict[str, str] = {}
    if not keyring_only:
        assert organisation is not None
        assert organisation_id is not None
        assert client_id is not None
        fresh = keys.generate(
            directory, organisation=organisation, organisation_id=organisation_id, client_id=client_id
        )
        made |= {name: str(value) for name, value in dataclasses.asdict(fresh).items()}
    KeyRing.generate(ring)
    made["keyring"] = str(ring)
    show.facts(made, as_json=as_json)
    if not keyring_only:
        show.say("send the .csr files to the directory, and set the paths and the kid it gives in syncworker.toml")


@app.command()
def jwks(
    lfi: Annotated[str | None, typer.Option(help="Only the keys declared for this LFI.")] = None,
) -> None:
    """Print the public halves of our signing keys as a JWKS: what a server without the directory is given.

    Every declared key is there, the one that signs and the one it is to follow or has followed.
    """

    from syncworker import wiring

    async def read(store: Store) -> list[dict[str, str]]:
        config = frame.settings()
        declared = await opening.declared_lfis(config, store)
        if lfi is not None and lfi not in declared:
            raise SettingsError(f"lfi: {lfi} is not declared (known: {', '.join(sorted(declared)) or 'none'})")
        files = {
            kid: file
            for slug, (entry, _) in sorted(declared.items())
            if lfi in (None, slug)
            for kid, file in wiring.signing_files(config, slug, entry).items()
        }
        return [keys.SigningKey.load(file, kid, field=field).published() for kid, (file, field) in files.items()]

    show.value({"keys": frame.with_store(read)})
