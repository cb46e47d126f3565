"""`syncworker refreshes`: how what the product asked to be read now stands."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from syncworker import opening
from syncworker.cli import frame, show
from syncworker.errors import RequestError
from syncworker.refreshes import PartShown, Refreshes, Shown
from syncworker.store.unit_of_work import Store

app = typer.Typer(help="Refreshes: what the product wants to be read now.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Refreshes: what the product wants to be read now."""


@app.command("show")
def show_(
    refresh_id: Annotated[str, typer.Argument(help="rfr_…, as POST /v1/refreshes answered.")],
    as_json: frame.AsJson = False,
) -> None:
    """One refresh: how it stands at each connection, and each listing with its outcome."""
    config = frame.settings()

    async def read(store: Store) -> Shown:
        async def declared() -> Any:
            return await opening.declared_lfis(config, store)

        found = await Refreshes(store, declared=declared).get(refresh_id)
        if found is None:
            raise RequestError(f"refresh_id: no refresh {refresh_id} is held; rows are kept for 30 days")
        return found

    found = frame.with_store(read)
    facts = {
        "refresh": found.refresh_id,
        "status": found.stage.value,
        "attended": found.attended,
        "joined": found.joined,
        "created_at": found.created_at,
        "ended_at": found.ended_at,
    }
    parts = [_part(one) for one in found.parts]
    listings = [_listing(part, one) for part in found.parts for one in part.listings]
    if as_json:
        show.value(facts | {"connections": parts, "listings": listings})
        return
    show.facts(facts, as_json=False)
    show.rows(parts, as_json=False, title="\nConnections", empty="none")
    show.rows(listings, as_json=False, title="\nListings", empty="none was read yet")


def _part(part: PartShown) -> dict[str, Any]:
    told = asdict(part)
    return {
        "connection": told["connection_id"],
        "status": part.stage.value,
        **{name: told[name] for name in ("joined", "run_id", "reason", "error", "retry_at", "ended_at")},
    }


def _listing(part: PartShown, one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "connection": part.connection_id,
        "account_id": one["account_id"],
        "lfi_account_id": one["lfi_account_id"],
        "resource": one["resource"],
        "outcome": one["outcome"],
        **{name: one.get(name) for name in ("reason", "error", "retry_at")},
    }
