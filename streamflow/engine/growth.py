"""Brings an app's state to the number of partitions that its source topics have now, while no worker runs.

The new number is a multiple of the old one. A key that lay in partition p then lies in p or in a new
partition q with ``q mod before = p``, and the rows of each new partition come from one old one: they take its
times with them (event time, watermark, "closed up to here"), so no window is closed twice, nor opened again.
With any other number rows of several old partitions would meet, of which each had closed other windows.

What is moved:

- rows that go with their events' keys (tables in Faust's form, ``by=Key()``), with their late events and
  corrections; partial results stay with the source partition that they are the result of;
- in a shuffle every partial result, and the note of what was told of, with the row that it is part of;
- progress: each consumer begins the new partition with the times of the old one.

A kill anywhere leaves something that the same command ends. First each table's declaration is replaced by a
mark, which no worker takes; then a record is written to its new place before it goes at its old one, so what
is still at the old one is written again; then the progress; then the mark goes. Nothing else writes
meanwhile, so writing twice is writing once. Logs stay the same logs, only longer: what workers keep of them
on disks is as good as its offset says, as ever.

Of one key nothing may be counted in two partitions at once: records of the old partitions that were not taken
yet, and whose keys lie elsewhere now, are in the way.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from streamflow.aggregates.partition import aggregate_table
from streamflow.aggregates.shuffle.partial import PartialSender
from streamflow.engine.assignment import table_consumer
from streamflow.engine.moved_records import (
    Move,
    Moves,
    RowPlaces,
    moved_late_events,
    moved_partials,
    moved_rows,
)
from streamflow.engine.progress_board import GROWING, RESET_BEGUN, ProgressBoard
from streamflow.engine.topology import Topology
from streamflow.engine.whole_logs import newest_records, whole_logs
from streamflow.errors import ConfigurationError
from streamflow.state.progress import Progress
from streamflow.transports.base import Growable, Record, TopicPartition, Transport

logger = logging.getLogger(__name__)

SEND_RECORDS = 5_000
LOOKED_AT = 1_000
"""Records of each new partition whose keys are looked at: do their producers place keys as we do?"""


@dataclass(frozen=True, slots=True)
class TableGrowth:
    """One table on its way from ``before`` to ``after`` partitions, and the topics that it lies by.

    ``logs`` are its topics that are there; ``declared`` its declaration, ``None`` where there was none;
    ``begun``: an earlier run has marked it.
    """

    name: str
    sources: tuple[str, ...]
    logs: tuple[str, ...]
    before: int
    after: int
    declared: Any
    begun: bool


class Growth:
    """What is to be done for an app, and doing it.

    ``require_nobody`` raises ConfigurationError while workers run. ``scattered_stay``: rows of tables in
    Faust's form whose keys the partitioner places elsewhere than they lie stay with their partition; without
    it such a row is a reason not to begin. ``send_records``: how many are written at once.
    """

    def __init__(
        self,
        topology: Topology,
        transport: Transport,
        require_nobody: Callable[[], Awaitable[None]],
        *,
        scattered_stay: bool = False,
        send_records: int = SEND_RECORDS,
    ) -> None:
        self._topology = topology
        self._topics = topology.topics
        self._transport = transport
        self._require_nobody = require_nobody
        self._scattered_stay = scattered_stay
        self._send_records = send_records
        self._board = ProgressBoard()
        self.tables: list[TableGrowth] = []

    async def plan(self) -> list[TableGrowth]:
        """The tables whose sources have grown, after all that could be in the way was looked at.

        Nothing is changed. Raises ConfigurationError with what is in the way, TransportError.
        """
        if not isinstance(self._transport, Growable):
            raise ConfigurationError(
                "topics of this broker keep the number of partitions that they were made with"
            )
        await self._require_nobody()
        await self._read_state()
        self.tables = [one for one in map(self._growth_of, self._topology.table_names()) if one is not None]
        if self.tables and self._topics.progress not in self._topics.counts:
            raise ConfigurationError(
                f"there is no topic {self._topics.progress!r}: how far the app has come is not known, so "
                "neither whether its rows may move"
            )
        self._refuse_unclear()
        sources = self._sources()
        # Waits until no commit of a worker that died is undecided: only then do the logs say what there is.
        await self._transport.committed(
            [(name, p) for name, (count, _) in sources.items() for p in range(count)]
        )
        await self._read_state()
        await self._refuse_untaken()
        await self._refuse_other_places()
        for table in self.tables:
            async for _ in self._moves(table):
                pass  # a row that can't be placed is told of before anything has changed
        return self.tables

    async def run(self) -> None:
        """Does what was planned. It may be killed at any time, and then be planned and run again."""
        if not self.tables:
            return
        await self._mark()
        await self._require_nobody()  # who came meanwhile has not begun, and is told by the mark
        assert isinstance(self._transport, Growable)
        for table in self.tables:
            await self._transport.grow_topics(dict.fromkeys(table.logs, table.after))
        for table in self.tables:
            await self._move(table)
        await self._send(await self._progress_records())
        await self._unmark()

    # -- what there is -----------------------------------------------------------------------------

    async def _read_state(self) -> None:
        topics, topology = self._topics, self._topology
        logs = [log for name in self._topology.table_names() for log in self._topology.logs_of(name)]
        await topics.look_up(self._transport, [topics.progress, *topology.source_topics(), *logs])
        self._board = ProgressBoard()
        progress = [(topics.progress, p) for p in range(topics.counts.get(topics.progress, 0))]
        async for batch in whole_logs(self._transport, progress):
            self._board.read_batch(batch, 0.0)

    def _growth_of(self, name: str) -> TableGrowth | None:
        """``None`` for a table that lies as it has to, or has nothing yet. Raises ConfigurationError."""
        topics = self._topics
        sources = tuple(self._topology.sources_of(name))
        logs = tuple(log for log in self._topology.logs_of(name) if log in topics.counts)
        found = {log: topics.counts[log] for log in logs}
        if not logs or any(source not in topics.counts for source in sources):
            return None
        begun = self._board.growing(name)
        declared = self._board.declarations.get(name)
        if begun is not None:
            before, after, declared = begun
            return TableGrowth(name, sources, logs, before, after, declared, begun=True)
        if declared == RESET_BEGUN:
            raise ConfigurationError(
                f"table {name!r}: its reset was begun and did not end: run it again first"
            )
        said = self._topology.declared_partitions.get(name)
        after = said or self._begun_for(sources) or topics.agreed(sources, f"table {name!r}", None)
        if set(found.values()) == {after}:
            return None
        if said is not None and any(topics.partitions(source) != said for source in sources):
            raise ConfigurationError(
                f"table {name!r}: partitions={said} is not what {', '.join(sources)} have"
            )
        shown = ", ".join(f"{log}: {count}" for log, count in sorted(found.items()))
        if len(set(found.values())) > 1:
            raise ConfigurationError(
                f"table {name!r}: its topics have different numbers of partitions ({shown})"
            )
        before = next(iter(found.values()))
        if after % before:
            more = before * (after // before + 1)
            raise ConfigurationError(
                f"table {name!r} has {before} partitions ({shown}) and needs {after}, which is no multiple: "
                "rows of several partitions would meet in one, of which each has closed other windows. Give "
                f"{' and '.join(sources)} {more} partitions, or begin anew with `streamflow reset`"
            )
        return TableGrowth(name, sources, logs, before, after, declared, begun=False)

    def _begun_for(self, sources: Iterable[str]) -> int | None:
        """The number for which a run that was killed has marked tables of these topics: that ends first."""
        for name in self._topology.table_names():
            growing = self._board.growing(name)
            if growing is not None and set(sources) & set(self._topology.sources_of(name)):
                return growing[1]
        return None

    def _sources(self) -> dict[str, tuple[int, int]]:
        """source topic -> partitions before and after."""
        found: dict[str, tuple[int, int]] = {}
        for table in self.tables:
            for source in table.sources:
                before, after = found.get(source, (table.before, table.after))
                if (before, after) != (table.before, table.after):
                    raise ConfigurationError(
                        f"tables of topic {source!r} lie by {before} and by {table.before} partitions: no "
                        "worker has ever made them so; `streamflow reset` begins anew"
                    )
                found[source] = before, after
        return found

    def _keyed(self) -> Iterator[TableGrowth]:
        """Tables whose rows go with the keys of events."""
        for table in self.tables:
            aggregate = self._topology.aggregates.get(table.name)
            if aggregate is None or not aggregate.spec.is_shuffled:
                yield table

    # -- what is in the way ------------------------------------------------------------------------

    def _refuse_unclear(self) -> None:
        """Raises ConfigurationError for keys that may be written in several ways."""
        for table in self._keyed():
            for decoder in self._topology.decoders.values():
                if decoder.source.name in table.sources and decoder.source.key.of_json:
                    raise ConfigurationError(
                        f"table {table.name!r}: keys of {decoder.source.name!r} are JSON of type "
                        f"{decoder.source.key.name}, which can be written in several ways: where a producer "
                        "places one can't be told from its row. `streamflow reset` counts anew"
                    )

    def _takers(self, source: str) -> set[str]:
        """Consumers for which the events of one key may not come from two partitions at once."""
        keyed = {table.name for table in self._keyed()}
        takers = {agent.spec.consumer for agent in self._topology.agents if source in agent.topics}
        return takers | {
            each.spec.consumer
            for name, each in self._topology.aggregates.items()
            if name in keyed and each.spec.topic == source
        }

    async def _refuse_untaken(self) -> None:
        """Raises ConfigurationError where records of old partitions were not taken, and lie elsewhere now."""
        sources = self._sources()
        retries = self._topology.retry_topics.values()
        waiting = {each.name: sources[each.source] for each in retries if each.source in sources}
        for source, (before, after) in {**sources, **waiting}.items():
            before = min(before, self._topics.counts.get(source, 0))
            takers = self._takers(source)
            known = [one for one in self._board.of_topic(source) if one.consumer in takers]
            begun = {one.consumer for one in known}
            for partition in range(before):
                mine = {one.consumer: one for one in known if one.partition == partition}
                for consumer in begun - mine.keys():
                    mine[consumer] = Progress(consumer, source, partition)
                if mine:
                    await self._refuse_untaken_in((source, partition), list(mine.values()), after)

    async def _refuse_untaken_in(self, at: TopicPartition, progress: list[Progress], after: int) -> None:
        earliest = (await self._transport.earliest_offsets([at])).get(at, 0)
        start = max(earliest, min(one.position for one in progress))
        retry = self._topology.retry_topics.get(at[0])
        async for batch in whole_logs(self._transport, [at], {at: start}):
            if retry is not None:  # others' records there are nobody's here
                batch = retry.events(batch)
            for offset, key in zip(batch.offsets, batch.keys, strict=True):
                place = at[1] if key is None else self._topics.place_among(key, after)
                if place == at[1]:
                    continue
                for one in progress:
                    if offset >= one.position and not any(a <= offset <= b for a, b in one.done):
                        raise ConfigurationError(
                            f"{at[0]}[{at[1]}]@{offset}: {one.consumer!r} has not taken it yet (it stands at "
                            f"{one.position}), and its key lies in partition {place} of {after} by now: its "
                            "row would be in two places. A worker that is started takes what is left: stop "
                            "it when `streamflow lag` says 0"
                        )

    async def _refuse_other_places(self) -> None:
        """Raises ConfigurationError where keys in new partitions are not those that we expect there."""
        if not any(self._keyed()):
            return
        for source, (before, after) in self._sources().items():
            for partition in range(before, after):
                looked = 0
                async for batch in whole_logs(self._transport, [(source, partition)]):
                    for offset, key in zip(batch.offsets, batch.keys, strict=True):
                        if key is not None and (place := self._topics.place_among(key, after)) != partition:
                            raise ConfigurationError(
                                f"{source}[{partition}]@{offset}: its key lies in {place} of {after} by the "
                                "setting partitioner, so its producer places keys by another rule"
                            )
                    looked += len(batch.offsets)
                    if looked >= LOOKED_AT:
                        break

    # -- moving ------------------------------------------------------------------------------------

    def _movers(self, table: TableGrowth) -> dict[str, Moves]:
        """log -> what moves in it; logs in which nothing does are left out."""
        aggregate = self._topology.aggregates.get(table.name)
        changelog, late = self._topics.changelog(table.name), self._topics.late(table.name)
        shuffle = self._topics.shuffle(table.name)
        if aggregate is not None and aggregate.spec.is_shuffled:
            sender = PartialSender(aggregate.spec, shuffle, 0, table.after)
            return {shuffle: moved_partials(sender, table.before)}
        places = RowPlaces(
            table.name,
            lambda key: self._topology.row_key(table.name, key),
            self._topics.place_among,
            before=table.before,
            after=table.after,
            scattered_stay=self._scattered_stay and aggregate is None,
        )
        if aggregate is None:
            return {changelog: moved_rows(self._topology.tables[table.name].spec.codec, places)}
        codec = aggregate_table(aggregate.spec, changelog, table.after).codec
        return {changelog: moved_rows(codec, places), late: moved_late_events(codec, places)}

    async def _moves(
        self, table: TableGrowth
    ) -> AsyncIterator[tuple[TopicPartition, list[Move], dict[bytes, int]]]:
        """Old partition of a log, what of it lies elsewhere from now on, and key -> when it was written."""
        for log, moves in self._movers(table).items():
            if log in table.logs:
                for partition in range(table.before):
                    records, stamps = await newest_records(self._transport, (log, partition))
                    yield (log, partition), list(moves(partition, records)), stamps

    async def _move(self, table: TableGrowth) -> None:
        # Of a global table's rows the newest holds, by time and then by partition, in whatever order the
        # partitions are read. So a row keeps its time, and what takes it away here is no newer than that.
        is_global = table.name in self._topology.global_tables
        async for (log, partition), moves, stamps in self._moves(table):
            known = stamps if is_global else {}
            await self._send(
                Record(log, move.partition, move.key, move.value, timestamp_ms=known.get(move.key))
                for move in moves
            )
            # Acknowledged there, it may go here. Killed before, it is written there once more.
            gone = dict.fromkeys(move.gone for move in moves if move.gone is not None)
            await self._send(Record(log, partition, key, None, timestamp_ms=known.get(key)) for key in gone)
            logger.info("%s[%d]: %d records have moved", log, partition, len(gone))

    async def _send(self, records: Iterable[Record]) -> None:
        waiting: list[Record] = []
        for record in records:
            waiting.append(record)
            if len(waiting) == self._send_records:
                await self._transport.send(waiting)
                waiting = []
        if waiting:
            await self._transport.send(waiting)

    # -- progress and marks ------------------------------------------------------------------------

    async def _progress_records(self) -> list[Record]:
        """New partitions begin with the times of old ones; both note that the topic has grown."""
        names = {table_consumer(table.name): table for table in self.tables}
        spots = [
            (source, p) for source, (before, after) in self._sources().items() for p in range(before, after)
        ]
        earliest = await self._transport.earliest_offsets(spots)
        found: list[Progress] = []
        for source, (before, after) in self._sources().items():
            for one in self._board.of_topic(source):
                found.extend(self._branches(one, before, after, earliest))
        for one in self._board.of_topic(""):
            if one.consumer in names:
                found.extend(self._branches(one, names[one.consumer].before, names[one.consumer].after, {}))
        topic, count = self._topics.progress, self._topics.counts[self._topics.progress]
        return [
            Record(topic, one.partition % count, one.record_key(), one.record_value())
            for one in await self._with_logs(found)
        ]

    def _branches(
        self, one: Progress, before: int, after: int, earliest: dict[TopicPartition, int]
    ) -> Iterator[Progress]:
        if one.partition >= before:
            return
        yield one.grow(before, after)
        for partition in range(one.partition + before, after, before):
            # What is there was written by a run that was killed, or by who has gone on since.
            if self._board.get(one.consumer, one.topic, partition) is None:
                position = earliest.get((one.topic, partition), 0)
                yield one.branch(partition, before, after, position)

    async def _with_logs(self, progress: list[Progress]) -> list[Progress]:
        """Notes in each how far the logs of its state reach at least, now that its rows are there."""
        logs = {self._consumer(table.name): table.logs for table in self.tables}
        spots = {(log, one.partition) for one in progress for log in logs.get(one.consumer, ())}
        ends = await self._transport.high_watermarks(sorted(spots)) if spots else {}
        for one in progress:
            for log in logs.get(one.consumer, ()):
                one.note_log(log, ends.get((log, one.partition), 0), wrote=False)
        return progress

    def _consumer(self, table: str) -> str:
        aggregate = self._topology.aggregates.get(table)
        return table_consumer(table) if aggregate is None else aggregate.spec.consumer

    def _declaration(self, table: TableGrowth, value: Any) -> Record:
        key = orjson.dumps(["declaration", table.name])
        return Record(self._topics.progress, 0, key, None if value is None else orjson.dumps(value))

    async def _mark(self) -> None:
        await self._send(
            self._declaration(table, {GROWING: [table.before, table.after, table.declared]})
            for table in self.tables
            if not table.begun
        )

    async def _unmark(self) -> None:
        await self._send(self._declaration(table, table.declared) for table in self.tables)
