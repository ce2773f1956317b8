"""A running agent: its queue of chunks, the path that it takes their events on, its coroutines."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from streamflow.clock import Clock
from streamflow.codecs.chunk import Chunk
from streamflow.processing.agent_spec import AgentSpec, Run
from streamflow.processing.agent_tasks import AgentTasks
from streamflow.processing.buffer import Buffer
from streamflow.processing.concurrent import Concurrent, FailedUnits
from streamflow.processing.event_stream import EventStream
from streamflow.processing.failures import MemoryInvalid, recover_failed, require_exclusive
from streamflow.processing.feed import SHARED, Actor, EventFeed
from streamflow.processing.gate import Gate
from streamflow.processing.in_order import InOrder
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
    """The running side of an agent: its queue of chunks, its buffer's policy, its progress, its tasks.

    How events become done is its path's. It begins in order; `concurrent` moves it to the other for good.
    ``tables`` gives all tables that it may write, ``on_room`` is told when it is no longer `full`.
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
        self.gate = gate
        self.progress: dict[TopicPartition, Progress] = {}
        self.failure: BaseException | None = None
        self.queued = 0  # events in the queue
        self._clock = clock
        self._tables = tables
        self._give_up = give_up
        self._on_room = on_room
        self._queue: deque[tuple[Chunk, int]] = deque()  # (chunk, events dropped from it by policy)
        self.tasks = AgentTasks(spec.consumer, gate, clock, self._run)
        self._path: InOrder | Concurrent = InOrder(
            spec.consumer,
            self._pull,
            self._open_chunk,
            gate,
            retry=spec.retry,
            give_up=self._set_aside,
            pause_ms=clock.sleep_ms,
            concurrent=self.concurrent,
        )
        if spec.run is None or spec.concurrency > 1 or spec.isolated:
            self.concurrent()

    # -- the engine's side -------------------------------------------------------------------

    def start(self) -> None:
        """Starts the coroutines that do not run."""
        if self.spec.run is None:
            return
        lanes = [SHARED] * self.spec.concurrency
        if self.spec.isolated:
            lanes = sorted({partition for _, partition in self.progress})
        self.tasks.start(self.spec.run, lanes)

    def spawn(self, stage: str, run: Run) -> None:
        """Starts, unless it runs, what else takes this agent's events."""
        self.tasks.spawn(stage, run, SHARED)

    def failing(self) -> dict[tuple[str, int, int], int]:
        """(topic, partition, offset) -> attempts, of events that failed and are not done."""
        return {
            at: attempts
            for at, attempts in self._path.attempts().items()
            if (progress := self.progress.get(at[:2])) is not None and at[2] >= progress.position
        }

    def hold(self, progress: Progress) -> None:
        """One of its partitions is assigned to this worker."""
        self.progress[progress.topic, progress.partition] = progress
        self._path.hold(progress)

    @property
    def processed(self) -> int:
        """Events that are done, and were not set aside."""
        return self._path.processed

    @property
    def retries(self) -> int:
        """How often one of its events was tried again."""
        return self._path.retries

    def contexts(self) -> Iterable[EventContext]:
        """What it may have in flight."""
        return self._path.contexts()

    def wake(self) -> None:
        """Its coroutines look whether there is something to do."""
        self._path.wake()

    def due(self) -> bool:
        """Has it done anything since the last cut?"""
        return self._path.due()

    def full(self) -> bool:
        """Must its partitions wait?"""
        buffer: Buffer = self.spec.buffer
        if self._path.open_events() >= OPEN_EVENTS_MAX + buffer.events_max:
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
        self._path.wake()

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
        cut.sent.extend(self._path.take_outbox())
        for context in self.contexts():
            context.exclude_from_cut()

    def committed(self, written: Mapping[TopicPartition, int]) -> Sequence[CommittedChanges]:
        return ()

    def settle(self) -> None:
        """Moves the progress over what is done; what is in flight stays out."""
        self._path.settle()

    def take_outbox(self) -> list[Sent]:
        """What done events have sent, up to the last `settle`, for the next checkpoint."""
        return self._path.take_outbox()

    def note_late(self, context: EventContext) -> None:
        """An event came too late for a table. Which agent's it is, the context says."""
        self._path.note_late(context)

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
        for held in self.contexts():
            if self.gate.is_conflicting(held):
                require_exclusive(held)
                self.gate.invalidate(
                    f"{self.spec.consumer} was stopped while another event held the same row"
                )
        self._path.settle()
        self._path.abandon()
        self._queue.clear()
        self.queued = 0
        self.tasks.stop()

    def clear(self) -> None:
        """Forgets everything: the partitions are gone, or start anew from the log."""
        self._path.clear(running=bool(self.tasks))
        self.progress = {}
        self._queue.clear()
        self.queued = 0

    # -- the paths' side ---------------------------------------------------------------------------

    @property
    def is_concurrent(self) -> bool:
        return isinstance(self._path, Concurrent)

    def concurrent(self) -> EventFeed:
        """Moves to the concurrent path: what is in flight is done, what is left of its chunk comes next."""
        path = self._path
        if isinstance(path, Concurrent):
            return path.feed
        rest = path.end()
        if rest is not None:
            self._queue.appendleft((rest, 0))
            self.queued += len(rest)
        feed = EventFeed(
            self.spec.consumer,
            self._pull,
            self._open_chunk,
            retry=self.spec.retry,
            give_up=self._set_aside,
            pause_ms=self._clock.sleep_ms,
            isolated=self.spec.isolated,
        )
        for progress in self.progress.values():
            feed.hold(progress)
        self._path = Concurrent(feed, path)
        return feed

    def _set_aside(self, chunk: Chunk, index: int, exc: BaseException) -> None:
        self._give_up(self, chunk, index, exc)

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
        context = self._path.context
        current_context.set(context)
        wait_ms, before = RETURNED_WAIT_MS, -1
        while True:
            try:
                await run(EventStream(self, self._path, context, actor))
            except asyncio.CancelledError:
                raise
            except Exception as exc:  # noqa: BLE001 - the agent is the user's code
                if context.stale or actor.stale:
                    return
                try:
                    if self.spec.restarts == "crash":
                        raise
                    await self._recover(actor, exc)
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
                context.release()
                self._path.finish_block(context)
                if context.stale or actor.stale:
                    return
                logger.warning("agent %s returned; its stream starts again", self.spec.name)
                idle, before = self.processed == before, self.processed
                wait_ms = min(2 * wait_ms, RETURNED_WAIT_MAX_MS) if idle else RETURNED_WAIT_MS
                await self._clock.sleep_ms(wait_ms)

    async def _recover(self, actor: Actor, exc: Exception) -> None:
        failed = FailedUnits(actor) if actor.units else self._path.failed()
        if failed is None:
            logger.error("agent %s failed between events", self.spec.name)
            raise exc
        await recover_failed(failed, self.gate, exc)

    def now_ms(self) -> float:
        return self._clock.monotonic_ms()
