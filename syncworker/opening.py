"""Open what the settings name: the store, the key ring, the declared LFIs.

Enough for commands that only look at tables.  It imports neither the client of the LFIs nor the engine: a command that
prints three lines must not load a worker first.
"""

from collections.abc import Mapping, Sequence

import structlog
from pydantic import ValidationError

from syncworker.clock import Clock
from syncworker.errors import SettingsError
from syncworker.settings import LFISettings, Settings, faults_of
from syncworker.standard.values import Slug
from syncworker.store import migrate
from syncworker.store.failures import StoreRefusedError, StoreUnavailableError
from syncworker.store.keyring import KeyRing
from syncworker.store.lfis import DeclaredLFI
from syncworker.store.unit_of_work import Store

log = structlog.stdlib.get_logger(__name__)


async def open_store(settings: Settings, *, sealed: bool = False, clock: Clock | None = None) -> Store:
    """The store of the settings, its schema checked; a database that was restored begins a new epoch of its feed.

    Args:
        sealed: whether sealed columns will be opened or written; then the key ring must be there.

    Raises:
        SettingsError: database URL or key ring.
        SetupError: the schema is not the newest; names the command to run.
    """
    keyring = load_keyring(settings) if sealed or settings.keyring else None
    migrate.check(settings.database)
    store = Store(
        settings.database,
        tenant=settings.tenant,
        keyring=keyring,
        clock=clock,
        ended_consents=settings.ended_consents,
    )
    try:
        await store.keep_history()
    except (StoreUnavailableError, StoreRefusedError) as error:  # a standby, or a role that may not: a worker will
        log.info("history of the database not looked at", error=error.code)
    except BaseException:
        await store.close()
        raise
    return store


def load_keyring(settings: Settings) -> KeyRing:
    """The key ring of the settings, for the settings' tenant.

    Raises:
        SettingsError: none is set, or its file cannot be used.
    """
    if settings.keyring is None:
        raise SettingsError(
            "keyring: is not set, and tokens are never stored unsealed; "
            "run `syncworker keys generate --keyring-only` and set keyring to the file it names"
        )
    return KeyRing.load(settings.resolved(settings.keyring)).for_tenant(settings.tenant)


async def declared_lfis(settings: Settings, store: Store) -> Mapping[Slug, tuple[LFISettings, str]]:
    """Every declared LFI with where it is declared; the settings win over the database."""
    async with store.reading() as unit:
        return declared_of(settings, await unit.lfis.list())


def declared_of(settings: Settings, entries: Sequence[DeclaredLFI]) -> Mapping[Slug, tuple[LFISettings, str]]:
    """`declared_lfis` from the rows that the database holds."""
    added = {entry.slug: (_declaration(entry), "database") for entry in entries}
    return added | {Slug(slug): (entry, "settings") for slug, entry in settings.lfis.items()}


def _declaration(entry: DeclaredLFI) -> LFISettings:
    try:
        return LFISettings.model_validate(entry.declared)
    except ValidationError as error:
        faults = "; ".join(faults_of(error))
        raise SettingsError(f"lfis.{entry.slug}: as `lfis add` put it into the database: {faults}") from None
