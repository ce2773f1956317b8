"""Tables in Faust's form whose windows the events make: sessions and sliding windows.

A window there is made of others, so its value is put together from values, by the table's ``merge``:
where an event joins two sessions, and in a sliding window from those of its panes. ``merge(old, new)``
must give what the agent would have got from all events at once; for counts, sums, texts and lists that is
``+``, for sets ``|``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import reduce
from operator import add as operator_add
from typing import Any, Unpack

from streamflow.state.agent_table import Add, AgentTable, KeyedRow, TableHooks, described
from streamflow.state.event_context import EventContext, current_context
from streamflow.state.panes import PaneIndex, SlidingRows, rows_gone, sliding_rows
from streamflow.state.partition import BEGINNING, Spot, TablePartition, TableSpec
from streamflow.state.sessions import SessionIndex, SessionRow, session_at, touched
from streamflow.state.stores.base import DELETED, MISSING
from streamflow.windows import SessionWindow, SlidingWindow
from streamflow.windows.session import Part, joined

Merge = Callable[[Any, Any], Any]


def merged(old: Any, new: Any) -> Any:
    """What most tables mean by it. Raises TypeError where there is no ``+``."""
    return old | new if isinstance(old, set | frozenset) else old + new


class MergingWindowTable(AgentTable):
    """A table whose windows merge, as Flink calls them: which there are, only the events tell.

    So each event is looked at as a whole. Flink merges windows that an assigner made one for each event;
    here a session grows in place (`sessions`), and sliding windows are put together from panes (`panes`).
    """

    def __init__(
        self,
        spec: TableSpec,
        default: Callable[[], Any] | None,
        merge: Merge | None = None,
        **hooks: Unpack[TableHooks],
    ) -> None:
        self.merge = merge or merged
        super().__init__(spec, default, **hooks)

    def change(self, key: Hashable, operator: Callable[[Any, Any], Any], operand: object) -> None:
        context = current_context.get()
        if context is None or not context.in_flight or context.stale:
            context = self.context()
        if key is not context.keys[context.position]:
            self._check_key(context, key)
        if context.copies is not None:
            context.write_copies(self)
            context.drop_copies(self, key)
        spot = self._spot(context)
        part, t = spot.part, context.time_ms()
        closed_at = None
        if t < spot.own_from:
            closed_at = self._closed_at_own(context, spot, t)
        if not self._change(context, part, key, operator, operand, closed_at):
            self._on_late(context, t)

    def adder(self) -> Add:
        def add(row: KeyedRow, operand: object) -> KeyedRow:
            self.change(row.key, operator_add, operand)
            return row

        return add

    def _open_from(self, context: EventContext, part: TablePartition) -> int:
        """Here it is times that are in time from a point on, not windows that begin there."""
        return max(self._kept_from(part), context.time.end_ms() - self.window.grace_ms)

    def _kept_from(self, part: TablePartition) -> int:
        window = self.window
        if part.expired_to_ms is None:
            return BEGINNING
        return part.expired_to_ms - window.grace_ms - window.retain_ms

    @property
    def _grace_ms(self) -> int:
        return self.window.grace_ms

    def _closed_at_own(self, context: EventContext, spot: Spot, t: int) -> int | None:
        """`_closed_at`, or ``None`` where the event in flight, at ``t``, is in time."""
        if not spot.looked:
            in_order = context.time.behind_ms() <= self._grace_ms
            spot.look(self._kept_from(spot.part) if in_order else spot.own_from)
            if t >= spot.own_from:
                return None
        closed_at = self._closed_at(context, spot.part)
        return None if t >= closed_at else closed_at

    def _closed_at(self, context: EventContext, part: TablePartition) -> int:
        """Windows that end here or before are closed for the event in flight."""
        return max(context.running_watermark_ms() - self.window.grace_ms, self._kept_from(part))

    @property
    def window(self) -> SessionWindow | SlidingWindow:
        raise NotImplementedError

    def value_at(self, part: TablePartition, key: Hashable, time_ms: int, *, durable: bool = False) -> Any:
        """The key's value in the window of a time, or `MISSING`; ``durable``: as it is checkpointed."""
        raise NotImplementedError

    def write_for(self, context: EventContext, key: Hashable, value: object, start: int) -> None:
        raise TypeError(
            f"table {self.spec.name!r}: what was read of {key!r} was changed in place, and here the events "
            "make the windows: use table[key] += value, or apply()"
        )

    def set_value(self, key: Hashable, value: object) -> None:
        """Sets the value of the event in flight's window. Raises TypeError where it has no single one."""
        raise NotImplementedError

    def delete(self, key: Hashable) -> None:
        """Takes away the row of the event in flight's window. Raises TypeError where it has no single one."""
        raise NotImplementedError

    def _change(
        self,
        context: EventContext,
        part: TablePartition,
        key: Hashable,
        operator: Callable[[Any, Any], Any],
        operand: object,
        closed_at: int | None,
    ) -> bool:
        """Changes the window or pane of the event in flight. False: it is late."""
        raise NotImplementedError

    def _default(self, key: Hashable) -> Any:
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

    @property
    def window(self) -> SessionWindow:
        assert isinstance(self.spec.window, SessionWindow)
        return self.spec.window

    def _change(
        self,
        context: EventContext,
        part: TablePartition,
        key: Hashable,
        operator: Callable[[Any, Any], Any],
        operand: object,
        closed_at: int | None,
    ) -> bool:
        t = context.time_ms()
        end = t + self.window.size_ms
        before = touched(part, key, t, end, closed_at)
        if not before and closed_at is not None and end <= closed_at:
            return False
        if before:
            parts = [row[0] for _, row in before]
            value = operator(self._merged([copy.deepcopy(old.state) for old in parts]), operand)
            one = joined([Part(t, end, None, None), *parts], value)
        else:
            one = Part(t, end, None, operator(self._default(key), operand))
        for old_end, _ in before:
            if old_end != one.end:
                part.put(context, old_end, key, DELETED)
        part.put(context, one.end, key, (one,))
        part.indexed(SessionIndex).add(one.end, key)
        return True

    def set_value(self, key: Hashable, value: object) -> None:
        self.context().drop_copies(self, key)
        self.change(key, lambda _, new: new, value)

    def delete(self, key: Hashable) -> None:
        context = self.context()
        context.drop_copies(self, key)
        part = self.part(context)
        t = context.time_ms()
        for end, _ in touched(part, key, t, t + 1):
            part.put(context, end, key, DELETED)

    def value_at(self, part: TablePartition, key: Hashable, time_ms: int, *, durable: bool = False) -> Any:
        row = session_at(part, key, time_ms, part.store.get if durable else part.get)
        return MISSING if row is None else row[0].state


class SlidingTable(MergingWindowTable):
    """Rows are panes of 1 ms; see `panes`."""

    def __init__(
        self,
        spec: TableSpec,
        default: Callable[[], Any] | None,
        merge: Merge | None = None,
        **hooks: Unpack[TableHooks],
    ) -> None:
        assert isinstance(spec.window, SlidingWindow)
        self._window = spec.window
        super().__init__(replace(spec, window=spec.window.panes()), default, merge, **hooks)

    @property
    def window(self) -> SlidingWindow:
        return self._window

    def describe(self) -> dict[str, Any]:
        return {"window": described(self._window)}

    def _change(
        self,
        context: EventContext,
        part: TablePartition,
        key: Hashable,
        operator: Callable[[Any, Any], Any],
        operand: object,
        closed_at: int | None,
    ) -> bool:
        t = context.time_ms()
        if closed_at is not None and t + self._window.size_ms <= closed_at:
            return False
        before = part.get(t, key)
        pane = {} if before is MISSING else dict(before)
        old = copy.deepcopy(pane[closed_at]) if closed_at in pane else self._default(key)
        pane[closed_at] = operator(old, operand)
        part.put(context, t, key, pane)
        part.indexed(PaneIndex).add(t, key)
        return True

    def set_value(self, key: Hashable, value: object) -> None:
        raise TypeError(f"table {self.spec.name!r}: several sliding windows hold an event; use += or apply")

    def delete(self, key: Hashable) -> None:
        raise TypeError(f"table {self.spec.name!r}: several sliding windows hold an event")

    def rows(self, part: TablePartition, *, durable: bool = False) -> SlidingRows[Hashable]:
        """The windows of a partition; ``durable``: of checkpointed panes only."""
        return sliding_rows(self._window, part, durable=durable)

    def value_of(self, states: list[Any]) -> Any:
        """The value of a window whose panes hold these, or `MISSING`."""
        return self._merged(copy.deepcopy(states)) if states else MISSING

    def value_at(self, part: TablePartition, key: Hashable, time_ms: int, *, durable: bool = False) -> Any:
        # That of the window which ends with it.
        return self.value_of(
            self.rows(part, durable=durable).content(time_ms - self._window.size_ms + 1, key)
        )

    def expiring(self, part: TablePartition) -> dict[int, list[Hashable]]:
        """Start -> keys of the windows that go with the cut of a partition."""
        return rows_gone(self._window, part)


def merging_table(
    spec: TableSpec,
    default: Callable[[], Any] | None,
    merge: Merge | None = None,
    **hooks: Unpack[TableHooks],
) -> AgentTable:
    """A table in Faust's form, by the kind of its window."""
    codec = spec.codec
    if isinstance(spec.window, SessionWindow):
        codec = codec.mapped(lambda row, out: [row[0].start, row[0].end, out(row[0].state)], _session_in)
        return SessionTable(replace(spec, codec=codec), default, merge, **hooks)
    if isinstance(spec.window, SlidingWindow):
        codec = codec.mapped(
            lambda pane, out: [[after_ms, out(value)] for after_ms, value in pane.items()],
            lambda data, into: {after_ms: into(value) for after_ms, value in data},
        )
        return SlidingTable(replace(spec, codec=codec), default, merge, **hooks)
    return AgentTable(spec, default, **hooks)


def _session_in(data: tuple[int, int, Any], into: Callable[[Any], Any]) -> SessionRow:
    start, end, value = data
    return (Part(start, end, None, into(value)),)
