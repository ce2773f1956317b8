"""A declared aggregate: folds whole columns into its rows.

`Values` is one aggregate or several by name with one state for each row; `Fold` is the consumer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, repeat
from typing import Any

from streamflow.aggregates import Aggregate
from streamflow.changelog import json_key
from streamflow.chunk import Chunk
from streamflow.codecs import checked_group_keys, field_getter, group_key, times_ms_column
from streamflow.conditions import Condition, condition
from streamflow.errors import ConfigurationError, DecodeError
from streamflow.late import EVENTS_MAX, Late, Ledger
from streamflow.progress import Progress
from streamflow.stores.base import DELETED, MISSING, NO_WINDOW
from streamflow.tables import TablePartition
from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, TumblingWindow, Window
from streamflow.windows.session import Part

RUN_EVENTS_MIN = 16
"""Shorter stretches of one window than this, on average, are folded all at once."""

State = Any
Bad = tuple[int, DecodeError]
"""(index in the chunk, why it can't be folded)"""


@dataclass(frozen=True, slots=True)
class Key:
    """``by=Key()``: rows are grouped by the message's key, and nothing moves."""


By = Key | str | Callable[[Any], Any] | None
Field = str | Callable[[Any], Any]


class Values:
    """The aggregates of one row: a single one (the row's value is its result), or several by name.

    The state of a row is the aggregate's own, or the list of all, in the order of their names.
    """

    def __init__(self, values: Aggregate | Mapping[str, Aggregate]) -> None:
        self.scalar = isinstance(values, Aggregate)
        self.names: tuple[str, ...] = ()
        if isinstance(values, Aggregate):
            self.aggregates: tuple[Aggregate, ...] = (values,)
        else:
            if not values:
                raise ConfigurationError("values= names no aggregate")
            self.names = tuple(values)
            self.aggregates = tuple(values.values())

    def fold_columns(self, groups: Sequence[Any], columns: Sequence[list[Any] | None]) -> dict[Any, State]:
        """Group -> fresh state of the rows of one stretch; ``columns`` holds one for each aggregate."""
        folded = [
            aggregate.fold_column(groups, column)
            for aggregate, column in zip(self.aggregates, columns, strict=True)
        ]
        if self.scalar:
            return folded[0]
        seen: dict[Any, None] = {}
        for states in folded:
            seen.update(dict.fromkeys(states))
        return {
            group: [
                states[group] if group in states else aggregate.initial()
                for aggregate, states in zip(self.aggregates, folded, strict=True)
            ]
            for group in seen
        }

    def copy(self, state: State) -> State:
        if self.scalar:
            return self.aggregates[0].copy(state)
        return [aggregate.copy(part) for aggregate, part in zip(self.aggregates, state, strict=True)]

    def merge(self, state: State, delta: State) -> State:
        """May change ``state``, never ``delta``."""
        if self.scalar:
            return self.aggregates[0].merge(state, delta)
        return [a.merge(s, d) for a, s, d in zip(self.aggregates, state, delta, strict=True)]

    def merge_all(self, states: Sequence[State]) -> State:
        """The merged state of at least one; changes none of them."""
        merged = self.copy(states[0])
        for state in states[1:]:
            merged = self.merge(merged, state)
        return merged

    def result(self, state: State) -> Any:
        """The row's value: the scalar's result, or name -> result."""
        if self.scalar:
            return self.aggregates[0].result(state)
        return {n: a.result(s) for n, a, s in zip(self.names, self.aggregates, state, strict=True)}

    def dump(self, state: State) -> Any:
        """JSON value of a state."""
        if self.scalar:
            return self.aggregates[0].dump(state)
        return [a.dump(s) for a, s in zip(self.aggregates, state, strict=True)]

    def load(self, data: Any) -> State:
        if self.scalar:
            return self.aggregates[0].load(data)
        return [a.load(d) for a, d in zip(self.aggregates, data, strict=True)]

    def describe(self) -> Any:
        """JSON description, to tell a changed declaration."""
        described = [a.describe() for a in self.aggregates]
        return described[0] if self.scalar else dict(zip(self.names, described, strict=True))


class PaneValues(Values):
    """What is kept of a sliding window's pane: ``after_ms`` -> state of the events that came at it.

    Such events count in windows that end after ``after_ms`` only, the others were closed when they
    came; ``None`` is for those that came within the grace, which count in every window that holds them.
    """

    def __init__(self, values: Values) -> None:
        self.scalar, self.names, self.aggregates = values.scalar, values.names, values.aggregates

    def copy(self, state: dict[int | None, State]) -> State:
        return {after_ms: super(PaneValues, self).copy(part) for after_ms, part in state.items()}

    def merge(self, state: dict[int | None, State], delta: dict[int | None, State]) -> State:
        for after_ms, part in delta.items():
            if after_ms in state:
                state[after_ms] = super().merge(state[after_ms], part)
            else:
                state[after_ms] = super().copy(part)
        return state

    def dump(self, state: dict[int | None, State]) -> Any:
        return [[after_ms, super(PaneValues, self).dump(part)] for after_ms, part in state.items()]

    def load(self, data: Any) -> State:
        return {after_ms: super(PaneValues, self).load(part) for after_ms, part in data}


class PartValues(Values):
    """What is kept of a session: its parts (see `windows.session.Part`)."""

    def __init__(self, values: Values) -> None:
        self.scalar, self.names, self.aggregates = values.scalar, values.names, values.aggregates

    def dump(self, state: tuple[Part, ...]) -> Any:
        return [[start, end, after_ms, super(PartValues, self).dump(s)] for start, end, after_ms, s in state]

    def load(self, data: Any) -> State:
        load = super().load
        return tuple(Part(start, end, after_ms, load(state)) for start, end, after_ms, state in data)


@dataclass(frozen=True, slots=True)
class FoldSpec:
    """A declared aggregate, apart from its rows.

    ``time`` is a field path, or ``None``: the decoder's. ``where`` is a function of the event or the text
    of a test (see `conditions`). ``store``: the URL of its store; empty: the setting's.
    """

    name: str
    topic: str
    by: By
    window: Window | None
    values: Values
    time: str | None = None
    where: Field | None = None
    emit_closed: str | None = None
    store: str = ""
    json_keys: bool = False  # by=Key(), where keys may be any JSON: kept like the groups of a field

    def __post_init__(self) -> None:
        if isinstance(self.where, str):
            condition(self.where)  # raises ConfigurationError, where it is declared
        taken = {"window_start", "window_end", "key", "revised"} & set(self.values.names)
        if self.emit_closed is not None and taken:
            raise ConfigurationError(f"{self.name!r}: closed rows have a {min(taken)!r} of their own")

    @property
    def consumer(self) -> str:
        return f"aggregate:{self.name}"

    @property
    def moves(self) -> bool:
        """True: rows are combined here and merged on the partition that owns their group key."""
        return not isinstance(self.by, Key)

    @property
    def grouped(self) -> bool:
        """True: rows are kept by group keys, else by record keys as they are."""
        return self.moves or self.json_keys

    @property
    def kept(self) -> Values:
        """What is kept of rows: mostly their states, else what sliding windows and sessions are made of."""
        if isinstance(self.window, SlidingWindow):
            return PaneValues(self.values)
        return PartValues(self.values) if isinstance(self.window, SessionWindow) else self.values

    def shown(self, start: int, kept: Any) -> tuple[int, int, State]:
        """(start, end, state) of the window that is kept by the id ``start``."""
        assert self.window is not None
        if isinstance(self.window, SessionWindow):
            first = min(part.start for part in kept)
            return first, start, self.values.merge_all([part.state for part in kept])
        return start, self.window.end_of(start), kept

    def describe(self) -> dict[str, Any]:
        """JSON description, to tell a changed declaration over old state."""
        by = "key" if isinstance(self.by, Key) else getattr(self.by, "__qualname__", self.by)
        window = self.window.describe() if self.window is not None else None
        return {
            "topic": self.topic,
            "by": by,
            "window": window,
            "values": self.values.describe(),
            "time": self.time,
            "where": getattr(self.where, "__qualname__", self.where),
        }


@dataclass(slots=True)
class _Columns:
    """What folding needs of each event: its group, time, whether it is wanted, and what to fold."""

    groups: list[Any]
    times: list[int]
    wanted: list[Any] | None
    values: list[list[Any] | None]
    offsets: Sequence[int]
    # Where some came later than the grace: what ends there or before was closed when the event came.
    closed_at: list[int | None] | None = None

    def select(self, indexes: list[int]) -> _Columns:
        return _Columns(
            [self.groups[i] for i in indexes],
            [self.times[i] for i in indexes],
            None if self.wanted is None else [self.wanted[i] for i in indexes],
            [None if column is None else [column[i] for i in indexes] for column in self.values],
            [self.offsets[i] for i in indexes],
            None if self.closed_at is None else [self.closed_at[i] for i in indexes],
        )


class Fold:
    """Folds the chunks of a topic into the partitions of one aggregate. Stateless but for its partitions.

    This one is for tumbling windows and none at all; `window_folds` has the others.
    """

    def __init__(self, spec: FoldSpec) -> None:
        self.spec = spec
        self.window: Any = spec.window  # what events are folded by
        self.kept = spec.kept
        self.parts: dict[int, TablePartition] = {}
        self.ledgers: dict[int, Ledger] = {}
        self._fields: list[Field | None] = [aggregate.field for aggregate in spec.values.aggregates]
        self._where = condition(spec.where) if isinstance(spec.where, str) else spec.where
        where = self._where.path if isinstance(self._where, Condition) else self._where
        wanted = [spec.by, where, spec.time, *self._fields]
        self._paths = [field for field in wanted if isinstance(field, str)]
        self._whole_events = any(callable(field) for field in wanted)
        self._getters = {path: field_getter(path) for path in self._paths}

    def paths(self) -> list[str] | None:
        """The field paths that folding needs; ``None`` if it needs whole events, for somebody's function."""
        return None if self._whole_events else self._paths

    def take(self, chunk: Chunk, progress: Progress) -> list[Bad]:
        """Folds a chunk and moves the progress past it, in one step. Returns what could not be folded.

        The watermark is that of every usable event, filtered ones included.
        """
        bad: list[Bad] = []
        if not len(chunk):
            progress.take(chunk.next_offset)
            return bad
        columns = self._columns(chunk, bad)
        total = len(columns.times)
        late = filtered = 0
        if total:
            before_ms = progress.watermark_ms
            progress.see(max(columns.times))
            live, late, filtered = self._live(columns, before_ms, progress.watermark_ms)
            if late:
                self._note_late(chunk.partition, columns, live or [], before_ms)
            if live is not None:
                columns = columns.select(live)
            if columns.times:
                late += self._fold(self.parts[chunk.partition], columns)
        counted = total - late - filtered
        progress.take(chunk.next_offset, counted=counted, late=late, filtered=filtered, bad=len(bad))
        return bad

    def _columns(self, chunk: Chunk, bad: list[Bad]) -> _Columns:
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
        times = chunk.times_ms
        if spec.time is not None:
            times, bad_times = times_ms_column(self._read(chunk, spec.time, wrong))
            wrong.update(bad_times)
        wanted = None if self._where is None else self._wanted(chunk, self._where, wrong)
        values: list[list[Any] | None] = []
        for aggregate, field in zip(spec.values.aggregates, self._fields, strict=True):
            column = None if field is None else self._read(chunk, field, wrong)
            if column is not None:
                wrong.update(aggregate.check_column(column))
                if aggregate.placed:
                    column = list(zip(times, repeat(chunk.partition), chunk.offsets, column, strict=False))
            values.append(column)
        columns = _Columns(groups, times, wanted, values, chunk.offsets)
        if not wrong:
            return columns
        bad.extend(sorted(wrong.items()))
        return columns.select([index for index in range(len(chunk)) if index not in wrong])

    def _read(self, chunk: Chunk, field: Field, wrong: dict[int, DecodeError]) -> list[Any]:
        """The column of a field path or of somebody's function; where that raises, the event is bad."""
        if isinstance(field, str):
            return chunk.column(field, self._getters[field])
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
        self, columns: _Columns, before_ms: int | None, after_ms: int | None
    ) -> tuple[list[int] | None, int, int]:
        """(indexes of the events that count or ``None`` for all, late ones, filtered ones)."""
        window, times, wanted = self.window, columns.times, columns.wanted
        assert after_ms is not None
        # Nothing is late when even the oldest event's window is open at the end of the column.
        suspect = window is not None and window.start_of(min(times)) < window.first_open_start(after_ms)
        # Nor when each event is as late as all before it, which most columns are.
        if suspect and (before_ms is None or times[0] >= before_ms) and sorted(times) == times:
            suspect = False
        if not suspect and wanted is None:
            return None, 0, 0
        marks = accumulate(times, max, initial=times[0] if before_ms is None else before_ms)
        next(marks)
        late_at: set[int] = set()
        if suspect and window is not None:
            # Only what lies further behind than the grace can be late: the rest needs one comparison.
            grace_ms = window.grace_ms
            behind = [
                (i, t, mark)
                for i, (t, mark) in enumerate(zip(times, marks, strict=True))
                if t < mark - grace_ms
            ]
            late_at = {i for i, t, mark in behind if t < window.first_open_start(mark)}
        indexes = range(len(times)) if wanted is None else [i for i, want in enumerate(wanted) if want]
        live = [i for i in indexes if i not in late_at] if late_at else list(indexes)
        late = len(indexes) - len(live)
        return (None if len(live) == len(times) else live), late, len(times) - len(indexes)

    def _note_late(self, partition: int, columns: _Columns, live: list[int], before_ms: int | None) -> None:
        """Puts what is wanted and came too late, and so is not ``live``, into the ledger."""
        marks = accumulate(columns.times, max, initial=columns.times[0] if before_ms is None else before_ms)
        next(marks)
        lived, wanted = set(live), columns.wanted
        late = [(i, mark) for i, mark in enumerate(marks) if i not in lived and (wanted is None or wanted[i])]
        skipped = max(0, len(late) - EVENTS_MAX)
        events = [self._late(columns, i, mark) for i, mark in late[skipped:]]
        self.ledgers[partition].add(events, skipped)

    def _late(self, columns: _Columns, index: int, watermark_ms: int) -> Late:
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
        return Late(t, behind_ms, offset, tuple((start, group) for start, _ in windows), values.dump(state))

    def _fold(self, part: TablePartition, columns: _Columns) -> int:
        """Folds columns into the partition's changes, one stretch of events of one window at a time.

        Returns how many were late, where only the rows can tell that (`_live` tells otherwise).
        """
        window, times = self.window, columns.times
        if window is None:
            self._fold_window(part, NO_WINDOW, columns.groups, columns.values)
            return 0
        first = window.start_of(min(times))
        if first == window.start_of(max(times)):
            self._fold_window(part, first, columns.groups, columns.values)
            return 0
        starts = window.starts_of_column(times)
        runs = [(start, len(list(run))) for start, run in groupby(starts)]
        if len(runs) * RUN_EVENTS_MIN > len(times):
            self._fold_mixed(part, starts, columns)
            return 0
        at = 0
        for start, length in runs:
            stretch = slice(at, at + length)
            values = [None if column is None else column[stretch] for column in columns.values]
            self._fold_window(part, start, columns.groups[stretch], values)
            at += length
        return 0

    def _fold_mixed(self, part: TablePartition, starts: list[int], columns: _Columns) -> None:
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

    def _merge(self, part: TablePartition, start: int, deltas: dict[Any, State]) -> None:
        """Merges fresh states into the changes; a state is copied when it is first changed after a cut."""
        values = self.kept
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

    def merge_one(self, part: TablePartition, start: int, key: Any, delta: State) -> None:
        """Merges a fresh state into one row."""
        self._merge(part, start, {key: delta})

    def closing(
        self, part: TablePartition, before_ms: int | None, watermark_ms: int
    ) -> Iterator[tuple[int, dict[Any, Any]]]:
        """What the watermark closes that ``before_ms`` did not, in order: a window's id and its rows.

        To be asked when the cut holds all changes.
        """
        window, cut = self.spec.window, part.cut or {}
        assert window is not None
        first = None if before_ms is None else window.first_open_start(before_ms)
        kept = part.store.starts()
        starts = {*kept[0 if first is None else bisect_left(kept, first) :]}
        starts.update(start for start in cut if first is None or start >= first)
        for start in sorted(starts):
            if not window.closed(start, watermark_ms):
                break
            rows = {**part.store.window(start), **cut.get(start, {})}
            rows = {key: row for key, row in rows.items() if row is not DELETED}
            if rows:
                yield start, rows

    def expiring(self, part: TablePartition) -> dict[int, list[Any]]:
        """The rows that go with the cut of a partition, by the id of their window."""
        return {start: list(part.store.window(start)) for start in part.drops}
