"""Time limits: an event that an agent's code is at work on for too long is cancelled, and has failed.

Code that gives the event loop no turn can't be cancelled; the watchdog names it.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from streamflow.clock import Clock
from streamflow.errors import ConfigurationError, EventTimeout
from streamflow.processing.held_event import HeldEvent
from streamflow.processing.retries import is_seconds

LOOKS: Final = 10
"""So often within the limit it is looked: an event has up to a tenth of it more."""
LOOK_MS_MIN: Final = 5.0
LOOK_MS_MAX: Final = 1_000.0
SECONDS_MAX: Final = 86_400.0


def checked_timeout_s(timeout_s: float | None) -> float | None:
    """Raises ConfigurationError where it is no number of seconds, up to a day."""
    if timeout_s is None:
        return None
    if not is_seconds(timeout_s) or not 0 < timeout_s <= SECONDS_MAX:
        raise ConfigurationError(f"timeout_s={timeout_s!r} must be a number of seconds, up to a day")
    return timeout_s


class Worked(Protocol):
    """An agent, as its time limits see it."""

    def held_events(self) -> list[HeldEvent]:
        """What its code works on now."""
        ...


class EventTimeouts:
    """Those of one agent: cancels the coroutine that has one event in flight for more than ``timeout_s``."""

    def __init__(self, agent: Worked, timeout_s: float, clock: Clock) -> None:
        self._agent = agent
        self._timeout_s = timeout_s
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._cancelled: dict[asyncio.Task[None], HeldEvent] = {}
        self._since_ms: dict[tuple[object, ...], float] = {}  # (task, topic, partition, offset) -> first seen

    def start(self) -> None:
        """Idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="time limits of events")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._cancelled.clear()
        self._since_ms.clear()

    def failed(self) -> None:
        """The coroutine that runs has failed: the next attempt at its event has the whole time."""
        task = asyncio.current_task()
        self._since_ms = {at: since_ms for at, since_ms in self._since_ms.items() if at[0] is not task}

    def reached(self) -> EventTimeout | None:
        """Was the coroutine that runs cancelled for its event's time limit? Then that is its failure."""
        task = asyncio.current_task()
        event = None if task is None else self._cancelled.pop(task, None)
        if task is None or event is None:
            return None
        # Whoever cancels it besides, to end it, is obeyed.
        if task.uncancel() > 0:
            return None
        return EventTimeout(f"{event.place} was in flight for longer than timeout_s, {self._timeout_s:g} s")

    async def _run(self) -> None:
        limit_ms = self._timeout_s * 1_000
        while True:
            await self._clock.sleep_ms(min(max(limit_ms / LOOKS, LOOK_MS_MIN), LOOK_MS_MAX))
            now_ms = self._clock.monotonic_ms()
            before, self._since_ms = self._since_ms, {}
            for event in self._agent.held_events():
                task = event.task
                if task is None or task.done():
                    continue  # nobody works on it: it waits for its acknowledgement
                at = (task, event.topic, event.partition, event.offset)
                since_ms = self._since_ms[at] = before.get(at, now_ms)
                if now_ms - since_ms >= limit_ms and task not in self._cancelled:
                    self._cancelled[task] = event
                    task.cancel()
