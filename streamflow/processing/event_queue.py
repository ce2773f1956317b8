"""What was fetched for an agent and not taken yet, and the policy for when that is too much.

With `block` a full queue makes the partition wait. The other policies drop single events, the oldest or the
newest that wait. A burst may be larger than the limit though the agent keeps up, so nothing is dropped before
the agent is behind: before it has not come to the end of its queue for `BEHIND_MS`. Until then a full
queue makes the partition wait there too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from streamflow.codecs.chunk import Chunk
from streamflow.processing.buffer import Buffer
from streamflow.transports.base import TopicPartition

BEHIND_MS = 1_000.0
BLOCK_EVENTS_MAX = 512
BLOCK_MS = 1.0

Entry = tuple[Chunk, int]
"""A chunk and 0; or a chunk without events, in place of so many that were dropped."""


@dataclass(frozen=True, slots=True)
class AgentListener:
    """Told when an agent is no longer full, how many events its policy drops, how many seconds it was at work
    on a batch, and what it raised for an event, at each attempt.
    """

    on_room: Callable[[], None] = lambda: None
    on_drop: Callable[[int], None] = lambda _: None
    on_batch: Callable[[float], None] = lambda _: None
    on_failure: Callable[[BaseException], None] = lambda _: None


class EventQueue:
    """The events that wait for one agent, or for one lane of it, oldest first.

    An agent that may lose events takes them in blocks
    of about a millisecond, and never more than the limit: what it took it keeps.
    """

    def __init__(self, buffer: Buffer, now_ms: Callable[[], float], told: AgentListener) -> None:
        self.events = 0  # that wait
        self.bytes = 0  # of their keys and values; counted where there is a limit
        self._buffer = buffer
        self._drops = buffer.when_full != "block"
        self._now_ms = now_ms
        self._told = told
        self._entries: deque[Entry] = deque()
        self._head = 0  # so many events of the first chunk were taken
        self._busy_since_ms: float | None = None  # when events came to it while it had none
        self._block = 1
        self._took_ms: float | None = None  # when the newest events were taken, while it is at work on them

    def put(self, chunk: Chunk) -> None:
        if self._busy_since_ms is None:
            self._busy_since_ms = self._now_ms() if self._drops else 0.0
        self._entries.append((chunk, 0))
        self.events += len(chunk)
        self.bytes += self._bytes_of(chunk)
        self.trim()

    def put_back(self, chunk: Chunk) -> None:
        """These were taken and are not begun: they come next."""
        self._cut_head()
        self._entries.appendleft((chunk, 0))
        self.events += len(chunk)
        self.bytes += self._bytes_of(chunk)

    def take(self) -> Entry | None:
        """The next chunk, or how many events were dropped in its place; ``None``: nothing waits."""
        self.trim()
        now_ms, before_ms = self._now_ms(), self._took_ms
        took_ms = None if before_ms is None else now_ms - before_ms
        if took_ms is not None:
            self._told.on_batch(took_ms / 1_000)
        if not self._entries:
            self._busy_since_ms = self._took_ms = None
            return None
        self._took_ms = now_ms
        chunk, dropped = self._entries[0]
        first, last = self._head, len(chunk)
        if self._drops and last - first > 1:
            last = min(last, first + self._next_block(took_ms))
        if last < len(chunk):
            self._head = last
        else:
            self._head = 0
            self._entries.popleft()
        self.events -= last - first
        taken = chunk if last - first == len(chunk) else chunk.between(first, last)
        self.bytes -= self._bytes_of(taken)
        return taken, dropped

    def _next_block(self, took_ms: float | None) -> int:
        """``took_ms``: so long the agent was at work on the block before."""
        if took_ms is not None and took_ms <= BLOCK_MS:
            self._block = min(2 * self._block, BLOCK_EVENTS_MAX, self._buffer.events_max)
        elif took_ms is not None:
            self._block = max(1, int(self._block * BLOCK_MS / took_ms))
        return self._block

    def is_full(self) -> bool:
        """Must its partitions wait?"""
        bytes_max = self._buffer.bytes_max
        full = self.events >= self._buffer.events_max or (bytes_max is not None and self.bytes >= bytes_max)
        return full and not self._is_behind()

    def _is_behind(self) -> bool:
        since_ms = self._busy_since_ms
        return self._drops and since_ms is not None and self._now_ms() - since_ms >= BEHIND_MS

    def trim(self) -> None:
        """Drops what is too much, if it drops at all and its agent is behind."""
        if not self._drops or not self._is_too_much() or not self._is_behind():
            return
        self._cut_head()
        oldest = self._buffer.when_full == "drop_oldest"
        excess = self._excess(oldest=oldest)
        if excess > 0:
            self._drop(excess, oldest=oldest)
            self._told.on_drop(excess)

    def _is_too_much(self) -> bool:
        bytes_max = self._buffer.bytes_max
        return self.events > self._buffer.events_max or (bytes_max is not None and self.bytes > bytes_max)

    def _excess(self, *, oldest: bool) -> int:
        """So many events have to go at one end, until neither limit is passed or one event is left."""
        excess = max(0, self.events - self._buffer.events_max)
        bytes_max = self._buffer.bytes_max
        if bytes_max is None or self.bytes <= bytes_max:
            return excess
        left, count = self.bytes, 0
        for chunk, _ in self._entries if oldest else reversed(self._entries):
            for size in _sizes(chunk) if oldest else reversed(_sizes(chunk)):
                if (left <= bytes_max and count >= excess) or count == self.events - 1:
                    return count
                left -= size
                count += 1
        return count

    def _bytes_of(self, chunk: Chunk) -> int:
        return 0 if self._buffer.bytes_max is None else sum(_sizes(chunk))

    def _drop(self, excess: int, *, oldest: bool) -> None:
        """In place of what goes stands one entry for each partition, before, or behind, what stays of it."""
        entries = self._entries
        gone: dict[TopicPartition, Entry] = {}
        self.events -= excess
        self.bytes -= sum(self._bytes_of(chunk) for chunk, _ in entries)
        while excess > 0:
            chunk, dropped = entries.popleft() if oldest else entries.pop()
            size = len(chunk)
            count = min(excess, size)
            excess -= count
            if count < size and oldest:
                entries.appendleft((chunk.between(count, size), 0))
                chunk = chunk.between(0, count)
            elif count < size:
                entries.append((chunk.between(0, size - count), 0))
            at = (chunk.topic, chunk.partition)
            last, before = gone.get(at, (chunk, 0))
            last = chunk if chunk.next_offset > last.next_offset else last
            gone[at] = last, before + dropped + count
        self.bytes += sum(self._bytes_of(chunk) for chunk, _ in entries)
        for last, count in gone.values():
            entry = last.between(len(last), len(last)), count
            if oldest:
                entries.appendleft(entry)
            else:
                entries.append(entry)

    def _cut_head(self) -> None:
        if self._head:
            chunk, _ = self._entries.popleft()
            self._entries.appendleft((chunk.between(self._head, len(chunk)), 0))
            self._head = 0

    def forget(self, at: TopicPartition) -> None:
        """What waits of this partition is read again."""
        self._cut_head()
        self._entries = deque(entry for entry in self._entries if (entry[0].topic, entry[0].partition) != at)
        self.events = sum(len(chunk) for chunk, _ in self._entries)
        self.bytes = sum(self._bytes_of(chunk) for chunk, _ in self._entries)

    def clear(self) -> None:
        self._entries.clear()
        self.events = self.bytes = self._head = 0
        self._busy_since_ms = self._took_ms = None


def _sizes(chunk: Chunk) -> list[int]:
    """Bytes of key and value of each event."""
    return [
        len(key or b"") + len(value or b"")
        for key, value in zip(chunk.raw_keys, chunk.raw_values, strict=True)
    ]
