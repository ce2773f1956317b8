"""Keys and values of topics as Faust writes them: its serializers, schemas and self-describing models.

What our own codecs know goes their in-order path; everything else calls Faust's schema for each message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from faust.exceptions import DecodeError as FaustDecodeError
from faust.models.base import Model
from faust.types import AppT, SchemaT
from faust.types.tuples import Message

from streamflow.codecs import KeyCodec, ValueCodec
from streamflow.codecs.values import Column
from streamflow.errors import DecodeError
from streamflow.transports.base import Batch

_MODEL_NAME = b'"__faust"'
_SENTENCE_MAX = 300


def message_of(batch: Batch, index: int) -> Message:
    """One record of a batch as Faust hands it to a schema."""
    headers: dict[str, Any] = dict(batch.headers[index]) if batch.headers is not None else {}
    place = batch.topic, batch.partition, batch.offsets[index]
    return make_message(place, batch.timestamps_ms[index], headers, batch.keys[index], batch.values[index])


def make_message(
    place: tuple[str, int, int],
    timestamp_ms: int,
    headers: dict[str, bytes],
    key: bytes | None,
    value: bytes | None,
) -> Message:
    """``place`` is topic, partition and offset."""
    topic, partition, offset = place
    made: Message = Message(
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp=timestamp_ms / 1_000,
        timestamp_type=0,
        headers=headers,
        key=key,
        value=value,
        checksum=None,
        serialized_key_size=len(key or b""),
        serialized_value_size=len(value or b""),
    )
    return made


class SelfDescribingCodec(ValueCodec):
    """JSON of any shape; what says by ``__faust`` which model it is becomes that model."""

    def decode(self, raw: bytes | None) -> Any:
        value = super().decode(raw)
        return _modelled(value) if raw is not None and _MODEL_NAME in raw else value

    def decode_column(self, values: Sequence[bytes | None], timestamps_ms: Sequence[int]) -> Column:
        events, times, bad = super().decode_column(values, timestamps_ms)
        for index, raw in enumerate(values):
            if raw is not None and _MODEL_NAME in raw and events[index] is not None:
                try:
                    events[index] = _modelled(events[index])
                except DecodeError as exc:
                    events[index] = None
                    bad.append((index, exc))
        return events, times, bad


def _modelled(value: object) -> Any:
    try:
        return Model._maybe_reconstruct(value)
    except Exception as exc:  # a model's own code may raise anything
        raise DecodeError("wrong-type", _sentence(exc)) from exc


class JsonTextCodec(ValueCodec):
    """Text as Faust writes it: a JSON string. Text that is no JSON is taken as it stands."""

    def __init__(self, *, value_bytes_max: int) -> None:
        super().__init__(str, value_bytes_max=value_bytes_max)
        self.name = "json-str"

    def _make_decoders(self) -> list[Any]:
        return [_json_text]

    def encode(self, value: object) -> bytes | None:
        if isinstance(value, str):
            return msgspec.json.encode(value)
        return super().encode(value)


class RawCodec(ValueCodec):
    """Bytes, or with ``str`` their text; text that is sent goes out as it is."""

    def encode(self, value: object) -> bytes | None:
        return value.encode() if isinstance(value, str) else super().encode(value)


def _json_text(raw: bytes) -> str:
    if raw[:1] == b'"':
        try:
            return _decode_text(raw)
        except msgspec.DecodeError:
            pass
    return str(raw, "utf-8")


_decode_text = msgspec.json.Decoder(str).decode


class SchemaValueCodec(ValueCodec):
    """Values by a schema of Faust's: any serializer, registered codec or class of the user's."""

    def __init__(self, app: AppT, schema: SchemaT[Any, Any], *, value_bytes_max: int) -> None:
        kind = schema.value_type
        self.app = app
        self.schema = schema
        self.value_type = kind
        self.value_bytes_max = value_bytes_max
        self.name = f"{type(schema).__name__}:{schema.value_serializer}:{getattr(kind, '__name__', kind)}"
        self.time_field = None
        self.time_unit = "ms"
        self.is_event = False
        self._nullable = True  # the schema decides
        self._skips = False

    def decode(self, raw: bytes | None) -> Any:
        """One value without a record around it. Raises DecodeError."""
        return self._loads(make_message(("", 0, 0), 0, {}, None, raw))

    def _loads(self, message: Message) -> Any:
        self.check(message.value)
        if message.value is None and self.schema.allow_empty:
            return None
        try:
            return self.schema.loads_value(self.app, message)
        except Exception as exc:  # a codec's or a model's own code may raise anything
            if message.value is None:
                raise DecodeError("null-value", _sentence(exc)) from exc
            raise self.error(exc) from exc

    def error(self, exc: BaseException) -> DecodeError:
        if isinstance(exc, FaustDecodeError) and isinstance(exc.__cause__, DecodeError):
            return exc.__cause__
        return DecodeError("undecodable", _sentence(exc))

    def decode_batch(self, batch: Batch) -> Column:
        events: list[Any] = []
        bad: list[tuple[int, DecodeError]] = []
        for index in range(len(batch.values)):
            try:
                events.append(self._loads(message_of(batch, index)))
            except DecodeError as exc:
                bad.append((index, exc))
                events.append(None)
        return events, list(batch.timestamps_ms), bad

    def encode(self, value: object) -> bytes | None:
        encoded: bytes | None = self.schema.dumps_value(self.app, value, headers={})[0]
        return encoded

    def lies_in_free_json(self, path: str) -> bool:
        """Only the schema knows what it makes of the bytes."""
        return True

    def project(self, paths: Sequence[str]) -> None:
        """Nothing is known about the bytes: they are decoded as a whole."""


class SchemaKeyCodec(KeyCodec):
    """Keys by a schema of Faust's. A key is decoded from its bytes alone, without the record's headers."""

    def __init__(self, app: AppT, schema: SchemaT[Any, Any]) -> None:
        kind = schema.key_type
        self.app = app
        self.schema = schema
        self.key_type = kind
        self.name = f"{type(schema).__name__}:{schema.key_serializer}:{getattr(kind, '__name__', kind)}"
        self.of_json = False  # the schema alone knows what its bytes are
        self._untyped = False
        self._record = False
        self.decode = self._loads

    def _loads(self, raw: bytes | None) -> Any:
        if raw is None:
            return None
        try:
            return self.schema.loads_key(self.app, make_message(("", 0, 0), 0, {}, raw, None))
        except Exception as exc:  # a codec's or a model's own code may raise anything
            raise DecodeError("bad-key", _sentence(exc), field="key") from exc

    def encode(self, key: object) -> bytes | None:
        encoded: bytes | None = self.schema.dumps_key(self.app, key, headers={})[0]
        return encoded


def _sentence(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"[:_SENTENCE_MAX]
