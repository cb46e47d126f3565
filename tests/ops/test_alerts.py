"""deploy/alerts.yml and deploy/grafana: every query asks for what `GET /metrics` has, and every cause has its alert."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import typer.main
import yaml

import syncworker
from syncworker.cli.main import COMMANDS, GROUPS
from syncworker.ops.cause import CauseKind, Side
from syncworker.ops.metrics import BY_NAME, SERIES, Metric

pytestmark = pytest.mark.unit

DEPLOY: Final = Path(syncworker.__file__).parent.parent / "deploy"
ALERTS: Final = DEPLOY / "alerts.yml"
DASHBOARD: Final = DEPLOY / "grafana" / "syncworker.json"
SEVERITIES: Final = frozenset({"critical", "warning", "info"})
OF_THE_TARGET: Final = frozenset({"tenant", "job", "instance", "le"})
"""Labels that a scrape adds, and that of buckets."""

PROMTOOL: Final = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def queries() -> Iterator[tuple[str, str]]:
    """Where each query stands, and the query."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    document = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for variable in document["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def metric_of(series: str) -> Metric:
    (found,) = [one for one in BY_NAME.values() if series in one.series]
    return found


# -- what is asked for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_a_query_asks_for_metrics_and_labels_that_exist(where: str, query: str) -> None:
    """Names, labels in braces, labels that are summed by; words of `kind`, `side` and `state` as the code has them."""
    names = re.findall(r"\bsyncworker_\w+", query)
    assert set(names) <= SERIES, where
    assert names or "up{" in query, where
    known = {label for name in names for label in metric_of(name).labels} | OF_THE_TARGET
    for name, braces in re.findall(r"(syncworker_\w+)\{([^}]*)\}", query):
        asked = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", braces))
        assert asked <= {*metric_of(name).labels, *OF_THE_TARGET}, where
    for labels in re.findall(r"\b(?:by|without) \(([^)]*)\)", query):
        assert {one.strip() for one in labels.split(",")} <= known, where


def test_a_counter_is_asked_for_its_rate_alone() -> None:
    """Its value says nothing by itself."""
    wrong = [
        (where, name)
        for where, query in queries()
        for name in re.findall(r"syncworker_\w+_total|syncworker_call_duration_seconds_\w+", query)
        if not re.search(rf"(?:rate|increase)\({name}", query)
    ]

    assert wrong == []


def test_every_metric_but_a_few_is_on_the_dashboard_or_in_an_alert() -> None:
    """Every metric is shown somewhere; those few are for questions of the day."""
    asked = {name for _, query in queries() for name in re.findall(r"\bsyncworker_\w+", query)}
    unasked = {name for name, one in BY_NAME.items() if not asked & set(one.series)}

    assert unasked == {
        f"syncworker_{name}"
        for name in ("causes", "connections_parked", "work_rows", "last_sync_age_seconds", "certificate_unusable",
                     "observers_failed",
                     "inbox_events", "endpoints", "openings")
    }  # fmt: skip


def test_the_first_row_answers_the_five_questions() -> None:
    """Stale, failing, expiring, cost, alive; the causes stand right below."""
    titles = [panel["title"] for panel in panels() if panel["type"] == "stat"]

    assert titles == ["Stale connections", "Failing connections", "Consents that end", "Cost, 24 h", "Alive"]
    assert [panel["title"] for panel in panels()][6] == "Causes now"
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)


# -- alerts ------------------------------------------------------------------------------------------------------------


def test_every_cause_has_an_alert() -> None:
    """But for the one that is always over when it is noted."""
    named = [kind for rule in rules() for kind in re.findall(r'syncworker_cause\{kind="(\w+)"\}', rule["expr"])]

    assert sorted(named) == sorted(one.value for one in CauseKind if one is not CauseKind.STANDSTILL)


def test_every_alert_says_what_is_wrong_and_what_to_type() -> None:
    """A severity, a text, a command that exists."""
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in SEVERITIES, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description", "command"}, rule["alert"]
        for label in re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())):
            assert label in metric_of(re.findall(r"syncworker_\w+", rule["expr"])[0]).labels, rule["alert"]
        assert exists(rule["annotations"]["command"]), rule["alert"]


def exists(command: str) -> bool:
    """Whether a command line names a command of ours, or `timedatectl`, and options that it has."""
    words = command.replace("{{ $labels.lfi }}", "noor").split()
    if words[0] != "syncworker":
        return words == ["timedatectl"]
    if words[1] not in GROUPS:
        return words[1] in COMMANDS
    module = __import__(f"syncworker.cli.{GROUPS[words[1]]}", fromlist=["app"])
    group = typer.main.get_command(module.app)
    found = getattr(group, "commands", {}).get(words[2])
    options = {name for one in (found.params if found else ()) for name in one.opts}
    return found is not None and {one for one in words[3:] if one.startswith("--")} <= options


# -- by Prometheus itself ----------------------------------------------------------------------------------------------


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *map(str, words)], capture_output=True, text=True, timeout=60, check=False)


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    """As it reads them, its hints counted as faults."""
    done = promtool("check", "rules", "--lint-fatal", ALERTS)

    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_takes_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    """With its variables filled in, each as the expression of a rule."""
    filled = [
        re.sub(r"\$(tenant|lfi)", ".*", query).replace("$__rate_interval", "5m")
        for _, query in queries()
        if not query.startswith("label_values")
    ]
    file = tmp_path / "rules.yml"
    made = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(filled)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": made}]}))
    done = promtool("check", "rules", file)

    assert done.returncode == 0, done.stdout + done.stderr


def cause(kind: str, *, side: Side = Side.US, lfi: str = "", values: str = "1x60") -> dict[str, str]:
    return {"series": f'syncworker_cause{{kind="{kind}",side="{side.value}",lfi="{lfi}"}}', "values": values}


def fired(name: str, rule: Mapping[str, Any], **labels: str) -> dict[str, Any]:
    """What an alert that fires looks like."""
    lfi = labels.get("lfi", "")
    annotations = {
        key: re.sub(r"\{\{ if .*?end \}\}", f" for {lfi}" if lfi else "", text).replace("{{ $labels.lfi }}", lfi)
        for key, text in rule["annotations"].items()
    }
    return {"exp_labels": {**rule["labels"], **labels}, "exp_annotations": annotations}


def unit_test(series: list[dict[str, str]], alert: str, at: str, expected: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": expected}],
    }


def cases() -> list[dict[str, Any]]:
    """Each alert: that it fires, and when not yet or no more."""
    by_name = {rule["alert"]: rule for rule in rules()}
    made: list[dict[str, Any]] = []
    for name, rule in by_name.items():
        kind = re.findall(r'syncworker_cause\{kind="(\w+)"\} == 1', rule["expr"])
        if not kind:
            continue
        lfi = "noor" if "$labels.lfi" in str(rule["annotations"]) else ""
        series = [cause(kind[0], lfi=lfi, values="1x100")]
        labels = {"kind": kind[0], "side": "us", "lfi": lfi}
        made.append(unit_test(series, name, "90m", [fired(name, rule, **{k: v for k, v in labels.items() if v})]))
        made.append(unit_test([cause(kind[0], lfi=lfi, values="_x100")], name, "90m", []))
        made.append(unit_test([cause("standstill")], name, "90m", []))
    down = by_name["SyncworkerLFIDown"]
    lasting = cause("lfi_down", side=Side.LFI, lfi="noor", values="1x29 _x30")
    made.append(unit_test([lasting], "SyncworkerLFIDown", "28m", []))
    made.append(unit_test([lasting], "SyncworkerLFIDown", "45m", []))
    lasting = cause("lfi_down", side=Side.LFI, lfi="noor", values="1x60")
    labels = {"kind": "lfi_down", "side": "lfi", "lfi": "noor"}
    made.append(unit_test([lasting], "SyncworkerLFIDown", "31m", [fired("SyncworkerLFIDown", down, **labels)]))
    up = {"job": "syncworker", "instance": "tpp:8080"}
    series = [{"series": 'up{job="syncworker",instance="tpp:8080"}', "values": "1x5 0x20"}]
    rule = by_name["SyncworkerUnreachable"]
    made.append(unit_test(series, "SyncworkerUnreachable", "4m", []))
    made.append(unit_test(series, "SyncworkerUnreachable", "10m", [fired("SyncworkerUnreachable", rule, **up)]))
    made.append(unit_test(series, "SyncworkerAbsent", "20m", []))
    rule = by_name["SyncworkerAbsent"]
    made.append(unit_test([], "SyncworkerAbsent", "10m", [fired("SyncworkerAbsent", rule, job="syncworker")]))
    rule = by_name["SyncworkerNothingTicks"]
    series = [{"series": "syncworker_housekeeping_age_seconds", "values": "8x10 130x20"}]
    made.append(unit_test(series, "SyncworkerNothingTicks", "5m", []))
    made.append(unit_test(series, "SyncworkerNothingTicks", "20m", [fired("SyncworkerNothingTicks", rule)]))
    rule = by_name["SyncworkerManyStale"]
    live = [
        {"series": f'syncworker_connections{{lfi="{lfi}",state="{state}"}}', "values": "100x60"}
        for lfi in ("noor", "hilal")
        for state in ("live", "ended")
    ]
    for stale, expected in ((20, []), (21, [fired("SyncworkerManyStale", rule)])):
        series = [*live, {"series": 'syncworker_connections_stale{lfi="noor"}', "values": f"{stale}x60"}]
        made.append(unit_test(series, "SyncworkerManyStale", "30m", expected))
    rule = by_name["SyncworkerDeliveriesGivenUp"]
    series = [{"series": 'syncworker_deliveries_total{outcome="given_up"}', "values": "3x90 4x90"}]
    made.append(unit_test(series, "SyncworkerDeliveriesGivenUp", "80m", []))
    labels = {"outcome": "given_up"}
    made.append(unit_test(series, "SyncworkerDeliveriesGivenUp", "100m", [fired("x", rule, **labels)]))
    return made


@needs_promtool
def test_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    """Every cause's, with its text and command; what comes back by itself has its time; others at their bounds."""
    file = tmp_path / "tests.yml"
    document = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": cases()}
    file.write_text(yaml.safe_dump(document, allow_unicode=True))
    done = promtool("test", "rules", file)

    assert len(cases()) > 3 * (len(CauseKind) - 1)
    assert done.returncode == 0, done.stdout + done.stderr
