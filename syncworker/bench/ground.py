"""What a measurement stands on: a migrated database with consents in it, and the settings that reach the bench bank.

The consents come into the tables through the same repositories as in production, tokens sealed; only the visit to the
consent page is left out.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from syncworker.bench.bank import TOKEN_SECONDS, Bank, access_token, refresh_token
from syncworker.clock import SystemClock
from syncworker.lfi.keys import TransportCertificate
from syncworker.standard.permissions import Permission
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.keyring import KeyRing
from syncworker.store.tokens import NewToken
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind

LFI: Final = Slug("bench")
PERMISSIONS: Final = tuple(
    permission.value
    for permission in (
        Permission.ReadAccountsDetail,
        Permission.ReadBalances,
        Permission.ReadTransactionsDetail,
        Permission.ReadBeneficiariesDetail,
        Permission.ReadStandingOrdersDetail,
        Permission.ReadDirectDebits,
        Permission.ReadScheduledPaymentsDetail,
        Permission.ReadStatements,
        Permission.ReadProduct,
        Permission.ReadParty,
        Permission.ReadPartyUser,
    )
)
PLACED_AT_ONCE: Final = 500
"""Consents put into the tables in one transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What an operator would set for such a bank.

    Attributes:
        connections: of one worker process to the bank.
        open_claims: consents in work at once (`consents_at_once`).
    """

    connections: int = 8
    open_claims: int = 50

    @classmethod
    def of(cls, *, workers: int, in_flight: int) -> "Load":
        """For so many calls at once that the bank takes from all workers together."""
        return cls(connections=max(1, in_flight // workers), open_claims=max(cls().open_claims, in_flight))


def consent_id(consent: int) -> ConsentId:
    """The ConsentId of the bank's n-th customer."""
    return ConsentId(f"bench-{consent:06d}")


def number_of(connection_id: str) -> int:
    """Whose rows these are: the inverse of `consent_id`."""
    return int(connection_id.rpartition("-")[2])


def write_settings(folder: Path, bank: Bank, *, database_url: str, broker_url: str = "embedded", load: Load) -> Path:
    """Write `syncworker.toml`, and `keyring` unless there is one, and tell the file."""
    keyring, client = folder / "keyring", bank.identity.client
    if not keyring.exists():
        KeyRing.generate(keyring)
    file = folder / "syncworker.toml"
    values = {name: json.dumps(str(value)) for name, value in (
        ("client_id", client.client_id), ("redirect_uri", client.redirect_uri),
        ("signing_key", client.signing_key), ("signing_kid", client.signing_kid),
        ("transport_certificate", client.transport_certificate), ("transport_key", client.transport_key),
        ("ca_bundle", bank.identity.ca_bundle),
    )}  # fmt: skip
    client_lines = "\n".join(f"{name} = {value}" for name, value in values.items())
    file.write_text(
        f"""database_url = {json.dumps(database_url)}
broker_url = {json.dumps(broker_url)}
data_dir = {json.dumps(str(folder / "data"))}
keyring = {json.dumps(str(keyring))}
consents_at_once = {load.open_claims}

[client]
{client_lines}

[lfis.{LFI}]
issuer = {json.dumps(bank.origin)}
base_urls = {{ "v2.1" = {json.dumps(bank.base_url)} }}
allow_private_hosts = true
calls_per_second = 1000000
connections = {load.connections}
""",
        encoding="utf-8",
    )
    return file


async def place_consents(store: Store, bank: Bank, *, scheduled: bool = True) -> None:
    """Put every customer's consent and tokens into the tables, their syncs due at once.

    Args:
        scheduled: whether there is a row of work; without it nobody syncs them.
    """
    certificate = TransportCertificate.load(
        bank.identity.client.transport_certificate,
        bank.identity.client.transport_key,
        now=SystemClock().now(),
    ).thumbprint
    for start in range(0, bank.world.consents, PLACED_AT_ONCE):
        numbers = range(start, min(start + PLACED_AT_ONCE, bank.world.consents))

        async def step(unit: UnitOfWork, numbers: range = numbers) -> None:
            now = await unit.now()
            for number in numbers:
                await _place(unit, number, certificate=certificate, now=now, scheduled=scheduled)

        await store.atomically(step)


async def make_due(store: Store) -> None:
    """Ask for every connection now, as `consents sync` does: all its listings, whatever their cadence says."""

    async def step(unit: UnitOfWork) -> None:
        for connection in await unit.consents.connections():
            await unit.work.ask_now(WorkKind.SYNC, connection.connection_id)

    await store.atomically(step)


async def _place(unit: UnitOfWork, number: int, *, certificate: str, now: datetime, scheduled: bool) -> None:
    name = consent_id(number)
    await unit.consents.add_connection(
        Connection(connection_id=name, lfi=LFI, user_ref=f"customer-{number}", created_at=now, last_data_at=None)
    )
    await unit.consents.add(
        StoredConsent(
            consent_id=name,
            connection_id=name,
            user_ref=f"customer-{number}",
            lfi=LFI,
            version=Version.V2_1,
            status="Authorized",
            status_updated_at=now,
            status_seen_at=now,
            permissions=PERMISSIONS,
            expires_at=now.astimezone(UTC) + timedelta(days=180),
            user_type="Retail",
            purpose="AccountAggregation",
            created_at=now,
        )
    )
    tokens = NewToken(
        access_token=SecretStr(access_token(number)),
        refresh_token=SecretStr(refresh_token(number)),
        issued_at=now,
        expires_at=now + timedelta(seconds=TOKEN_SECONDS),
        certificate=certificate,
    )
    await unit.tokens.put_first(name, tokens)
    if scheduled:
        await unit.work.schedule(WorkKind.SYNC, name, lfi=LFI, due_at=now)
