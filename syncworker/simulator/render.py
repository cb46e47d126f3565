"""Write what the bank knows, twice from the same objects: as items of the API, and as rows of the bank's own books.

The books name their columns as a reader would ask for them; the words are those of our tables' typed columns:

- accounts: status, currency, account_type, account_sub_type, nickname, description, opening_date
- balances: type, currency, credit_debit_indicator, amount, signed_amount, date_time
- transactions: status, credit_debit_indicator, amount, signed_amount, currency, booking_date_time, booking_date (in the
  UAE), value_date_time, transaction_date_time, transaction_type, sub_transaction_type, transaction_reference,
  transaction_information, merchant_name, merchant_category_code, counterparty_name
- account_parties, parties: party_type, party_category, account_role

Amounts are decimal text, instants UTC with microseconds (`2026-05-01T09:30:00.123000+00:00`), dates ISO; what is
absent is null.

Source: Account Information API v2.1-errata2, `AEAccountArrayId`, `AEBalance`, `AETransaction`,
`AEPartyIdentityAssurance2`, `AEPartyIdentityAssurance4`.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from syncworker.simulator.ledger import Account, Balance, PartyRole, Person, Style, Transaction
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import UAE, local_date

Item = dict[str, Any]
ENCODER: Final = msgspec.json.Encoder(decimal_format="number")  # an ExchangeRate is a JSON number, to its last digit
BIC: Final = "SANDAEAD"
PLACES: Final = {"KWD": 3, "BHD": 3, "OMR": 3, "JPY": 0}


def instant(moment: datetime, style: Style = Style.MILLIS) -> str:
    """An instant as the bank writes it."""
    if style is Style.UAE:
        return moment.astimezone(UAE).isoformat(timespec="milliseconds")
    if style is Style.LOCAL:
        return moment.astimezone(UAE).replace(tzinfo=None).isoformat(timespec="seconds")
    places = "milliseconds" if style is Style.MILLIS else "seconds"
    return moment.astimezone(UTC).isoformat(timespec=places).replace("+00:00", "Z")


def money(amount: Decimal, currency: str) -> Item:
    """`{Amount, Currency}`, unsigned, with at least the digits the currency has."""
    return {"Amount": _digits(abs(amount), currency), "Currency": currency}


def account_item(account: Account, *, with_id: bool = True) -> Item:
    """An `AEAccountArrayId`; without its id it is an `AEAccountId`."""
    identifiers = [
        {"SchemeName": "IBAN", "Identification": account.iban, "Name": account.holder.full_name[:70]},
        {"SchemeName": "AccountNumber", "Identification": account.number},
    ]
    if account.masked_pan:
        identifiers.append({"SchemeName": "MaskedPAN", "Identification": account.masked_pan})
    item = {
        "AccountId": account.account_id,
        "AccountHolderName": account.holder.full_name,
        "AccountHolderShortName": account.holder.surname,
        "Status": account.status,
        "Currency": account.currency,
        "AccountType": "Retail",
        "AccountSubType": account.sub_type,
        "Description": account.description,
        "Nickname": account.nickname,
        "OpeningDate": instant(account.opened_at),
        "AccountIdentifiers": identifiers,
        "Servicer": {"SchemeName": "BICFI", "Identification": BIC},
        "IsShariaCompliant": account.sharia,
    }
    if not with_id:
        del item["AccountId"]
    return _present(item)


def balance_item(balance: Balance) -> Item:
    """An `AEBalance`; zero is a Credit."""
    line = balance.credit_line
    return _present(
        {
            "CreditDebitIndicator": _indicator(balance.amount),
            "Type": balance.type,
            "DateTime": instant(balance.at, Style.UAE),
            "Amount": money(balance.amount, balance.currency),
            "CreditLine": None
            if line is None
            else [{"Included": False, "Type": "Pre-Agreed", "Amount": money(line, balance.currency)}],
        }
    )


def transaction_item(row: Transaction) -> Item:
    """An `AETransaction`."""
    item: Item = {
        "TransactionId": row.transaction_id,
        "TransactionDateTime": instant(row.happened_at, row.style),
        "LocalTimeZone": "UTC+04:00",
        "TransactionReference": row.reference,
        "TransactionType": row.kind,
        "SubTransactionType": row.sub_kind,
        "TerminalId": row.terminal_id,
        "Flags": list(row.flags) or None,
        "PaymentModes": "Online" if row.kind in ("ECommerce", "LocalBankTransfer") else None,
        "CreditDebitIndicator": "Credit" if row.credit else "Debit",
        "Status": row.status,
        "TransactionMutability": "Mutable" if row.status == "Pending" else "Immutable",
        "BookingDateTime": instant(row.booked_at, row.style),
        "ValueDateTime": row.value_at and instant(row.value_at, row.style),
        "TransactionInformation": row.narration,
        "Amount": money(row.amount, row.currency),
        "ChargeAmount": None if row.charge is None else money(row.charge, row.currency) | {"ChargeIncluded": False},
        "CurrencyExchange": _exchange(row),
        "BankTransactionCode": {"Domain": "PMNT"},
        "MerchantDetails": row.merchant
        and {
            "MerchantId": row.merchant.merchant_id,
            "MerchantName": row.merchant.name,
            "MerchantCategoryCode": row.merchant.category_code,
        },
        "CardInstrument": row.card
        and {"CardSchemeName": row.card[0], "InstrumentType": row.card[1], "Identification": row.card[2]},
        "SupplementaryData": row.supplementary,
    }
    if row.counterparty is not None:
        side = {"SchemeName": "IBAN", "Identification": row.counterparty.iban, "Name": row.counterparty.name}
        agent = {"SchemeName": "BICFI", "Identification": row.counterparty.bic}
        item |= (
            {"DebtorAgent": agent, "DebtorAccount": side}
            if row.credit
            else {"CreditorAgent": agent, "CreditorAccount": [side]}
        )
    return _present(item) | dict(row.stray)


def account_party_item(role: PartyRole) -> Item:
    """An `AEPartyIdentityAssurance2`: a person with their part in an account."""
    return party_item(role.person) | {"PartyType": role.party_type, "AccountRole": role.role}


def party_item(person: Person) -> Item:
    """An `AEPartyIdentityAssurance4`: the user themselves."""
    return {
        "PartyId": person.party_id,
        "PartyNumber": person.party_number,
        "PartyCategory": "Retail",
        "VerifiedClaims": [
            {
                "Verification": {"TrustFramework": "FI", "AssuranceLevel": "high"},
                "Claims": {
                    "IdentityType": "Person",
                    "FullName": person.full_name,
                    "GivenName": person.given_name,
                    "Surname": person.surname,
                    "EmiratesId": person.emirates_id,
                    "EmiratesIdExpiryDate": person.emirates_id_expiry.isoformat(),
                    "DateOfBirth": person.born.isoformat(),
                    "Nationality": person.nationality,
                    "Salary": person.salary,
                    "MobileNumber": person.mobile,
                    "Email": person.email,
                    "EmployerName": person.employer,
                    "SalaryTransfer": True,
                    "ResidentialAddress": {
                        "AddressType": "Residential",
                        "AddressLine": [person.street, person.town],
                        "TownName": person.town,
                        "CountrySubDivision": person.emirate,
                        "Country": "AE",
                    },
                },
            }
        ],
    }


def book_rows(resource: ResourceName, account: Account) -> list[Item]:
    """What the bank has of one resource of one account: `{account_id, key, item, columns}` for each item.

    `key` lists the parts of the natural key in the standard's order.
    """
    if resource is ResourceName.ACCOUNTS:
        return [_row("", (account.account_id,), account_item(account), _account_columns(account))]
    if resource is ResourceName.BALANCES:
        return [
            _row(account.account_id, (row.type, row.currency), balance_item(row), _balance_columns(row))
            for row in account.balances
        ]
    if resource is ResourceName.TRANSACTIONS:
        return [
            _row(account.account_id, (row.transaction_id,), transaction_item(row), _transaction_columns(row))
            for row in account.transactions
        ]
    if resource is ResourceName.ACCOUNT_PARTIES:
        return [
            _row(
                account.account_id,
                (role.person.party_id,),
                account_party_item(role),
                {"party_type": role.party_type, "party_category": "Retail", "account_role": role.role},
            )
            for role in account.parties
        ]
    raise ValueError(f"{resource}: belongs to no account")


def party_book_row(person: Person) -> Item:
    """The one row of `/parties`."""
    columns = {"party_type": None, "party_category": "Retail", "account_role": None}
    return _row("", (person.party_id,), party_item(person), columns)


def _row(account_id: str, key: tuple[str, ...], item: Item, columns: Item) -> Item:
    return {"account_id": account_id, "key": list(key), "item": item, "columns": columns}


def _account_columns(account: Account) -> Item:
    return {
        "status": account.status,
        "currency": account.currency,
        "account_type": "Retail",
        "account_sub_type": account.sub_type,
        "nickname": account.nickname,
        "description": account.description,
        "opening_date": _utc(account.opened_at),
    }


def _balance_columns(balance: Balance) -> Item:
    return {
        "type": balance.type,
        "currency": balance.currency,
        "credit_debit_indicator": _indicator(balance.amount),
        "amount": format(abs(balance.amount), "f"),
        "signed_amount": format(balance.amount, "f"),
        "date_time": _utc(balance.at),
    }


def _transaction_columns(row: Transaction) -> Item:
    booked = row.booked_at
    return {
        "status": row.stray.get("Status", row.status),
        "credit_debit_indicator": "Credit" if row.credit else "Debit",
        "amount": format(row.amount, "f"),
        "signed_amount": format(row.amount if row.credit else -row.amount, "f"),
        "currency": row.currency,
        "booking_date_time": _utc(booked, row.style),
        "booking_date": local_date(booked).isoformat(),
        "value_date_time": _utc(row.value_at, row.style) if row.value_at else None,
        "transaction_date_time": _utc(row.happened_at, row.style),
        "transaction_type": row.stray.get("TransactionType", row.kind),
        "sub_transaction_type": row.sub_kind,
        "transaction_reference": row.reference,
        "transaction_information": row.narration,
        "merchant_name": row.merchant.name if row.merchant else None,
        "merchant_category_code": row.merchant.category_code if row.merchant else None,
        "counterparty_name": row.counterparty.name if row.counterparty else None,
    }


def _utc(moment: datetime, style: Style = Style.MILLIS) -> str:
    """The instant the bank means; a style without a fraction means whole seconds."""
    whole = style in (Style.SECONDS, Style.LOCAL)
    kept = moment.replace(microsecond=0 if whole else moment.microsecond // 1000 * 1000)
    return kept.astimezone(UTC).isoformat(timespec="microseconds")


def _exchange(row: Transaction) -> Item | None:
    if row.exchange is None:
        return None
    return {
        "SourceCurrency": row.exchange.currency,
        "TargetCurrency": row.currency,
        "UnitCurrency": row.exchange.currency,
        "ExchangeRate": row.exchange.rate,
        "InstructedAmount": money(row.exchange.amount, row.exchange.currency),
    }


def _digits(amount: Decimal, currency: str) -> str:
    places = PLACES.get(currency, 2)
    exponent = amount.as_tuple().exponent
    given = -exponent if isinstance(exponent, int) else 0
    return f"{amount:.{max(places, given)}f}"


def _indicator(amount: Decimal) -> str:
    return "Debit" if amount < 0 else "Credit"


def _present(item: Item) -> Item:
    return {name: value for name, value in item.items() if value is not None}
