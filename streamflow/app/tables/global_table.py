"""Global tables: written like any table, read whole on every worker."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from streamflow.app.tables.base import holding
from streamflow.app.tables.table import Table
from streamflow.state.event_context import EventContext
from streamflow.state.global_table import GlobalTableView
from streamflow.state.stores.base import DELETED, MISSING


class GlobalTable(Table):
    """A table whose rows every worker holds: its reads see those of all partitions.

    An agent sees its own writes at once, those of others when they are checkpointed and have come back from
    the changelog. Of a key that several partitions wrote, the newest checkpointed one counts.
    """

    is_global = True

    @property
    def _all(self) -> GlobalTableView:
        assert self._engine is not None
        return self._engine.topology.global_tables[self.name]

    def find(self, key: Hashable, start: int) -> Any:
        if self.app.bench:
            return super().find(key, start)
        table, context = self.inner, holding()
        if context is not None:
            if context.copies is not None:
                context.write_copies(table)
            found = self._uncommitted(context, key, start)
            if found is not MISSING:
                return MISSING if found is DELETED else found
        partition, found = self._all.get(start, key)
        part = table.parts.get(partition)
        if part is not None and context is not None and context.partition == partition:
            return part.get(start, key)  # the log may be a little behind it
        if found is MISSING and context is not None and context.partition in table.parts:
            return table.parts[context.partition].get(start, key)
        return found

    def _uncommitted(self, context: EventContext, key: Hashable, start: int) -> Any:
        part = self.inner.parts.get(context.partition)
        if part is None:  # a topic of more partitions than the table's: its events write none of its rows
            return MISSING
        for layer in (part.changes, part.cut or {}):
            found = layer.get(start, {}).get(key, MISSING)
            if found is not MISSING:
                return found
        return MISSING

    def all_keys(self) -> list[Any]:
        if self.app.bench:
            return super().all_keys()
        keys: dict[Any, None] = {}
        for start in self._all.starts():
            keys.update(dict.fromkeys(self._all.keys(start)))
        context = holding()
        if context is not None and context.copies is not None:
            context.write_copies(self.inner)
        if context is not None and context.partition in self.inner.parts:
            keys.update(dict.fromkeys(self.inner.keys_seen(context)))
        return list(keys)
