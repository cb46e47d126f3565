"""The bank as its own staff see it: the books, and verbs to change data, consents, the clock, and to order faults.

Every verb takes what JSON can say (amounts as text, instants as ISO text) as well as Python's own types, so that the
door and a test in the same process speak alike.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, get_type_hints

import msgspec

from syncworker.simulator import bent
from syncworker.simulator.arrangements import KINDS
from syncworker.simulator.arranging import Arranger
from syncworker.simulator.asgi import Trace
from syncworker.simulator.clock import BankClock
from syncworker.simulator.consents import Consent, Consents
from syncworker.simulator.dice import Dice
from syncworker.simulator.drift import Drift
from syncworker.simulator.editions import RATES
from syncworker.simulator.events import Events
from syncworker.simulator.faults import Fault, Faults, Habit, Kind
from syncworker.simulator.grants import Grants, Reuse, Rotation
from syncworker.simulator.identity import Identity, thumbprint_of
from syncworker.simulator.ledger import Account, Balance, Ledger, PartyRole, Person, Transaction
from syncworker.simulator.listings import LISTINGS, book_party, book_rows
from syncworker.simulator.openings import Openings
from syncworker.simulator.render import Item, balance_item, transaction_item
from syncworker.simulator.resources import Resources
from syncworker.simulator.served import Log
from syncworker.simulator.signing import Signer, Signing
from syncworker.simulator.storm import Storm
from syncworker.standard.resources import RESOURCES, ResourceName, Shape, permitted
from syncworker.standard.values import local_date

N = ResourceName


class Bank:
    """Everything the sandbox keeps in memory, and what may be done to it."""

    def __init__(
        self, *, clock: BankClock, ledger: Ledger, consents: Consents, grants: Grants, faults: Faults, log: Log
    ) -> None:
        self.clock = clock
        self.ledger = ledger
        self.consents = consents
        self.grants = grants
        self.faults = faults
        self.log = log
        self.drifts: list[Drift] = []
        self.openings: Openings | None = None
        self.events: Events | None = None
        self.identity: Identity | None = None
        self.signer: Signer | None = None
        self._resources: Resources | None = None
        self._made = 0
        consents.on_move = self._consent_moved

    @property
    def resources(self) -> Resources | None:
        """The resource server, once the bank is open."""
        return self._resources

    @resources.setter
    def resources(self, resources: Resources) -> None:
        self._resources = resources
        resources.on_page = self._page_served

    # -- the books ----------------------------------------------------------------------------------------------------

    def customers(self) -> list[Item]:
        """`[{user, name, accounts: [AccountId]}]`, in order."""
        return [
            {"user": one.user, "name": one.person.full_name, "accounts": [each.account_id for each in one.accounts]}
            for one in self.ledger.customers()
        ]

    def consent_facts(self) -> list[Item]:
        """What the Hub knows of each consent, without tokens."""
        return [self._consent_facts(consent) for consent in self.consents]

    def books(self, consent_id: str | None = None, *, repeats: bool = False) -> Item:
        """What the bank has for each consent, or for one.

        Args:
            repeats: also what only shows an item once more (`/accounts/{AccountId}`).

        Returns:
            `{as_of, consents: [{…facts, resources: {name: [{account_id, key, item, columns}]}}]}`; `key` lists the
            parts of the natural key, `item` is the JSON the API serves in the consent's version, `columns` are named in
            `render`.  Only what the consent's permissions, accounts and FromDate/ToDate show; nothing for a consent
            nobody agreed to.

        Raises:
            KeyError: no such consent.
        """
        chosen = list(self.consents) if consent_id is None else [self.consents.get(consent_id)]
        return {
            "as_of": self.clock.now(),
            "consents": [self._consent_facts(one) | {"resources": self._shown(one, repeats=repeats)} for one in chosen],
        }

    def _shown(self, consent: Consent, *, repeats: bool) -> dict[str, list[Item]]:
        shown: dict[str, list[Item]] = {}
        if consent.user is None or not consent.agreed:
            return shown
        version = consent.version
        rates = RATES[version] in consent.permissions
        for resource in permitted(consent.permissions, version=version):
            if resource.repeats is not None and not repeats:
                continue
            if resource.name is ResourceName.PARTIES:
                shown[resource.name] = [book_party(self.ledger.customer(consent.user).person, version)]
                continue
            shown[resource.name] = [
                row
                for account_id in consent.account_ids
                for row in book_rows(
                    resource.name,
                    self.ledger.account(account_id),
                    version=version,
                    rates=rates,
                    shows=consent.shows,
                )
            ]
        return shown

    def _consent_facts(self, consent: Consent) -> Item:
        grant = self.grants.grant_of(consent.consent_id)
        return {
            "consent_id": consent.consent_id,
            "version": consent.version.value,
            "base_consent_id": consent.base_consent_id,
            "status": consent.status.value,
            "status_updated_at": consent.status_updated_at,
            "expires_at": consent.expires_at,
            "permissions": sorted(consent.permissions),
            "from_date": consent.from_date,
            "to_date": consent.to_date,
            "revoked_by": consent.revoked_by,
            "held": consent.held,
            "user": consent.user,
            "account_ids": list(consent.account_ids),
            "grant": grant
            and {
                "version": grant.version,
                "access_token_expires_at": grant.access.expires_at,
                "revoked_because": grant.revoked_because,
            },
        }

    # -- data ---------------------------------------------------------------------------------------------------------

    def insert_transaction(self, account_id: str, *, amount: str | Decimal, **facts: Any) -> Item:
        """Add a transaction and give its API item; without other facts it is a booked card payment of now in AED.

        Args:
            facts: members of `ledger.Transaction`; a merchant or counterparty may be an object of its members.
        """
        self._made += 1
        now = self.clock.now()
        plain: dict[str, Any] = {
            "transaction_id": f"NEW{self._made:06d}{int(now.timestamp())}",
            "happened_at": now,
            "booked_at": now,
            "currency": self.ledger.account(account_id).currency,
            "credit": False,
            "kind": "POS",
            "sub_kind": "Purchase",
            "narration": "Inserted",
        }
        row = Transaction(**(plain | _typed(Transaction, facts) | {"amount": Decimal(amount)}))
        return transaction_item(self.ledger.insert_transaction(account_id, row))

    def amend_transaction(self, account_id: str, transaction_id: str, **facts: Any) -> Item:
        """Change facts of a transaction and give its API item."""
        return transaction_item(self.ledger.amend_transaction(account_id, transaction_id, **_typed(Transaction, facts)))

    def book(self, account_id: str, transaction_id: str | None = None) -> Item:
        """Book a pending transaction, the first one unless named, as of now.

        Raises:
            KeyError: none is pending.
        """
        pending = self._pending(account_id, transaction_id).transaction_id
        return transaction_item(self.ledger.book(account_id, pending, at=self.clock.now()))

    def insert_late(self, account_id: str, *, days: float, amount: str | Decimal = "10.00", **facts: Any) -> Item:
        """Add a transaction booked so many days ago, which nobody could see until now."""
        booked = self.clock.now() - timedelta(days=days)
        plain: dict[str, Any] = {"happened_at": booked, "booked_at": booked, "value_at": booked, "narration": "Late"}
        return self.insert_transaction(account_id, amount=amount, **plain | facts)

    def re_id(self, account_id: str, transaction_id: str | None = None, *, new_id: str | None = None) -> Item:
        """Book a pending transaction, the first one unless named, as a new one: another id takes its place.

        Raises:
            KeyError: none is pending.
            ValueError: the new id is taken.
        """
        row = self._pending(account_id, transaction_id)
        self._made += 1
        now = self.clock.now()
        booked = replace(
            row, transaction_id=new_id or f"REID{self._made:06d}{row.transaction_id}"[:210], status="Booked",
            booked_at=now, value_at=now,
        )  # fmt: skip
        self.ledger.insert_transaction(account_id, booked)
        self.ledger.drop_transaction(account_id, row.transaction_id)
        return transaction_item(booked)

    def back_date(self, account_id: str, transaction_id: str, *, days: float) -> Item:
        """Move the booking of a transaction so many days back; it keeps its id."""
        booked = self._transaction(account_id, transaction_id).booked_at - timedelta(days=days)
        return self.amend_transaction(account_id, transaction_id, booked_at=booked, value_at=booked)

    def _transaction(self, account_id: str, transaction_id: str) -> Transaction:
        for row in self.ledger.account(account_id).transactions:
            if row.transaction_id == transaction_id:
                return row
        raise KeyError(transaction_id)

    def _pending(self, account_id: str, transaction_id: str | None) -> Transaction:
        if transaction_id is not None:
            return self._transaction(account_id, transaction_id)
        for row in self.ledger.account(account_id).transactions:
            if row.status == "Pending":
                return row
        raise KeyError("nothing is pending")

    def drop_transaction(self, account_id: str, transaction_id: str) -> Item:
        """Stop listing a transaction."""
        return transaction_item(self.ledger.drop_transaction(account_id, transaction_id))

    def change_balance(
        self,
        account_id: str,
        *,
        amount: str | Decimal,
        type: str = "InterimBooked",  # noqa: A002 - the standard's word
        currency: str | None = None,
    ) -> Item:
        """Set one balance as of now; the amount carries its sign."""
        balance = self.ledger.change_balance(
            account_id,
            type=type,
            currency=currency or self.ledger.account(account_id).currency,
            amount=Decimal(amount),
            at=self.clock.now(),
        )
        return balance_item(balance)

    def add_party(self, account_id: str, user: str, role: str = "PowerOfAttorney") -> str:
        """Give another customer a part in an account and tell their PartyId."""
        person = self.ledger.customer(user).person
        self.ledger.add_party(account_id, PartyRole(person=person, party_type="Delegate", role=role))
        return person.party_id

    def remove_party(self, account_id: str, party_id: str) -> None:
        """End a part in an account."""
        self.ledger.remove_party(account_id, party_id)

    def rename_account(self, account_id: str, nickname: str | None) -> None:
        """Give an account another nickname."""
        self.ledger.change_account(account_id, nickname=nickname)

    def change_person(self, user: str, **facts: Any) -> None:
        """Change facts of a customer, given as members of `ledger.Person`: they moved, they married."""
        self.ledger.change_person(user, **_typed(Person, facts))

    # -- any listing --------------------------------------------------------------------------------------------------

    def insert_item(self, resource: str, account_id: str, *, place: int | None = None, **facts: Any) -> Item:
        """List one more item of a resource and give it; facts that are not given are invented.

        Args:
            facts: members of the class in `arrangements`, or what the verb for transactions, balances or parties takes.
            place: where it is listed, from 0; last unless given.

        Raises:
            KeyError: no such resource or account.
            ValueError: a fact that does not fit, or an id that is taken.
        """
        name = _resource(resource)
        match name:
            case N.TRANSACTIONS:
                return self.insert_transaction(account_id, **{"amount": "10.00", **facts})
            case N.BALANCES:
                return self.change_balance(account_id, **facts)
            case N.ACCOUNT_PARTIES:
                party_id = self.add_party(account_id, **facts)
                return self._item(name, account_id, party_id)
        self._made += 1
        arranger = Arranger(Dice(f"insert/{self._made}/{account_id}"), today=local_date(self.clock.now()))
        made = arranger.make(name, self.ledger.account(account_id))
        row = replace(made, **_typed(KINDS[name], facts))
        return LISTINGS[name].item(self.ledger.insert(name, account_id, row, place=place))

    def change_item(self, resource: str, account_id: str, key: str, **facts: Any) -> Item:
        """Change facts of an item and give it.

        Args:
            key: as we key it: parts joined by `|`; for an item without a key, its place from 1.

        Raises:
            KeyError: no such resource, account or item.
            ValueError: a fact that does not fit.
        """
        name = _resource(resource)
        match name:
            case N.TRANSACTIONS:
                return self.amend_transaction(account_id, key, **facts)
            case N.BALANCES:
                type_, _, currency = key.partition("|")
                return self.change_balance(account_id, type=type_, currency=currency, **facts)
            case N.ACCOUNTS | N.ACCOUNT:
                return LISTINGS[name].item(self.ledger.change_account(account_id, **_typed(Account, facts)))
            case N.ACCOUNT_PARTIES:
                self.ledger.change_party(account_id, key, **facts)
                return self._item(name, account_id, key)
        return LISTINGS[name].item(self.ledger.change(name, account_id, key, **_typed(KINDS[name], facts)))

    def drop_item(self, resource: str, account_id: str, key: str) -> Item:
        """Stop listing an item and give it as it was.

        Raises:
            KeyError: no such resource, account or item.
        """
        name = _resource(resource)
        item = self._item(name, account_id, key)
        match name:
            case N.TRANSACTIONS:
                self.drop_transaction(account_id, key)
            case N.BALANCES:
                self.ledger.drop_balance(account_id, *key.split("|"))
            case N.ACCOUNT_PARTIES:
                self.remove_party(account_id, key)
            case _:
                self.ledger.drop(name, account_id, key)
        return item

    def withhold(self, resource: str, account_id: str) -> None:
        """Take a whole listing of arrangements away: 404 from now on, until an item is inserted."""
        self.ledger.withhold(_resource(resource), account_id)

    def _item(self, name: ResourceName, account_id: str, key: str) -> Item:
        listing = LISTINGS[name]
        for place, row in enumerate(listing.rows(self.ledger.account(account_id)) or (), start=1):
            if key == (str(place) if listing.key is None else "|".join(listing.key(row))):
                return listing.item(row)
        raise KeyError(key)

    def hide_account(self, consent_id: str, account_id: str) -> None:
        """The consent shows this account no longer, as when the customer lost their right to it."""
        consent = self.consents.get(consent_id)
        consent.account_ids = tuple(one for one in consent.account_ids if one != account_id)

    def show_account(self, consent_id: str, account_id: str) -> None:
        """The consent shows this account of a customer from now on.

        Raises:
            KeyError: no such account.
        """
        self.hide_account(consent_id, account_id)
        consent = self.consents.get(consent_id)
        consent.account_ids = (*consent.account_ids, self.ledger.account(account_id).account_id)

    # -- chance -------------------------------------------------------------------------------------------------------

    def do(self, verb: str, arguments: dict[str, Any]) -> Any:
        """Use a verb by its name.

        Raises:
            KeyError: no such verb.
        """
        return VERBS[verb](self, **arguments)

    def storm(
        self,
        seed: int,
        n: int = 100,
        *,
        account_ids: Iterable[str] | None = None,
        reach_days: int = 60,
        pages: bool = True,
    ) -> list[Item]:
        """Let n random things happen: inserts (late ones too), bookings, other ids, drops, changes of every listing.

        Args:
            seed: the same seed on the same bank at the same time is the same storm.
            account_ids: where; every account any consent shows, unless given.
            reach_days: nothing older than this is touched, and no late row is older.
            pages: sizes of pages change too.

        Returns:
            `[{verb, arguments}]`, in order.
        """
        shown = dict.fromkeys(one for consent in self.consents for one in consent.account_ids)
        chosen = tuple(shown if account_ids is None else account_ids)
        blown = Storm(self, seed, account_ids=chosen, reach_days=reach_days, pages=pages).blow(n)
        return [{"verb": verb, "arguments": arguments} for verb, arguments in blown]

    def drift(
        self,
        verb: str,
        arguments: dict[str, Any] | None = None,
        *,
        operation: str = "transactions",
        after_page: int | None = 1,
        account_id: str | None = None,
        consent_id: str | None = None,
        times: int | None = 1,
    ) -> Drift:
        """Let a verb happen when a page of a walk has been written; see `drift.Drift`.

        Raises:
            KeyError: no such verb.
        """
        VERBS[verb]
        order = Drift(
            operation=operation, after_page=after_page, verb=verb, arguments=dict(arguments or {}),
            account_id=account_id, consent_id=consent_id, times=times,
        )  # fmt: skip
        self.drifts.append(order)
        return order

    def _page_served(self, trace: Trace) -> None:
        for order in [one for one in self.drifts if one.due(trace)]:
            order.happened += 1
            arguments = dict(order.arguments)
            if "account_id" not in arguments and trace.account_id and "account_id" in _parameters(order.verb):
                arguments["account_id"] = trace.account_id
            try:
                self.do(order.verb, arguments)
            except (KeyError, ValueError, TypeError) as fault:
                order.faults.append(f"{type(fault).__name__}: {fault}")

    # -- consents and tokens ------------------------------------------------------------------------------------------

    def _consent_moved(self, consent: Consent) -> None:
        if self.events is not None:
            self.events.consent_moved(consent)

    def agree(self, consent_id: str) -> None:
        """The second authoriser of a held consent agrees.

        Raises:
            MoveError: nobody waits for one.
        """
        self.consents.agree(consent_id)

    def reject(self, consent_id: str) -> None:
        """The LFI, or the second authoriser, refuses a consent nobody can use yet; its tokens end."""
        self.consents.reject(consent_id)
        self.grants.end(consent_id, "consent_rejected")

    def suspend(self, consent_id: str) -> None:
        """The LFI blocks a consent; its tokens stay."""
        self.consents.suspend(consent_id)

    def lift(self, consent_id: str) -> None:
        """The LFI lifts the block."""
        self.consents.lift(consent_id)

    def revoke(self, consent_id: str, by: str = "LFI.InitiatedByUser") -> None:
        """The user, at the bank, takes the consent back; its tokens end."""
        self.consents.revoke(consent_id, by=by)
        self.grants.end(consent_id, "consent_revoked")

    def expire(self, consent_id: str) -> None:
        """The consent ends as if ExpirationDateTime had come."""
        self.consents.expire(consent_id)
        self.grants.end(consent_id, "consent_expired")

    def end_grant(self, consent_id: str) -> None:
        """Revoke all tokens of a consent that stays Authorized."""
        self.grants.end(consent_id, "revoked_by_staff")

    def configure(
        self,
        *,
        access_token_seconds: float | None = None,
        rotation: str | None = None,
        reuse: str | None = None,
        page_size: int | None = None,
        signed_answers: str | None = None,
    ) -> None:
        """Change how the bank behaves from now on; what is not given stays.

        Args:
            page_size: items on a page of transactions and of statements; see `paginate` for one listing alone.
            signed_answers: `asked`, `always` or `never`.
        """
        if signed_answers is not None and self.signer is not None:
            self.signer.mode = Signing(signed_answers)
        if access_token_seconds is not None:
            self.grants.access_token_seconds = access_token_seconds
        if rotation is not None:
            self.grants.rotation = Rotation(rotation)
        if reuse is not None:
            self.grants.reuse = Reuse.read(reuse)
        if page_size is not None:
            for name in (N.TRANSACTIONS, N.STATEMENTS):
                self.paginate(name, page_size)

    def configure_events(self, **facts: Any) -> None:
        """Change how events are sent; `facts` as `events.Events.configure` takes them."""
        self._sender().configure(**facts)

    def event_facts(self) -> list[Item]:
        """Every event, what became of it and how it was answered."""
        return self._sender().facts()

    def send_event(self, consent_id: str) -> Item:
        """Tell the TPP of a consent as it is, moved or not.

        Raises:
            KeyError: no such consent.
            ValueError: nobody subscribed to it.
        """
        return self._sender().send(self.consents.get(consent_id))

    def forge_event(self, consent_id: str, **facts: Any) -> Item:
        """Tell the TPP what a forger would; `facts` as `events.Events.forge` takes them."""
        return self._sender().forge(self.consents.get(consent_id), **facts)

    def repeat_event(self, seq: int) -> Item:
        """Send an event of the log again, byte for byte."""
        return self._sender().repeat(seq)

    def release_events(self) -> int:
        """Send what `reorder` has gathered, the newest first."""
        return self._sender().release()

    def _sender(self) -> Events:
        if self.events is None:
            raise KeyError("events")
        return self.events

    def opening_moves(self, account_id: str, status: str, **facts: Any) -> Item:
        """Move an account opening to a status; `facts` as `openings.Openings.move` takes them.

        Raises:
            KeyError: no such opening, or the bank is not open.
            ValueError, MoveError: a status it cannot take.
        """
        return self._opened().move(account_id, status, **facts)

    def configure_openings(self, **facts: Any) -> None:
        """Change how account openings are answered; `facts` as `openings.Openings.configure` takes them."""
        self._opened().configure(**facts)

    def opening_facts(self) -> list[Item]:
        """Every account opening; nothing personal."""
        return self._opened().facts()

    def _opened(self) -> Openings:
        if self.openings is None:
            raise KeyError("openings")
        return self.openings

    def renew_certificate(self) -> str:
        """Certify a new transport certificate for the TPP, over the files of the old one, which stays good.

        Returns: its SHA-256 in hexadecimal.

        Raises:
            ValueError: the bank knows no TPP.
        """
        if self.identity is None:
            raise ValueError("the bank knows no TPP")
        certificate, _ = self.identity.renew_client_certificate()
        return thumbprint_of(certificate)

    def paginate(self, resource: str, size: int | None) -> None:
        """Cut a listing into pages of so many items, or, with `None`, give it whole; `*` is every listing.

        Raises:
            KeyError: no such resource.
            ValueError: not a size.
        """
        if size is not None and size < 1:
            raise ValueError("size: at least 1")
        lists = [row.name for row in RESOURCES if row.shape is Shape.LIST]
        names = lists if resource == "*" else [_resource(resource)]
        if self._resources is not None:
            self._resources.sizes |= dict.fromkeys(names, size)

    def is_current(self, consent_id: str, refresh_token_sha256: str) -> bool:
        """Whether the SHA-256 (hexadecimal) is that of the consent's live refresh token."""
        return self.grants.is_current(consent_id, refresh_token_sha256=refresh_token_sha256)

    def advance(self, seconds: float) -> datetime:
        """Move the bank's clock and tell its time."""
        now = self.clock.advance(timedelta(seconds=seconds))
        self.consents.settle()
        return now

    def forget_peaks(self) -> None:
        """Start counting the most requests in flight anew."""
        self.log.forget()

    # -- faults -------------------------------------------------------------------------------------------------------

    def latency(self, seconds: float, operation: str = "*") -> None:
        """Answer an operation this much later, until cleared."""
        self.faults.latency[operation] = seconds

    def answers(
        self,
        status: int,
        *,
        retry_after: int | None = None,
        times: int | None = None,
        operation: str = "*",
        code: str = "GenericRecoverableError",
        consent_id: str | None = None,
    ) -> Fault:
        """Answer with a status instead; `code` is the error's code where the status has a body."""
        return self.faults.order(
            Fault(
                kind=Kind.ANSWERS, operation=operation, times=times, consent_id=consent_id, status=status,
                retry_after=retry_after, code=code,
            )
        )  # fmt: skip

    def drop_response(
        self,
        operation: str = "token",
        *,
        after_processing: bool = True,
        times: int | None = 1,
        consent_id: str | None = None,
    ) -> Fault:
        """Process the request fully (or not at all), then cut the connection without an answer."""
        return self.faults.order(
            Fault(
                kind=Kind.DROP, operation=operation, times=times, consent_id=consent_id,
                after_processing=after_processing,
            )
        )  # fmt: skip

    def hang(self, operation: str = "*", *, times: int | None = 1, consent_id: str | None = None) -> Fault:
        """Never answer, until the faults are cleared or the bank stops."""
        return self.faults.order(Fault(kind=Kind.HANG, operation=operation, times=times, consent_id=consent_id))

    def html(self, operation: str = "*", *, times: int | None = 1) -> Fault:
        """Answer 200 with a web page."""
        return self.faults.order(Fault(kind=Kind.HTML, operation=operation, times=times))

    def truncated(self, operation: str = "*", *, times: int | None = 1) -> Fault:
        """Send half of the body, then cut the connection."""
        return self.faults.order(Fault(kind=Kind.TRUNCATED, operation=operation, times=times))

    def foreign_link(self, operation: str = "transactions", *, times: int | None = 1) -> Fault:
        """Let `Links.Next` lead to another host and path."""
        return self.faults.order(Fault(kind=Kind.FOREIGN_LINK, operation=operation, times=times))

    def other_host(self, operation: str = "transactions", *, times: int | None = None) -> Fault:
        """Let `Links.Next` name another host and be right otherwise."""
        return self.faults.order(Fault(kind=Kind.OTHER_HOST, operation=operation, times=times))

    def relative_link(self, operation: str = "transactions", *, times: int | None = None) -> Fault:
        """Let `Links.Next` name no host."""
        return self.faults.order(Fault(kind=Kind.RELATIVE_LINK, operation=operation, times=times))

    def loop_link(self, operation: str = "transactions", *, times: int | None = None) -> Fault:
        """Let `Links.Next` lead to the page itself."""
        return self.faults.order(Fault(kind=Kind.LOOP_LINK, operation=operation, times=times))

    def next_for_ever(self, resource: str = "transactions", *, repeats: bool = False) -> None:
        """Give every page of a listing that comes in pages a `Links.Next`, until cleared.

        Behind the last page come empty ones; `repeats`: every page is the first one.
        """
        self._behave(resource, Habit.REPEATS if repeats else Habit.NEVER_ENDS)

    def ignores_filter(self, resource: str = "transactions", *, silent: bool = False) -> None:
        """Show all of a listing whatever window is asked for, until cleared.

        Args:
            silent: do not say where the history begins and ends, either.
        """
        self._behave(resource, Habit.IGNORES_FILTER)
        if silent:
            self._behave(resource, Habit.SILENT)

    def newest_instead(self, resource: str = "transactions") -> None:
        """Answer a window that begins long before the history with the newest rows, until cleared.

        Where the history begins and ends is not said.
        """
        self._behave(resource, Habit.NEWEST_INSTEAD)
        self._behave(resource, Habit.SILENT)

    def _behave(self, resource: str, habit: Habit) -> None:
        if self._resources is not None:
            self._resources.habits.setdefault(_resource(resource), set()).add(habit)

    def gzip_members(self, operation: str = "*", *, members: int = bent.MEMBERS, times: int | None = None) -> Fault:
        """Answer with a series of so many gzip members."""
        return self.faults.order(Fault(kind=Kind.GZIP_MEMBERS, operation=operation, times=times, size=members))

    def gzip_bomb(
        self, operation: str = "transactions", *, megabytes: int = bent.BOMB_MEGABYTES, times: int | None = 1
    ) -> Fault:
        """Answer with a small gzip stream that unpacks to so many megabytes."""
        bent.bomb(megabytes)
        return self.faults.order(Fault(kind=Kind.GZIP_BOMB, operation=operation, times=times, size=megabytes))

    def deep(self, operation: str = "transactions", *, depth: int = bent.DEPTH, times: int | None = 1) -> Fault:
        """Nest so many arrays in an item."""
        return self.faults.order(Fault(kind=Kind.DEEP, operation=operation, times=times, size=depth))

    def giant_amount(
        self, operation: str = "transactions", *, digits: int = bent.DIGITS, bare: bool = False, times: int | None = 1
    ) -> Fault:
        """Give an amount so many digits; `bare`: as a JSON number."""
        kind = Kind.GIANT_NUMBER if bare else Kind.GIANT_AMOUNT
        return self.faults.order(Fault(kind=kind, operation=operation, times=times, size=digits))

    def wrong_length(self, operation: str = "transactions", *, by: int = 10, times: int | None = 1) -> Fault:
        """Announce so many bytes more (negative: fewer) than are sent, then close the line."""
        return self.faults.order(Fault(kind=Kind.WRONG_LENGTH, operation=operation, times=times, size=by))

    def duplicate(self, operation: str = "transactions", *, member: bool = False, times: int | None = 1) -> Fault:
        """List an item twice on its page, the second time with one member more; `member`: have a member twice."""
        kind = Kind.DUPLICATE_MEMBER if member else Kind.DUPLICATE_ITEM
        return self.faults.order(Fault(kind=kind, operation=operation, times=times))

    def wrong_type(
        self, operation: str = "transactions", *, content_type: str = "text/plain", times: int | None = 1
    ) -> Fault:
        """Send the right body as another content type."""
        return self.faults.order(
            Fault(kind=Kind.WRONG_TYPE, operation=operation, times=times, content_type=content_type)
        )

    def forged(self, operation: str = "transactions", *, times: int | None = 1) -> Fault:
        """Spoil the signature of a signed answer."""
        return self.faults.order(Fault(kind=Kind.FORGED, operation=operation, times=times))

    def drip(self, operation: str = "transactions", *, seconds: float = 1, times: int | None = 1) -> Fault:
        """Send a byte every so many seconds, until the faults are cleared."""
        return self.faults.order(Fault(kind=Kind.DRIP, operation=operation, times=times, seconds=seconds))

    def fault_facts(self) -> Item:
        """What is ordered, as JSON: `{latency, faults, drifts}`."""
        return self.faults.facts() | {"drifts": [one.facts() for one in self.drifts]}

    def clear_faults(self) -> None:
        """Take all faults, latencies, habits of listings and drifts back."""
        self.faults.clear()
        self.drifts.clear()
        if self._resources is not None:
            self._resources.habits.clear()

    def account_of(self, user: str, number: int = 0) -> Account:
        """The n-th account of a customer, for tests in this process."""
        return self.ledger.customer(user).accounts[number]

    def balance_of(self, account_id: str, type: str = "InterimBooked") -> Balance:  # noqa: A002 - the standard's word
        """The first balance of a type, for tests in this process."""
        return next(one for one in self.ledger.account(account_id).balances if one.type == type)


VERBS: Final[dict[str, Callable[..., Any]]] = {
    name: getattr(Bank, name)
    for name in (
        "insert_transaction", "insert_late", "amend_transaction", "book", "re_id", "back_date", "drop_transaction",
        "change_balance", "add_party", "remove_party", "rename_account", "change_person", "insert_item", "change_item",
        "drop_item", "withhold", "hide_account", "show_account", "storm", "drift", "suspend", "lift", "revoke",
        "expire", "end_grant", "configure", "paginate", "is_current", "advance", "forget_peaks", "latency", "answers",
        "drop_response", "hang", "html", "truncated", "foreign_link", "loop_link", "other_host",
        "relative_link", "next_for_ever", "ignores_filter", "newest_instead", "gzip_members", "gzip_bomb", "deep",
        "giant_amount",
        "wrong_length", "duplicate", "wrong_type", "forged", "drip", "clear_faults",
        "renew_certificate", "opening_moves", "configure_openings", "agree", "reject", "configure_events", "send_event",
        "forge_event", "repeat_event", "release_events",
    )
}  # fmt: skip
"""What may be asked for through the door."""


@lru_cache(maxsize=64)
def _parameters(verb: str) -> frozenset[str]:
    return frozenset(inspect.signature(VERBS[verb]).parameters)


def _resource(name: str) -> ResourceName:
    """A resource by our word for it.

    Raises:
        KeyError: no such resource.
    """
    try:
        return ResourceName(name)
    except ValueError:
        raise KeyError(name) from None


@lru_cache(maxsize=16)
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _typed(kind: type, facts: dict[str, Any]) -> dict[str, Any]:
    """Facts of a class's members in Python's types; what JSON cannot say is taken as it is.

    Raises:
        ValueError: not a member, or not of its type.
    """
    hints = _hints(kind)
    for name in facts.keys() - hints.keys():
        raise ValueError(f"{name}: not a member of {kind.__name__}")
    return {
        name: msgspec.convert(value, hints[name]) if isinstance(value, str | int | float | dict | list) else value
        for name, value in facts.items()
    }
