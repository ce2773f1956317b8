"""Real engines over the memory transport in virtual time, and what they make of given partitions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from streamflow.aggregates import Aggregate, Count, CountBy, Max, Mean, Min, Sum
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, By, Key
from streamflow.clock import EPOCH
from streamflow.codecs import KeyCodec
from streamflow.engine.decoding import TopicSource
from streamflow.engine.engine import Engine
from streamflow.query.reader import TableReaderBase
from streamflow.query.readers import make_readers
from streamflow.query.rows import Row, RowChange, TableChanges
from streamflow.query.worker_view import WorkerView
from streamflow.settings import Settings
from streamflow.testing import SimulationLoop, run_simulation
from streamflow.transports.base import Record, TopicSpec
from streamflow.transports.memory import Faults, MemoryBroker, MemoryTransport
from streamflow.windows import Window
from tests.property.oracle import OracleEvent
from tests.simulation.codecs import JsonEvent
from tests.support.lists import check_lists, small_bounds
from tests.support.loop_clock import LoopClock

TOPIC = "events"
LIMIT_S = 600.0


def value_of(event: dict[str, Any]) -> Any:
    return event["v"]


def group_of(event: dict[str, Any]) -> Any:
    return event["g"]


AGGREGATES: dict[str, tuple[Aggregate, Callable[[list[int]], Any]]] = {
    "n": (Count(), len),
    "sum": (Sum(value_of), sum),
    "least": (Min(value_of), min),
    "most": (Max(value_of), max),
    "mean": (Mean(value_of), lambda values: sum(values) / len(values)),
    "by": (CountBy(value_of), lambda values: {str(v): values.count(v) for v in sorted(values, key=str)}),
}
"""name -> (the aggregate, what plain Python says)"""
BY: dict[str, By] = {"key": Key(), "field": group_of, "none": None}

Rows = dict[tuple[int, int, Any], Any]
"""(start, end, group) -> value"""


@dataclass
class Run:
    """What a run has made: by the name of the table."""

    rows: dict[str, Rows] = field(default_factory=dict)
    closed: dict[str, list[tuple[tuple[int, int, Any], Any]]] = field(default_factory=dict)
    states: dict[str, dict[tuple[int, int, Any], str]] = field(default_factory=dict)
    counters: dict[str, dict[int, dict[str, int]]] = field(default_factory=dict)
    followed: dict[str, Rows] = field(default_factory=dict)  # by whoever listens to changes
    left: dict[str, int] = field(default_factory=dict)  # live records of internal topics


class _World:
    def __init__(self, window: Window, partitions: int, dice: random.Random) -> None:
        self.generation = -1
        self.clock = LoopClock()
        self.window = window
        self.partitions = partitions
        faults = Faults(random.Random(dice.random()), fetch_records_max=dice.choice((1, 3, 1_000)))
        self.broker = MemoryBroker(self.clock, faults=faults)
        self.broker.create_topics([TopicSpec(TOPIC, partitions)])
        self.dice = dice
        self.lists = random.Random(f"lists of {partitions} {window!r}")
        self.run = Run()
        self.engine = self.boot()

    def boot(self) -> Engine:
        """A new engine; it knows nothing but the log."""
        transport = MemoryTransport(self.broker, "app", "worker", self.clock)
        interval_s = self.dice.choice((0.05, 0.3))
        engine = Engine(
            Settings(id="app", commit_interval=interval_s, fetch_wait_ms=20), transport, self.clock
        )
        source = TopicSource(TOPIC, KeyCodec(str), JsonEvent(), self.partitions)  # type: ignore[arg-type]  # plainer
        values = RowFunctions({name: aggregate for name, (aggregate, _) in AGGREGATES.items()})
        for name, by in BY.items():
            engine.topology.add_aggregate(
                AggregateSpec(name, TOPIC, by, self.window, values, emit_closed=f"{name}-closed"), source
            )
        self.view = WorkerView(engine, "")
        self.view.listen(self._follow)
        self.run.followed = {name: {} for name in BY}
        self.generation = -1
        return engine

    def _follow(self, changes: Iterable[TableChanges]) -> None:
        if self._reread():
            return  # what is told is in it
        for told in changes:
            rows = self.run.followed[told.table]
            for change in told.changes:
                self._follow_one(rows, change)

    def _reread(self) -> bool:
        """Rows that came or went otherwise than by changes must be read anew, as any follower does."""
        generation = self.view.generation()
        if generation == self.generation:
            return False
        self.generation = generation
        if self.engine.live:
            for name, reader in make_readers(self.engine).items():
                self.run.followed[name] = self._read(reader)
        return True

    @staticmethod
    def _follow_one(rows: Rows, change: RowChange) -> None:
        row = change.row
        assert row.start_ms is not None
        assert row.end_ms is not None
        if change.op == "upsert":
            rows[row.start_ms, row.end_ms, row.key] = row.value
        else:
            del rows[row.start_ms, row.end_ms, row.key]  # it was there

    async def start(self) -> None:
        await self.engine.start("http://worker")
        await self.until(lambda: self.engine.live)
        self.view.open()
        await self.until(self.view.ready)
        self._reread()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                assert self.engine.failure is None, repr(self.engine.failure)
                await asyncio.sleep(0.05)

    def write(self, partition: int, events: Sequence[OracleEvent]) -> None:
        self.broker.write(
            [
                Record(
                    TOPIC,
                    partition,
                    f"{partition}.{e.group}".encode(),  # keys keep to their partition, groups do not
                    orjson.dumps({"timestamp": e.time, "g": e.group, "v": e.value}),
                )
                for e in events
            ]
        )

    async def list_some(self, often: float = 0.08) -> None:
        """What lists have asked for is kept true by what is committed from then on."""
        for reader in self.view.tables.values():
            if self.lists.random() < often:
                assert isinstance(reader, TableReaderBase)
                await check_lists(reader, self.lists)

    def quiet(self) -> bool:
        """Everything is taken, durable, sent on and closed as far as it can be."""
        active = self.engine.active
        if active is None or not self.engine.live:
            return False
        ends = {p: self.broker.log((TOPIC, p)).end for p in range(self.partitions)}
        if any(
            progress.position < ends[progress.partition] or progress.changed
            for progress in active.progress.values()
        ):
            return False
        shown = active.shown
        for aggregate in active.aggregate_partitions:
            mine = aggregate.progress
            durable = shown.get((mine.consumer, mine.topic, mine.partition))
            if (
                durable is None
                or durable.position < ends[mine.partition]
                or any(aggregate.part.changes.values())
            ):
                return False
        for stage in active.stages:
            for aggregate in active.aggregate_partitions:
                if aggregate.aggregate.spec.name == stage.spec.name:
                    watermark = stage.watermarks.get(aggregate.part.partition)
                    if ends[aggregate.part.partition] and (
                        watermark is None or watermark.watermark_ms != aggregate.progress.watermark_ms
                    ):
                        return False
            if stage.due():
                return False
        return True

    @staticmethod
    def _read(reader: Any) -> Rows:
        return {
            (row.start_ms, row.end_ms, row.key): row.value
            for partition in sorted(reader.owned)
            for row in reader.rows(partition)
        }

    def look(self) -> Run:
        run = self.run
        self._reread()
        for name, reader in make_readers(self.engine).items():
            run.rows[name] = self._read(reader)
            rows = [row for partition in sorted(reader.owned) for row in reader.rows(partition)]
            run.states[name] = {(r.start_ms, r.end_ms, r.key): r.state for r in rows}  # type: ignore[misc]
            assert len(rows) == len(run.rows[name]), "no two rows are alike"
            assert reader.row_count() == len(rows)
            self._ask_by_key(reader, rows)
            assert self.engine.active is not None
            consumer = f"aggregate:{name}"
            run.counters[name] = {
                p: dict(progress.counters)
                for (who, _, p), progress in self.engine.active.shown.items()
                if who == consumer
            }
            run.closed[name] = self._closed(f"{name}-closed")
        for topic in self.broker.topics():
            if topic.endswith(("-changelog", "-shuffle")):
                run.left[topic] = self._live(topic)
        return run

    @staticmethod
    def _ask_by_key(reader: TableReaderBase, rows: list[Row]) -> None:
        """A key's windows, its newest one, and those that hold a time."""
        for key in {row.key for row in rows} if reader.keyed else ():
            mine = sorted((r for r in rows if r.key == key), key=lambda r: (r.start_ms or 0, r.end_ms or 0))
            found = reader.windows(key)
            assert sorted(found, key=lambda r: (r.start_ms or 0, r.end_ms or 0)) == mine
            if reader.name != "field":
                continue  # the keys of these runs lie in other partitions than their hashes say
            assert reader.get(key) in mine
            for row in mine:
                assert row.end_ms is not None
                at_ms = row.end_ms - 1
                holding = [r for r in mine if (r.start_ms or 0) <= at_ms < (r.end_ms or 0)]
                got = reader.get(key, at_ms)
                assert got in holding
                assert got is not None
                assert got.end_ms == max(r.end_ms or 0 for r in holding), "of several the newest"

    def _closed(self, topic: str) -> list[tuple[tuple[int, int, Any], Any]]:
        found = []
        for partition in range(self.broker.partition_count(topic)):
            batch = self.broker.log((topic, partition)).read(0, 10**9)
            for value in batch.values if batch is not None else ():
                assert value is not None
                row = orjson.loads(value)
                start, end = (_ms(row.pop(name)) for name in ("window_start", "window_end"))
                found.append(((start, end, row.pop("key", None)), row))
        return found

    def _live(self, topic: str) -> int:
        live: set[tuple[int, bytes]] = set()
        for partition in range(self.broker.partition_count(topic)):
            batch = self.broker.log((topic, partition)).read(0, 10**9)
            for key, value in zip(batch.keys, batch.values, strict=True) if batch is not None else ():
                assert key is not None
                if key.startswith((b'["watermarks"', b'["closed"')):
                    continue
                (live.discard if value is None else live.add)((partition, key))
        return len(live)


def _ms(text: str) -> int:
    return round((datetime.fromisoformat(text) - EPOCH).total_seconds() * 1_000)


def run_engine(
    window: Window,
    partitions: Sequence[Sequence[OracleEvent]],
    seed: int,
    *,
    restarts: int = 0,
) -> Run:
    """Feeds the partitions in pieces, restarting in between, until all is quiet."""

    async def main(loop: SimulationLoop) -> Run:
        dice = random.Random(seed)
        world = _World(window, len(partitions), dice)
        await world.start()
        left = [list(part) for part in partitions]
        total = sum(map(len, left))
        stops = sorted(dice.randrange(total + 1) for _ in range(restarts))
        written = 0
        while any(left):
            partition = dice.choice([p for p, part in enumerate(left) if part])
            count = min(len(left[partition]), dice.choice((1, 2, 5, 20)))
            world.write(partition, left[partition][:count])
            del left[partition][:count]
            written += count
            await asyncio.sleep(dice.choice((0.0, 0.01, 0.1, 0.5)))
            await world.list_some()
            while stops and stops[0] <= written:
                stops.pop(0)
                await world.engine.stop()
                world.engine = world.boot()
                await world.start()
        await world.until(world.quiet)
        run = world.look()
        await world.list_some(often=1.0)
        await world.engine.stop()
        return run

    with small_bounds(random.Random(seed)):
        return run_simulation(main, seed)
