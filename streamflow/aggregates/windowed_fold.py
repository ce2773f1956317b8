"""Declared aggregates over hopping, sliding and session windows.

`AggregateConsumer` takes a chunk, `_live` says what is wanted and not late, `_fold` puts the rest into rows.
Where all events of a chunk came within the grace, columns are folded whole; those that came later meet
windows that are closed in part, and are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from streamflow.aggregates.fold import AggregateConsumer, Columns, in_order, running_watermarks
from streamflow.aggregates.late_events import LateEventStore, RowKey
from streamflow.aggregates.row_values import State
from streamflow.aggregates.spec import AggregateSpec
from streamflow.state.hopping_panes import HoppingRows, SplitPane, cut_rows, windows_gone
from streamflow.state.panes import PaneIndex, SlidingRows, first_end_of, rows_gone, sliding_rows
from streamflow.state.partition import TablePartition
from streamflow.state.sessions import SessionIndex, SessionRow, touched
from streamflow.state.stores.base import DELETED, MISSING
from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, TumblingWindow
from streamflow.windows.session import Part, joined, sessions_of


def make_consumer(spec: AggregateSpec) -> AggregateConsumer:
    """The consumer of a declared aggregate, by the kind of its window."""
    window = spec.window
    if isinstance(window, HoppingWindow):
        kept = HoppingConsumer if spec.hopping_panes is None else HoppingPanesConsumer
        return kept(spec, window)
    if isinstance(window, SlidingWindow):
        return SlidingConsumer(spec, window)
    if isinstance(window, SessionWindow):
        return SessionConsumer(spec, window)
    assert window is None or isinstance(window, TumblingWindow), "there is no other kind"
    return AggregateConsumer(spec, window)


class HoppingConsumer(AggregateConsumer):
    """Folds each pane once, and merges it into every window that holds it: for rows that move on."""

    def __init__(self, spec: AggregateSpec, window: HoppingWindow) -> None:
        super().__init__(spec, window)
        self._hopping = window

    def _live(
        self, columns: Columns, before_ms: int | None, after_ms: int | None
    ) -> tuple[list[int] | None, int, int]:
        window, times = self._hopping, columns.times
        assert after_ms is not None
        if window.oldest_start_of(min(times)) < window.first_open_start(after_ms) and not in_order(
            times, before_ms
        ):
            # By its windows an event is as much behind as by its time: within the grace all of them are open.
            closed_at = first_open_starts(window, times, before_ms)
            if any(first is not None for first in closed_at):
                columns.note_closed(closed_at)
        return super()._live(columns, before_ms, after_ms)

    def _fold(self, part: TablePartition, columns: Columns) -> int:
        closed_at = columns.closed_at
        if closed_at is None:
            self._fold_panes(part, columns)
            return 0
        size, step, offset = self._hopping.size_ms, self._hopping.step_ms, self._hopping.offset_ms
        # HOT PATH: `oldest_start_of`, without a call for each.
        behind = [
            index
            for index, (first, t) in enumerate(zip(closed_at, columns.times, strict=True))
            if first is not None and first > t - size - (t - size - offset) % step + step
        ]
        in_time = sorted({*range(len(columns.times))} - {*behind})
        if in_time:
            self._fold_panes(part, columns.select(in_time))
        if behind:
            self._fold_behind(part, columns.select(behind))
        return 0

    def _fold_panes(self, part: TablePartition, columns: Columns) -> None:
        """Every window of every event is open."""
        window, shared = self._hopping, self.spec.values.shareable
        values, times = self.spec.values, columns.times
        panes = [window.pane_of(t) for t in times]
        folded = values.fold_columns(list(zip(panes, columns.groups, strict=True)), columns.values)
        by_pane: dict[int, dict[Any, State]] = {}
        for (pane, group), delta in folded.items():
            by_pane.setdefault(pane, {})[group] = delta
        for pane, deltas in by_pane.items():
            newest = window.start_of(pane)
            for start in window.starts_of(pane):
                own = shared or start == newest  # else a state may become a row's own only once
                self._merge(part, start, deltas if own else {g: values.copy(d) for g, d in deltas.items()})

    def _fold_behind(self, part: TablePartition, columns: Columns) -> None:
        """Some windows of each event are closed: it goes to those that are open."""
        window, first_open = self._hopping, columns.closed_at
        assert first_open is not None
        at: list[int] = []
        keys: list[tuple[int, Any]] = []
        for index, (t, group, first) in enumerate(
            zip(columns.times, columns.groups, first_open, strict=True)
        ):
            assert first is not None
            for start in window.starts_of(t):
                if start >= first:
                    at.append(index)
                    keys.append((start, group))
        values = [None if column is None else [column[i] for i in at] for column in columns.values]
        for (start, group), delta in self.spec.values.fold_columns(keys, values).items():
            self._merge(part, start, {group: delta})


def first_open_starts(window: HoppingWindow, times: list[int], before_ms: int | None) -> list[int | None]:
    """For each event that came later than the grace, the first window that was open then."""
    grace_ms = window.grace_ms
    of_ms, first = 0, window.first_open_start(0)
    found: list[int | None] = []
    for t, watermark_ms in zip(times, running_watermarks(times, before_ms), strict=True):
        if t >= watermark_ms - grace_ms:
            found.append(None)
            continue
        if watermark_ms != of_ms:  # it moves on now and then
            of_ms, first = watermark_ms, window.first_open_start(watermark_ms)
        found.append(first)
    return found


class HoppingPanesConsumer(HoppingConsumer):
    """Folds panes, which are what is kept; see `state.hopping_panes`."""

    def __init__(self, spec: AggregateSpec, window: HoppingWindow) -> None:
        super().__init__(spec, window)
        self._pane_window = window.panes()
        self._expired_to_ms: dict[int, int | None] = {}  # partition -> up to where windows have expired

    def hold(self, part: TablePartition, late_store: LateEventStore | None) -> None:
        super().hold(part, late_store)
        self._expired_to_ms[part.partition] = part.expired_to_ms

    def drop(self) -> None:
        super().drop()
        self._expired_to_ms.clear()

    def _fold_panes(self, part: TablePartition, columns: Columns) -> None:
        self._fold_tumbling(part, self._pane_window, columns)

    def _fold_behind(self, part: TablePartition, columns: Columns) -> None:
        """Some windows of each event may be closed: it counts in those that are open."""
        first_open = columns.closed_at
        assert first_open is not None
        panes = self._pane_window.starts_of_column(columns.times)
        keys = list(zip(panes, columns.groups, first_open, strict=True))
        deltas: dict[int, dict[Any, SplitPane]] = {}
        for (pane, group, first), state in self.spec.values.fold_columns(keys, columns.values).items():
            of = deltas.setdefault(pane, {}).setdefault(group, SplitPane())
            of[first] = state
        for pane, groups in deltas.items():
            self._merge(part, pane, groups)

    def apply_late(
        self, part: TablePartition, time_ms: int, rows: Sequence[RowKey], state: Callable[[], State]
    ) -> None:
        # Windows before the first of the rows have expired, and may still be told of by the next cut.
        (first, key), window = rows[0], self._hopping
        fresh = state()
        if first > window.oldest_start_of(time_ms):
            fresh = SplitPane({first: fresh})
        self._merge(part, window.pane_of(time_ms), {key: fresh})

    def state_in_cut(self, part: TablePartition, start: int, key: Hashable) -> Any:
        states = cut_rows(self._hopping, part).states(start, key)
        return self.spec.values.merge_all(states) if states else MISSING

    def rows(self, part: TablePartition) -> HoppingRows:
        """The windows that the checkpointed panes of a partition make."""
        return HoppingRows(self._hopping, part.store)

    def closing(
        self, part: TablePartition, before_ms: int | None, watermark_ms: int
    ) -> Iterator[tuple[int, dict[Any, Any]]]:
        rows = cut_rows(self._hopping, part)
        for start, states in rows.merged(self._ends(rows, before_ms, watermark_ms), self.spec.values):
            if states:
                yield start, states

    def closing_starts(self, part: TablePartition, before_ms: int | None, watermark_ms: int) -> list[int]:
        rows = cut_rows(self._hopping, part)
        return rows.with_rows(self._ends(rows, before_ms, watermark_ms))

    def _ends(self, rows: HoppingRows, before_ms: int | None, watermark_ms: int) -> list[int]:
        window = self._hopping
        first = None if before_ms is None else window.first_open_start(before_ms)
        return rows.starts_between(first, window.first_open_start(watermark_ms))

    def expiring(self, part: TablePartition) -> Mapping[int, list[Hashable]]:
        before_ms, to_ms = self._expired_to_ms.get(part.partition), part.expired_to_ms
        if to_ms is None or to_ms == before_ms:
            return {}
        self._expired_to_ms[part.partition] = to_ms
        return windows_gone(self._hopping, part, before_ms)


class _LatenessConsumer(AggregateConsumer):
    """What sliding windows and sessions share: of events that came later than the grace it is noted."""

    def _mark_behind(self, columns: Columns, before_ms: int | None, after_ms: int | None) -> None:
        assert after_ms is not None
        grace_ms = self.spec.window.grace_ms if self.spec.window is not None else 0
        if min(columns.times) < after_ms - grace_ms and not in_order(columns.times, before_ms):
            behind = [
                watermark_ms - grace_ms if t < watermark_ms - grace_ms else None
                for t, watermark_ms in zip(
                    columns.times, running_watermarks(columns.times, before_ms), strict=True
                )
            ]
            if any(closed_at is not None for closed_at in behind):
                columns.note_closed(behind)


class SlidingConsumer(_LatenessConsumer):
    """Folds panes of 1 ms; see `state.panes`."""

    def __init__(self, spec: AggregateSpec, window: SlidingWindow) -> None:
        super().__init__(spec, window.panes())
        self._sliding = window

    def _live(
        self, columns: Columns, before_ms: int | None, after_ms: int | None
    ) -> tuple[list[int] | None, int, int]:
        self._mark_behind(columns, before_ms, after_ms)
        return super()._live(columns, before_ms, after_ms)

    def _fold(self, part: TablePartition, columns: Columns) -> int:
        behind = columns.closed_at or [None] * len(columns.times)
        keys = list(zip(columns.times, columns.groups, behind, strict=True))
        index = None if self.spec.is_shuffled else part.indexed(PaneIndex)
        deltas: dict[int, dict[Any, dict[int | None, State]]] = {}
        for (t, group, after_ms), state in self.spec.values.fold_columns(keys, columns.values).items():
            deltas.setdefault(t, {}).setdefault(group, {})[after_ms] = state
            if index is not None:
                index.add(t, group)
        for t, groups in deltas.items():
            self._merge(part, t, groups)
        return 0

    def _note_revised(self, partition: int, columns: Columns, assumed_ms: int) -> None:
        """Where rows are owned here the windows are known; else their owner is told of the time."""
        to_ms = assumed_ms if self.spec.is_shuffled else columns.told_to_ms
        late_events = self.late_stores.get(partition)
        if to_ms is None or late_events is None:
            return
        window = self._sliding
        behind = columns.closed_at or [None] * len(columns.times)
        panes = {
            (t, group, after_ms): None
            for t, group, after_ms in zip(columns.times, columns.groups, behind, strict=True)
            if first_end_of(t, after_ms) + window.grace_ms <= to_ms
        }
        if self.spec.is_shuffled:
            for pane in panes:
                late_events.note_revised_pane(*pane, self.spec.values)
            return
        rows = self.rows(self.parts[partition])
        revised = {
            (start, group): None
            for t, group, after_ms in panes
            for start in rows.touched_by(t, group)
            if window.end_of(start) >= first_end_of(t, after_ms) and window.closed(start, to_ms)
        }
        for row in revised:
            late_events.note_revised(row, self.spec.values)

    def state_in_cut(self, part: TablePartition, start: int, key: Hashable) -> Any:
        states = self.rows(part).states(start, key)
        return self.spec.values.merge_all(states) if states else MISSING

    def rows(self, part: TablePartition, *, durable: bool = False) -> SlidingRows[Hashable]:
        """The windows of a partition where nothing moves; ``durable``: of checkpointed panes only."""
        return sliding_rows(self._sliding, part, durable=durable)

    def closing(
        self, part: TablePartition, before_ms: int | None, watermark_ms: int
    ) -> Iterator[tuple[int, dict[Any, Any]]]:
        rows = self.rows(part)
        yield from rows.merged(rows.closing(before_ms, watermark_ms), self.spec.values)

    def closing_starts(self, part: TablePartition, before_ms: int | None, watermark_ms: int) -> list[int]:
        return [start for start, _ in self.rows(part).closing(before_ms, watermark_ms)]

    def expiring(self, part: TablePartition) -> Mapping[int, list[Hashable]]:
        return {} if self.spec.is_shuffled else rows_gone(self._sliding, part)


class SessionConsumer(_LatenessConsumer):
    """Folds sessions; a row is what one session is made of, and is kept by the session's end.

    Invariant: the sessions of a group that are open by the events of its partition are apart from each
    other, so no two end together; and what those have closed ends before all that is open. Where rows move
    on to another partition the parts of a session that came behind stay apart, since the sessions of other
    partitions may join them.
    """

    def __init__(self, spec: AggregateSpec, window: SessionWindow) -> None:
        super().__init__(spec, None)
        self._session = window

    def _live(
        self, columns: Columns, before_ms: int | None, after_ms: int | None
    ) -> tuple[list[int] | None, int, int]:
        """What is late shows in `_fold`: it depends on the sessions that are there."""
        self._mark_behind(columns, before_ms, after_ms)
        if columns.wanted is None:
            return None, 0, 0
        live = [i for i, want in enumerate(columns.wanted) if want]
        filtered = len(columns.times) - len(live)
        return (live if filtered else None), 0, filtered

    def _fold(self, part: TablePartition, columns: Columns) -> int:
        behind, late, total = columns.closed_at, 0, len(columns.times)
        if behind is None:
            self._fold_in_time(part, columns)
            return 0
        # Events that came in time join only what is open, so the order among them does not matter.
        at = 0
        for index, closed_at in enumerate(behind):
            if closed_at is None:
                continue
            if index > at:
                self._fold_in_time(part, columns.select(list(range(at, index))))
            one = columns.select([index])
            if not self._fold_behind(part, one, closed_at):
                late += 1
                event = self._late(one, 0, closed_at + self._session.grace_ms)
                self.late_stores[part.partition].add([event])
            at = index + 1
        if at < total:
            self._fold_in_time(part, columns.select(list(range(at, total))))
        return late

    def _fold_in_time(self, part: TablePartition, columns: Columns) -> None:
        size_ms = self._session.size_ms
        times = columns.times
        numbers = [0] * len(times)
        found: list[tuple[Any, int, int]] = []  # (group, start, end) of what touches among these events
        newest: dict[Any, int] = {}  # group -> index in found
        for index in sorted(range(len(times)), key=times.__getitem__):
            t, group = times[index], columns.groups[index]
            number = newest.get(group)
            if number is not None and t < found[number][2]:
                found[number] = (group, found[number][1], t + size_ms)
            else:
                number = newest[group] = len(found)
                found.append((group, t, t + size_ms))
            numbers[index] = number
        states = self.spec.values.fold_columns(numbers, columns.values)
        for number, (group, start, end) in enumerate(found):
            new = Part(start, end, None, states[number])
            self._join(part, group, new, touched(part, group, start, end), columns.told_to_ms)

    def _fold_behind(self, part: TablePartition, one: Columns, closed_at: int) -> bool:
        """One event that came later than the grace. False: it is late."""
        t, group = one.times[0], one.groups[0]
        end = t + self._session.size_ms
        before = touched(part, group, t, end, closed_at)
        if not before and end <= closed_at:
            return False
        state = self.spec.values.fold_columns([0], one.values)[0]
        self._join(part, group, Part(t, end, closed_at, state), before, one.told_to_ms)
        return True

    def _join(
        self,
        part: TablePartition,
        group: Hashable,
        new: Part,
        before: list[tuple[int, SessionRow]],
        told_to_ms: int | None,
    ) -> None:
        """Makes one session of a new part and of those that it touches.

        ``told_to_ms``: what a cut holds that is closed by it was told of. `Part.told` of a row in the changes
        is what was told before them, since nobody was told of the row itself.
        """
        values, parts = self.spec.values, [new]
        told: set[tuple[int, int]] = set()
        for old_end, old in before:
            # The rows of a cut or of the store are not to be changed: copies of their states are.
            own = old_end in part.changes and group in part.changes[old_end]
            parts += old if own else [p._replace(state=values.copy(p.state)) for p in old]
            if told_to_ms is not None and not own and self._session.closed(old_end, told_to_ms):
                told.update((p.start, p.end) for p in old)
            else:
                told.update(*(p.told for p in old))
        end = max(p.end for p in parts)
        index = part.indexed(SessionIndex)
        kept = self._merged(parts) if self.spec.is_shuffled else (self._one(parts, tuple(sorted(told))),)
        for old_end, _ in before:
            if old_end != end:
                index.drop(old_end, (group,))
                self._delete(part, old_end, group)
        index.add(end, group)
        part.changes.setdefault(end, {})[group] = kept

    def _one(self, parts: list[Part], told: tuple[tuple[int, int], ...] = ()) -> Part:
        state = parts[-1].state
        for part in parts[:-1]:
            state = self.spec.values.merge(state, part.state)
        one = joined(parts, state)
        return one._replace(told=told) if told else one

    def retold(self, part: TablePartition, closed_to_ms: int) -> Iterator[tuple[int, Any, Any]]:
        for end in sorted(end for end in part.cut or () if self._session.closed(end, closed_to_ms)):
            for key, row in (part.cut or {})[end].items():
                if row is not DELETED:
                    yield end, key, row

    def told(self, stored: SessionRow) -> Sequence[tuple[int, int]]:
        return stored[0].told

    def _merged(self, parts: list[Part]) -> tuple[Part, ...]:
        """Parts that came in time as one where they touch, and those behind that came at one watermark."""
        merged = [self._one(list(s.parts)) for s in sessions_of(p for p in parts if p.after_ms is None)]
        behind: dict[tuple[int, int, int | None], Part] = {}
        for part in parts:
            if part.after_ms is not None:
                before = behind.get(part[:3])
                if before is not None:
                    part = part._replace(state=self.spec.values.merge(before.state, part.state))
                behind[part[:3]] = part
        return (*merged, *behind.values())

    @staticmethod
    def _delete(part: TablePartition, end: int, group: Hashable) -> None:
        rows = part.changes.setdefault(end, {})
        if part.below(end, group) is MISSING:
            rows.pop(group, None)  # nobody has seen it
        else:
            rows[group] = DELETED
        if not rows:
            del part.changes[end]
