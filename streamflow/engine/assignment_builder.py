"""Makes what is held for a new assignment: progress read back, tables restored, final stages begun.

What a rebalance left with this worker is kept: the stores, which are as good as their offset in the changelog
says, and the final stages, which go on reading all the time. So only what was written since is read again.

The order matters. First `committed`, which waits until no commit of a predecessor is undecided; then
the ends of the logs, uncommitted records included; then everything below those ends is read. So
nothing that a predecessor made durable is missed, and nothing it can still do has an effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import orjson

from streamflow.aggregates.fold import AggregateConsumer
from streamflow.aggregates.late_events import LateEventStore, late_event_table
from streamflow.aggregates.partition import AggregatePartition, aggregate_table
from streamflow.aggregates.revisions import Revisions
from streamflow.aggregates.shuffle.final import FinalStage
from streamflow.aggregates.shuffle.final_windows import make_stage
from streamflow.aggregates.shuffle.partial import PartialSender
from streamflow.aggregates.spec import AggregateSpec
from streamflow.clock import Clock
from streamflow.engine.assignment import ActiveAssignment, table_consumer
from streamflow.engine.beginnings import Beginnings, Wish, find_beginnings, leave_nobody_waiting
from streamflow.engine.decoding import Decoder
from streamflow.engine.log_tail import LogTail
from streamflow.engine.lost_state import check_logs
from streamflow.engine.partition_task import PartitionTask
from streamflow.engine.progress_board import RESET_BEGUN, ProgressBoard
from streamflow.engine.source_logs import SourceLogs, source_logs
from streamflow.engine.topology import Topology
from streamflow.errors import ConfigurationError
from streamflow.processing.agent_spec import AgentSpec
from streamflow.state.beginning import Start
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.progress import Progress
from streamflow.state.restore import end_of_logs
from streamflow.state.store_manager import StoreManager
from streamflow.transports.base import Assignment, Record, TopicPartition, Transport


def start_in(decoder: Decoder, spec: AgentSpec | AggregateSpec) -> Start | None:
    """Where a consumer wishes to begin in the topic of a decoder: in a retry topic at the end.

    Nothing waits there for one that has no progress yet: see `retry_topics`.
    """
    return spec.start if decoder.source.retry is None else "latest"


@dataclass(slots=True)
class StandbyTasks:
    """What is kept up to date for partitions that others have."""

    tables: list[tuple[TableSpec, int]] = field(default_factory=list)
    stages: list[FinalStage] = field(default_factory=list)


class AssignmentBuilder:
    """Makes the `ActiveAssignment` of an assignment, over the stores that ``store_manager`` has kept."""

    def __init__(
        self,
        topology: Topology,
        *,
        transport: Transport,
        board: ProgressBoard,
        tail: LogTail,
        clock: Clock,
        store_manager: StoreManager,
    ) -> None:
        self._topology = topology
        self._topics = topology.topics
        self._transport = transport
        self._board = board
        self._tail = tail
        self._clock = clock
        self._store_manager = store_manager
        self.kept = 0  # partitions of the newest assignment whose rows were still here
        self.standbys = StandbyTasks()  # of the newest assignment

    async def begin(
        self, assignment: Assignment, stages: Mapping[TopicPartition, FinalStage]
    ) -> tuple[ActiveAssignment, list[PartitionTask], dict[TopicPartition, int]]:
        """What is held, with nothing in it yet; what is to be opened; how far each log is to be read.

        ``stages`` are final stages that have been followed all the time. Raises TransportError for what a
        retry may cure, ConfigurationError for a changed declaration, StoreError.
        """
        at_source = sorted(assignment.partitions)
        committed = await self._transport.committed(at_source)
        await self._read_progress(at_source)
        logs = await self._source_logs(at_source, committed)
        wishes = self._wishes(at_source)
        beginnings = await find_beginnings(self._transport, logs.starts(committed), wishes)
        tasks = {number: PartitionTask(number) for number in sorted({p for _, p in at_source})}
        for at in at_source:
            tasks[at[1]].sources.append(at)
        shuffles = self._shuffles(at_source)
        ends = await end_of_logs(self._transport, [*self._logs(at_source), *shuffles])
        # From here on nothing is awaited, and nothing can fail that a retry would cure.
        active = ActiveAssignment(
            assignment,
            agents=self._topology.agents,
            tables=self._topology.tables.values(),
            progress_topic=(self._topics.progress, self._topics.partitions(self._topics.progress)),
            clock_ms=self._clock.monotonic_ms,
            end_offsets=logs.ends,
            records_between=self._transport.records_between,
        )
        self._make_progress(active, tasks, beginnings, logs)
        self._make_parts(active, tasks)
        self._make_standbys(assignment, tasks, stages)
        self._check_declarations(active)  # before its logs: a reset that was begun has taken some of them
        stage_logs = [(at, spec) for at, (spec, _) in shuffles.items()]
        for task in tasks.values():
            noted = list(task.state_logs(stage_logs))
            check_logs(noted, ends, self._topology.on_lost_state)
            active.note_state(noted)
        self.kept = 0
        for task in tasks.values():
            for part in task.parts():
                if part.store.offset > ends.get((part.spec.changelog, part.partition), 0):
                    part.store.clear()  # of a log that is no more: the topic was made anew
            held = [self._store_manager.is_warm((part.spec.name, part.partition)) for part in task.parts()]
            self.kept += any(held)
        for at, (spec, count) in shuffles.items():
            stage = stages.get(at) or self._make_stage(spec, at, count)
            stage.begin(ends.get(at, 0))
            tasks[at[1]].stages.append(stage)
        return active, list(tasks.values()), ends

    async def _read_progress(self, at_source: list[TopicPartition]) -> None:
        topic = self._topics.progress
        count = self._topics.partitions(topic)
        wanted = {(topic, partition % count) for _, partition in at_source} | {(topic, 0)}
        await self._tail.passed(await end_of_logs(self._transport, wanted))

    async def _source_logs(
        self, at_source: list[TopicPartition], committed: Mapping[TopicPartition, int | None]
    ) -> SourceLogs:
        """The logs of the source partitions, which are read from now on. Raises ConfigurationError."""
        consumers = [
            consumer
            for decoder in self._topology.decoders.values()
            for consumer in (
                decoder.consumer,
                *(agent.spec.consumer for agent in decoder.agents),
                *(aggregate.spec.consumer for aggregate in decoder.aggregates),
            )
        ]
        known = [
            progress
            for topic, partition in at_source
            for consumer in consumers
            if (progress := self._board.get(consumer, topic, partition)) is not None
        ]
        return await source_logs(
            self._transport, at_source, known, committed, self._topology.on_recreated_topic
        )

    def _wishes(self, at_source: list[TopicPartition]) -> list[Wish]:
        """Where consumers that have no progress wish to begin."""
        return [
            (start_in(decoder, spec), at)
            for decoder in self._topology.decoders.values()
            for at in at_source
            if at[0] == decoder.source.name
            for spec in decoder.specs()
            if self._board.get(spec.consumer, *at) is None
        ]

    def _known(self, consumer: str, topic: str, partition: int) -> Progress | None:
        known = self._board.get(consumer, topic, partition)
        return None if known is None else replace(known, counters=dict(known.counters), changed=False)

    def _make_progress(
        self,
        active: ActiveAssignment,
        tasks: Mapping[int, PartitionTask],
        beginnings: Beginnings,
        logs: SourceLogs,
    ) -> None:
        for agent in active.agents:
            agent.clear()
        for decoder in self._topology.decoders.values():
            for at in active.source_partitions():
                if at[0] != decoder.source.name:
                    continue
                mine = {
                    spec.consumer: self._known(spec.consumer, *at)
                    or beginnings.begin(spec.consumer, at, start_in(decoder, spec))
                    for spec in decoder.specs()
                }
                for progress in mine.values():
                    logs.place(progress)
                for agent in decoder.agents:
                    agent.hold(mine[agent.spec.consumer])
                own = self._known(decoder.consumer, *at)
                own = own or beginnings.begin_with(decoder.consumer, at, mine.values())
                logs.place(own)
                mine = {decoder.consumer: own, **mine}
                tasks[at[1]].progress.update(((c, *at), progress) for c, progress in mine.items())
        for topic, partition in active.source_partitions():
            source = self._topology.feeds.get(topic)
            if source is not None:
                known = self._known(source.consumer, topic, partition)
                place = known or Progress(source.consumer, topic, partition)
                tasks[partition].progress[source.consumer, topic, partition] = place
                tasks[partition].feeds.append(self._topology.make_feed(source, place))
        for task in tasks.values():
            for at in task.sources:
                leave_nobody_waiting(p for p in task.progress.values() if (p.topic, p.partition) == at)
        beginnings.tell()

    def _fed(self, at_source: Iterable[TopicPartition]) -> set[int]:
        """Partitions of tables in Faust's form that come with these."""
        topics = {topic for agent in self._topology.agents if agent.writes_tables for topic in agent.topics}
        return {partition for topic, partition in at_source if topic in topics}

    def _logs(self, at_source: list[TopicPartition]) -> list[TopicPartition]:
        """The changelog partitions of everything that comes with these source partitions."""
        fed = self._fed(at_source)
        return [
            (table.spec.changelog, partition)
            for table in self._topology.tables.values()
            for partition in sorted(fed)
            if partition < table.spec.partitions
        ] + [
            (log, partition)
            for aggregate in self._topology.aggregates.values()
            for topic, partition in at_source
            if topic == aggregate.spec.topic
            for log in (self._topics.changelog(aggregate.spec.name), self._topics.late(aggregate.spec.name))
            if aggregate.spec.window is not None or log != self._topics.late(aggregate.spec.name)
        ]

    def _make_parts(self, active: ActiveAssignment, tasks: Mapping[int, PartitionTask]) -> None:
        """Partitions of tables, over the rows that the store manager still has of them."""
        at_source = sorted(active.assignment.partitions)
        fed = self._fed(at_source)
        consumers = {agent.spec.consumer for agent in self._topology.agents}
        for name, table in self._topology.tables.items():
            table.drop()
            for partition in sorted(p for p in fed if p < table.spec.partitions):
                task = tasks[partition]
                part = TablePartition(table.spec, partition, self._store_manager.open(table.spec, partition))
                consumer = table_consumer(name)
                progress = self._known(consumer, "", partition) or Progress(consumer, "", partition)
                task.progress[consumer, "", partition] = progress
                task.tables.append((table, part, progress))
                # Whoever wrote before a restart counts, unless the app has no such agent any more.
                part.take_up(progress.closed_to_ms, consumers.intersection(progress.writers))
        for aggregate in self._topology.aggregates.values():
            aggregate.drop()
            for topic, partition in at_source:
                if topic == aggregate.spec.topic:
                    task = tasks[partition]
                    task.aggregate_partitions.append(
                        self._make_aggregate_partition(active, task, aggregate, partition)
                    )

    def _make_standbys(
        self,
        assignment: Assignment,
        tasks: Mapping[int, PartitionTask],
        stages: Mapping[TopicPartition, FinalStage],
    ) -> None:
        """Of what this worker stands by for, over the rows that are still here; all others are closed."""
        at_source = sorted(assignment.standbys)
        active = {(part.spec.name, part.partition) for task in tasks.values() for part in task.parts()}
        self.standbys = StandbyTasks(
            [
                (spec, partition)
                for spec, partition in self._tables_at(at_source)
                if (spec.name, partition) not in active
            ],
            [
                stages.get(at) or self._make_stage(spec, at, count)
                for at, (spec, count) in self._shuffles(at_source).items()
                if (spec.topic, at[1]) not in assignment.partitions
            ],
        )
        self._store_manager.keep_only(active.union((spec.name, p) for spec, p in self.standbys.tables))

    def _tables_at(self, at_source: list[TopicPartition]) -> Iterator[tuple[TableSpec, int]]:
        """The partitions of everything that has a changelog and comes with these source partitions."""
        for partition in sorted(self._fed(at_source)):
            for table in self._topology.tables.values():
                if partition < table.spec.partitions:
                    yield table.spec, partition
        for aggregate in self._topology.aggregates.values():
            for topic, partition in at_source:
                if topic == aggregate.spec.topic:
                    spec, late_store = self._aggregate_tables(aggregate.spec)
                    yield spec, partition
                    if aggregate.spec.window is not None:
                        yield late_store, partition

    def _aggregate_tables(self, spec: AggregateSpec) -> tuple[TableSpec, TableSpec]:
        """The rows of a declared aggregate, and its late-event store."""
        count = self._topics.partitions(spec.topic)
        return (
            aggregate_table(spec, self._topics.changelog(spec.name), count),
            late_event_table(spec.name, self._topics.late(spec.name), count),
        )

    def _make_aggregate_partition(
        self, active: ActiveAssignment, task: PartitionTask, aggregate: AggregateConsumer, partition: int
    ) -> AggregatePartition:
        spec = aggregate.spec
        count = self._topics.partitions(spec.topic)
        table, own = self._aggregate_tables(spec)
        part = TablePartition(table, partition, self._store_manager.open(table, partition))
        progress = task.progress[spec.consumer, spec.topic, partition]
        sender = (
            PartialSender(spec, self._topics.shuffle(spec.name), partition, count)
            if spec.is_shuffled
            else None
        )
        revisions: Revisions | None = None
        if spec.window is not None:
            late_store = LateEventStore(own, partition, self._store_manager.open(own, partition), table.codec)
            revisions = Revisions(aggregate, part, late_store, progress)
        return AggregatePartition(
            aggregate,
            part,
            progress,
            sender,
            revisions,
            emit=None if spec.emit_closed is None else self._topology.closed_record,
            watermarks=None if sender is None else active.source_watermarks(sender.topic, count),
            shown_closed_to_ms=progress.closed_to_ms,
        )

    def _make_stage(self, spec: AggregateSpec, at: TopicPartition, sources: int) -> FinalStage:
        emit = None if spec.emit_closed is None else partial(self._topology.closed_record, spec)
        return make_stage(spec, *at, sources, emit)

    def _shuffles(self, at_source: list[TopicPartition]) -> dict[TopicPartition, tuple[AggregateSpec, int]]:
        """The shuffle partitions that come with them: partition q follows partition q of the source topic."""
        return {
            (self._topics.shuffle(aggregate.spec.name), partition): (
                aggregate.spec,
                self._topics.partitions(topic),
            )
            for aggregate in self._topology.aggregates.values()
            if aggregate.spec.is_shuffled
            for topic, partition in at_source
            if topic == aggregate.spec.topic
        }

    def _check_declarations(self, active: ActiveAssignment) -> None:
        """Old state under a changed declaration would be read as something that it is not."""
        topology = self._topology
        described = {name: ("table", table.describe()) for name, table in topology.tables.items()}
        for name, aggregate in topology.aggregates.items():
            described[name] = "aggregate", aggregate.spec.describe()
        for name, (kind, now) in described.items():
            before = self._board.declarations.get(name)
            if before is None:
                key = orjson.dumps(["declaration", name])
                active.declarations.append(Record(self._topics.progress, 0, key, orjson.dumps(now)))
            elif before == RESET_BEGUN:
                raise ConfigurationError(
                    f"{kind} {name!r}: its reset was begun and did not end: run `streamflow reset` for it "
                    "again"
                )
            elif self._board.growing(name) is not None:
                raise ConfigurationError(
                    f"{kind} {name!r}: it is being brought to the partitions of a topic that has grown, and "
                    "that did not end: run `streamflow grow` again"
                )
            elif before != orjson.loads(orjson.dumps(now)):
                differs = ", ".join(
                    f"{field}: {before.get(field)!r} before, {now.get(field)!r} now"
                    for field in sorted({*before, *now})
                    if before.get(field) != orjson.loads(orjson.dumps(now.get(field)))
                )
                raise ConfigurationError(
                    f"{kind} {name!r} is declared otherwise than its state was made ({differs}); "
                    "give it another name, or start anew with `streamflow reset`"
                )
