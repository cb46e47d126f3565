"""The options that say what a consent asks for, as `consents authorize` and `consents renew` share them."""

from datetime import date
from typing import Annotated, Final, TypeVar

import typer

from syncworker.consents.renewal import SAME, Keep
from syncworker.errors import RequestError
from syncworker.standard.calendar import fault_of_day, read_day
from syncworker.standard.consents import IDENTIFIER_TYPE, OnBehalfOf
from syncworker.standard.versions import Version

T = TypeVar("T")

OPEN: Final = "open"
"""In the place of a date: without a limit."""

ANY: Final = "any"
"""In the place of a kind of account: every kind."""

VersionWish = Annotated[
    Version | None, typer.Option("--version", help="Of the standard; the highest the LFI offers unless given.")
]
AccountTypes = Annotated[
    list[str] | None,
    typer.Option("--account-type", help="Retail, SME or Corporate: only such accounts; repeatable; `any`: every kind."),
]
AccountSubTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--account-sub-type",
        help="CurrentAccount, Savings, CreditCard, Mortgage, Finance or PersonalLoan: only such accounts; repeatable; "
        "`any`: every kind.",
    ),
]
TradingName = Annotated[
    str | None, typer.Option("--on-behalf-of-trading-name", help="OnBehalfOf: trading name of the firm asked for.")
]
LegalName = Annotated[str | None, typer.Option("--on-behalf-of-legal-name", help="OnBehalfOf: its legal name.")]
Identifier = Annotated[str | None, typer.Option("--on-behalf-of-identifier", help="OnBehalfOf: an identifier of it.")]


def kinds(given: list[str] | None) -> tuple[str, ...] | Keep | None:
    """A repeatable kind of account: as given, every kind (`None`), or not said."""
    if not given:
        return SAME
    return None if given == [ANY] else tuple(dict.fromkeys(given))


def on_behalf_of(trading_name: str | None, legal_name: str | None, identifier: str | None) -> OnBehalfOf | Keep:
    """`OnBehalfOf` of its options; not said when none is given."""
    if (trading_name, legal_name, identifier) == (None, None, None):
        return SAME
    return OnBehalfOf(
        trading_name=trading_name,
        legal_name=legal_name,
        identifier_type=None if identifier is None else IDENTIFIER_TYPE,
        identifier=identifier,
    )


def day(name: str, text: str | None) -> date | Keep | None:
    """A date option; `open` is no limit.

    Raises:
        RequestError: it is neither.
    """
    if text is None:
        return SAME
    if text == OPEN:
        return None
    try:
        found = read_day(text)
    except ValueError:
        raise RequestError(f"{name}: {text!r} is not a date; write 2026-01-31, or `{OPEN}` for no limit") from None
    if fault := fault_of_day(found):
        raise RequestError(f"{name}: {fault}")
    return found


def said(wish: T | Keep) -> T | None:
    """For a new consent: what is not said is without a limit."""
    return None if isinstance(wish, Keep) else wish
