"""Failures, of both paths: undo, retry, set aside; and what can't be undone in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from streamflow.processing.failure_policy import FailurePolicy
from streamflow.processing.gate import Gate
from streamflow.processing.retries import Failing
from streamflow.processing.units import InFlight
from streamflow.state.event_context import EventContext

logger = logging.getLogger(__name__)


DRAIN_MAX_MS = 30_000.0
"""A checkpoint waits so long for events in flight that wrote one row together."""


class MemoryInvalid(Exception):
    """What failed can't be undone in memory: the engine reads everything back from the log."""


class Failed(Protocol):
    """What an agent had in flight when it raised. The steps of its recovery are those of its path."""

    consumer: str

    def held(self) -> Sequence[EventContext]:
        """What of it is not done."""
        ...

    def together(self, context: EventContext) -> Sequence[EventContext]:
        """Of what is held, what wrote all that it wrote before this one did, or all of it after."""
        ...

    def require_exclusive(self) -> None:
        """When its events come again, each of them will be the only one in flight."""

    def undo(self) -> bool:
        """Undoes all of it. False: what the agent raised for was done before, so nothing is at fault."""
        ...

    @property
    def policy(self) -> FailurePolicy:
        """What follows when its events fail."""
        ...

    def failing(self) -> Failing:
        """What is at fault has failed once more."""
        ...

    def is_single(self) -> bool:
        """Is it one event? Which of a batch is at fault shows when each is tried again alone."""
        ...

    def set_aside(self, exc: BaseException) -> None:
        """The event is given up, or goes on to a retry topic. Raises where that stops the worker."""

    async def retry(self, failing: Failing) -> None:
        """Waits, and has what is at fault come next."""


async def recover_failed(failed: Failed, gate: Gate, exc: Exception) -> None:
    """Undoes what an agent that raised has in flight; waits and has it tried again, or sets it aside.

    Raises MemoryInvalid, and what giving up raises.
    """
    if any(gate.is_conflicting(context, failed.together(context)) for context in failed.held()):
        failed.require_exclusive()
        gate.invalidate(f"{failed.consumer} failed while another event held the same row: {exc}")
        raise MemoryInvalid from exc
    if not failed.undo():
        logger.warning("an agent raised after it had acknowledged its event: %r", exc, exc_info=exc)
        return
    failing = failed.failing()
    if failed.policy.is_over(exc, failing) and failed.is_single():
        failed.set_aside(exc)
    else:
        await failed.retry(failing)


def require_exclusive(context: EventContext) -> None:
    """When the events of a unit come again, each of them will be the only one in flight."""
    if isinstance(context, InFlight):
        for ref in context.refs:
            ref.feed.make_exclusive(ref.at)


async def await_conflicts(gate: Gate, is_held: Callable[[], bool]) -> None:
    """Before a cut: waits for events that wrote one row together. What takes too long invalidates it all.

    ``is_held``: is the assignment still the one that is to be cut?
    """
    if await gate.await_conflicts(DRAIN_MAX_MS) or gate.invalidated is not None or not is_held():
        return
    for context in gate.conflicting():
        require_exclusive(context)
        logger.warning(
            "%s holds an event for more than %d s, and a row that another event changed: everything since "
            "the last checkpoint is taken again",
            context.consumer,
            DRAIN_MAX_MS / 1_000,
        )
        gate.invalidate(f"{context.consumer} holds an event for too long")
