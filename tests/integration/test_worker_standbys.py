"""A worker that dies on real Kafka: who stood by for its partitions goes on without reading them again."""

from __future__ import annotations

import pathlib

import pytest

from tests.integration.job import Cluster
from tests.integration.workers import Events, WorkerProcess, wait_for

RESTORED = "streamflow_restored_records_total"


def follows(worker: WorkerProcess) -> bool:
    """Has it all rows of the partitions that it stands by for?"""
    standing = worker.metric("streamflow_standby_partitions")
    return standing == 3 and worker.metric("streamflow_standby_records_behind") == 0


@pytest.mark.parametrize("store", ["memory://", "rocksdb://"])
def test_a_takeover_reads_nothing_again(cluster: Cluster, tmp_path: pathlib.Path, store: str) -> None:
    settings = {"store": store, "data_dir": str(tmp_path / "data"), "session_timeout_ms": "3000"}
    first, second = cluster.start(**settings), cluster.start(**settings)
    first.wait_ready()
    second.wait_ready()
    events = Events(cluster.kafka, cluster.topic)
    events.send(20_000, span_ms=60_000)
    cluster.check(events)
    assert second.metric("streamflow_standby_records_total") > 0
    wait_for("each follows the other", lambda: follows(first) and follows(second))
    before = second.metric(RESTORED)
    first.kill()
    cluster.workers.remove(first)
    wait_for("the other has it all", lambda: second.metric("streamflow_partitions_kept_total") >= 6)
    cluster.check(events)
    assert second.metric(RESTORED) == before
    events.send(5_000, span_ms=20_000)
    events.finish()
    cluster.check(events)
    cluster.check_results(events)
