"""A worker's process as the broker sees it: alive, stalled, killed or gone; faults strike at its steps."""

from __future__ import annotations

import asyncio

from streamflow.clock import Clock
from streamflow.errors import StreamflowError, TransportError
from streamflow.transports.base import OnPoint
from streamflow.transports.memory.broker import MemoryBroker


class ClientKilled(StreamflowError):
    """The client was killed by a test; no call on it does anything any more."""


class Process:
    """``on_point`` is awaited at each of `faults.POINTS`."""

    def __init__(self, name: str, broker: MemoryBroker, clock: Clock, on_point: OnPoint) -> None:
        self.name = name
        self.clock = clock
        self.dead = False
        self.stopped = False
        self.absences = 0  # how often it has been stalled or killed
        self._broker = broker
        self._on_point = on_point
        self._awake = asyncio.Event()
        self._awake.set()

    @property
    def away(self) -> bool:
        """Nothing is heard of it."""
        return self.dead or not self._awake.is_set()

    def kill(self) -> None:
        self.dead = True
        self.absences += 1
        self._awake.set()

    def stall(self) -> None:
        """Waits at its next step."""
        self.absences += 1
        self._awake.clear()

    def wake(self) -> None:
        self._awake.set()

    def stop(self) -> bool:
        """False where it has ended already."""
        if self.stopped or self.dead:
            return False
        self.stopped = True
        return True

    def check(self) -> None:
        """Raises ClientKilled, TransportError."""
        if self.dead:
            raise ClientKilled(f"client {self.name!r} was killed")
        if self.stopped:
            raise TransportError(f"client {self.name!r} is stopped")

    async def step(self, point: str) -> None:
        """Where a fault may strike. Without faults and while nobody stalls us: nothing."""
        faults = self._broker.faults
        if faults is not None:
            await self._on_point(point)
            delay_ms = faults.delay_ms()
            if delay_ms > 0:
                await self.clock.sleep_ms(delay_ms)
        while not self._awake.is_set():
            await self._awake.wait()
        self.check()

    async def operate(self, point: str) -> None:
        """The beginning of an operation that a retry may cure."""
        await self.step(point)
        faults = self._broker.faults
        if faults is not None and faults.chance(faults.error_chance):
            raise TransportError(f"{point}: injected")
