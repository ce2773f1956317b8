"""The client's log while a broker is away."""

from __future__ import annotations

import logging

from streamflow.testing import ManualClock
from streamflow.transports.kafka.log_limit import RepeatedLines


def line(text: str, *args: object, level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord("aiokafka", level, "client.py", 1, text, args, None)


async def test_a_line_that_repeats_is_told_once_and_then_every_30_s_with_its_number() -> None:
    clock = ManualClock()
    limit = RepeatedLines(clock)
    told: list[str] = []
    for _ in range(75 * 10):
        for node in (1, 2):
            record = line("Unable to connect to node %d: request %d", node, 100_000 + len(told))
            if limit.filter(record):
                told.append(record.getMessage())
        await clock.advance(100)
    assert len(told) == 2 * 3
    assert told[2].endswith("(299 times more since the last line)")


def test_what_is_no_warning_passes() -> None:
    limit = RepeatedLines(ManualClock())
    assert all(limit.filter(line("Joined", level=logging.INFO)) for _ in range(3))
