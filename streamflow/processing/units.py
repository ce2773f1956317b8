"""Units: one event or one batch of the concurrent path, done or undone together, and what it wrote.

Kafka Streams has no word for it: its tasks process one record at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

from streamflow.processing.acks import AckTracker, ChunkAcks
from streamflow.processing.failure_policy import FailurePolicy
from streamflow.processing.retries import Failing
from streamflow.state.event_context import EventContext, Sent, UncommittedWrite

Offset = tuple[str, int, int]
"""(topic, partition, offset)"""
Outcome = Literal["counted", "late", "failed", "deferred"]
"""What becomes of an event in the progress, as far as it is known while it is in flight."""


class Feed(Protocol):
    """Where an event comes from, as those see it who take it in flight: told what becomes of it.

    ``policy``: what follows when one fails. ``local``: its events come from no log, so nothing is
    checkpointed.
    """

    consumer: str
    local: bool
    policy: FailurePolicy

    def enter(self, unit: InFlight) -> None:
        """The unit is in flight, with events of this feed."""

    def leave(self, unit: InFlight) -> None:
        """It no longer is."""

    def keep(self, sends: Sequence[Sent]) -> None:
        """What a unit that is done has sent: it goes with the next checkpoint."""

    def finish(self, ref: EventRef) -> None:
        """The event is done, with the outcome that it has."""

    def put_back(self, refs: Sequence[EventRef], lane: int) -> None:
        """These come next in their lane."""

    def set_aside(self, ref: EventRef, error: BaseException) -> None:
        """The event is given up, or moved on: it is done here. Raises where that stops the worker."""

    def failing(self, ref: EventRef) -> Failing:
        """The event has failed once more."""
        ...

    async def await_retry(self, failing: Failing) -> None:
        """Waits until it is tried again."""

    def is_exclusive(self, ref: EventRef) -> bool:
        """Must it be the only event in flight?"""
        ...

    def begin_alone(self, ref: EventRef) -> None:
        """It is the only event in flight from here on."""

    def is_single(self, ref: EventRef) -> bool:
        """Must it not be in a batch with others?"""
        ...

    def make_exclusive(self, at: Offset) -> None: ...

    def make_single(self, at: Offset) -> None: ...


class EventRef:
    """One event of a feed: its chunk and its index there."""

    __slots__ = ("chunk_acks", "feed", "index", "outcome", "tracker")

    def __init__(self, feed: Feed, tracker: AckTracker, chunk_acks: ChunkAcks, index: int) -> None:
        self.feed = feed
        self.tracker = tracker
        self.chunk_acks = chunk_acks
        self.index = index
        self.outcome: Outcome = "counted"

    def become(self, outcome: Outcome) -> None:
        """What it will count as when it is done."""
        self.outcome = outcome

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
    """A unit: one event, or the events of one batch, in flight: all of it is done, or undone, together.

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
        for ref in refs:
            self.add(ref)
        self.in_flight = not self.ref.feed.local  # what is local can't be undone, so it writes no tables

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
        self.time = ref.chunk_acks.time
        self.spots = self.time.spots

    def ack(self) -> None:
        """It is done: what it wrote can't be undone any more."""
        self.acked = True
        self.uncommitted_writes.clear()
        self.conflicting = False

    def place(self) -> EventRef:
        return self.ref

    def return_to(self, place: object) -> None:
        assert isinstance(place, EventRef)
        self.stand_at(place)

    def move_to(self, key: object) -> bool:
        """The last event with the key."""
        if self.keys[self.position] == key:
            return True
        for ref in reversed(self.refs):
            if ref.chunk_acks.chunk.keys[ref.index] == key:
                self.stand_at(ref)
                return True
        return False

    def holds(self, index: int) -> bool:
        return self.in_flight and not self.acked

    def revert(self) -> None:
        self.copies = None
        for _, part, start, key, before in reversed(self.uncommitted_writes):
            part.put_back(start, key, before)
        self.uncommitted_writes.clear()
        for _, _, future in self.sends:
            if future is not None:
                future.cancel()
        self.sends.clear()
        for ref in self.refs:
            ref.become("counted")

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
        """The same batch with other values, each made of the one before and of its event."""
        values = list.__iter__(self)
        changed = [change(value, ref) for value, ref in zip(values, self._refs, strict=True)]
        return Batch(self._unit, changed, self._refs)

    def __iter__(self) -> Iterator[Any]:
        unit = self._unit
        for value, ref in zip(super().__iter__(), self._refs, strict=False):
            unit.stand_at(ref)
            yield value
