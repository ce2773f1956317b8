"""Event time as one consumer sees it over one chunk.

What is late depends on the consumer, not on the table: each has a watermark of its own. So what was found out
about lateness is kept here, for as long as the consumer walks over the chunk, and nobody else uses it.
"""

from __future__ import annotations

from collections.abc import Hashable
from itertools import accumulate
from typing import Any


class ChunkTime:
    """``before_ms`` is the consumer's watermark before the chunk. What costs a look at each event is found
    out once, and only when somebody asks.

    ``spots``: table -> where the consumer writes in it (`partition.Spot`).
    """

    __slots__ = ("_behind_ms", "_end_ms", "_peaks", "before_ms", "spots", "times")

    def __init__(self, times: list[int], before_ms: int | None) -> None:
        self.times = times
        self.before_ms = before_ms
        self.spots: dict[Hashable, Any] = {}
        self._peaks: list[int] | None = None
        self._end_ms: int | None = None
        self._behind_ms: int | None = None

    def watermark_ms(self, index: int) -> int:
        """The consumer's watermark as of this event, that event included."""
        peaks = self._peaks
        if peaks is None:
            peaks = self._peaks = list(accumulate(self.times, max))
        seen = peaks[index]
        return seen if self.before_ms is None or seen > self.before_ms else self.before_ms

    def end_ms(self) -> int:
        """The consumer's watermark at the end of the chunk."""
        if self._end_ms is None:
            seen = max(self.times)
            self._end_ms = seen if self.before_ms is None else max(seen, self.before_ms)
        return self._end_ms

    def behind_ms(self) -> int:
        """How far an event lies behind the consumer's watermark at most; 0: they come in order.

        A window that still holds the event ends after it. So where the grace is no shorter than this,
        nothing in the chunk is late for a window of its own.
        """
        if self._behind_ms is None:
            times, before_ms = self.times, self.before_ms
            if (before_ms is None or before_ms <= times[0]) and times == sorted(times):
                self._behind_ms = 0
            else:
                peaks = accumulate(times, max, initial=times[0] if before_ms is None else before_ms)
                next(peaks)
                self._behind_ms = max(map(int.__sub__, peaks, times))
        return self._behind_ms


NO_TIME = ChunkTime([], None)
"""Of a context that walks over no chunk."""
