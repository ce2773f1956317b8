"""``at_least_once``: nothing is lost, and what came since the last checkpoint may count and be sent twice."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tests.faults import checker
from tests.faults.stage import LIMIT_S, Stage
from tests.faults.workload import event
from tests.integration.workers import wait_for

EVENTS = 1_500


@pytest.fixture
def stage(kafka: str, tmp_path: pathlib.Path) -> Iterator[Stage]:
    stage = Stage(kafka, tmp_path, processing_guarantee="at_least_once")
    try:
        stage.start()
        yield stage
    finally:
        stage.end()


def test_without_trouble_everything_is_exact(stage: Stage) -> None:
    stage.feed(EVENTS)
    stage.feeder_done()
    stage.check()
    stage.close_windows()
    stage.check(closed=True)


def test_kills_lose_nothing_and_repeat_only_what_came_since_the_last_checkpoint(stage: Stage) -> None:
    # Killed at any moment: what was not in a checkpoint comes again.
    feeder = stage.feed(EVENTS)
    wait_for("events flow", lambda: len(feeder.acknowledged()) > EVENTS // 4, LIMIT_S)
    stage.workers[0].kill()
    stage.settle()
    stage.feeder_done()
    stage.check(guarantee="at_least_once")
    # Everything is written but the offsets: the progress says what is done, and nothing of it comes again.
    for point in ("before-offsets", "half-written"):
        stage.arm(point)
        stage.feed(EVENTS)
        stage.wait_death()
        stage.settle()
        stage.feeder_done()
        stage.check(guarantee="at_least_once")
    # Rows and outputs were written, the progress was not: that checkpoint came twice.
    wanted = checker.expected(map(event, range(stage.sent)), stage.ends)
    seen = stage.look()
    again = sum(map(len, seen.outputs.values())) - sum(map(len, wanted.outputs.values()))
    print(f"{again} outputs came again")
    assert 0 < again < EVENTS
    assert sum(seen.sums.values()) > sum(wanted.sums.values())
