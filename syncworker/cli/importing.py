"""What `syncworker consents import` does and shows: its file, the progress, the lines that stay out, the counts."""

import contextlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from syncworker import wiring
from syncworker.cli import frame, show
from syncworker.consents.import_file import numbered
from syncworker.consents.importing import ImportReport, Verdict
from syncworker.errors import RequestError

STDIN: Final = "-"
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def take_over(file: str, *, replace_tokens: bool, spread: timedelta, as_json: bool) -> None:
    """Import the file; tell what became of its lines, and leave with the exit code that says so."""
    config = frame.settings()

    async def take(source: BinaryIO, outlet: "_Outlet") -> ImportReport:
        async with frame.open_store(config, sealed=True) as store:
            importer = await wiring.importer(config, store, spread=spread, replace_tokens=replace_tokens)
            return await importer.take(numbered(source), refused=outlet.refused, progress=outlet.progress)

    with _opened(file) as source, _shown(source, as_json=as_json) as outlet:
        report = frame.run(take(source, outlet))
    if report.ignored:
        show.say(f"members that mean nothing here were left out: {', '.join(sorted(report.ignored))}")
    for (made_in, read_on), count in sorted(report.read_on.items()):
        show.say(f"{count} consent(s) of {made_in}, which no LFI serves any more: read on {read_on} until they end")
    for member, count in sorted(report.uae_time.items()):
        show.say(f"{member} without an offset was read as UAE time in {count} line(s)")
    if not report.lines:
        show.say(f"{'stdin' if file == STDIN else file}: holds no line")
    if not report.good:
        raise typer.Exit(frame.FAILED)
    if report.counts[Verdict.IMPORTED]:
        show.say(f"first syncs are spread over {show.span(spread)}; `syncworker status` shows when")
    if report.counts[Verdict.REFUSED]:
        raise typer.Exit(frame.PARTLY)


class _Outlet:
    """Tells of lines while they are taken, and keeps none: a file may have more of them than memory."""

    def __init__(self, source: BinaryIO, progress: Progress, *, as_json: bool) -> None:
        self._source = source
        self._bar = progress
        self._task = progress.add_task("importing", total=_size(source))
        self._as_json = as_json
        self._size = _size(source)
        self._separator = ""
        self._report = ImportReport()

    def begin(self) -> None:
        if self._as_json:
            sys.stdout.write('{"refused": [')

    def refused(self, line: int, reason: str) -> None:
        """A line that does not go in: an entry of the JSON, or a line of talk."""
        if not self._as_json:
            show.say(f"line {line}: {reason}")
            return
        sys.stdout.write(self._separator + json.dumps({"line": line, "reason": reason}, ensure_ascii=False))
        self._separator = ", "

    def progress(self, report: ImportReport) -> None:
        """A batch is committed."""
        self._report = report
        place = self._source.tell() if self._size is not None else report.lines
        self._bar.update(self._task, completed=place)

    def end(self) -> None:
        """The counts; of what was committed, when something broke on the way."""
        counts = {verdict.value: count for verdict, count in self._report.counts.items()}
        if not self._as_json:
            show.facts(counts, as_json=False)
            return
        del counts[Verdict.REFUSED]
        noted: dict[str, object] = {
            "read_on": [
                {"made_in": made_in, "read_on": read_on, "consents": count}
                for (made_in, read_on), count in sorted(self._report.read_on.items())
            ],
            "read_as_uae_time": dict(sorted(self._report.uae_time.items())),
            "ignored": sorted(self._report.ignored),
        }
        rest = "".join(f', "{name}": {json.dumps(value)}' for name, value in {**counts, **noted}.items())
        sys.stdout.write(f"]{rest}}}\n")


@contextlib.contextmanager
def _shown(source: BinaryIO, *, as_json: bool) -> Iterator[_Outlet]:
    """Progress on a terminal; the counts in the end, also when it ends early."""
    count = TaskProgressColumn() if _size(source) is not None else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeElapsedColumn())
    quiet = not show.TALK.is_terminal
    with Progress(*columns, console=show.TALK, transient=True, disable=quiet) as progress:
        outlet = _Outlet(source, progress, as_json=as_json)
        outlet.begin()
        try:
            yield outlet
        finally:
            outlet.end()


@contextlib.contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == STDIN:
        yield sys.stdin.buffer
        return
    with contextlib.ExitStack() as stack:
        try:
            source = stack.enter_context(Path(file).open("rb"))
        except OSError as error:
            raise RequestError(f"FILE: {file} cannot be read ({error.strerror}); name a file, or - for stdin") from None
        mode = os.fstat(source.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & OTHERS:
            show.say(f"warning: others may read {file}, and it holds live tokens; run `chmod 600`, and delete it after")
        yield source


def _size(source: BinaryIO) -> int | None:
    """Bytes of a regular file; `None` for a pipe."""
    facts = os.fstat(source.fileno())
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None
