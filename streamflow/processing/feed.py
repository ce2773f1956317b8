"""The concurrent path: several events in flight at once, singly or in batches, done in any order.

The in-order path (`InOrder`) has one context that walks over a chunk. Here each event, or each batch
that was taken together, is a unit (`InFlight`): an event context of its own, with what it wrote and sent. An
`EventFeed` is one consumer's side of it: where its units come from and what becomes of them. An `Actor` is
one coroutine that takes units, of one feed or of several. Both paths give the same results.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from streamflow.clock import Clock
from streamflow.codecs.chunk import Chunk
from streamflow.errors import RowChanged, StaleEvent
from streamflow.processing.acks import AckTracker, ChunkAcks
from streamflow.processing.failure_policy import FailurePolicy
from streamflow.processing.flight_note import FlightNote
from streamflow.processing.gate import Gate
from streamflow.processing.retries import Failing
from streamflow.processing.suspects import Suspects
from streamflow.processing.units import EventRef, InFlight, Offset, Outcome
from streamflow.state.event_context import EventContext, Sent, current_context
from streamflow.state.progress import Progress
from streamflow.transports.base import TopicPartition

SHARED = -1
"""The lane of actors that take events of every partition."""
BLOCK_UNITS_MAX = 64
BLOCK_MS = 1.0

Pull = Callable[[int], tuple[Chunk, int] | None]
"""A lane's next chunk, if there is one; or one without events, in place of so many that were dropped."""
SetAside = Callable[[Chunk, int, BaseException], Outcome]
"""Gives an event up, or moves it on, and says which; or raises."""
NOT_DONE: frozenset[Outcome] = frozenset({"failed", "deferred"})


class Within:
    """What was taken within the loop over events in order: a `RowCopy` of no row, to be told of their end."""

    __slots__ = ("_actor", "value")

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self.value = None

    def write_back(self, context: EventContext) -> None:
        self._actor.leave_around()
        current_context.set(context)


class Loop:
    """A loop over the events of some feeds, and the unit that it has in flight."""

    __slots__ = ("feeds", "unit")

    def __init__(self, feeds: Sequence[EventFeed]) -> None:
        self.feeds = feeds
        self.unit: InFlight | None = None

    def begin(self, unit: InFlight) -> None:
        self.unit = unit

    def end(self) -> None:
        self.unit = None


class Actor:
    """One coroutine that takes units, and the units that it has in flight, oldest first.

    It may have loops within loops: an event stays in flight while events of other feeds are taken within its
    loop. The next event of its own feeds says that it is done, and all that was taken within. ``lane`` is the
    partition whose events it takes, or `SHARED`.
    """

    def __init__(self, gate: Gate, clock: Clock, lane: int = SHARED) -> None:
        self.lane = lane
        self.gate = gate
        self.current: InFlight | None = None
        self.units: dict[InFlight, None] = {}
        self.stale = False
        self.around: EventContext | None = None  # of an event in order, in whose loop these are taken
        self._loops: list[Loop] = []  # outermost first
        self.waits = asyncio.Event()  # set when it waits for the first time
        self.waiting = False  # for an event
        self._clock = clock
        self._wake = asyncio.Event()
        self._thrown: deque[BaseException] = deque()
        self._turn = 0
        self._block_began_ms = 0.0
        self._block = 0

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        """Its next `take` raises StaleEvent."""
        self.stale = True
        self.wake()

    def throw(self, exc: BaseException) -> None:
        """Its next `take` raises this."""
        self._thrown.append(exc)
        self.wake()

    def forget(self, unit: InFlight) -> None:
        """Its partition has gone."""
        self.units.pop(unit, None)
        if self.current is unit:
            self.current = None
        self.gate.leave(unit)

    async def take(
        self, feeds: Sequence[EventFeed], until_ms: float | None = None, *, gathering: bool = False
    ) -> EventRef | None:
        """The next event of the feeds, in turn; ``None`` when there is none before ``until_ms``, or no more.

        While it is ``gathering`` it holds events already, so it never waits at the gate. Raises StaleEvent
        when its partitions have gone.
        """
        await self._pause()
        while True:
            if self._thrown:
                raise self._thrown.popleft()
            if self.stale:
                raise StaleEvent("the stream's partitions are no longer assigned to this worker")
            if self.gate.closed and not self._is_within():
                if gathering:
                    return None
                await self.gate.passage()
                continue
            for _ in feeds:
                self._turn += 1
                ref = feeds[self._turn % len(feeds)].pop(self.lane)
                if ref is not None:
                    return ref
            if all(feed.is_over() for feed in feeds):
                return None
            self._wake.clear()
            self.waits.set()
            self.waiting = True
            try:
                if not await self._woken(feeds, until_ms):
                    return None
            finally:
                self.waiting = False

    def _is_within(self) -> bool:
        """Is an event in flight around what is taken next?

        Then the gate does not hold this up: who closed it waits for that event, which waits for this one.
        """
        held = current_context.get() if self.around is None else self.around
        if held is not None and held.in_flight and type(held) is EventContext:
            return True
        return len(self._loops) > 1 and bool(self._enclosing())

    def _enclosing(self) -> list[EventContext]:
        """The events in flight around what is taken next. What waits for its ack is around nothing."""
        units = [loop.unit for loop in self._loops[:-1]]
        found: list[EventContext] = [
            unit for unit in units if unit is not None and unit.in_flight and not unit.manual
        ]
        if self.around is not None and self.around.in_flight:
            found.append(self.around)
        return found

    async def _pause(self) -> None:
        """Gives the event loop its turn between blocks of events."""
        self._block += 1
        now_ms = self._clock.monotonic_ms()
        if self._block >= BLOCK_UNITS_MAX or now_ms - self._block_began_ms > BLOCK_MS:
            self._block = 0
            await asyncio.sleep(0)
            self._block_began_ms = self._clock.monotonic_ms()

    async def _woken(self, feeds: Sequence[EventFeed], until_ms: float | None) -> bool:
        """Waits until there may be an event. False: ``until_ms`` has come."""
        ticks = [feed.tick_ms for feed in feeds if feed.tick_ms is not None]
        if ticks:
            tick_ms = self._clock.monotonic_ms() + min(ticks)
            if until_ms is None or tick_ms < until_ms:
                await self._woken_before(tick_ms)
                return True
        if until_ms is None:
            await self._wake.wait()
            return True
        return await self._woken_before(until_ms)

    async def _woken_before(self, until_ms: float) -> bool:
        left_ms = until_ms - self._clock.monotonic_ms()
        if left_ms <= 0:
            return False
        limit = asyncio.ensure_future(self._clock.sleep_ms(left_ms))
        woken = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({limit, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            limit.cancel()
            woken.cancel()
        return self._wake.is_set()

    def now_ms(self) -> float:
        return self._clock.monotonic_ms()

    async def begin(self, ref: EventRef, *, manual: bool = False) -> InFlight:
        """Takes an event in flight; what runs from here on runs on its behalf."""
        unit = InFlight(ref.feed.consumer, [ref], manual=manual)
        held = current_context.get()
        if held is not None and held.in_flight and type(held) is EventContext:
            # An event that was taken in order is around this one, and its next one says that this is done.
            self.around = held
            held.keep_copy(self, 0, None, Within(self))
        self.units[unit] = None
        self.current = unit
        if self._loops:
            self._loops[-1].begin(unit)
        ref.feed.enter(unit)
        current_context.set(unit)
        # One that waits for its ack stays in flight while the next is taken: that one must not wait for it.
        cautious = self.gate.cautious and not manual and not ref.feed.local
        if cautious or ref.feed.is_exclusive(ref):
            await self.gate.enter_exclusively(unit, self._enclosing())
            if not unit.stale:
                ref.feed.begin_alone(ref)
        return unit

    def leave_around(self) -> None:
        """The event around is done, and so is what was taken within its loop."""
        self.finish()
        self.around = None

    def next_of(self, feeds: Sequence[EventFeed]) -> None:
        """The last event of these feeds is done, and all within its loop: the next one is asked for."""
        loops = self._loops
        if len(loops) == 1 and loops[0].feeds == feeds:
            self._finish(self.current)
            return
        if not any(loop.feeds == feeds for loop in loops):
            loops.append(Loop(feeds))
            return
        while loops[-1].feeds != feeds:
            self._finish(loops[-1].unit)
            loops.pop()
        self._finish(loops[-1].unit)

    def finish(self) -> None:
        """All that it has in flight is done; what waits for its ack stays in flight."""
        while self._loops:
            self._finish(self._loops[-1].unit)
            self._loops.pop()
        self._finish(self.current)

    def _finish(self, unit: InFlight | None) -> None:
        if unit is not None and not unit.manual:
            self.current = unit
            self._settle_copies(unit)  # while it is the one that is at fault if that fails
        self.current = None
        for loop in self._loops:
            if loop.unit is unit:
                loop.end()
            elif loop.unit is not None:
                self.current = loop.unit  # whose code goes on, if there is nothing more to take
        if unit is not None and not unit.stale:
            if unit.acked:
                self.drop(unit)
            elif not unit.manual:
                self.ack(unit)
                self.drop(unit)

    def end_loop(self) -> None:
        """There is nothing more to take: what the loop was within goes on."""
        if self._loops:
            self._loops.pop()
        around = self.around if self.current is None else self.current
        if around is not None and around.in_flight:
            current_context.set(around)

    def ack(self, unit: InFlight) -> bool:
        """The unit is done: what it wrote and sent is part of the next checkpoint. False: it was already."""
        if unit.acked or unit.stale or unit not in self.units:
            return False
        self._settle_copies(unit)
        self.gate.finished(unit, unit.uncommitted_writes)
        unit.ack()
        for ref in unit.refs:
            ref.feed.finish(ref)
        if unit.sends:
            unit.refs[0].feed.keep(unit.take_sends())
        if unit is not self.current:
            self.drop(unit)
        return True

    def _settle_copies(self, unit: InFlight) -> None:
        if unit.copies is None or unit.acked or unit.stale:
            return
        try:
            unit.settle_copies()
        except RowChanged:
            for ref in unit.refs:
                ref.feed.make_exclusive(ref.at)  # so that nobody is faster the next time
            raise

    def ack_event(self, unit: InFlight, ref: EventRef) -> bool:
        """One event of the unit is acknowledged; a batch is done with the last of them."""
        unit.asked.add(ref)
        return len(unit.asked) >= len(unit.refs) and self.ack(unit)

    def drop(self, unit: InFlight) -> None:
        """The unit is no longer in flight. What it did after its ack was kept at once."""
        if unit.sends and unit.acked and not unit.stale:
            unit.refs[0].feed.keep(unit.take_sends())
        unit.release()
        self.units.pop(unit, None)
        for ref in unit.refs:
            ref.feed.leave(unit)
        self.gate.leave(unit)

    def undo(self) -> list[EventRef]:
        """Undoes all that it has in flight; gives the events, in the order in which they were taken."""
        refs: list[EventRef] = []
        for unit in reversed(list(self.units)):
            if not unit.acked:
                unit.revert()
                refs[:0] = unit.refs
            self.drop(unit)
        self.current = self.around = None
        self._loops = []
        return refs


class EventFeed:
    """One consumer's events on the concurrent path.

    ``pull`` gives what its queue has. ``isolated``: each partition has an actor of its own.
    ``give_up`` sets an event aside, or raises. ``local``: its events come from no log, so
    nothing is checkpointed.
    """

    local = False
    tick_ms: float | None = None  # so often it is asked for an event though none has come

    def __init__(
        self,
        consumer: str,
        pull: Pull,
        *,
        policy: FailurePolicy,
        give_up: SetAside,
        isolated: bool = False,
        suspects: Suspects | None = None,
    ) -> None:
        self.consumer = consumer
        self._suspects = suspects if suspects is not None else Suspects(consumer, FlightNote())
        self.retries = 0
        self._isolated = isolated
        self.trackers: dict[TopicPartition, AckTracker] = {}
        self.units: dict[InFlight, None] = {}
        self.actors: list[Actor] = []
        self.processed = 0
        self._failing: dict[Offset, Failing] = {}
        self.policy = policy
        self._give_up = give_up
        self._outbox: list[Sent] = []  # what done events have sent, for the next checkpoint
        self._exclusive: set[Offset] = set()  # events that must be the only one in flight
        self._single: set[Offset] = set()  # events that must not be in a batch with others
        self._pull = pull
        self._lanes: dict[int, deque[tuple[AckTracker, ChunkAcks]]] = {}
        self._again: dict[int, deque[EventRef]] = {}

    def hold(self, progress: Progress) -> None:
        self.trackers[progress.topic, progress.partition] = AckTracker(progress)

    def abandon(self) -> None:
        """Undoes what is in flight. Whoever holds it learns that it is stale when it is used."""
        for unit in list(self.units):
            if not unit.acked:
                unit.revert()
            unit.release()
            unit.expire()
            for actor in self.actors:
                actor.forget(unit)
        self.units.clear()
        self.actors = [actor for actor in self.actors if not actor.stale]

    def clear(self) -> None:
        """Everything but what is remembered of events that failed."""
        for unit in self.units:
            unit.expire()
        self.units.clear()
        self.trackers.clear()
        self._outbox = []
        self._lanes.clear()
        self._again.clear()

    def wake(self) -> None:
        for actor in self.actors:
            actor.wake()

    def open_events(self) -> int:
        """Events that were taken from the queue and are not done."""
        return sum(tracker.open for tracker in self.trackers.values())

    # -- what actors take --------------------------------------------------------------------------

    def pop(self, lane: int) -> EventRef | None:
        """The next event for an actor of this lane."""
        lane = lane if self._isolated else SHARED
        again = self._again.get(lane)
        if again:
            return again.popleft()
        while True:
            waiting = self._lanes.get(lane)
            while waiting:
                tracker, chunk_acks = waiting[0]
                index = chunk_acks.take()
                if index is not None:
                    ref = EventRef(self, tracker, chunk_acks, index)
                    if self._suspects.ranges and self._is_poison(ref):
                        continue
                    return ref
                waiting.popleft()
            if not self._fill(lane):
                return None

    def _is_poison(self, ref: EventRef) -> bool:
        """Has it killed its process? Then it is set aside here."""
        chunk, index = ref.chunk_acks.chunk, ref.index
        self._suspects.come_to(chunk, index)
        error = self._suspects.verdict(chunk, index) if self._suspects.holds(chunk, index) else None
        if error is not None:
            self.set_aside(ref, error)
        return error is not None

    def begin_alone(self, ref: EventRef) -> None:
        """It is the only event in flight from here on."""
        if self._suspects.ranges:
            self._suspects.begin_alone(ref.chunk_acks.chunk, ref.index)

    def _fill(self, lane: int) -> bool:
        found = self._pull(lane)
        if found is None:
            return False
        chunk, dropped = found
        tracker = self.trackers[chunk.topic, chunk.partition]
        chunk_acks = tracker.enter(chunk, dropped)
        if len(chunk):
            lane = chunk.partition if self._isolated else SHARED
            self._lanes.setdefault(lane, deque()).append((tracker, chunk_acks))
            if self._isolated:
                self.wake()
        return True

    def is_over(self) -> bool:
        """Will there never be another event?"""
        return False

    def put_back(self, refs: Sequence[EventRef], lane: int) -> None:
        """These come next in their lane."""
        lane = lane if self._isolated else SHARED
        self._again.setdefault(lane, deque()).extendleft(reversed(refs))
        self.wake()

    # -- what becomes of them ------------------------------------------------------------------------

    def enter(self, unit: InFlight) -> None:
        self.units[unit] = None

    def leave(self, unit: InFlight) -> None:
        self.units.pop(unit, None)

    def keep(self, sends: Sequence[Sent]) -> None:
        """What a unit that is done has sent: it goes with the next checkpoint."""
        self._outbox.extend(sends)

    def take_outbox(self) -> list[Sent]:
        outbox, self._outbox = self._outbox, []
        return outbox

    def finish(self, ref: EventRef) -> None:
        """The event is done, with the outcome that it has."""
        ref.tracker.finish(ref.chunk_acks, ref.index, ref.outcome)
        self.processed += ref.outcome not in NOT_DONE
        if self._failing or self._single or self._exclusive:
            self._failing.pop(ref.at, None)
            self._single.discard(ref.at)
            self._exclusive.discard(ref.at)

    def settle(self) -> None:
        for tracker in self.trackers.values():
            tracker.settle()

    def due(self) -> bool:
        return bool(self._outbox) or any(tracker.moved for tracker in self.trackers.values())

    # -- what fails ----------------------------------------------------------------------------------

    def failing(self, ref: EventRef) -> Failing:
        """The event has failed once more."""
        known = self._failing.get(ref.at)
        if known is None:
            known = self._failing[ref.at] = self.policy.begin(ref.at[0])
        return known.again()

    def attempts(self) -> dict[Offset, int]:
        """Of events that failed, how often."""
        return {at: failing.attempts for at, failing in self._failing.items()}

    def remember(self, failing: Mapping[Offset, Failing]) -> None:
        """These have failed on the path that the agent has left."""
        self._failing.update(failing)

    async def await_retry(self, failing: Failing) -> None:
        """Waits until it is tried again."""
        self.retries += 1
        await self.policy.wait(failing)

    def set_aside(self, ref: EventRef, error: BaseException) -> None:
        """The event is given up, or moved on: it is done here. Raises where that stops the worker."""
        outcome = self._give_up(ref.chunk_acks.chunk, ref.index, error)
        self.retries += outcome == "deferred"
        ref.become(outcome)
        self.finish(ref)

    def make_exclusive(self, at: Offset) -> None:
        self._exclusive.add(at)

    def make_single(self, at: Offset) -> None:
        self._single.add(at)

    def is_exclusive(self, ref: EventRef) -> bool:
        if self._suspects.ranges and self._suspects.holds(ref.chunk_acks.chunk, ref.index):
            return True
        return bool(self._exclusive) and ref.at in self._exclusive

    def is_single(self, ref: EventRef) -> bool:
        return bool(self._single) and ref.at in self._single
