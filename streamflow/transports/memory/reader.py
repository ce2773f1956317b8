"""Reads partitions outside the group: changelogs, shuffles, progress."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from streamflow.transports.base import Batch, TopicPartition
from streamflow.transports.memory.broker import MemoryBroker
from streamflow.transports.memory.fetcher import Fetcher
from streamflow.transports.memory.process import Process


class MemoryLogReader:
    """A `LogReader` of one `MemoryTransport`; it dies and stalls with its process."""

    def __init__(self, broker: MemoryBroker, process: Process) -> None:
        self._broker = broker
        self._process = process
        self._fetcher = Fetcher(broker, process.clock)

    async def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._process.check()
        for spot in positions:
            self._broker.log(spot)
        self._fetcher.assign(positions)

    async def read(self, wait_ms: int) -> list[Batch]:
        await asyncio.sleep(0)
        await self._process.operate("read:before")
        return await self._fetcher.batches(wait_ms, partial(self._process.step, "read:before"))

    async def close(self) -> None:
        self._fetcher.assign({})
