"""Record values <-> events, a column at a time.

The fast road is one list comprehension over a compiled decoder; only when something in the column
is wrong is the column read value by value, so a good column pays nothing for that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import orjson

from streamflow.codecs.fields import datetime_of_ms, times_ms_column
from streamflow.codecs.projections import ProjectionCodec
from streamflow.errors import ConfigurationError, DecodeError
from streamflow.event import Event

Column = tuple[list[Any], list[int], list[tuple[int, DecodeError]]]
"""(events, event times in ms, what could not be read by index); a bad event is None, its time 0."""

VALUE_BYTES_MAX = 1_048_576
_PATH = re.compile(r" - at `\$\.?([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]*)`")


def decode_error(exc: BaseException, *, missing_type: bool = False) -> DecodeError:
    """What an exception of a decoder means: a reason, a sentence, the field."""
    if isinstance(exc, DecodeError):
        return exc
    if not isinstance(exc, msgspec.ValidationError):
        return DecodeError("not-json", f"the value is no JSON: {exc}"[:300])
    text = str(exc)
    found = _PATH.search(text)
    path = found.group(1) if found else ""
    message = _PATH.sub("", text)
    missing = _MISSING.search(text)
    if missing:
        field = f"{path}.{missing.group(1)}" if path else missing.group(1)
        reason = "missing-type" if missing_type and field == "type" else "missing-field"
        return DecodeError(reason, message, field=field)
    reason = "bad-timestamp" if "datetime" in text or "RFC3339" in text else "wrong-type"
    return DecodeError(reason, message, field=path or None)


class ValueCodec:
    """The values of a topic, by their model.

    ``decode`` turns one value into an event and raises what `decode_error` understands. ``time_field``
    is the model's field of the event time, or ``None``: the record's own timestamp counts.
    """

    def __init__(self, value_type: Any = None, *, value_bytes_max: int = VALUE_BYTES_MAX) -> None:
        self.value_type = value_type
        self.value_bytes_max = value_bytes_max
        self.name = "json" if value_type is None else _type_name(value_type)
        self.time_field: str | None = getattr(value_type, "time_field", None)
        self._is_event = isinstance(value_type, type) and issubclass(value_type, Event)
        self._nullable = value_type in (None, dict, bytes, object, Any)
        self._fast, self._slow = self._decoders()

    def _decoders(self) -> tuple[Callable[[bytes], Any], Callable[[bytes], Any]]:
        kind = self.value_type
        if kind in (None, object, Any):
            decode = msgspec.json.Decoder().decode
            return decode, decode
        if kind is bytes:
            return bytes, bytes
        if kind is str:
            return _text, _text
        if hasattr(kind, "from_data") and not hasattr(kind, "__struct_fields__"):
            return self._decode_record, self._decode_record
        try:
            decode = msgspec.json.Decoder(kind).decode
        except TypeError as exc:
            raise ConfigurationError(f"value_type {kind!r} can't be decoded: {exc}") from exc
        if self._is_event:
            return decode, _loose_decoder(kind)
        return decode, decode

    def _decode_record(self, raw: bytes) -> Any:
        """A Record of Faust's: anything that is made from a dict."""
        data = orjson.loads(raw)
        try:
            return self.value_type.from_data(data)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise DecodeError("wrong-type", f"{self.name}: {exc}") from exc

    def decode(self, raw: bytes | None) -> Any:
        """One value. Raises DecodeError."""
        if raw is None:
            if self._nullable:
                return None
            raise DecodeError("null-value", f"the value is null, not {self.name}")
        if len(raw) > self.value_bytes_max:
            raise DecodeError(
                "too-large", f"the value has {len(raw)} bytes, more than {self.value_bytes_max}"
            )
        try:
            try:
                return self._fast(raw)
            except msgspec.ValidationError:
                if self._slow is self._fast:
                    raise
                return self._slow(raw)
        except (msgspec.MsgspecError, DecodeError, ValueError, RecursionError) as exc:
            raise decode_error(exc, missing_type=self._is_event) from exc

    def decode_column(self, values: Sequence[bytes | None], timestamps_ms: Sequence[int]) -> Column:
        """Every value of a batch; ``timestamps_ms`` are the records' own."""
        bad: list[tuple[int, DecodeError]] = []
        fast = self._fast
        try:
            if values and max(map(len, values)) > self.value_bytes_max:  # type: ignore[arg-type]  # None: slow road
                raise ValueError
            events = [fast(value) for value in values]  # type: ignore[arg-type]  # None raises TypeError
        except (msgspec.MsgspecError, DecodeError, ValueError, TypeError, RecursionError):
            events = []
            for index, value in enumerate(values):
                try:
                    events.append(self.decode(value))
                except DecodeError as exc:
                    events.append(None)
                    bad.append((index, exc))
        return events, self._times(events, timestamps_ms, bad), bad

    def _times(
        self, events: list[Any], timestamps_ms: Sequence[int], bad: list[tuple[int, DecodeError]]
    ) -> list[int]:
        if self.time_field is None:
            return list(timestamps_ms)
        name = self.time_field
        if not bad:
            times, wrong = times_ms_column([getattr(event, name) for event in events], name)
            bad.extend(wrong)
            return times
        good = [index for index, event in enumerate(events) if event is not None]
        good_times, wrong = times_ms_column([getattr(events[index], name) for index in good], name)
        bad.extend((good[at], error) for at, error in wrong)
        # A bad event's time is a good one's, so that the range check has nothing to say of it.
        times = [good_times[0] if good_times else 0] * len(events)
        for index, time in zip(good, good_times, strict=True):
            times[index] = time
        return times

    def encode(self, value: Any) -> bytes | None:
        """The record value of an event. Raises TypeError for what can't be written."""
        if value is None or isinstance(value, bytes):
            return value
        if isinstance(value, str) and self.value_type is str:
            return value.encode()
        return encode_value(value)

    def project(self, paths: Sequence[str]) -> ProjectionCodec | None:
        """Decodes these paths only, or ``None`` where the model has no fixed fields."""
        if not hasattr(self.value_type, "__struct_fields__"):
            return None
        return ProjectionCodec(self, paths, decode_error)


def encode_value(value: Any) -> bytes:
    """JSON of an event: Structs, dicts, and what describes itself by ``asdict``."""
    if isinstance(value, Event):
        return _encode_event(value)
    if hasattr(value, "__struct_fields__"):
        return msgspec.json.encode(value)
    if hasattr(value, "to_representation"):
        value = value.to_representation()
    return orjson.dumps(value)


def _encode_event(event: Event) -> bytes:
    kept = event.__dict__
    if not kept:
        return msgspec.json.encode(event)
    data = msgspec.to_builtins(event)
    if kept.get("_in_ms"):
        data["timestamp"] = event.timestamp_ms
    return msgspec.json.encode({**data, **kept.get("_extra", {})})


def _loose_decoder(kind: type[Event]) -> Callable[[bytes], Event]:
    """The slower road: integer timestamps, and fields that the class does not know, which are kept."""
    names = {info.encode_name for info in msgspec.structs.fields(kind)}
    decode = msgspec.json.Decoder().decode

    def loose(raw: bytes) -> Event:
        data = decode(raw)
        if not isinstance(data, dict):
            raise DecodeError("wrong-type", f"Expected `object`, got `{_json_name(data)}`")
        extra = {name: data.pop(name) for name in [name for name in data if name not in names]}
        stamp = data.get("timestamp")
        in_ms = isinstance(stamp, int) and not isinstance(stamp, bool)
        if isinstance(stamp, int) and in_ms:
            data["timestamp"] = datetime_of_ms(stamp)
        event = msgspec.convert(data, kind)
        if extra:
            event.__dict__["_extra"] = extra
        if in_ms:
            event.__dict__["_in_ms"] = True
        return event

    return loose


def _json_name(value: Any) -> str:
    return {list: "array", str: "str", type(None): "null", bool: "bool"}.get(
        type(value), type(value).__name__
    )


def _text(raw: bytes) -> str:
    return str(raw, "utf-8")


def _type_name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))
