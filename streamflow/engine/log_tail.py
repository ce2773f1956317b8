"""Follows the logs that workers write for each other: the progress topic, and shuffle partitions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from streamflow.engine.trouble import Trouble
from streamflow.errors import TransportError
from streamflow.transports.base import Batch, LogReader, TopicPartition

READ_WAIT_MS = 100


class LogTail:
    """One reader over a changing set of partitions; each keeps its position while it is followed.

    ``on_batch`` is told every batch, in order; it must not block. ``trouble`` is told what fails meanwhile.
    """

    def __init__(self, reader: LogReader, on_batch: Callable[[Batch], None], trouble: Trouble) -> None:
        self._trouble = trouble
        self._reader = reader
        self._on_batch = on_batch
        self._positions: dict[TopicPartition, int] = {}
        self._wanted: dict[TopicPartition, int] = {}
        self._changed = False
        self._moved = asyncio.Event()

    def follow(self, partitions: Iterable[TopicPartition]) -> None:
        """Begins to follow these from the beginning."""
        self._wanted.update(dict.fromkeys(partitions, 0))
        self._changed = True

    def leave(self, partitions: Iterable[TopicPartition]) -> None:
        for at in partitions:
            self._wanted.pop(at, None)
            self._positions.pop(at, None)
        self._changed = True

    def position(self, at: TopicPartition) -> int:
        """Next offset to be read of a followed partition."""
        return self._positions.get(at, 0)

    async def passed(self, ends: dict[TopicPartition, int]) -> None:
        """Returns when every one of these followed partitions has been read to its end offset."""
        while any(self.position(at) < end for at, end in ends.items()):
            self._moved.clear()
            await self._moved.wait()

    async def close(self) -> None:
        """Closes the reader; `run` must have ended."""
        await self._reader.close()

    async def run(self) -> None:
        """Reads until cancelled; what a retry may cure is tried again."""
        while True:
            try:
                await self._read_once()
                self._trouble.worked()
            except TransportError as exc:
                self._trouble.failed(exc)
                self._changed = True  # it may have been the assigning that failed
                await asyncio.sleep(READ_WAIT_MS / 1_000)

    async def _read_once(self) -> None:
        if self._changed:
            self._changed = False
            self._positions = {at: self._positions.get(at, start) for at, start in self._wanted.items()}
            await self._reader.assign(dict(self._positions))
        if not self._wanted:
            await asyncio.sleep(READ_WAIT_MS / 1_000)
            return
        batches = await self._reader.read(READ_WAIT_MS)
        if self._changed:
            # Some of these may be of partitions that were left and taken up again: read them anew.
            batches = [batch for batch in batches if (batch.topic, batch.partition) in self._positions]
        for batch in batches:
            self._positions[batch.topic, batch.partition] = batch.next_offset
            self._on_batch(batch)
        if batches:
            self._moved.set()
