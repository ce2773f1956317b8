"""What stands where Faust expects its own transport, consumer and producer: the engine does their work."""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

from faust.transport.base import Transport as FaustTransport
from faust.types.core import HeadersArg
from faust.types.tuples import TP, Message
from mode import Service

from streamflow.app.interface import AppT
from streamflow.app.topics.topic import wire_headers


class MessageOptions(TypedDict, total=False):
    """Where a message goes besides its topic."""

    partition: int | None
    timestamp: float | None
    headers: HeadersArg


class TransportStub(FaustTransport):
    """Nothing is ever sent or read through it."""

    driver_version = "streamflow"


class ProducerStub(Service):
    """Faust's commands stop it when they are done; what is sent through it goes to the engine."""

    def __init__(self, app: AppT) -> None:
        self.app = app
        super().__init__()

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
        **_: object,
    ) -> Any:
        """Sends bytes as they are; what is returned can be awaited for the acknowledgement."""
        producer = await self.app.record_producer()
        if not producer.knows(topic):
            await producer.learn(topic, None)
        stamp_ms = None if timestamp is None else int(timestamp * 1_000)
        record = producer.record(topic, partition, key, value, wire_headers(headers), stamp_ms)
        return await producer.send(record)

    async def send_and_wait(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        **options: Unpack[MessageOptions],
    ) -> Any:
        """`send`, and the acknowledgement. Raises RuntimeError inside an event of an agent."""
        return await (await self.send(topic, key, value, **options))

    async def flush(self) -> None:
        """Returns when what was sent outside of events has been acknowledged."""
        await (await self.app.record_producer()).flush()

    async def on_stop(self) -> None:
        await self.app.disconnect()


class ConsumerStub:
    """What streams of Faust's own (over channels of this process) and users ask a consumer."""

    def __init__(self, app: AppT) -> None:
        self.app = app
        self._unacked_messages: set[Message] = set()
        self.transactions = None

    async def on_task_error(self, exc: BaseException) -> None:
        """An agent over a channel of this process raised; nothing is to be given back."""

    def ack(self, message: Message) -> bool:
        """Channels have nothing to acknowledge."""
        return False

    def track_message(self, message: Message) -> None:
        """Channels have nothing to acknowledge."""

    def assignment(self) -> set[TP]:
        """The source partitions of this worker."""
        engine = self.app.running_engine
        active = None if engine is None else engine.active
        return set() if active is None else {TP(*at) for at in active.source_partitions()}

    def topic_partitions(self, topic: str) -> int | None:
        """How many partitions a topic has, as far as it is known."""
        engine = self.app.running_engine
        return None if engine is None else engine.topology.topics.counts.get(topic)

    def highwater(self, tp: TP) -> int:
        """The last stable offset as of the newest fetch."""
        engine = self.app.running_engine
        ends = {} if engine is None or engine.active is None else engine.active.end_offsets
        return ends.get((tp.topic, tp.partition), 0)

    async def position(self, tp: TP) -> int | None:
        """The least position of this worker's consumers."""
        engine = self.app.running_engine
        offsets = {} if engine is None or engine.active is None else engine.active.offsets()
        return offsets.get((tp.topic, tp.partition))
