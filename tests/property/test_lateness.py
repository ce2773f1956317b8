"""What is late for a table in Faust's form, against the plain check of each event.

The quick ways decide once for a chunk, or remember the window that was written last; several consumers write
to the same partition, fall behind each other, fail and try again, and checkpoints expire windows meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from operator import add

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamflow.codecs.chunk import Chunk
from streamflow.state.agent_table import AgentTable
from streamflow.state.changelog import RowCodec
from streamflow.state.cut import Cut
from streamflow.state.event_context import EventContext, current_context
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.progress import Progress
from streamflow.state.stores.memory import MemoryStore
from streamflow.windows import HoppingWindow, TumblingWindow, Window

KEYS = ("a", "b")
Row = tuple[int, Hashable]


def chunk_of(times: list[int], first: int = 0) -> Chunk:
    size = len(times)
    offsets = list(range(first, first + size))
    return Chunk(
        "in",
        0,
        offsets=offsets,
        keys=[KEYS[t % 2] for t in times],
        events=offsets,
        columns={},
        times_ms=times,
        timestamps_ms=times,
        raw=([None] * size, [None] * size, None),
        next_offset=first + size,
    )


@dataclass(frozen=True)
class Step:
    """``other``: write the window so many ms from the event's too; ``fails``: once, before it succeeds."""

    consumer: int
    by_add: bool
    other: int | None
    fails: bool
    cut: bool


@dataclass
class KeyRow:
    key: str


class Consumer:
    """Walks over chunks of these times; ``plain`` is its watermark by the plain rule."""

    def __init__(self, name: str, chunks: list[list[int]]) -> None:
        self.context = EventContext(name)
        self.chunks = iter(chunks)
        self.watermark_ms: int | None = None
        self.plain: int | None = None

    def next(self) -> bool:
        context = self.context
        context.release()
        context.uncommitted_writes.clear()
        if context.position + 1 >= len(context.times):
            if context.times:
                self.watermark_ms = self.plain
            times = next(self.chunks, None)
            if times is None:
                return False
            context.open(chunk_of(times), self.watermark_ms)
        context.position += 1
        context.in_flight = True
        t = context.times[context.position]
        self.plain = t if self.plain is None else max(self.plain, t)
        return True


class Bench:
    def __init__(self, window: Window) -> None:
        self.window = window
        self.late: list[int] = []
        spec = TableSpec("t", window, RowCodec(window), "log", 1)
        self.table = AgentTable(
            spec,
            lambda: 0,
            hash_partition=lambda key: 0,
            on_late=lambda context, start: self.late.append(context.position),
            on_scattered=lambda partition, key: None,
        )
        self.part = TablePartition(spec, 0, MemoryStore())
        self.table.hold(self.part, Progress("table:t", "in", 0))
        self.add = self.table.adder()
        self.rows: Counter[Row] = Counter()  # by the plain rule
        self.expired_to: int | None = None

    def plainly(self, consumer: Consumer, start: int) -> bool:
        """Is the window late, said without any memory?"""
        assert consumer.plain is not None
        return self.window.closed(start, consumer.plain) or (
            self.expired_to is not None and self.window.expired(start, self.expired_to)
        )

    def count(self, step: Step, context: EventContext) -> None:
        key = context.keys[context.position]
        if step.by_add:
            self.add(KeyRow(key), 1)
        else:
            self.table.change(key, add, 1)
        if step.other is not None:
            start = self.window.windows_of(context.times[context.position] + step.other)[0][0]
            self.table.change_in(key, add, 100, [start])

    def expect(self, step: Step, consumer: Consumer) -> None:
        context = consumer.context
        key, t = context.keys[context.position], context.times[context.position]
        for start, _ in self.window.windows_of(t):
            if not self.plainly(consumer, start):
                self.rows[start, key] += 1
        if step.other is not None:
            start = self.window.windows_of(t + step.other)[0][0]
            if not self.plainly(consumer, start):
                self.rows[start, key] += 100

    def cut(self, consumers: list[Consumer]) -> None:
        for each in consumers:
            each.context.release()
        watermarks = [each.watermark_ms for each in consumers if each.watermark_ms is not None]
        self.part.begin_cut(max(watermarks, default=None))
        for each in consumers:
            each.context.exclude_from_cut()
        self.part.emit(Cut())
        self.part.fold_cut(None)
        self.expired_to = self.part.expired_to_ms
        for start, key in list(self.rows):
            if self.expired_to is not None and self.window.expired(start, self.expired_to):
                del self.rows[start, key]

    def found(self) -> dict[Row, int]:
        return {(start, key): self.part.get(start, key) for start, key in self.part.row_ids()}


def drawn_times() -> st.SearchStrategy[list[int]]:
    """Of one chunk: in order, or with events up to some seconds behind, from anywhere."""

    def times(begin: int, gaps: list[tuple[int, int]]) -> list[int]:
        found, t = [], begin
        for gap, behind in gaps:
            t += gap
            found.append(max(0, t - behind))
        return found

    gap = st.tuples(st.sampled_from((0, 1, 300, 4_000, 25_000)), st.sampled_from((0, 0, 0, 1, 2_500, 30_000)))
    in_order = st.tuples(st.sampled_from((0, 1, 300, 4_000, 25_000)), st.just(0))
    gaps = st.one_of(st.lists(in_order, min_size=1, max_size=12), st.lists(gap, min_size=1, max_size=12))
    return st.builds(times, st.integers(0, 40_000), gaps)


steps = st.builds(
    Step,
    st.integers(0, 1),
    st.booleans(),
    st.sampled_from((None, None, 0, -10_000, 10_000, -60_000)),
    st.sampled_from((False, False, False, True)),
    st.sampled_from((False,) * 6 + (True,)),
)
windows = st.one_of(
    st.builds(
        lambda grace, retain: TumblingWindow(10, grace_s=grace, retain_s=retain),
        st.sampled_from((0, 2, 10, 3_600)),
        st.sampled_from((0, 20)),
    ),
    st.builds(lambda grace: HoppingWindow(10, 4, grace_s=grace, retain_s=0), st.sampled_from((0, 2, 3_600))),
)


@settings(max_examples=300, deadline=None)
@given(
    windows,
    st.lists(st.lists(drawn_times(), max_size=4), min_size=2, max_size=2),
    st.lists(steps, max_size=60),
)
def test_rows_are_those_of_the_plain_check(
    window: Window, times: list[list[list[int]]], taken: list[Step]
) -> None:
    bench = Bench(window)
    consumers = [Consumer(f"agent:{number}", chunks) for number, chunks in enumerate(times)]
    for step in taken:
        consumer = consumers[step.consumer]
        if consumer.next():
            with holding(consumer.context):
                if step.fails:
                    bench.count(step, consumer.context)
                    consumer.context.undo()
                    consumer.context.position += 1
                    consumer.context.in_flight = True
                bench.count(step, consumer.context)
            bench.expect(step, consumer)
        if step.cut:
            bench.cut(consumers)
    assert bench.found() == dict(bench.rows)


class holding:  # noqa: N801  # as contextlib's are named
    def __init__(self, context: EventContext) -> None:
        self.token = current_context.set(context)

    def __enter__(self) -> None:
        """It is the calling agent's already."""

    def __exit__(self, *_: object) -> None:
        current_context.reset(self.token)


class Asked(EventContext):
    """Counts how often it was asked how far time had come."""

    asked = 0

    def running_watermark_ms(self) -> int:
        self.asked += 1
        return super().running_watermark_ms()


def walk(context: EventContext) -> Iterator[str]:
    for context.position, key in enumerate(context.keys):  # noqa: B020
        context.in_flight = True
        yield key


@pytest.mark.parametrize("grace_s", [0, 10, 3_600])
@pytest.mark.parametrize("by_add", [False, True])
def test_events_in_order_need_no_closer_look_however_long_their_chunk_is(grace_s: int, by_add: bool) -> None:
    bench = Bench(TumblingWindow(10, grace_s=grace_s, retain_s=0))
    context = Asked("agent:a")
    context.open(chunk_of([500 * n for n in range(2_000)]), None)
    with holding(context):
        for key in walk(context):
            if by_add:
                bench.add(KeyRow(key), 1)
            else:
                bench.table.change(key, add, 1)
    assert (context.asked, sum(bench.found().values()), bench.late) == (0, 2_000, [])


def test_what_one_consumer_knows_of_its_chunk_says_nothing_of_anothers() -> None:
    """The first is behind and in order: it may write old windows that are late for the second."""
    bench = Bench(TumblingWindow(10, grace_s=0, retain_s=86_400))
    behind, ahead = EventContext("agent:a"), EventContext("agent:b")
    behind.open(chunk_of([0, 2, 4, 100_000]), None)
    ahead.open(chunk_of([100_000, 6, 100_002]), None)
    steps = zip(walk(behind), walk(ahead), strict=False)
    for of_behind, of_ahead in steps:
        for context, key in ((behind, of_behind), (ahead, of_ahead)):
            with holding(context):
                bench.add(KeyRow(key), 1)
    assert bench.found() == {(0, "a"): 3, (100_000, "a"): 2}
    assert bench.late == [1], "only where it is late by its own consumer's time"
