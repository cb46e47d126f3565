"""`syncworker calls`: one call, by what a bank names it with."""

from typing import Annotated, Any, Final

import typer

from syncworker.cli import frame, show
from syncworker.cli.syncs import call_as_told
from syncworker.errors import RequestError
from syncworker.standard.values import ConsentId
from syncworker.store.runs import FoundCall
from syncworker.store.unit_of_work import Store

app = typer.Typer(help="Calls to LFIs, by their interaction ids.", no_args_is_help=True)

LONGEST: Final = 64


@app.callback()
def _group() -> None:
    """Keeps `show` a command of the group while it is the only one."""


@app.command("show")
def show_(
    interaction_id: Annotated[str, typer.Argument(help="x-fapi-interaction-id of the call, as the LFI names it.")],
    as_json: frame.AsJson = False,
) -> None:
    """The call that was sent with an interaction id: its LFI, consent, connection and run."""
    wanted = interaction_id.strip()
    if not 1 <= len(wanted) <= LONGEST or not wanted.isprintable():
        raise RequestError(f"interaction_id: must be 1 to {LONGEST} printable characters; paste x-fapi-interaction-id")

    async def read(store: Store) -> tuple[FoundCall, str | None]:
        async with store.reading() as unit:
            found = await unit.runs.of_interaction(wanted)
            if found is None:
                raise RequestError("interaction_id: no call on record has it; give it as the LFI received it, whole")
            if found.run is not None:
                return found, found.run.run.connection_id
            consent = await unit.consents.get(ConsentId(found.call.consent_id)) if found.call.consent_id else None
            return found, None if consent is None else consent.connection_id

    found, connection = frame.with_store(read)
    show.facts(_facts(found, connection), as_json=as_json)


def _facts(found: FoundCall, connection: str | None) -> dict[str, Any]:
    return {
        **call_as_told(found.call),
        "lfi": found.call.lfi,
        "consent": found.call.consent_id or None,
        "connection": connection,
        "run": None if found.run is None else found.run.id,
        "run_outcome": None if found.run is None else found.run.run.outcome,
    }
