"""A sender is told that its event was taken only once it lies in the inbox."""

import pytest

from syncworker.store.failures import StoreRefusedError
from tests.ground.commits import refuse_commits
from tests.webhooks.conftest import PostOffice, hold
from tests.webhooks.sender import EventSender, consent_message

pytestmark = pytest.mark.store


async def test_no_event_counts_as_taken_that_was_not_committed(
    office: PostOffice, sender: EventSender, database_url: str
) -> None:
    """The sender gets no good answer and sends it again; nothing is due for it."""
    await hold(office.store, office.clock, "consent-1")
    refuse_commits(database_url, "event", on="INSERT")

    with pytest.raises(StoreRefusedError):
        await office.take(sender.event(consent_message("consent-1", at=office.clock.now())))

    assert await office.due() == []
