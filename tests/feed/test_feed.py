"""What the feed says, page by page, and what it says to a cursor it cannot go on from."""

import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from syncworker.errors import CursorFilterError, CursorTooOldError, CursorUnknownError, RequestError
from syncworker.feed import read as feed
from syncworker.feed.cursor import EVERYTHING, Filter
from syncworker.standard.consents import ConsentView, Status
from syncworker.standard.values import ConsentId
from syncworker.store.changes import MARKER_FROM, Marked, Op
from syncworker.store.consents import StoredConsent
from syncworker.store.ended import EndedConsents
from syncworker.store.erasure import DataClass
from syncworker.store.unit_of_work import Store, UnitOfWork
from tests.ground.clock import ManualClock
from tests.sync.books import CONSENT, Desk, N, file_consent, page, transaction, walk

pytestmark = pytest.mark.store

MANY = [transaction(f"t{number:02}") for number in range(MARKER_FROM + 2)]


@pytest.fixture
async def desk(store: Store, clock: ManualClock) -> Desk:
    await file_consent(store, clock)
    return Desk(store, clock)


async def read(
    store: Store, cursor: str | None = None, *, only: Filter = EVERYTHING, limit: int = 500
) -> feed.Page[bool]:
    async with store.looking() as unit:
        return await feed.page(unit, cursor=cursor, items=feed.living, only=only, limit=limit)


async def now(store: Store, only: Filter = EVERYTHING) -> str:
    async with store.looking() as unit:
        return await feed.now(unit, only=only)


def said(page: feed.Page[bool]) -> list[tuple[Op, str]]:
    return [(one.op, one.key) for one in page.entries]


async def status(store: Store, to: Status, consent_id: ConsentId = CONSENT) -> None:
    async with store.writing() as unit:
        await unit.consents.observe(ConsentView(consent_id=consent_id, status=to.value), at=await unit.now())
        await unit.commit()


# -- what is written -------------------------------------------------------------------------------------------------


async def test_many_new_rows_are_one_change_and_a_page_ends_inside_it(desk: Desk) -> None:
    """One row is written; readers see every item once, as history, in pages of any size."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *MANY)))
    written = await desk.feed()
    first = await read(desk.store, limit=5)
    second = await read(desk.store, first.next_cursor, limit=500)

    assert [(row.change.op, row.change.key, row.change.marker) for row in written] == [
        (Op.BACKFILLED, "", Marked.HISTORY)
    ]
    assert (first.has_more, second.has_more) == (True, False)
    assert said(first) + said(second) == [(Op.BACKFILLED, one["TransactionId"]) for one in MANY]


async def test_few_new_rows_are_changes_of_their_own(desk: Desk) -> None:
    """Below the threshold a marker saves nothing."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *MANY[: MARKER_FROM - 1])))

    assert {row.change.op for row in await desk.feed()} == {Op.ADDED}
    assert len(await desk.feed()) == MARKER_FROM - 1


async def test_many_rows_of_an_ordinary_walk_are_news(desk: Desk) -> None:
    """A marker as well, and its rows are added ones: what a first walk and a backfill bring is not new at the bank."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS)))
    start = await now(desk.store)
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *MANY)))

    assert {one.op for one in (await read(desk.store, start)).entries} == {Op.ADDED}
    assert [row.change.marker for row in await desk.feed()] == [Marked.NEWS]


async def test_rows_of_two_transactions_never_share_a_marker(desk: Desk) -> None:
    """The clock stands still: each transaction has an instant of its own where a marker is involved."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("t99"))))
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("t99"), *MANY)))
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("t99"), transaction("t98"), *MANY)))
    (marked,) = [row for row in await desk.feed() if row.change.marker]
    async with desk.store.reading() as unit:
        keys = [key for key, _ in await unit.changes.expanded(marked, after=None, limit=100)]

    assert keys == [one["TransactionId"] for one in MANY]


async def test_a_booked_transaction_says_that_it_was_pending(desk: Desk) -> None:
    """Under the same id; a change of anything else says nothing of the kind."""
    before = [transaction("a", Status="Pending"), transaction("b"), transaction("c", Status="Pending")]
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *before)))
    start = await now(desk.store)
    other: dict[str, Any] = {"TransactionInformation": "other"}
    after = [transaction("a"), transaction("b", **other), transaction("c", Status="Pending", **other)]
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *after)))
    got = await read(desk.store, start)

    assert {one.key: (one.op, one.previous_status) for one in got.entries} == {
        "a": (Op.MODIFIED, "Pending"),
        "b": (Op.MODIFIED, None),
        "c": (Op.MODIFIED, None),
    }


async def test_repeats_of_a_row_are_one_entry_and_one_that_is_gone_is_removed(desk: Desk) -> None:
    """Also one the page itself added: a mirror that read the listing meanwhile has it."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS)))
    start = await now(desk.store)
    for version in range(3):
        items = [transaction("stays", TransactionInformation=f"{version}"), *([transaction("goes")] * (version < 2))]
        desk.clock.advance(hours=1)
        await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *items)))
    got = await read(desk.store, start)

    assert sorted(said(got)) == [(Op.ADDED, "stays"), (Op.REMOVED, "goes")]
    assert [row.change.op for row in await desk.feed()].count(Op.MODIFIED) == 2


# -- the end of a consent's use --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["shown Revoked", "revoked here", "past its end", "unknown to the Hub"])
async def test_the_end_of_use_restricts_the_connection_once(desk: Desk, ending: str) -> None:
    """In the transaction that files it, by whatever it ended; a second word about it says nothing more."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"))))
    start = await now(desk.store)
    acts: dict[str, Callable[[UnitOfWork], Awaitable[object]]] = {
        "shown Revoked": lambda unit: unit.consents.observe(
            ConsentView(consent_id=CONSENT, status="Revoked"), at=desk.clock.now()
        ),
        "revoked here": lambda unit: unit.consents.order_revocation(CONSENT, by="TPP", at=desk.clock.now()),
        "past its end": lambda unit: unit.consents.expire(CONSENT, at=desk.clock.now()),
        "unknown to the Hub": lambda unit: unit.consents.end_unknown(CONSENT, at=desk.clock.now()),
    }
    async with desk.store.writing() as unit:
        await acts[ending](unit)
        await unit.commit()
    await status(desk.store, Status.Revoked)
    got = await read(desk.store, start)

    assert [(one.op, one.connection_id, one.item) for one in got.entries] == [(Op.RESTRICTED, CONSENT, None)]
    assert said(await read(desk.store)) == [(Op.RESTRICTED, "")]  # what came before is not shown any more


async def test_a_consent_that_comes_back_gives_every_row_back(desk: Desk) -> None:
    """Listings are shown whole, also the few rows of a small one."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"), transaction("b"))))
    await status(desk.store, Status.Revoked)
    start = await now(desk.store)
    await desk.store.atomically(lambda unit: _alive_again(unit, desk.clock))
    got = await read(desk.store, start)

    assert said(got) == [(Op.BACKFILLED, "a"), (Op.BACKFILLED, "b")]


async def test_a_connection_in_use_through_another_consent_is_not_restricted(desk: Desk) -> None:
    """The consent before a successor may end; one that the user has not agreed to yet does not count as in use."""
    successor = ConsentId("c0ffee00-0000-4000-8000-000000000002")
    async with desk.store.writing() as unit:
        held = await unit.consents.get(CONSENT)
        assert held is not None
        await unit.consents.add(_successor(held, successor))
        await unit.commit()
    await status(desk.store, Status.Authorized, successor)
    await status(desk.store, Status.Revoked)
    before = [row.change.op for row in await desk.feed()]
    await status(desk.store, Status.Expired, successor)

    assert before == []
    assert [row.change.op for row in await desk.feed()] == [Op.RESTRICTED]


async def test_the_setting_shows_what_ended_and_housekeeping_follows_it(
    desk: Desk, database_url: str, open_store: Callable[..., Store]
) -> None:
    """`shown` restricts nothing; when the setting changes, connections are marked and shown again in batches."""
    shown = open_store(database_url, ended_consents=EndedConsents.SHOWN)
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"))))
    start = await now(desk.store)
    await status(shown, Status.Revoked)
    nothing = await read(desk.store, start)
    hidden_later = await _housekeeping(desk.store)
    restricted = await read(desk.store, start)
    shown_later = await _housekeeping(shown)
    again = await read(desk.store, restricted.next_cursor)

    assert (said(nothing), hidden_later, shown_later) == ([], 1, 1)
    assert (said(restricted), said(again)) == ([(Op.RESTRICTED, "")], [(Op.BACKFILLED, "a")])
    assert (await _housekeeping(shown), await _housekeeping(desk.store)) == (0, 1)


async def test_erasure_leaves_one_change_for_each_class(desk: Desk) -> None:
    """The changes that name keys are gone; a reader that stood at one of them goes on."""
    await desk.apply(
        walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"))),
        walk(N.ACCOUNT_PARTIES, page(N.ACCOUNT_PARTIES, {"PartyId": "p"})),
    )
    start = (await read(desk.store, limit=1)).next_cursor
    await status(desk.store, Status.Revoked)
    async with desk.store.writing() as unit:
        await unit.erasure.erase(CONSENT)
        await unit.commit()
    got = await read(desk.store, start)

    assert [(one.op, one.data_class) for one in got.entries] == [
        (Op.RESTRICTED, None),
        (Op.ERASED, DataClass.PERSONAL),
        (Op.ERASED, DataClass.DATA),
    ]
    assert {row.change.key for row in await desk.feed()} == {""}


# -- cursors it cannot go on from ------------------------------------------------------------------------------------


async def test_a_cursor_behind_which_changes_were_pruned_is_too_old(desk: Desk) -> None:
    """A reader at the line itself missed nothing, and neither did a quiet one that read to the end."""
    for key in "abc":
        await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *map(transaction, "abc"[: ord(key) - 96]))))
        desk.clock.advance(days=1)
    first = await read(desk.store, limit=1)
    second = await read(desk.store, first.next_cursor, limit=1)
    other = Filter(connections=frozenset({ConsentId("another")}))
    quiet = await read(desk.store, await now(desk.store, other), only=other)
    async with desk.store.writing() as unit:
        gone = await unit.changes.prune(before=desk.clock.now() - timedelta(days=1), limit=100)
        await unit.commit()

    assert gone == 2
    with pytest.raises(CursorTooOldError, match="older than the changes that are kept; begin again"):
        await read(desk.store, first.next_cursor)
    assert said(await read(desk.store, second.next_cursor)) == [(Op.ADDED, "c")]
    assert said(await read(desk.store, quiet.next_cursor, only=other)) == []


async def test_a_cursor_of_another_filter_is_refused(desk: Desk) -> None:
    """By name: with other connections, another user or other resources changes would be missed."""
    cursor = await now(desk.store)
    for only in (
        Filter(connections=frozenset({CONSENT})),
        Filter(user_ref="u"),
        Filter(resources=frozenset({N.TRANSACTIONS})),
    ):
        with pytest.raises(CursorFilterError, match="given for another filter"):
            await read(desk.store, cursor, only=only)


async def test_a_cursor_of_another_tenant_or_changed_on_its_way_is_unknown(
    desk: Desk, database_url: str, open_store: Callable[..., Store]
) -> None:
    """Any bit of it, its end cut off, no cursor at all."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"))))
    cursor = (await read(desk.store)).next_cursor
    data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    flipped = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(0, len(data), 7)]
    spoilt = [base64.urlsafe_b64encode(one).decode().rstrip("=") for one in (*flipped, data[:-1], data[:12], b"")]
    for one in (*spoilt, "no cursor", "é", "x" * 9_999):
        with pytest.raises(CursorUnknownError):
            await read(desk.store, one)
    with pytest.raises(CursorUnknownError, match="belongs to no feed that is here"):
        await read(open_store(database_url, tenant="another"), cursor)


async def test_a_cursor_at_which_another_row_stands_is_unknown(desk: Desk) -> None:
    """As after a file was copied back: the numbers were given again, for other changes."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"))))
    cursor = (await read(desk.store)).next_cursor
    async with desk.store.writing() as unit:
        await unit.connection.execute(sa.text("UPDATE change SET key = 'b'"))
        await unit.commit()
    with pytest.raises(CursorUnknownError):
        await read(desk.store, cursor)
    async with desk.store.writing() as unit:
        await unit.connection.execute(sa.text("DELETE FROM change"))
        await unit.commit()
    with pytest.raises(CursorUnknownError):
        await read(desk.store, cursor)


@pytest.mark.parametrize(
    "restored",
    [
        pytest.param("epoch = epoch", id="written by another transaction, as a dump is"),
        *(
            pytest.param(f"{one}, txid = pg_current_xact_id()::text::bigint", id=one)
            for one in ("system_id = 'another'", "timeline = timeline + 1", "seq = 99")
        ),
    ],
)
async def test_a_restored_database_begins_a_new_epoch(
    postgresql_url: str, open_store: Callable[..., Store], clock: ManualClock, restored: str
) -> None:
    """Noticed once; cursors given before are unknown, and new ones go on."""
    store = open_store(postgresql_url)
    await file_consent(store, clock)
    desk = Desk(store, clock)
    await store.keep_history()
    await store.keep_history()
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"))))
    cursor = (await read(store)).next_cursor
    async with store.writing() as unit:
        first = await unit.epochs.current()
        await unit.connection.execute(sa.text(f"UPDATE feed_epoch SET {restored}"))
        await unit.commit()
    await store.keep_history()
    await store.keep_history()
    async with store.reading() as unit:
        second = await unit.epochs.current()
    with pytest.raises(CursorUnknownError):
        await read(store, cursor)
    fresh = await now(store)
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"), transaction("b"))))

    assert (first, second) == (1, 2)
    assert said(await read(store, fresh)) == [(Op.ADDED, "b")]
    assert said(await read(store)) == [(Op.ADDED, "a"), (Op.ADDED, "b")]


async def test_numbers_that_ran_backwards_begin_a_new_epoch_on_sqlite(
    sqlite_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """As where tables were filled from an older copy."""
    store = open_store(sqlite_url)
    await file_consent(store, clock)
    desk = Desk(store, clock)
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"), transaction("b"))))
    async with store.writing() as unit:
        began = [await unit.epochs.look()]
        await unit.connection.execute(sa.text("UPDATE sqlite_sequence SET seq = 1 WHERE name = 'change'"))
        began += [await unit.epochs.look(), await unit.epochs.look()]
        await unit.commit()

    assert began == [False, True, False]


async def test_an_open_transaction_is_named_with_the_lag_it_makes(
    postgresql_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> None:
    """The change is committed and not shown yet; who holds it back is said by its process, without a statement."""
    store = open_store(postgresql_url)
    await file_consent(store, clock)
    desk = Desk(store, clock)
    start = await now(store)
    async with store.writing() as slow:
        await slow.connection.execute(sa.text("SELECT pg_current_xact_id()"))
        pid = await slow.connection.scalar(sa.text("SELECT pg_backend_pid()"))
        await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("a"))))
        clock.advance(seconds=90)
        waiting = await read(store, start)
        async with store.reading() as unit:
            blockers = await unit.changes.blockers()
    after = await read(store, waiting.next_cursor)

    assert (said(waiting), waiting.lag_seconds) == ([], 90.0)
    assert (blockers[0].pid, blockers[0].since is not None) == (pid, True)
    assert (said(after), after.lag_seconds) == ([(Op.ADDED, "a")], 0.0)


def test_the_errors_tell_the_caller_what_to_do() -> None:
    """Each by a stable code."""
    errors: Sequence[RequestError] = (CursorTooOldError(), CursorUnknownError(), CursorFilterError())

    assert [one.code for one in errors] == ["cursor_too_old", "cursor_unknown", "cursor_filter"]
    assert all(str(one).startswith("cursor: ") and "begin again" in str(one) for one in errors)


async def _housekeeping(store: Store) -> int:
    async with store.writing() as unit:
        otherwise = [ConsentId(one) for one in await unit.use.otherwise(limit=10)]
        settled = await unit.use.settle(otherwise, at=await unit.now())
        await unit.commit()
    return len(settled)


def _successor(held: StoredConsent, consent_id: ConsentId) -> StoredConsent:
    awaiting = Status.AwaitingAuthorization.value
    return replace(held, consent_id=consent_id, base_consent_id=CONSENT, status=awaiting, status_updated_at=None)


async def _alive_again(unit: UnitOfWork, clock: ManualClock) -> None:
    """The Hub shows it Authorized, later than it showed its end."""
    later = clock.advance(hours=1)
    view = ConsentView(consent_id=CONSENT, status=Status.Authorized.value, status_updated_at=later)
    await unit.consents.observe(view, at=later)
