"""Tables in Faust's form: ``counts[key] += 1`` in the windows of the event in hand."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from streamflow.changelog import RowCodec
from streamflow.codecs import KeyCodec
from streamflow.engine import Engine
from streamflow.errors import ConfigurationError
from streamflow.stores.base import DELETED, MISSING, NO_WINDOW
from streamflow.tables import AgentTable, TableSpec
from streamflow.windows import TumblingWindow

Seconds = float | timedelta
EXPIRES_DEFAULT_S = 86_400.0


def in_seconds(value: Seconds) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


class Table:
    """A table of an app. Declared at import; the engine's side is made when the worker starts."""

    def __init__(
        self,
        name: str,
        default: Callable[[], Any] | None,
        partitions: int | None,
        window: TumblingWindow | None,
    ) -> None:
        self.name = name
        self.default = default
        self.partitions = partitions
        self.window = window
        self._table: AgentTable | None = None

    def tumbling(self, size: Seconds, expires: Seconds | None = None) -> WindowedTable:
        """This table by tumbling windows of ``size`` seconds in event time.

        A window takes events, and is kept, until ``expires`` seconds after its end (a day by default).
        """
        if self.window is not None:
            raise ConfigurationError(f"table {self.name!r} has a window already")
        grace_s = EXPIRES_DEFAULT_S if expires is None else in_seconds(expires)
        self.window = TumblingWindow(in_seconds(size), grace_s=grace_s, retain_s=0, idle_close_s=None)
        return WindowedTable(self)

    def attach(self, engine: Engine, key: KeyCodec) -> None:
        """Makes the engine's side of it."""
        spec = TableSpec(self.name, self.window, RowCodec(self.window), "", 0)
        self._table = engine.add_table(spec, self.default, key.encode, self.partitions)

    @property
    def inner(self) -> AgentTable:
        """The engine's table. Raises TypeError before the worker has started."""
        if self._table is None:
            raise TypeError(f"table {self.name!r} can be used only inside an agent of a running worker")
        return self._table

    def __getitem__(self, key: Any) -> Any:
        table = self.inner
        return table.base(table.part(table.hand()), NO_WINDOW, key)

    def get(self, key: Any, default: Any = None) -> Any:
        value = self.inner.read(key, NO_WINDOW)
        return default if value is MISSING else value

    def __setitem__(self, key: Any, value: Any) -> None:
        self.inner.write(key, value, NO_WINDOW)

    def __delitem__(self, key: Any) -> None:
        if key not in self:
            raise KeyError(key)
        self.inner.write(key, DELETED, NO_WINDOW)

    def pop(self, key: Any, *default: Any) -> Any:
        """Takes a row away and gives its value, or the default. Raises KeyError without one."""
        value = self.inner.read(key, NO_WINDOW)
        if value is MISSING:
            if default:
                return default[0]
            raise KeyError(key)
        self.inner.write(key, DELETED, NO_WINDOW)
        return value

    def __contains__(self, key: object) -> bool:
        return self.inner.read(key, NO_WINDOW) is not MISSING

    def keys(self) -> Iterator[Any]:
        """Keys of the partition of the event in hand."""
        return self.inner.keys_seen(self.inner.hand())

    def items(self) -> Iterator[tuple[Any, Any]]:
        for key in list(self.keys()):
            yield key, self[key]

    def values(self) -> Iterator[Any]:
        for key in list(self.keys()):
            yield self[key]

    def __repr__(self) -> str:
        return f"<Table {self.name}>"


class WindowedTable:
    """A table by windows: each key stands for the rows of the windows that hold the event in hand."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.name = table.name

    def __getitem__(self, key: Any) -> WindowedRow:
        return WindowedRow(self.table, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        if value.__class__ is WindowedRow:
            return  # `counts[key] += 1` has written already
        inner = self.table.inner
        for start in inner.starts(inner.hand()):
            inner.write(key, value, start)

    def __delitem__(self, key: Any) -> None:
        inner = self.table.inner
        for start in inner.starts(inner.hand()):
            inner.write(key, DELETED, start)

    def __contains__(self, key: object) -> bool:
        inner = self.table.inner
        return any(inner.read(key, start) is not MISSING for start in inner.starts(inner.hand()))

    def __repr__(self) -> str:
        return f"<WindowedTable {self.name}>"


class WindowedRow:
    """HOT PATH. The rows of one key; made anew by each ``counts[key]``."""

    __slots__ = ("key", "table")

    def __init__(self, table: Table, key: Any) -> None:
        self.table = table
        self.key = key

    def __iadd__(self, other: Any) -> WindowedRow:
        self.table.inner.change(self.key, operator.add, other)
        return self

    def __isub__(self, other: Any) -> WindowedRow:
        self.table.inner.change(self.key, operator.sub, other)
        return self

    def __imul__(self, other: Any) -> WindowedRow:
        self.table.inner.change(self.key, operator.mul, other)
        return self

    def __ior__(self, other: Any) -> WindowedRow:
        self.table.inner.change(self.key, operator.or_, other)
        return self

    def current(self) -> Any:
        """The value in the newest window that holds the event in hand, or the table's default."""
        inner = self.table.inner
        hand = inner.hand()
        return inner.base(inner.part(hand), inner.starts(hand)[-1], self.key)

    value = current

    def apply(self, change: Callable[[Any, Any], Any], operand: Any) -> WindowedRow:
        """``row = change(row, operand)`` in every window of the event in hand."""
        self.table.inner.change(self.key, change, operand)
        return self


__all__ = ["Table", "WindowedRow", "WindowedTable"]
