"""Tables by windows: each key stands for its rows in the windows of a time.

Which time is the table's to choose: that of the event in flight (as it is, or `relative_to_stream`), now, a
field of the event, or a fixed one. Outside of events it is now.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Unpack, cast

from faust.streams import current_event
from faust.types import EventT, FieldDescriptorT
from faust.utils import iso8601
from faust.utils.terminal.tables import dict_as_ansitable
from msgspec import Struct

from streamflow.app.interface import Recovered
from streamflow.app.options import AnsiTableOptions
from streamflow.app.tables.base import Collection, WindowClosed
from streamflow.errors import ConfigurationError
from streamflow.state.agent_table import AgentTable
from streamflow.state.event_context import current_context
from streamflow.state.merging_table import MergingWindowTable
from streamflow.state.stores.base import DELETED, MISSING
from streamflow.windows import SessionWindow, SlidingWindow, Window

Seconds = float | timedelta
Time = float | datetime | str
"""Epoch seconds, a datetime or its ISO text."""
Clock = Callable[[Any], Time]
"""The time of an event of Faust's, or of ``None``."""


class WindowedTable:
    """A table by windows: each key stands for the rows of the windows that hold the event in flight.

    To be made by `windowed`.
    """

    __slots__ = ("clock", "key_index", "row_type", "table")

    def __init__(
        self, table: Collection, row_type: type[WindowedRow], clock: Clock | None, key_index: bool
    ) -> None:
        self.table = table
        self.row_type = row_type
        self.clock = clock  # None: the time of the event in flight
        self.key_index = key_index

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def window(self) -> Window:
        assert self.table.window is not None
        return self.table.window

    # -- which time ------------------------------------------------------------------------------

    def relative_to(self, time: Time | Clock | FieldDescriptorT[Any]) -> WindowedTable:
        """The same table by another time: a datetime, epoch seconds, a model's field, or a function."""
        if isinstance(time, int | float | datetime):
            return self._by(lambda _: time)
        if isinstance(time, FieldDescriptorT):
            return self.relative_to_field(time)
        return self._by(cast("Clock", time))

    def relative_to_now(self) -> WindowedTable:
        """The same table by the wall clock."""
        return self._by(lambda _: self.table.now_ms() / 1_000)

    def relative_to_stream(self) -> WindowedTable:
        """The same table by the time of the event in flight; what it is without saying so."""
        return windowed(self.table, self.row_type, key_index=self.key_index)

    def relative_to_field(self, field: FieldDescriptorT[Any]) -> WindowedTable:
        """The same table by a field of the event's model: epoch seconds, a datetime or its ISO text."""
        return self._by(lambda event: field.getattr(_value_of(event)))

    def clone(self, relative_to: Time | Clock | FieldDescriptorT[Any]) -> WindowedTable:
        return self.relative_to(relative_to)

    def _by(self, clock: Clock) -> WindowedTable:
        if isinstance(self.window, SessionWindow | SlidingWindow):
            raise ConfigurationError(
                f"table {self.name!r}: a session or a sliding window has no other time than its events'"
            )
        self.table.use_own_time()
        return windowed(self.table, self.row_type, clock, key_index=self.key_index)

    def time_ms(self, event: EventT[Any] | None = None) -> int:
        """The time whose windows are meant now, or for an event of Faust's.

        Raises DecodeError for a time that no event may have either: it would end all other windows.
        """
        if self.clock is not None:
            time_ms = as_ms(self.clock(event if event is not None else current_event()))
            self.table.check_time(time_ms)
            return time_ms
        return self.event_ms(event)

    def event_ms(self, event: EventT[Any] | None = None) -> int:
        """The time of an event of Faust's, of the event in flight, or elsewhere now."""
        context = current_context.get()
        if context is not None and context.in_flight:
            chunk = context.chunk
            place = None if event is None else event.message
            if place is None or (chunk is not None and place.offset == chunk.offsets[context.position]):
                return context.times[context.position]
        return self.table.now_ms() if event is None else round(event.message.timestamp * 1_000)

    def get_timestamp(self, event: EventT[Any] | None = None) -> float:
        """`time_ms` in epoch seconds."""
        return self.time_ms(event) / 1_000

    def start(self) -> int:
        """Of the newest window that holds `time_ms`."""
        return self.start_at(self.time_ms())

    def start_at(self, time_ms: int) -> int:
        return self.window.windows_of(time_ms)[-1][0]

    def starts(self) -> list[int]:
        """Of the windows that a write goes to."""
        inner = self.table.inner
        if self.clock is None:
            context = inner.context()
            return inner.open_starts(context)
        return [start for start, _ in self.window.windows_of(self.time_ms())]

    # -- a mapping -------------------------------------------------------------------------------

    def __getitem__(self, key: Hashable) -> WindowedRow:
        raise NotImplementedError  # each table's own class has it: see `windowed`

    def __setitem__(self, key: Hashable, value: object) -> None:
        # HOT PATH: `counts[key] += 1` ends here, and has written already.
        if isinstance(value, WindowedRow):
            if value.key is key and value.by is self:
                return
            if value.by.table is self.table and value.key == key:
                return
            value = value.value()
        table = self.table
        inner = table.inner
        inner.context()  # raises TypeError outside an event, also where there is no window
        if isinstance(inner, MergingWindowTable):
            inner.set_value(key, value)
        else:
            for start in self.starts():
                table.write(key, value, start)
        if table.watched:
            table.on_key_set(key, value)

    def __delitem__(self, key: Hashable) -> None:
        inner = self.table.inner
        inner.context()
        if key not in self:
            raise KeyError(key)
        if isinstance(inner, MergingWindowTable):
            inner.delete(key)
        else:
            for start in self.starts():
                inner.write(key, DELETED, start)
        if self.table.watched:
            self.table.on_key_del(key)

    def __contains__(self, key: object) -> bool:
        return self.table.find_at(key, self.time_ms()) is not MISSING

    def __iter__(self) -> Iterator[Any]:
        return iter(self.table.all_keys())

    def __len__(self) -> int:
        return len(self.table.all_keys())

    def __bool__(self) -> bool:
        return True

    def keys(self) -> View:
        """The keys of the rows of all windows; ``.now()``, ``.current()``, ``.delta(ago)``: of one window."""
        return KeysView(self, lambda key, value: key, all_keys=True)

    def items(self, event: EventT[Any] | None = None) -> View:
        """Each key with its value in the window of `time_ms`, where it or the table's default has one.

        ``.now()``, ``.current()``, ``.delta(ago)``: in the window that holds now, the event in flight, or
        so long before it.
        """
        return ItemsView(self, lambda key, value: (key, value), event=event)

    def values(self, event: EventT[Any] | None = None) -> View:
        """The values of `items`."""
        return ValuesView(self, lambda key, value: value, event=event)

    def items_at(self, time_ms: int) -> Iterator[tuple[Any, Any]]:
        for key in self.table.all_keys():
            try:
                yield key, self.table.value_or_default_at(key, time_ms)
            except KeyError:  # no row there, and the table has no default
                continue

    @property
    def key_index_table(self) -> dict[Any, int]:
        """Each key of any window -> 1, where ``key_index`` was asked for. Always true to the rows."""
        return dict.fromkeys(self.table.all_keys(), 1) if self.key_index else {}

    def on_recover(self, fun: Recovered) -> Recovered:
        """Decorates a coroutine function that is called each time the table's rows have come back."""
        return self.table.on_recover(fun)

    def on_window_close(self, fun: WindowClosed) -> WindowClosed:
        """Decorates the function that is called for each row of a window that has expired."""
        return self.table.on_window_close(fun)

    def as_ansitable(self, title: str = "{table.name}", **options: Unpack[AnsiTableOptions]) -> str:
        """The rows of the window of `time_ms` as a table for a terminal."""
        given: Any = self
        return dict_as_ansitable(given, title=title.format(table=self.table), **options)

    def __repr__(self) -> str:
        return f"<WindowedTable {self.name}>"


class View:
    """What ``keys()``, ``items()`` and ``values()`` give: to be iterated, or asked for one window."""

    __slots__ = ("_all_keys", "_by", "_event", "_shape")

    def __init__(
        self,
        by: WindowedTable,
        shape: Callable[[Any, Any], Any],
        *,
        event: EventT[Any] | None = None,
        all_keys: bool = False,
    ) -> None:
        self._by = by
        self._shape = shape
        self._event = event
        self._all_keys = all_keys

    def _at(self, time_ms: int) -> Iterator[Any]:
        return (self._shape(key, value) for key, value in self._by.items_at(time_ms))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._by) if self._all_keys else self._at(self._by.time_ms(self._event))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, item: object) -> bool:
        return any(found == item for found in self)

    def now(self) -> Iterator[Any]:
        """Of the window that holds the present."""
        return self._at(self._by.table.now_ms())

    def current(self, event: EventT[Any] | None = None) -> Iterator[Any]:
        """Of the window that holds the event in flight."""
        return self._at(self._by.event_ms(event or self._event))

    def delta(self, ago: Seconds, event: EventT[Any] | None = None) -> Iterator[Any]:
        """Of the window so long before the event in flight."""
        return self._at(self._by.event_ms(event or self._event) - _ms(ago))


class KeysView(View):
    """`WindowedTable.keys`."""

    __slots__ = ()


class ItemsView(View):
    """`WindowedTable.items`."""

    __slots__ = ()


class ValuesView(View):
    """`WindowedTable.values`."""

    __slots__ = ()


class WindowedRow(Struct, gc=False, eq=False):
    """HOT PATH. The rows of one key; keeps nothing of any event.

    Made anew by each look-up, which costs less than to remember one for each key. What all rows of a table
    share stands on a class that the table has of its own: see `windowed`.
    """

    key: Any
    by: ClassVar[WindowedTable]
    _change: ClassVar[Callable[..., None]]

    @classmethod
    def belong_to(cls, by: WindowedTable, change: Callable[..., None]) -> None:
        """The table that all rows of this class are of, and what their operators call."""
        cls.by = by
        cls._change = change

    @classmethod
    def add_by(cls, add: Callable[[Any, Any], Any]) -> None:
        """What ``+=`` does from now on, without a call between."""
        cls.__iadd__ = add  # type: ignore[method-assign]  # each table has a class of its own

    def __iadd__(self, other: object) -> WindowedRow:
        self._change(self.key, operator.add, other)
        return self

    def __isub__(self, other: object) -> WindowedRow:
        self._change(self.key, operator.sub, other)
        return self

    def __imul__(self, other: object) -> WindowedRow:
        self._change(self.key, operator.mul, other)
        return self

    def __itruediv__(self, other: object) -> WindowedRow:
        self._change(self.key, operator.truediv, other)
        return self

    def __ifloordiv__(self, other: object) -> WindowedRow:
        self._change(self.key, operator.floordiv, other)
        return self

    def __imod__(self, other: object) -> WindowedRow:
        self._change(self.key, operator.mod, other)
        return self

    def __ipow__(self, other: object) -> WindowedRow:
        self._change(self.key, operator.pow, other)
        return self

    def __ilshift__(self, other: object) -> WindowedRow:
        self._change(self.key, operator.lshift, other)
        return self

    def __irshift__(self, other: object) -> WindowedRow:
        self._change(self.key, operator.rshift, other)
        return self

    def __ior__(self, other: object) -> WindowedRow:
        self._change(self.key, operator.or_, other)
        return self

    def __iand__(self, other: object) -> WindowedRow:
        self._change(self.key, operator.and_, other)
        return self

    def __ixor__(self, other: object) -> WindowedRow:
        self._change(self.key, operator.xor, other)
        return self

    def apply(
        self, change: Callable[[Any, Any], Any], operand: object, event: EventT[Any] | None = None
    ) -> WindowedRow:
        """``row = change(row, operand)`` in every window of the event in flight."""
        self._change(self.key, change, operand)
        return self

    def _at(self, time_ms: int) -> Any:
        return self.by.table.value_or_default_at(self.key, time_ms)

    def value(self, event: EventT[Any] | None = None) -> Any:
        """Of the window that holds the table's time (see `WindowedTable.relative_to`); else its default."""
        if self.by.table.watched:
            self.by.table.on_key_get(self.key)
        return self._at(self.by.time_ms(event))

    def current(self, event: EventT[Any] | None = None) -> Any:
        """Of the window that holds the event in flight, elsewhere the present; else the table's default."""
        return self._at(self.by.event_ms(event))

    def now(self) -> Any:
        """Of the window that holds the present."""
        return self._at(self.by.table.now_ms())

    def delta(self, ago: Seconds, event: EventT[Any] | None = None) -> Any:
        """Of the window so long before the event in flight, or elsewhere before the present."""
        return self._at(self.by.event_ms(event) - _ms(ago))

    def __getitem__(self, at: tuple[float, float] | EventT[Any]) -> Any:
        """The value of a window ``(start, end)`` in epoch seconds, or the row at an event of Faust's."""
        if isinstance(at, EventT):
            return RowAt(self, at)
        return self.by.table.value_or_default(self.key, round(at[0] * 1_000))

    def __setitem__(self, at: tuple[float, float], value: object) -> None:
        self.by.table.write(self.key, value, round(at[0] * 1_000))

    def __delitem__(self, at: tuple[float, float]) -> None:
        self.by.table.inner.write(self.key, DELETED, round(at[0] * 1_000))

    def __repr__(self) -> str:
        return f"<WindowedRow {self.by.name}[{self.key!r}]>"


class RowAt:
    """The rows of one key at the time of an event: ``table[key][event]``."""

    __slots__ = ("event", "row")

    def __init__(self, row: WindowedRow, event: EventT[Any]) -> None:
        self.row = row
        self.event = event

    def value(self) -> Any:
        return self.row.value(self.event)

    def current(self) -> Any:
        return self.row.current(self.event)

    def now(self) -> Any:
        return self.row.now()

    def delta(self, ago: Seconds) -> Any:
        return self.row.delta(ago, self.event)


def windowed(
    table: Collection,
    row_type: type[WindowedRow],
    clock: Clock | None = None,
    *,
    key_index: bool = False,
) -> WindowedTable:
    """A table by its windows.

    HOT PATH: ``counts[key]`` makes a row without a Python call, and its ``+=`` is the engine's own. Python
    looks for both on classes, so each table has two of its own; that halves the cost of ``counts[key] += 1``.
    """
    kind: Any = type(row_type)
    row: type[WindowedRow] = kind(row_type.__name__, (row_type,), {"__module__": row_type.__module__})
    own: Any = type("WindowedTable", (WindowedTable,), {"__slots__": (), "__getitem__": row})
    made: WindowedTable = own(table, row_type, clock, key_index)

    def not_yet(*_: object) -> None:
        made.table.inner.context()  # raises TypeError

    def at_own_time(key: Hashable, change: Callable[[Any, Any], Any], operand: object) -> None:
        inner = made.table.inner
        inner.context()
        inner.change_in(key, change, operand, made.starts())

    def attach(inner: AgentTable) -> None:
        if clock is None:
            row.belong_to(made, inner.change)
            row.add_by(inner.adder())
        else:
            row.belong_to(made, staticmethod(at_own_time))

    row.belong_to(made, staticmethod(not_yet))
    table.on_attach.append(attach)
    return made


def as_ms(time: Time) -> int:
    """Epoch seconds, a datetime (without a zone: UTC) or its ISO text in epoch ms."""
    if isinstance(time, str):
        time = iso8601.parse(time)
    if isinstance(time, datetime):
        aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1_000)
    return round(float(time) * 1_000)


def _value_of(event: EventT[Any] | None) -> Any:
    if event is None:
        raise RuntimeError("there is no event whose field could tell the time")
    return event.value


def _ms(ago: Seconds) -> int:
    return round((ago.total_seconds() if isinstance(ago, timedelta) else ago) * 1_000)
