"""Closed rows as records: what a declared aggregate tells of a row when its window closes.

A row that was told of and has changed is told of again, marked ``"revised": true``; a reader of them keeps
the newest of each key and window start. A session that has become part of one with another start would stay
there beside it. So just before the one that it is part of now it is told of once more, as
``"withdrawn": true`` and without its values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from streamflow.aggregates.row_values import State
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.clock import rfc3339
from streamflow.codecs import KeyCodec, group_key_value, json_bytes, json_value, shown_bytes
from streamflow.state.sessions import SessionRow
from streamflow.transports.base import Record
from streamflow.windows.session import Part

EmitRow = Callable[[int, Any, State], Record]
"""(window's id, key, state) -> the record of a closed row"""
_BOUNDS = ("window_start", "window_end", "key")


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


def session_records(
    emit: EmitRow, key: Any, row: SessionRow, told: Iterable[tuple[int, int]]
) -> Iterator[Record]:
    """What to tell of a closed session. ``told``: (start, end) of those that stood in its place before.

    ``row`` has a single part.
    """
    (one,) = row
    before = list(told)
    for start, end in before:
        if start != one.start:
            yield _withdrawn(emit(end, key, (Part(start, end, None, one.state),)))
    record = emit(one.end, key, row)
    # One that took the place of another start is new to who keeps rows by key and start: a session of its own
    # start may stand there, closed for good, and is not replaced by it.
    yield revised_record(record) if any(start == one.start for start, _ in before) else record


def _withdrawn(record: Record) -> Record:
    """The record that says of a row that was told of: there is no such row any more."""
    value = json_value(record.value or b"")
    bounds = {name: value[name] for name in _BOUNDS if name in value}
    return record._replace(value=json_bytes({"withdrawn": True, **bounds}))
