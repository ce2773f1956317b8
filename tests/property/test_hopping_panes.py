"""Hopping windows made of panes against the plain way: each event writes a row of each of its windows."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest

from streamflow.aggregates import Count, CountBy, Max, Sum, TopK
from streamflow.aggregates.fold import AggregateConsumer
from streamflow.aggregates.late_events import LateEventStore, late_event_table
from streamflow.aggregates.partition import aggregate_table
from streamflow.aggregates.row_values import HoppingValues, RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.aggregates.windowed_fold import HoppingConsumer, HoppingPanesConsumer, make_consumer
from streamflow.codecs.chunk import Chunk
from streamflow.codecs.times import TimeChecks, TimeLimits
from streamflow.state import hopping_panes
from streamflow.state.changelog import RowCodec
from streamflow.state.hopping_panes import SplitPane, starts_made_of
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.progress import Progress
from streamflow.state.stores.base import Rows
from streamflow.state.stores.memory import MemoryStore
from streamflow.windows import HoppingWindow

KEYS = ["a", "b", "c"]
VALUES: dict[str, Any] = {
    "n": Count(),
    "by": CountBy("v"),
    "sum": Sum("v"),
    "most": Max("v"),
    "top": TopK("v", 2),
}


class Side:
    """One way of keeping the rows, with its own partition and progress."""

    def __init__(self, consumer: AggregateConsumer, table: TableSpec) -> None:
        self.consumer = consumer
        self.part = TablePartition(table, 0, MemoryStore())
        late = late_event_table("t", "late", 1)
        self.late = LateEventStore(late, 0, MemoryStore(), RowCodec(consumer.spec.window))
        consumer.hold(self.part, self.late)
        self.progress = Progress("aggregate:t", "e", 0)

    def take(self, chunk: Chunk) -> None:
        checks = TimeChecks(TimeLimits(0, 0), lambda: 0)
        assert not self.consumer.take(chunk, self.progress, checks)

    def apply(self) -> None:
        """What `Revisions.apply` does to the rows."""
        window, watermark_ms = self.consumer.spec.window, self.progress.watermark_ms
        assert window is not None
        assert watermark_ms is not None
        for event in list(self.late.waiting()):
            key = self.late.row_of(event.rows[0])[1]
            rows = [(start, key) for start, _ in window.windows_of(event.time_ms)]
            rows = [row for row in rows if not window.expired(row[0], watermark_ms)]
            if rows:
                state = partial(self.consumer.spec.values.load, event.state)
                self.consumer.apply_late(self.part, event.time_ms, rows, state)
                self.late.applied(event)

    def checkpoint(self) -> tuple[list[Any], list[int], dict[int, set[str]]]:
        """(closed rows, starts of closed windows, expired rows)"""
        before_ms, watermark_ms = self.progress.closed_to_ms, self.progress.watermark_ms
        assert watermark_ms is not None
        values = self.consumer.spec.values
        known = {(start, key) for start, keys in self.shown().items() for key in keys}
        self.part.begin_cut(watermark_ms)
        closed = [
            (start, key, values.result(state))
            for start, rows in self.consumer.closing(self.part, before_ms, watermark_ms)
            for key, state in sorted(rows.items())
        ]
        starts = self.consumer.closing_starts(self.part, before_ms, watermark_ms)
        expiring = self.consumer.expiring(self.part)
        self.part.fold_cut(1)
        gone = {start: {key for key in keys if (start, key) in known} for start, keys in expiring.items()}
        self.progress.close_to(watermark_ms)
        return closed, starts, {start: keys for start, keys in gone.items() if keys}

    def shown(self) -> dict[int, dict[str, Any]]:
        """The checkpointed rows that have not expired."""
        window, to_ms = self.consumer.spec.window, self.part.expired_to_ms
        found: dict[int, dict[str, Any]] = {}
        assert window is not None
        values = self.consumer.spec.values
        if not isinstance(self.consumer, HoppingPanesConsumer):
            for start, key, state in self.part.store.scan():
                found.setdefault(start, {})[key] = values.result(state)
            return found
        rows = self.consumer.rows(self.part)
        for start in rows.starts(None if to_ms is None else window.first_kept_start(to_ms)):
            for key in rows.groups_at(start):
                merged = values.merge_all(rows.states(start, key))
                found.setdefault(start, {})[key] = values.result(merged)
        return found


def sides(window: HoppingWindow, values: Any) -> tuple[Side, Side]:
    spec = AggregateSpec("t", "e", Key(), window, RowFunctions(values))
    panes = make_consumer(spec)
    assert isinstance(panes, HoppingPanesConsumer)
    plain = HoppingConsumer(spec, window)
    plain.stored = spec.values
    codec = RowCodec(window, value_out=spec.values.dump, value_in=spec.values.load)
    return (
        Side(panes, aggregate_table(spec, "log", 1)),
        Side(plain, TableSpec("t", window, codec, "log", 1)),
    )


def draw_window(dice: random.Random) -> HoppingWindow:
    size = dice.choice((2, 5, 6, 10, 17))
    return HoppingWindow(
        size / 1_000,
        dice.randint(1, size) / 1_000,
        grace_s=dice.choice((0, 0, 1, 3, 20)) / 1_000,
        retain_s=dice.choice((0, 5, 40, 10**6)) / 1_000,
        offset_s=dice.randint(-9, 9) / 1_000,
    )


def draw_chunks(window: HoppingWindow, dice: random.Random) -> list[Chunk]:
    time, chunks, offset = dice.choice((1_000, 1_760_000_000_000)), [], 0
    for _ in range(dice.randint(1, 12)):
        times = []
        for _ in range(dice.randint(1, 25)):
            time += dice.choice((0, 0, 1, 1, 2, 7, 60 if dice.random() < 0.1 else 0))
            behind = dice.choice((0, 0, 0, 1, window.grace_ms + 1, window.grace_ms + window.size_ms, 40))
            times.append(time - (behind if dice.random() < 0.5 else 0))
        keys = [dice.choice(KEYS) for _ in times]
        events = [{"v": dice.randint(-3, 3)} for _ in times]
        offsets = range(offset, offset + len(times))
        offset += len(times)
        column = [event["v"] for event in events]
        chunks.append(
            Chunk("e", 0, offsets=offsets, keys=keys, events=events, columns={"v": column}, times_ms=times,
                  timestamps_ms=times, raw=((), (), None), next_offset=offset)
        )  # fmt: skip
    return chunks


def check_answers(panes: Side, plain: Side, window: HoppingWindow) -> None:
    """What readers ask of the rows is what there is."""
    want = plain.shown()
    assert panes.shown() == want
    assert isinstance(panes.consumer, HoppingPanesConsumer)
    rows, to_ms = panes.consumer.rows(panes.part), panes.part.expired_to_ms
    first = None if to_ms is None else window.first_kept_start(to_ms)
    store = panes.part.store
    assert rows.count(first, store.starts(), len(store)) == sum(map(len, want.values()))
    there = {(start, key) for start, keys in want.items() for key in keys}
    for key in KEYS:
        mine = [start for start in rows.starts_of(key) if first is None or start >= first]
        assert mine == sorted(start for start, of in there if of == key)
        kept = [pane for pane in store.starts() if key in store.window(pane)]
        assert {*mine} <= {*starts_made_of(window, kept)}
        for pane in kept:
            touched = {s for s in rows.touched_by(pane, key) if first is None or s >= first}
            assert touched <= {*mine}
    every = rows.starts()
    assert every == sorted(every)
    assert {*want} <= {*every}
    back, start = [], rows.next_start(None, descending=True)
    while start is not None:
        back.append(start)
        start = rows.next_start(start, descending=True)
    assert back == every[::-1]
    values = panes.consumer.spec.values
    some = {start: keys for start, keys in want.items() if start % 3}
    made = dict(rows.merged(sorted(some), values, {start: [*keys, "none"] for start, keys in some.items()}))
    assert {s: {k: values.result(state) for k, state in of.items()} for s, of in made.items()} == some


@pytest.mark.parametrize("values", [Count(), CountBy("v"), VALUES], ids=["count", "count_by", "many"])
@pytest.mark.parametrize("part", range(4))
def test_windows_made_of_panes_are_those_that_every_event_writes(values: Any, part: int) -> None:
    for number in range(25):
        dice = random.Random(f"{part}:{number}")
        window = draw_window(dice)
        panes, plain = sides(window, values)
        for chunk in draw_chunks(window, dice):
            panes.take(chunk)
            plain.take(chunk)
            if dice.random() < 0.3:
                panes.apply()
                plain.apply()
            if dice.random() < 0.6:
                assert panes.checkpoint() == plain.checkpoint(), (part, number, window)
                check_answers(panes, plain, window)
            if dice.random() < 0.2:
                panes = restored(panes, values)
        assert panes.progress.counters == plain.progress.counters
        assert panes.late.totals() == plain.late.totals()


def restored(side: Side, values: Any) -> Side:
    """What is durable, through the bytes of a changelog, and what is not, as it is."""
    codec = side.part.spec.codec
    rows: Rows = {}
    for start in side.part.store.starts():
        kept = side.part.store.window(start)
        read = codec.decode_columns(
            codec.encode_keys(start, list(kept)), codec.encode_values(list(kept.values()))
        )
        for at, of in read.items():
            rows.setdefault(at, {}).update(of)
    side.part.store.clear()
    side.part.store.apply(rows, 1)
    return side


def test_many_rows_are_counted_about(monkeypatch: pytest.MonkeyPatch) -> None:
    window = HoppingWindow(10, 1)
    panes, _ = sides(window, Count())
    times = [1_760_000_000_000 + i * 100 for i in range(4_000)]
    keys = [f"k{i * 7 % 50}" for i in range(4_000)]
    panes.take(Chunk("e", 0, offsets=range(4_000), keys=keys, events=None, columns={}, times_ms=times,
                     timestamps_ms=times, raw=((), (), None), next_offset=4_000))  # fmt: skip
    panes.checkpoint()
    assert isinstance(panes.consumer, HoppingPanesConsumer)
    rows, store = panes.consumer.rows(panes.part), panes.part.store
    about = rows.count(None, store.starts(), len(store))
    monkeypatch.setattr(hopping_panes, "COUNTED_MAX", 10**9)
    exact = rows.count(None, store.starts(), len(store))
    assert exact == sum(map(len, panes.shown().values()))
    assert abs(about - exact) < exact / 10


def test_a_pane_is_written_as_it_is_read() -> None:
    for values in (Count(), CountBy("v"), {"n": Count(), "by": CountBy("v")}):
        kept = HoppingValues(values)
        whole = kept.fold_columns(
            ["g", "g"], [None if f.field is None else ["split", "whole"] for f in kept.functions]
        )
        split = SplitPane({None: whole["g"], 7: whole["g"]})
        for state in (whole["g"], split):
            read = kept.load(kept.dump(state))
            assert read == state
            assert type(read) is type(state)
