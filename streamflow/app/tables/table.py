"""Tables in Faust's form: ``counts[key] += 1``, in the windows of the event in flight or without windows."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, MutableMapping
from datetime import timedelta
from typing import Any, Unpack

from faust.types.windows import WindowT
from faust.utils.terminal.tables import dict_as_ansitable

from streamflow.app.options import AnsiTableOptions
from streamflow.app.tables.base import Collection
from streamflow.app.tables.windowed import WindowedRow, WindowedTable, windowed
from streamflow.errors import ConfigurationError
from streamflow.state.merging_table import Merge
from streamflow.state.stores.base import DELETED, MISSING, NO_WINDOW
from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, TumblingWindow, Window

Seconds = float | timedelta
EXPIRES_DEFAULT_S = 86_400.0
# Of Faust's tables: what changes nothing here.
OPTIONS_IGNORED = frozenset(
    {
        "beacon",
        "extra_topic_configs",
        "loop",
        "options",
        "recovery_buffer_size",
        "schema",
        "standby_buffer_size",
        "synchronize_all_active_partitions",
        "use_partitioner",
    }
)
OPTIONS_REFUSED = {
    "changelog_topic": "can't be chosen: a changelog is named <app>-<table>-changelog",
    "on_changelog_event": "is never called: a restore reads rows in batches",
    "start": "is not the table's: it holds what agents write, so give the agent that writes it start= "
    '("earliest", "latest" or a time), or declare an app.aggregate, which has a beginning of its own',
}


def in_seconds(value: Seconds) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


class Table(Collection, MutableMapping[Any, Any]):
    """A table of an app, declared at import: a mapping, or with windows what `WindowedTable` is."""

    Row: type[WindowedRow] = WindowedRow

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    # -- windows ---------------------------------------------------------------------------------

    def tumbling(
        self, size: Seconds, expires: Seconds | None = None, key_index: bool = False
    ) -> WindowedTable:
        """This table by tumbling windows of ``size`` in event time.

        A window takes events, and is kept, until ``expires`` after its end; a day if it is not said.
        ``key_index`` changes nothing: keys are always known.
        """
        return self.using_window(TumblingWindow(in_seconds(size), **_kept(expires)), key_index=key_index)

    def hopping(
        self, size: Seconds, step: Seconds, expires: Seconds | None = None, key_index: bool = False
    ) -> WindowedTable:
        """This table by windows of ``size`` that begin every ``step``; as `tumbling` else."""
        window = HoppingWindow(in_seconds(size), in_seconds(step), **_kept(expires))
        return self.using_window(window, key_index=key_index)

    def session(
        self, gap: Seconds, expires: Seconds | None = None, *, merge: Merge | None = None
    ) -> WindowedTable:
        """This table by sessions: a key's events that lie at most ``gap`` apart; as `tumbling` else.

        ``merge(old, new)`` puts the values of sessions together that an event joins: ``+`` where it is not
        said, for sets ``|``.
        """
        self.merge = merge
        return self.using_window(SessionWindow(in_seconds(gap), **_kept(expires)))

    def sliding(
        self, size: Seconds, expires: Seconds | None = None, *, merge: Merge | None = None
    ) -> WindowedTable:
        """This table by windows of ``size`` that end or begin with an event; as `tumbling` else.

        A window's value is put together from those of its events' times, by ``merge`` as in `session`.
        """
        self.merge = merge
        return self.using_window(SlidingWindow(in_seconds(size), **_kept(expires)))

    def using_window(self, window: Window | WindowT, *, key_index: bool = False) -> WindowedTable:
        """This table by windows: ours, or Faust's own tumbling and hopping ones."""
        if self.window is not None:
            raise ConfigurationError(f"table {self.name!r} has a window already")
        if not isinstance(window, Window):
            theirs: Any = window
            kind = type(window).__name__
            if kind == "TumblingWindow":
                return self.tumbling(theirs.size, theirs.expires, key_index=key_index)
            if kind == "HoppingWindow":
                return self.hopping(theirs.size, theirs.step, theirs.expires, key_index=key_index)
            raise ConfigurationError(
                f"table {self.name!r}: {window!r} is no window of this engine; use "
                ".sliding(size) or .session(gap)"
            )
        self.window = window
        return windowed(self, self.Row, key_index=key_index)

    # -- a mapping ---------------------------------------------------------------------------------

    def __getitem__(self, key: Hashable) -> Any:
        if self.watched:
            self.on_key_get(key)
        return self.value_or_default(key, NO_WINDOW)

    def __setitem__(self, key: Hashable, value: object) -> None:
        self.write(key, value, NO_WINDOW)
        if self.watched:
            self.on_key_set(key, value)

    def __delitem__(self, key: Hashable) -> None:
        if key not in self:
            raise KeyError(key)
        self.inner.write(key, DELETED, NO_WINDOW)
        if self.watched:
            self.on_key_del(key)

    def __contains__(self, key: object) -> bool:
        return self.find(key, NO_WINDOW) is not MISSING

    def __iter__(self) -> Iterator[Any]:
        return self.keys_in(NO_WINDOW)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return True

    def get(self, key: Hashable, default: object = None) -> Any:
        # Without the table's default, as in Faust.
        return default if self.find(key, NO_WINDOW) is MISSING else self[key]

    def pop(self, key: Hashable, *default: object) -> Any:
        """Takes a row away and gives its value, or the default. Raises KeyError without one."""
        if key not in self:
            if default:
                return default[0]
            raise KeyError(key)
        value = self[key]
        del self[key]
        return value

    def setdefault(self, key: Hashable, default: object = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def as_ansitable(self, title: str = "{table.name}", **options: Unpack[AnsiTableOptions]) -> str:
        """The rows as a table for a terminal."""
        return dict_as_ansitable(self, title=title.format(table=self), **options)


def _kept(expires: Seconds | None) -> dict[str, Any]:
    return {"grace_s": EXPIRES_DEFAULT_S if expires is None else in_seconds(expires), "retain_s": 0}
