"""What keeps streams short: compaction into snapshots, trimming behind the slowest group, retention.

Compaction of a partition goes in rounds. First what was copied a while ago leaves the stream: the mark
says so before it goes, so that no reader misses it. Then all entries up to now are copied into the
snapshot. Between the two lies `compact_delay_ms`, for readers that have scanned the snapshot and not
yet read on. All steps are short scripts, and harmless when two workers do them at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from streamflow.clock import Clock
from streamflow.errors import StreamflowError, TransportError
from streamflow.transports.base import TopicPartition
from streamflow.transports.redis_streams.connection import COMPACT, TRIM, Connection
from streamflow.transports.redis_streams.names import id_before, id_of, offset_of_id
from streamflow.transports.redis_streams.settings import RedisSettings
from streamflow.transports.redis_streams.topics import Topics

log = logging.getLogger(__name__)

COPY_ENTRIES = 250  # of one script
TRIM_ENTRIES = 5_000  # of one command
LOCK_MS = 30_000


class Compaction:
    """``assigned`` says which partitions are ours now; `wrote` which ones we have written to."""

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        settings: RedisSettings,
        clock: Clock,
        assigned: Callable[[], Iterable[TopicPartition]],
    ) -> None:
        self._connection = connection
        self._topics = topics
        self._settings = settings
        self._names = settings.names
        self._clock = clock
        self._assigned = assigned
        self._written: set[TopicPartition] = set()

    def wrote(self, spots: Iterable[TopicPartition]) -> None:
        self._written.update(spot for spot in spots if self._topics.known(spot).compacted)

    async def run(self) -> None:
        """Until cancelled. What fails is tried again: nothing but memory depends on it."""
        while True:
            await self._clock.sleep_ms(self._settings.upkeep_ms)
            try:
                await self.once()
            except TransportError as exc:
                log.warning("Compacting and trimming: %s", exc)
            except StreamflowError:
                log.exception("Compacting and trimming has stopped")
                return

    async def once(self) -> None:
        """Raises TransportError, ConfigurationError."""
        for spot in sorted(self._written):
            await self.compact(spot)
        for spot in sorted(self._assigned()):
            await self.trim(spot)

    async def compact(self, spot: TopicPartition) -> None:
        """One round, where there is enough to do and nobody else is at it."""
        names = self._names
        stream, marks = names.stream(spot), names.marks(spot)
        length, kept, waiting = await self._connection.all(
            [("XLEN", stream), ("HLEN", names.snapshot(spot)), ("HMGET", marks, "copied", "copied_ms")]
        )
        if length <= max(self._settings.compact_records, kept):
            return
        if not await self._connection.one("SET", f"{marks}:lock", 1, "NX", "PX", LOCK_MS):
            return
        now_ms = self._clock.monotonic_ms()
        server_ms = await self._server_ms()
        copied, copied_ms = waiting
        if copied is not None and server_ms - int(copied_ms or 0) >= self._settings.compact_delay_ms:
            await self._cut(spot, copied)
        await self._copy(spot)
        await self._connection.all(
            [("HSET", marks, "copied_ms", await self._server_ms()), ("DEL", f"{marks}:lock")]
        )
        log.debug("Compacted %s in %d ms", stream, self._clock.monotonic_ms() - now_ms)

    async def _cut(self, spot: TopicPartition, copied: bytes) -> None:
        """The stream begins behind what was copied."""
        mark = offset_of_id(copied) + 1
        # Step 1. Say so: from here on nobody relies on what stands before the mark.
        await self._connection.one("HSET", self._names.marks(spot), "trimmed", mark)
        # Step 2. Let it go.
        await self._trim_below(self._names.stream(spot), id_of(mark))

    async def _trim_below(self, stream: str, bound: bytes) -> None:
        while await self._connection.one("XTRIM", stream, "MINID", "~", bound, "LIMIT", TRIM_ENTRIES):
            pass

    async def _copy(self, spot: TopicPartition) -> None:
        names = self._names
        keys = (names.stream(spot), names.snapshot(spot), names.marks(spot), names.tombstones(spot))
        while (
            await self._connection.call(COMPACT, keys, (COPY_ENTRIES, self._settings.tombstone_ms))
            == COPY_ENTRIES
        ):
            # Others want the server too.
            await self._clock.sleep_ms(0)

    async def trim(self, spot: TopicPartition) -> None:
        """An ordinary topic: by its retention, and behind its slowest group if the setting says so."""
        spec = self._topics.known(spot)
        stream = self._names.stream(spot)
        if spec.compacted:
            return
        if spec.retention_ms is not None and spec.retention_ms > 0:
            bound_ms = await self._server_ms() - spec.retention_ms
            await self._trim_below(stream, id_before((bound_ms << 20) + 1))
        if self._settings.trim == "slowest_group":
            while await self._connection.call(TRIM, [stream], (TRIM_ENTRIES, "")):
                pass

    async def _server_ms(self) -> int:
        seconds, microseconds = await self._connection.one("TIME")
        return int(seconds) * 1_000 + int(microseconds) // 1_000
