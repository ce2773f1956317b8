"""What the source partitions of one worker tell the final stages of an aggregate: how far they have come.

One record for each shuffle partition with all of them, behind the partials of the same checkpoint: wherever
partials went anywhere, to every shuffle partition and in the same commit. So what a final stage has read up
to such a record is exactly what the source partitions held before the positions in it: nothing of them is
still to come, in any shuffle partition, and nothing of later events is there. A commit without partials
changes no row, so its positions may wait, for a second.

The record is whole, so that compaction may keep the newest alone. Its key is the least source partition in
it: who reads keeps, of each source partition, what came last. Where partitions move, the newest record of a
key may lack one of an older one. Then a stage that begins anew knows of an earlier watermark and position of
it, or of none, until the new owner's first checkpoint says more: that closes nothing too early, and what is
closed stays closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import orjson

from streamflow.state.committed import CommittedChanges
from streamflow.state.cut import Cut
from streamflow.state.progress import Progress
from streamflow.transports.base import Record, TopicPartition

KIND = "watermarks"
SEND_MS = 1_000.0
"""No more often than this, unless a cut has partials, or may be the last."""


@dataclass(slots=True)
class SourceWatermark:
    """How far a source partition's partials have come. ``lag``: records still to be read, if known."""

    watermark_ms: int | None
    position: int
    lag: int | None = None


class SourceWatermarks:
    """A `Checkpointable`: sends what has moved to the ``partitions`` of the shuffle ``topic``.

    ``lag`` gives the records still to be taken, as far as it is known, and ``clock_ms`` a monotonic time.
    """

    def __init__(
        self,
        topic: str,
        partitions: int,
        lag: Callable[[Progress], int | None],
        clock_ms: Callable[[], float],
    ) -> None:
        self._topic = topic
        self._partitions = partitions
        self._lag = lag
        self._clock_ms = clock_ms
        self._progress: dict[int, Progress] = {}  # source partition ->
        self._sent: dict[int, SourceWatermark] = {}
        self._sent_ms = 0.0
        self._has_partials = False  # did this cut send any?

    def hold(self, progress: Progress) -> None:
        """A source partition that serves from now on."""
        self._progress[progress.partition] = progress

    def _now(self) -> dict[int, SourceWatermark]:
        return {
            partition: SourceWatermark(progress.watermark_ms, progress.position, self._lag(progress))
            for partition, progress in self._progress.items()
        }

    def due(self) -> bool:
        """Has one moved, and may it be told; or has one never been told?"""
        now = self._now()
        if any(at not in self._sent and mark.watermark_ms is not None for at, mark in now.items()):
            return True
        return (
            now != self._sent
            and self._clock_ms() - self._sent_ms >= SEND_MS
            and any(mark != self._sent.get(at) and mark.watermark_ms is not None for at, mark in now.items())
        )

    def begin_cut(self) -> None:
        """What it tells is what the cut makes durable; nothing is written to it."""
        self._has_partials = False

    def follow_partials(self) -> None:
        """This cut has partials: how far they have come stands behind them."""
        self._has_partials = True

    def cut(self, cut: Cut) -> None:
        """Appends a record for each shuffle partition, when something has moved."""
        now = self._now()
        is_new = now.keys() != self._sent.keys()
        if not now or now == self._sent:
            return
        if not (is_new or self._has_partials or cut.last or cut.now_ms - self._sent_ms >= SEND_MS):
            return
        self._sent, self._sent_ms = now, cut.now_ms
        key = orjson.dumps([KIND, min(now)])
        value = orjson.dumps([[at, m.watermark_ms, m.position, m.lag] for at, m in sorted(now.items())])
        cut.watermarks.extend(Record(self._topic, q, key, value) for q in range(self._partitions))

    def committed(self, written: Mapping[TopicPartition, int]) -> list[CommittedChanges]:
        return []


def read_watermarks(value: bytes) -> Iterator[tuple[int, SourceWatermark]]:
    """(source partition, how far it has come) of each in a record of `SourceWatermarks`."""
    for partition, watermark_ms, position, lag in orjson.loads(value):
        yield partition, SourceWatermark(watermark_ms, position, lag)
