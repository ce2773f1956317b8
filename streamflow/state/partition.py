"""Keyed and windowed tables: for each partition the checkpointed rows and the changes over them.

A write lands in the *changes*; no I/O. A checkpoint takes the changes as its *cut*, serialises them
at once, and folds them into the *store* when it is durable. Agents read changes over cut over store;
everybody else reads the store.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeVar

from streamflow.state.changelog import RowCodec
from streamflow.state.cut import Cut
from streamflow.state.event_context import EventContext
from streamflow.state.progress import Progress
from streamflow.state.row_index import RowIndex
from streamflow.state.stores.base import DELETED, MISSING, Rows, Store
from streamflow.transports.base import Record
from streamflow.windows import Window

BEGINNING = -(1 << 63)
"""Before every window."""
Index = TypeVar("Index", bound=RowIndex)


@dataclass(frozen=True, slots=True)
class TableSpec:
    """What a table is, apart from its rows.

    ``changelog`` is the topic its rows are rebuilt from, with ``partitions`` partitions. ``own_time``:
    rows lie in windows of another time than the events' (now, or a field), so windows expire by the
    newest checkpointed window. ``closes``: somebody is told of each window that expires, before it goes.
    ``store``: the URL of its store; empty: the setting's.
    """

    name: str
    window: Window | None
    codec: RowCodec
    changelog: str
    partitions: int
    own_time: bool = False
    closes: bool = False
    store: str = ""


class Spot:
    """Where one consumer writes in one table partition while it walks over one chunk.

    Invariants, until it has ended: no event of the chunk is late for a window that begins at or after
    ``open_from``; nor for one of its own windows from ``own_from`` on. ``rows`` are the changes of
    the own window that was written last: one that is not late, with the times from ``from_ms`` to ``to_ms``.
    """

    __slots__ = ("ended", "from_ms", "looked", "open_from", "own_from", "part", "rows", "to_ms")

    def __init__(self, part: TablePartition, open_from: int) -> None:
        self.part = part
        self.open_from = self.own_from = open_from
        self.looked = False  # for ``own_from``
        self.rows: dict[Any, Any] = {}
        self.from_ms = self.to_ms = 0
        self.ended = False

    def look(self, own_from: int) -> None:
        """The chunk was looked at: its events' own windows are in time from this one on."""
        self.looked = True
        self.own_from = min(self.own_from, own_from)

    def pause(self) -> None:
        """The next write finds its window itself."""
        self.from_ms = self.to_ms = 0

    def end(self) -> None:
        self.pause()
        self.ended = True


class TablePartition:
    """One partition of a table. ``expired_to_ms``: windows that this watermark expires are gone."""

    __slots__ = (
        "announced",
        "changes",
        "closed_to_ms",
        "cut",
        "drops",
        "expired_to_ms",
        "index",
        "next_expiry_ms",
        "partition",
        "spec",
        "spots",
        "store",
        "writers",
        "wrote",
    )

    def __init__(self, spec: TableSpec, partition: int, store: Store) -> None:
        self.spec = spec
        self.partition = partition
        self.store = store
        self.changes: Rows = {}
        self.cut: Rows | None = None
        self.wrote = False  # did the cut write rows to the changelog?
        self.drops: list[int] = []  # starts of the windows that the cut drops
        self.expired_to_ms: int | None = None
        # Where events make the windows: made by who asks for it first, and kept true from then on.
        self.index: RowIndex | None = None
        # With `TableSpec.closes`: starts that were told of, to be dropped by the next cut; and the watermark
        # up to which every window has been told of.
        self.announced: set[int] = set()
        self.closed_to_ms: int | None = None
        self.writers: set[str] = set()  # consumers that wrote here: the furthest one's time expires rows
        self.spots: list[Spot] = []  # where consumers write now

    def take_up(self, closed_to_ms: int | None, writers: Iterable[str]) -> None:
        """What the checkpointed progress says of it."""
        self.closed_to_ms = closed_to_ms
        self.writers.update(writers)

    def announce(self, start: int) -> None:
        """Every row of a window that has expired was told of: the next cut drops it."""
        self.announced.add(start)

    def all_announced(self) -> None:
        """Every window that has expired was told of."""
        self.closed_to_ms = self.expired_to_ms

    def get(self, start: int, key: Hashable) -> Any:
        """The newest value, changes included, or `MISSING`."""
        rows = self.changes.get(start)
        if rows is not None:
            value = rows.get(key, MISSING)
            if value is not MISSING:
                return MISSING if value is DELETED else value
        return self.below(start, key)

    def below(self, start: int, key: Hashable) -> Any:
        """The value under the changes: the cut's, else the checkpointed one, else `MISSING`."""
        if self.cut is not None:
            rows = self.cut.get(start)
            if rows is not None:
                value = rows.get(key, MISSING)
                if value is not MISSING:
                    return MISSING if value is DELETED else value
        return self.store.get(start, key)

    def indexed(self, kind: type[Index]) -> Index:
        """The index of the rows of all layers; it is made of them where there is none yet."""
        index = self.index
        if index is None:
            index = self.index = kind()
            for start, key in self.row_ids():
                index.add(start, key)
        assert isinstance(index, kind)
        return index

    def forget_index(self) -> None:
        """Rows came or went past it: it is made anew when somebody asks for it."""
        self.index = None

    def row_ids(self) -> Iterator[tuple[int, Hashable]]:
        """(window's id, key) of every row of all layers, each once."""
        hidden: set[tuple[int, Hashable]] = set()
        for layer in (self.changes, self.cut or {}):
            for start, rows in layer.items():
                for key, value in rows.items():
                    if (start, key) not in hidden:
                        hidden.add((start, key))
                        if value is not DELETED:
                            yield start, key
        for start, key, _ in self.store.scan():
            if (start, key) not in hidden:
                yield start, key

    def put(self, context: EventContext, start: int, key: Hashable, value: object) -> None:
        """Writes on behalf of the event in flight; remembers what to undo."""
        rows = self.changes.get(start)
        if rows is None:
            rows = self.changes[start] = {}
        context.uncommitted_writes.append((context.position, self, start, key, rows.get(key, MISSING)))
        rows[key] = value
        self.writers.add(context.consumer)

    def put_back(self, start: int, key: Hashable, before: object) -> None:
        """Undoes a write: ``before`` is what the changes had, or `MISSING`."""
        rows = self.changes.get(start)
        if rows is None:
            return
        if before is MISSING:
            rows.pop(key, None)
        else:
            rows[key] = before

    def leave_cut(self, start: int, key: Hashable, before: object) -> bool:
        """Moves a write from the cut to the changes, as if made after it. False: there is no cut.

        ``before`` is what the cut gets back: what the changes had before the write, or `MISSING`.
        """
        if self.cut is None:
            return False
        rows = self.cut[start]
        self.changes.setdefault(start, {})[key] = rows[key]
        if before is MISSING:
            del rows[key]
            if not rows:
                del self.cut[start]
        else:
            rows[key] = before
        return True

    def begin_cut(self, watermark_ms: int | None) -> None:
        """Takes the changes as the cut, and drops the windows that the watermark expires."""
        assert self.cut is None, "a cut is taken only when the one before is durable"
        self.cut = {start: rows for start, rows in self.changes.items() if rows}
        self.changes = {}
        self.end_spots()
        self.drops = []
        window = self.spec.window
        if window is None:
            return
        if self.spec.closes:
            self.drops, self.announced = sorted(self.announced), set()
            return
        if not self.expire_to(watermark_ms):
            return
        assert self.expired_to_ms is not None
        first = self.store.first_start()
        if self.cut and (first is None or min(self.cut) < first):
            first = min(self.cut)
        if first is not None and window.expired(first, self.expired_to_ms):
            self.drops = [
                s for s in {*self.store.starts(), *self.cut} if window.expired(s, self.expired_to_ms)
            ]

    def expire_to(self, watermark_ms: int | None) -> bool:
        """From now on, writes to windows that this watermark expires are late. Is it a newer one?"""
        window = self.spec.window
        assert window is not None
        if self.spec.own_time:
            starts = self.store.starts()
            watermark_ms = starts[-1] if starts else None
        if watermark_ms is None or (self.expired_to_ms is not None and watermark_ms <= self.expired_to_ms):
            return False
        self.expired_to_ms = watermark_ms
        # An agent that is behind the one whose time this is may be in the middle of a chunk.
        self.end_spots()
        return True

    def spot(self, open_from: int) -> Spot:
        """For a consumer that begins a chunk, or goes on with one after `end_spots`."""
        spot = Spot(self, open_from)
        self.spots.append(spot)
        return spot

    def end_spots(self) -> None:
        """What is known of where consumers write holds no longer."""
        for spot in self.spots:
            spot.end()
        self.spots.clear()

    @property
    def kept_from(self) -> int:
        """Windows that begin earlier have expired."""
        if self.spec.window is None or self.expired_to_ms is None:
            return BEGINNING
        return self.spec.window.first_kept_start(self.expired_to_ms)

    def expired_starts(self) -> list[int]:
        """Starts of the windows with rows that have expired and are still here, oldest first."""
        window, to_ms = self.spec.window, self.expired_to_ms
        if window is None or to_ms is None:
            return []
        starts = {*self.store.starts(), *(self.cut or ()), *self.changes} - self.announced
        return sorted(start for start in starts if window.expired(start, to_ms))

    def rows_of(self, start: int) -> dict[Any, Any]:
        """The rows of one window, changes included."""
        rows = {**self.store.window(start), **(self.cut or {}).get(start, {}), **self.changes.get(start, {})}
        return {key: value for key, value in rows.items() if value is not DELETED}

    def emit(self, records: Cut) -> None:
        """Appends the changelog records of the cut: one for each changed row, tombstones for what is gone."""
        assert self.cut is not None
        spec, topic, partition = self.spec, self.spec.changelog, self.partition
        before = len(records.rows)
        # A session that has grown has a greater id: it stands before the tombstones of what it was.
        starts = sorted(self.cut, reverse=True) if self.index is not None else list(self.cut)
        gone = set(self.drops)
        kept: Rows = {}
        for start in starts:
            if start in gone:
                continue
            rows = self.cut[start]
            if self.index is not None:
                # A session that has moved on before anybody saw it needs no tombstone.
                rows = {
                    k: v
                    for k, v in rows.items()
                    if v is not DELETED or self.store.get(start, k) is not MISSING
                }
            if rows:
                kept[start] = rows
        if kept:
            keys, values = spec.codec.encode_rows(kept)
            # HOT PATH: what `Record(...)` does, without a call for each.
            columns = zip(repeat(topic), repeat(partition), keys, values, repeat(()), repeat(None))
            records.rows.extend(map(tuple.__new__, repeat(Record), columns))
        self.wrote = len(records.rows) > before
        for start in self.drops:
            for key in spec.codec.encode_keys(start, list(self.store.window(start))):
                records.tombstones.append(Record(topic, partition, key, None))

    def note_log(self, progress: Progress) -> None:
        """After `emit`: how far the changelog reaches at least once this checkpoint is durable.

        Tombstones are not counted on: without transactions they are written behind what says so here.
        """
        progress.note_log(self.spec.changelog, self.store.offset + int(self.wrote), wrote=self.wrote)

    def fold_cut(self, offset: int | None) -> None:
        """The cut is durable: it becomes part of the checkpointed rows.

        ``offset`` is behind its last record in the changelog; ``None``: it had none.
        """
        assert self.cut is not None
        cut, self.cut = self.cut, None
        if self.index is not None:
            # What the event in flight took away has moved to the changes: it may still be undone.
            for start, rows in cut.items():
                above = self.changes.get(start, {})
                self.index.drop(start, [k for k, v in rows.items() if v is DELETED and k not in above])
            for start in self.drops:
                self.index.drop(start, {**self.store.window(start), **cut.get(start, {})})
        for start in self.drops:
            cut.pop(start, None)
        if cut or self.drops or offset is not None:
            self.store.apply(cut, offset, self.drops)
        self.drops = []

    def forget_expired(self, watermark_ms: int | None) -> None:
        """After a restore: what has expired goes without tombstones, which may have been compacted away."""
        window = self.spec.window
        if window is None or watermark_ms is None:
            return
        self.expired_to_ms = watermark_ms
        if self.spec.closes:
            # What has expired but was not told of yet must still be.
            watermark_ms = self.closed_to_ms
        gone = [
            start
            for start in self.store.starts()
            if watermark_ms is not None and window.expired(start, watermark_ms)
        ]
        if gone:
            self.store.apply({}, drops=gone)
