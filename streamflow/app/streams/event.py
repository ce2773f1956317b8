"""faust.Event of what an agent has in flight: made when somebody looks at it."""

from __future__ import annotations

from typing import Any

import faust
from faust.types import AppT, EventT
from faust.types.tuples import Message

from streamflow.codecs.chunk import Chunk
from streamflow.processing.feed import Actor
from streamflow.processing.units import EventRef, InFlight

EventHold = tuple[InFlight, EventRef, Actor]
"""The unit that holds an event, where, and whose it is."""


class EngineEvent(faust.Event):
    """An event of the engine's. `ack` makes it done, with all that was written and sent for it so far."""

    _held: EventHold | None = None

    def held_by(self, held: EventHold) -> EngineEvent:
        self._held = held
        return self

    def ack(self) -> bool:
        """True: it was not acknowledged before. Where taking the next event acknowledges, that counts."""
        self.acked = True
        if self._held is None:
            return False
        unit, ref, actor = self._held
        return actor.ack_event(unit, ref)


class MemoryChunk(Chunk):
    """One event that comes from no log, with the faust.Event that it came as, if it did."""

    __slots__ = ("event",)

    def __init__(self, item: object, now_ms: int) -> None:
        event = item if isinstance(item, EventT) else None
        key, value = (None, item) if event is None else (event.key, event.value)
        super().__init__(
            "",
            -1,
            offsets=[-1],
            keys=[key],
            events=[value],
            columns={},
            times_ms=[now_ms],
            timestamps_ms=[now_ms],
            raw=([None], [None], None),
            next_offset=-1,
        )
        self.event = event


def engine_event(app: AppT, chunk: Chunk, index: int, held: EventHold | None = None) -> Any:
    """The event at a place of a chunk, as Faust has it; in a `MemoryChunk` it may be ``None``."""
    if isinstance(chunk, MemoryChunk):
        return chunk.event
    assert chunk.events is not None
    # HOT PATH of `events` and `take_events`: without a call between.
    headers: dict[str, Any] = dict(chunk.headers[index]) if chunk.headers is not None else {}
    raw_key, raw_value = chunk.raw_keys[index], chunk.raw_values[index]
    message = Message(
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
    event = EngineEvent(app, chunk.keys[index], chunk.events[index], headers, message)
    return event if held is None else event.held_by(held)
