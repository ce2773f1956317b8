"""What every table of an app is, with and without windows: its rows as the engine has them.

Inside an agent's event a table is what the agent sees: the rows of the event's partition, its own
writes included. Elsewhere (pages, timers, tasks) it is read only: the checkpointed rows that this worker has.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, cast

from faust.types.tables import CollectionT
from mode.utils.futures import maybe_async
from yarl import URL

from streamflow.app.interface import AppT, Recovered
from streamflow.app.tables.row_codecs import bytes_of_key, key_in, value_in
from streamflow.codecs import KeyCodec
from streamflow.codecs.times import TimeLimits
from streamflow.engine.engine import Engine
from streamflow.errors import ConfigurationError
from streamflow.state.agent_table import AgentTable
from streamflow.state.changelog import RowCodec
from streamflow.state.event_context import EventContext, current_context
from streamflow.state.handed_copy import hand_out
from streamflow.state.merging_table import Merge, MergingWindowTable
from streamflow.state.partition import TableSpec
from streamflow.state.stores.base import DELETED, MISSING
from streamflow.windows import SessionWindow, SlidingWindow, Window

WindowClosed = Callable[[Any, Any], Any]
_PLAIN = frozenset({int, float, str, bool, type(None)})
FAUST_END_S = 0.1
"""Faust's windows end that much before the next one begins."""


class Collection:
    """A table's declaration and its rows. The engine's side is made when the worker starts.

    ``key_type``, ``value_type``: what keys and values are made of again when they are read from the log; by
    default what they say themselves, and for values what ``default`` makes. ``on_recover`` is called each
    time that the rows have come back, ``on_window_close(key, value)`` for each row of a window that has
    expired, with the key ``(key, (start, end))`` in epoch seconds.
    """

    is_global = False

    def __init__(
        self,
        app: AppT,
        *,
        name: str,
        default: Callable[[], Any] | None = None,
        partitions: int | None = None,
        key_type: type[object] | None = None,
        value_type: type[object] | None = None,
        help: str | None = None,  # noqa: A002  # Faust's name
        on_recover: Recovered | None = None,
        on_window_close: WindowClosed | None = None,
        store: str | URL | None = None,
    ) -> None:
        self.app = app
        self.store = "" if store is None else str(store)
        self.name = name
        self.default = default
        self.partitions = partitions
        self.key_type = key_type
        self.value_type = value_type
        self.help = help or ""
        self.window: Window | None = None
        self.own_time = False  # are there rows in windows of another time than the events'?
        self.recover_callbacks: list[Recovered] = [] if on_recover is None else [on_recover]
        self.closes = on_window_close
        self.merge: Merge | None = None
        self.watched = False  # does anybody want to know of single reads and writes?
        self._engine: Engine | None = None
        self._table: AgentTable | None = None
        self.on_attach: list[Callable[[AgentTable], None]] = []

    # -- the engine's side -----------------------------------------------------------------------

    def attach(self, engine: Engine, key: KeyCodec) -> None:
        """Makes the engine's side of it. ``key`` is that of the topic whose agents write it."""
        if self.closes is not None and self.window is None:
            raise ConfigurationError(f"table {self.name!r}: on_window_close needs windows")
        if self.is_global and isinstance(self.window, SessionWindow | SlidingWindow):
            raise ConfigurationError(f"table {self.name!r}: a global table has tumbling or hopping windows")
        if self.closes is not None and isinstance(self.window, SlidingWindow):
            raise ConfigurationError(
                f"table {self.name!r}: sliding windows overlap without end; nothing closes"
            )
        spec = TableSpec(self.name, self.window, self.row_codec(self.key_type or key.key_type), "", 0)
        spec = replace(spec, own_time=self.own_time, closes=self.closes is not None, store=self.store)
        self._engine = engine
        key_bytes = partial(bytes_of_key, key)
        table = engine.topology.add_table(
            spec,
            self.default,
            key_bytes,
            self.partitions,
            is_global=self.is_global,
            key_codec=None if self.key_type is None else KeyCodec(self.key_type),
            merge=self.merge,
            on_close=None if self.closes is None else self._window_closed,
        )
        self.bind(table)

    def bind(self, table: AgentTable) -> None:
        """Takes the engine's table as its own."""
        self._table = table
        hooks = ("on_key_get", "on_key_set", "on_key_del")
        self.watched = self.app.watches_tables or any(
            getattr(type(self), name) is not getattr(Collection, name) for name in hooks
        )
        for each in self.on_attach:
            each(table)

    def row_codec(self, key_type: type[object] | None) -> RowCodec:
        """How rows are written to the changelog and read back. ``key_type``: the table's or its topic's."""
        return RowCodec(
            self.window, key_in=key_in(key_type), value_in=value_in(self.value_type, self.default)
        )

    async def _window_closed(self, start: int, key: Hashable, value: Any) -> None:
        assert self.closes is not None
        assert self.window is not None
        end_s = self.window.end_of(start) / 1_000 - FAUST_END_S
        if isinstance(self.window, SessionWindow):
            start, value = value[0].start, value[0].state
        await maybe_async(self.closes((key, (start / 1_000, end_s)), value))

    def use_own_time(self) -> None:
        """Rows are written in windows of another time than the events'."""
        self.own_time = True

    @property
    def inner(self) -> AgentTable:
        """The engine's table. Raises TypeError before the worker has started."""
        if self._table is None:
            raise TypeError(f"table {self.name!r} can be used only in a running worker")
        return self._table

    def now_ms(self) -> int:
        """Wall time, by the engine's clock."""
        return self.app.now_ms()

    @cached_property
    def time_limits(self) -> TimeLimits:
        return TimeLimits.of(self.app.engine_settings)

    def check_time(self, time_ms: int) -> None:
        """Raises DecodeError for what no event time may be."""
        error = self.time_limits.error(time_ms, self.now_ms())
        if error is not None:
            raise error

    def find(self, key: Hashable, start: int) -> Any:
        """The row's value or `MISSING`: what the agent sees, or elsewhere what is checkpointed here."""
        table, context = self.inner, holding()
        if context is not None:
            if context.copies is not None:
                context.write_copies(table)
            return table.part(context).get(start, key)
        for part in table.parts.values():
            value = part.get(start, key) if self.app.bench else part.store.get(start, key)
            if value is not MISSING:
                return value
        return MISSING

    def find_at(self, key: Hashable, time_ms: int) -> Any:
        """`find` in the newest window of a time: that begins last, of sessions the one that holds it."""
        table, context = self.inner, holding()
        assert self.window is not None
        if not isinstance(table, MergingWindowTable):
            return self.find(key, self.window.windows_of(time_ms)[-1][0])
        if context is not None:
            if context.copies is not None:
                context.write_copies(table)
            return table.value_at(table.part(context), key, time_ms)
        for part in table.parts.values():
            value = table.value_at(part, key, time_ms, durable=not self.app.bench)
            if value is not MISSING:
                return value
        return MISSING

    def value_or_default_at(self, key: Hashable, time_ms: int) -> Any:
        """`value_or_default` in the newest window of a time."""
        assert self.window is not None
        return self._or_default(
            key, self.window.windows_of(time_ms)[-1][0], lambda: self.find_at(key, time_ms)
        )

    def value_or_default(self, key: Hashable, start: int) -> Any:
        """A copy of the row's value, else the table's default. Raises KeyError where it has none."""
        return self._or_default(key, start, lambda: self.find(key, start))

    def _or_default(self, key: Hashable, start: int, find: Callable[[], Any]) -> Any:
        context = holding()
        if context is not None and context.copies is not None:
            row_copy = context.copies.get((self.inner, start, key))
            if row_copy is not None:
                return row_copy.value
        value = found = find()
        if found is MISSING:
            if self.default is None:
                raise KeyError(key)
            value = self.default()
        if value.__class__ in _PLAIN:
            return value
        if context is None:
            return copy.deepcopy(value)
        if self.app.bench:
            return self._of_test(key, start, value, is_new=found is MISSING)
        return hand_out(context, self.inner, start, key, value, find, is_new=found is MISSING)

    def _of_test(self, key: Hashable, start: int, value: Any, *, is_new: bool) -> Any:
        """An agent that is being tried has the row itself: nobody undoes it, and no event ends."""
        if is_new and not isinstance(self.inner, MergingWindowTable):
            self.write(key, value, start)
        return value

    def keys_in(self, start: int) -> Iterator[Any]:
        """The keys of one window's rows (`NO_WINDOW`: of the table)."""
        return (key for key in self.all_keys() if self.find(key, start) is not MISSING)

    def all_keys(self) -> list[Any]:
        """The keys of the rows of every window, each once."""
        table, context = self.inner, holding()
        if context is not None:
            if context.copies is not None:
                context.write_copies(table)
            return list(table.keys_seen(context))
        keys: dict[Any, None] = {}
        for part in table.parts.values():
            for start in part.store.starts():
                keys.update(dict.fromkeys(part.store.window(start)))
            if self.app.bench:
                for rows in part.changes.values():
                    keys.update(dict.fromkeys(rows))
        return list(keys)

    def write(self, key: Hashable, value: object, start: int) -> None:
        """Sets a row. Raises TypeError outside an event, and for what can't be written to the changelog."""
        if value.__class__ not in _PLAIN and value is not DELETED:
            # Told here, where the event can be set aside, and not when the checkpoint writes it.
            self.inner.spec.codec.encode_value(value)
        self.inner.write(key, value, start)

    # -- of Faust's tables ---------------------------------------------------------------------------

    def on_key_get(self, key: Hashable) -> None:
        """Called for each key that is read; tells the app's sensors. For subclasses."""
        self.app.sensors.on_table_get(cast("CollectionT", self), key)

    def on_key_set(self, key: Hashable, value: object) -> None:
        """Called for each key that is set; tells the app's sensors. For subclasses."""
        self.app.sensors.on_table_set(cast("CollectionT", self), key, value)

    def on_key_del(self, key: Hashable) -> None:
        """Called for each key that is taken away; tells the app's sensors. For subclasses."""
        self.app.sensors.on_table_del(cast("CollectionT", self), key)

    def on_recover(self, fun: Recovered) -> Recovered:
        """Decorates a coroutine function that is called each time the table's rows have come back."""
        self.recover_callbacks.append(fun)
        return fun

    def on_window_close(self, fun: WindowClosed) -> WindowClosed:
        """Decorates the function that is called for each row of a window that has expired."""
        self.closes = fun
        return fun

    @property
    def changelog_topic_name(self) -> str:
        return f"{self.app.conf.id}-{self.name}-changelog"

    @property
    def label(self) -> str:
        return f"{type(self).__name__}: {self.name}"

    def reset_state(self) -> None:
        """Faust's ``reset`` command: forgets what this machine keeps of the table; the log still has it."""
        self.app.forget_local(self.name)

    def __repr__(self) -> str:
        return f"<{self.label}>"


def holding() -> EventContext | None:
    """The event context of the calling agent while it holds an event. Raises StaleEvent after a revoke."""
    context = current_context.get()
    if context is None or not (context.in_flight or context.stale):
        return None
    context.check()
    return context
