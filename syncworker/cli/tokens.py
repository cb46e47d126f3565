"""`syncworker tokens`: how each consent's token stands; never a token."""

from datetime import datetime
from typing import Any

import typer

from syncworker.cli import frame, show
from syncworker.store.unit_of_work import Store

app = typer.Typer(help="Access and refresh tokens.", no_args_is_help=True)


@app.command()
def status(as_json: frame.AsJson = False) -> None:
    """When each token ends, how often it was refreshed, and what is wrong with it."""

    async def read(store: Store) -> tuple[list[dict[str, Any]], datetime]:
        async with store.reading() as unit:
            now = await unit.now()
            return [
                {
                    "consent": one.consent_id,
                    "expires_at": one.expires_at,
                    "left": None if one.expires_at is None else one.expires_at - now,
                    "refreshed": one.refreshed_count,
                    "version": one.version,
                    "in_doubt": one.in_doubt,
                    "in_doubt_since": one.intent_at if one.in_doubt else None,
                    "call_in_doubt": one.intent_call,
                    "attempts": one.attempts,
                    "lost": one.lost_cause,
                }
                for one in await unit.tokens.states()
            ], now

    rows, _ = frame.with_store(read)
    show.rows(
        rows, as_json=as_json, title="Tokens", empty="no token yet: `syncworker consents authorize` gets the first"
    )
