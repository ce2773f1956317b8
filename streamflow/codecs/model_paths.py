"""Field paths against the model of a topic's values: is the field there, nowhere, or in JSON of any form?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any

import msgspec.inspect as types

from streamflow.codecs.event import Event
from streamflow.errors import ConfigurationError

_NAMES_SHOWN_MAX = 20
_FLAT = (
    types.BoolType,
    types.BytesType,
    types.DateTimeType,
    types.FloatType,
    types.FrozenSetType,
    types.IntType,
    types.ListType,
    types.NoneType,
    types.SetType,
    types.StrType,
    types.TupleType,
    types.VarTupleType,
)
"""What a path leads no further into."""


def lies_in_free_json(kind: object, path: str) -> bool:
    """May the values of this type have the field, or not? False: the model has it.

    Raises ConfigurationError, with the nearest name, for a field that no value can have.
    """
    return _find_in(kind, path.split("."))


def nearest(name: str, names: Collection[str]) -> str | None:
    """The one that was probably meant."""
    found = get_close_matches(name, sorted(names), 1, 0.6)
    return found[0] if found else None


def _find_in(kind: object, names: Sequence[str]) -> bool:
    if not names:
        return False
    if kind in (None, object, Any):
        return True
    options = getattr(kind, "_options", None)
    if hasattr(kind, "from_data") and isinstance(fields := getattr(options, "fields", None), dict):
        if names[0] in fields:
            return _find_in(fields[names[0]], names[1:])
        if hasattr(kind, names[0]):
            return False  # a property
        raise _missing(getattr(kind, "__name__", str(kind)), names[0], fields)
    try:
        found = types.type_info(kind)
    except TypeError:
        return True  # a type that is its own affair
    return _find(found, names)


def _find(kind: types.Type, names: Sequence[str]) -> bool:
    if not names:
        return False
    if isinstance(kind, types.Metadata):
        return _find(kind.type, names)
    if isinstance(kind, types.UnionType):
        return _find_in_any(kind.types, names)
    if isinstance(kind, types.DictType):
        _find(kind.value_type, names[1:])
        return True
    if isinstance(kind, types.CustomType):
        return not hasattr(kind.cls, "from_data") or _find_in(kind.cls, names)
    if isinstance(kind, _FLAT):
        shown = type(kind).__name__.removesuffix("Type").lower()
        raise ConfigurationError(f"a value of type {shown} has no field {names[0]!r}")
    if isinstance(kind, types.StructType | types.DataclassType | types.NamedTupleType | types.TypedDictType):
        fields = {field.name: field.type for field in kind.fields}
        if names[0] in fields:
            return _find(fields[names[0]], names[1:])
        if issubclass(kind.cls, Event):
            return True  # which keeps what it does not know
        if not isinstance(kind, types.StructType) and hasattr(kind.cls, names[0]):
            return False  # a property
        raise _missing(kind.cls.__name__, names[0], fields)
    return True


def _find_in_any(kinds: Sequence[types.Type], names: Sequence[str]) -> bool:
    """Of several types one is enough; what the others lack, their values have not."""
    found: list[bool] = []
    errors: list[ConfigurationError] = []
    for kind in sorted(kinds, key=lambda kind: isinstance(kind, _FLAT)):
        try:
            found.append(_find(kind, names))
        except ConfigurationError as exc:
            errors.append(exc)
    if not found:
        raise errors[0]
    return any(found)


def _missing(model: str, name: str, fields: Collection[str]) -> ConfigurationError:
    near = nearest(name, fields)
    if near is not None:
        return ConfigurationError(f"{model} has no field {name!r}; did you mean {near!r}?")
    shown = ", ".join(sorted(fields)[:_NAMES_SHOWN_MAX])
    return ConfigurationError(f"{model} has no field {name!r}; it has {shown or 'none'}")
