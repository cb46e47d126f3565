"""`syncworker consents`: get one, bring it home, look at it, sync it."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from syncworker import opening
from syncworker.cli import consent_acts, frame, reconciling, renewals, show, terms
from syncworker.cli.syncs import facts_as_told
from syncworker.clock import SystemClock, monotonic
from syncworker.consents.lifecycle import NEVER
from syncworker.errors import RequestError, meaning_of
from syncworker.settings import Settings, read_slug
from syncworker.standard.calendar import as_utc, fault_of_instant, read_iso, shifted, span
from syncworker.standard.consents import EXPIRY_MAX, ConsentRequest, Purpose, Status, UserType, without_offset
from syncworker.standard.values import ConsentId
from syncworker.store.calls import CallRow
from syncworker.store.consents import StoredConsent
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind
from syncworker.sync.reports import facts_of_run

if TYPE_CHECKING:
    from syncworker.wiring import Application

app = typer.Typer(help="Consents and their data.", no_args_is_help=True)
for act in (
    consent_acts.pause,
    consent_acts.resume,
    consent_acts.revoke,
    consent_acts.subscribe,
    consent_acts.erase,
    reconciling.reconcile,
    renewals.renew,
    renewals.calendar,
):
    app.command()(act)
app.command("open")(renewals.open_)

SPREAD_MINUTES: Final = 60
WORKER_SEEN_WITHIN_TICKS: Final = 3
LINE_BYTES_MAX: Final = 65_536
SAID_MAX: Final = 5
"""Refused calls of a consent whose words are shown."""

WORKER_SEEN_WITHIN_MIN: Final = timedelta(seconds=15)


@app.command()
def authorize(
    lfi: Annotated[str, typer.Argument(help="Slug of the LFI.")],
    permission: Annotated[
        list[str] | None,
        typer.Option(
            "--permission", help="Repeatable; everything we can read unless given (`syncworker permissions`)."
        ),
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=EXPIRY_MAX.days, help="Ends after so many days; default 180.")
    ] = None,
    expires_at: Annotated[str | None, typer.Option(help="Or ends at this instant, ISO 8601 with offset.")] = None,
    user_ref: Annotated[str | None, typer.Option(help="Your own opaque id of the customer; no personal data.")] = None,
    user_type: Annotated[UserType, typer.Option()] = UserType.Retail,
    purpose: Annotated[Purpose, typer.Option()] = Purpose.AccountAggregation,
    from_date: Annotated[str | None, typer.Option(help="First day of transactions shown, YYYY-MM-DD.")] = None,
    to_date: Annotated[str | None, typer.Option(help="Last day of transactions shown, YYYY-MM-DD.")] = None,
    account_type: terms.AccountTypes = None,
    account_sub_type: terms.AccountSubTypes = None,
    on_behalf_of_trading_name: terms.TradingName = None,
    on_behalf_of_legal_name: terms.LegalName = None,
    on_behalf_of_identifier: terms.Identifier = None,
    version: terms.VersionWish = None,
    link: Annotated[
        bool, typer.Option("--link", help="Give a link of the web process that may wait for its user.")
    ] = False,
    return_url: Annotated[str | None, typer.Option(help="With --link: where the user goes afterwards.")] = None,
    as_json: frame.AsJson = False,
) -> None:
    """Push an authorisation request and print the URL the user has to open.

    With --link nothing is pushed yet: the link may wait for its user, and pushes when they open it.
    """
    slug = read_slug(lfi)
    renewals.check_link(link=link, return_url=return_url)
    behalf = terms.on_behalf_of(on_behalf_of_trading_name, on_behalf_of_legal_name, on_behalf_of_identifier)
    asked = ConsentRequest(
        permissions=tuple(permission or ()),
        expires_at=ending(days, expires_at, now=SystemClock().now()),
        user_type=user_type,
        purpose=purpose,
        from_date=terms.said(terms.day("from_date", from_date)),
        to_date=terms.said(terms.day("to_date", to_date)),
        account_types=terms.said(terms.kinds(account_type)),
        account_sub_types=terms.said(terms.kinds(account_sub_type)),
        on_behalf_of=terms.said(behalf),
    )

    async def begin(application: "Application") -> None:
        request, chosen = asked, version
        if not permission:
            chosen, request = await application.authorize.with_everything(slug, asked, version=version)
        if link:
            renewals.check_return(application.settings, return_url)
            intended = await application.authorize.intend(
                slug, request, user_ref=user_ref, version=chosen, return_url=return_url
            )
            renewals.print_link(application.settings, intended, as_json=as_json)
        else:
            started = await application.authorize.begin(slug, request, user_ref=user_ref, version=chosen)
            renewals.print_started(started, as_json=as_json)
        if chosen is not None and not permission:
            named = ", ".join(request.permissions)
            show.say(f"no --permission was given: it asks for everything we can read in {chosen.value}: {named}")

    frame.with_application(begin)


@app.command()
def callback(
    url: Annotated[
        str | None, typer.Argument(help="The redirect URL; without it, or as -, it is read from stdin.")
    ] = None,
    as_json: frame.AsJson = False,
) -> None:
    """Take the redirect that came back from the LFI: check it, exchange the code, store the tokens.

    Give it on stdin where others can see your command lines: it carries the code.
    """
    redirect = _line_of_stdin() if url in (None, "-") else url
    if not redirect:
        raise RequestError("url: nothing came on stdin; give the whole redirect URL")

    async def complete(application: "Application") -> None:
        completed = await application.authorize.complete(redirect)
        show.facts({"consent": completed.consent_id, "status": completed.status}, as_json=as_json)

    frame.with_application(complete)


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines in UTF-8, one consent each; - reads stdin.")],
    replace_tokens: Annotated[
        bool,
        typer.Option(
            "--replace-tokens",
            help="Where another refresh token is held for a ConsentId, store the file's tokens in its place; the one "
            "held is kept beside it and tried when the LFI refuses the new one. Without it such a line is refused.",
        ),
    ] = False,
    spread_minutes: Annotated[
        float, typer.Option(min=0, max=24 * 60, help="The first syncs are spread over so many minutes.")
    ] = SPREAD_MINUTES,
    as_json: frame.AsJson = False,
) -> None:
    """Take over consents that another system held until now.  It has to stop refreshing them first.

    Each line: ConsentId, lfi (slug), Permissions, ExpirationDateTime, refresh_token, standard_version; and where known
    access_token with access_token_expires_at, BaseConsentId (the root), user_ref, tenant, FromDate, ToDate,
    AccountType, AccountSubType, OnBehalfOf, OpenFinanceBilling, Subscription.

    A line goes in as a whole or not at all.  Running it again is harmless: a line that is in changes nothing.

    Exit code 0: every line is in.  3: some are, those that are not are named by number and reason.  1: none is.
    """
    from syncworker.cli import importing

    importing.take_over(file, replace_tokens=replace_tokens, spread=timedelta(minutes=spread_minutes), as_json=as_json)


@app.command("list")
def list_(
    lfi: Annotated[str | None, typer.Option(help="Only this LFI's.")] = None,
    status: Annotated[str | None, typer.Option(help="Only in this state.")] = None,
    renewal_due: Annotated[
        bool, typer.Option("--renewal-due", help="Only those whose user should be asked again.")
    ] = False,
    within: Annotated[
        int | None, typer.Option(min=0, max=365, help="With --renewal-due: ending within so many days.")
    ] = None,
    as_json: frame.AsJson = False,
) -> None:
    """Every consent, newest first.

    With --renewal-due: those that end soon, have expired, or lost their grant, and have no successor.
    """
    if renewal_due:
        if lfi is not None or status is not None:
            raise RequestError("renewal_due: goes with neither --lfi nor --status")
        renewals.renewal_due(within=within, as_json=as_json)
        return
    if within is not None:
        raise RequestError("within: needs --renewal-due")

    async def read(store: Store) -> list[dict[str, Any]]:
        async with store.reading() as unit:
            now = await unit.now()
            return [
                {
                    "consent": one.consent_id,
                    "user_ref": one.user_ref,
                    "lfi": one.lfi,
                    "status": one.status,
                    "needs_consent": one.needs_consent,
                    "expires_at": one.expires_at,
                    "ends_in": one.expires_at - now,
                    "accounts": _narrowed(one),
                    "from_date": one.from_date,
                    "to_date": one.to_date,
                    "on_behalf_of": one.on_behalf_of and one.on_behalf_of.written(),
                }
                for one in await unit.consents.find(lfi=read_slug(lfi) if lfi else None, status=status)
            ]

    show.rows(
        frame.with_store(read),
        as_json=as_json,
        title="Consents",
        empty="no consent yet: `syncworker consents authorize`",
    )


@app.command("show")
def show_(consent_id: str, as_json: frame.AsJson = False) -> None:
    """One consent: its terms, its state, what it brought and how fresh that is."""

    async def read(store: Store) -> None:
        one = await _held(store, consent_id)
        async with store.reading() as unit:
            connection = await unit.consents.connection(one.connection_id)
            counts = await unit.records.count(one.connection_id)
            cursors = await unit.cursors.of(one.connection_id)
            look = await unit.work.find(WorkKind.CONSENT, one.consent_id)
            renewal = await renewals.told_of_renewal(unit, one)
            asked = await unit.authorizations.of(one.consent_id)
            said = await unit.runs.said([one.consent_id], limit=SAID_MAX)
            now = await unit.now()
        listings: list[dict[str, Any]] = [
            {
                "account": listing.account_id or None,
                "resource": listing.resource.value,
                "outcome": cursor.outcome,
                "error": cursor.error,
                "attempts": cursor.attempts,
                "checked": None if cursor.checked_at is None else now - cursor.checked_at,
                "due_in": cursor.due_at - now,
            }
            for listing, cursor in sorted(cursors.items())
        ]
        show.facts(
            {
                "consent": one.consent_id,
                "connection": one.connection_id,
                "lfi": one.lfi,
                "version": one.version.value,
                "user_ref": one.user_ref,
                "status": one.status,
                "status_updated_at": one.status_updated_at,
                "status_seen_at": one.status_seen_at,
                "needs_consent": one.needs_consent,
                "paused_at": one.paused_at,
                "revoke_asked_at": one.revoke_asked_at,
                "revoked_by": one.revoked_by,
                "ended_at": one.ended_at,
                "compared_at": one.compared_at,
                "drift": one.drift,
                "webhook_active": one.webhook_active,
                "webhook_wanted": one.webhook_wanted,
                "hub_asked_next_at": None if look is None or look.due_at >= NEVER else look.due_at,
                "hub_asked_error": None if look is None else look.last_error,
                "permissions": list(one.permissions),
                "expires_at": one.expires_at,
                "from_date": one.from_date,
                "to_date": one.to_date,
                "account_types": _listed(one.account_types),
                "account_sub_types": _listed(one.account_sub_types),
                "on_behalf_of": one.on_behalf_of and one.on_behalf_of.written(),
                "user_type": one.user_type or None,
                "purpose": one.purpose or None,
                "made_in": one.made_in or one.version.value,
                "read_as_uae_time": list(without_offset(one.raw)),
                "last_data_at": connection.last_data_at if connection else None,
                "authorization": None if asked is None else asked.outcome,
                "authorization_reason": None if asked is None else asked.reason,
            }
            | renewal
            | {f"rows_{name.value}": count for name, count in counts.items()}
            | ({"listings": listings, "lfi_said": [_said(call) for call in said]} if as_json else {}),
            as_json=as_json,
        )
        if not as_json:
            if said:
                show.rows([_said(call) for call in said], as_json=False, title="\nWhat the LFI said", empty="")
            told = [
                {**one, "checked": None if one["checked"] is None else f"{show.span(one['checked'])} ago"}
                for one in listings
            ]
            show.rows(told, as_json=False, title="\nListings", empty="nothing was read yet")

    frame.with_store(read)


def _said(call: CallRow) -> dict[str, Any]:
    """A refused call with the LFI's words about it."""
    return {
        "at": call.started_at,
        "operation": call.operation,
        "status": call.status,
        "error": call.error,
        "reason": call.reason,
    }


@app.command()
def sync(
    consent_id: str,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until a worker has done it.")] = False,
    here: Annotated[bool, typer.Option("--here", help="Do it in this process, without a worker.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = 120,
    as_json: frame.AsJson = False,
) -> None:
    """Ask for a sync now; also listings that were refused or absent lately are asked for.

    Where none can come that is said at once.  Exit code 1: the consent has ended, was revoked here or has to be given
    again, or its LFI is neither declared nor allowed; with --wait also when no worker lives.  3: not now, because the
    consent is paused, suspended or not authorised yet; of the latter two the Hub is asked at once all the same.
    With --wait or --here: 0 when the run is complete, 3 when it is not and something was read, 1 when nothing was.
    """
    if here:
        frame.with_application(lambda application: _sync_here(application, consent_id, as_json=as_json))
        return
    config = frame.settings()
    tick = timedelta(seconds=config.tick_seconds)

    async def ask(store: Store) -> None:
        from syncworker import wiring

        one = await _held(store, consent_id)
        wiring.allowed(config).check(one.lfi, one.user_ref)
        reason = await _no_sync(store, one)
        if reason is not None and not reason.hub_asked:
            raise typer.Exit(reason.exit_code)
        if one.lfi not in await opening.declared_lfis(config, store):
            raise RequestError(
                f"lfi: {one.lfi} is not declared, so no worker calls it; `syncworker lfis add {one.lfi}`"
            )
        async with store.writing() as unit:
            asked_at = await unit.now()
            if not await unit.work.ask_now(WorkKind.SYNC, one.connection_id) and reason is None:
                raise RequestError(f"consent_id: {consent_id} has no schedule; it was never authorised")
            alive = await unit.work.alive("worker", within=max(WORKER_SEEN_WITHIN_TICKS * tick, WORKER_SEEN_WITHIN_MIN))
            await unit.commit()
        if not alive:
            show.say("no worker lives; the sync is due and runs when one starts (`syncworker up`, or --here)")
            if wait or reason is not None:
                raise typer.Exit(frame.FAILED if reason is None else reason.exit_code)
            return
        _hurry(config)
        if reason is not None:
            raise typer.Exit(reason.exit_code)
        if wait:
            await _wait(store, one, asked_at, timeout=timeout, as_json=as_json)
        else:
            show.say("asked; a worker takes it now")

    frame.with_store(ask)


def _hurry(config: Settings) -> None:
    """Ask for a tick now; where the broker is away, beat's next one serves."""
    from syncworker import tasks
    from syncworker.broker import broker_of

    tasks.configure(broker_of(config), config.tick_seconds, config.data_folder)
    tasks.publish_tick()


async def _sync_here(application: "Application", consent_id: str, *, as_json: bool) -> None:
    one = await _held(application.store, consent_id)
    application.allowed.check(one.lfi, one.user_ref)
    reason = await _no_sync(application.store, one, said=False)
    if reason is not None and not reason.hub_asked:
        await _no_sync(application.store, one)
        raise typer.Exit(reason.exit_code)
    report = await application.sync_now(one.connection_id)
    if report is None:
        raise RequestError(f"consent_id: {consent_id} is being synced by a worker right now, or has no schedule")
    await _print_run(application.store, one, as_json=as_json, since=report.started_at)


@dataclass(frozen=True, slots=True)
class NoSync:
    """Why no sync can come.

    Attributes:
        code: stable.
        said: what is so and what to do.
        exit_code: `FAILED` where only a new consent helps, `PARTLY` where it may be synced again later.
        hub_asked: whether a sync asks the Hub first, and reads data where the Hub shows it in use again.
    """

    code: str
    said: str
    exit_code: int
    hub_asked: bool = False


def why_no_sync(one: StoredConsent, *, now: datetime) -> NoSync | None:
    """Why a consent cannot be synced as it stands; `None` when it can."""
    anew = f"; its user has to consent again: `syncworker consents renew {one.consent_id}`"
    if one.terminal:
        since = "" if one.ended_at is None else f" since {one.ended_at:%Y-%m-%d %H:%M:%SZ}"
        return NoSync("consent_ended", f"is {one.status}{since}, so nothing is synced any more{anew}", frame.FAILED)
    if one.revoke_asked_at is not None:
        ordered = f"{one.revoke_asked_at:%Y-%m-%d %H:%M:%SZ}"
        return NoSync(
            "consent_revoked_here", f"was revoked here at {ordered}, so nothing is synced any more", frame.FAILED
        )
    if now >= one.expires_at:
        return NoSync("consent_ended", f"ended at {one.expires_at:%Y-%m-%d %H:%M:%SZ}{anew}", frame.FAILED)
    if one.paused_at is not None:
        again = f"go on with `syncworker consents resume {one.consent_id}`"
        return NoSync("consent_paused", f"is paused, so nothing is synced; {again}", frame.PARTLY)
    if one.needs_consent is not None:
        return NoSync("consent_needed", f"lost its grant ({one.needs_consent}){anew}", frame.FAILED)
    if one.status == Status.Suspended:
        until = "the bank lifts it; the Hub is asked whether it has"
        return NoSync("consent_suspended", f"is Suspended, so nothing is synced until {until}", frame.PARTLY, True)
    if not one.callable_at(now):
        said = f"is {one.status}, so nothing is synced yet; the Hub is asked whether that still holds"
        return NoSync("consent_not_authorised", said, frame.PARTLY, True)
    return None


async def _no_sync(store: Store, one: StoredConsent, *, said: bool = True) -> NoSync | None:
    """Why a consent cannot be synced as it stands, on stderr too; `None` when it can."""
    async with store.reading() as unit:
        now = await unit.now()
        others = await unit.consents.find(connection_id=one.connection_id)
    reason = why_no_sync(one, now=now)
    if reason is not None and said:
        usable = [other.consent_id for other in others if other.callable_at(now)]
        instead = f"; in use is {usable[-1]}: `syncworker consents sync {usable[-1]}`" if usable else ""
        show.say(f"error [{reason.code}]: consent_id: {one.consent_id} {reason.said}{instead}")
    return reason


async def _wait(store: Store, one: StoredConsent, since: datetime, *, timeout: float, as_json: bool) -> None:
    began = monotonic()
    while monotonic() - began < timeout:
        async with store.reading() as unit:
            runs = await unit.runs.latest(one.connection_id, limit=1)
            row = await unit.work.find(WorkKind.SYNC, one.connection_id)
        ended = row is not None and row.asked_at is None and (row.last_ended_at or since) > since
        if ended or (runs and runs[0].started_at >= since):
            await _print_run(store, one, as_json=as_json, since=since)
            return
        if reason := await _no_sync(store, await _held(store, one.consent_id)):  # it may have ended while we wait
            raise typer.Exit(reason.exit_code)
        await asyncio.sleep(0.2)
    show.say(f"no sync ended within {timeout:.0f} s; `syncworker status` shows why")
    raise typer.Exit(frame.FAILED)


async def _print_run(store: Store, one: StoredConsent, *, as_json: bool, since: datetime) -> None:
    async with store.reading() as unit:
        runs = await unit.runs.latest(one.connection_id, limit=1)
    if not runs or runs[0].started_at < since:
        reason = await _no_sync(store, await _held(store, one.consent_id))
        if reason is None:
            async with store.reading() as unit:
                row = await unit.work.find(WorkKind.SYNC, one.connection_id)
            error = row.last_error if row is not None else None
            fault = f"the run ended with [{error}], `syncs failed` says what to do"
            show.say(f"nothing was synced: {fault if error else '`syncworker status` shows why'}")
        raise typer.Exit(frame.FAILED if reason is None else reason.exit_code)
    run = runs[0]
    facts = facts_of_run(run.outcome, run.error, run.steps)
    show.facts(
        {
            "outcome": run.outcome,
            **facts_as_told(facts),
            "error": run.error,
            "calls": run.calls,
            "pages": run.pages,
            "pages_unchanged": run.pages_unchanged,
            "added": run.added,
            "modified": run.modified,
            "removed": run.removed,
            "took": run.ended_at - run.started_at,
        },
        as_json=as_json,
    )
    if facts.complete:
        return
    follows = (("retry: it is read again by itself", facts.retry), ("needs a person", facts.person))
    show.say("; ".join(["not complete", *(words for words, holds in follows if holds)]))
    if run.error:
        show.say(f"error [{run.error}]: {meaning_of(run.error) or 'the listings under `consents show` say where'}")
    raise typer.Exit(frame.PARTLY if run.outcome == "partial" else frame.FAILED)


async def _held(store: Store, consent_id: str) -> StoredConsent:
    async with store.reading() as unit:
        one = await unit.consents.get(ConsentId(consent_id))
    if one is None:
        raise RequestError(f"consent_id: {consent_id!r} is not held; `syncworker consents list` shows those that are")
    return one


def _narrowed(one: StoredConsent) -> list[str] | None:
    """The kinds of account a consent shows; `None`: every kind."""
    return _listed((one.account_types or ()) + (one.account_sub_types or ())) or None


def _listed(words: Sequence[str] | None) -> list[str] | None:
    return None if words is None else list(words)


def _line_of_stdin() -> str:
    """One line, whatever the locale makes of its bytes; cut where no redirect goes on."""
    return sys.stdin.buffer.readline(LINE_BYTES_MAX).decode(errors="replace").strip()


def ending(days: int | None, expires_at: str | None, *, now: datetime) -> datetime:
    """The end of a consent as somebody gave it: so many days ahead, or an instant.

    Raises:
        RequestError: both, or no instant with an offset.
    """
    if days is not None and expires_at is not None:
        raise RequestError("expires_at: give --days or --expires-at, not both")
    if expires_at is None:
        return shifted(now, span(days=days if days is not None else min(180, EXPIRY_MAX.days)))
    try:
        end = read_iso(expires_at)
    except ValueError:
        raise RequestError(f"expires_at: {expires_at!r} is not an instant; write 2027-01-31T00:00:00Z") from None
    if end.tzinfo is None:
        raise RequestError("expires_at: has no offset; write 2027-01-31T00:00:00Z")
    end = as_utc(end)
    if fault := fault_of_instant(end):
        raise RequestError(f"expires_at: {fault}")
    return end
