"""`syncworker openings`: ask an LFI to open an account, and see what becomes of it."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from syncworker.cli import frame, show, terms
from syncworker.clock import monotonic
from syncworker.errors import RequestError, TransientError, meaning_of
from syncworker.openings import WHAT_TO_DO, OpeningOrder, Openings, doubts
from syncworker.settings import Settings, read_slug
from syncworker.standard.consents import EXPIRY_MAX, Purpose, UserType
from syncworker.standard.opening_request import WARNED
from syncworker.standard.openings import ENDED, OpeningState
from syncworker.store.openings import OpeningContents, OpeningMoved, ShareWish, StoredOpening
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind

if TYPE_CHECKING:
    from syncworker.wiring import Application

app = typer.Typer(help="Account openings at LFIs.", no_args_is_help=True)

BODY_BYTES_MAX: Final = 1024 * 1024
WARNED_CODE: Final = "opening_not_as_errata"
"""Of a request that the file of its version's errata would not take, where the version itself has none."""

SHARE_DAYS: Final = 180
LOOK_EVERY_S: Final = 0.5
ASK_EVERY_S: Final = 5.0
"""An LFI is not polled as fast as our own table."""

WORKER_SEEN_WITHIN: Final = timedelta(seconds=15)
ENDS: Final[Mapping[OpeningState, int]] = {
    OpeningState.COMPLETED: frame.DONE,
    OpeningState.REJECTED: frame.FAILED,
    OpeningState.REFUSED: frame.FAILED,
    OpeningState.NOT_CREATED: frame.FAILED,
    OpeningState.UNKNOWN: frame.PARTLY,
}
"""Exit code by where an opening has come to rest."""

Permissions = Annotated[
    list[str] | None, typer.Option("--permission", help="Repeatable: share this once the account is open.")
]
Days = Annotated[int, typer.Option(min=1, max=EXPIRY_MAX.days, help="How long that consent shall live.")]


@app.command()
def create(
    lfi: Annotated[str, typer.Argument(help="Slug of the LFI.")],
    body: Annotated[str, typer.Argument(metavar="FILE", help="The request as JSON; - reads standard input.")],
    user_ref: Annotated[str | None, typer.Option(help="Your own opaque id of the customer; no personal data.")] = None,
    webhook: Annotated[str | None, typer.Option(help="Where the LFI shall send events, https.")] = None,
    original: Annotated[
        Path | None, typer.Option(help="The Party as data sharing delivered it: edits are declared to the LFI.")
    ] = None,
    permission: Permissions = None,
    days: Days = SHARE_DAYS,
    user_type: Annotated[UserType, typer.Option(help="Of that consent.")] = UserType.Retail,
    purpose: Annotated[Purpose, typer.Option(help="Of that consent.")] = Purpose.AccountAggregation,
    account_type: terms.AccountTypes = None,
    account_sub_type: terms.AccountSubTypes = None,
    on_behalf_of_trading_name: terms.TradingName = None,
    on_behalf_of_legal_name: terms.LegalName = None,
    on_behalf_of_identifier: terms.Identifier = None,
    as_json: frame.AsJson = False,
) -> None:
    """Ask an LFI to open an account, exactly once; an answer that never came is `unknown`, never a second request."""
    order = OpeningOrder(
        body=_document("body", _text(body)),
        user_ref=user_ref,
        webhook=webhook,
        original=None if original is None else _document("original", _text(str(original))),
        share=_wish(
            permission,
            days,
            user_type=user_type,
            purpose=purpose,
            account_types=terms.said(terms.kinds(account_type)),
            account_sub_types=terms.said(terms.kinds(account_sub_type)),
            on_behalf_of=terms.said(
                terms.on_behalf_of(on_behalf_of_trading_name, on_behalf_of_legal_name, on_behalf_of_identifier)
            ),
        ),
    )
    slug = read_slug(lfi)
    opening, contents = frame.with_application(lambda application: _created(application, slug, order))
    warned = doubts(order, opening.version)
    for line in warned:
        show.say(
            f"warning [{WARNED_CODE}]: {line}, says the file of {WARNED[opening.version].value}; it was sent as it is"
        )
    show.facts(_facts(opening, contents) | ({"warnings": warned} if as_json else {}), as_json=as_json)
    _advise(opening)
    if opening.state in (OpeningState.UNKNOWN, OpeningState.REFUSED):
        raise typer.Exit(ENDS[opening.state])


@app.command("list")
def list_(
    lfi: Annotated[str | None, typer.Option(help="Slug of the LFI.")] = None,
    state: Annotated[OpeningState | None, typer.Option()] = None,
    user_ref: Annotated[str | None, typer.Option()] = None,
    as_json: frame.AsJson = False,
) -> None:
    """All openings that match, oldest first."""
    slug = None if lfi is None else read_slug(lfi)

    async def read(store: Store) -> list[dict[str, Any]]:
        async with store.reading() as unit:
            found = await unit.openings.find(lfi=slug, state=state, user_ref=user_ref)
        return [
            {
                "opening": one.opening_id,
                "lfi": one.lfi,
                "user_ref": one.user_ref,
                "state": one.state.value,
                "since": one.state_since,
                "overdue": one.overdue_at is not None,
                "account": one.account_id,
                "error": one.error,
            }
            for one in found
        ]

    show.rows(frame.with_store(read), as_json=as_json, title="Account openings", empty="no account opening is held")


@app.command("show")
def show_(opening_id: str, as_json: frame.AsJson = False) -> None:
    """One opening: its state, what to do about it, its history."""

    async def read(store: Store) -> tuple[StoredOpening, OpeningContents, list[OpeningMoved]]:
        async with store.reading() as unit:
            opening = await unit.openings.get(opening_id)
            if opening is None:
                raise _unknown(opening_id)
            return opening, await unit.openings.contents(opening_id), list(await unit.openings.history(opening_id))

    opening, contents, history = frame.with_store(read, sealed=True)
    moves = [
        {
            "at": one.at,
            "state": one.state.value,
            "status": one.status,
            "lfi_says_since": one.status_updated_at,
            "source": one.source,
            "error": one.error,
        }
        for one in history
    ]
    if as_json:
        show.value(_facts(opening, contents) | {"history": moves})
        return
    show.facts(_facts(opening, contents), as_json=False)
    show.rows(moves, as_json=False, title="\nHistory", empty="nothing has happened yet")


@app.command()
def watch(
    opening_id: str,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for its end.")] = 300,
    here: Annotated[bool, typer.Option("--here", help="Ask the LFI from this process, without a worker.")] = False,
    as_json: frame.AsJson = False,
) -> None:
    """Follow an opening until its end: exit 0 completed, 1 not opened, 3 unknown or still under way."""
    if here:
        opening, contents = frame.with_application(
            lambda application: _watched(application.store, opening_id, timeout, ask=application.openings.ask)
        )
    else:
        config = frame.settings()

        async def wait(store: Store) -> tuple[StoredOpening, OpeningContents]:
            await _hurry(store, config, opening_id)
            return await _watched(store, opening_id, timeout)

        opening, contents = frame.with_store(wait, sealed=True)
    show.facts(_facts(opening, contents), as_json=as_json)
    if opening.state not in ENDS:
        show.say(f"not at its end within {timeout:g} s; a worker goes on following it")
    raise typer.Exit(ENDS.get(opening.state, frame.PARTLY))


@app.command()
def share(
    opening_id: str,
    permission: Permissions = None,
    days: Days = SHARE_DAYS,
    user_type: Annotated[UserType, typer.Option(help="Of that consent.")] = UserType.Retail,
    purpose: Annotated[Purpose, typer.Option(help="Of that consent.")] = Purpose.AccountAggregation,
    account_type: terms.AccountTypes = None,
    account_sub_type: terms.AccountSubTypes = None,
    on_behalf_of_trading_name: terms.TradingName = None,
    on_behalf_of_legal_name: terms.LegalName = None,
    on_behalf_of_identifier: terms.Identifier = None,
    as_json: frame.AsJson = False,
) -> None:
    """Begin the data-sharing consent of an opened account and print the URL the user has to open."""
    wish = _wish(
        permission,
        days,
        user_type=user_type,
        purpose=purpose,
        account_types=terms.said(terms.kinds(account_type)),
        account_sub_types=terms.said(terms.kinds(account_sub_type)),
        on_behalf_of=terms.said(
            terms.on_behalf_of(on_behalf_of_trading_name, on_behalf_of_legal_name, on_behalf_of_identifier)
        ),
    )

    async def begin(application: "Application") -> dict[str, Any]:
        started = await application.openings.share(opening_id, wish=wish)
        return {"consent": started.consent_id, "open_before": started.expires_at, "url": started.url}

    show.facts(frame.with_application(begin), as_json=as_json)
    show.say("then bring the redirect home: syncworker consents callback 'https://…?code=…&state=…&iss=…'")


@app.command()
def subscription(
    opening_id: str,
    active: Annotated[bool, typer.Option("--on/--off", help="Whether the LFI shall send events.")],
    url: Annotated[str | None, typer.Option(help="Where to; needed the first time, https.")] = None,
    as_json: frame.AsJson = False,
) -> None:
    """Switch the event notifications of one opening at the LFI."""
    _acted(lambda openings: openings.subscribe(opening_id, active=active, url=url), as_json=as_json)


@app.command()
def settle(
    opening_id: str,
    account_id: Annotated[str | None, typer.Option(help="The LFI has it, under this AccountId.")] = None,
    not_created: Annotated[bool, typer.Option("--not-created", help="The LFI has no such request.")] = False,
    as_json: frame.AsJson = False,
) -> None:
    """Say what became of an opening that is `unknown`; with an AccountId the LFI is asked, and it is followed again."""
    if not_created == (account_id is not None):
        raise RequestError("account_id: give either --account-id or --not-created")
    _acted(lambda openings: openings.settle(opening_id, account_id=account_id), as_json=as_json)


def _acted(act: Callable[[Openings], Awaitable[StoredOpening]], *, as_json: bool) -> None:
    async def work(application: "Application") -> tuple[StoredOpening, OpeningContents]:
        opening = await act(application.openings)
        return opening, await _contents(application.store, opening.opening_id)

    opening, contents = frame.with_application(work)
    show.facts(_facts(opening, contents), as_json=as_json)


async def _created(application: "Application", slug: Any, order: OpeningOrder) -> tuple[StoredOpening, OpeningContents]:
    opening = await application.openings.create(slug, order)
    return opening, await _contents(application.store, opening.opening_id)


async def _watched(
    store: Store,
    opening_id: str,
    timeout: float,
    *,
    ask: Callable[[StoredOpening], Awaitable[StoredOpening]] | None = None,
) -> tuple[StoredOpening, OpeningContents]:
    """Look until it has come to rest or the time is over; each new state is a line on stderr."""
    began, seen = monotonic(), None
    while True:
        opening = await _held(store, opening_id)
        if ask is not None and opening.account_id is not None and opening.state not in ENDED:
            opening = await _asked(opening, ask)
        if opening.state is not seen:
            seen = opening.state
            show.say(f"{opening.state_since:%H:%M:%SZ}  {opening.state.value}: {WHAT_TO_DO[opening.state]}")
        if opening.state in ENDS or monotonic() - began >= timeout:
            return opening, await _contents(store, opening_id)
        await asyncio.sleep(min(LOOK_EVERY_S if ask is None else ASK_EVERY_S, timeout))


async def _asked(opening: StoredOpening, ask: Callable[[StoredOpening], Awaitable[StoredOpening]]) -> StoredOpening:
    try:
        return await ask(opening)
    except TransientError as error:  # time mends it, and there is some
        show.say(f"error [{error.code}]: {error}; asked again")
        return opening


async def _hurry(store: Store, config: Settings, opening_id: str) -> None:
    """Have a worker ask the LFI now, if there is anything to ask."""
    from syncworker import tasks
    from syncworker.broker import broker_of

    opening = await _held(store, opening_id)
    if opening.state in ENDS:
        return

    async with store.writing() as unit:
        await unit.work.ask_now(WorkKind.OPENING, opening_id)
        alive = await unit.work.alive("worker", within=WORKER_SEEN_WITHIN)
        await unit.commit()
    if not alive:
        show.say("no worker lives, so nobody asks the LFI; start one (`syncworker up`), or watch with --here")
        return
    tasks.configure(broker_of(config), config.tick_seconds, config.data_folder)
    tasks.publish_tick()


async def _held(store: Store, opening_id: str) -> StoredOpening:
    async with store.reading() as unit:
        opening = await unit.openings.get(opening_id)
    if opening is None:
        raise _unknown(opening_id)
    return opening


async def _contents(store: Store, opening_id: str) -> OpeningContents:
    async with store.reading() as unit:
        return await unit.openings.contents(opening_id)


def _wish(permission: list[str] | None, days: int, **more: Any) -> ShareWish | None:
    """The consent wished for; `None` without a permission.

    Raises:
        RequestError: something else of it was given, and no permission.
    """
    if permission:
        return ShareWish(permissions=tuple(permission), days=days, **more)
    given = [name for name in ("account_types", "account_sub_types", "on_behalf_of") if more[name] is not None]
    if given:
        raise RequestError(f"{given[0]}: needs --permission: it says what that consent shows")
    return None


def _unknown(opening_id: str) -> RequestError:
    return RequestError(f"opening_id: {opening_id!r} is not held; `syncworker openings list` shows those that are")


def _facts(opening: StoredOpening, contents: OpeningContents) -> dict[str, Any]:
    wish = opening.share
    return {
        "opening": opening.opening_id,
        "lfi": opening.lfi,
        "version": opening.version.value,
        "user_ref": opening.user_ref,
        "state": opening.state.value,
        "status": opening.status,
        "since": opening.state_since,
        "overdue_since": opening.overdue_at,
        "account": opening.account_id,
        "information": contents.information,
        "redirect_url": contents.redirect_url,
        "http_status": opening.http_status,
        "error": opening.error,
        "events": opening.webhook_active,
        "share": None if wish is None else list(wish.permissions),
        "share_accounts": None
        if wish is None
        else [*(wish.account_types or ()), *(wish.account_sub_types or ())] or None,
        "share_on_behalf_of": wish and wish.on_behalf_of and wish.on_behalf_of.written(),
        "intent": opening.intent_id,
        "consent": opening.consent_id,
        "created_at": opening.created_at,
        "what_to_do": WHAT_TO_DO[opening.state],
    }


def _advise(opening: StoredOpening) -> None:
    if opening.state is OpeningState.UNKNOWN:
        show.say(f"error [opening_in_doubt]: {WHAT_TO_DO[opening.state]}")
    elif opening.state is OpeningState.REFUSED:
        meaning = meaning_of(opening.error or "")
        show.say(f"error [{opening.error}]: {meaning or WHAT_TO_DO[opening.state]}")
    else:
        show.say(f"a worker follows it; or: syncworker openings watch {opening.opening_id}")


def _text(source: str) -> bytes:
    try:
        if source == "-":
            content = sys.stdin.buffer.read(BODY_BYTES_MAX + 1)
        else:
            with Path(source).open("rb") as file:
                content = file.read(BODY_BYTES_MAX + 1)
    except OSError as error:
        raise RequestError(f"body: {source} cannot be read ({error.strerror})") from None
    if len(content) > BODY_BYTES_MAX:
        raise RequestError(f"body: is larger than {BODY_BYTES_MAX} bytes")
    return content


def _document(name: str, content: bytes) -> Mapping[str, Any]:
    """A JSON object, every number as exact as it was written.

    Raises:
        RequestError: it is none; says where, never what stands there.
    """
    try:
        document = json.loads(content, parse_float=Decimal, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise RequestError(f"{name}: is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"{name}: not JSON: {error.msg} in line {error.lineno}, column {error.colno}") from None
    except (ValueError, RecursionError):
        raise RequestError(f"{name}: not JSON that can be sent: a number or a depth beyond reason") from None
    if not isinstance(document, dict):
        raise RequestError(f"{name}: must be a JSON object")
    return document


def _no_constant(_name: str) -> None:
    raise ValueError
