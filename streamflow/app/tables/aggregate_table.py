"""A declared aggregate as Python reads it: like a dict of the rows that this worker serves."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from streamflow.aggregates.spec import AggregateSpec
from streamflow.engine.engine import Engine
from streamflow.query.reader import TableReaderBase
from streamflow.query.readers import make_reader
from streamflow.query.rows import Row


class AggregateTable(Mapping[Any, Any]):
    """``table[key]`` is the value of the key's newest window. Checkpointed rows, and only this worker's.

    Where there is one row for each window (``by=None``), the key is the window's start in epoch ms.
    """

    def __init__(self, spec: AggregateSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self._engine: Engine | None = None
        self._read: TableReaderBase | None = None

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def attach(self, engine: Engine) -> None:
        self._engine = engine
        self._read = None

    @property
    def reader(self) -> TableReaderBase:
        """Raises TypeError before the worker has started."""
        if self._engine is None or not self._engine.topology.topics.counts:
            raise TypeError(f"aggregate {self.name!r} can be read only in a running worker")
        if self._read is None:
            self._read = make_reader(self._engine, self.name)
        return self._read

    def _row(self, key: Hashable) -> Row | None:
        reader = self.reader
        if reader.keyed:
            return reader.get(key)
        return next((row for row in self.rows() if row.start_ms == key), None)

    def rows(self) -> Iterator[Row]:
        """Every row, of all windows, in no particular order."""
        reader = self.reader
        for partition in sorted(reader.owned):
            yield from reader.rows(partition)

    def windows(self, key: Hashable) -> list[Row]:
        """The rows of one key, oldest window first."""
        return self.reader.windows(key)

    def __getitem__(self, key: Hashable) -> Any:
        row = self._row(key)
        if row is None:
            raise KeyError(key)
        return row.value

    def __contains__(self, key: object) -> bool:
        return self._row(key) is not None

    def _newest(self) -> dict[Any, Row]:
        newest: dict[Any, Row] = {}
        for row in self.rows():
            key = row.key if self.reader.keyed else row.start_ms
            key = tuple(key) if isinstance(key, list) else key
            if key not in newest or (row.start_ms or 0) >= (newest[key].start_ms or 0):
                newest[key] = row
        return newest

    def __iter__(self) -> Iterator[Any]:
        return iter(self._newest())

    def __len__(self) -> int:
        return len(self._newest())

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<AggregateTable {self.name}>"
