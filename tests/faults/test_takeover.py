"""A worker dies inside a transaction: who takes its partitions ends that at once, and readers go on."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Iterator

import pytest

from tests.faults.stage import LIMIT_S, Stage
from tests.integration.workers import wait_for

TAKEOVER_S_MAX = 15.0


@pytest.fixture
def stage(kafka: str, tmp_path: pathlib.Path) -> Iterator[Stage]:
    # The default session timeout; and transactions that would block readers for far longer than it.
    stage = Stage(kafka, tmp_path, session_timeout_ms="10000", transaction_timeout_ms="120000")
    try:
        stage.start()
        yield stage
    finally:
        stage.end()


# In its first transaction nothing in the group's offsets names the dead one: the harder case.
FIRST = {"first": True, **({"later": False} if os.environ.get("STREAMFLOW_FAULT_ROUNDS") else {})}


@pytest.mark.parametrize("first", list(FIRST.values()), ids=list(FIRST))
def test_readers_wait_no_longer_than_the_takeover(stage: Stage, first: bool) -> None:
    if not first:
        stage.feed(3_000)
        stage.feeder_done()
        stage.check()
    stage.arm("before-end")
    feeder = stage.feed(1_500)
    victim = stage.wait_death()
    died_s = time.monotonic()
    assert len([worker for worker in stage.workers if worker.running()]) == 1
    feeder.finish()
    stage.feeder_done()
    wait_for("all is committed by the other", lambda: stage.offsets() == stage.ends, LIMIT_S)
    taken_s = time.monotonic() - died_s
    stage.check()
    read_s = time.monotonic() - died_s
    print(f"taken over after {taken_s:.1f} s, everything read and right after {read_s:.1f} s")
    assert taken_s < TAKEOVER_S_MAX
    assert not victim.running()
