"""`consents reconcile` and `consents subscribe`, as a person gives them."""

import pytest

from tests.cli.conftest import Prepared
from tests.cli.house import House

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]


def test_reconcile_says_by_its_exit_code_whether_something_differed(prepared: Prepared, house: House) -> None:
    """0, then 3 when the row says something else than the Hub, then 0 again: the Hub was followed."""
    same = house.run("consents", "reconcile", "--json")
    house.sql("UPDATE consent SET status = 'Suspended' WHERE consent_id = ?", prepared.consent_id)
    differing = house.run("consents", "reconcile", "--json")
    mended = house.run("consents", "reconcile")

    assert (same.code, same.json) == (
        0,
        {"consents": 1, "chains": 1, "not_allowed": 0, "drift": [], "unanswered": []},
    ), same.said
    (drift,) = differing.json["drift"]
    assert (differing.code, drift["consent"], drift["what"], drift["held"], drift["hub"]) == (
        3,
        prepared.consent_id,
        "status",
        "Suspended",
        "Authorized",
    )
    assert (mended.code, mended.stdout, mended.stderr) == (0, "", "nothing differs: 1 consents, 1 chains\n")


def test_reconcile_fails_when_nobody_can_be_asked(house: House) -> None:
    """Nothing differs that is known of; exit 1, and the consents are named."""
    house.set("transport_key", "keys/none.pem")

    ended = house.run("consents", "reconcile", "--json")

    assert (ended.code, {one["error"] for one in ended.json["unanswered"]}) == (1, {"settings"})


def test_subscribe_writes_down_what_a_worker_tells_the_hub(prepared: Prepared, house: House) -> None:
    """One of --on and --off has to be said."""
    unsaid = house.run("consents", "subscribe", prepared.consent_id)
    on = house.run("consents", "subscribe", prepared.consent_id, "--on", "--json")
    status = house.run("status", "--json")

    assert unsaid.code == 2
    assert (on.code, on.json["webhook_wanted"], on.json["webhook_active"]) == (0, True, None)
    assert status.json["subscriptions_pending"] == 1
