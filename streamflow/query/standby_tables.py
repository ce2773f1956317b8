"""Readers of what a worker keeps of a table without serving it: standbys, and partitions on their way.

Their rows are committed ones, since stores and final stages hold nothing else; how old they are is told with
them. Only what has been whole once is shown. Windows are shown as open or closed as the newest progress of
their partition says; whether a closed row was revised is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable

from streamflow.aggregates.shuffle.final import FinalStage
from streamflow.engine.assignment import table_consumer
from streamflow.engine.engine import Engine
from streamflow.errors import TransportError
from streamflow.query.agent_tables import AgentReader
from streamflow.query.aggregate_tables import FinalStageReader, HoppingReader, KeyedReader, SlidingStageReader
from streamflow.query.list_index import ListIndex
from streamflow.query.reader import TableReaderBase
from streamflow.query.rows import TableStatus
from streamflow.state.merging_table import SlidingTable
from streamflow.state.progress import Progress
from streamflow.state.stores.base import Store
from streamflow.windows import SlidingWindow

LOOK_MS = 300.0
"""So long the broker may take to say where the source partitions end."""


class StandbyBase(TableReaderBase):
    """A `table_reader.StandbyReader`; `renew` it before each use: nobody tells it what changes."""

    _seen: object = None
    _ends: dict[int, int] = {}  # noqa: RUF012 - replaced, never changed

    def offsets(self) -> dict[int, int]:
        """Partition -> how far what is kept of it has come."""
        raise NotImplementedError

    def age_ms(self, partition: int) -> float:
        raise NotImplementedError

    @property
    def owned(self) -> frozenset[int]:
        return frozenset(self.offsets())

    def renew(self) -> None:
        """What lists rely on is made anew, unless everything is as it was."""
        offsets = self.offsets()
        if offsets != self._seen:
            self._seen = offsets
            self.lists = ListIndex(self, self.engine.clock)

    async def look(self, partitions: Iterable[int]) -> None:
        """Asks where the source partitions end, for `lags_of`."""
        places = [(self.source_topic, partition) for partition in partitions]
        try:
            async with asyncio.timeout(LOOK_MS / 1_000):
                ends = await self.engine.transport.high_watermarks(places)
        except (TransportError, TimeoutError):
            ends = {}
        self._ends = {partition: end for (_, partition), end in ends.items()}

    def lags_of(self, partition: int) -> dict[int, int | None]:
        between, topic = self.engine.transport.records_between, self.source_topic
        return {
            source: between((topic, source), at, self._ends[source]) if source in self._ends else None
            for source, at in self.positions(partition).items()
        }

    def status(self) -> TableStatus:
        return TableStatus(self.positions(), {}, self.watermark_ms(), {})

    async def scattered_partitions(self, key: object) -> tuple[int, ...]:
        return ()


class StandbyRows(StandbyBase):
    """What tables have in common whose rows lie in the stores of their partitions."""

    def _kept(self, partition: int) -> tuple[Store, float]:
        kept = self.engine.rebalance.kept_rows(self.name, partition)
        if kept is None:
            raise KeyError(partition)
        return kept

    def _store(self, partition: int) -> Store:
        return self._kept(partition)[0]

    def age_ms(self, partition: int) -> float:
        return self._kept(partition)[1]

    def served(self) -> frozenset[int]:
        """The partitions that this worker serves."""
        raise NotImplementedError

    def offsets(self) -> dict[int, int]:
        found: dict[int, int] = {}
        served, rebalance = self.served(), self.engine.rebalance
        for partition in range(self.partitions):
            kept = None if partition in served else rebalance.kept_rows(self.name, partition)
            if kept is not None:
                found[partition] = kept[0].offset
        return found

    def _progress_of(self, partition: int) -> list[Progress]:
        """The newest progress of those who feed a partition, where its rows are no older."""
        board, topic = self.engine.board, self.source_topic
        logs = [board.get(name, at, partition) for name, at in ((table_consumer(self.name), ""),)]
        found = [board.get(consumer, topic, partition) for consumer in self.consumers()]
        offset = self._store(partition).offset
        known = [progress for progress in (*logs, *found) if progress is not None]
        if any(end > offset for progress in known for log, end in progress.logs.items() if self._is_log(log)):
            return []
        return [progress for progress in found if progress is not None]

    def _is_log(self, log: str) -> bool:
        return log == self.engine.topology.topics.changelog(self.name)

    def positions(self, partition: int | None = None) -> dict[int, int]:
        """Of a partition that is behind the newest progress nobody knows it."""
        return {
            at: min(progress.position for progress in known)
            for at in (self.owned if partition is None else (partition,))
            if (known := self._progress_of(at))
        }

    def watermark_ms(self, partition: int | None = None) -> int | None:
        partitions = self.owned if partition is None else (partition,)
        known = [progress.watermark_ms for at in partitions for progress in self._progress_of(at)]
        return min((at_ms for at_ms in known if at_ms is not None), default=None)

    def closed_to(self, partition: int) -> int | None:
        board, topic = self.engine.board, self.source_topic
        found = [board.get(table_consumer(self.name), "", partition)]
        found += [board.get(consumer, topic, partition) for consumer in self.consumers()]
        known = [self._closes(progress) for progress in found if progress is not None]
        return max((at_ms for at_ms in known if at_ms is not None), default=None)

    def _closes(self, progress: Progress) -> int | None:
        return progress.closed_to_ms

    def is_closed(self, partition: int, start: int) -> bool:
        to_ms = None if self.window is None else self.closed_to(partition)
        return self.window is not None and to_ms is not None and self.window.closed(start, to_ms)

    def is_revised(self, partition: int, start: int, key: Hashable) -> bool:
        return False


class StandbyAgentReader(StandbyRows, AgentReader):
    """Of a table in Faust's form."""

    def served(self) -> frozenset[int]:
        return frozenset(self._table.parts) if self.engine.live else frozenset()

    def _closes(self, progress: Progress) -> int | None:
        return progress.watermark_ms if progress.consumer == table_consumer(self.name) else None


class StandbyKeyedReader(StandbyRows, KeyedReader):
    """Of a declared table that is grouped by the message's key."""

    def served(self) -> frozenset[int]:
        return frozenset(self.aggregate.parts) if self.engine.live else frozenset()


class StandbyHoppingReader(StandbyRows, HoppingReader):
    """Of one over hopping windows, whose rows are made of panes."""

    def served(self) -> frozenset[int]:
        return frozenset(self.aggregate.parts) if self.engine.live else frozenset()

    def _expired_to_ms(self, partition: int) -> int | None:
        return self.closed_to(partition)


class _Stages(StandbyBase, FinalStageReader):
    def stages(self) -> dict[int, FinalStage]:
        return {p: stage for p, (stage, _) in self.engine.rebalance.kept_stages(self.name).items()}

    @property
    def owned(self) -> frozenset[int]:
        return frozenset(self.stages())

    def offsets(self) -> dict[int, int]:
        return {partition: stage.position for partition, stage in self.stages().items()}

    def age_ms(self, partition: int) -> float:
        return self.engine.rebalance.kept_stages(self.name)[partition][1]

    def positions(self, partition: int | None = None) -> dict[int, int]:
        return FinalStageReader.positions(self, partition)

    def watermark_ms(self, partition: int | None = None) -> int | None:
        return FinalStageReader.watermark_ms(self, partition)

    def lags_of(self, partition: int) -> dict[int, int | None]:
        watermarks = self.stages()[partition].watermarks
        return {source: watermark.lag for source, watermark in sorted(watermarks.items())}


class StandbyStageReader(_Stages):
    """Of a declared table that goes through a shuffle."""


class StandbySlidingStageReader(_Stages, SlidingStageReader):
    """The same over sliding windows."""


Standby = (
    StandbyAgentReader
    | StandbyKeyedReader
    | StandbyHoppingReader
    | StandbyStageReader
    | StandbySlidingStageReader
)


def make_standby(engine: Engine, name: str) -> Standby | None:
    """The reader of what is kept of a table; ``None`` where it can't be read without serving it.

    That is so for sliding windows whose panes lie in stores: what makes windows of them is made with serving.
    """
    if name in engine.topology.tables:
        table = engine.topology.tables[name]
        return None if isinstance(table, SlidingTable) else StandbyAgentReader(engine, table)
    aggregate = engine.topology.aggregates[name]
    sliding = isinstance(aggregate.spec.window, SlidingWindow)
    if aggregate.spec.is_shuffled:
        return (
            StandbySlidingStageReader(engine, aggregate) if sliding else StandbyStageReader(engine, aggregate)
        )
    if aggregate.spec.hopping_panes is not None:
        return StandbyHoppingReader(engine, aggregate)
    return None if sliding else StandbyKeyedReader(engine, aggregate)
