"""`FileSource`: each line of the files that a pattern names becomes a record, once.

The place is a number of bytes for each file, and a checksum of the file's beginning, so that another file
under the same name is not taken for the one that was read. Nothing is written beside the files, moved or
deleted: how far they are read stands in the checkpoint alone, with the records. So a SIGKILL, a rebalance or
an aborted commit leaves the place of the last checkpoint, and what lies behind it is read again. A worker
that was stopped and wakes reads on for a moment, and its commit is fenced.
"""

from __future__ import annotations

import asyncio
import glob
import os
import pathlib
import zlib
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from streamflow.clock import Clock
from streamflow.connectors.base import Place, SourceBatch, SourceRecord
from streamflow.connectors.files.formats import (
    FileFormat,
    checked_format,
    csv_fields,
    csv_value,
    field_of,
    records_in,
)
from streamflow.errors import ConfigurationError, StreamflowError
from streamflow.partitioner import fnv1a

HEAD_BYTES = 1_024
"""So much of a file's beginning tells it from others"""
READ_BYTES = 1 << 20
RECORD_BYTES_MAX = 64 << 20
FILES_MAX = 1_000
"""A place names each file; it is written with each checkpoint, and must fit into a record."""


class FileReplaced(StreamflowError):
    """A file is not the one that was read: shorter than it was, or with another beginning."""


class _Read(NamedTuple):
    """How far a file is read: so many bytes, and the checksum of the first of those."""

    offset: int = 0
    head: int = 0


@dataclass(slots=True)
class _Seen:
    """The sizes that files had when they were looked at, and since when."""

    sizes: dict[str, tuple[int, float]] = field(default_factory=dict)

    def has_settled(self, name: str, size: int, now_ms: float, settle_ms: float) -> bool:
        """Has the file had this size for so long?"""
        before, since_ms = self.sizes.get(name, (-1, now_ms))
        if before != size:
            since_ms = now_ms
            self.sizes[name] = size, now_ms
        return now_ms - since_ms >= settle_ms


class FileSource:
    """Reads the files that ``pattern`` names (``in/*.ndjson``; ``**`` for folders below), in the order of
    their names.

    Files may come at any time, and grow at their end: they are looked at each ``poll_s`` seconds. A line is
    read when its end is there; the last one of a file also where the file has not grown for ``settle_s``
    seconds. A file that was read may be taken away. It is remembered all the same, in case that it was only
    out of sight (a disk that was not mounted); so give each file a name of its own: FileReplaced stops the
    worker where there is another one under a name that was read.

    ``format="ndjson"``: each line is a record's value. ``"csv"``: the first line names the fields, each
    further row is a JSON object of texts. A line that is neither goes into the topic as it is, whose readers
    set it aside. ``key``: the field that is the record's key. ``partitions``: so many workers share the
    files, by name. A partition has at most 1,000 files at a time; of those that are gone it forgets the first
    by name when it has more. Raises ConfigurationError.
    """

    def __init__(
        self,
        pattern: str | os.PathLike[str],
        *,
        format: str = "ndjson",  # noqa: A002  # what everybody calls it
        key: str | None = None,
        partitions: int = 1,
        poll_s: float = 1.0,
        settle_s: float = 10.0,
    ) -> None:
        if partitions < 1 or poll_s <= 0 or settle_s < 0:
            raise ConfigurationError(
                f"FileSource({os.fspath(pattern)!r}): partitions= from 1, poll_s= above 0, settle_s= from 0"
            )
        self.partitions = partitions
        self._pattern = os.fspath(pattern)
        self._format: FileFormat = checked_format(format, f"FileSource({self._pattern!r})")
        self._key = key
        self._poll_ms = poll_s * 1_000
        self._settle_ms = settle_s * 1_000

    async def read(self, partition: int, place: Place, clock: Clock) -> AsyncIterator[SourceBatch]:
        """Raises OSError, FileReplaced, ConfigurationError."""
        read = _reads_of(place)
        seen = _Seen()
        while True:
            names = await asyncio.to_thread(self._names, partition)
            for name in names:
                while True:
                    before = read.get(name, _Read())
                    whole = self._is_whole(name, before, seen, clock.monotonic_ms())
                    records, now = await asyncio.to_thread(self._read, name, before, whole)
                    if now.offset == before.offset:
                        break
                    read[name] = now
                    _forget(read, names)
                    yield SourceBatch(records, _place_of(read))
            await clock.sleep_ms(self._poll_ms)

    def _names(self, partition: int) -> list[str]:
        found = sorted(name for name in glob.glob(self._pattern, recursive=True) if os.path.isfile(name))
        mine = [name for name in found if fnv1a(name.encode(), self.partitions) == partition]
        if len(mine) > FILES_MAX:
            raise ConfigurationError(
                f"{self._pattern}: {len(mine)} files are there for one partition, and how far each is read "
                f"must fit into a record: at most {FILES_MAX}. Take away what is read, or say partitions="
            )
        return mine

    def _is_whole(self, name: str, read: _Read, seen: _Seen, now_ms: float) -> bool:
        """Is a last line without its end to be taken?"""
        try:
            size = os.stat(name).st_size
        except FileNotFoundError:
            return False
        return size > read.offset and seen.has_settled(name, size, now_ms, self._settle_ms)

    def _read(self, name: str, read: _Read, whole: bool) -> tuple[list[SourceRecord], _Read]:
        """The next records of a file, and how far it is read then; unmoved where there is no whole one."""
        try:
            file = pathlib.Path(name).open("rb")  # noqa: SIM115  # closed below
        except FileNotFoundError:
            return [], read  # taken away since we looked
        with file:
            head = file.read(HEAD_BYTES)
            size = os.fstat(file.fileno()).st_size
            if size < read.offset or zlib.crc32(head[: read.offset]) != read.head:
                raise FileReplaced(
                    f"{name}: it was read up to byte {read.offset}, and is another file now ({size} bytes): "
                    "give each file a name of its own, and put it there under that name when it is whole"
                )
            header = self._header(file, whole)
            if header is None:
                return [], read
            begin = max(read.offset, header[1])
            found = self._next_records(file, begin, size, whole)
            offset = begin + found[-1][0] if found else read.offset
            records = [self._record(line, header[0]) for _, line in found if line]
            return records, _Read(offset, zlib.crc32(head[:offset]))

    def _header(self, file: BinaryIO, whole: bool) -> tuple[list[str], int] | None:
        """The names of the fields, and the bytes behind them; ``None``: they are not there yet."""
        if self._format != "csv":
            return [], 0
        found = self._next_records(file, 0, os.fstat(file.fileno()).st_size, whole)
        if not found:
            return None
        end, line = found[0]
        try:
            return csv_fields(line), end
        except ValueError as exc:
            raise ConfigurationError(f"{file.name}: its first line names no fields: {exc}") from exc

    def _next_records(self, file: BinaryIO, begin: int, size: int, whole: bool) -> list[tuple[int, bytes]]:
        """Some records from byte ``begin`` on, as `records_in` has them; none: no whole one is there."""
        amount = READ_BYTES
        while True:
            file.seek(begin)
            text = file.read(amount)
            is_end = begin + len(text) >= size
            found = list(records_in(text, self._format, whole=whole and is_end))
            if found or is_end:
                return found
            if amount >= RECORD_BYTES_MAX:
                raise ConfigurationError(
                    f"{file.name}: no record ends within {amount} bytes behind byte {begin}: is it "
                    f"{self._format}?"
                )
            amount *= 4

    def _record(self, line: bytes, header: list[str]) -> SourceRecord:
        value = csv_value(line, header) if self._format == "csv" else line
        return SourceRecord(None if self._key is None else field_of(value, self._key), value)


def _forget(read: dict[str, _Read], names: Collection[str]) -> None:
    """Of the files that are gone the first by name, where there are too many to remember."""
    if len(read) > FILES_MAX:
        gone = sorted(read.keys() - set(names))
        for name in gone[: len(read) - FILES_MAX]:
            del read[name]


def _reads_of(place: Place) -> dict[str, _Read]:
    """The inverse of `_place_of`. Raises ConfigurationError for a place of another source."""
    read: dict[str, _Read] = {}
    for name, entry in (place if isinstance(place, dict) else {}).items():
        match entry:
            case [int() as offset, int() as head]:
                read[name] = _Read(offset, head)
            case _:
                raise ConfigurationError(f"FileSource: {entry!r} is no place in {name}: name the source anew")
    return read


def _place_of(read: Mapping[str, _Read]) -> Place:
    return {name: [one.offset, one.head] for name, one in read.items()}
