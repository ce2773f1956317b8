"""The only module that asks what time it is. Everything else is handed a `Clock`."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time, a monotonic time, and a sleep that agree with each other."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        ...

    def monotonic_ms(self) -> float:
        """Milliseconds from an arbitrary start; never goes back."""
        ...

    async def sleep_ms(self, delay_ms: float) -> None:
        """Returns after ``delay_ms`` of this clock's time."""
        ...


class SystemClock:
    """The machine's clocks and the running event loop's timers."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> float:
        return time.monotonic() * 1_000.0

    async def sleep_ms(self, delay_ms: float) -> None:
        await asyncio.sleep(max(0.0, delay_ms) / 1_000.0)


async def sleep_unless(clock: Clock, delay_ms: float, event: asyncio.Event) -> None:
    """Returns after ``delay_ms``, or as soon as the event is set."""
    waits = [asyncio.ensure_future(clock.sleep_ms(delay_ms)), asyncio.ensure_future(event.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(epoch_ms: int) -> str:
    """``epoch_ms`` as RFC 3339 in UTC with ``Z``; milliseconds appear only where they are not zero.

    Raises OverflowError outside the years 1 to 9999.
    """
    seconds, ms = divmod(epoch_ms, 1_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    return f"{text}.{ms:03d}Z" if ms else f"{text}Z"


def epoch_ms(moment: datetime) -> int:
    """Milliseconds since the epoch of an aware datetime, rounded down.

    Raises ValueError for a naive one: it names no instant.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone")
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000 + since.microseconds // 1_000
