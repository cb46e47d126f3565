"""What we call an account, and by what it is known again: `account_reference`, a row for each account of a connection.

`account_id` is random and ours: readers get it in place of the LFI's `AccountId`, which another LFI may use too.  It is
made with the account's first row and stays: through renewal and a second chain of the connection, while the LFI no
longer shows the account, and when it shows it again.

`identity` says that two accounts are one: an HMAC of the IBAN under a key of the tenant (`tenant_keys`), the same for
every connection and every customer that shares the account, another for every tenant.  It follows the IBAN that the
account's row shows now.

Erasure keeps the row and takes the identity: the row holds no personal data, and a reader that holds rows of the
account must be able to hear that they are erased; the identity would still tell whose account it was.
"""

import hmac
import secrets
import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from syncworker.standard.values import AccountId, ConsentId
from syncworker.store.bulk import upsert_later
from syncworker.store.statements import Answer, Statement, named
from syncworker.store.tables import account_reference
from syncworker.store.tenant_keys import Purpose

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

_CHARACTERS: Final = string.digits + string.ascii_letters
_LENGTH: Final = 20
_KEY: Final = ("tenant", "connection_id", "lfi_account_id")


class NamedAccount(NamedTuple):
    """An account as its row shows it.

    Attributes:
        lfi_account_id: `AccountId`.
        iban: as `values.read_iban` gives it; `None` where it shows none.
    """

    connection_id: ConsentId
    lfi_account_id: str
    iban: str | None

    def __repr__(self) -> str:
        return "NamedAccount(…)"  # an IBAN never reaches a log


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountReference:
    """One row.

    Attributes:
        account_id: ours: `acc_` and 20 letters and digits.
        lfi_account_id: the LFI's `AccountId`.
        identity: `idn_` and 64 hexadecimal digits; `None`: no IBAN is known, or it was erased.
    """

    connection_id: ConsentId
    lfi_account_id: AccountId
    account_id: str
    identity: str | None = field(repr=False)
    created_at: datetime


def _rows() -> sa.Select[Any]:
    one = account_reference.c
    return sa.select(one.connection_id, one.lfi_account_id, one.account_id, one.identity, one.created_at)


_BY_ID: Final = Statement(
    lambda dialect: _rows().where(
        dialect.among(account_reference.c.account_id, "account_ids", tenant=named(account_reference.c.tenant))
    )
)
_OF_CONNECTIONS: Final = Statement(
    lambda dialect: _rows().where(
        dialect.among(account_reference.c.connection_id, "connection_ids", tenant=named(account_reference.c.tenant))
    )
)
_OF_LFI: Final = Statement(
    lambda _: _rows().where(
        account_reference.c.tenant == named(account_reference.c.tenant),
        account_reference.c.connection_id == named(account_reference.c.connection_id),
        account_reference.c.lfi_account_id == named(account_reference.c.lfi_account_id),
    )
)
_BY_IDENTITY: Final = Statement(
    lambda dialect: _rows().where(
        dialect.among(account_reference.c.identity, "identities", tenant=named(account_reference.c.tenant))
    )
)


class AccountReferences:
    """`account_reference` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    # -- look up -----------------------------------------------------------------------------------------------------

    async def get(self, account_ids: Collection[str]) -> dict[str, AccountReference]:
        """By our ids; those that are no account's are left out."""
        found = await _BY_ID.run(self._unit, tenant=self._unit.tenant, account_ids=sorted(set(account_ids)))
        return {one.account_id: one for one in _read(found)}

    async def of_lfi(self, connection_id: ConsentId, lfi_account_id: str) -> AccountReference | None:
        """By the LFI's `AccountId` within a connection."""
        those = {"connection_id": connection_id, "lfi_account_id": lfi_account_id}
        found = _read(await _OF_LFI.run(self._unit, tenant=self._unit.tenant, **those))
        return found[0] if found else None

    async def of_connections(self, connection_ids: Collection[ConsentId]) -> list[AccountReference]:
        """All of some connections, by connection and the LFI's id; those of erased accounts too."""
        those = sorted(set(connection_ids))
        found = _read(await _OF_CONNECTIONS.run(self._unit, tenant=self._unit.tenant, connection_ids=those))
        return sorted(found, key=lambda one: (one.connection_id, one.lfi_account_id))

    async def with_identities(self, identities: Collection[str]) -> list[AccountReference]:
        """All accounts with one of these identities: one account seen through several connections."""
        those = sorted(set(identities))
        found = _read(await _BY_IDENTITY.run(self._unit, tenant=self._unit.tenant, identities=those))
        return sorted(found, key=lambda one: (one.identity or "", one.connection_id, one.lfi_account_id))

    # -- write -------------------------------------------------------------------------------------------------------

    async def keep(self, accounts: Sequence[NamedAccount], *, at: datetime) -> None:
        """Make the references of accounts that have none, and have every identity follow the IBAN shown now.

        Call it in the transaction that writes the accounts' rows.  It may go with the commit.

        Raises:
            SealError: the tenant's key does not open.
        """
        if not accounts:
            return
        identities = await self._identities({one.iban for one in accounts if one.iban is not None})
        rows = [
            (
                self._unit.tenant,
                one.connection_id,
                one.lfi_account_id,
                fresh_account_id(),
                None if one.iban is None else identities[one.iban],
                at,
            )
            for one in sorted(accounts, key=lambda one: one[:2])
        ]
        columns = (*_KEY, "account_id", "identity", "created_at")
        await upsert_later(self._unit, account_reference, columns, rows, key=_KEY, replace=("identity",))

    async def _identities(self, ibans: Collection[str]) -> dict[str, str]:
        if not ibans:
            return {}
        key = await self._unit.tenant_keys.key(Purpose.IDENTITY)
        return {one: identity_of(key, one) for one in ibans}


def fresh_account_id() -> str:
    """An id that no account has: 119 random bits."""
    return "acc_" + "".join(secrets.choice(_CHARACTERS) for _ in range(_LENGTH))


def identity_of(key: bytes, iban: str) -> str:
    """The identity of the account with this IBAN.

    Args:
        key: of the tenant, for `Purpose.IDENTITY`.
        iban: as `values.read_iban` gives it.
    """
    return "idn_" + hmac.digest(key, iban.encode(), "sha256").hex()


def _read(answer: Answer) -> list[AccountReference]:
    return [
        AccountReference(
            connection_id=ConsentId(connection_id),
            lfi_account_id=AccountId(lfi_account_id),
            account_id=account_id,
            identity=identity,
            created_at=created_at,
        )
        for connection_id, lfi_account_id, account_id, identity, created_at in answer.rows
    ]
