"""Where a stream's events come from: an agent's topic, another topic, several streams, memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextvars import ContextVar
from itertools import chain, count
from typing import Any, Protocol, cast

import faust
from faust.types import ChannelT
from mode.utils.futures import maybe_async

from streamflow.app.interface import AppT
from streamflow.app.streams.event import MemoryChunk
from streamflow.app.topics.topic import Topic
from streamflow.clock import Clock, SystemClock
from streamflow.engine.dead_letters import dead_letter_topic
from streamflow.engine.decoding import TopicSource
from streamflow.engine.engine import Engine
from streamflow.errors import ConfigurationError
from streamflow.processing.acks import AckTracker, ChunkAcks
from streamflow.processing.agent import AgentRunner
from streamflow.processing.agent_spec import AgentSpec
from streamflow.processing.event_stream import EventStream
from streamflow.processing.failure_policy import FailurePolicy
from streamflow.processing.feed import Actor, EventFeed
from streamflow.processing.gate import Gate
from streamflow.processing.joins import Join, JoinSpec, Side, TickFeed
from streamflow.processing.retries import Retry
from streamflow.processing.unit_stream import FILTERED, FlatValues
from streamflow.processing.units import EventRef, Feed, InFlight
from streamflow.state.agent_table import AgentTable
from streamflow.state.changelog import RowCodec
from streamflow.state.partition import TableSpec
from streamflow.state.progress import Progress

current_actor: ContextVar[Actor | None] = ContextVar("streamflow_actor", default=None)
"""The agent's coroutine that runs: what it streams besides its own topic belongs to it."""


LEAVING_TURNS = 8


class StreamSource:
    """``actor`` takes the events. ``is_agents``: it is an agent's coroutine; ``shared``: one of several."""

    is_agents = False
    shared = False

    @property
    def actor(self) -> Actor:
        raise NotImplementedError

    async def agents(self) -> Sequence[AgentRunner | FeedConsumer]:
        """The consumers whose events these are; made, and subscribed to, where they are not there yet."""
        raise NotImplementedError

    def value_of(self, unit: InFlight) -> Any:
        return unit.ref.value

    async def process(self, unit: InFlight, value: object) -> Any:
        """What the streams before this one make of a value."""
        return value

    def left(self) -> None:
        """The loop of a task over the stream has ended."""


class SourcedStream(Protocol):
    """A stream, as the sources of other streams know it."""

    @property
    def app(self) -> AppT: ...
    @property
    def source(self) -> StreamSource: ...
    @property
    def channel(self) -> AsyncIterator[Any]: ...
    @property
    def has_processors(self) -> bool: ...

    def add_processor(self, processor: Callable[[Any], Any]) -> None: ...

    def become_current(self, actor: Actor | None = None) -> None:
        """`faust.current_event()` gives the calling task this stream's event, or that of an actor of it."""

    async def process(self, unit: InFlight) -> Any:
        """The value that is seen for the event where the unit stands."""

    async def process_value(self, value: object) -> Any:
        """What the processors make of a value; `FILTERED` where they skip it."""


class AgentSource(StreamSource):
    """The topic of the agent itself."""

    is_agents = True

    def __init__(self, source: EventStream) -> None:
        assert isinstance(source.agent, AgentRunner)
        self.event_stream = source
        self._agent = source.agent
        self.shared = source.agent.spec.concurrency > 1

    @property
    def actor(self) -> Actor:
        return self.event_stream.actor

    async def agents(self) -> Sequence[AgentRunner]:
        return [self._agent]


class ConsumerSource(StreamSource):
    """A topic that a stream of its own is made of. ``name`` is its consumer's.

    ``actor``: the agent's coroutine that asked for it; a task of the user's gets one. While another
    stream of a task has the name, this one's gets a number: each of them sees every event.
    """

    def __init__(self, app: AppT, name: str, topic: Topic, actor: Actor | None) -> None:
        self.is_agents = actor is not None
        self._app = app
        self._name = name
        self._topic = topic
        self._actor = actor

    @property
    def actor(self) -> Actor:
        if self._actor is None:
            engine = self._app.engine
            self._actor = Actor(engine.topology.gate, engine.clock)
        return self._actor

    async def agents(self) -> Sequence[AgentRunner]:
        sources = self._topic.sources()
        name = self._name if self.is_agents else await self._own_name()
        spec = AgentSpec(name, sources[0].name, None, dead_letter=dead_letter_topic(sources[0].name))
        return [await reader(self._app.engine, spec, sources)]

    async def _own_name(self) -> str:
        readers = self._app.readers
        for _ in range(LEAVING_TURNS):  # a loop that was just left ends some turns later
            if readers.get(self._name, self) is not self:
                await asyncio.sleep(0)
        names = chain([self._name], (f"{self._name}#{number}" for number in count(2)))
        name = next(name for name in names if readers.get(name, self) is self)
        readers[name] = self
        return name

    def left(self) -> None:
        readers = self._app.readers
        for name in [name for name, source in readers.items() if source is self]:
            del readers[name]


async def reader(engine: Engine, spec: AgentSpec, sources: Sequence[TopicSource]) -> AgentRunner:
    """The consumer of this name; it is made, and joins in, where there is none yet."""
    for agent in engine.topology.agents:
        if agent.spec.name == spec.name:
            return agent
    agent = engine.topology.add_agent(spec, *sources)
    await engine.extend()
    return agent


class RepartitionSource(StreamSource):
    """A topic that another stream's events are sent to, with another key where ``key`` says it."""

    def __init__(self, parent: SourcedStream, topic: ChannelT[Any], key: Callable[[Any], Any] | None) -> None:
        self._parent = parent
        self._channel = topic
        self._key = key
        self._in_memory = False
        self.is_agents = parent.source.is_agents

    @property
    def actor(self) -> Actor:
        return self._parent.source.actor

    async def agents(self) -> Sequence[AgentRunner | FeedConsumer]:
        parent = self._parent
        (before,) = await parent.source.agents()
        if not isinstance(before, AgentRunner):
            tester = parent.app.bench
            if isinstance(self._channel, faust.Topic) and not (tester and tester.is_at_work):
                raise ConfigurationError(
                    f"what is in memory only can't go through topic {self._channel}; send it there"
                )
            self._in_memory = True  # nothing lies between: they are passed on with their new key
            return [before]
        before.writes_tables = False  # who reads the new topic does
        engine = parent.app.engine
        topic = cast("Topic", self._channel)
        topic.partitions_by_default(engine.topology.topics.counts.get(before.spec.topic))
        retry = before.spec.retry if before.spec.run is not None else Retry()
        name = topic.get_topic_name()
        spec = AgentSpec(
            f"{before.spec.name}:{name}",
            name,
            None,
            retry,
            dead_letter_topic(name),
            transient=before.spec.transient,
            breaker=before.spec.breaker,
        )
        after = await reader(engine, spec, [topic.source()])
        before.spawn(name, self._forward)
        return [after]

    async def process(self, unit: InFlight, value: object) -> Any:
        if not self._in_memory:
            return value
        value = await self._parent.process(unit)
        if self._key is not None and value is not FILTERED:
            unit.keys[unit.position] = await maybe_async(self._key(value))
        return value

    def left(self) -> None:
        self._parent.source.left()

    async def _forward(self, source: EventStream) -> None:
        """Sends each event on, as part of its own checkpoint."""
        parent, topic = self._parent, self._channel
        parent.become_current(source.actor)  # for processors, and for the function of the key
        stream = source.concurrent(parent.process)
        async for unit in stream.each():
            place = unit.ref
            chunk, index = place.chunk_acks.chunk, place.index
            key: Any = chunk.raw_keys[index]
            if self._key is not None:
                key = await maybe_async(self._key(unit.values[0]))
            headers: Any = None if chunk.headers is None else list(chunk.headers[index])
            stamp_s = chunk.timestamps_ms[index] / 1_000
            await topic.send(key=key, value=chunk.raw_values[index], headers=headers, timestamp=stamp_s)


class MergedSource(StreamSource):
    """The events of several streams, each with its own processors."""

    def __init__(self, streams: Sequence[SourcedStream]) -> None:
        self.streams = list(streams)
        self._of: dict[Feed, SourcedStream] = {}
        self.is_agents = any(stream.source.is_agents for stream in streams)
        self.shared = any(stream.source.shared for stream in streams)

    @property
    def actor(self) -> Actor:
        for stream in self.streams:
            if stream.source.is_agents:
                return stream.source.actor
        return self.streams[0].source.actor

    async def agents(self) -> Sequence[AgentRunner | FeedConsumer]:
        found: list[AgentRunner | FeedConsumer] = []
        for stream in self.streams:
            for agent in await stream.source.agents():
                self._of[agent.concurrent()] = stream
                found.append(agent)
        return found

    def left(self) -> None:
        for stream in self.streams:
            stream.source.left()

    def stream_of(self, unit: InFlight) -> SourcedStream:
        return self._of[unit.ref.feed]

    async def process(self, unit: InFlight, value: object) -> Any:
        stream = self.stream_of(unit)
        own = await stream.source.process(unit, value)
        # The first stream's processors came along with `combine`.
        return own if own is FILTERED or stream is self.streams[0] else await stream.process_value(own)


class JoinedSource(StreamSource):
    """Two streams joined. ``fields`` are (model, getter) pairs that say the key of a model's values."""

    def __init__(
        self,
        left: SourcedStream,
        right: SourcedStream,
        spec: JoinSpec,
        fields: Sequence[tuple[type, Callable[[Any], Any]]],
    ) -> None:
        self._merged = MergedSource([left, right])
        self._streams = (left, right)
        self._spec = spec
        self._fields = list(fields)
        self._join: Join | None = None
        self.is_agents = self._merged.is_agents
        self.shared = self._merged.shared

    @property
    def actor(self) -> Actor:
        return self._merged.actor

    async def agents(self) -> Sequence[AgentRunner | FeedConsumer]:
        engine = self._streams[0].app.engine
        sides: list[Side] = []
        missing = [f"{self._spec.name}-{side}" not in engine.topology.tables for side in ("left", "right")]
        for name, stream in zip(("left", "right"), self._streams, strict=True):
            # The tables first: whoever joins in is formed together with them.
            if any(missing):
                await self._table(engine, f"{self._spec.name}-{name}", stream)
        for name, stream in zip(("left", "right"), self._streams, strict=True):
            (agent,) = await stream.source.agents()
            if not isinstance(agent, AgentRunner):
                raise ConfigurationError(f"join {self._spec.name}: what is in memory only can't be joined")
            table = engine.topology.tables[f"{self._spec.name}-{name}"]
            sides.append(self._side(engine, stream, agent, table))
        agents = await self._merged.agents()
        counts = {agent.spec.topic: engine.topology.topics.counts.get(agent.spec.topic) for agent in agents}  # type: ignore[union-attr]  # checked above
        if len(set(counts.values())) > 1:
            raise ConfigurationError(
                f"join {self._spec.name}: both topics need as many partitions, not {counts}"
            )
        self._join = join = Join(self._spec, engine.clock, sides)
        ticks = TickFeed(sides[0].feed, engine.clock, join.idle_tick)
        return [*agents, FeedConsumer(ticks)]

    def left(self) -> None:
        self._merged.left()

    async def _table(self, engine: Engine, name: str, stream: SourcedStream) -> None:
        source = cast("Topic", stream.channel).source()
        count = source.partitions or engine.topology.topics.counts.get(source.name)
        spec = TableSpec(name, None, RowCodec(None), "", 0)
        engine.topology.add_table(spec, None, source.key.encode, count)

    def _side(self, engine: Engine, stream: SourcedStream, agent: AgentRunner, table: AgentTable) -> Side:
        codec = engine.topology.sources[agent.spec.consumer]

        async def decode(raw: bytes | None) -> Any:
            value = codec.value.decode(raw)
            return await stream.process_value(value)

        def place(key: Hashable) -> int:
            raw = codec.key.encode(key)
            return -1 if raw is None else engine.topology.topics.place(agent.spec.topic, raw)

        return Side(agent.concurrent(), table, decode, self._key_of, place)

    def _key_of(self, value: object, key: Hashable) -> Any:
        for model, getter in self._fields:
            if isinstance(value, model):
                return getter(value)
        return key

    async def process(self, unit: InFlight, value: object) -> Any:
        assert self._join is not None
        if not isinstance(unit.ref.feed, TickFeed):
            stream = self._merged.stream_of(unit)
            value = await stream.source.process(unit, value)
            value = value if value is FILTERED else await stream.process_value(value)
            if value is FILTERED:
                return FILTERED
        return FlatValues(await self._join.take(unit, value)) or FILTERED


class MemoryFeed(EventFeed):
    """Events of a channel in memory or of an iterable: nothing of them is checkpointed."""

    local = True

    def __init__(self, name: str, clock: Clock) -> None:
        once = FailurePolicy(Retry(attempts=1), clock)  # what is in memory only can't be taken again
        super().__init__(name, lambda _: None, policy=once, give_up=lambda *_: "failed")
        self.ended = False
        self._acks = AckTracker(Progress(name, "", -1))
        self._waiting: deque[MemoryChunk] = deque()
        self.room = asyncio.Event()

    def put(self, item: object, now_ms: int) -> None:
        self._waiting.append(MemoryChunk(item, now_ms))
        self.wake()

    def end(self) -> None:
        self.ended = True
        self.wake()

    def pop(self, lane: int) -> EventRef | None:
        if not self._waiting:
            return None
        self.room.set()
        return EventRef(self, self._acks, ChunkAcks(self._waiting.popleft(), None, (), 0), 0)

    def is_over(self) -> bool:
        return self.ended and not self._waiting

    def finish(self, place: EventRef) -> None:
        self.processed += 1


class FeedConsumer:
    """What stands where other streams have an agent of the engine's."""

    def __init__(self, feed: EventFeed) -> None:
        self._feed = feed

    def concurrent(self) -> EventFeed:
        return self._feed


class MemorySource(StreamSource):
    """A channel in memory, or anything that can be iterated."""

    def __init__(self, app: AppT, items: AsyncIterator[Any], actor: Actor | None) -> None:
        self.is_agents = actor is not None
        self._app = app
        self._items = items
        self._actor = actor
        self._consumer: FeedConsumer | None = None
        self._pump: asyncio.Task[None] | None = None

    @property
    def actor(self) -> Actor:
        if self._actor is None:
            gate, clock = _local_gate(self._app)
            self._actor = Actor(gate, clock)
        return self._actor

    async def agents(self) -> Sequence[FeedConsumer]:
        if self._consumer is None:
            _, clock = _local_gate(self._app)
            feed = MemoryFeed("memory", clock)
            self._consumer = FeedConsumer(feed)
            pump = asyncio.create_task(pumped(self._items, feed, self.actor, clock), name="streamflow-memory")
            # Nothing but the feed refers to it while it waits, and a task must not be collected.
            pumps = self._app.pumps
            pumps.add(pump)
            pump.add_done_callback(pumps.discard)
            self._pump = pump
        return [self._consumer]

    def __del__(self) -> None:
        """Takes no more when nobody has the stream any longer; what was taken and not handed out goes."""
        if self._pump is not None and not self._pump.get_loop().is_closed():
            self._pump.cancel()


def _local_gate(app: AppT) -> tuple[Gate, Clock]:
    """For events in memory: the worker's gate and clock, or without a worker a gate that is open."""
    engine = app.running_engine
    if engine is not None:
        return engine.topology.gate, engine.clock
    clock = SystemClock()
    return Gate(clock, []), clock


async def pumped(items: AsyncIterator[Any], feed: MemoryFeed, actor: Actor, clock: Clock) -> None:
    """Hands each item to the feed when there is room for it."""
    try:
        async for item in items:
            feed.put(item, clock.now_ms())
            feed.room.clear()
            await feed.room.wait()
    except Exception as exc:  # noqa: BLE001 - told to whoever iterates
        actor.throw(exc)
    finally:
        feed.end()
