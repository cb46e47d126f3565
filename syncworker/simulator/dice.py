"""Chance that comes out the same for the same seed, and what is made from it: numbers, days, prices, IBANs."""

import random
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import TypeVar

from syncworker.standard.values import UAE

_One = TypeVar("_One")


class Dice:
    """One stream of chance.

    Args:
        seed: text; hashed by SHA-512 inside `random`, so the same on every machine.
    """

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a play, not a secret
        self.random = self._random.random
        self.randint = self._random.randint
        self.randrange = self._random.randrange
        self.choices = self._random.choices

    def choice(self, things: Sequence[_One]) -> _One:
        """One of several."""
        return self._random.choice(things)

    def digits(self, count: int) -> str:
        """A number of so many digits, as text."""
        return f"{self.randrange(10**count):0{count}d}"

    def price(self, least: int, most: int) -> Decimal:
        """An amount with two decimals."""
        return Decimal(self.randint(least * 100, most * 100)) / Decimal(100)

    def at(self, day: date, *, hour: int) -> datetime:
        """An instant within an hour of a UAE day."""
        moment = time(hour, self.randint(0, 59), self.randint(0, 59), self.randrange(1000) * 1000)
        return datetime.combine(day, moment, tzinfo=UAE)

    def iban(self) -> str:
        """An AE IBAN of the sandbox's bank code 999 with valid check digits.

        Source: ISO 13616: `AE`, two check digits, three for the bank, sixteen for the account.
        """
        number = self.digits(16)
        check = 98 - int(f"999{number}101400") % 97
        return f"AE{check:02d}999{number}"
