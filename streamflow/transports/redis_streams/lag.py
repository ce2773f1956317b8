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
        self.base = base
        self.before = before
        self.read: list[int] = []
        self.next = base  # the next offset of an unbroken run of reads; None: any


class Counts:
    """Counts of the partitions assigned."""

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
        if count is None:
            return
        if count.base is None:
            count.base = count.next = position
        if position == count.base and position != count.next:
            count.read, count.next = [], position  # gone back to the beginning
        if position != count.next:
            del self._counts[spot]  # what lies between has not been counted
            return
        count.read.extend(offsets)
        count.next = next_offset

    def before(self, spot: TopicPartition, offset: int) -> int:
        """UNKNOWN where it is not known."""
        count = self._counts.get(spot)
        if count is None:
            return UNKNOWN
        if count.base is None:
            return count.before
        if count.next is None or not count.base <= offset <= count.next:
            return UNKNOWN
        return count.before + bisect_left(count.read, offset)

    def settle(self, spot: TopicPartition, offset: int) -> None:
        """Committed up to there: what lies before need not be kept."""
        count = self._counts.get(spot)
        before = self.before(spot, offset)
        if count is not None and before != UNKNOWN and count.base is not None:
            del count.read[: before - count.before]
            count.base, count.before = offset, before
