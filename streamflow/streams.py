"""An agent's stream: its chunks, event by event. HOT PATH.

Taking the next event says that the last one is done. The stream yields to the event loop between
blocks of events, never per event: a block is 512 events, or what takes about a millisecond.
Here code trades beauty for speed in `EventStream.items` and its twins: one loop, no call per event.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from streamflow.buffer import Buffer
from streamflow.chunk import Chunk
from streamflow.clock import Clock
from streamflow.errors import EventTypeError, StaleEvent
from streamflow.hand import CURRENT, Hand, Sent
from streamflow.progress import Progress
from streamflow.retries import Retry
from streamflow.tables import AgentTable

logger = logging.getLogger(__name__)

BLOCK_EVENTS_MAX = 512
BLOCK_MS = 1.0
CANCEL_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """An agent, apart from its running. ``run`` is called with the stream again after each failure.

    ``dead_letter``: the topic for events it gives up on, or ``None``: they stop the worker.
    """

    name: str
    topic: str
    run: Callable[[EventStream], Awaitable[None]]
    retry: Retry = field(default_factory=Retry)
    dead_letter: str | None = None
    buffer: Buffer = field(default_factory=Buffer)

    @property
    def consumer(self) -> str:
        return f"agent:{self.name}"


GiveUp = Callable[["Agent", Chunk, int, BaseException], None]
"""(agent, chunk, index, error): sets the event aside, or raises to stop the worker."""


class Agent:
    """The running side of an agent: its queue of chunks, its hand, its task."""

    def __init__(
        self, spec: AgentSpec, clock: Clock, *, tables: Callable[[], list[AgentTable]], give_up: GiveUp
    ) -> None:
        self.spec = spec
        self.hand = Hand(spec.consumer)
        self.progress: dict[int, Progress] = {}
        self.outbox: list[Sent] = []  # what done events have sent, for the next checkpoint
        self.failure: BaseException | None = None
        self.queued = 0  # events in the queue
        self.processed = 0
        self.retries = 0
        self._clock = clock
        self._tables = tables
        self._give_up = give_up
        self._queue: deque[tuple[Chunk, int]] = deque()  # (chunk, events dropped from it by policy)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._accounted = -1  # index of the last event that the progress covers
        self._late: set[int] = set()  # indexes of events that came too late for a table
        self._attempts = 0
        self._failed_at: tuple[str, int, int] | None = None

    # -- the engine's side -------------------------------------------------------------------

    def start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(self.hand), name=self.spec.consumer)

    def full(self) -> bool:
        """Must its partitions wait?"""
        buffer: Buffer = self.spec.buffer
        return buffer.when_full == "block" and self.queued >= buffer.events_max

    def offer(self, chunk: Chunk) -> None:
        """Queues what this agent has not taken yet of a chunk, by the buffer's policy."""
        chunk = chunk.since(self.progress[chunk.partition].position)
        buffer = self.spec.buffer
        dropped = 0
        if self.queued + len(chunk) > buffer.events_max and buffer.when_full != "block":
            if buffer.when_full == "drop_newest":
                chunk, dropped = chunk.select(()), len(chunk)
            else:
                self._drop_oldest(self.queued + len(chunk) - buffer.events_max)
        self._queue.append((chunk, dropped))
        self.queued += len(chunk)
        self._wake.set()

    def _drop_oldest(self, events: int) -> None:
        for at, (chunk, dropped) in enumerate(self._queue):
            if events <= 0:
                return
            self._queue[at] = chunk.select(()), dropped + len(chunk)
            self.queued -= len(chunk)
            events -= len(chunk)

    def settle(self) -> None:
        """Moves the progress over what is done, and takes what it sent; the event in hand stays out."""
        hand, chunk = self.hand, self.hand.chunk
        if chunk is None:
            return
        done = hand.settled()
        if done > self._accounted:
            self._account(chunk, done)
        if hand.sends:
            self.outbox.extend(hand.take_sends())

    def _account(self, chunk: Chunk, done: int, *, failed: int = 0) -> None:
        first = self._accounted + 1
        late = sum(1 for index in self._late if index <= done) if self._late else 0
        self._late = {index for index in self._late if index > done} if self._late else self._late
        count = done + 1 - first
        position = chunk.offsets[done + 1] if done + 1 < len(chunk) else chunk.next_offset
        progress = self.progress[chunk.partition]
        progress.see(max(chunk.times_ms[first : done + 1]))
        progress.take(position, counted=count - late - failed, late=late, failed=failed)
        self._accounted = done
        self.processed += count - failed

    def note_late(self, hand: Hand) -> None:
        """The event in hand came too late for a table."""
        if hand is self.hand:
            self._late.add(hand.index)

    async def halt(self) -> None:
        """`abandon`, and waits a moment for the agent to end."""
        task = self._task
        self.abandon()
        if task is not None:
            await asyncio.wait({task}, timeout=CANCEL_WAIT_S)

    def abandon(self) -> None:
        """Takes no more events. What is done stays for the last checkpoint; the event in hand is undone.

        It is cancelled too; what it still writes or sends afterwards raises StaleEvent.
        """
        hand, task = self.hand, self._task
        self.settle()
        if hand.holding:
            hand.revert()
            hand.holding = False
            hand.index -= 1
        hand.stale = True
        self._queue.clear()
        self.queued = 0
        self._task = None
        if task is not None:
            task.cancel()

    def clear(self) -> None:
        """Forgets everything: the partitions are gone, or start anew from the log."""
        self.hand = Hand(self.spec.consumer)
        self.progress = {}
        self.outbox = []
        self._queue.clear()
        self.queued = 0
        self._accounted = -1
        self._late.clear()
        self._failed_at = None

    # -- the agent's side --------------------------------------------------------------------

    async def _run(self, hand: Hand) -> None:
        CURRENT.set(hand)
        while True:
            try:
                await self.spec.run(EventStream(self, hand))
            except asyncio.CancelledError:
                raise
            except Exception as exc:  # noqa: BLE001 - the agent is the user's code
                if hand.stale:
                    return
                try:
                    await self._failed(hand, exc)
                except Exception as fatal:  # noqa: BLE001 - told to the engine, which stops
                    self.failure = fatal
                    return
            else:
                # The agent is through with its stream for good, as in Faust: what it holds is done.
                hand.holding = False
                self.finish_block(hand)
                if hand.stale:
                    return
                logger.warning("agent %s returned; its stream starts again", self.spec.name)
                await self._clock.sleep_ms(100)

    async def _failed(self, hand: Hand, exc: Exception) -> None:
        """Undoes the event in hand; waits and has it tried again, or sets it aside."""
        chunk = hand.chunk
        if chunk is None or not hand.holding:
            logger.error("agent %s failed between events", self.spec.name)
            raise exc
        index = hand.index
        hand.revert()
        self._late.discard(index)  # its outcome is still open: late again, counted, or failed
        hand.holding = False
        hand.index = index - 1
        self.finish_block(hand)
        at = (chunk.topic, chunk.partition, chunk.offsets[index])
        self._attempts = self._attempts + 1 if at == self._failed_at else 1
        self._failed_at = at
        if self._attempts < self.spec.retry.attempts and not isinstance(exc, EventTypeError):
            self.retries += 1
            await self._clock.sleep_ms(self.spec.retry.wait_ms(self._attempts))
            return
        self._give_up(self, chunk, index, exc)
        hand.chunk, hand.index = chunk, index
        self._account(chunk, index, failed=1)
        if index + 1 >= len(chunk):
            hand.chunk = None

    async def next_chunk(self, hand: Hand) -> Chunk:
        """The chunk to go on with: the one in hand after a failure, else the next of the queue."""
        if hand.stale:
            raise StaleEvent("the stream's partitions are no longer assigned to this worker")
        chunk = hand.chunk
        if chunk is not None and hand.index + 1 < len(chunk):
            return chunk
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            chunk, dropped = self._queue.popleft()
            self.queued -= len(chunk)
            progress = self.progress[chunk.partition]
            if not len(chunk):
                progress.take(chunk.next_offset, dropped=dropped)
                continue
            assert chunk.events is not None
            self._accounted = -1
            hand.open(chunk, progress.watermark_ms)
            watermark_ms = max(chunk.times_ms)
            if progress.watermark_ms is not None and progress.watermark_ms > watermark_ms:
                watermark_ms = progress.watermark_ms
            for table in self._tables():
                table.open_chunk(chunk.partition, watermark_ms)
            return chunk

    def finish_block(self, hand: Hand) -> None:
        """Everything up to ``hand.index`` is done."""
        if hand.stale or hand.chunk is None:
            return
        self.settle()
        hand.undo.clear()
        if hand.index + 1 >= len(hand.chunk):
            hand.chunk = None

    def now_ms(self) -> float:
        return self._clock.monotonic_ms()


class EventStream:
    """What an agent iterates: of each event its value, its key and value, or its place."""

    __slots__ = ("_agent", "_block", "hand")

    def __init__(self, agent: Agent, hand: Hand) -> None:
        self._agent = agent
        self.hand = hand
        self._block = BLOCK_EVENTS_MAX

    async def _next_block(self) -> tuple[Chunk, range]:
        """The next stretch of indexes; gives the event loop its turn first."""
        chunk = await self._agent.next_chunk(self.hand)
        first = self.hand.index + 1
        return chunk, range(first, min(first + self._block, len(chunk)))

    async def _finish_block(self, events: int, began_ms: float) -> None:
        agent, hand = self._agent, self.hand
        hand.holding = False
        agent.finish_block(hand)
        took_ms = agent.now_ms() - began_ms
        if took_ms > BLOCK_MS:
            self._block = max(1, int(events * BLOCK_MS / took_ms))
        elif self._block < BLOCK_EVENTS_MAX:
            self._block = min(BLOCK_EVENTS_MAX, self._block * 2)
        await asyncio.sleep(0)

    async def values(self) -> AsyncIterator[Any]:
        """Each event's value."""
        hand, now_ms = self.hand, self._agent.now_ms
        while True:
            chunk, block = await self._next_block()
            began_ms = now_ms()
            events = chunk.events
            assert events is not None
            hand.holding = True
            for index in block:
                hand.index = index
                yield events[index]
            await self._finish_block(len(block), began_ms)

    async def items(self) -> AsyncIterator[tuple[Any, Any]]:
        """Each event's key and value."""
        hand, now_ms = self.hand, self._agent.now_ms
        while True:
            chunk, block = await self._next_block()
            began_ms = now_ms()
            keys, events = chunk.keys, chunk.events
            assert events is not None
            hand.holding = True
            for index in block:
                hand.index = index
                yield keys[index], events[index]
            await self._finish_block(len(block), began_ms)

    async def places(self) -> AsyncIterator[tuple[Chunk, int]]:
        """Each event as its chunk and the index in it, for views that need offset, headers and times."""
        hand, now_ms = self.hand, self._agent.now_ms
        while True:
            chunk, block = await self._next_block()
            began_ms = now_ms()
            hand.holding = True
            for index in block:
                hand.index = index
                yield chunk, index
            await self._finish_block(len(block), began_ms)
