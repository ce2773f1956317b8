"""The concurrent path by itself: the mark and what is done behind it; who is conflicting with whom."""

from __future__ import annotations

import asyncio

import pytest

from streamflow.clock import SystemClock
from streamflow.codecs.chunk import Chunk
from streamflow.processing.acks import AckTracker
from streamflow.processing.gate import Gate
from streamflow.state.changelog import RowCodec
from streamflow.state.event_context import EventContext
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.progress import Progress, progress_from_record
from streamflow.state.stores.memory import MemoryStore


def chunk(offsets: list[int], times_ms: list[int], next_offset: int) -> Chunk:
    size = len(offsets)
    return Chunk(
        "in",
        0,
        offsets=offsets,
        keys=[None] * size,
        events=[None] * size,
        columns={},
        times_ms=times_ms,
        timestamps_ms=times_ms,
        raw=([None] * size, [None] * size, None),
        next_offset=next_offset,
    )


def test_the_position_stops_at_a_hole_and_what_is_done_behind_it_is_told_apart() -> None:
    progress = Progress("agent:a", "in", 0)
    tracker = AckTracker(progress)
    first = tracker.enter(chunk([10, 11, 13], [100, 300, 200], 15), 0)
    second = tracker.enter(chunk([15, 16], [50, 60], 20), 0)
    for chunk_acks, index in ((first, 1), (first, 2), (second, 0)):
        tracker.finish(chunk_acks, index, "counted")
    tracker.settle()
    assert (progress.position, progress.done, progress.watermark_ms) == (10, ((11, 15),), None)
    tracker.finish(first, 0, "late")
    tracker.settle()
    assert (progress.position, progress.done, progress.watermark_ms) == (16, (), 300)
    tracker.finish(second, 1, "failed")
    tracker.settle()
    assert (progress.position, progress.counters) == (20, {"in": 5, "counted": 3, "late": 1, "failed": 1})


def test_what_was_done_behind_the_mark_is_not_handed_out_again() -> None:
    before = Progress("agent:a", "in", 0, position=10, done=((11, 15), (30, 31)))
    progress = progress_from_record(before.record_key(), before.record_value())
    assert progress == before
    tracker = AckTracker(progress)
    chunk_acks = tracker.enter(chunk([10, 11, 13, 15, 16], [1, 2, 3, 4, 5], 17), 0)
    assert [chunk_acks.take(), chunk_acks.take(), chunk_acks.take()] == [0, 4, None]
    tracker.finish(chunk_acks, 0, "counted")
    tracker.settle()
    assert (progress.position, progress.done) == (16, ((30, 31),))
    assert progress.counters == {"in": 1, "counted": 1}
    chunk_acks = tracker.enter(chunk([17, 30, 31, 32], [6, 7, 8, 9], 33), 0)
    assert [chunk_acks.take(), chunk_acks.take(), chunk_acks.take()] == [0, 3, None]


def test_an_event_is_late_by_the_log_and_not_by_who_was_faster() -> None:
    tracker = AckTracker(Progress("agent:a", "in", 0, event_ms=150, watermark_ms=900))  # silence adds nothing
    chunk_acks = tracker.enter(chunk([0, 1, 2], [100, 300, 200], 3), 0)
    assert [chunk_acks.time.watermark_ms(index) for index in range(3)] == [150, 300, 300]
    assert tracker.enter(chunk([3], [10], 4), 0).time.watermark_ms(0) == 300


class Holder:
    """Contexts of agents that write one row each when they are told to."""

    def __init__(self) -> None:
        self.all = [EventContext("a"), EventContext("b")]
        self.part = TablePartition(TableSpec("t", None, RowCodec(None), "", 1), 0, MemoryStore())
        for context in self.all:
            context.open(chunk([0, 1], [0, 0], 2), None)
            context.position = 0
            context.in_flight = True

    def contexts(self) -> list[EventContext]:
        return self.all

    def wake(self) -> None:
        """Nobody waits."""

    def write(self, which: int, key: str) -> None:
        self.part.put(self.all[which], 0, key, 1)


def test_events_in_flight_that_wrote_one_row_are_conflicting_and_others_are_not() -> None:
    holder = Holder()
    gate = Gate(SystemClock(), [holder])
    holder.write(0, "x")
    holder.write(1, "y")
    assert gate.conflicting() == []
    holder.write(1, "x")
    assert gate.conflicting() == holder.all


def test_an_event_stays_conflicting_with_one_that_is_done() -> None:
    holder = Holder()
    gate = Gate(SystemClock(), [holder])
    first, second = holder.all
    holder.write(0, "x")
    holder.write(1, "x")
    gate.finished(second, second.uncommitted_writes)
    second.in_flight = False
    second.uncommitted_writes.clear()
    assert gate.conflicting() == [first]


async def test_awaiting_conflicts_holds_new_events_back_until_the_gate_is_opened() -> None:
    holder = Holder()
    gate = Gate(SystemClock(), [holder])
    first, second = holder.all
    holder.write(0, "x")
    holder.write(1, "x")
    awaiting = asyncio.ensure_future(gate.await_conflicts(10_000))
    passing = asyncio.ensure_future(_pass(gate, awaiting))
    await asyncio.sleep(0)
    for context in (second, first):
        gate.finished(context, context.uncommitted_writes)
        context.in_flight = False
        context.uncommitted_writes.clear()
        gate.leave(context)
    assert await awaiting
    assert not passing.done()
    gate.open()
    await passing


async def _pass(gate: Gate, first: asyncio.Future[bool]) -> None:
    await asyncio.sleep(0)
    await gate.passage()
    assert first.done()


async def test_what_does_not_end_in_time_stays_conflicting() -> None:
    holder = Holder()
    gate = Gate(SystemClock(), [holder])
    holder.write(0, "x")
    holder.write(1, "x")
    assert not await gate.await_conflicts(5)
    gate.invalidate("because")
    assert str(gate.invalidated) == "because"
    gate.clear()
    assert gate.invalidated is None
    assert not gate.closed


async def test_an_exclusive_event_waits_for_the_others_and_keeps_new_ones_back() -> None:
    holder = Holder()
    gate = Gate(SystemClock(), [holder])
    first, second = holder.all
    entering = asyncio.ensure_future(gate.enter_exclusively(first))
    await asyncio.sleep(0)
    assert gate.closed
    assert not entering.done()
    second.in_flight = False
    gate.leave(second)
    async with asyncio.timeout(5):
        await entering
    gate.open()
    assert gate.closed, "only its own end opens the gate"
    gate.leave(first)
    assert not gate.closed


def test_an_event_is_done_once() -> None:
    tracker = AckTracker(Progress("agent:a", "in", 0))
    chunk_acks = tracker.enter(chunk([0], [0], 1), 0)
    tracker.finish(chunk_acks, 0, "counted")
    with pytest.raises(AssertionError, match="once"):
        tracker.finish(chunk_acks, 0, "counted")
