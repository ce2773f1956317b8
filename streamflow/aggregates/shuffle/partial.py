"""Partial results on their way to the owner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from streamflow.aggregates.revisions import Revisions
from streamflow.aggregates.spec import FoldSpec
from streamflow.codecs import group_key_bytes, group_key_value, json_bytes
from streamflow.partitioner import fnv1a
from streamflow.state.partition import TablePartition
from streamflow.state.progress import Progress
from streamflow.state.stores.base import DELETED
from streamflow.transports.base import Record
from streamflow.windows import SessionWindow, SlidingWindow


@dataclass(slots=True)
class Mark:
    """How far a source partition's shares have come. ``lag``: records still to be read, if known."""

    watermark_ms: int | None
    position: int
    lag: int | None = None


class Sender:
    """The first stage's side for one source partition: what goes to the shuffles in a checkpoint."""

    __slots__ = ("_sent", "_sent_ms", "partition", "sources", "spec", "topic")

    def __init__(self, spec: FoldSpec, topic: str, partition: int, sources: int) -> None:
        self.spec = spec
        self.topic = topic
        self.partition = partition
        self.sources = sources  # number of source partitions, and of shuffle partitions
        self._sent: Mark | None = None
        self._sent_ms = 0.0

    def target(self, start: int, group: Any) -> int:
        """The shuffle partition that owns a row: by group key, or by window start where there is none.

        Sessions and sliding windows of one group are made together, so they lie together.
        """
        by_window = self.spec.by is None and not isinstance(self.spec.window, SessionWindow | SlidingWindow)
        return fnv1a(b"%d" % start if by_window else group_key_bytes(group), self.sources)

    def shares(self, part: TablePartition, records: list[Record]) -> None:
        """Appends each share of the cut, whole."""
        assert part.cut is not None
        encode = part.spec.codec.encode_value
        if isinstance(self.spec.window, SessionWindow):
            self._session_shares(part, records)
            return
        for start, rows in part.cut.items():
            for group, state in rows.items():
                records.append(
                    Record(
                        self.topic,
                        self.target(start, group),
                        share_key(self.partition, group, start),
                        encode(state),
                    )
                )

    def corrections(self, revisions: Revisions, records: list[Record]) -> None:
        """Appends what was applied to rows that others own, as shares of a source partition of its own."""
        for (start, group), value in revisions.corrections():
            key = share_key(-1 - self.partition, group, start)
            records.append(Record(self.topic, self.target(start, group), key, value))

    def _session_shares(self, part: TablePartition, records: list[Record]) -> None:
        assert part.cut is not None
        encode = part.spec.codec.encode_value
        gone: dict[Any, list[int]] = {}  # group -> ids of the shares that sessions have grown out of
        for end, rows in part.cut.items():
            for group, kept in rows.items():
                if kept is DELETED:
                    gone.setdefault(group, []).append(end)
        for end, rows in part.cut.items():
            for group, kept in rows.items():
                if kept is not DELETED:
                    first = min(p.start for p in kept)
                    replaced = [old for old in gone.get(group, ()) if first < old < end]
                    value = b"[" + encode(kept) + b"," + orjson.dumps(replaced) + b"]"
                    key = share_key(self.partition, group, end)
                    records.append(Record(self.topic, self.target(end, group), key, value))
        for group, ends in gone.items():
            for end in ends:
                key = share_key(self.partition, group, end)
                records.append(Record(self.topic, self.target(end, group), key, None))

    def marks(
        self, progress: Progress, lag: int | None, now_ms: float, records: list[Record], *, now: bool
    ) -> None:
        """Appends the mark for every shuffle partition, behind the shares, when it has moved.

        At most once a second, unless ``now``.
        """
        mark = Mark(progress.watermark_ms, progress.position, lag)
        if mark == self._sent or (not now and self._sent is not None and now_ms - self._sent_ms < 1_000):
            return
        self._sent, self._sent_ms = mark, now_ms
        value = orjson.dumps({"watermark_ms": mark.watermark_ms, "position": mark.position, "lag": lag})
        key = orjson.dumps(["mark", self.partition])
        records.extend(Record(self.topic, q, key, value) for q in range(self.sources))

    def due(self, progress: Progress, lag: int | None, now_ms: float) -> bool:
        """Has the mark moved, and may it be sent again?"""
        if self._sent is None:
            return progress.watermark_ms is not None
        return now_ms - self._sent_ms >= 1_000 and self._sent != Mark(
            progress.watermark_ms, progress.position, lag
        )


def share_key(source: int, group: Any, start: int) -> bytes:
    """The record key of a share."""
    return json_bytes(["share", source, group_key_value(group), start])


def told_key(group: Any, start: int) -> bytes:
    """The record key of the note how many revisions of a row were told of."""
    return json_bytes(["told", group_key_value(group), start])
