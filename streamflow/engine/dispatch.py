"""HOT PATH. A batch in; decode, route, offer to agents and aggregates.

Everything here is per batch and column: one pass decodes the values, one looks up the keys (decoded
and checked for their partition once, then remembered), and each consumer gets the chunk of good
events. Bad records are set aside with their reason by the topic's decoder, once each.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from streamflow.aggregates.fold import AggregateConsumer
from streamflow.codecs.chunk import Chunk
from streamflow.codecs.times import TimeChecks
from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.decoding import KeyCache
from streamflow.engine.retry_topics import REPLAYED_FOR
from streamflow.errors import DecodeError
from streamflow.metrics import Metrics
from streamflow.processing.agent import AgentRunner
from streamflow.state.progress import Progress
from streamflow.transports.base import Batch

if TYPE_CHECKING:
    from streamflow.engine.dead_letters import DeadLetterQueue
    from streamflow.engine.decoding import Decoder

logger = logging.getLogger(__name__)

NOBODY: frozenset[str] = frozenset()


class Dispatcher:
    """Routes batches to the decoders of their topic. ``places`` is topic, raw keys -> their partitions.

    ``clock_ms`` is a monotonic time.
    """

    def __init__(
        self,
        decoders: list[Decoder],
        times: TimeChecks,
        metrics: Metrics,
        places: Callable[[str, Sequence[bytes]], Sequence[int]],
        clock_ms: Callable[[], float],
    ) -> None:
        self.decoders: dict[str, list[Decoder]] = {}
        self.add(decoders)
        self._times = times
        self._metrics = metrics
        self._places = places
        self._clock_ms = clock_ms
        self._misrouted_warned: set[str] = set()

    def add(self, decoders: Iterable[Decoder]) -> None:
        """These decoders, and those that are known, as their consumers are now."""
        for decoder in decoders:
            decoder.decide()
            known = self.decoders.setdefault(decoder.source.name, [])
            if decoder not in known:
                known.append(decoder)

    def dispatch(
        self, batch: Batch, active: ActiveAssignment, dead_letters: DeadLetterQueue
    ) -> list[AgentRunner]:
        """Gives one batch to everybody who reads its topic; returns the agents whose buffer is full."""
        full: list[AgentRunner] = []
        at = (batch.topic, batch.partition)
        behind = active.behind.get(at, NOBODY)
        for decoder in self.decoders.get(batch.topic, ()):
            aggregates, agents = decoder.aggregates, decoder.agents
            if behind:
                aggregates = [each for each in aggregates if each.spec.consumer not in behind]
                agents = [each for each in agents if each.spec.consumer not in behind]
                if not aggregates and not agents and decoder.consumer in behind:
                    continue
            progress = None if decoder.consumer in behind else active.progress[decoder.consumer, *at]
            chunk = self._decode(decoder, batch, progress, dead_letters)
            replayed = replayed_for(chunk)
            for aggregate in aggregates:
                mine = chunk if not replayed else without_others(chunk, replayed, aggregate.spec.name)
                fresh = self._fold(aggregate, mine, active, dead_letters)
                active.took(aggregate.spec.name, aggregate.spec.consumer, fresh)
            for agent in agents:
                mine = chunk if not replayed else without_others(chunk, replayed, agent.spec.consumer)
                agent.offer(mine)
                active.took(agent.spec.name, agent.spec.consumer, mine)
                if agent.full():
                    full.append(agent)
        active.given(at, batch.next_offset)
        count = len(batch.offsets)
        active.dispatched(count)
        self._metrics.records_total.inc(count)
        self._metrics.records_gone_total.labels(batch.topic).inc(batch.gone)
        return full

    def backfill(self, batch: Batch, active: ActiveAssignment, dead_letters: DeadLetterQueue) -> None:
        """Gives a batch to those who are behind in its partition, up to where the others have come."""
        at = (batch.topic, batch.partition)
        behind = active.behind.get(at, NOBODY)
        if not behind:
            return
        batch = before(batch, active.given_to[at])
        for decoder in self.decoders.get(batch.topic, ()):
            aggregates = [each for each in decoder.aggregates if each.spec.consumer in behind]
            agents = [each for each in decoder.agents if each.spec.consumer in behind]
            if not aggregates and not agents and decoder.consumer not in behind:
                continue
            # A decoder that is not behind has set aside what is bad in here when it passed it.
            progress = active.progress[decoder.consumer, *at] if decoder.consumer in behind else None
            chunk = self._decode(decoder, batch, progress, dead_letters)
            replayed = replayed_for(chunk)
            for aggregate in aggregates:
                mine = chunk if not replayed else without_others(chunk, replayed, aggregate.spec.name)
                self._fold(aggregate, mine, active, dead_letters)
            for agent in agents:
                agent.offer(chunk if not replayed else without_others(chunk, replayed, agent.spec.consumer))
        active.backfilled(batch)
        self._metrics.records_total.inc(len(batch.offsets))

    def _fold(
        self,
        aggregate: AggregateConsumer,
        chunk: Chunk,
        active: ActiveAssignment,
        dead_letters: DeadLetterQueue,
    ) -> Chunk:
        """Returns what of the chunk it had not taken before."""
        spec = aggregate.spec
        progress = active.progress[spec.consumer, chunk.topic, chunk.partition]
        late = progress.counters.get("late", 0)
        rest = chunk.since(progress.position)
        began_ms = self._clock_ms()
        bad = aggregate.take(rest, progress, self._times)
        self._metrics.batch_seconds.labels(spec.name).observe((self._clock_ms() - began_ms) / 1_000)
        self._metrics.events_processed_total.labels(spec.name).inc(len(rest) - len(bad))
        for index, error in bad:
            dead_letters.add_bad(rest, index, error, spec.consumer)
        late = progress.counters.get("late", 0) - late
        if late:
            self._metrics.late_events_total.labels(spec.name).inc(late)
        return rest

    def _decode(
        self, decoder: Decoder, batch: Batch, progress: Progress | None, dead_letters: DeadLetterQueue
    ) -> Chunk:
        """``progress``: the decoder's, if it takes the batch: what is bad is set aside once."""
        if decoder.source.retry is not None:
            batch = decoder.source.retry.events(batch)
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
        self._times.check_column(batch.topic, times, batch.timestamps_ms, bad, source.value.time_field)
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
        if progress is not None:
            fresh = len(chunk.since(progress.position))
            fresh_bad = [index for index in sorted(bad) if batch.offsets[index] >= progress.position]
            for index in fresh_bad:
                dead_letters.add_bad(batch, index, bad[index], None)
            if batch.next_offset > progress.position:
                progress.take(batch.next_offset, counted=fresh - len(fresh_bad), bad=len(fresh_bad))
        if bad:
            chunk = chunk.select([index for index in range(len(chunk)) if index not in bad])
        return chunk

    def _keys(self, decoder: Decoder, batch: Batch, bad: dict[int, DecodeError]) -> list[Any]:
        cache = decoder.key_caches.get(batch.partition)
        if cache is None:
            cache = KeyCache(decoder.source.key, batch.partition, partial(self._places, batch.topic))
            decoder.key_caches[batch.partition] = cache
        keys, misrouted = cache.column(batch.keys, bad)
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


def replayed_for(chunk: Chunk) -> dict[int, bytes | None]:
    """Index -> the one consumer that an event is replayed for; nearly always there is none.

    HOT PATH: one pass over the headers of a batch that has any.
    """
    if chunk.headers is None:
        return {}
    return {
        index: headers[-1][1]
        for index, headers in enumerate(chunk.headers)
        if headers and headers[-1][0] == REPLAYED_FOR
    }


def without_others(chunk: Chunk, replayed: Mapping[int, bytes | None], consumer: str) -> Chunk:
    """What of a chunk is this consumer's: all but what is replayed for another.

    That is as a gap in the log to it: its position passes it, and none of its counters counts it.
    """
    name = consumer.encode()
    return chunk.select([i for i in range(len(chunk)) if i not in replayed or replayed[i] == name])


def before(batch: Batch, offset: int) -> Batch:
    """What of a batch lies before ``offset``."""
    if batch.next_offset <= offset:
        return batch
    count = bisect_left(batch.offsets, offset)
    headers = None if batch.headers is None else batch.headers[:count]
    return Batch(
        batch.topic,
        batch.partition,
        batch.offsets[:count],
        batch.keys[:count],
        batch.values[:count],
        batch.timestamps_ms[:count],
        headers,
        offset,
        batch.end_offset,
    )
