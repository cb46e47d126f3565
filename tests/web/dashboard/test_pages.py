"""The pages: well formed, escaped, with strict headers, and nothing on them that must not be."""

import pytest

from tests.web.dashboard.desk import Desk

pytestmark = pytest.mark.flow


async def test_every_page_shows_the_filled_tables(desk: Desk) -> None:
    """Each answers 200 as HTML."""
    for path in desk.paths():
        answer = await desk.get(path)
        assert (path, answer.status_code) == (path, 200), answer.text
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
