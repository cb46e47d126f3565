"""Invent customers, the same for the same seed and anchor date: who there is, and who shares an account with whom.

Customers come in the order of `lives.Kind`, again and again; what each of them did is told by `lives`.
"""

from datetime import date

from syncworker.simulator.ledger import Customer
from syncworker.simulator.lives import GIVEN, Kind, Life


class People:
    """Makes the customers of one sandbox.

    Args:
        seed: chooses the lives.
        anchor: the last day lived; a UAE date.
        strays: add the items that break the standard.
    """

    def __init__(self, *, customers: int, seed: int, anchor: date, strays: bool) -> None:
        self._seed = seed
        self._anchor = anchor
        self._strays = strays
        self._made: dict[int, Customer] = {}
        self.users = tuple(self._user(number) for number in range(customers))

    def make(self, user: str) -> Customer:
        """The customer of a login name.

        Raises:
            ValueError: not one of `users`.
        """
        return self._customer(self.users.index(user))

    def _customer(self, number: int) -> Customer:
        if number not in self._made:
            life = self._life(number)
            partner = self._life(number + 1).person if life.kind is Kind.JOINT else None
            joint = self._customer(number - 1).accounts[-1] if life.kind is Kind.SPOUSE else None
            self._made[number] = life.live(partner=partner, joint=joint)
        return self._made[number]

    def _life(self, number: int) -> Life:
        return Life(number, self._user(number), seed=self._seed, anchor=self._anchor, strays=self._strays)

    @staticmethod
    def _user(number: int) -> str:
        return f"{GIVEN[number % len(GIVEN)].lower()}-{number + 1}"
