"""Closed rows as records: what a declared aggregate tells of a row when its window closes."""

from __future__ import annotations

from typing import Any

from streamflow.aggregates.row_values import State
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.clock import rfc3339
from streamflow.codecs import KeyCodec, group_key_value, json_bytes, shown_bytes
from streamflow.transports.base import Record


def closed_row(
    spec: AggregateSpec, key_codec: KeyCodec, start: int, key: Any, state: State
) -> tuple[bytes, bytes]:
    """Record key and value that tell of a closed row; a row without key goes by its window's start."""
    start, end, state = spec.shown(start, state)
    value: dict[str, Any] = {"window_start": rfc3339(start), "window_end": rfc3339(end)}
    raw: bytes | None = value["window_start"].encode()
    if isinstance(spec.by, Key):
        if spec.json_keys:
            key = group_key_value(key)
        value["key"] = shown_bytes(key) if isinstance(key, bytes) else key
        raw = key_codec.encode_json(key)
    elif spec.by is not None:
        value["key"] = group_key_value(key)
        raw = key.encode() if isinstance(key, str) else key
    result = spec.values.result(state)
    value |= {"value": result} if spec.values.scalar else result
    return raw or b"", json_bytes(value)


def revised_record(record: Record) -> Record:
    """The record of a closed row that was told of before, marked as such: ``"revised": true``."""
    assert record.value is not None
    return record._replace(value=b'{"revised":true,' + record.value[1:])
