"""Reads partitions outside the group: changelogs, shuffles, progress."""

from __future__ import annotations

from collections.abc import Mapping

from streamflow.transports.base import Batch, TopicPartition
from streamflow.transports.redis_streams.connection import Connection
from streamflow.transports.redis_streams.fetcher import Fetcher


class RedisLogReader:
    """A `LogReader` with a connection of its own: one that blocks must keep nobody else waiting."""

    def __init__(self, fetcher: Fetcher, connection: Connection) -> None:
        self._fetcher = fetcher
        self._connection = connection

    async def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._fetcher.drop(list(self._fetcher.at))
        for spot, offset in positions.items():
            self._fetcher.seek(spot, offset)

    async def read(self, wait_ms: int) -> list[Batch]:
        return await self._fetcher.batches(wait_ms)

    async def close(self) -> None:
        self._fetcher.drop(list(self._fetcher.at))
        await self._connection.close()
