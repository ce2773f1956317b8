"""Record values <-> events, a column at a time.

The usual way is a `map` of a compiled decoder over the column. What it refuses is looked at on its
own, and the map goes on behind it, so a good value pays nothing for a bad one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import orjson

from streamflow.clock import EPOCH
from streamflow.codecs import model_paths
from streamflow.codecs.canonical import trimmed
from streamflow.codecs.event import Event
from streamflow.codecs.events import encode_event, loose_decoder, ms_decoder
from streamflow.codecs.fields import time_ms, times_ms_column
from streamflow.codecs.projections import ProjectionCodec
from streamflow.codecs.reasons import Bad, are_utf8, check_utf8, decode_error, number
from streamflow.codecs.times import TimeField, numbers_as_ms
from streamflow.errors import ConfigurationError, DecodeError
from streamflow.transports.base import Batch

Decode = Callable[[bytes], Any]
Column = tuple[list[Any], list[int], list[Bad]]
"""(events, event times in ms, what could not be read); a bad event is None and its time says nothing."""

VALUE_BYTES_MAX = 1_048_576
EVENT_READS_MS = (
    "an Event reads whole numbers in `timestamp` as milliseconds; where they have another unit, declare a "
    "msgspec.Struct with `timestamp: int` as the topic's value_type"
)
_UNTYPED = (None, object, Any)
_NULLABLE = (None, object, Any, dict, bytes, str, int, float)
_WHOLE = (None, object, Any, dict, bytes, str, int, float)
_encoder = msgspec.json.Encoder(decimal_format="number")


class ValueCodec:
    """The values of a topic, by their model: an Event, a Struct, anything msgspec knows, a Record.

    None is JSON of any shape, str UTF-8 text, bytes raw. ``time_field`` is the model's field of the
    event time, or ``None``: the record's own timestamp counts. A null value is bad input for a model
    only; a `TimeField` there says its unit. Raises ConfigurationError for a type that can't be decoded.
    """

    def __init__(
        self,
        value_type: object = None,
        *,
        value_bytes_max: int = VALUE_BYTES_MAX,
        make: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        self.value_type: Any = value_type
        self._make = make
        self.value_bytes_max = value_bytes_max
        self.name = "json" if value_type is None else str(getattr(value_type, "__name__", value_type))
        self.is_event = isinstance(value_type, type) and issubclass(value_type, Event)
        self.time_field: str | None = None
        self.time_unit = "ms"
        self._take_time_field(getattr(value_type, "time_field", None))
        self._nullable = value_type in _NULLABLE
        # What msgspec skips over it does not check for UTF-8; a decoder of everything skips nothing.
        self._skips = value_type not in _WHOLE and value_type is not Event
        # The first one is tried on whole columns, and may change; the last one's errors count.
        self._decoders = self._make_decoders()
        self._first = self._decoders[0]

    def _take_time_field(self, declared: str | TimeField | None) -> None:
        if isinstance(declared, TimeField):
            if self.is_event and declared.unit != "ms":
                raise ConfigurationError(f"{self.name}.time_field: {EVENT_READS_MS}")
            self.time_field, self.time_unit = declared.path, declared.unit
        else:
            self.time_field = declared

    def allow_null(self) -> None:
        """From now on a null value is an event for a model too: ``None``."""
        self._nullable = True

    def _make_decoders(self) -> list[Decode]:
        kind = self.value_type
        if kind is bytes:
            return [bytes]
        if kind is str:
            return [_text]
        if hasattr(kind, "from_data") and not hasattr(kind, "__struct_fields__"):
            self._skips = False
            return [self._decode_record]
        try:
            if kind in _UNTYPED:
                return [msgspec.json.Decoder().decode, msgspec.json.Decoder(float_hook=number).decode]
            strict = msgspec.json.Decoder(kind).decode
            if self.is_event:
                return [strict, ms_decoder(kind), loose_decoder(kind), loose_decoder(kind, number)]
            return [strict, msgspec.json.Decoder(kind, float_hook=number).decode]
        except TypeError as exc:
            raise ConfigurationError(f"value_type {kind!r} can't be decoded: {exc}") from exc

    def _decode_record(self, raw: bytes) -> Any:
        """A Record of Faust's: anything that is made from a dict by its ``from_data``."""
        data = _decode_any(raw)
        if not isinstance(data, dict):
            raise DecodeError("wrong-type", f"Expected `object` for {self.name}, got {type(data).__name__}")
        if self._make is not None:
            return self._make(data)
        if hasattr(self.value_type, "_blessed_key"):
            # The data may name another model; one that is not known here does not matter then.
            return self.value_type.from_data(data, preferred_type=self.value_type)
        return self.value_type.from_data(data)

    def decode(self, raw: bytes | None) -> Any:
        """One value. Raises DecodeError."""
        return self._decode_by(raw, {})

    def _decode_by(self, raw: bytes | None, taken: dict[Decode, int]) -> Any:
        """One value by the first decoder that takes it, which is counted."""
        if not self.check(raw):
            return None
        assert raw is not None
        for decode in self._decoders:
            try:
                event = decode(raw)
            except Exception as exc:  # a model's own code may raise anything
                # Broken JSON is broken for every decoder.
                if decode is self._decoders[-1] or not isinstance(exc, msgspec.ValidationError):
                    raise self.error(exc) from exc
                continue
            taken[decode] = taken.get(decode, 0) + 1
            return event
        raise AssertionError("no decoder")

    def check(self, raw: bytes | None) -> bool:
        """Is there a value to decode, in what can be told without decoding? Raises DecodeError."""
        if raw is None:
            if self._nullable:
                return False
            raise DecodeError("null-value", f"the value is null, not {self.name}")
        if len(raw) > self.value_bytes_max:
            raise DecodeError(
                "too-large", f"the value has {len(raw)} bytes, more than {self.value_bytes_max}"
            )
        if self._skips and not raw.isascii():
            check_utf8(raw)
        return True

    def error(self, exc: BaseException) -> DecodeError:
        """What is wrong with a value whose decoding raised this."""
        return decode_error(exc, event=self.is_event, time_field=self.time_field)

    def decode_column(self, values: Sequence[bytes | None], timestamps_ms: Sequence[int]) -> Column:
        """Every value of a batch; ``timestamps_ms`` are the records' own."""
        events: list[Any] = []
        bad: list[Bad] = []
        if self.plain(values):
            taken: dict[Decode, int] = {}
            rest = iter(values)
            while True:
                try:
                    # HOT PATH. `extend` keeps what came before an exception, and `rest` goes on behind it.
                    events.extend(map(self._first, rest))  # type: ignore[arg-type]  # plain: no null
                    break
                except Exception:  # noqa: BLE001  # a model's own code may raise anything
                    self._one(values[len(events)], events, bad, taken)
            self._choose_decoder(len(values), taken)
        else:
            for value in values:
                self._one(value, events, bad, {})
        return events, self._times(events, timestamps_ms, bad), bad

    def decode_batch(self, batch: Batch) -> Column:
        """`decode_column` of a batch's values; a codec that needs keys or headers too looks further."""
        return self.decode_column(batch.values, batch.timestamps_ms)

    def _one(self, value: bytes | None, events: list[Any], bad: list[Bad], taken: dict[Decode, int]) -> None:
        try:
            events.append(self._decode_by(value, taken))
        except DecodeError as exc:
            bad.append((len(events), exc))
            events.append(None)

    def _choose_decoder(self, count: int, taken: dict[Decode, int]) -> None:
        """Where most values of a column needed another decoder, the next column begins with that one."""
        for decode, times in taken.items():
            if times * 2 > count:
                self._first = decode

    def plain(self, values: Sequence[bytes | None]) -> bool:
        """Does `check` hold for each value of the column, with no null among them?"""
        try:
            if max(map(len, values), default=0) > self.value_bytes_max:  # type: ignore[arg-type]  # null raises
                return False
        except TypeError:
            return False
        return not self._skips or are_utf8(values)  # type: ignore[arg-type]  # no null is left

    def _times(self, events: list[Any], timestamps_ms: Sequence[int], bad: list[Bad]) -> list[int]:
        if self.time_field is None:
            return list(timestamps_ms)
        name = self.time_field
        if bad:
            stamps = [EPOCH if event is None else getattr(event, name) for event in events]
        else:
            stamps = [getattr(event, name) for event in events]
        times, wrong = times_ms_column(numbers_as_ms(stamps, self.time_unit), name)
        bad.extend(wrong)
        return times

    def encode(self, value: object) -> bytes | None:
        """The record value of an event. Raises TypeError for what can't be written."""
        if value is None or isinstance(value, bytes):
            return value
        if isinstance(value, str) and self.value_type is str:
            return value.encode()
        return encode_value(value)

    def lies_in_free_json(self, path: str) -> bool:
        """May a value have this field, or not? False: each has it. Raises ConfigurationError: none can."""
        return model_paths.lies_in_free_json(self.value_type, path)

    def check_readable(self, raw: bytes | None) -> None:
        """Will those who read the topic take this value? Raises DecodeError that says why not."""
        event = self.decode(raw)
        if event is not None and self.time_field is not None:
            time_ms(getattr(event, self.time_field), self.time_field)

    def project(self, paths: Sequence[str]) -> ProjectionCodec | None:
        """Decodes these paths only, or ``None`` where the model can't be taken apart."""
        return ProjectionCodec.of(self, paths)


def encode_value(value: object) -> bytes:
    """JSON of an event: Structs, dicts, and what describes itself by ``to_representation``."""
    if isinstance(value, Event):
        return encode_event(value)
    if hasattr(value, "__struct_fields__"):
        return _encoder.encode(value)
    default = plain_json
    if hasattr(value, "to_representation"):
        value, default = value.to_representation(), _record_json
    try:
        return trimmed(orjson.dumps(value, default=default, option=orjson.OPT_NON_STR_KEYS))
    except TypeError:  # an int beyond 64 bits
        return _encoder.encode(value)


def plain_json(value: object) -> Any:
    """What JSON does not know, as something that it does. Raises TypeError."""
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value)) if value.is_finite() else str(value)
    describe = getattr(value, "__json__", None)  # of Faust's models
    if describe is not None:
        return describe()
    if isinstance(value, set | frozenset | deque):
        return list(value)
    if isinstance(value, bytes):
        raise TypeError("bytes can't be written as JSON")
    return msgspec.to_builtins(value, builtin_types=(datetime,))


def _record_json(value: object) -> Any:
    """As Faust writes the fields of a Record: a Decimal keeps its digits as text."""
    if isinstance(value, Decimal):
        return str(value)
    return value.decode() if isinstance(value, bytes) else plain_json(value)


def _text(raw: bytes) -> str:
    return str(raw, "utf-8")


_decode_any = msgspec.json.Decoder(float_hook=number).decode
