"""What a walk means for the records we hold."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncworker.store.records import Held
from syncworker.sync.diff import Changes, Proof, diff, open_since

pytestmark = pytest.mark.unit

A, B = b"a" * 16, b"b" * 16
AT = datetime(2026, 11, 10, 12, tzinfo=UTC)
SNAPSHOT = Proof(walk_complete=True, single_page=True)
WALK = Proof(walk_complete=True, single_page=False)
BROKEN = Proof(walk_complete=False, single_page=False)
WINDOW = Proof(walk_complete=True, single_page=True, since=AT - timedelta(days=7))
NARROW = Proof(walk_complete=True, single_page=True, since=AT - timedelta(days=7), reaches_back=False)
ENDED = Proof(walk_complete=True, single_page=True, until=AT - timedelta(days=7))


def keys(*names: str) -> frozenset[str]:
    return frozenset(names)


@pytest.mark.parametrize(
    ("seen", "held", "proof", "expected"),
    [
        pytest.param({"k": A}, {}, SNAPSHOT, Changes(new=keys("k")), id="never held is new"),
        pytest.param({"k": A}, {"k": Held(A)}, SNAPSHOT, Changes(), id="the same digest is nothing"),
        pytest.param({"k": B}, {"k": Held(A)}, SNAPSHOT, Changes(changed=keys("k")), id="another digest is a change"),
        pytest.param({"k": None}, {"k": Held(A)}, SNAPSHOT, Changes(), id="on a page that did not change"),
        pytest.param(
            {"k": A}, {"k": Held(A, gone=True)}, SNAPSHOT, Changes(revived=keys("k")), id="a tombstone returns"
        ),
        pytest.param(
            {"k": A}, {"k": Held(A, missed=True)}, WALK, Changes(found=keys("k")), id="missed once, found again"
        ),
        pytest.param(
            {"k": B}, {"k": Held(A, missed=True)}, WALK, Changes(changed=keys("k")), id="found again, changed"
        ),
        pytest.param({}, {"k": Held(A)}, SNAPSHOT, Changes(gone=keys("k")), id="absent from one page is gone"),
        pytest.param({}, {"k": Held(A)}, WALK, Changes(missed=keys("k")), id="absent from several pages is missed"),
        pytest.param(
            {}, {"k": Held(A, missed=True)}, WALK, Changes(gone=keys("k")), id="absent twice in a row is gone"
        ),
        pytest.param({}, {"k": Held(A)}, BROKEN, Changes(), id="a broken walk misses nothing"),
        pytest.param({}, {"k": Held(A, missed=True)}, BROKEN, Changes(), id="a broken walk buries nothing"),
        pytest.param({}, {"k": Held(A, gone=True)}, SNAPSHOT, Changes(), id="gone stays gone"),
        pytest.param(
            {}, {"k": Held(A, pending=True)}, WALK, Changes(missed=keys("k")), id="pending, from several pages"
        ),
        pytest.param({}, {"k": Held(A, pending=True)}, SNAPSHOT, Changes(gone=keys("k")), id="pending goes at once"),
        pytest.param({}, {"k": Held(A, AT)}, WINDOW, Changes(gone=keys("k")), id="inside the window"),
        pytest.param(
            {}, {"k": Held(A, AT - timedelta(days=8))}, WINDOW, Changes(), id="outside the window nothing is proved"
        ),
        pytest.param(
            {}, {"k": Held(A, AT)}, NARROW, Changes(missed=keys("k")), id="its date may have been corrected: missed"
        ),
        pytest.param(
            {}, {"k": Held(A, AT, missed=True)}, NARROW, Changes(), id="however often a narrow walk misses it"
        ),
        pytest.param(
            {}, {"k": Held(A, AT, pending=True)}, NARROW, Changes(gone=keys("k")), id="pending goes with a narrow walk"
        ),
        pytest.param({}, {"k": Held(A, None)}, WINDOW, Changes(), id="without an instant nothing is proved"),
        pytest.param(
            {}, {"k": Held(A, None, pending=True)}, WINDOW, Changes(gone=keys("k")), id="pending without an instant"
        ),
        pytest.param({}, {"k": Held(A, None, pending=True)}, ENDED, Changes(), id="unless the window has an end"),
        pytest.param({}, {"k": Held(A, AT)}, ENDED, Changes(), id="behind the window's end"),
        pytest.param(
            {}, {"k": Held(A, AT - timedelta(days=8), pending=True)}, WINDOW, Changes(), id="pending before the window"
        ),
    ],
)
def test_what_a_walk_means(
    seen: dict[str, bytes | None], held: dict[str, Held], proof: Proof, expected: Changes
) -> None:
    """One record, every case."""
    assert diff(seen, held, proof=proof) == expected


@given(
    seen=st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from([A, B, None])),
    held=st.dictionaries(
        st.sampled_from("abcdefgh"),
        st.builds(Held, st.sampled_from([A, B]), st.none(), st.booleans(), st.booleans(), st.booleans()),
    ),
    complete=st.booleans(),
    single=st.booleans(),
)
def test_no_record_that_was_shown_is_buried(
    seen: dict[str, bytes | None], held: dict[str, Held], complete: bool, single: bool
) -> None:
    """Whatever the proof: shown is never missed or gone, and the kinds of change exclude each other."""
    changes = diff(seen, held, proof=Proof(walk_complete=complete, single_page=single))
    kinds = [changes.new, changes.changed, changes.revived, changes.found, changes.missed, changes.gone]
    assert not (changes.missed | changes.gone) & seen.keys()
    assert sum(map(len, kinds)) == len(frozenset().union(*kinds))


@pytest.mark.parametrize(
    ("changes", "held", "shown", "expected"),
    [
        pytest.param(Changes(), {}, {"k": (AT, True)}, AT, id="a pending record just shown"),
        pytest.param(Changes(), {}, {"k": (AT, False)}, None, id="a booked one decides nothing"),
        pytest.param(Changes(missed=keys("k")), {"k": Held(A, AT)}, {}, AT, id="missed for the first time"),
        pytest.param(Changes(gone=keys("k")), {"k": Held(A, AT, pending=True)}, {}, None, id="gone is decided"),
        pytest.param(Changes(), {"k": Held(A, AT, pending=True)}, {}, AT, id="pending on a page that did not change"),
        pytest.param(Changes(found=keys("k")), {"k": Held(A, AT, missed=True)}, {}, None, id="found again"),
    ],
)
def test_how_long_a_window_stays_open(
    changes: Changes,
    held: dict[str, Held],
    shown: dict[str, tuple[datetime | None, bool]],
    expected: datetime | None,
) -> None:
    """The oldest record still undecided keeps the next window open as far as itself."""
    assert open_since(changes, held, shown) == expected
