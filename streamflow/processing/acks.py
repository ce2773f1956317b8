"""Which events of one partition one consumer has taken, and which of them are done, in any order.

The position is contiguous: it stands before the first event that is not done. Event time follows the
position and not the events, so that an event that is taken again after a crash is late, or not, as it was
before.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, deque

from streamflow.codecs.chunk import Chunk
from streamflow.state.chunk_time import ChunkTime
from streamflow.state.progress import Progress

Ranges = tuple[tuple[int, int], ...]
"""(first, last offset) of stretches that are done, in order."""


class ChunkAcks:
    """One chunk on its way: which of its events were handed out, which are done.

    ``before_ms`` is the consumer's watermark before this chunk, ``dropped`` how many of its events the
    buffer's policy has dropped.
    """

    __slots__ = ("chunk", "done", "dropped", "first", "next", "time")

    def __init__(self, chunk: Chunk, before_ms: int | None, known: Ranges, dropped: int) -> None:
        self.chunk = chunk
        self.time = ChunkTime(chunk.times_ms, before_ms)
        self.dropped = dropped
        self.done = bytearray(len(chunk))
        self.next = 0  # the first index that was not handed out
        self.first = 0  # everything before it is done
        for first, last in known:
            begin, end = bisect_left(chunk.offsets, first), bisect_right(chunk.offsets, last)
            self.done[begin:end] = b"\1" * (end - begin)

    def take(self) -> int | None:
        """The index of the next event to hand out; ``None``: there is none left."""
        while self.next < len(self.done):
            index = self.next
            self.next += 1
            if not self.done[index]:
                return index
        return None

    def advance(self) -> int | None:
        """Moves `first` over what is done; returns the highest event time there, if it is anything."""
        first, end = self.first, self.done.find(0, self.first)
        self.first = len(self.done) if end < 0 else end
        return max(self.chunk.times_ms[first : self.first]) if self.first > first else None

    def is_done(self) -> bool:
        return self.first >= len(self.done)


class AckTracker:
    """Of one consumer and source partition. `settle` brings its ``progress`` up to what is done."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.open = 0  # events that were opened and are not done
        self._chunks: deque[ChunkAcks] = deque()
        self._known = progress.done  # what was done before this assignment, behind the position
        self._seen_ms = progress.event_ms
        self._entered = progress.position  # where the newest chunk ends
        self._outcomes: Counter[str] = Counter()
        self.moved = False

    def enter(self, chunk: Chunk, dropped: int) -> ChunkAcks:
        """Takes a chunk; those of its events that were done before are not handed out again."""
        if self._known and chunk.offsets and self._known[-1][1] < chunk.offsets[0]:
            self._known = ()
        chunk_acks = ChunkAcks(chunk, self._seen_ms, self._known, dropped)
        if len(chunk):
            self._seen_ms = chunk_acks.time.end_ms()
        self._chunks.append(chunk_acks)
        self._entered = max(self._entered, chunk.next_offset)
        self.open += len(chunk) - sum(chunk_acks.done)
        self.moved = True
        return chunk_acks

    def finish(self, chunk_acks: ChunkAcks, index: int, outcome: str) -> None:
        """An event is done. Its effects are in the same checkpoint as this."""
        assert not chunk_acks.done[index], "an event is done once"
        chunk_acks.done[index] = 1
        self.open -= 1
        self._outcomes[outcome] += 1
        self.moved = True

    def touch(self) -> None:
        """There is something for a checkpoint, though no event is done."""
        self.moved = True

    def settle(self) -> None:
        if not self.moved:
            return
        self.moved = False
        progress, chunks = self.progress, self._chunks
        position = progress.position
        while chunks:
            chunk_acks = chunks[0]
            time_ms = chunk_acks.advance()
            if time_ms is not None:
                progress.see(time_ms)
            if not chunk_acks.is_done():
                position = max(position, chunk_acks.chunk.offsets[chunk_acks.first])
                break
            position = max(position, chunk_acks.chunk.next_offset)
            self._outcomes["dropped"] += chunk_acks.dropped
            chunks.popleft()
        progress.pass_over(self._ranges())
        progress.take(position, **self._outcomes)
        self._outcomes.clear()

    def _ranges(self) -> Ranges:
        """What is done behind the position, as stretches of offsets without an open event in between."""
        found: list[tuple[int, int]] = []
        joined = False  # was the event before done?
        for chunk_acks in self._chunks:
            offsets, done = chunk_acks.chunk.offsets, chunk_acks.done
            index, size = chunk_acks.first, len(done)
            while index < size:
                stop = done.find(0 if done[index] else 1, index)
                stop = size if stop < 0 else stop
                if done[index]:
                    first = found.pop()[0] if joined else offsets[index]
                    found.append((first, offsets[stop - 1]))
                joined = bool(done[index])
                index = stop
        found.extend(stretch for stretch in self._known if stretch[1] >= self._entered)
        return tuple(found)
