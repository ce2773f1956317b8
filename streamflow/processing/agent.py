"""A running agent: its queue of chunks, the path that it takes their events on, its coroutines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from streamflow.clock import Clock
from streamflow.codecs.chunk import Chunk
from streamflow.errors import ConfigurationError, TooManyFailures
from streamflow.processing.agent_spec import AgentSpec, Run
from streamflow.processing.agent_tasks import AgentTasks
from streamflow.processing.concurrent import Concurrent, FailedUnits
from streamflow.processing.event_queue import AgentListener, EventQueue
from streamflow.processing.event_stream import EventStream
from streamflow.processing.event_timeouts import EventTimeouts
from streamflow.processing.failure_policy import FailurePolicy
from streamflow.processing.failures import MemoryInvalid, recover_failed, require_exclusive
from streamflow.processing.feed import SHARED, Actor, EventFeed
from streamflow.processing.gate import Gate
from streamflow.processing.held_event import HeldEvent
from streamflow.processing.in_order import InOrder
from streamflow.processing.retries import RetryStep
from streamflow.processing.suspects import Suspects
from streamflow.processing.units import Outcome
from streamflow.state.committed import CommittedChanges
from streamflow.state.cut import Cut
from streamflow.state.event_context import EventContext, Sent, current_context
from streamflow.state.progress import Progress
from streamflow.transports.base import TopicPartition

logger = logging.getLogger(__name__)

AGAIN_WAIT_MS, AGAIN_WAIT_MAX_MS = 100.0, 10_000.0
"""Until an agent that returned, or failed between events, starts again: longer each time without an event."""
CANCEL_WAIT_S = 1.0
OPEN_EVENTS_MAX = 100_000
"""So many events of one agent may be taken and not done; then its partitions wait."""


class AgainWait:
    """How long one coroutine waits before it starts again."""

    def __init__(self) -> None:
        self._wait_ms, self._before = AGAIN_WAIT_MS, -1

    def next_ms(self, processed: int) -> float:
        """``processed``: how many events the agent has done so far."""
        idle, self._before = processed == self._before, processed
        self._wait_ms = min(2 * self._wait_ms, AGAIN_WAIT_MAX_MS) if idle else AGAIN_WAIT_MS
        return self._wait_ms


GiveUp = Callable[["AgentRunner", Chunk, int, BaseException], None]
"""(agent, chunk, index, error): sets the event aside, or raises to stop the worker."""
Defer = Callable[["AgentRunner", Chunk, int, BaseException], bool]
"""(agent, chunk, index, error): moves the event to its next retry topic. False: there is none for it."""


class AgentRunner:
    """The running side of an agent: its queue of chunks, its buffer's policy, its progress, its tasks.

    How events become done is its path's. It begins in order; `concurrent` moves it to the other for good.
    """

    def __init__(
        self,
        spec: AgentSpec,
        clock: Clock,
        gate: Gate,
        *,
        give_up: GiveUp,
        defer: Defer = lambda *_: False,
        told: AgentListener | None = None,
    ) -> None:
        self.spec = spec
        self.topics = {spec.topic: None}  # all that it reads, in order
        self.retry_steps: dict[str, RetryStep | None] = {}  # topic -> where its events are tried again
        self._defer = defer
        self.writes_tables = True  # else the number of its partitions means nothing to tables
        self.gate = gate
        self.progress: dict[TopicPartition, Progress] = {}
        self.failure: BaseException | None = None
        self._clock = clock
        self._give_up = give_up
        self._told = told or AgentListener()
        # By lane: isolated partitions must not lose events because another one is behind.
        self._in_lanes = spec.isolated and spec.buffer.when_full != "block"
        self._queues: dict[int, EventQueue] = {}
        self._queued_to: dict[TopicPartition, int] = {}  # the offset behind what came
        self._taken_to: dict[TopicPartition, int] = {}  # behind what was taken of that
        self.tasks = AgentTasks(spec.consumer, gate, clock, self._run)
        self._suspects = Suspects(spec.consumer, gate.note)
        self._policy = FailurePolicy(spec.retry, clock, spec.transient, spec.breaker)
        self._timeouts = None if spec.timeout_s is None else EventTimeouts(self, spec.timeout_s, clock)
        self._asks_again: asyncio.Task[None] | None = None  # whether its circuit breaker lets it go on
        self._held_back_at = 0  # what was processed when it last did not, or an event failed
        self._given_up = 0, -1  # events in a row that were set aside, and what was processed before the last
        self._ends_for: BaseException | None = None  # an event that can't be set aside: the worker stops
        self._path: InOrder | Concurrent = InOrder(
            spec.consumer,
            self._pull,
            gate,
            policy=self._policy,
            give_up=self._set_aside,
            concurrent=self.concurrent,
            suspects=self._suspects,
        )
        if spec.run is None or spec.concurrency > 1 or spec.isolated:
            self.concurrent()

    def retry_in_topics(self, source: str) -> Sequence[RetryStep]:
        """From now on it reads the retry topics of this topic, and moves events to them."""
        steps = self.spec.retry.steps(source)
        names = [source, *(step.topic for step in steps)]
        self.retry_steps.update(zip(names, (*steps, None), strict=True))
        self.topics.update(dict.fromkeys(names))
        self._policy.try_once_in(names[1:])
        return steps

    @property
    def source_topics(self) -> list[str]:
        """What it reads, without its retry topics."""
        later = {step.topic for step in self.retry_steps.values() if step is not None}
        return [topic for topic in self.topics if topic not in later]

    # -- the engine's side -------------------------------------------------------------------

    def start(self) -> None:
        """Starts the coroutines that do not run."""
        if self.spec.run is None:
            return
        lanes = [SHARED] * self.spec.concurrency
        if self.spec.isolated:
            lanes = sorted({partition for _, partition in self.progress})
        self.tasks.start(self.spec.run, lanes)
        if self._timeouts is not None:
            self._timeouts.start()

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

    def held_events(self) -> list[HeldEvent]:
        """What its code works on now, oldest first. Another thread may ask: it only looks."""
        return self._path.held_events(self.tasks.running())

    def end_blocks(self) -> None:
        """The event loop has its turn behind the event in flight. Another thread may call it."""
        self._path.context.end_block()

    def runs(self, task: object) -> bool:
        """Is this one of its coroutines? Another thread may ask."""
        return any(each is task for each, _ in self.tasks.running())

    def wake(self) -> None:
        """Its coroutines look whether there is something to do."""
        self._path.wake()

    def due(self) -> bool:
        """Has it done anything since the last cut?"""
        return self._path.due()

    @property
    def queued(self) -> int:
        """Events that wait to be taken."""
        return sum(queue.events for queue in self._queues.values())

    def full(self) -> bool:
        """Must its partitions wait?"""
        if self._path.open_events() >= OPEN_EVENTS_MAX + self.spec.buffer.events_max:
            return True
        return any(queue.is_full() for queue in self._queues.values())

    def offer(self, chunk: Chunk) -> None:
        """Queues what has not come yet of a chunk, by the buffer's policy.

        Reading that has gone back brings again what came before. What waits of that is dropped for it.
        """
        at = (chunk.topic, chunk.partition)
        progress = self.progress.get(at)
        if progress is None:
            return  # declared meanwhile: it takes part from the next assignment on
        queue = self._queue(self._lane(chunk.partition))
        known = max(progress.position, self._queued_to.get(at, 0))
        if chunk.offsets and chunk.offsets[0] < known:
            queue.forget(at)
            known = max(progress.position, self._taken_to.get(at, 0))
            chunk = chunk.since(known)
        self._queued_to[at] = max(known, chunk.next_offset)
        self._suspects.learn(at, progress.position)
        if self._suspects.ranges and len(chunk):
            for piece in self._suspects.pieces(chunk):
                queue.put(piece)
        else:
            queue.put(chunk)
        self._path.wake()

    def _lane(self, partition: int) -> int:
        return partition if self._in_lanes else SHARED

    def _queue(self, lane: int) -> EventQueue:
        queue = self._queues.get(lane)
        if queue is None:
            queue = EventQueue(self.spec.buffer, self.now_ms, self._told)
            self._queues[lane] = queue
        return queue

    def begin_cut(self) -> None:
        """Moves the progress over what is done."""
        for queue in self._queues.values():
            queue.trim()
        self.settle()
        if self._policy.has_tried() and self.processed > self._held_back_at:
            self._policy.succeeded()
            self._path.wake()

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
        tasks = self._stop_tasks()
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
        self._forget_queued()
        self._stop_tasks()

    def _stop_tasks(self) -> list[asyncio.Task[None]]:
        self._policy.forget()
        if self._timeouts is not None:
            self._timeouts.stop()
        if self._asks_again is not None:
            self._asks_again.cancel()
            self._asks_again = None
        return self.tasks.stop()

    def clear(self) -> None:
        """Forgets everything: the partitions are gone, or start anew from the log."""
        self._path.clear(running=bool(self.tasks))
        self._suspects.clear()
        self.progress = {}
        self._forget_queued()

    def _forget_queued(self) -> None:
        for queue in self._queues.values():
            queue.clear()
        self._queued_to.clear()
        self._taken_to.clear()

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
            self._queue(self._lane(rest.partition)).put_back(rest)
            self._taken_to[rest.topic, rest.partition] = rest.offsets[0]
        feed = EventFeed(
            self.spec.consumer,
            self._pull,
            policy=self._policy,
            give_up=self._set_aside,
            isolated=self.spec.isolated,
            suspects=self._suspects,
        )
        for progress in self.progress.values():
            feed.hold(progress)
        self._path = Concurrent(feed, path)
        return feed

    def _set_aside(self, chunk: Chunk, index: int, exc: BaseException) -> Outcome:
        if self._defer(self, chunk, index, exc):
            return "deferred"
        most = self.spec.gives_up_max
        if most:
            count, before = self._given_up
            count = count + 1 if self.processed == before else 1
            self._given_up = count, self.processed
            if count >= most:
                place = f"{chunk.topic}[{chunk.partition}] offset {chunk.offsets[index]}"
                self._ends_for = TooManyFailures(
                    f"agent {self.spec.name} would give up on {count} events in a row (gives_up_max),"
                    f" the last at {place}: {type(exc).__name__}: {exc}. The worker stops; the last one is"
                    " taken again at its next start, the others are in the dead-letter topic"
                )
                raise self._ends_for from exc
        self._give_up(self, chunk, index, exc)
        return "failed"

    async def _ask_again(self) -> None:
        await self._clock.sleep_ms(self._policy.again_in_ms())
        self._asks_again = None
        self._path.wake()

    def _pull(self, lane: int = SHARED) -> tuple[Chunk, int] | None:
        queue = self._queue(lane if self._in_lanes else SHARED)
        was_full = queue.is_full()
        if self.spec.breaker is not None and queue.events and not self._policy.admits():
            if not self._policy.has_tried():
                self._held_back_at = self.processed
            if self._asks_again is None:
                self._asks_again = asyncio.create_task(self._ask_again(), name=f"{self.spec.consumer} waits")
            return None
        found = queue.take()
        if found is None:
            return None
        chunk = found[0]
        at = (chunk.topic, chunk.partition)
        # What is read again below what was taken comes here too, without events: it takes nothing back.
        self._taken_to[at] = max(chunk.next_offset, self._taken_to.get(at, 0))
        first = self.progress[at].position if self.is_concurrent or not len(chunk) else chunk.offsets[0]
        self.gate.note.took(self.spec.consumer, *at, first, chunk.next_offset)
        if was_full and not self.full():
            self._told.on_room()
        return found

    # -- the agent's side --------------------------------------------------------------------

    async def _run(self, actor: Actor, run: Run) -> None:
        context = self._path.context
        again = AgainWait()
        while True:
            current_context.set(context)
            try:
                await run(EventStream(self, self._path, context, actor))
                # The agent is through with its stream for good, as in Faust: what it holds is done.
                context.settle_copies()
                actor.finish()
            except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - the agent is the user's code
                exc = self._failure_of(raised)
                if context.stale or actor.stale:
                    return
                try:
                    if self.spec.restarts == "crash":
                        raise
                    if not await self._recover(actor, exc):
                        await self._wait_between(actor, again, exc)
                except MemoryInvalid:
                    return
                except Exception as fatal:  # noqa: BLE001 - told to the engine, which stops
                    self.failure = fatal
                    return
                if self.spec.restarts == "never":
                    logger.critical("agent %s is not started again", self.spec.name)
                    return
            else:
                context.release()
                self._path.finish_block(context)
                if context.stale or actor.stale:
                    return
                logger.warning("agent %s returned; its stream starts again", self.spec.name)
                await self._clock.sleep_ms(again.next_ms(self.processed))

    def _failure_of(self, raised: BaseException) -> Exception:
        """What the agent failed for. Raises what cancels it, where that is not its time limit."""
        if isinstance(raised, Exception):
            return raised
        timeout = None if self._timeouts is None else self._timeouts.reached()
        if timeout is None:
            raise raised
        return timeout

    async def _recover(self, actor: Actor, exc: Exception) -> bool:
        """What is in flight is undone, and taken again or set aside. False: there is nothing in flight."""
        if self._timeouts is not None:
            self._timeouts.failed()
        self._held_back_at = self.processed
        own = self._path.failed()
        failed = FailedUnits(actor, own) if actor.units else own
        if failed is None:
            return False
        self._told.on_failure(exc)
        await recover_failed(failed, self.gate, exc)
        return True

    async def _wait_between(self, actor: Actor, again: AgainWait, exc: Exception) -> None:
        """Returns when an agent that raised without an event in flight is to start again.

        No event is at fault, so none is tried or set aside: what it needs is not there yet. Raises what no
        wait cures: what is wrong in a declaration, and an event that could not be set aside.
        """
        if self._ends_for is not None or isinstance(exc, ConfigurationError):
            logger.error("agent %s failed between events", self.spec.name)
            raise self._ends_for or exc
        self._told.on_failure(exc)
        if self.spec.restarts == "never":
            logger.error("agent %s failed between events: %r", self.spec.name, exc, exc_info=exc)
            return
        wait_ms = again.next_ms(self.processed)
        logger.error(
            "agent %s failed between events; it starts again in %.1f s: %r",
            self.spec.name,
            wait_ms / 1_000,
            exc,
            exc_info=exc,
        )
        actor.waits.set()  # the worker does not wait for it before it joins the group
        await self._clock.sleep_ms(wait_ms)

    def now_ms(self) -> float:
        return self._clock.monotonic_ms()
