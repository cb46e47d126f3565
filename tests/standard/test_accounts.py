"""Kinds of account: how a wish is spelled in each version, and what is said where it cannot be."""

import pytest

from syncworker.standard.accounts import faults_of, sub_types_of, unsupported, words_for
from syncworker.standard.versions import Version

V = Version


@pytest.mark.parametrize(
    ("version", "wish", "said", "unsaid"),
    [
        pytest.param(V.V1_2, ["CurrentAccount", "Savings"], ("CurrentAccount", "Savings"), (), id="in every version"),
        pytest.param(V.V1_2, ["Savings", "CreditCard"], ("Savings",), ("CreditCard",), id="v1.2 has no cards"),
        pytest.param(V.V1_2, ["Finance", "PersonalLoan"], (), ("Finance", "PersonalLoan"), id="v1.2 has no loans"),
        pytest.param(V.V2_0, ["Finance"], ("PersonalLoan",), (), id="v2.0 calls it PersonalLoan"),
        pytest.param(V.V2_1, ["PersonalLoan"], ("Finance",), (), id="v2.1 calls it Finance"),
        pytest.param(V.V2_1, ["Finance", "PersonalLoan"], ("Finance",), (), id="two words of one kind"),
        pytest.param(V.V2_1, ["Takaful"], (), ("Takaful",), id="no version has it"),
    ],
)
def test_a_wish_is_spelled_in_the_words_of_the_version(
    version: Version, wish: list[str], said: tuple[str, ...], unsaid: tuple[str, ...]
) -> None:
    """And what the version has no word for is given back, never dropped."""
    assert words_for(version, wish) == (said, unsaid)


@pytest.mark.parametrize(
    ("types", "sub_types", "version", "faults"),
    [
        pytest.param(None, None, V.V1_2, [], id="nothing asked"),
        pytest.param(("Retail", "SME"), ("Savings",), V.V1_2, [], id="words of the version"),
        pytest.param(None, ("PersonalLoan",), V.V2_1, [], id="spelled otherwise there"),
        pytest.param(None, ("CreditCard",), None, [], id="no version chosen yet"),
        pytest.param((), None, None, ["account_types: is empty; leave it out to ask for every kind"], id="empty"),
        pytest.param(
            ("Personal",), None, None,
            ["account_types: 'Personal' cannot be asked for; give some of Retail, SME, Corporate"],
            id="an unknown type",
        ),
        pytest.param(
            None, ("CreditCard", "Savings"), V.V1_2,
            [("account_sub_types: v1.2 has no word for CreditCard; it knows CurrentAccount, Savings, "
             "or ask on v2.0 or v2.1")],
            id="a kind v1.2 does not have",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for_is_named_with_a_way_out(
    types: tuple[str, ...] | None, sub_types: tuple[str, ...] | None, version: Version | None, faults: list[str]
) -> None:
    """The field, the word, and what could be asked instead."""
    assert faults_of(types, sub_types, version=version) == faults


@pytest.mark.parametrize(
    ("types", "sub_types", "by_types", "by_sub_types", "refused"),
    [
        pytest.param(("Corporate",), None, (), (), [], id="the LFI says nothing"),
        pytest.param(("Corporate",), None, ("Private",), (), [], id="it says nothing the standard knows"),
        pytest.param(("Retail",), ("Finance",), ("RETAIL",), ("PersonalLoan",), [], id="other spellings"),
        pytest.param(None, None, ("Retail",), ("Savings",), [], id="every kind is asked for"),
        pytest.param(
            ("Retail", "Corporate"), ("Savings", "Mortgage"), ("Retail", "SME"), ("Savings",),
            ["account_types: this LFI does not support Corporate; the directory says it supports Retail, SME",
             "account_sub_types: this LFI does not support Mortgage; the directory says it supports Savings"],
            id="both lists",
        ),
    ],
)  # fmt: skip
def test_what_an_lfi_does_not_declare_is_refused_by_name(
    types: tuple[str, ...] | None,
    sub_types: tuple[str, ...] | None,
    by_types: tuple[str, ...],
    by_sub_types: tuple[str, ...],
    refused: list[str],
) -> None:
    """With what it does support; an LFI that says nothing supports everything."""
    assert unsupported(types, sub_types, by_types=by_types, by_sub_types=by_sub_types) == refused


@pytest.mark.parametrize("version", Version)
def test_every_word_of_a_version_stands_for_itself_there(version: Version) -> None:
    """A round trip changes nothing."""
    words = sub_types_of(version)
    assert words_for(version, words) == (words, ())
