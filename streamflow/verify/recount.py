"""Recounts the source topic of a declared table, and compares: what `streamflow verify` prints.

It reads logs only, so it needs no worker and disturbs none. First the table as it is durable: progress,
changelog or shuffle, late-event store, all of one moment. Then the source topic, up to the positions of that
moment, through the very folding that a worker does, in one pass and without a checkpoint. Two things must
hold: for each partition ``in = counted + late + filtered + bad + failed + deferred + dropped``, by the
durable counters and by the recount alike (``in`` is every record, also those that could not be decoded); and
each row that is kept shows what the recount shows.

What an event's lateness owed to silence (idle ticks), no recount can know; the late-event store tells it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from streamflow.aggregates import Quantile, TopK
from streamflow.aggregates.late_events import LateEventStore, late_event_table
from streamflow.aggregates.partition import aggregate_table
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.shuffle.final import FinalStage
from streamflow.aggregates.shuffle.final_windows import make_stage
from streamflow.aggregates.shuffle.partial import NO_POSITION, PartialSender
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.aggregates.windowed_fold import HoppingPanesConsumer, SlidingConsumer
from streamflow.clock import Clock, rfc3339
from streamflow.codecs import group_key_value
from streamflow.codecs.chunk import Chunk
from streamflow.codecs.times import TimeChecks, TimeLimits
from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.dead_letters import DeadLetterQueue
from streamflow.engine.decoding import TopicSource
from streamflow.engine.dispatch import Dispatcher
from streamflow.engine.progress_board import ProgressBoard
from streamflow.engine.retry_topics import selected
from streamflow.engine.topology import Topology
from streamflow.errors import DecodeError
from streamflow.metrics import Metrics
from streamflow.query.reader import plain
from streamflow.settings import Settings
from streamflow.state.partition import TablePartition
from streamflow.state.progress import OUTCOMES, Grown, Progress
from streamflow.state.restore import fill
from streamflow.state.stores.base import DELETED
from streamflow.state.stores.memory import MemoryStore
from streamflow.transports.base import Assignment, Batch, KnowsTopicIds, Record, TopicPartition, Transport
from streamflow.verify.pane_rows import rows_of_panes
from streamflow.verify.report import Difference, PartitionCount, Report, VerifyError
from streamflow.windows import SessionWindow

READ_WAIT_MS = 50
QUIET_TRIES_MAX = 400
"""Each takes a moment; between two checkpoints of an app there are many."""
CUT_RECORDS = 50_000
"""Rows whose windows have expired by now are dropped each time that so many records were recounted."""

RowId = tuple[int, Any]
"""(window's id, key as it is kept)"""
Shown = tuple[Any, Any]
"""(where the window begins, the state); without a window the former is None."""


@dataclass(slots=True)
class Image:
    """The rows of one table: those of a changelog or those that partials make."""

    parts: dict[int, TablePartition] = field(default_factory=dict)
    stages: dict[int, FinalStage] = field(default_factory=dict)
    late_stores: dict[int, LateEventStore] = field(default_factory=dict)
    # Of windows that are made of panes: partition -> row -> the state of all that was applied to it.
    applied: dict[int, dict[RowId, Any]] = field(default_factory=dict)


class NoDeadLetters(DeadLetterQueue):
    """What is bad is counted again and goes nowhere: the app has set it aside and told of it."""

    def add_bad(self, at: Chunk | Batch, index: int, error: DecodeError, consumer: str | None) -> None:
        pass


class Verifier:
    """Verifies one declared table of an app. ``progressed`` is told (records read, of how many, about)."""

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        clock: Clock,
        spec: AggregateSpec,
        source: TopicSource,
        progressed: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.spec = spec
        self._transport = transport
        self._settings = settings
        self._clock = clock
        self._progressed = progressed
        self._metrics = Metrics()
        self._topology = Topology(settings, clock, self._metrics)
        self._aggregate = self._topology.add_aggregate(spec, source)
        self.spec = self._aggregate.spec
        self._decoder = next(iter(self._topology.decoders.values()))
        self._topics = self._topology.topics
        self._board = ProgressBoard()
        self._sources = 0
        self._topic_id: str | None = None
        self._earliest: Mapping[TopicPartition, int] = {}  # where the source topic begins
        self._growths_left: list[tuple[Grown, dict[int, int]]] = []  # that the recount has not come to yet

    async def run(self) -> Report:
        """Reads and compares. Raises VerifyError, and TransportError where the broker is away."""
        actual = await self._snapshot()
        recount = await self._recount(actual)
        report = Report(self.spec.name)
        for partition in range(self._sources):
            durable = self._durable(partition)
            found = self._board.get(self._decoder.consumer, self.spec.topic, partition)
            if found is not None and not same_records(found, durable):
                found = recount[2][partition]  # what it set aside elsewhere is not this table's
            counters = {name: n for name, n in durable.counters.items() if name == "in" or name in OUTCOMES}
            report.partitions.append(
                PartitionCount(
                    partition,
                    durable.position,
                    _all_records(counters, found),
                    _all_records(dict(recount[1][partition].counters), recount[2][partition]),
                )
            )
        report.rows_compared = not self._restarted()
        if report.rows_compared:
            self._compare(actual, recount[0], report)
        self._note(actual, report)
        return report

    def _restarted(self) -> bool:
        """Is the source topic another one than that of the first records?"""
        return any(self._durable(partition).restarted for partition in range(self._sources))

    # -- the table as it is ---------------------------------------------------------------------

    async def _snapshot(self) -> Image:
        """Everything durable about the table, of one moment."""
        name = self.spec.name
        logs = await self._look_up(
            self._topics.changelog(name), self._topics.shuffle(name), self._topics.late(name)
        )
        image = self._image()
        for partition in range(self._sources):
            if self.spec.is_shuffled:
                logs[self._topics.shuffle(name), partition] = image.stages[partition].read
            else:
                logs[self._topics.changelog(name), partition] = partial(fill, image.parts[partition])
            if partition in image.late_stores:
                logs[self._topics.late(name), partition] = partial(fill, image.late_stores[partition].part)
        missing = sorted({topic for topic, _ in logs} - self._topics.counts.keys())
        if missing:
            raise VerifyError(f"there is nothing to verify yet: no topic {', '.join(missing)}")
        await self._read_at_once(logs)
        await self._check_log()
        if self._board.growing(name) is not None:
            raise VerifyError(
                f"{name!r} is on its way to other partitions: `streamflow grow` has to end first"
            )
        for partition, part in image.parts.items():
            part.forget_expired(self._durable(partition).watermark_ms)
        for stage in image.stages.values():
            stage.begin(0)
        return image

    async def _look_up(self, *topics: str) -> dict[TopicPartition, Callable[[Batch], Any]]:
        """Learns of the source topic, the progress and these; gives the progress logs and what reads them."""
        source, progress = self.spec.topic, self._topics.progress
        self._topics.counts.update(await self._transport.partition_counts([source, progress, *topics]))
        if source not in self._topics.counts or progress not in self._topics.counts:
            raise VerifyError(f"nothing to verify yet: {source!r} was never read by this app")
        counts = [self._topics.counts[topic] for topic in topics if topic in self._topics.counts]
        if counts:  # of a topic that has grown since, the partitions that there were are counted
            self._topics.counts[source] = min(self._topics.partitions(source), *counts)
        self._sources = self._topics.partitions(source)
        if isinstance(self._transport, KnowsTopicIds):
            self._topic_id = (await self._transport.topic_ids([source])).get(source)
        return {(progress, p): self._read_progress for p in range(self._topics.partitions(progress))}

    async def _check_log(self) -> None:
        """Raises VerifyError where the source topic is not the one in which the positions were taken."""
        spots = [(self.spec.topic, partition) for partition in range(self._sources)]
        ends = await self._transport.high_watermarks(spots)
        for spot in spots:
            durable = self._durable(spot[1])
            another = self._topic_id is not None and durable.topic_id not in (None, self._topic_id)
            short = durable.position > ends[spot] and not self._transport.features.timely_offsets
            if another or short:
                raise VerifyError(
                    f"topic {spot[0]!r} was deleted and made again: the table has counted its partition "
                    f"{spot[1]} up to {durable.position}, of a log that is no more, so there is nothing to "
                    "recount. What a worker does then says the setting on_recreated_topic"
                )

    def _begun(self, consumer: str, partition: int, durable: Progress | None) -> Progress:
        """Where the log begins that there is: at nothing, or with all that was counted of one before it."""
        before = None if durable is None else durable.restarted
        if before is None:
            begun = Progress(consumer, self.spec.topic, partition)
            if durable is not None and durable.grown and partition >= durable.grown[0].before:
                begun.event_ms, begun.watermark_ms = durable.grown[0][3:]  # those of the keys' former place
            return begun
        return Progress(
            consumer,
            self.spec.topic,
            partition,
            event_ms=before.event_ms,
            watermark_ms=before.watermark_ms,
            counters=dict(before.counters),
        )

    def _late(self, partition: int, late_stores: Mapping[int, LateEventStore]) -> set[int]:
        """Offsets of events that were late, of the log that there is."""
        before = self._durable(partition).restarted
        first = 0 if before is None else before.counters.get("late", 0)
        own = late_stores[partition]
        return {
            event.offset
            for store in late_stores.values()
            for event in store.events()
            if (store is own and event.partition is None and event.number >= first)
            or event.partition == partition  # it has moved with its row
        }

    def _image(self) -> Image:
        image = Image()
        own = aggregate_table(self.spec, "", self._sources)
        for partition in range(self._sources):
            if self.spec.is_shuffled:
                image.stages[partition] = make_stage(self.spec, "", partition, self._sources)
            else:
                image.parts[partition] = TablePartition(own, partition, MemoryStore())
            if self.spec.window is not None:
                late_store = late_event_table(self.spec.name, "", self._sources)
                image.late_stores[partition] = LateEventStore(late_store, partition, MemoryStore(), own.codec)
        return image

    async def _read_at_once(self, logs: dict[TopicPartition, Callable[[Batch], Any]]) -> None:
        """Reads logs until there was a moment in which all of them had been read to their ends."""
        reader = self._transport.log_reader()
        positions = dict.fromkeys(logs, 0)
        try:
            await reader.assign(positions)
            ends = await self._transport.high_watermarks(logs)
            for _ in range(QUIET_TRIES_MAX):
                while any(positions[at] < end for at, end in ends.items()):
                    for batch in await reader.read(READ_WAIT_MS):
                        at = (batch.topic, batch.partition)
                        logs[at](batch)
                        positions[at] = batch.next_offset
                # Nothing was written between the last of the first ends and the first of the second ones.
                before, ends = ends, await self._transport.high_watermarks(logs)
                if before == ends:
                    return
        finally:
            await reader.close()
        raise VerifyError("the app never paused between two checkpoints; try again when it is less busy")

    def _read_progress(self, batch: Batch) -> None:
        self._board.read_batch(batch, 0.0)

    def _durable(self, partition: int) -> Progress:
        found = self._board.get(self.spec.consumer, self.spec.topic, partition)
        return Progress(self.spec.consumer, self.spec.topic, partition) if found is None else found

    # -- the recount ------------------------------------------------------------------------------

    async def _recount(self, actual: Image) -> tuple[Image, dict[int, Progress], dict[int, Progress]]:
        """The rows that the source topic makes; by partition what became of events, and of all records."""
        topic = self.spec.topic
        active = ActiveAssignment(
            Assignment(0, frozenset((topic, p) for p in range(self._sources))),
            agents=(),
            tables=(),
            progress_topic=(self._topics.progress, 1),
            clock_ms=self._clock.monotonic_ms,
        )
        now_ms = self._clock.now_ms
        dead_letters = NoDeadLetters(lambda: active, lambda _: 1, lambda name: name, self._metrics, now_ms)
        decoder = self._decoder
        times = TimeChecks(TimeLimits.of(self._settings), self._clock.now_ms)
        dispatcher = Dispatcher([decoder], times, self._metrics, self._topics.places, lambda: 0.0)
        # Rows as they are kept where nothing moves, whatever moves: until their windows expire.
        table = aggregate_table(replace(self.spec, by=Key()), "", self._sources)
        progress: dict[int, Progress] = {}
        decoded: dict[int, Progress] = {}
        for partition in range(self._sources):
            self._aggregate.parts[partition] = TablePartition(table, partition, MemoryStore())
            late_store = late_event_table(self.spec.name, "", self._sources)
            self._aggregate.late_stores[partition] = LateEventStore(
                late_store, partition, MemoryStore(), table.codec
            )
            durable = {
                decoder.consumer: self._board.get(decoder.consumer, topic, partition),
                self.spec.consumer: self._durable(partition),
            }
            for consumer, known_by in durable.items():
                active.progress[consumer, topic, partition] = self._begun(consumer, partition, known_by)
            progress[partition] = active.progress[self.spec.consumer, topic, partition]
            decoded[partition] = active.progress[decoder.consumer, topic, partition]
        known = {
            p: self._late(p, actual.late_stores) for p in actual.late_stores
        }  # partition -> offsets of events that were late
        since_cut = 0
        async for batch in self._source_batches():
            if isinstance(batch, Grown):
                self._cut(actual, expire=False)
                self._move_rows(batch)
                continue
            late = known.get(batch.partition, set())
            stored = [i for i, offset in enumerate(batch.offsets) if offset not in late]
            excluded = len(batch.offsets) - len(stored)
            dispatcher.dispatch(selected(batch, stored) if excluded else batch, active, dead_letters)
            if excluded:
                progress[batch.partition].take(batch.next_offset, late=excluded)
            active.forget_taken()
            since_cut += len(batch.offsets)
            if since_cut > CUT_RECORDS:
                since_cut = 0
                self._cut(actual, expire=not self._growths_left)
        self._cut(actual)
        return self._made(actual), progress, decoded

    async def _source_batches(self) -> AsyncIterator[Batch | Grown]:
        """The source topic from its beginning to the positions of the snapshot.

        Where the topic has grown, what was taken before comes first, and then the growth.
        """
        topic = self.spec.topic
        ends = {(topic, p): self._durable(p).position for p in range(self._sources)}
        earliest = self._earliest = await self._transport.earliest_offsets(ends)
        # What lies before is another consumer's: this one began later.
        begins = {at: max(earliest.get(at, 0), self._durable(at[1]).began or 0) for at in ends}
        self._growths_left = self._growths()
        while self._growths_left:
            growth, positions = self._growths_left[0]
            until = {at: max(begins[at], positions.get(at[1], 0)) for at in ends}
            self._topics.counts[topic] = growth.before  # keys lay by that
            async for batch in self._stretch(begins, until):
                yield batch
            yield growth
            begins = until
            self._topics.counts[topic] = self._sources
            del self._growths_left[0]
        async for batch in self._stretch(begins, ends):
            yield batch

    def _growths(self) -> list[tuple[Grown, dict[int, int]]]:
        """Each growth of the source topic, oldest first, with the positions of then by partition."""
        found: dict[int, tuple[Grown, dict[int, int]]] = {}
        for partition in range(self._sources):
            durable = self._durable(partition)
            for grown in [] if durable.restarted else durable.grown:
                if partition < grown.before:
                    found.setdefault(grown.after, (grown, {}))[1][partition] = grown.position
        return [found[after] for after in sorted(found)]

    def _move_rows(self, growth: Grown) -> None:
        """Rows go on where their keys lie since the topic has grown; partial results stay."""
        if self.spec.is_shuffled:
            return
        parts = self._aggregate.parts
        for partition in range(growth.before):
            for start, key, row in list(parts[partition].store.scan()):
                raw = self._topology.row_key(self.spec.name, key)
                to = partition if raw is None else self._topics.place_among(raw, growth.after)
                if to != partition:
                    parts[to].store.apply({start: {key: row}}, None)
                    parts[partition].store.apply({start: {key: DELETED}}, None)
        for part in parts.values():
            part.forget_index()

    async def _stretch(
        self, begins: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> AsyncIterator[Batch]:
        """The source topic between these offsets."""
        left = {at for at, end in ends.items() if begins.get(at, 0) < end}
        total = sum(ends[at] - begins.get(at, 0) for at in left)
        reached = {at: begins.get(at, 0) for at in left}
        reader = self._transport.log_reader()
        try:
            if left:
                await reader.assign(dict(reached))
            while left:
                for batch in await reader.read(READ_WAIT_MS):
                    at = (batch.topic, batch.partition)
                    if at not in left:
                        continue
                    index = bisect_left(batch.offsets, ends[at])
                    if batch.next_offset > ends[at]:
                        batch = replace(selected(batch, range(index)), next_offset=ends[at])
                    yield batch
                    reached[at] = min(batch.next_offset, ends[at])
                    if batch.next_offset >= ends[at]:
                        left.discard(at)
                    self._progressed(sum(reached.values()) - sum(begins.get(a, 0) for a in reached), total)
        finally:
            await reader.close()

    def _expired_to_ms(self, actual: Image, partition: int) -> int | None:
        """The watermark by which rows that a source partition makes are gone from the table."""
        if not self.spec.is_shuffled:
            return self._durable(partition).watermark_ms
        if isinstance(self.spec.window, SessionWindow):
            return None  # a partial may be part of a session that ends later, by partials of other partitions
        closed = [stage.closed_to_ms for stage in actual.stages.values()]
        return min((ms for ms in closed if ms is not None), default=None) if None not in closed else None

    def _cut(self, actual: Image, *, expire: bool = True) -> None:
        """Rows become kept ones, and with ``expire`` those of windows that have expired by now go.

        Not before rows have moved: what is expired where they lie now is not known where they lay.
        """
        for partition, part in self._aggregate.parts.items():
            part.begin_cut(None)
            part.fold_cut(None)
            if expire or self.spec.is_shuffled:
                part.forget_expired(self._expired_to_ms(actual, partition))

    def _made(self, actual: Image) -> Image:
        """The recounted rows, with what was applied to them later."""
        if not self.spec.is_shuffled:
            image = Image(parts=self._aggregate.parts)
            if isinstance(self._aggregate, SlidingConsumer):
                return image  # to these nothing late is applied: their corrections add nothing
            for partition, late_store in actual.late_stores.items():
                for row, (_, dumped, *_) in _corrections(late_store):
                    applied = self.spec.values.load(dumped)
                    if self.spec.hopping_panes is not None:
                        image.applied.setdefault(partition, {})[row] = applied
                        continue
                    part = self._aggregate.parts[partition]
                    self._aggregate.merge_one(part, *row, applied)
                    part.begin_cut(None)
                    part.fold_cut(None)
            return image
        image = Image()
        records: list[Record] = []
        for partition, part in self._aggregate.parts.items():
            whole = TablePartition(part.spec, partition, MemoryStore())
            whole.changes.update((start, dict(part.store.window(start))) for start in part.store.starts())
            whole.begin_cut(None)
            sender = PartialSender(self.spec, "", partition, self._sources)
            sender.partials(whole, records, NO_POSITION)  # nobody is to be told of what is counted here
        for partition, stage in actual.stages.items():
            made = image.stages[partition] = make_stage(self.spec, "", partition, self._sources)
            mine = [record for record in records if record.partition == partition]
            made.read(_batch(mine))
            for (start, group), source, state in _corrected(stage):
                made.partials.setdefault(start, {}).setdefault(group, {})[source] = state
            made.closed_to_ms = stage.closed_to_ms
            made.begin(0)
        return image

    # -- comparing --------------------------------------------------------------------------------

    def _compare(self, actual: Image, recount: Image, report: Report) -> None:
        for partition in range(self._sources):
            mine = dict(self._rows(actual, partition))
            theirs = dict(self._rows(recount, partition))
            report.compared(len(mine))
            for row in {**mine, **theirs}:
                one, other = mine.get(row), theirs.get(row)
                if not self._same(one, other):
                    report.differs(partial(self._difference, row, one, other))

    def _rows(self, image: Image, partition: int) -> Iterator[tuple[RowId, Shown]]:
        """(id, key) -> (kept row, the state that it shows), of everything that has not expired."""
        spec = self.spec
        if spec.is_shuffled:
            stage = image.stages[partition]
            for start, group in stage.rows():
                yield (start, group), self._shown(start, stage.state(start, group))
        elif isinstance(self._aggregate, SlidingConsumer | HoppingPanesConsumer):
            applied = image.applied.get(partition, {})
            rows = rows_of_panes(self._aggregate, image.parts[partition], applied)
            to_ms = self._durable(partition).watermark_ms
            for (start, key), state in rows:
                if spec.window is None or to_ms is None or not spec.window.expired(start, to_ms):
                    yield (start, key), (start, state)
        else:
            for start, key, stored in image.parts[partition].store.scan():
                yield (start, key), self._shown(start, stored)

    def _shown(self, start: int, stored: object) -> Shown:
        if self.spec.window is None:
            return None, stored
        first, _, state = self.spec.shown(start, stored)
        return first, state

    def _same(self, one: Shown | None, other: Shown | None) -> bool:
        if one is None or other is None or one[0] != other[0]:
            return False
        values = self.spec.values
        mine, theirs = ([one[1]], [other[1]]) if values.scalar else (one[1], other[1])
        return all(
            function.agrees(a, b) for function, a, b in zip(values.functions, mine, theirs, strict=True)
        )

    def _difference(self, row: RowId, one: Shown | None, other: Shown | None) -> Difference:
        start, key = row
        shown = one if other is None else other
        window = None
        if self.spec.window is not None and shown is not None:
            window = (rfc3339(shown[0]), rfc3339(self.spec.window.end_of(start)))
        key = group_key_value(key) if self.spec.grouped else plain(key)
        return Difference(key, window, _result(self.spec.values, one), _result(self.spec.values, other))

    def _notes_on_beginning(self, progress: Progress) -> Iterator[str]:
        """What a reader of the report has to know of where the consumer began in a partition."""
        partition, began = progress.partition, progress.began
        if began is not None and began > self._earliest.get((self.spec.topic, partition), 0):
            yield f"partition {partition} is counted from offset {began} on: there it began"
        if progress.behind:
            yield f"partition {partition} is still back-filled: it is counted as far as that has come"

    def _note(self, actual: Image, report: Report) -> None:
        for partition in range(self._sources):
            report.notes.extend(self._notes_on_beginning(self._durable(partition)))
        lost = sum(late_store.totals()["lost"] for late_store in actual.late_stores.values())
        if lost and not report.ok:
            report.notes.append(
                f"{lost} late events are stored no more; those that only silence made late count here"
            )
        if self._restarted():
            before = sum(
                restarted.counters.get("in", 0)
                for partition in range(self._sources)
                if (restarted := self._durable(partition).restarted) is not None
            )
            report.notes.append(
                f"topic {self.spec.topic!r} was deleted and made again: of {before} records of its former "
                "log only the counters are known, so records were counted, not rows"
            )
        if any(count.recounted.get("in", 0) < count.counters.get("in", 0) for count in report.partitions):
            report.notes.append("the source topic no longer holds all that the table has counted")
        sketches = [a for a in self.spec.values.functions if isinstance(a, TopK | Quantile)]
        if sketches:
            names = ", ".join(sorted({type(a).__name__ for a in sketches}))
            report.notes.append(f"{names}: compared within the error, since how they were merged shows")


def _all_records(counters: dict[str, int], decoder: Progress | None) -> dict[str, int]:
    """An aggregate's counters with the records that were bad before they reached it."""
    bad = 0 if decoder is None else decoder.counters.get("bad", 0)
    for name in ("in", "bad") if bad else ():
        counters[name] = counters.get(name, 0) + bad
    return counters


def same_records(one: Progress, other: Progress) -> bool:
    """Have two consumers of a partition taken the same records?"""
    return (one.began, one.position) == (other.began, other.position)


def _result(values: RowFunctions, shown: Shown | None) -> Any:
    return None if shown is None else values.result(shown[1])


def _corrections(late_store: LateEventStore) -> Iterator[tuple[RowId, Any]]:
    for row in late_store.corrected:
        found = late_store.correction(row)
        if found is not None:
            yield row, found


def _corrected(stage: FinalStage) -> Iterator[tuple[RowId, int, Any]]:
    for start, groups in stage.partials.items():
        for group, partials in groups.items():
            for source, state in partials.items():
                if source < 0:
                    yield (start, group), source, state


def _batch(records: list[Record]) -> Batch:
    count = len(records)
    keys, values = [r.key for r in records], [r.value for r in records]
    return Batch("", 0, range(count), keys, values, [0] * count, None, count, count)
