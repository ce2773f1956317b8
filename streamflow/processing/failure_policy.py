"""What follows when an event fails: it is tried again, given up, or held back while its service is down."""

from __future__ import annotations

from collections.abc import Iterable

from streamflow.clock import Clock
from streamflow.errors import CircuitOpen
from streamflow.processing.circuit_breaker import CircuitBreaker
from streamflow.processing.retries import Failing, Retry, Transient

LOOK_MS = 100.0
"""So often one that may not try yet looks again, where others try whether the service is well."""


class FailurePolicy:
    """Of one agent: its `Retry`, and its circuit breaker if it has one.

    While the breaker is not closed, an event that fails for an error that the breaker counts is neither tried
    nor given up: it waits until the breaker lets it through, and its attempts begin anew. What fails for a
    bug is given up all the same, or it would hold its partition for good.
    """

    def __init__(
        self,
        retry: Retry,
        clock: Clock,
        transient: Transient | None = None,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._retry = retry
        self._clock = clock
        self._transient = transient or Transient()
        self._breaker = breaker
        if breaker is not None:
            breaker.keep_time_by(clock)
        self._once: set[str] = set()
        self._probe: int | None = None  # the breaker's era in which something went to try the service

    def try_once_in(self, topics: Iterable[str]) -> None:
        """Of these topics, which are retry topics, an event has one attempt."""
        self._once.update(topics)

    def begin(self, topic: str) -> Failing:
        """An event of this topic fails for the first time."""
        return Failing(self._clock.monotonic_ms(), once=topic in self._once)

    def is_over(self, error: BaseException, failing: Failing) -> bool:
        """Is the event given up? To be asked once for each failure."""
        era, self._probe = self._probe, None  # whatever it failed for, it tries no longer
        if self._is_held_back(error, era):
            failing.restart(self._clock.monotonic_ms())
            return False
        if failing.once:
            return True  # it has waited, and others wait behind it
        failing_ms = self._clock.monotonic_ms() - failing.since_ms
        return self._retry.is_over(error, failing.attempts, failing_ms, self._transient)

    def _is_held_back(self, error: BaseException, era: int | None) -> bool:
        breaker = self._breaker
        if breaker is None:
            return False
        if isinstance(error, CircuitOpen) and error.name == breaker.name:
            return True
        counts = breaker.counts(error) if breaker.on is not None else self._transient.holds(error)
        if counts and not isinstance(error, CircuitOpen):
            if not breaker.met(error):  # else the agent's own call through it has counted it
                breaker.failed(era)
            return breaker.state != "closed"
        return False

    async def wait(self, failing: Failing) -> None:
        """Returns when the event may be tried again."""
        if self._breaker is None or self._breaker.state == "closed":
            await self._clock.sleep_ms(self._retry.wait_ms(max(1, failing.attempts)))
            return
        while not self.admits():
            await self._clock.sleep_ms(self.again_in_ms())

    def admits(self) -> bool:
        """May the agent take something? Where the breaker is half-open, this is then what tries it.

        It takes none of the breaker's places: the agent's own calls may go through the breaker as well.
        """
        if self._breaker is None:
            return True
        state = self._breaker.state
        if state == "closed":
            return True
        if state == "open" or self._probe == self._breaker.era:
            return False  # until what tries it has shown how the service is
        self._probe = self._breaker.era
        return True

    def again_in_ms(self) -> float:
        """Where it admits nothing: when to ask again."""
        return max(LOOK_MS, 0.0 if self._breaker is None else self._breaker.open_for_ms())

    def has_tried(self) -> bool:
        """Is something on its way that tries whether the service is well?"""
        return self._probe is not None

    def forget(self) -> None:
        """What tried it is gone with its partition."""
        self._probe = None

    def succeeded(self) -> None:
        """What tried it came well."""
        if self._breaker is not None and self._probe is not None:
            self._breaker.succeeded(self._probe)
        self._probe = None
