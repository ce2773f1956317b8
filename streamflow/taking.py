"""How actors take units on the general road: one by one or in batches; and what happens when one fails."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from streamflow.errors import EventTypeError
from streamflow.gate import Gate
from streamflow.general import Actor, Batch, Feed, Place, Unit

logger = logging.getLogger(__name__)

DRAIN_MAX_MS = 30_000.0
"""A checkpoint waits so long for events in hand that wrote one row together."""
FILTERED = object()
"""What processing gives for an event that its consumer does not want to see: it is done."""


class Several(list[Any]):
    """What processing gives where one event becomes several values."""


Process = Callable[[Unit], Awaitable[Any]]
"""The value that the agent is to see for the event where the unit stands, or `FILTERED`."""


async def as_it_is(unit: Unit) -> Any:
    return unit.place.value


class UnitStream:
    """What an actor takes of one or several feeds.

    ``manual``: an event is done when it is acknowledged, and not when the next one is taken.
    """

    def __init__(
        self, feeds: Sequence[Feed], actor: Actor, process: Process = as_it_is, *, manual: bool = False
    ) -> None:
        self.feeds = list(feeds)
        self.actor = actor
        self.manual = manual
        self._process = process
        for feed in feeds:
            if actor not in feed.actors:
                feed.actors.append(actor)

    def leave(self) -> None:
        """The actor takes no more of these feeds; what it has in hand is its own to end."""
        for feed in self.feeds:
            if self.actor in feed.actors:
                feed.actors.remove(self.actor)

    async def each(self) -> AsyncIterator[Unit]:
        """One event at a time. ``values`` of the unit is what its processing gave."""
        actor = self.actor
        while True:
            actor.finish()
            place = await actor.take(self.feeds)
            if place is None:
                return
            unit = await actor.begin(place, manual=self.manual)
            value = await self._process(unit)
            if value is FILTERED:
                actor.ack(unit)
                continue
            for each in value if isinstance(value, Several) else (value,):
                unit.values = [each]
                yield unit

    async def batches(self, events_max: int, within_ms: float | None) -> AsyncIterator[tuple[Unit, Batch]]:
        """Up to ``events_max`` events at a time, fewer when ``within_ms`` have passed since the first.

        A batch is one unit: its events are done when the next one is taken. Of a batch that fails each
        event is tried again alone.
        """
        actor = self.actor
        while True:
            actor.finish()
            place = await actor.take(self.feeds)
            if place is None:
                return
            until_ms = None if within_ms is None else actor.now_ms() + within_ms
            unit = await actor.begin(place, manual=self.manual)
            taken = [place] * await self._into(unit)
            while len(taken) < events_max and not _goes_alone(unit.places[-1]):
                place = await actor.take(self.feeds, until_ms, gathering=True)
                if place is None:
                    break
                if _goes_alone(place):
                    place.feed.put_back([place], actor.lane)
                    break
                unit.add(place)
                taken += [place] * await self._into(unit)
            if taken:
                yield unit, Batch(unit, unit.values, taken)
            else:
                actor.ack(unit)

    async def _into(self, unit: Unit) -> int:
        """Adds what the event gives to the batch; returns how many values."""
        value = await self._process(unit)
        if value is FILTERED:
            unit.asked.add(unit.place)
            return 0
        values = value if isinstance(value, Several) else [value]
        unit.values.extend(values)
        return len(values)


def _goes_alone(place: Place) -> bool:
    return place.feed.is_single(place) or place.feed.is_alone(place)


class Torn(Exception):
    """What failed can't be undone in memory: the engine reads everything back from the log."""


async def mend(actor: Actor, exc: Exception) -> bool:
    """Undoes what an actor that raised has in hand; waits and has it tried again, or sets it aside.

    False: it had nothing in hand. Raises Torn, and what giving up raises.
    """
    held = [unit for unit in actor.units if not unit.acked]
    if not actor.units:
        return False
    if any(actor.gate.is_entangled(unit) for unit in held):
        for unit in held:
            run_alone(unit)
        actor.gate.tear(f"{held[0].consumer} failed while another event held the same row: {exc}")
        raise Torn from exc
    culprit = actor.current if actor.current in held else None
    places = actor.undo()
    at_fault = [] if culprit is None else culprit.places
    _put_back([place for place in places if place not in at_fault], actor)
    if not at_fault:
        logger.warning("an agent raised after it had acknowledged its event: %r", exc, exc_info=exc)
        return True
    feed = at_fault[0].feed
    attempts = feed.attempts[at_fault[0].at] = feed.attempts.get(at_fault[0].at, 0) + 1
    if len(at_fault) > 1:
        for place in at_fault:
            place.feed.single.add(place.at)
    elif attempts >= feed.retry.attempts or isinstance(exc, EventTypeError) or feed.local:
        place = at_fault[0]
        feed.give_up(place.lot.chunk, place.index, exc)
        place.outcome = "failed"
        feed.finish(place)
        return True
    feed.retries += 1
    await feed.pause_ms(feed.retry.wait_ms(attempts))
    if not actor.stale:
        _put_back(at_fault, actor)
    return True


def _put_back(places: Sequence[Place], actor: Actor) -> None:
    for feed in {place.feed: None for place in places}:
        feed.put_back([place for place in places if place.feed is feed], actor.lane)


def run_alone(unit: Unit) -> None:
    """When its events come again, each of them will be the only one in hand."""
    for place in unit.places:
        place.feed.alone.add(place.at)


async def untangle(gate: Gate, is_held: Callable[[], bool]) -> None:
    """Before a cut: waits for events in hand that wrote one row together; tears what does not end in time.

    ``is_held``: is the assignment still the one that is to be cut?
    """
    if await gate.untangle(DRAIN_MAX_MS) or gate.torn is not None or not is_held():
        return
    for hand in gate.entangled():
        if isinstance(hand, Unit):
            run_alone(hand)
        logger.warning(
            "%s holds an event for more than %d s, and a row that another event changed: everything since "
            "the last checkpoint is taken again",
            hand.consumer,
            DRAIN_MAX_MS / 1_000,
        )
        gate.tear(f"{hand.consumer} holds an event for too long")
