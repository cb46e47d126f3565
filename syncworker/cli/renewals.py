"""`syncworker consents renew|open|calendar` and `consents list --renewal-due`: what ends when, and asking again."""

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from syncworker import __version__
from syncworker.cli import frame, show, terms
from syncworker.consents.renewal import Wishes
from syncworker.errors import RequestError
from syncworker.settings import Settings
from syncworker.standard.calendar import shifted, span
from syncworker.standard.consents import EXPIRY_MAX, ConsentRequest, Purpose, Status, UserType
from syncworker.standard.values import ConsentId, write_instant
from syncworker.store.consents import StoredConsent
from syncworker.store.renewals import ExpiryFlag
from syncworker.store.unit_of_work import Store, UnitOfWork

if TYPE_CHECKING:
    from syncworker.consents.authorize import AuthorizationStarted, Intended
    from syncworker.wiring import Application

FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula (rule 40)."""

ICS_LINE: Final = 75
"""Most bytes of a line of an iCalendar stream (RFC 5545 §3.1)."""

_ICS: Final = str.maketrans("", "", "-:")
"""What an iCalendar instant leaves out of ours."""

BRING_HOME: Final = "then bring the redirect home: syncworker consents callback 'https://…?code=…&state=…&iss=…'"


class Calendar(StrEnum):
    """How `consents calendar` is written."""

    TABLE = "table"
    CSV = "csv"
    ICS = "ics"
    JSON = "json"


def renew(
    consent_id: Annotated[str, typer.Argument(help="Any ConsentId of the connection.")],
    permission: Annotated[
        list[str] | None, typer.Option("--permission", help="Repeatable; the same as before unless given.")
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=EXPIRY_MAX.days, help="Ends after so many days; as long as before.")
    ] = None,
    expires_at: Annotated[str | None, typer.Option(help="Or ends at this instant, ISO 8601 with offset.")] = None,
    user_type: Annotated[UserType | None, typer.Option()] = None,
    purpose: Annotated[Purpose | None, typer.Option()] = None,
    from_date: Annotated[str | None, typer.Option(help="First day shown, YYYY-MM-DD, or `open`.")] = None,
    to_date: Annotated[str | None, typer.Option(help="Last day shown, YYYY-MM-DD, or `open`.")] = None,
    pin_window: Annotated[
        bool, typer.Option("--pin-window", help="Keep both days as they are; else they move with the consent.")
    ] = False,
    account_type: terms.AccountTypes = None,
    account_sub_type: terms.AccountSubTypes = None,
    on_behalf_of_trading_name: terms.TradingName = None,
    on_behalf_of_legal_name: terms.LegalName = None,
    on_behalf_of_identifier: terms.Identifier = None,
    version: terms.VersionWish = None,
    new_chain: Annotated[
        bool,
        typer.Option(
            "--new-chain",
            help="Name no BaseConsentId: begin a new chain in the same connection, where the root cannot be named.",
        ),
    ] = False,
    link: Annotated[
        bool, typer.Option("--link", help="Give a link of the web process that may wait for its user.")
    ] = False,
    return_url: Annotated[str | None, typer.Option(help="With --link: where the user goes afterwards.")] = None,
    as_json: frame.AsJson = False,
) -> None:
    """Ask a user again: same connection, same history.  Once the new consent is Authorized, the old one is revoked.

    What is not given stays as it was: never more is asked for.

    Prints an address for the user to open within minutes; with --link one that waits for them.
    """
    from syncworker.cli.consents import ending

    check_link(link=link, return_url=return_url)
    wishes = Wishes(
        permissions=tuple(permission) if permission else None,
        user_type=user_type,
        purpose=purpose,
        from_date=terms.day("from_date", from_date),
        to_date=terms.day("to_date", to_date),
        pin_window=pin_window,
        account_types=terms.kinds(account_type),
        account_sub_types=terms.kinds(account_sub_type),
        on_behalf_of=terms.on_behalf_of(on_behalf_of_trading_name, on_behalf_of_legal_name, on_behalf_of_identifier),
        version=version,
        new_chain=new_chain,
    )

    async def ask(application: "Application") -> None:
        async with application.store.reading() as unit:
            now = await unit.now()
        end = None if days is None and expires_at is None else ending(days, expires_at, now=now)
        wished = replace(wishes, expires_at=end)
        if link:
            check_return(application.settings, return_url)
            intended = await application.renewals.renew(ConsentId(consent_id), wished, return_url=return_url)
            print_link(application.settings, intended, as_json=as_json)
            return
        wanted = await application.renewals.successor(ConsentId(consent_id), wished)
        started = await application.authorize.begin(
            wanted.lfi, wanted.request, user_ref=wanted.user_ref, version=wanted.version
        )
        print_started(started, as_json=as_json)

    frame.with_application(ask)


def open_(
    authorization_id: Annotated[str, typer.Argument(help="The id that `--link` gave.")], as_json: frame.AsJson = False
) -> None:
    """Push the request behind a link now, and print the address for the user to open within minutes."""

    async def ask(application: "Application") -> None:
        print_started(await application.authorize.open(authorization_id), as_json=as_json)

    frame.with_application(ask)


def calendar(
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_ics: Annotated[bool, typer.Option("--ics", help="Print an iCalendar file.")] = False,
    within: Annotated[int, typer.Option(min=1, max=EXPIRY_MAX.days + 1, help="Days ahead.")] = EXPIRY_MAX.days + 1,
    as_json: frame.AsJson = False,
) -> None:
    """What ends when: every consent in use without a successor, the soonest first."""
    wanted = [kind for kind, given in zip(Calendar, (False, as_csv, as_ics, as_json), strict=True) if given]
    if len(wanted) > 1:
        raise RequestError("calendar: give one of --csv, --ics and --json")
    thresholds = frame.settings().renewal.thresholds

    async def read(store: Store) -> tuple[list[dict[str, Any]], datetime]:
        async with store.reading() as unit:
            now = await unit.now()
            held = await unit.renewals.ending(before=now + timedelta(days=within))
            flags = await _flags(unit, held)
        return [_entry(one, flags[one.consent_id], thresholds, now=now) for one in held], now

    entries, now = frame.with_store(read)
    match wanted:
        case [Calendar.CSV]:
            sys.stdout.write(_csv(entries))
        case [Calendar.ICS]:
            sys.stdout.write(_ics(entries, now=now))
        case _:
            show.rows(entries, as_json=as_json, title="What ends when", empty="no consent in use ends in that time")


def renewal_due(*, within: int | None, as_json: bool) -> None:
    """Print the consents whose users should be asked again."""
    days = max(frame.settings().renewal.thresholds, default=30) if within is None else within

    async def read(store: Store) -> list[dict[str, Any]]:
        async with store.reading() as unit:
            now = await unit.now()
            held = await unit.renewals.due(before=shifted(now, span(days=days)))
            flags = await _flags(unit, held)
        return [
            {
                "consent": one.consent_id,
                "connection": one.connection_id,
                "user_ref": one.user_ref,
                "lfi": one.lfi,
                "status": one.status,
                "why": _why(one, now=now),
                "expires_at": one.expires_at,
                "ends_in": one.expires_at - now,
                "flagged": [flag.days for flag in flags[one.consent_id] if flag.skipped is None],
            }
            for one in held
        ]

    show.rows(
        frame.with_store(read),
        as_json=as_json,
        title="Renewal due",
        empty=f"no consent has ended, lost its grant, or ends within {days} days",
    )


async def told_of_renewal(unit: UnitOfWork, one: StoredConsent) -> dict[str, Any]:
    """What `consents show` says of a consent's place in its chain, and of the accounts it brought or lost."""
    from syncworker.consents.renewal import ACCOUNTS_COMPARED

    chain = await unit.consents.find(connection_id=one.connection_id)
    accounts = (await unit.consents.newest_notes(ACCOUNTS_COMPARED, subjects=[one.consent_id])).get(one.consent_id, {})
    flags = (await unit.renewals.flags([one.consent_id]))[one.consent_id]
    return {
        "base_consent_id": one.base_consent_id,
        "chain": [held.consent_id for held in chain],
        "flagged_days_before_end": [flag.days for flag in flags if flag.skipped is None],
        "accounts_vanished": list(accounts.get("vanished", ())),
        "accounts_appeared": list(accounts.get("appeared", ())),
    }


def print_started(started: "AuthorizationStarted", *, as_json: bool) -> None:
    """The address of a request that was pushed just now, and what it asks for."""
    facts = {"consent": started.consent_id, **asked_for(started.request)}
    show.facts(facts | {"open_before": started.expires_at, "url": started.url}, as_json=as_json)
    show.say(BRING_HOME)


def asked_for(request: ConsentRequest) -> dict[str, Any]:
    """What a request asks a user for."""
    return {
        "connection": request.connection_id or request.base_consent_id,
        "permissions": list(request.permissions),
        "consent_expires_at": request.expires_at,
        "user_type": request.user_type.value,
        "purpose": request.purpose.value,
        "from_date": request.from_date,
        "to_date": request.to_date,
        "account_types": request.account_types and list(request.account_types),
        "account_sub_types": request.account_sub_types and list(request.account_sub_types),
        "on_behalf_of": request.on_behalf_of and request.on_behalf_of.written(),
    }


def print_link(config: Settings, intended: "Intended", *, as_json: bool) -> None:
    """The address of an intended authorisation at the web process."""
    from syncworker.web.app import own_url
    from syncworker.web.callbacks import AUTHORIZE_PATH

    path = AUTHORIZE_PATH.format(authorization_id=intended.intent_id)
    facts = {
        "authorization": intended.intent_id,
        **asked_for(intended.request),
        "open_before": intended.expires_at,
        "url": (config.web.url or own_url(config)) + path,
    }
    show.facts(facts, as_json=as_json)
    show.say("the link works while `syncworker web` runs; whoever has it may open it")


def check_link(*, link: bool, return_url: str | None) -> None:
    """See that a return URL comes with a link.

    Raises:
        RequestError: it does not.
    """
    if return_url is not None and not link:
        raise RequestError("return_url: needs --link; without it nobody is there to send the user back")


def check_return(config: Settings, return_url: str | None) -> None:
    """See that users may be sent there.

    Raises:
        RequestError: `web.return_urls` do not allow it.
    """
    from syncworker.web.callbacks import ReturnURLs

    why = None if return_url is None else ReturnURLs(config.web.return_urls).fault(return_url)
    if why is not None:
        raise RequestError(f"return_url: {why}")


# -- what is said of one ----------------------------------------------------------------------------------------------


async def _flags(unit: UnitOfWork, held: Sequence[StoredConsent]) -> dict[ConsentId, list[ExpiryFlag]]:
    return await unit.renewals.flags([one.consent_id for one in held])


def _why(one: StoredConsent, *, now: datetime) -> str:
    if one.status == Status.Expired or one.expires_at <= now:
        return "expired"
    return "near_end" if one.needs_consent is None else f"grant_lost:{one.needs_consent}"


def _entry(
    one: StoredConsent, flags: Iterable[ExpiryFlag], thresholds: Iterable[int], *, now: datetime
) -> dict[str, Any]:
    instants = [shifted(one.expires_at, -timedelta(days=days)) for days in thresholds]
    return {
        "expires_at": one.expires_at,
        "ends_in": one.expires_at - now,
        "lfi": one.lfi,
        "user_ref": one.user_ref,
        "status": "Paused" if one.paused_at is not None else one.status,
        "flagged": [flag.days for flag in flags if flag.skipped is None],
        "next_flag_at": min((at for at in instants if at > now), default=None),
        "connection": one.connection_id,
        "consent": one.consent_id,
    }


def _csv(entries: Sequence[dict[str, Any]]) -> str:
    columns = ("expires_at", "lfi", "user_ref", "status", "flagged", "next_flag_at", "connection", "consent")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for entry in entries:
        writer.writerow(_safe(entry[column]) for column in columns)
    return text.getvalue()


def _safe(content: Any) -> str:
    """A cell no spreadsheet computes."""
    match content:
        case None:
            return ""
        case datetime():
            return content.isoformat().replace("+00:00", "Z")
        case list():
            return " ".join(map(str, content))
    text = str(content)
    return f"'{text}" if text.startswith(FORMULA) else text


def _ics(entries: Sequence[dict[str, Any]], *, now: datetime) -> str:
    """An iCalendar stream with one event at the end of each consent (RFC 5545)."""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", f"PRODID:-//syncworker//{__version__}//EN"]
    for entry in entries:
        about = f"Consent ends: {entry['lfi']} {entry['user_ref']}"
        more = f"{entry['status']}; syncworker consents renew {entry['consent']}"
        lines += [
            "BEGIN:VEVENT",
            f"UID:{_ics_text(entry['consent'])}@syncworker",
            f"DTSTAMP:{_ics_instant(now)}",
            f"DTSTART:{_ics_instant(entry['expires_at'])}",
            f"SUMMARY:{_ics_text(about)}",
            f"DESCRIPTION:{_ics_text(more)}",
            "TRANSP:TRANSPARENT",
            "END:VEVENT",
        ]
    return "".join(f"{_folded(line)}\r\n" for line in [*lines, "END:VCALENDAR"])


def _ics_instant(moment: datetime) -> str:
    return write_instant(moment).translate(_ICS)


def _ics_text(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), (";", "\\;"), (",", "\\,"), ("\n", "\\n"), ("\r", "")):
        text = text.replace(plain, escaped)
    return text


def _folded(line: str) -> str:
    """A line in pieces of at most 75 bytes, none of which cuts a character."""
    pieces: list[str] = []
    piece = ""
    for character in line:
        if len((piece + character).encode()) > ICS_LINE - bool(pieces):
            pieces.append(piece)
            piece = ""
        piece += character
    return "\r\n ".join([*pieces, piece])
