"""A process that holds every command imported, and forks for each one that is asked for.

Importing costs a command more than most of them do; hundreds of tests would pay it.  What runs is `main` of the command
line in a process of its own, with arguments, folder, environment and three files as a shell would give them.

One line of JSON asks (`argv`, `cwd`, `env`, `files`: paths of stdin, stdout, stderr), one answers: the exit code.
"""

import gc
import json
import os
import sys
import traceback
from importlib import import_module
from typing import Any, NoReturn

from syncworker.cli import main as command_line


def _run(asked: dict[str, Any]) -> NoReturn:
    """The forked half: become the command, and never come back."""
    code = 1
    try:
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        for descriptor, file in enumerate(asked["files"]):
            opened = os.open(file, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)
            os.dup2(opened, descriptor)
            os.close(opened)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.argv = ["syncworker", *asked["argv"]]
        command_line.main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001  what Python itself does with it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Import everything, then fork for each line until there are no more."""
    for name in {*command_line.GROUPS.values(), *command_line.COMMANDS.values()}:
        import_module(f"syncworker.cli.{name}")
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            answers.close()
            _run(json.loads(line))
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


if __name__ == "__main__":
    main()
