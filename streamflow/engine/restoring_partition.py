"""One partition of everything, until it serves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from streamflow.aggregates.partition import AggregatePartition
from streamflow.aggregates.shuffle.final import FinalStage
from streamflow.engine.assignment import ActiveAssignment, table_consumer
from streamflow.state.agent_table import AgentTable
from streamflow.state.partition import TablePartition
from streamflow.state.progress import Progress, ProgressKey
from streamflow.transports.base import TopicPartition


@dataclass(slots=True)
class PartitionTask:
    """Partition ``number`` of everything, on its way to being served."""

    number: int
    sources: list[TopicPartition] = field(default_factory=list)
    tables: list[tuple[AgentTable, TablePartition]] = field(default_factory=list)
    aggregate_parts: list[AggregatePartition] = field(default_factory=list)
    stages: list[FinalStage] = field(default_factory=list)
    progress: dict[ProgressKey, Progress] = field(default_factory=dict)

    def parts(self) -> Iterator[TablePartition]:
        for _, part in self.tables:
            yield part
        for aggregate_part in self.aggregate_parts:
            yield from aggregate_part.parts()

    @property
    def logs(self) -> dict[TopicPartition, TablePartition]:
        """What its tables are restored from."""
        return {(part.spec.changelog, part.partition): part for part in self.parts()}

    def expired_to_ms(self, part: TablePartition) -> int | None:
        """The watermark up to which windows have expired, as it was checkpointed."""
        for aggregate_part in self.aggregate_parts:
            if part in aggregate_part.parts():
                return aggregate_part.progress.watermark_ms
        return self.progress[table_consumer(part.spec.name), "", part.partition].watermark_ms

    def into(self, active: ActiveAssignment, now_ms: float) -> None:
        """All logs are read: from now on checkpoints hold it."""
        for part in self.parts():
            part.forget_expired(self.expired_to_ms(part))
        for table, part in self.tables:
            table.parts[self.number] = part
        for aggregate_part in self.aggregate_parts:
            aggregate_part.aggregate.parts[self.number] = aggregate_part.part
            if aggregate_part.late is not None:
                aggregate_part.late.late_store.committed()
                aggregate_part.aggregate.late_stores[self.number] = aggregate_part.late.late_store
        active.aggregate_parts.extend(self.aggregate_parts)
        active.stages.extend(self.stages)
        active.progress.update(self.progress)
        active.show(progress.copy() for progress in self.progress.values())
        active.moved_ms.update(dict.fromkeys(self.sources, now_ms))
        active.unopened.discard(self.number)
