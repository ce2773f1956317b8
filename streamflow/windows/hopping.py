"""Windows of one size that begin at regular steps and overlap."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from math import gcd
from typing import Any, ClassVar

from streamflow.errors import WindowError
from streamflow.windows.base import NOT_GIVEN, NotGiven, Seconds, Window, duration_ms, either_s, kept_s
from streamflow.windows.tumbling import TumblingWindow

_OVERLAP_MAX = 100_000
"""Windows that hold one time: each of them is a row that an event writes."""


@dataclass(frozen=True, init=False)
class HoppingWindow(Window):
    """Windows of ``size_s`` that begin every ``step_s`` (at most the size): each time lies in some of them.

    All in seconds, fractions down to 1 ms; ``grace_s``, ``retain_s``, ``offset_s`` and ``idle_close_s``
    are those of `TumblingWindow`, and so are Faust's ``size``, ``step`` and ``expires``. Raises WindowError.

    An event is late when it is late in every window that holds it; else it counts in those still open.
    """

    kind: ClassVar[str] = "hopping"

    size_s: float
    step_s: float
    _: KW_ONLY
    grace_s: float
    retain_s: float
    offset_s: float
    idle_close_s: float | None
    size_ms: int = field(init=False, repr=False, compare=False)
    step_ms: int = field(init=False, repr=False, compare=False)
    pane_ms: int = field(init=False, repr=False, compare=False)
    grace_ms: int = field(init=False, repr=False, compare=False)
    retain_ms: int = field(init=False, repr=False, compare=False)
    offset_ms: int = field(init=False, repr=False, compare=False)
    idle_close_ms: int | None = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        size_s: Seconds | None = None,
        step_s: Seconds | None = None,
        expires: Seconds | None = None,
        *,
        size: Seconds | None = None,
        step: Seconds | None = None,
        grace_s: float | NotGiven = NOT_GIVEN,  # 0
        retain_s: float | NotGiven = NOT_GIVEN,  # a day
        offset_s: float = 0,
        idle_close_s: float | None = 10,
    ) -> None:
        grace, retain = kept_s(expires, grace_s, retain_s)
        self._set(size_s=either_s("size", size_s, size), step_s=either_s("step", step_s, step))
        self._set(grace_s=grace, retain_s=retain, offset_s=offset_s, idle_close_s=idle_close_s)
        size_ms = duration_ms("size_s", self.size_s, least_ms=1)
        step_ms = duration_ms("step_s", self.step_s, least_ms=1)
        if step_ms > size_ms:
            raise WindowError(f"step_s={self.step_s!r} is more than the size: some times had no window")
        if -(-size_ms // step_ms) > _OVERLAP_MAX:
            raise WindowError(f"step_s={self.step_s!r}: more than {_OVERLAP_MAX} windows would hold one time")
        offset_ms = duration_ms("offset_s", self.offset_s, signed=True) % step_ms
        # Times of one pane lie in the same windows.
        self._set_ms(size_ms=size_ms, step_ms=step_ms, offset_ms=offset_ms, pane_ms=gcd(size_ms, step_ms))

    def start_of(self, timestamp_ms: int) -> int:
        """The start of the newest window that holds this time."""
        return timestamp_ms - (timestamp_ms - self.offset_ms) % self.step_ms

    def oldest_start_of(self, timestamp_ms: int) -> int:
        """The start of the oldest window that holds this time."""
        return self.start_of(timestamp_ms - self.size_ms) + self.step_ms

    def starts_of(self, timestamp_ms: int) -> range:
        """The starts of all windows that hold this time, oldest first."""
        return range(self.oldest_start_of(timestamp_ms), timestamp_ms + 1, self.step_ms)

    def pane_of(self, timestamp_ms: int) -> int:
        """The start of the pane: its times are in the same windows."""
        return timestamp_ms - (timestamp_ms - self.offset_ms) % self.pane_ms

    def panes(self) -> TumblingWindow:
        """The windows, side by side, that all hopping windows are made of.

        A pane is closed, and has expired, no sooner than the last window that holds it.
        """
        return TumblingWindow(
            self.pane_ms / 1_000,
            grace_s=(self.size_ms - self.pane_ms + self.grace_ms) / 1_000,
            retain_s=self.retain_s,
            offset_s=self.offset_s,
            idle_close_s=self.idle_close_s,
        )

    def windows_of(self, timestamp_ms: int) -> list[tuple[int, int]]:
        return [(start, start + self.size_ms) for start in self.starts_of(timestamp_ms)]

    def end_of(self, start_ms: int) -> int:
        return start_ms + self.size_ms

    def first_open_start(self, watermark_ms: int) -> int:
        """Holds for event times too: an event is late in every window iff its time lies before this."""
        return self.oldest_start_of(watermark_ms - self.grace_ms)

    def first_kept_start(self, watermark_ms: int) -> int:
        return self.oldest_start_of(watermark_ms - self.grace_ms - self.retain_ms)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "size_ms": self.size_ms,
            "step_ms": self.step_ms,
            "offset_ms": self.offset_ms,
            "grace_ms": self.grace_ms,
        }
