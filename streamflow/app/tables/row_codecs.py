"""Keys and values of a table's rows as its changelog has them.

A row must come back from the log as what it was: values by the table's ``value_type``, else by what its
default makes, else by what a model says of itself (``__faust``).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import msgspec
from faust.models.base import Model

from streamflow.codecs import KeyCodec
from streamflow.state.changelog import ChangelogError, hashable

_AS_THEY_ARE = (None, object, Any, dict, list, str, int, float, bool)
_MADE_OF_LISTS = (set, frozenset, deque, tuple)
SET_OPERATIONS = (1, 2, 15)  # of stock Faust's set tables: add, discard, update

Convert = Callable[[Any], Any]


def value_in(kind: type[object] | None, default: Callable[[], Any] | None) -> Convert:
    """JSON value -> value."""
    if kind is not None:
        return _of_type(kind)
    sample = _sample(default)
    if sample is None or type(sample) in _AS_THEY_ARE:
        return remodelled
    if isinstance(sample, Mapping) and not hasattr(sample, "_options"):
        return _like(default)
    return _of_type(type(sample))


def _of_type(known: type[object]) -> Convert:
    kind: Any = known
    if kind in _AS_THEY_ARE:
        return remodelled
    if hasattr(kind, "_blessed_key"):
        return lambda data: kind.from_data(data, preferred_type=kind) if isinstance(data, dict) else data
    if hasattr(kind, "from_data"):
        made: Convert = kind.from_data
        return made
    if kind in _MADE_OF_LISTS or kind is Counter:
        return lambda data: kind(hashable(part) for part in data) if isinstance(data, list) else kind(data)
    if kind is bytes:
        return _bytes
    return lambda data: msgspec.convert(data, kind, strict=False)


def _sample(default: Callable[[], Any] | None) -> Any:
    if default is None:
        return None
    try:
        return default()
    except Exception:  # noqa: BLE001  # it is the user's, and it may need a running app
        return None


def _like(default: Callable[[], Any] | None) -> Convert:
    """A mapping of the default's own kind, with its factory if it has one."""

    def make(data: Mapping[Any, Any]) -> Any:
        assert default is not None
        made = default()
        made.clear()
        made.update(data)
        return made

    return make


def _bytes(data: object) -> Any:
    return data.encode() if isinstance(data, str) else data


def remodelled(data: object) -> Any:
    """A model where the data says which one it was; arrays and objects may hold more of them."""
    if isinstance(data, dict):
        if Model._blessed_key in data:
            return Model._maybe_reconstruct(data)
        return {name: remodelled(part) for name, part in data.items()} if _holds_models(data) else data
    if isinstance(data, list) and _holds_models(data):
        return [remodelled(part) for part in data]
    return data


def _holds_models(data: dict[Any, Any] | list[Any]) -> bool:
    parts = data.values() if isinstance(data, dict) else data
    nested = (part for part in parts if isinstance(part, dict | list))
    return any(Model._blessed_key in part or _holds_models(part) for part in nested)


def bytes_of_key(topic: KeyCodec, key: Hashable) -> bytes | None:
    """The record key that a row's key has in the topic, or would have in one of its own type.

    Raises TypeError for what no topic could have as a key.
    """
    try:
        return topic.encode(key)
    except TypeError:
        return key.encode() if isinstance(key, str) else KeyCodec(object).encode(key)


def key_in(known: type[object] | None) -> Convert:
    """JSON value -> key of a row."""
    kind: Any = known
    if hasattr(kind, "_blessed_key"):
        return lambda data: kind.from_data(data, preferred_type=kind) if isinstance(data, dict) else data
    if hasattr(kind, "__struct_fields__"):
        return lambda data: msgspec.convert(data, kind) if isinstance(data, dict) else _key(data)
    return _key


def _key(data: object) -> Any:
    if isinstance(data, dict) and Model._blessed_key in data:
        return Model._maybe_reconstruct(data)
    return hashable(data)


def set_key_in(kind: type[object] | None) -> Convert:
    """`key_in` of a set table, which can't read the operations that stock Faust's writes."""
    plain = key_in(kind)

    def read(data: object) -> Any:
        if isinstance(data, list) and len(data) == 2 and data[0] in SET_OPERATIONS:
            raise ChangelogError(
                "this is an operation of stock Faust's SetTable; streamflow keeps whole sets and can't go "
                "on from it: give the table another name"
            )
        return plain(data)

    return read
