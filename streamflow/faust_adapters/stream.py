"""An agent's stream in Faust's form, over the engine's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import faust
from faust import streams as faust_streams
from faust.exceptions import Skip
from faust.types.tuples import Message
from mode.utils.futures import maybe_async

from streamflow.errors import ConfigurationError
from streamflow.streams import EventStream

_NO_EVENT: Any = None


class AgentStream(faust.Stream[Any]):
    """``async for value in stream``, ``stream.items()``, ``stream.events()`` ...

    HOT PATH: without processors the iterators are the engine's own generators, and nothing is added
    for each event.
    """

    def __init__(self, source: EventStream, app: Any, name: str) -> None:
        super().__init__(_NO_EVENT, app=app, prefix=name)
        self._source = source
        self._seen: tuple[Any, int, Any] = (None, -1, None)  # (chunk, index, event) made last

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._processors:
            return self._processed()
        return self._source.values()

    def items(self) -> AsyncIterator[tuple[Any, Any]]:
        """Each event's key and value."""
        if self._processors:
            return self._processed_items()
        return self._source.items()

    async def events(self) -> AsyncIterator[Any]:
        """Each event as a faust.Event, with its message: key, headers, place and time."""
        async for _ in self:
            yield self.current_event

    async def _processed(self) -> AsyncIterator[Any]:
        async for _, value in self._processed_items():
            yield value

    async def _processed_items(self) -> AsyncIterator[tuple[Any, Any]]:
        async for key, value in self._source.items():
            try:
                for processor in self._processors:
                    value = await maybe_async(processor(value))
            except Skip:
                continue
            yield key, value

    @property
    def current_event(self) -> Any:
        """The event that the agent holds as a faust.Event, or ``None`` between events."""
        hand = self._source.hand
        chunk, index = hand.chunk, hand.index
        if chunk is None or not hand.holding:
            return None
        if self._seen[0] is chunk and self._seen[1] == index:
            return self._seen[2]
        assert chunk.events is not None
        headers = dict(chunk.headers[index]) if chunk.headers is not None else {}
        raw_key, raw_value = chunk.raw_keys[index], chunk.raw_values[index]
        message: Any = Message(
            topic=chunk.topic,
            partition=chunk.partition,
            offset=chunk.offsets[index],
            timestamp=chunk.timestamps_ms[index] / 1_000,
            timestamp_type=0,
            headers=headers,
            key=raw_key,
            value=raw_value,
            checksum=None,
            serialized_key_size=len(raw_key or b""),
            serialized_value_size=len(raw_value or b""),
        )
        event = self.app.create_event(chunk.keys[index], chunk.events[index], headers, message)
        self._seen = (chunk, index, event)
        return event

    @current_event.setter
    def current_event(self, event: Any) -> None:
        """Faust's base class clears it; ours is looked up."""

    def become_current(self) -> None:
        """`faust.current_event()` gives this stream's event to the calling task, made when asked for."""
        lookup: Any = lambda: self.current_event  # noqa: E731  # stands where Faust has a weak reference
        faust_streams._current_event.set(lookup)

    # -- not on this engine yet: an error at once beats events that are lost ---------------------

    def take(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("take")

    def take_events(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("take_events")

    def take_with_timestamp(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("take_with_timestamp")

    def noack(self) -> NoReturn:
        self._refuse("noack")

    def group_by(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("group_by", "declare an aggregate with by=, or send to a topic of your own")

    def through(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("through", "send to a topic of your own")

    def combine(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("combine")

    def _join(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse("joins")

    def _refuse(self, what: str, instead: str = "") -> NoReturn:
        hint = f"; {instead}" if instead else ""
        raise ConfigurationError(f"stream.{what} is not on this engine yet{hint}")


StreamFunction = Callable[[AgentStream], Any]
