"""NDJSON and CSV, as lines of bytes <-> JSON values."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Literal

import orjson

from streamflow.errors import ConfigurationError

FileFormat = Literal["ndjson", "csv"]


def checked_format(given: str, what: str) -> FileFormat:
    """Raises ConfigurationError."""
    if given == "ndjson":
        return "ndjson"
    if given == "csv":
        return "csv"
    raise ConfigurationError(f"{what}: format={given!r} must be 'ndjson' or 'csv'")


def records_in(text: bytes, file_format: FileFormat, *, whole: bool) -> Iterator[tuple[int, bytes]]:
    """Each whole record in ``text``: the bytes behind it (from the beginning of ``text``), and itself.

    A record ends with its line; in CSV a line break within quotes is part of it. ``whole``: nothing comes
    behind ``text``, so that its end ends a record too.
    """
    began = at = 0
    while at < len(text):
        end = text.find(b"\n", at)
        if end < 0 and not whole:
            return
        at = len(text) if end < 0 else end + 1
        record = text[began:at]
        if file_format == "csv" and at < len(text) + (not whole) and record.count(b'"') % 2:
            continue  # within quotes
        began = at
        yield at, record.rstrip(b"\r\n")


def csv_fields(record: bytes) -> list[str]:
    """The fields of one record. Raises ValueError for what is no UTF-8 or no CSV."""
    # The limit is one of the whole process, and made for programs that read what strangers send.
    csv.field_size_limit(max(csv.field_size_limit(), len(record)))
    try:
        rows = list(csv.reader(io.StringIO(record.decode("utf-8-sig"), newline=""), strict=True))
    except csv.Error as exc:
        raise ValueError(str(exc)) from exc
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows in one")
    return rows[0]


def csv_value(record: bytes, header: Sequence[str]) -> bytes:
    """A row as a JSON object of texts. A row that is none stays as it is: its reader sets it aside."""
    try:
        fields = csv_fields(record)
    except ValueError:
        return record
    if len(fields) != len(header):
        return record
    return orjson.dumps(dict(zip(header, fields, strict=True)))


def field_of(value: bytes, name: str) -> object:
    """A field of a JSON object; ``None`` where there is none, or no object."""
    try:
        data = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return data.get(name) if isinstance(data, dict) else None


def ndjson_line(value: bytes | None) -> bytes:
    """A line with its end. Raises ValueError for a value that is no JSON."""
    if value is None:
        return b"null\n"
    data = orjson.loads(value)  # a JSONDecodeError is a ValueError
    return (orjson.dumps(data) if b"\n" in value or b"\r" in value else value.strip()) + b"\n"


def csv_header(columns: Sequence[str]) -> bytes:
    return _csv_line(columns)


def csv_line(value: bytes | None, columns: Sequence[str]) -> bytes:
    """A line with its end; what is missing or null is empty. Raises ValueError for what is no JSON object."""
    data = None if value is None else orjson.loads(value)
    if not isinstance(data, dict):
        raise ValueError("the value is no JSON object")
    return _csv_line(["" if data.get(name) is None else _csv_text(data[name]) for name in columns])


def _csv_text(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _csv_line(fields: Sequence[str]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerow(fields)
    return out.getvalue().encode()
