"""One broker and engines of declared aggregates over it, which can be killed and begun anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from streamflow.aggregates.shuffle.final import FinalStage
from streamflow.aggregates.spec import AggregateSpec
from streamflow.clock import SystemClock
from streamflow.codecs import KeyCodec, ValueCodec
from streamflow.codecs.event import Event
from streamflow.engine.decoding import TopicSource
from streamflow.engine.engine import Engine
from streamflow.query.reader import TableReaderBase
from streamflow.query.readers import make_reader
from streamflow.settings import Settings
from streamflow.transports.base import Record
from streamflow.transports.memory import MemoryBroker, MemoryTransport

WAIT_S = 10.0
T0_MS = 1_760_000_000_000


class Declared:
    """``value`` is how the topic's values are decoded; ``specs`` are declared in every engine."""

    def __init__(self, *specs: AggregateSpec, partitions: int = 2, value: Any = Event) -> None:
        self.specs = specs
        self.clock = SystemClock()
        self.broker = MemoryBroker(self.clock)
        self.client = MemoryTransport(self.broker, "outside", "client")
        self.source = TopicSource("events", KeyCodec(str), ValueCodec(value), partitions)
        self.engine = self.new_engine()
        self.ends: dict[int, int] = {}

    def new_engine(self, name: str = "worker") -> Engine:
        engine = Engine(
            Settings(id="app", commit_interval=0.01, fetch_wait_ms=5),
            MemoryTransport(self.broker, "app", name),
            self.clock,
        )
        for spec in self.specs:
            engine.topology.add_aggregate(spec, self.source)
        return engine

    async def start(self) -> None:
        await self.client.start()
        await self.begin()

    async def begin(self) -> None:
        await self.engine.start("http://worker")
        await self.until(lambda: self.engine.live and self.ready())

    def ready(self) -> bool:
        active = self.engine.active
        return active is not None and not active.unopened and all(stage.ready for stage in active.stages)

    async def restart(self) -> None:
        """A clean stop, and another engine over the same topics."""
        await self.engine.stop()
        self.engine = self.new_engine()
        await self.begin()

    async def until(self, condition: Callable[[], Any]) -> Any:
        async with asyncio.timeout(WAIT_S):
            while True:
                if self.engine.failure is not None:
                    raise self.engine.failure
                if found := condition():
                    return found
                await asyncio.sleep(0.005)

    async def write(self, partition: int, *values: Any, key: str = "k") -> None:
        """Writes JSON values (`event`, for example), in order, and waits until they are checkpointed."""
        records = [Record("events", partition, key.encode(), raw(value)) for value in values]
        await self.client.send(records)
        self.ends[partition] = self.ends.get(partition, 0) + len(records)
        await self.done()

    async def done(self) -> None:
        """Waits until everything that was written is checkpointed, and read back by the final stages."""

        def taken() -> bool:
            active = self.engine.active
            if active is None or not self.engine.live:
                return False
            shown = {(consumer, p): at.position for (consumer, _, p), at in active.shown.items()}
            return all(
                shown.get((spec.consumer, p), 0) >= end for spec in self.specs for p, end in self.ends.items()
            )

        await self.until(taken)

    def reader(self, name: str) -> TableReaderBase:
        return make_reader(self.engine, name)

    def stages(self) -> list[FinalStage]:
        """The final stages of this worker's partitions."""
        active = self.engine.active
        return [] if active is None else active.stages

    def rows(self, name: str) -> dict[tuple[Any, int | None], Any]:
        """(key, window start) -> value."""
        reader = self.reader(name)
        return {(_plain(r.key), r.start_ms): r.value for p in reader.owned for r in reader.rows(p)}

    def states(self, name: str) -> dict[tuple[Any, int | None], str | None]:
        """(key, window start) -> open, closed or revised."""
        reader = self.reader(name)
        return {(_plain(r.key), r.start_ms): r.state for p in reader.owned for r in reader.rows(p)}

    async def read(self, topic: str) -> list[tuple[bytes | None, bytes | None]]:
        """Key and value of everything committed in a topic."""
        count = (await self.client.partition_counts([topic])).get(topic, 0)
        reader = self.client.log_reader()
        await reader.assign({(topic, partition): 0 for partition in range(count)})
        found: list[tuple[bytes | None, bytes | None]] = []
        while batches := await reader.read(20):
            for batch in batches:
                found += zip(batch.keys, batch.values, strict=True)
        await reader.close()
        return found

    async def compacted(self, topic: str) -> dict[bytes | None, bytes]:
        """What compaction leaves of a topic."""
        newest = dict(await self.read(topic))
        return {key: value for key, value in newest.items() if value is not None}

    async def close(self) -> None:
        await self.engine.stop()
        await self.client.stop()


def _plain(key: Any) -> Any:
    return orjson.dumps(key).decode() if isinstance(key, list | dict) else key


def raw(value: Any) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else orjson.dumps(value)


def event(at_ms: int = 0, kind: str = "click", **data: Any) -> dict[str, Any]:
    """``at_ms`` counts from `T0_MS`."""
    return {"id": "1", "type": kind, "timestamp": T0_MS + at_ms, "data": data}


def events(times_ms: Iterable[int], **data: Any) -> list[dict[str, Any]]:
    return [event(at_ms, **data) for at_ms in times_ms]
