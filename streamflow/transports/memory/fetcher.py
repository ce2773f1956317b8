"""Reads partitions of the broker's logs from where each of them stands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from streamflow.clock import Clock
from streamflow.errors import TopicRecreated
from streamflow.transports.base import Batch, TopicPartition
from streamflow.transports.memory.broker import MemoryBroker

FETCH_RECORDS_MAX = 5_000  # of one partition in one batch


class Fetcher:
    """A set of partitions with a position in each. ``at`` is partition -> next offset."""

    def __init__(self, broker: MemoryBroker, clock: Clock) -> None:
        self.at: dict[TopicPartition, int] = {}
        self._broker = broker
        self._clock = clock
        self._changed = asyncio.Event()
        self._ids: dict[str, str] = {}

    def read_only(self, ids: Mapping[str, str]) -> None:
        """From now on takes these topics only while they have these ids."""
        self._ids.update(ids)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Reads this partition from now on, from there."""
        self.at[partition] = offset
        self._changed.set()

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Reads these no more."""
        for partition in partitions:
            self.at.pop(partition, None)

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Reads exactly these from now on."""
        self.at = dict(positions)
        self._changed.set()

    def wake(self) -> None:
        """Looks again, whatever for."""
        self._changed.set()

    async def batches(self, wait_ms: float, step: Callable[[], Awaitable[None]]) -> list[Batch]:
        """What has come, or an empty list after ``wait_ms``. ``step``: awaited before each further look."""
        deadline_ms = self._clock.monotonic_ms() + wait_ms
        while True:
            # INVARIANT: nothing is awaited between taking and returning, so that what a fetch took is
            # neither lost when it is cancelled nor handed out after a revoke.
            batches = self._take()
            left_ms = deadline_ms - self._clock.monotonic_ms()
            if batches or left_ms <= 0:
                return batches
            await self._moved(left_ms)
            await step()

    def _take(self) -> list[Batch]:
        """What has come since; moves the positions."""
        for topic, topic_id in self._ids.items():
            now = self._broker.topic_id(topic)
            if now is not None and now != topic_id and any(spot[0] == topic for spot in self.at):
                raise TopicRecreated(
                    f"topic {topic!r} was deleted and made again: its id is {now}, and was {topic_id}"
                )
        faults = self._broker.faults
        batches: list[Batch] = []
        for spot, position in self.at.items():
            limit = FETCH_RECORDS_MAX
            if faults is not None and faults.fetch_records_max is not None:
                limit = faults.random.randint(1, faults.fetch_records_max)
            batch = self._broker.log(spot).read(position, limit)
            if batch is not None:
                batches.append(batch)
        for batch in batches:
            self.at[batch.topic, batch.partition] = batch.next_offset
        return batches

    async def _moved(self, wait_ms: float) -> None:
        """Returns when something may have come, or the positions have changed, or ``wait_ms`` is over."""
        logs = [self._broker.log(spot) for spot in self.at]
        if any(position < log.stable for position, log in zip(self.at.values(), logs, strict=True)):
            return
        self._changed.clear()
        for log in logs:
            log.watch(self._changed)
        timer = asyncio.ensure_future(self._clock.sleep_ms(wait_ms))
        timer.add_done_callback(self._time_over)
        try:
            await self._changed.wait()
        finally:
            timer.cancel()
            for log in logs:
                log.unwatch(self._changed)

    def _time_over(self, timer: asyncio.Task[None]) -> None:
        # Not when it was called off: that would wake the next wait, which calls its own timer off, and so on.
        if not timer.cancelled():
            self._changed.set()
