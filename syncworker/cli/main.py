"""The entry: the commands, and one line on stderr for everything that goes wrong.

A command's module is imported when the command is asked for: what prints three lines does not load a worker first.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

from syncworker import __version__, private
from syncworker.cli import show
from syncworker.cli.show import FAILED, USED_WRONGLY
from syncworker.environment import forget_foreign
from syncworker.errors import RequestError, SyncWorkerError, told

GROUPS: Final = {
    "db": "database",
    "keys": "keys",
    "lfis": "lfis",
    "consents": "consents",
    "syncs": "syncs",
    "calls": "calls",
    "refreshes": "refreshes",
    "tokens": "tokens",
    "openings": "openings",
    "events": "events",
    "items": "items",
    "logs": "log_events",
    "metrics": "metrics",
    "apikeys": "apikeys",
    "webhooks": "webhooks",
    "export": "exports",
}
"""Groups of commands, and the module whose `app` each is."""

COMMANDS: Final = {
    "audit": "audit",
    "changes": "changes",
    "demo": "demo",
    "bench": "bench",
    "sandbox": "processes",
    "up": "processes",
    "worker": "processes",
    "beat": "beat",
    "web": "web",
    "doctor": "doctor",
    "status": "status",
    "health": "liveness",
    "permissions": "permissions",
    "accounts": "reads",
    "balances": "reads",
    "transactions": "reads",
    "beneficiaries": "reads",
    "direct-debits": "reads",
    "standing-orders": "reads",
    "scheduled-payments": "reads",
    "statements": "reads",
    "products": "reads",
    "parties": "reads",
}
"""Single commands, and the module whose function of that name each is."""


class _Commands(TyperGroup):
    """All commands by name, each imported when somebody asks for it; the help of the whole asks for all."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, *GROUPS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            if cmd_name in GROUPS:
                self.commands[cmd_name] = typer.main.get_group(_module(GROUPS[cmd_name]).app)
            elif cmd_name in COMMANDS:
                function = getattr(_module(COMMANDS[cmd_name]), cmd_name.replace("-", "_"))
                self.commands[cmd_name] = _single(function, cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            for name in self.list_commands(ctx):  # what may have been meant is looked for among those loaded
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


def _module(name: str) -> Any:
    return import_module(f"syncworker.cli.{name}")


def _single(function: Any, name: str) -> Any:
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(name)(function)
    return typer.main.get_command(alone)


app = typer.Typer(
    name="syncworker",
    cls=_Commands,
    help="Keeps bank data fresh for a licensed TPP in UAE Open Finance.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        typer.echo(f"syncworker {__version__}")
        raise typer.Exit
    from syncworker.cli import logs

    logs.configure("ERROR")  # a command talks by itself; worker and beat turn it up
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _check_arguments(arguments: Sequence[str]) -> None:
    try:
        " ".join(arguments).encode()
    except UnicodeEncodeError:  # Python holds other bytes as surrogates, which no database takes
        raise RequestError("arguments: one of them is not UTF-8 text; write it in UTF-8") from None


def main() -> None:
    """Run one command.  A failure is one line on stderr and an exit code, never a traceback."""
    private.narrow()
    forget_foreign()
    show.take_any_encoding()
    try:
        _check_arguments(sys.argv[1:])
        app()
    except RequestError as error:
        show.say(f"error [{error.code}]: {error}")
        sys.exit(USED_WRONGLY)
    except SyncWorkerError as error:
        show.say(f"error [{error.code}]: {told(error)}")
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing more to say
        sys.exit(FAILED)
