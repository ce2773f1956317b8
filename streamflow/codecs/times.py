"""What makes an event time bad input, besides its form.

Invariant of everything above: an event time lies in the range, whatever it is read from, so that one absurd
one moves no watermark and ends no window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamflow.errors import DecodeError
from streamflow.settings import Settings


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The range of event times, ``[min_ms, max_ms)``."""

    min_ms: int
    max_ms: int
    future_max_ms: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> TimeLimits:
        future_s = settings.future_max_s
        future_ms = None if future_s is None else int(future_s * 1_000)
        return cls(settings.timestamp_min_ms, settings.timestamp_max_ms, future_ms)

    def check_column(
        self,
        times: Sequence[int],
        timestamps_ms: Sequence[int],
        bad: dict[int, DecodeError],
        field: str | None = None,
    ) -> None:
        """Adds the times that no event may have to ``bad``, with ``field`` as where they were read from.

        ``timestamps_ms`` are the records' own.
        """
        if not times:
            return
        # HOT PATH: two passes that C makes, and no more where all is well.
        if not (self.min_ms <= min(times) and max(times) < self.max_ms):
            for index, time_ms in enumerate(times):
                if index not in bad and (error := self.error(time_ms, field)) is not None:
                    bad[index] = error
        future_ms = self.future_max_ms
        if future_ms is not None and max(times) > min(timestamps_ms) + future_ms:
            for index, (time_ms, stamp_ms) in enumerate(zip(times, timestamps_ms, strict=True)):
                if time_ms > stamp_ms + future_ms and index not in bad:
                    said = f"event time lies {time_ms - stamp_ms} ms ahead of the record's own"
                    bad[index] = DecodeError("bad-timestamp", said, field=field)

    def error(self, time_ms: int, field: str | None = None) -> DecodeError | None:
        """Why no event may have this time, if so."""
        if self.min_ms <= time_ms < self.max_ms:
            return None
        return DecodeError("bad-timestamp", f"event time {time_ms} ms is out of range", field=field)
