"""How many entries of a stream lie before an offset: what XINFO GROUPS makes its lag of.

Offsets are never counted, so the entries are, as they are read. Where the count is not known, after a
seek to elsewhere, none is told, and Redis says lag ``nil`` until the group stands at the end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from streamflow.transports.base import TopicPartition

UNKNOWN = -1


class _Count:
    """``before`` entries lie below ``base``; ``read`` are offsets of entries from there on, in order."""

    def __init__(self, base: int | None, before: int) -> None:
        self._base = base
        self._before = before
        self._read: list[int] = []
        self._next = base  # the next offset of an unbroken run of reads; None: any

    def add(self, position: int, offsets: Sequence[int], next_offset: int) -> bool:
        """False where entries lie between that have not been counted."""
        if self._base is None:
            self._base = self._next = position
        if position == self._base and position != self._next:
            self._read, self._next = [], position  # gone back to the beginning
        if position != self._next:
            return False
        self._read.extend(offsets)
        self._next = next_offset
        return True

    def before(self, offset: int) -> int:
        """UNKNOWN where it is not known."""
        if self._base is None:
            return self._before
        if self._next is None or not self._base <= offset <= self._next:
            return UNKNOWN
        return self._before + bisect_left(self._read, offset)

    def settle(self, offset: int) -> None:
        """What lies before need not be kept."""
        before = self.before(offset)
        if before != UNKNOWN and self._base is not None:
            del self._read[: before - self._before]
            self._base, self._before = offset, before


class LagCounts:
    """Of the partitions assigned."""

    def __init__(self) -> None:
        self._counts: dict[TopicPartition, _Count] = {}

    def begin(self, spot: TopicPartition, base: int | None, before: int) -> None:
        """``base`` None: the first read begins where ``before`` entries were.

        What has been counted from there on stays: the reader may go on where it was.
        """
        counted = UNKNOWN if base is None else self.before(spot, base)
        if base is not None and counted != UNKNOWN and before in (UNKNOWN, counted):
            self.settle(spot, base)
            return
        self._counts.pop(spot, None)
        if before >= 0:
            self._counts[spot] = _Count(base, before)

    def add(self, spot: TopicPartition, position: int, offsets: Sequence[int], next_offset: int) -> None:
        """Entries that were read from ``position`` on."""
        count = self._counts.get(spot)
        if count is not None and not count.add(position, offsets, next_offset):
            del self._counts[spot]

    def before(self, spot: TopicPartition, offset: int) -> int:
        """UNKNOWN where it is not known."""
        count = self._counts.get(spot)
        return UNKNOWN if count is None else count.before(offset)

    def settle(self, spot: TopicPartition, offset: int) -> None:
        """Committed up to there."""
        count = self._counts.get(spot)
        if count is not None:
            count.settle(offset)
