"""Topics whose messages go through the engine: with the checkpoint from agents, at once otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, cast

import faust

from streamflow.codecs import KeyCodec, ValueCodec
from streamflow.dispatch import Source
from streamflow.errors import ConfigurationError, RecordTooLarge
from streamflow.hand import CURRENT
from streamflow.transports.base import Record

if TYPE_CHECKING:
    from streamflow.app import App

RECORD_BYTES_MAX = 1_000_000


class Acknowledgement:
    """Told when a record is durable. Awaiting it inside the event that sent it would wait for ever."""

    def __init__(self, future: asyncio.Future[Record]) -> None:
        self._future = future

    def __await__(self) -> Any:
        hand = CURRENT.get()
        if hand is not None and hand.holding and not self._future.done():
            raise RuntimeError(
                "a send's acknowledgement comes with the checkpoint: it can't be awaited inside its own event"
            )
        return self._future.__await__()

    def done(self) -> bool:
        return self._future.done()


class Topic(faust.Topic):
    """A faust.Topic that sends through the engine."""

    def source(self) -> Source:
        """The topic as the engine reads it. Raises ConfigurationError for a pattern or several names."""
        if self.pattern is not None or len(self.topics) != 1:
            raise ConfigurationError(f"{self!r}: an agent reads exactly one topic by name")
        return Source(self.topics[0], KeyCodec(self.key_type), ValueCodec(self.value_type), self.partitions)

    async def send(
        self,
        *,
        key: Any = None,
        value: Any = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: Any = None,
        **_: Any,
    ) -> Awaitable[Any]:
        """Sends one message; returns what can be awaited for its acknowledgement.

        From inside an agent it is part of the checkpoint. Raises RecordTooLarge, TypeError.
        """
        engine = cast("App", self.app).engine
        name = self.get_topic_name()
        if name not in engine.topics.counts:
            engine.topics.want(name, self.partitions)
            await engine.topics.create(engine.transport)
        raw_key = KeyCodec(self.key_type).encode(key)
        raw_value = ValueCodec(self.value_type).encode(value)
        size = len(raw_key or b"") + len(raw_value or b"")
        if size > RECORD_BYTES_MAX:
            raise RecordTooLarge(f"a record of {size} bytes for topic {name!r}: at most {RECORD_BYTES_MAX}")
        if partition is None:
            partition = engine.topics.place(name, raw_key)
        stamp_ms = None if timestamp is None else int(timestamp * 1_000)
        record = Record(name, partition, raw_key, raw_value, _headers(headers), stamp_ms)
        return Acknowledgement(await engine.send(record))


def _headers(headers: Any) -> tuple[tuple[str, bytes], ...]:
    if not headers:
        return ()
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return tuple((name, value.encode() if isinstance(value, str) else value) for name, value in pairs)
