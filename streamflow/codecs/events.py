"""Events whose bytes are not the usual ones: integer timestamps, and fields that the class does not know.

The usual ones take one call of a compiled decoder. These take another decoder, and an Event remembers
in its ``__dict__`` what it needs to be written back as it came: ``_in_ms``, and ``_extra``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from streamflow.codecs.event import Event
from streamflow.codecs.fields import datetime_of_ms

EventDecoder = Callable[[bytes], Event]
_encoder = msgspec.json.Encoder(decimal_format="number")


def twin_fields(kind: type[msgspec.Struct], types: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """The fields of a model, for a Struct class that reads the same bytes; ``types`` replaces some."""
    fields: list[tuple[str, Any, Any]] = []
    for info in msgspec.structs.fields(kind):
        options: dict[str, Any] = {"name": info.encode_name}
        if not info.required:
            if info.default_factory is not msgspec.NODEFAULT:
                replaced = info.name in types and info.default_factory is dict
                options["default_factory"] = types[info.name] if replaced else info.default_factory
            else:
                options["default"] = info.default
        fields.append((info.name, types.get(info.name, info.type), msgspec.field(**options)))
    return fields


def with_ms(kind: type[Event]) -> dict[str, Any]:
    """The replaced type of the timestamp: as in the model, or an integer."""
    types = {info.name: info.type for info in msgspec.structs.fields(kind)}
    return {"timestamp": types["timestamp"] | int}


def ms_decoder(kind: type[Event]) -> EventDecoder:
    """Events with known fields only, for topics whose timestamps are mostly integers."""
    fields = twin_fields(kind, {"timestamp": int})
    twin = msgspec.defstruct("InMs", fields, kw_only=True, forbid_unknown_fields=True)
    decode = msgspec.json.Decoder(twin).decode

    def decode_event(raw: bytes) -> Event:
        values = msgspec.structs.asdict(decode(raw))
        values["timestamp"] = datetime_of_ms(values["timestamp"], "timestamp")
        event = kind(**values)
        event.__dict__["_in_ms"] = True
        return event

    return decode_event


def loose_decoder(kind: type[Event], float_hook: Callable[[str], Any] | None = None) -> EventDecoder:
    """Whatever is an Event at all; with `number` as the hook, numbers beyond floats too."""
    twin = msgspec.defstruct("Loose", twin_fields(kind, with_ms(kind)), kw_only=True)
    decode = msgspec.json.Decoder(twin, float_hook=float_hook).decode
    decode_all = msgspec.json.Decoder(dict[str, Any], float_hook=float_hook).decode
    names = {info.encode_name for info in msgspec.structs.fields(kind)}

    def decode_event(raw: bytes) -> Event:
        values = msgspec.structs.asdict(decode(raw))
        stamp = values["timestamp"]
        if isinstance(stamp, int):
            values["timestamp"] = datetime_of_ms(stamp, "timestamp")
        event = kind(**values)
        extra = {name: value for name, value in decode_all(raw).items() if name not in names}
        if extra:
            event.__dict__["_extra"] = extra
        if isinstance(stamp, int):
            event.__dict__["_in_ms"] = True
        return event

    return decode_event


def encode_event(event: Event) -> bytes:
    """The event as JSON, with what its class does not know, and its timestamp in the form it came in."""
    kept = event.__dict__
    if not kept:
        return _encoder.encode(event)
    fields = {info.name: info.encode_name for info in msgspec.structs.fields(event)}
    data = {encoded: getattr(event, name) for name, encoded in fields.items()}
    if kept.get("_in_ms"):
        data[fields["timestamp"]] = event.timestamp_ms
    return _encoder.encode(data | kept.get("_extra", {}))
