"""Open the database, look, close it again: for a command, or a page that is shown while the database is away."""

from collections.abc import Sequence

from syncworker import opening
from syncworker.ops.status import ExportFact, Status, collect
from syncworker.settings import Settings
from syncworker.store.failures import StoreUnavailableError


async def look(settings: Settings, *, exports: Sequence[ExportFact] = ()) -> Status:
    """A status, also while the database is away.

    The key ring is not needed: what is wrong with it is part of the status.

    Raises:
        SetupError: the database's schema is not the newest, or it is not fit for us; says what to do.
    """
    try:
        store = await opening.open_store(settings.with_values(keyring=None))
    except StoreUnavailableError as error:
        return await collect(settings, None, away=error)
    try:
        return await collect(settings, store, exports=exports, whole_day=True)
    finally:
        await store.close()
