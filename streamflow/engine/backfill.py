"""Reads beside the others what a new consumer has still to take of the past, until it has come up to them.

The group's reader goes on where it stands, for all who are not behind. A reader outside the group brings
what lies before to those who are: into their rows and their progress alone, which the same checkpoints make
durable together. What it brings ends where the group's reader has come to, in the very step that gives it
out; there who was behind joins the others. So each record comes to each consumer once, and a kill anywhere
leaves positions that a restart goes on from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from streamflow.clock import Clock
from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.trouble import Trouble
from streamflow.errors import TransportError
from streamflow.transports.base import Batch, LogReader, TopicPartition, Transport

logger = logging.getLogger(__name__)

REST_MS = 100.0
READ_WAIT_MS = 100
FULL_WAIT_MS = 5.0


class Backfill:
    """Runs beside the fetch loop.

    ``current`` is what is held while any of it serves, ``give`` takes a batch for those who are behind in its
    partition, ``room`` is awaited before each: a late commit keeps all waiting.
    """

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        *,
        current: Callable[[], ActiveAssignment | None],
        give: Callable[[Batch, ActiveAssignment], None],
        room: Callable[[], Awaitable[None]],
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._current = current
        self._give = give
        self._room = room
        self._trouble = Trouble(logger, clock, "back-filling fails")
        self._reader: LogReader | None = None
        self._of: ActiveAssignment | None = None
        self._positions: dict[TopicPartition, int] = {}

    async def run(self) -> None:
        """Reads until cancelled; what a retry may cure is tried again."""
        try:
            while True:
                active = self._current()
                if active is None or not active.behind:
                    await self._rest()
                    continue
                try:
                    await self._read_once(active)
                    self._trouble.worked()
                except TransportError as exc:
                    self._trouble.failed(exc)
                    self._positions = {}  # read anew from what was taken
                    await self._clock.sleep_ms(REST_MS)
        finally:
            await self._close()

    async def _rest(self) -> None:
        await self._close()
        await self._clock.sleep_ms(REST_MS)

    async def _close(self) -> None:
        reader, self._reader = self._reader, None
        self._of, self._positions = None, {}
        if reader is not None:
            await reader.close()

    async def _read_once(self, active: ActiveAssignment) -> None:
        if self._reader is None:
            self._reader = self._transport.log_reader()
        if self._of is not active:
            self._of, self._positions = active, {}
        if self._positions.keys() != active.behind.keys():
            # A failure while this waits is told by positions that are empty again.
            wanted = {at: self._positions.get(at, active.behind_from(at)) for at in active.behind}
            await self._reader.assign(wanted)
            self._positions = wanted
        if active.behind_full():
            await self._clock.sleep_ms(FULL_WAIT_MS)
            return
        for batch in await self._reader.read(READ_WAIT_MS):
            await self._room()
            if self._current() is not active:
                return
            at = (batch.topic, batch.partition)
            if at in self._positions:
                self._positions[at] = batch.next_offset
                self._give(batch, active)
            await asyncio.sleep(0)
