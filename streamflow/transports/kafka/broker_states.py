"""Which brokers do not answer, for all clients of a worker together: whom to ask last, what the log says.

A broker that is away makes each client fail many times a second. The log has one line when it begins, one
every `AGAIN_MS` while it lasts, and one when it is over.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from streamflow.clock import Clock

log = logging.getLogger(__name__)

AGAIN_MS: Final = 30_000.0
CONNECT_MIN_MS: Final = 50.0
CONNECT_MAX_MS: Final = 1_000.0


@dataclass(slots=True)
class _Silence:
    """``told_ms``: when the log last said so; None: not yet, it may only be slow."""

    since_ms: float
    told_ms: float | None = None
    failures: int = 0
    wait_ms: float = 0.0
    next_ms: float = 0.0

    def fail(self) -> None:
        self.failures += 1

    def tell(self, now_ms: float) -> None:
        self.told_ms = now_ms

    def back_off(self, now_ms: float) -> None:
        """There was no connection: each wait until the next try is twice the one before."""
        self.wait_ms = min(CONNECT_MAX_MS, max(CONNECT_MIN_MS, self.wait_ms * 2))
        self.next_ms = now_ms + self.wait_ms


class BrokerStates:
    """By the broker's id in the cluster."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._silent: dict[int, _Silence] = {}
        self._told_ms: dict[int, float] = {}  # when the log last said that a broker is away
        self._nobody: _Silence | None = None

    def is_silent(self, node_id: int) -> bool:
        """Has it not answered, or not yet, and is it to be asked behind the others?"""
        return node_id in self._silent

    def slow(self, node_id: int) -> None:
        """A request waits for longer than it should; that may be the request."""
        if node_id not in self._silent:
            self._silent[node_id] = _Silence(self._clock.monotonic_ms())

    def failed(self, node_id: int, why: str) -> None:
        """It can't be reached, or a request to it got no answer in time."""
        now_ms = self._clock.monotonic_ms()
        silence = self._silent.setdefault(node_id, _Silence(now_ms))
        silence.fail()
        # One that comes and goes has a line in so long, too.
        if now_ms - self._told_ms.get(node_id, -AGAIN_MS) < AGAIN_MS:
            return
        if silence.told_ms is None:
            log.warning("Broker %s does not answer, and is tried again: %s", node_id, why)
        else:
            log.warning(
                "Broker %s has not answered for %.0f s, still trying (%d times): %s",
                node_id,
                (now_ms - silence.since_ms) / 1_000,
                silence.failures,
                why,
            )
        self._told_ms[node_id] = now_ms
        silence.tell(now_ms)

    def refused(self, node_id: int, why: str) -> None:
        """There is no connection to it, and a while until the next try."""
        self.failed(node_id, why)
        self._silent[node_id].back_off(self._clock.monotonic_ms())

    def wait_ms(self, node_id: int) -> float:
        """Until it may be tried to connect to it."""
        silence = self._silent.get(node_id)
        return 0.0 if silence is None else max(0.0, silence.next_ms - self._clock.monotonic_ms())

    def answered(self, node_id: int) -> None:
        """Cheap where nothing was wrong."""
        silence = self._silent.pop(node_id, None) if self._silent else None
        if silence is not None and silence.told_ms is not None:
            seconds = (self._clock.monotonic_ms() - silence.since_ms) / 1_000
            log.warning("Broker %s answers again after %.1f s", node_id, seconds)

    def nobody(self) -> None:
        """Neither a broker that was known nor one of the bootstrap list answers."""
        if self._nobody is None:
            self._nobody = _Silence(self._clock.monotonic_ms())
            log.warning("No broker answers, neither of those that were known nor of the bootstrap list")

    def somebody(self, *, anew: bool) -> None:
        """The cluster is known. ``anew``: by the bootstrap list alone."""
        if anew:
            log.warning("No broker that was known answers; the cluster was found anew by the bootstrap list")
        elif self._nobody is not None:
            log.warning("Brokers answer again")
        self._nobody = None
