"""Interaction ids: UUIDs of version 4 that lead back to the run they were made for."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncworker.standard.interaction import (
    Interactions,
    id_of,
    mark_in,
    mark_of,
    new_interaction_id,
    second_of,
    tail_of,
)

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)


def test_ids_are_uuids_of_version_4_and_share_the_mark_of_their_run() -> None:
    """A thousand of one run: each another, all with the run's mark."""
    ids = Interactions(NOW)
    made = [ids.new() for _ in range(1_000)]

    assert len(set(made)) == 1_000
    assert {(uuid.UUID(one).version, uuid.UUID(one).variant, str(uuid.UUID(one)) == one) for one in made} == {
        (4, uuid.RFC_4122, True)
    }
    assert {mark_in(one) for one in made} == {ids.mark}
    assert second_of(ids.mark) == NOW.timestamp()


def test_ids_of_one_second_do_not_look_alike() -> None:
    """Of no run, made one after the other: hardly two begin with the same eight digits."""
    assert len({new_interaction_id(NOW)[:8] for _ in range(1_000)}) > 950


@given(st.integers(0, (1 << 48) - 1), st.binary(min_size=10, max_size=10))
def test_a_mark_and_a_tail_make_an_id_and_come_back(mark: int, tail: bytes) -> None:
    """For every mark; what is no UUID of version 4 has none."""
    made = id_of(mark, tail)
    is_version_4 = made[14] == "4" and made[19] in "89ab"

    assert mark_in(made) == (mark if is_version_4 else None)
    assert tail_of(made, id_of(mark, bytes(10))[:13]) == tail


def test_marks_are_in_the_order_of_time() -> None:
    """A later second has the higher mark, whatever the chance in it."""
    assert mark_of(NOW, 65_535) < mark_of(NOW + timedelta(seconds=1))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda one: one.upper(), id="upper case"),
        pytest.param(lambda one: f"{one[:14]} {one[15:]}", id="a space"),
        pytest.param(lambda one: one.replace("-", ""), id="no dashes"),
        pytest.param(lambda one: one + "0", id="longer"),
        pytest.param(lambda one: "0" * 8 + one[8:], id="of another mark"),
        pytest.param(lambda one: "interaction-1", id="no UUID"),
        pytest.param(lambda one: "", id="nothing"),
        pytest.param(lambda one: one[:14] + "٤" + one[15:], id="a digit that is not ASCII"),
    ],
)
def test_an_id_written_otherwise_has_no_tail(other: object) -> None:
    """Packed, it would not come back as it was."""
    assert callable(other)
    ids = Interactions(NOW)
    head = ids.new()[:13]

    assert tail_of(other(ids.new()), head) is None


def test_the_mark_of_an_id_in_upper_case_is_found() -> None:
    """As a person pastes it."""
    ids = Interactions(NOW)
    assert mark_in(ids.new().upper()) == ids.mark
