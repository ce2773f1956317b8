"""Windows of one size that move with the events."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from streamflow.windows.base import Window, duration_ms
from streamflow.windows.tumbling import TumblingWindow


@dataclass(frozen=True)
class SlidingWindow(Window):
    """Windows of ``size_s`` that begin and end with events.

    For each event at t of a key there is the window that ends with it, ``[t - size + 1 ms, t + 1 ms)``,
    and the one that begins right after it, ``[t + 1 ms, t + 1 ms + size)``, where that holds events; the
    same bounds are the same window. These are the sliding windows of Kafka Streams with a time
    difference of ``size - 1 ms``.

    All in seconds, fractions down to 1 ms; ``grace_s``, ``retain_s`` and ``idle_close_s`` are those of
    `TumblingWindow`. An event is late when every window that could hold it is closed: when the
    watermark has reached its time + size + grace. Raises WindowError.
    """

    kind: ClassVar[str] = "sliding"

    size_s: float
    _: KW_ONLY
    grace_s: float = 0
    retain_s: float = 86_400
    idle_close_s: float | None = 10
    size_ms: int = field(init=False, repr=False, compare=False)
    grace_ms: int = field(init=False, repr=False, compare=False)
    retain_ms: int = field(init=False, repr=False, compare=False)
    idle_close_ms: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._set_ms(size_ms=duration_ms("size_s", self.size_s, least_ms=1))

    def windows_of(self, timestamp_ms: int) -> list[tuple[int, int]]:
        """Of a single event: the window that ends with it. Which others hold it, other events decide."""
        return [(timestamp_ms - self.size_ms + 1, timestamp_ms + 1)]

    def last_end_of(self, timestamp_ms: int) -> int:
        return timestamp_ms + self.size_ms

    def panes(self) -> TumblingWindow:
        """The windows of 1 ms that events are folded into, and all sliding windows are made of.

        A pane is closed when no event of its time would count any more, and has expired when the last
        window that it tells of has: the one that begins right after it.
        """
        return TumblingWindow(
            0.001,
            grace_s=(self.size_ms - 1 + self.grace_ms) / 1_000,
            retain_s=(self.retain_ms + 1) / 1_000,
            idle_close_s=self.idle_close_s,
        )

    def end_of(self, start_ms: int) -> int:
        return start_ms + self.size_ms

    def first_open_start(self, watermark_ms: int) -> int:
        return watermark_ms - self.grace_ms - self.size_ms + 1

    def first_kept_start(self, watermark_ms: int) -> int:
        return self.first_open_start(watermark_ms) - self.retain_ms

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "size_ms": self.size_ms, "grace_ms": self.grace_ms}
