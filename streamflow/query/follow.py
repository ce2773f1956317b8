"""Follows a topic: its records as they are committed, from any offsets on, read beside the engine.

Any worker can follow any topic, with a reader of its own outside of the group, as it can look at it: see
`browse`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from streamflow.engine.engine import Engine
from streamflow.query.browse import Message
from streamflow.transports.base import Headers, KnowsTopicIds, LogReader

NO_ID: Final = "0"


class Stretch(NamedTuple):
    """What one read brought of one partition: all that is committed from where it stood to ``next``.

    ``gone``: so many records had left the log before they could be read.
    """

    partition: int
    messages: list[Message]
    next: int
    gone: int


@dataclass(frozen=True, slots=True)
class Ends:
    """``offsets``: partition -> from here on nothing has been shown to anybody.

    ``topic_id`` tells the topic from one of the same name that was deleted; hexadecimal, `NO_ID` where the
    broker has none.
    """

    topic_id: str
    offsets: Mapping[int, int]


class Follows(Protocol):
    """Follows one topic. All of it raises StreamflowError where the broker can't tell."""

    async def ends(self) -> Ends: ...

    async def assign(self, positions: Mapping[int, int]) -> None:
        """Reads these partitions from now on, each from the offset given."""
        ...

    async def read(self, wait_ms: int) -> list[Stretch]:
        """What has come, or an empty list after ``wait_ms``."""
        ...

    async def close(self) -> None: ...


class Follower:
    """See `Follows`. It connects with the first `assign`."""

    def __init__(self, engine: Engine, topic: str) -> None:
        self._engine = engine
        self._topic = topic
        self._reader: LogReader | None = None

    async def ends(self) -> Ends:
        engine, topic = self._engine, self._topic
        spots = [(topic, partition) for partition in range(engine.topology.topics.counts.get(topic, 0))]
        transport = engine.transport
        # Of the topic that the id is of: one that is made anew in between begins before these ends.
        ids = await transport.topic_ids([topic]) if isinstance(transport, KnowsTopicIds) else {}
        found = await transport.committed_ends(spots)
        topic_id = ids.get(topic, "")
        short = hashlib.blake2b(topic_id.encode(), digest_size=4).hexdigest() if topic_id else NO_ID
        return Ends(short, {partition: found.get(spot, 0) for partition, spot in enumerate(spots)})

    async def assign(self, positions: Mapping[int, int]) -> None:
        if self._reader is None:
            self._reader = self._engine.transport.log_reader(little=True)
        await self._reader.assign({(self._topic, partition): at for partition, at in positions.items()})

    async def read(self, wait_ms: int) -> list[Stretch]:
        assert self._reader is not None, "assign() comes first"
        stretches = []
        for batch in await self._reader.read(wait_ms):
            headers: list[Headers] | None = None if batch.headers is None else list(batch.headers)
            columns = zip(batch.offsets, batch.timestamps_ms, batch.keys, batch.values, strict=True)
            messages = [
                Message(
                    self._topic,
                    batch.partition,
                    offset,
                    stamp_ms,
                    key,
                    value,
                    () if headers is None else headers[index],
                )
                for index, (offset, stamp_ms, key, value) in enumerate(columns)
            ]
            stretches.append(Stretch(batch.partition, messages, batch.next_offset, batch.gone))
        return stretches

    async def close(self) -> None:
        """Idempotent."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()
