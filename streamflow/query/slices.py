"""Long work in short slices, between which the event loop does what else there is to do."""

from __future__ import annotations

import asyncio

from streamflow.clock import Clock

SLICE_MS = 2.0
"""A slice ends at the first look at the clock behind it: nothing between two looks takes longer than 2 ms."""


class Slices:
    """One piece of work; it asks `over` every so often, and awaits `rest` then."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_ms = clock.monotonic_ms() + SLICE_MS

    def over(self) -> bool:
        return self._clock.monotonic_ms() >= self._until_ms

    async def rest(self) -> None:
        """Others work; the next slice begins."""
        await asyncio.sleep(0)
        self._until_ms = self._clock.monotonic_ms() + SLICE_MS
