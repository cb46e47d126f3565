"""`syncworker db`: bring the database to the newest schema, say whether it is, and give its roles their rights."""

from dataclasses import asdict

import typer

from syncworker.cli import frame, roles, show
from syncworker.store import migrate

app = typer.Typer(help="The database's schema and roles.", no_args_is_help=True)
app.add_typer(roles.app, name="roles")


@app.command()
def upgrade() -> None:
    """Bring the database to the newest schema; harmless when it is."""
    migrate.upgrade(frame.settings().database)
    show.say("database schema is up to date")


@app.command()
def check(as_json: frame.AsJson = False) -> None:
    """Exit 0 when the schema is the newest and the database fit for it, 1 with what to do when it is not."""
    found = migrate.check(frame.settings().database)
    show.facts({**asdict(found), "newest": True}, as_json=as_json)
