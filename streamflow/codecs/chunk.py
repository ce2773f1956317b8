"""The good events of one batch, as columns: what a decoder hands to agents and aggregates."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from streamflow.transports.base import Headers

Getter = Callable[[Any], Any]


class Chunk:
    """Columns of equal length, in the order of the log.

    ``events`` is ``None`` where a projection decoded only the fields that somebody needs; then
    `columns` has them all. ``times_ms`` is the event time. ``next_offset`` is where reading goes on
    behind the batch, bad records and control records passed.
    """

    __slots__ = (
        "columns",
        "events",
        "headers",
        "keys",
        "next_offset",
        "offsets",
        "partition",
        "raw_keys",
        "raw_values",
        "times_ms",
        "timestamps_ms",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        partition: int,
        *,
        offsets: Sequence[int],
        keys: list[Any],
        events: list[Any] | None,
        columns: dict[str, list[Any]],
        times_ms: list[int],
        timestamps_ms: Sequence[int],
        raw: tuple[Sequence[bytes | None], Sequence[bytes | None], Sequence[Headers] | None],
        next_offset: int,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offsets = offsets
        self.keys = keys
        self.events = events
        self.columns = columns
        self.times_ms = times_ms
        self.timestamps_ms = timestamps_ms
        self.raw_keys, self.raw_values, self.headers = raw
        self.next_offset = next_offset

    def __len__(self) -> int:
        return len(self.offsets)

    def column(self, path: str, getter: Getter) -> list[Any]:
        """The values of one field path, read once from the events and shared by all who ask."""
        found = self.columns.get(path)
        if found is None:
            assert self.events is not None, f"column {path!r} was not decoded"
            found = self.columns[path] = list(map(getter, self.events))
        return found

    def select(self, indexes: Sequence[int]) -> Chunk:
        """The events at these indexes, in that order; ``next_offset`` stays."""
        return Chunk(
            self.topic,
            self.partition,
            offsets=[self.offsets[i] for i in indexes],
            keys=[self.keys[i] for i in indexes],
            events=None if self.events is None else [self.events[i] for i in indexes],
            columns={path: [column[i] for i in indexes] for path, column in self.columns.items()},
            times_ms=[self.times_ms[i] for i in indexes],
            timestamps_ms=[self.timestamps_ms[i] for i in indexes],
            raw=(
                [self.raw_keys[i] for i in indexes],
                [self.raw_values[i] for i in indexes],
                None if self.headers is None else [self.headers[i] for i in indexes],
            ),
            next_offset=self.next_offset,
        )

    def between(self, first: int, last: int) -> Chunk:
        """The events at the indexes from ``first`` to before ``last``; what lies behind them follows it."""
        return Chunk(
            self.topic,
            self.partition,
            offsets=self.offsets[first:last],
            keys=self.keys[first:last],
            events=None if self.events is None else self.events[first:last],
            columns={path: column[first:last] for path, column in self.columns.items()},
            times_ms=self.times_ms[first:last],
            timestamps_ms=self.timestamps_ms[first:last],
            raw=(
                self.raw_keys[first:last],
                self.raw_values[first:last],
                None if self.headers is None else self.headers[first:last],
            ),
            next_offset=self.offsets[last] if last < len(self.offsets) else self.next_offset,
        )

    def since(self, position: int) -> Chunk:
        """The part at and behind an offset: what a consumer at this position has not taken yet."""
        if not self.offsets or self.offsets[0] >= position:
            return self
        return self.select(range(bisect_left(self.offsets, position), len(self.offsets)))
