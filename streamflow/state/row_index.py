"""What is known of the rows of a table partition besides, where its windows are made by events.

Rows lie in layers (changes over cut over store) by the id of their window and by key. Which sessions a key
has, or which panes, would take a look at all of them: an index says it, by key.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Protocol


class RowIndex(Protocol):
    """The rows of all layers of one partition: `sessions.SessionIndex` or `panes.PaneIndex`.

    It may know of rows that are gone, never the other way round: whoever uses it asks for the row.
    """

    def add(self, start: int, key: Hashable) -> None:
        """There is a row of this window's id and key (it may have been known)."""
        ...

    def drop(self, start: int, keys: Iterable[Hashable]) -> None:
        """These rows of one window's id are gone (some may not have been known)."""
        ...
