"""The dashboard and the alerts are those that their script writes, and ask for metrics that there are."""

from __future__ import annotations

import json
import pathlib
import re
import runpy
from collections.abc import Iterator

import promql_parser as promql
import pytest
import yaml

from streamflow.metrics import Metrics

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "docs" / "operate"
SCRIPT = runpy.run_path(str(FOLDER / "write_monitoring.py"))
ANEW = "write it anew: python docs/operate/write_monitoring.py"
OF_THE_SCRAPE = {"job", "instance"}
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
LABELS = {
    family.name + suffix: {*family.label_names, *OF_THE_SCRAPE, *(["le"] if suffix == "_bucket" else [])}
    for family in Metrics().families
    for suffix in SUFFIXES[family.kind]
}


def graphs() -> Iterator[tuple[str, str]]:
    for panel in SCRIPT["dashboard"]()["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$__rate_interval", "1m"), target["legendFormat"]


def rules() -> list[tuple[str, str, str | None]]:
    (group,) = yaml.safe_load((FOLDER / "prometheus-alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return [(rule["expr"], rule["annotations"]["summary"], rule.get("for")) for rule in group["rules"]]


def parts(query: promql.Expr) -> Iterator[promql.Expr]:
    """The query and all that it is made of."""
    yield query
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        inner = getattr(query, name, None)
        if inner is not None:
            yield from parts(inner)
    for inner in getattr(query, "args", None) or ():
        yield from parts(inner)


def shown_labels(query: promql.Expr) -> set[str]:
    """The labels that its result has; those of a metric where nothing is summed up."""
    for part in parts(query):
        if isinstance(part, promql.AggregateExpr):
            return set(part.modifier.labels) if part.modifier is not None else set()
        if isinstance(part, promql.VectorSelector):
            return LABELS[str(part.name)]
    raise AssertionError("it asks for nothing")


def check(query: str) -> promql.Expr:
    """Parses it; every metric is one of ours, with labels that it has."""
    parsed = promql.parse(query)
    asked = []
    for part in parts(parsed):
        if isinstance(part, promql.VectorSelector):
            assert part.name in LABELS, f"{query}: there is no metric {part.name}"
            wanted = {matcher.name for matcher in part.matchers.matchers}
            assert wanted <= LABELS[part.name], f"{query}: {part.name} has no {wanted - LABELS[part.name]}"
            asked.append(part.name)
        if isinstance(part, promql.AggregateExpr) and part.modifier is not None:
            inner = {
                name
                for each in parts(part.expr)
                if isinstance(each, promql.VectorSelector)
                for name in LABELS.get(each.name or "", ())
            }
            assert set(part.modifier.labels) <= inner, (
                f"{query}: no label {set(part.modifier.labels) - inner}"
            )
    assert asked
    return parsed


@pytest.mark.parametrize("query, legend", list(graphs()))
def test_a_graph_asks_for_what_there_is(query: str, legend: str) -> None:
    shown = shown_labels(check(query))
    assert set(re.findall(r"{{(\w+)}}", legend)) <= shown


@pytest.mark.parametrize("query, summary, lasts", rules())
def test_an_alert_asks_for_what_there_is(query: str, summary: str, lasts: str | None) -> None:
    shown = shown_labels(check(query))
    assert set(re.findall(r"\$labels\.(\w+)", summary)) <= shown
    assert lasts is None or promql.parse_duration(lasts)


def test_what_asks_for_something_else_is_noticed() -> None:
    for query, reason in (
        ("streamflow_nothing_total > 0", "there is no metric"),
        ("sum by (topic) (streamflow_records_total)", "no label"),
        ('streamflow_records_total{agent="a"}', "has no"),
        ("rate(streamflow_checkpoint_seconds[1m])", "there is no metric"),
    ):
        with pytest.raises(AssertionError, match=reason):
            check(query)


def test_every_metric_is_on_the_dashboard_but_for_those_that_add_nothing() -> None:
    parsed = [promql.parse(query) for query, _ in graphs()]
    found = (part for query in parsed for part in parts(query))
    asked = {part.name for part in found if isinstance(part, promql.VectorSelector)}
    missing = {family.name for family in Metrics().families} - {
        re.sub("_bucket$", "", name or "") for name in asked
    }
    assert missing == {
        "process_resident_memory_bytes",  # the same by another name
        "streamflow_partitions_kept_total",
        "streamflow_recovery_seconds",
        "streamflow_restored_records_total",
        "streamflow_standby_records_total",
    }


def test_the_files_are_what_the_script_writes() -> None:
    text = (FOLDER / "grafana-dashboard.json").read_text(encoding="utf-8")
    assert json.loads(text) == SCRIPT["dashboard"](), ANEW
    assert (FOLDER / "prometheus-alerts.yaml").read_text(encoding="utf-8") == SCRIPT["alerts"](), ANEW
