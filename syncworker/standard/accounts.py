"""The kinds of account a consent can be narrowed to, and how each version spells them.

`AccountType` has the same words in every version.  `AccountSubType` does not: v1.2 knows current and savings accounts
alone, and what v2.0 calls PersonalLoan is Finance since v2.1.  A wish is written in any of these words; `words_for`
spells it for the version of a request, and says which part of it that version has no word for.

Sources: Pushed Authorization Endpoint v1.2-errata1 and v2.0-errata1, `AEAccountTypeCode`, `AEAccountSubTypeCode`;
Authorization Endpoints v2.1-errata2, `AEBankDataSharing.AEExternalAccountTypeCode`, `…SubTypeCode`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from syncworker.standard.versions import Version

V = Version


class AccountType(StrEnum):
    """`AccountType` of a consent."""

    Retail = "Retail"
    SME = "SME"
    Corporate = "Corporate"


class AccountSubType(StrEnum):
    """`AccountSubType` of a consent, in the words of all versions."""

    CurrentAccount = "CurrentAccount"
    Savings = "Savings"
    CreditCard = "CreditCard"
    Mortgage = "Mortgage"
    Finance = "Finance"
    PersonalLoan = "PersonalLoan"


T = AccountSubType


@dataclass(frozen=True, slots=True)
class SubType:
    """One kind of account.

    Attributes:
        words: how each version's pushed request spells it; a version that is missing cannot ask for it.
    """

    words: Mapping[Version, AccountSubType]


# fmt: off
SUB_TYPES: Final[tuple[SubType, ...]] = (
    #        v1.2                          v2.0                          v2.1
    SubType({V.V1_2: T.CurrentAccount,     V.V2_0: T.CurrentAccount,     V.V2_1: T.CurrentAccount}),
    SubType({V.V1_2: T.Savings,            V.V2_0: T.Savings,            V.V2_1: T.Savings}),
    SubType({                              V.V2_0: T.CreditCard,         V.V2_1: T.CreditCard}),
    SubType({                              V.V2_0: T.Mortgage,           V.V2_1: T.Mortgage}),
    SubType({                              V.V2_0: T.PersonalLoan,       V.V2_1: T.Finance}),
)
# fmt: on

_BY_WORD: Final[Mapping[str, SubType]] = {word.value: one for one in SUB_TYPES for word in one.words.values()}


def sub_types_of(version: Version) -> tuple[AccountSubType, ...]:
    """Every `AccountSubType` a version's pushed request can name."""
    return tuple(one.words[version] for one in SUB_TYPES if version in one.words)


def words_for(version: Version, sub_types: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The same wish in a version's words, each once, and those of its words that this version cannot say."""
    said: list[str] = []
    unsaid: list[str] = []
    for wish in sub_types:
        word = _BY_WORD[wish].words.get(version) if wish in _BY_WORD else None
        if word is None:
            unsaid.append(wish)
        else:
            said.append(word.value)
    return tuple(dict.fromkeys(said)), tuple(unsaid)


def faults_of(
    account_types: Sequence[str] | None, sub_types: Sequence[str] | None, *, version: Version | None
) -> list[str]:
    """Say in words what the Hub would refuse about both lists; empty when nothing.

    Args:
        account_types, sub_types: `None` asks for every kind.
        version: of the request; `None` while it is not chosen: then the words of any version pass.
    """
    faults = []
    for name, given, known in (
        ("account_types", account_types, list(AccountType)),
        ("account_sub_types", sub_types, list(AccountSubType)),
    ):
        if given is not None and not given:
            faults.append(f"{name}: is empty; leave it out to ask for every kind")
        strange = [repr(one) for one in given or () if one not in known]
        if strange:
            faults.append(f"{name}: {', '.join(strange)} cannot be asked for; give some of {', '.join(known)}")
    if version is not None and not faults:
        _, unsaid = words_for(version, sub_types or ())
        if unsaid:
            said = ", ".join(sub_types_of(version))
            faults.append(
                f"account_sub_types: {version.value} has no word for {', '.join(unsaid)}; it knows {said}"
                f"{_elsewhere(unsaid)}"
            )
    return faults


def unsupported(
    account_types: Sequence[str] | None,
    sub_types: Sequence[str] | None,
    *,
    by_types: Sequence[str],
    by_sub_types: Sequence[str],
) -> list[str]:
    """What is asked for and an LFI does not declare to support, in words; empty when nothing.

    A list that names no kind of the standard says nothing, as an absent one.

    Args:
        by_types, by_sub_types: what the LFI declares (`AccountType` and `AccountSubType` of the directory).
    """
    faults = []
    for name, given, declared, kinds in (
        ("account_types", account_types, by_types, {one.value.lower(): one.value for one in AccountType}),
        ("account_sub_types", sub_types, by_sub_types, _KINDS),
    ):
        known = {kinds[one.lower()] for one in declared if one.lower() in kinds}
        missing = [one for one in given or () if kinds.get(one.lower(), one) not in known]
        if known and missing:
            faults.append(
                f"{name}: this LFI does not support {', '.join(missing)}; the directory says it supports "
                f"{', '.join(declared)}"
            )
    return faults


_KINDS: Final = {
    word.lower(): one.words[max(one.words, key=lambda version: version.rank)].value for word, one in _BY_WORD.items()
}
"""A word of any version, in lower case → the newest word of the same kind."""


def _elsewhere(unsaid: Sequence[str]) -> str:
    """The versions that can say all of it, as the end of a sentence."""
    others = [one.value for one in Version if not words_for(one, unsaid)[1]]
    return f", or ask on {' or '.join(others)}" if others else ""
