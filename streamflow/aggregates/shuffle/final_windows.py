"""Final stages of sessions and of sliding windows, whose rows are made of the partials of several windows.

What is kept and sent are partials; which rows they make is a pure function of all that there are, the
same in whatever order they came. Events that come later never change what that function says of
windows that are closed: the watermarks of all source partitions have passed them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

from streamflow.aggregates.row_values import State
from streamflow.aggregates.shuffle.final import Closing, Emit, FinalStage, RowId, in_order
from streamflow.aggregates.spec import AggregateSpec
from streamflow.codecs import GroupKey
from streamflow.state.panes import Pane, PaneIndex, SlidingRows
from streamflow.state.sessions import SessionIndex
from streamflow.windows import SessionWindow, SlidingWindow
from streamflow.windows.session import Part, Session, sessions_of


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
            self._panes.drop(time_ms, self._pop(time_ms))

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


class SessionFinalStage(FinalStage):
    """Partials are the sessions of each source partition; those that touch are one.

    The sessions of a group are made anew whenever one of its open partials changes. What is closed
    stays as it is and is taken out of that, which changes no result and bounds the work.
    """

    def __init__(
        self, spec: AggregateSpec, topic: str, partition: int, sources: int, emit: Emit | None = None
    ) -> None:
        super().__init__(spec, topic, partition, sources, emit)
        # group -> (id, source) of the partials that are in no closed session
        self._open: dict[GroupKey, dict[tuple[int, int], None]] = {}
        self._ends: SessionIndex[GroupKey] = SessionIndex()  # of open rows
        # end -> group -> the session; the state of each part is (id, source, state) of its partial
        self._open_rows: dict[int, dict[GroupKey, Session]] = {}
        self._closed_rows: dict[int, dict[GroupKey, Session]] = {}
        self._stale: dict[GroupKey, None] = {}  # groups whose open rows are to be made anew
        # (id, group, start) of open rows that the newest reading made part of one with other bounds
        self.moved: list[tuple[int, GroupKey, int]] = []
        self._gone: dict[RowId, int] = {}  # rows that have expired -> their start

    def _put(self, source: int, group: GroupKey, start: int, data: object) -> None:
        assert isinstance(data, list)
        parts, replaced = data
        super()._put(source, group, start, parts)
        self._open.setdefault(group, {})[start, source] = None
        self._stale[group] = None
        for old in replaced:
            self._remove(source, group, old)

    def _remove(self, source: int, group: GroupKey, start: int) -> None:
        super()._remove(source, group, start)
        mine = self._open.get(group)
        if mine is not None and (start, source) in mine:
            del mine[start, source]
            self._stale[group] = None
            if not mine:
                del self._open[group]

    def _refresh(self) -> list[RowId]:
        """Makes the open rows of stale groups anew; returns what may have changed."""
        changed: dict[RowId, None] = {}
        self.moved, self._gone = [], {}
        for group in self._stale:
            before = {end: self._open_rows[end][group].start for end in self._ends.take(group)}
            for end in before:
                changed[end, group] = None
                _take(self._open_rows, end, group)
            parts = [
                part._replace(state=(start, source, part.state))
                for start, source in self._open.get(group, ())
                for part in self.partials[start][group][source]
            ]
            sessions = sessions_of(parts)
            for session in sessions:
                changed[session.end, group] = None
                self._open_rows.setdefault(session.end, {})[group] = session
                self._ends.add(session.end, group)
            now = {(session.end, session.start) for session in sessions}
            self.moved += [(end, group, start) for end, start in before.items() if (end, start) not in now]
        self._stale = {}
        return list(changed)

    def row_count(self) -> int:
        self._refresh_for_readers()
        return sum(map(len, (*self._open_rows.values(), *self._closed_rows.values())))

    def rows_changed(self, changed: list[RowId]) -> list[RowId]:
        return self._refresh()

    def _freeze(self, end: int, group: GroupKey) -> None:
        """An open row is closed from now on: nothing joins it any more."""
        session = self._open_rows[end][group]
        _take(self._open_rows, end, group)
        self._ends.drop(end, (group,))
        self._closed_rows.setdefault(end, {})[group] = session
        mine = self._open.get(group, {})
        for start, source in _members(session):
            mine.pop((start, source), None)
        if not mine:
            self._open.pop(group, None)

    def _plan(self) -> Closing | None:
        window, low = self.spec.window, self.least_watermark_ms()
        if window is None or not self.ready or low is None:
            return None
        if self.closed_to_ms is not None and low <= self.closed_to_ms:
            return None
        self._refresh()
        closing = Closing(low)
        for end in sorted(end for end in self._open_rows if window.closed(end, low)):
            closing.rows.extend((end, group) for group in in_order(self._open_rows[end]))
        for rows in (self._closed_rows, self._open_rows):
            for end in [end for end in rows if window.expired(end, low)]:
                closing.expired.setdefault(end, []).extend(rows[end])
                for group, session in rows[end].items():
                    closing.partials.extend((start, group, source) for start, source in _members(session))
        return closing if closing.rows or closing.partials else None

    def close(self, closing: Closing) -> None:
        super().close(closing)
        for end, group in closing.rows:
            self._freeze(end, group)

    def starts_of(self, closing: Closing) -> dict[RowId, int]:
        return {
            (end, group): self.start_of(end, group)
            for end, groups in closing.expired.items()
            for group in groups
        }

    def forget(self, closing: Closing) -> None:
        for end, groups in closing.expired.items():
            for group in groups:
                self._gone[end, group] = self._closed_rows[end][group].start
                _take(self._closed_rows, end, group)
        super().forget(closing)

    def _forget_expired(self) -> None:
        """After a restore: what was closed is closed, and what has expired goes."""
        window = self.spec.window
        self._refresh()
        self._gone = {}
        if window is None or self.closed_to_ms is None:
            return
        for end in [end for end in self._open_rows if window.closed(end, self.closed_to_ms)]:
            for group in list(self._open_rows[end]):
                self._freeze(end, group)
        for end in [end for end in self._closed_rows if window.expired(end, self.closed_to_ms)]:
            for group, session in self._closed_rows.pop(end).items():
                for start, source in _members(session):
                    self._remove(source, group, start)

    def _session(self, end: int, group: GroupKey) -> Session:
        for rows in (self._open_rows, self._closed_rows):
            session = rows.get(end, {}).get(group)
            if session is not None:
                return session
        raise KeyError((end, group))

    def start_of(self, end: int, group: GroupKey) -> int:
        """Where the session began that is kept by this end, also if it has just expired."""
        try:
            return self._session(end, group).start
        except KeyError:
            return self._gone.get((end, group), end)

    def starts(self) -> list[int]:
        self._refresh_for_readers()
        return sorted({*self._open_rows, *self._closed_rows})

    def has(self, start: int, group: GroupKey) -> bool:
        self._refresh_for_readers()
        return any(group in rows.get(start, ()) for rows in (self._open_rows, self._closed_rows))

    def groups(self, start: int) -> Iterable[GroupKey]:
        self._refresh_for_readers()
        return [*self._open_rows.get(start, ()), *self._closed_rows.get(start, ())]

    def _refresh_for_readers(self) -> None:
        if self._stale:
            self._refresh()

    def state(self, start: int, group: GroupKey) -> tuple[Part, ...]:
        """What `AggregateSpec.shown` takes: the row as one part. Raises KeyError."""
        session = self._session(start, group)
        merged = self.spec.values.merge_all([part.state[2] for part in session.parts])
        return (Part(session.start, session.end, None, merged),)


def _members(session: Session) -> dict[tuple[int, int], None]:
    """(id, source) of the partials that a session is made of."""
    return dict.fromkeys(part.state[:2] for part in session.parts)


def _take(rows: dict[int, dict[GroupKey, Session]], end: int, group: GroupKey) -> None:
    del rows[end][group]
    if not rows[end]:
        del rows[end]
