"""Topics whose messages go through the engine."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, TypedDict, Unpack, cast

import faust
from faust.serializers import Schema
from faust.types import ModelT, SchemaT
from faust.types.codecs import CodecArg
from faust.types.core import HeadersArg
from mode import want_seconds

from streamflow.app.interface import AppT, ProducerT
from streamflow.app.topics.producer import Acknowledgement
from streamflow.app.topics.records import record_maker
from streamflow.app.topics.serializers import (
    JsonTextCodec,
    RawCodec,
    SchemaKeyCodec,
    SchemaValueCodec,
    SelfDescribingCodec,
)
from streamflow.codecs import KeyCodec, ValueCodec
from streamflow.codecs.versions import VersionedCodec, version_header, with_version
from streamflow.engine.decoding import TopicSource
from streamflow.errors import ConfigurationError, DecodeError
from streamflow.transports.base import Headers, Record

# What our own codecs read and write; everything else is Faust's to do.
_KEYS = (None, "raw", "json")
_VALUES = (None, "raw", "json")
_RAW = (None, bytes, str)


class Serializers(TypedDict, total=False):
    """What a call says of the wire form, in place of the topic."""

    schema: SchemaT[Any, Any] | None
    key_serializer: CodecArg
    value_serializer: CodecArg
    force: bool
    eager_partitioning: bool


class Topic(faust.Topic):
    """A faust.Topic that is read by agents and aggregates, and sends through the engine."""

    app: AppT

    def source(self) -> TopicSource:
        """The topic as the engine reads it. Raises ConfigurationError for what it can't read."""
        if self.pattern is not None or len(self.topics) != 1:
            raise ConfigurationError(f"topic {self}: this needs exactly one topic, by its name")
        return self.sources()[0]

    def sources(self) -> list[TopicSource]:
        """Each of the topics that it stands for. Raises ConfigurationError where there is none."""
        names = list(self.topics or ())
        if self.pattern is not None:
            declared = {name for topic in self.app.declared_topics for name in topic.topics or ()}
            names = sorted(name for name in declared if re.match(self.pattern, name))
        if not names:
            raise ConfigurationError(f"topic {self}: there is no such topic")
        return [TopicSource(name, self.key_codec, self.value_codec, self.partitions) for name in names]

    @property
    def plain_schema(self) -> bool:
        """Is the schema Faust's own, without a user's code in it?"""
        return type(self.schema) is Schema

    @cached_property
    def key_codec(self) -> KeyCodec:
        serializer = self.schema.key_serializer or self.app.conf.key_serializer
        if self.plain_schema and serializer in _KEYS:
            if serializer == "json":
                return KeyCodec(object if self.key_type in (None, str) else self.key_type)
            return KeyCodec(self.key_type)
        return SchemaKeyCodec(self.app, self.schema)

    @cached_property
    def value_codec(self) -> ValueCodec:
        serializer, kind = self.schema.value_serializer or self.app.conf.value_serializer, self.value_type
        limit = self.app.engine_settings.value_bytes_max
        codec: ValueCodec
        if not self.plain_schema or serializer not in _VALUES:
            return SchemaValueCodec(self.app, self.schema, value_bytes_max=limit)
        if serializer == "raw":
            if kind not in _RAW:
                return SchemaValueCodec(self.app, self.schema, value_bytes_max=limit)
            codec = RawCodec(bytes if kind is None else kind, value_bytes_max=limit)
        elif kind is str:
            codec = JsonTextCodec(value_bytes_max=limit)
        elif kind is None:
            codec = SelfDescribingCodec(value_bytes_max=limit)
        else:
            make = record_maker(cast("type[ModelT]", kind)) if hasattr(kind, "_blessed_key") else None
            codec_type = VersionedCodec if getattr(kind, "schema_version", 1) > 1 else ValueCodec
            codec = codec_type(kind, value_bytes_max=limit, make=make)
        if self.schema.allow_empty:
            codec.allow_null()
        return codec

    @cached_property
    def _typed(self) -> bool:
        """Does the topic say what its values are, so that one that is sent can be held against it?"""
        return self.plain_schema and self.value_type not in (None, object, Any, bytes, str)

    @cached_property
    def _trusted(self) -> type | None:
        """A Record of Faust's that checks its own fields."""
        kind: Any = self.value_type
        return kind if hasattr(kind, "_blessed_key") and kind._options.validation else None

    def check_readable(self, raw: bytes) -> None:
        """Raises TypeError for a value that those who read the topic would set aside."""
        try:
            self.value_codec.check_readable(raw)
        except DecodeError as exc:
            kind = getattr(self.value_type, "__name__", self.value_type)
            why = f"its readers would set this value aside, it is no {kind}: {exc}"
            raise TypeError(f"topic {self.get_topic_name()!r}: {why}") from exc

    @property
    def version_headers(self) -> dict[str, bytes]:
        """What says that a value is of the version that the topic's model has; for values sent as bytes."""
        version = getattr(self.value_type, "schema_version", 1)
        return dict([version_header(version)]) if version > 1 else {}

    def read_keys_as(self, kind: type) -> None:
        """Keys are of this type, though the topic was declared without it."""
        self.key_codec = type(self.key_codec)(kind)

    def partitions_by_default(self, count: int | None) -> None:
        """How many it gets where it was declared without a number."""
        if self.partitions is None:
            self.partitions = count

    def _bytes(
        self, key: object, value: object, headers: HeadersArg, serializers: Serializers
    ) -> tuple[bytes | None, bytes | None, Headers]:
        """What goes on the wire: by the topic's types, unless the call says otherwise."""
        told = any(given is not None for given in serializers.values())
        if self.plain_schema and not told and not _has_serializer(key) and not _has_serializer(value):
            raw = self.value_codec.encode(value)
            if raw is not None and raw is not value and self._typed and type(value) is not self._trusted:
                self.check_readable(raw)
            return self.key_codec.encode(key), raw, with_version(wire_headers(headers), value)
        schema = serializers.get("schema")
        opened = self.prepare_headers(headers)
        raw_key, opened = self.prepare_key(key, serializers.get("key_serializer"), schema, opened)
        if raw_key is not None and not isinstance(raw_key, bytes):
            raw_key = self.key_codec.encode(raw_key)  # Faust leaves a key without type or serializer as it is
        raw_value, opened = self.prepare_value(value, serializers.get("value_serializer"), schema, opened)
        return raw_key, raw_value, wire_headers(opened)

    async def send(
        self,
        *,
        key: object = None,
        value: object = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
        schema: SchemaT[Any, Any] | None = None,
        key_serializer: CodecArg = None,
        value_serializer: CodecArg = None,
        callback: Callable[[Any], Any] | None = None,
        force: bool = False,
    ) -> Awaitable[Any]:
        """Sends one message; returns what can be awaited for its acknowledgement.

        From inside an event it is part of that event's checkpoint, otherwise it goes at once. ``force``:
        at once from inside an event too, where the guarantee is not exactly_once.
        ``timestamp`` is in epoch seconds. Raises RecordTooLarge, and TypeError for what can't be written and
        for a value that the topic's readers would set aside; bytes go out as they are.
        """
        app = self.app
        producer = await app.record_producer()
        await self._known(producer, self.get_topic_name())
        serializers: Serializers = {
            "schema": schema,
            "key_serializer": key_serializer,
            "value_serializer": value_serializer,
        }
        record = self._record(producer, key, value, (partition, timestamp, headers), serializers)
        told = await producer.send(record, at_once=force and not app.exactly_once)
        app.note_sent(record, told)
        if callback is not None:
            told.add_done_callback(callback)
        return told

    def send_soon(  # type: ignore[override]  # likewise
        self,
        *,
        key: object = None,
        value: object = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
        callback: Callable[[Any], Any] | None = None,
        **serializers: Unpack[Serializers],
    ) -> Acknowledgement:
        """`send` for functions that are not async, in a worker that runs.

        Raises ConfigurationError for a topic that the app has not declared.
        """
        app = self.app
        producer = app.record_producer_now()
        record = self._record(producer, key, value, (partition, timestamp, headers), serializers)
        told = producer.send_soon(record)
        app.note_sent(record, told)
        if callback is not None:
            told.add_done_callback(callback)
        return told

    def _record(
        self,
        producer: ProducerT,
        key: object,
        value: object,
        place: tuple[int | None, float | None, HeadersArg],
        serializers: Serializers,
    ) -> Record:
        """Serialises and places one message, now. ``place`` is partition, epoch seconds and headers."""
        partition, timestamp, headers = place
        raw_key, raw_value, pairs = self._bytes(key, value, headers, serializers)
        signal: Any = self.app.on_produce_message
        if signal._receivers or signal._filter_receivers:
            opened = list(pairs)  # those who are told may add headers
            signal.send(
                key=raw_key, value=raw_value, partition=partition, timestamp=timestamp, headers=opened
            )
            pairs = wire_headers(opened)
        stamp_ms = self.app.send_stamp_ms() if timestamp is None else int(timestamp * 1_000)
        return producer.record(self.get_topic_name(), partition, raw_key, raw_value, pairs, stamp_ms)

    def placed(
        self,
        producer: ProducerT,
        key: object,
        value: object,
        place: tuple[int | None, int | None, Iterable[tuple[str, str | None]]],
    ) -> Record:
        """What `send` would send, checked as there. ``place``: partition, epoch milliseconds, headers."""
        partition, stamp_ms, headers = place
        pairs = cast("HeadersArg", wire_headers(headers))
        record = self._record(producer, key, value, (partition, None, pairs), {})
        return record if stamp_ms is None else record._replace(timestamp_ms=stamp_ms)

    async def ensure_known(self, producer: ProducerT) -> None:
        """Its partitions are known afterwards."""
        await self._known(producer, self.get_topic_name())

    async def declare(self) -> None:
        """Creates the topic where it is missing."""
        producer = await self.app.record_producer()
        for name in self.topics:
            await self._known(producer, name, declared=True)

    async def _known(self, producer: ProducerT, name: str, *, declared: bool = False) -> None:
        if not producer.knows(name):
            await producer.learn(
                name,
                self.partitions,
                compacted=bool(self.compacting),
                retention_s=self.retention_s,
                copies=self.replicas or 0,
                config=self.broker_config,
                declared=declared or any(name in (topic.topics or ()) for topic in self.app.declared_topics),
            )

    @property
    def broker_config(self) -> tuple[tuple[str, str], ...]:
        """``config=`` as a broker takes it."""
        flags = {True: "true", False: "false"}
        return tuple((name, flags.get(value, str(value))) for name, value in (self.config or {}).items())

    @property
    def retention_s(self) -> float | None:
        """How long records are kept where the app creates the topic; ``None``: the broker's default."""
        return None if self.retention is None else float(want_seconds(self.retention))

    def __aiter__(self) -> Any:
        return self.stream().events()


def _has_serializer(value: object) -> bool:
    """Is it a Record that was declared with a serializer of its own?"""
    options = getattr(value, "_options", None)
    return getattr(options, "serializer", None) not in (None, "json")


def wire_headers(
    headers: Mapping[str, bytes | str | None] | Iterable[tuple[str, bytes | str | None]] | None,
) -> Headers:
    """Headers as pairs of text and bytes."""
    if not headers:
        return ()
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return tuple((name, value.encode() if isinstance(value, str) else value) for name, value in pairs)
