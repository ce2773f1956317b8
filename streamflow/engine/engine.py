"""The running engine: what an app declared, and the loops that move it.

It knows neither Faust nor Kafka: it is given a Transport, a Clock and declarations. Three loops run
from start to stop: *fetch* dispatches batches, *tail* reads progress and shuffles, *checkpoint*
makes progress durable; *recovery* brings each new assignment to life beside them (see `rebalance`). What one
of them raises ends the engine: `failed` tells.
"""

from __future__ import annotations

import asyncio
import logging
import pathlib
from collections.abc import Coroutine
from typing import Any
from urllib.parse import quote

from streamflow.clock import Clock, sleep_unless
from streamflow.codecs.times import TimeChecks, TimeLimits
from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.backfill import Backfill
from streamflow.engine.dispatch import Dispatcher
from streamflow.engine.due_batches import DueBatches
from streamflow.engine.first_connection import first_connection
from streamflow.engine.hooks import AssignmentHooks, EngineListener, EngineListeners
from streamflow.engine.idleness import IdleTicks
from streamflow.engine.internal_topics import refuse_foreign_rows
from streamflow.engine.log_tail import LogTail
from streamflow.engine.progress_board import ProgressBoard
from streamflow.engine.rebalance import Rebalance
from streamflow.engine.state_watch import StateWatch
from streamflow.engine.topology import Topology
from streamflow.engine.trouble import BrokerWatch, Trouble
from streamflow.engine.watchdog import Watchdog
from streamflow.engine.window_expiry import close_windows
from streamflow.errors import (
    CommitAborted,
    CommitUnknown,
    Fenced,
    LostWrites,
    TopicRecreated,
    TransportError,
)
from streamflow.metrics import Metrics
from streamflow.processing.failures import await_conflicts
from streamflow.settings import Settings
from streamflow.state.event_context import current_context
from streamflow.state.global_table import global_logs
from streamflow.state.partition import TableSpec
from streamflow.state.store_manager import StoreManager
from streamflow.state.stores.base import Store
from streamflow.state.stores.opening import Stores
from streamflow.transports.base import Batch, Record, Transport

logger = logging.getLogger(__name__)

FETCH_RETRY_MS = 200.0
# So long after code has blocked the event loop, no event begins while a commit is under way.
CAREFUL_MS = 60_000.0


class Engine:
    """One worker's engine. Declare in its ``topology``, then `start`; `stop` ends it for good.

    ``hooks`` are waited for when partitions come and go. ``partitioner_chosen``: did somebody say which, or
    is it the default?
    """

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        clock: Clock,
        metrics: Metrics | None = None,
        *,
        hooks: AssignmentHooks | None = None,
        partitioner_chosen: bool = True,
    ) -> None:
        self.settings = settings
        self.transport = transport
        self.clock = clock
        self.metrics = metrics or Metrics()
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()
        self.board = ProgressBoard()
        self.store_manager = StoreManager(self._open_store, clock, settings.store_age_max_s * 1_000)
        self._early = asyncio.Event()  # the next checkpoint comes before its time
        self.topology = Topology(
            settings,
            clock,
            self.metrics,
            active=lambda: self.active,
            on_room=self._make_room,
            on_invalidated=self._early.set,
            on_full=self._early.set,
        )
        self._idle = IdleTicks(self.board, self.topology.topics.partitions)
        self._hooks = hooks or AssignmentHooks()
        self._listeners = EngineListeners()
        self.rebalance = Rebalance(
            self.topology,
            transport,
            self.store_manager,
            clock,
            self.metrics,
            hooks=self._hooks,
            listener=self._listeners,
            fail=self.fail,
        )
        self.watch = BrokerWatch(transport, clock, logger, lambda: self.topology.topics.progress)
        self.watchdog = Watchdog(
            lambda: self.topology.agents,
            clock,
            self.metrics,
            warn_s=settings.agent_warn_s,
            leaves_ms=settings.max_poll_interval_ms if transport.features.shared else None,
            on_blocked=self._after_block,
        )
        self._state_watch = StateWatch(self.topology, transport, clock, self.rebalance)
        self._blocked_ms: float | None = None  # when code has blocked the event loop for the last time
        self._fetching = Trouble(logger, clock, "fetching fails")
        self._stores = Stores(settings, clock)
        times = TimeChecks(TimeLimits.of(settings), clock.now_ms)
        places = self.topology.topics.places
        self._dispatcher = Dispatcher([], times, self.metrics, places, clock.monotonic_ms)
        self._backfill = Backfill(
            transport, clock, current=self._serving, give=self._catch_up, room=self._await_room
        )
        self._due_batches = DueBatches(
            transport, clock, current=self._serving, give=self._dispatch, room=self._await_room
        )
        self._tail: LogTail | None = None
        self._partitioner_chosen = partitioner_chosen
        self._extending: set[asyncio.Future[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def active(self) -> ActiveAssignment | None:
        """What is held for the newest assignment, once anything is."""
        return self.rebalance.active

    @property
    def live(self) -> bool:
        """Does a partition of it serve?"""
        return self.rebalance.live

    @property
    def watches_state(self) -> bool:
        """Does it know the logs of state that it looks at from now on?"""
        return self._state_watch.has_looked

    def listen(self, listener: EngineListener) -> None:
        """From here on it is told of everything that changes what may be seen."""
        self._listeners.add(listener)

    def note_flights(self) -> None:
        """From now on what is in flight is noted on this machine, in case this process is killed by it."""
        if self.transport.features.shared:  # else the log dies with the process
            folder = pathlib.Path(self.settings.data_dir) / "in-flight" / quote(self.settings.id, safe="")
            self.topology.gate.note.open(folder)

    # -- life -----------------------------------------------------------------------------------

    async def start(self, url: str = "") -> None:
        """Connects, creates what topics are missing, and joins the group, advertising ``url``."""
        topology, transport, topics = self.topology, self.transport, self.topology.topics
        topology.dead_letters.sent_by(url)
        self._stores.check([table.spec.store for table in topology.tables.values()])
        self._stores.check([aggregate.spec.store for aggregate in topology.aggregates.values()])
        await first_connection(transport, self.clock, self.settings.broker_wait_s)
        await topics.create(transport)
        await topology.start_early(transport)
        await topology.keep_partitions(transport)
        topology.size_tables()
        if not self._partitioner_chosen:
            await refuse_foreign_rows(transport, topics, topology.tables)
        await topics.create(transport)
        await topology.grow_retry_topics(transport)
        for name, wrong in sorted((await topics.thin(transport, topology.state_topics())).items()):
            logger.warning("topic %s %s", name, wrong)
        self._dispatcher.add(topology.decoders.values())
        self._tail = tail = LogTail(
            transport.log_reader(),
            self._on_tail,
            Trouble(logger, self.clock, "what others wrote can't be read"),
        )
        self.rebalance.prepare(tail, self.board)
        tail.follow((topics.progress, p) for p in range(topics.partitions(topics.progress)))
        tail.follow(global_logs(topology.tables[name].spec for name in topology.global_tables))
        self._spawn(tail.run(), "tail")
        self._spawn(self._fetch_loop(), "fetch")
        self._spawn(self._backfill.run(), "backfill")
        self._spawn(self._due_batches.run(), "due-batches")
        self._spawn(self._checkpoint_loop(), "checkpoint")
        self._spawn(self.rebalance.standbys.run(), "standbys")
        self._spawn(self.watch.run(), "watch")
        self._spawn(self._state_watch.run(), "state-watch")
        await self.rebalance.join(url)

    async def extend(self) -> None:
        """Consumers were added while the engine runs: streams that tasks and agents make for themselves."""
        if not self.rebalance.joined:
            return
        # A task of its own: what is built anew cancels the agents, and one of them may be the caller.
        work = asyncio.ensure_future(self._extend())
        self._extending.add(work)
        work.add_done_callback(self._extending.discard)
        await asyncio.shield(work)

    async def _extend(self) -> None:
        topology = self.topology
        await topology.topics.create(self.transport)
        await topology.keep_partitions(self.transport)
        topology.size_tables()
        await topology.topics.create(self.transport)
        await topology.grow_retry_topics(self.transport)
        self._dispatcher.add(topology.decoders.values())
        await self.rebalance.extend()

    def _open_store(self, spec: TableSpec, partition: int) -> Store:
        """What is kept of a table's partition, or an empty store. Raises StoreError, ConfigurationError."""
        return self._stores.open(
            spec.name, partition, spec.codec, f"{spec.changelog} {spec.window!r}", spec.store
        )

    async def stop(self) -> None:
        """A last checkpoint, then leaves the group. Idempotent."""
        if self._stopping:
            return
        self._stopping = True
        self.topology.gate.note.end_wanted()
        try:
            await self.rebalance.stop()
        finally:
            self.watchdog.stop()
            self.topology.gate.note.close()
            if isinstance(self.failure, LostWrites):
                # What a disk keeps may hold what the changelogs have lost, and later records would hide that.
                # (Killed right here, a worker comes back with it: then `reset` is the way.)
                self.store_manager.clear()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._tail is not None:
                await self._tail.close()
            await self.transport.stop()
            self.store_manager.close()
            self._stores.close()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as exc:  # noqa: BLE001 - whatever a loop raises ends the engine
                self.fail(exc)

        self._tasks.append(asyncio.create_task(guarded(), name=f"streamflow-{name}"))

    def fail(self, exc: BaseException) -> None:
        """Ends the engine: whoever runs it waits for `failed` and reads `failure`."""
        if self.failure is None:
            logger.error("the engine failed: %s", exc, exc_info=exc)
            self.failure = exc
            self.failed.set()

    # -- loops ------------------------------------------------------------------------------------

    async def _fetch_loop(self) -> None:
        while True:
            if not self.live:
                await self.clock.sleep_ms(5)
                continue
            try:
                batches = await self.transport.fetch(self.settings.fetch_wait_ms)
            except TransportError as exc:
                self._fetching.failed(exc)
                await self.clock.sleep_ms(FETCH_RETRY_MS)
                continue
            except TopicRecreated as exc:
                # What was taken of the log before is made durable; nothing of the new one was taken yet.
                await self.rebalance.reread(exc)
                continue
            self._fetching.worked()
            # Asked now and not before: a restart while the fetch waited has sought anew, and what came
            # then came from there.
            active = self.active
            for batch in batches:
                # What was fetched for an assignment that is gone, or twice after a seek, is taken no more.
                if active is None or not self.rebalance.is_current(active):
                    break
                self._take(batch, active)
                await asyncio.sleep(0)
            await self._hold_back()

    def _take(self, batch: Batch, active: ActiveAssignment) -> None:
        at = (batch.topic, batch.partition)
        if at not in active.assignment.partitions:
            return
        active.fetched(batch, self.clock.monotonic_ms())
        self._hooks.batch(batch)
        retry = self.topology.retry_topics.get(batch.topic)
        due = batch if retry is None else self._due_batches.take(batch, retry, active)
        if due is not None:
            self._dispatch(due, active)

    def _serving(self) -> ActiveAssignment | None:
        """What is held, while a partition of it serves."""
        return self.active if self.live else None

    def _catch_up(self, batch: Batch, active: ActiveAssignment) -> None:
        self._dispatcher.backfill(batch, active, self.topology.dead_letters)

    def _dispatch(self, batch: Batch, active: ActiveAssignment) -> None:
        at = (batch.topic, batch.partition)
        if self._dispatcher.dispatch(batch, active, self.topology.dead_letters):
            self.transport.pause([at])
            active.paused.add(at)
            self._hooks.full(at)

    async def _hold_back(self) -> None:
        """Backpressure: full buffers keep their partitions paused, a late commit keeps all waiting."""
        self._make_room()
        await self._await_room()

    async def _await_room(self) -> None:
        if self.active is not None and self.active.full(
            self.settings.commit_every, self.settings.commit_bytes
        ):
            self._early.set()
        most, most_bytes = self.settings.commit_events_max, self.settings.commit_bytes_max
        while self.live and self.active is not None and self.active.full(most, most_bytes):
            await self.clock.sleep_ms(5)

    def _make_room(self) -> None:
        """Partitions that full buffers have paused go on, at once: a fetch may be waiting for them alone."""
        active = self.active
        if active is not None and active.paused and not any(agent.full() for agent in active.agents):
            self.transport.resume(active.paused)
            active.paused.clear()

    async def _checkpoint_loop(self) -> None:
        while True:
            await sleep_unless(self.clock, self.settings.commit_interval_ms, self._early)
            self._early.clear()
            await self.checkpoint()

    def _after_block(self) -> None:
        """Code has blocked the event loop: what it did becomes durable before it blocks again."""
        self._blocked_ms = self.clock.monotonic_ms()
        self.watch.forgive()
        self.topology.gate.rest()
        self._early.set()

    def _blocks_commits(self) -> bool:
        """May code block the loop in the middle of a commit? Events that are not begun can wait for it."""
        since_ms = self._blocked_ms
        return since_ms is not None and self.clock.monotonic_ms() - since_ms < CAREFUL_MS

    async def checkpoint(self) -> None:
        """One checkpoint now, if partitions are live. What fails beyond repair is restored from the log."""
        gate = self.topology.gate
        if self._blocks_commits():
            gate.rest()
        try:
            await self._checkpoint()
        finally:
            gate.rested()

    async def _checkpoint(self) -> None:
        rebalance, gate = self.rebalance, self.topology.gate
        active, checkpoint = rebalance.active, rebalance.checkpoint
        if not self.live or active is None or checkpoint is None:
            if not rebalance.assigned:
                self.watch.commit_due(due=False)
            return
        # What is read back after a commit that failed is as due as it was, until it has been taken again.
        self.watch.commit_due(due=active.due() or (self.watch.owed and not active.caught_up()))
        failure = active.failure()
        if failure is not None:
            raise failure
        self._idle.tick(active, self.clock.monotonic_ms())
        if gate.invalidated is None:
            await close_windows(active, lambda: rebalance.is_current(active))
        await await_conflicts(gate, lambda: self.active is active)
        if not rebalance.is_current(active):
            return
        if gate.invalidated is not None:
            self._restart(gate.invalidated)
            return
        try:
            if active.due():
                self._hooks.committing()
            gate.note.committing(under_way=True)
            written = await checkpoint.run()
            gate.checkpointed(written=written)
            if written:
                self.watch.commit_due(due=False)
                self.metrics.checkpoint_seconds.observe(checkpoint.last_seconds)
                self._hooks.committed()
        except (Fenced, CommitUnknown, CommitAborted) as exc:
            self.watch.commit_failed()
            if rebalance.is_current(active):
                self._restart(exc)
        finally:
            gate.note.committing(under_way=False)
            gate.open()

    def _restart(self, exc: BaseException) -> None:
        self.rebalance.restart(exc)
        self._early.clear()

    def _on_tail(self, batch: Batch) -> None:
        topology = self.topology
        for name, table in topology.global_tables.items():
            if topology.tables[name].spec.changelog == batch.topic:
                table.read(batch)
                return
        if batch.topic == topology.topics.progress:
            self.board.read_batch(batch, self.clock.monotonic_ms())
            return
        self.rebalance.read_stage(batch)

    # -- what agents do -----------------------------------------------------------------------------

    async def send(self, record: Record) -> asyncio.Future[Record]:
        """Writes a record: with the checkpoint of the event in flight, or at once outside of one.

        The future is resolved when the record is durable.
        """
        context = current_context.get()
        if context is not None:
            context.check()
            context.sends.append((context.position, record, promise := context.promise()))
            return promise
        await self.transport.send([record])
        (future := asyncio.get_running_loop().create_future()).set_result(record)
        return future
