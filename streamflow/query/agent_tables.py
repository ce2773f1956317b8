"""Readers of tables in Faust's form: rows that agents write, and windows that they close by a watermark."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Literal

from streamflow.codecs import KeyCodec, json_bytes
from streamflow.engine.engine import Engine
from streamflow.errors import DecodeError
from streamflow.query.reader import TableReaderBase, plain
from streamflow.query.sliding_rows import SlidingReaderBase
from streamflow.state.agent_table import AgentTable
from streamflow.state.merging_table import MergingWindowTable, SlidingTable
from streamflow.state.panes import SlidingRows
from streamflow.state.stores.base import MISSING
from streamflow.windows import SessionWindow


class AgentReader(TableReaderBase):
    """A table in Faust's form."""

    kind: Literal["agent", "aggregate"] = "agent"

    def __init__(self, engine: Engine, table: AgentTable) -> None:
        spec = table.spec
        topics = {topic: agent.spec.consumer for agent in engine.topology.agents for topic in agent.topics}
        fitting = [
            topic for topic in sorted(topics) if engine.topology.topics.partitions(topic) == spec.partitions
        ]
        self._topic = fitting[0] if fitting else ""
        source = engine.topology.sources.get(topics.get(self._topic, ""))
        super().__init__(
            engine,
            spec.name,
            table.window if isinstance(table, MergingWindowTable) else spec.window,
            source_topic=self._topic,
            partitions=spec.partitions,
            key_codec=table.key_codec or (source.key if source is not None else KeyCodec(None)),
            description={"values": "agent"},
        )
        self._table = table
        self.closed_to_ms: dict[int, int | None] = {}  # partition -> watermark of its newest checkpoint

    @property
    def owned(self) -> frozenset[int]:
        return frozenset(self._table.parts) if self.engine.live else frozenset()

    def close_to(self, watermarks_ms: dict[int, int | None]) -> None:
        """The tables' partitions are others now: what is durably closed there, anew."""
        self.closed_to_ms = watermarks_ms

    def starts(self, partition: int) -> list[int]:
        return self._table.parts[partition].store.starts()

    def keys(self, partition: int, start: int) -> Iterable[Any]:
        return self._table.parts[partition].store.window(start)

    def value(self, partition: int, start: int, key: Hashable) -> Any:
        try:
            found = self._table.parts[partition].store.get(start, key)
        except TypeError:  # an array or an object is no key of any row
            return MISSING
        if found is not MISSING and isinstance(self.window, SessionWindow):
            return plain(found, self._table.spec.codec.encode_value)[2]  # start, end, value
        return found if found is MISSING else plain(found, self._table.spec.codec.encode_value)

    def begins(self, partition: int, start: int, key: Hashable) -> int:
        if not isinstance(self.window, SessionWindow):
            return start
        found = self._table.parts[partition].store.get(start, key)
        return start if found is MISSING else int(found[0].start)

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

    def scattered_partitions(self, key: object) -> tuple[int, ...]:
        home, stored = self.partition_of(key), self.stored(key)
        return tuple(
            partition
            for partition in sorted(self.owned - {home})
            if any(self.value(partition, start, stored) is not MISSING for start in self.starts(partition))
        )

    def stored(self, key: object) -> Any:
        key = super().stored(key)
        if isinstance(key, dict) and self._key_codec.of_json:
            try:
                return self._key_codec.decode(json_bytes(key))
            except DecodeError:
                return key
        return tuple(key) if isinstance(key, list) else key

    def row_count(self) -> int:
        return sum(len(part.store) for part in self._table.parts.values())

    def positions(self, partition: int | None = None) -> dict[int, int]:
        return self.own_positions(partition)

    def watermark_ms(self, partition: int | None = None) -> int | None:
        return self.own_watermark_ms(partition)

    def lags(self) -> dict[int, int | None]:
        return self.own_lags()

    def consumers(self) -> list[str]:
        """The agents that were seen to write it; before that, whoever reads its topic."""
        agents = [agent.spec.consumer for agent in self.engine.topology.agents if self._topic in agent.topics]
        writers = {name for part in self._table.parts.values() for name in part.writers}
        return [name for name in agents if name in writers] or agents


class SlidingAgentReader(SlidingReaderBase, AgentReader):
    """A table in Faust's form over sliding windows."""

    def __init__(self, engine: Engine, table: SlidingTable) -> None:
        super().__init__(engine, table)
        self._sliding_table = table

    def _sliding(self, partition: int) -> SlidingRows[Hashable]:
        return self._sliding_table.rows(self._sliding_table.parts[partition], durable=True)

    def _expired_to_ms(self, partition: int) -> int | None:
        return self._sliding_table.parts[partition].expired_to_ms

    def _value_of(self, states: list[Any]) -> Any:
        pane = {None: self._sliding_table.value_of(states)}
        return plain(pane, self._sliding_table.spec.codec.encode_value)[0][1]  # [[after_ms, value]]
