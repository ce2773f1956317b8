"""What the transport contract needs from a driver's tests, and small helpers that wait without sleeping.

A harness makes real clients of the driver and can do to them what the world does: kill them, stop
their process for a while, and hold one of their commits just before its decision.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from streamflow.transports.base import (
    COMMIT_OFFSETS,
    Assignment,
    Batch,
    Breakable,
    Commit,
    LogReader,
    OnPoint,
    Record,
    TopicPartition,
    TopicSpec,
    Transport,
)

_numbers = itertools.count(1)


def unique(word: str) -> str:
    """A name that no other test of this or another session uses."""
    return f"{word}-{os.getpid()}-{os.urandom(4).hex()}-{next(_numbers)}"


class HeldCommit:
    """A commit whose task stands between its offsets and its decision."""

    def __init__(self, task: asyncio.Task[dict[TopicPartition, int]], go: asyncio.Event) -> None:
        self.task = task
        self._go = go

    async def release(self) -> dict[TopicPartition, int]:
        """Lets the commit go on; returns or raises what `Transport.commit` does."""
        self._go.set()
        return await self.task


class Holds:
    """The `OnPoint` of one client: lets all pass but the commit that is to be held."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._go: asyncio.Event | None = None
        self._tasks: list[asyncio.Task[Any]] = []

    async def __call__(self, point: str) -> None:
        go = self._go
        if point == COMMIT_OFFSETS and go is not None:
            self._go = None
            self._reached.set()
            await go.wait()

    async def hold(self, commit: Coroutine[Any, Any, dict[TopicPartition, int]]) -> HeldCommit:
        """Starts the commit; returns when all but its decision is done. Raises what it raises before that."""
        go = self._go = asyncio.Event()
        self._reached.clear()
        task = asyncio.create_task(commit)
        self._tasks.append(task)
        waiting = asyncio.create_task(self._reached.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            waiting.cancel()
            task.result()
        return HeldCommit(task, go)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Harness(Protocol):
    """How one driver's tests make clients and hurt them.

    ``limit_s`` bounds every wait of the suite; it must exceed the session and transaction timeouts
    that the harness gives its clients, so keep those short. ``can_stall`` and ``can_hold`` say
    whether `stall`, `wake` and `hold` are there.
    """

    limit_s: float
    can_stall: bool
    can_hold: bool

    async def client(self, group: str, name: str) -> Transport:
        """A started client that has not subscribed. ``name`` is unique and stable, as a worker's slot."""
        ...

    async def kill(self, client: Transport) -> None:
        """As SIGKILL: no goodbye to the group, an open commit stays open until the broker ends it."""
        ...

    async def stall(self, client: Transport) -> None:
        """As SIGSTOP: returns when the group has given up on the client (others may be assigned)."""
        ...

    async def wake(self, client: Transport) -> None:
        """As SIGCONT."""
        ...

    async def hold(self, client: Transport, commit: Commit) -> HeldCommit:
        """Starts a commit; returns when all but its decision is done."""
        ...


class Seen(NamedTuple):
    """One record as a reader got it."""

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: tuple[tuple[str, bytes | None], ...]


def rows_of(batch: Batch) -> list[Seen]:
    """The batch as rows; checks that the columns agree in length."""
    count = len(batch.offsets)
    assert len(batch.keys) == len(batch.values) == len(batch.timestamps_ms) == count
    assert batch.headers is None or len(batch.headers) == count
    headers: Sequence[Iterable[tuple[str, bytes | None]]] = (
        batch.headers if batch.headers is not None else [()] * count
    )
    return [
        Seen(*row[:4], tuple((name, None if text is None else bytes(text)) for name, text in row[4]))
        for row in zip(batch.offsets, batch.keys, batch.values, batch.timestamps_ms, headers, strict=True)
    ]


class Listener:
    """Records what a rebalance says; ``before_revoked`` runs inside ``on_revoked``."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.assignments: list[Assignment] = []
        self.before_revoked: Callable[[], Awaitable[object]] | None = None
        self.revoking = asyncio.Event()
        self._changed = asyncio.Event()

    async def on_revoked(self) -> None:
        self.story.append("revoked")
        self.revoking.set()
        if self.before_revoked is not None:
            await self.before_revoked()

    async def on_assigned(self, assignment: Assignment) -> None:
        self.story.append("assigned")
        self.assignments.append(assignment)
        self._changed.set()

    @property
    def newest(self) -> Assignment:
        return self.assignments[-1]

    async def until(self, wanted: Callable[[Assignment], bool], limit_s: float) -> Assignment:
        """The newest assignment as soon as it is as wanted; TimeoutError after ``limit_s``."""
        async with asyncio.timeout(limit_s):
            while not (self.assignments and wanted(self.newest)):
                self._changed.clear()
                await self._changed.wait()
        return self.newest


class Worker:
    """A client, its listener and its topics: what a test calls a worker."""

    def __init__(self, client: Transport, limit_s: float) -> None:
        self.client = client
        self.limit_s = limit_s
        self.listener = Listener()

    async def join(self, topics: Iterable[str], url: str = "http://worker") -> None:
        await self.client.subscribe(topics, self.listener, url)

    async def owns(self, partitions: Iterable[TopicPartition]) -> Assignment:
        """Waits until this worker is assigned exactly these partitions."""
        wanted = frozenset(partitions)
        return await self.listener.until(lambda a: a.partitions == wanted, self.limit_s)

    async def owns_number(self, number: int) -> Assignment:
        return await self.listener.until(lambda a: len(a.partitions) == number, self.limit_s)

    def begin(self, positions: dict[TopicPartition, int]) -> None:
        """Seeks and resumes, as the engine does after its recovery."""
        for partition, offset in positions.items():
            self.client.seek(partition, offset)
        self.client.resume(positions)

    async def take(self, number: int) -> dict[TopicPartition, list[Seen]]:
        """Fetches until ``number`` records have come."""
        got: dict[TopicPartition, list[Seen]] = {}
        async with asyncio.timeout(self.limit_s):
            while sum(map(len, got.values())) < number:
                for batch in await self.client.fetch(100):
                    got.setdefault((batch.topic, batch.partition), []).extend(rows_of(batch))
        return got

    async def quiet(self, wait_ms: int = 200) -> None:
        """Checks that nothing more comes."""
        for _ in range(2):
            assert [row for batch in await self.client.fetch(wait_ms // 2) for row in rows_of(batch)] == []


async def make_topic(client: Transport, word: str, partitions: int, **options: object) -> str:
    name = unique(word)
    await client.create_topics([TopicSpec(name, partitions, **options)])  # type: ignore[arg-type]  # test sugar
    return name


def partitions_of(topic: str, number: int) -> list[TopicPartition]:
    return [(topic, p) for p in range(number)]


def numbered(topic: str, partition: int, numbers: Iterable[int]) -> list[Record]:
    """Records whose values are the numbers as text."""
    return [Record(topic, partition, b"k", str(n).encode()) for n in numbers]


def numbers_in(rows: Iterable[Seen]) -> list[int]:
    return [int(row.value) for row in rows if row.value is not None]


async def read_until(
    reader: LogReader, positions: dict[TopicPartition, int], ends: dict[TopicPartition, int], limit_s: float
) -> dict[TopicPartition, list[Seen]]:
    """Reads from ``positions`` until each has passed its end, as a recovery does."""
    await reader.assign(positions)
    at = dict(positions)
    got: dict[TopicPartition, list[Seen]] = {partition: [] for partition in positions}
    async with asyncio.timeout(limit_s):
        while any(at[partition] < ends[partition] for partition in at):
            for batch in await reader.read(100):
                partition = (batch.topic, batch.partition)
                rows = rows_of(batch)
                assert all(row.offset >= at[partition] for row in rows), "read again what was read"
                at[partition] = batch.next_offset
                got[partition].extend(rows)
    return got


async def read_all(
    client: Transport, partitions: Iterable[TopicPartition], limit_s: float
) -> dict[TopicPartition, list[Seen]]:
    """All that is committed; waits for whatever is undecided now."""
    wanted = list(partitions)
    reader = client.log_reader()
    try:
        ends = await client.high_watermarks(wanted)
        return await read_until(reader, dict.fromkeys(wanted, 0), ends, limit_s)
    finally:
        await reader.close()


class BreakableTransport(Breakable, Transport, Protocol):
    """What every driver's transport is."""


C = TypeVar("C", bound=BreakableTransport)


class Clients(Generic[C]):
    """The `Harness` of a driver, which says in `make` how a client is made."""

    limit_s = 30.0
    can_stall = True
    can_hold = True

    def __init__(self) -> None:
        self._holds: dict[Transport, Holds] = {}

    def make(self, group: str, name: str, on_point: OnPoint, **settings: Any) -> C:
        """A client that is not started; ``on_point`` is awaited at the points of its commits."""
        raise NotImplementedError

    def new(self, group: str, name: str, **settings: Any) -> C:
        """Not started; it ends with the harness."""
        holds = Holds()
        client = self.make(group, name, holds, **settings)
        self._holds[client] = holds
        return client

    async def client(self, group: str, name: str, **settings: Any) -> C:
        client = self.new(group, name, **settings)
        await client.start()
        return client

    async def maker(self, **settings: Any) -> C:
        """A client that belongs to nobody: makes topics, sends, reads."""
        return await self.client(unique("maker"), unique("maker"), **settings)

    async def worker(self, group: str, topic: str, **settings: Any) -> Worker:
        """A client that joins the group; its assignment is still to come."""
        worker = Worker(await self.client(group, unique("worker"), **settings), self.limit_s)
        await worker.join([topic])
        return worker

    async def alone(self, topic: str, number: int, group: str | None = None, **settings: Any) -> Worker:
        """The only worker of a group, with all ``number`` partitions."""
        worker = await self.worker(group or unique("group"), topic, **settings)
        await worker.owns(partitions_of(topic, number))
        return worker

    async def kill(self, client: Transport) -> None:
        assert isinstance(client, Breakable)
        client.kill()

    async def stall(self, client: Transport) -> None:
        assert isinstance(client, Breakable)
        client.stall()

    async def wake(self, client: Transport) -> None:
        assert isinstance(client, Breakable)
        client.wake()

    async def hold(self, client: Transport, commit: Commit) -> HeldCommit:
        return await self._holds[client].hold(client.commit(commit))

    async def close(self) -> None:
        for client, holds in self._holds.items():
            await holds.close()
            if isinstance(client, Breakable):
                client.wake()
        await asyncio.gather(*(client.stop() for client in self._holds))
