"""A declared aggregate against the model of its topic: what would be wrong of each event is said at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from streamflow.aggregates.field_watch import FieldUse
from streamflow.aggregates.spec import AggregateSpec
from streamflow.aggregates.where import condition
from streamflow.codecs import ValueCodec
from streamflow.codecs.times import TimeField
from streamflow.codecs.values import EVENT_READS_MS
from streamflow.errors import ConfigurationError


def checked(spec: AggregateSpec, values: ValueCodec) -> AggregateSpec:
    """The declaration as the engine takes it. Raises ConfigurationError, naming what is wrong with it."""
    free_fields(spec, values)
    time = spec.time
    if isinstance(time, str):
        time = TimeField(time)
    if not isinstance(time, TimeField):
        return spec
    if values.is_event and time.path == "timestamp" and time.unit != "ms":
        raise ConfigurationError(f"aggregate {spec.name!r}: time={time!r}: {EVENT_READS_MS}")
    if (time.path, time.unit) == (values.time_field, values.time_unit):
        return replace(spec, time=None)  # the decoder reads it already
    return replace(spec, time=time.path if time.unit == "ms" else time)


def free_fields(spec: AggregateSpec, values: ValueCodec) -> list[FieldUse]:
    """The fields that an event may have or not, as far as its model tells.

    Raises ConfigurationError for those that none can have, with the nearest name.
    """
    free: list[FieldUse] = []
    for use in _uses(spec):
        try:
            if values.lies_in_free_json(use.path):
                free.append(use)
        except ConfigurationError as exc:
            raise ConfigurationError(f"aggregate {spec.name!r}: {use.said}: {exc}") from None
    return free


def _uses(spec: AggregateSpec) -> Iterator[FieldUse]:
    if isinstance(spec.by, str):
        yield FieldUse(spec.by, f"by={spec.by!r}")
    if isinstance(spec.where, str):
        yield FieldUse(condition(spec.where).path, f"where={spec.where!r}")
    time = spec.time.path if isinstance(spec.time, TimeField) else spec.time
    if isinstance(time, str):
        yield FieldUse(time, f"time={spec.time!r}")
    functions = spec.values.functions
    for name, function in zip(spec.values.names or [""] * len(functions), functions, strict=True):
        if isinstance(function.field, str):
            said = f"{type(function).__name__}({function.field!r})"
            yield FieldUse(function.field, f"values={said}" if not name else f"values={{{name!r}: {said}}}")
