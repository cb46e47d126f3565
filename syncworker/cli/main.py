"""The entry: the commands, and one line on stderr for everything that goes wrong."""

import os
import sys
from collections.abc import Sequence

import typer

from syncworker import __version__
from syncworker.cli import audit, bench, consents, database, demo, health, keys, lfis, logs, processes, show, tokens
from syncworker.cli.frame import FAILED, USED_WRONGLY
from syncworker.errors import RequestError, SyncWorkerError

app = typer.Typer(
    name="syncworker",
    help="Keeps bank data fresh for a licensed TPP in UAE Open Finance.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(database.app, name="db")
app.add_typer(keys.app, name="keys")
app.add_typer(lfis.app, name="lfis")
app.add_typer(consents.app, name="consents")
app.add_typer(tokens.app, name="tokens")
app.command("audit")(audit.audit)
app.command("demo")(demo.demo)
app.command("bench")(bench.bench)
app.command("sandbox")(processes.sandbox)
app.command("up")(processes.up)
app.command("worker")(processes.worker)
app.command("beat")(processes.beat)
app.command("doctor")(health.doctor)
app.command("status")(health.status)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        typer.echo(f"syncworker {__version__}")
        raise typer.Exit
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
    try:
        _check_arguments(sys.argv[1:])
        app()
    except RequestError as error:
        show.say(f"error [{error.code}]: {error}")
        sys.exit(USED_WRONGLY)
    except SyncWorkerError as error:
        show.say(f"error [{error.code}]: {error}")
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing more to say
        sys.exit(FAILED)
