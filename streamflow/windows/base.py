"""What every kind of window answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta
from enum import Enum
from typing import Any, ClassVar

from streamflow.errors import WindowError

Seconds = float | timedelta
_DURATION_MS_MAX = 100 * 366 * 86_400_000
"""A hundred years: what is larger is a mistake, and far below where floats lose milliseconds."""


class NotGiven(Enum):
    """The default where giving the default, too, has to be told from giving nothing."""

    NOT_GIVEN = "not given"


NOT_GIVEN = NotGiven.NOT_GIVEN


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


def either_s(name: str, ours: Seconds | None, fausts: Seconds | None) -> float:
    """Seconds that are given by our name, ``<name>_s``, or by Faust's; raises WindowError unless by one."""
    given = [seconds for seconds in (ours, fausts) if seconds is not None]
    if len(given) != 1:
        raise WindowError(f"a window needs {name}_s, or {name} as in Faust, and not both")
    return _in_seconds(given[0])


def kept_s(
    expires: Seconds | None, grace_s: float | NotGiven, retain_s: float | NotGiven
) -> tuple[float, float]:
    """Grace and retention. Faust's ``expires`` is a grace after which nothing is kept.

    Raises WindowError for both forms at once.
    """
    if expires is None:
        return (
            0 if grace_s is NOT_GIVEN else grace_s,
            86_400 if retain_s is NOT_GIVEN else retain_s,
        )
    if grace_s is not NOT_GIVEN or retain_s is not NOT_GIVEN:
        raise WindowError("expires says how long a window is kept: no grace_s or retain_s besides it")
    return _in_seconds(expires), 0


def _in_seconds(time: Seconds) -> float:
    return time.total_seconds() if isinstance(time, timedelta) else time


class Window(ABC):
    """What every kind of window answers.

    A window's *id* is the number that its rows are kept by: its start, except for sessions, which are
    kept by their end. Ids are in the order in which windows close.
    """

    kind: ClassVar[str]
    size_ms: int
    grace_ms: int
    retain_ms: int
    idle_close_ms: int | None  # None: a silent partition waits for its next event

    @abstractmethod
    def windows_of(self, timestamp_ms: int) -> list[tuple[int, int]]:
        """The windows ``(start, end)`` that hold this time, oldest first."""

    def last_end_of(self, timestamp_ms: int) -> int:
        """Where the last window ends that may hold this time."""
        return max(end for _, end in self.windows_of(timestamp_ms))

    @abstractmethod
    def end_of(self, start_ms: int) -> int:
        """The end (exclusive) of the window whose id is ``start_ms``."""

    @abstractmethod
    def first_open_start(self, watermark_ms: int) -> int:
        """The least id that is not `closed`: one comparison tells for each window of a column."""

    @abstractmethod
    def first_kept_start(self, watermark_ms: int) -> int:
        """The least id that has not `expired`."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON description, equal iff rows and marks of an earlier run still mean the same.

        Grace is part of it: another one would close again what is closed, or never what is open.
        """

    def closed(self, start_ms: int, watermark_ms: int) -> bool:
        """Does the window whose id is ``start_ms`` take no more events?"""
        return watermark_ms >= self.end_of(start_ms) + self.grace_ms

    def expired(self, start_ms: int, watermark_ms: int) -> bool:
        """May the window's rows be forgotten?"""
        return watermark_ms >= self.end_of(start_ms) + self.grace_ms + self.retain_ms

    def _set(self, **fields: float | None) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)  # frozen: the way dataclasses itself sets fields

    def _set_ms(self, **fields: int) -> None:
        """Sets ``<name>_ms`` of each ``<name>_s`` given here and of those that all kinds have."""
        given: dict[str, Any] = vars(self)
        idle_s = given["idle_close_s"]
        self._set(
            grace_ms=duration_ms("grace_s", given["grace_s"]),
            retain_ms=duration_ms("retain_s", given["retain_s"]),
            idle_close_ms=None if idle_s is None else duration_ms("idle_close_s", idle_s, least_ms=1),
            **fields,
        )
