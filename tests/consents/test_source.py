"""The token source of a run: one look for all who ask at once, none for what was just seen."""

import asyncio
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from syncworker.consents.tokens import SOURCE_TRUST_S, VaultSource
from syncworker.errors import TokenBusyError
from syncworker.standard.values import ConsentId
from syncworker.store.situations import BeforeCall

pytestmark = pytest.mark.unit

SEEN = BeforeCall(None, None, datetime(2026, 11, 21, tzinfo=UTC))


class Desk:
    """Gives a new token at each look, or fails; its clock stands until it is moved."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.looks: list[tuple[SecretStr | None, BeforeCall | None]] = []
        self.at = 0.0

    async def live(
        self, _consent_id: ConsentId, rejected: SecretStr | None, seen: BeforeCall | None
    ) -> tuple[SecretStr, float]:
        self.looks.append((rejected, seen))
        await asyncio.sleep(0)
        if self.broken:
            raise TokenBusyError("token: busy")
        return SecretStr(f"token-{len(self.looks)}"), 600.0

    def source(self, seen: BeforeCall | None = None, age: float = 0.0) -> VaultSource:
        return VaultSource(self.live, ConsentId("consent"), lambda: self.at, seen, age)


async def test_listings_side_by_side_share_a_look() -> None:
    """However many ask before the answer is there."""
    desk = Desk()
    source = desk.source()

    tokens = await asyncio.gather(*(source() for _ in range(8)))

    assert (set(tokens), len(desk.looks)) == ({SecretStr("token-1")}, 1)


async def test_what_was_just_seen_is_used_once_and_not_for_long() -> None:
    """A run that waited before its first call looks for itself."""
    fresh, late = Desk(), Desk()
    source, waited = fresh.source(SEEN), late.source(SEEN)
    late.at = SOURCE_TRUST_S

    await source()
    fresh.at = SOURCE_TRUST_S
    await source()
    await waited()

    assert ([seen for _, seen in fresh.looks], [seen for _, seen in late.looks]) == ([SEEN, None], [None])


async def test_what_was_seen_ahead_counts_from_then() -> None:
    """Read for a whole batch, two seconds before this run began: good for one second more."""
    desk = Desk()
    source = desk.source(SEEN, age=SOURCE_TRUST_S - 1)

    await source()
    desk.at = 1.0
    await source()

    assert [seen for _, seen in desk.looks] == [SEEN, None]


async def test_who_complains_gets_another_token_than_the_refused_one() -> None:
    """Also when a look was under way that began without the complaint."""
    desk = Desk()
    source = desk.source()

    first, other = await asyncio.gather(source(), source(rejected=SecretStr("token-1")))

    assert (first, other) == (SecretStr("token-1"), SecretStr("token-2"))
    assert [rejected for rejected, _ in desk.looks] == [None, SecretStr("token-1")]


async def test_a_failure_is_shared_and_not_remembered() -> None:
    """All who waited hear it; who asks later looks again."""
    desk = Desk(broken=True)
    source = desk.source()

    ends = await asyncio.gather(*(source() for _ in range(3)), return_exceptions=True)
    desk.broken = False

    assert ([type(end) for end in ends], await source()) == ([TokenBusyError] * 3, SecretStr("token-2"))


async def test_who_leaves_takes_nobody_along() -> None:
    """A listing that is cancelled does not end the look the others wait for."""
    desk = Desk()
    source = desk.source()
    leaver = asyncio.create_task(source())
    stayer = asyncio.create_task(source())
    await asyncio.sleep(0)
    leaver.cancel()

    assert await stayer == SecretStr("token-1")
