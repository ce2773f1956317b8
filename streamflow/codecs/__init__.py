"""Bytes <-> events, keys and groups, in columns.

canonical.py: group keys. keys.py: record keys. values.py: whole events, and events.py: those that came
in an unusual form. projections.py: only the fields that are needed. fields.py: field paths and event
times. reasons.py: what is wrong with bad input.
"""

from streamflow.codecs.canonical import (
    GroupKey,
    canonical_json,
    checked_group_keys,
    group_key,
    group_key_bytes,
    group_key_column,
    group_key_text,
    group_key_value,
    json_bytes,
    json_value,
)
from streamflow.codecs.fields import field_getter, time_ms, times_ms_column
from streamflow.codecs.keys import KeyCodec, bytes_of_shown, shown_bytes
from streamflow.codecs.projections import ProjectionCodec
from streamflow.codecs.values import ValueCodec, encode_value

__all__ = [
    "GroupKey",
    "KeyCodec",
    "ProjectionCodec",
    "ValueCodec",
    "bytes_of_shown",
    "canonical_json",
    "checked_group_keys",
    "encode_value",
    "field_getter",
    "group_key",
    "group_key_bytes",
    "group_key_column",
    "group_key_text",
    "group_key_value",
    "json_bytes",
    "json_value",
    "shown_bytes",
    "time_ms",
    "times_ms_column",
]
