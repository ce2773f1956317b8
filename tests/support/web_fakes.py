"""Workers without an engine: tables that hold real rows, shared by a cluster in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from zlib import crc32

from streamflow.engine.watchdog import InHand
from streamflow.errors import DecodeError, StreamflowError
from streamflow.metrics import Metrics
from streamflow.query.browse import Look, Message
from streamflow.query.facts import AgentFacts, PartitionFacts, TopicFacts, WorkerFacts
from streamflow.query.follow import NO_ID, Ends, Follows, Stretch
from streamflow.query.letter_book import Entry, LetterPage, Place, Wanted
from streamflow.query.row_query import RowQuery
from streamflow.query.rows import (
    LateRow,
    LateSeen,
    Operation,
    PartitionMoved,
    Row,
    RowChange,
    RowListener,
    State,
    TableChanges,
    TableStatus,
)
from streamflow.query.shown import Shown, shown
from streamflow.query.table_reader import TableReader, WantsKey
from streamflow.transports.base import Member
from streamflow.web import WebServer, WebSettings
from streamflow.web.live.hub import Hub
from streamflow.web.served import LettersServed
from streamflow.web.server import HUB
from streamflow.windows import TumblingWindow, Window
from tests.support.loop_clock import LoopClock

PARTITIONS = 3
SIZE_MS = 10_000
SETTINGS = WebSettings(port=0, ws_progress_s=0.05, peer_timeout_s=1.0, min_position_wait_s=0.3)


def partition_of(key: Any) -> int:
    return crc32(str(key).encode()) % PARTITIONS if key is not None else 0


class Data:
    """The rows of one table on all its partitions, whoever owns them."""

    def __init__(self, name: str, *, window: Window | None, keyed: bool = True, kind: str = "agent") -> None:
        self.name = name
        self.window = window
        self.keyed = keyed
        self.kind = kind
        # partition -> (window start, key) -> row
        self.rows: dict[int, dict[tuple[int | None, Any], Row]] = {p: {} for p in range(PARTITIONS)}
        self.positions = dict.fromkeys(range(PARTITIONS), 0)
        self.watermark_ms: int | None = None
        self.late: dict[int, list[LateRow]] = {p: [] for p in range(PARTITIONS)}


class FakeReader:
    """A `TableReader` over `Data`."""

    description: Mapping[str, Any] = {"values": "count"}
    value_names: tuple[str, ...] | None = None
    source_topic = "events"
    partitions = PARTITIONS
    is_merged = False
    is_exact = True

    def __init__(self, data: Data, served: FakeServed) -> None:
        self.data = data
        self.served = served
        self.name = data.name
        self.kind: Any = data.kind
        self.window = data.window
        self.keyed = data.keyed

    @property
    def owned(self) -> frozenset[int]:
        return frozenset(self.served.owned)

    def parse_key(self, text: str) -> Any:
        if text.startswith("!"):
            raise DecodeError("bad-key", "a key does not begin with an exclamation mark", field="key")
        return text

    def parse_key_bytes(self, raw: bytes) -> Any:
        return raw.decode()

    def partition_of(self, key: Any) -> int:
        return partition_of(key)

    async def scattered_partitions(self, key: Any) -> tuple[int, ...]:
        others = self.owned - {partition_of(key)}
        return tuple(p for p in sorted(others) if any(k == key for _, k in self.data.rows[p]))

    def windows(self, key: Any) -> list[Row]:
        rows = [row for p in self.owned for (_, k), row in self.data.rows[p].items() if k == key]
        return sorted(rows, key=lambda row: row.start_ms or 0)

    def get(self, key: Any, at_ms: int | None = None) -> Row | None:
        rows = self.windows(key)
        if at_ms is not None:
            rows = [
                row
                for row in rows
                if row.start_ms is not None and row.start_ms <= at_ms < row.start_ms + SIZE_MS
            ]
        return rows[-1] if rows else None

    def rows(self, partition: int, wants_key: WantsKey | None = None) -> Iterator[Row]:
        assert partition in self.owned
        rows = self.data.rows[partition].values()
        return (row for row in rows if wants_key is None or wants_key(row.key))

    async def sliced(self, partition: int, wants_key: WantsKey | None = None) -> AsyncIterator[list[Row]]:
        places = list(self.data.rows[partition])
        for at in range(0, len(places), 4):
            await asyncio.sleep(0)
            if partition not in self.owned:
                raise PartitionMoved(f"partition {partition} has moved")
            found = (self.data.rows[partition].get(place) for place in places[at : at + 4])
            yield [row for row in found if row is not None and (wants_key is None or wants_key(row.key))]

    async def listed(self, partition: int, query: RowQuery) -> AsyncIterator[Row]:
        if partition not in self.owned:
            raise PartitionMoved(f"partition {partition} has moved")
        for row in query.best(filter(query.wants, self.data.rows[partition].values()), None):
            yield row

    async def listed_of(self, key: Any, query: RowQuery) -> AsyncIterator[Row]:
        for row in query.best(filter(query.wants, self.windows(key)), None):
            yield row

    async def counted(self, partition: int, query: RowQuery) -> int:
        return sum([1 async for _ in self.listed(partition, query)])

    async def counted_of(self, key: Any, query: RowQuery) -> int:
        return sum([1 async for _ in self.listed_of(key, query)])

    async def find(self, key: Any, at_ms: int | None = None) -> Row | None:
        return self.get(key, at_ms)

    def late(self) -> dict[int, LateSeen]:
        if self.kind != "aggregate":
            return {}
        late = self.data.late
        return {
            p: LateSeen(late[p], {"came": len(late[p]), "lost": 0, "applied": 0}) for p in sorted(self.owned)
        }

    def status(self) -> TableStatus:
        owned = sorted(self.owned)
        return TableStatus(
            positions={p: self.data.positions[p] for p in owned},
            lags=dict.fromkeys(owned, 0),
            watermark_ms=self.data.watermark_ms if owned else None,
            counters={"late": len(owned)},
        )

    def row_count(self) -> int:
        return sum(len(self.data.rows[p]) for p in self.owned)

    async def count_rows(self) -> int:
        return self.row_count()


class FakeStandby(FakeReader):
    """The same rows, of partitions that this worker keeps for others."""

    @property
    def owned(self) -> frozenset[int]:
        return frozenset(self.served.standbys)

    def age_ms(self, partition: int) -> float:
        return 1_500.0

    def positions(self, partition: int | None = None) -> dict[int, int]:
        return {p: at for p, at in self.data.positions.items() if partition in (None, p) and p in self.owned}

    async def look(self, partitions: Iterable[int]) -> None:
        pass

    def lags_of(self, partition: int) -> dict[int, int | None]:
        return {partition: None}


class FakeTopics:
    """Of an app that knows its source topic."""

    def names(self) -> list[str]:
        return ["events"]

    async def exists(self, topic: str) -> bool:
        return topic == "events"

    def internal(self) -> frozenset[str]:
        return frozenset()

    async def facts(self, topics: Iterable[str]) -> list[TopicFacts]:
        parts = [PartitionFacts(p, 0, 10, 7) for p in range(PARTITIONS)]
        return [TopicFacts(topic, False, ["reader"], ["counts"], parts) for topic in topics]

    async def unowned_lags(self, owned: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
        return {("events", p): 3 for p in range(PARTITIONS) if ("events", p) not in owned}


class FakeLog:
    """Empty topics."""

    def partitions(self, topic: str) -> int:
        return PARTITIONS if topic == "events" else 0

    def show(self, message: Message, topic: str | None = None) -> Shown:
        return shown(None, message.key, message.value)

    async def page(
        self, topic: str, partition: int, limit: int, *, offset: int | None = None, time_ms: int | None = None
    ) -> Look:
        return Look([], None)

    async def newest(self, topic: str, partition: int, limit: int) -> Look:
        return Look([], None)

    async def of_all(self, topic: str, limit: int, time_ms: int | None) -> list[Message]:
        return []


class FakeFollower:
    """Of empty topics."""

    async def ends(self) -> Ends:
        return Ends(NO_ID, dict.fromkeys(range(PARTITIONS), 0))

    async def assign(self, positions: Mapping[int, int]) -> None:
        """There is nothing to be read."""

    async def read(self, wait_ms: int) -> list[Stretch]:
        await asyncio.sleep(wait_ms / 1_000)
        return []

    async def close(self) -> None:
        """There is nothing to be closed."""


class NoLetters:
    """An app of which nothing was set aside."""

    def topics(self) -> list[str]:
        return ["events-dead-letters"]

    async def page(self, wanted: Wanted, limit: int, after: Place | None = None) -> LetterPage:
        return LetterPage([], None)

    async def find(self, at: Place) -> Entry | None:
        return None

    def describe(self, entry: Entry, *, whole: bool = False) -> dict[str, Any]:
        raise AssertionError("there is none")

    async def replay(self, entries: Sequence[Entry], *, agent: str | None = None) -> list[int]:
        return []

    async def replay_edited(self, entry: Entry, value: object, *, agent: str | None = None) -> int:
        raise AssertionError("there is none")

    async def drop(self, entries: Sequence[Entry]) -> None:
        """There is nothing to drop."""


class FakeServed:
    """A worker of a `Cluster`; owns the partitions in ``owned``."""

    app_id = "demo"

    def __init__(self, cluster: Cluster, owned: Iterable[int], url: str) -> None:
        self.cluster = cluster
        self.owned = set(owned)
        self.standbys: set[int] = set()
        self.url = url
        self.clock = LoopClock()
        self.metrics = Metrics()
        self.listeners: list[RowListener] = []
        self.is_ready = True
        self.all_tables: dict[str, TableReader] = {}  # while `forget_tables` holds
        self.status = "ok"
        self.error: str | None = None
        self.reason: str | None = None
        self.generations = 0
        self.tables: dict[str, TableReader] = {n: FakeReader(d, self) for n, d in cluster.data.items()}

    def standby(self, table: str) -> FakeStandby | None:
        return FakeStandby(self.cluster.data[table], self) if self.standbys else None

    def knows_tables(self) -> bool:
        return not self.all_tables

    def forget_tables(self) -> None:
        """As a worker is that has bound its port and does not know its tables yet."""
        self.all_tables, self.tables = self.tables, {}

    def know_tables(self) -> None:
        self.tables, self.all_tables = self.all_tables, {}

    def listen(self, listener: RowListener) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    async def apply_late(self, table: str) -> dict[str, int]:
        late = self.cluster.data[table].late
        if self.error is not None:
            raise StreamflowError(self.error)
        applied = sum(len(late[partition]) for partition in self.owned)
        for partition in self.owned:
            late[partition] = []
        return {"applied": applied, "expired": 0, "unsupported": 0}

    def members(self) -> tuple[Member, ...]:
        return tuple(self.cluster.members)

    def generation(self) -> int:
        return self.generations

    def ready(self) -> bool:
        return self.is_ready

    def health(self) -> Mapping[str, Any]:
        if self.reason is not None:
            return {"status": "stalled", "error": None, "reason": self.reason}
        return {"status": self.status if self.error is None else "failed", "error": self.error}

    def stats(self) -> Mapping[str, Any]:
        return {
            "records_total": self.cluster.events,
            "lag_records": 0,
            "partitions": sorted(self.owned),
            "agents": {},
            "workers": len(self.cluster.workers),
        }

    @property
    def topics(self) -> FakeTopics:
        return FakeTopics()

    @property
    def log(self) -> FakeLog:
        return FakeLog()

    def follow(self, topic: str) -> Follows:
        return FakeFollower()

    @property
    def publisher(self) -> None:
        return None

    @property
    def letters(self) -> LettersServed:
        return NoLetters()

    def agents(self) -> list[AgentFacts]:
        in_hand = [InHand("reader", "events", 0, 7, 1.5)]
        return [AgentFacts("reader", ["events"], 1, 10, 2, 1, 0, 3, 5.0, [0, 4, *[0] * 15], in_hand, False)]

    def worker(self) -> WorkerFacts:
        partitions = [("events", p) for p in sorted(self.owned)]
        return WorkerFacts(
            state="ready",
            reason=None,
            version="1",
            started_ms=0,
            committed_ms=None,
            memory_bytes=1,
            connections=0,
            records_total=10,
            lags=dict.fromkeys(partitions, 3),
            partitions=partitions,
            standbys=[],
            breakers={"payments": "half-open"},
        )

    def tell(self, changes: Iterable[TableChanges]) -> None:
        for listener in list(self.listeners):
            listener(changes)


class Cluster:
    """Workers, and the tables that they share. Use as ``async with Cluster().run(2) as workers``."""

    def __init__(self, settings: WebSettings = SETTINGS) -> None:
        self.settings = settings
        window = TumblingWindow(size_s=SIZE_MS / 1_000)
        self.data = {
            "counts": Data("counts", window=window),
            "by_type": Data("by_type", window=window, kind="aggregate"),
            "totals": Data("totals", window=window, keyed=False, kind="aggregate"),
            "users": Data("users", window=None),
        }
        self.workers: list[FakeServed] = []
        self.servers: list[WebServer] = []
        self.hubs: list[Hub] = []  # of each server, the live connections
        self.members: list[Member] = []
        self.events = 0

    @asynccontextmanager
    async def run(self, *owned: Iterable[int]) -> AsyncIterator[list[FakeServed]]:
        """Starts one worker for each set of partitions; by default one that owns all."""
        try:
            for partitions in owned or (range(PARTITIONS),):
                await self.add(partitions)
            yield self.workers
        finally:
            for server in self.servers:
                await server.stop()

    async def add(
        self,
        partitions: Iterable[int],
        settings: WebSettings | None = None,
        *,
        knows: bool = True,
        app_id: str = "demo",
    ) -> FakeServed:
        server = WebServer(settings or self.settings)
        served = FakeServed(self, partitions, server.bind())
        served.app_id = app_id
        if not knows:
            served.forget_tables()
        self.workers.append(served)
        self.servers.append(server)
        self.elect()
        await server.start(served, extend=lambda app: self.hubs.append(app[HUB]))
        return served

    def elect(self) -> None:
        """What the group knows of its members becomes what they own."""
        self.members = [
            Member(f"m{i}", worker.url, frozenset(("events", p) for p in worker.owned))
            for i, worker in enumerate(self.workers)
        ]

    async def kill(self, index: int) -> None:
        """A worker that stops answering; the group still counts it as a member."""
        await self.servers[index].stop()

    def owner(self, partition: int) -> FakeServed | None:
        return next((worker for worker in self.workers if partition in worker.owned), None)

    def put(
        self,
        table: str,
        key: Any,
        value: Any,
        *,
        start_ms: int | None = None,
        state: State = "open",
        partition: int | None = None,
        op: Operation = "upsert",
    ) -> Row:
        """One checkpoint with one change, told to the listeners of the owner."""
        data = self.data[table]
        where = partition_of(key) if partition is None else partition
        if data.window is None:
            row = Row(key, None, None, None, value, where)
        else:
            start = start_ms if start_ms is not None else 0
            row = Row(key, start, start + SIZE_MS, state, value, where)
        self.checkpoint(table, where, [RowChange(op, row)])
        return row

    def checkpoint(self, table: str, partition: int, changes: list[RowChange]) -> None:
        data = self.data[table]
        for change in changes:
            place = (change.row.start_ms, change.row.key)
            if change.op == "upsert":
                data.rows[partition][place] = change.row
            else:
                data.rows[partition].pop(place, None)
        self.events += len(changes)
        data.positions[partition] += len(changes)
        data.watermark_ms = max([data.watermark_ms or 0, *(change.row.start_ms or 0 for change in changes)])
        owner = self.owner(partition)
        if owner is not None:
            positions = {partition: data.positions[partition]}
            owner.tell([TableChanges(table, partition, tuple(changes), positions, data.watermark_ms)])

    def table(self, name: str) -> dict[tuple[int, Any, int | None], Any]:
        """The truth: (partition, key, window start) -> value."""
        return {
            (row.partition, row.key, row.start_ms): row.value
            for rows in self.data[name].rows.values()
            for row in rows.values()
        }

    def position(self, name: str) -> dict[str, str]:
        return {str(p): str(offset) for p, offset in self.data[name].positions.items()}

    def with_settings(self, **changes: Any) -> Cluster:
        self.settings = replace(self.settings, **changes)
        return self


async def until(condition: Callable[[], bool], wait_s: float = 5.0) -> None:
    """Returns when ``condition`` holds; fails after ``wait_s``."""
    async with asyncio.timeout(wait_s):
        while not condition():  # noqa: ASYNC110  - whatever it is, not only events
            await asyncio.sleep(0.005)
