"""A clock that goes by the event loop, real or simulated."""

from __future__ import annotations

import asyncio


class LoopClock:
    """Follows the running event loop's own time, so that a loop with simulated time moves everything.

    ``epoch_ms`` is the wall time at the loop's time 0.
    """

    def __init__(self, epoch_ms: int = 1_700_000_000_000) -> None:
        self.epoch_ms = epoch_ms

    def now_ms(self) -> int:
        return self.epoch_ms + int(self.monotonic_ms())

    def monotonic_ms(self) -> float:
        return asyncio.get_running_loop().time() * 1_000.0

    async def sleep_ms(self, delay_ms: float) -> None:
        await asyncio.sleep(max(0.0, delay_ms) / 1_000.0)
