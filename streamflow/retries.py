"""How often a failed event is tried, and how long the waits between are."""

from __future__ import annotations

import random
from dataclasses import dataclass

from streamflow.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential waits: ``first_wait_s``, then twice as long each time, up to ``wait_max_s``.

    ``attempts`` counts the first one. With ``jitter`` a wait is random between half of it and all.
    """

    attempts: int = 5
    first_wait_s: float = 0.1
    wait_max_s: float = 30
    jitter: bool = True

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigurationError(f"Retry(attempts={self.attempts}) must be at least 1")
        if self.first_wait_s < 0 or self.wait_max_s < 0:
            raise ConfigurationError("Retry waits can't be negative")

    def wait_ms(self, attempt: int) -> float:
        """How long to wait after the ``attempt``-th one failed (1: the first)."""
        wait_s: float = min(self.wait_max_s, self.first_wait_s * 2 ** min(attempt - 1, 60))
        return wait_s * 1_000 * (random.uniform(0.5, 1.0) if self.jitter else 1.0)
