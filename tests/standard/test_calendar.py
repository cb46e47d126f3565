"""No date of a bank, a caller or a header overflows: every reader of such dates is fed the ends of the calendar."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from email.utils import format_datetime
from functools import partial
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncworker.cli.consents import ending
from syncworker.cli.renewals import _entry, _ics_instant
from syncworker.cli.syncs import read_since
from syncworker.cli.terms import day as cli_date
from syncworker.consents.import_file import read_line
from syncworker.consents.polling import Cadence
from syncworker.consents.polling import next_look as next_poll
from syncworker.consents.renewal import begun_at, thresholds_due
from syncworker.errors import SyncWorkerError
from syncworker.lfi import jose, oauth
from syncworker.lfi.api import read_page
from syncworker.lfi.checkup import _clock as clock_finding
from syncworker.lfi.directory import fresh_for
from syncworker.lfi.keys import days_announced
from syncworker.lfi.participants import _day as directory_day
from syncworker.lfi.transport import Answer
from syncworker.openings import OpeningCadence
from syncworker.openings import next_look as next_opening_look
from syncworker.schedule.clocks import ClockWatch
from syncworker.schedule.due import next_run_at, retry_at, spread, token_due_at
from syncworker.standard.calendar import (
    EARLIEST,
    FIRST_DAY,
    LAST_DAY,
    LATEST,
    UAE,
    as_utc,
    at_time,
    fault_of_day,
    fault_of_instant,
    http_date,
    local_date,
    of_epoch,
    shifted,
    span,
    utc_date,
)
from syncworker.standard.consents import ConsentRequest, authorization_details, read_consent
from syncworker.standard.events import read_event
from syncworker.standard.opening_request import _day as opening_day
from syncworker.standard.opening_request import _moment as opening_moment
from syncworker.standard.openings import OpeningState, OpeningVersion, read_opening
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.values import ConsentId, Slug, read_instant, write_instant
from syncworker.standard.versions import Version
from syncworker.store.consents import StoredConsent
from syncworker.store.cursors import Covered, Cursor, Listing, extended
from syncworker.store.openings import StoredOpening
from syncworker.sync.apply import proof_of, show
from syncworker.sync.decode import decode
from syncworker.sync.fetch import Walk
from syncworker.sync.pages import NOTHING
from syncworker.sync.plan import ConsentLimits, PlanSettings, backfilled_to, floor_of, next_slice, plan
from syncworker.web.api import _place
from syncworker.web.problems import Problem

pytestmark = pytest.mark.unit

NOW: Final = datetime(2026, 10, 20, 8, tzinfo=UTC)
CONSENT: Final = ConsentId("c0ffee00-0000-4000-8000-000000000001")

OFFSETS: Final = st.sampled_from([-14, -4, 0, 4, 14]).map(lambda hours: timezone(timedelta(hours=hours)))
NEAR_THE_ENDS: Final = st.one_of(
    st.datetimes(max_value=EARLIEST.replace(tzinfo=None) + timedelta(days=2)),
    st.datetimes(min_value=LATEST.replace(tzinfo=None) - timedelta(days=2)),
    st.datetimes(),
)
MOMENTS: Final = st.builds(lambda moment, zone: moment.replace(tzinfo=zone), NEAR_THE_ENDS, OFFSETS)
STEPS: Final = st.one_of(st.timedeltas(), st.sampled_from([timedelta(days=1), timedelta(days=-1), timedelta()]))


# -- the rule ----------------------------------------------------------------------------------------------------------


@given(MOMENTS, STEPS)
@example(LATEST, timedelta.max)
@example(EARLIEST, timedelta.min)
@example(datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))), timedelta(days=1))
@example(datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), timedelta(days=-1))
def test_what_would_leave_the_calendar_is_its_end(moment: datetime, step: timedelta) -> None:
    """Moved and converted, any instant stays between the ends, and a step forward never goes back."""
    there = shifted(moment, step)
    assert EARLIEST <= as_utc(there) <= LATEST
    assert (there >= moment) == (step >= timedelta()) or there == moment
    assert FIRST_DAY <= local_date(there) <= LAST_DAY
    assert FIRST_DAY <= utc_date(there) <= LAST_DAY
    assert FIRST_DAY <= shifted(utc_date(there), step) <= LAST_DAY


@given(MOMENTS, MOMENTS)
def test_clamping_keeps_the_order(one: datetime, other: datetime) -> None:
    """Of two instants the later one is never converted to an earlier one."""
    assert (one <= other) <= (as_utc(one) <= as_utc(other))


@given(MOMENTS)
def test_what_is_written_is_read_as_the_same(moment: datetime) -> None:
    """Also in the year 1, whose four digits some C libraries leave out."""
    written = write_instant(moment)
    assert len(written) == len("2026-01-31T00:00:00Z")
    assert read_instant(written)[0] == as_utc(moment).replace(microsecond=0)


@given(st.floats(), st.floats())
def test_a_duration_of_any_size_is_one(seconds: float, days: float) -> None:
    """Infinite, absurd or no number at all."""
    assert EARLIEST <= shifted(NOW, span(seconds=seconds, days=days)) <= LATEST
    assert EARLIEST <= of_epoch(seconds) <= LATEST


def test_a_request_names_only_dates_somebody_means() -> None:
    """The fix is said."""
    assert (fault_of_day(date(2026, 1, 1)), fault_of_instant(NOW)) == ("", "")
    assert fault_of_day(LAST_DAY) == (
        "lies outside 1900-01-01 to 2199-12-31; give the date that is meant, or leave it out for no limit"
    )
    assert fault_of_instant(LATEST) == "lies outside 1900-01-01 to 2199-12-31; give the instant that is meant"


# -- every reader of dates that others gave ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Ends:
    """What is fed to a reader.

    Attributes:
        moment: of any year and offset; `iso`, `day` and `http` write it.
        number: as a header, `expires_in` or a claim may have it.
    """

    moment: datetime
    number: float

    @property
    def iso(self) -> str:
        return self.moment.isoformat()

    @property
    def day(self) -> str:
        return self.moment.date().isoformat()

    @property
    def http(self) -> str:
        return format_datetime(self.moment)


def _answer(body: bytes = b"{}", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(200, {"content-type": "application/json"} | named, body, 0)


def _held(ends: Ends, **changes: Any) -> StoredConsent:
    fields: dict[str, Any] = {
        "consent_id": CONSENT,
        "connection_id": CONSENT,
        "lfi": Slug("raw"),
        "user_ref": "u",
        "version": Version.V2_1,
        "status": "Suspended",
        "status_updated_at": as_utc(ends.moment),
        "status_seen_at": NOW,
        "permissions": ("ReadAccountsBasic",),
        "expires_at": as_utc(ends.moment),
        "from_date": utc_date(ends.moment),
        "to_date": utc_date(ends.moment),
        "user_type": "Retail",
        "purpose": "AccountAggregation",
        "created_at": NOW,
        "raw": {"CreationDateTime": ends.iso},
    }
    return StoredConsent(**fields | changes)


def _page(ends: Ends) -> None:
    meta = {"FirstAvailableDateTime": ends.iso, "LastAvailableDateTime": ends.iso}
    body = json.dumps({"Data": {"Transaction": []}, "Links": {}, "Meta": meta}).encode()
    page = read_page(_answer(body), number=1, listing_url="https://bank.example/v2.1/accounts")
    assert page.first_available == as_utc(ends.moment)


def _items(ends: Ends) -> None:
    for name, items, member in (
        (ResourceName.TRANSACTIONS, "Transaction", {"TransactionId": "t", "BookingDateTime": ends.iso}),
        (
            ResourceName.STATEMENTS,
            "Statements",
            {"StatementId": "s", "StatementDate": ends.iso, "OpeningDate": ends.day},
        ),
        (ResourceName.STANDING_ORDERS, "StandingOrder", {"StandingOrderId": "o", "NextPaymentDateTime": ends.iso}),
    ):
        body = json.dumps({"AccountId": "a", items: [member]}).encode()
        assert len(decode(BY_NAME[name], "a", body).records) == 1


def _consent(ends: Ends) -> None:
    view = read_consent(
        {
            "Data": {
                "ConsentId": CONSENT,
                "Status": "Authorized",
                "ExpirationDateTime": ends.iso,
                "CreationDateTime": ends.iso,
                "StatusUpdateDateTime": ends.iso,
                "FromDate": ends.day,
                "TransactionToDateTime": ends.iso,
            }
        }
    )
    assert view.expires_at == as_utc(ends.moment)


_SETTINGS: Final = PlanSettings(cadence=dict.fromkeys(ResourceName, timedelta(hours=1)))


def _plan(ends: Ends) -> None:
    """Consents' dates, and cursors with what a bank's records and `Meta` left there."""
    at, day = as_utc(ends.moment), utc_date(ends.moment)
    every = [one for one in BY_NAME.values() if one.per_account]
    for limits in (ConsentLimits(from_date=day, to_date=day), ConsentLimits(to_date=day), ConsentLimits(from_date=day)):
        for resource in every:
            listing = Listing("a", resource.name)
            cursors = (
                Cursor(listing=listing, due_at=NOW, gen=0),
                Cursor(
                    listing=listing,
                    due_at=at,
                    gen=0,
                    checked_at=NOW,
                    high_water=at,
                    open_since=at,
                    first_available=at,
                    covered_from=day,
                ),
            )
            for cursor in cursors:
                common: dict[str, Any] = {"limits": limits, "now": NOW, "settings": _SETTINGS}
                steps = [*plan([resource], ["a"], {listing: cursor}, everything=True, **common)]
                behind = next_slice(resource, cursor, **common)
                for step in (*steps, *([behind] if behind else [])):
                    if step.window is not None:
                        _walked(step, at)


def _walked(step: Any, at: datetime) -> None:
    floor = floor_of(ConsentLimits(), now=NOW, settings=_SETTINGS)
    backfilled_to(step.window, floor=floor, first_available=at, empty_slices=0)
    proof_of(show(Walk(step=step, pages=(), first_available=at), NOTHING), now=NOW)


def _coverage(ends: Ends) -> None:
    day = utc_date(ends.moment)
    windows = [
        Covered(from_date=first, to_date=last, walked_at=NOW, pages=0, items=0)
        for first, last in ((FIRST_DAY, day), (day, day), (day, LAST_DAY))
    ]
    for window in windows:
        extended(windows, window)


def _life(ends: Ends) -> None:
    held = _held(ends)
    begun_at(held)
    thresholds_due(held, decided=(), thresholds=(30, 1), succeeded=False, now=NOW)
    next_poll(held, now=NOW, cadence=Cadence())
    _entry(held, (), (30, 1), now=NOW)
    _ics_instant(held.expires_at)
    days_announced(held.expires_at, now=NOW)


def _opening(ends: Ends) -> None:
    view = read_opening({"Data": {"AccountId": "a", "OpeningStatusUpdateDateTime": ends.iso}})
    assert view.status_updated_at == as_utc(ends.moment)
    stored = StoredOpening(
        opening_id="o",
        lfi=Slug("raw"),
        version=next(iter(OpeningVersion)),
        user_ref="u",
        account_id=None,
        state=OpeningState.PENDING,
        status=None,
        state_since=as_utc(ends.moment),
        created_at=as_utc(ends.moment),
    )
    next_opening_look(stored, now=NOW, cadence=OpeningCadence())
    opening_day(ends.day)
    opening_moment(ends.iso)


def _event(ends: Ends) -> None:
    message = {"Data": {"Status": "Revoked", "StatusUpdateDateTime": ends.iso}, "Meta": {"EventDateTime": ends.iso}}
    assert read_event(message, signed=b"").happened_at == as_utc(ends.moment)


def _headers(ends: Ends) -> None:
    for text in (ends.http, str(ends.number), f"Fri, 31 Dec 9999 23:59:59 +{abs(ends.number):.0f}"):
        waits = oauth.retry_after({"retry-after": text}, now=NOW)
        assert waits is None or 0 <= waits <= oauth.RETRY_AFTER_MAX_S
        watch = ClockWatch("here")
        watch.note("raw", sent=NOW, took_s=0.1, headers={"date": text})
        clock_finding(_answer(date=text), NOW)
        assert timedelta() <= fresh_for(f"max-age={text}", at_most=timedelta(minutes=1)) <= timedelta(minutes=1)
    retry_at(1, subject="c", now=NOW, retry_after=ends.number)


def _tokens(ends: Ends) -> None:
    """Whatever stands beside the tokens, they come home."""
    details = [{"consent": {"ConsentId": CONSENT, "Status": "Authorized", "ExpirationDateTime": ends.iso}}]
    for number in (json.dumps(ends.number), "1e400", "9" * 400, '"9e99"', f'"{ends.number}"'):
        if "NaN" in number or "Infinity" in number:
            continue  # no JSON
        body = f'{{"access_token":"a","expires_in":{number},"authorization_details":{json.dumps(details)}}}'
        answer = oauth.read_tokens(_answer(body.encode()), received_at=NOW)
        assert (answer.access_token.get_secret_value(), answer.consent is not None) == ("a", True)
        due = token_due_at(CONSENT, answer.received_at, answer.expires_at)
        assert next_run_at(last_run_at=due, every=span(seconds=ends.number), now=NOW) >= NOW
        pushed = f'{{"request_uri":"urn:x","expires_in":{number}}}'.encode()
        assert oauth.read_pushed(_answer(pushed), received_at=NOW).expires_at >= NOW


def _claims(ends: Ends) -> None:
    claims = dict.fromkeys(("exp", "nbf", "iat"), ends.number)
    jose.fault_of_lifetime(claims, now=NOW)
    check = partial(jose.check_id_token, claims | {"iss": "i", "aud": "c"}, issuer="i", client_id="c", nonce=None)
    assert _fault(lambda: check(now=NOW)).startswith(("id_token: ", ""))


def _fault(read: Callable[[], object]) -> str:
    """What is said of what cannot be taken; empty when it is taken."""
    try:
        read()
    except (SyncWorkerError, Problem) as error:
        return str(error) or "refused"
    return ""


def _callers(ends: Ends) -> None:
    assert _fault(lambda: ending(None, ends.iso, now=NOW)).startswith(
        "expires_at: lies outside" if fault_of_instant(ends.moment) else ""
    )
    assert _fault(lambda: cli_date("from_date", ends.day)).startswith(
        "from_date: lies outside" if fault_of_day(ends.moment.date()) else ""
    )
    assert _fault(lambda: read_since(ends.iso)) == ""
    since = read_since("999999d")
    assert isinstance(since, timedelta)
    assert NOW - since > EARLIEST
    line = {
        "ConsentId": CONSENT,
        "lfi": "raw",
        "standard_version": "v2.1",
        "Permissions": ["ReadAccountsBasic"],
        "ExpirationDateTime": ends.iso,
        "refresh_token": "r",
        "FromDate": ends.day,
        "TransactionToDateTime": ends.iso,
    }
    said = _fault(lambda: read_line(1, json.dumps(line).encode(), tenant="default"))
    assert ("FromDate: lies outside" in said) == bool(fault_of_day(ends.moment.date()))
    assert ("ExpirationDateTime: lies outside" in said) == bool(fault_of_instant(ends.moment))


def _asked(ends: Ends) -> None:
    day = utc_date(ends.moment)
    request = ConsentRequest(permissions=("ReadAccountsBasic",), expires_at=ends.moment, from_date=day, to_date=day)
    faults = request.faults(now=NOW)
    assert any(fault.startswith("from_date: lies outside") for fault in faults) == bool(fault_of_day(day))
    for version in Version:
        authorization_details(request, version=version)
        authorization_details(replace(request, from_date=None), version=version)


_NOT_OURS: Final = _fault(lambda: _place("x"))


def _cursor(ends: Ends) -> None:
    for place in ([ends.iso, "c"], ["9" * 400, "c"], [ends.number, "c"], [ends.iso, 5], ends.iso, {"a": 1, "b": 2}):
        text = base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")
        assert _fault(partial(_place, text)) in ("", _NOT_OURS)


def _directory(ends: Ends) -> None:
    notes: list[str] = []
    assert directory_day(ends.iso, "RetirementDate", notes) == ends.moment.date()
    directory_day(f"{ends.moment:%d}/{ends.moment:%m}/{ends.moment.year}", "RetirementDate", notes)
    spread(as_utc(ends.moment), "c", over=timedelta(hours=1))


READERS: Final[Mapping[str, Callable[[Ends], None]]] = {
    "Meta of a page": _page,
    "items": _items,
    "consents": _consent,
    "windows, slices and history": _plan,
    "coverage": _coverage,
    "expiry flags, polls and the calendar of renewals": _life,
    "account openings": _opening,
    "events": _event,
    "Retry-After, Date and max-age": _headers,
    "expires_in and what comes with tokens": _tokens,
    "exp, nbf and iat": _claims,
    "options of commands and lines of an import": _callers,
    "what is asked of a user": _asked,
    "cursors of /v1": _cursor,
    "the participants directory": _directory,
}

USERS: Final[Mapping[str, str]] = {
    # module that uses the guarded module's readers or steps → the reader above that feeds it, or why none does
    "audit.py": "compares with an LFI's books in tests and `bench`: a wrong date is a difference",
    "cli/consents.py": "options of commands and lines of an import",
    "cli/renewals.py": "expiry flags, polls and the calendar of renewals",
    "cli/syncs.py": "options of commands and lines of an import",
    "cli/terms.py": "options of commands and lines of an import",
    "consents/erasing.py": "`ended_at` of ours and a setting that is bounded",
    "consents/import_file.py": "options of commands and lines of an import",
    "consents/polling.py": "expiry flags, polls and the calendar of renewals",
    "consents/renewal.py": "expiry flags, polls and the calendar of renewals",
    "consents/tokens.py": "expires_in and what comes with tokens",
    "declarations.py": "the participants directory",
    "exports/job.py": "times of day of the settings, and instants of the database's clock",
    "exports/targets.py": "when files were written",
    "exports/run.py": "instants of the database's clock, and a setting that is bounded",
    "lfi/api.py": "Meta of a page",
    "lfi/checkup.py": "Retry-After, Date and max-age",
    "lfi/oauth.py": "expires_in and what comes with tokens",
    "lfi/participants.py": "the participants directory",
    "openings.py": "account openings",
    "ops/status.py": "instants of our own clock",
    "ops/targets.py": "reads what we wrote",
    "refreshes.py": "bounds a customer's login by `fault_of_instant`; else instants of our own clock",
    "schedule/clocks.py": "Retry-After, Date and max-age",
    "schedule/due.py": "expires_in and what comes with tokens",
    "schedule/handlers.py": "Retry-After, Date and max-age",
    "schedule/traffic.py": "Retry-After, Date and max-age",
    "settings.py": "bounds its durations by `DURATION_MAX`",
    "standard/consents.py": "consents",
    "standard/json_text.py": "test_both_databases_keep_the_ends_of_the_calendar",
    "standard/opening_request.py": "account openings",
    "standard/values.py": "consents",
    "cli/reads.py": "dates a person typed",
    "delivery/job.py": "instants of our own clock",
    "store/ages.py": "reads what we wrote",
    "store/authorizations.py": "reads what we wrote",
    "store/cursors.py": "coverage",
    "store/dialect.py": "test_both_databases_keep_the_ends_of_the_calendar",
    "store/freshness.py": "reads what we wrote",
    "store/records.py": "test_both_databases_keep_the_ends_of_the_calendar",
    "store/calls.py": "instants of our own clock",
    "store/refreshes.py": "reads what we wrote",
    "store/runs.py": "instants of our own clock",
    "store/ops_sessions.py": "the database's clock, and durations that settings bound",
    "store/ops_traffic.py": "the database's clock, and hours that the database wrote",
    "sync/apply.py": "windows, slices and history",
    "sync/decode.py": "items",
    "sync/engine.py": "Retry-After, Date and max-age",
    "sync/filling.py": "the database's clock, and waits of our own",
    "sync/plan.py": "windows, slices and history",
    "sync/run.py": "Retry-After, Date and max-age",
    "views/past.py": "items",
    "views/questions.py": "dates that /v1 has bounded",
    "web/api.py": "cursors of /v1",
    "web/dashboard/charts.py": "a consent's dates are clamped to what is drawn; test_charts",
    "web/dashboard/connections.py": "a consent's dates are clamped to what is drawn; test_charts",
    "web/dashboard/frame.py": "the database's clock",
    "web/dashboard/house.py": "the database's clock",
    "web/dashboard/lfis.py": "the database's clock",
    "web/dashboard/looking.py": "the database's clock",
    "web/dashboard/overview.py": "the database's clock",
    "web/dashboard/paging.py": "places in lists, that the reader takes or refuses",
    "web/dashboard/words.py": "the database's clock",
    "web/data.py": "bounds the dates it is asked for",
    "webhooks.py": "instants of our own clock",
}


@pytest.mark.parametrize("reader", [pytest.param(read, id=name) for name, read in READERS.items()])
@given(moment=MOMENTS, number=st.floats())
@example(moment=datetime.max.replace(tzinfo=UTC), number=float("inf"))
@example(moment=datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-14))), number=1e300)
@example(moment=datetime(9999, 12, 31, tzinfo=UTC), number=99_999_999_999_999.0)
@example(moment=datetime(1, 1, 1, tzinfo=UTC), number=float("nan"))
@example(moment=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), number=-1e300)
@example(moment=datetime(1, 1, 1, tzinfo=UAE), number=float("-inf"))
def test_no_reader_of_outside_dates_overflows(reader: Callable[[Ends], None], moment: datetime, number: float) -> None:
    """Each takes the end for an end, or refuses it in the words of its caller."""
    reader(Ends(moment, number))


def test_every_module_that_reads_or_moves_such_dates_is_registered() -> None:
    """A new one has to say which reader above feeds it, or why none does."""
    from tests.standard.test_calendar_walk import modules_using

    assert modules_using("syncworker.standard.calendar") == USERS.keys()


@pytest.mark.parametrize(
    "text", ["", "soon", "Fri, 31 Dec 99999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 +99999999999"]
)
def test_a_header_that_holds_no_date_has_none(text: str) -> None:
    """The offset of the last one does not fit what a C integer holds."""
    assert http_date(text) is None


@pytest.mark.store
async def test_both_databases_keep_the_ends_of_the_calendar(store: Any) -> None:
    """Bound and read back as they were, in a column of instants."""
    from syncworker.store.work import WorkKind

    for moment in (EARLIEST, LATEST, at_time(LAST_DAY), as_utc(datetime.min.replace(tzinfo=UAE))):
        subject = f"c-{moment.year}-{moment.microsecond}"
        async with store.writing() as unit:
            await unit.work.schedule(WorkKind.SYNC, subject, lfi=Slug("raw"), due_at=moment)
            await unit.commit()
        async with store.reading() as unit:
            row = await unit.work.find(WorkKind.SYNC, subject)
        assert row is not None
        assert row.due_at == moment
