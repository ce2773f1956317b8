"""What an app declares to its engine: agents, tables, aggregates, and the topics that they read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from streamflow.aggregates.closed_rows import closed_row
from streamflow.aggregates.declaration import free_fields
from streamflow.aggregates.fold import AggregateConsumer
from streamflow.aggregates.row_values import State
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.aggregates.windowed_fold import make_consumer
from streamflow.clock import Clock
from streamflow.codecs import KeyCodec, group_key_value
from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.dead_letters import DeadLetterQueue, dead_letter_topic
from streamflow.engine.decoding import Decoder, TopicSource
from streamflow.engine.deferrals import Deferrals
from streamflow.engine.internal_topics import Topics
from streamflow.engine.retry_topics import RetryTopic
from streamflow.engine.source_feed import SourceFeed, SourceSpec
from streamflow.errors import ConfigurationError
from streamflow.metrics import Metrics
from streamflow.partitioner import partitioner_named
from streamflow.processing.agent import AgentRunner
from streamflow.processing.agent_spec import AgentSpec
from streamflow.processing.agent_tasks import have_begun
from streamflow.processing.event_queue import AgentListener
from streamflow.processing.gate import Gate
from streamflow.settings import Settings
from streamflow.state.agent_table import AgentTable, OnClose
from streamflow.state.event_context import EventContext, stamp_ms
from streamflow.state.global_table import GlobalTableView
from streamflow.state.merging_table import Merge, merging_table
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.progress import Progress
from streamflow.transports.base import Growable, Record, Transport


class Topology:
    """What was declared, and the gate and the dead letters that all of it shares.

    ``active`` tells what the engine holds, ``on_room`` and ``on_invalidated`` are told when an agent's buffer
    is no longer full, and when what is held in memory must be dropped, ``on_full`` when a source waits for a
    checkpoint. Without them nothing runs.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        metrics: Metrics,
        *,
        active: Callable[[], ActiveAssignment | None] = lambda: None,
        on_room: Callable[[], None] = lambda: None,
        on_invalidated: Callable[[], None] = lambda: None,
        on_full: Callable[[], None] = lambda: None,
    ) -> None:
        self.topics = Topics(
            settings.id,
            partitioner_named(settings.partitioner),
            settings.topic_partitions,
            settings.topic_replication_factor,
        )
        self.agents: list[AgentRunner] = []
        self.gate = Gate(clock, self.agents, on_invalidated)
        self.tables: dict[str, AgentTable] = {}
        self.global_tables: dict[str, GlobalTableView] = {}  # global table -> its rows of all partitions
        self.aggregates: dict[str, AggregateConsumer] = {}
        self.sources: dict[str, TopicSource] = {}  # consumer -> what it reads
        self.decoders: dict[tuple[str, str, str], Decoder] = {}
        self.retry_topics: dict[str, RetryTopic] = {}  # that agents of this app read
        self.dead_letters = DeadLetterQueue(
            active, self.topics.partitions, self.letters_of, metrics, clock.now_ms, self.retry_topics
        )
        self.deferrals = Deferrals(settings.id, self.retry_topics, active, clock.now_ms)
        self.on_recreated_topic = settings.on_recreated_topic
        self.on_lost_state = settings.on_lost_state
        self._clock = clock
        self._metrics = metrics
        self._on_room = on_room
        self._on_full = on_full
        self.feeds: dict[str, SourceSpec] = {}  # topic by whose partitions a source is read -> it
        self.declared_partitions: dict[str, int | None] = {}  # table in Faust's form -> what it says
        self._key_bytes: dict[str, Callable[[Any], bytes | None]] = {}  # table in Faust's form ->
        self._declared: dict[str, Callable[[], TopicSource]] = {}  # topic that is declared -> how it is read

    def add_agent(self, spec: AgentSpec, source: TopicSource, *more: TopicSource) -> AgentRunner:
        """An agent on one topic, or on several, which it takes in turn."""
        dropped = self._metrics.events_dropped_total.labels(spec.name, spec.buffer.when_full)
        seconds, failed = self._metrics.batch_seconds.labels(spec.name), self._metrics.events_failed_total
        told = AgentListener(
            on_room=self._on_room,
            on_drop=dropped.inc,
            on_batch=seconds.observe,
            on_failure=lambda exc: failed.labels(spec.name, type(exc).__name__).inc(),
        )
        agent = AgentRunner(
            spec,
            self._clock,
            self.gate,
            give_up=self.dead_letters.give_up,
            defer=self.deferrals.defer,
            told=told,
        )
        self.agents.append(agent)
        for each in (source, *more):
            agent.topics[each.name] = None
            self._decoder(each).agents.append(agent)
        for each in (source, *more):
            self._add_retry_topics(agent, each)
        if more:
            agent.concurrent()
        self.sources[spec.consumer] = source
        if spec.dead_letter is not None:
            for each in (source, *more):
                self.topics.want(spec.dead_letter, source.partitions, letters_of=each.name)
        return agent

    def add_table(
        self,
        spec: TableSpec,
        default: Callable[[], Any] | None,
        key_bytes: Callable[[Any], bytes | None],
        partitions: int | None = None,
        *,
        is_global: bool = False,
        key_codec: KeyCodec | None = None,
        merge: Merge | None = None,
        on_close: OnClose | None = None,
    ) -> AgentTable:
        """A table in Faust's form. ``spec.partitions`` and ``spec.changelog`` are filled in at the start.

        ``is_global``: every worker holds all of its rows. ``key_bytes`` gives the record key of a row's
        key as the source topic's key codec writes it; ``key_codec`` is the table's own, where its keys are
        not the topic's. ``merge`` puts values of sessions and panes together; with ``TableSpec.closes``
        ``on_close`` is told of each row of a window that has expired: start, key, value.
        """
        name = spec.name
        self._check_name(name)

        def place(key: Any) -> int:
            raw = key_bytes(key)
            return -1 if raw is None else self.topics.place(table.spec.changelog, raw)

        def on_late(context: EventContext, start: int) -> None:
            self._metrics.late_events_total.labels(name).inc()
            for agent in self.agents:
                agent.note_late(context)

        table = merging_table(
            spec,
            default,
            merge,
            key_codec=key_codec,
            on_close=on_close,
            furthest_writer_ms=self._furthest_writer_ms,
            hash_partition=place,
            on_late=on_late,
            on_scattered=lambda partition, key: self.dead_letters.note_scattered(name, partition, key),
        )
        self.tables[name] = table
        self.declared_partitions[name] = partitions
        self._key_bytes[name] = key_bytes
        if is_global:
            self.global_tables[name] = GlobalTableView(spec)
        return table

    def add_aggregate(self, spec: AggregateSpec, source: TopicSource) -> AggregateConsumer:
        """A declared aggregate."""
        self._check_name(spec.name)
        spec = replace(spec, json_keys=isinstance(spec.by, Key) and source.key.of_json)
        aggregate = make_consumer(spec)
        aggregate.watch(free_fields(spec, source.value))
        self.aggregates[spec.name] = aggregate
        self._decoder(source).aggregates.append(aggregate)
        self.sources[spec.consumer] = source
        return aggregate

    def _add_retry_topics(self, agent: AgentRunner, source: TopicSource) -> None:
        """The agent reads them too, as it reads the source. Raises ConfigurationError."""
        for step in agent.retry_in_topics(source.name):
            known = self.retry_topics.setdefault(
                step.topic, RetryTopic(self.topics.app_id, step.topic, source.name)
            )
            if known.source != source.name:
                raise ConfigurationError(
                    f"agent {agent.spec.name}: {step.topic!r} is a retry topic of {known.source!r} and of"
                    f" {source.name!r}: give one of them other waits"
                )
            self._decoder(replace(source, name=step.topic, retry=known)).agents.append(agent)

    def _furthest_writer_ms(self, part: TablePartition) -> int | None:
        watermarks = [
            progress.watermark_ms
            for agent in self.agents
            if agent.spec.consumer in part.writers
            for progress in agent.progress.values()
            if progress.partition == part.partition and progress.watermark_ms is not None
        ]
        return max(watermarks, default=None)

    def _check_name(self, name: str) -> None:
        if name in self.tables or name in self.aggregates:
            raise ConfigurationError(f"two tables are named {name!r}")

    def _decoder(self, source: TopicSource) -> Decoder:
        if source.schema not in self.decoders:
            name = f"decoder:{source.value.name}:{source.key.name}"
            self.decoders[source.schema] = Decoder(source, name)
            if source.retry is None:  # else it is sized when the number of its source is known
                self.topics.want_source(source.name, source.partitions)
        return self.decoders[source.schema]

    def declare(self, topic: str, source: Callable[[], TopicSource]) -> None:
        """A topic that the app's code knows, read or not; ``source`` is asked when needed."""
        self._declared.setdefault(topic, source)

    def format_of(self, topic: str) -> TopicSource | None:
        """How a topic is read: as it was declared, or by who reads it; ``None``: nobody says."""
        if topic in self._declared:
            return self._declared[topic]()
        readers = [decoder.source for decoder in self.decoders.values() if decoder.source.name == topic]
        return readers[0] if readers else None

    def add_source(self, spec: SourceSpec, partitions: int | None) -> None:
        """Something that is read into a topic, which gets so many partitions where it is missing."""
        feed = self.topics.feed(spec.name)
        if feed in self.feeds:
            raise ConfigurationError(f"two sources are named {spec.name!r}")
        self.feeds[feed] = spec
        self.topics.want(spec.topic, partitions)

    def make_feed(self, spec: SourceSpec, progress: Progress) -> SourceFeed:
        """One partition of a source, for an assignment."""
        topics = self.topics
        return SourceFeed(spec, progress, self._clock, topics.place, topics.limits, self._on_full)

    def source_topics(self) -> set[str]:
        """Topics that somebody reads, retry topics too."""
        return {decoder.source.name for decoder in self.decoders.values()}

    def subscribed_topics(self) -> set[str]:
        """Topics whose partitions the group shares out: those that are read, and one for each source."""
        return self.source_topics() | self.feeds.keys()

    def retry_sources(self, agent: AgentRunner) -> list[TopicSource]:
        """The retry topics of an agent, as it reads them."""
        return [
            decoder.source
            for decoder in self.decoders.values()
            if agent in decoder.agents and decoder.source.retry is not None
        ]

    def source_of(self, topic: str) -> str:
        """The topic whose events wait in a retry topic; any other topic is its own."""
        return self.retry_topics[topic].source if topic in self.retry_topics else topic

    def letters_of(self, topic: str) -> str:
        """The topic by default for what can't be taken of one that is read."""
        return dead_letter_topic(self.source_of(topic))

    # -- what a worker makes of it ---------------------------------------------------------------

    async def start_early(self, transport: Transport) -> None:
        """Agents may ask for streams of their own before their first event: subscribed to at once."""
        early = [agent for agent in self.agents if agent.spec.early]
        for agent in early:
            agent.start()
        await have_begun([agent.tasks for agent in early])
        await self.topics.create(transport)

    def size_tables(self) -> None:
        """Numbers of partitions of everything internal, now that those of the sources are known."""
        topics, sources = self.topics, self.source_topics() - self.retry_topics.keys()
        for retry in self.retry_topics.values():
            topics.want(retry.name, topics.partitions(retry.source), letters_of=retry.source)
        for source in sources:
            topics.want(dead_letter_topic(source), topics.partitions(source), letters_of=source)
        for name, table in self.tables.items():
            count = topics.agreed(self.sources_of(name), f"table {name!r}", self.declared_partitions[name])
            table.size(topics.changelog(name), count)
            topics.want_state(table.spec.changelog, count)
        for name, aggregate in self.aggregates.items():
            count = topics.partitions(aggregate.spec.topic)
            topics.want_state(topics.changelog(name), count)
            if aggregate.spec.is_shuffled:
                topics.want_state(topics.shuffle(name), count)
            if aggregate.spec.window is not None:
                topics.want_state(topics.late(name), count)
            if aggregate.spec.emit_closed is not None:
                topics.want(aggregate.spec.emit_closed, 1 if aggregate.spec.by is None else count)
        for name, spec in self.feeds.items():
            topics.want_state(name, spec.source.partitions)
        most = max((topics.partitions(source) for source in sources), default=1)
        # Progress lies at its partition modulo theirs: a source may have grown since they were made.
        topics.want_state(topics.progress, most, exactly=False)

    def sources_of(self, table: str) -> list[str]:
        """The topics by whose partitions a table lies."""
        if table in self.aggregates:
            return [self.aggregates[table].spec.topic]
        return sorted(
            {topic for agent in self.agents if agent.writes_tables for topic in agent.source_topics}
        )

    def row_key(self, table: str, key: Any) -> bytes | None:
        """The record key that events of a row have, where rows go with those. Raises TypeError."""
        if table not in self.aggregates:
            return self._key_bytes[table](key)
        spec = self.aggregates[table].spec
        return self.sources[spec.consumer].key.encode_json(group_key_value(key) if spec.json_keys else key)

    def bound(self, topic: str) -> bool:
        """Does state of the app lie by the number of partitions of this source topic?"""
        return any(each.spec.topic == topic for each in self.aggregates.values()) or (
            bool(self.tables) and any(agent.writes_tables and topic in agent.topics for agent in self.agents)
        )

    def state_topics(self) -> list[str]:
        """Every topic that holds state of this app."""
        logs = (log for name in self.table_names() for log in self.logs_of(name))
        return [self.topics.progress, *self.feeds, *logs]

    def own_topics(self) -> frozenset[str]:
        """What the app alone writes: its state, and marks of dead letters."""
        return frozenset((*self.state_topics(), self.topics.handled_letters))

    def table_names(self) -> list[str]:
        """Of tables in both forms."""
        return [*self.tables, *self.aggregates]

    def logs_of(self, table: str) -> list[str]:
        """The topics that hold the state of one table."""
        topics, aggregate = self.topics, self.aggregates.get(table)
        logs = [topics.changelog(table)]
        if aggregate is not None and aggregate.spec.is_shuffled:
            logs.append(topics.shuffle(table))
        if aggregate is not None and aggregate.spec.window is not None:
            logs.append(topics.late(table))
        return logs

    async def keep_partitions(self, transport: Transport) -> None:
        """Of a source topic that has grown to a multiple of what tables lie by, those go on that there were.

        What is in them lies where it lay, also by the new number. So a worker may take what is left there.
        With any other number `Topics.create` says what is wrong.
        """
        found = await transport.partition_counts(self.state_topics())
        for source in filter(self.bound, self.source_topics()):
            counts = {
                found[log]
                for name in self.table_names()
                if source in self.sources_of(name) and self.declared_partitions.get(name) is None
                for log in self.logs_of(name)
                if log in found
            }
            if len(counts) == 1:
                (count,) = counts
                if self.topics.counts.get(source, 0) % count == 0:
                    self.topics.counts[source] = count

    async def grow_retry_topics(self, transport: Transport) -> None:
        """They have the partitions of their sources, of those that have grown too.

        Also while tables keep the number that there was: partitions of topics with one number go to one
        worker, and who moves an event on must be the one who takes it from there. Raises ConfigurationError.
        """
        names = {*self.retry_topics, *(retry.source for retry in self.retry_topics.values())}
        counts = await transport.partition_counts(names)
        short = {
            retry.name: counts[retry.source]
            for retry in self.retry_topics.values()
            if counts.get(retry.name, 0) != counts.get(retry.source, 0) and retry.name in counts
        }
        for name, count in sorted(short.items()):
            if counts[name] > count or not isinstance(transport, Growable):
                raise ConfigurationError(
                    f"retry topic {name!r} has {counts[name]} partitions, and {self.source_of(name)!r} has"
                    f" {count}: give both the same number"
                )
        if short:
            assert isinstance(transport, Growable)
            await transport.grow_topics(short)
        for retry in self.retry_topics.values():
            self.topics.counts[retry.name] = self.topics.partitions(retry.source)

    def closed_record(self, spec: AggregateSpec, start: int, key: Any, state: State) -> Record:
        """The record that tells of a closed row."""
        assert spec.emit_closed is not None
        raw, value = closed_row(spec, self.sources[spec.consumer].key, start, key, state)
        stamped = None
        if spec.send_time == "event":
            _, end, _ = spec.shown(start, state)
            stamped = stamp_ms(end, self._clock.now_ms())
        place = self.topics.place(spec.emit_closed, raw)
        return Record(spec.emit_closed, place, raw, value, timestamp_ms=stamped)
