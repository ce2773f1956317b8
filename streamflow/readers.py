"""The tables of one engine as they may be seen: checkpointed rows, and what changes them.

One reader for each kind of table: `AgentReader` (Faust's form), `KeyedReader` (declared, ``by=Key()``)
and `StageReader` (declared, grouped otherwise: the merged shares of a second stage). A key outside is
always a JSON value. `watching.py` tells of changes.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, Literal

import orjson

from streamflow.changelog import json_key
from streamflow.codecs import KeyCodec, group_key, group_key_bytes, group_key_value, json_bytes
from streamflow.engine import Engine
from streamflow.errors import DecodeError
from streamflow.folds import Fold, FoldSpec, Key
from streamflow.late import Ledger
from streamflow.moving import MovingTable, SlidingTable
from streamflow.panes import SlidingRows
from streamflow.partitioner import fnv1a
from streamflow.reading import EngineReader, plain
from streamflow.rows import LateRow, LateSeen, Row
from streamflow.shuffle import SecondStage
from streamflow.stages import SessionStage
from streamflow.stores.base import MISSING, Rows
from streamflow.tables import AgentTable
from streamflow.window_folds import SlidingFold
from streamflow.windows import SessionWindow


class AgentReader(EngineReader):
    """A table in Faust's form."""

    kind: Literal["agent", "aggregate"] = "agent"

    def __init__(self, engine: Engine, table: AgentTable) -> None:
        spec = table.spec
        topics = {topic: agent.spec.consumer for agent in engine.agents for topic in agent.topics}
        fitting = [topic for topic in sorted(topics) if engine.topics.partitions(topic) == spec.partitions]
        self._topic = fitting[0] if fitting else ""
        source = engine.sources.get(topics.get(self._topic, ""))
        super().__init__(
            engine,
            spec.name,
            table.window if isinstance(table, MovingTable) else spec.window,
            source_topic=self._topic,
            partitions=spec.partitions,
            key_codec=table.key_codec or (source.key if source is not None else KeyCodec(None)),
            description={"values": "agent"},
        )
        self._table = table
        self.closed_to_ms: dict[int, int | None] = {}  # partition -> watermark of its newest checkpoint

    @property
    def owned(self) -> frozenset[int]:
        return frozenset(self._table.parts) if self.engine.live else frozenset()

    def starts(self, partition: int) -> list[int]:
        return self._table.parts[partition].store.starts()

    def keys(self, partition: int, start: int) -> Iterable[Any]:
        return self._table.parts[partition].store.window(start)

    def value(self, partition: int, start: int, key: Any) -> Any:
        try:
            found = self._table.parts[partition].store.get(start, key)
        except TypeError:  # an array or an object is no key of any row
            return MISSING
        if found is not MISSING and isinstance(self.window, SessionWindow):
            return plain(found, self._table.spec.codec.encode_value)[2]  # start, end, value
        return found if found is MISSING else plain(found, self._table.spec.codec.encode_value)

    def begins(self, partition: int, start: int, key: Any) -> int:
        if not isinstance(self.window, SessionWindow):
            return start
        found = self._table.parts[partition].store.get(start, key)
        return start if found is MISSING else int(found[0].start)

    def is_closed(self, partition: int, start: int) -> bool:
        watermark_ms = self.closed_to_ms.get(partition)
        return (
            self.window is not None and watermark_ms is not None and self.window.closed(start, watermark_ms)
        )

    def partition_of(self, key: Any) -> int:
        try:
            raw = self._key_codec.encode(self.kept(key))
        except TypeError:
            return 0
        return 0 if raw is None else self.engine.topics.place(self._table.spec.changelog, raw)

    def scattered_partitions(self, key: Any) -> tuple[int, ...]:
        home, kept = self.partition_of(key), self.kept(key)
        return tuple(
            partition
            for partition in sorted(self.owned - {home})
            if any(self.value(partition, start, kept) is not MISSING for start in self.starts(partition))
        )

    def kept(self, key: Any) -> Any:
        key = super().kept(key)
        if isinstance(key, dict) and self._key_codec.of_json:
            try:
                return self._key_codec.decode(json_bytes(key))
            except DecodeError:
                return key
        return tuple(key) if isinstance(key, list) else key

    def row_count(self) -> int:
        return sum(len(part.store) for part in self._table.parts.values())

    def positions(self, partition: int | None = None) -> dict[int, int]:
        return self.own_positions(partition)

    def watermark_ms(self, partition: int | None = None) -> int | None:
        return self.own_watermark_ms(partition)

    def lags(self) -> dict[int, int | None]:
        return self.own_lags()

    def consumers(self) -> list[str]:
        """The agents that were seen to write it; before that, whoever reads its topic."""
        agents = [agent.spec.consumer for agent in self.engine.agents if self._topic in agent.topics]
        writers = {name for part in self._table.parts.values() for name in part.writers}
        return [name for name in agents if name in writers] or agents


class FoldReader(EngineReader):
    """What both kinds of declared tables share."""

    kind: Literal["agent", "aggregate"] = "aggregate"

    def __init__(self, engine: Engine, fold: Fold) -> None:
        spec = fold.spec
        super().__init__(
            engine,
            spec.name,
            spec.window,
            source_topic=spec.topic,
            partitions=engine.topics.partitions(spec.topic),
            key_codec=engine.sources[spec.consumer].key,
            description=described(spec),
        )
        self.fold = fold

    def consumers(self) -> list[str]:
        return [self.fold.spec.consumer]

    def late(self) -> dict[int, LateSeen]:
        """Source partition of ours -> what came too late there, as checkpointed."""
        ledgers = self.fold.ledgers if self.engine.live else {}
        return {partition: self._late(ledger) for partition, ledger in sorted(ledgers.items())}

    def _late(self, ledger: Ledger) -> LateSeen:
        window = self.window
        assert window is not None
        events = []
        for event in ledger.events():
            key = ledger.row_of(event.rows[0])[1]
            events.append(
                LateRow(
                    self.shown(key),
                    tuple(window.windows_of(event.time_ms)),
                    event.time_ms,
                    event.behind_ms,
                    event.offset,
                    event.state is not None,
                )
            )
        return LateSeen(events, ledger.totals())


class KeyedReader(FoldReader):
    """A declared table that is grouped by the message's key."""

    @property
    def owned(self) -> frozenset[int]:
        return frozenset(self.fold.parts) if self.engine.live else frozenset()

    def starts(self, partition: int) -> list[int]:
        return self.fold.parts[partition].store.starts()

    def keys(self, partition: int, start: int) -> Iterable[Any]:
        return self.fold.parts[partition].store.window(start)

    def value(self, partition: int, start: int, key: Any) -> Any:
        try:
            kept = self.fold.parts[partition].store.get(start, key)
        except TypeError:
            return MISSING
        if kept is MISSING or self.window is None:
            return kept if kept is MISSING else self.fold.spec.values.result(kept)
        return self.fold.spec.values.result(self.fold.spec.shown(start, kept)[2])

    def begins(self, partition: int, start: int, key: Any) -> int:
        if not isinstance(self.window, SessionWindow):
            return start
        kept = self.fold.parts[partition].store.get(start, key)
        return start if kept is MISSING else self.fold.spec.shown(start, kept)[0]

    def is_revised(self, partition: int, start: int, key: Any) -> bool:
        corrected = self.fold.ledgers[partition].corrected
        return bool(corrected) and (start, key) in corrected

    def is_closed(self, partition: int, start: int) -> bool:
        if self.window is None or self.engine.ours is None:
            return False
        for folded in self.engine.ours.folds:
            if folded.fold is self.fold and folded.part.partition == partition:
                to_ms = folded.shown_closed_to_ms
                return to_ms is not None and self.window.closed(start, to_ms)
        return False

    def partition_of(self, key: Any) -> int:
        try:
            raw = self._key_codec.encode_json(key if self.fold.spec.json_keys else self.kept(key))
        except (TypeError, DecodeError):
            return 0
        return 0 if raw is None else self.engine.topics.place(self.source_topic, raw)

    def kept(self, key: Any) -> Any:
        return json_key(key) if self.fold.spec.json_keys else super().kept(key)

    def shown(self, key: Any) -> Any:
        return group_key_value(key) if self.fold.spec.json_keys else super().shown(key)

    def parse_key(self, text: str) -> Any:
        return plain(self._key_codec.parse_text(text))

    def parse_key_bytes(self, raw: bytes) -> Any:
        return plain(self._key_codec.decode(raw))

    def row_count(self) -> int:
        return sum(len(part.store) for part in self.fold.parts.values())

    def positions(self, partition: int | None = None) -> dict[int, int]:
        return self.own_positions(partition)

    def watermark_ms(self, partition: int | None = None) -> int | None:
        return self.own_watermark_ms(partition)

    def lags(self) -> dict[int, int | None]:
        return self.own_lags()


class _SlidingRows(EngineReader):
    """Rows that are made of panes."""

    @abstractmethod
    def _sliding(self, partition: int) -> SlidingRows: ...

    @abstractmethod
    def _expired_to_ms(self, partition: int) -> int | None: ...

    @abstractmethod
    def _value_of(self, states: list[Any]) -> Any: ...

    def _first_kept(self, partition: int) -> int | None:
        to_ms = self._expired_to_ms(partition)
        return None if to_ms is None or self.window is None else self.window.first_kept_start(to_ms)

    def _is_kept(self, partition: int, start: int) -> bool:
        first = self._first_kept(partition)
        return first is None or start >= first

    def starts(self, partition: int) -> list[int]:
        starts, first = self._sliding(partition).starts(), self._first_kept(partition)
        return starts if first is None else starts[bisect_left(starts, first) :]

    def starts_of(self, partition: int, key: Any) -> list[int]:
        try:
            starts = self._sliding(partition).starts_of(key)
        except TypeError:
            return []
        return [start for start in starts if self._is_kept(partition, start)]

    def keys(self, partition: int, start: int) -> Iterable[Any]:
        return self._sliding(partition).groups_at(start)

    def value(self, partition: int, start: int, key: Any) -> Any:
        states = self._sliding(partition).states(start, key) if self._is_kept(partition, start) else []
        return self._value_of(states) if states else MISSING

    def changed(self, partition: int, rows: Rows) -> Rows:
        sliding = self._sliding(partition)
        found: Rows = {}
        for time_ms, of in rows.items():
            for key in of:
                for start in sliding.touched_by(time_ms, key):
                    found.setdefault(start, {})[key] = None
        return found

    def row_count(self) -> int:
        return sum(self._sliding(p).count(self._first_kept(p)) for p in self.owned)


class SlidingReader(_SlidingRows, KeyedReader):
    """A declared table over sliding windows that is grouped by the message's key."""

    fold: SlidingFold

    def _sliding(self, partition: int) -> SlidingRows:
        return self.fold.rows(self.fold.parts[partition], durable=True)

    def _expired_to_ms(self, partition: int) -> int | None:
        return self.fold.parts[partition].expired_to_ms

    def _value_of(self, states: list[Any]) -> Any:
        values = self.fold.spec.values
        return values.result(values.merge_all(states))


class SlidingAgentReader(_SlidingRows, AgentReader):
    """A table in Faust's form over sliding windows."""

    def __init__(self, engine: Engine, table: SlidingTable) -> None:
        super().__init__(engine, table)
        self._sliding_table = table

    def _sliding(self, partition: int) -> SlidingRows:
        return self._sliding_table.rows(self._sliding_table.parts[partition], durable=True)

    def _expired_to_ms(self, partition: int) -> int | None:
        return self._sliding_table.parts[partition].expired_to_ms

    def _value_of(self, states: list[Any]) -> Any:
        pane = {None: self._sliding_table.value_of(states)}
        return plain(pane, self._sliding_table.spec.codec.encode_value)[0][1]  # [[after_ms, value]]


class StageReader(FoldReader):
    """A declared table that is grouped by a field, or has one row for each window.

    A partition is served when its second stage has read what stood in the log when it was assigned.
    """

    def __init__(self, engine: Engine, fold: Fold) -> None:
        super().__init__(engine, fold)
        self.keyed = fold.spec.by is not None

    def stages(self) -> dict[int, SecondStage]:
        """The second stages that are ready, by partition."""
        ours = self.engine.ours
        if ours is None or not self.engine.live:
            return {}
        return {s.partition: s for s in ours.stages if s.spec.name == self.name and s.ready}

    @property
    def owned(self) -> frozenset[int]:
        return frozenset(self.stages())

    def starts(self, partition: int) -> list[int]:
        return self.stages()[partition].starts()

    def keys(self, partition: int, start: int) -> Iterable[Any]:
        return self.stages()[partition].groups(start)

    def value(self, partition: int, start: int, key: Any) -> Any:
        try:
            kept = self.stages()[partition].state(start, key)
        except KeyError:
            return MISSING
        if self.window is None:
            return self.fold.spec.values.result(kept)
        return self.fold.spec.values.result(self.fold.spec.shown(start, kept)[2])

    def begins(self, partition: int, start: int, key: Any) -> int:
        stage = self.stages()[partition]
        return stage.start_of(start, key) if isinstance(stage, SessionStage) else start

    def is_closed(self, partition: int, start: int) -> bool:
        return self.stages()[partition].is_closed(start)

    def is_revised(self, partition: int, start: int, key: Any) -> bool:
        return (start, key) in self.stages()[partition].corrections

    def kept(self, key: Any) -> Any:
        return group_key(key)

    def shown(self, key: Any) -> Any:
        return None if not self.keyed else group_key_value(key)

    def parse_key(self, text: str) -> Any:
        """The text itself; but where the groups that lie here are no texts, the JSON value that it is."""
        for stage in self.stages().values():
            for groups in stage.shares.values():
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

    def partition_of(self, key: Any) -> int:
        return fnv1a(group_key_bytes(group_key(key)), self.partitions)

    def windows(self, key: Any) -> list[Row]:
        # Nothing scatters here: only one partition can hold the rows of a group.
        partition, kept = self.partition_of(key), self.kept(key)
        if partition not in self.owned:
            return []
        rows = [
            self.row(partition, start, kept, value)
            for start in self.starts(partition)
            if (value := self.value(partition, start, kept)) is not MISSING
        ]
        return sorted(rows, key=lambda row: row.start_ms or 0)

    def row_count(self) -> int:
        return sum(stage.row_count() for stage in self.stages().values())

    def positions(self, partition: int | None = None) -> dict[int, int]:
        least: dict[int, int] = {}
        for at, stage in self.stages().items():
            if partition in (None, at):
                for source, mark in stage.marks.items():
                    least[source] = min(mark.position, least.get(source, mark.position))
        return dict(sorted(least.items()))

    def watermark_ms(self, partition: int | None = None) -> int | None:
        stages = [stage for at, stage in self.stages().items() if partition in (None, at)]
        marks = [stage.least_watermark_ms() for stage in stages]
        return min((mark for mark in marks if mark is not None), default=None) if None not in marks else None

    def lags(self) -> dict[int, int | None]:
        lags: dict[int, int | None] = {}
        for stage in self.stages().values():
            for source, mark in stage.marks.items():
                lags[source] = mark.lag
        # Of our own source partitions we know more than we were told.
        return dict(sorted({**lags, **self.own_lags()}.items()))


def make_reader(engine: Engine, name: str) -> EngineReader:
    """The reader of one table, once the engine knows its partitions. Raises KeyError."""
    if name in engine.tables:
        table = engine.tables[name]
        if isinstance(table, SlidingTable):
            return SlidingAgentReader(engine, table)
        return AgentReader(engine, table)
    fold = engine.folds[name]
    if fold.spec.moves:
        return StageReader(engine, fold)
    return SlidingReader(engine, fold) if isinstance(fold, SlidingFold) else KeyedReader(engine, fold)


def make_readers(engine: Engine) -> dict[str, EngineReader]:
    """A reader for each table."""
    return {name: make_reader(engine, name) for name in (*engine.tables, *engine.folds)}


def described(spec: FoldSpec) -> dict[str, Any]:
    """How the table was declared."""
    return {
        **spec.describe(),
        "by": "key" if isinstance(spec.by, Key) else getattr(spec.by, "__qualname__", spec.by),
        "emit_closed": spec.emit_closed,
    }


def _json_or_text(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return text
