"""Row <-> record of a changelog.

The key is the JSON array that Faust writes, ``[key, [start_s, end_s]]`` for a row of a window and
the key's own JSON otherwise, so that a table of stock Faust is read as it is. Only the start
tells windows apart; Faust's end lies 0.1 s before the window's, and so does ours, since compaction
knows a row by the bytes of its key.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from streamflow.codecs import json_bytes, json_value
from streamflow.codecs.values import plain_json
from streamflow.errors import StreamflowError
from streamflow.stores.base import NO_WINDOW
from streamflow.windows import Window

_FAUST_END_MS = 100


class ChangelogError(StreamflowError):
    """A record of a changelog that this version can't read."""


_BYTES = "__bytes__"
"""The member of a JSON object that stands for bytes, in base 64."""


def hashable(key: Any) -> Any:
    """A JSON value as it can be the key of a row: arrays become tuples, what stands for bytes bytes."""
    if isinstance(key, list):
        return tuple(hashable(part) for part in key)
    return b64decode(key[_BYTES]) if isinstance(key, dict) and _BYTES in key else key


class RowCodec:
    """Rows of one table as changelog records.

    ``key_out``/``key_in`` turn the key of a row into a JSON value and back, ``value_out``/``value_in``
    the value. ``encode_value`` never sees a deleted row: that is a tombstone (value ``None``).
    """

    __slots__ = ("_key_in", "_key_out", "_size_ms", "_value_in", "_value_out", "_windowed")

    def __init__(
        self,
        window: Window | None,
        *,
        key_out: Callable[[Any], Any] | None = None,
        key_in: Callable[[Any], Any] = hashable,
        value_out: Callable[[Any], Any] | None = None,
        value_in: Callable[[Any], Any] | None = None,
    ) -> None:
        self._windowed = window is not None
        self._size_ms = window.size_ms if window is not None else 0
        self._key_out = key_out
        self._key_in = key_in
        self._value_out = value_out
        self._value_in = value_in

    def encode_keys(self, start: int, keys: list[Any]) -> list[bytes]:
        """The record keys of rows of one window."""
        dumps = json_bytes
        if self._key_out is not None:
            keys = [self._key_out(key) for key in keys]
        if not self._windowed:
            return [dumps(key, _key_default) for key in keys]
        bounds = [start / 1_000, (start + self._size_ms - _FAUST_END_MS) / 1_000]
        tail = b"," + dumps(bounds) + b"]"
        return [b"[" + dumps(key, _key_default) + tail for key in keys]

    def decode_key(self, data: bytes) -> tuple[int, Any]:
        """(window start in ms or `NO_WINDOW`, key). Raises ChangelogError."""
        try:
            loaded = json_value(data)
            if not self._windowed:
                return NO_WINDOW, self._key_in(loaded)
            key, (start_s, _) = loaded
            return round(start_s * 1_000), self._key_in(key)
        except (ValueError, TypeError) as exc:
            raise ChangelogError(f"changelog key {data[:200]!r} can't be read") from exc

    def encode_value(self, value: Any) -> bytes:
        """Raises TypeError for what can't be written."""
        if self._value_out is not None:
            value = self._value_out(value)
        return json_bytes(value, _value_default)

    def decode_value(self, data: bytes) -> Any:
        """Raises ChangelogError."""
        try:
            loaded = json_value(data)
        except ValueError as exc:
            raise ChangelogError(f"changelog value {data[:200]!r} can't be read") from exc
        return loaded if self._value_in is None else self._value_in(loaded)


def bare(value: Any) -> Any:
    """A JSON value without what tells a reader which model it was."""
    if isinstance(value, dict):
        return {name: bare(part) for name, part in value.items() if name != "__faust"}
    return [bare(part) for part in value] if isinstance(value, list) else value


def _key_default(key: Any) -> Any:
    if isinstance(key, bytes):
        return {_BYTES: b64encode(key).decode()}
    return plain_json(key)


def _value_default(value: Any) -> Any:
    """What orjson does not know: as JSON has it, with sets in order, and a Decimal with all its digits."""
    if isinstance(value, set | frozenset):
        try:
            return sorted(value)
        except TypeError:
            return list(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.decode()
    return plain_json(value)
