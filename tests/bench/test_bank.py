"""The bench bank in a process of its own: who gets what, and what it counts."""

import ssl
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import httpx
import pytest

from syncworker.bench.audit import AuditFailedError, ReadTable, expected
from syncworker.bench.bank import Bank, access_token, refresh_token
from syncworker.bench.books import World, account_id, listings, pages
from syncworker.bench.ground import consent_id
from syncworker.bench.phases import Phase, run_phases

pytestmark = pytest.mark.live

WORLD = World(consents=2, accounts=1, transactions=3, page_size=2, today=date(2026, 11, 21))


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    with Bank(WORLD, tmp_path_factory.mktemp("bank")) as running:
        yield running


@pytest.fixture
def client(bank: Bank) -> Iterator[httpx.Client]:
    bank.order(reset=True, changed=False, latency=0)
    context = ssl.create_default_context(cafile=bank.identity.ca_bundle)
    own = bank.identity.client
    context.load_cert_chain(own.transport_certificate, own.transport_key)
    with httpx.Client(verify=context) as made:
        yield made


def bearer(consent: int) -> dict[str, str]:
    return {"Authorization": f"Bearer {access_token(consent)}"}


def test_each_token_opens_its_own_consent_alone(bank: Bank, client: httpx.Client) -> None:
    """Another's account is refused, and so is no token."""
    accounts = f"{bank.base_url}/accounts"
    balances = f"{accounts}/{account_id(0, 0)}/balances"
    asked = [(accounts, bearer(0)), (balances, bearer(0)), (balances, bearer(1)), (balances, {})]

    assert [client.get(url, headers=headers).status_code for url, headers in asked] == [200, 200, 403, 401]


def test_it_counts_pages_and_different_pages(bank: Bank, client: httpx.Client) -> None:
    """Whatever window is asked for; a reset forgets."""
    for query in ("", "?fromBookingDateTime=2026-11-01T00%3A00%3A00Z", "?page=2"):
        client.get(f"{bank.base_url}/accounts/{account_id(1, 0)}/transactions{query}", headers=bearer(1))
    served = bank.order(reset=True)

    assert (served.pages, served.distinct, bank.order().pages) == (3, 2, 0)


def test_the_change_shows_at_once(bank: Bank, client: httpx.Client) -> None:
    """And goes again."""
    bodies = []
    for changed in (False, True, False):
        bank.order(changed=changed)
        urls = [
            f"{bank.base_url}/accounts/{account_id(0, 0)}/{name}" for name in ("transactions", "statements", "parties")
        ]
        bodies.append([client.get(url, headers=bearer(0)).content for url in [f"{bank.base_url}/accounts", *urls]])

    assert (bodies[0] == bodies[2], bodies[0] == bodies[1]) == (True, False)


def test_a_refresh_token_is_good_once(bank: Bank, client: httpx.Client) -> None:
    """The newest one alone is taken."""
    form = {"refresh_token": refresh_token(1), "client_assertion": "signed", "grant_type": "refresh_token"}
    first = client.post(f"{bank.origin}/token_endpoint", data=form)
    again = client.post(f"{bank.origin}/token_endpoint", data=form)
    newer = client.post(f"{bank.origin}/token_endpoint", data={**form, "refresh_token": first.json()["refresh_token"]})

    assert [one.status_code for one in (first, again, newer)] == [200, 400, 200]


def test_nobody_enters_without_a_certificate(bank: Bank) -> None:
    """mTLS, as at a bank."""
    context = ssl.create_default_context(cafile=bank.identity.ca_bundle)
    with httpx.Client(verify=context) as stranger, pytest.raises(httpx.TransportError):
        stranger.get(f"{bank.base_url}/accounts", headers=bearer(0))


class Idler:
    """Says that it synced."""

    name = "idler"

    def prepare(self, phase: Phase) -> None:
        pass

    def sync(self) -> None:
        pass

    def pids(self) -> list[int]:
        return []

    def read(self) -> None:
        pass

    def raw(self, item: bytes) -> bytes:
        return item


def test_a_contender_that_skips_work_fails(bank: Bank, tmp_path: Path) -> None:
    """Even one without rows to audit: the bank knows that nobody asked."""
    with pytest.raises(AuditFailedError, match="served 0 different pages"):
        list(run_phases(Idler(), bank, lambda one: expected(WORLD, changed=one), latency=0, database_pids=[]))


class Forgetful:
    """Reads every page each time, and keeps what it read the first time."""

    name = "forgetful"

    def __init__(self, bank: Bank, client: httpx.Client) -> None:
        self._bank = bank
        self._client = client

    def prepare(self, phase: Phase) -> None:
        pass

    def sync(self) -> None:
        for consent in range(WORLD.consents):
            for listing in listings(WORLD, consent, changed=False):
                for path, _ in pages(listing, WORLD, base_url=self._bank.base_url):
                    self._client.get(self._bank.base_url + path, headers=bearer(consent)).raise_for_status()

    def pids(self) -> list[int]:
        return []

    def read(self) -> ReadTable:
        kept = expected(WORLD, changed=False)
        return lambda table, _columns: [
            (consent_id(place.consent), place.account_id, place.key, *values) for place, values in kept[table].items()
        ]

    def raw(self, item: bytes) -> bytes:
        return item


def test_each_phase_is_audited_before_the_next(bank: Bank, client: httpx.Client) -> None:
    """Who asks for everything and does not write what changed is found in the phase in which it did not."""
    phases = run_phases(
        Forgetful(bank, client), bank, lambda one: expected(WORLD, changed=one), latency=0, database_pids=[]
    )
    passed = [next(phases).phase, next(phases).phase]

    assert passed == [Phase.FIRST, Phase.UNCHANGED]
    with pytest.raises(AuditFailedError, match="differs"):
        next(phases)
