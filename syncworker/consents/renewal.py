"""Follow a consent with the next one: say in time that it ends, ask again, let the successor take over.

There is no silent renewal: the user authenticates again (trap 9).  What we can do is to say so early, to prepare the
request, and to make the change invisible in the data:

    flags       `thresholds` days before `ExpirationDateTime`, each once, through work rows due at those instants
    asking      an intended authorisation in the connection's last terms, `BaseConsentId` the root of its chain; where
                that root cannot be named any more, a new chain in the same connection
    terms       never more than before, unless told to; the window of dates moves along, so that it stays as long and
                as far from the consent's beginning as it was
    taking over the successor belongs to the same connection, so cursors, history and the count of generations go on;
                once it is Authorized and has its tokens, what it follows is revoked: in this order, so that there is
                always a consent to sync with
    accounts    what the successor's first complete walk of `/accounts` shows, against what was shown before

Source: `domain.md` §4.4; `design.md` §7 "Renewal".
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import Enum, StrEnum
from functools import partial
from typing import Final, TypeVar

import structlog

from syncworker.consents.authorize import INTENT_LIFE, Authorizer, Intended
from syncworker.consents.lifecycle import Clients
from syncworker.consents.revoking import ordered
from syncworker.errors import RequestError
from syncworker.standard.calendar import fault_of_instant, shifted
from syncworker.standard.consents import EXPIRY_MAX, IN_USE, ConsentRequest, OnBehalfOf, Purpose, Revoker, UserType
from syncworker.standard.permissions import Permission, in_words_of
from syncworker.standard.values import ConsentId, Slug, local_date, read_instant
from syncworker.standard.versions import Version, highest
from syncworker.store.consents import StoredConsent
from syncworker.store.messages import MessageType
from syncworker.store.renewals import DECIDED
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim

E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")

THRESHOLDS: Final = (30, 14, 7, 1)
"""Days before the end of a consent."""

NEAR_END: Final = "consent_near_end"
"""Audit: a threshold was flagged."""

RENEWAL_BEGUN: Final = "renewal_begun"
SUCCEEDED: Final = "consent_succeeded"
"""Audit, about a successor: what it follows, and which of these it had revoked."""

ACCOUNTS_COMPARED: Final = "successor_accounts"
"""Audit, about a successor: the accounts it shows against those shown before."""

HEARD_WITHIN: Final = timedelta(minutes=15)
"""A consent taken over from another system is looked at again after this time while the Hub was not heard of it: only
the Hub knows since when it lives."""

LIFE_MIN: Final = timedelta(days=1)
"""A successor is asked for this long at least, unless its end is given."""

log = structlog.stdlib.get_logger(__name__)


class Skipped(StrEnum):
    """Why nobody is told of a threshold."""

    PASSED = "passed"
    """It went by while we slept, and a nearer one did too."""
    SUCCEEDED = "succeeded"
    """A successor is Authorized."""
    SHORT = "short"
    """The consent was given for no longer than that."""


# -- flags ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What is to be decided about a consent's thresholds now, and when next.

    Attributes:
        decisions: threshold → why it is skipped; `None`: it is flagged.
        due_at: of the next threshold; `None` when there is none left.
    """

    decisions: Mapping[int, Skipped | None]
    due_at: datetime | None


def thresholds_due(
    held: StoredConsent, *, decided: Collection[int], thresholds: Iterable[int], succeeded: bool, now: datetime
) -> Due:
    """Which thresholds of a consent have come; of several at once the nearest is flagged, the others are skipped."""
    instants = {days: shifted(held.expires_at, -timedelta(days=days)) for days in thresholds if days not in decided}
    come = sorted(days for days, instant in instants.items() if instant <= now)
    begun = begun_at(held)
    told = [days for days in come if instants[days] > begun]
    decisions: dict[int, Skipped | None] = {days: Skipped.SHORT for days in come if days not in told}
    decisions |= dict.fromkeys(told, Skipped.SUCCEEDED if succeeded else Skipped.PASSED)
    if told and not succeeded:
        decisions[told[0]] = None
    return Due(decisions=decisions, due_at=min((at for at in instants.values() if at > now), default=None))


def begun_at(held: StoredConsent) -> datetime:
    """When a consent was staged, as the Hub says; else since when we hold it.

    A Hub writes the year 1 for "none": no consent began then.
    """
    try:
        begun = read_instant(str(held.raw["CreationDateTime"]))[0]
    except (KeyError, ValueError):
        return held.created_at
    return held.created_at if fault_of_instant(begun) else begun


def newer(one: StoredConsent, than: StoredConsent) -> bool:
    """Whether a consent of a connection follows another; of two taken over together, the one that ends later."""
    return (one.created_at, one.expires_at) > (than.created_at, than.expires_at)


class Flagging:
    """Decides about one consent's thresholds per claim, and lets a successor take over.

    Args:
        thresholds: days before the end.
    """

    def __init__(self, store: Store, *, thresholds: Sequence[int] = THRESHOLDS) -> None:
        self._store = store
        self._thresholds = tuple(thresholds)

    async def flag(self, claim: Claim) -> tuple[datetime | None, str]:
        """Do what is due for the consent of a claim; says when the next threshold comes, and what was done."""
        return await self._store.atomically(partial(self._flag, ConsentId(claim.subject)))

    async def _flag(self, consent_id: ConsentId, unit: UnitOfWork) -> tuple[datetime | None, str]:
        held = await unit.consents.get(consent_id)
        if held is None:
            return None, "erased"
        chain = await unit.consents.chain_locked(held.connection_id)
        (held,) = [one for one in chain if one.consent_id == consent_id]
        at = await unit.now()
        if held.status not in IN_USE or held.revoke_asked_at is not None or at >= held.expires_at:
            return None, "not_in_use"  # being Authorized again makes it due again
        if "CreationDateTime" not in held.raw and held.status_seen_at <= held.created_at:
            return at + HEARD_WITHIN, "not_heard_of"
        successor = _last([one for one in chain if newer(one, held) and one.callable_at(at)])
        if consent_id in await _take_over(unit, successor or held, chain, at=at):
            return None, "succeeded"
        due = thresholds_due(
            held,
            decided=[flag.days for flag in (await unit.renewals.flags([consent_id]))[consent_id]],
            thresholds=self._thresholds,
            succeeded=successor is not None,
            now=at,
        )
        written = await unit.renewals.decide(consent_id, due.decisions, expires_at=held.expires_at, at=at)
        flagged = [days for days in written if due.decisions[days] is None]
        for days in flagged:
            log.info("consent nears its end", consent_id=consent_id, lfi=held.lfi, days=days)
            facts = {"days": days, "expires_at": held.expires_at.isoformat()}
            await unit.consents.note(NEAR_END, subject=consent_id, facts=facts, at=at)
            told = {"consent_id": consent_id, **facts}
            unit.messages.tell(MessageType.CONSENT_EXPIRING, told, connection_id=held.connection_id, at=at)
        return due.due_at, "flagged" if flagged else "skipped" if written else "nothing_due"


async def _take_over(
    unit: UnitOfWork, held: StoredConsent, chain: Sequence[StoredConsent], *, at: datetime
) -> Collection[ConsentId]:
    """Revoke what a successor follows, once it is Authorized and holds tokens; gives back what was revoked now.

    Only for one that we asked for ourselves: of consents taken over from another system nobody here knows which came
    first, and a revocation cannot be taken back.
    """
    if not held.follows or not held.callable_at(at) or not await unit.tokens.exists(held.consent_id):
        return ()
    if await unit.authorizations.of(held.consent_id) is None:
        return ()
    earlier = [one for one in chain if one.created_at < held.created_at]
    alive = sorted(one.consent_id for one in earlier if not one.terminal and one.revoke_asked_at is None)
    for consent_id in alive:
        await ordered(unit, consent_id, by=Revoker.TPP)
    if alive or not await unit.consents.newest_notes(SUCCEEDED, subjects=[held.consent_id]):
        log.info("successor took over", consent_id=held.consent_id, lfi=held.lfi, revoked=len(alive))
        facts = {"follows": [one.consent_id for one in earlier], "revoked": alive}
        await unit.consents.note(SUCCEEDED, subject=held.consent_id, facts=facts, at=at)
        told = {"consent_id": held.consent_id, **facts}
        unit.messages.tell(MessageType.CONSENT_RENEWED, told, connection_id=held.connection_id, at=at)
    return alive


# -- asking again -----------------------------------------------------------------------------------------------------


class Keep(Enum):
    """Stands where a term is to stay as it was, since `None` means something else: without a limit."""

    SAME = "same"


SAME: Final = Keep.SAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a successor is to have otherwise than the consent before it; what is not given stays.

    Attributes:
        permissions: others than before; unless given, the same in the words of the version asked in.
        expires_at: the successor's end; unless given, it lasts as long as the consent before it, 364 days at most.
        from_date, to_date: `None` takes the limit away.
        account_types, account_sub_types, on_behalf_of: `None` takes the narrowing away.
        pin_window: dates that are not given stay as they are, and do not move with the consent.
        version: of the standard; unless given, the highest the LFI is declared for.
        new_chain: begin a chain of its own in the same connection, without a `BaseConsentId`.
    """

    permissions: tuple[str, ...] | None = None
    expires_at: datetime | None = None
    user_type: UserType | None = None
    purpose: Purpose | None = None
    from_date: date | Keep | None = SAME
    to_date: date | Keep | None = SAME
    account_types: tuple[str, ...] | Keep | None = SAME
    account_sub_types: tuple[str, ...] | Keep | None = SAME
    on_behalf_of: OnBehalfOf | Keep | None = field(default=SAME, repr=False)
    pin_window: bool = False
    version: Version | None = None
    new_chain: bool = False


NOTHING_ELSE: Final = Wishes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Successor:
    """What a user is asked for when a connection is renewed.

    Attributes:
        version: of the standard; `None`: the highest there is when it is asked for.
        changed: names of the terms that are not as before, beside the end and the dates that move along.
    """

    lfi: Slug
    user_ref: str
    connection_id: ConsentId
    request: ConsentRequest
    version: Version | None
    changed: tuple[str, ...]


class Renewals:
    """Asks users again.  Lives on one event loop.

    Args:
        life: of the link a renewal gives.
    """

    def __init__(self, store: Store, clients: Clients, authorize: Authorizer, *, life: timedelta = INTENT_LIFE) -> None:
        self._store = store
        self._clients = clients
        self._authorize = authorize
        self._life = life

    async def renew(
        self, consent_id: ConsentId, wishes: Wishes = NOTHING_ELSE, *, return_url: str | None = None
    ) -> Intended:
        """Prepare the successor of a connection; its request is pushed when the user opens the link.

        As long as the successor is not Authorized, nothing changes for the consent it follows.

        Args:
            consent_id: of any consent of the connection, or the connection's own.
            return_url: as for `Authorizer.intend`.

        Raises:
            RequestError, NotAllowedError, SetupError: as `successor` and `Authorizer.intend`.
        """
        wanted = await self.successor(consent_id, wishes)
        intended = await self._authorize.intend(
            wanted.lfi,
            wanted.request,
            user_ref=wanted.user_ref,
            version=wanted.version,
            return_url=return_url,
            life=self._life,
        )

        async def note(unit: UnitOfWork) -> None:
            facts = {
                "expires_at": wanted.request.expires_at.isoformat(),
                "permissions_changed": "permissions" in wanted.changed,
                "changed": list(wanted.changed),
                "new_chain": wishes.new_chain,
            }
            await unit.consents.note(RENEWAL_BEGUN, subject=wanted.connection_id, facts=facts, at=await unit.now())

        await self._store.atomically(note)
        return intended

    async def successor(self, consent_id: ConsentId, wishes: Wishes = NOTHING_ELSE) -> Successor:
        """The request that follows a connection's newest consent, which may be in use, expired or revoked.

        Raises:
            RequestError: no such consent, none of this connection was ever agreed to, or a term of the consent before
                it cannot be asked for again: names the term.
            SetupError: the LFI is not known.
        """
        async with self._store.reading() as unit:
            named = await unit.consents.get(consent_id)
            connection_id = consent_id if named is None else named.connection_id
            chain = await unit.consents.find(connection_id=connection_id)
            now = await unit.now()
        if not chain:
            raise RequestError("consent_id: no consent of that id is held")
        last = _last(chain)
        if last is None:
            raise RequestError(
                f"consent_id: the consent is {chain[-1].status} and was never agreed to, so there is nothing to renew; "
                "begin a new one"
            )
        config = (await self._clients(last.lfi)).config
        version = wishes.version or highest(config.base_urls)
        same = _askable(last.permissions, version)
        from_date, to_date = window_after(last, wishes, now=now)
        request = ConsentRequest(
            permissions=same if wishes.permissions is None else wishes.permissions,
            expires_at=shifted(now, _life(last)) if wishes.expires_at is None else wishes.expires_at,
            user_type=wishes.user_type or _known(UserType, last.user_type, "user_type"),
            purpose=wishes.purpose or _known(Purpose, last.purpose, "purpose"),
            base_consent_id=None if wishes.new_chain else last.root,
            connection_id=last.connection_id,
            from_date=from_date,
            to_date=to_date,
            account_types=_kept(wishes.account_types, last.account_types),
            account_sub_types=_kept(wishes.account_sub_types, last.account_sub_types),
            on_behalf_of=_kept(wishes.on_behalf_of, last.on_behalf_of),
        )
        return Successor(
            lfi=last.lfi,
            user_ref=last.user_ref,
            connection_id=last.connection_id,
            request=request,
            version=wishes.version,
            changed=_changed(request, last, same),
        )


def window_after(last: StoredConsent, wishes: Wishes, *, now: datetime) -> tuple[date | None, date | None]:
    """The dates a successor is limited to: moved by as many days as lie between the beginnings of the two consents.

    So a consent that showed the year before it began is followed by one that shows the year before it begins, and a
    last day that has passed is not carried over as it was.

    Raises:
        RequestError: the window is to stay, and its last day has passed.
    """
    moved = timedelta() if wishes.pin_window else max(local_date(now) - local_date(begun_at(last)), timedelta())
    from_date = _moved(last.from_date, moved) if isinstance(wishes.from_date, Keep) else wishes.from_date
    if not isinstance(wishes.to_date, Keep):
        return from_date, wishes.to_date
    if wishes.pin_window and last.to_date is not None and last.to_date < local_date(now):
        raise RequestError(
            f"to_date: {last.to_date.isoformat()} has passed, so a consent that keeps it shows nothing new; "
            "give another to_date, or let the window move (no pin_window)"
        )
    return from_date, _moved(last.to_date, moved)


def _moved(day: date | None, by: timedelta) -> date | None:
    return None if day is None else shifted(day, by)


def _kept(wish: T | Keep, before: T) -> T:
    return before if isinstance(wish, Keep) else wish


def _changed(request: ConsentRequest, last: StoredConsent, same: Collection[str]) -> tuple[str, ...]:
    """Names of the terms in which a request differs from the consent before it."""
    pairs = {
        "permissions": (set(request.permissions), set(same)),
        "user_type": (request.user_type, last.user_type),
        "purpose": (request.purpose, last.purpose),
        "account_types": (set(request.account_types or ()), set(last.account_types or ())),
        "account_sub_types": (set(request.account_sub_types or ()), set(last.account_sub_types or ())),
        "on_behalf_of": (request.on_behalf_of, last.on_behalf_of),
    }
    return tuple(name for name, (ours, before) in pairs.items() if ours != before)


def _last(chain: Sequence[StoredConsent]) -> StoredConsent | None:
    """The consent whose terms are asked for again: the newest in use, else the newest anybody agreed to."""
    agreed = [one for one in chain if one.status in DECIDED]
    in_use = [one for one in agreed if one.status in IN_USE]
    return max(in_use or agreed, key=lambda one: (one.created_at, one.expires_at), default=None)


def _life(last: StoredConsent) -> timedelta:
    return min(max(last.expires_at - begun_at(last), LIFE_MIN), EXPIRY_MAX)


def _askable(permissions: Sequence[str], version: Version | None) -> tuple[str, ...]:
    """The same wish as a version can say it; codes the standard or the version does not know are left out."""
    known = [Permission(code) for code in permissions if code in set(Permission)]
    return tuple(known if version is None else in_words_of(version, known))


def _known(kind: type[E], text: str, name: str) -> E:
    """A value a bank or another system wrote, if it is one that can be asked for.

    Raises:
        RequestError: it is not; nothing else is asked for in its place.
    """
    try:
        return kind(text)
    except ValueError:
        said = f"the consent before says {text!r}" if text else "nothing is known of that of the consent before"
        raise RequestError(f"{name}: {said}; give one of {', '.join(kind)}") from None


# -- the accounts a successor shows -----------------------------------------------------------------------------------


async def accounts_compared(unit: UnitOfWork, consent_id: ConsentId, shown: Collection[str], *, at: datetime) -> None:
    """Note which accounts vanished and appeared with a successor, once, after its first complete walk of `/accounts`.

    Rows, history and cursors of an account that vanished stay; its own row is marked gone by the walk, and the feed
    says so.  Commits nothing.
    """
    held = await unit.consents.get(consent_id)
    if held is None or not held.follows:
        return
    if await unit.consents.newest_notes(ACCOUNTS_COMPARED, subjects=[consent_id]):
        return
    before = await unit.renewals.granted_before(held)
    facts = {"vanished": sorted(before - set(shown)), "appeared": sorted(set(shown) - before)}
    if before:  # else there is nothing to compare with: the consents before it never showed an account
        await unit.consents.note(ACCOUNTS_COMPARED, subject=consent_id, facts=facts, at=at)
        await unit.renewals.end_older_grants(held, at=at)
