"""An agent's stream in Faust's form, over the engine's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from streamflow.hand import Hand
from streamflow.streams import EventStream


class StreamEvent(NamedTuple):
    """What `AgentStream.events` gives: an event with its place in the log."""

    key: Any
    value: Any
    headers: dict[str, bytes]
    topic: str
    partition: int
    offset: int
    timestamp: float  # of the record, seconds since the epoch


class AgentStream:
    """``async for value in stream``, ``stream.items()``, ``stream.events()``.

    The iterators are the engine's own generators: nothing is added for each event.
    """

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._stream.values()

    def items(self) -> AsyncIterator[tuple[Any, Any]]:
        """Each event's key and value."""
        return self._stream.items()

    async def events(self) -> AsyncIterator[StreamEvent]:
        """Each event with key, value, headers and place."""
        async for _ in self._stream.values():
            event = self.current_event
            assert event is not None
            yield event

    async def enumerate(self, start: int = 0) -> AsyncIterator[tuple[int, Any]]:
        """Each event's number and value."""
        number = start
        async for value in self._stream.values():
            yield number, value
            number += 1

    @property
    def current_event(self) -> StreamEvent | None:
        """The event that the agent holds, or ``None`` between events."""
        hand: Hand = self._stream.hand
        chunk, index = hand.chunk, hand.index
        if chunk is None or not hand.holding:
            return None
        assert chunk.events is not None
        headers = dict(chunk.headers[index]) if chunk.headers is not None else {}
        return StreamEvent(
            chunk.keys[index],
            chunk.events[index],
            headers,
            chunk.topic,
            chunk.partition,
            chunk.offsets[index],
            chunk.timestamps_ms[index] / 1_000,
        )
