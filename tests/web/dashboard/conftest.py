"""Fixtures of the dashboard's tests."""

import pytest

from tests.web.dashboard.desk import Desk
from tests.web.house import WebHouse


@pytest.fixture
async def desk(web: WebHouse) -> Desk:
    """The web application on filled tables, with an operator who is signed in."""
    return await Desk.opened(web)


@pytest.fixture
async def small_desk(small_web: WebHouse) -> Desk:
    """The same where one database is enough."""
    return await Desk.opened(small_web)
