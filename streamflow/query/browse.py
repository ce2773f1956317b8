"""Looks at topics: some records from an offset, a time or the end, read beside the engine and within limits.

Any worker can look at any partition: it reads with a reader of its own, outside of the group. A look is
bounded in records, in bytes and in time; where a bound ends it, it says where to go on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, NamedTuple

from streamflow.engine.engine import Engine
from streamflow.errors import ConfigurationError
from streamflow.query.shown import Shown, shown
from streamflow.query.slices import Slices
from streamflow.transports.base import Headers, TopicPartition

BYTES_MAX: Final = 400 << 10
"""More in one answer, encoded and hashed as it is, would hold up all others for too long."""
LOOK_MAX_MS: Final = 2_000.0
READ_WAIT_MS: Final = 50
LOOKS_AT_ONCE: Final = 2
SPAN_FIRST: Final = 32
SPAN_GROWTH: Final = 16
"""How far before the end the newest records are looked for: so many offsets, then so many times as far."""
PARTITIONS_MAX: Final = 64
"""Of a topic with more, one partition at a time is looked at."""


class Message(NamedTuple):
    """A record as it lies in its topic."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def size(self) -> int:
        return len(self.key or b"") + len(self.value or b"")


@dataclass(frozen=True, slots=True)
class Look:
    """``next``: where the partition goes on behind what was looked at; ``None`` at its end."""

    messages: list[Message]
    next: int | None


class Budget:
    """What is left of the bytes and the time of one look. A first record is never too large for it."""

    def __init__(self, engine: Engine) -> None:
        self._clock = engine.clock
        self._until_ms = engine.clock.monotonic_ms() + LOOK_MAX_MS
        self._bytes = BYTES_MAX

    @property
    def bytes_left(self) -> int:
        return self._bytes

    def take(self, message: Message) -> None:
        self._bytes -= message.size

    def is_spent(self) -> bool:
        return self._bytes <= 0 or self.is_late()

    def is_late(self) -> bool:
        return self._clock.monotonic_ms() >= self._until_ms


class Browser:
    """Of one engine; `LOOKS_AT_ONCE` looks at a time, others wait.

    All of it raises TransportError and other StreamflowErrors where the broker can't tell.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._room = asyncio.Semaphore(LOOKS_AT_ONCE)

    def partitions(self, topic: str) -> int:
        """How many the topic has; 0 for one that the app does not know."""
        return self._engine.topology.topics.counts.get(topic, 0)

    def show(self, message: Message, topic: str | None = None) -> Shown:
        """Its key and value as JSON, by the types of its topic, or of ``topic``."""
        source = self._engine.topology.format_of(topic or message.topic)
        return shown(source, message.key, message.value)

    async def page(
        self, topic: str, partition: int, limit: int, *, offset: int | None = None, time_ms: int | None = None
    ) -> Look:
        """The first ``limit`` records from ``offset``, from a time, or from the beginning."""
        async with self._room:
            at = (topic, partition)
            start, end = await self._extent(at)
            if time_ms is not None:
                offset = (await self._engine.transport.offsets_at([at], time_ms)).get(at, end)
            first = start if offset is None else max(start, offset)
            return await self._read(at, first, end, limit, Budget(self._engine))

    async def newest(self, topic: str, partition: int, limit: int) -> Look:
        """The last ``limit`` records, oldest first."""
        async with self._room:
            return await self._newest((topic, partition), limit, Budget(self._engine))

    async def of_all(self, topic: str, limit: int, time_ms: int | None) -> list[Message]:
        """Of all partitions by their timestamps: the first ``limit`` from a time, or the newest.

        Raises ConfigurationError for a topic of more than `PARTITIONS_MAX`.
        """
        count = self.partitions(topic)
        if count > PARTITIONS_MAX:
            raise ConfigurationError(f"topic {topic!r} has {count} partitions: name one of them")
        found: list[Message] = []
        async with self._room:
            for partition in range(count):
                budget = Budget(self._engine)
                if time_ms is None:
                    look = await self._newest((topic, partition), limit, budget)
                else:
                    at = (topic, partition)
                    _, end = await self._extent(at)
                    first = (await self._engine.transport.offsets_at([at], time_ms)).get(at, end)
                    look = await self._read(at, first, end, limit, budget)
                found = sorted((*found, *look.messages), key=_when)
                found = _within(found, limit, newest=time_ms is None)
        return found

    async def _extent(self, at: TopicPartition) -> tuple[int, int]:
        transport = self._engine.transport
        starts, ends = await transport.earliest_offsets([at]), await transport.high_watermarks([at])
        return starts.get(at, 0), ends.get(at, 0)

    async def _newest(self, at: TopicPartition, limit: int, budget: Budget) -> Look:
        start, end = await self._extent(at)
        found: deque[Message] = deque()
        span, until = SPAN_FIRST, end
        while len(found) < limit and until > start and not budget.is_spent():
            first = max(start, until - span)
            # Of offsets that are times many lie between two records: so one goes back ever further.
            window = _Window(limit - len(found), budget.bytes_left)
            reached = await self._scan(at, first, until, budget, window)
            if reached < until and found:
                break  # what lies between these and those that were found was not read
            found.extendleft(reversed(window.messages))
            if reached < until:
                return Look(list(found), reached)
            for message in window.messages:
                budget.take(message)
            if window.is_cut:
                break  # older ones would have a gap in front of these
            until, span = first, span * SPAN_GROWTH
        return Look(list(found), None)

    async def _scan(self, at: TopicPartition, first: int, end: int, budget: Budget, window: _Window) -> int:
        """Passes the records from ``first`` to before ``end``; returns how far it came in time."""
        reached = first
        async with aclosing(self._walk(at, first, end, budget)) as walk:
            async for message, position in walk:
                reached = position
                if message is not None:
                    window.add(message)
        return reached

    async def _read(self, at: TopicPartition, first: int, end: int, limit: int, budget: Budget) -> Look:
        messages: list[Message] = []
        reached = first
        async with aclosing(self._walk(at, first, end, budget)) as walk:
            async for message, position in walk:
                reached = position
                if message is not None:
                    messages.append(message)
                    budget.take(message)
                if len(messages) >= limit or budget.is_spent():
                    break
        return Look(messages, reached if reached < end else None)

    async def _walk(
        self, at: TopicPartition, first: int, end: int, budget: Budget
    ) -> AsyncGenerator[tuple[Message | None, int], None]:
        """The committed records from ``first`` to before ``end``, as far as time allows.

        With each comes where the partition goes on behind it; without one that is behind a gap.
        """
        if first >= end:
            return
        slices = Slices(self._engine.clock)
        reader = self._engine.transport.log_reader(little=True)
        try:
            await reader.assign({at: first})
            reached = first
            while reached < end and not budget.is_late():
                for batch in await reader.read(READ_WAIT_MS):
                    for index, offset in enumerate(batch.offsets):
                        if offset >= end:
                            break
                        headers: Headers = () if batch.headers is None else batch.headers[index]
                        stamp_ms = batch.timestamps_ms[index]
                        key, value = batch.keys[index], batch.values[index]
                        yield Message(*at, offset, stamp_ms, key, value, headers), offset + 1
                        if slices.over():
                            await slices.rest()
                            if budget.is_late():
                                return
                    reached = min(batch.next_offset, end)
                    yield None, reached
        finally:
            await reader.close()


class _Window:
    """The newest of the records that pass, bounded in number and in bytes."""

    def __init__(self, limit: int, bytes_max: int) -> None:
        self.messages: deque[Message] = deque(maxlen=limit)
        self._bytes = 0
        self._bytes_max = bytes_max
        self.is_cut = False  # for its bytes

    def add(self, message: Message) -> None:
        if len(self.messages) == self.messages.maxlen:
            self._bytes -= self.messages.popleft().size
        self.messages.append(message)
        self._bytes += message.size
        while self._bytes > self._bytes_max and len(self.messages) > 1:
            self._bytes -= self.messages.popleft().size
            self.is_cut = True


def _when(message: Message) -> tuple[int, int, int]:
    return message.timestamp_ms, message.partition, message.offset


def _within(messages: list[Message], limit: int, *, newest: bool) -> list[Message]:
    """The first, or the last, of them within the bounds of one look; one at least."""
    kept: list[Message] = []
    left = BYTES_MAX
    for message in reversed(messages) if newest else messages:
        left -= message.size
        if len(kept) == limit or (left < 0 and kept):
            break
        kept.append(message)
    return kept[::-1] if newest else kept
