"""Event times: the unit in which a field holds them, and what makes one bad input besides its form.

Invariant of everything above: an event time lies in the range, whatever it is read from, so that one absurd
one moves no watermark and ends no window.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from streamflow.clock import rfc3339
from streamflow.errors import ConfigurationError, DecodeError
from streamflow.settings import Settings

logger = logging.getLogger(__name__)

UNITS_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
"""Unit of a time -> nanoseconds."""
NO_TIMESTAMP = -1
"""What Kafka gives for a record whose producer wrote no timestamp."""
SECONDS_FROM, SECONDS_TO = 315_532_800, 7_258_118_400
"""1980 and 2200 in seconds. In ms they are days of early 1970, of which hardly anybody has events."""


@dataclass(frozen=True, slots=True)
class TimeField:
    """The field that holds the event time, and the unit of the numbers in it: s, ms, us or ns.

    In other units than ms there may be fractions. Aware datetimes and RFC 3339 text are what they are.
    """

    path: str
    unit: str = "ms"

    def __post_init__(self) -> None:
        if not all(self.path.split(".")):
            raise ConfigurationError(f"TimeField({self.path!r}): this is no field path")
        if self.unit not in UNITS_NS:
            units = ", ".join(UNITS_NS)
            raise ConfigurationError(
                f"TimeField({self.path!r}, unit={self.unit!r}): the unit is one of {units}"
            )

    def __str__(self) -> str:
        return self.path if self.unit == "ms" else f"{self.path} [{self.unit}]"


def numbers_as_ms(values: Sequence[Any], unit: str) -> Sequence[Any]:
    """Numbers of this unit in ms, rounded down; all else as it is."""
    if unit == "ms":
        return values
    unit_ns = UNITS_NS[unit]
    if set(map(type, values)) == {int}:
        return [value * unit_ns // 1_000_000 for value in values]
    return [_as_ms(value, unit_ns) for value in values]


def _as_ms(value: Any, unit_ns: int) -> Any:
    if type(value) is int:
        return value * unit_ns // 1_000_000
    if isinstance(value, Decimal) and value.is_finite():
        return int(value * unit_ns) // 1_000_000
    if type(value) is float and math.isfinite(value):
        # A float of today's seconds holds microseconds, and hardly more: to the nearest, and then down.
        return round(value * unit_ns / 1_000) // 1_000
    return value


def look_like_seconds(times: Sequence[int]) -> bool:
    """Is the newest of these times in ms one of today's, if it was in seconds?"""
    return len(times) > 0 and SECONDS_FROM <= max(times) < SECONDS_TO


def seconds_sentence(field: str | None, time_ms: int) -> str:
    """What to do about times that look like seconds, of which this is one."""
    if field is None:
        cure = 'let the producer write milliseconds, or declare time=TimeField("...", unit="s")'
    else:
        cure = f'declare time=TimeField("{field}", unit="s")'
    place = "the records' timestamps" if field is None else f"the field {field!r}"
    seconds = rfc3339(time_ms * 1_000)
    return (
        f"event times in {place} look like seconds and are taken as milliseconds: {time_ms} is "
        f"{rfc3339(time_ms)}, and in seconds it would be {seconds}; {cure}"
    )


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The range of event times, ``[min_ms, max_ms)``, and how far ahead of the clock one may be."""

    min_ms: int
    max_ms: int
    future_max_ms: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> TimeLimits:
        future_s = settings.future_max_s
        future_ms = None if future_s is None else int(future_s * 1_000)
        return cls(settings.timestamp_min_ms, settings.timestamp_max_ms, future_ms)

    def error(
        self, time_ms: int, now_ms: int, stamp_ms: int = NO_TIMESTAMP, field: str | None = None
    ) -> DecodeError | None:
        """Why no event may have this time now, if so; ``stamp_ms`` is the record's own."""
        if not self.min_ms <= time_ms < self.max_ms:
            return DecodeError("bad-timestamp", f"event time {time_ms} ms is out of range", field=field)
        if self.future_max_ms is None:
            return None
        if time_ms > now_ms + self.future_max_ms:
            said = f"event time lies {time_ms - now_ms} ms ahead of the clock (future_max_s)"
        elif stamp_ms != NO_TIMESTAMP and time_ms > stamp_ms + self.future_max_ms:
            said = f"event time lies {time_ms - stamp_ms} ms ahead of the record's own (future_max_s)"
        else:
            return None
        return DecodeError("bad-timestamp", said, field=field)


class TimeChecks:
    """What each column of event times goes through. ``now_ms`` is the wall clock."""

    def __init__(self, limits: TimeLimits, now_ms: Callable[[], int]) -> None:
        self._limits = limits
        self._now_ms = now_ms
        # (topic, field) whose times look right, or of which it was told
        self._known: set[tuple[str, str | None]] = set()

    def check_column(
        self,
        topic: str,
        times: Sequence[int],
        timestamps_ms: Sequence[int],
        bad: dict[int, DecodeError],
        field: str | None = None,
    ) -> None:
        """Adds the times that no event may have to ``bad``; they were read from ``field``, if there is one.

        ``timestamps_ms`` are the records' own. Of times that look like seconds it is told once.
        """
        if not times:
            return
        limits = self._limits
        newest = max(times)
        if newest >= SECONDS_FROM and (topic, field) not in self._known:
            self._known.add((topic, field))
            if newest < SECONDS_TO:
                logger.warning("%s: %s (said once)", topic, seconds_sentence(field, newest))
        # HOT PATH: passes that C makes, and no more where all is well.
        now_ms = self._now_ms()
        future_ms = limits.future_max_ms
        future = future_ms is not None and newest > min((now_ms, *timestamps_ms)) + future_ms
        if limits.min_ms <= min(times) and newest < limits.max_ms and not future:
            return
        for index, (time_ms, stamp_ms) in enumerate(zip(times, timestamps_ms, strict=True)):
            if index not in bad:
                error = limits.error(time_ms, now_ms, stamp_ms, field)
                if error is not None:
                    bad[index] = error


def check_stamped(times: Sequence[int], timestamps_ms: Sequence[int], bad: dict[int, DecodeError]) -> None:
    """Adds events to ``bad`` whose time is that of a record without one."""
    if NO_TIMESTAMP in times:
        for index, (time_ms, stamp_ms) in enumerate(zip(times, timestamps_ms, strict=True)):
            if time_ms == stamp_ms == NO_TIMESTAMP:
                bad.setdefault(index, no_timestamp())


def no_timestamp() -> DecodeError:
    """Of an event whose time is asked for, and that has none."""
    return DecodeError(
        "bad-timestamp", "the record has no timestamp (-1), and no field is named that says when it happened"
    )
