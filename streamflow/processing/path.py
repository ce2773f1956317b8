"""What an agent asks of the path that it takes its events on: in order or concurrently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from streamflow.codecs.chunk import Chunk
from streamflow.processing.failures import Failed
from streamflow.processing.feed import Actor
from streamflow.processing.held_event import HeldEvent, Running
from streamflow.processing.units import Offset
from streamflow.state.event_context import EventContext, Sent
from streamflow.state.progress import Progress


class Path(Protocol):
    """How the events of one agent's queue become done. Both paths give the same results.

    ``context`` is the one that the agent's coroutines begin with.
    """

    context: EventContext

    @property
    def processed(self) -> int:
        """Events that are done, and were not set aside."""
        ...

    @property
    def retries(self) -> int:
        """How often one was tried again."""
        ...

    def hold(self, progress: Progress) -> None:
        """One of its partitions is assigned to this worker."""

    def contexts(self) -> Iterable[EventContext]:
        """What may be in flight."""
        ...

    def held_events(self, running: Running) -> list[HeldEvent]:
        """What its code works on now, oldest first; ``running``: its coroutines.

        Another thread asks: it only looks.
        """
        ...

    def wake(self) -> None:
        """Who waits for events looks whether there are any."""

    # -- the checkpoint's side -------------------------------------------------------------------

    def due(self) -> bool:
        """Has it done anything since the last cut?"""
        ...

    def settle(self) -> None:
        """Moves the progress over what is done; what is in flight stays out."""

    def take_outbox(self) -> list[Sent]:
        """What done events have sent, up to the last `settle`."""
        ...

    def attempts(self) -> Mapping[Offset, int]:
        """Of events that failed, how often."""
        ...

    def open_events(self) -> int:
        """Events that were taken from the queue and are not done, where there may be many."""
        ...

    def abandon(self) -> None:
        """Undoes what is in flight; what is still done on its behalf raises StaleEvent."""

    def clear(self, *, running: bool) -> None:
        """Forgets everything. ``running``: coroutines that started early wait with this very context."""

    # -- the agent's side ------------------------------------------------------------------------

    def note_late(self, context: EventContext) -> None:
        """An event came too late for a table; it is one of this path's if the context is."""

    async def next_chunk(self, context: EventContext, actor: Actor) -> Chunk | None:
        """The chunk to walk over in order; ``None``: the events are to be taken as units.

        Raises StaleEvent.
        """
        ...

    def move(self) -> None:
        """The loop over the agent's events goes on concurrently, once no event is in flight in order."""

    def finish_block(self, context: EventContext) -> None:
        """Everything up to where the context stands is done."""

    def failed(self) -> Failed | None:
        """What the agent has in flight, apart from units."""
        ...
