"""Windows of one size, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from streamflow.windows.base import NOT_GIVEN, NotGiven, Seconds, Window, duration_ms, either_s, kept_s

_BLOCK = 256
"""Timestamps that are looked at together."""


@dataclass(frozen=True, init=False)
class TumblingWindow(Window):
    """Windows of one size, side by side: each time lies in exactly one.

    All in seconds, fractions down to 1 ms: ``size_s``; ``grace_s``, how long after its end (in event
    time) a window still takes events; ``retain_s``, how long after that its rows are kept;
    ``offset_s``, by how much the windows are shifted from the epoch (may be negative); and
    ``idle_close_s``, after which silence a partition takes over the watermark of the others, or None.
    Raises WindowError.

    The same in milliseconds: `size_ms`, `grace_ms`, `retain_ms`, `offset_ms` (0 <= it < size, since
    only the remainder matters) and `idle_close_ms`.

    As in Faust, ``size`` may stand for ``size_s``, and ``expires`` for a grace after which nothing is kept;
    these, and ``size_s``, may be timedeltas.
    """

    kind: ClassVar[str] = "tumbling"

    size_s: float
    _: KW_ONLY
    grace_s: float
    retain_s: float
    offset_s: float
    idle_close_s: float | None
    size_ms: int = field(init=False, repr=False, compare=False)
    grace_ms: int = field(init=False, repr=False, compare=False)
    retain_ms: int = field(init=False, repr=False, compare=False)
    offset_ms: int = field(init=False, repr=False, compare=False)
    idle_close_ms: int | None = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        size_s: Seconds | None = None,
        expires: Seconds | None = None,
        *,
        size: Seconds | None = None,
        grace_s: float | NotGiven = NOT_GIVEN,  # 0
        retain_s: float | NotGiven = NOT_GIVEN,  # a day
        offset_s: float = 0,
        idle_close_s: float | None = 10,
    ) -> None:
        grace, retain = kept_s(expires, grace_s, retain_s)
        self._set(size_s=either_s("size", size_s, size), grace_s=grace, retain_s=retain)
        self._set(offset_s=offset_s, idle_close_s=idle_close_s)
        size_ms = duration_ms("size_s", self.size_s, least_ms=1)
        offset_ms = duration_ms("offset_s", self.offset_s, signed=True) % size_ms
        self._set_ms(size_ms=size_ms, offset_ms=offset_ms)

    def start_of(self, timestamp_ms: int) -> int:
        """The start of the window that holds this time; ``%`` rounds down, so times before 1970 work."""
        return timestamp_ms - (timestamp_ms - self.offset_ms) % self.size_ms

    def starts_of_column(self, timestamps_ms: Sequence[int]) -> list[int]:
        """`start_of` each time, in order."""
        # HOT PATH. Neighbours mostly share a window, and to see that by their extremes costs less than
        # half of the arithmetic; where they do not, having looked costs a third more.
        size, offset = self.size_ms, self.offset_ms
        starts: list[int] = []
        for at in range(0, len(timestamps_ms), _BLOCK):
            block = timestamps_ms[at : at + _BLOCK]
            start = self.start_of(min(block))
            if max(block) < start + size:
                starts += [start] * len(block)
            elif offset:
                starts += [t - (t - offset) % size for t in block]
            else:
                starts += [t - t % size for t in block]
        return starts

    def windows_of(self, timestamp_ms: int) -> list[tuple[int, int]]:
        start = self.start_of(timestamp_ms)
        return [(start, start + self.size_ms)]

    def end_of(self, start_ms: int) -> int:
        return start_ms + self.size_ms

    def first_open_start(self, watermark_ms: int) -> int:
        """Holds for event times too: an event is late iff its time lies before this."""
        # The window that holds `watermark - grace` ends after it, the one before ends at it or earlier.
        return self.start_of(watermark_ms - self.grace_ms)

    def first_kept_start(self, watermark_ms: int) -> int:
        return self.start_of(watermark_ms - self.grace_ms - self.retain_ms)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "size_ms": self.size_ms,
            "offset_ms": self.offset_ms,
            "grace_ms": self.grace_ms,
        }
