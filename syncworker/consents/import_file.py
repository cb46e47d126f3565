"""The lines of a file of consents, in the standard's spelling: one JSON object each, checked member by member.

In: bytes.  Out: `Line`, or every fault of it at once.  No I/O but reading.  No message repeats a value of the file that
we did not recognise: it may be a secret that slipped into the wrong member.

Source: `domain.md` §3.2, §4.2; RFC 6749 appendix A.12, A.17 (what a token may consist of).
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any, BinaryIO, Final

from pydantic import SecretStr

from syncworker.errors import RequestError
from syncworker.standard.calendar import fault_of_day, fault_of_instant, read_day
from syncworker.standard.consents import (
    OnBehalfOf,
    Purpose,
    Status,
    UserType,
    read_on_behalf_of,
    read_subscription,
    root_of,
)
from syncworker.standard.permissions import BY_CODE, Permission, faults_of
from syncworker.standard.values import ConsentId, Slug, local_date, read_instant
from syncworker.standard.versions import HISTORY, Version

LINE_BYTES_MAX: Final = 65_536
ID_LENGTH: Final = 128

_EARLIEST: Final = min(Version, key=lambda version: version.rank)
"""Has the permissions of the versions before it, and more."""

_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,16384}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLFI:
    """What of an LFI's declaration an import is checked against.

    Attributes:
        versions: those it is declared with a base URL for.
        certificate: x5t#S256 of the transport certificate we use there; access tokens are bound to it.
    """

    versions: frozenset[Version]
    certificate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One consent of the file, every member checked by itself.

    Attributes:
        number: of the line, from 1.
        version: it is read on; `None` until its LFI is known, for a consent of a version no LFI serves.
        made_in: the version it was made in, where that is one of `HISTORY`.
        joins: the connection its root is held in; `None` while that was not looked for, or the root is not held.
        user_ref: `None` when the file does not say: then it is the root ConsentId, or that of the connection we hold.
        webhook_active: whether events are sent for it, as its `Subscription` says.
        uae_time: members whose instant came without an offset, and was read as UAE time.
        ignored: members of the line that mean nothing to us.
    """

    number: int
    consent_id: ConsentId
    lfi: Slug
    version: Version | None
    made_in: str | None = None
    permissions: tuple[str, ...]
    expires_at: datetime
    refresh_token: SecretStr
    access_token: SecretStr | None = None
    access_token_expires_at: datetime | None = None
    base_consent_id: ConsentId | None = None
    joins: ConsentId | None = None
    user_ref: str | None = None
    from_date: date | None = None
    to_date: date | None = None
    account_types: tuple[str, ...] | None = None
    account_sub_types: tuple[str, ...] | None = None
    on_behalf_of: OnBehalfOf | None = field(default=None, repr=False)
    user_type: str = ""
    purpose: str = ""
    webhook_active: bool | None = None
    uae_time: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()

    @property
    def connection_id(self) -> ConsentId:
        """The connection it belongs to: the one of its root, where that is held, else one named like the root."""
        return self.joins or root_of(self.consent_id, self.base_consent_id)

    @property
    def fingerprint(self) -> str:
        """Tells this refresh token from any other, and nothing else about it."""
        told = f"{self.consent_id}\n{self.refresh_token.get_secret_value()}"
        return hashlib.sha256(told.encode()).hexdigest()[:32]


def terms_faults(line: Line, known: KnownLFI) -> list[str]:
    """What keeps a line's terms from being used at its LFI; empty when nothing."""
    faults = _permission_faults(line)
    if line.version is not None and line.version not in known.versions:
        declared = sorted(known.versions, key=lambda one: one.rank)
        faults.append(
            f"standard_version: {line.lfi} is declared for {', '.join(declared)} only; "
            f"add {line.version.value} to its base_urls"
        )
    return faults


def _permission_faults(line: Line) -> list[str]:
    """Codes of no version or of other versions, and sets no Hub grants.

    A code that no version has any more passes: the consent may be older than that.
    """
    unknown = [number for number, code in enumerate(line.permissions, 1) if code not in set(Permission)]
    if unknown:
        numbers = ", ".join(map(str, unknown))
        return [f"Permissions: what stands at place {numbers} is not a permission of the standard"]
    faults = [fault.replace("permissions:", "Permissions:", 1) for fault in faults_of(line.permissions)]
    codes = [BY_CODE[Permission(code)] for code in line.permissions]
    version = line.version if line.version is not None and line.made_in is None else _EARLIEST
    return faults + [
        f"Permissions: {code.permission} is not in {line.made_in or version.value}"
        for code in codes
        if (versions := code.asked | code.granted) and version not in versions
    ]


def numbered(handle: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a file with their numbers, from 1, blank ones left out; `None` for one beyond `LINE_BYTES_MAX`.

    Never holds more than one line, however long the file or a line of it is.
    """
    number = 0
    while content := handle.readline(LINE_BYTES_MAX + 1):
        number += 1
        if number == 1:
            content = content.removeprefix(b"\xef\xbb\xbf")
        if len(content) > LINE_BYTES_MAX:
            while content and not content.endswith(b"\n"):
                content = handle.readline(LINE_BYTES_MAX)
            yield number, None
        elif content.strip():
            yield number, content


def read_line(number: int, content: bytes | None, *, tenant: str) -> Line:
    """One line of the file.

    Args:
        number: of the line, from 1.
        content: `None` for a line that is too long.
        tenant: the one this installation works for; a line may name no other.

    Raises:
        RequestError: every fault of the line, by member, without any value that may be a secret.
    """
    if content is None:
        raise RequestError(f"line: is longer than {LINE_BYTES_MAX} bytes")
    try:
        members = json.loads(content)
    except (ValueError, RecursionError):
        raise RequestError("line: is not JSON; write one object per line") from None
    if not isinstance(members, dict):
        raise RequestError("line: is not a JSON object")
    return _Reader(members, number).line(tenant)


def _is_date(text: str) -> bool:
    """Whether a text is a date without a time."""
    try:
        return bool(read_day(text))
    except ValueError:
        return False


class _Reader:
    """Reads the members of one line, and collects what is wrong with them."""

    def __init__(self, members: Mapping[str, Any], number: int) -> None:
        self._members = {name: value for name, value in members.items() if value is not None}
        self._number = number
        self._faults: list[str] = []
        self._read: set[str] = set()
        self._uae_time: set[str] = set()

    def line(self, tenant: str) -> Line:
        """The line.

        Raises:
            RequestError: it has faults.
        """
        self._check_tenant(tenant)
        self._check_status()
        billing = self._object("OpenFinanceBilling")
        consent_id, base = self._id("ConsentId", required=True), self._id("BaseConsentId")
        version, made_in = self._version()
        values: dict[str, Any] = {
            "consent_id": consent_id,
            "lfi": self._lfi(),
            "version": version,
            "made_in": made_in,
            "permissions": self._permissions(),
            "expires_at": self._instant("ExpirationDateTime", required=True),
            "refresh_token": self._token("refresh_token", required=True),
            "access_token": self._token("access_token"),
            "access_token_expires_at": self._instant("access_token_expires_at"),
            "base_consent_id": base if base != consent_id else None,  # before v2.1 a root may name itself
            "user_ref": self._id("user_ref"),
            "from_date": self._date("FromDate") or self._day("TransactionFromDateTime"),
            "to_date": self._date("ToDate") or self._day("TransactionToDateTime"),
            "account_types": self._words("AccountType"),
            "account_sub_types": self._words("AccountSubType"),
            "on_behalf_of": read_on_behalf_of(self._object("OnBehalfOf")),
            "webhook_active": self._subscribed(),
            "user_type": self._one_of("UserType", UserType, of=billing) or "",
            "purpose": self._one_of("Purpose", Purpose, of=billing) or "",
        }
        if (values["access_token"] is None) != (values["access_token_expires_at"] is None):
            self._fault("access_token", "comes with access_token_expires_at, or both are left out")
        if self._faults:
            raise RequestError("; ".join(dict.fromkeys(self._faults)))
        ignored = frozenset(name for name in self._members.keys() - self._read if _NAME.fullmatch(name))
        return Line(number=self._number, ignored=ignored, uae_time=frozenset(self._uae_time), **values)

    def _fault(self, name: str, words: str) -> None:
        self._faults.append(f"{name}: {words}")

    def _get(self, name: str, *, required: bool = False, of: Mapping[str, Any] | None = None) -> Any:
        self._read.add(name)
        value = (self._members if of is None else of).get(name)
        if required and value is None:
            self._fault(name, "is missing")
        return value

    def _text(self, name: str, pattern: re.Pattern[str], words: str, *, required: bool = False) -> str | None:
        value = self._get(name, required=required)
        if value is None:
            return None
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self._fault(name, words)
            return None
        return value

    def _check_tenant(self, tenant: str) -> None:
        named = self._get("tenant")
        if named is not None and named != tenant:
            self._fault("tenant", f"is not {tenant!r}, the one of these settings; import it where its tenant is served")

    def _check_status(self) -> None:
        status = self._get("Status")
        if status is not None and status != Status.Authorized:
            known = status if status in set(Status) else "not one of the standard"
            self._fault("Status", f"is {known}; only Authorized consents are imported")

    def _id(self, name: str, *, required: bool = False) -> ConsentId | None:
        value = self._get(name, required=required)
        if value is None:
            return None
        if not isinstance(value, str) or not 1 <= len(value) <= ID_LENGTH or not value.isprintable():
            self._fault(name, f"must be 1 to {ID_LENGTH} printable characters")
            return None
        return ConsentId(value)

    def _lfi(self) -> Slug:
        return Slug(self._text("lfi", _NAME, "must be the slug of a declared LFI", required=True) or "")

    def _token(self, name: str, *, required: bool = False) -> SecretStr | None:
        value = self._text(name, _TOKEN, "is not a token (printable ASCII without spaces)", required=required)
        return None if value is None else SecretStr(value)

    def _permissions(self) -> tuple[str, ...]:
        codes = self._get("Permissions", required=True)
        if codes is None:
            return ()
        if isinstance(codes, list):  # D-27: v2.1 before its errata nested them
            codes = [code for one in codes for code in (one if isinstance(one, list) else [one])]
        if not isinstance(codes, list) or not all(isinstance(code, str) and _NAME.fullmatch(code) for code in codes):
            self._fault("Permissions", "must be a list of permission codes")
            return ()
        return tuple(dict.fromkeys(codes))

    def _instant(self, name: str, *, required: bool = False) -> datetime | None:
        value = self._get(name, required=required)
        if value is None:
            return None
        try:
            moment, without_offset = read_instant(value)
        except (ValueError, TypeError):
            moment, without_offset = None, False
        if moment is None or _is_date(value):
            self._fault(name, "must be an instant, as 2027-01-31T00:00:00Z")
            return None
        if fault := fault_of_instant(moment):
            self._fault(name, fault)
            return None
        if without_offset:
            self._uae_time.add(name)
        return moment

    def _version(self) -> tuple[Version | None, str | None]:
        """The version a consent is read on, and the one it was made in where no LFI serves that any more."""
        value = self._get("standard_version", required=True)
        if value is None or (isinstance(value, str) and value in HISTORY):
            return None, value
        try:
            return Version(value), None
        except ValueError:
            self._fault("standard_version", f"must be one of {', '.join([*sorted(HISTORY), *Version])}")
            return None, None

    def _words(self, name: str) -> tuple[str, ...] | None:
        """A list of words of the standard; words that no version has are kept, for an LFI may have sent them."""
        words = self._get(name)
        if words is None:
            return None
        if not isinstance(words, list) or not all(isinstance(word, str) and _NAME.fullmatch(word) for word in words):
            self._fault(name, "must be a list of words")
            return None
        return tuple(dict.fromkeys(words)) or None

    def _subscribed(self) -> bool | None:
        for name in ("Subscription", "subscription"):
            self._object(name)
        return read_subscription(self._members)

    def _date(self, name: str) -> date | None:
        value = self._get(name)
        if value is None:
            return None
        try:
            day = read_day(value)
        except (ValueError, TypeError):
            self._fault(name, "must be a date, as 2027-01-31")
            return None
        if fault := fault_of_day(day):
            self._fault(name, fault)
            return None
        return day

    def _day(self, name: str) -> date | None:
        """The window as versions before v2.1 have it: of an instant the day in the UAE counts."""
        moment = self._instant(name)
        return None if moment is None else local_date(moment)

    def _object(self, name: str) -> Mapping[str, Any]:
        value = self._get(name)
        if value is not None and not isinstance(value, dict):
            self._fault(name, "must be an object")
        return value if isinstance(value, dict) else {}

    def _one_of(
        self, name: str, words: type[StrEnum], *, required: bool = False, of: Mapping[str, Any] | None = None
    ) -> Any:
        value = self._get(name, required=required, of=of)
        if value is None:
            return None
        try:
            return words(value)
        except ValueError:
            self._fault(name, f"must be one of {', '.join(words)}")
            return None
