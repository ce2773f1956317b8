"""How many entries of a stream lie before an offset: what XINFO GROUPS makes its lag of.

Offsets are never counted, so the entries are, as they are read. Where the count is not known, after a
seek to elsewhere, none is told, and Redis says lag ``nil`` until the group stands at the end.

The server counts every entry that ever came. What it says lies before a position and was not read has left
the stream unread (`XTRIM`, ``MAXLEN``, `XDEL`): `LagCounts.gone` finds how many, whenever that was.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from streamflow.transports.base import TopicPartition

UNKNOWN = -1


class Extent(NamedTuple):
    """A stream at one moment: entries that ever came and that are there, its first offset and its end."""

    added: int
    length: int
    first: int
    end: int


class _Count:
    """``before`` entries lie below ``base``; ``read`` are offsets of entries from there on, in order.

    Without a ``base``, below ``first``, the first entry that was there: reading begins at it, or before.
    """

    def __init__(self, base: int | None, before: int, first: int | None = None) -> None:
        self._base = base
        self._first = first
        self._before = before
        self._read: list[int] = []
        self._next = base  # the next offset of an unbroken run of reads; None: any
        self._gone: list[tuple[int, int]] = []  # (position, entries found gone below it), in order
        self._found_before = 0  # of those that were found before the reading went back

    def add(self, position: int, offsets: Sequence[int], next_offset: int) -> bool:
        """False where entries lie between that have not been counted."""
        if not self.begins(position):
            return False
        if position == self._base and position != self._next:
            self._read, self._next = [], position  # gone back to the beginning
            self._found_before += sum(count for _, count in self._gone)
            self._gone = []
        if position != self._next:
            return False
        self._read.extend(offsets)
        self._next = next_offset
        return True

    def begins(self, position: int) -> bool:
        """Reading begins there where it has not yet. False: entries lie before it that were passed over."""
        if self._base is None:
            if self._first is not None and position > self._first:
                return False
            self._base = self._next = position
        return True

    def before(self, offset: int) -> int:
        """UNKNOWN where it is not known."""
        if self._base is None:
            return self._before
        if self._next is None or not self._base <= offset <= self._next:
            return UNKNOWN
        gone = sum(count for at, count in self._gone if at <= offset)
        return self._before + gone + bisect_left(self._read, offset)

    def settle(self, offset: int) -> None:
        """What lies before need not be kept."""
        before = self.before(offset)
        if before != UNKNOWN and self._base is not None:
            del self._read[: bisect_left(self._read, offset)]
            self._gone = [(at, count) for at, count in self._gone if at > offset]
            self._base, self._before = offset, before

    def pass_by(self, position: int, count: int) -> int:
        """``count`` entries below ``position`` went unread; returns how many of them were not known yet."""
        self._gone.append((position, count))
        known = min(count, self._found_before)
        self._found_before -= known
        return count - known


class LagCounts:
    """Of the partitions assigned."""

    def __init__(self) -> None:
        self._counts: dict[TopicPartition, _Count] = {}

    def begin(self, spot: TopicPartition, base: int | None, before: int, first: int | None = None) -> None:
        """``base`` None: the first read begins where ``before`` entries were, at ``first`` or below.

        What has been counted from there on stays: the reader may go on where it was.
        """
        counted = UNKNOWN if base is None else self.before(spot, base)
        if base is not None and counted != UNKNOWN and before in (UNKNOWN, counted):
            self.settle(spot, base)
            return
        self._counts.pop(spot, None)
        if before >= 0:
            self._counts[spot] = _Count(base, before, first)

    def add(self, spot: TopicPartition, position: int, offsets: Sequence[int], next_offset: int) -> None:
        """Entries that were read from ``position`` on."""
        count = self._counts.get(spot)
        if count is not None and not count.add(position, offsets, next_offset):
            del self._counts[spot]

    def knows(self, spot: TopicPartition) -> bool:
        return spot in self._counts

    def gone(self, spot: TopicPartition, position: int, stream: Extent) -> int | None:
        """How many more entries below ``position`` have left the stream and were never read.

        From here on they count as passed. ``None`` where it can't be told now: read ones still lie there.
        """
        count = self._counts.get(spot)
        if count is None or not count.begins(position):
            return 0
        before = count.before(position)
        if before == UNKNOWN:
            return 0
        if position >= stream.end or not stream.length:
            there = stream.added
        elif position <= stream.first:
            there = stream.added - stream.length
        else:
            return None
        return count.pass_by(position, there - before) if there > before else 0

    def before(self, spot: TopicPartition, offset: int) -> int:
        """UNKNOWN where it is not known."""
        count = self._counts.get(spot)
        return UNKNOWN if count is None else count.before(offset)

    def settle(self, spot: TopicPartition, offset: int) -> None:
        """Committed up to there."""
        count = self._counts.get(spot)
        if count is not None:
            count.settle(offset)
