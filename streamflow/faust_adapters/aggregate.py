"""A declared aggregate as Python reads it: like a dict of the rows that this worker serves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streamflow.engine import Engine
from streamflow.folds import FoldSpec
from streamflow.readers import EngineReader, make_readers


class AggregateTable:
    """``table[key]`` is the newest window's value; keys owned by other workers are asked over HTTP."""

    def __init__(self, spec: FoldSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self._engine: Engine | None = None

    def attach(self, engine: Engine) -> None:
        self._engine = engine

    def _reader(self) -> EngineReader:
        if self._engine is None:
            raise TypeError(f"aggregate {self.name!r} can be read only in a running worker")
        return make_readers(self._engine)[self.name]

    def __getitem__(self, key: Any) -> Any:
        row = self._reader().get(key)
        if row is None:
            raise KeyError(key)
        return row.value

    def get(self, key: Any, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Key and value of each checkpointed row served here."""
        reader = self._reader()
        for partition in sorted(reader.owned):
            for row in reader.rows(partition):
                yield row.key, row.value

    def __repr__(self) -> str:
        return f"<AggregateTable {self.name}>"
