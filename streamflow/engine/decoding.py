"""One schema of one topic and its consumers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamflow.aggregates.fold import AggregateConsumer
from streamflow.aggregates.spec import AggregateSpec
from streamflow.codecs import KeyCodec, ProjectionCodec, ValueCodec
from streamflow.codecs.chunk import Chunk
from streamflow.engine.retry_topics import RetryTopic
from streamflow.errors import DecodeError
from streamflow.processing.agent import AgentRunner
from streamflow.processing.agent_spec import AgentSpec
from streamflow.transports.base import Batch

KEYS_REMEMBERED_MAX = 1 << 18
"""Decoded keys remembered for each partition; the cache is emptied when it is full."""


@dataclass(frozen=True, slots=True)
class TopicSource:
    """A topic as consumers read it: its name and how its bytes become events.

    ``partitions`` is asked for where the app creates the topic. ``retry``: it is a retry topic,
    read as its source is.
    """

    name: str
    key: KeyCodec
    value: ValueCodec
    partitions: int | None = None
    retry: RetryTopic | None = None

    @property
    def schema(self) -> tuple[str, str, str]:
        """Sources of one schema are decoded together."""
        return self.name, self.key.name, self.value.name


class KeyCache(dict[bytes | None, Any]):
    """Raw key -> decoded key, of one partition. ``places`` gives the partitions of a column of raw keys.

    A key that hashes to another partition is counted each time, and so never remembered.
    """

    def __init__(
        self, codec: KeyCodec, partition: int, places: Callable[[Sequence[bytes]], Sequence[int]]
    ) -> None:
        super().__init__()
        self._codec = codec
        self._partition = partition
        self._places = places

    def column(self, raw: Sequence[bytes | None], bad: dict[int, DecodeError]) -> tuple[list[Any], int]:
        """(the keys, how many records lie on the wrong partition); ``bad`` is told what can't be read."""
        keys = list(map(self.get, raw))
        if None not in keys:
            return keys, 0
        missing = [index for index, key in enumerate(keys) if key is None]
        decoded, wrong = self._decode(list(dict.fromkeys(raw[index] for index in missing)))
        places = self._places(list(decoded))
        astray = {key for key, place in zip(decoded, places, strict=True) if place != self._partition}
        if len(self) + len(decoded) > KEYS_REMEMBERED_MAX:
            self.clear()
        self.update((key, value) for key, value in decoded.items() if key not in astray)
        misrouted = 0
        for index in missing:
            key = raw[index]
            if key is None:
                continue
            misrouted += key in astray
            if key in wrong:
                bad[index] = wrong[key]
            else:
                keys[index] = decoded[key]
        return keys, misrouted

    def _decode(self, raw: list[bytes | None]) -> tuple[dict[bytes, Any], dict[bytes, DecodeError]]:
        """(raw key -> key, raw key -> why it is none); a null key is in neither."""
        there = [key for key in raw if key is not None]
        try:
            return dict(zip(there, self._codec.decode_column(there), strict=True)), {}
        except DecodeError:
            decoded: dict[bytes, Any] = {}
            wrong: dict[bytes, DecodeError] = {}
            for key in there:
                try:
                    decoded[key] = self._codec.decode(key)
                except DecodeError as exc:
                    wrong[key] = exc
            return decoded, wrong


@dataclass(slots=True, eq=False)
class Decoder:
    """One schema of one topic, with the consumers of what it decodes."""

    source: TopicSource
    consumer: str
    agents: list[AgentRunner] = field(default_factory=list)
    aggregates: list[AggregateConsumer] = field(default_factory=list)
    projection: ProjectionCodec | None = None
    key_caches: dict[int, KeyCache] = field(default_factory=dict)

    def feeds(self, consumer: str) -> bool:
        """Does it decode for this one?"""
        agents = (agent.spec.consumer for agent in self.agents)
        return consumer in agents or consumer in (one.spec.consumer for one in self.aggregates)

    def specs(self) -> Iterator[AgentSpec | AggregateSpec]:
        """Of those that it decodes for."""
        yield from (agent.spec for agent in self.agents)
        yield from (aggregate.spec for aggregate in self.aggregates)

    def decide(self) -> None:
        """With declared aggregates alone, only the fields that they need are decoded."""
        self.projection = None
        wanted = [aggregate.paths() for aggregate in self.aggregates]
        if self.agents or not wanted or any(paths is None for paths in wanted):
            return
        paths = sorted({path for paths in wanted if paths is not None for path in paths})
        self.projection = self.source.value.project(paths)

    def sample(self, batch: Batch) -> Chunk:
        """What can be read of a batch, without its keys: for a look at the events from outside."""
        events, times, bad = self.source.value.decode_batch(batch)
        nothing: list[Any] = [None] * len(times)
        chunk = Chunk(
            batch.topic,
            batch.partition,
            offsets=batch.offsets,
            keys=nothing,
            events=events,
            columns={},
            times_ms=times,
            timestamps_ms=batch.timestamps_ms,
            raw=(nothing, nothing, None),
            next_offset=batch.next_offset,
        )
        wrong = {index for index, _ in bad}
        return chunk.select([index for index in range(len(times)) if index not in wrong]) if wrong else chunk
