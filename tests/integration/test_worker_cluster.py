"""The main job on real Kafka: two workers, one of them killed in the middle, every count exact."""

from __future__ import annotations

import signal

from tests.integration.job import Cluster
from tests.integration.workers import Events, wait_for


def test_a_worker_killed_in_the_middle_and_started_again_costs_no_count(cluster: Cluster) -> None:
    events = Events(cluster.kafka, cluster.topic)
    first, second = cluster.start(), cluster.start()
    first.wait_ready()
    second.wait_ready()
    events.send(60_000, span_ms=60_000)
    wait_for("half of it is counted", lambda: first.metric("streamflow_records_total") > 5_000)
    first.kill()
    events.send(40_000, span_ms=60_000)
    first.start()
    first.wait_ready()
    events.send(20_000, span_ms=60_000)
    events.finish()
    cluster.check(events)
    cluster.check_results(events)
    assert first.metric("streamflow_late_events_total") == 0

    # A clean stop of both, and a start: nothing is lost, nothing is written again.
    assert [worker.stop(how) for worker, how in ((first, signal.SIGTERM), (second, signal.SIGINT))] == [0, 0]
    first.start()
    second.start()
    first.wait_ready()
    second.wait_ready()
    cluster.check(events)
    events.send(5_000, span_ms=20_000)
    events.finish()
    cluster.check(events)
    cluster.check_results(events)
