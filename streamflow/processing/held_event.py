"""What an agent has in flight, as those see it who only look: the watchdog, from a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from streamflow.processing.feed import Actor

Running = Sequence[tuple[asyncio.Task[None], Actor]]
"""The coroutines of one agent."""


class HeldEvent(NamedTuple):
    """An event that code of an agent works on; of a batch the first one.

    ``events``: so many are in flight with it. ``task`` runs that code, where it is known.
    """

    topic: str
    partition: int
    offset: int
    events: int = 1
    task: asyncio.Task[None] | None = None

    @property
    def place(self) -> str:
        """For messages."""
        more = f" and {self.events - 1} more" if self.events > 1 else ""
        return f"{self.topic}[{self.partition}] offset {self.offset}{more}"
