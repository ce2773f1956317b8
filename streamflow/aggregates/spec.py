"""A declared aggregate: what is grouped, by which window, and what is kept of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamflow.aggregates.functions.base import Field
from streamflow.aggregates.row_values import HoppingValues, PaneValues, RowFunctions, SessionValues
from streamflow.aggregates.where import condition
from streamflow.codecs.times import TimeField
from streamflow.errors import ConfigurationError
from streamflow.state.beginning import Start
from streamflow.state.event_context import SendTime
from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, Window
from streamflow.windows.session import first_start


@dataclass(frozen=True, slots=True)
class Key:
    """``by=Key()``: rows are grouped by the message's key, and nothing moves."""


By = Key | Field | None


@dataclass(frozen=True, slots=True)
class AggregateSpec:
    """A declared aggregate, apart from its rows.

    ``time`` is a field path, with its unit or in ms, a function of the event, or ``None``: the decoder's.
    ``where`` is a function of the event or the text of a test (see `where`). ``store``: the URL of its store;
    empty: the setting's.
    """

    name: str
    topic: str
    by: By
    window: Window | None
    values: RowFunctions
    time: Field | TimeField | None = None
    where: Field | None = None
    emit_closed: str | None = None
    store: str = ""
    json_keys: bool = False  # by=Key(), where keys may be any JSON: kept like the groups of a field
    start: Start = "earliest"  # where it begins while it has no progress
    send_time: SendTime = "now"  # what closed rows are stamped with: "event" is their window's end

    def __post_init__(self) -> None:
        for option, value in (("by", self.by), ("window", self.window)):
            if isinstance(value, type):
                shown = value.__name__
                cure = f"{option}={shown}({'' if value is Key else '...'})"
                raise ConfigurationError(f"{self.name!r}: {option}={shown}: this is a class; write {cure}")
        if isinstance(self.where, str):
            condition(self.where)  # raises ConfigurationError, where it is declared
        taken = {"window_start", "window_end", "key", "revised", "withdrawn"} & set(self.values.names)
        if self.emit_closed is not None and taken:
            raise ConfigurationError(f"{self.name!r}: closed rows have a {min(taken)!r} of their own")

    @property
    def consumer(self) -> str:
        return f"aggregate:{self.name}"

    @property
    def is_shuffled(self) -> bool:
        """True: rows are combined here and merged on the partition that owns their group key."""
        return not isinstance(self.by, Key)

    @property
    def grouped(self) -> bool:
        """True: rows are kept by group keys, else by record keys as they are."""
        return self.is_shuffled or self.json_keys

    @property
    def stored(self) -> RowFunctions:
        """What is kept of rows: mostly their states, else what sliding windows and sessions are made of."""
        if isinstance(self.window, SlidingWindow):
            return PaneValues(self.values.declared)
        if self.hopping_panes is not None:
            return HoppingValues(self.values.declared)
        return SessionValues(self.values.declared) if isinstance(self.window, SessionWindow) else self.values

    @property
    def hopping_panes(self) -> HoppingWindow | None:
        """The window, where hopping windows are kept as panes (see `state.hopping_panes`).

        Where rows move on, their owner is given whole rows.
        """
        window = self.window
        return window if isinstance(window, HoppingWindow) and not self.is_shuffled else None

    def shown(self, start: int, stored: Any) -> tuple[int, int, Any]:
        """(start, end, state) of the window that is kept by the id ``start``."""
        assert self.window is not None
        if isinstance(self.window, SessionWindow):
            return first_start(stored), start, self.values.merge_all([part.state for part in stored])
        return start, self.window.end_of(start), stored

    def describe(self) -> dict[str, Any]:
        """JSON description, to tell a changed declaration over old state."""
        by = "key" if isinstance(self.by, Key) else _named(self.by)
        window = self.window.describe() if self.window is not None else None
        panes = self.hopping_panes
        return {
            **({} if panes is None else {"pane_ms": panes.pane_ms}),  # once a row was kept for each window
            "topic": self.topic,
            "by": by,
            "window": window,
            "values": self.values.describe(),
            "time": str(self.time) if isinstance(self.time, TimeField) else _named(self.time),
            "where": _named(self.where),
        }


def _named(field: Field | None) -> Any:
    """A path, or a function's name."""
    return getattr(field, "__qualname__", field)
