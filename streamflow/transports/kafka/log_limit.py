"""The client's own log lines, which a broker that is away makes it write many times a second."""

from __future__ import annotations

import logging
import re
from typing import Final

from streamflow.clock import Clock
from streamflow.errors import rewrite_log_record

AGAIN_MS: Final = 30_000.0
LINES_MAX: Final = 1_000
_NUMBERS = re.compile(r"\d{5,}|0x[0-9a-f]+|\d+\.\d{3,}")
"""What makes one line differ from the next: ids of requests and objects, times. Brokers have short ids."""


class RepeatedLines(logging.Filter):
    """Lets a warning through once, then every `AGAIN_MS` with the number of those that were left out.

    A loop that logs the same in another broker's name is another line.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._told: dict[tuple[str, str], tuple[float, int]] = {}  # line -> when, left out since

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        text = record.getMessage()
        line = record.name, _NUMBERS.sub("#", text)
        now_ms = self._clock.monotonic_ms()
        before = self._told.get(line)
        if before is not None and now_ms - before[0] < AGAIN_MS:
            self._told[line] = (before[0], before[1] + 1)
            return False
        if len(self._told) >= LINES_MAX:
            self._told.clear()
        self._told[line] = (now_ms, 0)
        left_out = 0 if before is None else before[1]
        if left_out:
            rewrite_log_record(record, text=f"{text} ({left_out} times more since the last line)")
        return True


def limit_client_log(clock: Clock) -> None:
    """Once for a process; loggers are the process's."""
    names = [name for name in logging.Logger.manager.loggerDict if name.partition(".")[0] == "aiokafka"]
    loggers = [logging.getLogger(name) for name in names]
    if any(isinstance(each, RepeatedLines) for logger in loggers for each in logger.filters):
        return
    limit = RepeatedLines(clock)
    for logger in loggers:
        logger.addFilter(limit)
