"""Undo, retry, set aside, on both paths."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from streamflow.errors import EventTypeError
from streamflow.processing.feed import Actor
from streamflow.processing.gate import Gate
from streamflow.processing.units import Place, Unit

logger = logging.getLogger(__name__)


DRAIN_MAX_MS = 30_000.0
"""A checkpoint waits so long for events in hand that wrote one row together."""


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
