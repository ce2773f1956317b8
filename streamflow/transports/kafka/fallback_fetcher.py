"""Reading by aiokafka's public methods: for a version whose inside `fetcher` does not know.

Slower, and a moved end without a record is seen only when a wait has run out; otherwise the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition as KafkaPartition

from streamflow.clock import Clock
from streamflow.transports.base import Batch
from streamflow.transports.kafka.connection import meaning

log = logging.getLogger(__name__)


class FallbackFetcher:
    """What `ColumnFetcher` offers to the driver, on a consumer as aiokafka ships it."""

    def __init__(self, consumer: Any, clock: Clock) -> None:
        self._consumer = consumer
        self._clock = clock
        # partition -> (next offset, end offset) as last reported
        self._reported: dict[KafkaPartition, tuple[int, int]] = {}
        self._insists = False
        self.doubted: dict[KafkaPartition, int] = {}  # as `ColumnFetcher.doubted`, by their length alone
        self._gone: dict[KafkaPartition, int] = {}  # offsets that were passed over, not told yet

    async def batches(self, wait_ms: float) -> list[Batch]:
        """What has been fetched, or an empty list after ``wait_ms``. Raises TransportError."""
        assigned = self._consumer.assignment()
        try:
            found = await self._consumer.getmany(timeout_ms=int(wait_ms))
        except OffsetOutOfRangeError as exc:
            await self._restart_from_earliest(exc.args[0])
            return []
        except KafkaError as exc:
            raise meaning("reading", exc) from exc
        batches = [await self._batch(tp, records) for tp, records in found.items()]
        for tp in assigned & self._consumer.assignment() - found.keys() - self._consumer.paused():
            # What was fetched may have been control records only.
            end_offset = self._consumer.last_stable_offset(tp)
            if end_offset is None:
                continue
            next_offset = await self._consumer.position(tp)
            if self._reported.get(tp) != (next_offset, end_offset):
                batches.append(await self._batch(tp, ()))
        return batches

    def wake(self) -> None:
        """Nothing to do: paused partitions keep nothing here."""

    def read_only(self, ids: Mapping[str, str]) -> None:
        """As `ColumnFetcher.read_only`; but aiokafka can't fetch by id, so the logs' ends have to tell."""
        self._insists = True
        self.doubted.clear()

    def forget(self, tp: KafkaPartition) -> None:
        """As `ColumnFetcher.forget`."""
        self._reported.pop(tp, None)

    async def _batch(self, tp: KafkaPartition, records: Sequence[Any]) -> Batch:
        next_offset = await self._consumer.position(tp)
        end_offset = self._consumer.last_stable_offset(tp)
        self._reported[tp] = (next_offset, end_offset)
        return Batch(
            tp.topic,
            tp.partition,
            [record.offset for record in records],
            [record.key for record in records],
            [record.value for record in records],
            [record.timestamp for record in records],
            [record.headers for record in records] if any(record.headers for record in records) else None,
            next_offset,
            end_offset,
            self._gone.pop(tp, 0),
        )

    async def _restart_from_earliest(self, offsets: dict[KafkaPartition, int]) -> None:
        earliest = await self._consumer.beginning_offsets(list(offsets))
        ends = await self._consumer.end_offsets(list(offsets))
        for tp, offset in offsets.items():
            if offset > ends[tp] and self._insists:
                self.doubted[tp] = offset
                continue
            if earliest[tp] <= offset <= ends[tp]:
                continue  # a broker that is no longer the leader answered: it is asked again
            log.warning(
                "%s[%d] has no offset %d (any more): reading goes on at its earliest, %d",
                *tp,
                offset,
                earliest[tp],
            )
            self.forget(tp)
            if earliest[tp] > offset:
                self._gone[tp] = earliest[tp] - offset
            self._consumer.seek(tp, earliest[tp])
