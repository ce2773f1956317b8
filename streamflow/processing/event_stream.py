"""What an agent iterates. HOT PATH: the in-order path's loop over its events.

Taking the next event says that the last one is done. The stream yields to the event loop between
blocks of events, never per event: a block is 512 events, or what takes about a millisecond.
Here code trades beauty for speed: one loop, no call per event, and it sets `EventContext.position` and
`EventContext.in_flight` itself, as nothing else does from outside of a context.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

from streamflow.codecs.chunk import Chunk
from streamflow.processing.feed import Actor, EventFeed
from streamflow.processing.path import Path
from streamflow.processing.unit_stream import Process, UnitStream, as_it_is
from streamflow.state.event_context import EventContext

BLOCK_EVENTS_MAX = 512
BLOCK_MS = 1.0


class StreamOwner(Protocol):
    """An agent, as its stream sees it."""

    @property
    def is_concurrent(self) -> bool: ...

    def concurrent(self) -> EventFeed: ...

    def now_ms(self) -> float: ...


class EventStream:
    """What an agent iterates: of each event its value, its key and value, or where it lies.

    ``actor`` is the coroutine that it belongs to: it takes events on the concurrent path. A loop that began
    in order goes on there when the agent has moved.
    """

    __slots__ = ("_agent", "_block", "_path", "actor", "context")

    def __init__(self, agent: StreamOwner, path: Path, context: EventContext, actor: Actor) -> None:
        self._agent = agent
        self._path = path
        self.context = context
        self.actor = actor
        self._block = BLOCK_EVENTS_MAX

    @property
    def agent(self) -> StreamOwner:
        return self._agent

    @property
    def is_concurrent(self) -> bool:
        """Are its events to be taken on the concurrent path?"""
        return self._agent.is_concurrent

    def concurrent(self, process: Process = as_it_is, *, manual: bool = False) -> UnitStream:
        """Its events on the concurrent path; from here on there is no other."""
        return UnitStream([self._agent.concurrent()], self.actor, process, manual=manual)

    def throw(self, exc: BaseException) -> None:
        """Whoever iterates gets the exception: before the next event, or in order before the next block."""
        self._path.move()
        self.actor.throw(exc)

    async def _next_block(self) -> tuple[Chunk, range] | None:
        """The next stretch of indexes; gives the event loop its turn first. ``None``: on the other path."""
        chunk = await self._path.next_chunk(self.context, self.actor)
        if chunk is None:
            return None
        first = self.context.position + 1
        return chunk, range(first, min(first + self._block, len(chunk)))

    async def _finish_block(self, events: int, began_ms: float) -> None:
        self.context.release()
        self._path.finish_block(self.context)
        took_ms = self._agent.now_ms() - began_ms
        if took_ms > BLOCK_MS:
            self._block = max(1, int(events * BLOCK_MS / took_ms))
        elif self._block < BLOCK_EVENTS_MAX:
            self._block = min(BLOCK_EVENTS_MAX, self._block * 2)
        await asyncio.sleep(0)

    async def values(self) -> AsyncIterator[Any]:
        """Each event's value."""
        context, now_ms = self.context, self._agent.now_ms
        while (found := await self._next_block()) is not None:
            chunk, block = found
            began_ms = now_ms()
            events = chunk.events
            assert events is not None
            context.begin_block(left := events[block.start : block.stop])
            for context.position, event in enumerate(left, block.start):
                yield event
                if context.copies is not None:
                    context.settle_copies()
            await self._finish_block(len(block), began_ms)
        async for unit in self.concurrent().each():
            yield unit.values[0]

    async def items(self) -> AsyncIterator[tuple[Any, Any]]:
        """Each event's key and value."""
        context, now_ms = self.context, self._agent.now_ms
        while (found := await self._next_block()) is not None:
            chunk, block = found
            began_ms = now_ms()
            keys, events = chunk.keys, chunk.events
            assert events is not None
            context.begin_block(left := events[block.start : block.stop])
            # Not strict: `EventContext.end_block` may empty one of them.
            pairs = zip(keys[block.start : block.stop], left, strict=False)
            for context.position, pair in enumerate(pairs, block.start):
                yield pair
                if context.copies is not None:
                    context.settle_copies()
            await self._finish_block(len(block), began_ms)
        async for unit in self.concurrent().each():
            yield unit.keys[unit.position], unit.values[0]

    async def refs(self) -> AsyncIterator[tuple[Chunk, int]]:
        """Each event as its chunk and the index in it, for views that need offset, headers and times."""
        context, now_ms = self.context, self._agent.now_ms
        while (found := await self._next_block()) is not None:
            chunk, block = found
            began_ms = now_ms()
            context.begin_block(left := list(block))
            for index in left:
                context.position = index
                yield chunk, index
                if context.copies is not None:
                    context.settle_copies()
            await self._finish_block(len(block), began_ms)
        async for unit in self.concurrent().each():
            yield unit.ref.chunk_acks.chunk, unit.ref.index
