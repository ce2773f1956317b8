"""Global tables: every worker holds the rows of all partitions, by following every changelog partition.

A row is written like that of any table, in the partition of its event, and comes back to every worker
from the changelog once it is checkpointed. A key that was written in several partitions has the value
with the newest record timestamp, and of equal ones that of the highest partition; so all workers agree.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from streamflow.state.partition import TableSpec
from streamflow.state.stores.base import MISSING
from streamflow.transports.base import Batch, TopicPartition


class GlobalTableView:
    """The rows of one global table, as far as its changelog has been read."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        # start -> key -> (record timestamp in ms, partition, value)
        self._rows: dict[int, dict[Any, tuple[int, int, Any]]] = {}

    def read(self, batch: Batch) -> None:
        """Takes a batch of one changelog partition. Raises ChangelogError."""
        codec = self.spec.codec
        for key, value, stamp_ms in zip(batch.keys, batch.values, batch.timestamps_ms, strict=True):
            if key is None:
                continue
            start, row_key = codec.decode_key(key)
            rows = self._rows.setdefault(start, {})
            found = rows.get(row_key)
            if found is not None and found[:2] > (stamp_ms, batch.partition) and found[1] != batch.partition:
                continue
            if value is not None:
                rows[row_key] = (stamp_ms, batch.partition, codec.decode_value(value))
            elif found is not None:
                del rows[row_key]
            if not rows:
                del self._rows[start]

    def get(self, start: int, key: Hashable) -> tuple[int, Any]:
        """(partition that wrote it last, value), or (-1, `MISSING`)."""
        found = self._rows.get(start, {}).get(key)
        return (-1, MISSING) if found is None else (found[1], found[2])

    def keys(self, start: int) -> Iterator[Any]:
        """The keys of one window's rows."""
        return iter(list(self._rows.get(start, ())))

    def starts(self) -> list[int]:
        return sorted(self._rows)

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._rows.values())


def global_logs(specs: Iterable[TableSpec]) -> list[TopicPartition]:
    """Every changelog partition of these tables."""
    return [(spec.changelog, partition) for spec in specs for partition in range(spec.partitions)]
