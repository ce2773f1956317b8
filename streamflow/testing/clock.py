"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools

# How often the event loop gets a turn after each timer that went off, so that what it woke can run on
# and sleep again before the next one. Chains of more awaits than this see the time move early.
TURNS = 50


class ManualClock:
    """A `Clock`. Sleepers wake when `advance` passes their time, in the order of their times."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._start_ms = now_ms
        self._elapsed_ms = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []  # a heap: (when, number, future)
        self._numbers = itertools.count()

    def now_ms(self) -> int:
        return self._start_ms + int(self._elapsed_ms)

    def monotonic_ms(self) -> float:
        return self._elapsed_ms

    async def sleep_ms(self, delay_ms: float) -> None:
        if delay_ms <= 0:
            await asyncio.sleep(0)
            return
        sleeper = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed_ms + delay_ms, next(self._numbers), sleeper))
        await sleeper

    async def advance(self, delta_ms: float) -> None:
        """Moves the time on, stopping at each sleeper's time and letting what it wakes run."""
        if delta_ms < 0:
            raise ValueError("time does not go back")
        goal_ms = self._elapsed_ms + delta_ms
        await self._turns()
        while self._sleepers and self._sleepers[0][0] <= goal_ms:
            when_ms, _, sleeper = heapq.heappop(self._sleepers)
            if not sleeper.done():
                self._elapsed_ms = max(self._elapsed_ms, when_ms)
                sleeper.set_result(None)
                await self._turns()
        self._elapsed_ms = goal_ms
        await self._turns()

    async def _turns(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
