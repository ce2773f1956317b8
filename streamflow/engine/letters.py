"""Dead letters as they are read again: what was set aside and why, and what became of it since.

A letter stays where it is. What was replayed or dropped is remembered by a mark in a compacted topic of the
app's own, ``<app>-handled-letters``: the key is ``[topic, partition, offset]`` of the letter, the value what
was done and when. A letter without a mark waits. The event goes first and its mark behind it: who is killed
in between has sent an event whose letter still waits, and has lost none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple

import orjson

from streamflow.clock import Clock, epoch_ms, rfc3339
from streamflow.codecs import json_bytes
from streamflow.engine.dead_letters import ADDED, CUT
from streamflow.engine.retry_topics import REPLAYED_FOR
from streamflow.engine.topology import Topology
from streamflow.errors import ConfigurationError
from streamflow.transports.base import Headers, Record, Transport

Done = Literal["replayed", "dropped"]
BATCH_RECORDS_MAX: Final = 500
READ_WAIT_MS: Final = 50


class Letter(NamedTuple):
    """One event that was set aside, and where it lies now."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int = 0

    @property
    def id(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"

    @property
    def source(self) -> tuple[str, int, int]:
        """Topic, partition and offset of its event."""
        return self.fact("source-topic"), int(self.fact("source-partition")), int(self.fact("source-offset"))

    @property
    def names(self) -> frozenset[str]:
        """By which it may be called: its place or that of its event, in either spelling."""
        places = [(self.topic, self.partition, self.offset), self.source]
        return frozenset(text for t, p, o in places for text in (f"{t}:{p}:{o}", f"{t}[{p}]@{o}"))

    @property
    def cut(self) -> str | None:
        """How much there was of an event that did not fit as a whole; None for one that is here as it was."""
        name, value = self.headers[-1]
        return value.decode(errors="replace") if name == CUT and value is not None else None

    @property
    def own_headers(self) -> Headers:
        """Those of the event: what stands before the newest that were added."""
        begin = max(index for index, (name, _) in enumerate(self.headers) if name == ADDED[0])
        return tuple(pair for pair in self.headers[:begin] if pair[0] != REPLAYED_FOR)

    def fact(self, name: str) -> str:
        """One of the headers that were added when it was set aside; the newest, if there are several."""
        found = [value for header, value in self.headers if header == name and value is not None]
        return found[-1].decode(errors="replace") if found else ""

    def facts(self) -> dict[str, str]:
        """All of those."""
        begin = max(index for index, (name, _) in enumerate(self.headers) if name == ADDED[0])
        return {name: (value or b"").decode(errors="replace") for name, value in self.headers[begin:]}

    def restored(
        self, *, value: bytes | None = None, edited: bool = False, agent: str | None = None
    ) -> Record:
        """The event as it was before it was set aside, for the partition that it came from.

        With ``edited`` it has this ``value`` now; with ``agent`` it is for this one alone. Raises
        ConfigurationError for a letter that holds the beginning of its event only, unless that is edited.
        """
        if self.cut is not None and not edited:
            raise ConfigurationError(f"{self.id}: only the beginning of the event was kept ({self.cut})")
        headers = self.own_headers
        if agent is not None:
            headers = (*headers, (REPLAYED_FOR, f"agent:{agent}".encode()))
        topic, partition, _ = self.source
        return Record(topic, partition, self.key, value if edited else self.value, headers)


class Handled(NamedTuple):
    """What became of a letter, and when."""

    done: Done
    at_ms: int


def letter_of(
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
) -> Letter | None:
    """A record of a dead-letter topic; ``None`` for one that is no letter: others may write there too."""
    if not any(name == ADDED[0] for name, _ in headers):
        return None
    return Letter(topic, partition, offset, key, value, tuple(headers), timestamp_ms)


def letter_topics(topology: Topology) -> list[str]:
    """Where an app's events may have been set aside."""
    targets = {agent.spec.dead_letter for agent in topology.agents if agent.spec.dead_letter is not None}
    return sorted(targets | {topology.letters_of(source) for source in topology.source_topics()})


class Marks:
    """What was done about the letters of one app. Reads on from where it was, each time it is asked to."""

    def __init__(self, topology: Topology, transport: Transport, clock: Clock) -> None:
        self._topology = topology
        self._transport = transport
        self._clock = clock
        self._topic = topology.topics.handled_letters
        self._reading = asyncio.Lock()
        self._position = 0
        self._handled: dict[tuple[str, int], dict[int, Handled]] = {}

    def of(self, letter: Letter) -> Handled | None:
        """``None``: it waits."""
        return self._handled.get((letter.topic, letter.partition), {}).get(letter.offset)

    async def refresh(self) -> None:
        """Knows afterwards all that was marked before. Raises TransportError."""
        async with self._reading:
            at = (self._topic, 0)
            if not await self._transport.partition_counts([self._topic]):
                return
            end = (await self._transport.high_watermarks([at])).get(at, 0)
            if self._position > end:
                self._handled, self._position = {}, 0  # it was deleted, and made again
            if self._position >= end:
                return
            reader = self._transport.log_reader(little=True)
            try:
                await reader.assign({at: self._position})
                while self._position < end:
                    for batch in await reader.read(READ_WAIT_MS):
                        for key, value in zip(batch.keys, batch.values, strict=True):
                            self._learn(key, value)
                        self._position = batch.next_offset
                        await asyncio.sleep(0)
            finally:
                await reader.close()

    def _learn(self, key: bytes | None, value: bytes | None) -> None:
        if key is None:
            return
        topic, partition, offset = orjson.loads(key)
        of = self._handled.setdefault((topic, partition), {})
        if value is None:
            of.pop(offset, None)
            return
        said = orjson.loads(value)
        of[offset] = Handled(said["done"], epoch_ms(datetime.fromisoformat(said["time"])))

    def forget_before(self, topic: str, partition: int, start: int) -> None:
        """The letters before this offset are gone: what was done about them is of no use."""
        of = self._handled.get((topic, partition))
        if of and min(of) < start:
            self._handled[topic, partition] = {at: done for at, done in of.items() if at >= start}

    async def mark(self, letters: Iterable[Letter], done: Done) -> None:
        """Remembers it durably. Makes the topic where it is missing. Raises TransportError."""
        topics = self._topology.topics
        if self._topic not in topics.counts:
            await topics.make(self._transport, self._topic)
        value = json_bytes({"done": done, "time": rfc3339(self._clock.now_ms())})
        records = [
            Record(self._topic, 0, json_bytes([each.topic, each.partition, each.offset]), value)
            for each in letters
        ]
        for at in range(0, len(records), BATCH_RECORDS_MAX):
            await self._transport.send(records[at : at + BATCH_RECORDS_MAX])

    async def replay(self, letters: Sequence[Letter], events: Sequence[Record]) -> list[int]:
        """Sends the events of these letters, each to where it came from, and marks the letters.

        Returns the offsets. Raises TransportError: then some may have been sent, and wait still.
        """
        offsets: list[int] = []
        for at in range(0, len(events), BATCH_RECORDS_MAX):
            offsets += await self._transport.send(events[at : at + BATCH_RECORDS_MAX])
            await self.mark(letters[at : at + BATCH_RECORDS_MAX], "replayed")
        return offsets
