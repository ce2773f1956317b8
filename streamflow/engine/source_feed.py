"""Reads one partition of a source into a topic, as part of the checkpoint.

What was read since the last cut is held in memory; a cut takes all of it, and the place behind it, in one
synchronous step. So the topic's records and the place are one commit, under the fence of the assignment that
has the partition:

* Killed before the commit: neither is there, and the next owner reads from the place before. Behind it: both
  are.
* A commit that had no effect is tried again as it is; what is read meanwhile belongs to the next cut.
* A commit whose outcome is unknown, or that was fenced: all of this is dropped, and a new feed begins at the
  place that the log holds. What a stopped worker reads when it wakes goes nowhere.
* Without transactions the records are durable before the place: what was killed in between comes a second
  time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from streamflow.clock import Clock
from streamflow.connectors.base import Place, Source, SourceBatch, SourceRecord
from streamflow.engine.trouble import Trouble
from streamflow.errors import RecordTooLarge, StreamflowError
from streamflow.processing.retries import Transient
from streamflow.state.committed import CommittedChanges
from streamflow.state.cut import Cut
from streamflow.state.progress import Progress
from streamflow.transports.base import Record, TopicPartition

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

logger = logging.getLogger(__name__)

AHEAD_RECORDS_MAX = 20_000
AHEAD_BYTES_MAX = 16 << 20
"""So much is read ahead of a checkpoint, at most a batch more"""
WAIT_FIRST_MS = 200.0
WAIT_MAX_MS = 10_000.0
RECORD_OVERHEAD_BYTES = 96


class SourceFailed(StreamflowError):
    """A source gave up; the message names it, and what it says."""


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A source, and the topic that it is read into. ``key``: as the topic's keys are encoded.

    ``record_bytes_max``: what is larger stops the worker. ``transient``: errors that are waited out.
    """

    name: str
    topic: str
    source: Source
    key: Callable[[object], bytes | None]
    record_bytes_max: int
    transient: Transient = field(default_factory=Transient)

    @property
    def consumer(self) -> str:
        return f"source:{self.name}"


class SourceFeed:
    """One partition of a source, for as long as an assignment holds: a `state.checkpointable.Checkpointable`.

    ``place``: (topic, key) -> partition; ``limits``: topic -> bytes of its largest record, where that is
    known. ``on_full`` is told when nothing more is read before the next checkpoint.
    """

    def __init__(
        self,
        spec: SourceSpec,
        progress: Progress,
        clock: Clock,
        place: Callable[[str, bytes | None], int],
        limits: Mapping[str, int],
        on_full: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.failure: BaseException | None = None
        self._progress = progress
        self._place: Place = cast("Place", progress.place)  # behind what was read
        self._clock = clock
        self._partition_of = place
        self._limits = limits
        self._on_full = on_full
        self._trouble = Trouble(logger, clock, f"source {spec.name}[{progress.partition}] can't be read")
        self._waiting: list[Record] = []
        self._bytes = 0
        self._moved = False
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """The partition is open: reads from its place on."""
        name = f"streamflow-source-{self.spec.name}-{self._progress.partition}"
        self._task = asyncio.create_task(self._run(), name=name)

    def stop(self) -> None:
        """The partition is gone, and what was read and is in no cut with it."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        wait_ms = WAIT_FIRST_MS
        while self.failure is None:
            before = self._place
            try:
                await self._read()
                raise SourceFailed("it ended; a source waits where there is nothing to read")
            except Exception as exc:  # noqa: BLE001 - a user's source may raise anything
                if not self.spec.transient.holds(exc):
                    what = f"source {self.spec.name!r}, partition {self._progress.partition}: {exc}"
                    self.failure = SourceFailed(what).with_traceback(exc.__traceback__)
                    self._on_full()  # the checkpoint's loop ends the worker
                    return
                self._trouble.failed(exc)
            wait_ms = WAIT_FIRST_MS if self._place is not before else min(wait_ms * 2, WAIT_MAX_MS)
            await self._clock.sleep_ms(wait_ms)

    async def _read(self) -> None:
        batches = self.spec.source.read(self._progress.partition, self._place, self._clock)
        # What a source holds open is closed at once, not when somebody collects it.
        async with aclosing(cast("AsyncGenerator[SourceBatch, None]", batches)):
            async for batch in batches:
                self._trouble.worked()
                self._take(batch)
                while len(self._waiting) >= AHEAD_RECORDS_MAX or self._bytes >= AHEAD_BYTES_MAX:
                    self._room.clear()
                    self._on_full()
                    await self._room.wait()
                await asyncio.sleep(0)

    def _take(self, batch: SourceBatch) -> None:
        """All of it or nothing: a place never stands behind records that are not taken."""
        records = [self._record(each) for each in batch.records]
        self._waiting += records
        self._bytes += sum(len(record.value or b"") for record in records)
        self._place = batch.place
        self._moved = True

    def _record(self, read: SourceRecord) -> Record:
        topic, key = self.spec.topic, self.spec.key(read.key)
        size = RECORD_OVERHEAD_BYTES + len(key or b"") + len(read.value or b"")
        size += sum(len(name) + len(text or b"") + 8 for name, text in read.headers)
        most = min(self.spec.record_bytes_max, self._limits.get(topic, self.spec.record_bytes_max))
        if size > most:
            raise RecordTooLarge(
                f"a record of {size} bytes for topic {topic!r}, at most {most}, behind {self._place!r}: "
                "raise producer_max_request_size and the topic's max.message.bytes, or take it out"
            )
        return Record(topic, self._partition_of(topic, key), key, read.value, read.headers, read.timestamp_ms)

    # -- the checkpoint's side -----------------------------------------------------------------------

    def due(self) -> bool:
        return self._moved

    def begin_cut(self) -> None:
        """Nothing is in flight here: what was taken is whole batches."""

    def cut(self, cut: Cut) -> None:
        if not self._moved:
            return
        cut.sent.extend((0, record, None) for record in self._waiting)
        self._progress.move_to(self._place, len(self._waiting))
        self._waiting, self._bytes, self._moved = [], 0, False

    def committed(self, written: Mapping[TopicPartition, int]) -> Iterable[CommittedChanges]:
        self._room.set()
        return ()
