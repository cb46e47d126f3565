"""Files that hold what banks told us, keys and tokens: for the account that runs syncworker alone.

Every process of ours begins with `narrow`, so that whatever it writes, and whatever the programs it starts write, is
closed to others: SQLite's files beside its database, beat's schedule, the broker's log.  A database may also be opened
by a program that is not ours, or lie there since before: `close_file` closes the file itself.
"""

import contextlib
import os
import stat
from errno import ENOTDIR
from pathlib import Path
from typing import Final

FILE: Final = 0o600
FOLDER: Final = 0o700
_OTHERS: Final = 0o077


def narrow() -> None:
    """Close what this process writes from now on to others, and what its children write."""
    os.umask(_OTHERS)


def make_folder(folder: Path) -> None:
    """Make a folder, and those it lies in, that only we may enter; one that is there stays as it is.

    Raises:
        NotADirectoryError: a file is in its place, or in that of one it lies in.
        OSError: it cannot be made.
    """
    missing = [one for one in (folder, *folder.parents) if not one.is_dir()]
    for one in reversed(missing):
        try:
            one.mkdir(mode=FOLDER, exist_ok=True)  # of `parents=True` only the last would have the mode
        except FileExistsError:
            raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR), str(one)) from None


def close_file(file: Path, *, make: bool = False) -> None:
    """Close a file to others; where we do not own it, it stays as it is.

    Args:
        make: it is made, empty, when it is not there: what is opened afterwards has its mode already.

    Raises:
        OSError: it cannot be made.
    """
    if make:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE))
    with contextlib.suppress(FileNotFoundError, PermissionError):
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & _OTHERS:
            file.chmod(mode & ~_OTHERS)


def close_database(file: Path, *, make: bool = False) -> None:
    """Close an SQLite database that is about to be opened, and the files that SQLite keeps beside it.

    Args:
        make: as in `close_file`.

    Raises:
        OSError: it cannot be made.
    """
    close_file(file, make=make)  # SQLite gives the others the mode of this one
    for beside in ("-wal", "-shm", "-journal"):
        close_file(file.with_name(file.name + beside))


def replace_file(file: Path, text: str) -> None:
    """Write a file whole, in the place of the one that was there: a reader sees the old text or the new one.

    Raises:
        OSError: it cannot be written.
    """
    new = file.with_name(f".{file.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE), "w") as out:
        out.write(text)
    new.replace(file)
