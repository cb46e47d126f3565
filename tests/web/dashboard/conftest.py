"""Fixtures of the dashboard's tests."""

import pytest

from tests.web.dashboard.desk import Desk
from tests.web.dashboard.filled_exports import EXPORTS
from tests.web.house import WEB, Opener


@pytest.fixture
async def desk(open_house: Opener, database_url: str) -> Desk:
    """The web application on filled tables, with an operator who is signed in."""
    return await Desk.opened(await open_house(database_url, web=WEB + EXPORTS))


@pytest.fixture
async def small_desk(open_house: Opener, sqlite_url: str) -> Desk:
    """The same where one database is enough."""
    return await Desk.opened(await open_house(sqlite_url, web=WEB + EXPORTS))
