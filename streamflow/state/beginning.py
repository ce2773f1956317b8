"""Where a consumer begins to read a topic in which it has no progress yet."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from streamflow.clock import epoch_ms
from streamflow.errors import ConfigurationError

Start = Literal["earliest", "latest"] | int
"""The beginning of the log, its end, or the first record whose timestamp is at or after that many ms."""


def start_of(start: object, what: str) -> Start:
    """``"earliest"``, ``"latest"``, an aware datetime or seconds since 1970, as the engine takes it.

    ``what`` is named in the ConfigurationError for all else.
    """
    if start == "earliest":
        return "earliest"
    if start == "latest":
        return "latest"
    if isinstance(start, datetime) and start.tzinfo is not None:
        return epoch_ms(start)
    if isinstance(start, int | float) and not isinstance(start, bool) and 0 <= start < 1e11:
        return int(start * 1_000)
    raise ConfigurationError(
        f'{what}: start={start!r}: this is "earliest", "latest", a datetime with a time zone, or seconds '
        "since 1970"
    )
