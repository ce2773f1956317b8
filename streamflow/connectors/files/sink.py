"""`FileSink`: each batch of a topic's partition becomes a file, exactly once.

The folder of a partition holds ``<first>-<next>.ndjson``: the records from offset ``first`` on, and before
``next``. So the names alone are the position, and they never overlap. Beside them lies ``.owner/<epoch>/``,
where the owner of the partition writes what is unfinished. What holds it together:

* *A write* is a file in the owner's folder, made durable, and then one rename into the folder of the
  partition. A SIGKILL before it leaves a file that no reader sees and that the next owner clears away; behind
  it the file is there, whole, and its name says that its records need not come again. A full disk fails
  before the rename.
* *Opening* renames ``.owner/7`` to ``.owner/8``, clears it, and then looks at the names. A process that was
  stopped and wakes has the folder ``7`` in its hands, which is no more: neither can it begin a file there nor
  rename one out of it. Of two that open at once one finds ``7`` gone, and looks again.
* Cleared, and then looked: a rename that the kernel had begun before the folder went has ended by the time
  that its file would be cleared, so its name is seen; or finds the file gone, and fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Sequence
from urllib.parse import quote
from uuid import uuid4

from streamflow.connectors.base import Delivery, SinkFenced, SinkPartition, SinkRecord, unwritten
from streamflow.connectors.files.formats import (
    FileFormat,
    checked_format,
    csv_header,
    csv_line,
    ndjson_line,
)
from streamflow.errors import ConfigurationError

NAME = re.compile(r"(\d{20})-(\d{20})\.\w+$")
OWNER = ".owner"
ATTEMPTS = 100
"""So often opening looks again where others open the partition at the same time"""


class FileSink:
    """Writes the records of a topic into files below ``folder``: a file for each batch.

    ``<folder>/<topic>/<partition>/<first offset>-<next offset>.ndjson``; where the broker gives topics an id
    the partition's folder has it in its name too. With ``format="csv"`` the fields that ``columns`` names are
    written, and a header in each file. Readers see whole files only, and may take them away as long as the
    newest of each partition stays: its name says what need not be written again.

    Workers on several machines need a folder that all of them share, on a file system whose renames are
    atomic for all. Raises ConfigurationError.
    """

    delivery: Delivery = "exactly_once"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        format: str = "ndjson",  # noqa: A002  # what everybody calls it
        columns: Sequence[str] = (),
    ) -> None:
        self._folder = pathlib.Path(folder)
        self._format = checked_format(format, "FileSink")
        self._columns = tuple(columns)
        if (self._format == "csv") != bool(self._columns):
            raise ConfigurationError(
                "FileSink: format='csv' needs columns=, the fields to write, and no other"
            )

    async def open(self, at: SinkPartition) -> FileWriter:
        """Raises OSError; SinkFenced where others open it all the time."""
        return await asyncio.to_thread(self._open, at)

    def _open(self, at: SinkPartition) -> FileWriter:
        name = f"{at.partition}.{quote(at.log, safe='')}" if at.log else str(at.partition)
        folder = self._folder / quote(at.topic, safe="") / name
        folder.mkdir(parents=True, exist_ok=True)
        for above in (self._folder, folder.parent):
            _make_durable(above)
        own = _take_over(folder, at)
        _clear(own)
        for unmade in folder.glob(".new-*"):  # somebody was killed while it came first
            shutil.rmtree(unmade, ignore_errors=True)
        found = [int(match[2]) for each in os.listdir(folder) if (match := NAME.match(each)) is not None]
        return FileWriter(at, folder, own, max(found, default=None), self._format, self._columns)


class FileWriter:
    """Of one partition. See the module."""

    def __init__(
        self,
        at: SinkPartition,
        folder: pathlib.Path,
        own: pathlib.Path,
        position: int | None,
        file_format: FileFormat,
        columns: Sequence[str],
    ) -> None:
        self._at = at
        self._folder = folder
        self._own = own
        self._position = position
        self._format = file_format
        self._columns = columns

    @property
    def position(self) -> int | None:
        return self._position

    async def write(self, records: Sequence[SinkRecord]) -> None:
        """Raises SinkFenced, OSError, and ValueError for a value that the format does not take."""
        records = unwritten(records, self._position)
        if records:
            # Cancelled, the thread goes on: a file that it finishes all the same is found by whoever opens
            # next.
            self._position = await asyncio.to_thread(self._write, records)

    def _write(self, records: Sequence[SinkRecord]) -> int:
        first = records[0].offset if self._position is None else self._position
        behind = records[-1].offset + 1
        name = f"{first:020}-{behind:020}.{self._format}"
        part = self._own / name
        lines = [csv_header(self._columns)] if self._format == "csv" else []
        lines += [self._line(record) for record in records]
        try:
            try:
                _write_durably(part, lines)
                part.rename(self._folder / name)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        except FileNotFoundError:
            raise SinkFenced(f"{self._folder}: another worker writes {self._at} now") from None
        _make_durable(self._folder)
        return behind

    def _line(self, record: SinkRecord) -> bytes:
        try:
            if self._format == "csv":
                return csv_line(record.value, self._columns)
            return ndjson_line(record.value)
        except ValueError as exc:
            raise ValueError(
                f"{self._at}@{record.offset}: can't be written as {self._format}: {exc}"
            ) from exc

    async def close(self) -> None:
        """Nothing is held between two writes."""


def _take_over(folder: pathlib.Path, at: SinkPartition) -> pathlib.Path:
    """The owner's folder, under a new name that no other process knows."""
    owners = folder / OWNER
    if not owners.exists():
        # With an epoch in it from the first moment on: a folder that is not empty is never renamed over, so
        # that of several who come first one makes it.
        new = folder / f".new-{uuid4().hex}"
        with contextlib.suppress(OSError):
            (new / "1").mkdir(parents=True)
            new.rename(owners)
        shutil.rmtree(new, ignore_errors=True)
    for _ in range(ATTEMPTS):
        epoch = max((int(name) for name in os.listdir(owners) if name.isdigit()), default=0)
        own = owners / str(epoch + 1)
        try:
            (owners / str(epoch)).rename(own)
        except FileNotFoundError:
            continue  # somebody else was faster
        _make_durable(owners)
        return own
    raise SinkFenced(f"{folder}: others take {at} over all the time")


def _clear(folder: pathlib.Path) -> None:
    """Of what is in it; where it is gone, its next owner does that."""
    with contextlib.suppress(FileNotFoundError):
        for left in folder.iterdir():
            left.unlink(missing_ok=True)


def _write_durably(path: pathlib.Path, lines: Iterable[bytes]) -> None:
    with path.open("xb") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def _make_durable(folder: pathlib.Path) -> None:
    """The names in a folder are as durable as its files' bytes from here on."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
