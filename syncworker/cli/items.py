"""`syncworker items`: what an LFI sent that could not become a record."""

from typing import Annotated, Any

import typer

from syncworker.cli import frame, show
from syncworker.errors import RequestError
from syncworker.standard.values import ConsentId
from syncworker.store.unit_of_work import Store
from syncworker.store.unreadable import StoredUnreadable

app = typer.Typer(help="Items that could not become records.", no_args_is_help=True)


@app.command("unreadable")
def list_unreadable(
    connection: Annotated[str | None, typer.Option("--connection", help="Only those of this connection.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Most rows.")] = 50,
    as_json: frame.AsJson = False,
) -> None:
    """Items that cannot be read or have no usable id, those seen last first: where they lie and why.  No content."""

    async def read(store: Store) -> list[dict[str, Any]]:
        async with store.reading() as unit:
            connection_id = None if connection is None else ConsentId(connection)
            return [_row(one) for one in await unit.unreadable.list(connection_id, limit=limit)]

    show.rows(frame.with_store(read), as_json=as_json, title="Unreadable items", empty="every item could be read")


@app.command("show")
def show_item(
    item_id: Annotated[str, typer.Argument(help="As `items unreadable` shows it.")],
    content: Annotated[
        bool, typer.Option("--content", help="Also the item as the LFI sent it; it is personal.")
    ] = False,
    as_json: frame.AsJson = False,
) -> None:
    """One unreadable item; with --content what the LFI sent, so that it can be told what to mend."""
    if not (item_id.isascii() and item_id.isdigit() and len(item_id) <= 18):
        raise RequestError("id: is no item's id; give a number, as `syncworker items unreadable` shows it")

    async def read(store: Store) -> dict[str, Any]:
        async with store.reading() as unit:
            one = await unit.unreadable.get(int(item_id), content=content)
        if one is None:
            raise RequestError(f"id: there is no unreadable item {item_id}; see `syncworker items unreadable`")
        facts = _row(one) | {"consent": one.consent_id, "copies": one.copies, "content_kept": one.kept}
        if content:
            facts["content"] = None if one.item is None else one.item.decode(errors="backslashreplace")
        return facts

    show.facts(frame.with_store(read, sealed=content), as_json=as_json)


def _row(one: StoredUnreadable) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "connection": one.connection_id,
        "resource": one.resource.value,
        "account": one.account_id,
        "page": one.page,
        "path": one.path,
        "reason": one.reason,
        "bytes": one.size,
        "first_seen_at": one.first_seen_at,
        "last_seen_at": one.last_seen_at,
        "times": one.times,
    }
