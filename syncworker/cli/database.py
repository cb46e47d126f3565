"""`syncworker db`: bring the database to the newest schema, or say whether it is."""

import typer

from syncworker.cli import frame, show
from syncworker.store import migrate

app = typer.Typer(help="The database's schema.", no_args_is_help=True)


@app.command()
def upgrade() -> None:
    """Bring the database to the newest schema; harmless when it is."""
    url = frame.settings().database_url
    migrate.upgrade(url)
    show.say("database schema is up to date")


@app.command()
def check(as_json: frame.AsJson = False) -> None:
    """Exit 0 when the schema is the newest, 1 with the command to run when it is not."""
    url = frame.settings().database_url
    migrate.check(url)
    show.facts({"schema": migrate.head(), "newest": True}, as_json=as_json)
