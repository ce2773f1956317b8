"""The in-order path: one event context that walks over one chunk after the other.

`EventStream` has its loop, the HOT PATH: taking the next event says that the last one is done. Here is what
happens between blocks of events, and when an event fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from streamflow.codecs.chunk import Chunk
from streamflow.errors import StaleEvent
from streamflow.processing.failure_policy import FailurePolicy
from streamflow.processing.feed import SHARED, Actor, EventFeed, Pull, SetAside
from streamflow.processing.gate import Gate
from streamflow.processing.held_event import HeldEvent, Running
from streamflow.processing.retries import Failing
from streamflow.processing.suspects import Suspects
from streamflow.processing.units import Offset
from streamflow.state.event_context import EventContext, Sent
from streamflow.state.progress import Progress
from streamflow.transports.base import TopicPartition


class InOrder:
    """A `Path`; and, as there is one event in flight at most, itself what has `Failed`.

    ``pull`` gives what the agent's queue has. ``give_up`` sets an event aside, or raises. ``concurrent``
    moves the agent to the concurrent path.
    """

    def __init__(
        self,
        consumer: str,
        pull: Pull,
        gate: Gate,
        *,
        policy: FailurePolicy,
        give_up: SetAside,
        concurrent: Callable[[], EventFeed],
        suspects: Suspects,
    ) -> None:
        self.consumer = consumer
        self.context = EventContext(consumer)
        self.processed = 0
        self.retries = 0
        self._pull = pull
        self._gate = gate
        self.policy = policy
        self._give_up = give_up
        self._concurrent = concurrent
        self._suspects = suspects
        self._is_alone = False  # the event in flight is suspect
        self._progress: dict[TopicPartition, Progress] = {}
        self._outbox: list[Sent] = []
        self._wake = asyncio.Event()
        self._accounted = -1  # index of the last event that the progress covers
        self._late: set[int] = set()  # indexes of events that came too late for a table
        self._failing: tuple[Offset, Failing] | None = None  # the last event that failed
        self._moves = False  # to the other path, as soon as no event is in flight
        self._is_over = False

    def hold(self, progress: Progress) -> None:
        self._progress[progress.topic, progress.partition] = progress

    def contexts(self) -> Iterator[EventContext]:
        yield self.context

    def held_events(self, running: Running) -> list[HeldEvent]:
        context = self.context
        chunk, index = context.chunk, context.position  # once: the loop goes on meanwhile
        if chunk is None or not context.in_flight or not 0 <= index < len(chunk):
            return []
        task = next((task for task, _ in running), None)
        return [HeldEvent(chunk.topic, chunk.partition, chunk.offsets[index], 1, task)]

    def wake(self) -> None:
        self._wake.set()

    # -- the checkpoint's side -------------------------------------------------------------------

    def due(self) -> bool:
        return bool(self._outbox) or self.context.chunk is not None

    def settle(self) -> None:
        context, chunk = self.context, self.context.chunk
        if chunk is None:
            return
        done = context.settled()
        if done > self._accounted:
            self._account(chunk, done)
        if context.sends:
            self._outbox.extend(context.take_sends())

    def _account(self, chunk: Chunk, done: int, *, failed: int = 0, deferred: int = 0) -> None:
        first = self._accounted + 1
        late = sum(1 for index in self._late if index <= done) if self._late else 0
        self._late = {index for index in self._late if index > done} if self._late else self._late
        count = done + 1 - first
        position = chunk.offsets[done + 1] if done + 1 < len(chunk) else chunk.next_offset
        progress = self._progress[chunk.topic, chunk.partition]
        progress.see(max(chunk.times_ms[first : done + 1]))
        counted = count - late - failed - deferred
        progress.take(position, counted=counted, late=late, failed=failed, deferred=deferred)
        self._accounted = done
        self.processed += count - failed - deferred

    def take_outbox(self) -> list[Sent]:
        outbox, self._outbox = self._outbox, []
        return outbox

    def attempts(self) -> dict[Offset, int]:
        return {} if self._failing is None else {self._failing[0]: self._failing[1].attempts}

    def failing_events(self) -> dict[Offset, Failing]:
        """The last event that failed."""
        return {} if self._failing is None else dict([self._failing])

    def open_events(self) -> int:
        return 0

    def abandon(self) -> None:
        if self.context.in_flight:
            self.context.undo()
        self.context.expire()

    def clear(self, *, running: bool) -> None:
        if running:
            self.context.clear()
        else:
            self.context = EventContext(self.consumer)
        self._progress.clear()
        self._outbox = []
        self._accounted = -1
        self._is_alone = False
        self._late.clear()
        self._failing = None

    def end(self) -> Chunk | None:
        """What is in flight is done; returns what is left of its chunk. From here on it gives no events."""
        context, chunk = self.context, self.context.chunk
        self._is_over = True
        self._wake.set()
        if chunk is None:
            return None
        next_index = context.position + 1
        context.settle_copies()
        context.release()
        self.finish_block(context)
        context.leave()
        return chunk.select(range(next_index, len(chunk))) if next_index < len(chunk) else None

    # -- the agent's side ------------------------------------------------------------------------

    def note_late(self, context: EventContext) -> None:
        if context is self.context:
            self._late.add(context.position)

    async def next_chunk(self, context: EventContext, actor: Actor) -> Chunk | None:
        """The chunk to go on with: the one in flight after a failure, else the next of the queue."""
        while self._gate.resting:
            await self._gate.passage()
        if context.stale:
            raise StaleEvent("the stream's partitions are no longer assigned to this worker")
        if self._moves:
            self._concurrent()
        chunk = context.chunk
        if chunk is not None and context.position + 1 < len(chunk) and await self._begin(context, chunk):
            return chunk
        while not self._is_over:
            if self._gate.closed:
                await self._gate.passage()
                continue
            found = self._pull(SHARED)
            if found is None:
                self._wake.clear()
                actor.waits.set()
                await self._wake.wait()
                if self._moves:
                    self._concurrent()
                continue
            chunk, dropped = found
            progress = self._progress[chunk.topic, chunk.partition]
            if not len(chunk):
                progress.take(chunk.next_offset, dropped=dropped)
                continue
            assert chunk.events is not None
            self._accounted = -1
            context.open(chunk, progress.event_ms)
            if await self._begin(context, chunk):
                return chunk
        return None

    async def _begin(self, context: EventContext, chunk: Chunk) -> bool:
        """A suspect event, which is a chunk of its own, begins alone. False: there is none to take."""
        if not self._suspects.ranges:
            return True
        self._suspects.come_to(chunk, context.position + 1)
        if len(chunk) != 1 or not self._suspects.holds(chunk, 0):
            return True
        error = self._suspects.verdict(chunk, 0)
        if error is not None:
            self.set_aside(error)
            return False
        await self._gate.enter_exclusively(context)
        if context.stale:
            self._gate.leave(context)
            raise StaleEvent("the stream's partitions are no longer assigned to this worker")
        if context.chunk is not chunk:  # the agent has moved to the other path
            self._gate.leave(context)
            return False
        self._is_alone = True
        self._suspects.begin_alone(chunk, 0)
        return True

    def move(self) -> None:
        """The agent moves to the concurrent path before the next block of events."""
        self._moves = True
        self._wake.set()

    def finish_block(self, context: EventContext) -> None:
        if self._is_alone:
            self._is_alone = False
            self._gate.leave(context)
        if context.stale or context.chunk is None:
            return
        self._gate.finished(context, context.uncommitted_writes)
        self.settle()
        context.finish_block()

    # -- what fails ------------------------------------------------------------------------------

    def failed(self) -> InOrder | None:
        context = self.context
        return self if context.chunk is not None and context.in_flight else None

    def held(self) -> list[EventContext]:
        return [self.context]

    def together(self, context: EventContext) -> list[EventContext]:
        return []

    def require_exclusive(self) -> None:
        """Only units can be: it moves to the concurrent path."""
        _, _, at = self._at(self.context.position)
        self._concurrent().make_exclusive(at)

    def undo(self) -> bool:
        self._late.discard(self.context.position)  # its outcome is still open: late again, counted, or failed
        self.context.undo()
        self.finish_block(self.context)
        return True

    def failing(self) -> Failing:
        _, _, at = self._at(self.context.position + 1)
        before = self._failing
        failing = before[1] if before is not None and before[0] == at else self.policy.begin(at[0])
        self._failing = at, failing
        return failing.again()

    def is_single(self) -> bool:
        return True

    def set_aside(self, exc: BaseException) -> None:
        chunk, index, _ = self._at(self.context.position + 1)
        if self._give_up(chunk, index, exc) == "deferred":
            self.retries += 1
            self._account(chunk, index, deferred=1)
        else:
            self._account(chunk, index, failed=1)
        self.context.pass_over()

    async def retry(self, failing: Failing) -> None:
        self.retries += 1
        await self.policy.wait(failing)

    def _at(self, index: int) -> tuple[Chunk, int, Offset]:
        chunk = self.context.chunk
        assert chunk is not None, "an event that failed is one of the chunk's"
        return chunk, index, (chunk.topic, chunk.partition, chunk.offsets[index])
