"""One partition of everything, until it serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from streamflow.aggregates.partition import AggregatePartition
from streamflow.aggregates.shuffle.final import FinalStage
from streamflow.aggregates.spec import AggregateSpec
from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.source_feed import SourceFeed
from streamflow.state.agent_table import AgentTable
from streamflow.state.partition import TablePartition
from streamflow.state.progress import Progress, ProgressKey
from streamflow.transports.base import TopicPartition


@dataclass(slots=True)
class PartitionTask:
    """Partition ``number`` of everything, on its way to being served."""

    number: int
    sources: list[TopicPartition] = field(default_factory=list)
    tables: list[tuple[AgentTable, TablePartition, Progress]] = field(default_factory=list)
    aggregate_partitions: list[AggregatePartition] = field(default_factory=list)
    stages: list[FinalStage] = field(default_factory=list)
    feeds: list[SourceFeed] = field(default_factory=list)
    progress: dict[ProgressKey, Progress] = field(default_factory=dict)

    def parts(self) -> Iterator[TablePartition]:
        for _, part, _ in self.tables:
            yield part
        for aggregate_partition in self.aggregate_partitions:
            yield from aggregate_partition.parts()

    @property
    def logs(self) -> dict[TopicPartition, TablePartition]:
        """What its tables are restored from."""
        return {(part.spec.changelog, part.partition): part for part in self.parts()}

    def state_logs(
        self, shuffles: Iterable[tuple[TopicPartition, AggregateSpec]]
    ) -> Iterator[tuple[TopicPartition, Progress]]:
        """Each log that holds state of it, with the progress that notes its end.

        ``shuffles``: the shuffle partitions of the assignment and whose they are.
        """
        for _, part, progress in self.tables:
            yield (part.spec.changelog, part.partition), progress
        for aggregate_partition in self.aggregate_partitions:
            for part in aggregate_partition.parts():
                yield (part.spec.changelog, part.partition), aggregate_partition.progress
        for at, spec in shuffles:
            known = self.progress.get((spec.consumer, spec.topic, at[1]))
            if known is not None and at[1] == self.number:
                yield at, known

    def expired_to_ms(self, part: TablePartition) -> int | None:
        """The watermark up to which windows have expired, as it was checkpointed."""
        for aggregate_partition in self.aggregate_partitions:
            if part in aggregate_partition.parts():
                return aggregate_partition.expired_to_ms
        return next(progress.watermark_ms for _, held, progress in self.tables if held is part)

    def into(self, active: ActiveAssignment, now_ms: float) -> None:
        """All logs are read: from now on checkpoints hold it."""
        for part in self.parts():
            part.forget_expired(self.expired_to_ms(part))
        for table, part, progress in self.tables:
            table.hold(part, progress)
        for aggregate_partition in self.aggregate_partitions:
            aggregate_partition.open()
        active.aggregate_partitions.extend(self.aggregate_partitions)
        active.stages.extend(self.stages)
        active.feeds.extend(self.feeds)
        active.open(self.progress.values())
        active.show(progress.copy() for progress in self.progress.values())
        active.moved_ms.update(dict.fromkeys(self.sources, now_ms))
        active.unopened.discard(self.number)
        for feed in self.feeds:
            feed.start()
