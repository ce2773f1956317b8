"""The subscriptions of a feed that get the very same messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamflow.clock import Clock
from streamflow.web.live.filters import Filter, Item, RowId
from streamflow.web.live.session import Emission, Subscription


@dataclass(frozen=True, slots=True)
class Delta:
    """What one checkpoint of one worker changed.

    ``position``: that of the table with it, as JSON; ``before``: without it.
    """

    seq: int
    items: Sequence[Item]
    position: bytes
    before: bytes


class Channel:
    """The subscriptions that get the very same messages: one filter, one rate.

    ``meta`` gives the cursor and the position of a message, of (seq, fingerprint of the filter, position).
    """

    def __init__(
        self,
        clock: Clock,
        meta: Callable[[int, str, bytes], bytes],
        view: Filter,
        *,
        conflates: bool,
        max_hz: float | None,
    ) -> None:
        self.filter = view
        self.subscriptions: set[Subscription] = set()
        self._clock = clock
        self._meta = meta
        self._fingerprint = view.fingerprint
        self._conflates = conflates
        self._interval_ms = 0.0 if max_hz is None else 1_000.0 / max_hz
        self._held: list[Item] = []
        self._held_by_id: dict[RowId, Item] = {}
        self._skipped = 0
        self._first: Delta | None = None  # of those that are held
        self._last: Delta | None = None
        self._sent_at_ms = float("-inf")
        self._timer: asyncio.Task[None] | None = None

    def offer(self, delta: Delta) -> None:
        items = [item for item in map(self.filter.view, delta.items) if item is not None]
        if not items:
            return
        self._last = delta
        if self._first is None:
            self._first = delta
        if self._interval_ms == 0.0:
            self._emit(items, 0)
            return
        self._hold(items)
        wait_ms = self._sent_at_ms + self._interval_ms - self._clock.monotonic_ms()
        if wait_ms <= 0:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.create_task(self._flush_in(wait_ms))

    def _hold(self, items: list[Item]) -> None:
        if not self._conflates:
            self._held.extend(items)
            return
        before = len(self._held_by_id)
        for item in items:
            self._held_by_id[item.id] = item
        self._skipped += before + len(items) - len(self._held_by_id)

    async def _flush_in(self, wait_ms: float) -> None:
        await self._clock.sleep_ms(wait_ms)
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Sends what the rate has held back."""
        held = self._held or list(self._held_by_id.values())
        skipped, self._skipped = self._skipped, 0
        self._held, self._held_by_id = [], {}
        if held:
            self._sent_at_ms = self._clock.monotonic_ms()
            self._emit(held, skipped)

    def offer_progress(self, tail: bytes) -> None:
        """Not while changes are held back: their position comes with them."""
        if not self._held and not self._held_by_id:
            for sub in list(self.subscriptions):
                sub.offer_progress(tail)

    def _emit(self, items: Sequence[Item], skipped: int) -> None:
        assert self._first is not None
        assert self._last is not None
        meta = self._meta(self._last.seq, self._fingerprint, self._last.position)
        before = self._meta(self._first.seq - 1, self._fingerprint, self._first.before)
        self._first = None
        emission = Emission(items, meta, before, skipped)
        for sub in list(self.subscriptions):
            sub.offer(emission)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
