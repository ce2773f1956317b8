"""Keys and values as JSON: their one order, which every worker has, and their text."""

from __future__ import annotations

from typing import Any

import msgspec

_ordered = msgspec.json.Encoder(enc_hook=str, order="deterministic")

KeyOrder = tuple[int, Any, str]
"""(kind of value, what is compared among those of one kind, what tells 1 and 1.0 apart)"""


def key_text(key: object) -> str:
    return key if isinstance(key, str) else canonical(key).decode()


def key_order(key: object) -> KeyOrder:
    """Keys of one type in their own order, types in a fixed one; 1 and 1.0 differ."""
    if key is None:
        return (0, 0, "")
    if isinstance(key, bool):
        return (1, int(key), "")
    if isinstance(key, int | float):
        return (2, key, repr(key))
    if isinstance(key, str):
        return (3, key, "")
    return (4, key_text(key), "")


def canonical(value: object) -> bytes:
    """The same bytes for equal values, whatever the order of their members."""
    return _ordered.encode(value)


def is_hashable(key: object) -> bool:
    """An array or an object is no key of any row."""
    try:
        hash(key)
    except TypeError:
        return False
    return True
