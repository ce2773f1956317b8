"""Keeps the tables of other workers' partitions up to date, so that one of them can be taken over at once.

A standby is nothing but a store in the store manager that is read on all the time. It says what the committed
records of its changelog say below its offset, as every store does; so who gets its partition reads on
from there. Nothing here is shown to anybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from streamflow.clock import Clock
from streamflow.engine.trouble import Trouble
from streamflow.errors import TransportError
from streamflow.metrics import Metrics
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.restore import end_of_logs, fill, missing
from streamflow.state.store_manager import StoreManager
from streamflow.transports.base import LogReader, TopicPartition, Transport

logger = logging.getLogger(__name__)

READ_WAIT_MS = 200
RETRY_WAIT_MS = 1_000.0
LOOK_EVERY_MS = 5_000.0
"""How often it is asked how far the logs have come."""

Place = tuple[TableSpec, int]
"""A partition of a table"""
Parts = Mapping[TopicPartition, TablePartition]
"""changelog partition -> what is filled from it"""


class Standbys:
    """One for each engine. `follow` says what is kept up to date from now on; `rest` ends it at once."""

    def __init__(
        self, transport: Transport, store_manager: StoreManager, clock: Clock, metrics: Metrics
    ) -> None:
        self._transport = transport
        self._store_manager = store_manager
        self._clock = clock
        self._metrics = metrics
        self._trouble = Trouble(logger, clock, "standbys can't be kept up to date")
        self._places: Sequence[Place] = ()
        self._changed = asyncio.Event()
        self.parts: Parts = {}
        self.ends: Mapping[TopicPartition, int] = {}  # of their changelogs, as of the last look

    def follow(self, places: Iterable[Place]) -> None:
        """Their stores are nobody else's until `rest`."""
        self._places, self.parts, self.ends = list(places), {}, {}
        self._changed.set()
        self._metrics.standby_partitions.set(len({partition for _, partition in self._places}))

    def rest(self) -> None:
        """From here on nothing is written to a store; what was being read is dropped."""
        self.follow(())

    async def run(self) -> None:
        """Until cancelled; what a retry may cure is tried again. Raises StoreError, ChangelogError."""
        while True:
            self._changed.clear()
            places = self._places
            if not places:
                self._metrics.standby_records_behind.set(0)
                await self._changed.wait()
                continue
            reader = self._transport.log_reader()
            try:
                await self._keep_up(reader, places)
            except TransportError as exc:
                self._trouble.failed(exc)
                await self._clock.sleep_ms(RETRY_WAIT_MS)
            finally:
                await reader.close()

    async def _keep_up(self, reader: LogReader, places: Sequence[Place]) -> None:
        """Returns when others are to be followed."""
        parts: dict[TopicPartition, TablePartition] = {}
        for spec, partition in places:
            parts[spec.changelog, partition] = TablePartition(
                spec, partition, self._store_manager.open(spec, partition)
            )
            # A store on a disk takes its time to open; what serves comes first.
            await asyncio.sleep(0)
            if self._places is not places:
                return
        self.parts = parts
        ends = await end_of_logs(self._transport, parts)
        if self._places is not places:
            return
        for at, part in parts.items():
            if part.store.offset > ends.get(at, 0):
                part.store.clear()  # of a log that is no more: the topic was made anew
        await reader.assign({at: part.store.offset for at, part in parts.items()})
        looked_ms = -LOOK_EVERY_MS
        while self._places is places:
            if self._clock.monotonic_ms() - looked_ms >= LOOK_EVERY_MS:
                await self._look(parts, places)
                looked_ms = self._clock.monotonic_ms()
            for batch in await reader.read(READ_WAIT_MS):
                if self._places is not places:
                    return  # these stores may be somebody else's by now
                part = parts[batch.topic, batch.partition]
                fill(part, batch)
                if batch.next_offset >= batch.end_offset:
                    self._store_manager.mark_fresh([(part.spec.name, part.partition)])
                self._metrics.standby_records_total.inc(len(batch.offsets))
                await asyncio.sleep(0)

    async def _look(self, parts: Parts, places: Sequence[Place]) -> None:
        """Says how far they are behind; those that are not are known to be up to date now."""
        ends = await end_of_logs(self._transport, parts)
        if self._places is not places:
            return
        self._trouble.worked()
        self.ends = ends
        self._metrics.standby_records_behind.set(missing(parts, ends))
        self._store_manager.mark_fresh(
            (part.spec.name, part.partition)
            for at, part in parts.items()
            if part.store.offset >= ends.get(at, 0)
        )
