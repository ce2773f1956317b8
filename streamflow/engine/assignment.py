"""What is ours: everything that one worker holds for the partitions of one assignment.

`ActiveAssignment` is made anew with each assignment and dropped with it. Its `cut` takes, in one synchronous
step, all that is to be durable; its `committed` folds that into what may be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from streamflow.aggregates.row_values import State
from streamflow.aggregates.shuffle.final import FinalStage, RowId
from streamflow.engine.committed import apply_cut, final_stage_changes
from streamflow.processing.agent import AgentRunner
from streamflow.state.agent_table import AgentTable
from streamflow.state.cut import Cut
from streamflow.state.event_context import Sent
from streamflow.state.merging_table import SlidingTable
from streamflow.state.partition import TablePartition
from streamflow.state.progress import Progress, ProgressKey
from streamflow.state.stores.base import MISSING
from streamflow.transports.base import Assignment, Batch, Record, TopicPartition

if TYPE_CHECKING:
    from streamflow.aggregates.partition import AggregatePartition, Emit
    from streamflow.engine.committed import CommittedChanges


class ActiveAssignment:
    """Everything held for one assignment.

    ``clock_ms`` is a monotonic time, ``progress_topic`` where progress goes and its number of partitions.
    ``emit`` makes the record of a closed row. ``end_offsets`` are those of the source partitions as far as
    they are known; ``records_between`` is `Transport.records_between`, for offsets are never counted here.
    """

    def __init__(
        self,
        assignment: Assignment,
        *,
        agents: Iterable[AgentRunner],
        tables: Iterable[AgentTable],
        progress_topic: tuple[str, int],
        emit: Emit,
        clock_ms: Callable[[], float],
        end_offsets: Mapping[TopicPartition, int] | None = None,
        records_between: Callable[[TopicPartition, int, int], int | None] = lambda *_: None,
    ) -> None:
        self.assignment = assignment
        self.agents = list(agents)
        self.tables = list(tables)
        self.aggregate_parts: list[AggregatePartition] = []
        self.stages: list[FinalStage] = []
        # Partition numbers whose tables are on their way back.
        self.unopened = {partition for _, partition in assignment.partitions}
        self.paused: set[TopicPartition] = set()  # because an agent's buffer was full
        self.progress: dict[ProgressKey, Progress] = {}
        self.shown: dict[ProgressKey, Progress] = {}  # as of the newest durable checkpoint, for those who ask
        self.end_offsets = dict(end_offsets or {})  # last stable offset that a fetch told
        self.moved_ms: dict[TopicPartition, float] = {}  # when records last came
        self.dead_letters: list[Record] = []
        self.notes: list[Record] = []  # declarations and the like, written with the next checkpoint
        self.closing_sends: list[Sent] = []  # sent for windows that the next cut drops
        self.taken = 0  # records taken since the newest cut
        self.taken_bytes = 0  # of their values
        self._progress_topic, self._progress_partitions = progress_topic
        self._emit = emit
        self._clock_ms = clock_ms
        self._sent: list[Sent] = []
        self._sent_from = 0  # index of the first of them among the records of the cut
        self._cut: list[Progress] = []  # copies of what the cut in flight makes durable
        self._hurry = False
        self._records_between = records_between

    def source_partitions(self) -> list[TopicPartition]:
        return sorted(self.assignment.partitions)

    def lag(self, progress: Progress) -> int | None:
        """Records that a consumer has still to take; ``None`` while the end is not known."""
        return self.lag_at((progress.topic, progress.partition), progress.position)

    def lag_at(self, at: TopicPartition, position: int) -> int | None:
        """Records of a source partition from ``position`` on; ``None`` while it is not known."""
        end = self.end_offsets.get(at)
        return None if end is None else self._records_between(at, position, end)

    def fetched(self, batch: Batch, now_ms: float) -> None:
        """A batch has come; it is dispatched next."""
        at = (batch.topic, batch.partition)
        self.end_offsets[at] = batch.end_offset
        if batch.offsets:
            self.moved_ms[at] = now_ms
            self.taken_bytes += sum(map(len, filter(None, batch.values)))

    def dispatched(self, records: int) -> None:
        """So many records of it are with their consumers."""
        self.taken += records

    def full(self, records: int, value_bytes: int) -> bool:
        """Has so much been taken since the newest cut?"""
        return self.taken >= records or self.taken_bytes >= value_bytes

    def hurry(self) -> None:
        """The next cut sends every source watermark that has moved, for it may be this assignment's last."""
        self._hurry = True

    def due(self) -> bool:
        """Is there anything that a checkpoint would make durable?"""
        if not self.progress:
            return False  # without partitions nothing is ours, and nothing would fence the commit
        if any(part.announced for table in self.tables for part in table.parts.values()):
            return True
        if self.dead_letters or self.notes or any(p.changed for p in self.progress.values()):
            return True
        if any(agent.due() for agent in self.agents):
            return True
        now_ms = self._clock_ms()
        return any(stage.due() for stage in self.stages) or any(
            f.sender is not None and f.sender.due(f.progress, self.lag(f.progress), now_ms)
            for f in self.aggregate_parts
        )

    def failing(self) -> dict[tuple[str, int, int], int]:
        """(topic, partition, offset) -> attempts, of events that an agent has still to try again."""
        found: dict[tuple[str, int, int], int] = {}
        for agent in self.agents:
            for at, attempts in agent.failing().items():
                found[at] = max(attempts, found.get(at, 0))
        return found

    def offsets(self) -> dict[TopicPartition, int]:
        """The group's offsets: for each partition the least position of its consumers."""
        least: dict[TopicPartition, int] = {}
        for progress in self.progress.values():
            at = (progress.topic, progress.partition)
            if at in self.assignment.partitions and progress.position < least.get(at, progress.position + 1):
                least[at] = progress.position
        return least

    # -- the checkpoint's side -----------------------------------------------------------------

    def cut(self) -> tuple[Cut, dict[TopicPartition, int]]:
        """Takes all that is to be durable; returns the records, in order, and the group's offsets.

        Synchronous: no event is invalidated. The order of records is part of the rules: partials stand before
        the watermark that covers them.
        """
        cut = Cut()
        records = cut.effects
        for agent in self.agents:
            agent.settle()
            self._sent.extend(agent.take_outbox())
        self._sent.extend(self.closing_sends)
        self.closing_sends = []
        self._cut_tables(cut)
        now_ms = self._clock_ms()
        for aggregate_part in self.aggregate_parts:
            if aggregate_part.sender is not None:
                lag = self.lag(aggregate_part.progress)
                aggregate_part.sender.send_watermarks(
                    aggregate_part.progress, lag, now_ms, cut.consequences, now=self._hurry
                )
        self._sent_from = len(records)
        records.extend(record for _, record, _ in self._sent)
        records.extend(self.dead_letters)
        cut.facts.extend(self.notes)
        for aggregate_part in self.aggregate_parts:
            emit = self._emit if aggregate_part.aggregate.spec.emit_closed is not None else None
            aggregate_part.revise(emit, records)
            aggregate_part.close(emit, records)
        for stage in self.stages:
            stage.cut(cut, self._stage_emit(stage) if stage.spec.emit_closed is not None else None)
        self._cut_progress(cut.facts)
        self.dead_letters, self.notes, self.taken, self.taken_bytes = [], [], 0, 0
        return cut, self.offsets()

    def sent_at(self, index: int) -> Sent | None:
        """What an agent sent, that is this record of the cut; ``None`` for those that are our own."""
        place = index - self._sent_from
        return self._sent[place] if 0 <= place < len(self._sent) else None

    def _cut_tables(self, cut: Cut) -> None:
        for table in self.tables:
            for part in table.parts.values():
                part.begin_cut(self.furthest_writer_ms(part))
        for aggregate_part in self.aggregate_parts:
            aggregate_part.part.begin_cut(aggregate_part.progress.watermark_ms)
            if aggregate_part.late is not None:
                aggregate_part.late.begin_cut()
        for agent in self.agents:
            for context in agent.contexts():
                context.exclude_from_cut()
        for part in self.table_partitions():
            part.emit(cut)
        for aggregate_part in self.aggregate_parts:
            if aggregate_part.sender is not None:
                aggregate_part.sender.partials(aggregate_part.part, cut.effects)

    def table_partitions(self) -> Iterator[TablePartition]:
        for table in self.tables:
            yield from table.parts.values()
        for aggregate_part in self.aggregate_parts:
            yield from aggregate_part.parts()

    def furthest_writer_ms(self, part: TablePartition) -> int | None:
        """The watermark that expires rows of a table in Faust's form; ``None`` before anybody wrote."""
        marks = [
            progress.watermark_ms
            for agent in self.agents
            if agent.spec.consumer in part.writers
            for progress in agent.progress.values()
            if progress.partition == part.partition and progress.watermark_ms is not None
        ]
        return max(marks, default=None)

    def _stage_emit(self, stage: FinalStage) -> Callable[[int, Any, State], Record]:
        return lambda start, group, state: self._emit(stage.spec, start, group, state)

    def _cut_progress(self, records: list[Record]) -> None:
        for table in self.tables:
            for part in table.parts.values():
                at = (table_consumer(table.spec.name), "", part.partition)
                progress = self.progress[at]
                if part.expired_to_ms is not None:
                    progress.raise_watermark(part.expired_to_ms)
                if part.closed_to_ms != progress.closed_to_ms:
                    progress.closed_to_ms = part.closed_to_ms
                    progress.changed = True
                if not part.writers.issubset(progress.writers):
                    progress.writers = tuple(sorted(part.writers))
                    progress.changed = True
        for progress in self.progress.values():
            if progress.changed:
                progress.changed = False
                self._cut.append(progress.copy())
                partition = progress.partition % self._progress_partitions
                records.append(
                    Record(self._progress_topic, partition, progress.record_key(), progress.record_value())
                )

    def committed(self, written: Mapping[TopicPartition, int]) -> list[CommittedChanges]:
        """The cut is durable: folds it into the checkpointed rows. Returns what became visible.

        ``written``: for each partition written to the offset behind the last record.
        """
        seen: list[CommittedChanges] = []
        self.show(self._cut)
        self._cut = []
        for table in self.tables:
            for part in table.parts.values():
                rows_gone = (
                    table.expiring(part) if isinstance(table, SlidingTable) and part.cut is not None else None
                )
                change = apply_cut(part, written)
                change.expired = change.expired if rows_gone is None else rows_gone
                seen.append(change)
        for aggregate_part in self.aggregate_parts:
            expired = (
                aggregate_part.aggregate.expiring(aggregate_part.part)
                if aggregate_part.part.cut is not None
                else {}
            )
            change = apply_cut(aggregate_part.part, written)
            change.expired = expired
            aggregate_part.shown_closed_to_ms = aggregate_part.progress.closed_to_ms
            change.closed = aggregate_part.closed
            if aggregate_part.late is not None:
                apply_cut(aggregate_part.late.late_store.part, written)
                aggregate_part.late.late_store.committed()
            if aggregate_part.sender is None:
                seen.append(change)
        seen.extend(final_stage_changes(stage, stage.committed()) for stage in self.stages)
        for _, record, future in self._sent:
            if future is not None and not future.done():
                future.set_result(record)
        self._sent = []
        return [change for change in seen if change.rows or change.expired or change.closed]

    def show(self, durable: Iterable[Progress]) -> None:
        """Takes copies of progress that is durable now."""
        for progress in durable:
            self.shown[progress.consumer, progress.topic, progress.partition] = progress

    def drop(self) -> None:
        """The partitions are gone: so is everything held for them."""
        for agent in self.agents:
            agent.abandon()  # else what still runs would write into what the next assignment holds
            agent.clear()
        for table in self.tables:
            table.parts.clear()
        for aggregate_part in self.aggregate_parts:
            aggregate_part.aggregate.parts.clear()
            aggregate_part.aggregate.late_stores.clear()
        for _, _, future in self._sent:
            if future is not None and not future.done():
                future.cancel()
        self._sent = []


def table_consumer(name: str) -> str:
    """The name under which a table in Faust's form keeps its own progress."""
    return f"table:{name}"


__all__ = ["MISSING", "ActiveAssignment", "RowId", "table_consumer"]
