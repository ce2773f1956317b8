"""A declared aggregate: folds whole columns into its rows.

`RowFunctions` is one aggregate function or several by name, with one state for each row;
`AggregateConsumer` is what takes the chunks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, groupby, repeat
from typing import Any

from streamflow.aggregates.field_watch import FieldUse, FieldWatch
from streamflow.aggregates.functions.base import Bad, Field
from streamflow.aggregates.late_events import EVENTS_MAX, Late, LateEventStore, RowKey
from streamflow.aggregates.row_values import State
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.aggregates.where import Condition, condition
from streamflow.codecs import checked_group_keys, field_getter, group_key, times_ms_column
from streamflow.codecs.chunk import Chunk
from streamflow.codecs.times import TimeChecks, TimeField, check_stamped, numbers_as_ms
from streamflow.errors import DecodeError
from streamflow.state.changelog import json_key
from streamflow.state.partition import TablePartition
from streamflow.state.progress import Progress
from streamflow.state.stores.base import DELETED, MISSING, NO_WINDOW
from streamflow.windows import HoppingWindow, SessionWindow, TumblingWindow

FixedWindow = TumblingWindow | HoppingWindow
"""Windows that begin at fixed times, whatever the events."""
RUN_EVENTS_MIN = 16
"""Shorter stretches of one window than this, on average, are folded all at once."""


@dataclass(slots=True)
class Columns:
    """What folding needs of each event: its group, time, whether it is wanted, and what to fold."""

    groups: list[Any]
    times: list[int]
    wanted: list[Any] | None
    values: list[list[Any] | None]
    offsets: Sequence[int]
    # Where some came later than the grace: what ends there or before was closed when the event came.
    closed_at: list[int | None] | None = None
    # Up to here windows were closed and told of. Silence may have closed more than the events here did.
    told_to_ms: int | None = None

    def note_closed(self, closed_at: list[int | None]) -> None:
        """Some came later than the grace: what was closed by then is noted beside each event."""
        self.closed_at = closed_at

    def select(self, indexes: list[int]) -> Columns:
        return Columns(
            [self.groups[i] for i in indexes],
            [self.times[i] for i in indexes],
            None if self.wanted is None else [self.wanted[i] for i in indexes],
            [None if column is None else [column[i] for i in indexes] for column in self.values],
            [self.offsets[i] for i in indexes],
            None if self.closed_at is None else [self.closed_at[i] for i in indexes],
            self.told_to_ms,
        )


class AggregateConsumer:
    """Folds the chunks of a topic into the partitions of one aggregate. Stateless but for its partitions.

    This one is for tumbling windows and none at all; `windowed_fold` has the others.
    """

    def __init__(self, spec: AggregateSpec, window: FixedWindow | None) -> None:
        """``window`` is what events are folded by; ``None``: there is none, or the events make it."""
        self.spec = spec
        self.window = window
        self.stored = spec.stored
        self.parts: dict[int, TablePartition] = {}
        self.late_stores: dict[int, LateEventStore] = {}
        self._fields: list[Field | None] = [function.field for function in spec.values.functions]
        self._where = condition(spec.where) if isinstance(spec.where, str) else spec.where
        where = self._where.path if isinstance(self._where, Condition) else self._where
        time = spec.time.path if isinstance(spec.time, TimeField) else spec.time
        wanted = [spec.by, where, time, *self._fields]
        self._paths = [field for field in wanted if isinstance(field, str)]
        self._whole_events = any(callable(field) for field in wanted)
        self._getters = {path: field_getter(path) for path in self._paths}
        self._uses: Sequence[FieldUse] = ()
        self._watch = self.new_watch()

    def watch(self, uses: Sequence[FieldUse]) -> None:
        """These fields may be in no event at all: where the first ones have none, it is told."""
        self._uses = uses
        self._watch = self.new_watch()

    def new_watch(self) -> FieldWatch:
        """For another look at the same fields."""
        return FieldWatch(self.spec.name, self.spec.topic, self._uses)

    def column(self, chunk: Chunk, path: str) -> list[Any]:
        """The values of one of its fields."""
        return chunk.column(path, self._getters[path])

    def paths(self) -> list[str] | None:
        """The field paths that folding needs; ``None`` if it needs whole events, for somebody's function."""
        return None if self._whole_events else self._paths

    def hold(self, part: TablePartition, late_store: LateEventStore | None) -> None:
        """One of its partitions is this worker's, with the rows that are durable."""
        if late_store is not None:
            late_store.committed()
            self.late_stores[part.partition] = late_store
        self.parts[part.partition] = part

    def drop(self) -> None:
        """The partitions are gone."""
        self.parts.clear()
        self.late_stores.clear()

    def take(self, chunk: Chunk, progress: Progress, checks: TimeChecks) -> list[Bad]:
        """Folds a chunk and moves the progress past it, in one step. Returns what could not be folded.

        The watermark is that of every usable event, filtered ones included.
        """
        bad: list[Bad] = []
        if not len(chunk):
            progress.take(chunk.next_offset)
            return bad
        columns = replace(self._columns(chunk, checks, bad), told_to_ms=progress.closed_to_ms)
        if self._watch.unseen:
            self._watch.look(len(chunk), partial(self.column, chunk))
        total = len(columns.times)
        late = filtered = 0
        if total:
            before_ms, assumed_ms = self.passed_ms(progress), progress.watermark_ms
            progress.see(max(columns.times))
            live, late, filtered = self._live(columns, before_ms, self.passed_ms(progress))
            if late:
                self._note_late(chunk.partition, columns, live or [], before_ms)
            if live is not None:
                columns = columns.select(live)
            if columns.times:
                late += self._fold(self.parts[chunk.partition], columns)
                if assumed_ms is not None and assumed_ms != before_ms:
                    self._note_revised(chunk.partition, columns, assumed_ms)
        counted = total - late - filtered
        progress.take(chunk.next_offset, counted=counted, late=late, filtered=filtered, bad=len(bad))
        return bad

    def passed_ms(self, progress: Progress) -> int | None:
        """The watermark by which events are late that come now; see `Progress.passed_ms`."""
        window = self.spec.window
        return progress.watermark_ms if window is None else progress.passed_ms(window.retain_ms)

    def _note_revised(self, partition: int, columns: Columns, assumed_ms: int) -> None:
        """Events that are not late have gone to windows that only silence closed: their rows are revised."""
        window, late_events = self.spec.window, self.late_stores.get(partition)
        if not isinstance(window, TumblingWindow | HoppingWindow) or late_events is None:
            return
        first_open = window.first_open_start(assumed_ms)
        least = columns.closed_at or [None] * len(columns.times)
        rows = {
            (start, group): None
            for t, group, first in zip(columns.times, columns.groups, least, strict=True)
            for start, _ in window.windows_of(t)
            if start < first_open and (first is None or start >= first)
        }
        for row in rows:
            late_events.note_revised(row, self.spec.values)

    def _columns(self, chunk: Chunk, checks: TimeChecks, bad: list[Bad]) -> Columns:
        """Everything that folding needs; events that lack it are left out, with the reason in ``bad``."""
        wrong: dict[int, DecodeError] = {}
        spec = self.spec
        if isinstance(spec.by, Key):
            groups = chunk.keys
            if None in groups:
                for index, key in enumerate(groups):
                    if key is None:
                        wrong[index] = DecodeError(
                            "bad-key", "the record has no key to group by", field="key"
                        )
            if spec.json_keys:
                groups = list(map(json_key, groups))
        elif spec.by is None:
            groups = [group_key(None)] * len(chunk)
        else:
            groups, bad_groups = checked_group_keys(spec.by, self._read(chunk, spec.by, wrong))
            wrong.update(bad_groups)
        times = self._times(chunk, checks, wrong)
        wanted = None if self._where is None else self._wanted(chunk, self._where, wrong)
        values: list[list[Any] | None] = []
        for function, field in zip(spec.values.functions, self._fields, strict=True):
            column = None if field is None else self._read(chunk, field, wrong)
            if column is not None:
                wrong.update(function.check_column(column))
                if function.placed:
                    column = list(zip(times, repeat(chunk.partition), chunk.offsets, column, strict=False))
            values.append(column)
        columns = Columns(groups, times, wanted, values, chunk.offsets)
        if not wrong:
            return columns
        bad.extend(sorted(wrong.items()))
        return columns.select([index for index in range(len(chunk)) if index not in wrong])

    def _times(self, chunk: Chunk, checks: TimeChecks, wrong: dict[int, DecodeError]) -> list[int]:
        """The event times, all of them checked."""
        times, name = self.read_times(chunk, wrong)
        if name is None:
            check_stamped(times, chunk.timestamps_ms, wrong)
        else:
            checks.check_column(chunk.topic, times, chunk.timestamps_ms, wrong, name)
        return times

    def read_times(self, chunk: Chunk, wrong: dict[int, DecodeError]) -> tuple[list[int], str | None]:
        """(the event times as they are, the field or function that tells them if it isn't the decoder)."""
        time = self.spec.time
        if time is None:
            return chunk.times_ms, None
        if isinstance(time, TimeField):
            name = time.path
            values: Sequence[Any] = numbers_as_ms(self._read(chunk, name, wrong), time.unit)
        else:
            name = time if isinstance(time, str) else getattr(time, "__qualname__", repr(time))
            values = self._read(chunk, time, wrong)
        times, bad_times = times_ms_column(values, name)
        for index, error in bad_times:
            wrong.setdefault(index, error)
        return times, name

    def _read(self, chunk: Chunk, field: Field, wrong: dict[int, DecodeError]) -> list[Any]:
        """The column of a field path or of somebody's function; where that raises, the event is bad."""
        if isinstance(field, str):
            return self.column(chunk, field)
        assert chunk.events is not None
        column: list[Any] = []
        for index, event in enumerate(chunk.events):
            try:
                column.append(field(event))
            except Exception as exc:  # noqa: BLE001 - the user's function may raise anything
                name = getattr(field, "__qualname__", repr(field))
                wrong[index] = DecodeError("agent-failed", f"{name} raised {type(exc).__name__}: {exc}")
                column.append(None)
        return column

    def _wanted(
        self, chunk: Chunk, where: Condition | Callable[[Any], Any], wrong: dict[int, DecodeError]
    ) -> list[Any]:
        if isinstance(where, Condition):
            return where.column(self._read(chunk, where.path, wrong))
        return self._read(chunk, where, wrong)

    def _live(
        self, columns: Columns, before_ms: int | None, after_ms: int | None
    ) -> tuple[list[int] | None, int, int]:
        """(indexes of the events that count or ``None`` for all, late ones, filtered ones)."""
        window, times, wanted = self.window, columns.times, columns.wanted
        assert after_ms is not None
        # Nothing is late when even the oldest event's window is open at the end of the column.
        suspect = window is not None and window.start_of(min(times)) < window.first_open_start(after_ms)
        # Nor when each event is as late as all before it, which most columns are.
        if suspect and in_order(times, before_ms):
            suspect = False
        if not suspect and wanted is None:
            return None, 0, 0
        running = running_watermarks(times, before_ms)
        late_at: set[int] = set()
        if suspect and window is not None:
            # Only what lies further behind than the grace can be late: the rest needs one comparison.
            grace_ms, of_ms, first_open = window.grace_ms, 0, window.first_open_start(0)
            for i, (t, watermark_ms) in enumerate(zip(times, running, strict=True)):
                if t < watermark_ms - grace_ms:
                    if watermark_ms != of_ms:  # it moves on now and then
                        of_ms, first_open = watermark_ms, window.first_open_start(watermark_ms)
                    if t < first_open:
                        late_at.add(i)
        indexes = range(len(times)) if wanted is None else [i for i, want in enumerate(wanted) if want]
        live = [i for i in indexes if i not in late_at] if late_at else list(indexes)
        late = len(indexes) - len(live)
        return (None if len(live) == len(times) else live), late, len(times) - len(indexes)

    def _note_late(self, partition: int, columns: Columns, live: list[int], before_ms: int | None) -> None:
        """Puts what is wanted and came too late, and so is not ``live``, into the late-event store."""
        lived, wanted = set(live), columns.wanted
        late = [
            (i, watermark_ms)
            for i, watermark_ms in enumerate(running_watermarks(columns.times, before_ms))
            if i not in lived and (wanted is None or wanted[i])
        ]
        skipped = max(0, len(late) - EVENTS_MAX)
        events = [self._late(columns, *one) for one in late[skipped:]]
        self.late_stores[partition].add(events, skipped)

    def _late(self, columns: Columns, index: int, watermark_ms: int) -> Late:
        """The late event at ``index``, that came when the watermark stood there."""
        window, values, t = self.spec.window, self.spec.values, columns.times[index]
        assert window is not None
        group, windows = columns.groups[index], window.windows_of(t)
        behind_ms = watermark_ms - window.last_end_of(t) - window.grace_ms
        offset = columns.offsets[index]
        if not isinstance(window, TumblingWindow | HoppingWindow):
            row = windows[0][1] if isinstance(window, SessionWindow) else t
            return Late(t, behind_ms, offset, ((row, group),), None)
        state = values.fold_columns([0], [None if c is None else [c[index]] for c in columns.values])[0]
        return Late(t, behind_ms, offset, ((windows[0][0], group),), values.dump(state))

    def _fold(self, part: TablePartition, columns: Columns) -> int:
        """Folds columns into the partition's changes, one stretch of events of one window at a time.

        Returns how many were late, where only the rows can tell that (`_live` tells otherwise).
        """
        window = self.window
        if window is None:
            self._fold_window(part, NO_WINDOW, columns.groups, columns.values)
            return 0
        assert isinstance(window, TumblingWindow)
        self._fold_tumbling(part, window, columns)
        return 0

    def _fold_tumbling(self, part: TablePartition, window: TumblingWindow, columns: Columns) -> None:
        """Folds columns whose rows are kept by windows side by side."""
        times = columns.times
        first = window.start_of(min(times))
        if first == window.start_of(max(times)):
            self._fold_window(part, first, columns.groups, columns.values)
            return
        starts = window.starts_of_column(times)
        runs = [(start, len(list(run))) for start, run in groupby(starts)]
        if len(runs) * RUN_EVENTS_MIN > len(times):
            self._fold_mixed(part, starts, columns)
            return
        at = 0
        for start, length in runs:
            stretch = slice(at, at + length)
            values = [None if column is None else column[stretch] for column in columns.values]
            self._fold_window(part, start, columns.groups[stretch], values)
            at += length

    def _fold_mixed(self, part: TablePartition, starts: list[int], columns: Columns) -> None:
        """Disorder: groups by window and group at once."""
        folded = self.spec.values.fold_columns(list(zip(starts, columns.groups, strict=True)), columns.values)
        by_start: dict[int, dict[Any, State]] = {}
        for (start, group), delta in folded.items():
            by_start.setdefault(start, {})[group] = delta
        for start, deltas in by_start.items():
            self._merge(part, start, deltas)

    def _fold_window(
        self, part: TablePartition, start: int, groups: list[Any], columns: list[list[Any] | None]
    ) -> None:
        self._merge(part, start, self.spec.values.fold_columns(groups, columns))

    def _merge(self, part: TablePartition, start: int, deltas: Mapping[Any, State]) -> None:
        """Merges fresh states into the changes; a state is copied when it is first changed after a cut."""
        values = self.stored
        rows = part.changes.get(start)
        if rows is None:
            rows = part.changes[start] = {}
        for group, delta in deltas.items():
            state = rows.get(group, MISSING)
            if state is MISSING:
                below = part.below(start, group)
                rows[group] = delta if below is MISSING else values.merge(values.copy(below), delta)
            else:
                rows[group] = values.merge(state, delta)

    def merge_one(self, part: TablePartition, start: int, key: Hashable, delta: State) -> None:
        """Merges a fresh state into one row."""
        self._merge(part, start, {key: delta})

    def apply_late(
        self, part: TablePartition, time_ms: int, rows: Sequence[RowKey], state: Callable[[], State]
    ) -> None:
        """Folds a late event of this time into its rows; ``state`` makes a fresh one of it alone."""
        for start, key in rows:
            self.merge_one(part, start, key, state())

    def state_in_cut(self, part: TablePartition, start: int, key: Hashable) -> Any:
        """The state of a row that the cut changes, or `MISSING`."""
        state = (part.cut or {}).get(start, {}).get(key, MISSING)
        return MISSING if state is DELETED else state

    def retold(self, part: TablePartition, closed_to_ms: int) -> Iterator[tuple[int, Any, Any]]:
        """Id, key and row of what the cut changes among windows that were closed before it.

        Of windows that begin at fixed times, and of sliding ones, `revisions` notes these.
        """
        return iter(())

    def told(self, stored: Any) -> Sequence[tuple[int, int]]:
        """(start, end) of the rows that were told of, and that this one takes the place of."""
        return ()

    def closing(
        self, part: TablePartition, before_ms: int | None, watermark_ms: int
    ) -> Iterator[tuple[int, dict[Any, Any]]]:
        """What the watermark closes that ``before_ms`` did not, in order: a window's id and its rows.

        To be asked when the cut holds all changes.
        """
        for start, cut in self._closing(part, before_ms, watermark_ms):
            rows = {**part.store.window(start), **cut}
            rows = {key: row for key, row in rows.items() if row is not DELETED}
            if rows:
                yield start, rows

    def closing_starts(self, part: TablePartition, before_ms: int | None, watermark_ms: int) -> list[int]:
        """The ids of the windows of `closing`: for who does not need their rows."""
        return [
            start
            for start, cut in self._closing(part, before_ms, watermark_ms)
            if any(row is not DELETED for row in cut.values())
            or any(cut.get(key) is not DELETED for key in part.store.window(start))
        ]

    def _closing(
        self, part: TablePartition, before_ms: int | None, watermark_ms: int
    ) -> Iterator[tuple[int, Mapping[Any, Any]]]:
        """The id of each window that there may be among those of `closing`, and what the cut has of it."""
        window, cut = self.spec.window, part.cut or {}
        assert window is not None
        first = None if before_ms is None else window.first_open_start(before_ms)
        kept = part.store.starts()
        starts = {*kept[0 if first is None else bisect_left(kept, first) :]}
        starts.update(start for start in cut if first is None or start >= first)
        for start in sorted(starts):
            if not window.closed(start, watermark_ms):
                return
            yield start, cut.get(start, {})

    def expiring(self, part: TablePartition) -> Mapping[int, list[Any]]:
        """The rows that go with the cut of a partition, by the id of their window. Asked once for each."""
        return {start: list(part.store.window(start)) for start in part.drops}


def in_order(times: list[int], before_ms: int | None) -> bool:
    """Is each event as late as all before it?"""
    return (before_ms is None or times[0] >= before_ms) and sorted(times) == times


def running_watermarks(times: list[int], before_ms: int | None) -> Iterator[int]:
    """The watermark as of each event, that event included."""
    running = accumulate(times, max, initial=times[0] if before_ms is None else before_ms)
    next(running)
    return running
