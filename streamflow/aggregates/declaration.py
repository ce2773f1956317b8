"""A declared aggregate against the model of its topic: what would be wrong of each event is said at once."""

from __future__ import annotations

from dataclasses import replace

from streamflow.aggregates.spec import AggregateSpec
from streamflow.codecs import ValueCodec
from streamflow.codecs.times import TimeField
from streamflow.codecs.values import EVENT_READS_MS
from streamflow.errors import ConfigurationError


def checked(spec: AggregateSpec, values: ValueCodec) -> AggregateSpec:
    """The declaration as the engine takes it. Raises ConfigurationError, naming what is wrong with it."""
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
