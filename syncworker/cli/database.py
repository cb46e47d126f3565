"""`syncworker db`: bring the database to the newest schema, or say whether it is."""

from dataclasses import asdict

import typer

from syncworker.cli import frame, show
from syncworker.store import migrate
from syncworker.store.unit_of_work import Store
from syncworker.sync.decode import COLUMNS_VERSION

app = typer.Typer(help="The database's schema.", no_args_is_help=True)


@app.command()
def upgrade() -> None:
    """Bring the database to the newest schema; harmless when it is."""
    migrate.upgrade(frame.settings().database)
    show.say("database schema is up to date")

    async def left(store: Store) -> int:
        async with store.reading() as unit:
            return len(await unit.fillings.open(COLUMNS_VERSION))

    if frame.with_store(left):
        show.say("columns of rows held are filled by the workers while they sync; `syncworker status` says how far")


@app.command()
def check(as_json: frame.AsJson = False) -> None:
    """Exit 0 when the schema is the newest and the database fit for it, 1 with what to do when it is not."""
    found = migrate.check(frame.settings().database)
    show.facts({**asdict(found), "newest": True}, as_json=as_json)
