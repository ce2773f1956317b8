"""What is sent: with the checkpoint of the event in flight, or at once outside of one.

Outside of events, sends are gathered while the broker answers those before, so that a loop that sends
does not wait for each; their order is kept.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any

from faust.types.tuples import TP, RecordMetadata

from streamflow.engine.engine import Engine
from streamflow.errors import ConfigurationError, RecordTooLarge, StreamflowError
from streamflow.state.event_context import EventContext, current_context
from streamflow.transports.base import Headers, MayRefuseTopics, Record

logger = logging.getLogger(__name__)

PENDING_MAX = 10_000
BATCH_RECORDS_MAX = 2_000
CLOSE_WAIT_S = 5.0
RECORD_OVERHEAD_BYTES = 96
"""A batch of one record is so much larger than its key, value and headers, at most."""


class Acknowledgement:
    """Told when a record is durable: ``await`` gives its RecordMetadata.

    An offset is known only of what was sent outside of events (else -1).
    """

    __slots__ = ("_context", "_future", "_position", "_record")

    def __init__(self, record: Record, future: asyncio.Future[Any], context: EventContext | None) -> None:
        self._record = record
        self._future = future
        self._context = context
        self._position = -1 if context is None else context.position

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        context = self._context
        if context is not None and context.holds(self._position) and context is current_context.get():
            raise RuntimeError(
                "a send's acknowledgement comes with the checkpoint of its event: awaiting it inside this "
                "event would wait for ever"
            )
        yield from self._future.__await__()
        return self.result()

    def done(self) -> bool:
        return self._future.done()

    def result(self) -> RecordMetadata:
        """Raises asyncio.InvalidStateError while it is not `done`."""
        told = self._future.result()
        record = self._record
        return RecordMetadata(
            topic=record.topic,
            partition=record.partition,
            topic_partition=TP(record.topic, record.partition),
            offset=told if isinstance(told, int) else -1,
            timestamp=None if record.timestamp_ms is None else record.timestamp_ms / 1_000,
            timestamp_type=0,
        )

    def exception(self) -> BaseException | None:
        """Why it failed, or ``None``; a cancelled one (its event was undone) counts as failed."""
        if self._future.cancelled():
            return asyncio.CancelledError()
        return self._future.exception()

    def add_done_callback(self, callback: Callable[[Acknowledgement], Any]) -> None:
        self._future.add_done_callback(lambda _: callback(self))


def _no_such_topic(topic: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(topic, known, 1)
    meant = f" do you mean {near[0]!r}? Else" if near else ""
    return (
        f"there is no topic {topic!r}, and the broker makes none by itself (auto.create.topics.enable):"
        f"{meant} declare it in the app's module (app.topic({topic!r})), say its partitions=, or create it"
    )


def _in_event() -> bool:
    context = current_context.get()
    return context is not None and context.takes_sends


class RecordProducer:
    """Sends records of one app. ``record_bytes_max``: what is larger raises RecordTooLarge."""

    def __init__(self, engine: Engine, record_bytes_max: int, *, declares: bool = True) -> None:
        self._engine = engine
        self._record_bytes_max = record_bytes_max
        self._declares = declares
        self._pending: deque[tuple[Record, asyncio.Future[int]]] = deque()
        self._learning = asyncio.Lock()
        self._room = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    def knows(self, topic: str) -> bool:
        return topic in self._engine.topology.topics.counts

    async def learn(
        self,
        topic: str,
        partitions: int | None,
        *,
        compacted: bool = False,
        retention_s: float | None = None,
        copies: int = 0,
        config: Iterable[tuple[str, str]] = (),
        declared: bool = False,
    ) -> None:
        """Asks the broker for a topic's partitions, and creates it where it is missing.

        One that is merely named, not ``declared`` nor given a number of partitions, may be a slip of the
        hand. It is made where the broker itself would make it; else this raises ConfigurationError.
        """
        async with self._learning:
            topics, transport = self._engine.topology.topics, self._engine.transport
            if topic in topics.counts:
                return
            if not self._declares or not (declared or partitions is not None):
                await topics.look_up(transport, [topic])
                if topic in topics.counts or not self._declares:
                    return
                if isinstance(transport, MayRefuseTopics) and not await transport.creates_topics():
                    raise ConfigurationError(_no_such_topic(topic, topics.counts))
            retention_ms = None if retention_s is None else int(retention_s * 1_000)
            topics.want(
                topic,
                partitions,
                compacted=compacted,
                retention_ms=retention_ms,
                copies=copies,
                config=config,
            )
            await topics.create(transport)

    def record(
        self,
        topic: str,
        partition: int | None,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        timestamp_ms: int | None,
    ) -> Record:
        """Places a record of a topic that is known. Raises RecordTooLarge."""
        size = RECORD_OVERHEAD_BYTES + len(key or b"") + len(value or b"")
        size += sum(len(name) + len(text or b"") + 8 for name, text in headers)
        topics = self._engine.topology.topics
        limit, said_by = self._record_bytes_max, "setting producer_max_request_size"
        if topics.limits.get(topic, limit) < limit:
            limit, said_by = topics.limits[topic], "the topic's max.message.bytes"
        if size > limit:
            raise RecordTooLarge(f"a record of {size} bytes for topic {topic!r}: at most {limit} ({said_by})")
        if partition is None:
            partition = topics.place(topic, key)
        elif not 0 <= partition < topics.partitions(topic):
            raise ConfigurationError(f"topic {topic!r} has no partition {partition}")
        return Record(topic, partition, key, value, headers, timestamp_ms)

    async def send(self, record: Record, *, at_once: bool = False) -> Acknowledgement:
        """Raises StaleEvent on behalf of an event whose partition has gone.

        ``at_once``: also from inside an event, so that the checkpoint has no part in it.
        """
        while len(self._pending) >= PENDING_MAX and (at_once or not _in_event()):
            self._room.clear()
            await self._room.wait()
        return self.send_soon(record, at_once=at_once)

    def send_soon(self, record: Record, *, at_once: bool = False) -> Acknowledgement:
        """`send` that never waits for room."""
        context = current_context.get()
        if context is not None and not at_once and _in_event():
            context.check_send()
            context.sends.append((context.position, record, promise := context.promise()))
            return Acknowledgement(record, promise, context)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending.append((record, future))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="streamflow-send")
        return Acknowledgement(record, future, None)

    async def _write(self) -> None:
        while self._pending:
            count = min(len(self._pending), BATCH_RECORDS_MAX)
            batch = [self._pending.popleft() for _ in range(count)]
            self._room.set()
            try:
                offsets = await self._engine.transport.send([record for record, _ in batch])
            except (StreamflowError, OSError) as exc:
                logger.error("%d records could not be sent: %s", count, exc)
                for _, future in batch:
                    if not future.done():
                        future.set_exception(exc)
                        future.exception()  # told already: who does not await it need not hear it again
                continue
            except asyncio.CancelledError:
                for _, future in batch:
                    future.cancel()
                raise
            for (_, future), offset in zip(batch, offsets, strict=True):
                if not future.done():
                    future.set_result(offset)

    async def flush(self) -> None:
        """Returns when what was sent outside of events has been acknowledged, or has failed."""
        writing = self._writing
        if writing is not None and not writing.done():
            await asyncio.wait({writing})

    async def close(self) -> None:
        """Waits a moment for what is on its way."""
        writing = self._writing
        if writing is not None and not writing.done():
            await asyncio.wait({writing}, timeout=CLOSE_WAIT_S)
            if not writing.done():
                logger.error("%d records were not sent before the stop", len(self._pending))
                writing.cancel()
