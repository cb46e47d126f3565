"""`syncworker db roles`: roles of PostgreSQL, each with the rights it needs and no others."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from syncworker.cli import frame, show
from syncworker.errors import RequestError, SetupError
from syncworker.settings import Settings
from syncworker.store import grants, migrate
from syncworker.store.grants import Plan, Step
from syncworker.store.roles import PREFIX

app = typer.Typer(
    help="PostgreSQL's roles: worker, web, export, and an analyst role for each tenant.", no_args_is_help=True
)

PASSWORD_BYTES_MAX: Final = 1024

Prefix = Annotated[
    str | None,
    typer.Option(help=f"How the roles' names begin, for roles made now; {PREFIX} where nothing else is given."),
]
Tenants = Annotated[
    list[str] | None,
    typer.Option("--tenant", help="Gets an analyst role; repeatable. The settings' own tenant always has one."),
]


@app.command()
def plan(prefix: Prefix = None, tenant: Tenants = None, as_json: frame.AsJson = False) -> None:
    """Print the SQL that is missing until roles and rights are as they should be; change nothing."""
    config = _postgresql("db roles plan")
    with migrate.connected(config.database) as own:
        made = grants.plan(own, prefix=prefix, tenants=_tenants(config, tenant))
    if as_json:
        show.value(_facts(made))
        return
    for line in _script(made):
        typer.echo(line)
    _say_notes(made)


@app.command()
def apply(prefix: Prefix = None, tenant: Tenants = None, yes: frame.Yes = False, as_json: frame.AsJson = False) -> None:
    """Run that SQL in one transaction; harmless when nothing is missing."""
    if not yes:
        raise RequestError("db roles apply: changes roles and rights of the database; read `db roles plan`, then --yes")
    config = _postgresql("db roles apply")
    with migrate.connected(config.database) as own, own.begin():
        made = grants.apply(own, prefix=prefix, tenants=_tenants(config, tenant))
    if as_json:
        show.value(_facts(made))
        return
    names = ", ".join(role.name for role in made.roles)
    show.say(f"{len(made.steps)} statements run; roles: {names}" if made.steps else f"nothing to do; roles: {names}")
    _say_notes(made)


@app.command()
def password(role: Annotated[str, typer.Argument(help="As `db roles plan` names it.")]) -> None:
    """Give a role the password that standard input holds: `db roles password syncworker_web < FILE`.

    The server gets its SCRAM verifier alone, so that no log of statements holds the password.
    """
    config = _postgresql("db roles password")
    if sys.stdin.isatty():
        raise RequestError("password: is read from standard input; write `db roles password ROLE < FILE`")
    given = sys.stdin.buffer.read(PASSWORD_BYTES_MAX + 1).rstrip(b"\r\n")
    if not given or len(given) > PASSWORD_BYTES_MAX or b"\n" in given or b"\0" in given:
        raise RequestError(
            f"password: standard input must hold one line of 1 to {PASSWORD_BYTES_MAX} bytes, the password and no more"
        )
    with migrate.connected(config.database) as own, own.begin():
        known = grants.role_of(own, role)
        grants.set_password(own, known, given)
    show.say(f"role {role} has the password")


def _postgresql(command: str) -> Settings:
    """The settings, where their database has roles."""
    config = frame.settings()
    if config.database.file is not None:
        raise SetupError(f"{command}: database_url is an SQLite file, which has no roles; file modes guard it (0600)")
    return config


def _tenants(config: Settings, given: Sequence[str] | None) -> list[str]:
    for one in given or ():
        if not 1 <= len(one) <= _TENANT_MAX or "\0" in one:
            raise RequestError(f"--tenant: takes 1 to {_TENANT_MAX} characters; correct it")
    return [config.tenant, *(given or ())]


_TENANT_MAX: Final = 64


def _facts(made: Plan) -> dict[str, Any]:
    return {
        "user": made.user,
        "roles": [{"role": one.name, "kind": one.kind.value, "tenant": one.tenant} for one in made.roles],
        "statements": [
            {"sql": one.sql, "needs": one.needs.value, "possible": one.possible, "optional": one.optional}
            for one in made.steps
        ],
        "notes": list(made.notes),
    }


def _script(made: Plan) -> list[str]:
    """The plan as a script of SQL, what is behind `--` for its reader."""
    if not made.steps:
        return ["-- nothing is missing"]
    return ["BEGIN;", *(f"{one.sql};{_remark(made, one)}" for one in made.steps), "COMMIT;"]


def _remark(made: Plan, step: Step) -> str:
    if step.possible:
        return ""
    does = "left out by `db roles apply`" if step.optional else "not by"
    return f"  -- {does} {made.user}: needs {step.needs.value}"


def _say_notes(made: Plan) -> None:
    for note in made.notes:
        show.say(f"note: {note}")
