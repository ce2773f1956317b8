"""How much an agent's queue holds, and what happens to events when it is full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamflow.errors import ConfigurationError

POLICIES = ("block", "drop_oldest", "drop_newest")


@dataclass(frozen=True, slots=True)
class Buffer:
    """At most ``events_max`` wait for an agent, and ``bytes_max`` of keys and values (``None``: no limit).

    ``block`` pauses the partition; the other two drop events. One event may wait whatever its size.

    An agent that keeps up loses none, also of bursts that are larger than the limit: events are dropped once
    it has not come to the end of what waits for a second. From then on ``drop_newest`` keeps the oldest of
    what waits, and ``drop_oldest`` the newest. What is dropped counts as ``dropped`` in the progress, so that
    the sum holds, and in ``streamflow_events_dropped_total`` by policy. With ``isolated_partitions`` the
    limit holds for each partition.

    Raises ConfigurationError.
    """

    events_max: int = 10_000
    when_full: Literal["block", "drop_oldest", "drop_newest"] = "block"
    bytes_max: int | None = None

    def __post_init__(self) -> None:
        if type(self.events_max) is not int or self.events_max < 1:
            raise ConfigurationError(
                f"Buffer(events_max={self.events_max!r}) must be a whole number from 1 up"
            )
        if self.bytes_max is not None and (type(self.bytes_max) is not int or self.bytes_max < 1):
            raise ConfigurationError(
                f"Buffer(bytes_max={self.bytes_max!r}) must be a whole number from 1 up, or None"
            )
        if self.when_full not in POLICIES:
            raise ConfigurationError(f"Buffer(when_full={self.when_full!r}): one of {', '.join(POLICIES)}")
