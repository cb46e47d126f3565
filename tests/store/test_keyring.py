"""The key ring: what is sealed opens in its own place only, and the file is guarded."""

import base64
import os
import pickle
from pathlib import Path

import pytest

from syncworker.errors import SealError, SettingsError
from syncworker.store.keyring import KeyRing

pytestmark = pytest.mark.unit

PLACE = {"table": "token", "column": "access_token", "row": "consent-1"}
SECRET = b"the-secret-token"


def key_line(kid: str, key: bytes = b"k" * 32) -> str:
    return f"{kid} {base64.b64encode(key).decode()}\n"


def key_file(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "ring"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing({"k1": b"1" * 32})


@pytest.mark.parametrize("plaintext", [pytest.param(b"", id="empty"), pytest.param(SECRET, id="some")])
def test_what_is_sealed_opens(ring: KeyRing, plaintext: bytes) -> None:
    """In its own place, the plaintext comes back."""
    assert ring.open(ring.seal(plaintext, **PLACE), **PLACE) == plaintext


def test_the_same_plaintext_never_looks_the_same(ring: KeyRing) -> None:
    """Each sealing has a nonce of its own."""
    assert len({ring.seal(SECRET, **PLACE) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "elsewhere",
    [
        pytest.param({"row": "consent-2"}, id="row"),
        pytest.param({"column": "refresh_token"}, id="column"),
        pytest.param({"table": "authorization"}, id="table"),
        pytest.param({"table": "tokenaccess", "column": "_token"}, id="parts shifted into each other"),
    ],
)
def test_a_moved_value_does_not_open(ring: KeyRing, elsewhere: dict[str, str]) -> None:
    """A ciphertext belongs to one table, column and row."""
    sealed = ring.seal(SECRET, **PLACE)
    with pytest.raises(SealError):
        ring.open(sealed, **{**PLACE, **elsewhere})


def test_another_tenant_does_not_open(ring: KeyRing) -> None:
    """Tenants have data keys of their own from the same ring."""
    sealed = ring.seal(SECRET, **PLACE)
    with pytest.raises(SealError):
        ring.for_tenant("other").open(sealed, **PLACE)


def test_a_change_of_any_bit_is_seen(ring: KeyRing) -> None:
    """Tampering with any byte, and cutting at any length, is refused by a SealError."""
    sealed = ring.seal(SECRET, **PLACE)
    damaged = [
        bytes(byte ^ (1 << bit) if at == position else byte for at, byte in enumerate(sealed))
        for position in range(len(sealed))
        for bit in range(8)
    ]
    opened = []
    for value in [*damaged, *(sealed[:length] for length in range(len(sealed))), sealed + b"\0"]:
        try:
            opened.append(ring.open(value, **PLACE))
        except SealError:
            continue
    assert opened == []


def test_the_error_names_the_place_and_nothing_else(ring: KeyRing) -> None:
    """Table, column, row and kid are named; content is not."""
    sealed = ring.seal(SECRET, **PLACE)
    with pytest.raises(SealError) as missing:
        KeyRing({"k2": b"2" * 32}).open(sealed, **PLACE)

    assert str(missing.value) == (
        "token.access_token of row 'consent-1': sealed with key 'k1', which `keyring` does not hold; put its line back"
    )


def test_an_older_key_opens_and_wants_rotation(ring: KeyRing) -> None:
    """After a new key came first, the old value opens; only it needs sealing again."""
    old = ring.seal(SECRET, **PLACE)
    rotated = KeyRing({"k2": b"2" * 32, "k1": b"1" * 32})
    new = rotated.seal(SECRET, **PLACE)

    assert (rotated.open(old, **PLACE), rotated.needs_rotation(old), rotated.needs_rotation(new)) == (
        SECRET,
        True,
        False,
    )


def test_repr_shows_kids_only(ring: KeyRing) -> None:
    """Neither the ring's nor the data's key is in the repr."""
    assert repr(ring) == "KeyRing(kids=['k1'], tenant='default')"


def test_a_ring_does_not_travel(ring: KeyRing) -> None:
    """Keys are not put into messages or copies."""
    with pytest.raises(TypeError, match=r"does not travel"):
        pickle.dumps(ring)


def test_a_generated_file_is_private_and_loads(tmp_path: Path) -> None:
    """`generate` writes mode 0600 whatever the umask, and `load` gives the same keys."""
    path = tmp_path / "new" / "ring"
    before = os.umask(0)
    try:
        made = KeyRing.generate(path)
    finally:
        os.umask(before)

    sealed = made.seal(SECRET, **PLACE)
    assert (path.stat().st_mode & 0o777, KeyRing.load(path).open(sealed, **PLACE)) == (0o600, SECRET)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o666, 0o777])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    """By root, too, whom no mode keeps out: what others could read or write holds no secret any more."""
    path = key_file(tmp_path, key_line("k1"))
    path.chmod(mode)
    with pytest.raises(SettingsError, match=rf"^keyring: .* has mode {mode:04o}, open to others; run: chmod 600"):
        KeyRing.load(path)


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    """Generating twice into one file is refused: the first keys may be all that opens the tables."""
    path = tmp_path / "ring"
    KeyRing.generate(path)
    with pytest.raises(SettingsError, match=r"keyring: .* exists already"):
        KeyRing.generate(path)


def test_a_file_in_the_place_of_the_folder_is_named_as_one(tmp_path: Path) -> None:
    """No ring is there: the fault is the place, not a ring that exists already."""
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"^keyring: .* cannot be written \(Not a directory\)$"):
        KeyRing.generate(tmp_path / "file" / "ring")


def test_the_file_may_hold_comments_and_several_keys(tmp_path: Path) -> None:
    """Newest first; comments and empty lines are skipped."""
    path = key_file(tmp_path, f"# keys\n\n{key_line('new')}{key_line('old', b'o' * 32)}")

    assert KeyRing.load(path).kids == ("new", "old")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("", "holds no key", id="empty"),
        pytest.param("k1\n", "line 1 is not", id="no key"),
        pytest.param(key_line("k1", b"short"), "line 1 is not", id="short key"),
        pytest.param("k1 !!!\n", "line 1 is not", id="not base64"),
        pytest.param(key_line("bad/kid"), "line 1 is not", id="bad kid"),
        pytest.param(key_line("k1") + key_line("k1"), "line 2 repeats kid 'k1'", id="repeated kid"),
        pytest.param("k1 \N{SNOWMAN}\n", "is not a text", id="not ascii"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, fault: str) -> None:
    """The message names the field and the line."""
    with pytest.raises(SettingsError, match=f"^keyring: .*{fault}"):
        KeyRing.load(key_file(tmp_path, text))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    """The fix is in the message."""
    path = key_file(tmp_path, key_line("k1"), mode)
    with pytest.raises(SettingsError, match=f"^keyring: .* has mode {mode:04o}.*chmod 600"):
        KeyRing.load(path)


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    """Who has no ring learns how to make one."""
    with pytest.raises(SettingsError, match=r"^keyring: .*does not exist; run `syncworker keys generate`"):
        KeyRing.load(tmp_path / "none")


def test_a_folder_is_not_a_ring(tmp_path: Path) -> None:
    """Something else than a file is refused."""
    with pytest.raises(SettingsError, match=r"^keyring: .* is not a file"):
        KeyRing.load(tmp_path)
