"""Reads partitions outside the group: changelogs, shuffles, progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiokafka.structs import TopicPartition as KafkaPartition

from streamflow.clock import Clock
from streamflow.transports.base import Batch, TopicPartition
from streamflow.transports.kafka.broker_states import BrokerStates
from streamflow.transports.kafka.fallback_fetcher import FallbackFetcher
from streamflow.transports.kafka.fetcher import ColumnFetcher
from streamflow.transports.kafka.group import new_consumer, start_consumer, stop_consumer
from streamflow.transports.kafka.settings import KafkaSettings


class KafkaLogReader:
    """A consumer of its own without a group; it connects with the first `assign`."""

    def __init__(self, settings: KafkaSettings, clock: Clock, states: BrokerStates) -> None:
        self._settings = settings
        self._clock = clock
        self._states = states
        self._consumer: Any = None
        self._fetcher: ColumnFetcher | FallbackFetcher | None = None
        self._closed = False

    async def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Reads exactly these from now on. Raises TransportError when no broker answers."""
        if self._closed:
            raise RuntimeError("this reader is closed")
        if self._fetcher is None:
            consumer = new_consumer(self._settings, self._clock, self._states, group_id=None)
            self._fetcher = await start_consumer(consumer, self._settings, self._clock)
            self._consumer = consumer
        self._consumer.assign([KafkaPartition(*partition) for partition in positions])
        for partition, offset in positions.items():
            # At once, so that the Fetcher never sees a partition without a position.
            tp = KafkaPartition(*partition)
            self._consumer.seek(tp, offset)
            self._fetcher.forget(tp)
        self._fetcher.wake()

    async def read(self, wait_ms: int) -> list[Batch]:
        """At least one batch, or an empty list after ``wait_ms``. Raises TransportError."""
        if self._fetcher is None or self._closed:
            await self._clock.sleep_ms(wait_ms)
            return []
        return await self._fetcher.batches(wait_ms)

    async def close(self) -> None:
        """Idempotent."""
        self._closed = True
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_consumer(consumer)
