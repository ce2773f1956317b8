from __future__ import annotations

import re

import pytest

from streamflow.metrics import LABEL_SETS_MAX, OTHER, Metrics

NAMES = [
    "consumer_lag_records",
    "records_total",
    "events_processed_total",
    "events_failed_total",
    "events_dropped_total",
    "late_events_total",
    "dead_letters_total",
    "retries_total",
    "circuit_state",
    "checkpoint_seconds",
    "batch_seconds",
    "end_to_end_seconds",
    "recovery_seconds",
    "table_rows",
    "table_bytes",
    "misrouted_records_total",
    "scattered_writes_total",
    "ws_connections",
    "ws_frames_total",
    "ws_skipped_changes_total",
    "ws_slow_disconnects_total",
    "process_resident_memory_bytes",
]
SAMPLE = re.compile(
    r'^[a-z_]+(\{[a-z_]+="(?:[^"\\\n]|\\.)*"(?:,[a-z_]+="(?:[^"\\\n]|\\.)*")*\})? [-+0-9.e]+(Inf)?$'
)


def test_every_published_name_is_an_attribute_and_is_rendered() -> None:
    metrics = Metrics()
    text = metrics.render()
    for name in NAMES:
        assert hasattr(metrics, name)
        assert f"# TYPE streamflow_{name} " in text


def test_every_line_is_a_comment_or_a_well_formed_sample() -> None:
    metrics = Metrics()
    metrics.dead_letters_total.labels('we"ird\\top\nic', "not-json").inc(2)
    metrics.batch_seconds.labels("count").observe(0.004, times=3)
    metrics.consumer_lag_records.labels("events", 3).set(1.5)
    for line in metrics.render().splitlines():
        assert line.startswith("# ") or SAMPLE.match(line), line


def test_a_histogram_is_cumulative_and_ends_in_inf() -> None:
    metrics = Metrics()
    for value in (0.001, 0.002, 1_000.0):
        metrics.checkpoint_seconds.observe(value)
    text = metrics.render()
    assert 'streamflow_checkpoint_seconds_bucket{le="0.001"} 1\n' in text
    assert 'streamflow_checkpoint_seconds_bucket{le="0.0025"} 2\n' in text
    assert 'streamflow_checkpoint_seconds_bucket{le="+Inf"} 3\n' in text
    assert "streamflow_checkpoint_seconds_count 3\n" in text


def test_a_quantile_is_the_upper_bound_of_its_bucket() -> None:
    metrics = Metrics()
    assert metrics.checkpoint_seconds.quantile(0.5) is None
    metrics.checkpoint_seconds.observe(0.004, times=99)
    metrics.checkpoint_seconds.observe(4.0)
    assert metrics.checkpoint_seconds.quantile(0.5) == 0.005
    assert metrics.checkpoint_seconds.quantile(1.0) == 5.0


def test_openmetrics_names_the_counter_family_without_total_and_ends_with_eof() -> None:
    metrics = Metrics()
    metrics.records_total.inc(7)
    text = metrics.render(openmetrics=True)
    assert "# TYPE streamflow_records counter\nstreamflow_records_total 7\n" in text
    assert text.endswith("# EOF\n")


def test_label_sets_are_bounded_and_the_rest_is_counted_together() -> None:
    metrics = Metrics()
    for index in range(LABEL_SETS_MAX + 50):
        metrics.events_failed_total.labels("agent", f"Error{index}").inc()
    assert len(metrics.events_failed_total.children) == LABEL_SETS_MAX + 1
    assert metrics.events_failed_total.labels(OTHER, OTHER).value == 50


def test_a_wrong_number_of_labels_and_a_shrinking_counter_are_refused() -> None:
    metrics = Metrics()
    with pytest.raises(ValueError, match="expected the labels"):
        metrics.late_events_total.labels("a", "b")
    with pytest.raises(ValueError, match="shrink"):
        metrics.records_total.inc(-1)


def test_label_sets_that_were_cleared_are_no_longer_rendered() -> None:
    metrics = Metrics()
    metrics.consumer_lag_records.labels("events", 0).set(4)
    metrics.consumer_lag_records.clear()
    assert 'topic="events"' not in metrics.render()


def test_collectors_run_before_each_rendering_and_memory_is_that_of_this_process() -> None:
    metrics = Metrics()
    metrics.on_collect(lambda: metrics.table_rows.labels("counts").set(12))
    assert 'streamflow_table_rows{table="counts"} 12\n' in metrics.render()
    assert metrics.process_resident_memory_bytes.value > 1_000_000
