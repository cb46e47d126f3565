"""Declare LFIs from the participants directory, and follow what it says about them from then on.

`declare` puts what a reading found into the database, all of it or nothing.  `Follower` reads the directory again about
once a day, whichever process's tick finds it due: the claim of a row of `work` sees to it that one does.  What the
directory says differently is filed, logged and put to use, with three exceptions, because consents live on what was
declared: an LFI that left stays, a version that vanished keeps its base URL, and another issuer is never taken over.

Source: `domain.md` §1.3, §11 ("migrate before"), §13; `reliability.md` rules 1, 5, 34.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import structlog

from syncworker.errors import RequestError, SyncWorkerError
from syncworker.lfi.bounds import is_private_host
from syncworker.lfi.participants import Participant, Reading, Rules, read_participants
from syncworker.standard.calendar import LATEST, read_day, shifted
from syncworker.standard.values import Slug
from syncworker.store.lfis import DeclaredLFI, LFIChange
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, WorkKind

SUBJECT: Final = "participants"
PLACE: Final = Slug("(directory)")
"""Stands where other rows of `work` name their LFI; no LFI can be called so."""

LEASE: Final = timedelta(seconds=120)
DEADLINE_S: Final = 90.0

log = structlog.stdlib.get_logger(__name__)


class What(StrEnum):
    """What a reading of the directory can show to be different."""

    NAME = "name_changed"
    ISSUER = "issuer_changed"
    """Not taken over: tokens and consents belong to the issuer they came from."""
    VERSION_APPEARED = "version_appeared"
    VERSION_VANISHED = "version_vanished"
    """Its base URL stays declared: consents of that version live until they end."""
    BASE_URL = "base_url_moved"
    ENDPOINT_APPEARED = "endpoint_appeared"
    ENDPOINT_VANISHED = "endpoint_vanished"
    FEE = "over_limit_fee_changed"
    DEPRECATED = "deprecated"
    RETIRES = "retirement_date_set"
    SUPERSEDED = "superseded"
    LEFT = "left_the_directory"
    """It stays declared; a person decides what becomes of its consents."""
    CAME_BACK = "came_back"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryFacts:
    """What the directory says about an LFI, for people.

    Attributes:
        over_limit_millifils: its own price of a transaction page above the free ones, per version.
        missing_since: the first reading that did not show it any more.
    """

    server_id: str
    organisation: str
    name: str
    logo_uri: str | None
    published: Mapping[str, Sequence[str]]
    over_limit_millifils: Mapping[str, int]
    account_types: Sequence[str]
    account_sub_types: Sequence[str]
    deprecated_on: date | None
    retires_on: date | None
    superseded_by: str | None
    notes: Sequence[str]
    seen_at: datetime | None
    missing_since: datetime | None

    @property
    def migrate_before(self) -> date | None:
        """The day by which nothing may depend on this LFI's server any more."""
        return self.retires_on

    def warnings(self) -> list[str]:
        """What an operator should know, the most urgent first."""
        successor = f"; {self.superseded_by} takes its place" if self.superseded_by else ""
        said = []
        if self.retires_on:
            said.append(f"migrate before {self.retires_on.isoformat()}: the directory retires it then{successor}")
        if self.missing_since:
            said.append(f"not usable in the directory since {self.missing_since.date().isoformat()}; it stays declared")
        if self.deprecated_on:
            said.append(f"deprecated on {self.deprecated_on.isoformat()}: ask for no new consents there{successor}")
        return said


def facts_of(entry: DeclaredLFI) -> DirectoryFacts | None:
    """What the directory says about a declared LFI; `None` when it is not from there."""
    held = entry.directory
    if held is None:
        return None
    return DirectoryFacts(
        server_id=held["server_id"],
        organisation=held["organisation"],
        name=held["name"],
        logo_uri=held["logo_uri"],
        published=held["published"],
        over_limit_millifils=held["over_limit_millifils"],
        account_types=held["account_types"],
        account_sub_types=held["account_sub_types"],
        deprecated_on=_date(held["deprecated_on"]),
        retires_on=_date(held["retires_on"]),
        superseded_by=held["superseded_by"],
        notes=held["notes"],
        seen_at=entry.seen_at,
        missing_since=entry.missing_since,
    )


async def directory_facts(store: Store) -> dict[Slug, DirectoryFacts]:
    """What the directory says about every LFI that came from there."""
    async with store.reading() as unit:
        return {entry.slug: facts for entry in await unit.lfis.list() if (facts := facts_of(entry)) is not None}


def _date(text: str | None) -> date | None:
    return read_day(text) if text else None


def kept(participant: Participant) -> dict[str, Any]:
    """A participant as JSON members."""
    return {
        "server_id": participant.server_id,
        "organisation_id": participant.organisation_id,
        "organisation": participant.organisation,
        "name": participant.name,
        "logo_uri": participant.logo_uri,
        "issuer": participant.issuer,
        "discovery_url": participant.discovery_url,
        "base_urls": {version.value: url for version, url in participant.base_urls.items()},
        "published": {version.value: sorted(paths) for version, paths in participant.published.items()},
        "over_limit_millifils": {version.value: fee for version, fee in participant.over_limit_millifils.items()},
        "account_types": list(participant.account_types),
        "account_sub_types": list(participant.account_sub_types),
        "deprecated_on": participant.deprecated_on.isoformat() if participant.deprecated_on else None,
        "retires_on": participant.retires_on.isoformat() if participant.retires_on else None,
        "superseded_by": participant.superseded_by,
        "notes": list(participant.notes),
    }


def declaration(
    participant: Participant, held: Mapping[str, Any] | None = None, *, before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The declaration of a participant, as `lfis add` would keep it.

    Args:
        held: the one so far: what the operator added to it stays, and so do versions the directory no longer shows.
        before: what the directory said then, as from `kept`.
    """
    held = held or {}
    published = held.get("published")
    facts = kept(participant)
    declared = {
        **held,
        "issuer": participant.issuer,
        "discovery_url": participant.discovery_url,
        "base_urls": {**held.get("base_urls", {}), **facts["base_urls"]},
        "published": {**(published if isinstance(published, Mapping) else {}), **facts["published"]},
    }
    for kinds in ("account_types", "account_sub_types"):
        if facts[kinds]:
            declared[kinds] = facts[kinds]
        elif before and declared.get(kinds) == before.get(kinds):  # else the operator said so
            declared.pop(kinds, None)
    if any(is_private_host(url) for url in (participant.issuer, *participant.base_urls.values())):
        declared["allow_private_hosts"] = True  # the rules let them pass, so the operator said so
    return declared


async def declare(
    store: Store, chosen: Mapping[Slug, Participant], *, check: Callable[[Slug, Mapping[str, Any]], object]
) -> dict[Slug, bool]:
    """Declare participants in one transaction: all of them or none.

    An LFI declared under the same name with the same issuer keeps what the operator gave it (keys, limits).

    Args:
        check: is shown each declaration before anything is written; raises what keeps it from being used.

    Returns:
        For each name, whether it is new.

    Raises:
        RequestError: a name belongs to an LFI with another issuer.
    """

    async def step(unit: UnitOfWork) -> dict[Slug, bool]:
        known = {entry.slug: entry for entry in await unit.lfis.list()}
        at = await unit.now()
        for slug, participant in chosen.items():
            held = known.get(slug)
            if held is not None and held.declared.get("issuer") != participant.issuer:
                raise RequestError(
                    f"add: {slug} is declared already, with another issuer; "
                    f"give this one a name of its own: --add NAME={participant.server_id}"
                )
            declared = declaration(participant, held.declared if held else None)
            check(slug, declared)
            await unit.lfis.add(slug, declared, at=at, directory=kept(participant))
        return {slug: slug not in known for slug in chosen}

    return await store.atomically(step)


# -- what is different -------------------------------------------------------------------------------------------------


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[What, str, str]]:
    """What a reading shows differently from the one before, as (what, version, detail); both from `kept`."""
    found = [
        (what, "", f"{before.get(name) or 'none'} → {after.get(name) or 'none'}")
        for what, name in _PLAIN_DIFFERENCES
        if before.get(name) != after.get(name)
    ]
    old, new = before.get("base_urls", {}), after["base_urls"]
    for version in sorted({*old, *new}):
        if version not in new:
            found.append((What.VERSION_VANISHED, version, old[version]))
        elif version not in old:
            found.append((What.VERSION_APPEARED, version, new[version]))
        else:
            found += _within(version, before, after)
    return found


_PLAIN_DIFFERENCES: Final = (
    (What.ISSUER, "issuer"),
    (What.NAME, "name"),
    (What.RETIRES, "retires_on"),
    (What.DEPRECATED, "deprecated_on"),
    (What.SUPERSEDED, "superseded_by"),
)


def _within(version: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[What, str, str]]:
    found = []
    old, new = before["base_urls"][version], after["base_urls"][version]
    if old != new:
        found.append((What.BASE_URL, version, f"{old} → {new}"))
    had, has = set(before["published"].get(version, ())), set(after["published"].get(version, ()))
    found += [(What.ENDPOINT_APPEARED, version, path) for path in sorted(has - had)]
    found += [(What.ENDPOINT_VANISHED, version, path) for path in sorted(had - has)]
    fee, now = before["over_limit_millifils"].get(version, 0), after["over_limit_millifils"].get(version, 0)
    if fee != now:
        found.append((What.FEE, version, f"{fee} → {now} milli-fils"))
    return found


async def follow(store: Store, reading: Reading) -> list[LFIChange]:
    """File what a reading says about the LFIs that came from the directory, in one transaction.

    Returns:
        What is different, filed too.
    """
    shown = {one.server_id: one for one in reading.found.values()}
    reasons = {one.server_id: one.said for one in reading.dropped if one.server_id and not one.part}

    async def step(unit: UnitOfWork) -> list[LFIChange]:
        at = await unit.now()
        changes: list[LFIChange] = []
        for entry in await unit.lfis.list():
            if entry.directory is None:
                continue
            server_id = entry.directory["server_id"]
            if server_id in shown:
                changes += await _shown(unit, entry, shown[server_id], at)
            elif entry.missing_since is None:
                await unit.lfis.miss(entry.slug, at=at)
                why = reasons.get(server_id, "the directory does not show it")
                changes.append(LFIChange(slug=entry.slug, seen_at=at, what=What.LEFT, detail=why))
        await unit.lfis.add_changes(changes)
        return changes

    changes = await store.atomically(step)
    for one in changes:
        log.warning("directory changed", lfi=one.slug, what=one.what, version=one.version, detail=one.detail)
    return changes


async def _shown(unit: UnitOfWork, entry: DeclaredLFI, participant: Participant, at: datetime) -> list[LFIChange]:
    assert entry.directory is not None
    facts = kept(participant)
    moved = participant.issuer != entry.declared.get("issuer")
    declared = entry.declared if moved else declaration(participant, entry.declared, before=entry.directory)
    await unit.lfis.follow(entry.slug, declared, directory=facts, at=at)
    changes = [
        LFIChange(slug=entry.slug, seen_at=at, what=what, version=version, detail=detail)
        for what, version, detail in differences(entry.directory, facts)
    ]
    if entry.missing_since is not None:
        changes.append(LFIChange(slug=entry.slug, seen_at=at, what=What.CAME_BACK))
    return changes


# -- once a day --------------------------------------------------------------------------------------------------------


class Follower:
    """Reads the directory when it is due, beside the work of this process.  Lives on one event loop.

    Args:
        fetch: brings the participants document; `None` when no directory is followed.
        every: between two good readings.
        retry_after: the wait after so many bad readings in a row.
        now: decides what has retired.
    """

    def __init__(
        self,
        store: Store,
        fetch: Callable[[], Awaitable[object]] | None,
        *,
        rules: Rules,
        every: timedelta,
        retry_after: Callable[[int], timedelta],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._fetch = fetch
        self._rules = rules
        self._every = every
        self._retry_after = retry_after
        self._now = now
        self._next_look: datetime | None = None
        self._reading: asyncio.Task[None] | None = None
        self._open: Claim | None = None

    async def look(self) -> bool:
        """Begin a reading if one is due and nobody else is at it; returns at once.  Any number of looks do no harm.

        Returns:
            Whether one was begun.

        Raises:
            StoreUnavailableError: the database is away.
        """
        if self._reading is not None and not self._reading.done():
            return False
        if self._next_look is not None and self._now() < self._next_look:
            return False
        claim = await self._claimed()
        if claim is None or self._fetch is None:
            return False
        self._open = claim
        self._reading = asyncio.create_task(self._read(claim, self._fetch), name="read the directory")
        return True

    async def finished(self) -> None:
        """Wait until a reading under way has ended."""
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)

    async def close(self) -> None:
        """Give up a reading under way; its row is due again at once, without a database when its lease runs out."""
        if self._reading is None:
            return
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        if (left := self._open) is None:
            return
        try:
            await self._store.atomically(lambda unit: unit.work.give_back([left]))
        except SyncWorkerError as error:
            log.warning("directory's claim not given back", error=error.code)

    async def _claimed(self) -> Claim | None:
        """Claim the directory's row if it is due; make it at the first look, forget it when nothing is followed."""
        async with self._store.reading() as unit:
            row, now = await unit.work.find(WorkKind.DIRECTORY, SUBJECT), await unit.now()
        if self._fetch is None:
            if row is not None:
                await self._store.atomically(lambda unit: unit.work.forget(WorkKind.DIRECTORY, SUBJECT))
            self._next_look = LATEST
            return None
        if row is not None:
            due_at = row.due_at
            if row.last_good_at is not None and row.last_error is None:  # a shorter `refresh` counts at once
                due_at = min(due_at, shifted(row.last_good_at, self._every))
            busy = row.parked_at is not None or (row.lease_until is not None and row.lease_until > now)
            if busy or due_at > now:
                self._next_look = self._now() + min(max(due_at - now, timedelta(seconds=1)), timedelta(minutes=1))
                return None
        return await self._store.atomically(self._taken)

    async def _taken(self, unit: UnitOfWork) -> Claim | None:
        if await unit.work.find(WorkKind.DIRECTORY, SUBJECT) is None:
            await unit.work.schedule(WorkKind.DIRECTORY, SUBJECT, lfi=PLACE, due_at=await unit.now())
        claim = await unit.work.claim_one(WorkKind.DIRECTORY, SUBJECT, lease=LEASE)
        return None if claim is None else await unit.work.take(claim.id, claim.gen, lease=LEASE)

    async def _read(self, claim: Claim, fetch: Callable[[], Awaitable[object]]) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                reading = read_participants(await fetch(), rules=self._rules, now=self._now())
                changes = await follow(self._store, reading)
        except TimeoutError:
            await self._ended(claim, self._retry_after(claim.attempts), error="timeout")
        except SyncWorkerError as error:
            await self._ended(claim, self._retry_after(claim.attempts), error=error.code)
        else:
            log.info("directory read", found=len(reading.found), changes=len(changes))
            await self._ended(claim, self._every)

    async def _ended(self, claim: Claim, wait: timedelta, *, error: str | None = None) -> None:
        """End the claim; without a database its lease runs out by itself."""
        if error is not None:
            log.warning("directory not read", error=error, attempts=claim.attempts)

        async def step(unit: UnitOfWork) -> None:
            due_at = await unit.now() + wait
            outcome = "failed" if error else "read"
            await unit.work.finish(claim, due_at=due_at, outcome=outcome, error=error, good=error is None)

        try:
            await self._store.atomically(step)
            self._open = None
        except SyncWorkerError as fault:
            log.warning("directory's reading not filed", error=fault.code)
