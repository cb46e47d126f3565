"""How events of all versions are read.

What v2.1 sends is held against the official template in `tests/contract/test_events.py`.  No official file of v1.2
or v2.0 is at hand: their shapes here are built from the domain sheet (§7.3) and the account-opening guide's example
(D-18).
"""

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest

from syncworker.standard.events import Event, EventKind, read_event

pytestmark = pytest.mark.unit

K = EventKind
AT = datetime(2026, 11, 21, 10, tzinfo=UTC)
T = "2026-11-21T10:00:00Z"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            {"Data": {"ConsentId": "c", "Status": "Revoked", "StatusUpdateDateTime": T}, "Meta": {"ConsentId": "c"}},
            (K.CONSENT, "c", "Revoked", AT),
            id="v1.2, v2.0: Data is the consent, free-form",
        ),
        pytest.param(
            {"Data": {"ConsentId": "c", "Status": "Suspended", "StatusUpdateDateTime": T}, "Meta": {}},
            (K.CONSENT, "c", "Suspended", AT),
            id="v2.0: Meta is empty, Data names the subject",
        ),
        pytest.param(
            {"Data": {"ConsentId": "c", "Status": "Authorized", "StatusUpdateDateTime": "2026-11-21T14:00:00+0400"}},
            (K.CONSENT, "c", "Authorized", AT),
            id="v1.2: no Meta, an offset without colon",
        ),
        pytest.param(
            {
                "Data": {"AccountId": "a", "OpeningStatus": "Created", "OpeningStatusUpdateDateTime": T},
                "Links": {"Self": "https://rs.example/open-finance/account-opening/v2.0/accounts/a"},
                "Meta": {},
            },
            (K.OPENING, "a", "Created", AT),
            id="v2.0: the guide's account opening",
        ),
        pytest.param(
            {
                "Data": {"OpeningStatus": "Created"},
                "Links": {"Self": "https://rs.example/open-finance/account-opening/v2.0/accounts/a/status?x=1"},
                "Meta": {},
            },
            (K.OPENING, "a", "Created", None),
            id="v2.0-errata1: no AccountId but in the link",
        ),
        pytest.param(
            {"Data": {"PaymentId": "p", "ConsentId": "c", "Status": "Rejected", "RejectReasonCode": {"Code": "x"}}},
            (K.PAYMENT, "c", "Rejected", None),
            id="a payment, its reason an object as the guide prints it",
        ),
        pytest.param(
            {
                "Data": {
                    "ConsentId": "c",
                    "ControlParameters": {},
                    "StatusUpdateDateTime": {"StatusUpdateDateTime": T},
                },
                "Meta": {"ConsentId": "c"},
            },
            (K.PAYMENT_CONSENT, "c", None, AT),
            id="a payment consent, its dates wrapped (D-29)",
        ),
        pytest.param(
            {"Meta": {"ConsentId": "c", "EventType": "ResourceDeleted", "EventResource": "/payments/p"}},
            (K.PAYMENT, "c", None, None),
            id="deleted: no Data, the path tells",
        ),
        pytest.param(
            {"Meta": {"EventResource": "/account-access-consents/c"}}, (K.CONSENT, "c", None, None), id="the path alone"
        ),
        pytest.param(
            {"Data": {"PolicyId": "p"}, "Meta": {"PolicyId": "p", "EventResource": "/policies/p"}},
            (K.UNKNOWN, "", None, None),
            id="a kind nobody knows yet",
        ),
        pytest.param(
            {"Data": {"ConsentId": "c", "Status": "OnHold"}, "Meta": {"ConsentId": "c"}},
            (K.CONSENT, "c", "OnHold", None),
            id="a status nobody knows yet",
        ),
        pytest.param(
            {"Data": {"Status": 7, "StatusUpdateDateTime": "soon"}, "Meta": {"ConsentId": "c" * 129}},
            (K.UNKNOWN, "", None, None),
            id="what fits nowhere is left out",
        ),
        pytest.param(
            {"Data": {"ConsentId": "c\x00", "Status": "Re\nvoked"}, "Meta": ["ConsentId"]},
            (K.UNKNOWN, "", None, None),
            id="what no database or terminal should hold is left out",
        ),
        pytest.param(
            {"Data": {"ConsentId": " ", "Status": "Revoked"}, "Meta": {"ConsentId": 12345678901234567890}},
            (K.CONSENT, "12345678901234567890", "Revoked", None),
            id="an id typed as a number, and one that is blank",
        ),
        pytest.param({"Meta": {"ConsentId": 1.0}}, (K.UNKNOWN, "", None, None), id="a number with a point is no id"),
        pytest.param(
            {"Meta": {"EventResource": "/accounts/status"}}, (K.OPENING, "accounts", None, None), id="a stump"
        ),
    ],
)
def test_a_message_is_read(message: dict[str, Any], expected: tuple[Any, ...]) -> None:
    """Kind, subject, status and since when; whatever else is in it."""
    event = read_event(message, signed=b"")

    assert (event.kind, event.subject, event.status, event.status_updated_at) == expected


@pytest.mark.parametrize("message", [{}, {"Data": None, "Meta": None}, {"Data": "x"}, {"data": {}}])
def test_what_is_no_message_is_refused(message: dict[str, Any]) -> None:
    """Nothing could be filed of it."""
    with pytest.raises(ValueError, match="neither Data nor Meta"):
        read_event(message, signed=b"")


def test_the_same_event_is_known_again() -> None:
    """A dated one by its message, however it was signed and in whatever order; an undated one by what was signed."""
    dated: dict[str, Any] = {"Data": {"ConsentId": "c", "Status": "Revoked"}, "Meta": {"EventDateTime": T}}
    turned = {"Meta": dated["Meta"], "Data": dict(reversed(dated["Data"].items()))}
    later = dated | {"Meta": {"EventDateTime": "2026-11-21T10:00:01Z"}}
    undated = {"Data": dated["Data"], "Meta": {}}

    def digest(message: dict[str, Any], signed: bytes) -> bytes:
        return read_event(message, signed=signed).digest

    assert digest(dated, b"1") == digest(turned, b"2")
    assert digest(dated, b"1") != digest(later, b"1")
    assert digest(undated, b"1") == hashlib.sha256(b"1").digest()


def test_its_repr_tells_no_digest() -> None:
    """Ids, words and instants may stand in a log; nothing of the content."""
    event = read_event({"Data": {"OnBehalfOf": {"TradingName": "Falcon"}}, "Meta": {}}, signed=b"x")

    assert event == Event(kind=K.UNKNOWN, subject="", digest=event.digest)
    assert "Falcon" not in repr(event)
    assert "digest" not in repr(event)
