"""Record keys <-> keys of events and rows."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from streamflow.errors import DecodeError


class KeyCodec:
    """The keys of a topic, by their type: str is UTF-8 text, bytes (and None) raw, all else JSON."""

    def __init__(self, key_type: Any = None) -> None:
        self.key_type = key_type
        self.name = "raw" if key_type is None else str(getattr(key_type, "__name__", key_type))
        if key_type is str:
            self.decode = _decode_text
        elif key_type in (None, bytes):
            self.decode = _decode_raw
        else:
            decoder = msgspec.json.Decoder(key_type if key_type is not object else Any)
            self.decode = lambda raw: _decode_json(decoder, raw)

    def encode(self, key: Any) -> bytes | None:
        """The record key; ``None`` stays. Raises TypeError for what the type can't be."""
        if key is None or isinstance(key, bytes):
            return key
        if self.key_type in (None, str, bytes):
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is {type(key).__name__}, not {self.name}")
            return key.encode()
        return orjson.dumps(key)

    def parse_text(self, text: str) -> Any:
        """The key that a URL's text means. Raises DecodeError."""
        return self.decode(text.encode(errors="surrogatepass"))


def _decode_text(raw: bytes | None) -> Any:
    if raw is None:
        return None
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError as exc:
        raise DecodeError("bad-key", f"the key is no UTF-8: {exc}", field="key") from exc


def _decode_raw(raw: bytes | None) -> Any:
    return raw


def _decode_json(decoder: msgspec.json.Decoder[Any], raw: bytes | None) -> Any:
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise DecodeError("bad-key", f"the key can't be read: {exc}", field="key") from exc
