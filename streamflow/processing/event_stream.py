"""Hot path: in order, chunk by chunk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from streamflow.codecs.chunk import Chunk
from streamflow.processing.feed import Actor
from streamflow.processing.unit_stream import Process, UnitStream, as_it_is
from streamflow.state.event_context import EventContext

if TYPE_CHECKING:
    from streamflow.processing.agent import AgentRunner

BLOCK_EVENTS_MAX = 512


BLOCK_MS = 1.0


class EventStream:
    """What an agent iterates: of each event its value, its key and value, or its place.

    ``actor`` is the coroutine that it belongs to: it takes events on the concurrent path.
    """

    __slots__ = ("_agent", "_block", "actor", "context")

    def __init__(self, agent: AgentRunner, context: EventContext, actor: Actor) -> None:
        self._agent = agent
        self.context = context
        self.actor = actor
        self._block = BLOCK_EVENTS_MAX

    @property
    def agent(self) -> AgentRunner:
        return self._agent

    @property
    def is_concurrent(self) -> bool:
        """Are its events to be taken on the concurrent path?"""
        return self._agent.feed is not None

    def concurrent(self, process: Process = as_it_is, *, manual: bool = False) -> UnitStream:
        """Its events on the concurrent path; from here on there is no other."""
        return UnitStream([self._agent.concurrent()], self.actor, process, manual=manual)

    async def _next_block(self) -> tuple[Chunk, range]:
        """The next stretch of indexes; gives the event loop its turn first."""
        chunk = await self._agent.next_chunk(self.context)
        first = self.context.position + 1
        return chunk, range(first, min(first + self._block, len(chunk)))

    async def _finish_block(self, events: int, began_ms: float) -> None:
        agent, context = self._agent, self.context
        context.in_flight = False
        agent.finish_block(context)
        took_ms = agent.now_ms() - began_ms
        if took_ms > BLOCK_MS:
            self._block = max(1, int(events * BLOCK_MS / took_ms))
        elif self._block < BLOCK_EVENTS_MAX:
            self._block = min(BLOCK_EVENTS_MAX, self._block * 2)
        await asyncio.sleep(0)

    async def values(self) -> AsyncIterator[Any]:
        """Each event's value."""
        context, now_ms = self.context, self._agent.now_ms
        while True:
            chunk, block = await self._next_block()
            began_ms = now_ms()
            events = chunk.events
            assert events is not None
            context.in_flight = True
            for context.position, event in enumerate(events[block.start : block.stop], block.start):
                yield event
            await self._finish_block(len(block), began_ms)

    async def items(self) -> AsyncIterator[tuple[Any, Any]]:
        """Each event's key and value."""
        context, now_ms = self.context, self._agent.now_ms
        while True:
            chunk, block = await self._next_block()
            began_ms = now_ms()
            keys, events = chunk.keys, chunk.events
            assert events is not None
            pairs = zip(keys[block.start : block.stop], events[block.start : block.stop], strict=True)
            context.in_flight = True
            for context.position, pair in enumerate(pairs, block.start):
                yield pair
            await self._finish_block(len(block), began_ms)

    async def refs(self) -> AsyncIterator[tuple[Chunk, int]]:
        """Each event as its chunk and the index in it, for views that need offset, headers and times."""
        context, now_ms = self.context, self._agent.now_ms
        while True:
            chunk, block = await self._next_block()
            began_ms = now_ms()
            context.in_flight = True
            for index in block:
                context.position = index
                yield chunk, index
            await self._finish_block(len(block), began_ms)
