"""How actors take units on the concurrent path: one by one or in batches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from streamflow.processing.feed import Actor, EventFeed
from streamflow.processing.units import Batch, EventRef, InFlight

FILTERED = object()
"""What processing gives for an event that its consumer does not want to see: it is done."""


class FlatValues(list[Any]):
    """What processing gives where one event becomes several values."""


Process = Callable[[InFlight], Awaitable[Any]]
"""The value that the agent is to see for the event where the unit stands, or `FILTERED`."""


async def as_it_is(unit: InFlight) -> Any:
    return unit.ref.value


class UnitStream:
    """What an actor takes of one or several feeds.

    ``manual``: an event is done when it is acknowledged, and not when the next one is taken.
    """

    def __init__(
        self, feeds: Sequence[EventFeed], actor: Actor, process: Process = as_it_is, *, manual: bool = False
    ) -> None:
        self.feeds = list(feeds)
        self.actor = actor
        self.manual = manual
        self._process = process
        for feed in feeds:
            if actor not in feed.actors:
                feed.actors.append(actor)

    def leave(self) -> None:
        """The actor takes no more of these feeds; what it has in flight is its own to end."""
        for feed in self.feeds:
            if self.actor in feed.actors:
                feed.actors.remove(self.actor)

    async def each(self) -> AsyncIterator[InFlight]:
        """One event at a time. ``values`` of the unit is what its processing gave."""
        actor = self.actor
        while True:
            actor.next_of(self.feeds)
            ref = await actor.take(self.feeds)
            if ref is None:
                actor.end_loop()
                return
            unit = await actor.begin(ref, manual=self.manual)
            value = await self._process(unit)
            if value is FILTERED:
                actor.ack(unit)
                continue
            for each in value if isinstance(value, FlatValues) else (value,):
                unit.values[:] = (each,)
                yield unit

    async def batches(
        self, events_max: int, within_ms: float | None
    ) -> AsyncIterator[tuple[InFlight, Batch]]:
        """Up to ``events_max`` events at a time, fewer when ``within_ms`` have passed since the first.

        A batch is one unit: its events are done when the next one is taken. Of a batch that fails each
        event is tried again alone.
        """
        actor = self.actor
        while True:
            actor.next_of(self.feeds)
            ref = await actor.take(self.feeds)
            if ref is None:
                actor.end_loop()
                return
            until_ms = None if within_ms is None else actor.now_ms() + within_ms
            unit = await actor.begin(ref, manual=self.manual)
            taken = [ref] * await self._into(unit)
            while len(taken) < events_max and not _goes_exclusively(unit.refs[-1]):
                ref = await actor.take(self.feeds, until_ms, gathering=True)
                if ref is None:
                    break
                if _goes_exclusively(ref):
                    ref.feed.put_back([ref], actor.lane)
                    break
                unit.add(ref)
                taken += [ref] * await self._into(unit)
            if taken:
                yield unit, Batch(unit, unit.values, taken)
            else:
                actor.ack(unit)

    async def _into(self, unit: InFlight) -> int:
        """Adds what the event gives to the batch; returns how many values."""
        value = await self._process(unit)
        if value is FILTERED:
            unit.asked.add(unit.ref)
            return 0
        values = value if isinstance(value, FlatValues) else [value]
        unit.values.extend(values)
        return len(values)


def _goes_exclusively(ref: EventRef) -> bool:
    return ref.feed.is_single(ref) or ref.feed.is_exclusive(ref)
