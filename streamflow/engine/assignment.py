"""Everything that one worker holds for the partitions of one assignment.

`ActiveAssignment` is made anew with each assignment and dropped with it. Its `cut` takes, in one synchronous
step, all that is to be durable; its `committed` folds that into what may be shown. What takes part in both is
a `Checkpointable`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

from streamflow.aggregates.partition import AggregatePartition
from streamflow.aggregates.shuffle.final import FinalStage
from streamflow.aggregates.shuffle.source_watermarks import SourceWatermarks
from streamflow.codecs.chunk import Chunk
from streamflow.engine.oldest_taken import Durable, OldestTaken
from streamflow.engine.source_feed import SourceFeed
from streamflow.processing.agent import AgentRunner
from streamflow.state.agent_table import AgentTable
from streamflow.state.checkpointable import Checkpointable
from streamflow.state.committed import CommittedChanges
from streamflow.state.cut import Cut
from streamflow.state.event_context import Sent
from streamflow.state.partition import TablePartition
from streamflow.state.progress import Progress, ProgressKey
from streamflow.transports.base import Assignment, Batch, Record, TopicPartition

logger = logging.getLogger(__name__)


class ActiveAssignment:
    """Everything held for one assignment.

    ``clock_ms`` is a monotonic time, ``progress_topic`` where progress goes and its number of partitions.
    ``end_offsets`` are those of the source partitions as far as they are known; ``records_between``
    is `Transport.records_between`, for offsets are never counted here.
    """

    def __init__(
        self,
        assignment: Assignment,
        *,
        agents: Iterable[AgentRunner],
        tables: Iterable[AgentTable],
        progress_topic: tuple[str, int],
        clock_ms: Callable[[], float],
        end_offsets: Mapping[TopicPartition, int] | None = None,
        records_between: Callable[[TopicPartition, int, int], int | None] = lambda *_: None,
    ) -> None:
        self.assignment = assignment
        self.agents = list(agents)
        self.tables = list(tables)
        self.aggregate_partitions: list[AggregatePartition] = []
        self.stages: list[FinalStage] = []
        self.feeds: list[SourceFeed] = []
        # Partition numbers whose tables are on their way back.
        self.unopened = {partition for _, partition in assignment.partitions}
        self.paused: set[TopicPartition] = set()  # because an agent's buffer was full
        self.progress: dict[ProgressKey, Progress] = {}
        self.shown: dict[ProgressKey, Progress] = {}  # as of the newest durable checkpoint, for those who ask
        self.end_offsets = dict(end_offsets or {})  # last stable offset that a fetch told
        self.moved_ms: dict[TopicPartition, float] = {}  # when records last came
        self._state_logs: list[tuple[TopicPartition, ProgressKey]] = []
        self.undecided: set[TopicPartition] = set()  # where a transaction is open: that is no silence
        # Of open partitions: who is behind the others in them, and up to where the others were given records.
        self.behind: dict[TopicPartition, set[str]] = {}
        self.given_to: dict[TopicPartition, int] = {}
        self.dead_letters: list[Record] = []
        self.declarations: list[Record] = []  # of aggregates whose state begins, for the next checkpoint
        self.closing_sends: list[Sent] = []  # sent for windows that the next cut drops
        self.deferred: list[Sent] = []  # events on their way to retry topics
        self.taken = 0  # records taken since the newest cut
        self.taken_bytes = 0  # of their values
        self._progress_topic, self._progress_partitions = progress_topic
        self._clock_ms = clock_ms
        self._cut: Cut | None = None  # the one in flight
        self._cut_progress: list[Progress] = []  # copies of what it makes durable
        self._oldest = OldestTaken()
        self._source_watermarks: dict[str, SourceWatermarks] = {}  # shuffle topic -> those that go there
        self._hurry = False
        self._records_between = records_between

    def note_state(self, logs: Iterable[tuple[TopicPartition, Progress]]) -> None:
        """These logs hold state of it, and the progress beside each notes where it ends at least."""
        keys = ((at, (each.consumer, each.topic, each.partition)) for at, each in logs)
        self._state_logs.extend(keys)

    def state_logs(self) -> list[tuple[TopicPartition, Progress]]:
        """Its logs of state, each with the newest durable progress that notes its end."""
        return [(at, self.shown[key]) for at, key in self._state_logs if key in self.shown]

    def source_partitions(self) -> list[TopicPartition]:
        return sorted(self.assignment.partitions)

    def lag(self, progress: Progress) -> int | None:
        """Records that a consumer has still to take; ``None`` while the end is not known."""
        return self.lag_at((progress.topic, progress.partition), progress.position)

    def lag_at(self, at: TopicPartition, position: int) -> int | None:
        """Records of a source partition from ``position`` on; ``None`` while it is not known."""
        end = self.end_offsets.get(at)
        return None if end is None else self._records_between(at, position, end)

    def caught_up(self) -> bool:
        """Has every consumer taken all that there is, as far as fetches have told?"""
        return all(self.lag(progress) == 0 for progress in self.progress.values())

    def fetched(self, batch: Batch, now_ms: float) -> None:
        """A batch has come; it is dispatched next."""
        at = (batch.topic, batch.partition)
        self.end_offsets[at] = batch.end_offset
        (self.undecided.add if batch.undecided else self.undecided.discard)(at)
        if batch.offsets:
            self.moved_ms[at] = now_ms
            self.taken_bytes += sum(map(len, filter(None, batch.values)))

    def dispatched(self, records: int) -> None:
        """So many records of it are with their consumers."""
        self.taken += records

    def took(self, name: str, consumer: str, chunk: Chunk) -> None:
        """A consumer, shown by this name, has got a chunk, or has it waiting."""
        progress = self.progress.get((consumer, chunk.topic, chunk.partition))
        if progress is not None and chunk.timestamps_ms:
            self._oldest.took(name, progress, chunk.next_offset, min(chunk.timestamps_ms))

    def source_watermarks(self, shuffle: str, partitions: int) -> SourceWatermarks:
        """What the source partitions tell the final stages of a shuffle."""
        found = self._source_watermarks.get(shuffle)
        if found is None:
            found = SourceWatermarks(shuffle, partitions, self.lag, self._clock_ms)
            self._source_watermarks[shuffle] = found
        return found

    # -- who is behind -------------------------------------------------------------------------

    def open(self, progress: Iterable[Progress]) -> None:
        """Of a partition whose tables are whole: from now on it is taken and checkpointed."""
        for each in progress:
            self.progress[each.consumer, each.topic, each.partition] = each
            if each.behind:
                self.behind.setdefault((each.topic, each.partition), set()).add(each.consumer)

    def given(self, at: TopicPartition, next_offset: int) -> None:
        """Those who are not behind have got, or have waiting, what lies before this."""
        if next_offset > self.given_to.get(at, -1):
            self.given_to[at] = next_offset

    def behind_from(self, at: TopicPartition) -> int:
        """The least position of those who are behind."""
        return min(self.progress[consumer, *at].position for consumer in self.behind[at])

    def behind_full(self) -> bool:
        """Have agents that are behind enough to do?"""
        names = set().union(*self.behind.values())
        mine = [agent for agent in self.agents if agent.spec.consumer in names]
        # Well before they are full: then partitions in which they are not behind would wait too.
        return any(agent.full() or 2 * agent.queued >= agent.spec.buffer.events_max for agent in mine)

    def backfilled(self, batch: Batch) -> None:
        """A batch is with those who are behind. At its end they may have come up to the others."""
        at = (batch.topic, batch.partition)
        self.dispatched(len(batch.offsets))
        self.taken_bytes += sum(map(len, filter(None, batch.values)))
        if batch.next_offset >= self.given_to[at]:
            consumers = self.behind.pop(at)
            for consumer in consumers:
                self.progress[consumer, *at].catch_up()
            logger.info(
                "%s: has come up to the others in %s[%d], at offset %d",
                ", ".join(sorted(consumers)),
                *at,
                self.given_to[at],
            )

    def forget_taken(self) -> None:
        """For whoever makes no checkpoints."""
        self._oldest = OldestTaken()

    def full(self, records: int, value_bytes: int) -> bool:
        """Has so much been taken since the newest cut?"""
        return self.taken >= records or self.taken_bytes >= value_bytes

    def hurry(self) -> None:
        """The next cut sends every source watermark that has moved, for it may be this assignment's last."""
        self._hurry = True

    def due(self) -> bool:
        """Is there anything that a checkpoint would make durable?"""
        if not self.progress:
            return False  # without partitions nothing is held, and nothing would fence the commit
        if self.dead_letters or self.deferred or self.declarations:
            return True
        if any(p.changed for p in self.progress.values()):
            return True
        return any(each.due() for each in self._checkpointables())

    def failure(self) -> BaseException | None:
        """What ends the worker, where an agent or a source has failed for good."""
        failures = [*(agent.failure for agent in self.agents), *(feed.failure for feed in self.feeds)]
        return next((failure for failure in failures if failure is not None), None)

    def failing(self) -> dict[tuple[str, int, int], int]:
        """(topic, partition, offset) -> attempts, of events that an agent has still to try again."""
        found: dict[tuple[str, int, int], int] = {}
        for agent in self.agents:
            for at, attempts in agent.failing().items():
                found[at] = max(attempts, found.get(at, 0))
        return found

    def offsets(self) -> dict[TopicPartition, int]:
        """The group's offsets: in each partition the least position of those who are not behind others."""
        least: dict[TopicPartition, int] = {}
        for progress in self.progress.values():
            if progress.behind:
                continue
            at = (progress.topic, progress.partition)
            if at in self.assignment.partitions and progress.position < least.get(at, progress.position + 1):
                least[at] = progress.position
        return least

    # -- the checkpoint's side -----------------------------------------------------------------

    def _checkpointables(self) -> list[Checkpointable]:
        """Agents first: what an event in flight wrote must be out of the cut before the rows are written."""
        watermarks = self._source_watermarks.values()
        return [
            *self.agents,
            *self.tables,
            *self.aggregate_partitions,
            *watermarks,
            *self.stages,
            *self.feeds,
        ]

    def cut(self) -> tuple[Cut, dict[TopicPartition, int]]:
        """Takes all that is to be durable; returns its records, in order, and the group's offsets.

        Synchronous, so that it holds whole events.
        """
        cut = self._cut = Cut(self._clock_ms(), last=self._hurry)
        checkpointables = self._checkpointables()
        for each in checkpointables:
            each.begin_cut()
        for each in checkpointables:
            each.cut(cut)
        for stage in self.stages:
            # Of what it has read; partition q of a shuffle is kept by who has partition q of the source.
            progress = self.progress.get((stage.spec.consumer, stage.spec.topic, stage.partition))
            if progress is not None:
                progress.note_log(stage.topic, stage.position, wrote=False)
        cut.sent.extend(self.closing_sends)
        cut.sent.extend(self.deferred)
        cut.dead_letters.extend(self.dead_letters)
        cut.declarations.extend(self.declarations)
        self._oldest.cut()
        for progress in self.progress.values():
            if (changed := progress.cut()) is not None:
                self._cut_progress.append(changed)
                cut.progress.append(self._progress_record(changed))
        self.closing_sends, self.deferred, self.dead_letters, self.declarations = [], [], [], []
        self.taken = self.taken_bytes = 0
        return cut, self.offsets()

    def _progress_record(self, progress: Progress) -> Record:
        partition = progress.partition % self._progress_partitions
        return Record(self._progress_topic, partition, progress.record_key(), progress.record_value())

    def sent_at(self, index: int) -> Sent | None:
        """What an agent sent, that is this record of the cut in flight; ``None`` for all others."""
        return None if self._cut is None else self._cut.sent_at(index)

    def table_partitions(self) -> Iterator[TablePartition]:
        for table in self.tables:
            yield from table.parts.values()
        for aggregate_partition in self.aggregate_partitions:
            yield from aggregate_partition.parts()

    def committed(self, written: Mapping[TopicPartition, int]) -> list[CommittedChanges]:
        """The cut is durable: folds it into the checkpointed rows. Returns what became visible.

        ``written``: for each partition written to the offset behind the last record.
        """
        self.show(self._cut_progress)
        self._cut_progress = []
        seen = [changes for each in self._checkpointables() for changes in each.committed(written)]
        cut, self._cut = self._cut, None
        for _, record, future in [] if cut is None else cut.sent:
            if future is not None and not future.done():
                future.set_result(record)
        return [changes for changes in seen if changes]

    def durable(self) -> list[Durable]:
        """The chunks that became durable meanwhile."""
        return self._oldest.durable()

    def show(self, durable: Iterable[Progress]) -> None:
        """Takes copies of progress that is durable now."""
        for progress in durable:
            self.shown[progress.consumer, progress.topic, progress.partition] = progress

    def drop(self) -> None:
        """The partitions are gone: so is everything held for them."""
        for agent in self.agents:
            agent.abandon()  # else what still runs would write into what the next assignment holds
            agent.clear()
        for feed in self.feeds:
            feed.stop()
        for table in self.tables:
            table.drop()
        for aggregate_partition in self.aggregate_partitions:
            aggregate_partition.aggregate.drop()
        cut, self._cut = self._cut, None
        for _, _, future in [] if cut is None else cut.sent:
            if future is not None and not future.done():
                future.cancel()


def table_consumer(name: str) -> str:
    """The name under which a table in Faust's form keeps its own progress."""
    return f"table:{name}"
