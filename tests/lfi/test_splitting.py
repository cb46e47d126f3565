"""Splitting text a strict reader refused: at the same places where a reader would."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncworker.lfi.splitting import elements, members, with_repaired_text

pytestmark = pytest.mark.unit

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\[]{}:,\u00e9\n\u2028', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


def written(value: Any, spaced: bool) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1 if spaced else None).encode()


@given(st.lists(VALUES, max_size=5), st.booleans())
def test_elements_are_where_a_reader_finds_them(values: list[Any], spaced: bool) -> None:
    """Byte for byte, whatever strings hold."""
    text = written(values, spaced)
    read = [bytes(one).strip() for one in msgspec.json.decode(text, type=list[msgspec.Raw])]
    assert elements(text) == read


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=5), st.booleans())
def test_members_are_where_a_reader_finds_them(values: dict[str, Any], spaced: bool) -> None:
    """By their names, unescaped."""
    text = written(values, spaced)
    read = {name: bytes(one).strip() for name, one in msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items()}
    assert members(text) == read


@pytest.mark.parametrize(
    "text",
    [b"", b"1", b"{}", b"[", b"[1", b"[1,]", b"[,1]", b"[1,,2]", b'["a]', b"[1]]", b"[1] 2", b"[1}", b'["a\\"]', b"]["],
)
def test_what_does_not_balance_is_not_split(text: bytes) -> None:
    """Where one item ends and the next begins cannot be known."""
    with pytest.raises(ValueError, match="JSON"):
        elements(text)


@pytest.mark.parametrize("text", [b"[]", b"{1:2}", b'{"a"}', b'{"a":1,}', b"{,}", b'{"a":1'])
def test_members_need_names(text: bytes) -> None:
    """An object, or nothing."""
    with pytest.raises(ValueError, match="JSON"):
        members(text)


def test_a_name_that_cannot_be_read_hides_nothing_else() -> None:
    """The others are found, and of two with one name the last, as readers have it."""
    assert members(b'{"\\ud83c":1,"a":2,"b":[3 , 4],"a":{}}') == {"a": b"{}", "b": b"[3 , 4]"}


def test_100_000_open_brackets_are_no_recursion() -> None:
    """Depth is a number here."""
    deep = b"[" * 100_000 + b"]" * 100_000
    assert elements(b'["a",' + deep + b"]") == [b'"a"', deep]


@given(
    st.lists(
        st.sampled_from(
            ["\\ud83c", "\\udf19", "\\uD83C\\uDF19", "\\\\ud83c", "\\\\\\udf19", "\\ufffd", "a", "\u00e9", "\\n"]
        ),
        max_size=8,
    )
)
def test_repaired_text_says_what_can_be_said(parts: list[str]) -> None:
    """U+FFFD for each half that has no other half; all else as it was."""
    text = f'"{"".join(parts)}"'
    meant = json.loads(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    repaired = with_repaired_text(text.encode())
    said = msgspec.json.decode(repaired)
    assert said == "".join("\ufffd" if 0xD800 <= ord(one) < 0xE000 else one for one in json.loads(text))
    assert len(said) == len(json.loads(text)) or meant
