"""Keeps apart what events write that are in flight at the same time.

Two events in flight may write one row only where several coroutines of agents write one table. What one
of them did can't be taken out of such a row while the other's is kept: they are *conflicting*. A
checkpoint waits until no event in flight is (`await_conflicts`), without handing out new ones; and an event
that is conflicting and fails invalidates the assignment: what is held in memory is dropped, everything since
the last checkpoint is taken again, and the event that did so runs *exclusively*, where undo is exact. Until
a checkpoint has held, so do all the others (`cautious`): else events that fail now and then would
invalidate each assignment before it has moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from streamflow.clock import Clock
from streamflow.errors import ConflictingWrites
from streamflow.processing.flight_note import FlightNote
from streamflow.state.event_context import EventContext, UncommittedWrite

Row = tuple[int, int, object]

EXCLUSIVE_PASSES_MAX = 60
"""After so many checkpoints others may begin beside an event: it may be one of them that it waits for."""


def _nobody() -> None: ...


def rows_of(undo: Iterable[UncommittedWrite]) -> set[Row]:
    """The rows that these writes changed."""
    return {(id(part), start, key) for _, part, start, key, _ in undo}


class Holder(Protocol):
    """An agent, as the gate sees it."""

    def contexts(self) -> Iterable[EventContext]: ...

    def wake(self) -> None:
        """Wakes who waits for events."""
        ...


class Gate:
    """Every event of every agent of one engine passes here before it is handed out.

    ``holders`` are the agents. ``invalidated`` says why what is held in memory must be dropped, or ``None``;
    ``on_invalidated`` is told of it.
    """

    def __init__(
        self, clock: Clock, holders: Sequence[Holder], on_invalidated: Callable[[], None] = _nobody
    ) -> None:
        self.closed = False
        self.invalidated: ConflictingWrites | None = None
        self.cautious = False  # since it was invalidated, until a checkpoint has held
        self.note = FlightNote()
        self._resting = False
        self._passes = 0
        self._exclusive_before: EventContext | None = None
        self._on_invalidated = on_invalidated
        self._clock = clock
        self._holders = holders
        self._exclusive: EventContext | None = None
        self._opened = asyncio.Event()
        self._changed = asyncio.Event()
        self._exclusive_lock = asyncio.Lock()

    def clear(self) -> None:
        """Everything was dropped."""
        self.invalidated = None
        self._exclusive = None
        self.note.not_alone()
        self._resting = False
        self.open()

    # -- who may pass ----------------------------------------------------------------------------

    async def passage(self) -> None:
        """Waits while no new event is handed out."""
        while self.closed:
            self._opened.clear()
            await self._opened.wait()

    @property
    def resting(self) -> bool:
        """Is no new event handed out, not even of a chunk that was begun, before a checkpoint was tried?"""
        return self._resting

    def rest(self) -> None:
        """Until `rested` no new event is handed out: code that blocks the event loop starves all else there.

        A checkpoint takes some twenty turns of the loop. With one turn for each event that blocks, it would
        outlast its transaction, and its events would be taken again for ever.
        """
        self._resting = True
        self._close()

    def rested(self) -> None:
        """A checkpoint was tried, whatever came of it."""
        if self._resting:
            self._resting = False
            self.open()

    def _close(self) -> None:
        self.closed = True
        for holder in self._holders:
            holder.wake()

    def _contexts(self) -> Iterator[EventContext]:
        for holder in self._holders:
            yield from holder.contexts()

    def open(self) -> None:
        """Hands out events again, unless one runs exclusively."""
        if self._exclusive is None and not self._resting:
            self.closed = False
            self._opened.set()

    async def enter_exclusively(self, context: EventContext, around: Sequence[EventContext] = ()) -> None:
        """Waits until nobody else holds an event, and keeps it so until `leave`.

        ``around``: of events in whose loops this one was taken, and which therefore wait for it. Where one of
        them is exclusive, this one is too, for as long as that is.
        """
        if self._exclusive is not None and self._exclusive in around:
            return
        is_taken = self._exclusive is not None or self._exclusive_lock.locked()
        if is_taken and any(type(each) is not EventContext for each in around):
            # The one who is alone may wait for what this one is within: then neither would ever end. When
            # they come again, those around are alone themselves.
            self.invalidate(f"{context.consumer} must be alone within the loop of an event that is not")
        async with self._exclusive_lock:
            while self._exclusive is not None:
                await self._change()
            self._exclusive = context
            self._close()
            together = (context, *around)
            try:
                while any(each.in_flight for each in self._contexts() if each not in together):
                    await self._change()
            except BaseException:
                self.leave(context)
                raise

    def leave(self, context: EventContext) -> None:
        """The event in this context is done, or undone."""
        if self._exclusive is context:
            self._exclusive = self._exclusive_before = None
            self.note.not_alone()
            self.open()
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # -- what is conflicting -----------------------------------------------------------------------

    def finished(self, context: EventContext, undo: list[UncommittedWrite]) -> None:
        """Writes of done events become firm: whoever holds one of the same rows is conflicting."""
        self._changed.set()
        if not undo:
            return
        rows: set[Row] | None = None
        for other in self._contexts():
            if other is context or not other.in_flight or not other.uncommitted_writes:
                continue
            rows = rows_of(undo) if rows is None else rows
            if not rows.isdisjoint(rows_of(other.writes())):
                other.conflict()

    def is_conflicting(self, context: EventContext, together: Sequence[EventContext] = ()) -> bool:
        """Can what the event in this context wrote no longer be told from what others did?

        ``together``: those that are undone with it, and in which order is known, are none of these others.
        """
        if not context.in_flight:
            return False
        if context.conflicting:
            return True
        if not context.uncommitted_writes:
            return False
        mine: set[Row] | None = None
        for other in self._contexts():
            if other is context or not other.uncommitted_writes or other in together:
                continue
            mine = rows_of(context.writes()) if mine is None else mine
            if not mine.isdisjoint(rows_of(other.uncommitted_writes)):
                return True
        return False

    def conflicting(self) -> list[EventContext]:
        return [context for context in self._contexts() if self.is_conflicting(context)]

    def invalidate(self, why: str) -> None:
        """From here on nothing that is held in memory may become durable."""
        if self.invalidated is None:
            self.invalidated = ConflictingWrites(why)
        self.cautious = True
        self._changed.set()
        self._on_invalidated()

    def checkpointed(self, *, written: bool) -> None:
        """A checkpoint has held; ``written``: there was something to write."""
        if written:
            self.cautious = False
        self._passes = self._passes + 1 if self._exclusive is self._exclusive_before else 0
        self._exclusive_before = self._exclusive
        if self._exclusive is not None and self._passes >= EXCLUSIVE_PASSES_MAX:
            self.cautious = False
            self.note.trust(self._exclusive.consumer)
            self.leave(self._exclusive)

    async def await_conflicts(self, limit_ms: float) -> bool:
        """Waits until no event in flight is conflicting; no new ones are handed out from here to `open`.

        False: not within the limit, or the assignment is invalidated.
        """
        if self.invalidated is None and not self.conflicting():
            return True
        self._close()
        limit = asyncio.ensure_future(self._clock.sleep_ms(limit_ms))
        try:
            while self.invalidated is None and self.conflicting() and not limit.done():
                # Cleared before the task begins: what changes until then must not be missed.
                self._changed.clear()
                change = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait({limit, change}, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
        finally:
            limit.cancel()
        return self.invalidated is None and not self.conflicting()
