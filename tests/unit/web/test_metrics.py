from __future__ import annotations

import prometheus_client
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

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
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def text_of(metrics: Metrics, accept: str = "") -> str:
    return metrics.render(accept)[0].decode()


def test_every_published_name_is_an_attribute_and_is_rendered() -> None:
    metrics = Metrics()
    text = text_of(metrics)
    for name in NAMES:
        assert hasattr(metrics, name)
        assert f"# TYPE streamflow_{name} " in text


def test_odd_labels_can_be_read_back() -> None:
    metrics = Metrics()
    metrics.dead_letters_total.labels('we"ird\\top\nic', "not-json").inc(2)
    metrics.consumer_lag_records.labels("events", 3).set(1.5)
    families = {each.name: each for each in text_string_to_metric_families(text_of(metrics, OPENMETRICS))}
    (letters,) = families["streamflow_dead_letters"].samples
    assert letters.labels == {"topic": 'we"ird\\top\nic', "reason": "not-json"}
    assert letters.value == 2
    assert [each.value for each in families["streamflow_consumer_lag_records"].samples] == [1.5]


def test_what_the_app_counts_itself_stands_there_too() -> None:
    orders = prometheus_client.Counter("shop_orders", "Orders that were paid.")
    try:
        orders.inc(3)
        assert "shop_orders_total 3.0\n" in text_of(Metrics())
    finally:
        prometheus_client.REGISTRY.unregister(orders)


def test_a_metric_of_the_app_does_not_stand_in_for_ours() -> None:
    ours = prometheus_client.Counter("streamflow_records", "Somebody else's.")
    try:
        text = text_of(Metrics())
        assert text.count("# TYPE streamflow_records_total ") == 1
        assert text.count("# TYPE process_resident_memory_bytes ") == 1
    finally:
        prometheus_client.REGISTRY.unregister(ours)


def test_openmetrics_shows_where_a_slow_record_lies() -> None:
    metrics = Metrics()
    place = {"topic": "orders", "partition": "2", "offset": "17"}
    metrics.end_to_end_seconds.labels("totals").observe(0.3, exemplar=place)
    metrics.end_to_end_seconds.labels("totals").observe(0.002, exemplar={"topic": "x" * 200})
    families = {each.name: each for each in text_string_to_metric_families(text_of(metrics, OPENMETRICS))}
    said = [each.exemplar for each in families["streamflow_end_to_end_seconds"].samples if each.exemplar]
    assert [(each.labels, each.value) for each in said] == [(place, 0.3)], "one that is too long is left out"
    assert "offset" not in text_of(metrics), "the older format has none"


def test_a_histogram_is_cumulative_and_ends_in_inf() -> None:
    metrics = Metrics()
    for value in (0.001, 0.002, 1_000.0):
        metrics.checkpoint_seconds.observe(value)
    text = text_of(metrics)
    assert 'streamflow_checkpoint_seconds_bucket{le="0.001"} 1.0\n' in text
    assert 'streamflow_checkpoint_seconds_bucket{le="0.0025"} 2.0\n' in text
    assert 'streamflow_checkpoint_seconds_bucket{le="+Inf"} 3.0\n' in text
    assert "streamflow_checkpoint_seconds_count 3.0\n" in text


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
    text = text_of(metrics, OPENMETRICS)
    assert "# TYPE streamflow_records counter\nstreamflow_records_total 7.0\n" in text
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
    assert 'topic="events"' not in text_of(metrics)


def test_collectors_run_before_each_rendering_and_memory_is_that_of_this_process() -> None:
    metrics = Metrics()
    metrics.on_collect(lambda: metrics.table_rows.labels("counts").set(12))
    assert 'streamflow_table_rows{table="counts"} 12.0\n' in text_of(metrics)
    assert metrics.process_resident_memory_bytes.value > 1_000_000
