"""Topics: how many partitions, which limits; where their streams begin and end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from streamflow.errors import TransportError
from streamflow.transports.base import Record, TopicPartition, TopicSpec
from streamflow.transports.records import check_sizes, grouped
from streamflow.transports.redis_streams.connection import Connection, meaning
from streamflow.transports.redis_streams.lag import Extent
from streamflow.transports.redis_streams.names import Names, offset_after, offset_of

_specs = msgspec.json.Decoder(TopicSpec)


class Topics:
    """What the server knows of topics. A topic never changes while it is there, so it is asked for once."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._known: dict[str, TopicSpec] = {}

    async def create(self, specs: Iterable[TopicSpec]) -> None:
        wanted = [spec for spec in specs if spec.name not in self._known]
        await self._connection.all(
            ("HSETNX", self._names.topics, spec.name, msgspec.json.encode(spec)) for spec in wanted
        )
        await self.learn(spec.name for spec in wanted)

    async def learn(self, topics: Iterable[str]) -> None:
        missing = sorted(set(topics) - self._known.keys())
        if not missing:
            return
        found = await self._connection.one("HMGET", self._names.topics, *missing)
        self._known.update(
            (topic, _specs.decode(text)) for topic, text in zip(missing, found, strict=True) if text
        )

    def forget(self) -> None:
        """Some may have been deleted: asks again."""
        self._known.clear()

    async def counts(self, topics: Iterable[str]) -> dict[str, int]:
        wanted = list(topics)
        await self.learn(wanted)
        return {topic: self._known[topic].partitions for topic in wanted if topic in self._known}

    async def cleanup_policies(self, topics: Iterable[str]) -> dict[str, str]:
        """topic -> "compact" or "delete"; missing ones are left out."""
        wanted = list(topics)
        await self.learn(wanted)
        known = {topic: self._known[topic] for topic in wanted if topic in self._known}
        return {topic: "compact" if spec.compacted else "delete" for topic, spec in known.items()}

    def known(self, spot: TopicPartition) -> TopicSpec:
        """The topic of a partition, learned before. Raises TransportError for one that does not exist."""
        spec = self._known.get(spot[0])
        if spec is None or not 0 <= spot[1] < spec.partitions:
            raise TransportError(f"partition {spot[0]}[{spot[1]}] does not exist")
        return spec

    async def by_stream(self, records: Sequence[Record]) -> dict[TopicPartition, list[Record]]:
        """The records of each partition, in order. Raises TransportError, RecordTooLarge."""
        found = grouped(records)
        await self.learn(topic for topic, _ in found)
        limits = {spot: self.known(spot).record_bytes_max for spot in found}
        check_sizes(records, limits)
        return found

    async def earliest(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset of the first record of each partition, or its end."""
        spots = list(partitions)
        infos = await self.infos(spots)
        snapshots = await self._connection.all(("EXISTS", self._names.snapshot(spot)) for spot in spots)
        found = {}
        for spot, info, snapshot in zip(spots, infos, snapshots, strict=True):
            if info is None or snapshot:
                found[spot] = 0
            elif info[b"first-entry"]:
                found[spot] = offset_after(info[b"first-entry"][0]) - 1
            else:
                found[spot] = offset_after(info[b"last-generated-id"])
        return found

    async def at_time(self, partitions: Iterable[TopicPartition], time_ms: int) -> dict[TopicPartition, int]:
        """By the times in the entries' ids: when they came."""
        spots = list(partitions)
        first = offset_of(max(0, time_ms), 0)
        infos = await self.infos(spots)
        return {spot: min(first, end_of(info)) for spot, info in zip(spots, infos, strict=True)}

    async def infos(self, spots: Sequence[TopicPartition]) -> list[dict[bytes, Any] | None]:
        """XINFO STREAM of each, or ``None`` where there is no such stream yet."""
        await self.learn(topic for topic, _ in spots)
        for spot in spots:
            self.known(spot)
        if not spots:
            return []
        replies = await self._connection.ask(
            *(("XINFO", "STREAM", self._names.stream(spot)) for spot in spots)
        )
        return [stream_info(reply) for reply in replies]


def stream_info(reply: Any) -> dict[bytes, Any] | None:
    """A reply of XINFO STREAM; ``None`` for a stream that does not exist. Raises TransportError."""
    if isinstance(reply, ResponseError):
        if "no such key" in str(reply):
            return None
        raise meaning("XINFO STREAM", reply) from reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


def extent_of(info: Mapping[bytes, Any]) -> Extent:
    """What XINFO STREAM tells of how far a stream goes."""
    first = info[b"first-entry"]
    end = end_of(info)
    return Extent(info[b"entries-added"], info[b"length"], offset_after(first[0]) - 1 if first else end, end)


def end_of(info: Mapping[bytes, Any] | None) -> int:
    """The offset behind a stream's last id, as XINFO STREAM tells it."""
    return 0 if info is None else offset_after(info[b"last-generated-id"])
