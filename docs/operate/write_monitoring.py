"""Writes the Grafana dashboard and Prometheus' alert rules: ``python docs/operate/write_monitoring.py``.

Both are made from the lists below, so that a metric stands in one place; a test holds every query to the
metrics that workers have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
DASHBOARD, ALERTS = HERE / "grafana-dashboard.json", HERE / "prometheus-alerts.yaml"
CHOSEN = '{job=~"$job", instance=~"$instance"}'
COLUMNS, HEIGHT = 24, 8


class Panel(NamedTuple):
    """One graph. ``queries``: (PromQL, legend); ``unit`` is Grafana's name of it."""

    title: str
    unit: str
    text: str
    queries: Sequence[tuple[str, str]]


class Alert(NamedTuple):
    """``for_``: how long it must hold; empty: once is enough. ``text``: what it means, where to look."""

    name: str
    query: str
    for_: str
    severity: str
    summary: str
    text: str


def quantile(metric: str, fraction: float) -> str:
    """Over all workers, of a histogram with the label ``agent``."""
    buckets = f"sum by (le, agent) (rate(streamflow_{metric}_bucket{CHOSEN}[$__rate_interval]))"
    return f"histogram_quantile({fraction}, {buckets})"


def rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate(streamflow_{metric}{CHOSEN}[$__rate_interval]))"


def total(metric: str, by: str) -> str:
    return f"sum by ({by}) (streamflow_{metric}{CHOSEN})"


ROWS: Sequence[tuple[str, Sequence[Panel]]] = (
    (
        "Is it well?",
        (
            Panel(
                "Records taken",
                "cps",
                "From source topics, a second.",
                [(rate("records_total", "instance"), "{{instance}}")],
            ),
            Panel(
                "Lag",
                "short",
                "Records still to be read; of partitions that no worker has, each worker tells.",
                [
                    (total("consumer_lag_records", "topic"), "{{topic}}"),
                    (f"max by (topic) (streamflow_unowned_lag_records{CHOSEN})", "{{topic}}, nobody's"),
                ],
            ),
            Panel(
                "Failures and dead letters",
                "cps",
                "An event is tried again before it is set aside.",
                [
                    (rate("events_failed_total", "agent, error"), "{{agent}}: {{error}}"),
                    (rate("dead_letters_total", "topic, reason"), "set aside of {{topic}}: {{reason}}"),
                    (rate("records_gone_total", "topic"), "gone from {{topic}}"),
                ],
            ),
            Panel(
                "Memory",
                "bytes",
                "Resident.",
                [(f"streamflow_process_resident_memory_bytes{CHOSEN}", "{{instance}}")],
            ),
        ),
    ),
    (
        "Agents and aggregates",
        (
            Panel(
                "Events done",
                "cps",
                "Each consumer counts for itself.",
                [(rate("events_processed_total", "agent"), "{{agent}}")],
            ),
            Panel(
                "From timestamp to checkpoint",
                "s",
                "Of the oldest record of each batch, until the checkpoint that holds all of it.",
                [
                    (quantile("end_to_end_seconds", 0.5), "{{agent}}, half"),
                    (quantile("end_to_end_seconds", 0.99), "{{agent}}, 99 of 100"),
                ],
            ),
            Panel(
                "Work on a batch",
                "s",
                "An agent's waits included.",
                [(quantile("batch_seconds", 0.99), "{{agent}}, 99 of 100")],
            ),
            Panel(
                "Held up",
                "s",
                "The oldest event in hand, and stretches in which nothing else ran.",
                [
                    (f"max by (agent) (streamflow_agent_event_seconds{CHOSEN})", "{{agent}}: oldest event"),
                    (rate("event_loop_blocked_seconds_total", "instance"), "{{instance}}: loop blocked"),
                ],
            ),
            Panel(
                "Retries, drops, breakers",
                "short",
                "Breakers: 0 closed, 1 half-open, 2 open.",
                [
                    (rate("retries_total", "instance"), "retries of {{instance}} a second"),
                    (rate("events_dropped_total", "agent, policy"), "{{agent}}: {{policy}} a second"),
                    (f"max by (name) (streamflow_circuit_state{CHOSEN})", "breaker {{name}}"),
                ],
            ),
            Panel(
                "What became of events",
                "short",
                "Since each consumer began. What came in is the sum of all others.",
                [(total("consumer_events", "consumer, outcome"), "{{consumer}}: {{outcome}}")],
            ),
        ),
    ),
    (
        "Checkpoints, recovery",
        (
            Panel(
                "Checkpoint",
                "s",
                "From the cut to the commit.",
                [
                    (
                        "histogram_quantile(0.99, sum by (le, instance) "
                        f"(rate(streamflow_checkpoint_seconds_bucket{CHOSEN}[$__rate_interval])))",
                        "{{instance}}, 99 of 100",
                    )
                ],
            ),
            Panel(
                "Newest checkpoint",
                "s",
                "An idle worker makes none; overdue is what ought to be durable.",
                [
                    (f"streamflow_last_commit_age_seconds{CHOSEN}", "{{instance}}: age"),
                    (f"streamflow_commit_overdue_seconds{CHOSEN}", "{{instance}}: overdue"),
                ],
            ),
            Panel(
                "Restoring",
                "short",
                "Partitions that do not serve yet, and about how many changelog records are to be read.",
                [
                    (f"streamflow_partitions_restoring{CHOSEN}", "{{instance}}: partitions"),
                    (f"streamflow_restore_records_left{CHOSEN}", "{{instance}}: records left"),
                ],
            ),
            Panel(
                "Standbys",
                "short",
                "Tables of other workers' partitions, kept ready here.",
                [
                    (f"streamflow_standby_partitions{CHOSEN}", "{{instance}}: partitions"),
                    (f"streamflow_standby_records_behind{CHOSEN}", "{{instance}}: records behind"),
                ],
            ),
        ),
    ),
    (
        "Tables, live view",
        (
            Panel("Rows", "short", "Checkpointed.", [(total("table_rows", "table"), "{{table}}")]),
            Panel("Bytes", "bytes", "About.", [(total("table_bytes", "table"), "{{table}}")]),
            Panel(
                "Late, misrouted, scattered",
                "cps",
                "Later than the grace; on another partition than the key says; written outside of it.",
                [
                    (rate("late_events_total", "table"), "{{table}}: late"),
                    (rate("misrouted_records_total", "topic"), "{{topic}}: misrouted"),
                    (rate("scattered_writes_total", "table"), "{{table}}: scattered"),
                ],
            ),
            Panel(
                "WebSockets",
                "short",
                "Open, frames a second, changes that slow clients skipped, clients that were too slow.",
                [
                    (total("ws_connections", "instance"), "{{instance}}: open"),
                    (rate("ws_frames_total", "instance"), "{{instance}}: frames"),
                    (rate("ws_skipped_changes_total", "instance"), "{{instance}}: skipped"),
                    (rate("ws_slow_disconnects_total", "instance"), "{{instance}}: closed as too slow"),
                ],
            ),
        ),
    ),
)

IN, OUT = '{outcome="in"}', '{outcome!="in"}'
ALERT_RULES: Sequence[Alert] = (
    Alert(
        "StreamflowCommitOverdue",
        "streamflow_commit_overdue_seconds > 30",
        "1m",
        "critical",
        "{{ $labels.instance }}: nothing has become durable for {{ $value | humanizeDuration }}",
        "The broker is away, or refuses the commit: the worker's log and /readyz say which.",
    ),
    Alert(
        "StreamflowPartitionsUnowned",
        "max by (topic, partition) (streamflow_unowned_lag_records) > 0",
        "2m",
        "critical",
        "{{ $labels.topic }}[{{ $labels.partition }}] has records, and no worker reads it",
        "Too few workers are live, or they can't get through a rebalance.",
    ),
    Alert(
        "StreamflowLagGrows",
        "sum by (topic) (streamflow_consumer_lag_records) > 10000 and "
        "sum by (topic) (deriv(streamflow_consumer_lag_records[10m])) > 0",
        "15m",
        "warning",
        "{{ $labels.topic }}: {{ $value }} records behind, and the number grows",
        "More workers (up to the partitions), or see which agent takes its time.",
    ),
    Alert(
        "StreamflowRecordsGone",
        "increase(streamflow_records_gone_total[10m]) > 0",
        "",
        "critical",
        "{{ $labels.topic }}: {{ $value }} records were trimmed before this app had read them",
        "The topic's retention is shorter than the lag. They are lost to this app.",
    ),
    Alert(
        "StreamflowEventsUnaccounted",
        f"abs(sum by (consumer) (streamflow_consumer_events{IN}) - "
        f"sum by (consumer) (streamflow_consumer_events{OUT})) > 0",
        "10m",
        "critical",
        "{{ $labels.consumer }}: {{ $value }} events more or less than came in",
        "This must not be. `streamflow verify` counts the source topic again; please report it.",
    ),
    Alert(
        "StreamflowDeadLetters",
        "sum by (topic, reason) (increase(streamflow_dead_letters_total[10m])) > 0",
        "",
        "warning",
        "{{ $labels.topic }}: {{ $value }} events were set aside ({{ $labels.reason }})",
        "`streamflow dead-letters list` shows them; after the cure `replay` takes them in again.",
    ),
    Alert(
        "StreamflowCircuitOpen",
        "max by (name) (streamflow_circuit_state) == 2",
        "5m",
        "warning",
        "The circuit breaker {{ $labels.name }} has been open for 5 minutes",
        "What is behind it is down. Agents that it guards wait, and their lag grows.",
    ),
    Alert(
        "StreamflowAgentHangs",
        "streamflow_agent_event_seconds > 300",
        "",
        "warning",
        "{{ $labels.agent }} has been at one event for {{ $value | humanizeDuration }}",
        "The log names the event and the line of Python; `timeout_s` would give it up.",
    ),
    Alert(
        "StreamflowLoopBlocked",
        "rate(streamflow_event_loop_blocked_seconds_total[5m]) > 0.2",
        "5m",
        "warning",
        "{{ $labels.instance }} is blocked for a fifth of the time",
        "Something computes or waits without `await`: the log has its stack.",
    ),
    Alert(
        "StreamflowRestoring",
        "streamflow_partitions_restoring > 0",
        "15m",
        "warning",
        "{{ $labels.instance }} has not had its tables back for 15 minutes",
        "Standbys (table_standby_replicas) or a store on a disk shorten this.",
    ),
    Alert(
        "StreamflowSlowClients",
        "rate(streamflow_ws_slow_disconnects_total[10m]) > 0.1",
        "10m",
        "warning",
        "{{ $labels.instance }} closes WebSockets that are too slow",
        "Clients want more than they can take: `where` or fewer tables.",
    ),
)


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    top = 0
    for title, graphs in ROWS:
        place = {"h": 1, "w": COLUMNS, "x": 0, "y": top}
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": place,
                "panels": [],
            }
        )
        top += 1
        width = COLUMNS // 2 if len(graphs) % 3 else COLUMNS // 3
        for at, graph in enumerate(graphs):
            across = COLUMNS // width
            place = {"h": HEIGHT, "w": width, "x": at % across * width, "y": top + at // across * HEIGHT}
            panels.append(_graph(len(panels) + 1, graph, place))
        top += -(-len(graphs) // (COLUMNS // width)) * HEIGHT
    return {
        "title": "streamflow",
        "uid": "streamflow",
        "tags": ["streamflow"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": list(_variables())},
        "panels": panels,
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}
    for name, query in (
        ("job", "label_values(streamflow_records_total, job)"),
        ("instance", 'label_values(streamflow_records_total{job=~"$job"}, instance)'),
    ):
        yield {
            "name": name,
            "type": "query",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "current": {"text": "All", "value": "$__all"},
        }


def _graph(number: int, graph: Panel, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number,
        "type": "timeseries",
        "title": graph.title,
        "description": graph.text,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": graph.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(65 + at),
                "datasource": source,
                "expr": query,
                "legendFormat": legend,
                "exemplar": True,
            }
            for at, (query, legend) in enumerate(graph.queries)
        ],
    }


def alerts() -> str:
    """YAML; each text is written as JSON, which YAML reads."""
    lines = [
        "# made by write_monitoring.py: change that, not this",
        "groups:",
        "  - name: streamflow",
        "    rules:",
    ]
    for alert in ALERT_RULES:
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(alert.query)}",
            *([f"        for: {alert.for_}"] if alert.for_ else []),
            f"        labels: {{severity: {alert.severity}}}",
            "        annotations:",
            f"          summary: {json.dumps(alert.summary)}",
            f"          description: {json.dumps(alert.text)}",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    DASHBOARD.write_text(json.dumps(dashboard(), indent=1) + "\n")
    ALERTS.write_text(alerts())


if __name__ == "__main__":
    main()
