"""Readers of declared aggregates: grouped by the message's key, or merged in a final stage."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Literal

import orjson

from streamflow.aggregates.fold import AggregateConsumer
from streamflow.aggregates.late_events import LateEventStore
from streamflow.aggregates.shuffle.final import FinalStage
from streamflow.aggregates.shuffle.final_windows import SlidingFinalStage
from streamflow.aggregates.shuffle.session_stage import SessionFinalStage
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.aggregates.windowed_fold import HoppingPanesConsumer, SlidingConsumer
from streamflow.codecs import GroupKey, group_key, group_key_bytes, group_key_value
from streamflow.engine.engine import Engine
from streamflow.errors import DecodeError
from streamflow.partitioner import fnv1a
from streamflow.query.reader import TableReaderBase, plain
from streamflow.query.rows import LateRow, LateSeen, Row
from streamflow.query.sliding_rows import PanedReader, RowsOfPanesBase, SlidingReaderBase
from streamflow.state.changelog import json_key
from streamflow.state.hopping_panes import COUNTED_MAX, HoppingRows, starts_made_of
from streamflow.state.panes import SlidingRows
from streamflow.state.stores.base import MISSING, Store
from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow


class AggregateReader(TableReaderBase):
    """What both kinds of declared tables have in common."""

    kind: Literal["agent", "aggregate"] = "aggregate"

    def __init__(self, engine: Engine, aggregate: AggregateConsumer) -> None:
        spec = aggregate.spec
        super().__init__(
            engine,
            spec.name,
            spec.window,
            source_topic=spec.topic,
            partitions=engine.topology.topics.partitions(spec.topic),
            key_codec=engine.topology.sources[spec.consumer].key,
            description=described(spec),
        )
        self.aggregate = aggregate

    @property
    def value_names(self) -> tuple[str, ...] | None:
        return self.aggregate.spec.values.names

    def consumers(self) -> list[str]:
        return [self.aggregate.spec.consumer]

    def late(self) -> dict[int, LateSeen]:
        """Source partition of this worker -> what came too late there, as checkpointed."""
        late_stores = self.aggregate.late_stores if self.engine.live else {}
        return {partition: self._late(late_store) for partition, late_store in sorted(late_stores.items())}

    def _late(self, late_store: LateEventStore) -> LateSeen:
        window = self.window
        assert window is not None
        events = []
        for event in late_store.events():
            key = late_store.row_of(event.rows[0])[1]
            events.append(
                LateRow(
                    self.shown(key),
                    tuple(window.windows_of(event.time_ms)),
                    event.time_ms,
                    event.behind_ms,
                    event.offset,
                    event.state is not None,
                    event.partition,
                )
            )
        return LateSeen(events, late_store.totals())


class KeyedReader(AggregateReader):
    """A declared table that is grouped by the message's key."""

    @property
    def owned(self) -> frozenset[int]:
        return frozenset(self.aggregate.parts) if self.engine.live else frozenset()

    def _store(self, partition: int) -> Store:
        return self.aggregate.parts[partition].store

    def starts(self, partition: int) -> list[int]:
        return self._store(partition).starts()

    def keys(self, partition: int, start: int) -> Iterable[Any]:
        return self._store(partition).window(start)

    def value(self, partition: int, start: int, key: Hashable) -> Any:
        try:
            stored = self._store(partition).get(start, key)
        except TypeError:
            return MISSING
        if stored is MISSING or self.window is None:
            return stored if stored is MISSING else self.aggregate.spec.values.result(stored)
        return self.aggregate.spec.values.result(self.aggregate.spec.shown(start, stored)[2])

    def begins(self, partition: int, start: int, key: Hashable) -> int:
        if not isinstance(self.window, SessionWindow):
            return start
        stored = self._store(partition).get(start, key)
        return start if stored is MISSING else self.aggregate.spec.shown(start, stored)[0]

    def is_revised(self, partition: int, start: int, key: Hashable) -> bool:
        if isinstance(self.window, SessionWindow):
            stored = self.aggregate.parts[partition].store.get(start, key)
            return stored is not MISSING and bool(self.aggregate.told(stored))
        corrected = self.aggregate.late_stores[partition].corrected
        return bool(corrected) and (start, key) in corrected

    def has(self, partition: int, start: int, key: Hashable) -> bool:
        return self._store(partition).get(start, key) is not MISSING

    def next_start(self, partition: int, start: int | None, *, descending: bool = False) -> int | None:
        return self._store(partition).next_start(start, descending=descending)

    def closed_to(self, partition: int) -> int | None:
        active = self.engine.active
        for each in () if active is None else active.aggregate_partitions:
            if each.aggregate is self.aggregate and each.part.partition == partition:
                return each.shown_closed_to_ms
        return None

    def is_closed(self, partition: int, start: int) -> bool:
        to_ms = None if self.window is None else self.closed_to(partition)
        return self.window is not None and to_ms is not None and self.window.closed(start, to_ms)

    def partition_of(self, key: object) -> int:
        try:
            raw = self._key_codec.encode_json(key if self.aggregate.spec.json_keys else self.stored(key))
        except (TypeError, DecodeError):
            return 0
        return 0 if raw is None else self.engine.topology.topics.place(self.source_topic, raw)

    def stored(self, key: object) -> Any:
        return json_key(key) if self.aggregate.spec.json_keys else super().stored(key)

    def shown(self, key: Hashable) -> Any:
        if not self.aggregate.spec.json_keys:
            return super().shown(key)
        return group_key_value(_group(key))

    def parse_key(self, text: str) -> Any:
        return plain(self._key_codec.parse_text(text))

    def parse_key_bytes(self, raw: bytes) -> Any:
        return plain(self._key_codec.decode(raw))

    def rows_in(self, partition: int) -> int | None:
        return len(self._store(partition))

    def positions(self, partition: int | None = None) -> dict[int, int]:
        return self.own_positions(partition)

    def watermark_ms(self, partition: int | None = None) -> int | None:
        return self.own_watermark_ms(partition)

    def lags(self) -> dict[int, int | None]:
        return self.own_lags()


class SlidingReader(SlidingReaderBase, KeyedReader):
    """A declared table over sliding windows that is grouped by the message's key."""

    aggregate: SlidingConsumer

    def _sliding(self, partition: int) -> SlidingRows[Hashable]:
        return self.aggregate.rows(self.aggregate.parts[partition], durable=True)

    def panes_in(self, partition: int) -> int:
        return len(self._store(partition))

    def _expired_to_ms(self, partition: int) -> int | None:
        return self.aggregate.parts[partition].expired_to_ms

    def _value_of(self, states: list[Any]) -> Any:
        values = self.aggregate.spec.values
        return values.result(values.merge_all(states))


class HoppingReader(RowsOfPanesBase, KeyedReader):
    """A declared table over hopping windows that is grouped by the message's key; its rows are panes."""

    kept_as_panes = True
    aggregate: HoppingPanesConsumer

    @property
    def _hopping(self) -> HoppingWindow:
        assert isinstance(self.window, HoppingWindow)
        return self.window

    def _sliding(self, partition: int) -> HoppingRows:
        return HoppingRows(self._hopping, self._store(partition))

    def _expired_to_ms(self, partition: int) -> int | None:
        return self.aggregate.parts[partition].expired_to_ms

    def _value_of(self, states: list[Any]) -> Any:
        values = self.aggregate.spec.values
        return values.result(values.merge_all(states))

    @property
    def counts_windows(self) -> bool:
        return True

    def _is_kept(self, partition: int, start: int) -> bool:
        # The id of a pane need not be that of a window.
        return start == self._hopping.start_of(start) and super()._is_kept(partition, start)

    def keys(self, partition: int, start: int) -> Iterable[Any]:
        return self._sliding(partition).groups_at(start) if self._is_kept(partition, start) else ()

    def values(
        self, partition: int, rows: Mapping[int, Iterable[Any]]
    ) -> Iterator[tuple[int, Hashable, Any]]:
        # Windows overlap: together they are made in much less time than one by one.
        functions = self.aggregate.spec.values
        made = dict(self._sliding(partition).merged(sorted(rows), functions, rows))
        for start, keys in rows.items():
            kept = self._is_kept(partition, start)
            for key in keys:
                state = made[start].get(key, MISSING) if kept else MISSING
                yield start, key, MISSING if state is MISSING else functions.result(state)

    def kept_keys(self, partition: int, kept: int) -> Iterable[Any]:
        return self._store(partition).window(kept)

    def ids_made_of(self, kept: list[int]) -> list[int]:
        return starts_made_of(self._hopping, kept)

    def is_part(self, kept: int, start: int) -> bool:
        return start <= kept < self._hopping.end_of(start)

    def next_kept(self, partition: int, kept: int | None) -> int | None:
        return self._store(partition).next_start(kept)

    def _count(self, partition: int) -> int:
        store = self._store(partition)
        return self._sliding(partition).count(self._first_kept(partition), store.starts(), len(store))

    def rows_in(self, partition: int) -> int | None:
        return None if len(self._store(partition)) > COUNTED_MAX else self._count(partition)

    def row_count(self) -> int:
        """Of many rows about how many there are."""
        return sum(map(self._count, self.owned))


class FinalStageReader(AggregateReader):
    """A declared table that is grouped by a field, or has one row for each window.

    A partition is served when its final stage has read what stood in the log when it was assigned.
    """

    def __init__(self, engine: Engine, aggregate: AggregateConsumer) -> None:
        super().__init__(engine, aggregate)
        self.keyed = aggregate.spec.by is not None

    def stages(self) -> dict[int, FinalStage]:
        """The final stages that are ready, by partition."""
        active = self.engine.active
        if active is None or not self.engine.live:
            return {}
        return {s.partition: s for s in active.stages if s.spec.name == self.name and s.ready}

    @property
    def is_merged(self) -> bool:
        return True

    @property
    def is_exact(self) -> bool:
        stages = list(self.stages().values())
        if not all(stage.is_settled for stage in stages):
            return False
        # Mostly the sums tell that they differ, which costs less than to compare every pair.
        if len({sum(stage.positions().values()) for stage in stages}) > 1:
            return False
        return all(stage.positions() == stages[0].positions() for stage in stages[1:])

    @property
    def owned(self) -> frozenset[int]:
        return frozenset(self.stages())

    def starts(self, partition: int) -> list[int]:
        return self.stages()[partition].starts()

    def keys(self, partition: int, start: int) -> Iterable[Any]:
        return self.stages()[partition].groups(start)

    def value(self, partition: int, start: int, key: Hashable) -> Any:
        try:
            stored = self.stages()[partition].state(start, _group(key))
        except KeyError:
            return MISSING
        if self.window is None:
            return self.aggregate.spec.values.result(stored)
        return self.aggregate.spec.values.result(self.aggregate.spec.shown(start, stored)[2])

    def begins(self, partition: int, start: int, key: Hashable) -> int:
        stage = self.stages()[partition]
        return stage.start_of(start, _group(key)) if isinstance(stage, SessionFinalStage) else start

    def has(self, partition: int, start: int, key: Hashable) -> bool:
        return self.stages()[partition].has(start, _group(key))

    @property
    def counts_windows(self) -> bool:
        return not isinstance(self.window, SessionWindow | SlidingWindow)

    def next_start(self, partition: int, start: int | None, *, descending: bool = False) -> int | None:
        return self.stages()[partition].next_start(start, descending=descending)

    def groups(self, partition: int) -> Iterable[Any]:
        return self.stages()[partition].all_groups()

    def starts_of(self, partition: int, key: Hashable) -> list[int]:
        return self.stages()[partition].starts_of_group(_group(key))

    def kept_bounds(self, partition: int, state: str) -> tuple[int, int]:
        low, high = super().kept_bounds(partition, state)
        first = self.stages()[partition].first_kept()
        return low if first is None else max(low, first), high

    def closed_to(self, partition: int) -> int | None:
        return self.stages()[partition].closed_to_ms

    def is_closed(self, partition: int, start: int) -> bool:
        return self.stages()[partition].is_closed(start)

    def is_revised(self, partition: int, start: int, key: Hashable) -> bool:
        return self.stages()[partition].is_revised(start, _group(key))

    def stored(self, key: object) -> Any:
        return group_key(key)

    def shown(self, key: Hashable) -> Any:
        if not self.keyed:
            return None
        return group_key_value(_group(key))

    def parse_key(self, text: str) -> Any:
        """The text itself; but where the groups that lie here are no texts, the JSON value that it is."""
        for stage in self.stages().values():
            for groups in stage.partials.values():
                group = next(iter(groups), None)
                if isinstance(group, str):
                    return text
                if group is not None:
                    return _json_or_text(text)
        return text

    def parse_key_bytes(self, raw: bytes) -> Any:
        """The canonical JSON of a group. Raises DecodeError."""
        try:
            return orjson.loads(raw)
        except ValueError as exc:
            raise DecodeError("bad-key", f"the key is no JSON: {exc}", field="key") from exc

    def partition_of(self, key: object) -> int:
        return fnv1a(group_key_bytes(group_key(key)), self.partitions)

    def windows(self, key: object) -> list[Row]:
        # Nothing scatters here: only one partition can hold the rows of a group.
        partition, stored = self.partition_of(key), self.stored(key)
        if partition not in self.owned:
            return []
        rows = [
            self.row(partition, start, stored, value)
            for start in self.starts_of(partition, stored)
            if (value := self.value(partition, start, stored)) is not MISSING
        ]
        return sorted(rows, key=lambda row: row.start_ms or 0)

    def rows_in(self, partition: int) -> int | None:
        return self.stages()[partition].row_count()

    def positions(self, partition: int | None = None) -> dict[int, int]:
        least: dict[int, int] = {}
        for at, stage in self.stages().items():
            if partition in (None, at):
                for source, watermark in stage.watermarks.items():
                    least[source] = min(watermark.position, least.get(source, watermark.position))
        return dict(sorted(least.items()))

    def watermark_ms(self, partition: int | None = None) -> int | None:
        stages = [stage for at, stage in self.stages().items() if partition in (None, at)]
        watermarks_ms = [stage.least_watermark_ms() for stage in stages]
        known = [watermark_ms for watermark_ms in watermarks_ms if watermark_ms is not None]
        return min(known, default=None) if len(known) == len(watermarks_ms) else None

    def lags(self) -> dict[int, int | None]:
        lags: dict[int, int | None] = {}
        for stage in self.stages().values():
            for source, watermark in stage.watermarks.items():
                lags[source] = watermark.lag
        # Of our own source partitions we know more than we were told.
        return dict(sorted({**lags, **self.own_lags()}.items()))


class SlidingStageReader(PanedReader, FinalStageReader):
    """The same over sliding windows."""

    def _stage(self, partition: int) -> SlidingFinalStage:
        stage = self.stages()[partition]
        assert isinstance(stage, SlidingFinalStage)
        return stage

    def panes_in(self, partition: int) -> int:
        return self._stage(partition).pane_count

    def count_windows(self, partition: int) -> int:
        return self._stage(partition).row_count()

    def count_some(
        self, partition: int, key: Hashable, from_ms: int | None, most: int
    ) -> tuple[int, int | None]:
        return self._stage(partition).count_some(_group(key), from_ms, most)


def described(spec: AggregateSpec) -> dict[str, Any]:
    """How the table was declared."""
    return {
        **spec.describe(),
        "by": "key" if isinstance(spec.by, Key) else getattr(spec.by, "__qualname__", spec.by),
        "emit_closed": spec.emit_closed,
    }


def _group(key: Hashable) -> GroupKey:
    """A kept key where it is a group: a text, or the canonical JSON of anything else."""
    assert isinstance(key, str | bytes)
    return key


def _json_or_text(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return text
