"""Items that could not become records: kept so that a person can see them, sealed, bounded, and gone when they go.

One row for each distinct text of an item in a listing.  Place, size and reason lie open; the item's bytes are always
sealed.  `sync.unreadable` decides what is kept, what is removed, and what each item means for the proof of an absence.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.cursors import Listing
from syncworker.store.sealed import pack_raw, unpack_raw
from syncworker.store.tables import unreadable_item

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

ITEM_BYTES_MAX: Final = 64 * 1024
"""A longer item is kept without its bytes."""

T: Final = unreadable_item.c
_TABLE: Final = unreadable_item.name
_KEY: Final = ("tenant", "connection_id", "account_id", "resource", "digest")
_SEEN: Final = (
    "consent_id", "page", "path", "reason", "copies", "not_before", "not_after", "shown_since", "last_seen_at", "times",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What is known of an unreadable item when a walk of its listing is written.

    Attributes:
        digest: of its bytes.
        copies: how often one walk showed these bytes.
        not_before, not_after: where in time it lies; both the same: exactly there; `None`: not known on that side.
        shown_since: since when each complete walk that must show it did; `None`: none so far.
        times: walks that showed it.
    """

    digest: bytes
    copies: int = 1
    not_before: datetime | None = None
    not_after: datetime | None = None
    shown_since: datetime | None = None
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """An unreadable item as a walk showed it, to be written.

    Attributes:
        now: what is known of it after this walk.
        raw: its bytes; read only for an item that is not yet kept.
    """

    now: Remembered
    page: int
    path: str
    reason: str
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredUnreadable:
    """One row, for people.

    Attributes:
        item: the bytes as sent; `None` when they were not asked for, or are not kept because they are too many.
    """

    id: int
    connection_id: ConsentId
    consent_id: ConsentId
    account_id: str
    resource: ResourceName
    page: int
    path: str
    reason: str
    copies: int
    size: int
    kept: bool
    first_seen_at: datetime
    last_seen_at: datetime
    times: int
    item: bytes | None = field(default=None, repr=False)


class UnreadableItems:
    """The table `unreadable_item` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def of(
        self, connection_id: ConsentId, listings: Collection[Listing]
    ) -> dict[Listing, dict[bytes, Remembered]]:
        """What is known of the unreadable items of some listings, by digest."""
        found: dict[Listing, dict[bytes, Remembered]] = {listing: {} for listing in listings}
        if not listings:
            return found
        names = ("digest", "copies", "not_before", "not_after", "shown_since", "times")
        query = sa.select(T.account_id, T.resource, *(T[name] for name in names)).where(
            T.tenant == self._unit.tenant,
            T.connection_id == connection_id,
            T.resource.in_(sorted({listing.resource.value for listing in listings})),
        )
        for account_id, resource, digest, *facts in await self._unit.connection.execute(query):
            listing = Listing(account_id, ResourceName(resource))
            if listing in found:
                known = Remembered(**dict(zip(names, (bytes(digest), *facts), strict=True)))
                found[listing][known.digest] = known
        return found

    async def keep(
        self,
        connection_id: ConsentId,
        consent_id: ConsentId,
        listing: Listing,
        sightings: Sequence[Sighting],
        *,
        known: Collection[bytes],
        at: datetime,
    ) -> None:
        """Write what a walk showed; an item that is kept already keeps its bytes and its first day.

        Args:
            known: digests of those that are kept, as `of` gave them in this transaction.
        """
        if not sightings:
            return
        fresh = self._unit.dialect.insert(unreadable_item)
        upsert = fresh.on_conflict_do_update(
            index_elements=list(_KEY), set_={name: fresh.excluded[name] for name in _SEEN}
        )
        rows = []
        for one in sorted(sightings, key=lambda one: one.now.digest):
            place = (connection_id, listing.account_id, listing.resource.value, one.now.digest)
            is_kept = one.now.digest not in known and len(one.raw) <= ITEM_BYTES_MAX
            rows.append(
                dict(zip(_KEY, (self._unit.tenant, *place), strict=True))
                | {"consent_id": consent_id, "page": one.page, "path": one.path, "reason": one.reason}
                | {"size": len(one.raw), "first_seen_at": at, "last_seen_at": at}
                | {name: getattr(one.now, name) for name in _SEEN if name in Remembered.__slots__}
                | {"item": self._sealed(one.raw, _row(*place)) if is_kept else None}
            )
        await self._unit.connection.execute(upsert, rows)

    def _sealed(self, raw: bytes, row: str) -> bytes:
        return pack_raw(raw, partial(self._unit.keyring.seal, table=_TABLE, column="item", row=row))

    async def doubt(self, connection_id: ConsentId, listing: Listing, digests: Collection[bytes] | None) -> None:
        """Forget since when these items were shown: nothing is known any more of what was shown beside them.

        Args:
            digests: `None`: all of the listing.
        """
        await self._change(connection_id, listing, digests, {"shown_since": None})

    async def remove(self, connection_id: ConsentId, listing: Listing, digests: Collection[bytes]) -> None:
        """A complete walk no longer showed these items."""
        await self._change(connection_id, listing, digests, None)

    async def _change(
        self,
        connection_id: ConsentId,
        listing: Listing,
        digests: Collection[bytes] | None,
        values: Mapping[str, Any] | None,
    ) -> None:
        if digests is not None and not digests:
            return
        changes = sa.delete(unreadable_item) if values is None else sa.update(unreadable_item).values(**values)
        changes = changes.where(
            T.tenant == self._unit.tenant,
            T.connection_id == connection_id,
            T.account_id == listing.account_id,
            T.resource == listing.resource.value,
        )
        await self._unit.connection.execute(
            changes if digests is None else changes.where(T.digest.in_(sorted(digests)))
        )

    # -- for people --------------------------------------------------------------------------------------------------

    async def list(self, connection_id: ConsentId | None = None, *, limit: int) -> list[StoredUnreadable]:
        """Items without their bytes, those seen last first."""
        query = _FACTS.where(T.tenant == self._unit.tenant).order_by(T.last_seen_at.desc(), T.id).limit(limit)
        if connection_id is not None:
            query = query.where(T.connection_id == connection_id)
        return [_read(row) for row in (await self._unit.connection.execute(query)).mappings()]

    async def get(self, item_id: int, *, content: bool = False) -> StoredUnreadable | None:
        """One item; `None` when there is none of that id.

        Args:
            content: with its bytes, unsealed.

        Raises:
            SealError: they do not open.
        """
        query = _FACTS.add_columns(T.digest, T.item).where(T.tenant == self._unit.tenant, T.id == item_id)
        row = (await self._unit.connection.execute(query)).mappings().first()
        if row is None or not content or row["item"] is None:
            return None if row is None else _read(row)
        place = _row(row["connection_id"], row["account_id"], row["resource"], bytes(row["digest"]))
        opener = partial(self._unit.keyring.open, table=_TABLE, column="item", row=place)
        return _read(row, item=unpack_raw(bytes(row["item"]), opener, sealed_only=True))


_FACTS: Final = sa.select(
    *(
        T[name]
        for name in (
            "id", "connection_id", "consent_id", "account_id", "resource", "page", "path", "reason", "copies", "size",
            "first_seen_at", "last_seen_at", "times",
        )
    ),
    T.item.is_not(None).label("kept"),
)  # fmt: skip


def _read(row: Mapping[Any, Any], *, item: bytes | None = None) -> StoredUnreadable:
    facts = {name: row[name] for name in StoredUnreadable.__slots__ if name != "item"}
    facts |= {"resource": ResourceName(row["resource"]), "kept": bool(row["kept"])}
    return StoredUnreadable(**facts, item=item)


def _row(connection_id: str, account_id: str, resource: str, digest: bytes) -> str:
    """The place an item is sealed for."""
    return "|".join((connection_id, account_id, resource, digest.hex()))
