"""What agents have in flight, noted in a file so that it outlives the process: poison that kills it is found.

One file for each life of a worker, in a folder that all workers of an app on one machine share; a lock that
ends with the process tells who is dead. A slot for each consumer and partition says which events were taken
last: one `pwrite` for each chunk, none for an event, and no wait for a disk. What SIGKILL leaves is in the
page cache. What a power cut leaves does not matter: another boot id means that no event did it.

What was in flight in a life that ended so is *suspect*: whoever has the partition next on this machine takes
each such event alone, with no other in flight in its process, and notes that. A death with an event alone in
flight is held against it, unless somebody had asked the worker to end, or a commit was under way, which fails
for reasons of its own. At `DEATHS_MAX` such deaths of one event it is set aside.

Notes are hints: one that is lost, or that another machine has, costs a further death and no event. One that
is too old names offsets below the position, or an event whose bytes are others than were noted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import secrets
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from streamflow.codecs.chunk import Chunk
from streamflow.transports.base import TopicPartition

logger = logging.getLogger(__name__)

MAGIC = b"SFN1"
HEADER = struct.Struct("<4sBB36s")  # magic, somebody wants its end, a commit is under way, boot id
ASKED_TO_END, COMMITTING = 4, 5
HEADER_BYTES, SLOT_BYTES, VALUES_AT = 64, 1_024, 984
VALUES = struct.Struct("<qqqII")  # first, end; alone: offset or -1, checksum, deaths so far and this one
TAKEN = struct.Struct("<qq")
ALONE = struct.Struct("<qII")
NOBODY = ALONE.pack(-1, 0, 0)
FILES_MAX = 100
BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")

Slot = tuple[str, str, int]
"""(consumer, topic, partition)"""


class Suspicion(NamedTuple):
    """Events from ``first`` to before ``end`` were in flight; ``alone`` (or -1) with no other, as its process
    died: ``deaths`` times so far. ``checksum`` is that event's.
    """

    first: int
    end: int
    alone: int = -1
    checksum: int = 0
    deaths: int = 0


def checksum(chunk: Chunk, index: int) -> int:
    """By which an event is known again where a topic was made anew."""
    return zlib.crc32(chunk.raw_values[index] or b"", zlib.crc32(chunk.raw_keys[index] or b""))


class FlightNote:
    """The note of this life, and what those of dead ones say. Until `open` it notes nothing."""

    def __init__(self) -> None:
        self._folder: pathlib.Path | None = None
        self._path: pathlib.Path | None = None
        self._file = -1
        self._slots: dict[Slot, int] = {}  # where its values lie in the file
        self._alone_at = -1  # where the values of the event that is alone lie
        self._dead: dict[Slot, list[Suspicion]] = {}
        self._trusted: set[str] = set()

    def open(self, folder: pathlib.Path) -> None:
        """Notes from now on. Where the folder can't be written it says so, and notes nothing."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{secrets.token_hex(8)}.note"
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            _lock(self._file, shared=False)
            os.pwrite(self._file, HEADER.pack(MAGIC, 0, 0, _boot_id()), 0)
        except (OSError, ImportError) as exc:
            self._give_up(exc)
            return
        self._folder, self._path = folder, path
        self.read_dead()

    def _give_up(self, exc: Exception) -> None:
        logger.warning(
            "no note of what is in flight, so an event that kills this process is not found: %s", exc
        )
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, data: bytes, at: int) -> None:
        if self._file >= 0:
            try:
                os.pwrite(self._file, data, at)
            except OSError as exc:
                self._give_up(exc)

    # -- this life ----------------------------------------------------------------------------------

    def took(self, consumer: str, topic: str, partition: int, first: int, end: int) -> None:
        """Of this consumer and partition the events from ``first`` to before ``end`` may be in flight."""
        if self._file >= 0:
            self._write(TAKEN.pack(first, end), self._at((consumer, topic, partition)))

    def _at(self, slot: Slot) -> int:
        at = self._slots.get(slot)
        if at is None:
            start = HEADER_BYTES + SLOT_BYTES * len(self._slots)
            self._slots[slot] = at = start + VALUES_AT
            name = json.dumps(slot).encode()[: VALUES_AT - 2]
            values = VALUES.pack(0, 0, -1, 0, 0)
            # The values first: a slot counts when its name has a length.
            self._write(values, at)
            self._write(name, start + 2)
            self._write(struct.pack("<H", len(name)), start)
        return at

    def alone(self, consumer: str, chunk: Chunk, index: int, deaths: int) -> None:
        """From now on this event is the only one in flight; it was so at ``deaths`` deaths before."""
        at = self._alone_at = self._at((consumer, chunk.topic, chunk.partition)) + TAKEN.size
        self._write(ALONE.pack(chunk.offsets[index], checksum(chunk, index), deaths + 1), at)

    def not_alone(self) -> None:
        """It is done or undone, or others are in flight too."""
        if self._alone_at >= 0:
            self._write(NOBODY, self._alone_at)
            self._alone_at = -1

    def trust(self, consumer: str) -> None:
        """Its event waits for others, which can't begin beside one that is alone: none of its is suspect."""
        if any(slot[0] == consumer for slot in self._dead) and consumer not in self._trusted:
            logger.warning("%s: its event waits for others: what was in flight goes on beside them", consumer)
            self._trusted.add(consumer)

    def trusts(self, consumer: str) -> bool:
        return consumer in self._trusted

    def committing(self, *, under_way: bool) -> None:
        """A commit begins, or has ended."""
        self._write(b"\1" if under_way else b"\0", COMMITTING)

    def end_wanted(self) -> None:
        """Somebody has asked for the end of this process: from here on nothing is held against an event."""
        self._write(b"\1", ASKED_TO_END)

    def close(self) -> None:
        """A clean end: nothing is in flight. Idempotent."""
        if self._file >= 0 and self._path is not None and self._folder is not None:
            os.close(self._file)
            self._file = -1
            with contextlib.suppress(OSError):  # others may be there
                self._path.unlink()
                self._folder.rmdir()
                self._folder.parent.rmdir()

    # -- dead ones ----------------------------------------------------------------------------------

    def of_dead(self, consumer: str, at: TopicPartition) -> list[Suspicion]:
        """What is suspect, of this consumer and partition."""
        return self._dead.get((consumer, *at), [])

    def read_dead(self) -> None:
        """Reads the notes of all lives on this machine that have ended."""
        if self._file < 0 or self._folder is None:
            return
        self._dead = {}
        with contextlib.suppress(OSError):
            paths = [path for path in self._folder.glob("*.note") if path != self._path]
            paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
            for number, path in enumerate(paths):
                text = _read_dead(path)
                if text is None:
                    continue
                if number >= FILES_MAX or text[ASKED_TO_END]:
                    path.unlink(missing_ok=True)
                else:
                    for slot, suspicion in _suspicions(text):
                        self._dead.setdefault(slot, []).append(suspicion)


def _read_dead(path: pathlib.Path) -> bytes | None:
    """The note, if its writer is dead."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _lock(file, shared=True)
        text = os.pread(file, os.fstat(file).st_size, 0)
    except OSError:
        return None  # its writer lives
    finally:
        os.close(file)
    return text if text[: len(MAGIC)] == MAGIC and len(text) >= HEADER.size else None


def _suspicions(text: bytes) -> Iterator[tuple[Slot, Suspicion]]:
    _, _, committing, boot_id = HEADER.unpack_from(text)
    is_evidence = not committing and boot_id == _boot_id()
    for start in range(HEADER_BYTES, len(text) - VALUES_AT - VALUES.size + 1, SLOT_BYTES):
        (length,) = struct.unpack_from("<H", text, start)
        try:
            consumer, topic, partition = json.loads(text[start + 2 : start + 2 + length])
        except ValueError:
            continue  # it was cut short
        first, end, alone, found, deaths = VALUES.unpack_from(text, start + VALUES_AT)
        if alone >= 0:
            first, end = min(first, alone), max(end, alone + 1)
        deaths = deaths if is_evidence else max(0, deaths - 1)
        if first < end:
            yield (consumer, topic, partition), Suspicion(first, end, alone, found, deaths)


def _boot_id() -> bytes:
    try:
        return BOOT_ID.read_bytes().strip()[:36].ljust(36)
    except OSError:
        return b" " * 36


def _lock(file: int, *, shared: bool) -> None:
    """Raises OSError where another process has it; it ends with the process, however that ends."""
    import fcntl

    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
