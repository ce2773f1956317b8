"""Topics whose messages go through the engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import faust

from streamflow.codecs import KeyCodec, ValueCodec
from streamflow.dispatch import Source
from streamflow.errors import ConfigurationError
from streamflow.transports.base import Headers, Record

if TYPE_CHECKING:
    from streamflow.app import App
    from streamflow.faust_adapters.sending import Acknowledgement, Sender

_JSON = (None, "json")


class Topic(faust.Topic):
    """A faust.Topic that is read by agents and aggregates, and sends through the engine."""

    def source(self) -> Source:
        """The topic as the engine reads it. Raises ConfigurationError for what it can't read."""
        if self.pattern is not None or len(self.topics) != 1:
            raise ConfigurationError(f"topic {self}: an agent reads exactly one topic, by its name")
        return Source(self.topics[0], self.key_codec, self.value_codec, self.partitions)

    @cached_property
    def key_codec(self) -> KeyCodec:
        serializer = self.schema.key_serializer
        if serializer == "json":
            return KeyCodec(object if self.key_type in (None, str) else self.key_type)
        if serializer not in (None, "raw"):
            raise ConfigurationError(f"topic {self}: key_serializer {serializer!r} can't be read by an agent")
        return KeyCodec(self.key_type)

    @cached_property
    def value_codec(self) -> ValueCodec:
        serializer, kind = self.schema.value_serializer, self.value_type
        limit = cast("App", self.app).engine_settings.value_bytes_max
        if serializer == "raw":
            return ValueCodec(bytes if kind is None else kind, value_bytes_max=limit)
        if serializer not in _JSON:
            raise ConfigurationError(
                f"topic {self}: value_serializer {serializer!r} can't be read by an agent"
            )
        return ValueCodec(kind, value_bytes_max=limit)

    def _bytes(
        self, key: Any, value: Any, headers: Any, key_serializer: Any, value_serializer: Any, schema: Any
    ) -> tuple[bytes | None, bytes | None, Headers]:
        """What goes on the wire: by the topic's types, unless the call says otherwise."""
        if key_serializer is None and value_serializer is None and schema is None:
            return self.key_codec.encode(key), self.value_codec.encode(value), wire_headers(headers)
        opened = self.prepare_headers(headers)
        raw_key, opened = self.prepare_key(key, key_serializer, schema, opened)
        raw_value, opened = self.prepare_value(value, value_serializer, schema, opened)
        return raw_key, raw_value, wire_headers(opened)

    async def send(
        self,
        *,
        key: Any = None,
        value: Any = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: Any = None,
        schema: Any = None,
        key_serializer: Any = None,
        value_serializer: Any = None,
        callback: Callable[[Any], Any] | None = None,
        force: bool = False,
    ) -> Awaitable[Any]:
        """Sends one message; returns what can be awaited for its acknowledgement.

        From inside an event it is part of that event's checkpoint, otherwise it goes at once.
        ``timestamp`` is in epoch seconds. Raises RecordTooLarge, and TypeError for what can't be written.
        """
        sender = await cast("App", self.app).sender()
        name = self.get_topic_name()
        if not sender.knows(name):
            await sender.learn(name, self.partitions)
        serializers = {
            "schema": schema,
            "key_serializer": key_serializer,
            "value_serializer": value_serializer,
        }
        record = self._record(sender, key, value, (partition, timestamp, headers), serializers)
        told = await sender.send(record)
        if callback is not None:
            told.add_done_callback(callback)
        return told

    def send_soon(  # type: ignore[override]  # likewise
        self,
        *,
        key: Any = None,
        value: Any = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: Any = None,
        callback: Callable[[Any], Any] | None = None,
        **serializers: Any,
    ) -> Acknowledgement:
        """`send` for functions that are not async, in a worker that runs.

        Raises ConfigurationError for a topic that the app has not declared.
        """
        sender = cast("App", self.app).sender_now()
        told = sender.send_soon(
            self._record(sender, key, value, (partition, timestamp, headers), serializers)
        )
        if callback is not None:
            told.add_done_callback(callback)
        return told

    def _record(
        self,
        sender: Sender,
        key: Any,
        value: Any,
        place: tuple[Any, Any, Any],
        serializers: Mapping[str, Any],
    ) -> Record:
        """Serialises and places one message, now. ``place`` is partition, epoch seconds and headers."""
        partition, timestamp, headers = place
        raw_key, raw_value, pairs = self._bytes(
            key,
            value,
            headers,
            serializers.get("key_serializer"),
            serializers.get("value_serializer"),
            serializers.get("schema"),
        )
        stamp_ms = None if timestamp is None else int(timestamp * 1_000)
        return sender.record(self.get_topic_name(), partition, raw_key, raw_value, pairs, stamp_ms)

    async def declare(self) -> None:
        """Creates the topic where it is missing."""
        sender = await cast("App", self.app).sender()
        for name in self.topics:
            await sender.learn(name, self.partitions)

    def __aiter__(self) -> Any:
        raise ConfigurationError(
            f"topic {self} can be read by agents and aggregates; streams of their own, group_by and through "
            "are not on this engine yet"
        )


def wire_headers(headers: Any) -> Headers:
    """Headers as pairs of text and bytes."""
    if not headers:
        return ()
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return tuple((name, value.encode() if isinstance(value, str) else value) for name, value in pairs)
