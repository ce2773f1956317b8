"""Records into scripts' arguments, and a stream's entries into columns. HOT PATH.

Our entries have the fields ``v`` (value), ``k`` (key), ``t`` (timestamp in ms, where it is not the id's)
and ``h`` (headers as JSON: ``[[name, text], ...]``, ``[name, null, base64]`` for bytes that are no text,
``[name, null, null]`` for one without value).
A field that is not there is a null; an entry with nothing but some of ``k``, ``t``, ``h`` has a null value.
Any other entry without ``v`` is a field map that somebody wrote by hand, and is read as an Event.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import orjson

from streamflow.transports.base import Columns, Headers, Record
from streamflow.transports.redis_streams.names import MS_END, SEQUENCE_BITS, SEQUENCES, offset_of_id

Entry = tuple[bytes, list[bytes]]  # id; names and values in turn
_encode = msgspec.msgpack.encode
_OURS = frozenset((b"k", b"t", b"h"))


class Chunk(NamedTuple):
    """What one script writes. ``runs`` is (stream, number of records, with t and h); see ``lua/lib.lua``."""

    runs: list[tuple[str, int, bool]]
    lengths: list[int]
    data: bytes

    @property
    def head(self) -> bytes:
        return bytes(_encode((self.runs, self.lengths)))


EMPTY = Chunk([], [], b"")


def chunks(
    by_stream: Iterable[tuple[str, Sequence[Record]]], records_max: int, bytes_max: int
) -> list[Chunk]:
    """The records of each stream, in order, in pieces that one script may write.

    A piece holds one run of a stream at most: the script finds out where runs begin before it writes any.
    """
    made: list[Chunk] = []
    runs: list[tuple[str, int, bool]] = []
    lengths: list[int] = []
    parts: list[bytes] = []
    room, size_bytes = records_max, 0
    for stream, records in by_stream:
        at = 0
        while at < len(records):
            if room <= 0 or size_bytes >= bytes_max or at:
                made.append(Chunk(runs, lengths, b"".join(parts)))
                runs, lengths, parts, room, size_bytes = [], [], [], records_max, 0
            piece = records[at : at + room]
            sizes, data = _plain(piece)
            wide = not data
            if wide or len(data) > bytes_max - size_bytes:
                piece = _within(piece, bytes_max - size_bytes)
                wide = any(record[4] or record[5] is not None or record[3] is None for record in piece)
                columns = [_wide(record) if wide else (record[3], record[2]) for record in piece]
                flat: list[bytes | None] = list(chain.from_iterable(columns))
                sizes = [-1 if field is None else len(field) for field in flat]
                data = b"".join(filter(None, flat))
            lengths += sizes
            parts.append(data)
            runs.append((stream, len(piece), wide))
            room -= len(piece)
            size_bytes += len(data)
            at += len(piece)
    if runs:
        made.append(Chunk(runs, lengths, b"".join(parts)))
    return made


def _within(records: Sequence[Record], bytes_max: int) -> Sequence[Record]:
    """As many of the first records as fit, one at least."""
    size_bytes = 0
    for n, record in enumerate(records):
        size_bytes += len(record[3] or b"") + len(record[2] or b"")
        if size_bytes > bytes_max and n:
            return records[:n]
    return records


def _plain(piece: Sequence[Record]) -> tuple[list[int], bytes]:
    """Lengths and bytes of value and key of each, all of it in C; nothing where one has anything else."""
    fields: list[Any] = list(chain.from_iterable(piece))
    width, stamps = len(Record._fields), fields[5 :: len(Record._fields)]
    if any(fields[4::width]) or stamps.count(None) < len(stamps):
        return [], b""
    flat: list[Any] = [None] * (2 * len(piece))
    flat[::2], flat[1::2] = fields[3::width], fields[2::width]
    try:
        return list(map(len, flat)), b"".join(flat)
    except TypeError:  # a null
        return [], b""


def _wide(record: Record) -> tuple[bytes | None, bytes | None, bytes | None, bytes | None]:
    _, _, key, value, headers, timestamp_ms = record
    stamp = None if timestamp_ms is None else b"%d" % timestamp_ms
    text = pack_headers(headers) if headers else None
    if value is None and key is None and stamp is None and text is None:
        text = b"[]"  # an entry has one field at least
    return value, key, stamp, text


def pack_headers(headers: Headers) -> bytes:
    packed: list[list[str | None]] = []
    for name, value in headers:
        if value is None:
            packed.append([name, None, None])
            continue
        data = bytes(value)
        try:
            packed.append([name, data.decode()])
        except UnicodeDecodeError:
            packed.append([name, None, b64encode(data).decode()])
    return orjson.dumps(packed)


def unpack_headers(text: bytes) -> Headers:
    """What can't be read so is kept whole, as one header of the field's own name."""
    try:
        found: list[tuple[str, bytes | None]] = []
        for item in orjson.loads(text):
            name, value = item[0], item[1]
            data = None
            if value is not None:
                data = str(value).encode()
            elif item[2] is not None:
                data = b64decode(item[2])
            found.append((str(name), data))
    except (ValueError, TypeError, LookupError):
        return [("h", text)]
    return found


def columns(entries: Sequence[Entry]) -> Columns:
    """Entries in the order of their ids. Raises IdOutOfRange for one that has no offset."""
    if not entries:
        return Columns([], [], [], [], None)
    # All ids as one text, cut into numbers: half the time of one at a time.
    ids = b"-".join([entry[0] for entry in entries])
    numbers = list(map(int, ids.split(b"-")))
    stamps, sequences = numbers[::2], numbers[1::2]
    if stamps[-1] >= MS_END or max(sequences) >= SEQUENCES:
        for entry in entries:
            offset_of_id(entry[0])
    offsets = [ms << SEQUENCE_BITS | sequence for ms, sequence in zip(stamps, sequences, strict=True)]
    fields = [entry[1] for entry in entries]
    # Nearly always all entries look the same: then whole columns are taken at once.
    lengths = set(map(len, fields))
    if {f[0] for f in fields} == {b"v"}:
        if lengths == {4} and {f[2] for f in fields} == {b"k"}:
            return Columns(offsets, [f[3] for f in fields], [f[1] for f in fields], stamps, None)
        if lengths == {2}:
            return Columns(offsets, [None] * len(fields), [f[1] for f in fields], stamps, None)
    return _slowly(entries, offsets, stamps)


def _slowly(entries: Sequence[Entry], offsets: list[int], stamps: list[int]) -> Columns:
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    headers: list[Headers] = []
    for at, (entry_id, flat) in enumerate(entries):
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        if b"v" in fields or _OURS.issuperset(fields):
            keys.append(fields.get(b"k"))
            values.append(fields.get(b"v"))
            stamp = fields.get(b"t", b"")
            if stamp.removeprefix(b"-").isdigit():
                stamps[at] = int(stamp)
            text = fields.get(b"h")
            headers.append(() if text is None else unpack_headers(text))
        else:
            keys.append(fields.get(b"key"))
            values.append(event_of(entry_id, stamps[at], fields))
            headers.append(())
    return Columns(offsets, keys, values, stamps, headers if any(headers) else None)


def event_of(entry_id: bytes, ms: int, fields: dict[bytes, bytes]) -> bytes:
    """A field map as the JSON of an Event; bytes that are no JSON where a field is no text."""
    try:
        texts = {name.decode(): value.decode() for name, value in fields.items()}
    except UnicodeDecodeError:
        return b"\xff" + b" ".join(part for pair in fields.items() for part in pair)
    texts.pop("key", None)
    event: dict[str, Any] = {"id": texts.pop("id", entry_id.decode())}
    if "type" in texts:
        event["type"] = texts.pop("type")
    stamp = texts.pop("timestamp", None)
    event["timestamp"] = ms if stamp is None else int(stamp) if _is_integer(stamp) else stamp
    data = texts.pop("data", None)
    if data is None:
        event["data"] = texts
        return orjson.dumps(event)
    try:
        event["data"] = orjson.loads(data)
    except ValueError:
        event["data"] = data  # no object: the topic's decoder says so
    return orjson.dumps({**texts, **event})


def _is_integer(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 16


def of_snapshot(packed: bytes) -> Entry:
    """An entry as the snapshot keeps it; see ``lua/compact.lua``."""
    head, _, rest = packed.partition(b"\n")
    entry_id, *lengths = head.split(b" ")
    fields: list[bytes] = []
    at = 0
    for length in map(int, lengths):
        fields.append(rest[at : at + length])
        at += length
    return entry_id, fields
