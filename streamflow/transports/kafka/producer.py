"""An idempotent producer: batches in order, each once, every acknowledgement looked at.

It is our own and not aiokafka's because a checkpoint knows all its records beforehand: no
accumulator, no linger, no background task, and no way for a failed batch to go unnoticed
(aiokafka commits a transaction some of whose batches have failed).

One request is under way for each broker and one batch for each partition, so the order within a
partition is the order given, through any number of retries.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest

from streamflow.clock import Clock
from streamflow.errors import (
    ConfigurationError,
    RecordRefused,
    RecordTooLarge,
    StreamflowError,
    TransportError,
)
from streamflow.transports.base import Record, TopicPartition
from streamflow.transports.kafka import protocol
from streamflow.transports.kafka.connection import Connection, Coordinator, Deadline
from streamflow.transports.kafka.outcomes import Asked, Next, verdict
from streamflow.transports.kafka.record_batches import Building, build
from streamflow.transports.kafka.settings import KafkaSettings

ALL_REPLICAS = -1
NO_TIMEOUT_MS = 2**31 - 1
# Sequence numbers are 31 bits wide and begin again at 0.
SEQUENCE_MASK = 0x7FFFFFFF
REQUEST_BYTES_MAX = 4 << 20


class ProducerFenced(TransportError):
    """A newer life of this producer has begun, or the coordinator gave up its transaction: nothing stays."""


class Refused(TransportError):
    """The broker answered with an error that asking again does not cure. ``code``: the protocol's number."""

    def __init__(self, doing: str, code: int) -> None:
        self.code = code
        super().__init__(f"{doing}: {protocol.error_name(code)}")


@dataclass(frozen=True, slots=True)
class Life:
    """What InitProducerId gave: each call begins a new life and fences the one before."""

    producer_id: int
    epoch: int


def refusal(asked: Asked, doing: str, code: int) -> StreamflowError:
    """ConfigurationError where only somebody's hand can help; else a TransportError."""
    name, row = protocol.error_name(code), verdict(asked, code)
    if row.next is Next.NEW_LIFE:
        return ProducerFenced(f"{doing}: {name}: {row.why}")
    if row.next is Next.STOP:
        return ConfigurationError(f"{doing}: {name}: {row.why}")
    return Refused(doing, code)


@dataclass(slots=True)
class Writing:
    """One call of `Producer.write` on its way.

    Attributes:
        queues: partition -> its batches that are not acknowledged yet, in order.
        refused: index of a record -> why the broker never takes it.
    """

    records: Sequence[Record]
    queues: dict[TopicPartition, deque[Building]]
    done: list[Building] = field(default_factory=list)
    refused: dict[int, RecordRefused] = field(default_factory=dict)

    def take_off(self, batch: Building) -> None:
        queue = self.queues[batch.spot]
        queue.popleft()
        if not queue:
            del self.queues[batch.spot]

    def refuse(self, batch: Building, why: RecordRefused) -> None:
        """A batch of a single record."""
        self.refused[batch.indices[0]] = why
        self.take_off(batch)

    def split(self, batch: Building, halves: Sequence[Sequence[Building]]) -> None:
        """Puts others in the place of a partition's first batch."""
        queue = self.queues[batch.spot]
        queue.popleft()
        for half in reversed(halves):
            queue.extendleft(reversed(half))

    def refuse_topic(self, topic: str, code: int) -> None:
        """All that is left for a topic."""
        self.refused |= denied(self.records, {topic}, code)
        for spot in [spot for spot in self.queues if spot[0] == topic]:
            del self.queues[spot]

    def check(self) -> None:
        """Raises the first refusal, which names the others."""
        if self.refused:
            raise RecordRefused.first_of(self.refused)


def denied(records: Sequence[Record], topics: Container[str], code: int) -> dict[int, RecordRefused]:
    """index -> the refusal, of every record for one of these topics."""
    return {
        index: RecordRefused(f"a record for {record.topic}[{record.partition}]: {protocol.error_name(code)}")
        for index, record in enumerate(records)
        if record.topic in topics
    }


async def begin_life(
    connection: Connection, transactional_id: str | None, transaction_timeout_ms: int, deadline: Deadline
) -> Life:
    """InitProducerId: fences all older users of the id, and ends what they left open.

    Returns when that transaction is decided. Raises TransportError.
    """
    request = InitProducerIdRequest(
        transactional_id=transactional_id, transaction_timeout_ms=transaction_timeout_ms
    )
    place = None if transactional_id is None else (Coordinator.TRANSACTION, transactional_id)
    answer = await connection.ask_coordinator(place, request, lambda a: (a.error_code,), deadline)
    if answer.error_code != protocol.NONE:
        raise refusal(Asked.INIT, f"InitProducerId for {transactional_id}", answer.error_code)
    return Life(answer.producer_id, answer.producer_epoch)


class Sequences:
    """The sequence number of each partition's next record, in one life of a producer."""

    def __init__(self) -> None:
        self._next: dict[TopicPartition, int] = {}

    def next_of(self, spot: TopicPartition) -> int:
        return self._next.get(spot, 0)

    def advance(self, spot: TopicPartition, count: int) -> None:
        """So many records more are acknowledged."""
        self._next[spot] = (self.next_of(spot) + count) & SEQUENCE_MASK

    def clear(self) -> None:
        """A new life begins at 0 everywhere."""
        self._next.clear()


class Producer:
    """``transactional_id`` None: idempotent only. Not safe for two writes at a time; callers lock."""

    def __init__(
        self, connection: Connection, settings: KafkaSettings, clock: Clock, transactional_id: str | None
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._clock = clock
        self.transactional_id = transactional_id
        self._life: Life | None = None
        self._beginning = asyncio.Lock()
        self._sequences = Sequences()

    @property
    def life(self) -> Life | None:
        """The life that writes now, if there is one."""
        return self._life

    async def ready(self, deadline: Deadline) -> Life:
        """The life that writes now; begins one where there is none. Raises TransportError."""
        async with self._beginning:
            if self._life is None:
                timeout_ms = self._settings.transaction_timeout_ms
                self._life = await begin_life(
                    self._connection,
                    self.transactional_id,
                    timeout_ms if self.transactional_id else NO_TIMEOUT_MS,
                    deadline,
                )
                self._sequences.clear()
            return self._life

    def end_life(self) -> None:
        """The next use begins a new life.

        Called when it is unclear what the broker has of this one: a batch that was given up leaves a
        gap in the sequence, and a late one must find its epoch fenced.
        """
        self._life = None

    async def write(self, records: Sequence[Record], deadline: Deadline) -> list[Building]:
        """Writes the records; returns their batches when each of them is acknowledged.

        Raises RecordRefused, which names all records that were, or TransportError; then some may have been
        written, and the life has ended.
        """
        life = await self.ready(deadline)
        writing = Writing(records, self._build(records, range(len(records))))
        try:
            attempt = 0
            while writing.queues:
                before = len(writing.done) + len(writing.refused)
                await self._round(life, writing, deadline)
                if len(writing.done) + len(writing.refused) == before:
                    await deadline.back_off(attempt)
                    attempt += 1
                deadline.check("waiting for the acknowledgements of the records")
            writing.check()
        except BaseException:
            self.end_life()
            raise
        return writing.done

    def _build(
        self, records: Sequence[Record], indices: Iterable[int]
    ) -> dict[TopicPartition, deque[Building]]:
        return build(
            records,
            indices,
            self._settings.batch_bytes,
            self._clock.now_ms(),
            transactional=self.transactional_id is not None,
        )

    async def _round(self, life: Life, writing: Writing, deadline: Deadline) -> None:
        """Sends the first batch of each partition, and takes those acknowledged off the queues."""
        queues = writing.queues
        leaders = await self._connection.leaders(queues, deadline)
        requests = [
            self._send(node_id, life, [queues[spot][0] for spot in spots], deadline)
            for node_id, spots in leaders.items()
        ]
        # All are awaited even if one fails: no request of ours may be under way when the caller aborts.
        answers = await asyncio.gather(*requests, return_exceptions=True)
        refresh = False
        for answer in answers:
            if isinstance(answer, BaseException):
                if not isinstance(answer, TransportError):
                    raise answer
                refresh = True  # Nobody knows what came of it; the same bytes are sent again.
                continue
            for batch, code, base_offset in answer:
                if batch.spot not in queues:
                    continue  # its topic was refused with another batch
                then = verdict(Asked.PRODUCE, code).next
                if then is Next.GO_ON:
                    self._acknowledged(writing, batch, base_offset)
                elif then is Next.SPLIT:
                    self._split(writing, batch, code)
                elif then is Next.REFUSE_TOPIC:
                    writing.refuse_topic(batch.spot[0], code)
                elif then is Next.FIND_LEADER:
                    refresh = True
                elif then is not Next.ASK_AGAIN:
                    raise refusal(Asked.PRODUCE, f"writing to {batch.spot[0]}[{batch.spot[1]}]", code)
        if refresh:
            await self._connection.refresh(deadline)

    def _acknowledged(self, writing: Writing, batch: Building, base_offset: int) -> None:
        batch.acknowledge(base_offset)
        self._sequences.advance(batch.spot, len(batch))
        writing.take_off(batch)
        writing.done.append(batch)

    def _split(self, writing: Writing, batch: Building, code: int) -> None:
        """Two halves for a batch that the topic does not take; its records may be taken by themselves.

        The broker refuses before it counts: the halves take the same place in the sequence.
        """
        topic, partition = batch.spot
        if len(batch) == 1:
            record = writing.records[batch.indices[0]]
            size = len(record.key or b"") + len(record.value or b"")
            where = f"{topic}[{partition}]"
            writing.refuse(
                batch,
                RecordTooLarge(f"a record of {size} bytes is too large for {where}")
                if code in protocol.TOO_LARGE
                else RecordRefused(f"a record of {size} bytes for {where}: {protocol.error_name(code)}"),
            )
            return
        middle = len(batch) // 2
        halves = (batch.indices[:middle], batch.indices[middle:])
        writing.split(batch, [self._build(writing.records, half)[batch.spot] for half in halves])

    async def _send(
        self, node_id: int, life: Life, ready: list[Building], deadline: Deadline
    ) -> list[tuple[Building, int, int]]:
        """One request; (batch, error code, base offset) for each batch that the broker answered."""
        sent: dict[TopicPartition, Building] = {}
        topics: dict[str, list[tuple[int, bytes]]] = {}
        size_bytes = 0
        for batch in ready:
            data = batch.seal(life.producer_id, life.epoch, self._sequences.next_of(batch.spot))
            size_bytes += len(data)
            if sent and size_bytes > REQUEST_BYTES_MAX:
                break  # The next round sends the rest.
            sent[batch.spot] = batch
            topics.setdefault(batch.spot[0], []).append((batch.spot[1], data))
        request = ProduceRequest(
            transactional_id=self.transactional_id,
            required_acks=ALL_REPLICAS,
            timeout=self._settings.request_timeout_ms,
            topics=list(topics.items()),
        )
        answer = await self._connection.ask(node_id, request, deadline)
        return [
            (sent[topic, partition], code, base_offset)
            for topic, rows in answer.topics
            for partition, code, base_offset, *_ in rows
        ]


def ends(written: Iterable[Building]) -> dict[TopicPartition, int]:
    """partition -> the offset behind its last record."""
    found: dict[TopicPartition, int] = {}
    for batch in written:  # within a partition in order
        found[batch.spot] = batch.base_offset + len(batch)
    return found


def offsets(written: Iterable[Building], count: int) -> list[int]:
    """The offset of each of the ``count`` records."""
    found = [-1] * count
    for batch in written:
        for place, index in enumerate(batch.indices):
            found[index] = batch.base_offset + place
    return found


def partition_codes(answer: Any) -> list[int]:
    """Error codes of an answer that lists topics and partitions under ``errors``."""
    return [row[1] for _, rows, *_ in answer.errors for row in rows]
