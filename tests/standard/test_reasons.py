"""What an LFI says about a refusal is kept on one line, bounded, and without what looks like a secret or a person."""

import re
import unicodedata
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncworker.standard.reasons import REASON_CHARACTERS_MAX, cleaned

pytestmark = pytest.mark.unit

TOKEN_LETTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
PARTS: Final = st.text(TOKEN_LETTERS, min_size=12, max_size=60)
DIGITS: Final = st.text("0123456789", min_size=15, max_size=15)
SEPARATORS: Final = st.sampled_from(["", " ", "-", ".", " - ", "\u200b", "\u00a0", "\u2011"])


def grouped(digits: str, groups: tuple[int, ...], separator: str) -> str:
    """Digits as people write them."""
    parts, rest = [], digits
    for length in groups:
        parts.append(rest[:length])
        rest = rest[length:]
    return separator.join(parts)


JWTS: Final = st.builds(lambda head, claims, mark: f"eyJ{head}.{claims}.{mark}", PARTS, PARTS, PARTS)
OPAQUE: Final = st.builds(lambda part, digit: f"{part}{digit}{part}", PARTS, st.sampled_from("0123456789"))
CARDS: Final = st.builds(lambda digits, mark: grouped(f"4{digits}", (4, 4, 4, 4), mark), DIGITS, SEPARATORS)
IDENTITIES: Final = st.builds(lambda digits, mark: grouped(f"784{digits[:12]}", (3, 4, 7, 1), mark), DIGITS, SEPARATORS)
TELEPHONES: Final = st.builds(
    lambda digits, mark: "+971" + mark + grouped(digits[:9], (2, 3, 4), mark), DIGITS, SEPARATORS
)
IBANS: Final = st.builds(
    lambda digits, mark: mark.join(re.findall(".{1,4}", f"AE07033{digits}1")), DIGITS, st.sampled_from(["", " ", "-"])
)
ADDRESSES: Final = st.builds(
    lambda name, host: f"{name}@{host}.ae", st.text("abcxyz.+", min_size=1), st.text("abcxyz", min_size=1)
)
WIDE: Final = CARDS.map(lambda text: "".join(chr(ord(one) + 0xFEE0) if one.isdigit() else one for one in text))
"""Digits of full width, as some keyboards write them."""

SECRETS: Final = st.one_of(JWTS, OPAQUE, CARDS, IDENTITIES, TELEPHONES, IBANS, ADDRESSES, WIDE)


def plain(text: str) -> str:
    """Letters and digits alone."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text)))


@given(st.text(max_size=3_000))
def test_what_is_kept_is_one_bounded_line_of_printable_characters(text: str) -> None:
    """No control, no direction, no separator of lines."""
    words = cleaned(text)
    assert len(words) <= REASON_CHARACTERS_MAX
    assert words.isprintable()
    assert not {unicodedata.category(one) for one in words} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert words == " ".join(words.split(" "))


@given(st.text(max_size=60), SECRETS, st.text(max_size=60))
def test_nothing_that_looks_like_a_secret_or_a_person_survives(before: str, secret: str, after: str) -> None:
    """Alone or among other words; seven digits in a row are too many already."""
    words = cleaned(f"{before} {secret} {after}")
    assert plain(secret) not in plain(words)
    assert not re.search(r"\d{7}", words)
    assert "eyJ" not in cleaned(secret)
    assert "@" not in cleaned(secret)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("redirect_uri is not registered", "redirect_uri is not registered"),
        ("Consent.AccountBlocked (at Data.Permissions.0)", "Consent.AccountBlocked (at Data.Permissions.0)"),
        ("line one\r\n\tline\u202e two\x00", "line one line two"),
        ("access_token=abc is bad", "[masked] is bad"),
        ("bad Bearer abc", "bad Bearer [masked]"),
        ("customer ali@bank.ae, +971 50 123 4567", "customer [masked] [masked]"),
        ("AE07 0331 2345 6789 0123 456: unknown", "[masked]: unknown"),
        ("IBAN AE070331234567890123456 unknown", "IBAN [masked] unknown"),
        ("id 784-1990-1234567-1 unknown", "id [masked] unknown"),
        ("must be at most 364 days", "must be at most 364 days"),
        ("لا يوجد حساب", "لا يوجد حساب"),
        ("", ""),
    ],
)  # fmt: skip
def test_words_stay_readable(said: str, kept: str) -> None:
    """An operator reads why; codes, fields and paths are no secrets."""
    assert cleaned(said) == kept


def test_a_long_explanation_is_cut() -> None:
    """The end says that there was more."""
    assert cleaned("why " * 1_000).endswith("…")
