"""How often a failed event is tried, and how long the waits between are."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

from streamflow.errors import ConfigurationError

_WAIT_S_MAX = 86_400.0
_DOUBLINGS_MAX = 64


class Uniform(Protocol):
    """What a wait asks of a source of chance: `random` itself, or a seeded ``random.Random``."""

    def uniform(self, a: float, b: float) -> float: ...


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential waits: ``first_wait_s``, then twice as long each time, up to ``wait_max_s``.

    ``attempts`` counts the first one: 1 means that nothing is tried again. With ``jitter`` a wait is
    random between half of it and all, so that what failed together is not tried together.
    Raises ConfigurationError.
    """

    attempts: int = 5
    first_wait_s: float = 0.1
    wait_max_s: float = 30
    jitter: bool = True

    def __post_init__(self) -> None:
        if type(self.attempts) is not int or self.attempts < 1:
            raise ConfigurationError(f"Retry(attempts={self.attempts!r}) must be a whole number from 1 up")
        for name in ("first_wait_s", "wait_max_s"):
            wait_s = getattr(self, name)
            is_number = isinstance(wait_s, int | float) and not isinstance(wait_s, bool)
            if not is_number or not 0 <= wait_s <= _WAIT_S_MAX:  # NaN fails every comparison
                raise ConfigurationError(f"Retry({name}={wait_s!r}) must be a number of seconds, 0 to a day")

    def wait_ms(self, attempt: int, rng: Uniform = random) -> float:
        """How long to wait after the ``attempt``-th one failed (1: the first)."""
        wait_s: float = min(self.wait_max_s, self.first_wait_s * 2.0 ** min(attempt - 1, _DOUBLINGS_MAX))
        return wait_s * 1_000 * (rng.uniform(0.5, 1.0) if self.jitter else 1.0)
