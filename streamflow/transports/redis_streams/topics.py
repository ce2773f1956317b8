"""Topics: how many partitions, which limits; where their streams begin and end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from streamflow.errors import RecordRefused, RecordTooLarge, TransportError
from streamflow.transports.base import Record, TopicPartition, TopicSpec
from streamflow.transports.redis_streams.connection import Link, refused
from streamflow.transports.redis_streams.names import Names, offset_after

_specs = msgspec.json.Decoder(TopicSpec)


spot_of: Callable[[Record], TopicPartition] = itemgetter(0, 1)
topic_of: Callable[[Record], str] = itemgetter(0)
partition_of: Callable[[Record], int] = itemgetter(1)
key_of: Callable[[Record], bytes | None] = itemgetter(2)
value_of: Callable[[Record], bytes | None] = itemgetter(3)


class Topics:
    """What the server knows of topics. A topic never changes while it is there, so it is asked for once."""

    def __init__(self, link: Link, names: Names) -> None:
        self._link = link
        self._names = names
        self._known: dict[str, TopicSpec] = {}

    async def create(self, specs: Iterable[TopicSpec]) -> None:
        wanted = [spec for spec in specs if spec.name not in self._known]
        await self._link.all(
            ("HSETNX", self._names.topics, spec.name, msgspec.json.encode(spec)) for spec in wanted
        )
        await self.learn(spec.name for spec in wanted)

    async def learn(self, topics: Iterable[str]) -> None:
        missing = sorted(set(topics) - self._known.keys())
        if not missing:
            return
        found = await self._link.one("HMGET", self._names.topics, *missing)
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
        if any(limit is not None for limit in limits.values()):
            check_sizes(records, limits)
        return found

    async def starts(self, spots: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset of the first record of each partition, or its end."""
        infos = await self.infos(spots)
        snapshots = await self._link.all(("EXISTS", self._names.snapshot(spot)) for spot in spots)
        found = {}
        for spot, info, snapshot in zip(spots, infos, snapshots, strict=True):
            if info is None or snapshot:
                found[spot] = 0
            elif info[b"first-entry"]:
                found[spot] = offset_after(info[b"first-entry"][0]) - 1
            else:
                found[spot] = offset_after(info[b"last-generated-id"])
        return found

    async def infos(self, spots: Sequence[TopicPartition]) -> list[dict[bytes, Any] | None]:
        """XINFO STREAM of each, or ``None`` where there is no such stream yet."""
        await self.learn(topic for topic, _ in spots)
        for spot in spots:
            self.known(spot)
        if not spots:
            return []
        replies = await self._link.ask(*(("XINFO", "STREAM", self._names.stream(spot)) for spot in spots))
        return [stream_info(reply) for reply in replies]


def grouped(records: Sequence[Record]) -> dict[TopicPartition, list[Record]]:
    """The records of each partition, in order. HOT PATH: nearly always they are of one topic."""
    found: dict[TopicPartition, list[Record]] = {}
    if len(topics := set(map(topic_of, records))) == 1:
        (topic,) = topics
        in_order = sorted(records, key=partition_of)  # stable
        at = 0
        for partition, count in sorted(Counter(map(partition_of, records)).items()):
            found[topic, partition] = in_order[at : at + count]
            at += count
        return found
    for spot, record in zip(map(spot_of, records), records, strict=True):
        found.setdefault(spot, []).append(record)
    return found


def stream_info(reply: Any) -> dict[bytes, Any] | None:
    """A reply of XINFO STREAM; ``None`` for a stream that does not exist. Raises TransportError."""
    if isinstance(reply, ResponseError):
        if "no such key" in str(reply):
            return None
        raise refused(reply, "XINFO STREAM") from reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


def end_of(info: Mapping[bytes, Any] | None) -> int:
    """The offset behind a stream's last id, as XINFO STREAM tells it."""
    return 0 if info is None else offset_after(info[b"last-generated-id"])


def check_sizes(records: Sequence[Record], limits: Mapping[TopicPartition, int | None]) -> None:
    """Raises RecordTooLarge, with all that are refused in it."""
    least = min((limit for limit in limits.values() if limit is not None), default=0)
    longest = [max(map(len, filter(None, map(field, records))), default=0) for field in (key_of, value_of)]
    if sum(longest) <= least:
        return
    refused: dict[int, RecordRefused] = {}
    for index, record in enumerate(records):
        limit = limits[record[:2]]
        if limit is not None and len(record[2] or b"") + len(record[3] or b"") > limit:
            refused[index] = RecordTooLarge(
                f"a record for {record[0]}[{record[1]}] is over its {limit} bytes"
            )
    if refused:
        first = refused[min(refused)]
        first.refused = refused
        raise first
