"""Keys and values of records as JSON for people: by the topic's types, else as text, else as base64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from streamflow.codecs import ValueCodec
from streamflow.codecs.keys import bytes_of_shown, shown_bytes
from streamflow.codecs.values import encode_value
from streamflow.engine.decoding import TopicSource
from streamflow.errors import DecodeError
from streamflow.transports.base import Headers

WHOLE_BYTES_MAX: Final = 256 << 10
"""What is larger is not decoded: that would hold up all others for too long."""
BEGINNING_BYTES: Final = 1_024

_json = msgspec.json.Decoder()


class Shown(NamedTuple):
    """``error``: why its readers set it aside; ``bytes``: its size, of a value that is shown in part."""

    key: Any
    value: Any
    error: str | None = None
    bytes: int | None = None


def shown(source: TopicSource | None, key: bytes | None, value: bytes | None) -> Shown:
    """A record of a topic that is read so, or in whatever way."""
    wrong: list[str] = []
    shown_key = _by(None if source is None else source.key.decode, key, wrong)
    if value is not None and len(value) > WHOLE_BYTES_MAX:
        return Shown(shown_key, shown_bytes(value[:BEGINNING_BYTES]), "; ".join(wrong) or None, len(value))
    shown_value = _by(None if source is None else source.value.decode, value, wrong)
    return Shown(shown_key, shown_value, "; ".join(wrong) or None)


def _by(decode: Callable[[bytes | None], Any] | None, raw: bytes | None, wrong: list[str]) -> Any:
    decoded: object = None
    if decode is not None:
        try:
            decoded = decode(raw)
        except DecodeError as exc:
            wrong.append(str(exc))
    if raw is None:
        return None
    # Text and bytes are what the topic says that they are, also where they look like JSON.
    if isinstance(decoded, str):
        return decoded
    if isinstance(decoded, bytes):
        return shown_bytes(decoded)
    try:
        return _json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return shown_bytes(raw) if decoded is None else _plain(decoded, raw)


def _plain(decoded: object, raw: bytes) -> Any:
    """What is no JSON on the wire, and a codec of the user's has made something of."""
    describe = getattr(decoded, "to_representation", None)
    try:
        return msgspec.to_builtins(decoded if describe is None else describe(), enc_hook=str)
    except Exception:  # noqa: BLE001  # a model's own code may raise anything
        return shown_bytes(raw)


def shown_headers(headers: Headers) -> list[list[str | None]]:
    """Pairs of a name and its text."""
    return [[name, None if text is None else shown_bytes(text)] for name, text in headers]


def raw_value(source: TopicSource | None, value: object) -> bytes | None:
    """The record value of what stands for it in JSON, as `shown` shows it. Raises TypeError.

    It is checked as one that is sent: what the topic's readers would set aside is refused.
    """
    if source is None:
        return None if value is None else encode_value(value)
    codec = source.value
    try:
        raw = codec.encode(_wire(codec, value))
        codec.check_readable(raw)
    except DecodeError as exc:
        raise TypeError(f"topic {source.name!r}: its readers would set this value aside: {exc}") from exc
    except TypeError:
        raise
    except Exception as exc:  # a codec of the user's may raise anything
        raise TypeError(f"topic {source.name!r}: this value can't be written: {exc}") from exc
    return raw


def _wire(codec: ValueCodec, value: object) -> object:
    """Bytes where the topic has bytes; they are shown as text."""
    if isinstance(value, str) and codec.value_type is bytes:
        return bytes_of_shown(value)
    return value
