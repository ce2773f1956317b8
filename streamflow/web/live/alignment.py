"""Changes of merged rows wait until all partitions have come equally far.

Each partition of a merged table has a position of its own for every source partition, and workers read them
one after the other: in between there is no position at which the table as a whole was what is shown. Every
commit tells all partitions how far it has come (`aggregates.shuffle.source_watermarks`), so once each has
been read they agree, mostly within milliseconds. A table that many workers write at once may not come to rest
for long: then what has waited `HOLD_MS` is shown all the same, and said not to be exact.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from streamflow.clock import Clock
from streamflow.query.table_reader import TableReader
from streamflow.web.live.filters import Item

HOLD_MS: Final = 2_000.0


class Alignment:
    """Of one feed: what waits, and since when the partitions disagree."""

    def __init__(self, clock: Clock, reader: TableReader) -> None:
        self._clock = clock
        self._reader = reader
        self._held: list[Item] = []
        self._apart_since_ms: float | None = None

    def hold(self, items: list[Item]) -> None:
        self._held.extend(items)

    @property
    def holds(self) -> bool:
        return bool(self._held)

    def take(self) -> list[Item]:
        held, self._held = self._held, []
        return held

    def forget(self) -> None:
        """What waits is void."""
        self._held = []
        self._apart_since_ms = None

    def agree(self, positions: Collection[Mapping[int, int]]) -> bool:
        """Have all workers come equally far, this one in all of its partitions?"""
        first = next(iter(positions), None)
        agrees = self._reader.is_exact and all(each == first for each in positions)
        if agrees:
            self._apart_since_ms = None
        elif self._apart_since_ms is None:
            self._apart_since_ms = self._clock.monotonic_ms()
        return agrees

    @property
    def is_overdue(self) -> bool:
        since_ms = self._apart_since_ms
        return since_ms is not None and self._clock.monotonic_ms() - since_ms >= HOLD_MS
