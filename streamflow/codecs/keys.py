"""Record keys <-> keys of events and rows."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from streamflow.codecs.canonical import canonical_json, json_bytes, trimmed
from streamflow.codecs.values import plain_json
from streamflow.errors import ConfigurationError, DecodeError

_TEXT_MAX = 80
_BASE64 = "base64:"


def shown_bytes(raw: bytes) -> str:
    """A raw key as a JSON value: its text, or ``base64:`` and its bytes where it is no UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return _BASE64 + b64encode(raw).decode()


def bytes_of_shown(text: str) -> bytes:
    """The inverse of `shown_bytes`."""
    raw = text.encode()
    if text.startswith(_BASE64):
        try:
            meant = b64decode(text[len(_BASE64) :], validate=True)
            if shown_bytes(meant) == text:
                return meant
        except ValueError:
            pass
    return raw


class KeyCodec:
    """The keys of a topic, by their type, as Faust writes them: str is UTF-8 text, bytes (and None) are
    raw, all else is JSON. A null key is the key ``None`` whatever the type.
    """

    def __init__(self, key_type: object = None) -> None:
        self.key_type: Any = key_type
        self.name = "raw" if key_type is None else str(getattr(key_type, "__name__", key_type))
        self.of_json = key_type not in (None, bytes, str, int, float, bool)
        self._untyped = key_type in (Any, object)
        self._record = hasattr(key_type, "from_data") and not hasattr(key_type, "__struct_fields__")
        if key_type is str:
            self.decode = _decode_text
        elif key_type in (None, bytes):
            self.decode = _decode_raw
        else:
            try:
                decoder = msgspec.json.Decoder(Any if self._untyped or self._record else key_type)
            except TypeError as exc:
                raise ConfigurationError(f"key_type {key_type!r} can't be decoded: {exc}") from exc
            self._decode = decoder.decode
            self.decode = self._decode_json

    def encode(self, key: object) -> bytes | None:
        """The record key; ``None`` stays. Raises TypeError for what the type can't be."""
        if key is None or isinstance(key, bytes):
            return key
        if self.key_type in (None, str, bytes):
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is {type(key).__name__}, not {self.name}")
            return key.encode()
        if self.key_type in (int, float) and (isinstance(key, bool) or not isinstance(key, int | float)):
            raise TypeError(f"key {key!r} is {type(key).__name__}, not {self.name}")
        if hasattr(key, "to_representation"):
            key = key.to_representation()
        try:
            return trimmed(orjson.dumps(key))
        except TypeError:  # a Struct, or an int beyond 64 bits
            return canonical_json(key)

    def encode_json(self, value: object) -> bytes | None:
        """The record key of what a key is in JSON. Raises TypeError and DecodeError."""
        return self.encode(self.decode(json_bytes(value, plain_json)) if self.of_json else value)

    def parse_text(self, text: str) -> Any:
        """The key that a URL's text means: for JSON keys JSON, or of any type the text itself.

        Raises DecodeError.
        """
        raw = text.encode(errors="surrogatepass")
        if not self._untyped:
            return self.decode(raw)
        try:
            return self.decode(raw)
        except DecodeError:
            return _decode_text(raw)

    def decode_column(self, column: Sequence[bytes]) -> list[Any]:
        """`decode` of each. Raises DecodeError where one can't be read, whichever it is."""
        if self.key_type is str:
            try:
                return list(map(bytes.decode, column))
            except UnicodeDecodeError:
                pass
        return list(map(self.decode, column))

    def _decode_json(self, raw: bytes | None) -> Any:
        if raw is None:
            return None
        try:
            key = self._decode(raw)
            return self.key_type.from_data(key) if self._record else key
        except Exception as exc:  # a model's own code may raise anything
            message = f"{raw[:_TEXT_MAX]!r} is no key of type {self.name}: {exc}"
            raise DecodeError("bad-key", message[:300], field="key") from exc


def _decode_text(raw: bytes | None) -> Any:
    if raw is None:
        return None
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError as exc:
        raise DecodeError("bad-key", f"{raw[:_TEXT_MAX]!r} is not UTF-8", field="key") from exc


def _decode_raw(raw: bytes | None) -> Any:
    return raw
