"""Group keys: how values are told apart, hashed and written, whatever their JSON type.

Values are compared as canonical JSON: keys sorted, no spaces, so that 1, 1.0, true and "1" differ.
In memory a text is kept as it is and everything else as its canonical bytes: cheap for the common
case, and the two never meet as dict keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import orjson

from streamflow.errors import DecodeError

GroupKey = str | bytes
"""A text as it is, or the canonical JSON bytes of anything else."""

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder().decode
_STR_ONLY = {str}


def canonical_json(value: object) -> bytes:
    """``value`` as JSON with sorted keys and no spaces; equal bytes iff equal JSON values.

    What JSON does not know is written as msgspec writes it (an aware datetime as RFC 3339, bytes as
    base64, a Struct as an object, NaN as null). Raises TypeError for what can't be written at all and
    UnicodeEncodeError for a lone surrogate.
    """
    return _encode(value)


def group_key(value: object) -> GroupKey:
    """The dict key of a group. Raises as `canonical_json`."""
    if type(value) is str:
        return value
    encoded = _encode(value)
    # A datetime, an enum or a UUID is written as a text, and is that text's group.
    return str(_decode(encoded)) if encoded[:1] == b'"' else encoded


def group_key_column(values: Sequence[Any]) -> list[GroupKey]:
    """`group_key` of each value, in order."""
    if set(map(type, values)) == _STR_ONLY:
        return list(values)
    return [value if type(value) is str else group_key(value) for value in values]


def checked_group_keys(
    by: str | Callable[[Any], Any], values: Sequence[Any]
) -> tuple[list[Any], dict[int, DecodeError]]:
    """`group_key_column` of what ``by`` gave, and why, by index, what is no JSON value has none."""
    try:
        groups = group_key_column(values)
        if callable(by):  # no text that was decoded has a lone surrogate
            "".join([group for group in groups if type(group) is str]).encode()
        return groups, {}
    except (TypeError, UnicodeEncodeError, RecursionError):
        pass
    name = by if isinstance(by, str) else getattr(by, "__qualname__", repr(by))
    found: list[Any] = []
    wrong: dict[int, DecodeError] = {}
    for index, value in enumerate(values):
        try:
            found.append(group_key(value))
            group_key_bytes(found[-1])
        except (TypeError, UnicodeEncodeError, RecursionError):
            message = f"must be a JSON value, not {type(value).__name__}"
            wrong[index] = DecodeError("wrong-type", message, field=name)
            found[index:] = [None]
    return found, wrong


def group_key_value(key: GroupKey) -> Any:
    """The JSON value that a group key stands for."""
    return key if isinstance(key, str) else _decode(key)


def group_key_bytes(key: GroupKey) -> bytes:
    """The canonical JSON bytes of a group key: what is hashed for its partition."""
    return _encode(key) if isinstance(key, str) else key


def group_key_text(value: object) -> str:
    """A text for people: a str as it is, everything else as canonical JSON text."""
    key = group_key(value)
    return key if isinstance(key, str) else key.decode()


def trimmed(data: bytes) -> bytes:
    """A copy in as much memory as it needs: what orjson returns holds 4 KiB for as long as it is kept."""
    return b"%b" % data


def json_bytes(value: object, default: Callable[[Any], Any] | None = None) -> bytes:
    """``value`` as JSON, for records that are read back by `json_value`: ints of any size, Decimals as texts.

    Keys that are no texts are written as texts. Equal bytes for equal values written alike, as the key of
    a compacted topic needs. ``default`` turns what JSON does not know into what it does. Raises TypeError.
    """
    try:
        return trimmed(orjson.dumps(value, default=default, option=orjson.OPT_NON_STR_KEYS))
    except TypeError:
        # It refuses ints beyond 64 bits (and always the same ones); msgspec writes them, at less speed.
        return msgspec.json.encode(value, enc_hook=default, order="deterministic")


def json_value(data: bytes) -> Any:
    """What `json_bytes` wrote, ints whole. Raises ValueError for what is no JSON."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ValueError(str(exc)) from exc
