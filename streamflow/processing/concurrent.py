"""The concurrent path of one agent: its feed, and what its actors have in flight as units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streamflow.codecs.chunk import Chunk
from streamflow.processing.failure_policy import FailurePolicy
from streamflow.processing.failures import Failed, require_exclusive
from streamflow.processing.feed import Actor, EventFeed
from streamflow.processing.held_event import HeldEvent, Running
from streamflow.processing.in_order import InOrder
from streamflow.processing.retries import Failing
from streamflow.processing.units import EventRef, InFlight, Offset
from streamflow.state.event_context import EventContext, Sent
from streamflow.state.progress import Progress

HELD_EVENTS_MAX = 100
"""So many of the oldest are looked at: there may be 100,000 that wait for their acknowledgement."""


class Concurrent:
    """A `Path`. It goes on for good where the in-order path has ended, with its context and counters."""

    def __init__(self, feed: EventFeed, before: InOrder) -> None:
        self.feed = feed
        self.context = before.context  # never in flight here
        self._before = before
        feed.keep(before.take_outbox())
        feed.remember(before.failing_events())

    @property
    def processed(self) -> int:
        return self._before.processed + self.feed.processed

    @property
    def retries(self) -> int:
        return self._before.retries + self.feed.retries

    def hold(self, progress: Progress) -> None:
        self.feed.hold(progress)

    def contexts(self) -> list[InFlight]:
        return list(self.feed.units)

    def held_events(self, running: Running) -> list[HeldEvent]:
        # A batch that waits for more events is nobody's work.
        gathering = {actor.current for _, actor in running if actor.waiting}
        found: list[HeldEvent] = []
        for unit in list(self.feed.units)[:HELD_EVENTS_MAX]:
            if unit.acked or unit in gathering:
                continue
            at = unit.refs[0].at
            task = next((task for task, actor in running if unit in actor.units), None)
            found.append(HeldEvent(*at, len(unit.refs), task))
        return found

    def wake(self) -> None:
        self.feed.wake()

    # -- the checkpoint's side -------------------------------------------------------------------

    def due(self) -> bool:
        return self.feed.due()

    def settle(self) -> None:
        self.feed.settle()

    def take_outbox(self) -> list[Sent]:
        return self.feed.take_outbox()

    def attempts(self) -> dict[Offset, int]:
        return self.feed.attempts()

    def open_events(self) -> int:
        return self.feed.open_events()

    def abandon(self) -> None:
        self.feed.abandon()
        self.context.expire()

    def clear(self, *, running: bool) -> None:
        self.feed.clear()
        if running:
            self.context.clear()
        else:
            self.context = EventContext(self.feed.consumer)

    # -- the agent's side ------------------------------------------------------------------------

    def note_late(self, context: EventContext) -> None:
        if isinstance(context, InFlight) and context.ref.feed is self.feed:
            context.ref.become("late")

    async def next_chunk(self, context: EventContext, actor: Actor) -> Chunk | None:
        return None

    def move(self) -> None:
        """It is there."""

    def finish_block(self, context: EventContext) -> None:
        """Units are done one by one."""

    def failed(self) -> Failed | None:
        return None


class FailedUnits:
    """What has `Failed`: all that an actor has in flight, of this agent's feed and of others."""

    def __init__(self, actor: Actor, around: Failed | None) -> None:
        """``around``: the event in order that they were taken within."""
        self._actor = actor
        self._around = around
        self._at_fault: list[EventRef] = []
        self.consumer = next(iter(actor.units)).consumer

    def _held(self) -> list[InFlight]:
        return [unit for unit in self._actor.units if not unit.acked]

    def held(self) -> list[EventContext]:
        return [*self._held(), *([] if self._around is None else self._around.held())]

    def together(self, context: EventContext) -> Sequence[EventContext]:
        # Within the loop of the event around nothing is written on its own behalf: it wrote before.
        if self._around is None:
            return ()
        around = self._around.held()
        return self._held() if context in around else around

    def require_exclusive(self) -> None:
        for unit in self._held():
            require_exclusive(unit)
        if self._around is not None:
            self._around.require_exclusive()

    def undo(self) -> bool:
        """What is not at fault comes again before it."""
        actor, current = self._actor, self._actor.current
        self._at_fault = current.refs if current is not None and current in self._held() else []
        refs = actor.undo()
        if self._around is not None:
            self._around.undo()  # it comes again first, and is not at fault
        self._put_back([ref for ref in refs if ref not in self._at_fault])
        return bool(self._at_fault)

    @property
    def policy(self) -> FailurePolicy:
        return self._at_fault[0].feed.policy

    def failing(self) -> Failing:
        return self._at_fault[0].feed.failing(self._at_fault[0])

    def is_single(self) -> bool:
        return len(self._at_fault) == 1

    def set_aside(self, exc: BaseException) -> None:
        (ref,) = self._at_fault
        ref.feed.set_aside(ref, exc)

    async def retry(self, failing: Failing) -> None:
        if len(self._at_fault) > 1:
            for ref in self._at_fault:
                ref.feed.make_single(ref.at)
        await self._at_fault[0].feed.await_retry(failing)
        if not self._actor.stale:
            self._put_back(self._at_fault)

    def _put_back(self, refs: Iterable[EventRef]) -> None:
        refs = list(refs)
        for feed in {ref.feed: None for ref in refs}:
            feed.put_back([ref for ref in refs if ref.feed is feed], self._actor.lane)
