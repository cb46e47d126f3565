"""`syncworker changes`: what changed, as mirrors are told it."""

import asyncio
import signal
import sys
from collections.abc import Iterable
from typing import Annotated, Final

import typer

from syncworker.cli import frame, show
from syncworker.errors import RequestError, TransientError
from syncworker.feed.cursor import Filter
from syncworker.standard.resources import ResourceName
from syncworker.store.unit_of_work import Store
from syncworker.views.changes import NOW, Change, Changes, filter_of, page

EVERY_S: Final = 2.0
"""Between two looks for more."""

FORGIVEN: Final = 30
"""Looks in a row that may fail while the database is away."""


def changes(
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes, until you stop it.")] = False,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="Go on from here; without it from the oldest change that is kept.")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Only what comes from now on.")] = False,
    connection: Annotated[str | None, typer.Option("--connection", help="Only changes of this connection.")] = None,
    user_ref: Annotated[str | None, typer.Option("--user-ref", help="Only those of this user's connections.")] = None,
    resource: Annotated[
        list[ResourceName] | None, typer.Option("--resource", help="Only these, and whole connections; repeatable.")
    ] = None,
    personal: Annotated[
        bool, typer.Option("--personal", help="Show who people are: names, account numbers, references.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line, with the row as it is.")
    ] = False,
) -> None:
    """What changed, in the order it was committed.  The cursor to go on with is said at the end, on stderr."""
    if now and cursor is not None:
        raise RequestError("now: give --now or --cursor, not both")

    async def read(store: Store) -> None:
        async with store.looking() as unit:
            only = await filter_of(unit, connection_id=connection, user_ref=user_ref, resources=resource or ())
        reader = _Reader(store, only, NOW if now else cursor, personal=personal, as_json=as_json)
        await reader.read(follow=follow)

    frame.with_store(read, sealed=True)


class _Reader:
    """Prints page after page."""

    def __init__(self, store: Store, only: Filter, cursor: str | None, *, personal: bool, as_json: bool) -> None:
        self._store = store
        self._only = only
        self._cursor = cursor
        self._personal = personal
        self._as_json = as_json
        self._stopped = asyncio.Event()

    async def read(self, *, follow: bool) -> None:
        """Until there are none, or until a signal comes."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopped.set)
        try:
            while not self._stopped.is_set():
                if await self._more(forgiven=FORGIVEN if follow else 0):
                    continue
                if not follow:
                    break
                await self._wait()
        finally:
            if self._cursor is not None and self._cursor != NOW:
                show.say(f"to go on: --cursor {self._cursor}")

    async def _more(self, *, forgiven: int) -> bool:
        """Print one page; says whether there is more now."""
        for _ in range(forgiven):
            if self._stopped.is_set():
                return False
            try:
                return self._print(await self._page())
            except TransientError as error:
                show.say(f"{error}; tried again")
                await self._wait()
        return self._print(await self._page())

    async def _page(self) -> Changes:
        async with self._store.looking() as unit:
            return await page(unit, cursor=self._cursor, only=self._only, items=True, personal=self._personal)

    def _print(self, found: Changes) -> bool:
        if self._as_json:
            for one in found.changes:
                show.value(one.as_json())
        else:
            for one in found.changes:
                show.OUT.print("  ".join(_words(one)), markup=False)
        sys.stdout.flush()
        self._cursor = found.next_cursor  # printed: one that goes on from here misses nothing
        return found.has_more

    async def _wait(self) -> None:
        try:
            await asyncio.wait_for(self._stopped.wait(), EVERY_S)
        except TimeoutError:
            return


def _words(one: Change) -> Iterable[str]:
    yield show.cell(one.at)
    yield f"{one.op:<10}"
    yield f"{one.list or one.resource or show.cell(one.classes)}"
    yield f"{one.id or one.connection_id}"
    if one.history:
        yield "history"
    if one.previous_status:
        yield f"was {one.previous_status}"
