"""Undo, retry, set aside, on both paths."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from streamflow.errors import EventTypeError
from streamflow.processing.feed import Actor
from streamflow.processing.gate import Gate
from streamflow.processing.units import EventRef, InFlight

logger = logging.getLogger(__name__)


DRAIN_MAX_MS = 30_000.0
"""A checkpoint waits so long for events in flight that wrote one row together."""


class MemoryInvalid(Exception):
    """What failed can't be undone in memory: the engine reads everything back from the log."""


async def recover_failed(actor: Actor, exc: Exception) -> bool:
    """Undoes what an actor that raised has in flight; waits and has it tried again, or sets it aside.

    False: it had nothing in flight. Raises Torn, and what giving up raises.
    """
    held = [unit for unit in actor.units if not unit.acked]
    if not actor.units:
        return False
    if any(actor.gate.is_conflicting(unit) for unit in held):
        for unit in held:
            require_exclusive(unit)
        actor.gate.invalidate(f"{held[0].consumer} failed while another event held the same row: {exc}")
        raise MemoryInvalid from exc
    culprit = actor.current if actor.current in held else None
    refs = actor.undo()
    at_fault = [] if culprit is None else culprit.refs
    _put_back([ref for ref in refs if ref not in at_fault], actor)
    if not at_fault:
        logger.warning("an agent raised after it had acknowledged its event: %r", exc, exc_info=exc)
        return True
    feed = at_fault[0].feed
    attempts = feed.attempts[at_fault[0].at] = feed.attempts.get(at_fault[0].at, 0) + 1
    if len(at_fault) > 1:
        for ref in at_fault:
            ref.feed.single.add(ref.at)
    elif attempts >= feed.retry.attempts or isinstance(exc, EventTypeError) or feed.local:
        ref = at_fault[0]
        feed.give_up(ref.chunk_acks.chunk, ref.index, exc)
        ref.outcome = "failed"
        feed.finish(ref)
        return True
    feed.retries += 1
    await feed.pause_ms(feed.retry.wait_ms(attempts))
    if not actor.stale:
        _put_back(at_fault, actor)
    return True


def _put_back(refs: Sequence[EventRef], actor: Actor) -> None:
    for feed in {ref.feed: None for ref in refs}:
        feed.put_back([ref for ref in refs if ref.feed is feed], actor.lane)


def require_exclusive(unit: InFlight) -> None:
    """When its events come again, each of them will be the only one in flight."""
    for ref in unit.refs:
        ref.feed.exclusive.add(ref.at)


async def await_conflicts(gate: Gate, is_held: Callable[[], bool]) -> None:
    """Before a cut: waits for events that wrote one row together. What takes too long invalidates it all.

    ``is_held``: is the assignment still the one that is to be cut?
    """
    if await gate.await_conflicts(DRAIN_MAX_MS) or gate.invalidated is not None or not is_held():
        return
    for context in gate.conflicting():
        if isinstance(context, InFlight):
            require_exclusive(context)
        logger.warning(
            "%s holds an event for more than %d s, and a row that another event changed: everything since "
            "the last checkpoint is taken again",
            context.consumer,
            DRAIN_MAX_MS / 1_000,
        )
        gate.invalidate(f"{context.consumer} holds an event for too long")
