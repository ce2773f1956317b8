"""Row <-> record of a changelog.

The key is the JSON array that Faust writes, ``[key, [start_s, end_s]]`` for a row of a window and
the key's own JSON otherwise, so that a table of stock Faust is read as it is. Only the start
tells windows apart; Faust's end lies 0.1 s before the window's, and so does this one, since compaction
knows a row by the bytes of its key. A session is kept by its end, since its start may come twice:
``[key, [end_s]]``.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Hashable, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from streamflow.codecs import GroupKey, group_key, json_bytes, json_value
from streamflow.codecs.values import plain_json
from streamflow.errors import StreamflowError
from streamflow.state.stores.base import DELETED, NO_WINDOW, Rows
from streamflow.windows import SessionWindow, Window

_FAUST_END_MS = 100
_BOUNDS_MAX = 10_000  # remembered ends of record keys: one for each window
ROWS_OF_A_WINDOW = 16
"""Windows of fewer rows, on average, are written together."""
_json = msgspec.json.Decoder()
_BRACKET = ord("[")
_STR_ONLY = frozenset({str})


class ChangelogError(StreamflowError):
    """A record of a changelog that this version can't read. ``index``: which one of a run, where known."""

    index = 0

    def place(self, index: int) -> None:
        """It is the record at this place of a run."""
        self.index = index


_BYTES = "__bytes__"
"""The member of a JSON object that stands for bytes, in base 64."""


def hashable(key: object) -> Any:
    """A JSON value as it can be the key of a row: arrays become tuples, what stands for bytes bytes."""
    if isinstance(key, list):
        return tuple(hashable(part) for part in key)
    return b64decode(key[_BYTES]) if isinstance(key, dict) and _BYTES in key else key


_OF_ONE_KIND: tuple[set[type], ...] = ({str}, {int})
_json_encoder = msgspec.json.Encoder()


class RowCodec:
    """Rows of one table as changelog records.

    ``key_out``/``key_in`` turn the key of a row into a JSON value and back, ``value_out``/``value_in``
    the value. ``encode_value`` never sees a deleted row: that is a tombstone (value ``None``).
    """

    __slots__ = (
        "_bounds",
        "_by_end",
        "_key_in",
        "_key_out",
        "_size_ms",
        "_str_as_is",
        "_value_in",
        "_value_out",
        "_window",
        "_windowed",
    )

    def __init__(
        self,
        window: Window | None,
        *,
        key_out: Callable[[Any], Any] | None = None,
        key_in: Callable[[Any], Any] = hashable,
        value_out: Callable[[Any], Any] | None = None,
        value_in: Callable[[Any], Any] | None = None,
    ) -> None:
        self._bounds: dict[bytes, int] = {}  # end of a record key -> window start
        self._window = window
        self._windowed = window is not None
        self._by_end = isinstance(window, SessionWindow)
        self._size_ms = window.size_ms if window is not None else 0
        self._key_out = key_out
        self._key_in = key_in
        self._str_as_is = key_in is hashable or key_in is group_key
        self._value_out = value_out
        self._value_in = value_in

    def mapped(
        self,
        out: Callable[[Any, Callable[[Any], Any]], Any],
        into: Callable[[Any, Callable[[Any], Any]], Any],
    ) -> RowCodec:
        """Another one, for rows that are made of values: ``out`` and ``into`` are given what maps a value."""
        value_out, value_in = self._value_out or _same, self._value_in or _same
        return RowCodec(
            self._window,
            key_out=self._key_out,
            key_in=self._key_in,
            value_out=lambda row: out(row, value_out),
            value_in=lambda data: into(data, value_in),
        )

    def encode_keys(self, start: int, keys: list[Any]) -> list[bytes]:
        """The record keys of rows of one window."""
        if self._key_out is not None:
            keys = [self._key_out(key) for key in keys]
        tail = self._tail(start) if self._windowed else b""
        lines = _lines(keys)
        if lines is None:
            raw = [json_bytes(key, _key_default) for key in keys]
            return [b"[" + key + tail for key in raw] if tail else raw
        # HOT PATH. JSON within a line holds no end of line.
        return (b"[" + lines.replace(b"\n", tail + b"\n[") + tail if tail else lines).split(b"\n")

    def _tail(self, start: int) -> bytes:
        """What stands behind the key of each row of a window."""
        bounds = [start / 1_000]
        if not self._by_end:
            bounds.append((start + self._size_ms - _FAUST_END_MS) / 1_000)
        return b"," + json_bytes(bounds) + b"]"

    def encode_rows(self, rows: Rows) -> tuple[list[bytes], list[bytes | None]]:
        """The record keys and values of rows, window after window in their order."""
        total = sum(map(len, rows.values()))
        keys: list[bytes] = []
        if not self._windowed or total >= ROWS_OF_A_WINDOW * len(rows):
            for start, of in rows.items():
                keys += self.encode_keys(start, list(of))
        else:
            # HOT PATH. Windows of hardly any rows: their keys together, and not a call for each window.
            every = [key for of in rows.values() for key in of]
            if self._key_out is not None:
                every = list(map(self._key_out, every))
            lines = _lines(every)
            raw = [json_bytes(key, _key_default) for key in every] if lines is None else lines.split(b"\n")
            left = iter(raw)
            for start, of in rows.items():
                tail = self._tail(start)
                keys += [b"[" + next(left) + tail for _ in of]
        return keys, list(self.encode_values([value for of in rows.values() for value in of.values()]))

    def encode_values(self, values: list[Any]) -> Sequence[bytes | None]:
        """`encode_value` of each; ``None`` for `DELETED`."""
        # HOT PATH: counts are ints also where they are mapped first.
        if self._value_out is not None:
            out = self._value_out
            values = [value if value is DELETED else out(value) for value in values]
        lines = _lines(values)
        if lines is not None:
            return lines.split(b"\n")
        return [None if value is DELETED else json_bytes(value, _value_default) for value in values]

    def key_bytes(self, key: Hashable) -> bytes:
        """A row's key alone, as a store on a disk has it."""
        return json_bytes(key if self._key_out is None else self._key_out(key), _key_default)

    def key_of(self, data: bytes) -> Any:
        """The inverse of `key_bytes`."""
        return self._key_in(json_value(data))

    def decode_key(self, data: bytes) -> tuple[int, Any]:
        """(window's id in ms or `NO_WINDOW`, key). Raises ChangelogError."""
        try:
            loaded = json_value(data)
            if not self._windowed:
                return NO_WINDOW, self._key_in(loaded)
            key, (start_s, *_) = loaded
            return round(start_s * 1_000), self._key_in(key)
        except (ValueError, TypeError) as exc:
            raise ChangelogError(f"changelog key {data[:200]!r} can't be read") from exc

    def decode_columns(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Rows:
        """HOT PATH of a restore: the rows of a run of records, `DELETED` for tombstones; the newest wins.

        The same as `decode_rows`, which takes over where a column is not what we write ourselves.
        """
        try:
            present = [key for key in keys if key is not None]
            if not keys or len(present) != len(keys):
                return self.decode_rows(keys, values)
            starts, row_keys = self._decode_keys(present)
            return _by_start(starts, row_keys, self._decode_values(values))
        except (ValueError, TypeError, ChangelogError, msgspec.MsgspecError, RecursionError):
            return self.decode_rows(keys, values)

    def decode_rows(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Rows:
        """The plain meaning of `decode_columns`, record by record.

        Raises ChangelogError, whose ``index`` says which record it was.
        """
        rows: Rows = {}
        for index, (key, value) in enumerate(zip(keys, values, strict=True)):
            try:
                if key is None:
                    raise ChangelogError("a changelog record has no key")
                start, row_key = self.decode_key(key)
                row = DELETED if value is None else self.decode_value(value)
                try:
                    rows.setdefault(start, {})[row_key] = row
                except TypeError as exc:
                    raise ChangelogError(f"changelog key {key[:200]!r} can't be read") from exc
            except ChangelogError as exc:
                exc.place(index)
                raise
        return rows

    def _decode_keys(self, keys: Sequence[bytes]) -> tuple[list[int] | None, list[Any]]:
        """(starts or ``None`` without windows, keys). Raises whatever there is to be raised."""
        starts = None
        if self._windowed:
            # ``[key,[start,end]]``: what stands behind the last ",[" repeats for every row of the window.
            starts, heads, bounds = [], [], self._bounds
            for raw in keys:
                at = raw.rfind(b",[")
                if at < 1 or raw[0] != _BRACKET:
                    raise ValueError(raw)
                tail = raw[at:]
                start = bounds.get(tail)
                if start is None:
                    start = self._decode_bounds(tail)
                starts.append(start)
                heads.append(raw[1:at])
            keys = heads
        row_keys = _decode_lines(keys)
        if not (self._str_as_is and set(map(type, row_keys)) <= _STR_ONLY):
            row_keys = list(map(self._key_in, row_keys))
        return starts, row_keys

    def _decode_bounds(self, tail: bytes) -> int:
        if tail[-1:] != b"]" or tail[:2] != b",[":
            raise ValueError(tail)
        start_s, *_ = json_value(tail[1:-1])
        if len(self._bounds) >= _BOUNDS_MAX:
            self._bounds.clear()
        start: int = round(start_s * 1_000)
        self._bounds[tail] = start
        return start

    def _decode_values(self, values: Sequence[bytes | None]) -> list[Any]:
        there = [value for value in values if value is not None]
        if len(there) == len(values):
            loaded = _decode_lines(there)
            return loaded if self._value_in is None else list(map(self._value_in, loaded))
        left = iter(self._decode_values(there))
        return [DELETED if value is None else next(left) for value in values]

    def encode_value(self, value: object) -> bytes:
        """Raises TypeError for what can't be written."""
        if self._value_out is not None:
            value = self._value_out(value)
        return json_bytes(value, _value_default)

    def decode_value(self, data: bytes) -> Any:
        """Raises ChangelogError."""
        try:
            loaded = json_value(data)
        except ValueError as exc:
            raise ChangelogError(f"changelog value {data[:200]!r} can't be read") from exc
        return loaded if self._value_in is None else self._value_in(loaded)


def _same(value: object) -> object:
    return value


def value_bytes(value: object) -> bytes:
    """A row's value as a changelog has it, to tell whether it has changed. Raises TypeError."""
    return json_bytes(value, _value_default)


def bare(value: object) -> object:
    """A JSON value without what tells a reader which model it was."""
    if isinstance(value, dict):
        return {name: bare(part) for name, part in value.items() if name != "__faust"}
    return [bare(part) for part in value] if isinstance(value, list) else value


def json_key(key: object) -> GroupKey:
    """The key of a row for a record key that is JSON of any kind: that of its value, whatever its model."""
    return group_key(bare(json_value(json_bytes(key, plain_json))))


def _key_default(key: object) -> object:
    if isinstance(key, bytes):
        return {_BYTES: b64encode(key).decode()}
    return plain_json(key)


def _by_start(starts: list[int] | None, keys: list[Any], values: list[Any]) -> Rows:
    if starts is None:
        return {NO_WINDOW: dict(zip(keys, values, strict=True))}
    if starts.count(starts[0]) == len(starts):
        return {starts[0]: dict(zip(keys, values, strict=True))}
    rows: Rows = {}
    for start, key, value in zip(starts, keys, values, strict=True):
        if start in rows:
            rows[start][key] = value
        else:
            rows[start] = {key: value}
    return rows


def _decode_lines(texts: Sequence[bytes]) -> list[Any]:
    """JSON values of which each is a line of its own: so no two broken ones can look like good ones."""
    if not texts:
        return []
    joined = b"\n".join(texts)
    if joined.count(b"\n") != len(texts) - 1:
        raise ValueError("a value has line breaks")
    loaded = _json.decode_lines(joined)
    if len(loaded) != len(texts):
        raise ValueError("a value is empty")
    return loaded


def _value_default(value: object) -> object:
    """What orjson does not know: as JSON has it, with sets in order, and a Decimal with all its digits."""
    if isinstance(value, set | frozenset):
        try:
            return sorted(value)
        except TypeError:
            return list(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.decode()
    return plain_json(value)


def _lines(values: list[Any]) -> bytes | None:
    """HOT PATH. `json_bytes` of each value on a line, where all are texts or all are ints; else ``None``."""
    if set(map(type, values)) not in _OF_ONE_KIND:
        return None
    try:
        return _json_encoder.encode_lines(values)[:-1]
    except (TypeError, ValueError):  # an int beyond 64 bits, a text that is none
        return None
