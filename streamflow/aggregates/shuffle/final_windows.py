"""The final stage of sliding windows, whose rows are made of panes, and which stage an aggregate has.

What is kept and sent are panes; which rows they make is a pure function of all that there are, the same in
whatever order they came. Events that come later never change what that function says of closed windows: the
watermarks of all source partitions have passed them. Where silence alone had raised a watermark, its
partition notes the times of what it brings in order all the same, and the windows that hold them are told of
anew (see `revisions`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

from streamflow.aggregates.row_values import State
from streamflow.aggregates.shuffle.final import Closing, Emit, FinalStage, RowId, in_order
from streamflow.aggregates.shuffle.session_stage import SessionFinalStage
from streamflow.aggregates.spec import AggregateSpec
from streamflow.codecs import GroupKey
from streamflow.state.panes import Pane, PaneIndex, SlidingRows, first_end_of
from streamflow.windows import SessionWindow, SlidingWindow


def make_stage(
    spec: AggregateSpec, topic: str, partition: int, sources: int, emit: Emit | None = None
) -> FinalStage:
    """The final stage of a declared aggregate, by the kind of its window."""
    kind: type[FinalStage] = FinalStage
    if isinstance(spec.window, SlidingWindow):
        kind = SlidingFinalStage
    elif isinstance(spec.window, SessionWindow):
        kind = SessionFinalStage
    return kind(spec, topic, partition, sources, emit)


class SlidingFinalStage(FinalStage):
    """Partials are panes; windows are put together where somebody reads or closes them."""

    def __init__(
        self, spec: AggregateSpec, topic: str, partition: int, sources: int, emit: Emit | None = None
    ) -> None:
        super().__init__(spec, topic, partition, sources, emit)
        assert isinstance(spec.window, SlidingWindow)
        self._window = spec.window
        self._pane_window = spec.window.panes()
        self._panes: PaneIndex[GroupKey] = PaneIndex()
        self._rows = SlidingRows(spec.window, self._panes, self._lookup)

    def _lookup(self, time_ms: int, group: GroupKey) -> Iterable[Pane]:
        return self.partials.get(time_ms, {}).get(group, {}).values()

    def _put(self, source: int, group: GroupKey, start: int, data: object) -> None:
        super()._put(source, group, start, data)
        self._panes.add(start, group)

    def _remove(self, source: int, group: GroupKey, start: int) -> None:
        super()._remove(source, group, start)
        if group not in self.partials.get(start, ()):
            self._panes.drop(start, [group])

    def _plan(self) -> Closing | None:
        window, low, before = self.spec.window, self.least_watermark_ms(), self.closed_to_ms
        if window is None or not self.ready or low is None or (before is not None and low <= before):
            return None
        closing = Closing(
            low,
            rows=[
                (start, group)
                for start, groups in self._rows.closing(before, low)
                for group in in_order(groups)
            ],
            expired=dict(self._rows.expiring(before, low)),
            partials=[
                (time_ms, group, source)
                for time_ms in self._panes.before(self._pane_window.first_kept_start(low))
                for group, of in self.partials[time_ms].items()
                for source in of
            ],
        )
        return closing if closing.rows or closing.expired or closing.partials else None

    def _states_of(self, closing: Closing) -> Iterator[tuple[int, GroupKey, State]]:
        windows = [
            (start, [group for _, group in rows]) for start, rows in groupby(closing.rows, key=itemgetter(0))
        ]
        for start, states in self._rows.merged(windows, self.spec.values):
            for group, state in states.items():
                yield start, group, state

    def _forget_expired(self) -> None:
        if self.closed_to_ms is None:
            return
        for time_ms in self._panes.before(self._pane_window.first_kept_start(self.closed_to_ms)):
            groups = self._pop(time_ms)
            self._panes.drop(time_ms, groups)
            for group in groups:
                self.corrections.forget((time_ms, group))

    # Corrections are of times here, not of windows: each is told of with all closed windows that hold it.

    def _first_end(self, time_ms: int, group: GroupKey) -> int:
        """Where the first window ends that the correction of a time is about."""
        panes = self.partials.get(time_ms, {}).get(group, {})
        after = [after_ms for source, pane in panes.items() if source < 0 for after_ms in pane]
        return first_end_of(time_ms, None if None in after or not after else min(after))

    def _reached(self, to_ms: int | None) -> list[RowId]:
        """Time and group of corrections that nobody was told of, about what is closed by then."""
        if to_ms is None:
            return []
        grace_ms = self._window.grace_ms
        return [row for row in self.corrections.unannounced() if self._first_end(*row) + grace_ms <= to_ms]

    def _unannounced(self) -> list[RowId]:
        return self._reached(self.closed_to_ms) if self.ready else []

    def _retold(self, noted: list[RowId]) -> list[RowId]:
        rows = {
            (start, group)
            for time_ms, group in noted
            for start in self._rows.touched_by(time_ms, group)
            if self._window.end_of(start) >= self._first_end(time_ms, group)
            and self.is_closed(start)
            and self.has(start, group)
        }
        starts = sorted({start for start, _ in rows})
        return [(s, group) for s in starts for group in in_order(g for start, g in rows if start == s)]

    def _announced_by(self, closing: Closing) -> list[RowId]:
        noted = set(self._reached(self.closed_to_ms))
        return [row for row in self._reached(closing.closed_to_ms) if row not in noted]

    def is_revised(self, start: int, group: GroupKey) -> bool:
        end = self._window.end_of(start)
        return any(
            (time_ms, group) in self.corrections and self._first_end(time_ms, group) <= end
            for time_ms in self._panes.each_of(group, start, end)
        )

    def starts(self) -> list[int]:
        return self._rows.starts(self.first_kept())

    def first_kept(self) -> int | None:
        """Panes outlive the first of the windows that they are part of."""
        window = self.spec.window
        assert window is not None
        return None if self.closed_to_ms is None else window.first_kept_start(self.closed_to_ms)

    def next_start(self, start: int | None, *, descending: bool = False) -> int | None:
        return self._rows.next_start(start, descending=descending)

    def has(self, start: int, group: GroupKey) -> bool:
        kept = self.first_kept()
        return (kept is None or start >= kept) and self._rows.is_there(start, group)

    def all_groups(self) -> Iterable[GroupKey]:
        return self._panes.groups()

    def starts_of_group(self, group: GroupKey) -> list[int]:
        kept = self.first_kept()
        return [start for start in self._rows.starts_of(group) if kept is None or start >= kept]

    def groups(self, start: int) -> Iterable[GroupKey]:
        kept = self.first_kept()
        return self._rows.groups_at(start) if kept is None or start >= kept else ()

    def state(self, start: int, group: GroupKey) -> Any:
        """The merged state of a row. Raises KeyError."""
        states, kept = self._rows.states(start, group), self.first_kept()
        if not states or (kept is not None and start < kept):
            raise KeyError((start, group))
        return self.spec.values.merge_all(states)

    def row_count(self) -> int:
        return self._rows.count(self.first_kept())

    @property
    def pane_count(self) -> int:
        """How many panes there are, those of all sources as one."""
        return self._count

    def count_some(self, group: GroupKey, from_ms: int | None, most: int) -> tuple[int, int | None]:
        """See `SlidingRows.count_some`."""
        return self._rows.count_some(group, self.first_kept(), from_ms, most)

    def rows_changed(self, changed: list[RowId]) -> list[RowId]:
        touched = {
            (start, group): None
            for time_ms, group in changed
            for start in self._rows.touched_by(time_ms, group)
        }
        return list(touched)
