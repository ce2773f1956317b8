"""A thread of its own that keeps a worker in its group while code blocks the event loop.

While the event loop gives signs of life the driver's own heartbeats go out there, and this thread does
nothing but ask. A loop that gives none for a part of the heartbeat's interval is blocked by user code:
then the thread beats, over a connection of its own, with the membership that the loop has at that moment.
It never joins, leaves or answers a rebalance: the group waits with that for the loop, as long as its
rebalance timeout. So partitions, and the fence of a commit made after the block, stay what they were.

Behind ``limit_ms`` it beats no more. The session ends, others take the partitions, and what the loop commits
afterwards is fenced. A process that is stopped, or whose interpreter is held, beats no more either.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Protocol

from streamflow.clock import Clock

log = logging.getLogger(__name__)

LOOKS = 3
"""So many looks between two heartbeats."""


class Heart(Protocol):
    """One driver's heartbeat, in the thread's own event loop."""

    async def beat(self) -> None:
        """Renews the session of the membership as it is now, if there is one. Raises StreamflowError."""

    async def close(self) -> None: ...


class KeepAlive:
    """``heart`` is called in the thread, when it is needed for the first time."""

    def __init__(
        self, heart: Callable[[], Heart], clock: Clock, *, heartbeat_ms: float, limit_ms: float
    ) -> None:
        self._make = heart
        self._clock = clock
        self._heartbeat_ms = heartbeat_ms
        self._limit_ms = limit_ms
        self._heart: Heart | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked_ms = 0.0
        self._answered = True
        self._silent = False
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self.beats = 0

    def start(self) -> None:
        """Watches the event loop that runs here. Idempotent."""
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, name="streamflow-keep-alive", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """No beat begins after this. Idempotent; does not wait."""
        self._ended.set()

    def hush(self, *, silent: bool) -> None:
        """For tests: as if its beats were lost."""
        self._silent = silent

    def _run(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        beaten_ms, told = 0.0, False
        try:
            while not self._ended.is_set():
                await self._clock.sleep_ms(self._heartbeat_ms / LOOKS)
                now_ms = self._clock.monotonic_ms()
                blocked_ms = self._blocked_ms(now_ms)
                if blocked_ms < self._heartbeat_ms / LOOKS:
                    told = False
                elif blocked_ms > self._limit_ms:
                    if not told:
                        log.error(
                            "code has blocked the event loop for %.0f s, longer than"
                            " broker_max_poll_interval: no heartbeat any more",
                            blocked_ms / 1_000,
                        )
                    told = True
                elif now_ms - beaten_ms >= self._heartbeat_ms and not self._silent:
                    beaten_ms = now_ms
                    await self._beat()
        finally:
            if self._heart is not None:
                await self._heart.close()

    def _blocked_ms(self, now_ms: float) -> float:
        """For how long the loop has given no sign; asks it for the next one."""
        assert self._loop is not None
        if not self._answered:
            return now_ms - self._asked_ms
        self._asked_ms, self._answered = now_ms, False
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # it is closed
            self._ended.set()
        return 0.0

    def _answer(self) -> None:
        """In the loop that is watched."""
        self._answered = True

    async def _beat(self) -> None:
        if self._heart is None:
            self._heart = self._make()
        try:
            async with asyncio.timeout(self._heartbeat_ms / 1_000):
                await self._heart.beat()
        except Exception as exc:  # noqa: BLE001 - the next beat is tried all the same
            log.warning("a heartbeat while the event loop is blocked: %s", str(exc) or "no answer")
        else:
            self.beats += 1
