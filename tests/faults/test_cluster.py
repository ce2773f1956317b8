"""Three brokers under restarts, kills and freezes; after each trial every event has counted once.

A few trials by default; ``make faults`` plays all of them, and holds each pause against the brokers' own
fail-over.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest

from tests.faults.cluster import TRIALS, Scene, play, verify
from tests.faults.stage import Stage
from tests.integration.conftest import _missing
from tests.support.kafka_cluster import NODES, KafkaCluster
from tests.support.kafka_server import NoBroker

ALL = bool(os.environ.get("STREAMFLOW_FAULT_ROUNDS"))
SHORT = ("rolling restart", "leader killed", "min ISR lost")
TRIAL_S_MAX = 200


@pytest.fixture
def scene(tmp_path: pathlib.Path) -> Iterator[Scene]:
    cluster = KafkaCluster()
    try:
        cluster.start()
    except NoBroker as exc:
        _missing(str(exc))
    stage = Stage(cluster.bootstrap, tmp_path, copies=len(NODES), session_timeout_ms="10000")
    try:
        stage.start()
        yield Scene(stage, cluster)
    finally:
        stage.end()
        cluster.stop()


def chosen() -> list[str]:
    """``STREAMFLOW_TRIALS``: names, joined by commas."""
    named = os.environ.get("STREAMFLOW_TRIALS")
    return named.split(",") if named else list(TRIALS if ALL else SHORT)


@pytest.mark.timeout(len(TRIALS) * TRIAL_S_MAX)
def test_whatever_brokers_go_through_every_event_counts_once(scene: Scene) -> None:
    too_long = [play(scene, name, timed=ALL) for name in chosen()]
    scene.stage.close_windows()
    scene.stage.check(closed=True)
    assert not list(verify(scene.stage))
    assert not list(filter(None, too_long))
