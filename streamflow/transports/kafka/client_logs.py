"""What aiokafka logs as an error and is none: it is tried again, and who asked tells of it where it lasts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from streamflow.errors import rewrite_log_record

# Logger -> [(beginning of a message, what it is instead)].
NOT_CONNECTED = 'Unable connect to "'
LOWERED = {
    # The first connection: its caller says once what could not be reached, and why.
    "aiokafka": [(NOT_CONNECTED, logging.DEBUG)],
    # A fresh broker elects the coordinators of its groups with the first that ask for them.
    # Then, and while one fails over, each try to find it succeeds, and is none the better for it.
    "aiokafka.consumer.group_coordinator": [
        ("Group Coordinator Request failed", logging.INFO),
        ("Discovered coordinator", logging.DEBUG),
    ],
}


class Lowered(logging.Filter):
    """Gives the records of one logger that begin so another level."""

    def __init__(self, logger: str, beginning: str, level: int) -> None:
        super().__init__()
        self._logger = logging.getLogger(logger)
        self._beginning = beginning
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith(self._beginning):
            return True
        rewrite_log_record(record, level=self._level)
        return self._logger.isEnabledFor(self._level)


class _Reasons(logging.Filter):
    """Keeps why brokers could not be reached: the client raises only that none was."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if str(record.msg).startswith(NOT_CONNECTED) and isinstance(record.args, tuple):
            self.found.append(str(record.args[-1]) or "no answer in our protocol")
        return True


def lower_client_logs() -> None:
    """Idempotent."""
    for name, lines in LOWERED.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, Lowered) for known in logger.filters):
            for beginning, level in lines:
                logger.addFilter(Lowered(name, beginning, level))


@contextmanager
def reasons() -> Iterator[list[str]]:
    """Why brokers could not be reached meanwhile, as the client's log has it."""
    logger, kept = logging.getLogger("aiokafka"), _Reasons()
    logger.filters.insert(0, kept)  # before what drops them
    try:
        yield kept.found
    finally:
        logger.removeFilter(kept)
