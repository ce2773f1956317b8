"""Tables in Faust's form whose windows the events make: sessions and sliding windows.

A window there is made of others, so its value is put together from values, by the table's ``merge``:
where an event joins two sessions, and in a sliding window from those of its panes. ``merge(old, new)``
must give what the agent would have got from all events at once; for counts, sums, texts and lists that is
``+``, for sets ``|``.
"""

from __future__ import annotations

import copy
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import reduce
from typing import Any

from streamflow.state.agent_table import AgentTable
from streamflow.state.event_context import EventContext, current_context
from streamflow.state.panes import Pane, Panes, SlidingRows, row_ids
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.session_index import _Ends
from streamflow.state.stores.base import DELETED, MISSING
from streamflow.windows import SessionWindow, SlidingWindow
from streamflow.windows.session import Part

Merge = Callable[[Any, Any], Any]


def merged(old: Any, new: Any) -> Any:
    """What most tables mean by it. Raises TypeError where there is no ``+``."""
    return old | new if isinstance(old, set | frozenset) else old + new


class MergingWindowTable(AgentTable):
    """What both share: one event is looked at as a whole, since no window is known beforehand."""

    merging = True

    def __init__(
        self, spec: TableSpec, default: Callable[[], Any] | None, *, merge: Merge | None = None, **told: Any
    ) -> None:
        self.merge = merge or merged
        super().__init__(spec, default, **told)

    def change(self, key: Any, operator: Callable[[Any, Any], Any], operand: Any) -> None:
        context = current_context.get()
        if context is None or not context.in_flight or context.stale:
            context = self.context()
        if key is not context.keys[context.position]:
            self._check_key(context, key)
        part = self.part(context)
        t = context.times[context.position]
        closed_at = None
        # What is in time at the end of the chunk is in time now; else it is worth a closer look.
        if part.open_from is not None and t < part.open_from + self._behind_ms:
            closed_at = self._closed_at(context, part)
            closed_at = None if t >= closed_at else closed_at
        if not self._change(context, part, key, operator, operand, closed_at):
            self._on_late(context, t)

    def adder(self) -> Callable[[Any, Any], Any]:
        def add(row: Any, operand: Any) -> Any:
            self.change(row.key, _plus, operand)
            return row

        return add

    def _closed_at(self, context: EventContext, part: TablePartition) -> int:
        """Windows that end here or before are closed for the event in flight."""
        window = self.window
        closed_at = context.running_watermark_ms() - window.grace_ms
        if part.expired_to_ms is not None:
            closed_at = max(closed_at, part.expired_to_ms - window.grace_ms - window.retain_ms)
        return closed_at

    @property
    def window(self) -> SessionWindow | SlidingWindow:
        raise NotImplementedError

    _behind_ms: int  # an event is in time from the first open id and so much more on

    def value_at(self, part: TablePartition, key: Any, time_ms: int, *, durable: bool = False) -> Any:
        """The key's value in the window of a time, or `MISSING`; ``durable``: as it is checkpointed."""
        raise NotImplementedError

    def set_value(self, key: Any, value: Any) -> None:
        """Sets the value of the event in flight's window. Raises TypeError where it has no single one."""
        raise NotImplementedError

    def delete(self, key: Any) -> None:
        """Takes away the row of the event in flight's window. Raises TypeError where it has no single one."""
        raise NotImplementedError

    def _change(
        self,
        context: EventContext,
        part: TablePartition,
        key: Any,
        operator: Callable[[Any, Any], Any],
        operand: Any,
        closed_at: int | None,
    ) -> bool:
        """Changes the window or pane of the event in flight. False: it is late."""
        raise NotImplementedError

    def _default(self, key: Any) -> Any:
        if self.default is None:
            raise KeyError(key)
        return self.default()

    def _merged(self, values: list[Any]) -> Any:
        try:
            return reduce(self.merge, values)
        except TypeError as exc:
            raise TypeError(
                f"table {self.spec.name!r}: values of windows can't be put together; give merge= ({exc})"
            ) from exc


class SessionTable(MergingWindowTable):
    """Rows are ``(Part,)`` of one part, and kept by the session's end."""

    _behind_ms = 0

    @property
    def window(self) -> SessionWindow:
        assert isinstance(self.spec.window, SessionWindow)
        return self.spec.window

    def _change(
        self,
        context: EventContext,
        part: TablePartition,
        key: Any,
        operator: Callable[[Any, Any], Any],
        operand: Any,
        closed_at: int | None,
    ) -> bool:
        t = context.times[context.position]
        start, end = t, t + self.window.size_ms
        touched = self._touched(part, key, start, end, closed_at)
        if not touched and closed_at is not None and end <= closed_at:
            return False
        touched.sort(key=lambda session: session.start)
        values = [copy.deepcopy(session.state) for session in touched]
        value = operator(self._merged(values) if values else self._default(key), operand)
        start = min([start, *(session.start for session in touched)])
        end = max([end, *(session.end for session in touched)])
        for session in touched:
            if session.end != end:
                part.put(context, session.end, key, DELETED)
        part.put(context, end, key, (Part(start, end, None, value),))
        ends = self._ends(part).setdefault(key, [])
        if end not in ends:
            insort(ends, end)
        return True

    def set_value(self, key: Any, value: Any) -> None:
        self.change(key, lambda _, new: new, value)

    def delete(self, key: Any) -> None:
        context = self.context()
        part = self.part(context)
        t = context.times[context.position]
        for session in self._touched(part, key, t, t + 1, None):
            part.put(context, session.end, key, DELETED)

    def _touched(
        self, part: TablePartition, key: Any, start: int, end: int, closed_at: int | None
    ) -> list[Part]:
        ends = self._ends(part).get(key)
        if not ends:
            return []
        least = start if closed_at is None or closed_at < start else closed_at
        found = []
        for old_end in ends[bisect_right(ends, least) :]:
            row = part.get(old_end, key)
            if row is not MISSING and row[0].start < end:
                found.append(row[0])
        return found

    @staticmethod
    def _ends(part: TablePartition) -> _Ends:
        if part.index is None:
            ends = part.index = _Ends()
            for end, key in row_ids(part):
                insort(ends.setdefault(key, []), end)
        found: _Ends = part.index
        return found

    def value_at(self, part: TablePartition, key: Any, time_ms: int, *, durable: bool = False) -> Any:
        ends = self._ends(part).get(key, [])
        get = part.store.get if durable else part.get
        for end in reversed(ends[bisect_right(ends, time_ms) :]):
            row = get(end, key)
            if row is not MISSING and row[0].start <= time_ms:
                return row[0].state
        return MISSING


class SlidingTable(MergingWindowTable):
    """Rows are panes of 1 ms: ``after_ms`` -> value; see `panes`."""

    def __init__(self, spec: TableSpec, default: Callable[[], Any] | None, **told: Any) -> None:
        assert isinstance(spec.window, SlidingWindow)
        self._window = spec.window
        self._behind_ms = spec.window.size_ms
        super().__init__(replace(spec, window=spec.window.panes()), default, **told)

    @property
    def window(self) -> SlidingWindow:
        return self._window

    def _change(
        self,
        context: EventContext,
        part: TablePartition,
        key: Any,
        operator: Callable[[Any, Any], Any],
        operand: Any,
        closed_at: int | None,
    ) -> bool:
        t = context.times[context.position]
        if closed_at is not None and t + self._window.size_ms <= closed_at:
            return False
        before = part.get(t, key)
        pane = {} if before is MISSING else dict(before)
        old = copy.deepcopy(pane[closed_at]) if closed_at in pane else self._default(key)
        pane[closed_at] = operator(old, operand)
        part.put(context, t, key, pane)
        self._panes(part).add(t, key)
        return True

    @staticmethod
    def _panes(part: TablePartition) -> Panes:
        if part.index is None:
            panes = part.index = Panes()
            for t, key in row_ids(part):
                panes.add(t, key)
        found: Panes = part.index
        return found

    def set_value(self, key: Any, value: Any) -> None:
        raise TypeError(f"table {self.spec.name!r}: several sliding windows hold an event; use += or apply")

    def delete(self, key: Any) -> None:
        raise TypeError(f"table {self.spec.name!r}: several sliding windows hold an event")

    def rows(self, part: TablePartition, *, durable: bool = False) -> SlidingRows:
        """The windows of a partition; ``durable``: of checkpointed panes only."""
        get = part.store.get if durable else part.get

        def lookup(t: int, key: Any) -> Iterable[Pane]:
            pane = get(t, key)
            return () if pane is MISSING else (pane,)

        return SlidingRows(self._window, self._panes(part), lookup)

    def value_of(self, states: list[Any]) -> Any:
        """The value of a window whose panes hold these, or `MISSING`."""
        return self._merged(copy.deepcopy(states)) if states else MISSING

    def value_at(self, part: TablePartition, key: Any, time_ms: int, *, durable: bool = False) -> Any:
        # That of the window which ends with it.
        return self.value_of(
            self.rows(part, durable=durable).content(time_ms - self._window.size_ms + 1, key)
        )

    def expiring(self, part: TablePartition) -> dict[int, list[Any]]:
        window, panes = self._window, self._panes(part)
        before_ms, panes.expired_to_ms = panes.expired_to_ms, part.expired_to_ms
        if part.expired_to_ms is None or before_ms == part.expired_to_ms:
            return {}
        kept_ms = window.grace_ms + window.retain_ms
        first = None if before_ms is None else before_ms - kept_ms + 1
        return dict(self.rows(part, durable=True).ending(first, part.expired_to_ms - kept_ms + 1))


def merging_table(
    spec: TableSpec, default: Callable[[], Any] | None, merge: Merge | None = None, **told: Any
) -> AgentTable:
    """A table in Faust's form, by the kind of its window."""
    codec = spec.codec
    if isinstance(spec.window, SessionWindow):
        codec = codec.mapped(lambda row, out: [row[0].start, row[0].end, out(row[0].state)], _session_in)
        return SessionTable(replace(spec, codec=codec), default, merge=merge, **told)
    if isinstance(spec.window, SlidingWindow):
        codec = codec.mapped(
            lambda pane, out: [[after_ms, out(value)] for after_ms, value in pane.items()],
            lambda data, into: {after_ms: into(value) for after_ms, value in data},
        )
        return SlidingTable(replace(spec, codec=codec), default, merge=merge, **told)
    return AgentTable(spec, default, **told)


def _session_in(data: Any, into: Callable[[Any], Any]) -> tuple[Part, ...]:
    start, end, value = data
    return (Part(start, end, None, into(value)),)


def _plus(value: Any, operand: Any) -> Any:
    return value + operand


__all__ = ["Merge", "MergingWindowTable", "SessionTable", "SlidingTable", "merged", "merging_table"]
