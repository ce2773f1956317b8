"""The contracts of sources and sinks. One is done when its suite in `streamflow.testing` passes with it.

A **source** is read into a topic. What was read and the place behind it are in one checkpoint, so that after
a kill the place says what the topic holds, no more and no less. Obligations:

1. *Replayable.* `Source.read`, begun at a place that it has given, gives what lies behind it, in the same
   order, however often: after a kill, an aborted commit or a rebalance it is begun again at the last place
   that became durable, and what was read since comes a second time. Where the world has forgotten it (a file
   that was taken away) it must raise, or go on with what there is: never begin elsewhere in silence.
2. *A place says all.* Nothing else is kept between two reads. It is JSON, and small: it is written with each
   checkpoint. It is never changed once it was given.
3. *Nothing of what was read is undone outside.* Reading must not delete, acknowledge or mark: whether the
   checkpoint becomes durable is known later, if ever.
4. *One reader a partition, nearly.* A partition is read by the worker that owns it. One that was stopped and
   wakes may read on for a moment; what it reads has no effect, as its commit is fenced.
5. *Errors.* OSError, TimeoutError and TransientError are waited out, and reading begins again behind the last
   batch. Everything else stops the worker; the message names the place (a file and its line) and the cure.
6. *It never blocks the event loop*, and ends at once where it is cancelled. While there is nothing to read it
   sleeps by the clock that it is given.

A **sink** is given what a topic holds, partition by partition, in the log's order. What it is given is
committed and will never be otherwise, so a record is known by its place in the log alone. Obligations:

1. *Positions.* A sink that is `"exactly_once"` keeps, with what it has written and in the same act, the
   offset behind the last record written. `Sink.open` gives it. What lies before it is not given to it again.
2. *All or nothing.* `SinkWriter.write` makes all its records and the new position visible together, or
   nothing of them. When it returns they are durable. When it raises it may be either: the writer is closed,
   another is opened, and its position tells.
3. *Fencing.* `Sink.open` ends the power of every writer that was opened for the partition before, in whatever
   process: once it has returned, their writes have no effect, and raise SinkFenced. A worker that was
   stopped and wakes writes nothing, not even what it has begun.
4. *What is unfinished is nobody's.* What a killed writer leaves (half a file, an open transaction) is
   invisible, holds nobody up for longer than a few seconds, and is cleared away by a writer that comes later.
5. A sink that is `"at_least_once"` has no place for positions: it is given records again after a kill, each
   with the name `SinkRecord.id`, which is the same each time, so that whoever is behind it can tell.
6. *Errors.* OSError, TimeoutError, TransientError (SinkUnavailable) are waited out for as long as the app
   says. Everything else is the record's fault: each record of the batch is tried alone, and that one is set
   aside.
7. *It never blocks the event loop.*
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

from streamflow.clock import Clock
from streamflow.errors import TransientError
from streamflow.transports.base import Headers

Place: TypeAlias = "str | int | float | bool | Sequence[Place] | dict[str, Place] | None"
"""Where a source goes on: a JSON value of its own."""
Delivery = Literal["exactly_once", "at_least_once"]


class SinkUnavailable(TransientError):
    """What is behind a sink can't be reached, or has no room: waiting may cure it."""


class SinkFenced(TransientError):
    """Another writer was opened for the partition: nothing of this write has happened.

    Transient, as whoever still has the partition goes on with a new writer.
    """


class SourceRecord(NamedTuple):
    """What becomes a record of the topic. ``key`` is encoded by the topic's key type.

    ``value``: as its topic's readers decode it. ``timestamp_ms`` ``None``: now.
    """

    key: object
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """``place``: behind these records. A batch without records moves the place all the same."""

    records: Sequence[SourceRecord]
    place: Place


class Source(Protocol):
    """Something that can be read again from a place. See the obligations above."""

    @property
    def partitions(self) -> int:
        """So many workers may read side by side. Places belong to partitions: it stays as it was."""
        ...

    def read(self, partition: int, place: Place, clock: Clock) -> AsyncIterator[SourceBatch]:
        """What lies behind ``place`` (``None``: all), for ever; it waits where there is nothing."""
        ...


class SinkPartition(NamedTuple):
    """One partition of a topic. ``log``: the id of the topic, where the broker tells it, else ``""``.

    A topic that was deleted and made again has another one: its offsets begin anew, so that positions of the
    former say nothing of it.
    """

    topic: str
    partition: int
    log: str = ""

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class SinkRecord(NamedTuple):
    """One committed record of a topic. ``event``: as the topic's type has decoded it."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    event: object = None

    def id(self, at: SinkPartition) -> str:
        """The same whenever it is given, and no other record's."""
        return ":".join((at.topic, at.log, str(at.partition), str(self.offset)))


class SinkWriter(Protocol):
    """Writes one partition, until another one is opened for it."""

    @property
    def position(self) -> int | None:
        """The offset behind what is written; ``None``: nothing is, or nobody knows."""
        ...

    async def write(self, records: Sequence[SinkRecord]) -> None:
        """All or nothing, durable when it returns; the offsets ascend. Raises SinkFenced."""
        ...

    async def close(self) -> None:
        """Lets go of what it holds here. Idempotent; it is no fence, and never raises."""
        ...


class Sink(Protocol):
    """Something that a topic is written to. See the obligations above."""

    @property
    def delivery(self) -> Delivery: ...

    async def open(self, at: SinkPartition) -> SinkWriter:
        """A writer for a partition; all that were opened for it before are fenced from here on."""
        ...


def unwritten(records: Sequence[SinkRecord], position: int | None) -> list[SinkRecord]:
    """Those that lie at the position of a writer or behind: what lies before it is written."""
    return [record for record in records if position is None or record.offset >= position]
