"""What the bench bank knows: customers, accounts, items; as pages it serves and as rows an audit expects.

Every item follows from its numbers alone, so the bank's process and the audit make the same ones and exchange
nothing.  Each item has two states: as it was, and as it is after the change that touches every twentieth one, of every
resource and in nearly every listing.  The rows an audit expects are read from the items by a table of paths of its
own, so that a fault of our decoder cannot agree with itself.

All transactions of an account are booked within the last five days.  That lies inside the overlap a sync re-reads, so
an incremental reader asks for the same pages as one that knows no windows, and contenders differ in how they work and
not in how much they ask for.

Source: Account Information API v2.1-errata2, the schemas named like the functions.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from syncworker.standard.resources import BY_NAME, ResourceName, Shape
from syncworker.standard.values import UAE
from syncworker.store.tables import RECORD_TABLES, typed_columns

Item = dict[str, Any]
N = ResourceName

CHANGED_EVERY: Final = 20
"""One item in so many differs after the change: 5 %."""

BOOKED_WITHIN: Final = timedelta(days=5)
_ENCODE: Final = msgspec.json.Encoder().encode
_KINDS: Final = ("POS", "ECommerce", "ATM", "LocalBankTransfer", "BillPayments")
_MERCHANTS: Final = ("Corniche Grocers", "Marina Pharmacy", "Dune Fuel", "Falcon Telecom", "Oasis Books", "Pearl Café")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """How large the bank is.

    Attributes:
        accounts: of each consent.
        transactions: of each account.
        page_size: items on a page of transactions.
        today: the day the items are dated by.
    """

    consents: int = 200
    accounts: int = 2
    transactions: int = 200
    page_size: int = 100
    today: date

    @property
    def midnight(self) -> datetime:
        return datetime(self.today.year, self.today.month, self.today.day, tzinfo=UTC)


class Listing(NamedTuple):
    """One listing as a whole: whose it is, and its items in order."""

    consent: int
    account_id: str
    resource: ResourceName
    items: tuple[Item, ...]


class RowKey(NamedTuple):
    """Where a row stands in its table: consent number, account (`''` for none), key."""

    consent: int
    account_id: str
    key: str


def account_id(consent: int, account: int) -> str:
    """The bank's id of a customer's account, unique within the bank."""
    return f"{700_000_000_000 + consent * 100 + account}"


def listings(world: World, consent: int, *, changed: bool) -> Iterator[Listing]:
    """Everything a consent shows, listing by listing.

    Args:
        changed: as it is after the change.
    """
    count = consent * 7  # so that consents differ in which of their items change

    def made(make: Callable[..., Item], *numbers: int) -> Item:
        nonlocal count
        count += 1
        return make(world, consent, *numbers, changed and count % CHANGED_EVERY == 0)

    accounts = range(world.accounts)
    yield Listing(consent, "", N.ACCOUNTS, tuple(made(_account, one) for one in accounts))
    yield Listing(consent, "", N.PARTIES, (made(_party),))
    for one in accounts:
        for resource, (make, counted) in _BELOW_ACCOUNTS.items():
            numbers = range(counted(world))
            yield Listing(consent, account_id(consent, one), resource, tuple(made(make, one, n) for n in numbers))


def pages(listing: Listing, world: World, *, base_url: str) -> list[tuple[str, bytes]]:
    """The pages of a listing: path with query below `base_url`, and the JSON body.

    The first page answers whatever window is asked for, since every item lies in each.
    """
    resource = BY_NAME[listing.resource]
    path = resource.path.replace("{AccountId}", listing.account_id)
    size = world.page_size if listing.resource is N.TRANSACTIONS else max(1, len(listing.items))
    slices = [listing.items[start : start + size] for start in range(0, len(listing.items), size)] or [()]
    made = []
    for number, items in enumerate(slices, start=1):
        members: Item = {"AccountId": listing.account_id} if resource.per_account else {}
        members[resource.items] = items[0] if resource.shape is Shape.ONE else items
        links = {"Self": base_url + path} | ({"Next": f"{base_url}{path}?page={number + 1}"} if slices[number:] else {})
        meta: Item = {"TotalPages": len(slices)}
        if resource.window is not None:
            meta["FirstAvailableDateTime"] = _instant(world.midnight - timedelta(days=60))
        made.append((f"{path}?page={number}", _ENCODE({"Data": members, "Links": links, "Meta": meta})))
    return made


def rows(listing: Listing) -> Iterator[tuple[RowKey, tuple[Any, ...], bytes]]:
    """The rows a listing must have become: where, the compared columns in table order, the raw item."""
    for number, item in enumerate(listing.items, start=1):
        yield (
            RowKey(listing.consent, listing.account_id, key_of(listing.resource, item, number)),
            columns_of(listing.resource, item),
            _ENCODE(item),
        )


def key_of(resource: ResourceName, item: Mapping[str, Any], number: int) -> str:
    """An item's natural key within its account; its number in the listing where the standard gives none."""
    return "|".join(str(reach(item, path)) for path in BY_NAME[resource].key) or str(number)


def columns_of(resource: ResourceName, item: Mapping[str, Any]) -> tuple[Any, ...]:
    """An item's typed values in the order of `compared_columns`; absent members are `None`."""
    return tuple(read(reach(item, path), item) for path, read in _READ[resource])


def reach(item: Any, path: str) -> Any:
    """The member a dotted path leads to; `None` when it ends early."""
    for step in path.split("."):
        if isinstance(item, list):
            item = item[0]
        item = item.get(step) if isinstance(item, Mapping) else None
    return item


# -- items -------------------------------------------------------------------------------------------------------------


def _instant(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _money(fils: int) -> Item:
    return {"Amount": f"{fils // 100}.{fils % 100:02d}", "Currency": "AED"}


def _iban(number: int) -> str:
    return f"AE07033{number:016d}"


def _account(world: World, consent: int, account: int, changed: bool) -> Item:
    """`AEAccountArrayId`."""
    return {
        "AccountId": account_id(consent, account),
        "AccountHolderName": f"Customer {consent}",
        "Status": "Active",
        "Currency": "AED",
        "AccountType": "Retail",
        "AccountSubType": "Savings" if account else "CurrentAccount",
        "Description": "Everyday account",
        "Nickname": "Renamed" if changed else "Household",
        "OpeningDate": _instant(world.midnight - timedelta(days=900 + consent % 300)),
        "AccountIdentifiers": [
            {"SchemeName": "IBAN", "Identification": _iban(consent * 100 + account), "Name": f"Customer {consent}"}
        ],
        "Servicer": {"SchemeName": "BICFI", "Identification": "BENCAEAD"},
        "IsShariaCompliant": False,
    }


def _party(_world: World, consent: int, changed: bool) -> Item:
    """`AEPartyIdentityAssurance4`."""
    return {
        "PartyId": f"party-{consent}",
        "PartyNumber": f"{consent:08d}",
        "PartyCategory": "SME" if changed else "Retail",
        "VerifiedClaims": [
            {
                "Verification": {"TrustFramework": "FI", "AssuranceLevel": "high"},
                "Claims": {"IdentityType": "Person", "FullName": f"Customer {consent}", "Nationality": "AE"},
            }
        ],
    }


def _account_party(world: World, consent: int, _account_no: int, _n: int, changed: bool) -> Item:
    """`AEPartyIdentityAssurance2`."""
    role = "SeniorManagingOfficial" if changed else "Principal"
    return _party(world, consent, False) | {"PartyType": "Sole", "AccountRole": role}


def _balance(world: World, consent: int, account: int, n: int, changed: bool) -> Item:
    """`AEBalance`."""
    fils = 100_000 + (consent * 7919 + account * 131 + n * 17) % 9_000_000 + (1 if changed else 0)
    return {
        "CreditDebitIndicator": "Credit",
        "Type": ("InterimAvailable", "InterimBooked")[n],
        "DateTime": _instant(world.midnight - timedelta(hours=1)),
        "Amount": _money(fils),
    }


def _transaction(world: World, consent: int, account: int, n: int, changed: bool) -> Item:
    """`AETransaction`; the bank changes what it says about it."""
    mark = consent * 1009 + account * 131 + n
    booked = world.midnight - BOOKED_WITHIN * (n / max(1, world.transactions)) - timedelta(hours=2)
    credit = mark % 9 == 0
    kind = "LocalBankTransfer" if credit else _KINDS[mark % len(_KINDS)]
    item: Item = {
        "TransactionId": f"{consent:05d}-{account}-{n:06d}-{mark * 2_654_435_761 % 2**32:08x}",
        "TransactionDateTime": _instant(booked - timedelta(minutes=3)),
        "TransactionReference": f"REF{mark:012d}",
        "TransactionType": kind,
        "SubTransactionType": "MoneyTransfer" if kind == "LocalBankTransfer" else "Purchase",
        "CreditDebitIndicator": "Credit" if credit else "Debit",
        "Status": "Booked",
        "TransactionMutability": "Immutable",
        "BookingDateTime": _instant(booked),
        "ValueDateTime": _instant(booked),
        "TransactionInformation": f"{'Corrected' if changed else 'Card'} payment {mark} at a place with a longish name",
        "Amount": _money(500 + mark * 37 % 200_000),
        "BankTransactionCode": {"Domain": "PMNT"},
    }
    if kind == "LocalBankTransfer":
        side = {"SchemeName": "IBAN", "Identification": _iban(mark), "Name": f"Counterparty {mark % 4000}"}
        agent = {"SchemeName": "BICFI", "Identification": "EXMPAEAD"}
        sides = (
            {"DebtorAgent": agent, "DebtorAccount": side}
            if credit
            else {"CreditorAgent": agent, "CreditorAccount": [side]}
        )
        return item | sides
    merchant = _MERCHANTS[mark % len(_MERCHANTS)]
    return item | {
        "MerchantDetails": {
            "MerchantId": f"M{mark % 997:06d}",
            "MerchantName": merchant,
            "MerchantCategoryCode": f"{5000 + mark % 900}",
        },
        "CardInstrument": {"CardSchemeName": "VISA", "InstrumentType": "Contactless", "Identification": "**** 4242"},
    }


def _scheduled(world: World, consent: int, account: int, n: int, changed: bool) -> Item:
    """`AEScheduledPayment`."""
    return {
        "ScheduledPaymentId": f"sp-{consent}-{account}-{n}",
        "ScheduledType": "Execution",
        "ScheduledPaymentDateTime": _instant(world.midnight + timedelta(days=3 + n)),
        "InstructedAmount": _money(10_000 + consent + (1 if changed else 0)),
        "CreditorAccount": [{"SchemeName": "IBAN", "Identification": _iban(consent + n)}],
    }


def _standing(world: World, consent: int, account: int, n: int, changed: bool) -> Item:
    """`AEStandingOrder6`."""
    return {
        "StandingOrderId": f"so-{consent}-{account}-{n}",
        "StandingOrderType": "Recurring",
        "StandingOrderStatusCode": "Inactive" if changed else "Active",
        "Frequency": "EvryMnth",
        "FirstPaymentDateTime": _instant(world.midnight - timedelta(days=365)),
        "NextPaymentDateTime": _instant(world.midnight + timedelta(days=9)),
        "NumberOfPayments": "24",
        "FirstPaymentAmount": _money(50_000 + n),
        "NextPaymentAmount": _money(50_000 + n),
        "CreditorAccount": [{"SchemeName": "IBAN", "Identification": _iban(consent + n)}],
    }


def _debit(world: World, consent: int, account: int, n: int, changed: bool) -> Item:
    """`AEDirectDebit`."""
    return {
        "DirectDebitId": f"dd-{consent}-{account}-{n}",
        "MandateIdentification": f"MANDATE-{consent}-{n}",
        "DirectDebitStatusCode": "Inactive" if changed else "Active",
        "Name": "Desert Power and Water",
        "Frequency": "Monthly",
        "PreviousPaymentDateTime": _instant(world.midnight - timedelta(days=20)),
        "PreviousPaymentAmount": _money(30_000 + consent + n),
    }


def _beneficiary(_world: World, consent: int, account: int, n: int, changed: bool) -> Item:
    """`AEBeneficiary`."""
    return {
        "BeneficiaryId": f"ben-{consent}-{account}-{n}",
        "BeneficiaryType": "Activated",
        "AddedViaOF": n % 2 == 0,
        "Reference": f"{'Moved' if changed else 'Rent'} {n}",
        "CreditorAgent": {"SchemeName": "BICFI", "Identification": "EXMPAEAD", "Name": f"Payee {n}"},
        "CreditorAccount": [{"SchemeName": "IBAN", "Identification": _iban(consent * 10 + n)}],
    }


def _statement(world: World, consent: int, account: int, n: int, changed: bool) -> Item:
    """`AEStatements`; the newest closed before the last few days."""
    closing = world.today - timedelta(days=10 + 30 * n)
    return {
        "StatementId": f"st-{consent}-{account}-{n}",
        "StatementDate": closing.isoformat(),
        "OpeningDate": (closing - timedelta(days=29)).isoformat(),
        "ClosingDate": closing.isoformat(),
        "OpeningBalance": {"CreditDebitIndicator": "Credit", "Amount": _money(400_000 + consent + n)},
        "ClosingBalance": {
            "CreditDebitIndicator": "Debit" if n % 3 else "Credit",
            "Amount": _money(90_000 + consent + n + (1 if changed else 0)),
        },
    }


def _product(_world: World, _consent: int, account: int, _n: int, changed: bool) -> Item:
    """`AEProduct1`."""
    return {
        "ProductName": "Everyday",
        "ProductCategory": "CurrentAccount",
        "IsShariaCompliant": False,
        "IsSecured": changed,
        "IsSalaryTransferRequired": account == 0,
    }


_BELOW_ACCOUNTS: Final[Mapping[ResourceName, tuple[Callable[..., Item], Callable[[World], int]]]] = {
    N.BALANCES: (_balance, lambda _: 2),
    N.TRANSACTIONS: (_transaction, lambda world: world.transactions),
    N.SCHEDULED_PAYMENTS: (_scheduled, lambda _: 2),
    N.STANDING_ORDERS: (_standing, lambda _: 2),
    N.DIRECT_DEBITS: (_debit, lambda _: 3),
    N.BENEFICIARIES: (_beneficiary, lambda _: 5),
    N.STATEMENTS: (_statement, lambda _: 2),
    N.PRODUCT: (_product, lambda _: 1),
    N.ACCOUNT_PARTIES: (_account_party, lambda _: 1),
}

# -- the columns of a row, by the paths of the standard -------------------------------------------------------------


def _as_is(value: Any, _item: Any) -> Any:
    return value


def _decimal(value: Any, _item: Any) -> Decimal | None:
    return None if value is None else Decimal(value)


def _signed(value: Any, item: Any) -> Decimal | None:
    return None if value is None else -Decimal(value) if item["CreditDebitIndicator"] == "Debit" else Decimal(value)


def _signed_side(value: Any, _item: Any) -> Decimal | None:
    return None if value is None else _signed(value["Amount"]["Amount"], value)


def _moment(value: Any, _item: Any) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


def _local(value: Any, _item: Any) -> date | None:
    return None if value is None else datetime.fromisoformat(value).astimezone(UAE).date()


def _day(value: Any, _item: Any) -> date | None:
    return None if value is None else date.fromisoformat(value)


def _counterparty(_value: Any, item: Any) -> Any:
    side = "CreditorAccount" if item["CreditDebitIndicator"] == "Debit" else "DebtorAccount"
    return reach(item, f"{side}.Name")


_READERS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "amount": _decimal,
    "signed_amount": _signed,
    "opening_balance": _signed_side,
    "closing_balance": _signed_side,
    "booking_date": _local,
    "statement_date": _day,
    "closing_date": _day,
    "counterparty_name": _counterparty,
}
_PATHS: Final[Mapping[ResourceName, Mapping[str, str]]] = {
    N.BALANCES: {"currency": "Amount.Currency", "amount": "Amount.Amount", "signed_amount": "Amount.Amount"},
    N.TRANSACTIONS: {
        "currency": "Amount.Currency",
        "amount": "Amount.Amount",
        "signed_amount": "Amount.Amount",
        "booking_date": "BookingDateTime",
        "merchant_name": "MerchantDetails.MerchantName",
        "merchant_category_code": "MerchantDetails.MerchantCategoryCode",
    },
    N.DIRECT_DEBITS: {"status": "DirectDebitStatusCode"},
    N.STANDING_ORDERS: {"status": "StandingOrderStatusCode"},
    N.SCHEDULED_PAYMENTS: {"amount": "InstructedAmount.Amount", "currency": "InstructedAmount.Currency"},
    N.STATEMENTS: {
        "opening_currency": "OpeningBalance.Amount.Currency",
        "closing_currency": "ClosingBalance.Amount.Currency",
    },
    N.BENEFICIARIES: {"added_via_of": "AddedViaOF"},
}


COMPARED: Final[Mapping[str, str]] = {
    "account": "status currency account_type account_sub_type nickname description opening_date",
    "balance": "type currency credit_debit_indicator amount signed_amount date_time",
    "transaction": (
        "status credit_debit_indicator amount signed_amount currency booking_date_time booking_date"
        " value_date_time transaction_date_time transaction_type sub_transaction_type"
        " transaction_reference transaction_information merchant_name merchant_category_code"
        " counterparty_name"
    ),
    "party": "party_type party_category account_role",
    "beneficiary": "beneficiary_type added_via_of reference",
    "direct_debit": (
        "mandate_identification status name frequency previous_payment_date_time previous_payment_amount"
        " previous_payment_currency"
    ),
    "standing_order": (
        "standing_order_type status frequency first_payment_date_time next_payment_date_time"
        " last_payment_date_time final_payment_date_time number_of_payments first_payment_amount"
        " first_payment_currency next_payment_amount next_payment_currency"
    ),
    "scheduled_payment": "scheduled_type scheduled_payment_date_time amount currency",
    "statement": (
        "statement_date opening_date closing_date opening_balance opening_currency closing_balance closing_currency"
    ),
    "product": "sharia_structure is_secured is_salary_transfer_required finance_rates",
    "account_detail": "status currency account_type account_sub_type nickname description opening_date",
}
"""The columns that contenders fill and audits compare, by table: the product fills more in the same time."""


def compared_columns(table: sa.Table) -> tuple[str, ...]:
    """Names of a record table's columns that are compared, in table order."""
    compared = COMPARED[table.name].split()
    return tuple(name for name in typed_columns(table) if name in compared)


def _columns(resource: ResourceName) -> tuple[tuple[str, Callable[[Any, Any], Any]], ...]:
    """Path and reader of each typed column; a column is named like its member unless `_PATHS` says otherwise."""
    found = []
    for column in compared_columns(RECORD_TABLES[resource]):
        prefix, _, last = column.rpartition("_payment_")
        path = _PATHS.get(resource, {}).get(column)
        if path is None and prefix and last in ("amount", "currency"):
            path = f"{prefix.title()}PaymentAmount.{last.title()}"
        if path is None:
            path = "".join(part.title() for part in column.split("_"))
        read = _READERS.get(column, _as_is)
        if column.endswith(("date_time", "opening_date")) and resource is not N.STATEMENTS:
            read = _moment
        elif column == "opening_date":
            read = _day
        elif column.endswith("payment_amount"):
            read = _decimal
        found.append((path, read))
    return tuple(found)


_READ: Final = {resource: _columns(resource) for resource in ResourceName}
