"""Make the words an LFI gives for a refusal fit to be kept and shown: the one cleaner of such text.

An LFI explains a refusal in `error_description` (RFC 6749 §5.2), in `Errors[].Message` and `Errors[].Path` (Account
Information API v2.1-errata2, `AEErrorResponse`).  An operator needs these words; nothing decides by them.  The text is
the LFI's own and may hold anything: control characters and directions that forge a line on a screen, or a repetition of
what was sent and of the person it is about.  What is kept holds no such character, is bounded, and what looks like a
token, a card, an account, an identity number, an address or a telephone number is masked.  More is masked than need be:
a date of birth and another date look alike.  A name cannot be told from other words, so what is kept still counts as
personal data.
"""

import re
import unicodedata
from typing import Final

REASON_CHARACTERS_MAX: Final = 500
MASK: Final = "[masked]"

_READ_CHARACTERS_MAX: Final = 1_000
_ANNOUNCES: Final = "token|secret|password|passwd|pwd|pin|otp|assertion|authorization|cookie|verifier|nonce|state"
_PATTERNS: Final = tuple(
    re.compile(pattern)
    for pattern in (
        # an e-mail address, or what else is joined by @
        r"[^\s@\[\]]{1,254}\s?@\s?[^\s@\[\]]+",
        # the value after a word that announces a secret
        r"(?i)(?<=bearer )[^\s\[\]]+",
        rf"(?i)\b[\w-]{{0,40}}(?:(?:{_ANNOUNCES})\s?[=:]|code\s?=)\s?[^\s\[\]]+",
        # a JWT or JWE, whole or cut
        r"[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*){1,3}(?=$|[^\w.-])",
        r"\beyJ[\w.=/+~-]*",
        # another token: long, with a digit in it; or longer, of letters alone
        r"(?=[\w/+=~-]{0,1000}\d)[\w/+=~-]{16,}",
        r"[\w+=~-]{32,}",
        # an IBAN, in groups or not
        r"(?i)(?<![a-z0-9])[a-z]{2}\d{2}(?:[\s-]?[a-z0-9]){10,30}(?![a-z0-9])",
        # seven digits and more, however they are grouped: cards, Emirates IDs, telephones, account numbers, dates
        r"\+?\d(?:[^\w\[\]]{0,3}\d){6,}",
    )
)


def cleaned(text: str, *, limit: int = REASON_CHARACTERS_MAX) -> str:
    """The words of an LFI on one line: printable, masked, at most `limit` characters; empty when nothing is left."""
    words = unicodedata.normalize("NFKC", text[:_READ_CHARACTERS_MAX])[:_READ_CHARACTERS_MAX]
    words = " ".join("".join(map(_printable, words)).split())
    for pattern in _PATTERNS:
        words = pattern.sub(MASK, words)
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"


def _printable(character: str) -> str:
    """The character; nothing for one that only formats (direction, joiner, mark), space for one that has no shape."""
    kind = unicodedata.category(character)
    if kind in {"Cf", "Mn", "Me"}:
        return ""
    return " " if kind[0] in "CZ" else character
