"""HOT PATH. A batch in; decode, route, hand to agents and aggregates.

Everything here is per batch and column: one pass decodes the values, one looks up the keys (decoded
and checked for their partition once, then remembered), and each consumer gets the chunk of good
events. Bad records are set aside with their reason by the topic's decoder, once each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from streamflow.assignment import Ours
from streamflow.chunk import Chunk
from streamflow.codecs import KeyCodec, ProjectionCodec, ValueCodec
from streamflow.dead_letter import dead_letter, headers_at, sentence
from streamflow.errors import DecodeError
from streamflow.folds import Fold
from streamflow.metrics import Metrics
from streamflow.progress import Progress
from streamflow.settings import Settings
from streamflow.streams import Agent
from streamflow.transports.base import Batch, Record

logger = logging.getLogger(__name__)

KEYS_REMEMBERED_MAX = 1 << 18
"""Decoded keys remembered for each partition; the memory is emptied when it is full."""


@dataclass(frozen=True, slots=True)
class Source:
    """A topic as consumers read it: its name and how its bytes become events.

    ``partitions`` is asked for where the app creates the topic.
    """

    name: str
    key: KeyCodec
    value: ValueCodec
    partitions: int | None = None

    @property
    def schema(self) -> tuple[str, str, str]:
        """Sources of one schema are decoded together."""
        return self.name, self.key.name, self.value.name


class KeyMemory(dict[bytes | None, Any]):
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


@dataclass(slots=True)
class Limits:
    """What makes an event time bad input, besides its form."""

    timestamp_min_ms: int
    timestamp_max_ms: int
    future_max_ms: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        future_s = settings.future_max_s
        future_ms = None if future_s is None else int(future_s * 1_000)
        return cls(settings.timestamp_min_ms, settings.timestamp_max_ms, future_ms)


@dataclass(slots=True, eq=False)
class Decoder:
    """One schema of one topic, with the consumers that share what it decodes."""

    source: Source
    consumer: str
    agents: list[Agent] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)
    projection: ProjectionCodec | None = None
    memories: dict[int, KeyMemory] = field(default_factory=dict)

    def decide(self) -> None:
        """With declared aggregates alone, only the fields that they need are decoded."""
        self.projection = None
        wanted = [fold.paths() for fold in self.folds]
        if self.agents or not wanted or any(paths is None for paths in wanted):
            return
        paths = sorted({path for paths in wanted if paths is not None for path in paths})
        self.projection = self.source.value.project(paths)


SetAside = Callable[[Chunk | Batch, int, DecodeError, str | None], None]


class Dispatcher:
    """Routes batches to the decoders of their topic. ``places`` is topic, raw keys -> their partitions."""

    def __init__(
        self,
        decoders: list[Decoder],
        limits: Limits,
        metrics: Metrics,
        places: Callable[[str, Sequence[bytes]], Sequence[int]],
    ) -> None:
        self.decoders: dict[str, list[Decoder]] = {}
        self.add(decoders)
        self._limits = limits
        self._metrics = metrics
        self._places = places
        self._misrouted_warned: set[str] = set()

    def add(self, decoders: Iterable[Decoder]) -> None:
        """These decoders, and those that are known, as their consumers are now."""
        for decoder in decoders:
            decoder.decide()
            known = self.decoders.setdefault(decoder.source.name, [])
            if decoder not in known:
                known.append(decoder)

    def dispatch(self, batch: Batch, ours: Ours, letters: Letters) -> list[Agent]:
        """Hands one batch to everybody who reads its topic; returns the agents whose buffer is full."""
        full: list[Agent] = []
        for decoder in self.decoders.get(batch.topic, ()):
            progress = ours.progress[decoder.consumer, batch.topic, batch.partition]
            chunk = self._decode(decoder, batch, progress, letters)
            for fold in decoder.folds:
                self._fold(fold, chunk, ours, letters)
            for agent in decoder.agents:
                agent.offer(chunk)
                if agent.full():
                    full.append(agent)
        count = len(batch.offsets)
        ours.taken += count
        self._metrics.records_total.inc(count)
        return full

    def _fold(self, fold: Fold, chunk: Chunk, ours: Ours, letters: Letters) -> None:
        spec = fold.spec
        progress = ours.progress[spec.consumer, chunk.topic, chunk.partition]
        late = progress.counters.get("late", 0)
        rest = chunk.since(progress.position)
        for index, error in fold.take(rest, progress):
            letters.add_bad(rest, index, error, spec.consumer)
        late = progress.counters.get("late", 0) - late
        if late:
            self._metrics.late_events_total.labels(spec.name).inc(late)

    def _decode(self, decoder: Decoder, batch: Batch, progress: Progress, letters: Letters) -> Chunk:
        bad: dict[int, DecodeError] = {}
        keys = self._keys(decoder, batch, bad)
        events: list[Any] | None = None
        columns: dict[str, list[Any]] = {}
        source = decoder.source
        if decoder.projection is not None:
            columns, times, bad_values = decoder.projection.decode_columns(batch.values, batch.timestamps_ms)
        else:
            events, times, bad_values = source.value.decode_batch(batch)
        for index, error in bad_values:
            bad.setdefault(index, error)
        self._check_times(times, batch, bad)
        chunk = Chunk(
            batch.topic,
            batch.partition,
            offsets=batch.offsets,
            keys=keys,
            events=events,
            columns=columns,
            times_ms=times,
            timestamps_ms=batch.timestamps_ms,
            raw=(batch.keys, batch.values, batch.headers),
            next_offset=batch.next_offset,
        )
        fresh = len(chunk.since(progress.position))
        fresh_bad = [index for index in sorted(bad) if batch.offsets[index] >= progress.position]
        for index in fresh_bad:
            letters.add_bad(batch, index, bad[index], None)
        if batch.next_offset > progress.position:
            progress.take(batch.next_offset, counted=fresh - len(fresh_bad), bad=len(fresh_bad))
        if bad:
            chunk = chunk.select([index for index in range(len(chunk)) if index not in bad])
        return chunk

    def _keys(self, decoder: Decoder, batch: Batch, bad: dict[int, DecodeError]) -> list[Any]:
        memory = decoder.memories.get(batch.partition)
        if memory is None:
            memory = KeyMemory(decoder.source.key, batch.partition, partial(self._places, batch.topic))
            decoder.memories[batch.partition] = memory
        keys, misrouted = memory.column(batch.keys, bad)
        if misrouted:
            self._count_misrouted(batch, misrouted)
        return keys

    def _count_misrouted(self, batch: Batch, count: int) -> None:
        self._metrics.misrouted_records_total.labels(batch.topic).inc(count)
        if batch.topic not in self._misrouted_warned:
            self._misrouted_warned.add(batch.topic)
            logger.warning(
                "%s[%d] holds records whose key belongs to another partition by the app's partitioner: "
                "queries by key miss them; see the setting `partitioner`",
                batch.topic,
                batch.partition,
            )

    def _check_times(self, times: list[int], batch: Batch, bad: dict[int, DecodeError]) -> None:
        """Invariant of everything below: an event time lies in the range, so one absurd one moves nothing."""
        limits = self._limits
        if not times:
            return
        low, high = limits.timestamp_min_ms, limits.timestamp_max_ms
        if not (low <= min(times) and max(times) < high):
            for index, time_ms in enumerate(times):
                if not low <= time_ms < high and index not in bad:
                    bad[index] = DecodeError("bad-timestamp", f"event time {time_ms} ms is out of range")
        if limits.future_max_ms is not None:
            for index, (time_ms, stamp_ms) in enumerate(zip(times, batch.timestamps_ms, strict=True)):
                if time_ms > stamp_ms + limits.future_max_ms and index not in bad:
                    bad[index] = DecodeError(
                        "bad-timestamp", f"event time lies {time_ms - stamp_ms} ms ahead of the record's own"
                    )


class Letters:
    """Where dispatch and agents set events aside: the dead letters of the next checkpoint.

    ``partitions`` is dead-letter topic -> number of partitions, ``targets`` consumer or topic -> its topic.
    """

    def __init__(
        self,
        ours: Callable[[], Ours | None],
        partitions: Callable[[str], int],
        target: Callable[[str], str],
        metrics: Metrics,
    ) -> None:
        self._ours = ours
        self._partitions = partitions
        self._target = target
        self._metrics = metrics

    def add_bad(self, at: Chunk | Batch, index: int, error: DecodeError, consumer: str | None) -> None:
        """A record that can't be decoded (``consumer`` is ``None``), or that one consumer can't use."""
        target = self._target(at.topic)
        if not self._metrics.dead_letters_total.labels(target, error.reason).value:
            place = f"{at.topic}[{at.partition}]@{at.offsets[index]}"
            logger.warning(
                "bad input: %s goes to %s: %s (said once for each topic and reason)", place, target, error
            )
        self.add(at, index, error.reason, error, consumer, target)

    def note_scattered(self, table: str, partition: int, key: Any) -> None:
        counter = self._metrics.scattered_writes_total.labels(table)
        if not counter.value:
            logger.warning(
                "table %s: key %r was written in partition %d, but its hash belongs to another: queries "
                "for it answer 409; write keys of the event's own partition, or declare an aggregate",
                table,
                key,
                partition,
            )
        counter.inc()

    def give_up(self, agent: Agent, chunk: Chunk, index: int, exc: BaseException) -> None:
        """An agent sets an event aside. Raises ``exc`` where it has no topic for that."""
        reason = getattr(exc, "reason", "agent-failed")
        self._metrics.events_failed_total.labels(agent.spec.name, type(exc).__name__).inc()
        place = f"{chunk.topic}[{chunk.partition}]@{chunk.offsets[index]}"
        logger.warning("agent %s gave up on %s: %s", agent.spec.name, place, exc, exc_info=exc)
        if agent.spec.dead_letter is None:
            raise exc
        self.add(chunk, index, reason, exc, agent.spec.name, agent.spec.dead_letter)

    def add(
        self,
        at: Chunk | Batch,
        index: int,
        reason: str,
        error: BaseException,
        consumer: str | None,
        target: str,
    ) -> None:
        ours = self._ours()
        assert ours is not None
        ours.dead_letters.append(self.letter(at, index, reason, error, consumer, target))

    def letter(
        self,
        at: Chunk | Batch,
        index: int,
        reason: str,
        error: BaseException,
        consumer: str | None,
        target: str,
    ) -> Record:
        """The dead letter of an event, counted; whoever asks for it writes it."""
        if isinstance(at, Chunk):
            key, value = at.raw_keys[index], at.raw_values[index]
        else:
            key, value = at.keys[index], at.values[index]
        source = (at.topic, at.partition, at.offsets[index])
        self._metrics.dead_letters_total.labels(target, reason).inc()
        logger.debug("set aside %s[%d]@%d: %s", *source, error)
        return dead_letter(
            target,
            self._partitions(target),
            source=source,
            key=key,
            value=value,
            headers=headers_at(at.headers, index),
            reason=reason,
            error=sentence(error),
            consumer=consumer,
        )
