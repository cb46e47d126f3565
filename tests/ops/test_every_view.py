"""What breaks an installation is named by `status`, dashboard, metrics and an alert, by one number, and goes away.

`tests.ops.breakages` is the same with figures; the table of docs/operations.md comes from there.
"""

from collections.abc import Iterator

import pytest

from tests.ops.breakages import BREAKAGES, Breakage, measured, standing
from tests.ops.installation import Installation, Views

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

SOON = frozenset({"worker", "broker", "certificate", "feed", "deliveries"})
"""The others take longer, or show on another part what these show: with --all-databases."""

OTHERS = [
    pytest.param(one, id=one.name, marks=[] if one.name in SOON else [pytest.mark.long])
    for one in BREAKAGES
    if one.servers
]
OF_UP = [pytest.param(one, id=one.name, marks=[pytest.mark.long]) for one in BREAKAGES if not one.servers]


@pytest.fixture(scope="module")
def installed() -> Iterator[tuple[Installation, Views]]:
    """PostgreSQL, Valkey, and a process for each part."""
    with standing(servers=True) as those:
        yield those


@pytest.fixture(scope="module")
def installed_by_up() -> Iterator[tuple[Installation, Views]]:
    """`syncworker up` on SQLite, whose file system is small."""
    try:
        with standing(servers=False) as those:
            yield those
    except OSError as error:
        pytest.skip(f"no file system of its own: {error}")


@pytest.mark.parametrize("breakage", OTHERS)
def test_every_view_names_the_same_cause(installed: tuple[Installation, Views], breakage: Breakage) -> None:
    """With one number, until it is mended."""
    _shown(installed, breakage)


@pytest.mark.parametrize("breakage", OF_UP)
def test_every_view_names_the_same_cause_of_up(installed_by_up: tuple[Installation, Views], breakage: Breakage) -> None:
    """With one number, until it is mended."""
    _shown(installed_by_up, breakage)


def _shown(those: tuple[Installation, Views], breakage: Breakage) -> None:
    site, views = those
    if not breakage.fits():
        pytest.skip("cannot be made on this machine")
    found = measured(site, views, breakage)

    assert None not in (found.status, found.dashboard, found.metric, found.number, found.over), found
    assert found.alert or not views.scraped, found
