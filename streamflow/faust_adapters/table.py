"""Tables in Faust's form: ``counts[key] += 1`` in the windows of the event in hand.

Inside an agent's event a table is what the agent sees: the rows of the event's partition, its own
writes included. Elsewhere (pages, timers, tasks) it is read only: the checkpointed rows that this worker has.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, MutableMapping
from datetime import timedelta
from typing import Any, NoReturn

import msgspec

from streamflow.changelog import RowCodec
from streamflow.codecs import KeyCodec
from streamflow.engine import Engine
from streamflow.errors import ConfigurationError
from streamflow.hand import CURRENT, Hand
from streamflow.stores.base import DELETED, MISSING, NO_WINDOW
from streamflow.tables import AgentTable, TableSpec
from streamflow.windows import TumblingWindow, Window

Seconds = float | timedelta
EXPIRES_DEFAULT_S = 86_400.0
ROWS_REMEMBERED_MAX = 1 << 16


def in_seconds(value: Seconds) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


class Table(MutableMapping[Any, Any]):
    """A table of an app. Declared at import; the engine's side is made when the worker starts.

    ``value_type``: a Struct or a Record that values are made of again when they are read from the log.
    """

    def __init__(
        self,
        name: str,
        default: Callable[[], Any] | None = None,
        *,
        partitions: int | None = None,
        value_type: Any = None,
        help: str = "",  # noqa: A002  # Faust's name
    ) -> None:
        self.name = name
        self.default = default
        self.partitions = partitions
        self.value_type = value_type
        self.help = help
        self.window: Window | None = None
        self._engine: Engine | None = None
        self._table: AgentTable | None = None
        self._on_attach: Callable[[AgentTable], None] = lambda _: None

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def tumbling(self, size: Seconds, expires: Seconds | None = None) -> WindowedTable:
        """This table by tumbling windows of ``size`` in event time.

        A window takes events, and is kept, until ``expires`` after its end; a day if it is not said.
        """
        grace_s = EXPIRES_DEFAULT_S if expires is None else in_seconds(expires)
        return self.using_window(TumblingWindow(in_seconds(size), grace_s=grace_s, retain_s=0))

    def hopping(self, *_: Any, **__: Any) -> NoReturn:
        raise ConfigurationError(f"table {self.name!r}: hopping windows are not on this engine yet")

    def using_window(self, window: Any) -> WindowedTable:
        """This table by windows: ours, or Faust's own TumblingWindow."""
        if self.window is not None:
            raise ConfigurationError(f"table {self.name!r} has a window already")
        if not isinstance(window, Window):
            if type(window).__name__ != "TumblingWindow":
                raise ConfigurationError(f"table {self.name!r}: {window!r} is not on this engine yet")
            return self.tumbling(window.size, window.expires)
        self.window = window
        return windowed(self)

    # -- the engine's side -----------------------------------------------------------------------

    def attach(self, engine: Engine, key: KeyCodec) -> None:
        """Makes the engine's side of it. ``key`` is that of the topic whose agents write it."""
        value_in, value_out = value_codec(self.value_type)
        codec = RowCodec(self.window, value_in=value_in, value_out=value_out)
        spec = TableSpec(self.name, self.window, codec, "", 0)
        self._engine = engine
        self._table = engine.add_table(spec, self.default, key.encode, self.partitions)
        self._on_attach(self._table)

    @property
    def inner(self) -> AgentTable:
        """The engine's table. Raises TypeError before the worker has started."""
        if self._table is None:
            raise TypeError(f"table {self.name!r} can be used only in a running worker")
        return self._table

    def now_ms(self) -> int:
        """Wall time, by the engine's clock."""
        _ = self.inner
        assert self._engine is not None
        return self._engine.clock.now_ms()

    def find(self, key: Any, start: int) -> Any:
        """The row's value or `MISSING`: what the agent sees, or elsewhere what is checkpointed here."""
        table, hand = self.inner, holding()
        if hand is not None:
            return table.part(hand).get(start, key)
        for part in table.parts.values():
            value = part.store.get(start, key)
            if value is not MISSING:
                return value
        return MISSING

    def value_or_default(self, key: Any, start: int) -> Any:
        """A copy of the row's value, else the table's default. Raises KeyError where it has none."""
        value = self.find(key, start)
        if value is not MISSING:
            return copy.deepcopy(value)
        if self.default is None:
            raise KeyError(key)
        return self.default()

    def keys_in(self, start: int) -> Iterator[Any]:
        """The keys of one window's rows (`NO_WINDOW`: of the table)."""
        table, hand = self.inner, holding()
        if hand is not None:
            keys = list(table.keys_seen(hand))
        else:
            keys = [key for part in table.parts.values() for key in part.store.window(start)]
        return (key for key in keys if self.find(key, start) is not MISSING)

    # -- a mapping ---------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        return self.value_or_default(key, NO_WINDOW)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.inner.write(key, value, NO_WINDOW)

    def __delitem__(self, key: Any) -> None:
        if key not in self:
            raise KeyError(key)
        self.inner.write(key, DELETED, NO_WINDOW)

    def __contains__(self, key: object) -> bool:
        return self.find(key, NO_WINDOW) is not MISSING

    def __iter__(self) -> Iterator[Any]:
        return self.keys_in(NO_WINDOW)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return True

    def get(self, key: Any, default: Any = None) -> Any:
        # Without the table's default, as in Faust.
        return default if self.find(key, NO_WINDOW) is MISSING else self[key]

    def pop(self, key: Any, *default: Any) -> Any:
        """Takes a row away and gives its value, or the default. Raises KeyError without one."""
        if key not in self:
            if default:
                return default[0]
            raise KeyError(key)
        value = self[key]
        del self[key]
        return value

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def __repr__(self) -> str:
        return f"<Table {self.name}>"


class WindowedTable:
    """A table by windows: each key stands for the rows of the windows that hold the event in hand.

    To be made by `windowed`.
    """

    __slots__ = ("table",)

    def __init__(self, table: Table) -> None:
        self.table = table

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def window(self) -> Window:
        assert self.table.window is not None
        return self.table.window

    def __getitem__(self, key: Any) -> WindowedRow:
        raise NotImplementedError  # each table's own class has it: see `windowed`

    def __setitem__(self, key: Any, value: Any) -> None:
        # HOT PATH: `counts[key] += 1` ends here, and has written already.
        if value.__class__ is WindowedRow:
            if value.table is self.table and (value.key is key or value.key == key):
                return
            value = value.value()
        inner = self.table.inner
        for start in inner.starts(inner.hand()):
            inner.write(key, value, start)

    def __delitem__(self, key: Any) -> None:
        inner = self.table.inner
        if key not in self:
            raise KeyError(key)
        for start in inner.starts(inner.hand()):
            inner.write(key, DELETED, start)

    def __contains__(self, key: object) -> bool:
        return self.table.find(key, self.start()) is not MISSING

    def start(self) -> int:
        """Of the newest window that holds the event in hand; elsewhere, that holds the present."""
        hand = holding()
        time_ms = self.table.now_ms() if hand is None else hand.times[hand.index]
        return self.window.windows_of(time_ms)[-1][0]

    def __iter__(self) -> Iterator[Any]:
        return self.table.keys_in(self.start())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return True

    def keys(self) -> Iterator[Any]:
        """The keys of the rows of `start`'s window."""
        return iter(self)

    def items(self) -> Iterator[tuple[Any, Any]]:
        start = self.start()
        return ((key, self.table.value_or_default(key, start)) for key in self.table.keys_in(start))

    def values(self) -> Iterator[Any]:
        return (value for _, value in self.items())

    def __repr__(self) -> str:
        return f"<WindowedTable {self.name}>"


class WindowedRow:
    """HOT PATH. The rows of one key; keeps nothing of any event."""

    __slots__ = ("_change", "key", "table")

    def __init__(self, table: Table, key: Any, change: Callable[..., None]) -> None:
        self.table = table
        self.key = key
        self._change = change

    def __iadd__(self, other: Any) -> WindowedRow:
        self._change(self.key, operator.add, other)
        return self

    def __isub__(self, other: Any) -> WindowedRow:
        self._change(self.key, operator.sub, other)
        return self

    def __imul__(self, other: Any) -> WindowedRow:
        self._change(self.key, operator.mul, other)
        return self

    def __itruediv__(self, other: Any) -> WindowedRow:
        self._change(self.key, operator.truediv, other)
        return self

    def __ifloordiv__(self, other: Any) -> WindowedRow:
        self._change(self.key, operator.floordiv, other)
        return self

    def __imod__(self, other: Any) -> WindowedRow:
        self._change(self.key, operator.mod, other)
        return self

    def __ior__(self, other: Any) -> WindowedRow:
        self._change(self.key, operator.or_, other)
        return self

    def __iand__(self, other: Any) -> WindowedRow:
        self._change(self.key, operator.and_, other)
        return self

    def __ixor__(self, other: Any) -> WindowedRow:
        self._change(self.key, operator.xor, other)
        return self

    def apply(self, change: Callable[[Any, Any], Any], operand: Any) -> WindowedRow:
        """``row = change(row, operand)`` in every window of the event in hand."""
        self._change(self.key, change, operand)
        return self

    def _at(self, time_ms: int) -> Any:
        window = self.table.window
        assert window is not None
        return self.table.value_or_default(self.key, window.windows_of(time_ms)[-1][0])

    def value(self) -> Any:
        """Of the window that holds the event in hand, or elsewhere the present; else the table's default."""
        hand = holding()
        return self.now() if hand is None else self._at(hand.times[hand.index])

    current = value

    def now(self) -> Any:
        """Of the window that holds the present."""
        return self._at(self.table.now_ms())

    def delta(self, ago: Seconds) -> Any:
        """Of the window so long before the event in hand, or elsewhere before the present."""
        hand = holding()
        time_ms = self.table.now_ms() if hand is None else hand.times[hand.index]
        return self._at(time_ms - int(in_seconds(ago) * 1_000))

    def __repr__(self) -> str:
        return f"<WindowedRow {self.table.name}[{self.key!r}]>"


class _Rows(dict[Any, WindowedRow]):
    """Key -> its row, made once."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self._table = table
        self._change: Callable[..., None] = self._not_yet

    def attach(self, inner: AgentTable) -> None:
        self.clear()
        self._change = inner.change

    def _not_yet(self, *_: Any) -> None:
        self._table.inner.hand()  # raises TypeError

    def __missing__(self, key: Any) -> WindowedRow:
        if len(self) >= ROWS_REMEMBERED_MAX:
            self.clear()
        row = self[key] = WindowedRow(self._table, key, self._change)
        return row


def windowed(table: Table) -> WindowedTable:
    """A table by its windows.

    HOT PATH: ``counts[key]`` is a look-up in a dict without a Python call. Python looks for it on the
    class, so each table has one of its own; that halves the cost of ``counts[key] += 1``.
    """
    rows = _Rows(table)
    table._on_attach = rows.attach
    own: Any = type("WindowedTable", (WindowedTable,), {"__slots__": (), "__getitem__": rows.__getitem__})
    made: WindowedTable = own(table)
    return made


def holding() -> Hand | None:
    """The hand of the calling agent while it holds an event. Raises StaleEvent after a revoke."""
    hand = CURRENT.get()
    if hand is None or not (hand.holding or hand.stale):
        return None
    hand.check()
    return hand


def value_codec(kind: Any) -> tuple[Callable[[Any], Any] | None, Callable[[Any], Any] | None]:
    """(JSON value -> value, value -> JSON value) of a table's value type; ``None``: they are the same."""
    if hasattr(kind, "__struct_fields__"):
        return (lambda data: msgspec.convert(data, kind)), msgspec.to_builtins
    if hasattr(kind, "from_data"):
        return kind.from_data, None
    if kind is set:
        return set, sorted
    return None, None


__all__ = ["Table", "WindowedRow", "WindowedTable", "windowed"]
