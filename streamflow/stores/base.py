"""The contract of a store: the checkpointed rows of one table partition.

A row is ``(start, key) -> value``: the window's start in epoch ms (`NO_WINDOW` for a table without
windows). A store only ever sees rows that a checkpoint has made durable, in the order of their
checkpoints, so what it holds may be shown to anybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

NO_WINDOW: Final = 0


class _Marker:
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


MISSING: Final = _Marker("MISSING")
"""Answer of `Store.get` where there is no such row."""
DELETED: Final = _Marker("DELETED")
"""The value of a row in a set of changes that takes the row away."""

Rows = dict[int, dict[Any, Any]]
"""Window start -> key -> value (or `DELETED`)."""


class Store(Protocol):
    """One table partition's checkpointed rows."""

    def get(self, start: int, key: Any) -> Any:
        """The row's value, or `MISSING`. The caller must not change it."""
        ...

    def apply(self, changes: Mapping[int, Mapping[Any, Any]]) -> None:
        """Folds one checkpoint's changes in; `DELETED` takes a row away."""
        ...

    def drop_window(self, start: int) -> None:
        """Forgets every row of a window."""
        ...

    def starts(self) -> list[int]:
        """The starts of the windows that have rows, in order."""
        ...

    def first_start(self) -> int | None:
        """The oldest of `starts`."""
        ...

    def window(self, start: int) -> Mapping[Any, Any]:
        """The rows of one window (empty where there is none)."""
        ...

    def scan(self) -> Iterator[tuple[int, Any, Any]]:
        """Every row as (start, key, value), oldest window first."""
        ...

    def __len__(self) -> int:
        """Number of rows."""
        ...
