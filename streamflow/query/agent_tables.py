"""Readers of tables in Faust's form: rows that agents write, and windows that they close by a watermark."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from typing import Any, Literal

from streamflow.codecs import KeyCodec, json_bytes
from streamflow.engine.assignment import table_consumer
from streamflow.engine.engine import Engine
from streamflow.errors import DecodeError
from streamflow.query.key_order import is_hashable
from streamflow.query.listing import newest_ids
from streamflow.query.reader import TableReaderBase, plain
from streamflow.query.slices import Slices
from streamflow.query.sliding_rows import SlidingReaderBase
from streamflow.state.agent_table import AgentTable
from streamflow.state.merging_table import MergingWindowTable, SlidingTable
from streamflow.state.panes import SlidingRows
from streamflow.state.stores.base import MISSING, NO_WINDOW, Store
from streamflow.windows import SessionWindow


class AgentReader(TableReaderBase):
    """A table in Faust's form.

    Nothing declares which agents write it: they are learnt from what they write, here or on another worker,
    and kept with the progress of the table.
    """

    kind: Literal["agent", "aggregate"] = "agent"

    def __init__(self, engine: Engine, table: AgentTable) -> None:
        spec = table.spec
        self._table, topology = table, engine.topology
        sources = [decoder.source for decoder in topology.decoders.values()]
        own = table.key_codec
        self._key_codecs = {source.name: own or source.key for source in reversed(sources)}
        self._seen_writers: frozenset[str] = frozenset()
        # Before anybody has written: whoever could.
        fitting = self._fitting(
            engine, spec.partitions, {a.spec.consumer for a in topology.agents if a.writes_tables}
        )
        super().__init__(
            engine,
            spec.name,
            table.window if isinstance(table, MergingWindowTable) else spec.window,
            source_topic=fitting[0] if fitting else "",
            partitions=spec.partitions,
            key_codec=own or KeyCodec(None),
            description={"values": "agent"},
        )
        self.closed_to_ms: dict[int, int | None] = {}  # partition -> watermark of its newest checkpoint

    @staticmethod
    def _fitting(engine: Engine, partitions: int, consumers: Collection[str]) -> list[str]:
        """The topics of agents that have as many partitions as the table, in order."""
        topology = engine.topology
        agents = [agent for agent in topology.agents if agent.spec.consumer in consumers]
        topics = {topic for agent in agents for topic in agent.source_topics}
        return sorted(topic for topic in topics if topology.topics.partitions(topic) == partitions)

    @property
    def source_topic(self) -> str:
        writers = self._writers()
        if writers != self._seen_writers:
            self._seen_writers = writers
            fitting = self._fitting(self.engine, self.partitions, writers)
            if fitting:
                self._source_topic = fitting[0]
        return self._source_topic

    def _writers(self) -> frozenset[str]:
        """Consumers that were seen to write it: here, else anywhere and before a restart."""
        here = frozenset(name for part in self._table.parts.values() for name in part.writers)
        return here or self.engine.board.writers(table_consumer(self.name))

    @property
    def _key_codec(self) -> KeyCodec:
        return self._key_codecs.get(self.source_topic, self._own_key_codec)

    @property
    def owned(self) -> frozenset[int]:
        return frozenset(self._table.parts) if self.engine.live else frozenset()

    def close_to(self, watermarks_ms: dict[int, int | None]) -> None:
        """The tables' partitions are others now: what is durably closed there, anew."""
        self.closed_to_ms = watermarks_ms

    def _store(self, partition: int) -> Store:
        return self._table.parts[partition].store

    def starts(self, partition: int) -> list[int]:
        return self._store(partition).starts()

    def keys(self, partition: int, start: int) -> Iterable[Any]:
        return self._store(partition).window(start)

    def value(self, partition: int, start: int, key: Hashable) -> Any:
        try:
            found = self._store(partition).get(start, key)
        except TypeError:  # an array or an object is no key of any row
            return MISSING
        if found is not MISSING and isinstance(self.window, SessionWindow):
            return plain(found, self._table.spec.codec.encode_value)[2]  # start, end, value
        return found if found is MISSING else plain(found, self._table.spec.codec.encode_value)

    def begins(self, partition: int, start: int, key: Hashable) -> int:
        if not isinstance(self.window, SessionWindow):
            return start
        found = self._store(partition).get(start, key)
        return start if found is MISSING else int(found[0].start)

    def has(self, partition: int, start: int, key: Hashable) -> bool:
        return self._store(partition).get(start, key) is not MISSING

    def next_start(self, partition: int, start: int | None, *, descending: bool = False) -> int | None:
        return self._store(partition).next_start(start, descending=descending)

    def closed_to(self, partition: int) -> int | None:
        return self.closed_to_ms.get(partition)

    def is_closed(self, partition: int, start: int) -> bool:
        watermark_ms = self.closed_to_ms.get(partition)
        return (
            self.window is not None and watermark_ms is not None and self.window.closed(start, watermark_ms)
        )

    def partition_of(self, key: object) -> int:
        try:
            raw = self._key_codec.encode(self.stored(key))
        except TypeError:
            return 0
        return 0 if raw is None else self.engine.topology.topics.place(self._table.spec.changelog, raw)

    async def scattered_partitions(self, key: object) -> tuple[int, ...]:
        home, stored = self.partition_of(key), self.stored(key)
        others = sorted(self.owned - {home}) if is_hashable(stored) else []
        return tuple([partition for partition in others if await self._holds_key(partition, stored)])

    async def _holds_key(self, partition: int, stored: Hashable) -> bool:
        if self.window is None:
            return self.has(partition, NO_WINDOW, stored)
        async for start in newest_ids(self, partition, stored, Slices(self.engine.clock)):
            if self.value(partition, start, stored) is not MISSING:
                return True
        return False

    def stored(self, key: object) -> Any:
        key = super().stored(key)
        if isinstance(key, dict) and self._key_codec.of_json:
            try:
                return self._key_codec.decode(json_bytes(key))
            except DecodeError:
                return key
        return tuple(key) if isinstance(key, list) else key

    def rows_in(self, partition: int) -> int | None:
        return len(self._store(partition))

    def positions(self, partition: int | None = None) -> dict[int, int]:
        return self.own_positions(partition)

    def watermark_ms(self, partition: int | None = None) -> int | None:
        return self.own_watermark_ms(partition)

    def lags(self) -> dict[int, int | None]:
        return self.own_lags()

    def consumers(self) -> list[str]:
        """The agents that were seen to write it; before that, whoever reads its topic."""
        agents, topic, writers = self.engine.topology.agents, self.source_topic, self._writers()
        seen = [agent.spec.consumer for agent in agents if agent.spec.consumer in writers]
        return seen or [agent.spec.consumer for agent in agents if topic in agent.topics]


class SlidingAgentReader(SlidingReaderBase, AgentReader):
    """A table in Faust's form over sliding windows."""

    def __init__(self, engine: Engine, table: SlidingTable) -> None:
        super().__init__(engine, table)
        self._sliding_table = table

    def _sliding(self, partition: int) -> SlidingRows[Hashable]:
        return self._sliding_table.rows(self._sliding_table.parts[partition], durable=True)

    def panes_in(self, partition: int) -> int:
        return len(self._store(partition))

    def _expired_to_ms(self, partition: int) -> int | None:
        return self._sliding_table.parts[partition].expired_to_ms

    def _value_of(self, states: list[Any]) -> Any:
        pane = {None: self._sliding_table.value_of(states)}
        return plain(pane, self._sliding_table.spec.codec.encode_value)[0][1]  # [[after_ms, value]]
