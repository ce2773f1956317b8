"""The life of an assignment: revoked, assigned, recovered, and restored from the log when it is in doubt.

A worker holds one assignment at a time. It ends with a last checkpoint, if there can be one, and everything
that it held in memory is dropped; the next one is brought to life beside the engine's loops, and each of its
partitions serves as soon as its tables are whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence, Set
from functools import partial

from streamflow.aggregates.shuffle.final import FinalStage
from streamflow.clock import Clock
from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.assignment_builder import AssignmentBuilder
from streamflow.engine.checkpoint import Checkpoint
from streamflow.engine.grown_topics import GrownTopics, shrunk_topics
from streamflow.engine.hooks import AssignmentHooks, EngineListener
from streamflow.engine.log_tail import LogTail
from streamflow.engine.partition_task import PartitionTask
from streamflow.engine.progress_board import ProgressBoard
from streamflow.engine.rejected_records import set_aside
from streamflow.engine.restoration import RecoverySteps, Restoration
from streamflow.engine.standbys import Standbys
from streamflow.engine.topology import Topology
from streamflow.errors import CommitAborted, CommitUnknown, ConflictingWrites, Fenced, LostWrites
from streamflow.metrics import Metrics
from streamflow.state.committed import CommittedChanges
from streamflow.state.global_table import global_logs
from streamflow.state.partition import TablePartition
from streamflow.state.restore import end_of_logs
from streamflow.state.store_manager import StoreManager
from streamflow.state.stores.base import Store
from streamflow.transports.base import Assignment, Batch, Member, TopicPartition, Transport

logger = logging.getLogger(__name__)

RESTART_WAIT_MS = 200.0
# A fenced assignment is dead, and the group about to give another: to read it back would be in vain. Only if
# the group has nothing to say for so long, it was alive after all.
FENCED_WAIT_MS = 10_000.0
LAST_COMMIT_ATTEMPTS = 3
CALM_MS = 500.0


class Rebalance:
    """One worker's side of its group's rebalances: a `transports.base.RebalanceListener`.

    ``active`` is what is held for the newest assignment, with ``checkpoint``, which makes it durable; both
    are ``None`` while nothing is held. ``live``: at least one partition of it serves. ``fail`` is told what
    ends the engine.
    """

    def __init__(
        self,
        topology: Topology,
        transport: Transport,
        store_manager: StoreManager,
        clock: Clock,
        metrics: Metrics,
        *,
        hooks: AssignmentHooks,
        listener: EngineListener,
        fail: Callable[[BaseException], None],
    ) -> None:
        self.active: ActiveAssignment | None = None
        self.checkpoint: Checkpoint | None = None
        self.live = False
        self.members: tuple[Member, ...] = ()
        self.standbys = Standbys(transport, store_manager, clock, metrics)
        self._topology = topology
        self._transport = transport
        self._store_manager = store_manager
        self._clock = clock
        self._metrics = metrics
        self._hooks = hooks
        self._listener = listener
        self._fail = fail
        self._growth = GrownTopics(topology)
        self._assignment: Assignment | None = None
        self._stages: dict[TopicPartition, FinalStage] = {}
        self._read_ms: dict[TopicPartition, float] = {}  # of these, when something came last
        self._recovery: asyncio.Task[None] | None = None
        self._subscribed: set[str] | None = None  # topics; None: the group was not joined yet
        self._url = ""
        self._stopping = False
        # One at a time: a rebalance may begin while `stop` makes its last checkpoint, and the next
        # assignment fills the very tables and agents that this checkpoint cuts.
        self._turning = asyncio.Lock()

    # -- the group --------------------------------------------------------------------------------

    def prepare(self, tail: LogTail, board: ProgressBoard) -> None:
        """The topology is known; ``tail`` follows final stages, and reads ``board``."""
        self._tail = tail
        self._builder = AssignmentBuilder(
            self._topology,
            transport=self._transport,
            board=board,
            tail=tail,
            clock=self._clock,
            store_manager=self._store_manager,
        )
        steps = RecoverySteps(self._read_global, self._install, self._open)
        self._restoration = Restoration(self._builder, self._transport, self._clock, self._metrics, steps)

    async def join(self, url: str) -> None:
        """Joins the group for what is read by now, advertising ``url``."""
        self._url = url
        await self._subscribe(self._topology.subscribed_topics())

    @property
    def joined(self) -> bool:
        return self._subscribed is not None

    @property
    def assigned(self) -> bool:
        """Has the group given anything, be it live, or on its way back?"""
        return self._assignment is not None

    async def extend(self) -> None:
        """More is declared than before: everything held is checkpointed, and built anew with it."""
        names = self._topology.subscribed_topics()
        if names == self._subscribed:
            await self._reform()
        else:
            await self._subscribe(names)

    async def reread(self, why: object) -> None:
        """What the partitions were found in is not there any more: checkpointed, and looked at anew."""
        logger.warning("looking at the source topics anew: %s", why)
        await self._reform()

    async def _subscribe(self, names: set[str]) -> None:
        self._subscribed = names
        if names:
            await self._transport.subscribe(sorted(names), self, self._url)

    async def _reform(self) -> None:
        async with self._turning:
            assignment = self._assignment
            if assignment is None or self._stopping:
                return
            if self.active is not None:
                self._transport.pause(self.active.source_partitions())
            await self._revoke()
            self._begin_recovery(assignment, told=False)

    async def stop(self) -> None:
        """The last checkpoint of all."""
        self._stopping = True
        await self.on_revoked()

    # -- RebalanceListener ------------------------------------------------------------------------

    async def on_revoked(self) -> None:
        """A last checkpoint under the old assignment; then everything that was held is dropped."""
        async with self._turning:
            self._assignment = None
            await self._revoke()

    async def _revoke(self) -> None:
        # Not live before anything is awaited: a commit that fails meanwhile must not begin a recovery.
        active, checkpoint, was_live = self.active, self.checkpoint, self.live
        gate = self._topology.gate
        self.live = False
        self.standbys.rest()
        await self._end_recovery()
        if active is None or checkpoint is None:
            return
        if was_live:
            # Events that came in each other's way get a moment to end; else there is no last checkpoint.
            await gate.await_conflicts(CALM_MS)
        for agent in active.agents:
            await agent.halt()
        gate.note.not_alone()  # it is undone
        if gate.invalidated is not None:
            logger.warning("no last checkpoint, events are taken again: %s", gate.invalidated)
        elif was_live:
            checkpoint.limit_attempts(LAST_COMMIT_ATTEMPTS)
            active.hurry()
            try:
                await checkpoint.run()
            except (Fenced, CommitUnknown, CommitAborted) as exc:
                logger.warning(
                    "the last checkpoint before a revoke failed, its events will be taken again: %s", exc
                )
        self._drop()
        if not self._stopping:
            await self._hooks.revoked(active.assignment.partitions)

    async def on_assigned(self, assignment: Assignment) -> None:
        """Recovery runs beside it: the partitions start to serve when their tables are back."""
        self.members = assignment.members
        assignment = self._growth.served(assignment)
        async with self._turning:
            self._assignment = assignment
            if self._stopping:
                return
            await self._end_recovery()
            self._drop()
            self._topology.gate.note.read_dead()
            self._begin_recovery(assignment, told=False)

    def _drop(self) -> None:
        """Whatever is not durable goes. The stores stay open, the final stages go on reading."""
        self.live = False
        self.standbys.rest()
        for stage in self._stages.values():
            stage.hold()
        if self.active is not None:
            self.active.drop()
            self._topology.gate.clear()
        self.active = None
        self.checkpoint = None
        self._listener.on_active()

    # -- recovery ---------------------------------------------------------------------------------

    def _begin_recovery(self, assignment: Assignment, wait_ms: float = 0.0, *, told: bool) -> None:
        work = self._recover(assignment, wait_ms, told=told)
        self._recovery = asyncio.create_task(work, name="streamflow-recovery")

    async def _end_recovery(self) -> None:
        task, self._recovery = self._recovery, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _recover(self, assignment: Assignment, wait_ms: float, *, told: bool) -> None:
        """``told``: the hooks know of this assignment already."""
        try:
            if not told:
                await self._hooks.assigned(assignment.partitions)
            if wait_ms:
                await self._clock.sleep_ms(wait_ms)
            await self._restoration.run(assignment, self._stages, self._hooks)
            self.standbys.follow(self._builder.standbys.tables)  # what serves came first
        except Exception as exc:  # noqa: BLE001 - whatever recovery raises ends the engine
            self._fail(exc)

    async def _read_global(self) -> None:
        """Global tables are whole as of now: all that was checkpointed before has been read."""
        topology = self._topology
        logs = global_logs(topology.tables[name].spec for name in topology.global_tables)
        if logs:
            await self._tail.passed(await end_of_logs(self._transport, logs))

    def _install(self, active: ActiveAssignment, stages: Iterable[FinalStage]) -> None:
        """From here on final stages are read; nothing is taken before it is opened."""
        stages = [*stages, *self._builder.standbys.stages]
        before, self._stages = self._stages, {(stage.topic, stage.partition): stage for stage in stages}
        self._tail.leave([at for at in before if at not in self._stages])
        self._tail.follow(at for at in self._stages if at not in before)
        self.active = active
        self.checkpoint = Checkpoint(
            active,
            self._transport,
            self._clock,
            on_cut=self._topology.gate.open,
            on_committed=self._on_committed,
            refused=partial(set_aside, active, self._topology.dead_letters),
            missing=partial(shrunk_topics, self._transport, self._topology),
        )

    def _open(self, active: ActiveAssignment, tasks: list[PartitionTask]) -> None:
        """No await: from here on these partitions are taken, fetched and checkpointed."""
        now_ms = self._clock.monotonic_ms()
        for task in tasks:
            task.into(active, now_ms)
        positions = active.offsets()
        sources = [at for task in tasks for at in task.sources if at in positions]
        for at in sources:
            self._transport.seek(at, positions[at])
            active.given(at, positions[at])
        for agent in active.agents:
            if not self.live or agent.spec.isolated:
                agent.start()
        self.live = True
        self._listener.on_active()
        self._transport.resume(sources)

    def restart(self, exc: BaseException) -> None:
        """What is held in memory can't be trusted any more: drop it, and read it back from the log."""
        active = self.active
        if active is None:
            return
        logger.warning("restoring from the log: %s", exc)
        assignment = active.assignment
        self._transport.pause(active.source_partitions())
        if self._recovery is not None:
            self._recovery.cancel()  # some partitions were open already
        self._drop()
        # A broker in trouble is given time; what was invalidated here is read back at once.
        if isinstance(exc, ConflictingWrites):
            wait_ms = 0.0
        else:
            wait_ms = FENCED_WAIT_MS if isinstance(exc, Fenced) else RESTART_WAIT_MS
        self._begin_recovery(assignment, wait_ms, told=True)

    def lose(self, topics: Set[str], why: LostWrites) -> None:
        """State in these topics is gone: what is left is read back, from its beginning."""
        self.restart(why)
        gone = [at for at in self._stages if at[0] in topics]
        self._tail.leave(gone)
        for at in gone:
            del self._stages[at]
        self._store_manager.clear()

    # -- what is held -----------------------------------------------------------------------------

    def is_current(self, active: ActiveAssignment) -> bool:
        """Does this worker still serve what was held when somebody began to wait?"""
        return self.active is active and self.live

    def read_stage(self, batch: Batch) -> None:
        """Records of a shuffle have come."""
        stage = self._stages.get((batch.topic, batch.partition))
        if stage is not None:
            changed = stage.read(batch)
            self._read_ms[batch.topic, batch.partition] = self._clock.monotonic_ms()
            if stage.ready:
                self._listener.on_stage(stage, changed)

    def kept_rows(self, table: str, partition: int) -> tuple[Store, float] | None:
        """The store of a partition that has been up to date, served or not, and how many ms ago it was."""
        return self._store_manager.kept((table, partition))

    def kept_stages(self, table: str) -> dict[int, tuple[FinalStage, float]]:
        """The same of the final stages that are not ready here, by partition."""
        now_ms = self._clock.monotonic_ms()
        return {
            stage.partition: (stage, now_ms - self._read_ms.get(at, now_ms))
            for at, stage in self._stages.items()
            if stage.spec.name == table and stage.was_whole and not stage.ready
        }

    def standby_tasks(self) -> tuple[list[TablePartition], list[FinalStage]]:
        """What is kept up to date for other workers' partitions."""
        return list(self.standbys.parts.values()), self._builder.standbys.stages

    def _on_committed(self, changes: Sequence[CommittedChanges]) -> None:
        if self.active is not None:
            self._store_manager.mark_fresh(
                (part.spec.name, part.partition) for part in self.active.table_partitions()
            )
            now_ms, seconds = self._clock.now_ms(), self._metrics.end_to_end_seconds
            for chunk in self.active.durable():
                place = {
                    "topic": chunk.topic,
                    "partition": str(chunk.partition),
                    "offset": str(chunk.next_offset - 1),
                }
                took_ms = max(0, now_ms - chunk.timestamp_ms)
                seconds.labels(chunk.consumer).observe(took_ms / 1_000, exemplar=place)
        self._listener.on_committed(changes)
