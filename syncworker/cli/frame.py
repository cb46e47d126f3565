"""What every command needs around it: settings, a store that is closed again, one event loop.

What calls LFIs (`wiring`) takes a second to import; it is imported by the commands that do.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from syncworker import opening
from syncworker import settings as settings_module
from syncworker.cli.show import DONE as DONE
from syncworker.cli.show import FAILED as FAILED
from syncworker.cli.show import PARTLY as PARTLY
from syncworker.cli.show import USED_WRONGLY as USED_WRONGLY
from syncworker.settings import Settings
from syncworker.store.unit_of_work import Store

if TYPE_CHECKING:
    from syncworker.wiring import Application

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]


def settings(**overrides: Any) -> Settings:
    """The settings of this process."""
    return settings_module.load(**overrides)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run one coroutine on a loop of its own: a command line call uses exactly one."""
    return asyncio.run(work)


@asynccontextmanager
async def open_store(config: Settings, *, sealed: bool = False) -> AsyncIterator[Store]:
    """The store, checked to be of the newest schema.

    Args:
        sealed: whether the command opens or writes sealed columns and so needs the key ring.
    """
    store = await opening.open_store(config, sealed=sealed)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def open_application(config: Settings) -> AsyncIterator["Application"]:
    """All parts, for commands that call an LFI."""
    from syncworker import wiring

    application = await wiring.build_application(config)
    try:
        yield application
    finally:
        await application.close()


def with_store(work: Callable[[Store], Awaitable[T]], *, sealed: bool = False) -> T:
    """Run `work` on the store of the settings."""

    async def inside() -> T:
        async with open_store(settings(), sealed=sealed) as store:
            return await work(store)

    return run(inside())


def with_application(work: Callable[["Application"], Awaitable[T]]) -> T:
    """Run `work` on all parts built from the settings."""

    async def inside() -> T:
        async with open_application(settings()) as application:
            return await work(application)

    return run(inside())
