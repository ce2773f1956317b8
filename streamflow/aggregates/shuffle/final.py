"""The final stage of the shuffle: partials at the partition that owns their group key, and closing there.

A source partition's *partial* of a row goes, as a whole state and not as a difference, to the
compacted topic ``<app>-<table>-shuffle``. Behind its partials each source partition sends its watermark and
position. The owner keeps the newest partial of each source partition and merges on
read. The rules are those of the model of the two-stage checkpoint: whole, order, all watermarks,
restore, owner; `tests/simulation` switches each off and sees it fail.

Records of a shuffle partition, by the first element of the JSON key:
``["share", source partition, group, window's id]`` -> state, ``["watermarks", least source partition]`` ->
[[source partition, watermark_ms, position, lag], ...] of one worker (see `source_watermarks`), ``["closed"]``
-> {closed_to_ms}, ``["told", group, window start]`` -> how many revisions of a row were told of. Source
partition ``-1 - p`` is what was applied late in partition p (see `revisions`); its state comes as
``[revisions, state]``.

A partial of a session moves to another key when the session grows. So its value is ``[parts, ids, position]``
with the ids of the partials that it takes the place of, and whoever reads it forgets them in the same step;
their tombstones follow behind all partials. Nobody ever sees a session without a part that it had, so
what could not be closed before cannot be closed in between.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from streamflow.aggregates.closed_rows import revised_record
from streamflow.aggregates.revisions import Corrections
from streamflow.aggregates.row_values import State
from streamflow.aggregates.shuffle.partial import announced_key, partial_key
from streamflow.aggregates.shuffle.source_watermarks import KIND, SourceWatermark, read_watermarks
from streamflow.aggregates.spec import AggregateSpec
from streamflow.codecs import GroupKey, group_key, group_key_bytes, json_value
from streamflow.errors import StreamflowError
from streamflow.state.committed import CommittedChanges
from streamflow.state.cut import Cut
from streamflow.state.starts import SortedStarts
from streamflow.transports.base import Batch, Record, TopicPartition

RowId = tuple[int, GroupKey]
"""(window's id, group key)"""


class ShuffleError(StreamflowError):
    """A record of a shuffle topic that this version can't read."""


@dataclass(slots=True)
class Closing:
    """What one checkpoint closes and expires in one shuffle partition."""

    closed_to_ms: int
    rows: list[RowId] = field(default_factory=list)
    expired: dict[int, list[GroupKey]] = field(default_factory=dict)  # window's id -> groups whose rows go
    partials: list[tuple[int, GroupKey, int]] = field(default_factory=list)  # (id, group, source) that go


Emit = Callable[[int, GroupKey, State], Record]
"""(window start, group key, merged state) -> the record of a closed row"""


class FinalStage:
    """The owner's side of one shuffle partition: the newest partial of each source partition, merged on read.

    `begin` makes it this worker's. `ready` tells that it has read all that stood in the log when it was
    assigned; before that it shows nothing and closes nothing.
    """

    def __init__(
        self, spec: AggregateSpec, topic: str, partition: int, sources: int, emit: Emit | None = None
    ) -> None:
        self.spec = spec
        self._stored = spec.stored
        self.topic = topic
        self.partition = partition
        self.sources = sources
        self.ready_at = sys.maxsize
        self.position = 0
        self.was_whole = False  # was all of its log read at some time?
        self.partials: dict[
            int, dict[GroupKey, dict[int, Any]]
        ] = {}  # start -> group -> source partition -> state
        self.window_starts = SortedStarts()  # of `partials`
        self._count = 0  # groups of all windows of `partials`
        self.watermarks: dict[int, SourceWatermark] = {}
        self._unsettled: set[int] = set()  # source partitions whose newest partials lack their watermark
        self.closed_to_ms: int | None = None
        self.closing: Closing | None = None
        self.corrections = Corrections()
        self._emit = emit  # makes closed rows, where somebody is told of them

    @property
    def ready(self) -> bool:
        return self.position >= self.ready_at

    @property
    def is_settled(self) -> bool:
        """Are its rows exactly those of the `positions`? Not in the middle of a checkpoint's partials."""
        return not self._unsettled

    def positions(self) -> dict[int, int]:
        """Source partition -> the next offset that its partials don't have."""
        return {source: watermark.position for source, watermark in self.watermarks.items()}

    def hold(self) -> None:
        """Its partition is being assigned anew. It goes on reading, and is not ready before `begin`.

        A closing whose checkpoint came to nothing is forgotten; the log tells what became of it.
        """
        self.ready_at = sys.maxsize
        self.closing = None
        self.corrections.hold()

    def begin(self, ready_at: int) -> None:
        """It is this worker's (again), ready when it has read to ``ready_at``, noted after the assignment."""
        self.ready_at = ready_at
        if self.ready:
            self._forget_expired()

    def read(self, batch: Batch) -> list[RowId]:
        """Takes what has come; returns the rows that changed, each once."""
        changed: dict[RowId, None] = {}
        for offset, key, value in zip(batch.offsets, batch.keys, batch.values, strict=True):
            try:
                self._read_record(key, value, changed)
            except (ValueError, TypeError, KeyError, IndexError) as exc:
                raise ShuffleError(f"{batch.topic}[{batch.partition}]@{offset} can't be read: {exc}") from exc
        was_ready = self.ready
        self.position = batch.next_offset
        self.was_whole |= batch.next_offset >= batch.end_offset
        if self.ready and not was_ready:
            self._forget_expired()
        return list(changed)

    def _read_record(self, key: bytes | None, value: bytes | None, changed: dict[RowId, None]) -> None:
        assert key is not None
        kind, *rest = json_value(key)
        if kind == KIND:
            if value is not None:
                told = dict(read_watermarks(value))
                self.watermarks.update(told)
                self._unsettled.difference_update(told)
        elif kind == "mark":  # one source partition's: as they were written once
            if value is not None:
                data = orjson.loads(value)
                self.watermarks[rest[0]] = SourceWatermark(
                    data["watermark_ms"], data["position"], data["lag"]
                )
                self._unsettled.discard(rest[0])
        elif kind == "closed":
            if value is not None:
                self._close_to(orjson.loads(value)["closed_to_ms"])
        elif kind == "share":
            source, group_value, start = rest
            group = group_key(group_value)
            if value is None:
                self._remove(source, group, start)
            elif source < 0:
                revisions, state = json_value(value)
                self._put(source, group, start, state)
                self.corrections.read((start, group), source, revisions)
            else:
                self._put(source, group, start, json_value(value))
                self._unsettled.add(source)
            changed[start, group] = None
        elif kind == "told":
            self._read_told((rest[1], group_key(rest[0])), value)
        else:
            raise ValueError(f"unknown kind {kind!r}")

    def _read_told(self, row: RowId, value: bytes | None) -> None:
        """The note of what was told of a row; ``None``: it has expired."""
        self.corrections.read_announced(row, None if value is None else orjson.loads(value))

    def _put(self, source: int, group: GroupKey, start: int, data: object) -> None:
        groups = self.partials.get(start)
        if groups is None:
            groups = self.partials[start] = {}
            self.window_starts.add((start,))
        partials = groups.get(group)
        if partials is None:
            partials = groups[group] = {}
            self._count += 1
        partials[source] = self._stored.load(data)

    def _remove(self, source: int, group: GroupKey, start: int) -> None:
        groups = self.partials.get(start, {})
        partials = groups.get(group, {})
        partials.pop(source, None)
        if not partials and groups.pop(group, None) is not None:
            self._count -= 1
        if not groups and start in self.partials:
            self._pop(start)

    def _pop(self, start: int) -> dict[GroupKey, dict[int, Any]]:
        """All partials of one window go."""
        self.window_starts.drop((start,))
        groups = self.partials.pop(start)
        self._count -= len(groups)
        return groups

    def least_watermark_ms(self) -> int | None:
        """The least watermark of *all* source partitions; ``None`` while one has not sent any."""
        low: int | None = None
        for source in range(self.sources):
            watermark = self.watermarks.get(source)
            if watermark is None or watermark.watermark_ms is None:
                return None
            low = watermark.watermark_ms if low is None or watermark.watermark_ms < low else low
        return low

    # -- Checkpointable --------------------------------------------------------------------------

    def due(self) -> bool:
        """Would `cut` close or expire anything?"""
        return self._plan() is not None or bool(self._unannounced())

    def _unannounced(self) -> list[RowId]:
        """Rows that were revised after they had been closed, and that nobody was told of anew."""
        if not self.ready:
            return []
        return [row for row in self.corrections.unannounced() if self.is_closed(row[0])]

    def _retold(self, noted: list[RowId]) -> list[RowId]:
        """The rows to tell of anew by what `_unannounced` has noted."""
        return noted

    def is_revised(self, start: int, group: GroupKey) -> bool:
        """Was a closed row changed after its window had closed?"""
        return (start, group) in self.corrections

    def _plan(self) -> Closing | None:
        window = self.spec.window
        low = self.least_watermark_ms()
        if window is None or not self.ready or low is None:
            return None
        if self.closed_to_ms is not None and low <= self.closed_to_ms:
            return None
        first_open = None if self.closed_to_ms is None else window.first_open_start(self.closed_to_ms)
        rows: list[RowId] = []
        start = self.window_starts.after(None if first_open is None else first_open - 1)
        while start is not None and window.closed(start, low):
            closes = start
            rows.extend((closes, group) for group in in_order(self.partials[closes]))
            start = self.window_starts.after(start)
        expired: list[int] = []
        start = self.window_starts.first()
        while start is not None and window.expired(start, low):
            expired.append(start)
            start = self.window_starts.after(start)
        closing = Closing(
            low,
            rows=rows,
            expired={start: list(self.partials[start]) for start in expired},
            partials=[
                (start, group, source)
                for start in expired
                for group, of in self.partials[start].items()
                for source in of
            ],
        )
        return closing if closing.rows or closing.partials else None

    def is_closed(self, start: int) -> bool:
        """Has the window been closed durably?"""
        window = self.spec.window
        return (
            window is not None and self.closed_to_ms is not None and window.closed(start, self.closed_to_ms)
        )

    def begin_cut(self) -> None:
        """What it closes is what it has read; nothing is written to it."""

    def cut(self, cut: Cut) -> None:
        """Appends the closed rows, the record "closed up to here", and tombstones for what has expired."""
        self.closing, emit = self._plan(), self._emit
        gone = (
            set() if self.closing is None else {(start, group) for start, group, _ in self.closing.partials}
        )
        noted = [
            (start, group) for start, group in self._unannounced() if group in self.partials.get(start, {})
        ]
        # A row that was revised and has expired since is told of once more before it goes.
        for start, group in self._retold(noted) if emit is not None else ():
            assert emit is not None
            cut.closed.append(revised_record(emit(start, group, self.state(start, group))))
        for start, group in noted:
            if (start, group) not in gone:
                self._announce(start, group, cut.closings)
        if self.closing is None:
            return
        self._tell(self.closing, cut)
        for start, group in gone:
            if (start, group) in self.corrections:
                key = announced_key(group, start)
                cut.partial_tombstones.append(Record(self.topic, self.partition, key, None))
        for start, group, source in self.closing.partials:
            key = partial_key(source, group, start)
            cut.partial_tombstones.append(Record(self.topic, self.partition, key, None))
        value = orjson.dumps({"closed_to_ms": self.closing.closed_to_ms})
        cut.closings.append(Record(self.topic, self.partition, orjson.dumps(["closed"]), value))

    def _tell(self, closing: Closing, cut: Cut) -> None:
        """Appends the rows that it closes, and notes what was told with them."""
        emit = self._emit
        if emit is not None:
            cut.closed.extend(emit(start, group, state) for start, group, state in self._states_of(closing))
        for start, group in self._announced_by(closing):  # with what was applied before it was closed
            self._announce(start, group, cut.closings)

    def _announced_by(self, closing: Closing) -> list[RowId]:
        """The rows of corrections that the closing tells of."""
        return closing.rows

    def _states_of(self, closing: Closing) -> Iterator[tuple[int, GroupKey, State]]:
        """Window's id, group and merged state of each row that it closes, in order."""
        for start, group in closing.rows:
            yield start, group, self.state(start, group)

    def _announce(self, start: int, group: GroupKey, records: list[Record]) -> None:
        revisions = self.corrections.announce((start, group))
        if revisions is not None:
            value = orjson.dumps(revisions)
            records.append(Record(self.topic, self.partition, announced_key(group, start), value))

    def committed(self, written: Mapping[TopicPartition, int]) -> list[CommittedChanges]:
        """The closing is durable. The rows that expired are gone."""
        self.corrections.committed()
        closing, self.closing = self.closing, None
        if closing is None:
            return []
        self.close(closing)
        self.forget(closing)
        return [
            CommittedChanges(
                self.spec.name,
                self.partition,
                expired=closing.expired,
                closed=sorted({start for start, _ in closing.rows}),
                starts=self.starts_of(closing),
            )
        ]

    def close(self, closing: Closing) -> None:
        """From now on what a durable closing closed stays closed."""
        self._close_to(closing.closed_to_ms)

    def _close_to(self, closed_to_ms: int) -> None:
        """Never back: what the log says may be its own of some checkpoints ago, and a worker that stood still
        in its commit may hear of its closing after the log has told what the next owner closed."""
        if self.closed_to_ms is None or closed_to_ms > self.closed_to_ms:
            self.closed_to_ms = closed_to_ms

    def starts_of(self, closing: Closing) -> dict[RowId, int]:
        """Where the rows began that a durable closing expired, when their ids do not tell."""
        return {}

    def forget(self, closing: Closing) -> None:
        """Drops what a durable closing expired."""
        for start, group, source in closing.partials:
            self._remove(source, group, start)
            self.corrections.forget((start, group))

    def _forget_expired(self) -> None:
        """After a restore: what has expired goes, since its tombstone may have been compacted away."""
        window = self.spec.window
        if window is None or self.closed_to_ms is None:
            return
        for start in [start for start in self.partials if window.expired(start, self.closed_to_ms)]:
            for group in self._pop(start):
                self.corrections.forget((start, group))

    def starts(self) -> list[int]:
        """The ids of the windows that have rows, in order."""
        return list(self.window_starts)

    def next_start(self, start: int | None, *, descending: bool = False) -> int | None:
        """The one of `starts` behind ``start`` (``None``: the first), or before it, if ``descending``."""
        return self.window_starts.after(start, descending=descending)

    def groups(self, start: int) -> Iterable[GroupKey]:
        """The groups that have a row in this window."""
        return self.partials.get(start, ())

    def has(self, start: int, group: GroupKey) -> bool:
        """Has the group a row in this window?"""
        return group in self.partials.get(start, ())

    def all_groups(self) -> Iterable[GroupKey]:
        """Of sliding windows: every group that has rows, or had some."""
        raise NotImplementedError

    def starts_of_group(self, group: GroupKey) -> list[int]:
        """The ids of the windows that may have a row of one group, in order."""
        return self.starts()

    def first_kept(self) -> int | None:
        """No row of a window's id before it is shown; ``None`` where those that are gone are not kept."""
        return None

    def state(self, start: int, group: GroupKey) -> Any:
        """The merged state of a row. Raises KeyError."""
        partials = self.partials[start][group]
        return self.spec.values.merge_all([partials[source] for source in sorted(partials)])

    def rows(self) -> Iterator[RowId]:
        for start in self.starts():
            for group in self.groups(start):
                yield start, group

    def row_count(self) -> int:
        return self._count

    def rows_changed(self, changed: list[RowId]) -> list[RowId]:
        """The rows that what `read` told of has changed; some may be gone."""
        return changed


def in_order(groups: Iterable[GroupKey]) -> list[GroupKey]:
    """Groups by the bytes of their key, so that closed rows are emitted in one order always."""
    return sorted(groups, key=group_key_bytes)
