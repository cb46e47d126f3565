"""Write what the bank knows, twice from the same objects: as items of the API, and as rows of the bank's own books.

The books name their columns as a reader would ask for them; the words are those of our tables' typed columns:

- accounts: status, currency, account_type, account_sub_type, nickname, description, opening_date, holder_name,
  holder_short_name, status_update_date_time, maturity_date, servicer_scheme, servicer_identification,
  is_sharia_compliant
- balances: type, currency, credit_debit_indicator, amount, signed_amount, date_time, credit_lines, components
- transactions: status, credit_debit_indicator, amount, signed_amount, currency, booking_date_time, booking_date (in the
  UAE), value_date_time, transaction_date_time, transaction_type, sub_transaction_type, transaction_reference,
  transaction_information, merchant_name, merchant_category_code, counterparty_name and everything else that the
  tables have; `UNSAID` is what this bank never says
- account_parties, parties: party_type, party_category, account_role, kind, name
- account: as accounts; the others are written by `arrangement_items`

Amounts are decimal text, instants UTC with microseconds (`2026-05-01T09:30:00.123000+00:00`), dates ISO; what is
absent is null.

Source: Account Information API v2.1-errata2, `AEAccountArrayId`, `AEBalance`, `AETransaction`,
`AEPartyIdentityAssurance2`, `AEPartyIdentityAssurance4`.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from syncworker.simulator.ledger import Account, Balance, Business, PartyRole, Person, Style, Transaction
from syncworker.standard.values import UAE, local_date

Item = dict[str, Any]
ENCODER: Final = msgspec.json.Encoder(decimal_format="number")  # an ExchangeRate is a JSON number, to its last digit
BIC: Final = "SANDAEAD"
VAT: Final = Decimal("0.05")
UNSAID: Final = (
    "counterparty_agent_name", "running_balance", "running_balance_currency", "running_balance_type",
    "exchange_contract", "exchange_quoted_at", "statement_reference", "bank_transaction_domain_code",
    "bank_transaction_family", "bank_transaction_family_code", "bank_transaction_sub_family",
    "bank_transaction_sub_family_code", "proprietary_transaction_code", "proprietary_transaction_code_issuer",
    "card_name", "is_primary_instrument", "biller_id", "bill_number", "bill_payment_type", "latitude", "longitude",
    "allocation_category", "allocation_amount", "allocation_currency",
)  # fmt: skip
"""Columns of transactions that this bank leaves empty."""
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
        {"SchemeName": "IBAN", "Identification": account.iban, "Name": account.holder.legal_name[:70]},
        {"SchemeName": "AccountNumber", "Identification": account.number},
    ]
    if account.masked_pan:
        identifiers.append({"SchemeName": "MaskedPAN", "Identification": account.masked_pan})
    identifiers += [{"SchemeName": scheme, "Identification": text} for scheme, text in account.references]
    item = {
        "AccountId": account.account_id,
        "AccountHolderName": account.holder.legal_name,
        "AccountHolderShortName": account.holder.surname,
        "Status": account.status,
        "Currency": account.currency,
        "AccountType": account.account_type,
        "AccountSubType": account.sub_type,
        "Description": account.description,
        "Nickname": account.nickname,
        "OpeningDate": instant(account.opened_at),
        "MaturityDate": account.matures_at and instant(account.matures_at),
        "AccountIdentifiers": identifiers,
        "Servicer": {"SchemeName": "BICFI", "Identification": BIC},
        "IsShariaCompliant": account.sharia,
    }
    if not with_id:
        del item["AccountId"]
    return present(item)


def balance_item(balance: Balance) -> Item:
    """An `AEBalance`; zero is a Credit."""
    line = balance.credit_line
    return present(
        {
            "CreditDebitIndicator": indicator(balance.amount),
            "Type": balance.type,
            "DateTime": instant(balance.at, Style.UAE),
            "Amount": money(balance.amount, balance.currency),
            "CreditLine": None
            if line is None
            else [{"Included": False, "Type": "Pre-Agreed", "Amount": money(line, balance.currency)}],
            "Components": [
                {"BalanceCategory": name, "Amount": money(part, balance.currency)} for name, part in balance.components
            ]
            or None,
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
        "ChargeAmountVat": None if row.charge is None else money(_vat(row.charge), row.currency),
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
        "PaymentPurposeCode": "SAL" if "Payroll" in row.flags else None,
    }
    if row.counterparty is not None:
        side = {"SchemeName": "IBAN", "Identification": row.counterparty.iban, "Name": row.counterparty.name}
        agent = {"SchemeName": "BICFI", "Identification": row.counterparty.bic}
        item |= (
            {"DebtorAgent": agent, "DebtorAccount": side}
            if row.credit
            else {"CreditorAgent": agent, "CreditorAccount": [side]}
        )
    return present(item) | dict(row.stray)


def account_party_item(role: PartyRole) -> Item:
    """An `AEPartyIdentityAssurance2`: a person with their part in an account."""
    return party_item(role.person) | {"PartyType": role.party_type, "AccountRole": role.role}


def party_item(person: Person) -> Item:
    """An `AEPartyIdentityAssurance4`: the user themselves, or the business they act for."""
    return {
        "PartyId": person.party_id,
        "PartyNumber": person.party_number,
        "PartyCategory": person.category,
        "VerifiedClaims": [
            {
                "Verification": {"TrustFramework": "FI", "AssuranceLevel": "high"},
                "Claims": _business_claims(person.business, person) if person.business else _personal_claims(person),
            }
        ],
    }


def _personal_claims(person: Person) -> Item:
    return {
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
    }


def _business_claims(business: Business, person: Person) -> Item:
    return {
        "IdentityType": "Business",
        "BusinessName": business.name,
        "TradeLicenceNumber": business.licence,
        "TaxIdentificationNumber": business.tax_number,
        "DateOfIncorporation": business.incorporated.isoformat(),
        "CountryOfIncorporation": "AE",
        "CorporateAddress": {
            "AddressType": "Business",
            "AddressLine": [person.street, person.town],
            "TownName": person.town,
            "CountrySubDivision": person.emirate,
            "Country": "AE",
        },
        "CorporateContactEmail": person.email,
        "CorporateContactPhoneNumber": person.mobile,
        "Industry": business.industry,
    }


# -- the books --------------------------------------------------------------------------------------------------------


def account_columns(account: Account) -> Item:
    """Columns of an account."""
    return {
        "status": account.status,
        "currency": account.currency,
        "account_type": account.account_type,
        "account_sub_type": account.sub_type,
        "nickname": account.nickname,
        "description": account.description,
        "opening_date": utc(account.opened_at),
        "holder_name": account.holder.legal_name,
        "holder_short_name": account.holder.surname,
        "status_update_date_time": None,
        "maturity_date": utc(account.matures_at) if account.matures_at else None,
        "servicer_scheme": "BICFI",
        "servicer_identification": BIC,
        "is_sharia_compliant": account.sharia,
    }


def balance_columns(balance: Balance) -> Item:
    """Columns of a balance."""
    return {
        "type": balance.type,
        "currency": balance.currency,
        "credit_debit_indicator": indicator(balance.amount),
        "amount": format(abs(balance.amount), "f"),
        "signed_amount": format(balance.amount, "f"),
        "date_time": utc(balance.at),
        "credit_lines": None
        if balance.credit_line is None
        else [{"included": False, "type": "Pre-Agreed", **plain_money(balance.credit_line, balance.currency)}],
        "components": [
            {"balance_category": name, **plain_money(part, balance.currency)} for name, part in balance.components
        ]
        or None,
    }


def transaction_columns(row: Transaction) -> Item:
    """Columns of a transaction."""
    booked, side, shop, card, exchange = row.booked_at, row.counterparty, row.merchant, row.card, row.exchange
    return dict.fromkeys(UNSAID) | {
        "status": row.stray.get("Status", row.status),
        "credit_debit_indicator": "Credit" if row.credit else "Debit",
        "amount": format(row.amount, "f"),
        "signed_amount": format(row.amount if row.credit else -row.amount, "f"),
        "currency": row.currency,
        "booking_date_time": utc(booked, row.style),
        "booking_date": local_date(booked).isoformat(),
        "value_date_time": utc(row.value_at, row.style) if row.value_at else None,
        "transaction_date_time": utc(row.happened_at, row.style),
        "transaction_type": row.stray.get("TransactionType", row.kind),
        "sub_transaction_type": row.sub_kind,
        "transaction_reference": row.reference,
        "transaction_information": row.narration,
        "merchant_name": shop.name if shop else None,
        "merchant_category_code": shop.category_code if shop else None,
        "merchant_id": str(shop.merchant_id) if shop and shop.merchant_id is not None else None,
        "terminal_id": None if row.terminal_id is None else str(row.terminal_id),
        "counterparty_name": side.name if side else None,
        "counterparty_scheme": "IBAN" if side else None,
        "counterparty_identification": side.iban if side else None,
        "counterparty_agent_scheme": "BICFI" if side else None,
        "counterparty_agent_identification": side.bic if side else None,
        "charge_amount": None if row.charge is None else format(row.charge, "f"),
        "charge_currency": None if row.charge is None else row.currency,
        "charge_included": None if row.charge is None else False,
        "charge_vat_amount": None if row.charge is None else format(_vat(row.charge), "f"),
        "charge_vat_currency": None if row.charge is None else row.currency,
        "exchange_source_currency": exchange and exchange.currency,
        "exchange_target_currency": exchange and row.currency,
        "exchange_unit_currency": exchange and exchange.currency,
        "exchange_rate": exchange and format(exchange.rate, "f"),
        "exchange_instructed_amount": exchange and format(exchange.amount, "f"),
        "exchange_instructed_currency": exchange and exchange.currency,
        "flags": list(row.flags) or None,
        "payment_mode": "Online" if row.kind in ("ECommerce", "LocalBankTransfer") else None,
        "payment_purpose_code": "SAL" if "Payroll" in row.flags else None,
        "mutability": "Mutable" if row.status == "Pending" else "Immutable",
        "local_time_zone": "UTC+04:00",
        "bank_transaction_domain": "PMNT",
        "card_scheme": card[0] if card else None,
        "card_instrument_type": card[1] if card else None,
        "card_masked_number": card[2] if card else None,
    }


def party_columns(party: Person | PartyRole) -> Item:
    """Columns of a party, with their part in an account when they have one."""
    if isinstance(party, PartyRole):
        return party_columns(party.person) | {"party_type": party.party_type, "account_role": party.role}
    return {
        "party_type": None,
        "party_category": party.category,
        "account_role": None,
        "kind": "Business" if party.business else "Person",
        "name": party.legal_name,
    }


def utc(moment: datetime, style: Style = Style.MILLIS) -> str:
    """The instant the bank means; a style without a fraction means whole seconds."""
    whole = style in (Style.SECONDS, Style.LOCAL)
    kept = moment.replace(microsecond=0 if whole else moment.microsecond // 1000 * 1000)
    return kept.astimezone(UTC).isoformat(timespec="microseconds")


def plain_money(amount: Decimal, currency: str) -> Item:
    """`money`, as a list in a column has it."""
    return {"amount": _digits(abs(amount), currency), "currency": currency}


def _vat(charge: Decimal) -> Decimal:
    """Five per cent, to the last digit that the charge has."""
    return (charge * VAT).quantize(charge)


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


def indicator(amount: Decimal) -> str:
    """`CreditDebitIndicator` of an amount with its sign; zero is a Credit."""
    return "Debit" if amount < 0 else "Credit"


def present(item: Item) -> Item:
    """An item without its absent members."""
    return {name: value for name, value in item.items() if value is not None}
