"""Whether a sender must bring a bearer JWT: as its settings say, else as the versions of its LFIs demand."""

from typing import Any

import pytest

from syncworker import settings as settings_module
from syncworker import wiring
from syncworker.standard.values import Slug
from syncworker.standard.versions import Version

pytestmark = pytest.mark.unit

V = Version
OLD, NEW, BOTH = Slug("old"), Slug("new"), Slug("both")
SERVED = {OLD: [V.V1_2, V.V2_0], NEW: [V.V2_1], BOTH: [V.V2_0, V.V2_1]}


@pytest.mark.parametrize(
    ("sender", "expected"),
    [
        pytest.param({"lfis": [OLD]}, True, id="v1.2 and v2.0 demand it"),
        pytest.param({"lfis": [NEW]}, False, id="v2.1 does not declare it"),
        pytest.param({"lfis": [BOTH]}, False, id="an LFI that serves v2.1 too"),
        pytest.param({"lfis": [OLD, NEW]}, False, id="LFIs of both kinds"),
        pytest.param({}, False, id="every LFI, and one serves v2.1"),
        pytest.param({"lfis": ["unheard-of"]}, False, id="an LFI that is not declared"),
        pytest.param({"lfis": [OLD], "bearer": False}, False, id="the setting wins: taken without"),
        pytest.param({"lfis": [NEW], "bearer": True}, True, id="the setting wins: refused without"),
    ],
)
def test_each_sender_brings_a_bearer_jwt_where_its_version_demands_one(sender: dict[str, Any], expected: bool) -> None:
    """A setting per sender; absent, the newest version its LFIs serve decides."""
    given = {"jwks_url": "https://keystore.example/jwks", **sender}
    settings = settings_module.Settings(events={"senders": {"https://noor.example": given}})  # type: ignore[arg-type]

    assert wiring.senders(settings, SERVED)["https://noor.example"].bearer is expected


def test_where_every_lfi_is_old_a_sender_of_all_of_them_brings_one() -> None:
    """No `lfis`: those that are declared."""
    given = {"jwks_url": "https://keystore.example/jwks"}
    settings = settings_module.Settings(events={"senders": {"https://noor.example": given}})  # type: ignore[arg-type]

    assert wiring.senders(settings, {OLD: [V.V2_0]})["https://noor.example"].bearer is True
