"""What a refusal means: by status, code, kind of body, page, operation, version, and whether the listing had rows."""

from datetime import timedelta
from itertools import product

import pytest

from syncworker.errors import Body
from syncworker.standard.resources import BY_NAME, RESOURCES, ResourceName
from syncworker.standard.versions import Version
from syncworker.sync.refusals import (
    ABSENT,
    BLOCKED,
    FAULT,
    REFUSED,
    UNAUTHORIZED,
    Refusal,
    is_blocked,
    refusal,
)

pytestmark = pytest.mark.unit

N = ResourceName
NONE, STANDARD, FOREIGN = Body.NONE, Body.STANDARD, Body.FOREIGN
ORDERS, TRANSACTIONS, PARTIES, ACCOUNTS = N.STANDING_ORDERS, N.TRANSACTIONS, N.PARTIES, N.ACCOUNTS
V1, V2 = Version.V1_2, Version.V2_1
NEVER, HAD = False, True
CODES = (
    "", "AccessToken.InvalidScope", "AccessToken.Unauthorized", "Consent.Invalid", "Consent.Revoked",
    "Consent.TransientAccountAccessFailure", "Consent.AccountTemporarilyBlocked",
    "Consent.PermanentAccountAccessFailure", "GenericRecoverableError", "GenericError", "Resource.InvalidResourceId",
    "Resource.InvalidFormat", "Bank.Own",
)  # fmt: skip
STATUSES = (400, 401, 403, 404, 405, 406, 408, 409, 410, 415, 418, 422, 451)


def meaning(
    status: int,
    code: str = "",
    body: Body = NONE,
    page: int = 1,
    resource: ResourceName = ORDERS,
    version: Version = V2,
    had_rows: bool = False,
) -> Refusal:
    return refusal(status, code, body=body, page=page, resource=BY_NAME[resource], version=version, had_rows=had_rows)


# fmt: off
MEANINGS = [
    # status, code, body, page, operation, version, rows; meaning
    (404, "",                                        NONE,     1, ORDERS,       V2, NEVER, "absent 168 h"),
    (404, "Resource.InvalidResourceId",              STANDARD, 1, ORDERS,       V2, NEVER, "absent 168 h"),
    (404, "",                                        NONE,     1, PARTIES,      V1, NEVER, "absent 168 h"),
    (404, "",                                        NONE,     1, PARTIES,      V2, NEVER, "failed, retry"),
    (404, "",                                        FOREIGN,  1, ORDERS,       V2, NEVER, "failed, retry"),
    (404, "",                                        NONE,     1, ORDERS,       V2, HAD,   "failed, retry"),
    (404, "",                                        NONE,     2, ORDERS,       V2, NEVER, "failed, retry"),
    (404, "",                                        NONE,     1, ACCOUNTS,     V2, NEVER, "failed, retry"),
    (404, "",                                        NONE,     1, TRANSACTIONS, V1, NEVER, "failed, retry"),
    (404, "GenericRecoverableError",                 STANDARD, 1, ORDERS,       V2, NEVER, "failed, retry"),
    (404, "Consent.PermanentAccountAccessFailure",   STANDARD, 1, ORDERS,       V1, NEVER, "refused 24 h, ask, person"),
    (400, "Resource.InvalidFormat",                  STANDARD, 1, TRANSACTIONS, V2, NEVER, "refused 24 h, person"),
    (400, "Resource.InvalidFormat",                  STANDARD, 3, TRANSACTIONS, V2, NEVER, "failed, retry"),
    (400, "",                                        NONE,     1, TRANSACTIONS, V2, NEVER, "failed, retry"),
    (400, "",                                        FOREIGN,  1, TRANSACTIONS, V2, NEVER, "failed, retry"),
    (400, "Consent.Invalid",                         STANDARD, 1, TRANSACTIONS, V2, HAD,   "refused 24 h, ask, person"),
    (400, "Consent.Invalid",                         STANDARD, 2, TRANSACTIONS, V2, HAD,   "failed, ask, retry"),
    (400, "GenericRecoverableError",                 STANDARD, 1, TRANSACTIONS, V2, NEVER, "failed, retry"),
    (401, "",                                        NONE,     1, ORDERS,       V2, NEVER, "failed, ask, retry"),
    (401, "",                                        FOREIGN,  1, ORDERS,       V2, NEVER, "failed, ask, retry"),
    (400, "AccessToken.Unauthorized",                STANDARD, 1, ORDERS,       V1, NEVER, "failed, ask, retry"),
    (403, "AccessToken.InvalidScope",                STANDARD, 1, ORDERS,       V2, HAD,   "refused 24 h, ask, person"),
    (401, "AccessToken.InvalidScope",                STANDARD, 1, ORDERS,       V1, HAD,   "refused 24 h, ask, person"),
    (403, "Consent.TransientAccountAccessFailure",   STANDARD, 1, ORDERS,       V2, HAD,   "failed, ask, retry"),
    (400, "Consent.TransientAccountAccessFailure",   STANDARD, 1, ORDERS,       V1, HAD,   "failed, ask, retry"),
    (403, "Consent.AccountTemporarilyBlocked",       STANDARD, 1, ORDERS,       V2, HAD,   "refused 6 h, ask, retry"),
    (403, "Consent.PermanentAccountAccessFailure",   STANDARD, 1, ORDERS,       V2, HAD,   "refused 24 h, ask, person"),
    (403, "Consent.Revoked",                         STANDARD, 1, ORDERS,       V1, HAD,   "failed, ask, retry"),
    (403, "GenericRecoverableError",                 STANDARD, 1, ORDERS,       V2, NEVER, "failed, retry"),
    (403, "GenericError",                            STANDARD, 1, ORDERS,       V2, NEVER, "refused 24 h, ask, person"),
    (403, "",                                        NONE,     1, ORDERS,       V2, NEVER, "refused 24 h, ask, person"),
    (403, "",                                        FOREIGN,  1, ORDERS,       V2, NEVER, "failed, ask, retry"),
    (405, "",                                        NONE,     1, ORDERS,       V2, NEVER, "refused 24 h, person"),
    (406, "",                                        FOREIGN,  1, ORDERS,       V2, NEVER, "refused 24 h, person"),
    (415, "",                                        NONE,     2, ORDERS,       V2, NEVER, "failed, retry"),
    (410, "",                                        NONE,     1, ORDERS,       V2, NEVER, "failed, retry"),
    (410, "Resource.InvalidResourceId",              STANDARD, 2, ORDERS,       V2, HAD,   "failed, retry"),
    (408, "",                                        FOREIGN,  1, ORDERS,       V2, NEVER, "failed, retry"),
    (422, "Bank.Own",                                STANDARD, 1, ORDERS,       V2, NEVER, "refused 24 h, person"),
    (422, "",                                        NONE,     1, ORDERS,       V2, NEVER, "failed, retry"),
]
# fmt: on


def in_words(found: Refusal) -> str:
    """Outcome, how long it is remembered, and what follows."""
    remembered = "" if found.remember is None else f" {found.remember // timedelta(hours=1)} h"
    return (
        found.outcome + remembered + "".join(f", {name}" for name in ("ask", "retry", "person") if getattr(found, name))
    )


@pytest.mark.parametrize(("status", "code", "body", "page", "resource", "version", "had_rows", "expected"), MEANINGS)
def test_what_a_refusal_means(
    status: int,
    code: str,
    body: Body,
    page: int,
    resource: ResourceName,
    version: Version,
    had_rows: bool,
    expected: str,
) -> None:
    """In its context."""
    assert in_words(meaning(status, code, body, page, resource, version, had_rows)) == expected


def everywhere(body: Body, page: int) -> list[tuple[int, str, Refusal]]:
    """Every status and code, at every operation of every version, with and without rows."""
    return [
        (status, code, meaning(status, code, body, page, row.name, version, had_rows))
        for status, code, row, version, had_rows in product(STATUSES, CODES, RESOURCES, Version, (False, True))
    ]


def test_nothing_on_a_later_page_is_remembered() -> None:
    """The walk was cut: the listing is neither absent nor refused, whatever the status."""
    found = {(one.outcome, one.remember, one.retry) for body in Body for _, _, one in everywhere(body, page=2)}
    assert found == {("failed", None, True)}


def test_a_foreign_body_is_never_absent_and_its_code_never_counts() -> None:
    """A gateway's page says nothing about the account; only what the standard defines without a body stays."""
    found = {status for status, _, one in everywhere(FOREIGN, page=1) if one.remember is not None}
    assert found == {405, 406, 415}


def test_absent_is_believed_in_one_place_only() -> None:
    """404 on page 1, no foreign body, an operation that lists it in that version, a listing that never had rows."""
    for status, body, page, row, version, had_rows in product(
        STATUSES, Body, (1, 2), RESOURCES, Version, (False, True)
    ):
        code = "Resource.InvalidResourceId" if body is STANDARD else ""
        listed = version in row.lists_404
        believed = status == 404 and body is not FOREIGN and page == 1 and listed and not had_rows
        found = meaning(status, code, body, page, row.name, version, had_rows)
        assert (found is ABSENT) is believed, (status, body, page, row.name, version, had_rows)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("GenericRecoverableError", FAULT),
        ("AccessToken.Unauthorized", UNAUTHORIZED),
        ("Consent.AccountTemporarilyBlocked", BLOCKED),
    ],
)
def test_some_codes_mean_the_same_whatever_the_status(code: str, expected: Refusal) -> None:
    """v1.2 has one list of codes for all statuses."""
    assert {meaning(status, code, STANDARD) for status in STATUSES} == {expected}


def test_every_refusal_says_what_follows() -> None:
    """Complete, to be retried, or a person's matter: none of them is left without any."""
    for body, page in product(Body, (1, 2)):
        for status, code, one in everywhere(body, page):
            assert (one is ABSENT) != (one.retry or one.person), (status, code)
            assert not one.person or one.remember == REFUSED.remember


def test_a_blocked_account_is_known_by_its_error() -> None:
    """As the cursor keeps it."""
    assert is_blocked("refused_403:Consent.AccountTemporarilyBlocked")
    assert not is_blocked("refused_403:Consent.TransientAccountAccessFailure")
    assert not is_blocked(None)
