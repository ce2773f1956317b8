"""Keeps apart what events write that are in hand at the same time.

Two events in hand may write one row only where several coroutines of agents write one table. What one
of them did can't be taken out of such a row while the other's is kept: they are *entangled*. A
checkpoint waits until no event in hand is (`untangle`), without handing out new ones; and an event
that is entangled and fails tears the assignment: what is held in memory is dropped, everything since the
last checkpoint is taken again, and the event that tore it runs *alone*, where undo is exact. Until a
checkpoint has held, so do all the others (`cautious`): else events that fail now and then would tear
each assignment before it has moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from streamflow.clock import Clock
from streamflow.errors import TornInMemory
from streamflow.state.event_context import Hand, Undo

Row = tuple[int, int, object]

ALONE_PASSES_MAX = 60
"""After so many checkpoints others may begin beside an event: it may be one of them that it waits for."""


def _nobody() -> None: ...


def rows_of(undo: Iterable[Undo]) -> set[Row]:
    """The rows that these writes changed."""
    return {(id(part), start, key) for _, part, start, key, _ in undo}


class Holder(Protocol):
    """An agent, as the gate sees it."""

    def hands(self) -> Iterable[Hand]: ...

    def wake(self) -> None:
        """Wakes who waits for events."""
        ...


class Gate:
    """Every event of every agent of one engine passes here before it is handed out.

    ``holders`` are the agents. ``torn`` says why what is held in memory must be dropped, or ``None``.
    """

    def __init__(self, clock: Clock, holders: Sequence[Holder]) -> None:
        self.closed = False
        self.torn: TornInMemory | None = None
        self.cautious = False  # since it was torn, until a checkpoint has held
        self.on_tear: Callable[[], None] = _nobody
        self._passes = 0
        self._alone_before: Hand | None = None
        self._clock = clock
        self._holders = holders
        self._alone: Hand | None = None
        self._opened = asyncio.Event()
        self._changed = asyncio.Event()
        self._alone_lock = asyncio.Lock()

    def clear(self) -> None:
        """Everything was dropped."""
        self.torn = None
        self._alone = None
        self.open()

    # -- who may pass ----------------------------------------------------------------------------

    async def passage(self) -> None:
        """Waits while no new event is handed out."""
        while self.closed:
            self._opened.clear()
            await self._opened.wait()

    def _close(self) -> None:
        self.closed = True
        for holder in self._holders:
            holder.wake()

    def _hands(self) -> Iterator[Hand]:
        for holder in self._holders:
            yield from holder.hands()

    def open(self) -> None:
        """Hands out events again, unless one runs alone."""
        if self._alone is None:
            self.closed = False
            self._opened.set()

    async def enter_alone(self, hand: Hand) -> None:
        """Waits until nobody else holds an event, and keeps it so until `leave`."""
        async with self._alone_lock:
            while self._alone is not None:
                await self._change()
            self._alone = hand
            self._close()
            try:
                while any(other.holding for other in self._hands() if other is not hand):
                    await self._change()
            except BaseException:
                self.leave(hand)
                raise

    def leave(self, hand: Hand) -> None:
        """The event in this hand is done, or undone."""
        if self._alone is hand:
            self._alone = None
            self.open()
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # -- what is entangled -----------------------------------------------------------------------

    def finished(self, hand: Hand, undo: list[Undo]) -> None:
        """Writes of done events become firm: whoever holds one of the same rows is entangled."""
        self._changed.set()
        if not undo:
            return
        rows: set[Row] | None = None
        for other in self._hands():
            if other is hand or not other.holding or not other.undo:
                continue
            rows = rows_of(undo) if rows is None else rows
            if not rows.isdisjoint(rows_of(other.writes())):
                other.entangled = True

    def is_entangled(self, hand: Hand) -> bool:
        """Can what the event in this hand wrote no longer be told from what others did?"""
        if not hand.holding:
            return False
        if hand.entangled:
            return True
        if not hand.undo:
            return False
        mine: set[Row] | None = None
        for other in self._hands():
            if other is hand or not other.undo:
                continue
            mine = rows_of(hand.writes()) if mine is None else mine
            if not mine.isdisjoint(rows_of(other.undo)):
                return True
        return False

    def entangled(self) -> list[Hand]:
        return [hand for hand in self._hands() if self.is_entangled(hand)]

    def tear(self, why: str) -> None:
        """From here on nothing that is held in memory may become durable."""
        if self.torn is None:
            self.torn = TornInMemory(why)
        self.cautious = True
        self._changed.set()
        self.on_tear()

    def checkpointed(self, *, written: bool) -> None:
        """A checkpoint has held; ``written``: there was something to write."""
        if written:
            self.cautious = False
        self._passes = self._passes + 1 if self._alone is self._alone_before else 0
        self._alone_before = self._alone
        if self._alone is not None and self._passes >= ALONE_PASSES_MAX:
            self.cautious = False
            self.leave(self._alone)

    async def untangle(self, limit_ms: float) -> bool:
        """Waits until no event in hand is entangled; no new ones are handed out from here to `open`.

        False: not within the limit, or the assignment is torn.
        """
        if self.torn is None and not self.entangled():
            return True
        self._close()
        limit = asyncio.ensure_future(self._clock.sleep_ms(limit_ms))
        try:
            while self.torn is None and self.entangled() and not limit.done():
                # Cleared before the task begins: what changes until then must not be missed.
                self._changed.clear()
                change = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait({limit, change}, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
        finally:
            limit.cancel()
        return self.torn is None and not self.entangled()
