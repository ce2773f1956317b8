"""One partition of everything, until it serves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from streamflow.aggregates.partition import FoldPart
from streamflow.aggregates.shuffle.final import SecondStage
from streamflow.engine.assignment import Ours, table_consumer
from streamflow.state.agent_table import AgentTable
from streamflow.state.partition import TablePartition
from streamflow.state.progress import Progress, ProgressKey
from streamflow.transports.base import TopicPartition


@dataclass(slots=True)
class Opening:
    """Partition ``number`` of everything, on its way to being served. ``logs`` are still to be read."""

    number: int
    sources: list[TopicPartition] = field(default_factory=list)
    tables: list[tuple[AgentTable, TablePartition]] = field(default_factory=list)
    folds: list[FoldPart] = field(default_factory=list)
    stages: list[SecondStage] = field(default_factory=list)
    progress: dict[ProgressKey, Progress] = field(default_factory=dict)
    logs: dict[TopicPartition, TablePartition] = field(default_factory=dict)

    def parts(self) -> Iterator[TablePartition]:
        for _, part in self.tables:
            yield part
        for folded in self.folds:
            yield from folded.parts()

    def expired_to_ms(self, part: TablePartition) -> int | None:
        """The watermark up to which windows have expired, as it was checkpointed."""
        for folded in self.folds:
            if part in folded.parts():
                return folded.progress.watermark_ms
        return self.progress[table_consumer(part.spec.name), "", part.partition].watermark_ms

    def into(self, ours: Ours, now_ms: float) -> None:
        """All logs are read: from now on checkpoints hold it."""
        for part in self.parts():
            part.forget_expired(self.expired_to_ms(part))
        for table, part in self.tables:
            table.parts[self.number] = part
        for folded in self.folds:
            folded.fold.parts[self.number] = folded.part
            if folded.late is not None:
                folded.late.ledger.folded()
                folded.fold.ledgers[self.number] = folded.late.ledger
        ours.folds.extend(self.folds)
        ours.stages.extend(self.stages)
        ours.progress.update(self.progress)
        ours.show(progress.copy() for progress in self.progress.values())
        ours.moved_ms.update(dict.fromkeys(self.sources, now_ms))
        ours.unopened.discard(self.number)
