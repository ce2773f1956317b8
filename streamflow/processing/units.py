"""Events in flight and what they wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from streamflow.processing.acks import Ledger, Lot
from streamflow.state.event_context import Hand, Sent, Undo

if TYPE_CHECKING:
    from streamflow.processing.feed import Feed

Offset = tuple[str, int, int]
"""(topic, partition, offset)"""


class Place:
    """One event of a feed: its chunk and its index there."""

    __slots__ = ("feed", "index", "ledger", "lot", "outcome")

    def __init__(self, feed: Feed, ledger: Ledger, lot: Lot, index: int) -> None:
        self.feed = feed
        self.ledger = ledger
        self.lot = lot
        self.index = index
        self.outcome = "counted"

    @property
    def at(self) -> Offset:
        chunk = self.lot.chunk
        return chunk.topic, chunk.partition, chunk.offsets[self.index]

    @property
    def value(self) -> Any:
        events = self.lot.chunk.events
        assert events is not None
        return events[self.index]


class Unit(Hand):
    """One event, or the events of one batch, in hand: all of it is done, or undone, together.

    It stands at one of its events: that one's partition and time are those of a table that is used.
    ``manual``: it is done when it is acknowledged, not when the next one is taken.
    """

    __slots__ = ("acked", "asked", "manual", "place", "places", "values")

    def __init__(self, consumer: str, places: Sequence[Place], *, manual: bool = False) -> None:
        super().__init__(consumer)
        self.places: list[Place] = []
        self.values: list[Any] = []  # of a batch: what its processors made of the events
        self.manual = manual
        self.acked = False
        self.asked: set[Place] = set()  # of a batch: events that were acknowledged
        self.holding = True
        for place in places:
            self.add(place)

    def add(self, place: Place) -> None:
        self.places.append(place)
        self.stand_at(place)

    def stand_at(self, place: Place) -> None:
        chunk = place.lot.chunk
        self.place = place
        self.chunk = chunk
        self.index = place.index
        self.partition = chunk.partition
        self.keys = chunk.keys
        self.times = chunk.times_ms

    def move_to(self, key: Any) -> bool:
        """The last event with the key."""
        if self.keys[self.index] == key:
            return True
        for place in reversed(self.places):
            if place.lot.chunk.keys[place.index] == key:
                self.stand_at(place)
                return True
        return False

    def running_watermark_ms(self) -> int:
        return self.place.lot.watermark_ms(self.place.index)

    def holds(self, index: int) -> bool:
        return self.holding and not self.acked

    def revert(self) -> None:
        for _, part, start, key, before in reversed(self.undo):
            part.put_back(start, key, before)
        self.undo.clear()
        for _, _, future in self.sends:
            if future is not None:
                future.cancel()
        self.sends.clear()
        for place in self.places:
            place.outcome = "counted"

    def take_sends(self) -> list[Sent]:
        sends, self.sends = self.sends, []
        return sends

    def held_writes(self) -> list[Undo]:
        return self.undo

    def writes(self) -> list[Undo]:
        return self.undo if self.holding else []


class Batch(list[Any]):
    """The values of one batch. Going through it in a loop stands at each one's event in turn: its
    partition and its time are what a table sees, and `current_event` is it.
    """

    def __init__(self, unit: Unit, values: Sequence[Any], places: Sequence[Place]) -> None:
        super().__init__(values)
        self._unit = unit
        self._places = list(places)

    def mapped(self, change: Callable[[Any, Place], Any]) -> Batch:
        """The same batch with other values, each of the one before and of its place."""
        values = list.__iter__(self)
        changed = [change(value, place) for value, place in zip(values, self._places, strict=True)]
        return Batch(self._unit, changed, self._places)

    def __iter__(self) -> Iterator[Any]:
        unit = self._unit
        for value, place in zip(super().__iter__(), self._places, strict=False):
            unit.stand_at(place)
            yield value
