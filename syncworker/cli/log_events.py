"""The events that processes log: names that stay, with their levels, fields and meanings; docs/logs.md is made of them.

A line of the log is one event with fields.  Its `event` is one of these texts, always whole; what varies stands in the
fields.  A test compares this list with every line of code that logs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import typer

from syncworker.cli import frame, show

app = typer.Typer(help="What processes log.", no_args_is_help=True)


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event.

    Attributes:
        name: the `event` of its lines.
        level: `debug`, `info`, `warning`, `error` or `critical`; two where the reason decides.
        fields: its own fields; some may be missing.
        means: what happened, and what follows by itself or is to be done.
    """

    name: str
    level: str
    fields: tuple[str, ...]
    means: str


def _events(*rows: tuple[str, str, str, str]) -> tuple[LogEvent, ...]:
    return tuple(LogEvent(name, level, tuple(fields.split()), means) for name, level, fields, means in rows)


# fmt: off
EVENTS: Final[Mapping[str, Sequence[LogEvent]]] = {
    "Calls to LFIs": _events(
        ("lfi call", "debug|warning", "lfi operation interaction_id status duration_ms error_code", "One attempt of a call. At `debug` when it succeeded, at `warning` with `error_code` when not."),
        ("no short retry: the budget is spent", "warning", "lfi", "Too many calls to the LFI were repeated; calls fail at once until fewer do."),
        ("gate closed", "warning", "lfi seconds", "The LFI asked for a pause (`Retry-After`); it gets no call for so long."),
        ("breaker open", "warning", "lfi operations reason trips", "A class of operations failed too often at the LFI; only trial calls are made until one succeeds."),
        ("breaker closed", "info", "lfi operations trips", "A trial call succeeded; calls of the class are made again."),
        ("limits not read: what was known holds", "warning", "error", "Gates and breakers were not read from the database; the last state known holds."),
        ("limits not written", "warning", "error", "Gates and breakers were not written to the database; tried again."),
        ("shared limits away, each process keeps the rate alone", "warning", "why", "The broker does not answer. Each process keeps its share of an LFI's rate by itself until the broker is back."),
        ("an observer of calls failed; told once", "error", "observer error", "A part that counts or files calls failed. Calls go on. A bug: report it."),
        ("discovery document kept beyond its age", "warning", "lfi", "The LFI's discovery document could not be read again; the last one is used."),
        ("signed answers name another issuer than the LFI's", "warning", "lfi interaction_id", "Signatures hold, the `iss` differs. Ask the LFI; said once per process."),
        ("keys of a sender not read", "warning", "issuer error", "The key set that verifies event notifications could not be read; events of the sender wait in quarantine."),
        ("calls not filed yet", "warning", "error rows", "Records of calls wait in memory for the database; tried again."),
        ("ages of data not counted", "warning", "error", "For metrics: how old the data is was not counted; the next scrape asks again."),
        ("causes not noted", "warning", "error", "A tick could not note what is wrong; the next one finds the same."),
        ("counts not filed yet", "warning", "error", "Counts for metrics wait in memory for the database; tried again."),
    ),
    "Tokens": _events(
        ("token refresh ended", "info", "lfi consent_id outcome reason error", "One refresh. `outcome` says how it ended, `reason` why it began."),
        ("token refresh failed", "warning", "lfi consent_id error", "A scheduled refresh failed; tried again before the token's end."),
        ("token claim not finished", "warning", "lfi consent_id error", "The end of a scheduled refresh was not written; its lease runs out and another worker takes over."),
        ("token claims not given back", "warning", "claims error", "On shutdown. Leases run out by themselves."),
        ("token calls not filed", "warning", "consent_id error", "The record of a token call was not written."),
        ("token call not filed", "warning", "consent_id error", "The record of the code exchange was not written."),
        ("token answer not stored as a whole", "warning", "consent_id", "Tokens are stored; the consent that came with them is not and is read later."),
        ("token answer of another token type than Bearer", "warning", "interaction_id", "The tokens are kept; the data API decides."),
        ("answer without a usable expires_in", "warning", "interaction_id", "The token is taken to live for the standard's time."),
        ("consent of a token answer cannot be read", "warning", "interaction_id", "The tokens are kept; the consent is read from the Hub."),
        ("consent not read after invalid_grant", "warning", "consent_id error", "The grant was refused and the consent's status could not be asked; asked again."),
        ("answer not stored yet", "warning", "attempt error", "An answer that must not be lost waits in memory for the database; tried again at once."),
    ),
    "Consents and authorisations": _events(
        ("consent moved", "info", "consent_id lfi before after", "The status of a consent changed."),
        ("data consent consumed", "error", "consent_id lfi", "The Hub shows a data sharing consent as Consumed, which the standard does not allow. Ask the LFI."),
        ("consent drifted", "warning", "consent_id lfi what", "`consents reconcile` found a difference between the Hub and the database."),
        ("consent nears its end", "info", "consent_id lfi days", "ExpirationDateTime is so many days away; an event was written for the product."),
        ("successor took over", "info", "consent_id lfi revoked", "A renewed consent replaced the old one."),
        ("consent not asked", "warning", "consent_id error", "The Hub was not asked for a consent in a sync; the sync goes on by what is known."),
        ("consent not read after a refusal", "warning", "consent_id error", "Read later."),
        ("consent not read after the exchange", "warning", "consent_id error", "Read later."),
        ("consent of a token answer not stored", "warning", "consent_id", "Read later from the Hub."),
        ("revocation in doubt", "warning", "consent_id error", "A revocation had no definite answer; the Hub is asked."),
        ("subscription in doubt", "warning", "consent_id error", "A change of event notifications had no definite answer; the Hub is asked."),
        ("authorisation begun", "info", "lfi consent_id", "The authorisation request was pushed; the customer is sent to the LFI."),
        ("authorisation completed", "info", "lfi consent_id status", "The code was exchanged for tokens."),
        ("authorisation not opened", "warning|error", "error why", "A link for a customer could not be opened. At `error` with `why`: the set-up is wrong."),
        ("callback", "info", "lfi consent_id state", "A browser came back from the LFI."),
        ("callback put off", "warning", "error", "The database did not answer; the browser was asked to try again."),
        ("callback failed", "warning|error", "lfi consent_id error why", "The authorisation could not be completed. At `error` with `why`: the set-up is wrong."),
    ),
    "Syncs": _events(
        ("consent synced", "info", "lfi consent_id outcome error calls added modified removed", "One run of a consent."),
        ("listing not read", "info|warning", "lfi consent_id resource error outcome", "One listing of a run. At `info` when the account has no such listing; at `warning` it is due again, or `syncs failed` says what to do."),
        ("sync failed", "warning", "connection_id lfi error", "A run ended without a report of its own; it is due again."),
        ("sync broke", "error", "connection_id kind trace", "A bug in one consent's run; others go on. Report it with the trace."),
        ("sync not ended", "warning", "connection_id lfi error", "The end of a run was not written; its lease runs out and it is due again."),
        ("items not readable", "warning", "consent_id resource items page path reason", "Items of a page could not become rows; `syncworker items list` shows them."),
        ("date filter ignored", "warning", "lfi resource", "The LFI does not honour the date filter; whole listings are read."),
        ("date filter honoured again", "info", "lfi resource", "Windows are read again."),
        ("columns filled", "info", "table rows skipped", "After an upgrade: the columns of a table's older rows are filled."),
        ("columns not filled", "warning", "error attempts", "Tried again."),
        ("columns not filled yet", "warning", "error", "Tried again."),
        ("filling broke", "error", "error", "A bug while columns were filled; syncs go on. Report it."),
        ("claim of the filling not given back", "warning", "error", "Its lease runs out by itself."),
        ("end of the filling's share not filed", "warning", "error", "Its lease runs out and the share is done again."),
        ("refreshes not looked at", "warning", "error", "Refreshes that were asked for are looked at again in the next tick."),
        ("no tick asked for", "debug", "error", "The broker did not take the message that makes a refresh begin at once; the next tick begins it."),
    ),
    "Events in, webhooks out, account openings": _events(
        ("event refused", "warning", "why address size", "An event notification does not verify; it is in the quarantine."),
        ("event held back", "warning", "why address size", "An event notification may verify later; it is tried again."),
        ("event of the quarantine taken in", "info", "entry event_id why", "An event that was held back verifies now."),
        ("refused event not noted", "warning", "error", "The quarantine could not be written. The sender was refused all the same."),
        ("quarantine not looked through", "warning", "error", "Tried again."),
        ("old events not taken away yet", "warning", "error", "Tried again."),
        ("webhook not taken", "info", "type attempts error", "An endpoint of the product refused a webhook or did not answer; tried again."),
        ("webhook endpoint disabled", "warning", "endpoint_id why", "Nothing is sent there until it is enabled: `syncworker webhooks enable`."),
        ("webhooks not looked at", "warning", "error", "Tried again in the next tick."),
        ("account opening moved", "info", "opening_id lfi state", "The state of an account-opening request changed."),
        ("account opening in doubt", "error", "opening_id lfi error", "The request had no definite answer. It is not sent again by itself: `syncworker openings show`."),
        ("account opening refused", "warning", "opening_id lfi error", "The LFI refused the request."),
        ("account opening overdue", "warning", "opening_id state", "The request stays longer in a state than the settings allow."),
        ("opened account not handed over", "warning", "opening_id lfi error", "The account was opened; the consent for it could not be begun. Tried again."),
    ),
    "Exports": _events(
        ("export made", "info", "name number kind", "An export is whole: its manifest is written."),
        ("export not made", "warning", "name error why attempts", "Tried again; `export list` and `status` show it."),
        ("export broke", "error", "name error", "A bug while an export was made; tried again. Report it."),
        ("an export was not finished", "warning", "name number", "A process ended while it made the export. What it left is no export; the next one has its own number."),
        ("exports not looked at", "warning", "error", "Tried again in the next tick."),
        ("claim of an export not given back", "warning", "error", "Its lease runs out by itself."),
        ("end of an export not filed", "warning", "name error", "The export is whole; the next run finds its manifest and files its end."),
        ("lease of an export not renewed", "warning", "name number error", "Tried again."),
        ("old exports removed", "info", "name exports", "Exports older than the settings keep were removed from the target."),
    ),
    "Directory and certificates": _events(
        ("directory read", "info", "found changes", "The participants directory was read."),
        ("directory not read", "warning", "error attempts", "Tried again."),
        ("directory changed", "warning", "lfi what version detail", "An LFI changed its entry; `syncworker lfis list` shows it."),
        ("directory's claim not given back", "warning", "error", "Its lease runs out by itself."),
        ("directory's reading not filed", "warning", "error", "Read again."),
        ("declaration changed", "info", "lfi versions", "The LFI is called by its new entry from now on."),
        ("declaration changed and cannot be used", "warning", "lfi why", "The LFI is called by its old entry."),
        ("declarations not read anew", "warning", "error", "Tried again."),
        ("transport certificate renewed", "info", "lfi thumbprint expires_at", "New files were found; new connections use them."),
        ("new transport certificate not taken, the old one stays", "warning", "lfi why", "Mend the files; they are looked at again every minute."),
        ("certificate ends soon", "warning", "lfi field expires_at days", "Put a new certificate in its place; no restart is needed."),
        ("certificate cannot be used", "error", "lfi field why", "No call to the LFI is possible with it."),
        ("certificates not looked at", "warning", "error", "Tried again."),
    ),
    "Work and processes": _events(
        ("work failed", "warning", "kind lfi error", "A piece of work failed and is due again."),
        ("work broke", "error", "kind lfi error", "A bug in a piece of work; others go on. Report it."),
        ("claim not ended", "warning", "kind lfi error", "The end of a piece of work was not written; its lease runs out and it is due again."),
        ("claims not given back", "warning", "claims error", "On shutdown. Leases run out by themselves."),
        ("leases not renewed", "warning", "error", "Tried again; work whose lease runs out is done by another worker."),
        ("patience not known", "warning", "kind lfi error", "How long to wait before the next attempt was not read; the shortest time is taken."),
        ("broker away, claims given back", "warning", "claims", "The broker did not take the messages; the work is due again in the next tick."),
        ("entry of a queue dropped, it is no message", "warning", "", "Another program writes to the broker's database. Give syncworker one of its own."),
        ("broker not verified", "warning", "", "`broker_verify` is false: any server that answers at the broker's address is trusted."),
        ("worker cannot work yet", "error", "error why", "The worker runs and waits; mend what `why` names."),
        ("end of this worker not noted", "warning", "error", "`status` shows the worker as gone a little later."),
        ("pulse not written", "debug", "error", "The sign of life of a worker was not written; the next one follows in seconds."),
        ("pulse failed", "warning", "error", "The same, for a reason that was not expected."),
        ("sign of life of beat not written", "warning", "error", "The folder or the database of beat is not writable; said once until it is."),
        ("clocks are apart", "warning", "host peer offset_s more_than_s", "The clock of a host differs from another's. Set it by NTP: signed requests carry its time."),
        ("clock not compared", "debug", "lfi error", "Compared again."),
        ("clocks not compared", "debug", "error", "Compared again."),
        ("runs hang, the process ends", "critical", "runs", "Runs passed their hard limit; the supervisor has to start a new process. Their work is taken over."),
        ("the process did not end in order", "critical", "", "It was ended at once; leases bring its work back."),
        ("runtime not stopped in time", "warning", "seconds", "The process ends all the same."),
        ("run left to the loop failed", "warning", "error", "A run that outlived its caller failed; its work is due again."),
        ("parts not warned of the stop", "warning", "error", "The stop goes on."),
        ("parts not closed", "warning", "error", "The stop goes on."),
        ("stray error on the loop", "error", "error", "An error that no code awaited. A bug: report it."),
    ),
    "Database": _events(
        ("the database was restored: readers of the feed begin again", "warning", "", "Another history of the database was met; cursors of the change feed answer 410 `cursor_unknown`."),
        ("history of the database not looked at", "info", "error", "Looked at again in the housekeeping."),
        ("not swept yet", "warning", "error", "Old rows are taken away later."),
    ),
    "Web": _events(
        ("request", "info", "method route status ms key", "One request; the route without its values, the key by its id."),
        ("refused", "info|error", "code status instance", "A request was answered with a problem; `instance` is in the answer too."),
        ("request failed", "error", "error where", "A bug: the caller got 500. Report it."),
        ("the dashboard is off", "info", "why", "Said once when the web process starts; `why` names the setting that switches it on."),
        ("dashboard without database", "warning", "error", "A page was answered with 503 and the cause."),
        ("use of a key not noted", "warning", "key error", "`apikeys list` shows an older use."),
        ("set up wrongly", "error", "code why", "A request could not be served because of the set-up; mend what `why` names."),
    ),
}
# fmt: on
"""Every event, by what it is about."""

EVERY_LINE: Final[Mapping[str, str]] = {
    "event": "one of the events below",
    "level": "`debug`, `info`, `warning`, `error`, `critical`",
    "logger": "module that says it",
    "timestamp": "UTC, ISO 8601",
    "run": "on every line of a sync, calls included: the first 13 characters of the interaction ids of its calls",
    "interaction_id": "on every line of one call: `x-fapi-interaction-id` as the LFI received it; "
    "`syncworker calls show` finds call and run by it",
}
"""Fields of lines of any event."""


@app.callback()
def _group() -> None:
    """Keeps `events` a command of the group while it is the only one."""


@app.command("events")
def events_(as_json: frame.AsJson = False) -> None:
    """Every event with its levels, fields and meaning: docs/logs.md, or JSON."""
    if as_json:
        show.value(
            {
                "every_line": dict(EVERY_LINE),
                "events": [
                    {"about": about, **asdict(one), "level": one.level.split("|")}
                    for about, those in EVENTS.items()
                    for one in those
                ],
            }
        )
        return
    show.text(page())


def page() -> str:
    """docs/logs.md."""
    lines = [
        "# Logs",
        "",
        "Generated by `syncworker logs events`; a test compares it with the code.",
        "",
        "Processes log to standard error: one JSON object a line, or text for people where standard error is a terminal.",
        "The texts of `event` below stay; search and alert by them. What varies stands in fields. No token, code, key,",
        "customer's name, account number, amount or text of a bank's answer is ever in a line.",
        "",
        "| field of any line | |",
        "|---|---|",
        *(f"| `{name}` | {text} |" for name, text in EVERY_LINE.items()),
    ]
    for about, those in EVENTS.items():
        lines += ["", f"## {about}", "", "| event | level | fields | what it means |", "|---|---|---|---|"]
        lines += [
            f"| {one.name} | {one.level.replace('|', ', ')} | {', '.join(f'`{name}`' for name in one.fields)} | {one.means} |"
            for one in those
        ]
    return "\n".join(lines) + "\n"
