"""The contract of a store: the checkpointed rows of one table partition, and how far they have come.

A row is ``(start, key) -> value``: the window's start in epoch ms (`NO_WINDOW` for a table without
windows). A store only ever sees rows that a checkpoint has made durable, in the order of their
checkpoints, so what it holds may be shown to anybody.

INVARIANT: the rows are what the committed records of the changelog partition below ``offset`` say, apart
from windows that were dropped because they have expired. Whoever reads on from ``offset`` brings the
store up to date, whatever happened to the partition in between. Rows and offset move in one step, also
on a disk. ``tests/contract/store_contract.py`` is the suite that every store passes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
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
    """One table partition's checkpointed rows. Methods raise StoreError where a disk fails."""

    @property
    def offset(self) -> int:
        """Next offset of the changelog partition; 0: nothing was read yet."""
        ...

    def get(self, start: int, key: Hashable) -> Any:
        """The row's value, or `MISSING`. The caller must not change it."""
        ...

    def apply(
        self,
        changes: Mapping[int, Mapping[Any, Any]],
        offset: int | None = None,
        drops: Iterable[int] = (),
    ) -> None:
        """Folds one checkpoint in: `DELETED` takes a row away, and the windows in ``drops`` go behind that.

        ``offset``: all committed records of the changelog below it are in the rows now (``None``: it
        stays). All of it in one step: after a crash everything is there, or nothing.
        """
        ...

    def starts(self) -> list[int]:
        """The starts of the windows that have rows, in order."""
        ...

    def first_start(self) -> int | None:
        """The oldest of `starts`."""
        ...

    def next_start(self, start: int | None, *, descending: bool = False) -> int | None:
        """The one of `starts` behind ``start`` (``None``: the first), or before it, if ``descending``.

        In no time that grows with the windows.
        """
        ...

    def window(self, start: int) -> Mapping[Any, Any]:
        """The rows of one window (empty where there is none). It may be read from a disk as one asks."""
        ...

    def scan(self) -> Iterator[tuple[int, Any, Any]]:
        """Every row as (start, key, value), oldest window first."""
        ...

    def clear(self) -> None:
        """Forgets every row, and that anything was read."""
        ...

    def touch(self) -> None:
        """Notes that it was up to date now: it may be caught up from `offset` for some time from here."""
        ...

    def close(self) -> None:
        """Nothing is called any more. Idempotent."""
        ...

    def __len__(self) -> int:
        """Number of rows."""
        ...
