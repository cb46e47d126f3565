"""`syncworker db`: the schema, whether it is the newest, what lies where, and the rights of roles."""

from dataclasses import asdict

import typer

from syncworker.cli import frame, roles, schema, show
from syncworker.errors import SetupError
from syncworker.store import migrate
from syncworker.store.unit_of_work import Store
from syncworker.sync.decode import COLUMNS_VERSION

app = typer.Typer(help="The database's schema and roles.", no_args_is_help=True)
app.add_typer(roles.app, name="roles")


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
    database = frame.settings().database
    found = migrate.check(database)
    views = migrate.views(database)
    if views.faults:
        raise SetupError(f"database_url: {views.faults[0]}")
    show.facts({**asdict(found), "newest": True, "other_views": list(views.others)}, as_json=as_json)


@app.command(name="schema")
def describe(as_json: frame.AsJson = False) -> None:
    """Print what each view and table holds, as docs/schema.md has it; looks at no database."""
    if as_json:
        show.value(schema.described())
    else:
        show.text(schema.page())
