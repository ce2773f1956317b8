"""`app.stream`: streams that are made apart from an agent's own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast
from weakref import ref

import faust
from faust import streams as faust_streams
from faust.agents import agent as faust_agent
from faust.exceptions import ImproperlyConfigured, Skip
from faust.types import FieldDescriptorT
from mode.utils.aiter import aiter as aiter_of
from mode.utils.futures import maybe_async
from mode.utils.times import want_seconds

from streamflow.app.streams.event import engine_event
from streamflow.app.streams.joins import Joining, is_stream
from streamflow.app.streams.sources import Derived, Local, Merged, OfTopic, Origin, Own, current_actor
from streamflow.app.topics.topic import Topic
from streamflow.errors import ConfigurationError
from streamflow.processing.feed import Actor
from streamflow.processing.unit_stream import FILTERED, FlatValues, UnitStream
from streamflow.processing.units import Batch, EventRef, InFlight

if TYPE_CHECKING:
    from streamflow.app.app import App
    from streamflow.processing.event_stream import EventStream


_INNER = ("streamflow.", "faust.")


def stream_over(app: App, channel: Any, options: dict[str, Any]) -> AgentStream:
    """A stream over a topic of the broker's, a channel in memory, or anything that can be iterated."""
    if isinstance(channel, AgentStream):
        return channel
    processors: Iterable[Any] = options.get("processors") or ()
    manual = not options.get("enable_acks", True)
    agent, actor = faust_agent._current_agent.get(None), current_actor.get()
    name = options.get("prefix") or ("" if agent is None else agent.name)
    if isinstance(channel, Topic):
        topics = ",".join(channel.topics or ()) or str(channel.pattern)
        consumer = f"{name}:{topics}" if name else f"stream:{_caller()}:{topics}"
        origin = OfTopic(app, consumer, channel, actor)
        return AgentStream(origin, app, name, channel=channel, processors=processors, manual=manual)
    items: AsyncIterator[Any] = aiter_of(channel)
    return AgentStream(
        Local(app, items, actor), app, name, channel=channel, processors=processors, manual=manual
    )


def _caller() -> str:
    """The user's function that asks for a stream: the same after a restart, so that its place is found."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_INNER):
        frame = frame.f_back
    return frame.f_code.co_qualname


_NO_EVENT: Any = None


class AgentStream(Joining, faust.Stream[Any]):
    """``async for value in stream``, ``stream.items()``, ``stream.events()`` ...

    HOT PATH: on the in-order path without processors the iterators are the engine's own generators, and
    nothing is added for each event.
    """

    def __init__(
        self,
        origin: Origin,
        app: Any,
        name: str,
        *,
        channel: Any = None,
        processors: Iterable[Callable[[Any], Any]] = (),
        manual: bool = False,
    ) -> None:
        super().__init__(_NO_EVENT, app=app, prefix=name, processors=processors, enable_acks=not manual)
        self.channel = channel
        self.origin = origin
        self._source: EventStream | None = origin.source if isinstance(origin, Own) else None
        self.tables: list[Any] = []  # those it was combined with
        self._shown: Any = None  # the stream whose event is current, where it is not this one's
        self._seen: tuple[Any, int, Any] = (None, -1, None)  # (chunk, index, event) made last
        self._iterates: tuple[asyncio.Task[Any] | None, InFlight | None] = (None, None)

    # -- one by one --------------------------------------------------------------------------------

    @property
    def _is_fast(self) -> bool:
        return self._source is not None and not self._source.is_concurrent and self.enable_acks

    def __aiter__(self) -> AsyncIterator[Any]:
        sensors = cast("App", self.app).event_sensors
        return self._values() if sensors is None else self._told(sensors, self._values())

    def _values(self) -> AsyncIterator[Any]:
        if not self._is_fast:
            return self._general_values()
        if self._processors:
            return self._processed()
        assert self._source is not None
        return self._source.values()

    def items(self) -> AsyncIterator[tuple[Any, Any]]:
        """Each event's key and value."""
        sensors = cast("App", self.app).event_sensors
        return self._items() if sensors is None else self._told(sensors, self._items())

    async def _told(self, sensors: Any, iterator: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The same, with the user's sensors told of each event."""
        event: Any = None
        states: Any = None
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
        if not self._is_fast:
            return self._general_items()
        if self._processors:
            return self._processed_items()
        assert self._source is not None
        return self._source.items()

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
        assert self._source is not None
        async for key, value in self._source.items():
            value = await self.process_value(value)
            if value is not FILTERED:
                yield key, value

    async def process_value(self, value: Any) -> Any:
        """What the processors make of a value; `FILTERED` where they skip it."""
        try:
            for processor in self._processors:
                value = await maybe_async(processor(value))
        except Skip:
            return FILTERED
        return value

    async def units(self) -> UnitStream:
        """What it takes on the concurrent path."""
        agents = await self.origin.agents()
        self.become_current()
        feeds = [agent.concurrent() for agent in agents]
        return UnitStream(feeds, self.actor, self.process, manual=not self.enable_acks)

    @property
    def actor(self) -> Actor:
        return self.origin.actor

    async def process(self, unit: InFlight) -> Any:
        """The value that is seen for the event where the unit stands."""
        value = self.origin.value_of(unit)
        own = await self.origin.process(unit, value)
        if isinstance(own, FlatValues):
            values = [await self.process_value(each) for each in own]
            return FlatValues(each for each in values if each is not FILTERED) or FILTERED
        return own if own is FILTERED else await self.process_value(own)

    async def _general_values(self) -> AsyncIterator[Any]:
        async for unit in self._each():
            yield unit.values[0]

    async def _general_items(self) -> AsyncIterator[tuple[Any, Any]]:
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
        if self.origin.is_agents:
            return
        self.origin.left()
        stream.leave()
        failed = task is not None and task.done() and (task.cancelled() or task.exception() is not None)
        if failed:
            self.actor.undo()
        else:
            self.actor.finish()

    def noack(self) -> AgentStream:
        """This stream, of which an event is done when it is acknowledged: ``event.ack()``."""
        return self._again(manual=True)

    def _again(self, *, manual: bool | None = None, origin: Origin | None = None) -> AgentStream:
        stream = AgentStream(
            origin or self.origin,
            self.app,
            self.prefix,
            channel=self.channel,
            processors=self._processors,
            manual=not self.enable_acks if manual is None else manual,
        )
        self._shown = stream
        return stream

    async def ack(self, event: Any) -> bool:
        """Makes an event done, with all that was written and sent for it so far."""
        done: bool = event.ack()
        return done

    async def throw(self, exc: BaseException) -> None:
        """Whoever iterates this stream gets the exception, next."""
        if self._source is not None:
            self._source.agent.concurrent()
        self.actor.throw(exc)

    # -- in batches ---------------------------------------------------------------------------------

    async def _batches(self, max_: int, within: Any, *, manual: bool = False) -> AsyncIterator[Any]:
        within_ms = want_seconds(within) * 1_000 if within else None
        stream = await self.units()
        stream.manual = stream.manual or manual
        task = asyncio.current_task()
        try:
            async for unit, batch in stream.batches(max_, within_ms):
                yield unit, batch
        except GeneratorExit:
            self._left(task, stream)
            raise

    async def take(self, max_: int, within: Any) -> AsyncIterator[Sequence[Any]]:  # type: ignore[override]  # a generator here too
        """Up to ``max_`` values at a time, fewer when ``within`` seconds have passed since the first.

        A batch is one unit: its events are done when the next batch is taken, or all undone. In a loop
        over the batch a table sees each value's own partition and time.
        """
        async for _, batch in self._batches(max_, within):
            yield batch

    async def take_events(self, max_: int, within: Any) -> AsyncIterator[Sequence[Any]]:  # type: ignore[override]  # likewise
        """`take`, with events instead of values."""
        async for unit, batch in self._batches(max_, within):
            yield self._events_of(unit, batch)

    def _events_of(self, unit: InFlight, batch: Batch) -> Batch:
        return batch.mapped(lambda _, ref: self._event_at(unit, ref))

    async def take_with_timestamp(  # type: ignore[override]  # likewise
        self, max_: int, within: Any, timestamp_field_name: str
    ) -> AsyncIterator[Sequence[Any]]:
        """`take`; values that are dicts get their record's timestamp (epoch seconds) under that name."""

        def stamped(value: Any, ref: Any) -> Any:
            if isinstance(value, dict) and timestamp_field_name:
                chunk = ref.chunk_acks.chunk
                return {**value, timestamp_field_name: chunk.timestamps_ms[ref.index] / 1_000}
            return value

        async for _, batch in self._batches(max_, within):
            yield batch.mapped(stamped)

    async def noack_take(self, max_: int, within: Any) -> AsyncIterator[Sequence[Any]]:  # type: ignore[override]  # likewise
        """`take_events`, of which the batch is done when the last of its events is acknowledged."""
        async for unit, batch in self._batches(max_, within, manual=True):
            yield self._events_of(unit, batch)

    # -- the event in flight ----------------------------------------------------------------------------

    @property
    def current_event(self) -> Any:
        """The event that is in flight as a faust.Event, or ``None`` between events."""
        if self._shown is not None:
            return self._shown.current_event
        if self._is_fast:
            assert self._source is not None
            context = self._source.context
            if context.chunk is None or not context.in_flight:
                return None
            return self._event(context.chunk, context.position, None)
        unit = self.actor.current
        return None if unit is None else self._event_at(unit, unit.ref)

    @current_event.setter
    def current_event(self, event: Any) -> None:
        """Faust's base class clears it; ours is looked up."""

    def _event_at(self, unit: InFlight, ref: EventRef) -> Any:
        return self._event(ref.chunk_acks.chunk, ref.index, (unit, ref, self.actor))

    def _event(self, chunk: Any, index: int, held: Any) -> Any:
        if self._seen[0] is chunk and self._seen[1] == index:
            return self._seen[2]
        event = engine_event(self.app, chunk, index, held)
        self._seen = (chunk, index, event)
        return event

    def become_current(self) -> None:
        """`faust.current_event()` gives this stream's event to the calling task, made when asked for."""
        known = ref(self)  # who iterates holds it; a context must not keep it alive

        def lookup() -> Any:
            stream = known()
            return None if stream is None else stream.current_event

        faust_streams._current_event.set(cast("Any", lookup))  # stands where Faust has a weak reference

    # -- derived streams ------------------------------------------------------------------------------

    def through(self, channel: Any) -> Any:
        """Sends each event to a topic, and gives the stream of that topic.

        A topic in memory passes them on: they stay the same events, in flight until they are done.
        """
        if isinstance(channel, str):
            channel = self._topic_named(channel)
        if not isinstance(channel, faust.Topic):
            return self.echo(channel)
        return self._derive(channel, None)

    def group_by(
        self, key: Any, *, name: str | None = None, topic: Any = None, partitions: int | None = None
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
            if field is not None and field.type in (int, float) and isinstance(topic, faust.Topic):
                made: Any = topic
                made.key_codec = type(made.key_codec)(field.type)
        elif not isinstance(topic, faust.Topic):
            raise ConfigurationError("group_by needs a topic of the broker's, not a channel in memory")
        return self._derive(topic, field.getattr if field is not None else key)

    def _topic_named(self, name: str) -> Any:
        """With the types of this stream's topic, where it has one."""
        return self.derive_topic(name) if isinstance(self.channel, faust.Topic) else self.app.topic(name)

    def _derive(self, topic: Any, key: Callable[[Any], Any] | None) -> AgentStream:
        if self.origin.shared:
            raise ImproperlyConfigured("an agent with concurrency > 1 cannot use group_by or through")
        derived = AgentStream(Derived(self, topic, key), self.app, self.prefix, channel=topic)
        self._shown = derived
        return derived

    def echo(self, *channels: Any) -> Any:
        """Sends each value to topics or channels, and passes it on."""
        targets = [self._topic_named(each) if isinstance(each, str) else each for each in channels]

        async def echoing(value: Any) -> Any:
            for channel in targets:
                if isinstance(value, faust.Event):
                    await value.forward(channel)
                else:
                    await channel.send(value=value)
            return value

        self.add_processor(echoing)
        return self

    def again(self, origin: Origin) -> AgentStream:
        """A stream of this one's name whose events come from elsewhere, without processors yet."""
        stream = AgentStream(origin, self.app, self.prefix, channel=self.channel, manual=not self.enable_acks)
        self._shown = stream
        return stream

    def combine(self, *nodes: Any, **_: Any) -> Any:
        """The events of several streams, in turn, as one stream; with a table, for a join to follow."""
        stream = self._again(origin=Merged(list(dict.fromkeys(n for n in (self, *nodes) if is_stream(n)))))
        stream.tables = [*self.tables, *(node for node in nodes if not is_stream(node))]
        return stream

    def clone(self, **options: Any) -> Any:
        manual = not options.get("enable_acks", self.enable_acks)
        return self._again(manual=manual)
