"""Records to be written, as Kafka's record batches: one builder call per record, nothing else per record."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streamflow.transports.base import Record, TopicPartition

MAGIC = 2
UNCOMPRESSED = 0


class Building:
    """A batch of one partition: open, then sealed with its place in the producer's sequence.

    ``indices``: where its records stand in the records given. ``base_offset``: the broker's answer.
    """

    __slots__ = ("_builder", "_sealed", "base_offset", "indices", "spot")

    def __init__(self, spot: TopicPartition, builder: Any, indices: list[int]) -> None:
        self.spot = spot
        self.indices = indices
        self.base_offset = -1
        self._builder = builder
        self._sealed: bytes | None = None

    def seal(self, producer_id: int, producer_epoch: int, sequence: int) -> bytes:
        """The bytes to send. The same bytes each time: the broker knows a repeated batch by them."""
        if self._sealed is None:
            self._builder.set_producer_state(producer_id, producer_epoch, sequence)
            self._sealed = bytes(self._builder.build())
            self._builder = None
        return self._sealed

    def acknowledge(self, base_offset: int) -> None:
        """The broker has it, from this offset on."""
        self.base_offset = base_offset

    def __len__(self) -> int:
        return len(self.indices)


def build(
    records: Sequence[Record], indices: Iterable[int], batch_bytes: int, now_ms: int, *, transactional: bool
) -> dict[TopicPartition, deque[Building]]:
    """partition -> its batches in order, of the records that ``indices`` name.

    A record larger than ``batch_bytes`` has a batch of its own.
    """
    batches: dict[TopicPartition, deque[Building]] = {}
    # partition -> the builder's append and the indices of the batch that is open
    open_batches: dict[TopicPartition, tuple[Any, list[int]]] = {}
    spot: TopicPartition | None = None
    entry: tuple[Any, list[int]] | None = None
    for index in indices:
        topic, partition, key, value, headers, timestamp_ms = records[index]
        if spot is None or spot[1] != partition or spot[0] != topic:  # mostly as of the record before
            spot = (topic, partition)
            entry = open_batches.get(spot)
        stamp = now_ms if timestamp_ms is None else timestamp_ms
        header_list = list(headers) if headers else []
        if entry is not None:
            append, taken = entry
            if append(len(taken), stamp, key, value, header_list) is not None:
                taken.append(index)
                continue
        builder = DefaultRecordBatchBuilder(
            MAGIC,
            UNCOMPRESSED,
            is_transactional=int(transactional),
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=0,
            batch_size=batch_bytes,
        )
        builder.append(0, stamp, key, value, header_list)
        taken = [index]
        entry = open_batches[spot] = (builder.append, taken)
        batches.setdefault(spot, deque()).append(Building(spot, builder, taken))
    return batches
