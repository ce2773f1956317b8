"""How much an agent's queue holds, and what happens to events when it is full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamflow.errors import ConfigurationError

POLICIES = ("block", "drop_oldest", "drop_newest")


@dataclass(frozen=True, slots=True)
class Buffer:
    """``block`` pauses the partition; the other two drop events, which are counted by policy.

    Raises ConfigurationError.
    """

    events_max: int = 10_000
    when_full: Literal["block", "drop_oldest", "drop_newest"] = "block"

    def __post_init__(self) -> None:
        if type(self.events_max) is not int or self.events_max < 1:
            raise ConfigurationError(
                f"Buffer(events_max={self.events_max!r}) must be a whole number from 1 up"
            )
        if self.when_full not in POLICIES:
            raise ConfigurationError(f"Buffer(when_full={self.when_full!r}): one of {', '.join(POLICIES)}")
