"""Events in flight and what they wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from streamflow.processing.acks import AckTracker, ChunkAcks
from streamflow.state.event_context import EventContext, Sent, UncommittedWrite

if TYPE_CHECKING:
    from streamflow.processing.feed import EventFeed

Offset = tuple[str, int, int]
"""(topic, partition, offset)"""


class EventRef:
    """One event of a feed: its chunk and its index there."""

    __slots__ = ("acks", "chunk_acks", "feed", "index", "outcome")

    def __init__(self, feed: EventFeed, acks: AckTracker, chunk_acks: ChunkAcks, index: int) -> None:
        self.feed = feed
        self.acks = acks
        self.chunk_acks = chunk_acks
        self.index = index
        self.outcome = "counted"

    @property
    def at(self) -> Offset:
        chunk = self.chunk_acks.chunk
        return chunk.topic, chunk.partition, chunk.offsets[self.index]

    @property
    def value(self) -> Any:
        events = self.chunk_acks.chunk.events
        assert events is not None
        return events[self.index]


class InFlight(EventContext):
    """One event, or the events of one batch, in flight: all of it is done, or undone, together.

    It stands at one of its events: that one's partition and time are those of a table that is used.
    ``manual``: it is done when it is acknowledged, not when the next one is taken.
    """

    __slots__ = ("acked", "asked", "manual", "ref", "refs", "values")

    def __init__(self, consumer: str, refs: Sequence[EventRef], *, manual: bool = False) -> None:
        super().__init__(consumer)
        self.refs: list[EventRef] = []
        self.values: list[Any] = []  # of a batch: what its processors made of the events
        self.manual = manual
        self.acked = False
        self.asked: set[EventRef] = set()  # of a batch: events that were acknowledged
        self.in_flight = True
        for ref in refs:
            self.add(ref)

    def add(self, ref: EventRef) -> None:
        self.refs.append(ref)
        self.stand_at(ref)

    def stand_at(self, ref: EventRef) -> None:
        chunk = ref.chunk_acks.chunk
        self.ref = ref
        self.chunk = chunk
        self.position = ref.index
        self.partition = chunk.partition
        self.keys = chunk.keys
        self.times = chunk.times_ms

    def move_to(self, key: Any) -> bool:
        """The last event with the key."""
        if self.keys[self.position] == key:
            return True
        for ref in reversed(self.refs):
            if ref.chunk_acks.chunk.keys[ref.index] == key:
                self.stand_at(ref)
                return True
        return False

    def running_watermark_ms(self) -> int:
        return self.ref.chunk_acks.watermark_ms(self.ref.index)

    def holds(self, index: int) -> bool:
        return self.in_flight and not self.acked

    def revert(self) -> None:
        for _, part, start, key, before in reversed(self.uncommitted_writes):
            part.put_back(start, key, before)
        self.uncommitted_writes.clear()
        for _, _, future in self.sends:
            if future is not None:
                future.cancel()
        self.sends.clear()
        for ref in self.refs:
            ref.outcome = "counted"

    def take_sends(self) -> list[Sent]:
        sends, self.sends = self.sends, []
        return sends

    def held_writes(self) -> list[UncommittedWrite]:
        return self.uncommitted_writes

    def writes(self) -> list[UncommittedWrite]:
        return self.uncommitted_writes if self.in_flight else []


class Batch(list[Any]):
    """The values of one batch. Going through it in a loop stands at each one's event in turn: its
    partition and its time are what a table sees, and `current_event` is it.
    """

    def __init__(self, unit: InFlight, values: Sequence[Any], refs: Sequence[EventRef]) -> None:
        super().__init__(values)
        self._unit = unit
        self._refs = list(refs)

    def mapped(self, change: Callable[[Any, EventRef], Any]) -> Batch:
        """The same batch with other values, each of the one before and of its place."""
        values = list.__iter__(self)
        changed = [change(value, ref) for value, ref in zip(values, self._refs, strict=True)]
        return Batch(self._unit, changed, self._refs)

    def __iter__(self) -> Iterator[Any]:
        unit = self._unit
        for value, ref in zip(super().__iter__(), self._refs, strict=False):
            unit.stand_at(ref)
            yield value
