"""Write what walks brought: records, history, cursors, coverage, grants and change rows, in one transaction.

Guarded twice inside that transaction: the claim must still be the newest (`LeaseLostError` otherwise), and the consent
must still be callable, since after a revocation is seen no row is written.  No HTTP here, and no commit: the caller
runs this through `Store.atomically`, so that a conflict repeats the whole of it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Final, NamedTuple

import structlog

from syncworker.consents.renewal import accounts_compared
from syncworker.errors import (
    ConsentNotUsableError,
    EndlessListingError,
    LeaseLostError,
    StandardViolationError,
    SyncWorkerError,
    TruncatedError,
)
from syncworker.standard.calendar import at_time, shifted
from syncworker.standard.resources import Resource, ResourceName
from syncworker.standard.values import AccountId, ConsentId, local_date
from syncworker.store.account_references import NamedAccount
from syncworker.store.changes import MARKER_FROM, Marked, Op, RowChanges, instant_of, marker
from syncworker.store.consents import Standing
from syncworker.store.cursors import Covered, Cursor, Listing, extended
from syncworker.store.messages import MessageType
from syncworker.store.records import AT_REST, Ended, Held, Record, Wanted, WantedKeys
from syncworker.store.situations import before_apply, before_writes
from syncworker.store.statements import Told, run_all
from syncworker.store.tables import RECORD_TABLES, typed_columns
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.store.work import Claim
from syncworker.sync.decode import PENDING, TYPED, Decoded, Items, Unreadable, decode, iban_of, identifiers_of
from syncworker.sync.diff import Changes, Proof, diff, open_since, unproved
from syncworker.sync.facts import ENDS_EARLY, again, counts_slices, error_of_notes, facts_of_notes
from syncworker.sync.fetch import Walk
from syncworker.sync.filters import FILTER_IGNORED, misses
from syncworker.sync.pages import NOTHING, Footprint, items_in, pack, page_digest
from syncworker.sync.plan import Window, backfilled_to
from syncworker.sync.reports import StepOutcome, StepReport
from syncworker.sync.unreadable import Judged, judge, look_again_in

BOOKED: Final = "Booked"
KNOWN_MANY: Final = 20
"""Known items from which it is cheaper to ask for their rows' keys alone: a statement more, and fewer values."""

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose data is written, and by which claim."""

    connection_id: ConsentId
    consent_id: ConsentId
    claim: Claim
    seal_raw: bool = False


@dataclass(slots=True, kw_only=True)
class Showing:
    """A walk, decoded.

    Attributes:
        records: key → record, for the items that were decoded.
        seen: key → digest; `None` for an item that did not change since it was stored.
        digests: of each page.
        items: of each page; `None` when a key was shown twice.
        notes, unreadable: as in `decode.Decoded`, over all pages.
        unfiltered: the LFI is taken to ignore the window.
        filtered: set by `apply` where that is so: whether the walk shows that it honours it after all; `None`: it does
            not say.
    """

    walk: Walk
    records: dict[str, Record] = field(default_factory=dict, repr=False)
    seen: dict[str, bytes | None] = field(default_factory=dict, repr=False)
    digests: list[bytes] = field(default_factory=list, repr=False)
    items: list[Items] | None = field(default_factory=list, repr=False)
    notes: dict[str, int] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list, repr=False)
    pages_unchanged: int = 0
    unfiltered: bool = False
    filtered: bool | None = None

    @property
    def listing(self) -> Listing:
        return self.walk.step.listing

    @property
    def resource(self) -> Resource:
        return self.walk.step.resource

    @property
    def every_page_came(self) -> bool:
        """Whether the walk came to the end of its listing."""
        return self.walk.error is None and not self.walk.short

    @property
    def complete(self) -> bool:
        """Whether every page came and every item on them became a record."""
        return self.every_page_came and not self.unreadable


def show(walk: Walk, known: Footprint) -> Showing:
    """Decode a walk; pages and items that are known count by their keys alone.

    A page that is not what the standard says ends the walk before it, with its error: what came before counts.

    Of two items with one key the one on the later page wins; on one page, the one with the later instant
    (`Typed.instant`), else the last one.  `Typed.newest` decides on whichever page they are.
    """
    step = walk.step
    if not step.resource.key:  # neither a page nor an item says anything of its place in the listing
        known = NOTHING
    shown = Showing(walk=walk)
    pages: list[Items] = []
    decoded_pages: list[Decoded] = []
    place = 1
    for number, data in enumerate(walk.pages, start=1):
        digest = page_digest(data)
        items = known.pages.get(digest)
        if items is None:
            try:
                decoded = decode(step.resource, step.account_id, data, page=number, place=place, known=known.items)
            except StandardViolationError as error:
                shown.walk = replace(walk, pages=walk.pages[: number - 1], error=walk.error or error)
                break
            items = decoded.items
            place += len(items.keys) + decoded.violations
            decoded_pages.append(decoded)
            _take(shown, decoded)
        else:
            shown.pages_unchanged += 1
        shown.digests.append(digest)
        pages.append(items)
        shown.seen.update(dict.fromkeys(items.keys))
    if shown_twice := sum(len(items.keys) for items in pages) - len(shown.seen):
        if known is not NOTHING:  # which of the two wins, only their columns say
            return show(shown.walk, NOTHING)
        _settle(shown, decoded_pages, shown_twice)
    shown.seen.update((key, record.digest) for key, record in shown.records.items())
    shown.items = None if shown_twice else pages
    if walk.short:
        shown.notes[ENDS_EARLY] = 1
    shown.notes.update(page_notes(shown.walk.error))
    return shown


def page_notes(error: SyncWorkerError | None) -> Mapping[str, int]:
    """The note for the error that ended a walk; none for an error that says nothing of the listing itself."""
    if isinstance(error, EndlessListingError):
        return {error.note: 1}
    unreadable = isinstance(error, StandardViolationError) and not isinstance(error, TruncatedError)
    return {"page.unreadable": 1} if unreadable else {}


def _take(shown: Showing, decoded: Decoded) -> None:
    """Add what a page held to what the pages before it showed."""
    name = shown.resource.name
    newest = TYPED[name].newest
    if newest is None:
        shown.records.update((record.key, record) for record in decoded.records)
    else:
        at = typed_columns(RECORD_TABLES[name]).index(newest)
        for record in decoded.records:
            earlier = shown.records.get(record.key)
            if earlier is None or not _later(earlier.columns[at], record.columns[at]):
                shown.records[record.key] = record
    shown.unreadable += decoded.unreadable
    for oddity, times in decoded.notes.items():
        shown.notes[oddity] = shown.notes.get(oddity, 0) + times


def _settle(shown: Showing, pages: Sequence[Decoded], shown_twice: int) -> None:
    """Decide between the items that share a key, all of them decoded, and note how they came to share it.

    The same item twice, and one key on two pages, are what pages that shift between two reads look like.  Different
    items under one id on one page are not: the LFI used the id again.
    """
    resource = shown.resource
    used_twice = 0
    if len(resource.key) == 1:  # an id: of other keys the standard does not say that they are unique
        for page in pages:
            of_id: dict[str, set[bytes]] = {}
            for record in page.records:
                of_id.setdefault(record.key, set()).add(record.digest)
            used_twice += sum(len(digests) - 1 for digests in of_id.values())
    instant = TYPED[resource.name].instant
    if used_twice and instant is not None:
        at = typed_columns(RECORD_TABLES[resource.name]).index(instant)
        for page in pages:
            winners: dict[str, Record] = {}
            for record in page.records:
                earlier = winners.get(record.key)
                if earlier is None or not _later(earlier.columns[at], record.columns[at]):
                    winners[record.key] = record
            shown.records.update(winners)
    if used_twice:
        shown.notes["item.id_used_twice"] = used_twice
    if shown_twice > used_twice:
        shown.notes["item.shown_twice"] = shown_twice - used_twice


def history_begins(shown: Showing, *, now: datetime) -> datetime | None:
    """Where the LFI says that its own history begins; `None` where it does not, or where it cannot be so.

    An instant to come is no beginning: some LFIs write the end of the calendar where they have nothing to say.  Nor is
    one behind a record that the same walk shows.
    """
    said, window = shown.walk.first_available, shown.walk.step.window
    if said is None or window is None or said > shifted(now, window.wider):
        return None
    marks = _marks(shown, TYPED[shown.resource.name].instant, None)
    oldest = min((at for at, _ in marks.values() if at is not None), default=None)
    return None if oldest is not None and oldest < shifted(said, -window.wider) else said


def proof_of(shown: Showing, *, now: datetime) -> Proof:
    """How much a walk can prove: nothing before the LFI's own history or outside its window."""
    walk, window = shown.walk, shown.walk.step.window
    since = None if window is None else window.since
    first_available = history_begins(shown, now=now)
    if window is not None and first_available is not None:
        horizon = shifted(first_available, window.wider)
        since = horizon if since is None else max(since, horizon)
    return Proof(
        walk_complete=shown.every_page_came and not walk.step.whole,
        single_page=len(walk.pages) == 1,
        since=since,
        until=None if window is None else window.until,
        reaches_back=window is None or window.since is None or walk.step.deep,
    )


async def guard(unit: UnitOfWork, scope: Scope) -> datetime:
    """Make sure that this run may still write; holds until the transaction ends.

    Returns:
        Database time.

    Raises:
        LeaseLostError: a newer claim owns the work.
        ConsentNotUsableError: the consent is no longer callable.
    """
    (fault,), now = await guards(unit, [scope])
    if fault is not None:
        raise fault
    return now


async def guards(unit: UnitOfWork, scopes: Sequence[Scope]) -> tuple[list[SyncWorkerError | None], datetime]:
    """`guard` for many at once: for each the error, or `None`; and database time."""
    standing, held, now = await before_writes(unit, [(scope.consent_id, scope.claim) for scope in scopes])
    return [_fault(scope, standing.get(scope.consent_id), held, now) for scope in scopes], now


def _fault(scope: Scope, consent: Standing | None, held: Collection[int], now: datetime) -> SyncWorkerError | None:
    if scope.claim.id not in held:
        return LeaseLostError("a newer claim owns this sync")
    if consent is None or not consent.callable_at(now):
        status = "erased" if consent is None else consent.status
        return ConsentNotUsableError(f"consent is {status}", consent_id=scope.consent_id, cause=status)
    return None


async def apply(
    unit: UnitOfWork,
    scope: Scope,
    showings: Sequence[Showing],
    cursors: Mapping[Listing, Cursor],
    *,
    due: Mapping[Listing, datetime],
    now: datetime,
) -> tuple[StepReport, ...]:
    """Write decoded walks; a part of it goes with the commit.  Call `guard` first, in the same transaction.

    A broken-off walk writes the records it brought and buries nothing; its cursor stays (the caller notes the attempt),
    but the pages of the walk before no longer say what is held.

    Args:
        cursors: as read before the walks.
        due: when each listing is due next.

    Returns:
        One report for each walk, in order.
    """
    wanted, keys = _wanted(showings, cursors)
    known = await before_apply(unit, scope.connection_id, scope.consent_id, wanted, keys)
    held = {one.listing: known.held[one.resource.name, one.listing.account_id] for one in showings}
    asked = _Asked(
        narrowed=frozenset(
            Listing(account_id, one.resource)
            for one in wanted
            if one.since is not None or one.until is not None
            for account_id in one.account_ids
        ),
        keys={Listing(one.account_id, one.resource): one.keys for one in keys},
    )
    judged = await _judged(unit, scope, showings, cursors, now=now)
    decided = await _decided(unit, scope, showings, held, asked, judged, now=now)
    for shown, changes, rows in decided:
        if shown.unfiltered:
            shown.filtered = _is_filtered(shown, changes, rows, cursors.get(shown.listing))
            if shown.filtered is not True:
                shown.notes[FILTER_IGNORED] = 1
    by_resource = {
        resource: [pair for pair in decided if pair[0].resource.name is resource]
        for resource in dict.fromkeys(one.resource.name for one in showings)
    }
    marked = {shown.listing for shown, changes, _ in decided if len(changes.new) >= MARKER_FROM}
    feed = [said for shown, changes, rows in decided for said in _feed(shown, changes, rows, cursors, marked)]
    feed.sort(key=lambda said: said.op is Op.BACKFILLED)  # `changes.NEWEST` finds a marker among the last rows
    at = instant_of(now, known.newest, marks=any(said.op is Op.BACKFILLED for said in feed))
    await _keep_before(unit, scope, by_resource, now=at)
    for resource, those in by_resource.items():
        await _write(unit, scope, resource, those, granted=known.granted, now=at)
    _tell(unit, scope, decided, now=now)
    await unit.changes.append(scope.connection_id, feed, at=at, gen=scope.claim.gen)
    complete = [(shown, changes, rows) for shown, changes, rows in decided if shown.walk.error is None]
    advanced = [
        _cursor(
            shown,
            changes,
            rows,
            cursors.get(shown.listing),
            judged.get(shown.listing),
            due=due[shown.listing],
            gen=scope.claim.gen,
            now=now,
        )
        for shown, changes, rows in complete
    ]
    await unit.cursors.advance(scope.connection_id, advanced)
    broken_off = [
        shown.listing for shown, changes, _ in decided if shown.walk.error is not None and (changes or shown.unreadable)
    ]
    await unit.cursors.forget_pages(scope.connection_id, broken_off, gen=scope.claim.gen)
    await _keep_unreadable(unit, scope, decided, judged, now=now)
    walked = [shown for shown, _, _ in complete if not (shown.walk.short or shown.walk.step.look or _is_refuted(shown))]
    await _cover(unit, scope, walked, known.coverage, now=now)
    return tuple(_report(shown, changes, due.get(shown.listing)) for shown, changes, _ in decided)


def _is_filtered(shown: Showing, changes: Changes, held: Mapping[str, Held], before: Cursor | None) -> bool | None:
    """Whether an LFI that is taken to ignore the window honours it; `None`: this walk does not say.

    A walk of everything shows every row that is held, or something narrowed it; each item that cannot be read may be
    one of these rows.  Another walk was narrowed when it brought fewer items than the one before, more than were missed
    in the window, and none from before it.
    """
    window = shown.walk.step.window
    if not shown.every_page_came or window is None or window.since is None:
        return None
    if shown.walk.step.whole:
        lacking = sum(not row.gone and key not in shown.seen for key, row in held.items())
        return None if 0 < lacking <= len(shown.unreadable) else lacking > 0
    marks = _marks(shown, TYPED[shown.resource.name].instant, None)
    for key in shown.seen:
        at = marks[key][0] if key in marks else held[key].instant if key in held else None
        if at is not None and at < shifted(window.since, -window.wider):
            return False
    lacking = items_in(before.pages if before else None) - len(shown.seen) - len(shown.unreadable)
    return True if lacking > len(changes.missed) + len(changes.gone) else None


def _is_refuted(shown: Showing) -> bool:
    """Whether a walk of everything lacked a row that is held: the LFI answered another window, not known which."""
    return shown.walk.step.whole and shown.filtered is True


Decided = tuple[Showing, Changes, Mapping[str, Held]]


async def _judged(
    unit: UnitOfWork,
    scope: Scope,
    showings: Sequence[Showing],
    cursors: Mapping[Listing, Cursor],
    *,
    now: datetime,
) -> Mapping[Listing, Judged]:
    """What the unreadable items of walks mean; only of listings that may have some."""
    doubtful = [one for one in showings if one.unreadable or _may_remember(one, cursors.get(one.listing))]
    known = await unit.unreadable.of(scope.connection_id, [one.listing for one in doubtful])
    judged: dict[Listing, Judged] = {}
    for one in doubtful:
        proof = proof_of(one, now=now)
        judged[one.listing] = judge(
            one.unreadable,
            known[one.listing],
            complete=proof.walk_complete,
            since=_looks_since(one, proof),
            until=proof.until,
            now=now,
        )
        if judged[one.listing].not_kept:
            one.notes["item.not_kept"] = judged[one.listing].not_kept
    return judged


def _looks_since(shown: Showing, proof: Proof) -> datetime | None:
    """From where on a walk must show unreadable items.

    A second look asks for them where they were: behind the LFI's own history they are gone as well.
    """
    step = shown.walk.step
    return step.window.since if step.look and step.window is not None else proof.since


def _may_remember(shown: Showing, cursor: Cursor | None) -> bool:
    """Whether unreadable items of a listing may be remembered that this walk must show or counts against.

    After a walk that showed one there is no footprint (`_cursor`), and one that the last walk did not reach is reached
    only by one that goes further back.
    """
    if cursor is None:
        return False
    step = shown.walk.step
    begins = None if step.window is None else step.window.from_date
    further = step.window is not None and (begins is None or cursor.window_from is None or begins < cursor.window_from)
    return cursor.pages is None or step.deep or step.backfill or further


async def _keep_unreadable(
    unit: UnitOfWork, scope: Scope, decided: Sequence[Decided], judged: Mapping[Listing, Judged], *, now: datetime
) -> None:
    """Write down what could not be read, and forget what is no longer shown."""
    for shown, changes, _ in decided:
        listing = shown.listing
        one = judged.get(listing)
        if one is not None:
            await unit.unreadable.remove(scope.connection_id, listing, one.removed)
            await unit.unreadable.doubt(scope.connection_id, listing, one.doubted)
            await unit.unreadable.keep(
                scope.connection_id, scope.consent_id, listing, one.kept, known=one.known, at=now
            )
            if one.fresh:
                log.warning(
                    "items not readable",
                    consent_id=scope.consent_id,
                    resource=listing.resource.value,
                    items=len(one.fresh),
                    page=one.fresh[0].page,
                    path=one.fresh[0].path,
                    reason=one.fresh[0].reason,
                )
        if not shown.every_page_came and changes.new | changes.revived | changes.found:
            await unit.unreadable.doubt(scope.connection_id, listing, None)


def _wanted(showings: Sequence[Showing], cursors: Mapping[Listing, Cursor]) -> tuple[list[Wanted], list[WantedKeys]]:
    """What must be known of the rows: those the walks' windows can touch, and those of every key that was decoded.

    Where many items were known by their bytes, their rows count by their keys.  A listing never read to its end has
    few rows, if any: all of them are asked for, and nothing is left to ask by key.
    """
    wanted: list[Wanted] = []
    keys: list[WantedKeys] = []
    alike: dict[tuple[ResourceName, bool], list[Showing]] = {}
    for one in showings:
        alike.setdefault((one.resource.name, _read_before(cursors.get(one.listing))), []).append(one)
    for (resource, read_before), those in alike.items():
        typed = TYPED[resource]
        many_known = any(len(one.seen) - len(one.records) >= KNOWN_MANY for one in those)
        wanted.append(
            Wanted(
                resource=resource,
                account_ids=[one.listing.account_id for one in those],
                instant=typed.instant,
                status=typed.status,
                since=_since(those) if read_before else None,
                until=_until(those) if read_before else None,
                keys_of_rest=many_known,
            )
        )
        if many_known:
            keys += [_wanted_keys(one, one.records) for one in those if one.records]
    return wanted, keys


def _wanted_keys(shown: Showing, keys: Collection[str]) -> WantedKeys:
    typed = TYPED[shown.resource.name]
    return WantedKeys(
        resource=shown.resource.name,
        account_id=shown.listing.account_id,
        keys=keys,
        instant=typed.instant,
        status=typed.status,
    )


def _read_before(cursor: Cursor | None) -> bool:
    """Whether a walk of a listing ever came to its end."""
    return cursor is not None and cursor.checked_at is not None


class _Asked(NamedTuple):
    """How the rows were asked for: of which listings not all, and which by their keys."""

    narrowed: frozenset[Listing]
    keys: Mapping[Listing, Collection[str]]


async def _decided(
    unit: UnitOfWork,
    scope: Scope,
    showings: Sequence[Showing],
    held: dict[Listing, dict[str, Held]],
    asked: _Asked,
    judged: Mapping[Listing, Judged],
    *,
    now: datetime,
) -> list[Decided]:
    """Changes of all walks; a decision that turns on rows not asked for asks for them."""
    await _complete(unit, scope, showings, held, asked)
    decided = [_decide(one, held[one.listing], judged.get(one.listing), now=now) for one in showings]
    doubted = [shown for shown, changes, _ in decided if unproved(changes, shown.seen)]
    if not doubted:
        return decided
    for shown in doubted:  # a row is not as the footprint says: trust the page, not the footprint
        again = show(shown.walk, NOTHING)
        shown.records, shown.seen = again.records, again.seen
        shown.notes, shown.unreadable, shown.items = again.notes, again.unreadable, again.items
    await _complete(unit, scope, doubted, held, asked)
    return [_decide(one, held[one.listing], judged.get(one.listing), now=now) for one in showings]


async def _complete(
    unit: UnitOfWork, scope: Scope, showings: Sequence[Showing], held: dict[Listing, dict[str, Held]], asked: _Asked
) -> None:
    """Ask for rows shown that lie outside what was asked for, and for those at rest that have to be looked at."""
    wanted: list[WantedKeys] = []
    for one in showings:
        rows = held[one.listing]
        resting = {key for key, row in rows.items() if row is AT_REST}
        missing = resting - one.seen.keys() | resting & one.records.keys()
        if one.listing in asked.narrowed:
            missing |= one.seen.keys() - rows.keys() - set(asked.keys.get(one.listing, ()))
        if missing:
            wanted.append(_wanted_keys(one, missing))
    for (name, account_id), rows in (await unit.records.held(scope.connection_id, (), wanted)).items():
        held[Listing(account_id, name)] |= rows


def _since(showings: Iterable[Showing]) -> datetime | None:
    """The earliest lower end of some walks' windows; `None` when one of them has none."""
    ends = [None if one.walk.step.window is None else one.walk.step.window.since for one in showings]
    known = [end for end in ends if end is not None]
    return min(known) if len(known) == len(ends) else None


def _until(showings: Iterable[Showing]) -> datetime | None:
    """The latest upper end of some walks' windows; `None` when one of them has none."""
    ends = [None if one.walk.step.window is None else one.walk.step.window.until for one in showings]
    known = [end for end in ends if end is not None]
    return max(known) if len(known) == len(ends) else None


def _decide(shown: Showing, held: Mapping[str, Held], judged: Judged | None, *, now: datetime) -> Decided:
    """Changes of one walk."""
    proof = proof_of(shown, now=now)
    if judged is not None:
        proof = replace(proof, unreadable_since=judged.since, unreadable_before=judged.before)
    return shown, diff(shown.seen, held, proof=proof), held


async def _keep_before(
    unit: UnitOfWork, scope: Scope, decided: Mapping[ResourceName, Sequence[Decided]], *, now: datetime
) -> None:
    """Keep what every row says that is about to say something else; all in one trip."""
    told: list[Told] = []
    for resource, those in decided.items():
        for op, ending in ((Ended.MODIFIED, "changed"), (Ended.REVIVED, "revived"), (Ended.REMOVED, "gone")):
            before = {shown.listing.account_id: getattr(changes, ending) for shown, changes, _ in those}
            told += unit.records.keeping_before(
                resource, scope.connection_id, before, op=op, gen=scope.claim.gen, at=now
            )
    if told:
        await run_all(unit, told)


async def _write(
    unit: UnitOfWork,
    scope: Scope,
    resource: ResourceName,
    decided: Sequence[Decided],
    *,
    granted: frozenset[AccountId],
    now: datetime,
) -> None:
    """Everything one resource's walks changed, one statement a kind of change."""
    gen, connection_id = scope.claim.gen, scope.connection_id
    records = {
        shown.listing.account_id: [shown.records[key] for key in changes.to_write]
        for shown, changes, _ in decided
        if changes.to_write
    }
    if records:
        new = {shown.listing.account_id: changes.new for shown, changes, _ in decided}  # `held` knew of no such key
        await unit.records.upsert(
            resource, connection_id, records, gen=gen, at=now, seal=scope.seal_raw, new=new, later=True
        )
        await unit.records.keep_history(resource, connection_id, records, gen=gen, at=now)
        if resource is ResourceName.ACCOUNTS:
            accounts = [
                NamedAccount(connection_id, record.key, iban_of(record.raw))
                for those in records.values()
                for record in those
            ]
            await unit.account_references.keep(accounts, at=now)
            fresh = new.get("", frozenset())
            await unit.records.keep_identifiers(
                connection_id,
                {record.key: identifiers_of(record.raw) for record in records.get("", ())},
                gen=gen,
                seal=scope.seal_raw,
                held=[record.key for record in records.get("", ()) if record.key not in fresh],
            )
    for shown, changes, _ in decided:
        account_id = shown.listing.account_id
        if changes.missed:
            await unit.records.miss(resource, connection_id, {account_id: changes.missed}, gen=gen, at=now)
        if changes.found:
            await unit.records.find_again(resource, connection_id, {account_id: changes.found}, gen=gen)
        if changes.gone:
            await unit.records.bury(resource, connection_id, {account_id: changes.gone}, gen=gen, at=now)
        if resource is ResourceName.ACCOUNTS:
            await keep_grants(
                unit, scope, shown.seen, granted=granted, ended=changes.gone, complete=shown.complete, now=now
            )


async def keep_grants(
    unit: UnitOfWork,
    scope: Scope,
    seen: Collection[str],
    *,
    granted: frozenset[AccountId],
    ended: frozenset[str] = frozenset(),
    complete: bool,
    now: datetime,
) -> None:
    """Grant the accounts that `/accounts` showed with this consent; end those proved absent, as a tombstone is.

    Args:
        granted: those it showed before, as read in this transaction.
        complete: all of them were shown, so that a successor's can be compared with those of the consent before it.
    """
    fresh = [account_id for account_id in seen if account_id not in granted]
    await unit.records.grant(scope.consent_id, scope.connection_id, fresh, at=now)
    await unit.records.end_grants(scope.consent_id, ended & granted, at=now)
    if complete and scope.consent_id != scope.connection_id:
        await accounts_compared(unit, scope.consent_id, seen, at=now)


def _tell(unit: UnitOfWork, scope: Scope, decided: Sequence[Decided], *, now: datetime) -> None:
    """Tell the product, with the commit, that there are changes, and which accounts came and went."""
    counts: dict[str, dict[str, int]] = {}
    dates: list[date] = []
    for shown, changes, _ in decided:
        if not changes:
            continue
        by_op = counts.setdefault(shown.resource.name.value, {"added": 0, "modified": 0, "removed": 0})
        by_op["added"] += len(changes.new) + len(changes.revived)
        by_op["modified"] += len(changes.changed)
        by_op["removed"] += len(changes.gone)
        dates += _booking_dates(shown, changes)
        if shown.resource.name is ResourceName.ACCOUNTS:
            for what, keys in (
                (MessageType.ACCOUNT_ADDED, changes.new | changes.revived),
                (MessageType.ACCOUNT_REMOVED, changes.gone),
            ):
                for key in sorted(keys):
                    unit.messages.tell(what, {"lfi_account_id": key}, connection_id=scope.connection_id, at=now)
    if counts:
        data = {"counts": counts, "oldest_booking_date": min(dates).isoformat() if dates else None}
        unit.messages.tell(
            MessageType.UPDATES_AVAILABLE, data, connection_id=scope.connection_id, gen=scope.claim.gen, at=now
        )


def _booking_dates(shown: Showing, changes: Changes) -> Iterable[date]:
    """Local booking dates of the transactions that are written; of those gone nothing is decoded."""
    if shown.resource.name is not ResourceName.TRANSACTIONS:
        return ()
    at = typed_columns(RECORD_TABLES[shown.resource.name]).index("booking_date")
    written = (shown.records[key].columns[at] for key in changes.to_write)
    return [day for day in written if day is not None]


def _feed(
    shown: Showing,
    changes: Changes,
    held: Mapping[str, Held],
    cursors: Mapping[Listing, Cursor],
    marked: Collection[Listing],
) -> Iterable[RowChanges]:
    """What the feed says of a walk; one marker stands for many new rows.

    A marker stands for every new row of its listing in this transaction, whichever of its walks brought it.  Rows of an
    account that is shown no more leave the views with it, and come back with it: markers tell of them.
    """
    listing = shown.listing
    added = changes.new | changes.revived
    if listing in marked:
        added = changes.revived
    if len(changes.new) >= MARKER_FROM:
        history = shown.walk.step.backfill or not _read_before(cursors.get(listing))
        yield marker(listing.account_id, listing.resource, Marked.HISTORY if history else Marked.NEWS)
    booked = _booked_now(shown, changes, held)
    for op, keys, previous in (
        (Op.ADDED, added, None),
        (Op.MODIFIED, changes.changed - booked, None),
        (Op.MODIFIED, booked, PENDING),
        (Op.REMOVED, changes.gone, None),
    ):
        if keys:
            yield RowChanges(listing.account_id, listing.resource, op, sorted(keys), previous)
    if listing.resource is ResourceName.ACCOUNTS and changes.revived:
        for one in sorted(cursors):
            if one.account_id in changes.revived:
                yield marker(one.account_id, one.resource, Marked.ALL)


def _booked_now(shown: Showing, changes: Changes, held: Mapping[str, Held]) -> frozenset[str]:
    """Rows that were Pending and are Booked."""
    typed = TYPED[shown.resource.name]
    if typed.status is None or not changes.changed:
        return frozenset()
    place = typed_columns(RECORD_TABLES[shown.resource.name]).index(typed.status)
    return frozenset(
        key for key in changes.changed if held[key].pending and shown.records[key].columns[place] == BOOKED
    )


def _cursor(
    shown: Showing,
    changes: Changes,
    held: Mapping[str, Held],
    before: Cursor | None,
    judged: Judged | None,
    *,
    due: datetime,
    gen: int,
    now: datetime,
) -> Cursor:
    """Where the listing stands after a walk to its end.

    While a record is missed, an item could not be read, or an id was used twice, no footprint is kept: the next walk
    has to look again, and to say so again.
    """
    start = before or Cursor(listing=shown.listing, due_at=due, gen=gen)
    window = shown.walk.step.window or Window()
    typed = TYPED[shown.resource.name]
    marks = _marks(shown, typed.instant, typed.status)
    booked = [at for at, status in marks.values() if at is not None and status == BOOKED]
    undecided = {key: (at, status == PENDING) for key, (at, status) in marks.items()}
    error = error_of(shown)
    if shown.walk.short:  # as after a walk that broke off: how far the listing was read stays as it was
        if shown.walk.step.backfill:
            return replace(start, changed_at=now if changes else start.changed_at, gen=gen)
        tried = again(before, error or ENDS_EARLY, now=now)
        return replace(
            start,
            pages=None if changes else start.pages,
            attempted_at=now,
            changed_at=now if changes else start.changed_at,
            due_at=due,
            outcome=(StepOutcome.OK if changes else StepOutcome.UNCHANGED).value,
            error=error,
            refused_until=None,
            attempts=tried.attempts,
            failing_since=tried.since,
            gen=gen,
        )
    start = _backfill_state(shown, start, now=now)
    start = _looks_state(shown, start, judged, now=now)
    looked_at = shown.complete and "item.id_used_twice" not in shown.notes
    if shown.walk.step.backfill:
        return replace(
            start,
            open_since=open_since(changes, held, undecided) if typed.instant else None,
            changed_at=now if changes else start.changed_at,
            backfill_due_at=None,
            attempts=0 if counts_slices(start) else start.attempts,
            failing_since=None if counts_slices(start) else start.failing_since,
            gen=gen,
        )
    return replace(
        start,
        deep_at=None if changes.missed else now if shown.walk.step.deep else start.deep_at,
        pages=None if changes.missed or not looked_at else pack(shown.digests, shown.items),
        window_from=window.from_date,
        high_water=max([*booked, *([start.high_water] if start.high_water else [])], default=None),
        open_since=open_since(changes, held, undecided) if typed.instant else None,
        checked_at=now,
        attempted_at=now,
        changed_at=now if changes else start.changed_at,
        due_at=due,
        outcome=(StepOutcome.OK if changes else StepOutcome.UNCHANGED).value,
        error=error,
        refused_until=None,
        attempts=start.attempts if counts_slices(start) else 0,
        failing_since=start.failing_since if counts_slices(start) else None,
        gen=gen,
    )


def foreseen(shown: Showing, *, now: datetime) -> Cursor | None:
    """How far the history of a listing never read before will reach once its first walk is written.

    Good for nothing but that question; `None` when only the written cursor can answer it.
    """
    window = shown.walk.step.window
    if not shown.complete or window is None:
        return None
    start = _backfill_state(shown, Cursor(listing=shown.listing, due_at=now, gen=0), now=now)
    return replace(start, covered_from=window.covers_from)


def _backfill_state(shown: Showing, start: Cursor, *, now: datetime) -> Cursor:
    """How far the history reaches after a walk: the newest part, or a slice behind it.

    History that was taken for whole is not, once the LFI says that it begins before what was read: it said otherwise
    before, or showed nothing for a while.
    """
    step = shown.walk.step
    window = step.window
    if window is None or step.look or _is_refuted(shown):
        return start
    said = history_begins(shown, now=now)
    if step.backfill and said and start.covered_from and start.covered_from <= local_date(said):
        said = None  # had a walk before borne it out, there would be no slice to read
    before = start.first_available
    first_available = said or (before if before is not None and before <= shifted(now, window.wider) else None)
    empty = start.empty_slices
    if step.backfill or start.checked_at is None:
        nothing = not shown.seen or misses(window, shown.resource.name, shown.records)
        empty = empty + 1 if nothing else 0
    ends = backfilled_to(window, floor=step.floor, first_available=first_available, empty_slices=empty)
    more = (
        said is not None
        and start.covered_from is not None
        and max(local_date(said), step.floor) < min(start.covered_from, window.covers_from)
    )
    known = [day for day in (ends, None if more else start.backfilled_to) if day is not None]
    if more:
        empty = 0
    return replace(start, first_available=first_available, empty_slices=empty, backfilled_to=min(known, default=None))


def _looks_state(shown: Showing, start: Cursor, judged: Judged | None, *, now: datetime) -> Cursor:
    """When to look again at what could not be read: it may lie where no ordinary walk comes to any more.

    Only a walk that knows of all such items of the listing says so: any other leaves it as it is.
    """
    if shown.resource.window is None or judged is None:
        return start
    wait = look_again_in(judged.left)
    if wait is not None and start.look_again_at is not None and not shown.walk.step.look:
        return start
    return replace(start, look_again_at=None if wait is None else now + wait)


def _marks(shown: Showing, instant: str | None, status: str | None) -> dict[str, tuple[datetime | None, str | None]]:
    """Instant and status of each decoded record, where the resource has them; without a status all are final."""
    if instant is None:
        return {}
    names = typed_columns(RECORD_TABLES[shown.resource.name])
    at, state = names.index(instant), None if status is None else names.index(status)
    return {
        key: (_moment(record.columns[at]), BOOKED if state is None else record.columns[state])
        for key, record in shown.records.items()
    }


def _moment(place: datetime | date | None) -> datetime | None:
    """The place of a record in time; a date's is its midnight in UTC."""
    if place is None or isinstance(place, datetime):
        return place
    return at_time(place)


async def _cover(
    unit: UnitOfWork,
    scope: Scope,
    showings: Sequence[Showing],
    covered: Mapping[Listing, tuple[Covered, ...]],
    *,
    now: datetime,
) -> None:
    """Note which windows were walked completely."""
    windowed = [one for one in showings if one.walk.step.window is not None]
    if not windowed:
        return
    held = {one.listing: covered.get(one.listing, ()) for one in windowed}
    windows = {one.listing: extended(held[one.listing], _covered(one, now=now)) for one in windowed}
    await unit.cursors.cover(scope.connection_id, windows, held=held, gen=scope.claim.gen)


def _covered(shown: Showing, *, now: datetime) -> Covered:
    window = shown.walk.step.window or Window()
    today = local_date(now)
    until: date = today if window.to_date is None else min(today, shifted(window.to_date, -window.wider))
    since = window.covers_from
    return Covered(
        from_date=min(since, until), to_date=until, walked_at=now, pages=len(shown.walk.pages), items=len(shown.seen)
    )


def error_of(shown: Showing) -> str | None:
    """The code for cursor and report of a walk that came to its end."""
    return error_of_notes(shown.notes)


def _report(shown: Showing, changes: Changes, due_at: datetime | None) -> StepReport:
    facts = facts_of_notes(shown.notes)
    return StepReport(
        resource=shown.resource.name,
        account_id=shown.listing.account_id,
        outcome=StepOutcome.OK if changes else StepOutcome.UNCHANGED,
        error=error_of(shown),
        pages=len(shown.walk.pages),
        pages_unchanged=shown.pages_unchanged,
        items=len(shown.seen),
        added=len(changes.new) + len(changes.revived),
        modified=len(changes.changed),
        removed=len(changes.gone),
        notes=dict(shown.notes),
        due_at=due_at,
        retry=facts.retry,
        person=facts.person,
    )


def _later(one: datetime | None, other: datetime | None) -> bool:
    return one is not None and (other is None or one > other)
