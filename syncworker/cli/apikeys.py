"""`syncworker apikeys`: who may ask the web process for what."""

from datetime import timedelta
from typing import Annotated, Any

import typer

from syncworker.cli import frame, show
from syncworker.errors import RequestError
from syncworker.store.api_keys import Scope, StoredKey
from syncworker.store.unit_of_work import Store

app = typer.Typer(help="API keys of the web process.", no_args_is_help=True)


@app.command()
def create(
    scope: Annotated[list[Scope], typer.Option("--scope", help="Repeatable.")],
    name: Annotated[str, typer.Option(help="Who uses it, in your words.")] = "product",
    days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="Ends after so many days; by default it never does.")
    ] = None,
    as_json: frame.AsJson = False,
) -> None:
    """Make a key.  It is printed now and never again: only its hash is kept."""

    async def work(store: Store) -> dict[str, Any]:
        async with store.writing() as unit:
            at = await unit.now()
            ends = None if days is None else at + timedelta(days=days)
            stored, key = await unit.api_keys.create(name, scope, at=at, expires_at=ends)
            await unit.commit()
        facts = {"key_id": stored.key_id, "name": stored.name, "scopes": sorted(stored.scopes)}
        return facts | {"expires_at": stored.expires_at, "key": key.get_secret_value()}

    show.facts(frame.with_store(work), as_json=as_json)
    show.say("keep the key now: nobody can show it again")


@app.command("list")
def list_(as_json: frame.AsJson = False) -> None:
    """Every key of this tenant, without its secret."""

    async def read(store: Store) -> list[dict[str, Any]]:
        async with store.reading() as unit:
            return [_row(one) for one in await unit.api_keys.list()]

    empty = "no key yet: `syncworker apikeys create --scope …`"
    show.rows(frame.with_store(read), as_json=as_json, title="API keys", empty=empty)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `apikeys list` shows it.")], as_json: frame.AsJson = False
) -> None:
    """Take a key back: the next request with it is refused."""

    async def work(store: Store) -> dict[str, Any]:
        async with store.writing() as unit:
            if not await unit.api_keys.revoke(key_id, at=await unit.now()):
                raise RequestError("key_id: there is no such key; `syncworker apikeys list` shows those there are")
            await unit.commit()
        async with store.reading() as unit:
            return next(_row(one) for one in await unit.api_keys.list() if one.key_id == key_id)

    show.facts(frame.with_store(work), as_json=as_json)


def _row(one: StoredKey) -> dict[str, Any]:
    return {
        "key_id": one.key_id,
        "name": one.name,
        "scopes": sorted(one.scopes),
        "created_at": one.created_at,
        "expires_at": one.expires_at,
        "last_used_at": one.last_used_at,
        "revoked_at": one.revoked_at,
    }
