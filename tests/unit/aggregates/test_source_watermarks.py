"""What source partitions tell final stages: one record for each shuffle partition, and not too often."""

from __future__ import annotations

import orjson
import pytest

from streamflow.aggregates import Count
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.shuffle.final import FinalStage
from streamflow.aggregates.shuffle.partial import partial_key
from streamflow.aggregates.shuffle.source_watermarks import SourceWatermarks
from streamflow.aggregates.spec import AggregateSpec
from streamflow.state.cut import Cut
from streamflow.state.progress import Progress
from streamflow.transports.base import Batch, Record
from streamflow.windows import TumblingWindow

SOURCES = 8


class Worker:
    """Its source partitions, and what a second after second of cuts writes."""

    def __init__(self, *partitions: int) -> None:
        self.now_ms = 0.0
        self.watermarks = SourceWatermarks("shuffle", SOURCES, lambda _: 0, lambda: self.now_ms)
        self.progress = {p: Progress("aggregate:t", "events", p) for p in partitions}
        for progress in self.progress.values():
            self.watermarks.hold(progress)

    def moves(self, time_ms: int) -> None:
        for progress in self.progress.values():
            progress.position += 1
            progress.see(time_ms)

    def cut(self, *, last: bool = False) -> list[Record]:
        cut = Cut(self.now_ms, last=last)
        self.watermarks.begin_cut()
        self.watermarks.cut(cut)
        return cut.watermarks


def stage(*records: Record) -> FinalStage:
    """One that has read these of its partition."""
    spec = AggregateSpec("t", "events", "type", TumblingWindow(1), RowFunctions(Count()))
    found = FinalStage(spec, "shuffle", 0, SOURCES)
    mine = [record for record in records if record.partition == 0]
    end = len(mine)
    keys, values = [r.key for r in mine], [r.value for r in mine]
    found.read(Batch("shuffle", 0, range(end), keys, values, [0] * end, None, end, end))
    return found


def test_a_second_costs_one_record_for_each_shuffle_partition() -> None:
    worker = Worker(0, 1, 2, 3)
    written = []
    for tick in range(50):
        worker.now_ms = tick * 100.0
        worker.moves(tick)
        assert worker.watermarks.due() == (tick % 10 == 0)
        written += worker.cut()
    assert len(written) == 5 * SOURCES
    assert {record.partition for record in written} == set(range(SOURCES))
    known = stage(*written).watermarks
    assert {p: (each.watermark_ms, each.position) for p, each in known.items()} == dict.fromkeys(
        range(4), (40, 41)
    )


def test_what_has_not_moved_is_not_told_again() -> None:
    worker = Worker(0, 1)
    worker.moves(5)
    assert worker.cut()
    worker.now_ms = 60_000.0
    assert not worker.watermarks.due()
    assert worker.cut() == []


def test_the_last_cut_and_a_new_partition_do_not_wait() -> None:
    worker = Worker(0)
    worker.moves(5)
    assert worker.cut()
    worker.moves(6)
    assert worker.cut() == []
    assert len(worker.cut(last=True)) == SOURCES
    late = worker.progress[1] = Progress("aggregate:t", "events", 1, position=3, watermark_ms=7)
    worker.watermarks.hold(late)
    assert worker.watermarks.due()
    assert len(worker.cut()) == SOURCES


def test_a_partition_without_time_is_not_waited_for() -> None:
    worker = Worker(0, 1)
    assert not worker.watermarks.due()
    worker.progress[0].see(5)
    assert worker.watermarks.due()
    known = stage(*worker.cut()).watermarks
    assert {p: each.watermark_ms for p, each in known.items()} == {0: 5, 1: None}


@pytest.mark.parametrize("compacted", [False, True])
def test_where_partitions_move_nobody_is_told_of_a_later_time_than_it_was(compacted: bool) -> None:
    first, second = Worker(0, 1), Worker(2, 3)
    log: list[Record] = []

    def write(worker: Worker, time_ms: int) -> None:
        worker.now_ms += 1_000.0
        worker.moves(time_ms)
        log.extend(worker.cut())

    write(first, 10)
    write(second, 20)
    first, second = Worker(0), Worker(1, 2, 3)  # partition 1 has moved
    write(second, 30)
    first_again = Worker(0, 1, 2)  # and back, and forth
    write(first_again, 40)
    write(Worker(0), 50)
    records = log
    if compacted:
        newest_of = {(record.partition, record.key): record for record in log}
        records = [record for record in log if newest_of[record.partition, record.key] is record]
    known = {p: each.watermark_ms for p, each in stage(*records).watermarks.items()}
    newest = {0: 50, 1: 40, 2: 40, 3: 30}
    assert known[0] == 50
    assert all(mark is not None and mark <= newest[p] for p, mark in known.items())
    assert compacted or known == newest


def test_what_older_versions_wrote_is_read() -> None:
    value = orjson.dumps({"watermark_ms": 7, "position": 3, "lag": None})
    old = [Record("shuffle", 0, orjson.dumps(["mark", p]), value) for p in range(2)]
    worker = Worker(1)
    worker.moves(9)
    known = {p: each.watermark_ms for p, each in stage(*old, *worker.cut()).watermarks.items()}
    assert known == {0: 7, 1: 9}


def test_partials_are_followed_by_how_far_they_have_come_in_the_same_cut_everywhere() -> None:
    worker = Worker(0, 1)
    worker.moves(5)
    assert worker.cut()
    worker.now_ms = 10.0  # long before a second has passed
    worker.moves(6)
    assert worker.cut() == []
    worker.moves(7)
    worker.watermarks.begin_cut()
    worker.watermarks.follow_partials()
    cut = Cut(worker.now_ms)
    worker.watermarks.cut(cut)
    assert [record.partition for record in cut.watermarks] == list(range(SOURCES))
    assert stage(*cut.watermarks).positions() == {0: 3, 1: 3}


def test_a_stage_is_settled_when_the_partials_that_it_has_read_are_followed() -> None:
    worker = Worker(0, 1)
    worker.moves(5)
    partial = Record("shuffle", 0, partial_key(1, "click", 0), b"1")
    assert not stage(partial).is_settled
    assert stage(partial, *worker.cut()).is_settled
