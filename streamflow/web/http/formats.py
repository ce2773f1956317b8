"""The formats of lists besides JSON: NDJSON, CSV and Arrow's stream. Which one a client wants, `Accept` says.

CSV and Arrow have columns: key, window_start, window_end, window_state, partition, and what a value has: the
fields that were asked for, or the names that are declared, or the members of the first rows' values; else
one column ``value``. What does not fit (a member that comes later; in Arrow a value of another type) is in
``rest`` as JSON, so that nothing is lost. Objects and arrays are JSON texts.
"""

from __future__ import annotations

import asyncio
import csv
import importlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final

from aiohttp import web

from streamflow.query.key_order import key_text
from streamflow.query.rows import Row
from streamflow.query.table_reader import TableReader
from streamflow.query.value_paths import NOTHING, ValuePath
from streamflow.web import encoding
from streamflow.web.http.compression import weighed
from streamflow.web.problems import Problem
from streamflow.web.query import Asked

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
CSV: Final = "text/csv"
ARROW: Final = "application/vnd.apache.arrow.stream"
TYPES: Final = (JSON, NDJSON, CSV, ARROW)
COLUMNS_MAX: Final = 200  # that the values of the first rows make
FIRST_ROWS: Final = 1_000  # that are looked at for columns and their types
REST: Final = "rest"
WINDOW: Final = ("window_start", "window_end", "window_state")


class Format(ABC):
    """One answer; it is told its rows in chunks, in order, and then `end`."""

    content_type: str
    first_rows = 0
    """The first chunk has so many, if there are so many."""

    def chunk_rows(self, limit: int) -> int:
        """Rows of a chunk where there are no more than ``limit``."""
        return min(limit, 100)

    @abstractmethod
    def rows(self, rows: Sequence[Row]) -> bytes: ...

    def end(self) -> bytes:
        return b""


class Ndjson(Format):
    """One row a line, as in JSON."""

    content_type = NDJSON

    def rows(self, rows: Sequence[Row]) -> bytes:
        return b"".join(encoding.encode(encoding.row_object(row)) + b"\n" for row in rows)


class Columns:
    """Which columns the values have. ``parts`` are their names and what they hold of a value."""

    def __init__(
        self, reader: TableReader, fields: tuple[ValuePath, ...] | None, first: Sequence[Row]
    ) -> None:
        self.windowed = reader.window is not None
        names = reader.value_names
        self.open_ended = False  # may later values have more?
        if fields is not None:
            found = [path.text for path in fields]
        elif names is not None:
            found = list(names)
        else:
            values = [row.value for row in first]
            members = {name: None for value in values if isinstance(value, Mapping) for name in value}
            self.open_ended = bool(values) and all(isinstance(value, Mapping) for value in values)
            found = list(members)[:COLUMNS_MAX] if self.open_ended else []
        whole = not found or (fields is not None and found == ["value"])
        self.fixed = ["key", *(WINDOW if self.windowed else ()), "partition"]
        taken = {*self.fixed, REST}
        self.parts = [("value", "")] if whole else [(f"value.{n}" if n in taken else n, n) for n in found]
        self.open_ended = self.open_ended and not whole

    def fixed_values(self, row: Row) -> list[Any]:
        if not self.windowed:
            return [row.key, row.partition]
        return [row.key, row.start_ms, row.end_ms, row.state, row.partition]

    def values(self, row: Row) -> list[Any]:
        """What each part holds, or `NOTHING`."""
        value = row.value
        if len(self.parts) == 1 and not self.parts[0][1]:
            return [value]
        if not isinstance(value, Mapping):
            return [NOTHING] * len(self.parts)
        return [value.get(member, NOTHING) for _, member in self.parts]

    def rest(self, row: Row) -> dict[str, Any] | None:
        """What of a value no part has."""
        if not self.open_ended:
            return None
        if not isinstance(row.value, Mapping):
            return {"value": row.value}
        known = {member for _, member in self.parts}
        return {name: value for name, value in row.value.items() if name not in known} or None


class Tabular(Format):
    """What CSV and Arrow have in common: columns, which the first rows decide where nothing else does."""

    first_rows = FIRST_ROWS

    def __init__(self, reader: TableReader, asked: Asked) -> None:
        self._reader = reader
        self._fields = asked.fields
        self._is_page = "limit" in asked.parameters
        self._columns: Columns | None = None

    def chunk_rows(self, limit: int) -> int:
        return limit  # all of a page, so that its columns are right for all of it

    def rows(self, rows: Sequence[Row]) -> bytes:
        head = b""
        if self._columns is None:
            self._columns = Columns(self._reader, self._fields, rows)
            head = self.begin(self._columns, rows)
        return head + (self.body(self._columns, rows) if rows else b"")

    @abstractmethod
    def begin(self, columns: Columns, first: Sequence[Row]) -> bytes: ...

    @abstractmethod
    def body(self, columns: Columns, rows: Sequence[Row]) -> bytes: ...


class Csv(Tabular):
    """RFC 4180, with a line of names first. Nothing and null are empty."""

    content_type = f"{CSV}; charset=utf-8; header=present"

    def begin(self, columns: Columns, first: Sequence[Row]) -> bytes:
        names = [*columns.fixed, *(name for name, _ in columns.parts)]
        return _lines([[*names, REST] if columns.open_ended else names])

    def body(self, columns: Columns, rows: Sequence[Row]) -> bytes:
        return _lines([self._line(columns, row) for row in rows])

    def _line(self, columns: Columns, row: Row) -> list[str]:
        fixed = columns.fixed_values(row)
        if columns.windowed:
            fixed[1:3] = map(encoding.time_text, fixed[1:3])
        line = [_cell(each) for each in (*fixed, *columns.values(row))]
        return [*line, _cell(columns.rest(row))] if columns.open_ended else line


def _cell(value: object) -> str:
    if value is None or value is NOTHING:
        return ""
    return value if isinstance(value, str) else encoding.encode(value).decode()


def _lines(lines: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()


# -- Arrow -----------------------------------------------------------------------------------------

Kind = str
"""Of a column: "int", "float", "bool", "text" or "json"."""
_INT64: Final = range(-(1 << 63), 1 << 63)


def kind_of(values: Sequence[object]) -> Kind:
    """The narrowest kind that all of these fit in; nothing and null fit in any."""
    there = [value for value in values if value is not None and value is not NOTHING]
    if not there:
        return "json"
    return next(kind for kind in ("bool", "int", "float", "text", "json") if all(map(FITS[kind], there)))


def _is_float(value: object) -> bool:
    """Is it a number that a float holds as it is?"""
    if isinstance(value, float):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 1 << 53


FITS: Final[Mapping[Kind, Callable[[object], bool]]] = {
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool) and value in _INT64,
    "float": _is_float,
    "text": lambda value: isinstance(value, str),
    "json": lambda value: True,
}


class _Sink(io.RawIOBase):
    """Where pyarrow writes to."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(self._pieces[-1])

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


class Arrow(Tabular):
    """Arrow's IPC stream. A column's type is that of the first rows."""

    content_type = ARROW

    def __init__(self, reader: TableReader, asked: Asked, arrow: ModuleType) -> None:
        super().__init__(reader, asked)
        self._arrow: Any = arrow
        self._sink = _Sink()
        self._writer: Any = None
        self._kinds: list[Kind] = []
        self._has_rest = False

    def begin(self, columns: Columns, first: Sequence[Row]) -> bytes:
        arrow = self._arrow
        seen = [columns.values(row) for row in first]
        self._kinds = [kind_of([row.key for row in first])]
        self._kinds += [kind_of([values[at] for values in seen]) for at in range(len(columns.parts))]
        types = {
            "bool": arrow.bool_(), "int": arrow.int64(), "float": arrow.float64(),
            "text": arrow.string(), "json": arrow.string(),
        }  # fmt: skip
        instant = arrow.timestamp("ms", tz="UTC")
        fields = [("key", types[self._kinds[0]])]
        if columns.windowed:
            fields += [("window_start", instant), ("window_end", instant), ("window_state", arrow.string())]
        fields.append(("partition", arrow.int32()))
        fields += [
            (name, types[kind]) for (name, _), kind in zip(columns.parts, self._kinds[1:], strict=True)
        ]
        # All of a page was looked at: everything fits.
        self._has_rest = not self._is_page or columns.open_ended
        if self._has_rest:
            fields.append((REST, arrow.string()))
        self._schema = arrow.schema(fields)
        self._writer = arrow.ipc.new_stream(self._sink, self._schema)
        return self._sink.taken()

    def body(self, columns: Columns, rows: Sequence[Row]) -> bytes:
        lines = [self._line(columns, row) for row in rows]
        arrays = [
            self._arrow.array(column, type=field.type)
            for column, field in zip(zip(*lines, strict=True), self._schema, strict=True)
        ]
        self._writer.write_batch(self._arrow.record_batch(arrays, schema=self._schema))
        return self._sink.taken()

    def _line(self, columns: Columns, row: Row) -> list[Any]:
        rest = columns.rest(row) or {}
        fixed = columns.fixed_values(row)
        line = [self._held(self._kinds[0], fixed[0], "key", rest), *fixed[1:]]
        for (name, _), kind, value in zip(columns.parts, self._kinds[1:], columns.values(row), strict=True):
            line.append(self._held(kind, value, name, rest))
        if self._has_rest:
            line.append(encoding.encode(rest).decode() if rest else None)
        return line

    def _held(self, kind: Kind, value: object, name: str, rest: dict[str, Any]) -> Any:
        """The value as its column holds it; what does not fit goes to the rest."""
        if value is None or value is NOTHING:
            return None
        if kind == "json":
            return key_text(value)
        if FITS[kind](value):
            return value
        rest[name] = value
        return None

    def end(self) -> bytes:
        if self._writer is not None:
            self._writer.close()
        return self._sink.taken()


async def pyarrow() -> ModuleType | None:
    """The module, if it is installed. The first time takes a while: not in the event loop."""
    try:
        return await asyncio.to_thread(importlib.import_module, "pyarrow")
    except ImportError:
        return None


async def chosen(request: web.BaseRequest, reader: TableReader, asked: Asked) -> Format | None:
    """What ``Accept`` likes best; ``None``: JSON, also where it names nothing of ours.

    Raises Problem 406 where it is Arrow, which is not installed.
    """
    weights = dict(map(weighed, request.headers.get("Accept", JSON).lower().split(",")))
    liked = [(name, weights.get(name, 0.0)) for name in TYPES if weights.get(name, 0.0) > 0]
    if not liked:
        return None
    best = max(liked, key=lambda each: each[1])[0]
    if best == NDJSON:
        return Ndjson()
    if best == CSV:
        return Csv(reader, asked)
    if best == JSON:
        return None
    module = await pyarrow()
    if module is None:
        detail = (
            "Arrow needs pyarrow in this worker: pip install pyarrow, the extra [arrow] of faust-streamflow; "
            f"or ask for {NDJSON} or {CSV}"
        )
        raise Problem(406, "not-acceptable", detail)
    await asyncio.to_thread(importlib.import_module, "pyarrow.ipc")
    return Arrow(reader, asked, module)
