"""What an account-opening request may hold, as a table per version, and what is wrong with one.

A name that ends in `*` must be there.  The schemas are closed: a member they do not list is refused by the Hub, so we
refuse it first, naming the member and never its value.  One place is left open on purpose: `TrustFramework`, whose
published enum (`Undefined`) is contradicted by the data-sharing API the claims come from (D-38).

Plain v2.0 has no published file at hand.  Its guide shows requests that the file of v2.0-errata1 would not take, so
what that file alone demands is a warning for v2.0, not a refusal.  Refused in every version are what has another
structure, an object where an array or text stands or the other way round, and a webhook that is not https.

Sources: Account Opening API v2.0-errata1 and v2.1, `AECreateAccountRequestBody1`; Account Opening Service Initiation
API Guide v2.0.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from syncworker.standard.calendar import read_day, read_iso
from syncworker.standard.openings import OpeningVersion

AUDIT_ACTIONS: Final = ("Added", "Updated", "Removed")
NAME_SHOWN_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class Text:
    """A string.

    Attributes:
        firm: whether what is wrong with it is refused in every version.
    """

    least: int = 0
    most: int | None = None
    pattern: str | None = None
    form: str | None = None
    one_of: tuple[str, ...] = ()
    firm: bool = False


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number."""


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""


@dataclass(frozen=True, slots=True)
class Anything:
    """Whatever: the schema does not say."""


@dataclass(frozen=True, slots=True)
class Many:
    """An array."""

    of: "Shape"
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Object:
    """An object of listed members; those whose name ends in `*` must be there."""

    listed: Mapping[str, "Shape"]
    least: int = 0

    @property
    def members(self) -> dict[str, "Shape"]:
        """Members by their plain names."""
        return {name.rstrip("*"): shape for name, shape in self.listed.items()}

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the members that must be there."""
        return tuple(name[:-1] for name in self.listed if name.endswith("*"))


@dataclass(frozen=True, slots=True)
class Either:
    """One of several objects, told apart by a member where it says so."""

    of: tuple[Object, ...]
    by: str


Shape = Text | Whole | Number | Flag | Anything | Many | Object | Either

TEXT: Final = Text()
INSTANT: Final = Text(form="date-time")
DAY: Final = Text(form="date")


@lru_cache
def request_shape(version: OpeningVersion) -> Object:
    """The body of `POST /accounts`, the `message` of the signed JWT."""
    late = version is OpeningVersion.V2_1
    party = Object({"Verification": _verification(late=late), "Claims*": _claims(late=late)})
    account = Object(
        {
            "SchemeName": Text(one_of=("IBAN", "AccountNumber", "MaskedPAN", "MortgageReference", _loan(late=late))),
            "Identification": Text(1, 400),
            "Name": Text(1, 70),
        }
    )
    audit = Object({"JSONPath*": TEXT, "Action*": Text(one_of=AUDIT_ACTIONS), "OriginalValue": TEXT})
    data: dict[str, Shape] = {
        "LinkedOperations": Object({"FxQuoteId*": Text(1, 128, form="uuid")}, least=1),
        _must("Account", late): account,
        _must("Party", late): party,
        "DataSharingAudit": Many(audit),
    }
    if late:
        data["AnnualTransactionVolume"] = Whole()
    webhook = Object({"Url": Text(pattern=r"^https:\/\/.+", firm=True), "IsActive*": Flag()})
    return Object({_must("Data", late): Object(data), "Subscription": Object({"Webhook*": webhook})})


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a request.

    Attributes:
        line: `path: what is wrong`; never a value.
        firm: whether every version refuses it; else a version without a published file is only warned of it.
    """

    line: str
    firm: bool = False


WARNED: Final[Mapping[OpeningVersion, OpeningVersion]] = {OpeningVersion.V2_0: OpeningVersion.V2_0_ERRATA1}
"""Versions without a published file, and the version by whose file they are warned."""


def faults(body: object, version: OpeningVersion) -> list[str]:
    """What the Hub would refuse in a request, each line `path: what is wrong`; empty when nothing.  Never a value."""
    found = _faults(request_shape(version), body, "")
    return [one.line for one in found if one.firm or version not in WARNED]


def warnings(body: object, version: OpeningVersion) -> list[str]:
    """What may be wrong with a request of a version that has no published file, by the file of its errata."""
    if version not in WARNED:
        return []
    return [one.line for one in _faults(request_shape(version), body, "") if not one.firm]


def _must(name: str, yes: bool) -> str:
    return f"{name}*" if yes else name


def _loan(*, late: bool) -> str:
    return "FinanceReference" if late else "PersonalLoanReference"


def _address(*, late: bool) -> Object:
    lines = Many(TEXT, 1, 7)
    members: dict[str, Shape] = {
        "AddressType": Text(
            one_of=("Billing", "Business", "Correspondence", "DeliveryTo", "MailTo", "POBox", "Postal", "Permanent",
                    "Residential", "Statement", "Other")
        ),
        _must("AddressLine", late): lines,
        "BuildingNumber": Text(1, 16),
        "BuildingName": Text(1, 140),
        "Floor": Text(1, 70),
        "StreetName": Text(1, 140),
        "DistrictName": Text(1, 140),
        "PostBox": Text(1, 16),
        "TownName": Text(1, 140),
        "CountrySubDivision": Text(
            one_of=("AbuDhabi", "Ajman", "Dubai", "Fujairah", "RasAlKhaimah", "Sharjah", "UmmAlQuwain")
        ),
        "Country*": Text(pattern="^[A-Z]{2}$"),
    }  # fmt: skip
    return Object(members)


def _claims(*, late: bool) -> Either:
    person = Object(
        {
            "IdentityType*": Text(one_of=("Person",)), "FullName*": TEXT, "GivenName*": TEXT, "Surname*": TEXT,
            "MiddleName": TEXT, "Nickname": TEXT, "EmiratesId*": TEXT, "EmiratesIdExpiryDate*": DAY,
            "DateOfBirth": DAY, "SourceOfIncome": TEXT, "Salary": Number(), "Nationality": TEXT,
            "ResidentialAddress*": _address(late=late), "MobileNumber": TEXT, "Email": TEXT, "MaritalStatus": TEXT,
            "Salutation": TEXT, "Language": TEXT, "EmployerName": TEXT, "EmploymentSinceDate": DAY,
            "PowerofAttorney": Flag(), "SalaryTransfer": Flag(), "Profession": TEXT, "UpdatedAt": INSTANT,
        }
    )  # fmt: skip
    business = Object(
        {
            "IdentityType*": Text(one_of=("Business",)), "BusinessName": Text(1, 140), "TradeLicenceNumber": TEXT,
            "TaxIdentificationNumber": TEXT, "DateOfIncorporation": DAY, "CountryOfIncorporation": TEXT,
            "CorporateAddress": _address(late=late), "CorporateContactEmail": Text(form="email"),
            "CorporateContactPhoneNumber": TEXT, "Industry": TEXT, "CompanyWebsite": Text(form="uri"),
        }
    )  # fmt: skip
    return Either((person, business), by="IdentityType")


def _verification(*, late: bool) -> Object:
    evidence_ref = Object({"Txn*": TEXT, "EvidenceMetadata*": Object({"EvidenceClassification*": TEXT})})
    assurance = Object({"AssuranceType*": TEXT, "AssuranceClassification*": TEXT, "EvidenceRef*": Many(evidence_ref)})
    process = Object({"Policy*": TEXT, "Procedure*": TEXT, "AssuranceDetails*": Many(assurance)})
    return Object(
        {
            "TrustFramework*": TEXT,  # D-38: published as enum Undefined
            "AssuranceLevel": TEXT,
            "AssuranceProcess": process,
            "Time": INSTANT if late else Anything(),
            "VerificationProcess": TEXT,
            "Evidence": Either((_document(late=late), _record(late=late)), by="Type"),
        }
    )


def _document(*, late: bool) -> Object:
    kinds = ("passport", "driving_permit", "idcard", "residence_permit", *(("emirates_id",) if late else ()))
    details = Object(
        {
            "Type": Text(one_of=kinds), "DocumentNumber": TEXT, "PersonalNumber": TEXT, "SerialNumber": TEXT,
            "CalendarType": _CALENDAR, "DateOfIssuance": INSTANT, "DateOfExpiry": INSTANT,
            "Issuer": _issuer(late=late),
        }
    )  # fmt: skip
    return Object(
        {
            "Type": Text(one_of=("document",)) if late else Anything(),
            "CheckDetails": _CHECKS,
            "Verifier": Object({"Organization*": TEXT, "Txn": TEXT}),
            "Time": INSTANT,
            "DocumentDetails": details,
            "Attachments": _ATTACHMENTS,
        }
    )


def _record(*, late: bool) -> Object:
    kinds = ("bank_account", "mortgage_account", "finance_account" if late else "loan_account")
    record = Object(
        {
            "Type*": Text(one_of=kinds), "PersonalNumber*": TEXT, "CalendarType*": _CALENDAR, "CreatedAt*": INSTANT,
            "DateOfExpiry*": INSTANT, "Source*": _issuer(late=late),
        }
    )  # fmt: skip
    return Object(
        {
            "Type": Text(one_of=("electronic_record",)) if late else Anything(),
            "CheckDetails": _CHECKS,
            "Time": INSTANT,
            "Record": record,
            "Attachments": _ATTACHMENTS,
        }
    )


def _issuer(*, late: bool) -> Object:
    country = Object({"CountryCode*": Text(pattern="^[A-Z]{2,2}$")}) if late else Anything()
    return Object({"Name*": TEXT, "Address*": _address(late=late), "CountryCode*": country, "Jurisdiction*": TEXT})


_CALENDAR: Final = Text(one_of=("IslamicCalendar", "GregorianCalendar"))
_CHECKS: Final = Many(Object({"CheckMethod": TEXT, "Organization": TEXT, "Txn": TEXT, "Time": INSTANT}))
_ATTACHMENTS: Final = Object(
    {
        "AEPartyIdentityEvidenceAttachments*": Many(
            Object({"Desc*": TEXT, "ContentType*": TEXT, "Content*": TEXT, "Txn*": TEXT})
        )
    }
)


# -- judging -------------------------------------------------------------------------------------------------------


def _faults(shape: Shape, value: object, path: str) -> Iterator[Fault]:
    where = path or "body"
    match shape:
        case Object():
            yield from _faults_of_object(shape, value, path)
        case Either():
            yield from _faults_of_either(shape, value, path)
        case Many():
            if not isinstance(value, list):
                yield Fault(f"{where}: must be an array", firm=True)
            elif len(value) < shape.least or (shape.most is not None and len(value) > shape.most):
                yield Fault(f"{where}: must hold {shape.least} to {shape.most or 'any number of'} items")
            else:
                for number, item in enumerate(value):
                    yield from _faults(shape.of, item, f"{path}[{number}]")
        case Text():
            if fault := _fault_of_text(shape, value):
                yield Fault(f"{where}: {fault}", firm=shape.firm or _is_structure(value))
        case Whole() if isinstance(value, bool) or not isinstance(value, int):
            yield Fault(f"{where}: must be a whole number", firm=_is_structure(value))
        case Number() if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            yield Fault(f"{where}: must be a number", firm=_is_structure(value))
        case Flag() if not isinstance(value, bool):
            yield Fault(f"{where}: must be true or false", firm=_is_structure(value))


def _is_structure(value: object) -> bool:
    return isinstance(value, Mapping | list)


def _faults_of_object(shape: Object, value: object, path: str) -> Iterator[Fault]:
    if not isinstance(value, Mapping):
        yield Fault(f"{path or 'body'}: must be an object", firm=True)
        return
    at = f"{path}." if path else ""
    members = shape.members
    for name in shape.needed:
        if name not in value:
            yield Fault(f"{at}{name}: is missing")
    for name, inner in value.items():
        if name in members:
            yield from _faults(members[name], inner, f"{at}{name}")
        else:
            near = difflib.get_close_matches(str(name), members, n=1)
            meant = f"; {near[0]} is" if near else ""
            yield Fault(f"{at}{str(name)[:NAME_SHOWN_MAX]}: is not a member of the published schema{meant}")
    if len(value) < shape.least:
        yield Fault(f"{path or 'body'}: must not be empty")


def _faults_of_either(shape: Either, value: object, path: str) -> Iterator[Fault]:
    """Judged as the kind it says to be; where it says nothing known, as the kind it misses by the least."""
    if not isinstance(value, Mapping):
        yield Fault(f"{path}: must be an object", firm=True)
        return
    named = [one for one in shape.of if _is_named(one.members[shape.by], value.get(shape.by))]
    judged = [list(_faults(one, value, path)) for one in named or shape.of]
    yield from min(judged, key=len)


def _is_named(by: Shape, value: object) -> bool:
    return isinstance(by, Text) and value in by.one_of


def _fault_of_text(shape: Text, value: object) -> str:
    if not isinstance(value, str):
        return "must be text"
    if len(value) < shape.least or (shape.most is not None and len(value) > shape.most):
        return f"must have {shape.least} to {shape.most} characters"
    if shape.one_of and value not in shape.one_of:
        return f"must be one of {', '.join(shape.one_of)}"
    if shape.pattern and not re.search(shape.pattern, value):
        return f"must match {shape.pattern}"
    return _FORMS[shape.form](value) if shape.form else ""


def _day(text: str) -> str:
    try:
        good = read_day(text).isoformat() == text
    except ValueError:
        good = False
    return "" if good else "must be a date, as 2026-01-31"


def _moment(text: str) -> str:
    try:
        good = "T" in text and read_iso(text).tzinfo is not None
    except ValueError:
        good = False
    return "" if good else "must be a date-time with an offset, as 2026-01-31T00:00:00Z"


def _hint(_text: str) -> str:
    """Of a quote's id: "`format: uuid` is provided as a hint", and LFIs may choose another form (v2.1)."""
    return ""


def _email(text: str) -> str:
    return "" if re.fullmatch(r"[^@\s]+@[^@\s]+", text) else "must be an e-mail address"


def _uri(text: str) -> str:
    try:
        good = bool(urlsplit(text).scheme)
    except ValueError:
        good = False
    return "" if good else "must be a URI"


_FORMS: Final[Mapping[str, Callable[[str], str]]] = {
    "date": _day,
    "date-time": _moment,
    "uuid": _hint,
    "email": _email,
    "uri": _uri,
}


# -- the audit of edits ------------------------------------------------------------------------------------------------


def data_sharing_audit(original: Any, edited: Any, *, root: str = "$.Data.Party") -> list[dict[str, str]]:
    """`DataSharingAudit`: what the user changed in data that came by data sharing, leaf by leaf, in document order.

    Args:
        original: as the LFI shared it.
        edited: as it is sent.
        root: where both stand in the request, as RFC 9535 writes it.

    Returns:
        `{JSONPath, Action, OriginalValue?}`; the original value for `Updated` and `Removed` alone.  Empty: no edits.
    """
    return list(_edits(original, edited, root))


def _edits(before: Any, after: Any, path: str) -> Iterator[dict[str, str]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys((*before, *after)):
            yield from _edits(before.get(name, _ABSENT), after.get(name, _ABSENT), path + _member(name))
    elif _is_array(before) and _is_array(after):
        for number in range(max(len(before), len(after))):
            one, other = (items[number] if number < len(items) else _ABSENT for items in (before, after))
            yield from _edits(one, other, f"{path}[{number}]")
    elif _is_leaf(before) and _is_leaf(after):
        if before != after:
            yield {"JSONPath": path, "Action": "Updated", "OriginalValue": _plain(before)}
    else:  # one side is absent, or of another kind: what was there went, what is there came
        for place, value in _leaves(before, path):
            yield {"JSONPath": place, "Action": "Removed", "OriginalValue": _plain(value)}
        for place, _ in _leaves(after, path):
            yield {"JSONPath": place, "Action": "Added"}


_ABSENT: Final = object()


def _is_leaf(value: Any) -> bool:
    return value is not _ABSENT and not (value and (isinstance(value, Mapping) or _is_array(value)))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if value is _ABSENT:
        return
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, path + _member(name))
    elif _is_array(value) and value:
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{number}]")
    else:
        yield path, value


def _is_array(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _member(name: str) -> str:
    """RFC 9535 §2.5: the shorthand where a name allows it, else a quoted name selector."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        return f".{name}"
    quoted = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"['{quoted}']"


def _plain(value: Any) -> str:
    """A value as the text the schema wants."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "{}" if isinstance(value, Mapping) else "[]" if _is_array(value) else str(value)
