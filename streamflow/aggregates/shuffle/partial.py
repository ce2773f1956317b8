"""The partial side of the shuffle: what a source partition sends to the owners of its rows."""

from __future__ import annotations

import orjson

from streamflow.aggregates.revisions import Revisions
from streamflow.aggregates.spec import AggregateSpec
from streamflow.codecs import GroupKey, group_key_bytes, group_key_value, json_bytes
from streamflow.partitioner import fnv1a
from streamflow.state.partition import TablePartition
from streamflow.state.stores.base import DELETED
from streamflow.transports.base import Record
from streamflow.windows import SessionWindow, SlidingWindow
from streamflow.windows.session import first_start

NO_POSITION = -1
"""Of a partial that does not say what is in it, as older versions wrote them."""


class PartialSender:
    """The partial stage's side for one source partition: what goes to the shuffles in a checkpoint."""

    __slots__ = ("partition", "sources", "spec", "topic")

    def __init__(self, spec: AggregateSpec, topic: str, partition: int, sources: int) -> None:
        self.spec = spec
        self.topic = topic
        self.partition = partition
        self.sources = sources  # number of source partitions, and of shuffle partitions

    def target(self, start: int, group: GroupKey) -> int:
        """The shuffle partition that owns a row: by group key, or by window start where there is none.

        Sessions and sliding windows of one group are made together, so they lie together.
        """
        by_window = self.spec.by is None and not isinstance(self.spec.window, SessionWindow | SlidingWindow)
        return fnv1a(b"%d" % start if by_window else group_key_bytes(group), self.sources)

    def partials(self, part: TablePartition, records: list[Record], position: int) -> None:
        """Appends each partial of the cut, whole. ``position``: what was taken before it is in it."""
        assert part.cut is not None
        encode = part.spec.codec.encode_value
        if isinstance(self.spec.window, SessionWindow):
            self._session_partials(part, records, position)
            return
        for start, rows in part.cut.items():
            for group, state in rows.items():
                records.append(
                    Record(
                        self.topic,
                        self.target(start, group),
                        partial_key(self.partition, group, start),
                        encode(state),
                    )
                )

    def corrections(self, revisions: Revisions, records: list[Record]) -> None:
        """Appends what was applied to rows that others own, as partials of a source partition of its own."""
        for (start, group), value in revisions.corrections():
            key = partial_key(-1 - self.partition, group, start)
            records.append(Record(self.topic, self.target(start, group), key, value))

    def _session_partials(self, part: TablePartition, records: list[Record], position: int) -> None:
        assert part.cut is not None
        encode = part.spec.codec.encode_value
        gone: dict[GroupKey, list[int]] = {}  # group -> ids of the partials that sessions have grown out of
        for end, rows in part.cut.items():
            for group, stored in rows.items():
                if stored is DELETED:
                    gone.setdefault(group, []).append(end)
        for end, rows in part.cut.items():
            for group, stored in rows.items():
                if stored is not DELETED:
                    first = first_start(stored)
                    replaced = [old for old in gone.get(group, ()) if first < old < end]
                    value = b"[%b,%b,%d]" % (encode(stored), orjson.dumps(replaced), position)
                    key = partial_key(self.partition, group, end)
                    records.append(Record(self.topic, self.target(end, group), key, value))
        for group, ends in gone.items():
            for end in ends:
                key = partial_key(self.partition, group, end)
                records.append(Record(self.topic, self.target(end, group), key, None))


def partial_key(source: int, group: GroupKey, start: int) -> bytes:
    """The record key of a partial."""
    return json_bytes(["share", source, group_key_value(group), start])


def announced_key(group: GroupKey, start: int) -> bytes:
    """The record key of the note how many revisions of a row were told of."""
    return json_bytes(["told", group_key_value(group), start])
