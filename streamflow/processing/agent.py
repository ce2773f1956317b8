"""An agent's stream: its chunks, event by event. HOT PATH.

Taking the next event says that the last one is done. The stream yields to the event loop between
blocks of events, never per event: a block is 512 events, or what takes about a millisecond.
Here code trades beauty for speed in `EventStream.items` and its twins: one loop, no call per event.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from streamflow.clock import Clock
from streamflow.codecs.chunk import Chunk
from streamflow.errors import EventTypeError, StaleEvent
from streamflow.processing.agent_spec import AgentSpec, Run
from streamflow.processing.agent_tasks import AgentTasks
from streamflow.processing.buffer import Buffer
from streamflow.processing.event_stream import EventStream
from streamflow.processing.failures import MemoryInvalid, recover_failed, require_exclusive
from streamflow.processing.feed import SHARED, Actor, EventFeed
from streamflow.processing.gate import Gate
from streamflow.processing.units import InFlight
from streamflow.state.agent_table import AgentTable
from streamflow.state.committed import CommittedChanges
from streamflow.state.cut import Cut
from streamflow.state.event_context import EventContext, Sent, current_context
from streamflow.state.progress import Progress
from streamflow.transports.base import TopicPartition

logger = logging.getLogger(__name__)

RETURNED_WAIT_MS, RETURNED_WAIT_MAX_MS = 100.0, 10_000.0  # the longer, the more often without an event
CANCEL_WAIT_S = 1.0
OPEN_EVENTS_MAX = 100_000
"""So many events of one agent may be taken and not done; then its partitions wait."""


GiveUp = Callable[["AgentRunner", Chunk, int, BaseException], None]
"""(agent, chunk, index, error): sets the event aside, or raises to stop the worker."""


class AgentRunner:
    """The running side of an agent: its queue of chunks, its event context, its tasks.

    It begins on the in-order path, with one context; `concurrent` moves it to the other (``feed``) for good.
    """

    def __init__(
        self,
        spec: AgentSpec,
        clock: Clock,
        gate: Gate,
        *,
        tables: Callable[[], list[AgentTable]],
        give_up: GiveUp,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        self.spec = spec
        self.topics = {spec.topic: None}  # all that it reads, in order
        self.writes_tables = True  # else the number of its partitions means nothing to tables
        self.context = EventContext(spec.consumer)
        self.feed: EventFeed | None = None
        self.gate = gate
        self.progress: dict[TopicPartition, Progress] = {}
        self.outbox: list[Sent] = []  # what done events have sent, for the next checkpoint
        self.failure: BaseException | None = None
        self.queued = 0  # events in the queue
        self.processed = 0
        self.retries = 0
        self._clock = clock
        self._tables = tables
        self._give_up = give_up
        self._on_room = on_room  # told when it is no longer `full`
        self._queue: deque[tuple[Chunk, int]] = deque()  # (chunk, events dropped from it by policy)
        self._wake = asyncio.Event()
        self.tasks = AgentTasks(spec.consumer, gate, clock, self._run)
        self._accounted = -1  # index of the last event that the progress covers
        self._late: set[int] = set()  # indexes of events that came too late for a table
        self._attempts = 0
        self._failed_at: tuple[str, int, int] | None = None
        if spec.run is None or spec.concurrency > 1 or spec.isolated:
            self.concurrent()

    # -- the engine's side -------------------------------------------------------------------

    def start(self) -> None:
        """Starts the coroutines that do not run."""
        if self.spec.run is None:
            return
        lanes = [SHARED] * self.spec.concurrency
        if self.spec.isolated and self.feed is not None:
            lanes = sorted({partition for _, partition in self.feed.trackers})
        self.tasks.start(self.spec.run, lanes)

    def spawn(self, stage: str, run: Run) -> None:
        """Starts, unless it runs, what else takes this agent's events."""
        self.tasks.spawn(stage, run, SHARED)

    def failing(self) -> dict[tuple[str, int, int], int]:
        """(topic, partition, offset) -> attempts, of events that failed and are not done."""
        tried = dict(self.feed.attempts) if self.feed is not None else {}
        if self._failed_at is not None:
            tried[self._failed_at] = self._attempts
        return {
            at: attempts
            for at, attempts in tried.items()
            if (progress := self.progress.get(at[:2])) is not None and at[2] >= progress.position
        }

    def hold(self, progress: Progress) -> None:
        """One of its partitions is ours."""
        self.progress[progress.topic, progress.partition] = progress
        if self.feed is not None:
            self.feed.hold(progress)

    def contexts(self) -> Iterator[EventContext]:
        if self.feed is None:
            yield self.context
        else:
            yield from list(self.feed.units)

    def wake(self) -> None:
        """Its coroutines look whether there is something to do."""
        if self.feed is not None:
            self.feed.wake()

    def due(self) -> bool:
        """Has it done anything since the last cut?"""
        if self.feed is not None:
            return self.feed.due()
        return bool(self.outbox) or self.context.chunk is not None

    def full(self) -> bool:
        """Must its partitions wait?"""
        buffer: Buffer = self.spec.buffer
        if self.feed is not None and self.feed.open_events() >= OPEN_EVENTS_MAX + buffer.events_max:
            return True
        return buffer.when_full == "block" and self.queued >= buffer.events_max

    def offer(self, chunk: Chunk) -> None:
        """Queues what this agent has not taken yet of a chunk, by the buffer's policy."""
        progress = self.progress.get((chunk.topic, chunk.partition))
        if progress is None:
            return  # declared meanwhile: it takes part from the next assignment on
        chunk = chunk.since(progress.position)
        buffer = self.spec.buffer
        dropped = 0
        if self.queued + len(chunk) > buffer.events_max and buffer.when_full != "block":
            if buffer.when_full == "drop_newest":
                chunk, dropped = chunk.select(()), len(chunk)
            else:
                self._drop_oldest(self.queued + len(chunk) - buffer.events_max)
        self._queue.append((chunk, dropped))
        self.queued += len(chunk)
        if self.feed is not None:
            self.feed.wake()
        else:
            self._wake.set()

    def _drop_oldest(self, events: int) -> None:
        for at, (chunk, dropped) in enumerate(self._queue):
            if events <= 0:
                return
            self._queue[at] = chunk.select(()), dropped + len(chunk)
            self.queued -= len(chunk)
            events -= len(chunk)

    def begin_cut(self) -> None:
        """Moves the progress over what is done."""
        self.settle()

    def cut(self, cut: Cut) -> None:
        """What done events have sent; what the event in flight wrote goes back to the tables' changes."""
        cut.sent.extend(self.outbox)
        self.outbox = []
        for context in self.contexts():
            context.exclude_from_cut()

    def committed(self, written: Mapping[TopicPartition, int]) -> Sequence[CommittedChanges]:
        return ()

    def settle(self) -> None:
        """Moves the progress over what is done, and takes what it sent; the event in flight stays out."""
        if self.feed is not None:
            self.feed.settle()
            self.outbox.extend(self.feed.outbox)
            self.feed.outbox = []
            self.processed += self.feed.processed
            self.retries += self.feed.retries
            self.feed.processed = self.feed.retries = 0
            return
        context, chunk = self.context, self.context.chunk
        if chunk is None:
            return
        done = context.settled()
        if done > self._accounted:
            self._account(chunk, done)
        if context.sends:
            self.outbox.extend(context.take_sends())

    def _account(self, chunk: Chunk, done: int, *, failed: int = 0) -> None:
        first = self._accounted + 1
        late = sum(1 for index in self._late if index <= done) if self._late else 0
        self._late = {index for index in self._late if index > done} if self._late else self._late
        count = done + 1 - first
        position = chunk.offsets[done + 1] if done + 1 < len(chunk) else chunk.next_offset
        progress = self.progress[chunk.topic, chunk.partition]
        progress.see(max(chunk.times_ms[first : done + 1]))
        progress.take(position, counted=count - late - failed, late=late, failed=failed)
        self._accounted = done
        self.processed += count - failed

    def note_late(self, context: EventContext) -> None:
        """The event in flight came too late for a table."""
        if context is self.context:
            self._late.add(context.position)
        elif isinstance(context, InFlight) and context.ref.feed is self.feed:
            context.ref.outcome = "late"

    async def halt(self) -> None:
        """`abandon`, and waits a moment for the agent to end."""
        tasks = self.tasks.stop()
        self.abandon()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_WAIT_S)

    def abandon(self) -> None:
        """Takes no more events. What is done stays for the last checkpoint; the events in flight are undone.

        It is cancelled too; what it still writes or sends afterwards raises StaleEvent. A conflicting
        event can't be undone: the gate is invalidated then, and there must be no last checkpoint.
        """
        context = self.context
        for held in self.contexts():
            if self.gate.is_conflicting(held):
                if isinstance(held, InFlight):
                    require_exclusive(held)
                self.gate.invalidate(
                    f"{self.spec.consumer} was stopped while another event held the same row"
                )
        self.settle()
        if self.feed is not None:
            self.feed.abandon()
        if context.in_flight:
            context.revert()
            context.in_flight = False
            context.position -= 1
        context.stale = True
        self._queue.clear()
        self.queued = 0
        self.tasks.stop()

    def clear(self) -> None:
        """Forgets everything: the partitions are gone, or start anew from the log."""
        if self.feed is not None:
            self.feed.clear()
        if self.tasks:  # started early: it waits with this very event context
            self.context.clear()
        else:
            self.context = EventContext(self.spec.consumer)
        self.progress = {}
        self.outbox = []
        self._queue.clear()
        self.queued = 0
        self._accounted = -1
        self._late.clear()
        self._failed_at = None

    # -- the concurrent path ----------------------------------------------------------------------

    def concurrent(self) -> EventFeed:
        """Moves to the concurrent path: what is in flight is done, what is left of its chunk comes next."""
        if self.feed is not None:
            return self.feed
        context, chunk = self.context, self.context.chunk
        if chunk is not None:
            context.in_flight = False
            next_index = context.position + 1
            self.finish_block(context)
            context.chunk = None
            if next_index < len(chunk):
                rest = chunk.select(range(next_index, len(chunk)))
                self._queue.appendleft((rest, 0))
                self.queued += len(rest)
        self.feed = feed = EventFeed(
            self.spec.consumer,
            self._pull,
            self._open_chunk,
            retry=self.spec.retry,
            give_up=lambda chunk, index, exc: self._give_up(self, chunk, index, exc),
            pause_ms=self._clock.sleep_ms,
            isolated=self.spec.isolated,
        )
        for progress in self.progress.values():
            feed.hold(progress)
        return feed

    def _pull(self) -> tuple[Chunk, int] | None:
        if not self._queue:
            return None
        chunk, dropped = self._queue.popleft()
        was_full = self.full()
        self.queued -= len(chunk)
        if was_full and not self.full():
            self._on_room()
        return chunk, dropped

    def _open_chunk(self, chunk: Chunk) -> None:
        """Tells the tables how far time will have come at the end of a chunk."""
        watermark_ms = max(chunk.times_ms)
        before_ms = self.progress[chunk.topic, chunk.partition].watermark_ms
        if before_ms is not None and before_ms > watermark_ms:
            watermark_ms = before_ms
        for table in self._tables():
            table.open_chunk(chunk.partition, watermark_ms)

    # -- the agent's side --------------------------------------------------------------------

    async def _run(self, actor: Actor, run: Run) -> None:
        context = self.context
        current_context.set(context)
        wait_ms, before = RETURNED_WAIT_MS, -1
        while True:
            try:
                await run(EventStream(self, context, actor))
            except asyncio.CancelledError:
                raise
            except Exception as exc:  # noqa: BLE001 - the agent is the user's code
                if context.stale or actor.stale:
                    return
                try:
                    if self.spec.restarts == "crash":
                        raise
                    if not await recover_failed(actor, exc):
                        await self._failed(context, exc)
                except MemoryInvalid:
                    return
                except Exception as fatal:  # noqa: BLE001 - told to the engine, which stops
                    self.failure = fatal
                    return
                if self.spec.restarts == "never":
                    logger.critical("agent %s is not started again", self.spec.name)
                    return
            else:
                # The agent is through with its stream for good, as in Faust: what it holds is done.
                actor.finish()
                context.in_flight = False
                self.finish_block(context)
                if context.stale or actor.stale:
                    return
                logger.warning("agent %s returned; its stream starts again", self.spec.name)
                done = self.processed + (0 if self.feed is None else self.feed.processed)
                idle, before = done == before, done
                wait_ms = min(2 * wait_ms, RETURNED_WAIT_MAX_MS) if idle else RETURNED_WAIT_MS
                await self._clock.sleep_ms(wait_ms)

    async def _failed(self, context: EventContext, exc: Exception) -> None:
        """Undoes the event in flight; waits and has it tried again, or sets it aside."""
        chunk = context.chunk
        if chunk is None or not context.in_flight:
            logger.error("agent %s failed between events", self.spec.name)
            raise exc
        index = context.position
        if self.gate.is_conflicting(context):
            self.concurrent().exclusive.add((chunk.topic, chunk.partition, chunk.offsets[index]))
            self.gate.invalidate(
                f"agent {self.spec.name} failed while another event held the same row: {exc}"
            )
            raise MemoryInvalid from exc
        context.revert()
        self._late.discard(index)  # its outcome is still open: late again, counted, or failed
        context.in_flight = False
        context.position = index - 1
        self.finish_block(context)
        at = (chunk.topic, chunk.partition, chunk.offsets[index])
        self._attempts = self._attempts + 1 if at == self._failed_at else 1
        self._failed_at = at
        if self._attempts < self.spec.retry.attempts and not isinstance(exc, EventTypeError):
            self.retries += 1
            await self._clock.sleep_ms(self.spec.retry.wait_ms(self._attempts))
            return
        self._give_up(self, chunk, index, exc)
        context.chunk, context.position = chunk, index
        self._account(chunk, index, failed=1)
        if index + 1 >= len(chunk):
            context.chunk = None

    async def next_chunk(self, context: EventContext) -> Chunk:
        """The chunk to go on with: the one in flight after a failure, else the next of the queue."""
        if context.stale:
            raise StaleEvent("the stream's partitions are no longer assigned to this worker")
        chunk = context.chunk
        if chunk is not None and context.position + 1 < len(chunk):
            return chunk
        while True:
            if self.gate.closed:
                await self.gate.passage()
            found = self._pull()
            if found is None:
                self._wake.clear()
                self.tasks.waits.set()
                await self._wake.wait()
                continue
            chunk, dropped = found
            progress = self.progress[chunk.topic, chunk.partition]
            if not len(chunk):
                progress.take(chunk.next_offset, dropped=dropped)
                continue
            assert chunk.events is not None
            self._accounted = -1
            context.open(chunk, progress.watermark_ms)
            self._open_chunk(chunk)
            return chunk

    def finish_block(self, context: EventContext) -> None:
        """Everything up to ``context.position`` is done."""
        if context.stale or context.chunk is None:
            return
        self.gate.finished(context, context.uncommitted_writes)
        self.settle()
        context.uncommitted_writes.clear()
        context.conflicting = False
        if context.position + 1 >= len(context.chunk):
            context.chunk = None

    def now_ms(self) -> float:
        return self._clock.monotonic_ms()


__all__ = ["AgentRunner", "AgentSpec", "EventStream"]
