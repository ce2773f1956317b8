"""What an agent gets where a row's value can be changed in place: a copy, one for each event and row.

``table[key].append(x)`` changes the copy. When the event ends, a copy that no longer is what was read is
written as its row, on behalf of the event: so it is undone, or checkpointed, with all else that it wrote.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from decimal import Decimal
from typing import Any, Protocol

from streamflow.errors import RowChanged
from streamflow.state.changelog import value_bytes
from streamflow.state.event_context import EventContext, current_context
from streamflow.state.stores.base import MISSING

_UNCHANGING = frozenset({tuple, bytes, Decimal, complex, frozenset})
Find = Callable[[], Any]
"""The row's value as it is now, or `MISSING`."""


class Writable(Protocol):
    """A table, as a copy of its row sees it."""

    @property
    def name(self) -> str: ...

    def write_for(self, context: EventContext, key: Hashable, value: object, start: int) -> None:
        """Sets a row on behalf of the event in flight."""
        ...


class HandedCopy:
    """``value`` is what the agent has; ``find`` gives the row as it is now. ``is_new``: there was none."""

    __slots__ = ("_find", "_is_new", "_key", "_place", "_read", "_start", "_table", "value")

    def __init__(
        self,
        table: Writable,
        start: int,
        key: Hashable,
        value: object,
        find: Find,
        *,
        place: object,
        is_new: bool,
    ) -> None:
        self.value = value
        self._table = table
        self._start = start
        self._key = key
        self._place = place
        self._read = value_bytes(value)
        self._find = find
        self._is_new = is_new

    def write_back(self, context: EventContext) -> None:
        """Writes the row if the copy was changed since it was read, or written.

        Raises TypeError for what can't be written, RowChanged where another event was faster.
        """
        now = value_bytes(self.value)
        if now == self._read:
            return
        context.return_to(self._place)
        token = current_context.set(context)  # an event may be acknowledged from elsewhere
        try:
            self._check(self._find())
        finally:
            current_context.reset(token)
        self._table.write_for(context, self._key, self.value, self._start)
        self._read, self._is_new = now, False

    def _check(self, found: object) -> None:
        """Is the row still what was read?"""
        if found is self.value or (found is MISSING and self._is_new):
            return
        if found is MISSING or self._is_new or value_bytes(found) != self._read:
            raise RowChanged(
                f"table {self._table.name!r}: another event wrote the row of {self._key!r} while this one "
                "changed its value in place; so this one is tried again. To have it at once, write it: "
                "table[key] = value"
            )


def hand_out(
    context: EventContext,
    table: Writable,
    start: int,
    key: Hashable,
    value: object,
    find: Find,
    *,
    is_new: bool,
) -> Any:
    """The event's copy of a row's value, or of the table's default where ``is_new``."""
    mine = copy.deepcopy(value)
    if mine is value and value.__class__ in _UNCHANGING:
        return value
    try:
        handed = HandedCopy(table, start, key, mine, find, place=context.place(), is_new=is_new)
    except (TypeError, ValueError):
        return mine  # it could not be written anyway
    context.keep_copy(table, start, key, handed)
    return mine
