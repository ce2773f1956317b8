"""Agents tried without a worker: tables in memory, nothing sent, nothing durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from faust.streams import current_event

from streamflow.app.interface import TableT
from streamflow.app.topics.producer import Acknowledgement
from streamflow.codecs.chunk import Chunk
from streamflow.state.agent_table import AgentTable
from streamflow.state.event_context import EventContext, current_context
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.stores.memory import MemoryStore
from streamflow.transports.base import Headers, Record

PARTITIONS_MAX = 1 << 31


class AgentTester:
    """Tables of one app, as they are while its agents are tried; ``sent``: (topic, key, value) as bytes."""

    def __init__(self, tables: Iterable[TableT]) -> None:
        self._agents = 0  # that are being tried
        self.sent: list[tuple[str, bytes | None, bytes | None]] = []
        for table in tables:
            spec = TableSpec(table.name, table.window, table.row_codec(table.key_type), "", PARTITIONS_MAX)
            table.bind(_TestTable(spec, table.default))

    @property
    def is_at_work(self) -> bool:
        """Is an agent being tried now?"""
        return self._agents > 0

    def begin(self) -> None:
        self._agents += 1

    def end(self) -> None:
        self._agents -= 1

    def take(self, value: object) -> Any:
        """A processor: from here on the calling agent holds its current event."""
        event = current_event()
        assert event is not None
        message = event.message
        time_ms = round(message.timestamp * 1_000)
        raw = ([None], [None], None)
        chunk = Chunk(
            message.topic,
            message.partition,
            offsets=[message.offset],
            keys=[event.key],
            events=[event.value],
            columns={},
            times_ms=[time_ms],
            timestamps_ms=[time_ms],
            raw=raw,
            next_offset=message.offset + 1,
        )
        current_context.set(_TestContext(chunk))
        return value

    # -- in the place of a RecordProducer -----------------------------------------------------------

    def knows(self, topic: str) -> bool:
        return True

    async def learn(
        self,
        topic: str,
        partitions: int | None,
        *,
        compacted: bool = False,
        retention_s: float | None = None,
        copies: int = 0,
        config: Iterable[tuple[str, str]] = (),
        declared: bool = False,
    ) -> None:
        """There is no broker to ask."""

    def record(
        self,
        topic: str,
        partition: int | None,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        timestamp_ms: int | None,
    ) -> Record:
        return Record(topic, partition or 0, key, value, headers, timestamp_ms)

    async def send(self, record: Record, *, at_once: bool = False) -> Acknowledgement:
        return self.send_soon(record)

    def send_soon(self, record: Record, *, at_once: bool = False) -> Acknowledgement:
        """Keeps what is sent; it counts as acknowledged."""
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        told.set_result(len(self.sent))
        self.sent.append((record.topic, record.key, record.value))
        return Acknowledgement(record, told, None)

    async def flush(self) -> None:
        """Nothing is on its way."""


class _TestContext(EventContext):
    """Holds the one event of a chunk."""

    __slots__ = ()

    def __init__(self, chunk: Chunk) -> None:
        super().__init__("bench")
        self.open(chunk, None)
        self.position, self.in_flight = 0, True


class _TestTable(AgentTable):
    """A table without a changelog, as large as it is asked for."""

    def __init__(self, spec: TableSpec, default: Callable[[], Any] | None) -> None:
        super().__init__(
            spec,
            default,
            hash_partition=lambda key: -1,
            on_late=lambda context, start: None,
            on_scattered=lambda partition, key: None,
        )
        self.parts = _Parts(spec)


class _Parts(dict[int, TablePartition]):
    """Partitions of a table, made when somebody asks for them."""

    def __init__(self, spec: TableSpec) -> None:
        super().__init__()
        self._spec = spec

    def __missing__(self, partition: int) -> TablePartition:
        made = self[partition] = TablePartition(self._spec, partition, MemoryStore())
        return made
