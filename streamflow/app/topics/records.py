"""Records of Faust's from decoded JSON, as its own ``from_data`` makes them, at a third of the cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from faust import Record
from faust.models.fields import DatetimeField, FieldDescriptor, FloatField, IntegerField, StringField
from faust.types import FieldDescriptorT, ModelT

__all__ = ["Record", "record_maker"]

Make = Callable[[dict[str, Any]], Any]

_FOR_FROM_DATA = frozenset({"__faust", "__strict__", "self"})
"""Names in the data that mean something to ``from_data``, or that it refuses."""
_COERCED: dict[Any, type | None] = {
    StringField: str,
    IntegerField: int,
    FloatField: float,
    DatetimeField: None,
}
"""Fields that can be coerced here, and the type of values that they leave alone; twice is like once."""


def record_maker(model: type[ModelT]) -> Make:
    """``model.from_data`` for dicts that nobody else holds: the record keeps the dict as its own.

    Data that names another model which is not known here is taken as ``model`` all the same.

    HOT PATH. Faust calls two Python functions for each field. A class without code of its own, whose
    fields are taken as they come, needs none; any other is left to Faust. What is unusual in one dict
    (another model's name, a field that is missing) is left to it too.
    """

    kind: Any = model

    def from_data(data: dict[str, Any]) -> Any:
        return kind.from_data(data, preferred_type=kind)

    if not _is_plain(kind):
        return from_data
    fields = kind._options.descriptors
    required = frozenset(name for name, field in fields.items() if field.required)
    defaults = [(name, field.default) for name, field in fields.items() if not field.required]
    converted = [
        (name, field.to_python, field.required, _as_it_is(field))
        for name, field in fields.items()
        if _converts_at_once(field)
    ]
    new, count = object.__new__, len(required)

    def make(data: dict[str, Any]) -> Any:
        # As many as are required, all of them in it: there is nothing else.
        if not required <= data.keys() or (len(data) != count and not _FOR_FROM_DATA.isdisjoint(data)):
            return from_data(data)
        for name, default in defaults:
            if data.get(name) is None:
                data[name] = default
        for name, convert, is_required, as_it_is in converted:
            value = data[name]
            if type(value) is not as_it_is and (is_required or value is not None):
                data[name] = convert(value)
        data["__evaluated_fields__"] = set()
        record = new(kind)
        record.__dict__ = data  # what Faust's own constructor fills, field by field
        return record

    return make


def _is_plain(model: type[ModelT]) -> bool:
    kind: Any = model
    own = kind.__init__, kind.__new__, kind.__setattr__
    return (
        isinstance(kind, type)
        and issubclass(kind, Record)
        and kind.from_data.__func__ is Record.from_data.__func__  # type: ignore[attr-defined]
        and hasattr(own[0], "__sourcecode__")
        and own[1:] == (object.__new__, object.__setattr__)
        and not hasattr(kind, "__post_init__")
        and not kind._options.validation
        and all(map(_is_taken_as_it_comes, kind._options.descriptors.values()))
    )


def _is_taken_as_it_comes(descriptor: FieldDescriptorT[Any]) -> bool:
    field = cast("FieldDescriptor[Any]", descriptor)
    return (
        type(field).__module__ == FieldDescriptor.__module__
        and field.field == field.input_name
        and (not field.coerce or (type(field) in _COERCED and not field.lazy_coercion))
        and not field.tag
    )


def _converts_at_once(field: FieldDescriptor[Any]) -> bool:
    """The others are converted when they are first read, or never."""
    if field.lazy_coercion:
        return False
    overrides = type(field).to_python is not FieldDescriptor.to_python
    return field.coerce or field._to_python is not None or overrides


def _as_it_is(field: FieldDescriptor[Any]) -> type | None:
    """Values of this very type need no conversion."""
    if field._to_python is not None or getattr(field, "trim_whitespace", False):
        return None
    return _COERCED.get(type(field))
