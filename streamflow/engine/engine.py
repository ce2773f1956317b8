"""The running engine: declarations, one assignment at a time, and the loops that move it.

It knows neither Faust nor Kafka: it is given a Transport, a Clock and declarations. Three loops run
from start to stop: *fetch* dispatches batches, *tail* reads progress and shuffles, *checkpoint*
makes progress durable; *recovery* brings each new assignment to life beside them. What one of them
raises ends the engine: `failed` tells.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from streamflow.aggregates.closed_rows import closed_row
from streamflow.aggregates.row_values import State
from streamflow.aggregates.shuffle.final import FinalStage, RowId
from streamflow.aggregates.spec import AggregateSpec
from streamflow.clock import Clock, sleep_unless
from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.assignment_builder import AssignmentBuilder
from streamflow.engine.checkpoint import Checkpoint
from streamflow.engine.committed import CommittedChanges
from streamflow.engine.dispatch import Dispatcher, Limits
from streamflow.engine.extending import begin_early, extend
from streamflow.engine.hooks import AssignmentHooks
from streamflow.engine.idleness import idle_ticks
from streamflow.engine.internal_topics import refuse_foreign_rows
from streamflow.engine.log_tail import LogTail
from streamflow.engine.progress_board import ProgressBoard
from streamflow.engine.rejected_records import set_aside
from streamflow.engine.restoration import Restoration, Turns
from streamflow.engine.restoring_partition import PartitionTask
from streamflow.engine.standbys import Standbys
from streamflow.engine.topology import Declarations, size_tables
from streamflow.engine.window_expiry import close_windows
from streamflow.errors import CommitAborted, CommitUnknown, ConflictingWrites, Fenced, TransportError
from streamflow.metrics import Metrics
from streamflow.processing.failures import await_conflicts
from streamflow.settings import Settings
from streamflow.state.event_context import current_context
from streamflow.state.global_table import global_logs
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.restore import end_of_logs
from streamflow.state.store_manager import StoreManager
from streamflow.state.stores.base import Store
from streamflow.state.stores.opening import Stores
from streamflow.transports.base import Assignment, Batch, Member, Record, TopicPartition, Transport

logger = logging.getLogger(__name__)

RESTART_WAIT_MS = 200.0
LAST_COMMIT_ATTEMPTS = 3
CALM_MS = 500.0


class Engine(Declarations):
    """One worker's engine. Declare with the ``add_`` methods, then `start`; `stop` ends it for good.

    ``watch`` is told what each checkpoint made visible, ``watch_stage`` which rows of a final stage
    the reading of its shuffle changed, ``watch_ours`` that all rows have gone or come back.
    """

    def __init__(
        self, settings: Settings, transport: Transport, clock: Clock, metrics: Metrics | None = None
    ) -> None:
        super().__init__(settings, clock, metrics or Metrics())
        self.transport = transport
        self.stores = Stores(settings, clock)
        self.store_manager = StoreManager(self.open_store, clock, settings.store_age_max_s * 1_000)
        self.board = ProgressBoard()
        self.live = False
        self.lifecycle = AssignmentHooks()
        self.partitioner_chosen = True  # did somebody say it, or is it the default?
        self.epoch = 0  # grows whenever rows were dropped or restored
        self.members: tuple[Member, ...] = ()
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()
        self.watch: Callable[[list[CommittedChanges]], None] = _ignore
        self.watch_stage: Callable[[FinalStage, list[RowId]], None] = _ignore
        self.watch_active: Callable[[], None] = _ignore
        self.subscribed: set[str] | None = None  # topics; None: the group was not joined yet
        self.url = ""
        self._assignment: Assignment | None = None
        self.extending: set[asyncio.Future[None]] = set()
        self._checkpoint: Checkpoint | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._recovery: asyncio.Task[None] | None = None
        self._standbys = Standbys(transport, self.store_manager, clock, self.metrics)
        self._stages: dict[TopicPartition, FinalStage] = {}
        self._paused: set[TopicPartition] = set()
        self._early = asyncio.Event()  # the next checkpoint comes before its time
        self._tail: LogTail | None = None
        self._stopping = False
        # One at a time: a rebalance may begin while `stop` makes its last checkpoint, and the next
        # assignment fills the very tables and agents that this checkpoint cuts.
        self._turning = asyncio.Lock()

    # -- life -----------------------------------------------------------------------------------

    async def start(self, url: str = "") -> None:
        """Connects, creates what topics are missing, and joins the group, advertising ``url``."""
        self.stores.check([table.spec.store for table in self.tables.values()])
        self.stores.check([aggregate.spec.store for aggregate in self.aggregates.values()])
        await self.transport.start()
        await self.topics.create(self.transport)
        await begin_early(self)
        size_tables(self.topics, self.declared(), self.table_partitions)
        if not self.partitioner_chosen:
            await refuse_foreign_rows(self.transport, self.topics, self.tables)
        await self.topics.create(self.transport)
        limits = Limits.of(self.settings)
        self.dispatcher = Dispatcher(list(self.decoders.values()), limits, self.metrics, self.topics.places)
        self._tail = tail = LogTail(self.transport.log_reader(), self._on_tail)
        self._builder = AssignmentBuilder(
            self.declared(),
            transport=self.transport,
            topics=self.topics,
            board=self.board,
            tail=tail,
            clock=self.clock,
            emit=self.closed_record,
            store_manager=self.store_manager,
        )
        turns = Turns(self._read_global, self._install, self._open)
        self._restoration = Restoration(self._builder, self.transport, self.clock, self.metrics, turns)
        tail.follow((self.topics.progress, p) for p in range(self.topics.partitions(self.topics.progress)))
        tail.follow(global_logs(self.tables[name].spec for name in self.global_tables))
        self._spawn(tail.run(), "tail")
        self._spawn(self._fetch_loop(), "fetch")
        self._spawn(self._checkpoint_loop(), "checkpoint")
        self._spawn(self._standbys.run(), "standbys")
        self.url = url
        self.subscribed = set(self.source_topics())
        if self.subscribed:
            await self.transport.subscribe(sorted(self.subscribed), self, url)

    async def extend(self) -> None:
        """Consumers were added while the engine runs: they join in."""
        if self.subscribed is not None:
            await extend(self)

    async def reform(self) -> None:
        """Everything held becomes durable, and is formed anew with the consumers that there are now."""
        async with self._turning:
            assignment = self._assignment
            if assignment is None or self._stopping:
                return
            if self.active is not None:
                self.transport.pause(self.active.source_partitions())
            await self._revoke()
            work = self._recover(assignment, 0.0, told=False)
            self._recovery = asyncio.create_task(work, name="streamflow-recovery")

    def open_store(self, spec: TableSpec, partition: int) -> Store:
        """What is kept of a table's partition, or an empty store. Raises StoreError, ConfigurationError."""
        return self.stores.open(
            spec.name, partition, spec.codec, f"{spec.changelog} {spec.window!r}", spec.store
        )

    def standing(self) -> tuple[list[TablePartition], list[FinalStage]]:
        """What is kept up to date for other workers' partitions."""
        return list(self._standbys.parts.values()), self._builder.standbys.stages

    async def stop(self) -> None:
        """A last checkpoint, then leaves the group. Idempotent."""
        if self._stopping:
            return
        self._stopping = True
        try:
            await self.on_revoked()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._tail is not None:
                await self._tail.close()
            await self.transport.stop()
            self.store_manager.close()
            self.stores.close()

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

    # -- rebalancing (RebalanceListener) ----------------------------------------------------------

    async def on_revoked(self) -> None:
        """A final checkpoint under the old assignment; then everything that was held is dropped."""
        async with self._turning:
            self._assignment = None
            await self._revoke()

    async def _revoke(self) -> None:
        # Not live before anything is awaited: a commit that fails meanwhile must not begin a recovery.
        active, checkpoint, was_live = self.active, self._checkpoint, self.live
        self.live = False
        self._standbys.rest()
        await self._end_recovery()
        if active is None or checkpoint is None:
            return
        if was_live:
            # Events that came in each other's way get a moment to end; else there is no last checkpoint.
            await self.gate.await_conflicts(CALM_MS)
        for agent in active.agents:
            await agent.halt()
        if self.gate.invalidated is not None:
            logger.warning("no last checkpoint, events are taken again: %s", self.gate.invalidated)
        elif was_live:
            checkpoint.attempts_max = LAST_COMMIT_ATTEMPTS
            active.hurry()
            try:
                await checkpoint.run()
            except (Fenced, CommitUnknown, CommitAborted) as exc:
                logger.warning(
                    "the last checkpoint before a revoke failed, its events will be taken again: %s", exc
                )
        self._drop()
        if not self._stopping:
            await self.lifecycle.revoked(active.assignment.partitions)

    async def on_assigned(self, assignment: Assignment) -> None:
        """Recovery runs beside it: the partitions start to serve when their tables are back."""
        self.members = assignment.members
        async with self._turning:
            self._assignment = assignment
            if self._stopping:
                return
            await self._end_recovery()
            self._drop()
            work = self._recover(assignment, 0.0, told=False)
            self._recovery = asyncio.create_task(work, name="streamflow-recovery")

    async def _end_recovery(self) -> None:
        task, self._recovery = self._recovery, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _drop(self) -> None:
        """Whatever is not durable goes. The stores stay open, the final stages go on reading."""
        self.live = False
        self.epoch += 1
        self._standbys.rest()
        for stage in self._stages.values():
            stage.hold()
        self._paused.clear()
        if self.active is not None:
            self.active.drop()
            self.gate.clear()
        self.active = None
        self._checkpoint = None
        self.watch_active()

    async def _recover(self, assignment: Assignment, wait_ms: float, *, told: bool = True) -> None:
        try:
            if not told:
                await self.lifecycle.assigned(assignment.partitions)
            if wait_ms:
                await self.clock.sleep_ms(wait_ms)
            await self._restoration.run(assignment, self._stages, self.lifecycle)
            self._standbys.follow(self._builder.standbys.tables)  # what serves came first
        except Exception as exc:  # noqa: BLE001 - whatever recovery raises ends the engine
            self.fail(exc)

    async def _read_global(self) -> None:
        """Global tables are whole as of now: all that was checkpointed before has been read."""
        logs = global_logs(self.tables[name].spec for name in self.global_tables)
        if logs and self._tail is not None:
            await self._tail.passed(await end_of_logs(self.transport, logs))

    def _install(self, active: ActiveAssignment, stages: Iterable[FinalStage]) -> None:
        """From here on final stages are read; nothing is taken before it is opened."""
        assert self._tail is not None
        stages = [*stages, *self._builder.standbys.stages]
        before, self._stages = self._stages, {(stage.topic, stage.partition): stage for stage in stages}
        self._tail.leave([at for at in before if at not in self._stages])
        self._tail.follow(at for at in self._stages if at not in before)
        self.active = active
        refused = partial(set_aside, active, self.dead_letters)
        self._checkpoint = Checkpoint(active, self.transport, self.clock, self._on_committed, refused)

    def _open(self, active: ActiveAssignment, partition_tasks: list[PartitionTask]) -> None:
        """No await: from here on these partitions are taken, fetched and checkpointed."""
        now_ms = self.clock.monotonic_ms()
        for partition_task in partition_tasks:
            partition_task.into(active, now_ms)
        positions = active.offsets()
        sources = [
            at for partition_task in partition_tasks for at in partition_task.sources if at in positions
        ]
        for at in sources:
            self.transport.seek(at, positions[at])
        for agent in active.agents:
            if not self.live or agent.spec.isolated:
                agent.start()
        self.live = True
        self.epoch += 1
        self.watch_active()
        self.transport.resume(sources)

    def _restart(self, exc: BaseException) -> None:
        """What is held in memory can't be trusted any more: drop it, and read it back from the log."""
        active = self.active
        if active is None:
            return
        logger.warning("restoring from the log: %s", exc)
        assignment = active.assignment
        self.transport.pause(active.source_partitions())
        if self._recovery is not None:
            self._recovery.cancel()  # some partitions were open already
        self._drop()
        # A broker in trouble is given time; what was invalidated here is read back at once.
        wait_ms = 0.0 if isinstance(exc, ConflictingWrites) else RESTART_WAIT_MS
        self._early.clear()
        work = self._recover(assignment, wait_ms)
        self._recovery = asyncio.create_task(work, name="streamflow-recovery")

    # -- loops ------------------------------------------------------------------------------------

    async def _fetch_loop(self) -> None:
        while True:
            if not self.live:
                await self.clock.sleep_ms(5)
                continue
            try:
                batches = await self.transport.fetch(self.settings.fetch_wait_ms)
            except TransportError as exc:
                logger.warning("fetching failed, trying again: %s", exc)
                await self.clock.sleep_ms(RESTART_WAIT_MS)
                continue
            # Asked now and not before: a restart while the fetch waited has sought anew, and what came
            # then came from there.
            active = self.active
            for batch in batches:
                # What was fetched for an assignment that is gone, or twice after a seek, is not ours.
                if self.active is not active or active is None or not self.live:
                    break
                self._take(batch, active)
                await asyncio.sleep(0)
            await self._hold_back()

    def _take(self, batch: Batch, active: ActiveAssignment) -> None:
        at = (batch.topic, batch.partition)
        if at not in active.assignment.partitions:
            return
        active.end_offsets[at] = batch.end_offset
        self.lifecycle.batch(batch)
        if batch.offsets:
            active.moved_ms[at] = self.clock.monotonic_ms()
            active.taken_bytes += sum(map(len, filter(None, batch.values)))
        if self.dispatcher.dispatch(batch, active, self.dead_letters):
            self.transport.pause([at])
            self._paused.add(at)
            self.lifecycle.full(at)

    async def _hold_back(self) -> None:
        """Backpressure: full buffers keep their partitions paused, a late commit keeps all waiting."""
        self.make_room()
        if self.active is not None and self.active.full(
            self.settings.commit_every, self.settings.commit_bytes
        ):
            self._early.set()
        most, most_bytes = self.settings.commit_events_max, self.settings.commit_bytes_max
        while self.live and self.active is not None and self.active.full(most, most_bytes):
            await self.clock.sleep_ms(5)

    def on_invalidated(self) -> None:
        self._early.set()

    def make_room(self) -> None:
        """Partitions that full buffers have paused go on, at once: a fetch may be waiting for them alone."""
        if self._paused and self.active is not None and not any(agent.full() for agent in self.active.agents):
            self.transport.resume(self._paused)
            self._paused.clear()

    async def _checkpoint_loop(self) -> None:
        while True:
            await sleep_unless(self.clock, self.settings.commit_interval_ms, self._early)
            self._early.clear()
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """One checkpoint now, if partitions are live. What fails beyond repair is restored from the log."""
        active, checkpoint = self.active, self._checkpoint
        if not self.live or active is None or checkpoint is None:
            return
        for agent in active.agents:
            if agent.failure is not None:
                raise agent.failure
        idle_ticks(active, self.board, self.topics.partitions, self.clock.monotonic_ms())
        if self.gate.invalidated is None:
            await close_windows(active, lambda: self.active is active and self.live)
        await await_conflicts(self.gate, lambda: self.active is active)
        if self.active is not active or not self.live:
            return
        if self.gate.invalidated is not None:
            self._restart(self.gate.invalidated)
            return
        active.on_cut = self.gate.open
        try:
            if active.due():
                self.lifecycle.committing()
            written = await checkpoint.run()
            self.gate.checkpointed(written=written)
            if written:
                self.metrics.checkpoint_seconds.observe(checkpoint.last_seconds)
                self.lifecycle.committed()
        except (Fenced, CommitUnknown, CommitAborted) as exc:
            if self.active is active and self.live:
                self._restart(exc)
        finally:
            self.gate.open()

    def _on_tail(self, batch: Batch) -> None:
        for name, table in self.global_tables.items():
            if self.tables[name].spec.changelog == batch.topic:
                table.read(batch)
                return
        if batch.topic == self.topics.progress:
            now_ms = self.clock.monotonic_ms()
            for key, value in zip(batch.keys, batch.values, strict=True):
                if key is not None:
                    self.board.read(key, value, now_ms)
            return
        stage = self._stages.get((batch.topic, batch.partition))
        if stage is not None:
            changed = stage.read(batch)
            if stage.ready:
                self.watch_stage(stage, changed)

    def _on_committed(self, changes: list[CommittedChanges]) -> None:
        if self.active is not None:
            self.store_manager.mark_fresh(
                (part.spec.name, part.partition) for part in self.active.table_partitions()
            )
        self.watch(changes)

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

    def closed_record(self, spec: AggregateSpec, start: int, key: Any, state: State) -> Record:
        """The record that tells of a closed row."""
        assert spec.emit_closed is not None
        raw, value = closed_row(spec, self.sources[spec.consumer].key, start, key, state)
        return Record(spec.emit_closed, self.topics.place(spec.emit_closed, raw), raw, value)


def _ignore(*_: object) -> None:
    """Nobody watches."""
