"""The stream that agents and tasks iterate, and `app.stream`, which makes one over anything."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Unpack, cast
from weakref import ref

import faust
from faust import streams as faust_streams
from faust.agents import agent as faust_agent
from faust.exceptions import ImproperlyConfigured, Skip
from faust.types import ChannelT, EventT, FieldDescriptorT
from faust.types.streams import GroupByKeyArg, JoinableT
from mode import Seconds
from mode.utils.aiter import aiter as aiter_of
from mode.utils.futures import maybe_async
from mode.utils.times import want_seconds

from streamflow.app.interface import AppT, EventSensorsT, SensorState
from streamflow.app.options import StreamOptions
from streamflow.app.streams.event import EventHold, engine_event
from streamflow.app.streams.joins import JoinOptions, is_stream, joined
from streamflow.app.streams.key_types import check_group_key, read_keys_by
from streamflow.app.streams.sources import (
    AgentSource,
    ConsumerSource,
    MemorySource,
    MergedSource,
    RepartitionSource,
    StreamSource,
    current_actor,
)
from streamflow.app.topics.topic import Topic
from streamflow.codecs.chunk import Chunk
from streamflow.errors import ConfigurationError
from streamflow.processing.event_stream import EventStream
from streamflow.processing.feed import Actor
from streamflow.processing.unit_stream import FILTERED, FlatValues, UnitStream
from streamflow.processing.units import Batch, EventRef, InFlight

_INNER = ("streamflow.", "faust.")
_NO_EVENT: Any = None
_FAUSTS_OWN = {
    "active_partitions": "which partitions a worker takes is the group's to say",
    "combined": "combine streams by a & b or .combine()",
    "concurrency_index": "say concurrency= of the agent",
    "join_strategy": "join streams by .join() and its like",
    "prev": "derive streams by .group_by() and its like",
}
"""Options of Faust's streams that are for its own parts: what to do instead."""


class AgentStream(faust.Stream[Any]):
    """``async for value in stream``, ``stream.items()``, ``stream.events()`` ...

    HOT PATH: on the in-order path without processors the iterators are the engine's own generators, and
    nothing is added for each event.
    """

    app: AppT

    def __init__(
        self,
        source: StreamSource,
        app: AppT,
        name: str,
        *,
        channel: AsyncIterable[Any] | Iterable[Any] | None = None,
        processors: Iterable[Callable[[Any], Any]] = (),
        manual: bool = False,
        tables: Sequence[Mapping[Any, Any]] = (),
        on_start: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(
            _NO_EVENT,
            app=app,
            prefix=name,
            processors=processors,
            enable_acks=not manual,
            on_start=on_start,
        )
        self.channel = cast("ChannelT[Any]", channel)
        self.source = source
        self._event_stream: EventStream | None = (
            source.event_stream if isinstance(source, AgentSource) else None
        )
        self.tables = list(tables)  # those it was combined with
        self._shown: AgentStream | None = None  # whose event is current, where it is not this one's
        self._seen: tuple[Chunk | None, int, Any] = (None, -1, None)  # (chunk, index, event) made last

    @property
    def has_processors(self) -> bool:
        """May its values be others than those of its channel?"""
        return bool(self._processors)

    # -- one by one --------------------------------------------------------------------------------

    @property
    def _is_in_order(self) -> bool:
        if self._event_stream is None or self._on_start is not None:
            return False
        return not self._event_stream.is_concurrent and self.enable_acks

    def __aiter__(self) -> AsyncIterator[Any]:
        sensors = self.app.event_sensors
        return self._values() if sensors is None else self._told(sensors, self._values())

    def _values(self) -> AsyncIterator[Any]:
        if not self._is_in_order:
            return self._concurrent_values()
        if self._processors:
            return self._processed()
        assert self._event_stream is not None
        return self._event_stream.values()

    def items(self) -> AsyncIterator[tuple[Any, Any]]:
        """Each event's key and value."""
        sensors = self.app.event_sensors
        return self._items() if sensors is None else self._told(sensors, self._items())

    async def _told(self, sensors: EventSensorsT, iterator: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The same, with the user's sensors told of each event."""
        event: EventT[Any] | None = None
        states: list[SensorState] = []
        try:
            async for item in iterator:
                if event is not None:
                    sensors.on_event_out(self, event, states)
                event = self.current_event
                if event is not None:
                    states = sensors.on_event_in(self, event)
                yield item
        finally:
            if event is not None:
                sensors.on_event_out(self, event, states)

    def _items(self) -> AsyncIterator[tuple[Any, Any]]:
        if not self._is_in_order:
            return self._concurrent_items()
        if self._processors:
            return self._processed_items()
        assert self._event_stream is not None
        return self._event_stream.items()

    async def events(self) -> AsyncIterator[Any]:
        """Each event as a faust.Event, with its message: key, headers, place and time."""
        async for _ in self:
            event = self.current_event
            if event is not None:
                yield event

    async def _processed(self) -> AsyncIterator[Any]:
        async for _, value in self._processed_items():
            yield value

    async def _processed_items(self) -> AsyncIterator[tuple[Any, Any]]:
        assert self._event_stream is not None
        async for key, value in self._event_stream.items():
            value = await self.process_value(value)
            if value is not FILTERED:
                yield key, value

    async def process_value(self, value: object) -> Any:
        """What the processors make of a value; `FILTERED` where they skip it."""
        try:
            for processor in self._processors:
                value = await maybe_async(processor(value))
        except Skip:
            return FILTERED
        return value

    async def units(self, *, manual: bool = False) -> UnitStream:
        """What it takes on the concurrent path; ``manual``: done when it is acknowledged."""
        agents = await self.source.agents()
        self.become_current()
        if self._on_start is not None:
            await self._on_start()
        feeds = [agent.concurrent() for agent in agents]
        return UnitStream(feeds, self.actor, self.process, manual=manual or not self.enable_acks)

    @property
    def actor(self) -> Actor:
        return self.source.actor

    async def process(self, unit: InFlight) -> Any:
        """The value that is seen for the event where the unit stands."""
        value = self.source.value_of(unit)
        own = await self.source.process(unit, value)
        if isinstance(own, FlatValues):
            values = [await self.process_value(each) for each in own]
            return FlatValues(each for each in values if each is not FILTERED) or FILTERED
        return own if own is FILTERED else await self.process_value(own)

    async def _concurrent_values(self) -> AsyncIterator[Any]:
        async for unit in self._each():
            yield unit.values[0]

    async def _concurrent_items(self) -> AsyncIterator[tuple[Any, Any]]:
        async for unit in self._each():
            yield unit.keys[unit.position], unit.values[0]

    async def _each(self) -> AsyncIterator[InFlight]:
        stream = await self.units()
        task = asyncio.current_task()
        try:
            async for unit in stream.each():
                yield unit
        except GeneratorExit:
            self._left(task, stream)
            raise

    def _left(self, task: asyncio.Task[Any] | None, stream: UnitStream) -> None:
        """The loop over this stream was left. An agent says itself what becomes of its event."""
        if self.source.is_agents:
            return
        self.source.left()
        stream.leave()
        failed = task is not None and task.done() and (task.cancelled() or task.exception() is not None)
        if failed:
            self.actor.undo()
        else:
            self.actor.finish()

    # -- in batches ---------------------------------------------------------------------------------

    async def _batches(
        self, max_: int, within: Seconds, *, manual: bool = False
    ) -> AsyncIterator[tuple[InFlight, Batch]]:
        within_ms = want_seconds(within) * 1_000 if within else None
        stream = await self.units(manual=manual)
        task = asyncio.current_task()
        try:
            async for unit, batch in stream.batches(max_, within_ms):
                yield unit, batch
        except GeneratorExit:
            self._left(task, stream)
            raise

    async def take(self, max_: int, within: Seconds) -> AsyncIterator[Sequence[Any]]:  # type: ignore[override]  # a generator here too
        """Up to ``max_`` values at a time, fewer when ``within`` seconds have passed since the first.

        A batch is one unit: its events are done when the next batch is taken, or all undone. In a loop
        over the batch a table sees each value's own partition and time.
        """
        async for _, batch in self._batches(max_, within):
            yield batch

    async def take_events(self, max_: int, within: Seconds) -> AsyncIterator[Sequence[Any]]:  # type: ignore[override]  # likewise
        """`take`, with events instead of values."""
        async for unit, batch in self._batches(max_, within):
            yield self._events_of(unit, batch)

    def _events_of(self, unit: InFlight, batch: Batch) -> Batch:
        return batch.mapped(lambda _, ref: self._event_at(unit, ref))

    async def take_with_timestamp(  # type: ignore[override]  # likewise
        self, max_: int, within: Seconds, timestamp_field_name: str
    ) -> AsyncIterator[Sequence[Any]]:
        """`take`; values that are dicts get their record's timestamp (epoch seconds) under that name."""

        def stamped(value: object, ref: EventRef) -> Any:
            if isinstance(value, dict) and timestamp_field_name:
                chunk = ref.chunk_acks.chunk
                return {**value, timestamp_field_name: chunk.timestamps_ms[ref.index] / 1_000}
            return value

        async for _, batch in self._batches(max_, within):
            yield batch.mapped(stamped)

    async def noack_take(self, max_: int, within: Seconds) -> AsyncIterator[Sequence[Any]]:  # type: ignore[override]  # likewise
        """`take_events`, of which the batch is done when the last of its events is acknowledged."""
        async for unit, batch in self._batches(max_, within, manual=True):
            yield self._events_of(unit, batch)

    # -- the event in flight ----------------------------------------------------------------------------

    @property
    def current_event(self) -> Any:
        """The event that is in flight as a faust.Event, or ``None`` between events."""
        if self._shown is not None:
            return self._shown.current_event
        if self._is_in_order:
            assert self._event_stream is not None
            context = self._event_stream.context
            if context.chunk is None or not context.in_flight:
                return None
            return self._event(context.chunk, context.position, None)
        unit = self.actor.current
        return None if unit is None else self._event_at(unit, unit.ref)

    @current_event.setter
    def current_event(self, event: EventT[Any] | None) -> None:
        """Faust's base class clears it; ours is looked up."""

    def noack(self) -> AgentStream:
        """This stream, of which an event is done when it is acknowledged: ``event.ack()``."""
        return self._again(manual=True)

    async def ack(self, event: EventT[Any]) -> bool:
        """Makes an event done, with all that was written and sent for it so far."""
        return event.ack()

    async def throw(self, exc: BaseException) -> None:
        """Whoever iterates this stream gets the exception, next."""
        if self._event_stream is not None:
            self._event_stream.throw(exc)
        else:
            self.actor.throw(exc)

    def _event_at(self, unit: InFlight, ref: EventRef) -> Any:
        return self._event(ref.chunk_acks.chunk, ref.index, (unit, ref, self.actor))

    def _event(self, chunk: Chunk, index: int, held: EventHold | None) -> Any:
        if self._seen[0] is chunk and self._seen[1] == index:
            return self._seen[2]
        event = engine_event(self.app, chunk, index, held)
        self._seen = (chunk, index, event)
        return event

    def become_current(self, actor: Actor | None = None) -> None:
        """`faust.current_event()` gives this stream's event to the calling task, made when asked for.

        ``actor``: the event that it has in flight, where the calling task hands this stream's events on.
        """
        known = ref(self)  # who iterates holds it; a context must not keep it alive

        def lookup() -> Any:
            stream = known()
            if stream is None or actor is None:
                return None if stream is None else stream.current_event
            unit = actor.current
            if unit is None:
                return None
            return stream._event(unit.ref.chunk_acks.chunk, unit.ref.index, (unit, unit.ref, actor))

        faust_streams._current_event.set(cast("Any", lookup))  # stands where Faust has a weak reference

    # -- derived streams ------------------------------------------------------------------------------

    def through(self, channel: str | ChannelT[Any]) -> Any:
        """Sends each event to a topic, and gives the stream of that topic.

        A topic in memory passes them on: they stay the same events, in flight until they are done.
        """
        if isinstance(channel, str):
            channel = self._topic_named(channel)
        if not isinstance(channel, faust.Topic):
            return self.echo(channel)
        return self._derive(channel, None)

    def group_by(
        self,
        key: GroupByKeyArg[Any],
        *,
        name: str | None = None,
        topic: ChannelT[Any] | None = None,
        partitions: int | None = None,
    ) -> Any:
        """Sends each event to a topic with another key, and gives the stream of that topic.

        ``key``: a field of the model or a function (then with ``name``). ``partitions`` are the source's
        if they are not said.
        """
        field = key if isinstance(key, FieldDescriptorT) else None
        if not name:
            if field is None:
                raise TypeError("group_by with a function needs name=, the end of its topic's name")
            name = field.ident
        if topic is None:
            source: Any = self.channel
            prefix = f"{self.prefix}-" if self.prefix and not getattr(source, "has_prefix", True) else ""
            topic = source.derive(
                prefix=prefix, suffix=f"-{name}-repartition", partitions=partitions, internal=True,
                retention=-1,
            )  # fmt: skip
            if field is not None and isinstance(topic, Topic):
                read_keys_by(field, topic)
        elif not isinstance(topic, faust.Topic):
            raise ConfigurationError("group_by needs a topic of the broker's, not a channel in memory")
        elif field is not None and isinstance(topic, Topic):
            check_group_key(field, topic)
        by: Any = field.getattr if field is not None else key
        return self._derive(topic, by)

    def _topic_named(self, name: str) -> Any:
        """With the types of this stream's topic, where it has one."""
        return self.derive_topic(name) if isinstance(self.channel, faust.Topic) else self.app.topic(name)

    def _derive(self, topic: ChannelT[Any], key: Callable[[Any], Any] | None) -> AgentStream:
        if self.source.shared:
            raise ImproperlyConfigured("an agent with concurrency > 1 cannot use group_by or through")
        derived = AgentStream(RepartitionSource(self, topic, key), self.app, self.prefix, channel=topic)
        self._shown = derived
        return derived

    def echo(self, *channels: str | ChannelT[Any]) -> Any:
        """Sends each value to topics or channels, and passes it on."""
        targets = [self._topic_named(each) if isinstance(each, str) else each for each in channels]

        async def echoing(value: object) -> Any:
            for channel in targets:
                if isinstance(value, faust.Event):
                    await value.forward(channel)
                else:
                    await channel.send(value=value)
            return value

        self.add_processor(echoing)
        return self

    def clone(self, **options: object) -> Any:
        """This stream once more. Options as for `App.stream`; ``processors`` take the place of those it has.

        Raises ConfigurationError and TypeError for those that it does not have.
        """
        told = _stream_options(options)
        processors = self._processors if told.get("processors") is None else told["processors"]
        return self._again(
            manual=not told.get("enable_acks", self.enable_acks), processors=processors, options=told
        )

    def followed_by(self, options: StreamOptions) -> AgentStream:
        """A stream of this one's events: its processors come first, then those of the options."""
        processors = [*self._processors, *(options.get("processors") or ())]
        manual = not options.get("enable_acks", self.enable_acks)
        return self._again(manual=manual, processors=processors, options=options)

    def _again(
        self,
        *,
        manual: bool | None = None,
        source: StreamSource | None = None,
        tables: Sequence[Mapping[Any, Any]] = (),
        processors: Iterable[Callable[[Any], Any]] | None = None,
        options: StreamOptions | None = None,
    ) -> AgentStream:
        told: StreamOptions = options or {}
        stream = AgentStream(
            source or self.source,
            self.app,
            told.get("prefix") or self.prefix,
            channel=self.channel,
            processors=self._processors if processors is None else processors,
            manual=not self.enable_acks if manual is None else manual,
            tables=tables,
            on_start=_both(self._on_start, told.get("on_start")),
        )
        self._shown = stream
        return stream

    def again(self, source: StreamSource) -> AgentStream:
        """A stream of this one's name whose events come from elsewhere, without processors yet."""
        stream = AgentStream(source, self.app, self.prefix, channel=self.channel, manual=not self.enable_acks)
        self._shown = stream
        return stream

    def combine(self, *nodes: JoinableT, **_: object) -> Any:
        """The events of several streams, in turn, as one stream; with a table, for a join to follow."""
        streams = list(dict.fromkeys(node for node in (self, *nodes) if is_stream(node)))
        tables = (cast("Mapping[Any, Any]", node) for node in nodes if not is_stream(node))
        return self._again(source=MergedSource(streams), tables=[*self.tables, *tables])

    # -- joins ----------------------------------------------------------------------------------------

    def join(self, *what: object, **options: Unpack[JoinOptions]) -> Any:
        """`inner_join`."""
        return joined(self, "inner", what, options)

    def inner_join(self, *what: object, **options: Unpack[JoinOptions]) -> Any:
        """Pairs where both sides match. What can be joined, and how: see `joined`."""
        return joined(self, "inner", what, options)

    def left_join(self, *what: object, **options: Unpack[JoinOptions]) -> Any:
        """`inner_join`, and each event of the left side that found no match."""
        return joined(self, "left", what, options)

    def right_join(self, *what: object, **options: Unpack[JoinOptions]) -> Any:
        """`inner_join`, and each event of the right side that found no match."""
        return joined(self, "right", what, options)

    def outer_join(self, *what: object, **options: Unpack[JoinOptions]) -> Any:
        """`inner_join`, and each event of either side that found no match."""
        return joined(self, "outer", what, options)


def stream_over(
    app: AppT, channel: AsyncIterable[Any] | Iterable[Any], options: Mapping[str, object]
) -> AgentStream:
    """A stream over a topic of the broker's, a channel in memory, a stream, or what can be iterated.

    Raises ConfigurationError for options that are for Faust's own parts, and TypeError for unknown ones.
    """
    told = _stream_options(options)
    if isinstance(channel, AgentStream):
        return channel.followed_by(told) if told else channel
    processors = told.get("processors") or ()
    manual, on_start = not told.get("enable_acks", True), told.get("on_start")
    agent, actor = faust_agent._current_agent.get(None), current_actor.get()
    name = told.get("prefix") or ("" if agent is None else agent.name)
    source: StreamSource
    if isinstance(channel, Topic):
        topics = ",".join(channel.topics or ()) or str(channel.pattern)
        consumer = f"{name}:{topics}" if name else f"stream:{_caller()}:{topics}"
        source = ConsumerSource(app, consumer, channel, actor)
    else:
        items: AsyncIterator[Any] = aiter_of(channel)
        source = MemorySource(app, items, actor)
    return AgentStream(
        source, app, name, channel=channel, processors=processors, manual=manual, on_start=on_start
    )


def _stream_options(options: Mapping[str, object]) -> StreamOptions:
    for name in sorted(name for name, value in options.items() if value is not None):
        if name in _FAUSTS_OWN:
            raise ConfigurationError(f"a stream takes no {name}=: {_FAUSTS_OWN[name]}")
        if name not in StreamOptions.__annotations__:
            raise TypeError(f"a stream has no option {name!r}")
    return cast("StreamOptions", {name: value for name, value in options.items() if value is not None})


def _both(
    first: Callable[[], Awaitable[object]] | None, then: Callable[[], Awaitable[object]] | None
) -> Callable[[], Awaitable[object]] | None:
    """Calls both, where there are two."""
    if first is None or then is None:
        return first or then

    async def each() -> None:
        await first()
        await then()

    return each


def _caller() -> str:
    """The user's function that asks for a stream: the same after a restart, so that its place is found."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_INNER):
        frame = frame.f_back
    return frame.f_code.co_qualname
