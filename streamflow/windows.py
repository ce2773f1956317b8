"""Timestamp -> windows. Pure: windows know no clock and hold no state.

All times are integer milliseconds since the epoch, negative before 1970. A window is ``[start, end)``.
It closes when the watermark reaches ``end + grace``, and it expires, and is forgotten, when the
watermark reaches ``end + grace + retain``. An event for a closed window is late.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from streamflow.errors import WindowError

_DURATION_MS_MAX = 100 * 366 * 86_400_000
"""A hundred years: what is larger is a mistake, and far below where floats lose milliseconds."""
_BLOCK = 256
"""Timestamps that are looked at together."""


def duration_ms(name: str, seconds: float, *, least_ms: int = 0, signed: bool = False) -> int:
    """Whole milliseconds of ``seconds``, which may be a fraction.

    Raises WindowError, naming ``name``, for what is no finite number of whole milliseconds within a
    hundred years, and for less than ``least_ms`` (with ``signed`` only the amount counts).
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise WindowError(f"{name}={seconds!r} is not a number of seconds")
    if not abs(seconds) <= _DURATION_MS_MAX / 1_000:  # NaN fails every comparison
        raise WindowError(f"{name}={seconds!r} is not a finite time of at most a hundred years")
    if seconds < 0 and not signed:
        raise WindowError(f"{name}={seconds!r} is negative")
    milliseconds = round(seconds * 1_000)
    if abs(seconds * 1_000 - milliseconds) > 1e-3:  # 0.1 + 0.2 is a whole number of ms, 0.0005 is not
        raise WindowError(f"{name}={seconds!r} is not a whole number of milliseconds")
    if abs(milliseconds) < least_ms:
        raise WindowError(f"{name}={seconds!r} is less than {least_ms} ms")
    return milliseconds


class Window(ABC):
    """What every kind of window answers."""

    size_ms: int
    grace_ms: int
    retain_ms: int
    idle_close_ms: int | None  # None: a silent partition waits for its next event

    @abstractmethod
    def windows_of(self, timestamp_ms: int) -> list[tuple[int, int]]:
        """The windows ``(start, end)`` that hold this time, oldest first."""

    @abstractmethod
    def end_of(self, start_ms: int) -> int:
        """The end (exclusive) of the window that begins at ``start_ms``."""

    @abstractmethod
    def first_open_start(self, watermark_ms: int) -> int:
        """The least start that is not `closed`: one comparison tells for each window of a column."""

    @abstractmethod
    def first_kept_start(self, watermark_ms: int) -> int:
        """The least start that has not `expired`."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON description, equal iff rows and marks of an earlier run still mean the same.

        Grace is part of it: another one would close again what is closed, or never what is open.
        """

    def closed(self, start_ms: int, watermark_ms: int) -> bool:
        """Does the window that begins at ``start_ms`` take no more events?"""
        return watermark_ms >= self.end_of(start_ms) + self.grace_ms

    def expired(self, start_ms: int, watermark_ms: int) -> bool:
        """May the window's rows be forgotten?"""
        return watermark_ms >= self.end_of(start_ms) + self.grace_ms + self.retain_ms


@dataclass(frozen=True)
class TumblingWindow(Window):
    """Windows of one size, side by side: each time lies in exactly one.

    All in seconds, fractions down to 1 ms: ``size_s``; ``grace_s``, how long after its end (in event
    time) a window still takes events; ``retain_s``, how long after that its rows are kept;
    ``offset_s``, by how much the windows are shifted from the epoch (may be negative); and
    ``idle_close_s``, after which silence a partition takes over the watermark of the others, or None.
    Raises WindowError.

    The same in milliseconds: `size_ms`, `grace_ms`, `retain_ms`, `offset_ms` (0 <= it < size, since
    only the remainder matters) and `idle_close_ms`.
    """

    size_s: float
    _: KW_ONLY
    grace_s: float = 0
    retain_s: float = 86_400
    offset_s: float = 0
    idle_close_s: float | None = 10
    size_ms: int = field(init=False, repr=False, compare=False)
    grace_ms: int = field(init=False, repr=False, compare=False)
    retain_ms: int = field(init=False, repr=False, compare=False)
    offset_ms: int = field(init=False, repr=False, compare=False)
    idle_close_ms: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        idle_s = self.idle_close_s
        size_ms = duration_ms("size_s", self.size_s, least_ms=1)
        for name, value in (
            ("size_ms", size_ms),
            ("grace_ms", duration_ms("grace_s", self.grace_s)),
            ("retain_ms", duration_ms("retain_s", self.retain_s)),
            ("offset_ms", duration_ms("offset_s", self.offset_s, signed=True) % size_ms),
            ("idle_close_ms", None if idle_s is None else duration_ms("idle_close_s", idle_s, least_ms=1)),
        ):
            object.__setattr__(self, name, value)  # frozen: the way dataclasses itself sets fields

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
            "kind": "tumbling",
            "size_ms": self.size_ms,
            "offset_ms": self.offset_ms,
            "grace_ms": self.grace_ms,
        }
