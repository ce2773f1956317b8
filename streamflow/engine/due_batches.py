"""What was fetched of retry topics and is not due yet.

A partition of a retry topic waits for its first event that is not due: what lies before it is dispatched,
the rest of what was fetched is held here, and the partition pauses at the broker until all of it is taken. So
no more is held of a partition than what was on its way when it paused. What is held is taken by nobody: the
positions stand before it, and an assignment that ends forgets it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

from streamflow.clock import Clock, sleep_unless
from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.retry_topics import RetryTopic, selected
from streamflow.transports.base import Batch, TopicPartition, Transport

LOOK_MS_MAX = 60_000.0
"""Due times are those of the wall clock, which may be set: it is looked at again so often."""
LOOK_MS_MIN = 10.0
"""What is due within this time is taken together"""


class DueBatches:
    """Runs beside the fetch loop, and sleeps while nothing is held.

    ``current`` is what is held while any of it serves, ``give`` dispatches a batch, ``room`` is awaited
    before that: a late commit keeps all waiting.
    """

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        *,
        current: Callable[[], ActiveAssignment | None],
        give: Callable[[Batch, ActiveAssignment], None],
        room: Callable[[], Awaitable[None]],
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._current = current
        self._give = give
        self._room = room
        self._of: ActiveAssignment | None = None
        self._held: dict[TopicPartition, tuple[RetryTopic, deque[Batch]]] = {}
        self._due_ms: dict[TopicPartition, int] = {}
        self._woken = asyncio.Event()

    def take(self, batch: Batch, topic: RetryTopic, active: ActiveAssignment) -> Batch | None:
        """What of a batch may be dispatched now; the rest is held. ``None``: all of it waits."""
        if self._of is not active:
            self._begin(active)
        at = (batch.topic, batch.partition)
        if at in self._held:  # it was on its way when the partition paused, or an agent has got room since
            self._held[at][1].append(batch)
            self._pause(at, active)
            return None
        due, rest, due_ms = split(batch, topic, self._clock.now_ms())
        if rest is not None:
            self._held[at] = topic, deque([rest])
            self._due_ms[at] = due_ms
            self._pause(at, active)
            self._woken.set()
        return due

    def _begin(self, active: ActiveAssignment | None) -> None:
        """Forgets what was held for the assignment before."""
        self._of = active
        self._held.clear()
        self._due_ms.clear()

    def _pause(self, at: TopicPartition, active: ActiveAssignment) -> None:
        self._transport.pause([at])
        active.paused.discard(at)  # room is not what it waits for

    async def run(self) -> None:
        """Dispatches what becomes due, until cancelled."""
        while True:
            self._woken.clear()
            if not self._due_ms:
                await self._woken.wait()
                continue
            wait_ms = min(self._due_ms.values()) - self._clock.now_ms()
            await sleep_unless(self._clock, min(max(wait_ms, LOOK_MS_MIN), LOOK_MS_MAX), self._woken)
            await self._room()
            active = self._of
            if active is None or active is not self._current():
                self._begin(None)
                continue
            for batch in self._due(active):
                self._give(batch, active)

    def _due(self, active: ActiveAssignment) -> Iterator[Batch]:
        now_ms = self._clock.now_ms()
        for at in [at for at, due_ms in self._due_ms.items() if due_ms <= now_ms]:
            topic, batches = self._held[at]
            while batches:
                due, rest, due_ms = split(batches.popleft(), topic, now_ms)
                if rest is not None:
                    batches.appendleft(rest)
                    self._due_ms[at] = due_ms
                if due is not None:
                    yield due
                if rest is not None:
                    break
            else:
                del self._held[at], self._due_ms[at]
                if at not in active.paused:
                    self._transport.resume([at])


def split(batch: Batch, topic: RetryTopic, now_ms: int) -> tuple[Batch | None, Batch | None, int]:
    """What of a batch is due, what is not, and when its first event is (0: there is none)."""
    found = topic.first_not_due(batch, now_ms)
    if found is None:
        return batch, None, 0
    offset, due_ms = found
    count = bisect_left(batch.offsets, offset)
    due = None if count == 0 else replace(_between(batch, 0, count), next_offset=offset)
    return due, _between(batch, count, len(batch.offsets)), due_ms


def _between(batch: Batch, first: int, last: int) -> Batch:
    return replace(selected(batch, range(first, last)), gone=batch.gone if first == 0 else 0)
