"""Forms what is held for a new assignment: progress read back, tables restored, second stages begun.

What a rebalance left with us is kept: the stores, which are as good as their offset in the changelog says,
and the second stages, which go on reading all the time. So only what was written since is read again.

The order matters. First `committed`, which waits until no commit of a predecessor is undecided; then
the ends of the logs, uncommitted records included; then everything below those ends is read. So
nothing that a predecessor made durable is missed, and nothing it can still do has an effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import orjson

from streamflow.aggregates.fold import Fold
from streamflow.aggregates.late_events import Ledger, ledger_table
from streamflow.aggregates.partition import Emit, FoldPart, fold_table
from streamflow.aggregates.revisions import Revisions
from streamflow.aggregates.shuffle.final import SecondStage
from streamflow.aggregates.shuffle.final_windows import make_stage
from streamflow.aggregates.shuffle.partial import Sender
from streamflow.aggregates.spec import FoldSpec
from streamflow.clock import Clock
from streamflow.engine.assignment import Ours, table_consumer
from streamflow.engine.internal_topics import Topics
from streamflow.engine.log_tail import Tail
from streamflow.engine.progress_board import Board
from streamflow.engine.restoring_partition import Opening
from streamflow.errors import ConfigurationError
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.progress import Progress
from streamflow.state.restore import end_of_logs
from streamflow.state.store_manager import Shelf
from streamflow.transports.base import Assignment, Record, TopicPartition, Transport

if TYPE_CHECKING:
    from streamflow.engine.topology import Declared


@dataclass(slots=True)
class Standing:
    """What is kept up to date for partitions that others have."""

    tables: list[tuple[TableSpec, int]] = field(default_factory=list)
    stages: list[SecondStage] = field(default_factory=list)


class Forming:
    """Makes `Ours` of an assignment. ``shelf`` has the stores, also those of the assignment before."""

    def __init__(
        self,
        declared: Declared,
        *,
        transport: Transport,
        topics: Topics,
        board: Board,
        tail: Tail,
        clock: Clock,
        emit: Emit,
        shelf: Shelf,
    ) -> None:
        self._declared = declared
        self._transport = transport
        self._topics = topics
        self._board = board
        self._tail = tail
        self._clock = clock
        self._emit = emit
        self._shelf = shelf
        self.kept = 0  # partitions of the newest assignment whose rows we still had
        self.standbys = Standing()  # of the newest assignment

    async def begin(
        self, assignment: Assignment, stages: Mapping[TopicPartition, SecondStage]
    ) -> tuple[Ours, list[Opening], dict[TopicPartition, int]]:
        """What is ours, with nothing in it yet; what is to be opened; how far each log is to be read.

        ``stages`` are second stages that have been followed all the time. Raises TransportError for what a
        retry may cure, ConfigurationError for a changed declaration, StoreError.
        """
        at_source = sorted(assignment.partitions)
        committed = await self._transport.committed(at_source)
        await self._read_progress(at_source)
        ours = Ours(
            assignment,
            agents=self._declared.agents,
            tables=self._declared.tables.values(),
            progress_topic=(self._topics.progress, self._topics.partitions(self._topics.progress)),
            emit=self._emit,
            clock_ms=self._clock.monotonic_ms,
        )
        starts = await self._starts(committed)
        openings = {number: Opening(number) for number in sorted({p for _, p in at_source})}
        for at in at_source:
            openings[at[1]].sources.append(at)
        shuffles = self._shuffles(at_source)
        ends = await end_of_logs(self._transport, [*self._logs(at_source), *shuffles])
        ours.end_offsets = await end_of_logs(self._transport, at_source)
        ours.between = self._transport.records_between
        # From here on nothing is awaited, and nothing can fail that a retry would cure.
        self._make_progress(ours, openings, starts)
        self._make_parts(ours, openings)
        self._make_standbys(assignment, openings, stages)
        self.kept = 0
        for opening in openings.values():
            for part in opening.parts():
                if part.store.offset > ends.get((part.spec.changelog, part.partition), 0):
                    part.store.clear()  # of a log that is no more: the topic was made anew
            held = [self._shelf.holds((part.spec.name, part.partition)) for part in opening.parts()]
            self.kept += any(held)
        for at, (spec, count) in shuffles.items():
            stage = stages.get(at) or make_stage(spec, at[0], at[1], count)
            stage.begin(ends.get(at, 0))
            openings[at[1]].stages.append(stage)
        for opening in openings.values():
            opening.logs = {(part.spec.changelog, part.partition): part for part in opening.parts()}
        ours.unopened = set(openings)
        self._check_declarations(ours)
        return ours, list(openings.values()), ends

    async def _read_progress(self, at_source: list[TopicPartition]) -> None:
        topic = self._topics.progress
        count = self._topics.partitions(topic)
        wanted = {(topic, partition % count) for _, partition in at_source} | {(topic, 0)}
        await self._tail.passed(await end_of_logs(self._transport, wanted))

    async def _starts(self, committed: Mapping[TopicPartition, int | None]) -> dict[TopicPartition, int]:
        """Where a consumer begins that has no progress yet: with the group, else at the beginning."""
        new = [at for at, offset in committed.items() if offset is None]
        earliest = await self._transport.earliest_offsets(new) if new else {}
        return {at: earliest.get(at, 0) if offset is None else offset for at, offset in committed.items()}

    def _progress(self, opening: Opening, consumer: str, topic: str, partition: int, start: int) -> Progress:
        known = self._board.get(consumer, topic, partition)
        if known is None:
            progress = Progress(consumer, topic, partition, position=start)
        else:
            progress = replace(known, counters=dict(known.counters), changed=False)
        opening.progress[consumer, topic, partition] = progress
        return progress

    def _make_progress(
        self, ours: Ours, openings: Mapping[int, Opening], starts: Mapping[TopicPartition, int]
    ) -> None:
        for agent in ours.agents:
            agent.clear()
        for decoder in self._declared.decoders:
            for (topic, partition), start in starts.items():
                if topic != decoder.source.name:
                    continue
                opening = openings[partition]
                self._progress(opening, decoder.consumer, topic, partition, start)
                for agent in decoder.agents:
                    agent.hold(self._progress(opening, agent.spec.consumer, topic, partition, start))
                for fold in decoder.folds:
                    self._progress(opening, fold.spec.consumer, topic, partition, start)

    def _fed(self, at_source: Iterable[TopicPartition]) -> set[int]:
        """Partitions of tables in Faust's form that come with these."""
        topics = {topic for agent in self._declared.agents if agent.writes_tables for topic in agent.topics}
        return {partition for topic, partition in at_source if topic in topics}

    def _logs(self, at_source: list[TopicPartition]) -> list[TopicPartition]:
        """The changelog partitions of everything that comes with these source partitions."""
        fed = self._fed(at_source)
        return [
            (table.spec.changelog, partition)
            for table in self._declared.tables.values()
            for partition in sorted(fed)
            if partition < table.spec.partitions
        ] + [
            (log, partition)
            for fold in self._declared.folds.values()
            for topic, partition in at_source
            if topic == fold.spec.topic
            for log in (self._topics.changelog(fold.spec.name), self._topics.late(fold.spec.name))
            if fold.spec.window is not None or log != self._topics.late(fold.spec.name)
        ]

    def _make_parts(self, ours: Ours, openings: Mapping[int, Opening]) -> None:
        """Partitions of tables, over the rows that the shelf still has of them."""
        at_source = sorted(ours.assignment.partitions)
        fed = self._fed(at_source)
        consumers = {agent.spec.consumer for agent in self._declared.agents}
        for name, table in self._declared.tables.items():
            table.parts.clear()
            for partition in sorted(p for p in fed if p < table.spec.partitions):
                opening = openings[partition]
                part = TablePartition(table.spec, partition, self._shelf.take(table.spec, partition))
                opening.tables.append((table, part))
                progress = self._progress(opening, table_consumer(name), "", partition, 0)
                part.closed_to_ms = progress.closed_to_ms
                # Whoever wrote before a restart counts, unless the app has no such agent any more.
                part.writers.update(consumers.intersection(progress.writers))
        for fold in self._declared.folds.values():
            fold.parts.clear()
            fold.ledgers.clear()
            for topic, partition in at_source:
                if topic == fold.spec.topic:
                    opening = openings[partition]
                    opening.folds.append(self._make_fold_part(opening, fold, partition))

    def _make_standbys(
        self,
        assignment: Assignment,
        openings: Mapping[int, Opening],
        stages: Mapping[TopicPartition, SecondStage],
    ) -> None:
        """Of what we stand by for, over the rows that the shelf still has; all else goes off the shelf."""
        at_source = sorted(assignment.standbys)
        ours = {(part.spec.name, part.partition) for opening in openings.values() for part in opening.parts()}
        self.standbys = Standing(
            [
                (spec, partition)
                for spec, partition in self._tables_at(at_source)
                if (spec.name, partition) not in ours
            ],
            [
                stages.get(at) or make_stage(spec, at[0], at[1], count)
                for at, (spec, count) in self._shuffles(at_source).items()
                if (spec.topic, at[1]) not in assignment.partitions
            ],
        )
        self._shelf.keep_only(ours.union((spec.name, p) for spec, p in self.standbys.tables))

    def _tables_at(self, at_source: list[TopicPartition]) -> Iterator[tuple[TableSpec, int]]:
        """The partitions of everything that has a changelog and comes with these source partitions."""
        for partition in sorted(self._fed(at_source)):
            for table in self._declared.tables.values():
                if partition < table.spec.partitions:
                    yield table.spec, partition
        for fold in self._declared.folds.values():
            for topic, partition in at_source:
                if topic == fold.spec.topic:
                    spec, ledger = self._fold_tables(fold.spec)
                    yield spec, partition
                    if fold.spec.window is not None:
                        yield ledger, partition

    def _fold_tables(self, spec: FoldSpec) -> tuple[TableSpec, TableSpec]:
        """The rows of a declared aggregate, and its late ledger."""
        count = self._topics.partitions(spec.topic)
        return (
            fold_table(spec, self._topics.changelog(spec.name), count),
            ledger_table(spec.name, self._topics.late(spec.name), count),
        )

    def _make_fold_part(self, opening: Opening, fold: Fold, partition: int) -> FoldPart:
        spec = fold.spec
        count = self._topics.partitions(spec.topic)
        table, own = self._fold_tables(spec)
        part = TablePartition(table, partition, self._shelf.take(table, partition))
        progress = opening.progress[spec.consumer, spec.topic, partition]
        sender = Sender(spec, self._topics.shuffle(spec.name), partition, count) if spec.moves else None
        late: Revisions | None = None
        if spec.window is not None:
            ledger = Ledger(own, partition, self._shelf.take(own, partition), table.codec)
            late = Revisions(fold, part, ledger, progress)
        return FoldPart(fold, part, progress, sender, late, progress.closed_to_ms)

    def _shuffles(self, at_source: list[TopicPartition]) -> dict[TopicPartition, tuple[FoldSpec, int]]:
        """Shuffle partitions that are ours: partition q follows partition q of the source topic."""
        return {
            (self._topics.shuffle(fold.spec.name), partition): (fold.spec, self._topics.partitions(topic))
            for fold in self._declared.folds.values()
            if fold.spec.moves
            for topic, partition in at_source
            if topic == fold.spec.topic
        }

    def _check_declarations(self, ours: Ours) -> None:
        """Old state under a changed declaration would be read as something that it is not."""
        for name, fold in self._declared.folds.items():
            now = fold.spec.describe()
            before = self._board.declarations.get(name)
            if before is None:
                key = orjson.dumps(["declaration", name])
                ours.notes.append(Record(self._topics.progress, 0, key, orjson.dumps(now)))
            elif before != orjson.loads(orjson.dumps(now)):
                differs = ", ".join(
                    f"{field}: {before.get(field)!r} before, {now.get(field)!r} now"
                    for field in sorted({*before, *now})
                    if before.get(field) != orjson.loads(orjson.dumps(now.get(field)))
                )
                raise ConfigurationError(
                    f"aggregate {name!r} is declared otherwise than its state was made ({differs}); "
                    "give it another name, or start anew with `streamflow reset`"
                )
